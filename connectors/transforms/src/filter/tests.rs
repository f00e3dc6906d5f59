//! Against `io.debezium.transforms.Filter`.

use serde_json::json;

use crate::testing::{Made, Table, apply, decimal, n, problems, s, step};

fn kept(settings: serde_json::Value, made: &Made) -> bool {
    !apply(&mut step("filter", settings), made).unwrap().is_empty()
}

#[test]
fn what_the_condition_holds_for_is_kept() {
    let table = Table::orders();
    let made = |region| table.create(vec![n(1), s("Ada"), s(region), decimal("1.00")]);
    let settings = json!({"condition": "after.region == 'north'"});
    assert!(kept(settings.clone(), &made("north")));
    assert!(!kept(settings.clone(), &made("south")));
    let error = apply(&mut step("filter", settings), &table.delete(vec![n(1), s(""), s(""), decimal("0")]))
        .unwrap_err();
    assert_eq!(error.code, "EXPRESSION_FAILED");
    let error = apply(&mut step("filter", json!({"condition": "after.name"})), &made("north")).unwrap_err();
    assert_eq!(error.code, "EXPRESSION_TYPE");
}

/// `null.handling.mode`
#[test]
fn tombstones_are_kept_dropped_or_asked_about() {
    let tombstone = Table::orders().tombstone(n(1));
    let with = |mode: &str| json!({"condition": "value != null", "null_handling": mode});
    assert!(kept(json!({"condition": "value != null"}), &tombstone));
    assert!(kept(with("keep"), &tombstone));
    assert!(!kept(with("drop"), &tombstone));
    assert!(!kept(with("evaluate"), &tombstone));
}

#[test]
fn a_bad_condition_is_refused() {
    assert!(
        problems("filter", json!({"condition": "after.x =="})).starts_with("condition: is no CEL expression")
    );
}
