//! Dates and instants between the record's forms and PostgreSQL's.
//!
//! Proleptic Gregorian on both sides, by the algorithms of
//! <https://howardhinnant.github.io/date_algorithms.html>; no table, no loop, total on the ranges that are checked.

use rowstream_api::calendar::{civil_from_days, days_from_civil};

/// What Debezium writes for `infinity`.
pub(crate) const POSITIVE_INFINITY_US: i64 = 9_223_372_036_825_200_000;
/// What Debezium writes for `-infinity`.
pub(crate) const NEGATIVE_INFINITY_US: i64 = -9_223_372_036_832_400_000;

const DAY_US: i64 = 86_400_000_000;

/// Reads ISO 8601 with a zone: `2026-01-02T03:04:05.678901Z`, `-0043-03-15T00:00:00+01:30`, `infinity`.
pub(crate) fn parse_instant(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(POSITIVE_INFINITY_US),
        "-infinity" => return Some(NEGATIVE_INFINITY_US),
        _ => {}
    }
    let (negative, rest) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let mut cursor = Cursor(rest);
    let year = cursor.number(4, 9)?;
    let year = if negative { -year } else { year };
    cursor.expect(b'-')?;
    let month = cursor.number(2, 2)?;
    cursor.expect(b'-')?;
    let day = cursor.number(2, 2)?;
    cursor.expect(b'T').or_else(|| cursor.expect(b' '))?;
    let hour = cursor.number(2, 2)?;
    cursor.expect(b':')?;
    let minute = cursor.number(2, 2)?;
    let second = if cursor.expect(b':').is_some() { cursor.number(2, 2)? } else { 0 };
    let fraction = if cursor.expect(b'.').is_some() { cursor.fraction()? } else { 0 };
    let offset_seconds = cursor.zone()?;
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour <= 24
        && minute <= 59
        && second <= 60
        && cursor.0.is_empty();
    if !in_range {
        return None;
    }
    let seconds = hour * 3600 + minute * 60 + second - offset_seconds;
    days_from_civil(year, month, day).checked_mul(DAY_US)?.checked_add(seconds * 1_000_000 + fraction)
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn expect(&mut self, byte: u8) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        (*first == byte).then(|| self.0 = rest)
    }

    fn number(&mut self, digits_min: usize, digits_max: usize) -> Option<i64> {
        let length = self.0.iter().take(digits_max).take_while(|byte| byte.is_ascii_digit()).count();
        if length < digits_min {
            return None;
        }
        let (digits, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    /// Microseconds; digits beyond the sixth must be zeros, because PostgreSQL keeps six.
    fn fraction(&mut self) -> Option<i64> {
        let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let beyond_zero = digits.iter().skip(6).all(|digit| *digit == b'0');
        let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
        (length > 0 && beyond_zero)
            .then(|| padded.fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    fn zone(&mut self) -> Option<i64> {
        if self.expect(b'Z').is_some() {
            return Some(0);
        }
        let sign = if self.expect(b'+').is_some() {
            1
        } else {
            self.expect(b'-')?;
            -1
        };
        let hours = self.number(2, 2)?;
        let minutes = if self.expect(b':').is_some() { self.number(2, 2)? } else { 0 };
        Some(sign * (hours * 3600 + minutes * 60))
    }
}

/// Appends `2026-01-02`, with ` BC` before year 1.
pub(crate) fn write_date(days: i64, out: &mut Vec<u8>) {
    match i32::try_from(days) {
        Ok(i32::MAX) => out.extend_from_slice(b"infinity"),
        Ok(i32::MIN) => out.extend_from_slice(b"-infinity"),
        Ok(_) | Err(_) => {
            let era = push_date(days, out);
            out.extend_from_slice(era);
        }
    }
}

/// Appends `03:04:05.678901`.
pub(crate) fn write_time(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros.div_euclid(1_000_000);
    let fraction = micros.rem_euclid(1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    out.extend_from_slice(format!("{hour:02}:{minute:02}:{second:02}.{fraction:06}").as_bytes());
}

/// Appends `2026-01-02 03:04:05.678901`, with `+00` when `zoned`.
pub(crate) fn write_timestamp(micros: i64, zoned: bool, out: &mut Vec<u8>) {
    match micros {
        POSITIVE_INFINITY_US => return out.extend_from_slice(b"infinity"),
        NEGATIVE_INFINITY_US => return out.extend_from_slice(b"-infinity"),
        _ => {}
    }
    let era = push_date(micros.div_euclid(DAY_US), out);
    out.push(b' ');
    write_time(micros.rem_euclid(DAY_US), out);
    if zoned {
        out.extend_from_slice(b"+00");
    }
    out.extend_from_slice(era);
}

/// Appends year, month and day; answers what must follow at the end.
fn push_date(days: i64, out: &mut Vec<u8>) -> &'static [u8] {
    let (year, month, day) = civil_from_days(days);
    let (year, era): (i64, &'static [u8]) = if year <= 0 { (1 - year, b" BC") } else { (year, b"") };
    out.extend_from_slice(format!("{year:04}-{month:02}-{day:02}").as_bytes());
    era
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(micros: i64) -> String {
        let mut out = Vec::new();
        write_timestamp(micros, true, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn instants_round_trip() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", "1970-01-01 00:00:00.000000+00"),
            ("2026-11-21T10:34:56.789123Z", "2026-11-21 10:34:56.789123+00"),
            ("2024-02-29T23:59:59.5+01:30", "2024-02-29 22:29:59.500000+00"),
            ("-0043-03-15T00:00:00Z", "0044-03-15 00:00:00.000000+00 BC"),
            ("0000-12-31T00:00:00Z", "0001-12-31 00:00:00.000000+00 BC"),
            ("+12345-01-02T03:04:05Z", "12345-01-02 03:04:05.000000+00"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
        ] {
            assert_eq!(parse_instant(text).map(shown).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "2026",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00Zx",
            "2026-01-01T00:00:00.1234567Z",
            "999999999-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_instant(text), None, "{text}");
        }
    }
}
