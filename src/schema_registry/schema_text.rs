//! The text of an Avro schema, checked once at the door.
//!
//! Two texts are the same schema when their JSON is equal: white space and the order of an object's members do not
//! count, attributes and docs do (Debezium's `connect.*` attributes carry meaning).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Refusal;

/// A valid Avro schema.
#[derive(Debug, Clone)]
pub(super) struct SchemaText {
    /// Compact JSON, members in the order they were given.
    pub(super) text: Arc<str>,
    /// The same with members sorted: equal for equal schemas.
    pub(super) canonical: String,
    /// Parsed.
    pub(super) json: Value,
}

impl SchemaText {
    /// Parses and checks a schema.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let json: Value = serde_json::from_str(text)
            .map_err(|e| Refusal::InvalidSchema(format!("the schema's text is no JSON: {e}")))?;
        apache_avro::Schema::parse(&json).map_err(|e| Refusal::InvalidSchema(e.to_string()))?;
        Ok(Self::of(json))
    }
    /// Takes JSON that is known to be a schema.
    pub(super) fn of(json: Value) -> Self {
        Self { text: json.to_string().into(), canonical: sorted(&json).to_string(), json }
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut names: Vec<_> = members.iter().collect();
            names.sort_by_key(|(name, _)| *name);
            Value::Object(names.into_iter().map(|(name, v)| (name.clone(), sorted(v))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
