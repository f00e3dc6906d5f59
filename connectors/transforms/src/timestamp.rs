//! `timestamp`: Kafka Connect's `TimestampConverter`, of fields. Instants as text, as a number, or as Connect's types.
//!
//! Every instant is in UTC. A pattern's letters are those of Java's `SimpleDateFormat` that name numbers, because names of months
//! and days depend on a language.

use std::sync::Arc;

use rowstream_api::{
    ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, SchemaType, Semantic, ValueRef,
};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    fields::ON_FIELD,
    instant::{DAY_US, Pattern, Precision, to_micros},
    refused,
    rows::{On, OverRows, Planning, RowStep, Surroundings, like, type_word},
    settings::{FieldNames, parse},
    unavailable::is_placeholder,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "timestamp",
    fields: &[
        FieldDoc {
            path: "fields",
            kind: FieldKind::List,
            required: true,
            default: None,
            doc: "Names of fields that hold instants; `*` stands for any characters. They may be dates and timestamps of any kind, \
                  integers (`unix_precision` says what they count) or text (`format` says how to read it; without it, ISO 8601 with \
                  a zone). A row without the field passes as it is.",
            example: "[created_at, \"*_date\"]",
        },
        FieldDoc {
            path: "target_type",
            kind: FieldKind::Choice(&["string", "unix", "Date", "Time", "Timestamp"]),
            required: true,
            default: None,
            doc: "What they become: text, an INT64 that counts from 1970, or Connect's Date (days), Time (milliseconds of the day) or \
                  Timestamp (milliseconds).",
            example: "Timestamp",
        },
        FieldDoc::optional(
            "format",
            FieldKind::Text,
            None,
            "The pattern of texts, as Java's SimpleDateFormat: `yyyy`, `yy`, `M`, `MM`, `d`, `dd`, `H`, `HH`, `m`, `mm`, `s`, `ss`, `S` to \
             `SSSSSS` (a fraction of the second), `X`, `XXX` and `Z` (the zone; UTC without), with all other letters in quotes. \
             `target_type: string` needs it.",
            "yyyy-MM-dd'T'HH:mm:ss.SSSX",
        ),
        FieldDoc::optional(
            "unix_precision",
            FieldKind::Choice(&["seconds", "milliseconds", "microseconds", "nanoseconds"]),
            Some("milliseconds"),
            "What plain integers count, before and after.",
            "seconds",
        ),
        ON_FIELD,
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            fields: Vec<String>,
            target_type: Target,
            format: Option<String>,
            #[serde(default)]
            unix_precision: Precision,
            #[serde(default)]
            on: On,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let names = FieldNames::parse(settings.fields, "fields", &mut errors);
        let format = settings.format.as_deref().and_then(|text| errors.take("format", Pattern::parse(text)));
        if settings.target_type == Target::String && settings.format.is_none() {
            errors.push("format", "is needed for `target_type: string`");
        }
        errors.into_result()?;
        let (target, precision) = (settings.target_type, settings.unix_precision);
        Ok(OverRows::boxed(Timestamp { names, target, format, precision }, settings.on))
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Target {
    #[serde(rename = "string")]
    String,
    #[serde(rename = "unix")]
    Unix,
    Date,
    Time,
    Timestamp,
}

struct Timestamp {
    names: FieldNames,
    target: Target,
    format: Option<Pattern>,
    precision: Precision,
}

/// A field to convert, with its schema of before.
struct Column {
    index: usize,
    name: String,
    from: Arc<Schema>,
}

impl RowStep for Timestamp {
    type Plan = Vec<Column>;

    fn plan(&self, row: &Arc<Schema>) -> Planning<Vec<Column>> {
        let mut columns = Vec::new();
        let mut builder = like(row);
        for (index, field) in row.fields().iter().enumerate() {
            let mut schema = Arc::clone(&field.schema);
            if self.names.contain(&field.name) {
                if !is_instant(&schema) {
                    let what = schema.name().unwrap_or_else(|| type_word(&schema));
                    let message = format!("is {what}, which holds no instant");
                    return Err(refused("FIELD_TYPE", message).in_column(&field.name));
                }
                columns.push(Column { index, name: field.name.clone(), from: Arc::clone(&schema) });
                schema = self.target.schema(schema.is_optional());
            }
            builder = builder.field(&field.name, schema);
        }
        Ok(if columns.is_empty() { None } else { Some((builder.build(), columns)) })
    }

    fn row<'a>(
        &self,
        columns: &Vec<Column>,
        mut row: Vec<ValueRef<'a>>,
        around: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError> {
        for Column { index, name, from } in columns {
            let Some(value) = row.get_mut(*index) else { continue };
            if matches!(value, ValueRef::Null | ValueRef::Absent) {
                continue;
            }
            if around.unavailable.contains(name) && is_placeholder(from, value) {
                *value = ValueRef::Unavailable;
                continue;
            }
            let micros = to_micros(from, value, self.precision, self.format.as_ref());
            let converted = micros.and_then(|micros| self.write(micros));
            *value = converted.ok_or_else(|| no_instant(from).in_column(name))?;
        }
        Ok(row)
    }
}

impl Timestamp {
    fn write(&self, micros: i64) -> Option<ValueRef<'static>> {
        Some(match (self.target, &self.format) {
            (Target::String, Some(format)) => ValueRef::Str(format.write(micros).into()),
            (Target::String, None) => return None,
            (Target::Unix, _) => ValueRef::Int(self.precision.of_micros(micros)?),
            (Target::Date, _) => ValueRef::Int(i32::try_from(micros.div_euclid(DAY_US)).ok()?.into()),
            (Target::Time, _) => ValueRef::Int(micros.rem_euclid(DAY_US) / 1000),
            (Target::Timestamp, _) => ValueRef::Int(micros.div_euclid(1000)),
        })
    }
}

impl Target {
    fn schema(self, optional: bool) -> Arc<Schema> {
        let named = |ty, name: &str| {
            SchemaBuilder::new(ty).name(format!("org.apache.kafka.connect.data.{name}")).version(1)
        };
        match self {
            Self::String => SchemaBuilder::new(SchemaType::String),
            Self::Unix => SchemaBuilder::new(SchemaType::Int64),
            Self::Date => named(SchemaType::Int32, "Date"),
            Self::Time => named(SchemaType::Int32, "Time"),
            Self::Timestamp => named(SchemaType::Int64, "Timestamp"),
        }
        .optional_if(optional)
        .build()
    }
}

fn is_instant(schema: &Schema) -> bool {
    match schema.ty() {
        SchemaType::Int32 | SchemaType::Int64 => matches!(
            schema.semantic(),
            Semantic::Plain | Semantic::Date | Semantic::TimestampMillis | Semantic::TimestampMicros
        ),
        SchemaType::String => matches!(schema.semantic(), Semantic::Plain | Semantic::ZonedTimestamp),
        SchemaType::Boolean
        | SchemaType::Int8
        | SchemaType::Int16
        | SchemaType::Float32
        | SchemaType::Float64
        | SchemaType::Bytes
        | SchemaType::Array(_)
        | SchemaType::Map(_)
        | SchemaType::Struct(_) => false,
    }
}

fn no_instant(from: &Schema) -> RecordError {
    let message =
        format!("the {} is no instant that can be converted, or not of the `format`", type_word(from));
    refused("VALUE_OUT_OF_RANGE", message)
}

#[cfg(test)]
mod tests;
