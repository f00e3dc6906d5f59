//! Dates and times, from the text that `datestyle=ISO`, `intervalstyle=postgres` and `timezone=UTC` give.

use rowstream_api::calendar::{civil_from_days, days_from_civil};

use rowstream_api::RecordError;

use super::malformed;

const DAY_US: i64 = 86_400_000_000;

/// What Debezium writes for an infinite timestamp.
#[must_use]
pub fn infinity(text: &str) -> Option<i64> {
    match text {
        "infinity" => Some(9_223_372_036_825_200_000),
        "-infinity" => Some(-9_223_372_036_832_400_000),
        _ => None,
    }
}

/// Days since 1970-01-01; the ends of the 32-bit range for ±infinity.
///
/// # Errors
/// Not a date.
pub fn date(text: &str) -> Result<i64, RecordError> {
    match text {
        "infinity" => Ok(i32::MAX.into()),
        "-infinity" => Ok(i32::MIN.into()),
        _ => days(text).ok_or_else(|| malformed("a date")),
    }
}

fn days(text: &str) -> Option<i64> {
    let (date, bc) = match text.strip_suffix(" BC") {
        Some(date) => (date, true),
        None => (text, false),
    };
    let mut scan = Scan(date.as_bytes());
    let year = scan.number()?;
    scan.expect(b'-')?;
    let month = scan.number()?;
    scan.expect(b'-')?;
    let day = scan.number()?;
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && year < 10_000_000;
    (scan.0.is_empty() && in_range).then(|| days_from_civil(if bc { 1 - year } else { year }, month, day))
}

/// `2026-01-01T00:00:00.000000Z`
#[must_use]
pub fn iso_zoned(micros: i64) -> String {
    let (year, month, day) = civil_from_days(micros.div_euclid(DAY_US));
    let time = micros.rem_euclid(DAY_US);
    let seconds = time / 1_000_000;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        time % 1_000_000
    )
}

/// Microseconds since midnight; `24:00:00` is a whole day.
///
/// # Errors
/// Not a time.
pub fn time(text: &str) -> Result<i64, RecordError> {
    let mut scan = Scan(text.as_bytes());
    clock(&mut scan).filter(|_| scan.0.is_empty()).ok_or_else(|| malformed("a time"))
}

fn clock(scan: &mut Scan<'_>) -> Option<i64> {
    let hours = scan.number().filter(|n| *n < 1_000_000_000)?;
    scan.expect(b':')?;
    let minutes = scan.number().filter(|n| *n < 60)?;
    scan.expect(b':')?;
    let seconds = scan.number().filter(|n| *n < 62)?;
    Some((hours * 3600 + minutes * 60 + seconds) * 1_000_000 + scan.fraction()?)
}

/// Microseconds since 1970-01-01, with or without an offset.
///
/// # Errors
/// Not a timestamp, or beyond what 64 bits hold (the year 294246).
pub fn timestamp(text: &str) -> Result<i64, RecordError> {
    instant(text).ok_or_else(|| malformed("a timestamp that fits 64 bits of microseconds"))
}

fn instant(text: &str) -> Option<i64> {
    let (text, bc) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (date, time) = text.split_once(' ')?;
    let days = if bc { days(&format!("{date} BC"))? } else { days(date)? };
    let mut scan = Scan(time.as_bytes());
    let micros = clock(&mut scan)?;
    let offset = scan.offset()?;
    if !scan.0.is_empty() {
        return None;
    }
    days.checked_mul(DAY_US)?.checked_add(micros)?.checked_sub(offset * 1_000_000)
}

/// ISO text in UTC: `10:34:56.789Z`.
///
/// # Errors
/// Not a time with an offset.
pub fn time_with_zone(text: &str) -> Result<String, RecordError> {
    let mut scan = Scan(text.as_bytes());
    let micros = clock(&mut scan);
    let offset = scan.offset();
    let (Some(micros), Some(offset), true) = (micros, offset, scan.0.is_empty()) else {
        return Err(malformed("a time with an offset"));
    };
    // 24:00:00 is a value of its own; only shifting by an offset wraps.
    let utc = if offset == 0 { micros } else { (micros - offset * 1_000_000).rem_euclid(DAY_US) };
    let (seconds, fraction) = (utc / 1_000_000, utc % 1_000_000);
    let mut iso = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        iso.push_str(format!(".{fraction:06}").trim_end_matches('0'));
    }
    iso.push('Z');
    Ok(iso)
}

/// Microseconds; a month counts 30.4375 days, as in Debezium's numeric mode.
///
/// # Errors
/// Not an interval, or beyond what 64 bits hold.
pub fn interval(text: &str) -> Result<i64, RecordError> {
    duration(text).ok_or_else(|| malformed("an interval that fits 64 bits of microseconds"))
}

fn duration(text: &str) -> Option<i64> {
    const MONTH_US: i64 = 2_629_800_000_000;
    let mut total: i64 = 0;
    let mut words = text.split_ascii_whitespace();
    while let Some(word) = words.next() {
        let (negative, digits) = match word.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, word.strip_prefix('+').unwrap_or(word)),
        };
        let micros = if digits.contains(':') {
            let mut scan = Scan(digits.as_bytes());
            clock(&mut scan).filter(|_| scan.0.is_empty())?
        } else {
            let unit = match words.next()? {
                "year" | "years" => MONTH_US * 12,
                "mon" | "mons" => MONTH_US,
                "day" | "days" => DAY_US,
                _ => return None,
            };
            digits.parse::<i64>().ok()?.checked_mul(unit)?
        };
        total = if negative { total.checked_sub(micros)? } else { total.checked_add(micros)? };
    }
    Some(total)
}

struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn number(&mut self) -> Option<i64> {
        let mut number: i64 = 0;
        let mut any = false;
        while let Some((digit @ b'0'..=b'9', rest)) = self.0.split_first() {
            number = number.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
            self.0 = rest;
            any = true;
        }
        any.then_some(number)
    }
    fn expect(&mut self, byte: u8) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        (*first == byte).then_some(())
    }
    /// `.123` as microseconds; 0 when there is none.
    fn fraction(&mut self) -> Option<i64> {
        let Some((b'.', rest)) = self.0.split_first() else { return Some(0) };
        self.0 = rest;
        let (mut micros, mut weight) = (0, 100_000);
        while let Some((digit @ b'0'..=b'9', rest)) = self.0.split_first() {
            micros += i64::from(digit - b'0') * weight;
            weight /= 10;
            self.0 = rest;
        }
        Some(micros)
    }
    /// `+01`, `-05:30`, `+01:02:03` as seconds; 0 when there is none.
    fn offset(&mut self) -> Option<i64> {
        let sign = match self.0.split_first() {
            Some((b'+', rest)) => {
                self.0 = rest;
                1
            }
            Some((b'-', rest)) => {
                self.0 = rest;
                -1
            }
            _ => return Some(0),
        };
        let mut seconds = self.number().filter(|n| *n < 100)? * 3600;
        for unit in [60, 1] {
            if self.0.first() == Some(&b':') {
                self.expect(b':')?;
                seconds += self.number().filter(|n| *n < 60)? * unit;
            }
        }
        Some(sign * seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_server_are_read() {
        assert_eq!(date("1970-01-02"), Ok(1));
        assert_eq!(date("0001-01-01 BC"), Ok(-719_528));
        assert_eq!(date("5874897-12-31"), Ok(2_145_042_905));
        assert_eq!(timestamp("1969-12-31 23:59:59.999999"), Ok(-1));
        assert_eq!(timestamp("1970-01-01 00:00:00+00"), Ok(0));
        assert_eq!(timestamp("1970-01-01 01:00:00+01"), Ok(0));
        assert_eq!(timestamp("0044-03-15 12:00:00 BC"), Ok(-63_517_780_800_000_000));
        assert!(timestamp("294276-12-31 23:59:59").is_err());
        assert_eq!(time("24:00:00"), Ok(86_400_000_000));
        assert_eq!(time("12:34:56.000001"), Ok(45_296_000_001));
        assert_eq!(time_with_zone("12:34:56.5+01:02:03").as_deref(), Ok("11:32:53.5Z"));
        assert_eq!(time_with_zone("24:00:00+00").as_deref(), Ok("24:00:00Z"));
        assert_eq!(time_with_zone("00:00:00+01").as_deref(), Ok("23:00:00Z"));
        assert_eq!(interval("1 mon -1 days +00:00:01"), Ok(2_629_800_000_000 - DAY_US + 1_000_000));
        assert_eq!(interval("-00:00:00.5"), Ok(-500_000));
        for bad in ["", "2026", "2026-13-01", "x", "2026-01-01x"] {
            assert!(date(bad).is_err() && timestamp(bad).is_err() && time(bad).is_err(), "{bad}");
        }
        assert_eq!(iso_zoned(-1), "1969-12-31T23:59:59.999999Z");
        for days in [-719_528, -1, 0, 59, 60, 20_000, 2_000_000] {
            let (y, m, d) = civil_from_days(days);
            assert_eq!(days_from_civil(y, m, d), days);
        }
    }
}
