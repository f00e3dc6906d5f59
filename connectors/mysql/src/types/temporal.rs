//! Dates and times in the server's storage forms and in the binary protocol's.

use rowstream_api::{RecordError, ValueRef, calendar::days_from_civil, text::write_zoned_micros};

use super::{Zero, image::malformed};
use crate::wire::{big_endian, little_endian};

const SECOND_US: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// A date and time as its parts; zeros and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// Year.
    pub year: i64,
    /// Month.
    pub month: i64,
    /// Day.
    pub day: i64,
    /// Microseconds since midnight.
    pub micros: i64,
}

impl Parts {
    /// Days since 1970-01-01; `None` for a zero date.
    #[must_use]
    pub fn days(self) -> Option<i64> {
        let real = self.month >= 1 && self.month <= 12 && self.day >= 1 && self.day <= 31 && self.year >= 0;
        real.then(|| days_from_civil(self.year, self.month, self.day))
    }

    /// Microseconds since 1970-01-01; `None` for a zero date.
    #[must_use]
    pub fn micros(self) -> Option<i64> {
        self.days()?.checked_mul(DAY_SECONDS * SECOND_US)?.checked_add(self.micros)
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn clock(hours: i64, minutes: i64, seconds: i64) -> i64 {
    ((hours * 60 + minutes) * 60 + seconds) * SECOND_US
}

/// Microseconds of a second's digits, which take one byte for two.
fn fraction(bytes: &[u8]) -> i64 {
    let scale = [1_000_000, 10_000, 100, 1];
    signed(big_endian(bytes)) * scale.get(bytes.len()).copied().unwrap_or(1)
}

/// DATE: three bytes of year, month and day in 15, 4 and 5 bits.
#[must_use]
pub fn date(bytes: &[u8]) -> Parts {
    let packed = signed(little_endian(bytes.get(..3).unwrap_or_default()));
    Parts { year: packed >> 9, month: packed >> 5 & 15, day: packed & 31, micros: 0 }
}

/// DATETIME since 5.6: five bytes and the digits of the second.
///
/// # Errors
/// Too few bytes.
pub fn datetime(bytes: &[u8]) -> Result<Parts, RecordError> {
    let whole = bytes.split_first_chunk::<5>().filter(|(_, digits)| digits.len() <= 3);
    let (whole, digits) = whole.ok_or_else(|| malformed("a date and time"))?;
    let packed = signed(big_endian(whole)) - (1 << 39);
    let (date, time) = (packed >> 17, packed & 0x1ffff);
    Ok(Parts {
        year: (date >> 5) / 13,
        month: (date >> 5) % 13,
        day: date & 31,
        micros: clock(time >> 12, time >> 6 & 63, time & 63) + fraction(digits),
    })
}

/// DATETIME before 5.6: `YYYYMMDDhhmmss` as a number.
#[must_use]
pub fn old_datetime(bytes: &[u8]) -> Parts {
    let number = signed(little_endian(bytes.get(..8).unwrap_or_default()));
    let (date, time) = (number / 1_000_000, number % 1_000_000);
    Parts {
        year: date / 10_000,
        month: date / 100 % 100,
        day: date % 100,
        micros: clock(time / 10_000, time / 100 % 100, time % 100),
    }
}

/// TIME since 5.6: three bytes and the digits of the second, as one number with a sign. Microseconds, negative and beyond a
/// day as they are.
///
/// # Errors
/// Too few bytes.
pub fn time(bytes: &[u8]) -> Result<i64, RecordError> {
    let digits = bytes.len().checked_sub(3).filter(|n| *n <= 3).ok_or_else(|| malformed("a time"))?;
    let bits = bytes.len() * 8;
    let packed = signed(big_endian(bytes)) - (1 << (bits - 1));
    let (sign, packed) = (packed.signum(), packed.abs());
    let (time, rest) = (packed >> (digits * 8), packed & ((1 << (digits * 8)) - 1));
    let scale = [1_000_000, 10_000, 100, 1].get(digits).copied().unwrap_or(1);
    Ok(sign * (clock(time >> 12 & 0x3ff, time >> 6 & 63, time & 63) + rest * scale))
}

/// TIME before 5.6: `hhmmss` as a number with a sign.
#[must_use]
pub fn old_time(bytes: &[u8]) -> i64 {
    let number = signed(little_endian(bytes.get(..3).unwrap_or_default()));
    let number = if number >= 1 << 23 { number - (1 << 24) } else { number };
    let (sign, number) = (number.signum(), number.abs());
    sign * clock(number / 10_000, number / 100 % 100, number % 100)
}

/// TIMESTAMP: seconds since the epoch, and the digits of the second. `None` for the zero date.
///
/// # Errors
/// Too few bytes.
pub fn timestamp(bytes: &[u8], old: bool) -> Result<Option<i64>, RecordError> {
    let whole = bytes.split_first_chunk::<4>().filter(|(_, digits)| digits.len() <= 3);
    let (whole, digits) = whole.ok_or_else(|| malformed("a timestamp"))?;
    let seconds = signed(if old { little_endian(whole) } else { big_endian(whole) });
    let micros = seconds * SECOND_US + fraction(digits);
    Ok((micros != 0).then_some(micros))
}

/// A number of a date, or what stands for a zero date.
///
/// # Errors
/// Zero dates are refused.
pub fn number_or_zero<'a>(number: Option<i64>, zero: Zero) -> Result<ValueRef<'a>, RecordError> {
    match (number, zero) {
        (Some(number), _) => Ok(ValueRef::Int(number)),
        (None, Zero::Null) => Ok(ValueRef::Null),
        (None, Zero::Epoch) => Ok(ValueRef::Int(0)),
        (None, Zero::Refuse) => Err(refused()),
    }
}

/// An instant as text with the column's digits, or what stands for a zero date.
///
/// # Errors
/// Zero dates are refused.
pub fn zoned_or_zero<'a>(
    micros: Option<i64>,
    digits: usize,
    zero: Zero,
) -> Result<ValueRef<'a>, RecordError> {
    let micros = match (micros, zero) {
        (Some(micros), _) => micros,
        (None, Zero::Null) => return Ok(ValueRef::Null),
        (None, Zero::Epoch) => 0,
        (None, Zero::Refuse) => return Err(refused()),
    };
    let mut out = Vec::with_capacity(28);
    write_zoned_micros(micros, digits, &mut out);
    let text = String::from_utf8(out).map_err(|_| malformed("a timestamp"))?;
    Ok(ValueRef::Str(text.into()))
}

fn refused() -> RecordError {
    RecordError::value("ZERO_DATE", "the date has a year, month or day of 0, and types.zero_dates is `fail`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_forms() {
        // 2026-11-21 12:34:56.78 as DATETIME(2).
        let packed = ((2026 * 13 + 11) << 5 | 21_i64) << 17 | 12 << 12 | 34 << 6 | 56;
        let mut bytes = (packed + (1 << 39)).to_be_bytes()[3..].to_vec();
        bytes.push(78);
        let parts = datetime(&bytes).unwrap();
        assert_eq!((parts.year, parts.month, parts.day), (2026, 11, 21));
        assert_eq!(parts.micros, clock(12, 34, 56) + 780_000);
        assert_eq!(Parts::default().days(), None);
        assert_eq!(time(&[0x80, 0, 0]).unwrap(), 0);
        // -00:00:00.5 as TIME(1): the number before the digits is -1, the digits 0x100 - 50.
        assert_eq!(time(&[0x7f, 0xff, 0xff, 0xce]).unwrap(), -500_000);
        assert_eq!(time(&[0x7f, 0xff]).unwrap_err().code, "VALUE_MALFORMED");
        assert_eq!(date(&[0x6d, 0xe9, 0x0f]), Parts { year: 2036, month: 11, day: 13, micros: 0 });
    }
}
