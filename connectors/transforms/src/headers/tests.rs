//! Against `org.apache.kafka.connect.transforms.HeaderFrom`, `InsertHeader` and `DropHeaders`.

use rowstream_api::{UNAVAILABLE_HEADER, ValueRef};
use serde_json::json;

use crate::testing::{Table, apply, decimal, n, one, problems, s, step};

fn row(region: &str) -> Vec<ValueRef<'static>> {
    vec![n(1), s("Ada"), s(region), decimal("1.00")]
}

#[test]
fn fields_become_headers() {
    let table = Table::orders();
    let settings = |operation: &str| json!({"fields": ["region", "amount", "other"], "headers": ["r", "a", "o"], "operation": operation});
    let seen = one(&mut step("header_from", settings("copy")), &table.update(row("south"), row("north")));
    assert_eq!((seen.header("r"), seen.header("a"), seen.header("o")), (Some("north"), Some("1.00"), None));
    assert_eq!(seen.value["after"]["region"], "north");
    let seen = one(&mut step("header_from", settings("move")), &table.delete(row("south")));
    assert_eq!(seen.header("r"), Some("south"));
    assert_eq!(seen.value["before"], json!({"id": 1, "name": "Ada"}));
    let mut key = step("header_from", json!({"fields": ["id"], "headers": ["id"], "on": "key"}));
    assert_eq!(one(&mut key, &table.tombstone(n(7))).header("id"), Some("7"));
    let mut all =
        step("header_from", json!({"fields": ["id"], "headers": ["id"], "on": "key", "operation": "move"}));
    assert_eq!(apply(&mut all, &table.tombstone(n(7))).unwrap_err().code, "FIELDS_NONE_LEFT");
}

#[test]
fn what_is_null_or_was_not_sent_gives_no_header() {
    let table = Table::orders();
    let mut step = step("header_from", json!({"fields": ["region"], "headers": ["r"], "operation": "move"}));
    let null = table.create(vec![n(1), s("Ada"), ValueRef::Null, ValueRef::Null]);
    assert_eq!(one(&mut step, &null).header("r"), None);
    let unsent = table.create(row("__debezium_unavailable_value")).unavailable(&["region"]);
    assert!(one(&mut step, &unsent).headers.is_empty(), "the column has left the row, and its mark with it");
}

#[test]
fn headers_come_and_go() {
    let table = Table::orders();
    let made = table.tombstone(n(1)).header("a", "1").header("ab", "2").unavailable(&["x"]);
    let seen = one(&mut step("insert_header", json!({"header": "a", "value_literal": "3"})), &made);
    assert_eq!(seen.headers.last(), Some(&("a".to_owned(), "3".to_owned())));
    let seen = one(&mut step("drop_headers", json!({"headers": ["a"]})), &made);
    let names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ab", UNAVAILABLE_HEADER]);
    let seen = one(&mut step("drop_headers", json!({"headers": ["*"]})), &made);
    assert_eq!(seen.headers.len(), 1, "sinks need that one");
}

#[test]
fn bad_settings() {
    let text = problems("header_from", json!({"fields": ["a"], "headers": ["b", "__rowstream.unavailable"]}));
    assert!(text.contains("one header for each") && text.contains("set by Rowstream"), "{text}");
    assert!(problems("insert_header", json!({"header": "", "value_literal": ""})).contains("empty name"));
    assert!(problems("drop_headers", json!({"headers": []})).contains("at least one"));
}
