//! What holds for all steps: sound tables of fields, valid Avro for any row, the same result whether a record was decoded before
//! or not, one schema for one schema, and errors that name the step.

use std::sync::Arc;

use proptest::prelude::*;
use rowstream_api::{Schema, SchemaBuilder, SchemaType, Stage, ValueRef};
use serde_json::{Value, json};

use crate::{
    Chain, Record, Step, plugins, predicate,
    testing::{Made, Owned, Table, decimal, decimals, n, named, required, s, seen, step, text},
};

#[test]
fn tables_of_fields_are_sound() {
    let mut names = Vec::new();
    for plugin in plugins() {
        rowstream_testkit::fields_are_sound(plugin.name, plugin.fields);
        assert!(!names.contains(&plugin.name), "{} stands twice", plugin.name);
        for reserved in ["type", "name", "when"] {
            assert!(!plugin.fields.iter().any(|field| field.path == reserved && plugin.name != "compute"));
        }
        names.push(plugin.name);
    }
}

/// A type of a column, and a value of it.
const KINDS: usize = 14;

fn column(kind: usize, optional: bool) -> Arc<Schema> {
    let plain = |ty| SchemaBuilder::new(ty).optional_if(optional);
    match kind {
        0 => plain(SchemaType::Int16).build(),
        1 => plain(SchemaType::Int64).build(),
        2 => plain(SchemaType::String).build(),
        3 => plain(SchemaType::Bytes).build(),
        4 => plain(SchemaType::Float64).build(),
        5 => plain(SchemaType::Boolean).build(),
        6 => decimals(3),
        7 => named(SchemaType::Int32, "io.debezium.time.Date"),
        8 => plain(SchemaType::Int64).name("io.debezium.time.MicroTimestamp").version(1).build(),
        9 => named(SchemaType::String, "io.debezium.time.ZonedTimestamp"),
        10 => plain(SchemaType::Array(text())).build(),
        11 => plain(SchemaType::Map(text())).build(),
        12 => SchemaBuilder::structure()
            .name("x.Nested")
            .optional_if(optional)
            .field("a", text())
            .field(
                "b",
                SchemaBuilder::structure().name("x.Inner").field("c", required(SchemaType::Int32)).build(),
            )
            .build(),
        _ => plain(SchemaType::Int32).default_value(rowstream_api::Value::Int(7)).build(),
    }
}

fn value(kind: usize, optional: bool, seed: u32) -> Owned {
    let small = i64::from(seed % 1000);
    let nullable = optional || matches!(kind, 6 | 7 | 9);
    if nullable && seed.is_multiple_of(5) {
        return ValueRef::Null;
    }
    match kind {
        1 => n(i64::from(seed).wrapping_mul(-3_000_000_019)),
        2 => s(&format!("täxt {seed}")),
        3 => ValueRef::Bytes(seed.to_be_bytes().to_vec().into()),
        4 => ValueRef::Float64(f64::from(seed) / 7.0),
        5 => ValueRef::Bool(seed.is_multiple_of(2)),
        6 => decimal(&format!("-{small}.5")),
        8 => n(i64::from(seed) * 1_000_000),
        9 => s("2026-11-21T10:34:56.789123Z"),
        10 => ValueRef::Array(vec![s("a"), ValueRef::Null]),
        11 => ValueRef::Map(vec![("k".into(), s("v"))]),
        12 => ValueRef::Struct(vec![s("a"), ValueRef::Struct(vec![n(small)])]),
        _ => n(small),
    }
}

/// A setting of each step that has something to do on such tables.
fn steps() -> Vec<(&'static str, Value)> {
    let key = "0123456789abcdef";
    vec![
        (
            "unwrap",
            json!({"delete_tombstone_handling_mode": "rewrite_with_tombstone", "add_fields": ["op", "transaction.id"]}),
        ),
        ("unwrap", json!({"add_headers": ["op", "lsn"], "replace_null_with_default": true})),
        ("filter", json!({"condition": "op != 'd' && key.id >= 0"})),
        ("route", json!({"topic": "['a', topic]"})),
        ("by_logical_table", json!({"topic_regex": "(.*)", "topic_replacement": "$1-all"})),
        ("select", json!({"fields": ["id", "c0", "c2"]})),
        ("drop", json!({"fields": ["c0"]})),
        ("rename", json!({"fields": {"c0": "first column", "c1": "1st"}})),
        ("mask", json!({"fields": ["c*"]})),
        ("hash", json!({"fields": ["c0"], "key": key})),
        ("tokenize", json!({"fields": ["c0", "id"], "key": key})),
        ("set_key", json!({"fields": ["c0", "id"]})),
        ("partition_by", json!({"fields": ["change.c0", "c0"], "partitions": 7})),
        ("insert_field", json!({"topic_field": "t!", "timestamp_field": "ts"})),
        ("header_from", json!({"fields": ["c0"], "headers": ["h"], "operation": "move"})),
        ("cast", json!({"spec": ["c0:string", "c1:float64"]})),
        (
            "compute",
            json!({"field": "x", "expression": "has(row.c0) && row.c0 != null ? string(row.id) : null", "type": "string"}),
        ),
        ("flatten", json!({})),
        ("changed_fields", json!({"header_changed_name": "c", "header_unchanged_name": "u"})),
        ("timestamp", json!({"fields": ["c0"], "target_type": "Timestamp"})),
        ("timezone", json!({"converted_timezone": "Europe/Berlin"})),
        ("cloudevents", json!({})),
    ]
}

/// What a step may refuse such rows for.
const REFUSALS: [&str; 7] = [
    "FIELD_TYPE",
    "FIELD_MISSING",
    "FIELD_EXISTS",
    "VALUE_OUT_OF_RANGE",
    "VALUE_TYPE_MISMATCH",
    "VALUE_UNAVAILABLE",
    "EXPRESSION_FAILED",
];

type Columns = Vec<(usize, bool, u32, u32)>;

fn records(columns: &Columns) -> Vec<Made> {
    let names: Vec<String> = (0..columns.len()).map(|index| format!("c{index}")).collect();
    let mut schema = vec![("id", required(SchemaType::Int32))];
    schema.extend(
        names.iter().zip(columns).map(|(name, (kind, opt, ..))| (name.as_str(), column(*kind, *opt))),
    );
    let table = Table::new("random", &schema);
    let row = |second: bool| {
        let values = columns.iter().map(|(kind, opt, a, b)| value(*kind, *opt, if second { *b } else { *a }));
        std::iter::once(n(1)).chain(values).collect::<Vec<_>>()
    };
    vec![
        table.create(row(false)),
        table.update(row(false), row(true)),
        table.delete(row(true)),
        table.tombstone(n(1)),
        table.plain(row(true)),
        table.event("t", None, None),
        table.update(row(false), row(true)).unavailable(&["c0", "c1"]),
    ]
}

fn run<'a>(chain: &mut Chain, record: Record<'a>) -> Option<Vec<Record<'a>>> {
    match chain.apply(record) {
        Ok(records) => Some(records),
        Err(error) => {
            assert!(REFUSALS.contains(&error.code), "{error}");
            assert_eq!(error.stage, Stage::Transformation);
            None
        }
    }
}

fn chain(chosen: &[usize]) -> Chain {
    let all = steps();
    let step = |index: &usize| {
        let (name, settings) = &all[*index % all.len()];
        Step { name: (*name).to_owned(), when: None, transform: step(name, settings.clone()) }
    };
    Chain::new(chosen.iter().map(step).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// `seen` encodes what came out and reads it back, with our decoder and with Apache's.
    #[test]
    fn whatever_comes_out_is_valid_avro(
        columns in prop::collection::vec((0..KINDS, any::<bool>(), any::<u32>(), any::<u32>()), 1..5),
        chosen in prop::collection::vec(any::<usize>(), 1..4),
    ) {
        let mut chain = chain(&chosen);
        for made in records(&columns) {
            let encoded = run(&mut chain, made.record());
            let mut decoded = made.record();
            decoded.value.tree().unwrap();
            decoded.key.tree().unwrap();
            let decoded = run(&mut chain, decoded);
            let (Some(encoded), Some(decoded)) = (&encoded, &decoded) else {
                prop_assert_eq!(encoded.is_some(), decoded.is_some());
                continue;
            };
            prop_assert_eq!(encoded.len(), decoded.len());
            for (one, other) in encoded.iter().zip(decoded) {
                let (one, other) = (seen(one), seen(other));
                prop_assert_eq!(&one.value, &other.value);
                prop_assert_eq!((one.key, one.headers, one.topic), (other.key, other.headers, other.topic));
                match (one.value_schema, other.value_schema) {
                    (Some(one), Some(other)) => prop_assert!(Arc::ptr_eq(&one, &other), "one schema for one schema"),
                    (one, other) => prop_assert_eq!(one.is_some(), other.is_some()),
                }
            }
        }
    }
}

#[test]
fn conditions_decide_and_errors_name_the_step() {
    let table = Table::orders();
    let row = |region: &str| vec![n(1), s("Ada"), s(region), decimal("1.00")];
    let when = Some(predicate(&json!("after.region == 'north'")).unwrap_or_else(|errors| panic!("{errors}")));
    let hide = Step { name: "hide".to_owned(), when, transform: step("mask", json!({"fields": ["name"]})) };
    let route = step("route", json!({"topic": "after.nothing"}));
    let when = Some(predicate(&json!({"has_header": "x"})).unwrap_or_else(|errors| panic!("{errors}")));
    let mut chain = Chain::new(vec![hide, Step { name: "to".to_owned(), when, transform: route }]);
    let name = |chain: &mut Chain, made: &Made| {
        seen(&chain.apply(made.record()).unwrap()[0]).value["after"]["name"].clone()
    };
    assert_eq!(name(&mut chain, &table.create(row("north"))), "");
    assert_eq!(name(&mut chain, &table.create(row("south"))), "Ada");
    assert_eq!(chain.apply(table.tombstone(n(1)).record()).unwrap().len(), 1);
    let error = chain.apply(table.create(row("north")).header("x", "").record()).unwrap_err();
    assert!(error.message.starts_with("transform `to`: `after.nothing` is not known"), "{error}");
}

/// Before any record comes: what the schema alone tells.
#[test]
fn a_chain_is_checked_against_a_schema() {
    let table = Table::orders();
    let made = table.create(vec![n(1), s("Ada"), s("north"), decimal("1.00")]);
    let record = made.record();
    let (key, value) = (record.key.schema().unwrap(), record.value.schema().unwrap());
    let check = |steps: Vec<(&str, Value, Option<Value>)>| {
        let step = |(name, settings, when): (&str, Value, Option<Value>)| Step {
            name: name.to_owned(),
            when: when.map(|when| predicate(&when).unwrap_or_else(|errors| panic!("{errors}"))),
            transform: step(name, settings),
        };
        let mut chain = Chain::new(steps.into_iter().map(step).collect());
        chain
            .check(&record.topic, Some(key), value)
            .map(|fits| fits.iter().map(|fit| fit.value.fields().len()).collect::<Vec<usize>>())
            .map_err(|unfit| format!("transform `{}`: {}", unfit.step, unfit.error.message))
    };
    let filter = |condition: &str| ("filter", json!({"condition": condition}), None);
    for (steps, expected) in [
        (
            vec![filter("after.regoin == 'x'")],
            "transform `filter`: `after.regoin` is not known; did you mean `region`?",
        ),
        (
            vec![filter("after.name > 1")],
            "transform `filter`: the expression can't be evaluated: `>` does not work on (string, int)",
        ),
        (vec![filter("after.name")], "transform `filter`: the condition gives a string"),
        (
            vec![filter("op == 'd' || after.name + 1 == 2")],
            "transform `filter`: the expression can't be evaluated: `+`",
        ),
        (
            vec![filter("false"), ("drop", json!({"fields": ["*"]}), None)],
            "transform `drop`: no field of the row is left",
        ),
        (
            vec![("unwrap", json!({}), None), filter("before.id == 1 && value.nothing")],
            "transform `filter`: `value.nothing`",
        ),
        (
            vec![("rename", json!({"fields": {"name": "id"}}), None)],
            "transform `rename`: the row has a field `id` already",
        ),
        (
            vec![("set_key", json!({"fields": ["idd"]}), None)],
            "transform `set_key`: the row has no field `idd`",
        ),
        (vec![("outbox", json!({}), None)], "transform `outbox`: the row has no field `payload`"),
    ] {
        let error = check(steps).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let envelope = value.fields().len();
    for (steps, becomes) in [
        (vec![("unwrap", json!({}), None), filter("after.region == 'north' && after.amount > 1.0")], vec![4]),
        // What a value of its own would become is not known.
        (vec![("cast", json!({"spec": ["name:int8", "region:boolean"]}), None)], vec![]),
        (vec![("outbox", json!({}), Some(json!({"topic_matches": ".*outbox"})))], vec![envelope]),
        (vec![filter("before.region != after.region || int(after.name) / 0 == 1")], vec![]),
    ] {
        assert_eq!(check(steps), Ok(becomes));
    }
    let when = Some(json!("after.regoin == 'north'"));
    let error = check(vec![("drop", json!({"fields": ["name"]}), when)]).unwrap_err();
    assert!(error.starts_with("transform `drop`: `when`: `after.regoin` is not known"), "{error}");
}
