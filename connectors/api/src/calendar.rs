//! Days and dates in the proleptic Gregorian calendar; year 0 is 1 BC. The algorithms are Howard Hinnant's
//! (<https://howardhinnant.github.io/date_algorithms.html>).

/// Days since 1970-01-01 of a year, month (1 to 12) and day (1 to 31).
#[must_use]
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of the days since 1970-01-01.
#[must_use]
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// What Debezium writes for `infinity`.
pub const POSITIVE_INFINITY_US: i64 = 9_223_372_036_825_200_000;
/// What Debezium writes for `-infinity`.
pub const NEGATIVE_INFINITY_US: i64 = -9_223_372_036_832_400_000;
/// What Debezium writes for `infinity` of a timestamp with a zone; beyond 64 bits of microseconds.
pub const POSITIVE_INFINITY_ZONED: &str = "+292278994-08-16T23:00:00.000000Z";
/// What Debezium writes for `-infinity` of the same.
pub const NEGATIVE_INFINITY_ZONED: &str = "-292275055-05-16T23:00:00.000000Z";

const DAY_US: i64 = 86_400_000_000;

/// Reads ISO 8601 with a zone: `2026-01-02T03:04:05.678901Z`, `-0043-03-15T00:00:00+01:30`, `infinity`.
#[must_use]
pub fn parse_instant(text: &str) -> Option<i64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_one_to_one() {
        for (days, date) in
            [(0, (1970, 1, 1)), (-719_468, (0, 3, 1)), (11_016, (2000, 2, 29)), (-1, (1969, 12, 31))]
        {
            assert_eq!(civil_from_days(days), date);
            assert_eq!(days_from_civil(date.0, date.1, date.2), days);
        }
        for days in (-3_000_000..3_000_000).step_by(997) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
