//! Instants: what counts them in a row, and patterns of texts.

use rowstream_api::{
    Schema, Semantic, ValueRef,
    calendar::{civil_from_days, days_from_civil, parse_instant},
};
use serde::Deserialize;

/// Microseconds of a day.
pub(crate) const DAY_US: i64 = 86_400_000_000;
const SECOND_US: i64 = 1_000_000;

/// What a plain number counts: `unix.precision` of `TimestampConverter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Precision {
    Seconds,
    #[default]
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Precision {
    /// Microseconds since the epoch.
    pub(crate) fn to_micros(self, number: i64) -> Option<i64> {
        match self {
            Self::Seconds => number.checked_mul(SECOND_US),
            Self::Milliseconds => number.checked_mul(1000),
            Self::Microseconds => Some(number),
            Self::Nanoseconds => Some(number.div_euclid(1000)),
        }
    }

    /// The number for microseconds since the epoch.
    pub(crate) fn of_micros(self, micros: i64) -> Option<i64> {
        match self {
            Self::Seconds => Some(micros.div_euclid(SECOND_US)),
            Self::Milliseconds => Some(micros.div_euclid(1000)),
            Self::Microseconds => Some(micros),
            Self::Nanoseconds => micros.checked_mul(1000),
        }
    }
}

/// A column's instant in microseconds since the epoch; none where it is none.
pub(crate) fn to_micros(
    schema: &Schema,
    value: &ValueRef<'_>,
    plain: Precision,
    format: Option<&Pattern>,
) -> Option<i64> {
    if let Some(text) = value.as_str() {
        return match format {
            Some(format) if schema.semantic() != Semantic::ZonedTimestamp => format.read(text),
            Some(_) | None => parse_instant(text),
        };
    }
    let number = value.as_int()?;
    let semantic = schema.semantic();
    if semantic == Semantic::Date {
        number.checked_mul(DAY_US)
    } else if semantic == Semantic::TimestampMillis {
        number.checked_mul(1000)
    } else if semantic == Semantic::TimestampMicros {
        Some(number)
    } else if schema.name() == Some("io.debezium.time.NanoTimestamp") {
        Some(number.div_euclid(1000))
    } else {
        plain.to_micros(number)
    }
}

/// A pattern of Java's `SimpleDateFormat`, in UTC.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Vec<Item>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Text(String),
    /// A field, and how often its letter stands there.
    Field(Field, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Fraction,
    /// ISO 8601: `Z`, `+01`, `+0100`, `+01:00`.
    IsoZone,
    /// RFC 822: `+0100`.
    Zone,
}

impl Field {
    fn is_zone(self) -> bool {
        matches!(self, Self::IsoZone | Self::Zone)
    }
}

impl Pattern {
    /// Reads a pattern.
    pub(crate) fn parse(pattern: &str) -> Result<Self, String> {
        let mut items: Vec<Item> = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                let mut text = String::new();
                loop {
                    match chars.next() {
                        Some('\'') if chars.next_if_eq(&'\'').is_some() => text.push('\''),
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err("has a quote that does not end".to_owned()),
                    }
                }
                items.push(Item::Text(if text.is_empty() { "'".to_owned() } else { text }));
                continue;
            }
            if !c.is_ascii_alphabetic() {
                items.push(Item::Text(c.to_string()));
                continue;
            }
            let mut count = 1;
            while chars.next_if_eq(&c).is_some() {
                count += 1;
            }
            items.push(Item::Field(field(c, count)?, count));
        }
        if !items.iter().any(|item| matches!(item, Item::Field(..))) {
            return Err("names no part of an instant, such as `yyyy`".to_owned());
        }
        Ok(Self(items))
    }

    /// The text of an instant.
    pub(crate) fn write(&self, micros: i64) -> String {
        let (year, month, day) = civil_from_days(micros.div_euclid(DAY_US));
        let of_day = micros.rem_euclid(DAY_US);
        let mut out = String::new();
        for item in &self.0 {
            let (field, width) = match item {
                Item::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Item::Field(field, width) => (*field, *width),
            };
            let number = match field {
                Field::Year if width == 2 => year.rem_euclid(100),
                Field::Year => year,
                Field::Month => month,
                Field::Day => day,
                Field::Hour => of_day / (3600 * SECOND_US),
                Field::Minute => of_day / (60 * SECOND_US) % 60,
                Field::Second => of_day / SECOND_US % 60,
                Field::Fraction => {
                    let digits = format!("{:06}", of_day % SECOND_US);
                    out.extend(digits.chars().chain(std::iter::repeat('0')).take(width));
                    continue;
                }
                Field::IsoZone => {
                    out.push('Z');
                    continue;
                }
                Field::Zone => {
                    out.push_str("+0000");
                    continue;
                }
            };
            out.push_str(&format!("{number:0width$}"));
        }
        out
    }

    /// The instant of a text, which must be of this pattern as a whole.
    pub(crate) fn read(&self, text: &str) -> Option<i64> {
        let mut rest = text;
        let (mut year, mut month, mut day) = (1970, 1, 1);
        let (mut of_day, mut zone) = (0_i64, 0_i64);
        for (index, item) in self.0.iter().enumerate() {
            let (field, width) = match item {
                Item::Text(text) => {
                    rest = rest.strip_prefix(text.as_str())?;
                    continue;
                }
                Item::Field(field, width) => (*field, *width),
            };
            if field.is_zone() {
                (zone, rest) = read_zone(rest)?;
                continue;
            }
            // A number that another follows at once has as many digits as letters; else it may have more or fewer.
            let crowded = matches!(self.0.get(index + 1), Some(Item::Field(next, _)) if !next.is_zone());
            let most = match field {
                Field::Year if !crowded && width != 2 => 4,
                Field::Month | Field::Day | Field::Hour | Field::Minute | Field::Second if !crowded => 2,
                Field::Year
                | Field::Month
                | Field::Day
                | Field::Hour
                | Field::Minute
                | Field::Second
                | Field::Fraction
                | Field::IsoZone
                | Field::Zone => width,
            };
            let digits = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at_checked(digits).filter(|(number, _)| !number.is_empty())?;
            rest = after;
            let parsed: i64 = number.parse().ok()?;
            match field {
                Field::Year if width == 2 && digits <= 2 => year = 2000 + parsed,
                Field::Year => year = parsed,
                Field::Month => month = Some(parsed).filter(|month| (1..=12).contains(month))?,
                Field::Day => day = Some(parsed).filter(|day| (1..=31).contains(day))?,
                Field::Hour => of_day += Some(parsed).filter(|hour| *hour < 24)? * 3600 * SECOND_US,
                Field::Minute => of_day += Some(parsed).filter(|minute| *minute < 60)? * 60 * SECOND_US,
                Field::Second => of_day += Some(parsed).filter(|second| *second < 60)? * SECOND_US,
                Field::Fraction => {
                    let padded = number.bytes().chain(std::iter::repeat(b'0')).take(6);
                    of_day += padded.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
                }
                Field::IsoZone | Field::Zone => {}
            }
        }
        let days = days_from_civil(year, month, day);
        let exists = civil_from_days(days) == (year, month, day);
        (rest.is_empty() && exists).then_some(())?;
        days.checked_mul(DAY_US)?.checked_add(of_day)?.checked_sub(zone)
    }
}

fn field(letter: char, count: usize) -> Result<Field, String> {
    let (field, counts) = match letter {
        'y' | 'u' => (Field::Year, 1..=4),
        'M' => (Field::Month, 1..=2),
        'd' => (Field::Day, 1..=2),
        'H' => (Field::Hour, 1..=2),
        'm' => (Field::Minute, 1..=2),
        's' => (Field::Second, 1..=2),
        'S' => (Field::Fraction, 1..=6),
        'X' => (Field::IsoZone, 1..=3),
        'Z' => (Field::Zone, 1..=1),
        other => {
            return Err(format!(
                "holds `{other}`, which names nothing here; quote letters that stand for themselves"
            ));
        }
    };
    if counts.contains(&count) {
        return Ok(field);
    }
    Err(format!("holds {count} `{letter}` in a row, at most {} are understood", counts.end()))
}

/// Microseconds east of Greenwich, and what follows.
fn read_zone(text: &str) -> Option<(i64, &str)> {
    if let Some(rest) = text.strip_prefix('Z') {
        return Some((0, rest));
    }
    let (sign, rest) = match text.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, text.strip_prefix('-')?),
    };
    let two =
        |text: &str| -> Option<i64> { text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())? };
    let (hours, rest) = rest.split_at_checked(2)?;
    let hours = two(hours)?;
    let minutes_at = rest.strip_prefix(':').unwrap_or(rest);
    let minutes = minutes_at.split_at_checked(2).and_then(|(minutes, rest)| Some((two(minutes)?, rest)));
    let (minutes, rest) = minutes.unwrap_or((0, rest));
    Some((sign * (hours * 3600 + minutes * 60) * SECOND_US, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `java.text.SimpleDateFormat` in UTC.
    #[test]
    fn patterns_write_and_read() {
        let instant = 1_795_257_296_789_123;
        for (pattern, text, read) in [
            ("yyyy-MM-dd'T'HH:mm:ss.SSSX", "2026-11-21T10:34:56.789Z", 1_795_257_296_789_000),
            ("yyyyMMddHHmmss", "20261121103456", 1_795_257_296_000_000),
            ("d.M.yy", "21.11.26", 1_795_219_200_000_000),
            ("yyyy-MM-dd HH:mm:ss.SSSSSS", "2026-11-21 10:34:56.789123", instant),
            ("yyyy 'o''clock' Z", "2026 o'clock +0000", 1_767_225_600_000_000),
            ("''HH", "'10", 36_000_000_000),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert_eq!(parsed.write(instant), text);
            assert_eq!(parsed.read(text), Some(read), "{pattern}");
        }
        let zoned = Pattern::parse("yyyy-MM-dd'T'HH:mmXXX").unwrap();
        for text in
            ["2026-11-21T11:34+01:00", "2026-11-21T11:34+0100", "2026-11-21T11:34+01", "2026-11-21T10:34Z"]
        {
            assert_eq!(zoned.read(text), Some(1_795_257_240_000_000), "{text}");
        }
        for text in
            ["", "2026-02-30T00:00Z", "2026-13-01T00:00Z", "2026-01-01T24:00Z", "2026-01-01T00:00Zx", "ä"]
        {
            assert_eq!(zoned.read(text), None, "{text}");
        }
        for (bad, expected) in
            [("", "names no part"), ("MMM", "3 `M`"), ("hh", "`h`, which"), ("yyyy'", "does not end")]
        {
            let problem = Pattern::parse(bad).unwrap_err();
            assert!(problem.contains(expected), "{bad}: {problem}");
        }
    }
}
