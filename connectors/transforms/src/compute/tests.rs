//! A step of our own: its promises are those of its module.

use rowstream_api::{SchemaType, UNAVAILABLE_HEADER, ValueRef};
use serde_json::{Value, json};

use crate::testing::{Table, apply, decimal, n, one, problems, s, step};

fn row(id: i64, region: &str) -> Vec<ValueRef<'static>> {
    vec![n(id), s("Ada"), s(region), decimal("12.50")]
}

fn computed(expression: &str, ty: &str) -> Result<Value, String> {
    let mut settings = json!({"field": "x", "expression": expression, "type": ty});
    if ty == "decimal" {
        settings["scale"] = json!(2);
    }
    let seen = apply(&mut step("compute", settings), &Table::orders().create(row(1, "north")));
    seen.map(|seen| seen[0].value["after"]["x"].clone())
        .map_err(|error| format!("{}: {}", error.code, error.message))
}

#[test]
fn each_row_gets_its_own_value() {
    let mut compute =
        step("compute", json!({"field": "where", "expression": "row.region + '!'", "type": "string"}));
    let seen = one(&mut compute, &Table::orders().update(row(1, "south"), row(1, "north")));
    assert_eq!(
        (&seen.value["before"]["where"], &seen.value["after"]["where"]),
        (&json!("south!"), &json!("north!"))
    );
    assert!(seen.field("where").is_optional());
    assert_eq!(one(&mut compute, &Table::orders().plain(row(1, "x"))).value["where"], "x!");
    assert!(one(&mut compute, &Table::orders().tombstone(n(1))).value.is_null());
    assert_eq!(one(&mut compute, &Table::orders().event("t", None, None)).value["op"], "t");
}

#[test]
fn results_have_the_stated_type() {
    for (expression, ty, expected) in [
        ("row.id == 1", "boolean", json!(true)),
        ("row.id + 1", "int32", json!(2)),
        ("timestamp.getFullYear()", "int64", json!(1970)),
        ("row.amount * 2.0", "float64", json!(25.0)),
        ("row.id", "float64", json!(1.0)),
        ("topic", "string", json!("shop.public.orders")),
        ("bytes('ab')", "bytes", json!("YWI=")),
        ("row.amount", "decimal", json!("12.50")),
        ("'7.1'", "decimal", json!("7.10")),
        ("row.id", "decimal", json!("1.00")),
        ("timestamp", "timestamp", json!(3_000_000)),
        ("source.ts_ms", "int64", json!(1000)),
        ("null", "int64", json!(null)),
    ] {
        assert_eq!(computed(expression, ty), Ok(expected), "{expression}");
    }
    for (expression, ty, expected) in [
        ("row.name", "int64", "EXPRESSION_TYPE: the expression gives a string, which is no int64"),
        ("row.amount", "int32", "EXPRESSION_TYPE: the expression gives a double, which is no int32"),
        ("4294967296", "int32", "VALUE_OUT_OF_RANGE: the result is out of the range of INT32"),
        ("'1.234'", "decimal", "VALUE_OUT_OF_RANGE: the result is no decimal of 2 digits after the point"),
        ("row.nmae", "string", "EXPRESSION_FIELD_UNKNOWN: `row.nmae` is not known; did you mean `name`?"),
    ] {
        let error = computed(expression, ty).unwrap_err();
        assert!(error.starts_with(expected), "{expression}: {error}");
    }
}

#[test]
fn a_field_that_is_there_is_replaced_where_it_stands() {
    let mut compute =
        step("compute", json!({"field": "name", "expression": "size(row.name)", "type": "int32"}));
    let seen = one(&mut compute, &Table::orders().create(row(1, "x")));
    let names: Vec<&String> = seen.value["after"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["id", "name", "region", "amount"]);
    assert_eq!((&seen.value["after"]["name"], seen.field("name").ty()), (&json!(3), &SchemaType::Int32));
}

#[test]
fn what_was_not_sent_can_t_be_computed_with() {
    let made =
        Table::orders().update(row(1, "x"), row(1, "__debezium_unavailable_value")).unavailable(&["region"]);
    let mut from = step("compute", json!({"field": "r", "expression": "row.region + '!'", "type": "string"}));
    let seen = one(&mut from, &made);
    assert_eq!(seen.header(UNAVAILABLE_HEADER), Some("[\"region\",\"r\"]"));
    let mut over = step("compute", json!({"field": "region", "expression": "'known'", "type": "string"}));
    assert_eq!(one(&mut over, &made).header(UNAVAILABLE_HEADER), None);
    let mut asking = step(
        "compute",
        json!({"field": "r", "expression": "has(row.region) ? row.region : 'unknown'", "type": "string"}),
    );
    assert_eq!(one(&mut asking, &made).value["after"]["r"], "unknown");
}

#[test]
fn bad_settings() {
    let text = problems("compute", json!({"field": "", "expression": "rwo.x", "type": "decimal"}));
    for expected in [
        "field: must not be empty",
        "scale: goes with",
        "expression: names `rwo`, which is not known; did you mean `row`?",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}
