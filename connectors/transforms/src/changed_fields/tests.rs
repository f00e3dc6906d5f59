//! Against `io.debezium.transforms.ExtractChangedRecordState`.

use rowstream_api::ValueRef;
use serde_json::json;

use crate::testing::{Table, apply, decimal, n, one, problems, s, step};

#[test]
fn headers_name_what_changed() {
    let table = Table::orders();
    let row = |name: &str, amount: &str| vec![n(1), s(name), ValueRef::Null, decimal(amount)];
    let settings = json!({"header_changed_name": "c", "header_unchanged_name": "u"});
    let mut step = step("changed_fields", settings);
    let lists = |seen: &crate::testing::Seen| {
        (seen.header("c").map(str::to_owned), seen.header("u").map(str::to_owned))
    };
    let both = |changed: &str, unchanged: &str| (Some(changed.to_owned()), Some(unchanged.to_owned()));
    let update = one(&mut step, &table.update(row("Ada", "1.00"), row("Bob", "1.00")));
    assert_eq!(lists(&update), both("[\"name\"]", "[\"id\",\"region\",\"amount\"]"));
    let unsent =
        table.update(row("Ada", "1.00"), row("__debezium_unavailable_value", "2.00")).unavailable(&["name"]);
    assert_eq!(lists(&one(&mut step, &unsent)), both("[\"amount\"]", "[\"id\",\"name\",\"region\"]"));
    for made in
        [table.create(row("Ada", "1.00")), table.delete(row("Ada", "1.00")), table.event("t", None, None)]
    {
        assert_eq!(lists(&one(&mut step, &made)), both("[]", "[]"));
    }
    for made in [table.plain(row("Ada", "1.00")), table.tombstone(n(1))] {
        assert!(one(&mut step, &made).headers.is_empty());
    }
}

/// The pair that its documentation names: only what changed is left of the row.
#[test]
fn unwrap_drops_what_did_not_change() {
    let table = Table::orders();
    let mut changed = step("changed_fields", json!({"header_unchanged_name": "u"}));
    let mut unwrap = step("unwrap", json!({"drop_fields_header_name": "u"}));
    let row = |region: &str| vec![n(1), s("Ada"), s(region), decimal("1.00")];
    let made = table.update(row("north"), row("south"));
    let mut between = Vec::new();
    changed.apply(made.record(), &mut between).unwrap();
    let mut out = Vec::new();
    unwrap.apply(between.remove(0), &mut out).unwrap();
    assert_eq!(crate::testing::seen(&out[0]).value, json!({"id": 1, "region": "south"}));
    assert!(problems("changed_fields", json!({"header_changed_name": " "})).contains("or both"));
    assert!(apply(&mut changed, &made).is_ok());
}
