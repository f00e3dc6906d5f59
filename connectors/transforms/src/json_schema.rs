//! A JSON text as a struct, whose schema follows from the text: what Debezium's `EventRouter` does with a payload.
//!
//! Equal shapes give one and the same schema, so that whoever encodes compiles a plan for each shape and not for each record.

use std::{collections::HashMap, sync::Arc};

use rowstream_api::{Schema, SchemaBuilder, SchemaType, ValueRef};
use serde::Deserialize;
use serde_json::Value;

/// Shapes that are remembered; payloads with more of them have names of things as keys and are better left as text.
const SHAPES_MAX: usize = 1024;

/// What to do where a text does not tell a type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonRules {
    pub(crate) nulls: Nulls,
    pub(crate) empty_arrays: EmptyArrays,
}

/// `table_json_payload_null_behavior`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Nulls {
    Ignore,
    OptionalBytes,
}

/// `table_json_payload_empty_array_behavior`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EmptyArrays {
    Ignore,
    OptionalString,
}

/// The schemas made so far, by their shape.
#[derive(Default)]
pub(crate) struct Schemas(HashMap<String, Arc<Schema>>);

/// The struct or array that a text is; none when it is something else, or an array holds things of several types.
pub(crate) fn expand(
    text: &str,
    name: &str,
    rules: JsonRules,
    schemas: &mut Schemas,
) -> Option<(Arc<Schema>, ValueRef<'static>)> {
    let json: Value = serde_json::from_str(text).ok()?;
    if !json.is_object() && !json.is_array() {
        return None;
    }
    let shape = shape_of(&json, rules)??;
    let mut written = String::new();
    shape.write(&mut written);
    if schemas.0.len() >= SHAPES_MAX && !schemas.0.contains_key(&written) {
        schemas.0.clear();
    }
    let schema = schemas.0.entry(written).or_insert_with(|| shape.schema(name, false));
    Some((Arc::clone(schema), value_of(json, &shape)))
}

/// A type, as far as JSON tells.
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Boolean,
    Int32,
    Int64,
    Float64,
    Text,
    Bytes,
    Array(Box<Shape>),
    Struct(Vec<(String, Shape)>),
}

/// The type of a value: an inner none where the value does not tell, an outer one where it contradicts itself.
#[expect(clippy::option_option, reason = "two reasons to have no type, told apart by the caller")]
fn shape_of(json: &Value, rules: JsonRules) -> Option<Option<Shape>> {
    Some(match json {
        Value::Null => (rules.nulls == Nulls::OptionalBytes).then_some(Shape::Bytes),
        Value::Bool(_) => Some(Shape::Boolean),
        Value::Number(number) => Some(match number.as_i64() {
            Some(number) if i32::try_from(number).is_ok() => Shape::Int32,
            Some(_) => Shape::Int64,
            None => Shape::Float64,
        }),
        Value::String(_) => Some(Shape::Text),
        Value::Array(items) if items.iter().all(Value::is_null) => {
            let text = rules.empty_arrays == EmptyArrays::OptionalString && items.is_empty();
            text.then(|| Shape::Array(Box::new(Shape::Text)))
        }
        Value::Array(items) => {
            let mut merged: Option<Shape> = None;
            for item in items.iter().filter(|item| !item.is_null()) {
                let Some(shape) = shape_of(item, rules)? else { continue };
                merged = Some(match merged {
                    Some(known) => merge(known, shape)?,
                    None => shape,
                });
            }
            merged.map(|shape| Shape::Array(Box::new(shape)))
        }
        Value::Object(entries) => {
            let mut fields = Vec::new();
            for (name, value) in entries {
                if let Some(shape) = shape_of(value, rules)? {
                    fields.push((name.clone(), shape));
                }
            }
            Some(Shape::Struct(fields))
        }
    })
}

/// A type that holds both; none when there is none.
fn merge(a: Shape, b: Shape) -> Option<Shape> {
    use Shape as S;
    Some(match (a, b) {
        (a, b) if a == b => a,
        (S::Int32, S::Int64) | (S::Int64, S::Int32) => S::Int64,
        (S::Int32 | S::Int64, S::Float64) | (S::Float64, S::Int32 | S::Int64) => S::Float64,
        // Bytes stand for null here: any other type says more.
        (S::Bytes, known) | (known, S::Bytes) => known,
        (S::Array(a), S::Array(b)) => S::Array(Box::new(merge(*a, *b)?)),
        (S::Struct(mut fields), S::Struct(others)) => {
            for (name, other) in others {
                match fields.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, shape)) => *shape = merge(shape.clone(), other)?,
                    None => fields.push((name, other)),
                }
            }
            S::Struct(fields)
        }
        _ => return None,
    })
}

impl Shape {
    /// A text that only equal shapes have.
    fn write(&self, out: &mut String) {
        match self {
            Self::Boolean => out.push('z'),
            Self::Int32 => out.push('i'),
            Self::Int64 => out.push('l'),
            Self::Float64 => out.push('d'),
            Self::Text => out.push('s'),
            Self::Bytes => out.push('b'),
            Self::Array(item) => {
                out.push('[');
                item.write(out);
            }
            Self::Struct(fields) => {
                out.push('{');
                for (name, shape) in fields {
                    out.push_str(&format!("{}:{name}", name.len()));
                    shape.write(out);
                }
                out.push('}');
            }
        }
    }

    fn schema(&self, name: &str, optional: bool) -> Arc<Schema> {
        let plain = |ty| SchemaBuilder::new(ty).optional_if(optional).build();
        match self {
            Self::Boolean => plain(SchemaType::Boolean),
            Self::Int32 => plain(SchemaType::Int32),
            Self::Int64 => plain(SchemaType::Int64),
            Self::Float64 => plain(SchemaType::Float64),
            Self::Text => plain(SchemaType::String),
            Self::Bytes => plain(SchemaType::Bytes),
            Self::Array(item) => plain(SchemaType::Array(item.schema(name, true))),
            Self::Struct(fields) => {
                let start = SchemaBuilder::structure().name(name).optional_if(optional);
                let fields = fields.iter();
                fields
                    .fold(start, |builder, (field, shape)| {
                        builder.field(field, shape.schema(&format!("{name}.{field}"), true))
                    })
                    .build()
            }
        }
    }
}

fn value_of(json: Value, shape: &Shape) -> ValueRef<'static> {
    match (shape, json) {
        (Shape::Boolean, Value::Bool(truth)) => ValueRef::Bool(truth),
        (Shape::Int32 | Shape::Int64, Value::Number(number)) => {
            number.as_i64().map_or(ValueRef::Null, ValueRef::Int)
        }
        (Shape::Float64, Value::Number(number)) => number.as_f64().map_or(ValueRef::Null, ValueRef::Float64),
        (Shape::Text, Value::String(text)) => ValueRef::Str(text.into()),
        (Shape::Array(item), Value::Array(items)) => {
            ValueRef::Array(items.into_iter().map(|value| value_of(value, item)).collect())
        }
        (Shape::Struct(fields), Value::Object(mut entries)) => {
            let field = |(name, shape): &(String, Shape)| {
                entries.get_mut(name).map_or(ValueRef::Null, |value| value_of(value.take(), shape))
            };
            ValueRef::Struct(fields.iter().map(field).collect())
        }
        (_, _) => ValueRef::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowstream_api::json::write_json;

    const RULES: JsonRules = JsonRules { nulls: Nulls::Ignore, empty_arrays: EmptyArrays::Ignore };

    fn expanded(text: &str, rules: JsonRules) -> Option<String> {
        let (schema, value) = expand(text, "payload", rules, &mut Schemas::default())?;
        let mut out = Vec::new();
        write_json(&schema, &value, &mut out).unwrap();
        Some(String::from_utf8(out).unwrap())
    }

    /// `io.debezium.transforms.outbox.JsonSchemaData`
    #[test]
    fn types_follow_from_the_text() {
        let text = r#"{"id":1,"big":3000000000,"x":1.5,"ok":true,"s":"a","none":null,"empty":[],"list":[1,3000000000],"in":{"a":[{"b":1},{"c":"d"}]}}"#;
        let (schema, _) = expand(text, "payload", RULES, &mut Schemas::default()).unwrap();
        let types: Vec<(String, String)> = schema
            .fields()
            .iter()
            .map(|f| (f.name.clone(), crate::rows::type_word(&f.schema).to_owned()))
            .collect();
        let expected = [
            ("id", "INT32"),
            ("big", "INT64"),
            ("x", "FLOAT64"),
            ("ok", "BOOLEAN"),
            ("s", "STRING"),
            ("list", "ARRAY"),
            ("in", "STRUCT"),
        ];
        assert_eq!(types, expected.map(|(n, t)| (n.to_owned(), t.to_owned())));
        assert_eq!(schema.name(), Some("payload"));
        assert_eq!(schema.field("in").unwrap().1.schema.name(), Some("payload.in"));
        assert_eq!(
            expanded(text, RULES).unwrap(),
            r#"{"id":1,"big":3000000000,"x":1.5,"ok":true,"s":"a","list":[1,3000000000],"in":{"a":[{"b":1,"c":null},{"b":null,"c":"d"}]}}"#
        );
        let rules = JsonRules { nulls: Nulls::OptionalBytes, empty_arrays: EmptyArrays::OptionalString };
        assert_eq!(expanded(r#"{"a":null,"b":[],"c":[null]}"#, rules).unwrap(), r#"{"a":null,"b":[]}"#);
        assert_eq!(expanded("[1,2.5]", RULES).unwrap(), "[1.0,2.5]");
    }

    #[test]
    fn what_is_no_struct_stays_text() {
        for text in ["", "x", "7", "\"a\"", "{", "[1,\"a\"]", r#"{"a":[1,{}]}"#, "null", "[]"] {
            assert_eq!(expanded(text, RULES), None, "{text}");
        }
    }

    #[test]
    fn one_shape_is_one_schema() {
        let mut schemas = Schemas::default();
        let mut schema = |text| expand(text, "payload", RULES, &mut schemas).unwrap().0;
        let first = schema(r#"{"a":1,"b":"x"}"#);
        assert!(Arc::ptr_eq(&first, &schema(r#"{"a":2,"b":"y"}"#)));
        assert!(!Arc::ptr_eq(&first, &schema(r#"{"a":2}"#)));
        assert!(!Arc::ptr_eq(&first, &schema(r#"{"a":2,"b":1}"#)));
    }
}
