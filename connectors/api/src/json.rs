//! Records as JSON: what `topics read` prints and what a webhook's body holds.
//!
//! Like Kafka Connect's `JsonConverter` without schemas, but lossless and deterministic: the same value gives the same
//! bytes, decimals are exact decimal strings, bytes are base64, `NaN` and infinities are strings, and dates and times
//! stay the numbers Debezium gives. Fields come in the schema's order.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    error::RecordError,
    schema::{Field, Schema, SchemaType, Semantic},
    text::{write_decimal, write_zoned_micros},
    value::ValueRef,
};

/// What Debezium writes in place of a value that did not change and was not sent.
pub const UNAVAILABLE_PLACEHOLDER: &str = "__debezium_unavailable_value";

/// Appends `value` as compact JSON. Both forms of values are accepted.
///
/// # Errors
/// The value is not of the schema (`VALUE_TYPE_MISMATCH`) or a decimal is beyond any database's range; `out` is
/// untouched then.
pub fn write_json(schema: &Schema, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let start = out.len();
    let written = write(schema, value, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn write(schema: &Schema, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match value {
        ValueRef::Null | ValueRef::Absent => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        ValueRef::Unavailable => scalar(UNAVAILABLE_PLACEHOLDER, out),
        ValueRef::Bool(flag) => scalar(flag, out),
        ValueRef::Int(number) => scalar(number, out),
        ValueRef::Float32(number) => float(number, f64::from(*number), out),
        ValueRef::Float64(number) => float(number, *number, out),
        ValueRef::Str(text) => scalar(text, out),
        ValueRef::Bytes(bytes) => write_bytes(schema, bytes, out),
        ValueRef::Hex(digits) => write_bytes(schema, &bytes_of_hex(digits)?, out),
        ValueRef::Decimal(text) => scalar(text, out),
        ValueRef::ZonedMicros(micros) => {
            out.push(b'"');
            write_zoned_micros(*micros, 6, out);
            out.push(b'"');
            Ok(())
        }
        ValueRef::Array(items) => write_array(schema, items, out),
        ValueRef::Struct(values) => write_struct(schema, values, out),
        ValueRef::Map(entries) => {
            let SchemaType::Map(item) = schema.ty() else { return Err(mismatch("a map")) };
            sequence(b"{}", entries, out, |(key, value), out| {
                scalar(key, out)?;
                out.push(b':');
                write(item, value, out)
            })
        }
    }
}

fn write_array(schema: &Schema, items: &[ValueRef<'_>], out: &mut Vec<u8>) -> Result<(), RecordError> {
    let SchemaType::Array(item) = schema.ty() else { return Err(mismatch("an array")) };
    sequence(b"[]", items, out, |value, out| write(item, value, out))
}

fn write_struct(schema: &Schema, values: &[ValueRef<'_>], out: &mut Vec<u8>) -> Result<(), RecordError> {
    if let (Semantic::VariableScaleDecimal, [ValueRef::Int(scale), ValueRef::Bytes(unscaled)]) =
        (schema.semantic(), values)
    {
        let scale = i32::try_from(*scale).unwrap_or(i32::MAX);
        return quoted_decimal(unscaled, scale, out);
    }
    let fields = schema.fields();
    if fields.len() != values.len() {
        return Err(mismatch("a struct with the schema's fields"));
    }
    let pairs: Vec<(&Field, &ValueRef<'_>)> = fields.iter().zip(values).collect();
    sequence(b"{}", &pairs, out, |(field, value), out| {
        scalar(&field.name, out)?;
        out.push(b':');
        write(&field.schema, value, out).map_err(|error| error.in_column(&field.name))
    })
}

/// Opening bracket, items with commas between them, closing bracket.
fn sequence<T>(
    brackets: &[u8; 2],
    items: &[T],
    out: &mut Vec<u8>,
    mut write_item: impl FnMut(&T, &mut Vec<u8>) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    let [open, close] = *brackets;
    out.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_item(item, out)?;
    }
    out.push(close);
    Ok(())
}

fn write_bytes(schema: &Schema, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
    if let Semantic::Decimal { scale } = schema.semantic() {
        return quoted_decimal(bytes, scale, out);
    }
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
    Ok(())
}

fn quoted_decimal(unscaled: &[u8], scale: i32, out: &mut Vec<u8>) -> Result<(), RecordError> {
    out.push(b'"');
    write_decimal(unscaled, scale, out)?;
    out.push(b'"');
    Ok(())
}

fn bytes_of_hex(digits: &str) -> Result<Vec<u8>, RecordError> {
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return Err(mismatch("an even number of hexadecimal digits"));
    };
    pairs
        .iter()
        .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
        .collect::<Option<_>>()
        .ok_or_else(|| mismatch("hexadecimal digits"))
}

fn float(number: &impl Serialize, wide: f64, out: &mut Vec<u8>) -> Result<(), RecordError> {
    if wide.is_nan() {
        scalar("NaN", out)
    } else if wide.is_infinite() {
        scalar(if wide > 0.0 { "Infinity" } else { "-Infinity" }, out)
    } else {
        scalar(number, out)
    }
}

fn scalar(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) -> Result<(), RecordError> {
    serde_json::to_writer(out, value).map_err(|_| mismatch("a value that JSON can hold"))
}

fn mismatch(expected: &str) -> RecordError {
    RecordError::value("VALUE_TYPE_MISMATCH", format!("expected {expected}, as the schema says"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::SchemaBuilder;

    fn json(schema: &Schema, value: &ValueRef<'_>) -> String {
        let mut out = Vec::new();
        write_json(schema, value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_lossless() {
        let plain = SchemaBuilder::new(SchemaType::Float64).build();
        assert_eq!(json(&plain, &ValueRef::Float64(f64::NAN)), r#""NaN""#);
        assert_eq!(json(&plain, &ValueRef::Float64(f64::NEG_INFINITY)), r#""-Infinity""#);
        assert_eq!(json(&plain, &ValueRef::Float64(0.1)), "0.1");
        assert_eq!(json(&plain, &ValueRef::Float32(0.1)), "0.1");
        let bytes = SchemaBuilder::new(SchemaType::Bytes).build();
        assert_eq!(json(&bytes, &ValueRef::bytes(b"\x00\xff\x80")), r#""AP+A""#);
        assert_eq!(json(&bytes, &ValueRef::Hex("00Ff80")), r#""AP+A""#);
        let decimal = SchemaBuilder::new(SchemaType::Bytes)
            .name("org.apache.kafka.connect.data.Decimal")
            .parameter("scale", "2")
            .build();
        assert_eq!(json(&decimal, &ValueRef::bytes(&[0x00, 0x96])), r#""1.50""#);
    }

    #[test]
    fn structs_keep_field_order_and_variable_decimals_are_text() {
        let int = SchemaBuilder::new(SchemaType::Int32).build();
        let bytes = SchemaBuilder::new(SchemaType::Bytes).build();
        let free = SchemaBuilder::structure()
            .name("io.debezium.data.VariableScaleDecimal")
            .field("scale", int.clone())
            .field("value", bytes)
            .build();
        let list = SchemaBuilder::new(SchemaType::Array(int.clone())).build();
        let row = SchemaBuilder::structure()
            .field("z", SchemaBuilder::new(SchemaType::String).build())
            .field("a", free)
            .field("list", list)
            .build();
        let value = ValueRef::Struct(vec![
            ValueRef::str("q\"\u{1}ü"),
            ValueRef::Struct(vec![ValueRef::Int(30), ValueRef::bytes(&[1])]),
            ValueRef::Array(vec![ValueRef::Int(1), ValueRef::Null]),
        ]);
        assert_eq!(
            json(&row, &value),
            format!(r#"{{"z":"q\"\u0001ü","a":"0.{}1","list":[1,null]}}"#, "0".repeat(29))
        );
    }

    #[test]
    fn a_failed_value_leaves_no_bytes() {
        let row =
            SchemaBuilder::structure().field("v", SchemaBuilder::new(SchemaType::Bytes).build()).build();
        let mut out = b"kept".to_vec();
        let error = write_json(&row, &ValueRef::Struct(vec![ValueRef::Hex("0")]), &mut out).unwrap_err();
        assert!(error.message.contains("`v`"), "{error}");
        assert_eq!(out, b"kept");
    }
}
