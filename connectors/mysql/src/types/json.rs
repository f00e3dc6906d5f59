//! MySQL's binary JSON to the text that the server itself would write, so that a row reads the same from the snapshot, where the
//! server writes the text, and from the stream (json_binary.h, json_dom.cc).

use std::fmt::Write as _;

use super::decimal;
use crate::wire::{Cursor, DecodeError};

const WHAT: &str = "a JSON value";
/// The server's own limit (`JSON_DOCUMENT_MAX_DEPTH`).
const DEPTH_MAX: usize = 100;
const CUT: DecodeError = DecodeError::Truncated(WHAT);
const WRONG: DecodeError = DecodeError::Malformed(WHAT);

/// The document's text.
///
/// # Errors
/// Malformed bytes.
pub fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    // What an empty value means after an INSERT IGNORE of a NULL.
    let Some((ty, body)) = bytes.split_first() else { return Ok("null".to_owned()) };
    let mut writer =
        Writer { out: String::with_capacity(bytes.len() + bytes.len() / 4), left: bytes.len() * 16 + 64 };
    writer.value(*ty, body, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    /// Values that may still be written: offsets can point anywhere, so that a few bytes could mean any number of values.
    left: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

impl Size {
    fn bytes(self) -> usize {
        match self {
            Self::Small => 2,
            Self::Large => 4,
        }
    }
}

impl Writer {
    fn value(&mut self, ty: u8, body: &[u8], depth: usize) -> Result<(), DecodeError> {
        self.left = self.left.checked_sub(1).ok_or(WRONG)?;
        if depth > DEPTH_MAX {
            return Err(WRONG);
        }
        let mut cursor = Cursor::new(body, WHAT);
        match ty {
            0 => self.container(body, Size::Small, true, depth),
            1 => self.container(body, Size::Large, true, depth),
            2 => self.container(body, Size::Small, false, depth),
            3 => self.container(body, Size::Large, false, depth),
            4 => self.literal(cursor.u8()?),
            5 => self.number(cursor.u16()?.cast_signed()),
            6 => self.number(cursor.u16()?),
            7 => self.number(cursor.u32()?.cast_signed()),
            8 => self.number(cursor.u32()?),
            9 => self.number(cursor.u64()?.cast_signed()),
            10 => self.number(cursor.u64()?),
            11 => {
                double(f64::from_bits(cursor.u64()?), &mut self.out);
                Ok(())
            }
            12 => {
                let length = length(&mut cursor)?;
                let text = std::str::from_utf8(cursor.take(length)?).map_err(|_| WRONG)?;
                quote(text, &mut self.out);
                Ok(())
            }
            15 => {
                let field = cursor.u8()?;
                let length = length(&mut cursor)?;
                self.opaque(field, cursor.take(length)?)
            }
            _ => Err(WRONG),
        }
    }

    fn number(&mut self, number: impl std::fmt::Display) -> Result<(), DecodeError> {
        write!(self.out, "{number}").map_err(|_| WRONG)
    }

    fn literal(&mut self, literal: u8) -> Result<(), DecodeError> {
        self.out.push_str(match literal {
            0 => "null",
            1 => "true",
            2 => "false",
            _ => return Err(WRONG),
        });
        Ok(())
    }

    /// Count, size, then for objects offset and length of each key, then type and offset (or the value itself) of each value.
    fn container(&mut self, body: &[u8], size: Size, object: bool, depth: usize) -> Result<(), DecodeError> {
        let mut cursor = Cursor::new(body, WHAT);
        let width = size.bytes();
        let read = |cursor: &mut Cursor<'_>| usize::try_from(cursor.uint(width)?).map_err(|_| WRONG);
        let count = read(&mut cursor)?;
        let bytes = read(&mut cursor)?;
        let body = body.get(..bytes).ok_or(CUT)?;
        let key_bytes = if object { width + 2 } else { 0 };
        let keys = cursor.take(count.checked_mul(key_bytes).ok_or(WRONG)?)?;
        let mut keys = Cursor::new(keys, WHAT);
        self.out.push(if object { '{' } else { '[' });
        for index in 0..count {
            if index > 0 {
                self.out.push_str(", ");
            }
            if object {
                let at = read(&mut keys)?;
                let length = usize::from(keys.u16()?);
                let key = body.get(at..).and_then(|rest| rest.get(..length)).ok_or(CUT)?;
                quote(std::str::from_utf8(key).map_err(|_| WRONG)?, &mut self.out);
                self.out.push_str(": ");
            }
            let ty = cursor.u8()?;
            let inlined = matches!(ty, 4..=6) || (size == Size::Large && matches!(ty, 7 | 8));
            if inlined {
                self.value(ty, cursor.take(width)?, depth + 1)?;
            } else {
                let at = read(&mut cursor)?;
                self.value(ty, body.get(at..).ok_or(CUT)?, depth + 1)?;
            }
        }
        self.out.push(if object { '}' } else { ']' });
        Ok(())
    }

    /// A value of a column's type that JSON does not have.
    fn opaque(&mut self, field: u8, bytes: &[u8]) -> Result<(), DecodeError> {
        use crate::wire::table_map::column::{DATE, DATETIME, NEWDECIMAL, TIME, TIMESTAMP};
        match field {
            NEWDECIMAL => {
                let (head, digits) = bytes.split_first_chunk::<2>().ok_or(CUT)?;
                let [precision, scale] = head.map(usize::from);
                self.out.push_str(&decimal::text(digits, precision, scale).ok_or(WRONG)?);
                Ok(())
            }
            DATE | DATETIME | TIMESTAMP | TIME => {
                let packed = i64::from_le_bytes(*bytes.first_chunk::<8>().ok_or(CUT)?);
                self.out.push('"');
                moment(field, packed, &mut self.out)?;
                self.out.push('"');
                Ok(())
            }
            _ => {
                write!(self.out, "\"base64:type{field}:").map_err(|_| WRONG)?;
                base64(bytes, &mut self.out);
                self.out.push('"');
                Ok(())
            }
        }
    }
}

/// Seven bits a byte, the lowest first.
fn length(cursor: &mut Cursor<'_>) -> Result<usize, DecodeError> {
    let mut length = 0_usize;
    for shift in [0, 7, 14, 21, 28] {
        let byte = cursor.u8()?;
        length |= usize::from(byte & 0x7f).checked_shl(shift).ok_or(WRONG)?;
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(WRONG)
}

/// A date or time in the server's packed form, with six digits.
fn moment(field: u8, packed: i64, out: &mut String) -> Result<(), DecodeError> {
    use crate::wire::table_map::column::{DATE, TIME};
    let sign = if packed < 0 { "-" } else { "" };
    let packed = packed.checked_abs().ok_or(WRONG)?;
    let (whole, micros) = (packed >> 24, packed & 0xff_ffff);
    let (hours, minutes, seconds) = (whole >> 12, whole >> 6 & 63, whole & 63);
    let written = if field == TIME {
        write!(out, "{sign}{:02}:{minutes:02}:{seconds:02}.{micros:06}", hours & 0x3ff)
    } else {
        let (date, hours) = (whole >> 17, hours & 31);
        let (year, month, day) = ((date >> 5) / 13, (date >> 5) % 13, date & 31);
        let date_only = field == DATE;
        write!(out, "{year:04}-{month:02}-{day:02}").and_then(|()| {
            if date_only { Ok(()) } else { write!(out, " {hours:02}:{minutes:02}:{seconds:02}.{micros:06}") }
        })
    };
    written.map_err(|_| WRONG)
}

/// The server's `double_quote`.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                // Writing to a String can't fail.
                let _ok = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `my_gcvt`: plain digits while the point is at most 15 places to the right of the first digit or 14 to its left, else with
/// an exponent; `.0` behind what would read as an integer.
pub(super) fn double(number: f64, out: &mut String) {
    /// DBL_DIG
    const PLAIN_MAX: i32 = 15;
    let shortest = format!("{number:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let point = exponent + 1;
    if (-PLAIN_MAX + 1..=PLAIN_MAX).contains(&point) {
        // Rust's own plain form has the same digits: the shortest that read back.
        let _ok = write!(out, "{number}");
        if number.fract() == 0.0 {
            out.push_str(".0");
        }
    } else {
        let _ok = write!(out, "{digits}e{exponent}");
    }
}

fn base64(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let mut group = chunk.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b));
        group <<= 8 * (3 - chunk.len());
        for index in 0..4 {
            let digit = DIGITS.get((group >> (18 - 6 * index) & 63) as usize).copied().unwrap_or(b'=');
            out.push(if index <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_as_the_server_writes_them() {
        for (number, expected) in [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (1e14, "100000000000000.0"),
            (1e15, "1e15"),
            (1.5e300, "1.5e300"),
            (1e-7, "0.0000001"),
            (1.234_567_890_123_456_7e19, "1.2345678901234567e19"),
            (0.1, "0.1"),
            (1e-20, "1e-20"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
        ] {
            let mut out = String::new();
            double(number, &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, expected) in [(&b"a"[..], "YQ=="), (b"ab", "YWI="), (b"abc", "YWJj"), (b"", "")] {
            let mut out = String::new();
            base64(bytes, &mut out);
            assert_eq!(out, expected);
        }
    }
}
