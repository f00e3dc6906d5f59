//! The text of an Avro schema, checked once at the door.
//!
//! Two texts are the same schema when their JSON is equal: white space and the order of an object's members do not
//! count, attributes and docs do (Debezium's `connect.*` attributes carry meaning).

use std::{panic::catch_unwind, sync::Arc};

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
        check_names(&json).map_err(Refusal::InvalidSchema)?;
        // Logical types are annotations, which a reader may ignore; the parser refuses defaults of decimals, which are
        // valid Avro (`numeric(10,2) default 0` in Debezium's form), so it is not shown the annotation.
        let plain = without_logical_types(&json);
        // The parser unwraps here and there on what it does not expect; bytes from outside must not bring us down.
        match catch_unwind(|| apache_avro::Schema::parse(&plain)) {
            Ok(Ok(_)) => Ok(Self::of(json)),
            Ok(Err(error)) => Err(Refusal::InvalidSchema(error.to_string())),
            Err(_) => Err(Refusal::InvalidSchema("the Avro parser cannot make sense of it".into())),
        }
    }
    /// Takes JSON that is known to be a schema.
    pub(super) fn of(json: Value) -> Self {
        Self { text: json.to_string().into(), canonical: sorted(&json).to_string(), json }
    }
}

/// Checks the names of types and of references to them, on which `apache_avro` would panic.
fn check_names(schema: &Value) -> Result<(), String> {
    match schema {
        Value::String(reference) => check_name(reference),
        Value::Array(branches) => branches.iter().try_for_each(check_names),
        Value::Object(members) => {
            members.get("name").and_then(Value::as_str).map_or(Ok(()), check_name)?;
            let aliases = members.get("aliases").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            aliases.iter().filter_map(Value::as_str).try_for_each(check_name)?;
            let fields = members.get("fields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let inner = ["type", "items", "values"].into_iter().filter_map(|name| members.get(name));
            inner.chain(fields).try_for_each(check_names)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Err(format!("`{schema}` is no type")),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    let part_is_fine =
        |part: &str| part.starts_with(starts) && part.chars().all(|c| starts(c) || c.is_ascii_digit());
    // A leading dot says: no namespace.
    if name.strip_prefix('.').unwrap_or(name).split('.').all(part_is_fine) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a name: names are made of letters, digits and `_`, do not start with a digit, and are joined \
         with dots",
        name.escape_debug()
    ))
}

fn without_logical_types(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .filter(|(name, _)| *name != "logicalType")
                .map(|(name, v)| (name.clone(), without_logical_types(v)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_logical_types).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_with_a_default_is_a_schema() {
        let text = r#"{"type":"record","name":"R","fields":[{"name":"total","default":"\u0000","type":
            [{"type":"bytes","logicalType":"decimal","precision":10,"scale":2},"null"]}]}"#;
        let schema = SchemaText::parse(text).unwrap();
        assert!(schema.text.contains("logicalType"));
        assert!(
            SchemaText::parse(r#"{"type":"record","name":"R","fields":[{"name":"n","type":"nope"}]}"#)
                .is_err()
        );
    }
}
