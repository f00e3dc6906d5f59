//! Against `org.apache.kafka.connect.transforms.InsertField`.

use serde_json::json;

use crate::testing::{Table, apply, decimal, n, one, problems, s, step};

#[test]
fn what_is_known_of_the_record_becomes_fields() {
    let table = Table::orders();
    let row = || vec![n(1), s("Ada"), s("north"), decimal("1.00")];
    let mut step = step(
        "insert_field",
        json!({"topic_field": "topic!", "timestamp_field": "at?", "static_field": "origin", "static_value": "shop"}),
    );
    let seen = one(&mut step, &table.update(row(), row()));
    for image in ["before", "after"] {
        let row = &seen.value[image];
        assert_eq!(
            (&row["topic"], &row["at"], &row["origin"]),
            (&json!("shop.public.orders"), &json!(3000), &json!("shop"))
        );
    }
    let (topic, at) = (seen.field("topic"), seen.field("at"));
    assert_eq!((topic.is_optional(), at.is_optional()), (false, true));
    assert_eq!(at.name(), Some("org.apache.kafka.connect.data.Timestamp"));
    assert_eq!(one(&mut step, &table.plain(row())).value["origin"], "shop");
    assert!(one(&mut step, &table.tombstone(n(1))).value.is_null());
}

#[test]
fn clashes_and_bad_settings() {
    let made = Table::orders().tombstone(n(1));
    let mut key = step("insert_field", json!({"topic_field": "id", "on": "key"}));
    assert_eq!(apply(&mut key, &made).unwrap_err().code, "FIELD_EXISTS");
    assert!(problems("insert_field", json!({})).contains("expected `topic_field`"));
    let text =
        problems("insert_field", json!({"topic_field": "a!", "timestamp_field": "a", "static_field": "s"}));
    assert!(text.contains("timestamp_field:") && text.contains("goes with `static_value`"), "{text}");
}
