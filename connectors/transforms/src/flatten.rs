//! `flatten`: Kafka Connect's `Flatten`. Fields of STRUCTs become fields of the row, their names joined.
//!
//! Lists and maps stay as they are, and so do STRUCTs that are one value: decimals of variable scale, geometries. A field of a
//! STRUCT that may be null may be null.

use std::sync::Arc;

use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, Semantic, ValueRef};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    fields::ON_FIELD,
    refused,
    rows::{On, OverRows, Planning, RowStep, Surroundings, like, with_optional},
    settings::parse,
    unavailable::is_placeholder,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "flatten",
    fields: &[
        FieldDoc::optional(
            "delimiter",
            FieldKind::Text,
            Some("_"),
            "What stands between the names. Avro takes letters, digits and `_` in names; Connect's default is `.`, which its converter \
             turns into `_`.",
            "__",
        ),
        ON_FIELD,
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            #[serde(default = "underscore")]
            delimiter: String,
            #[serde(default)]
            on: On,
        }
        let settings: Settings = parse(settings)?;
        if settings.delimiter.is_empty()
            || !settings.delimiter.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            let mut errors = ConfigErrors::default();
            errors.push("delimiter", "must be made of letters, digits and `_`, which Avro takes in names");
            return Err(errors);
        }
        Ok(OverRows::boxed(Flatten(settings.delimiter), settings.on))
    },
};

fn underscore() -> String {
    "_".to_owned()
}

struct Flatten(String);

/// A field of the old row.
struct Part {
    name: String,
    schema: Arc<Schema>,
    /// The fields of the new row that it becomes; more than itself where it is taken apart.
    names: Vec<String>,
}

impl RowStep for Flatten {
    type Plan = Vec<Part>;

    fn plan(&self, row: &Arc<Schema>) -> Planning<Vec<Part>> {
        if !row.fields().iter().any(|field| is_nested(&field.schema)) {
            return Ok(None);
        }
        let mut leaves = Vec::new();
        let mut parts = Vec::new();
        for field in row.fields() {
            let from = leaves.len();
            self.leaves(&field.name, &field.schema, false, &mut leaves);
            let names = leaves.iter().skip(from).map(|(name, _)| name.clone()).collect();
            parts.push(Part { name: field.name.clone(), schema: Arc::clone(&field.schema), names });
        }
        let mut builder = like(row);
        for (index, (name, schema)) in leaves.iter().enumerate() {
            if leaves.iter().take(index).any(|(other, _)| other == name) {
                let message = format!("two fields would be called `{name}`; choose another `delimiter`");
                return Err(refused("FIELD_EXISTS", message));
            }
            builder = builder.field(name, Arc::clone(schema));
        }
        Ok(Some((builder.build(), parts)))
    }

    fn row<'a>(
        &self,
        parts: &Vec<Part>,
        row: Vec<ValueRef<'a>>,
        around: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError> {
        let mut out = Vec::new();
        for (value, part) in row.into_iter().zip(parts) {
            let nested = is_nested(&part.schema);
            if nested && around.unavailable.contains(&part.name) && is_placeholder(&part.schema, &value) {
                out.extend(part.names.iter().map(|_| ValueRef::Unavailable));
            } else {
                take_apart(&part.schema, value, &mut out);
            }
        }
        Ok(out)
    }

    fn now(&self, parts: &Vec<Part>, column: &str) -> Vec<String> {
        parts.iter().find(|part| part.name == column).map(|part| part.names.clone()).unwrap_or_default()
    }
}

impl Flatten {
    fn leaves(&self, name: &str, schema: &Arc<Schema>, optional: bool, out: &mut Vec<(String, Arc<Schema>)>) {
        if !is_nested(schema) {
            let widened = optional && !schema.is_optional();
            out.push((
                name.to_owned(),
                if widened { with_optional(schema, true) } else { Arc::clone(schema) },
            ));
            return;
        }
        for field in schema.fields() {
            let name = format!("{name}{}{}", self.0, field.name);
            self.leaves(&name, &field.schema, optional || schema.is_optional(), out);
        }
    }
}

/// Whether it is a STRUCT of several values.
fn is_nested(schema: &Schema) -> bool {
    let one_value =
        matches!(schema.semantic(), Semantic::VariableScaleDecimal | Semantic::Point | Semantic::Geometry);
    !schema.fields().is_empty() && !one_value
}

fn take_apart<'a>(schema: &Schema, value: ValueRef<'a>, out: &mut Vec<ValueRef<'a>>) {
    if !is_nested(schema) {
        out.push(value);
        return;
    }
    let mut values = if let ValueRef::Struct(values) = value { values } else { Vec::new() }.into_iter();
    for field in schema.fields() {
        take_apart(&field.schema, values.next().unwrap_or(ValueRef::Null), out);
    }
}

#[cfg(test)]
mod tests;
