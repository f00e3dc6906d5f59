//! Values of rows as CEL's.
//!
//! | in the row | in an expression |
//! |---|---|
//! | INT8 to INT64, years | int |
//! | FLOAT32, FLOAT64 | double |
//! | decimals | double: exact in comparisons with up to fifteen digits |
//! | dates, timestamps with and without zone | timestamp (a date is its midnight, UTC) |
//! | times, durations | duration |
//! | STRING and what is kept as text | string |
//! | BYTES | bytes |
//! | ARRAY | list |
//! | STRUCT, MAP | map |
//! | NULL | null |

use std::collections::HashMap;

use cel::common::{
    types::{
        CelBool, CelBytes, CelDouble, CelDuration, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString,
        CelTimestamp, Kind,
    },
    value::Val,
};
use chrono::{DateTime, Duration};
use rowstream_api::{
    RecordError, Schema, SchemaType, Semantic, ValueRef, calendar::parse_instant, text::write_decimal,
};

use crate::{refused, rows::type_word};

type Converted<'f> = Result<Box<dyn Val + 'f>, RecordError>;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// A value of this schema as CEL's.
///
/// # Errors
/// CEL can't hold it: an instant outside the years 1 to 9999.
pub(super) fn to_cel<'f>(schema: &Schema, value: &'f ValueRef<'f>) -> Converted<'f> {
    Ok(match value {
        ValueRef::Null | ValueRef::Absent => Box::new(CelNull),
        ValueRef::Bool(truth) => Box::new(CelBool::from(*truth)),
        ValueRef::Int(number) => return of_int(schema, *number),
        ValueRef::Float32(number) => Box::new(CelDouble::from(f64::from(*number))),
        ValueRef::Float64(number) => Box::new(CelDouble::from(*number)),
        ValueRef::Str(text) => {
            if schema.semantic() == Semantic::ZonedTimestamp {
                return to_timestamp(parse_instant(text).ok_or_else(no_instant)?);
            }
            Box::new(CelString::from(&**text))
        }
        ValueRef::Bytes(bytes) => {
            if let Semantic::Decimal { scale } = schema.semantic() {
                return of_decimal(bytes, scale);
            }
            Box::new(CelBytes::from(&**bytes))
        }
        ValueRef::Array(items) => {
            let SchemaType::Array(item) = schema.ty() else { return Err(mismatch(schema)) };
            let items: Vec<Box<dyn Val + 'f>> =
                items.iter().map(|value| to_cel(item, value)).collect::<Result<_, _>>()?;
            Box::new(CelList::from(items))
        }
        ValueRef::Struct(values) => {
            if let (Semantic::VariableScaleDecimal, [ValueRef::Int(scale), ValueRef::Bytes(bytes)]) =
                (schema.semantic(), values.as_slice())
            {
                return of_decimal(bytes, i32::try_from(*scale).unwrap_or(i32::MAX));
            }
            let fields = schema.fields().iter().zip(values);
            let entries = fields.map(|(field, value)| {
                let value = to_cel(&field.schema, value).map_err(|error| error.in_column(&field.name))?;
                Ok((CelMapKey::from(field.name.clone()), value))
            });
            Box::new(CelMap::from(entries.collect::<Result<HashMap<_, _>, RecordError>>()?))
        }
        ValueRef::Map(values) => {
            let SchemaType::Map(item) = schema.ty() else { return Err(mismatch(schema)) };
            let entries = values
                .iter()
                .map(|(key, value)| Ok((CelMapKey::from(key.to_string()), to_cel(item, value)?)));
            Box::new(CelMap::from(entries.collect::<Result<HashMap<_, _>, RecordError>>()?))
        }
        ValueRef::Unavailable | ValueRef::Hex(_) | ValueRef::Decimal(_) | ValueRef::ZonedMicros(_) => {
            return Err(mismatch(schema));
        }
    })
}

fn of_int<'f>(schema: &Schema, number: i64) -> Converted<'f> {
    let duration =
        |micros: i64| -> Converted<'f> { Ok(Box::new(CelDuration::from(Duration::microseconds(micros)))) };
    let semantic = schema.semantic();
    if semantic == Semantic::Date {
        to_timestamp(number.saturating_mul(DAY_US))
    } else if semantic == Semantic::TimestampMillis {
        to_timestamp(number.saturating_mul(1000))
    } else if semantic == Semantic::TimestampMicros {
        to_timestamp(number)
    } else if semantic == Semantic::TimeMillis {
        duration(number.saturating_mul(1000))
    } else if matches!(semantic, Semantic::TimeMicros | Semantic::MicroDuration) {
        duration(number)
    } else {
        Ok(Box::new(CelInt::from(number)))
    }
}

/// An instant in microseconds since the epoch.
///
/// # Errors
/// It is outside the years 1 to 9999, as `infinity` is.
pub(super) fn to_timestamp<'f>(micros: i64) -> Converted<'f> {
    /// 0001-01-01 and 10000-01-01.
    const YEARS: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;
    let instant = DateTime::from_timestamp_micros(micros).filter(|_| YEARS.contains(&micros));
    let instant = instant.ok_or_else(no_instant)?;
    Ok(Box::new(CelTimestamp::from(instant.fixed_offset())))
}

fn of_decimal<'f>(unscaled: &[u8], scale: i32) -> Converted<'f> {
    let mut digits = Vec::new();
    write_decimal(unscaled, scale, &mut digits)?;
    let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<f64>().ok());
    Ok(Box::new(CelDouble::from(number.unwrap_or(f64::NAN))))
}

fn no_instant() -> RecordError {
    refused("EXPRESSION_FAILED", "an instant outside of the years 1 to 9999, which expressions can't hold")
}

fn mismatch(schema: &Schema) -> RecordError {
    refused("EXPRESSION_FAILED", format!("the value is not of its schema's type {}", type_word(schema)))
}

/// CEL's word for a value's type.
pub(crate) fn type_of(value: &dyn Val) -> &'static str {
    const WORDS: [(Kind, &str); 11] = [
        (Kind::Boolean, "a bool"),
        (Kind::Int, "an int"),
        (Kind::UInt, "a uint"),
        (Kind::Double, "a double"),
        (Kind::String, "a string"),
        (Kind::Bytes, "bytes"),
        (Kind::NullType, "null"),
        (Kind::List, "a list"),
        (Kind::Map, "a map"),
        (Kind::Duration, "a duration"),
        (Kind::Timestamp, "a timestamp"),
    ];
    let kind = value.get_type().kind();
    WORDS.iter().find(|(known, _)| *known == kind).map_or("a value of another type", |(_, word)| word)
}
