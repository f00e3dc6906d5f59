//! Against `org.apache.kafka.connect.transforms.MaskField`; `hash` and `tokenize` against RFC 2104 and their own promises.

use rowstream_api::{SchemaType, ValueRef};
use serde_json::{Value, json};

use crate::testing::{Table, apply, decimal, n, named, one, optional, problems, required, s, step, text};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn people() -> Table {
    Table::new(
        "people",
        &[
            ("id", required(SchemaType::Int32)),
            ("email", text()),
            ("age", optional(SchemaType::Int16)),
            ("vip", optional(SchemaType::Boolean)),
            ("photo", optional(SchemaType::Bytes)),
            ("uid", named(SchemaType::String, "io.debezium.data.Uuid")),
            ("tags", optional(SchemaType::Array(text()))),
        ],
    )
}

fn person(id: i64, email: &str) -> Vec<ValueRef<'static>> {
    let uid = s("6f1c0e4a-1d0e-4b7e-9b0e-2f6d6c1f0a11");
    let tags = ValueRef::Array(vec![s("a")]);
    vec![n(id), s(email), n(44), ValueRef::Bool(true), ValueRef::Bytes(vec![1, 2].into()), uid, tags]
}

#[test]
fn a_masked_value_is_its_types_zero() {
    let mut mask = step("mask", json!({"fields": ["email", "age", "vip", "photo", "tags", "other"]}));
    let seen = one(&mut mask, &people().update(person(1, "a@x"), person(1, "b@x")));
    for image in ["before", "after"] {
        let row = &seen.value[image];
        assert_eq!(
            (&row["email"], &row["age"], &row["vip"], &row["photo"], &row["tags"], &row["id"]),
            (&json!(""), &json!(0), &json!(false), &json!(""), &json!([]), &json!(1)),
        );
    }
    assert!(seen.value_schema.unwrap().field("after").unwrap().1.schema.field("age").is_some());
    let mut null = person(1, "x");
    null[1] = ValueRef::Null;
    assert_eq!(one(&mut mask, &people().plain(null)).value["email"], json!(null));
    let mut orders = step("mask", json!({"fields": ["amount", "name"]}));
    let seen = one(&mut orders, &Table::orders().create(vec![n(1), s("Ada"), s("n"), decimal("9.99")]));
    assert_eq!((&seen.value["after"]["amount"], &seen.value["after"]["name"]), (&json!("0.00"), &json!("")));
}

#[test]
fn a_replacement_is_a_value_of_the_type() {
    let mut mask = step("mask", json!({"fields": ["email", "age"], "replacement": "7"}));
    let seen = one(&mut mask, &people().create(person(1, "a@x")));
    assert_eq!((&seen.value["after"]["email"], &seen.value["after"]["age"]), (&json!("7"), &json!(7)));
    let mut amount = step("mask", json!({"fields": ["amount"], "replacement": "1.5"}));
    let seen = one(&mut amount, &Table::orders().create(vec![n(1), s("Ada"), s("n"), decimal("9.99")]));
    assert_eq!(seen.value["after"]["amount"], "1.50");
    let error = apply(
        &mut step("mask", json!({"fields": ["age"], "replacement": "x"})),
        &people().create(person(1, "a")),
    );
    assert_eq!(error.unwrap_err().message, "column `age`: `replacement` is no value of INT16");
}

#[test]
fn a_hash_is_an_hmac_and_a_text() {
    let mut hash = step("hash", json!({"fields": ["email", "age", "uid"], "key": KEY}));
    let seen = one(&mut hash, &people().update(person(1, "a@x"), person(1, "a@x")));
    let row = &seen.value["after"];
    // printf %s a@x | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
    assert_eq!(row["email"], "aa6ab3ec2459e7e87600aa00ebafa5fbbfc4b494dee32e72507ca8cdc0a372d1");
    assert_eq!(row["age"].as_str().map(str::len), Some(64));
    assert_eq!(seen.value["before"], *row);
    assert_eq!(*seen.field("age").ty(), SchemaType::String);
    let mut other = step("hash", json!({"fields": ["email"], "key": "another key of 16 bytes"}));
    assert_ne!(one(&mut other, &people().create(person(1, "a@x"))).value["after"]["email"], row["email"]);
}

#[test]
fn tokens_keep_types_and_joins() {
    let settings = json!({"fields": ["id", "email", "age", "photo", "uid"], "key": KEY});
    let mut tokenize = step("tokenize", settings.clone());
    let seen = one(&mut tokenize, &people().create(person(1, "a@x")));
    let row = &seen.value["after"];
    assert_eq!(*seen.field("age").ty(), SchemaType::Int16);
    assert_ne!((&row["email"], &row["age"], &row["id"]), (&json!("a@x"), &json!(44), &json!(1)));
    assert!((0..=32767).contains(&row["age"].as_i64().unwrap()));
    let uid = row["uid"].as_str().unwrap();
    let dashes: Vec<usize> = uid.match_indices('-').map(|(at, _)| at).collect();
    assert_eq!((uid.len(), dashes, uid.chars().nth(14)), (36, vec![8, 13, 18, 23], Some('8')));
    assert_eq!(one(&mut step("tokenize", settings), &people().create(person(1, "a@x"))).value["after"], *row);
    let orders =
        Table::new("o", &[("id", required(SchemaType::Int64)), ("person", optional(SchemaType::Int32))]);
    let mut join = step("tokenize", json!({"fields": ["person"], "key": KEY}));
    let seen = one(&mut join, &orders.create(vec![n(9), n(1)]));
    assert_eq!(seen.value["after"]["person"], row["id"], "the same number, the same token");
    let mut key = step("tokenize", json!({"fields": ["id"], "key": KEY, "on": "key"}));
    assert_eq!(one(&mut key, &people().tombstone(n(1))).key["id"], row["id"]);
    let vip = apply(
        &mut step("tokenize", json!({"fields": ["vip"], "key": KEY})),
        &people().create(person(1, "a")),
    );
    assert_eq!(
        vip.unwrap_err().message,
        "column `vip`: is BOOLEAN, which has no tokens; use `hash`, `mask` or `drop`"
    );
}

/// A placeholder stays one; the old row's value, which was sent, is hidden although the header names its column.
#[test]
fn values_that_were_not_sent_stay_so_and_others_never_pass() {
    const PLACEHOLDER: &str = "__debezium_unavailable_value";
    let made = |column: &str| {
        let mut after = person(1, PLACEHOLDER);
        after[2] = ValueRef::Null;
        people().update(person(1, "a@x"), after).unavailable(&[column])
    };
    for (name, settings) in [
        ("mask", json!({"fields": ["email"]})),
        ("hash", json!({"fields": ["email"], "key": KEY})),
        ("tokenize", json!({"fields": ["email"], "key": KEY})),
    ] {
        let seen = one(&mut step(name, settings), &made("email"));
        assert_eq!(seen.value["after"]["email"], PLACEHOLDER, "{name}");
        assert!(!seen.value.to_string().contains("a@x"), "{name}");
        assert_eq!(seen.headers.len(), 1);
    }
}

#[test]
fn new_columns_are_covered_by_a_pattern() {
    let mut mask = step("mask", json!({"fields": ["*mail*"]}));
    let old = Table::new("t", &[("id", required(SchemaType::Int32))]);
    let new = Table::new("t", &[("id", required(SchemaType::Int32)), ("e_mail_2", text())]);
    assert_eq!(one(&mut mask, &old.plain(vec![n(1)])).value, json!({"id": 1}));
    assert_eq!(one(&mut mask, &new.plain(vec![n(1), s("a@x")])).value, json!({"id": 1, "e_mail_2": ""}));
}

#[test]
fn short_keys_are_refused_and_never_shown() {
    let text = problems("hash", json!({"fields": [], "key": "hunter2"}));
    assert!(
        text.contains("fields: must name") && text.contains("at least 16 bytes") && !text.contains("hunter2")
    );
    let refused: Value = json!({"fields": ["a"], "replacement": ""});
    assert!(problems("mask", refused).contains("must not be empty"));
}
