//! Values of the stream: the server's storage form.

use std::{
    borrow::Cow,
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use rowstream_api::{RecordError, ValueRef};

use super::{Kind, charset::Charset, decimal, json, temporal};
use crate::wire::{big_endian, compressed, little_endian};

/// The bytes are not a value of the column's type.
#[must_use]
pub fn malformed(expected: &str) -> RecordError {
    RecordError::value("VALUE_MALFORMED", format!("the bytes are not {expected}"))
}

/// A text in its charset.
///
/// # Errors
/// The bytes are not valid in it.
pub fn text(bytes: &[u8], charset: Charset) -> Result<ValueRef<'_>, RecordError> {
    let text = charset.decode(bytes).map_err(|_| malformed(&format!("valid {}", charset.name())))?;
    Ok(ValueRef::Str(text))
}

/// A number of at most eight bytes with its sign.
fn sign_extended(bytes: &[u8]) -> i64 {
    let unused = 64 - 8 * u32::try_from(bytes.len().min(8)).unwrap_or(8);
    if unused == 64 { 0 } else { (little_endian(bytes) << unused).cast_signed() >> unused }
}

/// The label of an ENUM's number; 0 is the empty text that an invalid value became.
///
/// # Errors
/// There is no such label.
pub fn label(labels: &[String], number: u64) -> Result<ValueRef<'_>, RecordError> {
    let Some(index) = usize::try_from(number).unwrap_or(usize::MAX).checked_sub(1) else {
        return Ok(ValueRef::str(""));
    };
    labels.get(index).map(|label| ValueRef::str(label)).ok_or_else(|| malformed("one of the column's labels"))
}

/// The labels of a SET's bits.
#[must_use]
pub fn labels_of(labels: &[String], bits: u64) -> String {
    let set = labels.iter().enumerate().filter(|(index, _)| *index < 64 && bits >> index & 1 == 1);
    set.map(|(_, label)| label.as_str()).collect::<Vec<_>>().join(",")
}

/// Reads a value.
///
/// # Errors
/// The bytes are not a value of the kind, or the value is refused.
pub fn parse<'a>(kind: &'a Kind, bytes: &'a [u8]) -> Result<ValueRef<'a>, RecordError> {
    Ok(match kind {
        Kind::Int => ValueRef::Int(sign_extended(bytes)),
        Kind::Unsigned => ValueRef::Int(little_endian(bytes).cast_signed()),
        Kind::UnsignedDecimal => ValueRef::Decimal(little_endian(bytes).to_string().into()),
        Kind::Float32 => ValueRef::Float32(f32::from_le_bytes(exactly(bytes)?)),
        Kind::Float64 => ValueRef::Float64(f64::from_le_bytes(exactly(bytes)?)),
        Kind::Decimal { precision, scale } => {
            let text = decimal::text(bytes, *precision, *scale).ok_or_else(|| malformed("a decimal"))?;
            ValueRef::Decimal(text.into())
        }
        Kind::Bit => ValueRef::Bool(big_endian(bytes) & 1 == 1),
        Kind::Bits => ValueRef::Bytes(Cow::Owned(bytes.iter().rev().copied().collect())),
        Kind::Year => ValueRef::Int(match exactly(bytes)? {
            [0] => 0,
            [year] => 1900 + i64::from(year),
        }),
        Kind::Date(zero) => temporal::number_or_zero(temporal::date(bytes).days(), *zero)?,
        Kind::Time { old: true, .. } => ValueRef::Int(temporal::old_time(bytes)),
        Kind::Time { old: false, .. } => ValueRef::Int(temporal::time(bytes)?),
        Kind::Datetime { digits, old, zero } => {
            let parts = if *old { temporal::old_datetime(bytes) } else { temporal::datetime(bytes)? };
            datetime(parts, *digits, *zero)?
        }
        Kind::Timestamp { digits, old, zero } => {
            temporal::zoned_or_zero(temporal::timestamp(bytes, *old)?, *digits, *zero)?
        }
        Kind::Text { charset, compressed: false } => text(bytes, *charset)?,
        Kind::Text { charset, compressed: true } => {
            let unpacked = unpack(bytes)?;
            let text =
                charset.decode(&unpacked).map_err(|_| malformed(&format!("valid {}", charset.name())))?;
            ValueRef::Str(Cow::Owned(text.into_owned()))
        }
        Kind::Bytes { compressed: true, .. } => ValueRef::Bytes(Cow::Owned(unpack(bytes)?)),
        Kind::Bytes { padded: Some(length), .. } if bytes.len() < *length => {
            ValueRef::Bytes(Cow::Owned(padded(bytes, *length)))
        }
        Kind::Bytes { .. } => ValueRef::bytes(bytes),
        Kind::Enum(labels) => label(labels, little_endian(bytes))?,
        Kind::Set(labels) => ValueRef::Str(labels_of(labels, little_endian(bytes)).into()),
        Kind::Json => ValueRef::Str(json::text(bytes).map_err(|_| malformed("JSON"))?.into()),
        Kind::JsonText => text(bytes, Charset::Utf8)?,
        Kind::Geometry => geometry(bytes)?,
        Kind::Point => point(bytes)?,
        Kind::Vector => vector(bytes)?,
        Kind::Uuid => ValueRef::Str(uuid(&padded(bytes, 16))?.into()),
        Kind::Inet4 => {
            let address: [u8; 4] = exactly(&padded(bytes, 4))?;
            ValueRef::Str(Ipv4Addr::from(address).to_string().into())
        }
        Kind::Inet6 => {
            let address: [u8; 16] = exactly(&padded(bytes, 16))?;
            ValueRef::Str(inet6(Ipv6Addr::from(address)).into())
        }
    })
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], RecordError> {
    bytes.try_into().map_err(|_| malformed("as long as the column's type"))
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, RecordError> {
    compressed::unpack_column(bytes).map_err(|_| malformed("a compressed value"))
}

/// The server leaves trailing zeros out.
fn padded(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    whole.resize(length.max(bytes.len()), 0);
    whole
}

/// A DATETIME: milliseconds up to three digits, else microseconds.
///
/// # Errors
/// Zero dates are refused.
pub fn datetime<'a>(
    parts: temporal::Parts,
    digits: usize,
    zero: super::Zero,
) -> Result<ValueRef<'a>, RecordError> {
    let micros = parts.micros();
    let number = if digits <= 3 { micros.map(|n| n.div_euclid(1000)) } else { micros };
    temporal::number_or_zero(number, zero)
}

/// SRID (0 is none) and well-known binary.
///
/// # Errors
/// Too few bytes.
pub fn geometry(bytes: &[u8]) -> Result<ValueRef<'_>, RecordError> {
    let (srid, wkb) = with_srid(bytes)?;
    Ok(ValueRef::Struct(vec![ValueRef::bytes(wkb), srid]))
}

fn with_srid(bytes: &[u8]) -> Result<(ValueRef<'_>, &[u8]), RecordError> {
    let (srid, wkb) = bytes.split_first_chunk::<4>().ok_or_else(|| malformed("a geometry"))?;
    let srid = match u32::from_le_bytes(*srid) {
        0 => ValueRef::Null,
        srid => ValueRef::Int(srid.into()),
    };
    Ok((srid, wkb))
}

/// SRID, and a point's well-known binary: order of bytes, kind, x, y.
///
/// # Errors
/// Not a point.
pub fn point(bytes: &[u8]) -> Result<ValueRef<'_>, RecordError> {
    let (srid, wkb) = with_srid(bytes)?;
    let wrong = || malformed("a point");
    let (head, coordinates) = wkb.split_first_chunk::<5>().ok_or_else(wrong)?;
    let (x, y) = coordinates.split_first_chunk::<8>().ok_or_else(wrong)?;
    let y = y.first_chunk::<8>().ok_or_else(wrong)?;
    let number = |bytes: &[u8; 8]| {
        if head.first() == Some(&1) { f64::from_le_bytes(*bytes) } else { f64::from_be_bytes(*bytes) }
    };
    Ok(ValueRef::Struct(vec![
        ValueRef::Float64(number(x)),
        ValueRef::Float64(number(y)),
        ValueRef::bytes(wkb),
        srid,
    ]))
}

/// Floats of four bytes.
///
/// # Errors
/// Not a multiple of four bytes.
pub fn vector(bytes: &[u8]) -> Result<ValueRef<'_>, RecordError> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(malformed("a vector"));
    }
    Ok(ValueRef::Array(chunks.iter().map(|chunk| ValueRef::Float32(f32::from_le_bytes(*chunk))).collect()))
}

/// Sixteen bytes in the order in which they are written.
fn uuid(bytes: &[u8]) -> Result<String, RecordError> {
    let bytes: [u8; 16] = exactly(bytes)?;
    let mut out = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        // Writing to a String can't fail.
        let _ok = write!(out, "{byte:02x}");
    }
    Ok(out)
}

/// As the server prints it: IPv4 in the last four bytes where they are mapped or compatible.
fn inet6(address: Ipv6Addr) -> String {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            format!("::{}", Ipv4Addr::new(a, b, c, d))
        }
        _ => address.to_string(),
    }
}
