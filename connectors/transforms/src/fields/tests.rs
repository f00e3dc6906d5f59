//! Against `org.apache.kafka.connect.transforms.ReplaceField`.

use rowstream_api::{ROW_FOLLOWS_HEADER, UNAVAILABLE_HEADER};
use serde_json::json;

use crate::testing::{Owned, Table, apply, bare, decimal, n, one, optional, problems, s, step};

fn row(id: i64) -> Vec<Owned> {
    vec![n(id), s("Ada"), s("north"), decimal("1.50")]
}

#[test]
fn both_rows_of_an_event_keep_the_same_fields() {
    let table = Table::orders();
    for (name, fields) in [("select", json!(["id", "name"])), ("drop", json!(["re*", "*mount", "other"]))] {
        let mut step = step(name, json!({"fields": fields}));
        let seen = one(&mut step, &table.update(row(1), row(2)));
        assert_eq!(seen.value["before"], json!({"id": 1, "name": "Ada"}), "{name}");
        assert_eq!(seen.value["after"], json!({"id": 2, "name": "Ada"}), "{name}");
        assert_eq!((&seen.value["op"], &seen.value["source"]["table"]), (&json!("u"), &json!("orders")));
        let schema = seen.value_schema.unwrap();
        assert!(schema.is_envelope() && schema.version() == Some(2));
        assert_eq!(one(&mut step, &table.plain(row(1))).value, json!({"id": 1, "name": "Ada"}), "{name}");
        assert_eq!(one(&mut step, &table.tombstone(n(1))).value, json!(null));
        assert_eq!(one(&mut step, &table.delete(row(1))).value["after"], json!(null));
    }
}

#[test]
fn keys_are_another_part() {
    let table = Table::orders();
    let mut rename = step("rename", json!({"fields": {"id": "order_id"}, "on": "key"}));
    let seen = one(&mut rename, &table.tombstone(n(1)));
    assert_eq!(seen.key, json!({"order_id": 1}));
    let seen = one(&mut rename, &table.create(row(1)));
    assert_eq!((seen.key, &seen.value["after"]["id"]), (json!({"order_id": 1}), &json!(1)));
    let error =
        apply(&mut step("drop", json!({"fields": ["id"], "on": "key"})), &table.create(row(1))).unwrap_err();
    assert_eq!(error.code, "FIELDS_NONE_LEFT");
}

/// Sinks find the columns that were not sent by their names of now.
#[test]
fn the_header_of_unavailable_columns_follows() {
    let made = Table::orders()
        .update(row(1), row(1))
        .unavailable(&["name", "region"])
        .header(ROW_FOLLOWS_HEADER, "true");
    let seen = one(&mut step("rename", json!({"fields": {"name": "full_name"}})), &made);
    assert_eq!(seen.header(UNAVAILABLE_HEADER), Some("[\"full_name\",\"region\"]"));
    let seen = one(&mut step("drop", json!({"fields": ["name"]})), &made);
    assert_eq!(seen.header(UNAVAILABLE_HEADER), Some("[\"region\"]"));
    let seen = one(&mut step("select", json!({"fields": ["id"]})), &made);
    assert!(seen.headers.is_empty(), "{:?}", seen.headers);
}

#[test]
fn renamed_fields_keep_place_and_type() {
    let table = Table::orders();
    let mut rename = step("rename", json!({"fields": {"name": "full_name", "other": "x"}}));
    let seen = one(&mut rename, &table.create(row(1)));
    let names: Vec<String> = seen.value["after"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["id", "full_name", "region", "amount"]);
    let swapped = one(
        &mut step("rename", json!({"fields": {"name": "region", "region": "name"}})),
        &table.create(row(1)),
    );
    assert_eq!(swapped.value["after"]["name"], "north");
    let clash =
        apply(&mut step("rename", json!({"fields": {"name": "region"}})), &table.create(row(1))).unwrap_err();
    assert_eq!(clash.code, "FIELD_EXISTS");
}

#[test]
fn what_has_no_fields_is_refused() {
    let made = bare("t", optional(rowstream_api::SchemaType::String), &s("x"));
    let error = apply(&mut step("drop", json!({"fields": ["id"]})), &made).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        ("NOT_A_STRUCT", "the value is STRING, which has no fields")
    );
    assert!(problems("drop", json!({"fields": []})).contains("at least one"));
    assert!(problems("select", json!({"fields": [""]})).contains("empty name"));
    let text = problems("rename", json!({"fields": {"a": "", "b": "x", "c": "x"}}));
    assert!(text.contains("fields.a: must not be empty") && text.contains("`x` already"), "{text}");
}
