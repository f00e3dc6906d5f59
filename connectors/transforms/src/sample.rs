//! A record made up for a schema, for finding out whether a chain fits it before any record comes.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaType, Semantic, ValueRef};

use crate::record::{Part, Record};

/// Codes of errors that follow from the schema. All others may be the made-up values' fault.
const OF_SCHEMA: [&str; 8] = [
    "ENVELOPE_INVALID",
    "EXPRESSION_FIELD_UNKNOWN",
    "EXPRESSION_TYPE",
    "FIELDS_NONE_LEFT",
    "FIELD_EXISTS",
    "FIELD_MISSING",
    "FIELD_TYPE",
    "NOT_A_STRUCT",
];

/// Whether every record of the schema would be refused so.
pub(crate) fn follows_from_schema(code: &str) -> bool {
    OF_SCHEMA.contains(&code)
}

/// An insert, or a plain row, in which nothing is null; an insert has both rows, so that expressions find what they ask for.
pub(crate) fn record(topic: &str, key: Option<&Arc<Schema>>, value: &Arc<Schema>) -> Record<'static> {
    let part = |schema: &Arc<Schema>| Part::Tree { schema: Arc::clone(schema), value: sample(schema) };
    let mut made = part(value);
    if let (true, Part::Tree { value: ValueRef::Struct(fields), .. }, Some((op, _))) =
        (value.is_envelope(), &mut made, value.field("op"))
        && let Some(field) = fields.get_mut(op)
    {
        *field = ValueRef::str("c");
    }
    Record {
        topic: topic.into(),
        partition: None,
        timestamp_ms: 0,
        key: key.map_or(Part::Null, part),
        value: made,
        headers: Vec::new(),
    }
}

fn sample(schema: &Schema) -> ValueRef<'static> {
    match schema.ty() {
        SchemaType::Boolean => ValueRef::Bool(true),
        SchemaType::Int8 | SchemaType::Int16 | SchemaType::Int32 | SchemaType::Int64 => ValueRef::Int(1),
        SchemaType::Float32 => ValueRef::Float32(1.0),
        SchemaType::Float64 => ValueRef::Float64(1.0),
        SchemaType::String if schema.semantic() == Semantic::ZonedTimestamp => {
            ValueRef::str("1970-01-01T00:00:00Z")
        }
        SchemaType::String => ValueRef::str("1"),
        SchemaType::Bytes => ValueRef::bytes(&[1]),
        SchemaType::Array(item) => ValueRef::Array(vec![sample(item)]),
        SchemaType::Map(item) => ValueRef::Map(vec![("a".into(), sample(item))]),
        SchemaType::Struct(fields) => {
            ValueRef::Struct(fields.iter().map(|field| sample(&field.schema)).collect())
        }
    }
}
