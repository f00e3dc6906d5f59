//! Dates and times as both servers read them. What they would round or can't hold is an error here.

use rowstream_api::{RecordError, calendar::civil_from_days};

const DAY_US: i64 = 86_400_000_000;
/// `TIME` reaches from -838:59:59 to 838:59:59.
const TIME_MAX_US: i64 = (838 * 3600 + 59 * 60 + 59) * 1_000_000;

/// Appends `2026-01-02`.
pub(crate) fn write_date(days: i64, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let (year, month, day) = civil_from_days(days);
    if !(1..=9999).contains(&year) {
        let message = "the date is not within the years 1 to 9999, which is what the column's type holds";
        return Err(RecordError::value("VALUE_OUT_OF_RANGE", message));
    }
    out.extend_from_slice(format!("{year:04}-{month:02}-{day:02}").as_bytes());
    Ok(())
}

/// Appends `2026-01-02 03:04:05.678`.
pub(crate) fn write_timestamp(micros: i64, digits: u32, out: &mut Vec<u8>) -> Result<(), RecordError> {
    write_date(micros.div_euclid(DAY_US), out)?;
    out.push(b' ');
    write_clock(micros.rem_euclid(DAY_US), digits, out)
}

/// Appends `-25:01:01.000001`.
pub(crate) fn write_time(micros: i64, digits: u32, out: &mut Vec<u8>) -> Result<(), RecordError> {
    if !(-TIME_MAX_US..=TIME_MAX_US).contains(&micros) {
        let message = "the time is beyond 838:59:59, which is what the column's type holds";
        return Err(RecordError::value("VALUE_OUT_OF_RANGE", message));
    }
    if micros < 0 {
        out.push(b'-');
    }
    write_clock(micros.abs(), digits, out)
}

fn write_clock(micros: i64, digits: u32, out: &mut Vec<u8>) -> Result<(), RecordError> {
    if micros % 10_i64.pow(6_u32.saturating_sub(digits)) != 0 {
        let message =
            format!("the time has more than the {digits} digits of the second that the column keeps");
        return Err(RecordError::value("VALUE_PRECISION", message));
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    out.extend_from_slice(format!("{hour:02}:{minute:02}:{second:02}.{fraction:06}").as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_would_round_or_can_not_hold_is_refused() {
        let timestamp = |micros, digits| {
            let mut out = Vec::new();
            write_timestamp(micros, digits, &mut out)
                .map(|()| String::from_utf8(out).unwrap())
                .map_err(|e| e.code)
        };
        assert_eq!(timestamp(-1, 6).as_deref(), Ok("1969-12-31 23:59:59.999999"));
        assert_eq!(timestamp(1_000, 3).as_deref(), Ok("1970-01-01 00:00:00.001000"));
        assert_eq!(timestamp(1_001, 3), Err("VALUE_PRECISION"));
        assert_eq!(timestamp(i64::MAX, 6), Err("VALUE_OUT_OF_RANGE"));
        assert_eq!(timestamp(-62_135_596_800_000_001, 6), Err("VALUE_OUT_OF_RANGE"));
        let mut out = Vec::new();
        write_time(-90_061_000_001, 6, &mut out).unwrap();
        assert_eq!(out, b"-25:01:01.000001");
        assert!(write_time(TIME_MAX_US + 1, 6, &mut out).is_err());
    }
}
