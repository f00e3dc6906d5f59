//! Against `io.debezium.transforms.outbox.EventRouter` and its documentation.

use std::sync::Arc;

use rowstream_api::{SchemaType, ValueRef};
use serde_json::json;

use crate::testing::{Owned, Table, apply, n, named, one, optional, problems, required, s, step, text};

fn table() -> Table {
    Table::new(
        "outbox",
        &[
            ("id", named(SchemaType::String, "io.debezium.data.Uuid")),
            ("aggregatetype", text()),
            ("aggregateid", text()),
            ("type", text()),
            ("payload", named(SchemaType::String, "io.debezium.data.Json")),
            ("created", named(SchemaType::Int64, "io.debezium.time.MicroTimestamp")),
            ("part", optional(SchemaType::Int32)),
        ],
    )
}

fn row(payload: Option<&str>) -> Vec<Owned> {
    let payload = payload.map_or(ValueRef::Null, s);
    vec![s("e-1"), s("Order"), s("o-7"), s("OrderCreated"), payload, n(5_000_000), n(3)]
}

#[test]
fn an_insert_is_an_event() {
    let mut outbox = step("outbox", json!({}));
    for op in ["c", "r"] {
        let seen = one(&mut outbox, &table().event(op, None, Some(row(Some("{\"a\":1}")))));
        assert_eq!(seen.topic, "outbox.event.Order");
        assert_eq!(seen.key, json!("o-7"));
        assert_eq!(seen.value, json!("{\"a\":1}"));
        assert_eq!(seen.headers, [("id".to_owned(), "e-1".to_owned())]);
        assert_eq!((seen.partition, seen.timestamp_ms), (None, 3000));
        let schema = seen.value_schema.unwrap();
        assert_eq!((schema.name(), schema.is_optional()), (Some("io.debezium.data.Json"), false));
    }
}

#[test]
fn all_else_is_left_out_or_refused() {
    let table = table();
    for (settings, refused) in [
        (json!({}), false),
        (json!({"table_op_invalid_behavior": "error"}), false),
        (json!({"table_op_invalid_behavior": "fatal"}), true),
    ] {
        let mut outbox = step("outbox", settings);
        let update = apply(&mut outbox, &table.update(row(None), row(None)));
        assert_eq!(
            update.map(|seen| seen.len()).map_err(|e| e.code),
            if refused { Err("OUTBOX_UPDATED") } else { Ok(0) }
        );
        assert!(apply(&mut outbox, &table.delete(row(None))).unwrap().is_empty());
        assert!(apply(&mut outbox, &table.tombstone(s("e-1"))).unwrap().is_empty());
        assert!(apply(&mut outbox, &table.event("t", None, None)).unwrap().is_empty());
        assert_eq!(one(&mut outbox, &table.plain(row(None))).topic, "shop.public.outbox", "no event: passes");
    }
}

#[test]
fn columns_have_their_places() {
    let mut outbox = step(
        "outbox",
        json!({
            "table_fields_additional_placement":
                ["type:header:eventType", "created:envelope", "type:envelope:kind", "part:partition"],
            "table_field_event_timestamp": "created",
            "table_field_event_schema_version": "part",
            "route_topic_replacement": "events.${routedByValue}",
        }),
    );
    let table = table();
    let seen = one(&mut outbox, &table.create(row(Some("{}"))));
    assert_eq!(seen.topic, "events.Order");
    assert_eq!(seen.value, json!({"payload": "{}", "created": 5_000_000, "kind": "OrderCreated"}));
    assert_eq!(seen.header("eventType"), Some("OrderCreated"));
    assert_eq!((seen.partition, seen.timestamp_ms), (Some(3), 5000));
    let schema = seen.value_schema.unwrap();
    assert_eq!((schema.name(), schema.version()), (Some("shop.public.outbox.Order.Value"), Some(3)));
    let again = one(&mut outbox, &table.create(row(Some("{}")))).value_schema.unwrap();
    assert!(Arc::ptr_eq(&schema, &again), "one schema for all events of a type");
}

#[test]
fn empty_payloads() {
    let table = table();
    let mut plain = step("outbox", json!({}));
    assert_eq!(one(&mut plain, &table.create(row(None))).value, json!(null));
    assert_eq!(one(&mut plain, &table.create(row(Some(" ")))).value, json!(" "));
    let mut tombstones = step("outbox", json!({"route_tombstone_on_empty_payload": true}));
    for payload in [None, Some(""), Some(" ")] {
        let seen = one(&mut tombstones, &table.create(row(payload)));
        assert_eq!((seen.key, seen.value), (json!("o-7"), json!(null)));
    }
}

#[test]
fn json_is_expanded() {
    let table = table();
    let mut outbox = step("outbox", json!({"table_expand_json_payload": true}));
    let seen = one(&mut outbox, &table.create(row(Some(r#"{"id":1,"lines":[{"sku":"a"}]}"#))));
    assert_eq!(seen.value, json!({"id": 1, "lines": [{"sku": "a"}]}));
    let again = one(&mut outbox, &table.create(row(Some(r#"{"id":2,"lines":[{"sku":"b"}]}"#))));
    assert!(Arc::ptr_eq(&seen.value_schema.unwrap(), &again.value_schema.unwrap()));
    assert_eq!(one(&mut outbox, &table.create(row(Some("no json")))).value, json!("no json"));
    let mut enveloped = step(
        "outbox",
        json!({"table_expand_json_payload": true, "table_fields_additional_placement": ["type:envelope"]}),
    );
    let seen = one(&mut enveloped, &table.create(row(Some(r#"{"id":1}"#))));
    assert_eq!(seen.value, json!({"payload": {"id": 1}, "type": "OrderCreated"}));
}

#[test]
fn what_is_missing_is_named() {
    let other = Table::new("outbox", &[("id", required(SchemaType::Int32)), ("aggregatetype", text())]);
    let made = other.create(vec![n(1), s("Order")]);
    let error = apply(&mut step("outbox", json!({})), &made).unwrap_err();
    assert_eq!(error.code, "FIELD_MISSING");
    assert!(error.message.contains("no field `payload`, which `table_field_event_payload` names"), "{error}");
    let mut bad = row(None);
    bad[1] = s("not a topic");
    let error = apply(&mut step("outbox", json!({})), &table().create(bad)).unwrap_err();
    assert_eq!((error.code, error.message.contains("not a topic")), ("TOPIC_INVALID", false));
    let mut null = row(None);
    null[1] = ValueRef::Null;
    assert_eq!(apply(&mut step("outbox", json!({})), &table().create(null)).unwrap_err().code, "VALUE_NULL");
    let gone = json!({"table_fields_additional_placement": ["nothing:header"]});
    assert_eq!(
        apply(&mut step("outbox", gone), &table().create(row(None))).unwrap_err().code,
        "FIELD_MISSING"
    );
    let ignored = json!({
        "table_fields_additional_placement": ["nothing:header"], "table_field_additional_missing": "ignore"
    });
    assert_eq!(one(&mut step("outbox", ignored), &table().create(row(None))).headers.len(), 1);
    let timestamp = json!({"table_field_event_timestamp": "type"});
    assert_eq!(
        apply(&mut step("outbox", timestamp), &table().create(row(None))).unwrap_err().code,
        "FIELD_TYPE"
    );
}

#[test]
fn all_problems_at_once() {
    let text = problems(
        "outbox",
        json!({
            "table_fields_additional_placement": ["a", "b:nowhere", "c:envelope:payload"],
            "route_topic_regex": "(",
            "table_field_event_schema_version": "v",
        }),
    );
    for expected in [
        "`a`: expected `column:placement`",
        "`b:nowhere`: expected `header`",
        "`c:envelope:payload`: the envelope has a field `payload`",
        "route_topic_regex: not a regular expression",
        "table_field_event_schema_version: has no effect",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert!(problems("outbox", json!({"route_topic_replacement": "${x}"})).contains("no group `x`"));
}
