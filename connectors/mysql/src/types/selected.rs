//! Values of the snapshot: what the binary protocol answers, with texts in their columns' own charsets.
//!
//! Only numbers, dates and times differ from the stream's form; texts, bytes, geometries and vectors are the same bytes.

use std::borrow::Cow;

use mysql_async::Value;
use rowstream_api::{RecordError, ValueRef};

use super::{
    Kind,
    image::{self, datetime, malformed},
    temporal::{self, Parts},
};
use crate::wire::Cursor;

/// Appends a value's bytes in the form that [`parse`] reads; `false` for NULL.
pub fn put(value: &Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::NULL => return false,
        Value::Bytes(bytes) => out.extend_from_slice(bytes),
        Value::Int(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::UInt(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::Float(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::Double(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            out.extend_from_slice(&year.to_le_bytes());
            out.extend_from_slice(&[*month, *day, *hour, *minute, *second]);
            out.extend_from_slice(&micros.to_le_bytes());
        }
        Value::Time(negative, days, hours, minutes, seconds, micros) => {
            let hours = i64::from(*days) * 24 + i64::from(*hours);
            let total = ((hours * 60 + i64::from(*minutes)) * 60 + i64::from(*seconds)) * 1_000_000
                + i64::from(*micros);
            out.extend_from_slice(&if *negative { -total } else { total }.to_le_bytes());
        }
    }
    true
}

fn number(bytes: &[u8]) -> Result<i64, RecordError> {
    bytes.try_into().map(i64::from_le_bytes).map_err(|_| malformed("a number"))
}

fn parts(bytes: &[u8]) -> Result<Parts, RecordError> {
    let mut cursor = Cursor::new(bytes, "a date");
    let mut read = || -> Result<Parts, crate::wire::DecodeError> {
        let (year, month, day) = (cursor.u16()?, cursor.u8()?, cursor.u8()?);
        let (hour, minute, second) = (cursor.u8()?, cursor.u8()?, cursor.u8()?);
        let seconds = (i64::from(hour) * 60 + i64::from(minute)) * 60 + i64::from(second);
        let micros = seconds * 1_000_000 + i64::from(cursor.u32()?);
        Ok(Parts { year: year.into(), month: month.into(), day: day.into(), micros })
    };
    read().map_err(|_| malformed("a date"))
}

fn ascii(bytes: &[u8]) -> Result<&str, RecordError> {
    std::str::from_utf8(bytes).map_err(|_| malformed("text"))
}

/// Reads a value.
///
/// # Errors
/// The bytes are not a value of the kind, or the value is refused.
pub fn parse<'a>(kind: &'a Kind, bytes: &'a [u8]) -> Result<ValueRef<'a>, RecordError> {
    Ok(match kind {
        Kind::Int | Kind::Unsigned | Kind::Year => ValueRef::Int(number(bytes)?),
        Kind::UnsignedDecimal => ValueRef::Decimal(number(bytes)?.cast_unsigned().to_string().into()),
        Kind::Float32 if bytes.len() == 4 => image::parse(kind, bytes)?,
        #[expect(clippy::cast_possible_truncation, reason = "the column is a FLOAT: the value is one")]
        Kind::Float32 => ValueRef::Float32(f64::from_bits(number(bytes)?.cast_unsigned()) as f32),
        Kind::Decimal { .. } => ValueRef::Decimal(Cow::Borrowed(ascii(bytes)?)),
        Kind::Date(zero) => temporal::number_or_zero(parts(bytes)?.days(), *zero)?,
        Kind::Time { .. } => ValueRef::Int(number(bytes)?),
        Kind::Datetime { digits, zero, .. } => datetime(parts(bytes)?, *digits, *zero)?,
        // The session's time zone is UTC.
        Kind::Timestamp { digits, zero, .. } => {
            temporal::zoned_or_zero(parts(bytes)?.micros(), *digits, *zero)?
        }
        Kind::Text { charset, .. } => image::text(bytes, *charset)?,
        Kind::Enum(labels) => image::label(labels, number(bytes)?.cast_unsigned())?,
        Kind::Set(labels) => ValueRef::Str(image::labels_of(labels, number(bytes)?.cast_unsigned()).into()),
        Kind::Json | Kind::Uuid | Kind::Inet4 | Kind::Inet6 => ValueRef::str(ascii(bytes)?),
        Kind::Bytes { .. } => ValueRef::bytes(bytes),
        Kind::Float64
        | Kind::Bit
        | Kind::Bits
        | Kind::JsonText
        | Kind::Geometry
        | Kind::Point
        | Kind::Vector => image::parse(kind, bytes)?,
    })
}
