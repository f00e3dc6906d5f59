//! The types of example rows: declared by words, taken from a registered schema, or inferred from the examples.
//!
//! Inferred types are the widest that JSON tells (`int64`, `float64`, `string`, `boolean`), and every field may be null. A chain that
//! depends on more (decimals, times, a column that forbids null) wants its columns declared.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaBuilder, SchemaType, Value as Default};
use serde_json::Value;

/// The words that a column's type may be, for the message that lists them.
const WORDS: &str = "boolean, int8, int16, int32, int64, float32, float64, string, bytes, decimal(DIGITS,SCALE), date, time, timestamp, \
                     timestamptz, json, uuid; `[]` behind it for a list, `not null` behind all";

/// The schema of `decimal(12,2) not null`.
///
/// # Errors
/// It is no type; the message lists them.
pub(super) fn column(text: &str) -> Result<Arc<Schema>, String> {
    let text = text.trim();
    let (ty, optional) = match text.strip_suffix("not null") {
        Some(ty) => (ty.trim(), false),
        None => (text, true),
    };
    if let Some(item) = ty.strip_suffix("[]") {
        return Ok(SchemaBuilder::new(SchemaType::Array(column(item)?)).optional_if(optional).build());
    }
    let named = |ty, name: &str| SchemaBuilder::new(ty).name(name).version(1);
    let builder = match ty {
        "boolean" => SchemaBuilder::new(SchemaType::Boolean),
        "int8" => SchemaBuilder::new(SchemaType::Int8),
        "int16" => SchemaBuilder::new(SchemaType::Int16),
        "int32" => SchemaBuilder::new(SchemaType::Int32),
        "int64" => SchemaBuilder::new(SchemaType::Int64),
        "float32" => SchemaBuilder::new(SchemaType::Float32),
        "float64" => SchemaBuilder::new(SchemaType::Float64),
        "string" => SchemaBuilder::new(SchemaType::String),
        "bytes" => SchemaBuilder::new(SchemaType::Bytes),
        "date" => named(SchemaType::Int32, "io.debezium.time.Date"),
        "time" => named(SchemaType::Int64, "io.debezium.time.MicroTime"),
        "timestamp" => named(SchemaType::Int64, "io.debezium.time.MicroTimestamp"),
        "timestamptz" => named(SchemaType::String, "io.debezium.time.ZonedTimestamp"),
        "json" => named(SchemaType::String, "io.debezium.data.Json"),
        "uuid" => named(SchemaType::String, "io.debezium.data.Uuid"),
        other => decimal(other).ok_or_else(|| format!("`{other}` is not a type; known are {WORDS}"))?,
    };
    Ok(builder.optional_if(optional).build())
}

fn decimal(text: &str) -> Option<SchemaBuilder> {
    let (digits, scale) = text.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    let digits: u8 = digits.trim().parse().ok()?;
    let scale: u8 = scale.trim().parse().ok().filter(|scale| *scale <= digits)?;
    let decimal = SchemaBuilder::new(SchemaType::Bytes)
        .name("org.apache.kafka.connect.data.Decimal")
        .version(1)
        .parameter("scale", scale.to_string())
        .parameter("connect.decimal.precision", digits.to_string());
    Some(decimal)
}

/// What JSON tells about a type.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Inferred {
    /// Only nulls so far.
    #[default]
    Unknown,
    Boolean,
    Whole,
    Fraction,
    Text,
    List(Box<Inferred>),
    Fields(Vec<(String, Inferred)>),
}

impl Inferred {
    /// The type that holds what was seen before and this value, too.
    ///
    /// # Errors
    /// The path of a field that is of two types.
    pub(super) fn widen(self, json: &Value) -> Result<Self, String> {
        self.merge(Self::of(json)?)
    }

    fn of(json: &Value) -> Result<Self, String> {
        Ok(match json {
            Value::Null => Self::Unknown,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.is_i64() => Self::Whole,
            Value::Number(_) => Self::Fraction,
            Value::String(text) if text == rowstream_api::json::UNAVAILABLE_PLACEHOLDER => Self::Unknown,
            Value::String(_) => Self::Text,
            Value::Array(items) => {
                let item = items.iter().try_fold(Self::Unknown, |known, item| known.widen(item))?;
                Self::List(Box::new(item))
            }
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| match Self::of(value) {
                    Ok(inferred) => Ok((name.clone(), inferred)),
                    Err(path) => Err(below(name, &path)),
                };
                Self::Fields(fields.iter().map(field).collect::<Result<_, _>>()?)
            }
        })
    }

    fn merge(self, other: Self) -> Result<Self, String> {
        Ok(match (self, other) {
            (Self::Unknown, known) | (known, Self::Unknown) => known,
            (Self::Whole, Self::Fraction) | (Self::Fraction, Self::Whole) => Self::Fraction,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.merge(*b)?)),
            (Self::Fields(mut fields), Self::Fields(others)) => {
                for (name, other) in others {
                    match fields.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => {
                            *known =
                                std::mem::take(known).merge(other).map_err(|path| below(&name, &path))?;
                        }
                        None => fields.push((name, other)),
                    }
                }
                Self::Fields(fields)
            }
            (a, b) if a == b => a,
            (_, _) => return Err(String::new()),
        })
    }

    /// The schema; a field of which only nulls are known counts as text.
    pub(super) fn schema(&self, name: &str) -> Arc<Schema> {
        let optional = |ty| SchemaBuilder::new(ty).optional().build();
        match self {
            Self::Boolean => optional(SchemaType::Boolean),
            Self::Whole => optional(SchemaType::Int64),
            Self::Fraction => optional(SchemaType::Float64),
            Self::Text | Self::Unknown => optional(SchemaType::String),
            Self::List(item) => optional(SchemaType::Array(item.schema(name))),
            Self::Fields(fields) => {
                let start = SchemaBuilder::structure().name(name).optional();
                let field = |builder: SchemaBuilder, (field, inferred): &(String, Self)| {
                    builder.field(field, inferred.schema(&format!("{name}.{field}")))
                };
                fields.iter().fold(start, field).build()
            }
        }
    }
}

fn below(name: &str, path: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{name}.{path}") }
}

/// Fields of `source`: those of PostgreSQL, MySQL and MariaDB together, because an example need not say where it comes from.
pub(super) fn source() -> Arc<Schema> {
    let required = |ty| SchemaBuilder::new(ty).build();
    let optional = |ty| SchemaBuilder::new(ty).optional().build();
    let snapshot = SchemaBuilder::new(SchemaType::String)
        .name("io.debezium.data.Enum")
        .version(1)
        .parameter(
            "allowed",
            "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental",
        )
        .default_value(Default::Str("false".to_owned()))
        .optional();
    let mut builder = SchemaBuilder::structure().name("io.debezium.connector.Source").version(1);
    for name in ["version", "connector", "name"] {
        builder = builder.field(name, required(SchemaType::String));
    }
    builder = builder.field("ts_ms", required(SchemaType::Int64)).field("snapshot", snapshot.build());
    builder = builder.field("db", required(SchemaType::String));
    for name in ["sequence", "schema", "table", "origin", "gtid", "file", "query"] {
        builder = builder.field(name, optional(SchemaType::String));
    }
    for name in ["ts_us", "ts_ns", "txId", "lsn", "xmin", "origin_lsn", "server_id", "pos", "row", "thread"] {
        builder = builder.field(name, optional(SchemaType::Int64));
    }
    builder.build()
}

/// Debezium's envelope over rows of this schema.
pub(super) fn envelope(topic: &str, row: &Schema) -> Arc<Schema> {
    let image = row.to_builder().optional().build();
    let required = |ty| SchemaBuilder::new(ty).build();
    let optional = |ty| SchemaBuilder::new(ty).optional().build();
    let transaction = SchemaBuilder::structure()
        .name("event.block")
        .version(1)
        .field("id", required(SchemaType::String))
        .field("total_order", required(SchemaType::Int64))
        .field("data_collection_order", required(SchemaType::Int64))
        .optional();
    SchemaBuilder::structure()
        .name(format!("{topic}.Envelope"))
        .version(2)
        .field("before", Arc::clone(&image))
        .field("after", image)
        .field("source", source())
        .field("transaction", transaction.build())
        .field("op", required(SchemaType::String))
        .field("ts_ms", optional(SchemaType::Int64))
        .field("ts_us", optional(SchemaType::Int64))
        .field("ts_ns", optional(SchemaType::Int64))
        .build()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_types() {
        assert_eq!(*column("int64").unwrap().ty(), SchemaType::Int64);
        assert!(column("int64").unwrap().is_optional());
        assert!(!column("uuid not null").unwrap().is_optional());
        assert_eq!(column("decimal(12, 2)").unwrap().parameter("scale"), Some("2"));
        let SchemaType::Array(item) = column("date[] not null").unwrap().ty().clone() else {
            panic!("no list")
        };
        assert_eq!(item.name(), Some("io.debezium.time.Date"));
        for bad in ["", "int", "decimal", "decimal(2,3)", "decimal(x,1)", "text"] {
            assert!(column(bad).unwrap_err().contains("known are boolean"), "{bad}");
        }
    }

    #[test]
    fn types_are_inferred_over_all_examples() {
        let widened = |values: &[Value]| values.iter().try_fold(Inferred::Unknown, Inferred::widen);
        let rows = [
            json!({ "a": 1, "b": null, "c": [1] }),
            json!({ "a": 1.5, "b": "x", "c": [], "d": { "e": true } }),
        ];
        let schema = widened(&rows).unwrap().schema("t");
        let ty = |name: &str| schema.field(name).unwrap().1.schema.ty().clone();
        assert_eq!((ty("a"), ty("b")), (SchemaType::Float64, SchemaType::String));
        assert_eq!(schema.field("d").unwrap().1.schema.fields()[0].schema.ty(), &SchemaType::Boolean);
        let contradiction = [json!({ "d": { "e": true } }), json!({ "d": { "e": "x" } })];
        assert_eq!(widened(&contradiction), Err("d.e".to_owned()));
    }
}
