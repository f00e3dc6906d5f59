//! Against `io.debezium.converters.CloudEventsConverter` and the specification of CloudEvents 1.0.

use serde_json::json;

use crate::testing::{Owned, Table, decimal, n, one, s, step};

fn row(id: i64) -> Vec<Owned> {
    vec![n(id), s("Ada"), s("north"), decimal("1.00")]
}

#[test]
fn an_event_becomes_a_cloud_event() {
    let table = Table::orders();
    let mut step_ = step("cloudevents", json!({}));
    let seen = one(&mut step_, &table.create(row(1)));
    let value = &seen.value;
    assert_eq!(
        (&value["specversion"], &value["datacontenttype"]),
        (&json!("1.0"), &json!("application/avro"))
    );
    assert_eq!((&value["id"], &value["source"]), (&json!("lsn:77"), &json!("/debezium/postgresql/")));
    assert_eq!(value["type"], "io.debezium.connector.postgresql.DataChangeEvent");
    assert_eq!(value["time"], "1970-01-01T00:00:01.000Z");
    assert_eq!((&value["iodebeziumop"], &value["iodebeziumtsms"]), (&json!("c"), &json!(1000)));
    assert_eq!(value["data"]["after"]["name"], "Ada");
    assert_eq!(value["data"]["before"], json!(null));
    assert_eq!(seen.value_schema.unwrap().name(), Some("shop.public.orders.CloudEvents.Envelope"));
    let mut bare =
        step("cloudevents", json!({"extension_attributes": false, "schema_cloudevents_name": "a.B"}));
    let seen = one(&mut bare, &table.delete(row(1)));
    assert!(seen.value.get("iodebeziumop").is_none() && seen.value["data"]["before"]["id"] == 1);
    assert_eq!(seen.value_schema.unwrap().name(), Some("a.B"));
}

/// Rows of a snapshot share a position.
#[test]
fn ids_are_of_events_and_stay() {
    let table = Table::orders();
    let mut step = step("cloudevents", json!({}));
    let mut id = |id| one(&mut step, &table.event("r", None, Some(row(id)))).value["id"].clone();
    assert_ne!(id(1), id(2));
    assert_eq!(id(1), id(1));
}

#[test]
fn other_records_pass() {
    let table = Table::orders();
    let mut step = step("cloudevents", json!({}));
    assert_eq!(one(&mut step, &table.plain(row(1))).value["name"], "Ada");
    assert!(one(&mut step, &table.tombstone(n(1))).value.is_null());
}
