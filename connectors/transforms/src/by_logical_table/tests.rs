//! Against `io.debezium.transforms.ByLogicalTableRouter` (`ToLogicalTopicRouter` of late).

use std::sync::Arc;

use rowstream_api::SchemaType;
use serde_json::json;

use crate::testing::{Table, apply, n, one, problems, required, s, step, text};

fn shard(number: u32) -> Table {
    Table::new(&format!("orders_shard{number}"), &[("id", required(SchemaType::Int32)), ("name", text())])
}

#[test]
fn shards_become_one_table() {
    let settings = json!({"topic_regex": "(.*)_shard\\d", "topic_replacement": "$1"});
    let mut router = step("by_logical_table", settings);
    let row = || vec![n(1), s("Ada")];
    for number in [1, 2] {
        let from = format!("shop.public.orders_shard{number}");
        let seen = one(&mut router, &shard(number).update(row(), row()));
        assert_eq!(seen.topic, "shop.public.orders");
        assert_eq!(seen.key, json!({"id": 1, "__dbz__physicalTableIdentifier": from}));
        assert_eq!(seen.key_schema.unwrap().name(), Some("shop.public.orders.Key"));
        let schema = seen.value_schema.unwrap();
        assert!(schema.is_envelope() && schema.name() == Some("shop.public.orders.Envelope"));
        assert_eq!(schema.field("before").unwrap().1.schema.name(), Some("shop.public.orders.Value"));
        assert_eq!(seen.value["after"], json!({"id": 1, "name": "Ada"}));
        let tombstone = one(&mut router, &shard(number).tombstone(n(1)));
        assert_eq!(
            (tombstone.topic.as_str(), &tombstone.key["__dbz__physicalTableIdentifier"]),
            ("shop.public.orders", &json!(from))
        );
    }
    let table = shard(1);
    let schema = |router: &mut _| one(router, &table.create(row())).value_schema.unwrap();
    assert!(Arc::ptr_eq(&schema(&mut router), &schema(&mut router)));
    assert_eq!(
        one(&mut router, &Table::orders().tombstone(n(1))).topic,
        "shop.public.orders",
        "not matched: as it is"
    );
    assert_eq!(one(&mut router, &shard(1).plain(row())).value, json!({"id": 1, "name": "Ada"}));
}

#[test]
fn the_shards_name_is_chosen() {
    let settings = json!({
        "topic_regex": "(.*)_shard\\d", "topic_replacement": "$1", "key_field_name": "shard",
        "key_field_regex": ".*_shard(\\d)", "key_field_replacement": "s$1",
    });
    assert_eq!(
        one(&mut step("by_logical_table", settings), &shard(7).tombstone(n(1))).key,
        json!({"id": 1, "shard": "s7"})
    );
    let unique =
        json!({"topic_regex": "(.*)_shard\\d", "topic_replacement": "$1", "key_enforce_uniqueness": false});
    assert_eq!(one(&mut step("by_logical_table", unique), &shard(7).tombstone(n(1))).key, json!({"id": 1}));
    let clash = json!({"topic_regex": "(.*)_shard\\d", "topic_replacement": "$1", "key_field_name": "id"});
    assert_eq!(
        apply(&mut step("by_logical_table", clash), &shard(7).tombstone(n(1))).unwrap_err().code,
        "FIELD_EXISTS"
    );
    let text = problems(
        "by_logical_table",
        json!({"topic_regex": "(", "topic_replacement": "x", "key_field_regex": "a", "key_field_name": ""}),
    );
    for expected in
        ["topic_regex: not a regular", "goes with `key_field_replacement`", "key_field_name: must not"]
    {
        assert!(text.contains(expected), "{text}");
    }
}
