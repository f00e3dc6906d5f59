//! Against `org.apache.kafka.connect.transforms.ValueToKey`.

use rowstream_api::ValueRef;
use serde_json::{Value, json};

use crate::testing::{Table, apply, decimal, n, one, problems, s, step};

fn row(id: i64, region: &str) -> Vec<ValueRef<'static>> {
    vec![n(id), s("Ada"), s(region), decimal("1.00")]
}

#[test]
fn the_key_is_made_of_the_row() {
    let table = Table::orders();
    let mut set_key = step("set_key", json!({"fields": ["region", "id"]}));
    for made in [table.create(row(1, "north")), table.plain(row(1, "north"))] {
        let seen = one(&mut set_key, &made);
        assert_eq!(seen.key, json!({"region": "north", "id": 1}));
        assert_eq!(seen.key_schema.unwrap().name(), Some("shop.public.orders.Key"));
    }
    let truncate = one(&mut set_key, &table.event("t", None, None));
    assert_eq!((truncate.key, &truncate.value["op"]), (Value::Null, &json!("t")));
    let error =
        apply(&mut step("set_key", json!({"fields": ["regio"]})), &table.create(row(1, "x"))).unwrap_err();
    assert_eq!(error.code, "FIELD_MISSING");
}

#[test]
fn tombstones_follow_their_deletes() {
    let table = Table::orders();
    let made = [table.delete(row(1, "north")), table.tombstone(n(1))];
    let keys = |mode: &str| -> Vec<(Value, bool)> {
        let mut set_key = step("set_key", json!({"fields": ["region"], "tombstones": mode}));
        let seen = made.iter().flat_map(|made| apply(&mut set_key, made).unwrap());
        seen.map(|seen| (seen.key, seen.value.is_null())).collect()
    };
    let new = json!({"region": "north"});
    assert_eq!(keys("rewrite"), [(new.clone(), false), (new.clone(), true)]);
    assert_eq!(keys("keep"), [(new.clone(), false), (json!({"id": 1}), true)]);
    assert_eq!(keys("drop"), [(new, false)]);
}

#[test]
fn a_key_is_never_made_of_what_was_not_sent() {
    let table = Table::orders();
    let mut set_key = step("set_key", json!({"fields": ["region"]}));
    let unsent = table.update(row(1, "x"), row(1, "x")).unavailable(&["region"]);
    assert_eq!(apply(&mut set_key, &unsent).unwrap_err().code, "VALUE_UNAVAILABLE");
    let key_only = table.delete(vec![n(1), ValueRef::Null, ValueRef::Null, ValueRef::Null]);
    assert!(apply(&mut set_key, &key_only).unwrap_err().message.contains("REPLICA IDENTITY FULL"));
    assert_eq!(apply(&mut step("set_key", json!({"fields": ["id"]})), &key_only).unwrap().len(), 2);
    assert!(problems("set_key", json!({"fields": []})).contains("at least one"));
    assert!(problems("set_key", json!({"fields": ["a", "a"]})).contains("twice"));
}
