//! One value into an element of a row, and an element into a statement's parameter.
//!
//! Numbers go as themselves, everything else as text or bytes that the server reads. Elements of equal values are equal bytes, so
//! that they serve as keys.

use mysql_async::Value;
use rowstream_api::{
    RecordError, Schema, Semantic, ValueRef, calendar::parse_instant, json::write_json,
    table_sink::rows::push_element, text::write_decimal,
};

use super::{
    temporal,
    types::{Limit, Wire, bits_length},
};

/// Appends one element: length, then bytes.
///
/// # Errors
/// The value is not of the schema, or the column would not hold it unchanged.
pub(crate) fn encode(
    wire: Wire,
    schema: &Schema,
    value: &ValueRef<'_>,
    out: &mut Vec<u8>,
) -> Result<(), RecordError> {
    push_element(value, out, |out| body(wire, schema, value, out))
}

/// The parameter for an element's bytes.
pub(crate) fn parameter(wire: Wire, bytes: &[u8]) -> Value {
    match (wire, bytes.first_chunk::<8>(), bytes.first_chunk::<4>()) {
        (Wire::Int, Some(number), _) => Value::Int(i64::from_be_bytes(*number)),
        (Wire::Bits, Some(number), _) => Value::UInt(u64::from_be_bytes(*number)),
        (Wire::Double, Some(number), _) => Value::Double(f64::from_be_bytes(*number)),
        (Wire::Float, _, Some(number)) => Value::Float(f32::from_be_bytes(*number)),
        _ => Value::Bytes(bytes.to_vec()),
    }
}

fn body(wire: Wire, schema: &Schema, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match wire {
        Wire::Int => {
            let number = if let ValueRef::Bool(flag) = value { i64::from(*flag) } else { int(value)? };
            out.extend_from_slice(&number.to_be_bytes());
            Ok(())
        }
        Wire::Float => {
            let ValueRef::Float32(number) = value else { return Err(mismatch("a 32-bit float")) };
            finite(f64::from(*number))?;
            out.extend_from_slice(&number.to_be_bytes());
            Ok(())
        }
        Wire::Double => {
            out.extend_from_slice(&finite(double(value)?)?.to_be_bytes());
            Ok(())
        }
        Wire::Decimal { scale } => decimal(schema, value, scale, out),
        Wire::Text(limit) => {
            let start = out.len();
            write_text(schema, value, out)?;
            within(limit, out.get(start..).unwrap_or_default())
        }
        Wire::Char { key } => {
            let start = out.len();
            write_text(schema, value, out)?;
            let kept = out.iter().rposition(|byte| *byte != b' ').map_or(start, |last| start.max(last + 1));
            if key && kept < out.len() {
                let message =
                    "a key ends in spaces, which a CHAR column does not keep: two keys could become one";
                return Err(RecordError::value("KEY_PADDED", message));
            }
            out.truncate(kept);
            Ok(())
        }
        Wire::Bytes | Wire::FixedBytes(_) => bytes(wire, value, out),
        Wire::Date => temporal::write_date(int(value)?, out),
        Wire::Time { digits } => temporal::write_time(micros(schema, value)?, digits, out),
        Wire::Timestamp { digits } => temporal::write_timestamp(micros(schema, value)?, digits, out),
        Wire::Bits => {
            let ValueRef::Bytes(bytes) = value else { return Err(mismatch("bits")) };
            out.extend_from_slice(&little_endian(bytes).ok_or_else(out_of_range)?.to_be_bytes());
            Ok(())
        }
        Wire::Geometry => geometry(value, out),
    }
}

fn finite(number: f64) -> Result<f64, RecordError> {
    if number.is_finite() {
        return Ok(number);
    }
    let message = "NaN and infinities have no place in the column's type";
    Err(RecordError::value("VALUE_OUT_OF_RANGE", message))
}

/// What is longer only by spaces at its end would be cut in silence, the rest by an error; here both are errors.
fn within(limit: Limit, text: &[u8]) -> Result<(), RecordError> {
    let (length, max) = match limit {
        Limit::None => return Ok(()),
        // Bytes that continue a character do not count.
        Limit::Chars(max) if text.len() > max => {
            (text.iter().filter(|byte| (**byte & 0xc0) != 0x80).count(), max)
        }
        Limit::Chars(max) | Limit::Bytes(max) => (text.len(), max),
    };
    if length <= max {
        return Ok(());
    }
    let message = format!("a text of {length} is longer than the {max} that the column holds");
    Err(RecordError::value("VALUE_TOO_LONG", message))
}

fn bytes(wire: Wire, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let ValueRef::Bytes(bytes) = value else { return Err(mismatch("bytes")) };
    if let Wire::FixedBytes(length) = wire
        && bytes.len() != length
    {
        let message = format!("{} bytes for a BINARY column, which would be padded to {length}", bytes.len());
        return Err(RecordError::value("VALUE_LENGTH", message));
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Digits without those that the column does not keep, which must be zeros.
fn decimal(schema: &Schema, value: &ValueRef<'_>, scale: i32, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let start = out.len();
    write_text(schema, value, out)?;
    let text = out.get(start..).unwrap_or_default();
    let Some(point) = text.iter().position(|byte| *byte == b'.') else { return Ok(()) };
    let kept = point + 1 + usize::try_from(scale).unwrap_or(0);
    let beyond = text.get(kept..).unwrap_or_default();
    if beyond.iter().any(|digit| *digit != b'0') {
        let message =
            format!("the decimal has more than the {scale} digits behind the point that the column keeps");
        return Err(RecordError::value("VALUE_PRECISION", message));
    }
    let end = if scale == 0 { point } else { kept.min(text.len()) };
    out.truncate(start + end);
    Ok(())
}

/// Microseconds of every time and timestamp form.
fn micros(schema: &Schema, value: &ValueRef<'_>) -> Result<i64, RecordError> {
    match (schema.semantic(), value) {
        (_, ValueRef::ZonedMicros(micros)) => Ok(*micros),
        (Semantic::ZonedTimestamp, ValueRef::Str(text)) => {
            parse_instant(text).ok_or_else(|| mismatch("an ISO 8601 instant such as `2026-01-02T03:04:05Z`"))
        }
        (Semantic::TimeMillis | Semantic::TimestampMillis, ValueRef::Int(millis)) => {
            millis.checked_mul(1000).ok_or_else(out_of_range)
        }
        (_, value) => int(value),
    }
}

fn write_text(schema: &Schema, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match (schema.semantic(), value) {
        (Semantic::Decimal { scale }, ValueRef::Bytes(bytes)) => write_decimal(bytes, scale, out),
        (Semantic::VariableScaleDecimal, ValueRef::Struct(parts)) => match parts.as_slice() {
            [ValueRef::Int(scale), ValueRef::Bytes(bytes)] => {
                write_decimal(bytes, i32::try_from(*scale).map_err(|_| out_of_range())?, out)
            }
            _ => Err(mismatch("scale and value of a decimal")),
        },
        (Semantic::Bits, ValueRef::Bytes(bytes)) => {
            write_bits(schema, bytes, out);
            Ok(())
        }
        (_, ValueRef::Str(text) | ValueRef::Decimal(text)) => {
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
        (_, ValueRef::Array(_) | ValueRef::Struct(_) | ValueRef::Map(_)) => write_json(schema, value, out),
        _ => Err(mismatch("text")),
    }
}

/// More bits than any `bit(n)` column of practice; a longer `length` says "no limit".
const BITS_LENGTH_MAX: usize = 1 << 20;

/// Little-endian bytes as digits, most significant first; as many as the schema's `length` says.
fn write_bits(schema: &Schema, bytes: &[u8], out: &mut Vec<u8>) {
    let declared = bits_length(schema).filter(|&length| length <= BITS_LENGTH_MAX);
    for bit in (0..declared.unwrap_or(bytes.len() * 8)).rev() {
        let byte = bytes.get(bit / 8).copied().unwrap_or(0);
        out.push(b'0' + (byte >> (bit % 8) & 1));
    }
}

/// At most eight bytes, or zeros beyond.
fn little_endian(bytes: &[u8]) -> Option<u64> {
    let (low, high) = bytes.split_at_checked(8).unwrap_or((bytes, &[]));
    let number = low.iter().rev().fold(0, |number: u64, byte| (number << 8) | u64::from(*byte));
    high.iter().all(|byte| *byte == 0).then_some(number)
}

/// Debezium's `Point` (x, y, wkb, srid) and `Geometry` (wkb, srid). PostgreSQL's own `point` has no WKB.
fn geometry(value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let expected = || mismatch("a Point or a Geometry");
    let parts = value.as_struct().ok_or_else(expected)?;
    let (coordinates, wkb, srid) = match parts {
        [ValueRef::Float64(x), ValueRef::Float64(y), wkb, srid] => (Some((*x, *y)), wkb, srid),
        [wkb, srid] => (None, wkb, srid),
        _ => return Err(expected()),
    };
    let srid = srid.as_int().map_or(Ok(0), |srid| u32::try_from(srid).map_err(|_| out_of_range()))?;
    out.extend_from_slice(&srid.to_le_bytes());
    match (wkb, coordinates) {
        (ValueRef::Bytes(wkb), _) => out.extend_from_slice(wkb),
        (_, Some((x, y))) => {
            out.extend_from_slice(&[1, 1, 0, 0, 0]); // Little-endian, a point.
            out.extend_from_slice(&finite(x)?.to_le_bytes());
            out.extend_from_slice(&finite(y)?.to_le_bytes());
        }
        (_, None) => return Err(expected()),
    }
    Ok(())
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

fn mismatch(expected: &str) -> RecordError {
    RecordError::value("VALUE_TYPE_MISMATCH", format!("expected {expected}, as the schema says"))
}

fn out_of_range() -> RecordError {
    RecordError::value("VALUE_OUT_OF_RANGE", "the number is out of the range of the column's type")
}
