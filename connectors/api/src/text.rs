//! The one text form of decimals and instants, shared by every encoder and sink, so that a value reads the same
//! wherever it arrives.
//!
//! Lengths stay bounded on any input: the scale of a decimal comes from outside and would otherwise choose how many
//! zeros are written.

use num_bigint::BigInt;

use crate::{calendar::civil_from_days, error::RecordError};

/// The largest scale written out, either sign: above PostgreSQL's 16,383 digits after and 131,072 before the point.
pub const DECIMAL_SCALE_MAX: i32 = 200_000;
/// The most bytes of an unscaled value: 150,000 digits, PostgreSQL's limit, take 62 KiB.
pub const DECIMAL_BYTES_MAX: usize = 64 * 1024;

const SECOND_US: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// Appends a decimal as plain digits (`-12.50`), all `scale` digits after the point; never an exponent. A negative
/// scale appends zeros. `unscaled` is two's complement, big-endian; no bytes at all count as zero.
///
/// # Errors
/// `VALUE_OUT_OF_RANGE` beyond [`DECIMAL_SCALE_MAX`] or [`DECIMAL_BYTES_MAX`]; `out` is untouched then.
pub fn write_decimal(unscaled: &[u8], scale: i32, out: &mut Vec<u8>) -> Result<(), RecordError> {
    if !(-DECIMAL_SCALE_MAX..=DECIMAL_SCALE_MAX).contains(&scale) {
        let message = format!("a decimal of scale {scale}, at most {DECIMAL_SCALE_MAX} is supported");
        return Err(RecordError::value("VALUE_OUT_OF_RANGE", message));
    }
    if unscaled.len() > DECIMAL_BYTES_MAX {
        let message = format!("a decimal of {} bytes, expected at most {DECIMAL_BYTES_MAX}", unscaled.len());
        return Err(RecordError::value("VALUE_OUT_OF_RANGE", message));
    }
    let (negative, digits) = match small_integer(unscaled) {
        Some(number) => (number < 0, number.unsigned_abs().to_string()),
        None => {
            let number = BigInt::from_signed_bytes_be(unscaled);
            (number.sign() == num_bigint::Sign::Minus, number.magnitude().to_string())
        }
    };
    if negative {
        out.push(b'-');
    }
    let zeros = |count: usize, out: &mut Vec<u8>| out.resize(out.len() + count, b'0');
    let magnitude = usize::try_from(scale.unsigned_abs()).unwrap_or(0);
    if scale <= 0 {
        out.extend_from_slice(digits.as_bytes());
        zeros(if digits == "0" { 0 } else { magnitude }, out);
        return Ok(());
    }
    match digits.as_bytes().split_at_checked(digits.len().saturating_sub(magnitude)) {
        Some((whole, fraction)) if !whole.is_empty() => {
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        Some(_) | None => {
            out.extend_from_slice(b"0.");
            zeros(magnitude - digits.len(), out);
            out.extend_from_slice(digits.as_bytes());
        }
    }
    Ok(())
}

/// Sign-extends up to sixteen bytes of two's complement.
fn small_integer(bytes: &[u8]) -> Option<i128> {
    if bytes.len() > 16 {
        return None;
    }
    let start = match bytes.first() {
        Some(first) if first & 0x80 != 0 => -1,
        Some(_) | None => 0,
    };
    Some(bytes.iter().fold(start, |number: i128, byte| (number << 8) | i128::from(*byte)))
}

/// Appends an instant as ISO 8601 in UTC, as Debezium's `ZonedTimestamp`: `2026-11-21T10:34:56.789123Z`. At least
/// `fraction_digits` (0 to 6) digits of the second are written, more while they are not zero. Years above 9999 carry
/// a `+`, years before 0 a `-`; year 0 is 1 BC. At most 31 bytes.
pub fn write_zoned_micros(micros: i64, fraction_digits: usize, out: &mut Vec<u8>) {
    let seconds = micros.div_euclid(SECOND_US);
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY_SECONDS));
    let second_of_day = seconds.rem_euclid(DAY_SECONDS);
    let date_and_time = [month, day, second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60];
    if let (0..=9999, 6) = (year, fraction_digits) {
        return push_common(year, date_and_time, micros.rem_euclid(SECOND_US), out);
    }
    if year < 0 {
        out.push(b'-');
    } else if year > 9999 {
        out.push(b'+');
    }
    let year = year.unsigned_abs();
    if year > 9999 {
        push_digits(year / 10_000, if year >= 100_000 { 2 } else { 1 }, out);
    }
    push_digits(year % 10_000, 4, out);
    out.push(b'-');
    let [month, day, hour, minute, second] = date_and_time.map(i64::unsigned_abs);
    for (number, separator) in [(month, b'-'), (day, b'T'), (hour, b':'), (minute, b':')] {
        push_digits(number, 2, out);
        out.push(separator);
    }
    push_digits(second, 2, out);
    let mut fraction = micros.rem_euclid(SECOND_US).unsigned_abs();
    let mut width = 6;
    while width > fraction_digits && fraction.is_multiple_of(10) {
        fraction /= 10;
        width -= 1;
    }
    if width > 0 {
        out.push(b'.');
        push_digits(fraction, width, out);
    }
    out.push(b'Z');
}

/// The form of nearly all instants, appended at once: four digits of the year, six of the fraction.
fn push_common(year: i64, [month, day, hour, minute, second]: [i64; 5], micros: i64, out: &mut Vec<u8>) {
    let tens = |number: i64| b'0' + (number.unsigned_abs() / 10 % 10) as u8;
    let ones = |number: i64| b'0' + (number.unsigned_abs() % 10) as u8;
    let (century, year) = (year / 100, year % 100);
    let (high, middle, low) = (micros / 10_000, micros / 100 % 100, micros % 100);
    out.extend_from_slice(&[
        tens(century),
        ones(century),
        tens(year),
        ones(year),
        b'-',
        tens(month),
        ones(month),
        b'-',
        tens(day),
        ones(day),
        b'T',
        tens(hour),
        ones(hour),
        b':',
        tens(minute),
        ones(minute),
        b':',
        tens(second),
        ones(second),
        b'.',
        tens(high),
        ones(high),
        tens(middle),
        ones(middle),
        tens(low),
        ones(low),
        b'Z',
    ]);
}

/// Appends the last `width` (at most 6) digits, with leading zeros.
fn push_digits(number: u64, width: usize, out: &mut Vec<u8>) {
    let divisors = [100_000, 10_000, 1000, 100, 10, 1];
    for divisor in divisors.iter().skip(divisors.len().saturating_sub(width)) {
        out.push(b'0' + (number / divisor % 10) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(unscaled: &[u8], scale: i32) -> String {
        let mut out = Vec::new();
        write_decimal(unscaled, scale, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn zoned(micros: i64, digits: usize) -> String {
        let mut out = Vec::new();
        write_zoned_micros(micros, digits, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal(&[], 0), "0");
        assert_eq!(decimal(&[0], 2), "0.00");
        assert_eq!(decimal(&[0], -3), "0");
        assert_eq!(decimal(&[0xff], 2), "-0.01");
        assert_eq!(decimal(&[0x00, 0x96], 2), "1.50");
        assert_eq!(decimal(&[0x00, 0x96], 3), "0.150");
        assert_eq!(decimal(&[0x0c], -2), "1200");
        assert_eq!(decimal(&[0x80; 1], 0), "-128");
        assert_eq!(decimal(&i128::MIN.to_be_bytes(), 0), i128::MIN.to_string());
        let huge = BigInt::from(7).pow(200);
        assert_eq!(decimal(&huge.to_signed_bytes_be(), 0), huge.to_string());
        assert_eq!(decimal(&(-&huge).to_signed_bytes_be(), -1), format!("-{huge}0"));
    }

    #[test]
    fn a_decimals_scale_cannot_choose_the_memory() {
        let mut out = Vec::new();
        assert_eq!(write_decimal(&[1], i32::MAX, &mut out).unwrap_err().code, "VALUE_OUT_OF_RANGE");
        assert_eq!(write_decimal(&[1], i32::MIN, &mut out).unwrap_err().code, "VALUE_OUT_OF_RANGE");
        assert_eq!(write_decimal(&vec![1; 70_000], 0, &mut out).unwrap_err().code, "VALUE_OUT_OF_RANGE");
        assert!(out.is_empty());
    }

    #[test]
    fn instants_read_as_debezium_writes_them() {
        assert_eq!(zoned(0, 6), "1970-01-01T00:00:00.000000Z");
        assert_eq!(zoned(-1, 6), "1969-12-31T23:59:59.999999Z");
        assert_eq!(zoned(1_795_257_296_789_123, 6), "2026-11-21T10:34:56.789123Z");
        assert_eq!(zoned(1_795_257_296_100_000, 6), "2026-11-21T10:34:56.100000Z");
        assert_eq!(zoned(1_795_257_296_100_000, 0), "2026-11-21T10:34:56.1Z");
        assert_eq!(zoned(1_795_257_296_100_000, 3), "2026-11-21T10:34:56.100Z");
        assert_eq!(zoned(1_795_257_296_000_000, 0), "2026-11-21T10:34:56Z");
        assert_eq!(zoned(-62_135_596_800_000_000, 6), "0001-01-01T00:00:00.000000Z");
        assert_eq!(zoned(-62_135_596_800_000_001, 6), "0000-12-31T23:59:59.999999Z");
        assert_eq!(zoned(-62_167_219_200_000_001, 6), "-0001-12-31T23:59:59.999999Z");
        assert_eq!(zoned(253_402_300_799_999_999, 6), "9999-12-31T23:59:59.999999Z");
        assert_eq!(zoned(253_402_300_800_000_000, 6), "+10000-01-01T00:00:00.000000Z");
        assert_eq!(zoned(i64::MAX, 6), "+294247-01-10T04:00:54.775807Z");
        assert_eq!(zoned(i64::MIN, 6), "-290308-12-21T19:59:05.224192Z");
        assert_eq!(zoned(951_782_400_000_000, 6), "2000-02-29T00:00:00.000000Z");
    }
}
