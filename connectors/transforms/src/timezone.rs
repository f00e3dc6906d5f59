//! `timezone`: Debezium's `TimezoneConverter`.
//!
//! - A timestamp with a zone keeps its instant and is written with the zone's offset.
//! - A timestamp without a zone, which Debezium and Rowstream write as if it were UTC, is taken for the zone's wall clock, and
//!   becomes the instant that it stood for. In the hour that a clock shows twice, it is the first; in the hour that it never
//!   shows, the offset before it counts: as in Java.
//!
//! Offsets come from the zone database that this program was built with, so that the same record gives the same result on every
//! machine.

use std::sync::Arc;

use chrono::{DateTime, FixedOffset, NaiveDateTime, Offset, TimeDelta, TimeZone};
use rowstream_api::{
    ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaType, Semantic, ValueRef,
    calendar::parse_instant,
};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    fields::ON_FIELD,
    refused,
    rows::{On, OverRows, Planning, RowStep, Surroundings},
    settings::{FieldNames, parse},
    unavailable::is_placeholder,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "timezone",
    fields: &[
        FieldDoc {
            path: "converted_timezone",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "The zone: a name such as `Europe/Berlin`, or an offset such as `+08:00`.",
            example: "Europe/Berlin",
        },
        FieldDoc::optional(
            "include_list",
            FieldKind::List,
            None,
            "Only these fields; `*` stands for any characters. Without it all timestamps of the rows are converted. Tables are chosen \
             by the step's `when`.",
            "[created_at]",
        ),
        FieldDoc::optional(
            "exclude_list",
            FieldKind::List,
            None,
            "All timestamps but these. Not together with `include_list`.",
            "[\"*_utc\"]",
        ),
        ON_FIELD,
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            converted_timezone: String,
            include_list: Option<Vec<String>>,
            exclude_list: Option<Vec<String>>,
            #[serde(default)]
            on: On,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let zone = errors.take("converted_timezone", Zone::parse(&settings.converted_timezone));
        if settings.include_list.is_some() && settings.exclude_list.is_some() {
            errors.push("exclude_list", "can't be given together with `include_list`");
        }
        let include =
            settings.include_list.map(|names| FieldNames::parse(names, "include_list", &mut errors));
        let exclude =
            settings.exclude_list.map(|names| FieldNames::parse(names, "exclude_list", &mut errors));
        match zone {
            Some(zone) if errors.0.is_empty() => {
                Ok(OverRows::boxed(Timezone { zone, include, exclude }, settings.on))
            }
            Some(_) | None => Err(errors),
        }
    },
};

struct Timezone {
    zone: Zone,
    include: Option<FieldNames>,
    exclude: Option<FieldNames>,
}

#[derive(Debug, Clone, Copy)]
enum Zone {
    Named(chrono_tz::Tz),
    Offset(FixedOffset),
}

/// What a column holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Millis,
    Micros,
    Zoned,
}

struct Column {
    index: usize,
    name: String,
    schema: Arc<Schema>,
    kind: Kind,
}

impl RowStep for Timezone {
    type Plan = Vec<Column>;

    fn plan(&self, row: &Arc<Schema>) -> Planning<Vec<Column>> {
        let columns: Vec<Column> = row
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| self.include.as_ref().is_none_or(|names| names.contain(&field.name)))
            .filter(|(_, field)| !self.exclude.as_ref().is_some_and(|names| names.contain(&field.name)))
            .filter_map(|(index, field)| {
                let kind = Kind::of(&field.schema)?;
                Some(Column { index, name: field.name.clone(), schema: Arc::clone(&field.schema), kind })
            })
            .collect();
        Ok(if columns.is_empty() { None } else { Some((Arc::clone(row), columns)) })
    }

    fn row<'a>(
        &self,
        columns: &Vec<Column>,
        mut row: Vec<ValueRef<'a>>,
        around: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError> {
        for Column { index, name, schema, kind } in columns {
            let Some(value) = row.get_mut(*index) else { continue };
            let unsent = around.unavailable.contains(name) && is_placeholder(schema, value);
            if unsent || matches!(value, ValueRef::Null | ValueRef::Absent) {
                continue;
            }
            let converted = kind.convert(value, self.zone);
            *value = converted.ok_or_else(|| {
                let message = "the timestamp is beyond the years that zones are known for";
                refused("VALUE_OUT_OF_RANGE", message).in_column(name)
            })?;
        }
        Ok(row)
    }
}

impl Kind {
    fn of(schema: &Schema) -> Option<Self> {
        let semantic = schema.semantic();
        match schema.ty() {
            SchemaType::Int64 if semantic == Semantic::TimestampMillis => Some(Self::Millis),
            SchemaType::Int64 if semantic == Semantic::TimestampMicros => Some(Self::Micros),
            SchemaType::String if semantic == Semantic::ZonedTimestamp => Some(Self::Zoned),
            SchemaType::Int64
            | SchemaType::String
            | SchemaType::Boolean
            | SchemaType::Int8
            | SchemaType::Int16
            | SchemaType::Int32
            | SchemaType::Float32
            | SchemaType::Float64
            | SchemaType::Bytes
            | SchemaType::Array(_)
            | SchemaType::Map(_)
            | SchemaType::Struct(_) => None,
        }
    }

    fn convert(self, value: &ValueRef<'_>, zone: Zone) -> Option<ValueRef<'static>> {
        match self {
            Self::Millis => {
                let number = value.as_int()?;
                let wall = DateTime::from_timestamp_millis(number)?.naive_utc();
                Some(ValueRef::Int(number.checked_sub(zone.of_wall_clock(wall)?.checked_mul(1000)?)?))
            }
            Self::Micros => {
                let number = value.as_int()?;
                let wall = DateTime::from_timestamp_micros(number)?.naive_utc();
                Some(ValueRef::Int(number.checked_sub(zone.of_wall_clock(wall)?.checked_mul(1_000_000)?)?))
            }
            Self::Zoned => {
                let instant = DateTime::from_timestamp_micros(parse_instant(value.as_str()?)?)?.naive_utc();
                let offset = zone.of_instant(instant);
                let local = DateTime::<FixedOffset>::from_naive_utc_and_offset(instant, offset);
                Some(ValueRef::Str(local.format("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string().into()))
            }
        }
    }
}

impl Zone {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(zone) = text.parse::<chrono_tz::Tz>() {
            return Ok(Self::Named(zone));
        }
        let offset = text.parse::<FixedOffset>().ok().filter(|_| text.starts_with(['+', '-']));
        offset.map(Self::Offset).ok_or_else(|| {
            format!(
                "`{text}` is no zone; expected a name such as `Europe/Berlin`, or an offset such as `+08:00`"
            )
        })
    }

    fn of_instant(self, instant: NaiveDateTime) -> FixedOffset {
        match self {
            Self::Offset(offset) => offset,
            Self::Named(zone) => zone.offset_from_utc_datetime(&instant).fix(),
        }
    }

    /// Seconds east of Greenwich when clocks there show this.
    fn of_wall_clock(self, wall: NaiveDateTime) -> Option<i64> {
        let offset = match self {
            Self::Offset(offset) => offset,
            Self::Named(zone) => match zone.offset_from_local_datetime(&wall).earliest() {
                Some(offset) => offset.fix(),
                // No clock shows it: what one showed a day before.
                None => zone
                    .offset_from_local_datetime(&wall.checked_sub_signed(TimeDelta::days(1))?)
                    .earliest()?
                    .fix(),
            },
        };
        Some(i64::from(offset.local_minus_utc()))
    }
}

#[cfg(test)]
mod tests;
