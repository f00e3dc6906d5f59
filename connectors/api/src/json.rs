//! Values as JSON text, for sinks whose receivers are applications.
//!
//! Pure: the same schema and value always give the same bytes. Numbers that JSON readers would round (decimals) are
//! strings, bytes are base64 strings, structs are objects in field order, and the floats that JSON can't say are the
//! strings `"NaN"`, `"Infinity"`, `"-Infinity"`.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    error::RecordError,
    schema::{Schema, SchemaType, Semantic},
    value::ValueRef,
};

/// What Debezium writes for a value that the source did not send.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Appends `value` as JSON.
///
/// # Errors
/// The value is not of the schema. Names the field, never the value; `out` may hold a part.
pub fn write_json(schema: &Schema, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match value {
        ValueRef::Null | ValueRef::Absent => out.extend_from_slice(b"null"),
        ValueRef::Unavailable => write_text(UNAVAILABLE, out),
        ValueRef::Bool(true) => out.extend_from_slice(b"true"),
        ValueRef::Bool(false) => out.extend_from_slice(b"false"),
        ValueRef::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
        ValueRef::Float32(number) => write_float(f64::from(*number), &serde_json::json!(number), out),
        ValueRef::Float64(number) => write_float(*number, &serde_json::json!(number), out),
        ValueRef::Str(text) => write_text(text, out),
        ValueRef::Bytes(bytes) => {
            if let Semantic::Decimal { scale } = schema.semantic() {
                write_text(&decimal_text(bytes, scale)?, out);
            } else {
                write_text(&STANDARD.encode(bytes), out);
            }
        }
        ValueRef::Hex(digits) => write_text(&STANDARD.encode(bytes_of_hex(digits)?), out),
        ValueRef::Decimal(text) => write_text(text, out),
        ValueRef::ZonedMicros(_) => return Err(mismatch("a logical instant has no JSON form")),
        ValueRef::Array(items) => {
            let SchemaType::Array(element) = schema.ty() else { return Err(mismatch("got an array")) };
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                comma(index, out);
                write_json(element, item, out)?;
            }
            out.push(b']');
        }
        ValueRef::Struct(values) => write_struct(schema, values, out)?,
        ValueRef::Map(entries) => {
            let SchemaType::Map(element) = schema.ty() else { return Err(mismatch("got a map")) };
            out.push(b'{');
            for (index, (key, item)) in entries.iter().enumerate() {
                comma(index, out);
                write_text(key, out);
                out.push(b':');
                write_json(element, item, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_struct(schema: &Schema, values: &[ValueRef<'_>], out: &mut Vec<u8>) -> Result<(), RecordError> {
    if schema.semantic() == Semantic::VariableScaleDecimal {
        let [ValueRef::Int(scale), ValueRef::Bytes(bytes)] = values else {
            return Err(mismatch("expected scale and value of a decimal"));
        };
        let scale = i32::try_from(*scale).map_err(|_| mismatch("the scale of a decimal is out of range"))?;
        write_text(&decimal_text(bytes, scale)?, out);
        return Ok(());
    }
    let fields = schema.fields();
    if fields.len() != values.len() {
        return Err(mismatch("the number of fields differs"));
    }
    out.push(b'{');
    for (index, (field, value)) in fields.iter().zip(values).enumerate() {
        comma(index, out);
        write_text(&field.name, out);
        out.push(b':');
        write_json(&field.schema, value, out).map_err(|e| e.in_column(&field.name))?;
    }
    out.push(b'}');
    Ok(())
}

fn comma(index: usize, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

fn write_float(number: f64, json: &serde_json::Value, out: &mut Vec<u8>) {
    if number.is_nan() {
        write_text("NaN", out);
    } else if number.is_infinite() {
        write_text(if number > 0.0 { "Infinity" } else { "-Infinity" }, out);
    } else {
        out.extend_from_slice(json.to_string().as_bytes());
    }
}

/// More digits behind the point than any database holds; a scale from damaged bytes must not choose an allocation.
const SCALE_MAX: u32 = 100_000;

fn decimal_text(bytes: &[u8], scale: i32) -> Result<String, RecordError> {
    if scale.unsigned_abs() > SCALE_MAX {
        return Err(mismatch("the scale of a decimal is out of range"));
    }
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut digits = decimal_digits(bytes, negative);
    let zeros = scale.unsigned_abs() as usize;
    if scale < 0 {
        if digits != "0" {
            digits.extend(std::iter::repeat_n('0', zeros));
        }
    } else if scale > 0 {
        if digits.len() <= zeros {
            digits.insert_str(0, &"0".repeat(zeros + 1 - digits.len()));
        }
        digits.insert(digits.len() - zeros, '.');
    }
    Ok(if negative { format!("-{digits}") } else { digits })
}

/// The digits of the magnitude of a two's complement, big-endian number, nine at a time.
fn decimal_digits(bytes: &[u8], negative: bool) -> String {
    let mut magnitude = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            let (sum, overflow) = (!*byte).overflowing_add(u8::from(carry));
            (*byte, carry) = (sum, overflow);
        }
    }
    let mut groups = Vec::new();
    while magnitude.iter().any(|&byte| byte != 0) {
        let mut rest = 0u64;
        for byte in &mut magnitude {
            let part = rest << 8 | u64::from(*byte);
            *byte = u8::try_from(part / 1_000_000_000).unwrap_or(u8::MAX);
            rest = part % 1_000_000_000;
        }
        groups.push(rest);
    }
    let mut groups = groups.into_iter().rev();
    let mut text = groups.next().unwrap_or(0).to_string();
    for group in groups {
        text.push_str(&format!("{group:09}"));
    }
    text
}

fn bytes_of_hex(digits: &str) -> Result<Vec<u8>, RecordError> {
    let nibbles: Option<Vec<u32>> = digits.chars().map(|digit| digit.to_digit(16)).collect();
    let nibbles = nibbles.ok_or_else(|| mismatch("expected hexadecimal digits"))?;
    let byte = |pair: &[u32]| pair.iter().fold(0u32, |byte, nibble| byte << 4 | nibble);
    nibbles
        .chunks(2)
        .map(|pair| u8::try_from(byte(pair)).map_err(|_| mismatch("expected hexadecimal digits")))
        .collect()
}

fn mismatch(what: &str) -> RecordError {
    RecordError::value("VALUE_SCHEMA_MISMATCH", format!("{what}, which does not fit the schema"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        let text = |bytes: &[u8], scale| decimal_text(bytes, scale).unwrap();
        assert_eq!(text(&[0x04, 0xd2], 2), "12.34");
        assert_eq!(text(&[0xff], 2), "-0.01");
        assert_eq!(text(&[0x80], 0), "-128");
        assert_eq!(text(&[], 2), "0.00");
        assert_eq!(text(&[5], -3), "5000");
        let big = (123_456_789_012_345_678_901_234_567_890_i128).to_be_bytes();
        assert_eq!(text(&big, 0), "123456789012345678901234567890");
        let low = i128::MIN.to_be_bytes();
        assert_eq!(text(&low, 0), i128::MIN.to_string());
        assert!(decimal_text(&[1], i32::MIN).is_err());
    }
}
