//! One value into an array element: a length and PostgreSQL's binary form, or its input text.
//!
//! Everything is appended to one buffer, so that a value costs no allocation. Dates and numbers go in binary form
//! and need no text; whatever goes as text is checked for U+0000, which PostgreSQL can't store.

use rowstream_api::{
    RecordError, Schema, SchemaType, Semantic, ValueRef,
    calendar::{
        NEGATIVE_INFINITY_US, NEGATIVE_INFINITY_ZONED, POSITIVE_INFINITY_US, POSITIVE_INFINITY_ZONED,
        parse_instant,
    },
    json::write_json,
    table_sink::rows::push_element,
    text::write_decimal,
};

use super::{calendar, types::Wire};

/// Microseconds from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const EPOCH_US: i64 = 946_684_800_000_000;
/// Days between the same.
const EPOCH_DAYS: i64 = 10_957;

/// Appends one element: length, then bytes.
///
/// # Errors
/// The value is not of the schema, out of the target type's range, or holds U+0000.
pub(crate) fn encode(
    wire: Wire,
    schema: &Schema,
    value: &ValueRef<'_>,
    out: &mut Vec<u8>,
) -> Result<(), RecordError> {
    push_element(value, out, |out| body(wire, schema, value, out))
}

fn body(wire: Wire, schema: &Schema, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match wire {
        Wire::Bool => {
            let ValueRef::Bool(flag) = value else { return Err(mismatch("a boolean")) };
            out.push(u8::from(*flag));
        }
        Wire::Int2 => out.extend_from_slice(&narrow::<i16>(int(value)?)?.to_be_bytes()),
        Wire::Int4 => out.extend_from_slice(&narrow::<i32>(int(value)?)?.to_be_bytes()),
        Wire::Int8 => out.extend_from_slice(&int(value)?.to_be_bytes()),
        Wire::Float4 => {
            let ValueRef::Float32(number) = value else { return Err(mismatch("a 32-bit float")) };
            out.extend_from_slice(&number.to_be_bytes());
        }
        Wire::Float8 => out.extend_from_slice(&double(value)?.to_be_bytes()),
        Wire::Bytea => {
            let ValueRef::Bytes(bytes) = value else { return Err(mismatch("bytes")) };
            out.extend_from_slice(bytes);
        }
        Wire::Date => out.extend_from_slice(&date(int(value)?)?.to_be_bytes()),
        Wire::Time => out.extend_from_slice(&micros(schema, value)?.to_be_bytes()),
        Wire::Timestamp | Wire::Timestamptz => {
            out.extend_from_slice(&timestamp(micros(schema, value)?)?.to_be_bytes());
        }
        Wire::Interval => {
            out.extend_from_slice(&int(value)?.to_be_bytes());
            out.extend_from_slice(&[0; 8]); // Days and months.
        }
        Wire::Text => {
            let start = out.len();
            write_text(schema, value, out)?;
            if out.get(start..).is_some_and(|text| text.contains(&0)) {
                return Err(RecordError::value(
                    "VALUE_NUL",
                    "the text holds the character U+0000, which PostgreSQL can't store",
                ));
            }
        }
    }
    Ok(())
}

/// Microseconds of every time and timestamp form.
fn micros(schema: &Schema, value: &ValueRef<'_>) -> Result<i64, RecordError> {
    match (schema.semantic(), value) {
        (_, ValueRef::ZonedMicros(micros)) => Ok(*micros),
        (Semantic::ZonedTimestamp, ValueRef::Str(text)) if text == POSITIVE_INFINITY_ZONED => {
            Ok(POSITIVE_INFINITY_US)
        }
        (Semantic::ZonedTimestamp, ValueRef::Str(text)) if text == NEGATIVE_INFINITY_ZONED => {
            Ok(NEGATIVE_INFINITY_US)
        }
        (Semantic::ZonedTimestamp, ValueRef::Str(text)) => {
            parse_instant(text).ok_or_else(|| mismatch("an ISO 8601 instant such as `2026-01-02T03:04:05Z`"))
        }
        // The same numbers in every unit.
        (
            Semantic::TimestampMillis,
            ValueRef::Int(infinity @ (POSITIVE_INFINITY_US | NEGATIVE_INFINITY_US)),
        ) => Ok(*infinity),
        (Semantic::TimeMillis | Semantic::TimestampMillis, ValueRef::Int(millis)) => {
            millis.checked_mul(1000).ok_or_else(out_of_range)
        }
        (_, value) => int(value),
    }
}

fn timestamp(micros: i64) -> Result<i64, RecordError> {
    match micros {
        POSITIVE_INFINITY_US => Ok(i64::MAX),
        NEGATIVE_INFINITY_US => Ok(i64::MIN),
        finite => finite.checked_sub(EPOCH_US).ok_or_else(out_of_range),
    }
}

/// PostgreSQL's own infinities are the ends of the 32-bit range, in the record as well.
fn date(days: i64) -> Result<i32, RecordError> {
    if days == i64::from(i32::MAX) || days == i64::from(i32::MIN) {
        return narrow(days);
    }
    narrow(days.checked_sub(EPOCH_DAYS).ok_or_else(out_of_range)?)
}

/// Appends PostgreSQL's input text of a value that is not null.
fn write_text(schema: &Schema, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match (schema.semantic(), value) {
        (Semantic::Decimal { scale }, ValueRef::Bytes(bytes)) => write_decimal(bytes, scale, out),
        (Semantic::VariableScaleDecimal, ValueRef::Struct(parts)) => match parts.as_slice() {
            [ValueRef::Int(scale), ValueRef::Bytes(bytes)] => write_decimal(bytes, narrow(*scale)?, out),
            _ => Err(mismatch("scale and value of a decimal")),
        },
        (Semantic::Bits, ValueRef::Bytes(bytes)) => {
            write_bits(schema, bytes, out);
            Ok(())
        }
        (Semantic::Point, ValueRef::Struct(parts)) => match parts.as_slice() {
            [ValueRef::Float64(x), ValueRef::Float64(y), ..] => {
                out.extend_from_slice(format!("({x:e},{y:e})").as_bytes());
                Ok(())
            }
            _ => Err(mismatch("x and y of a point")),
        },
        (Semantic::Date, ValueRef::Int(days)) => {
            calendar::write_date(*days, out);
            Ok(())
        }
        (Semantic::TimeMillis | Semantic::TimeMicros, ValueRef::Int(_)) => {
            calendar::write_time(micros(schema, value)?, out);
            Ok(())
        }
        (Semantic::TimestampMillis | Semantic::TimestampMicros | Semantic::ZonedTimestamp, _) => {
            let micros = micros(schema, value)?;
            calendar::write_timestamp(micros, schema.semantic() == Semantic::ZonedTimestamp, out);
            Ok(())
        }
        (Semantic::MicroDuration, ValueRef::Int(micros)) => {
            out.extend_from_slice(format!("{micros} microseconds").as_bytes());
            Ok(())
        }
        _ => write_plain(schema, value, out),
    }
}

fn write_plain(schema: &Schema, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match value {
        ValueRef::Str(text) | ValueRef::Decimal(text) => out.extend_from_slice(text.as_bytes()),
        ValueRef::Bool(flag) => out.push(if *flag { b't' } else { b'f' }),
        ValueRef::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
        ValueRef::Float32(number) => out.extend_from_slice(format!("{number:e}").as_bytes()),
        ValueRef::Float64(number) => out.extend_from_slice(format!("{number:e}").as_bytes()),
        ValueRef::Bytes(bytes) => {
            out.extend_from_slice(b"\\x");
            for byte in bytes.iter() {
                out.extend_from_slice(format!("{byte:02x}").as_bytes());
            }
        }
        ValueRef::Array(items) => return write_array(schema, items, out),
        ValueRef::Struct(_) | ValueRef::Map(_) => return write_json(schema, value, out),
        ValueRef::Null
        | ValueRef::Absent
        | ValueRef::Unavailable
        | ValueRef::Hex(_)
        | ValueRef::ZonedMicros(_) => return Err(mismatch("a value in physical form")),
    }
    Ok(())
}

/// `{1,NULL,"a \" b"}`.
fn write_array(schema: &Schema, items: &[ValueRef<'_>], out: &mut Vec<u8>) -> Result<(), RecordError> {
    let SchemaType::Array(element) = schema.ty() else { return Err(mismatch("no array")) };
    out.push(b'{');
    let mut text = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match item {
            ValueRef::Null | ValueRef::Absent => out.extend_from_slice(b"NULL"),
            ValueRef::Array(inner) => write_array(element, inner, out)?,
            ValueRef::Unavailable
            | ValueRef::Bool(_)
            | ValueRef::Int(_)
            | ValueRef::Float32(_)
            | ValueRef::Float64(_)
            | ValueRef::Str(_)
            | ValueRef::Bytes(_)
            | ValueRef::Hex(_)
            | ValueRef::Decimal(_)
            | ValueRef::ZonedMicros(_)
            | ValueRef::Struct(_)
            | ValueRef::Map(_) => {
                text.clear();
                write_text(element, item, &mut text)?;
                out.push(b'"');
                for byte in &text {
                    if matches!(byte, b'"' | b'\\') {
                        out.push(b'\\');
                    }
                    out.push(*byte);
                }
                out.push(b'"');
            }
        }
    }
    out.push(b'}');
    Ok(())
}

/// More bits than any `bit(n)` column of practice; a longer `length` says "no limit".
const BITS_LENGTH_MAX: usize = 1 << 20;

/// Little-endian bytes as digits, most significant first; as many as the schema's `length` says.
fn write_bits(schema: &Schema, bytes: &[u8], out: &mut Vec<u8>) {
    let declared = schema.parameter("length").and_then(|length| length.parse::<usize>().ok());
    let length = declared.filter(|&length| length <= BITS_LENGTH_MAX).unwrap_or(bytes.len() * 8);
    for bit in (0..length).rev() {
        let byte = bytes.get(bit / 8).copied().unwrap_or(0);
        out.push(b'0' + (byte >> (bit % 8) & 1));
    }
}

fn double(value: &ValueRef<'_>) -> Result<f64, RecordError> {
    if let ValueRef::Float32(number) = value {
        return Ok(f64::from(*number));
    }
    let ValueRef::Float64(number) = value else { return Err(mismatch("a float")) };
    Ok(*number)
}

fn int(value: &ValueRef<'_>) -> Result<i64, RecordError> {
    value.as_int().ok_or_else(|| mismatch("an integer"))
}

fn narrow<T: TryFrom<i64>>(number: i64) -> Result<T, RecordError> {
    T::try_from(number).map_err(|_| out_of_range())
}

fn mismatch(expected: &str) -> RecordError {
    RecordError::value("VALUE_TYPE_MISMATCH", format!("expected {expected}, as the schema says"))
}

fn out_of_range() -> RecordError {
    RecordError::value("VALUE_OUT_OF_RANGE", "the number is out of the range of the column's type")
}
