//! Against `org.apache.kafka.connect.transforms.Cast`, and stricter where that loses values.

use rowstream_api::{SchemaType, UNAVAILABLE_HEADER, ValueRef};
use serde_json::{Value, json};

use crate::testing::{
    Owned, Table, apply, decimal, decimals, n, one, optional, problems, required, s, step, text,
};

fn table() -> Table {
    Table::new(
        "t",
        &[
            ("id", required(SchemaType::Int32)),
            ("text", text()),
            ("number", optional(SchemaType::Int64)),
            ("double", optional(SchemaType::Float64)),
            ("flag", optional(SchemaType::Boolean)),
            ("amount", decimals(2)),
            ("raw", optional(SchemaType::Bytes)),
            ("list", optional(SchemaType::Array(text()))),
        ],
    )
}

fn row(text: &str, number: i64, double: f64, amount: &str) -> Vec<Owned> {
    let list = ValueRef::Array(Vec::new());
    let raw = ValueRef::Bytes(vec![1, 2].into());
    vec![
        n(1),
        s(text),
        n(number),
        ValueRef::Float64(double),
        ValueRef::Bool(true),
        decimal(amount),
        raw,
        list,
    ]
}

fn cast(spec: &str, row: Vec<Owned>) -> Result<Value, &'static str> {
    let field = spec.split(':').next().unwrap();
    let seen = apply(&mut step("cast", json!({"spec": [spec]})), &table().create(row));
    seen.map(|seen| seen[0].value["after"][field].clone()).map_err(|error| error.code)
}

#[test]
fn types_change_and_values_with_them() {
    let plain = || row("12", 300, 2.9, "-12.50");
    for (spec, expected) in [
        ("text:int32", json!(12)),
        ("text:float64", json!(12.0)),
        ("number:int16", json!(300)),
        ("number:string", json!("300")),
        ("number:float32", json!(300.0)),
        ("number:boolean", json!(true)),
        ("double:int64", json!(2)),
        ("double:string", json!("2.9")),
        ("flag:int8", json!(1)),
        ("flag:string", json!("true")),
        ("amount:string", json!("-12.50")),
        ("amount:float64", json!(-12.5)),
        ("amount:int32", json!(-12)),
        ("raw:string", json!("AQI=")),
        ("id:STRING", json!("1")),
    ] {
        assert_eq!(cast(spec, plain()), Ok(expected), "{spec}");
    }
    assert_eq!(cast("text:boolean", row("FALSE", 0, 0.0, "0")), Ok(json!(false)));
}

#[test]
fn what_does_not_fit_is_refused() {
    for (spec, code) in [
        ("number:int8", "VALUE_OUT_OF_RANGE"),
        ("text:int32", "VALUE_TYPE_MISMATCH"),
        ("text:boolean", "VALUE_TYPE_MISMATCH"),
        ("double:int64", "VALUE_OUT_OF_RANGE"),
        ("double:float32", "VALUE_OUT_OF_RANGE"),
        ("amount:int8", "VALUE_OUT_OF_RANGE"),
        ("list:string", "FIELD_TYPE"),
        ("raw:int32", "FIELD_TYPE"),
    ] {
        assert_eq!(cast(spec, row("x1", 300, 1e300, "999.99")), Err(code), "{spec}");
    }
    let error = apply(
        &mut step("cast", json!({"spec": ["text:int32"]})),
        &table().create(row("secret", 1, 0.0, "0")),
    );
    assert_eq!(error.unwrap_err().message, "column `text`: the STRING is not a whole number");
}

#[test]
fn nulls_schemas_and_unsent_values() {
    let nulls = vec![n(1)].into_iter().chain(std::iter::repeat_n(ValueRef::Null, 7)).collect();
    let mut step_ = step("cast", json!({"spec": ["text:int32", "amount:string", "id:int64", "other:int8"]}));
    let seen = one(&mut step_, &table().update(nulls, row("7", 1, 0.0, "1.00")));
    assert_eq!((&seen.value["before"]["text"], &seen.value["after"]["text"]), (&json!(null), &json!(7)));
    assert_eq!(*seen.field("id").ty(), SchemaType::Int64);
    assert!(!seen.field("id").is_optional() && seen.field("amount").name().is_none());
    let unsent = table().create(row("__debezium_unavailable_value", 1, 0.0, "0")).unavailable(&["text"]);
    let seen = one(&mut step_, &unsent);
    assert_eq!(
        (&seen.value["after"]["text"], seen.header(UNAVAILABLE_HEADER)),
        (&json!(null), Some("[\"text\"]"))
    );
    let text = problems("cast", json!({"spec": ["a", "b:int23", "c:int8", "c:int16"]}));
    for expected in ["`a`: expected `field:type`", "no type `int23`; did you mean `int", "`c` twice"] {
        assert!(text.contains(expected), "{text}");
    }
}
