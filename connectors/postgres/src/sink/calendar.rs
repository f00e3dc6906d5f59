//! Dates and instants between the record's forms and PostgreSQL's.
//!
//! Proleptic Gregorian on both sides, by the algorithms of
//! <https://howardhinnant.github.io/date_algorithms.html>; no table, no loop, total on the ranges that are checked.

use rowstream_api::calendar::{NEGATIVE_INFINITY_US, POSITIVE_INFINITY_US, civil_from_days};

const DAY_US: i64 = 86_400_000_000;

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
    use rowstream_api::calendar::parse_instant;

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
