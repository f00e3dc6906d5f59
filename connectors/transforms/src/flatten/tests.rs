//! Against `org.apache.kafka.connect.transforms.Flatten`.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaBuilder, SchemaType, UNAVAILABLE_HEADER, ValueRef};
use serde_json::json;

use crate::testing::{Table, apply, n, one, optional, problems, required, s, step, text};

fn address() -> Arc<Schema> {
    let geo = SchemaBuilder::structure().name("x.Geo").field("lat", required(SchemaType::Float64)).build();
    SchemaBuilder::structure().name("x.Address").optional().field("city", text()).field("geo", geo).build()
}

fn table() -> Table {
    let number = SchemaBuilder::structure()
        .name("io.debezium.data.VariableScaleDecimal")
        .optional()
        .field("scale", required(SchemaType::Int32))
        .field("value", required(SchemaType::Bytes))
        .build();
    Table::new(
        "people",
        &[
            ("id", required(SchemaType::Int32)),
            ("address", address()),
            ("amount", number),
            ("list", optional(SchemaType::Array(text()))),
        ],
    )
}

fn row(address: ValueRef<'static>) -> Vec<ValueRef<'static>> {
    vec![n(1), address, ValueRef::Decimal("1.5".into()), ValueRef::Array(vec![s("a")])]
}

fn berlin() -> ValueRef<'static> {
    ValueRef::Struct(vec![s("Berlin"), ValueRef::Struct(vec![ValueRef::Float64(52.5)])])
}

#[test]
fn nested_fields_become_fields_of_the_row() {
    let mut flatten = step("flatten", json!({}));
    let seen = one(&mut flatten, &table().update(row(ValueRef::Null), row(berlin())));
    let rest = json!({"amount": "1.5", "list": ["a"]});
    let mut expected = json!({"id": 1, "address_city": "Berlin", "address_geo_lat": 52.5});
    expected.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    assert_eq!(seen.value["after"], expected);
    assert_eq!(
        (&seen.value["before"]["address_city"], &seen.value["before"]["address_geo_lat"]),
        (&json!(null), &json!(null))
    );
    assert!(seen.field("address_geo_lat").is_optional(), "the struct around it may be null");
    let mut dashed = step("flatten", json!({"delimiter": "__"}));
    assert_eq!(one(&mut dashed, &table().plain(row(berlin()))).value["address__city"], "Berlin");
    let flat = Table::orders().tombstone(n(1));
    assert!(one(&mut flatten, &flat).value.is_null());
}

#[test]
fn a_struct_that_was_not_sent_is_fields_that_were_not() {
    let made = table().update(row(berlin()), row(ValueRef::Null)).unavailable(&["address"]);
    let seen = one(&mut step("flatten", json!({})), &made);
    assert_eq!(seen.header(UNAVAILABLE_HEADER), Some("[\"address_city\",\"address_geo_lat\"]"));
    assert_eq!(seen.value["before"]["address_city"], "Berlin");
}

#[test]
fn clashes_and_bad_settings() {
    let clash = Table::new(
        "t",
        &[("id", required(SchemaType::Int32)), ("address", address()), ("address_city", text())],
    );
    let made = clash.plain(vec![n(1), berlin(), s("x")]);
    assert_eq!(apply(&mut step("flatten", json!({})), &made).unwrap_err().code, "FIELD_EXISTS");
    for delimiter in ["", ".", " "] {
        assert!(problems("flatten", json!({"delimiter": delimiter})).contains("letters, digits and `_`"));
    }
}
