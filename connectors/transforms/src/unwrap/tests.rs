//! Against `io.debezium.transforms.ExtractNewRecordState` and its documentation.

use std::sync::Arc;

use rowstream_api::{SchemaType, UNAVAILABLE_HEADER, Value as Default, ValueRef};
use serde_json::{Value, json};

use crate::testing::{Made, Owned, Table, apply, decimal, n, one, problems, required, s, step, text};

fn row(id: i64, name: &str) -> Vec<Owned> {
    vec![n(id), s(name), s("north"), decimal("1.50")]
}

fn values(settings: Value, made: &[Made]) -> Vec<Value> {
    let mut unwrap = step("unwrap", settings);
    made.iter().flat_map(|made| apply(&mut unwrap, made).unwrap()).map(|seen| seen.value).collect()
}

#[test]
fn an_event_becomes_its_row() {
    let table = Table::orders();
    let mut unwrap = step("unwrap", json!({}));
    for op in ["c", "r", "u"] {
        let seen = one(&mut unwrap, &table.event(op, None, Some(row(1, "Ada"))));
        assert_eq!(seen.value, json!({"id": 1, "name": "Ada", "region": "north", "amount": "1.50"}));
        assert_eq!((seen.key, seen.topic.as_str()), (json!({"id": 1}), "shop.public.orders"));
        let schema = seen.value_schema.unwrap();
        assert_eq!((schema.name(), schema.is_optional()), (Some("shop.public.orders.Value"), false));
    }
    let plain = one(&mut unwrap, &table.plain(row(1, "Ada")));
    assert_eq!(plain.value["name"], "Ada", "no event: itself");
    assert!(apply(&mut unwrap, &table.event("t", None, None)).unwrap().is_empty(), "truncate");
}

/// The table of `delete.tombstone.handling.mode`.
#[test]
fn deletes_and_tombstones() {
    let table = Table::orders();
    let made = [table.create(row(1, "Ada")), table.delete(row(1, "Ada")), table.tombstone(n(1))];
    let row = |deleted: &str| json!({"id": 1, "name": "Ada", "region": "north", "amount": "1.50", "__deleted": deleted});
    let alive = json!({"id": 1, "name": "Ada", "region": "north", "amount": "1.50"});
    for (mode, expected) in [
        ("drop", vec![alive.clone()]),
        ("tombstone", vec![alive.clone(), Value::Null]),
        ("delete_to_tombstone", vec![alive, Value::Null]),
        ("rewrite", vec![row("false"), row("true")]),
        ("rewrite_with_tombstone", vec![row("false"), row("true"), Value::Null]),
    ] {
        assert_eq!(values(json!({"delete_tombstone_handling_mode": mode}), &made), expected, "{mode}");
    }
}

/// A tombstone deletes a key; a table without one has none to delete.
#[test]
fn a_delete_without_a_key_is_no_tombstone() {
    let made = Table::orders().delete(row(1, "Ada")).without_key();
    let all = |mode: &str| {
        values(json!({"delete_tombstone_handling_mode": mode}), std::slice::from_ref(&made)).len()
    };
    assert_eq!((all("tombstone"), all("delete_to_tombstone"), all("rewrite")), (0, 0, 1));
}

#[test]
fn fields_are_added_where_the_event_has_them() {
    let table = Table::orders();
    let settings = json!({
        "delete_tombstone_handling_mode": "rewrite",
        "add_fields": ["op", "table", "source.ts_ms", "lsn:position", "transaction.id", "source.nothing", "ts_ms"],
    });
    let mut unwrap = step("unwrap", settings);
    let seen = one(&mut unwrap, &table.delete(row(1, "Ada")));
    let expected = json!({
        "id": 1, "name": "Ada", "region": "north", "amount": "1.50", "__deleted": "true", "__op": "d",
        "__table": "orders", "__source_ts_ms": 1000, "__position": 77, "__transaction_id": null, "__ts_ms": 2000,
    });
    assert_eq!(seen.value, expected);
    let added = seen.field("__op");
    assert!(added.is_optional() && added.default().is_none());
    let names = json!({"add_fields": ["op"], "add_fields_prefix": ""});
    assert_eq!(one(&mut step("unwrap", names), &table.create(row(1, "Ada"))).value["op"], "c");
    let clash = json!({"add_fields": ["op:name"], "add_fields_prefix": ""});
    assert_eq!(
        apply(&mut step("unwrap", clash), &table.create(row(1, "Ada"))).unwrap_err().code,
        "FIELD_EXISTS"
    );
}

#[test]
fn headers_are_added_to_events_and_tombstones() {
    let table = Table::orders();
    let settings = json!({
        "delete_tombstone_handling_mode": "rewrite_with_tombstone",
        "add_headers": ["op", "source.lsn", "transaction.id"],
        "add_headers_prefix": "cdc.",
    });
    let mut unwrap = step("unwrap", settings);
    let seen = one(&mut unwrap, &table.create(row(1, "Ada")).header("own", "x"));
    let pairs: Vec<(&str, &str)> = seen.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(pairs, [("own", "x"), ("cdc.op", "c"), ("cdc.source_lsn", "77")]);
    let tombstone = one(&mut unwrap, &table.tombstone(n(1)));
    assert_eq!(tombstone.headers, [("cdc.op".to_owned(), "d".to_owned())]);
}

#[test]
fn a_column_routes() {
    let table = Table::orders();
    let mut unwrap = step("unwrap", json!({"route_by_field": "region"}));
    assert_eq!(one(&mut unwrap, &table.create(row(1, "Ada"))).topic, "north");
    assert_eq!(one(&mut unwrap, &table.delete(row(1, "Ada"))).topic, "north");
    let null = vec![n(1), s("Ada"), ValueRef::Null, ValueRef::Null];
    assert_eq!(one(&mut unwrap, &table.create(null)).topic, "shop.public.orders");
    let unsent = table.create(row(1, "Ada")).unavailable(&["region"]);
    assert_eq!(apply(&mut unwrap, &unsent).unwrap_err().code, "VALUE_UNAVAILABLE");
    let amount =
        apply(&mut step("unwrap", json!({"route_by_field": "amount"})), &table.create(row(1, "Ada")));
    assert_eq!(amount.unwrap_err().code, "FIELD_TYPE");
    let gone = apply(&mut step("unwrap", json!({"route_by_field": "regio"})), &table.create(row(1, "Ada")));
    assert!(gone.unwrap_err().message.contains("did you mean `region`?"));
}

#[test]
fn a_header_drops_fields() {
    let table = Table::orders();
    let made =
        table.create(row(1, "Ada")).header("drop", "[\"id\",\"region\",\"other\"]").unavailable(&["region"]);
    let mut compatible = step("unwrap", json!({"drop_fields_header_name": "drop"}));
    let seen = one(&mut compatible, &made);
    assert_eq!(seen.value, json!({"id": 1, "name": "Ada", "amount": "1.50"}), "`id` is not optional");
    assert_eq!(seen.header(UNAVAILABLE_HEADER), None, "the column is gone");
    let again = one(&mut compatible, &made).value_schema.unwrap();
    assert!(Arc::ptr_eq(&seen.value_schema.unwrap(), &again));
    let settings = json!({
        "drop_fields_header_name": "drop", "drop_fields_keep_schema_compatible": false, "drop_fields_from_key": true
    });
    let both = Table::new("t", &[("id", required(SchemaType::Int32)), ("region", text()), ("x", text())]);
    let made = both.create(vec![n(1), s("north"), s("y")]).header("drop", "[\"region\"]");
    let seen = one(&mut step("unwrap", settings), &made);
    assert_eq!((seen.key, seen.value), (json!({"id": 1}), json!({"id": 1, "x": "y"})));
    let bad = table.create(row(1, "Ada")).header("drop", "id");
    assert_eq!(apply(&mut compatible, &bad).unwrap_err().code, "HEADER_INVALID");
}

#[test]
fn nulls_become_defaults_only_when_asked() {
    let with_default = rowstream_api::SchemaBuilder::new(SchemaType::String)
        .optional()
        .default_value(Default::Str("none".into()))
        .build();
    let table = Table::new("t", &[("id", required(SchemaType::Int32)), ("note", with_default)]);
    let made = [table.create(vec![n(1), ValueRef::Null])];
    assert_eq!(values(json!({}), &made), [json!({"id": 1, "note": null})]);
    let asked = json!({"replace_null_with_default": true});
    assert_eq!(values(asked, &made), [json!({"id": 1, "note": "none"})]);
}

/// A table that changes while it is captured: two schemas in turn, each mapped once.
#[test]
fn schemas_follow_the_table() {
    let (old, new) = (
        Table::new("t", &[("id", required(SchemaType::Int32))]),
        Table::new("t", &[("id", required(SchemaType::Int32)), ("name", text())]),
    );
    let mut unwrap = step("unwrap", json!({"add_fields": ["op"]}));
    let mut schemas = Vec::new();
    for _ in 0..2 {
        let first = one(&mut unwrap, &old.create(vec![n(1)]));
        let second = one(&mut unwrap, &new.create(vec![n(1), s("Ada")]));
        assert_eq!(first.value, json!({"id": 1, "__op": "c"}));
        assert_eq!(second.value, json!({"id": 1, "name": "Ada", "__op": "c"}));
        schemas.push((first.value_schema.unwrap(), second.value_schema.unwrap()));
    }
    assert!(Arc::ptr_eq(&schemas[0].0, &schemas[1].0) && Arc::ptr_eq(&schemas[0].1, &schemas[1].1));
}

#[test]
fn all_problems_at_once() {
    let text = problems(
        "unwrap",
        json!({"add_fields": ["op:", "block.x", "source.", "op", "op"], "add_headers": ["a:b:c"]}),
    );
    for expected in [
        "add_fields: `op:`: expected one name",
        "add_fields: `block.x`: an event has no block `block`",
        "add_fields: `source.`: expected a field",
        "add_fields: gives two fields the name `__op`",
        "add_headers: `a:b:c`",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}
