//! Against `io.debezium.transforms.partitions.PartitionRouting` with the hash function `java`; the expected hash codes are those
//! that Java's documentation defines.

use rowstream_api::{SchemaType, ValueRef};
use serde_json::json;

use super::hash_code;
use crate::testing::{Made, Table, apply, decimal, decimals, n, one, optional, problems, s, step, text};

fn row(id: i64, region: &str) -> Vec<ValueRef<'static>> {
    vec![n(id), s("Ada"), s(region), decimal("1.00")]
}

fn partition(fields: &[&str], made: &Made) -> Option<u32> {
    one(&mut step("partition_by", json!({"fields": fields, "partitions": 1000})), made).partition
}

#[test]
fn hash_codes_are_javas() {
    let int = optional(SchemaType::Int32);
    let long = optional(SchemaType::Int64);
    assert_eq!(hash_code(&text(), &s("hello")), 99_162_322);
    assert_eq!(hash_code(&text(), &s("")), 0);
    assert_eq!(hash_code(&int, &n(-5)), -5);
    assert_eq!(hash_code(&long, &n(-5)), 4);
    assert_eq!(hash_code(&long, &n(1 << 32)), 1);
    assert_eq!(hash_code(&optional(SchemaType::Boolean), &ValueRef::Bool(true)), 1231);
    assert_eq!(hash_code(&optional(SchemaType::Float64), &ValueRef::Float64(1.0)), 1_072_693_248);
    assert_eq!(hash_code(&decimals(2), &ValueRef::bytes(&[1, 44])), 31 * 300 + 2);
    assert_eq!(hash_code(&decimals(2), &ValueRef::bytes(&[255])), -31 + 2);
    assert_eq!(hash_code(&optional(SchemaType::Bytes), &ValueRef::bytes(&[1, 2])), 31 * (31 + 2) + 1);
}

#[test]
fn equal_fields_share_a_partition() {
    let table = Table::orders();
    let orders = Some(99_162_322 % 1000);
    assert_eq!(partition(&["change.region"], &table.create(row(1, "hello"))), orders);
    assert_eq!(partition(&["after.region"], &table.update(row(1, "x"), row(1, "hello"))), orders);
    assert_eq!(partition(&["change.region"], &table.delete(row(2, "hello"))), orders);
    assert_eq!(partition(&["region"], &table.plain(row(2, "hello"))), orders);
    assert_eq!(
        partition(&["change.id", "change.region"], &table.create(row(7, "hello"))),
        Some(99_162_329 % 1000)
    );
    assert_eq!(partition(&["op"], &table.create(row(7, "x"))), Some(99));
    assert_eq!(
        partition(&["source.table"], &table.create(row(7, "x"))),
        partition(&["source.table"], &table.create(row(8, "y")))
    );
}

/// As there: what has none of the fields is left alone.
#[test]
fn other_records_keep_their_partition() {
    let table = Table::orders();
    assert_eq!(partition(&["change.nothing"], &table.create(row(1, "x"))), None);
    assert_eq!(partition(&["change.region"], &table.tombstone(n(1))), None);
    assert_eq!(partition(&["change.region"], &table.event("t", None, None)), None);
    assert_eq!(partition(&["after.region"], &table.delete(row(1, "x"))), None);
    let unsent = table.create(row(1, "x")).unavailable(&["region"]);
    let mut by = step("partition_by", json!({"fields": ["change.region"], "partitions": 3}));
    assert_eq!(apply(&mut by, &unsent).unwrap_err().code, "VALUE_UNAVAILABLE");
    let mut whole = step("partition_by", json!({"fields": ["after"], "partitions": 3}));
    assert_eq!(apply(&mut whole, &table.create(row(1, "x"))).unwrap_err().code, "FIELD_TYPE");
    let text = problems("partition_by", json!({"fields": ["a.b.c", ""], "partitions": 0}));
    assert!(text.contains("`a.b.c`") && text.contains("``") && text.contains("partitions:"), "{text}");
}
