//! A Connect schema as Avro JSON, attribute for attribute as Confluent's `AvroData` writes it (`connect.meta.data=true`).
//!
//! What comes out is always a valid Avro schema: names are adjusted, a struct's second use refers to its first, and
//! structs that share a name but not their fields get names of their own, where `AvroData` would write a schema that
//! no parser accepts. A second use that differs only in its default refers to the first as well; its default stands on
//! the field.

use rowstream_api::{Schema, SchemaType, Semantic, Value};
use serde_json::{Map, Value as Json, json};

use crate::{
    layout::has_default,
    names::{field_name, full_name, split_full_name},
};

/// Precision of decimals that state none, as in `AvroData`.
pub(crate) const DECIMAL_PRECISION_DEFAULT: i64 = 64;
/// Connect's parameter for a decimal's precision.
pub(crate) const DECIMAL_PRECISION_PARAMETER: &str = "connect.decimal.precision";
/// The Avro name of a struct without a name.
pub(crate) const UNNAMED_RECORD: &str = "io.confluent.connect.avro.ConnectDefault";

/// The Avro schema of `schema`, as compact JSON. Deterministic.
#[must_use]
pub fn to_avro_json(schema: &Schema) -> String {
    type_json(schema, None, &mut Names::default()).to_string()
}

/// The records defined so far.
#[derive(Default)]
struct Names<'a> {
    defined: Vec<(String, &'a Schema)>,
}

/// What to write for a use of a record.
enum Use {
    Define(String),
    Refer(String),
}

impl<'a> Names<'a> {
    fn resolve(&mut self, schema: &'a Schema, enclosing: Option<&str>) -> Use {
        let wanted = full_name(schema.name().unwrap_or(UNNAMED_RECORD));
        for number in 1.. {
            let name = if number == 1 { wanted.clone() } else { format!("{wanted}{number}") };
            // A name without a namespace can't be referred to from inside of one.
            let reachable = enclosing.is_none() || name.contains('.');
            if is_type_word(&name) {
                continue;
            }
            match self.defined.iter().find(|(defined, _)| *defined == name) {
                Some((_, first)) if reachable && same_record(first, schema) => return Use::Refer(name),
                Some(_) => {}
                None => {
                    self.defined.push((name.clone(), schema));
                    return Use::Define(name);
                }
            }
        }
        Use::Define(wanted)
    }
}

fn same_record(a: &Schema, b: &Schema) -> bool {
    a.name() == b.name()
        && a.version() == b.version()
        && a.doc() == b.doc()
        && a.parameters() == b.parameters()
        && a.ty() == b.ty()
}

/// Names that Avro reads as its own types.
fn is_type_word(name: &str) -> bool {
    matches!(
        name,
        "null"
            | "boolean"
            | "int"
            | "long"
            | "float"
            | "double"
            | "bytes"
            | "string"
            | "record"
            | "error"
            | "enum"
            | "array"
            | "map"
            | "fixed"
    )
}

fn type_json<'a>(schema: &'a Schema, enclosing: Option<&str>, names: &mut Names<'a>) -> Json {
    let value = value_json(schema, enclosing, names);
    match (schema.is_optional(), has_default(schema)) {
        (false, _) => value,
        (true, false) => json!(["null", value]),
        (true, true) => json!([value, "null"]),
    }
}

fn value_json<'a>(schema: &'a Schema, enclosing: Option<&str>, names: &mut Names<'a>) -> Json {
    let mut out = Map::new();
    let mut connect_type = None;
    match schema.ty() {
        SchemaType::Boolean => put(&mut out, "type", "boolean"),
        SchemaType::Int8 => {
            put(&mut out, "type", "int");
            connect_type = Some("int8");
        }
        SchemaType::Int16 => {
            put(&mut out, "type", "int");
            connect_type = Some("int16");
        }
        SchemaType::Int32 => put(&mut out, "type", "int"),
        SchemaType::Int64 => put(&mut out, "type", "long"),
        SchemaType::Float32 => put(&mut out, "type", "float"),
        SchemaType::Float64 => put(&mut out, "type", "double"),
        SchemaType::String => put(&mut out, "type", "string"),
        SchemaType::Bytes => put(&mut out, "type", "bytes"),
        SchemaType::Array(item) => {
            put(&mut out, "type", "array");
            put(&mut out, "items", type_json(item, enclosing, names));
        }
        SchemaType::Map(item) => {
            put(&mut out, "type", "map");
            put(&mut out, "values", type_json(item, enclosing, names));
        }
        SchemaType::Struct(_) => match names.resolve(schema, enclosing) {
            Use::Refer(name) => {
                let (namespace, simple) = split_full_name(&name);
                return Json::from(if namespace == enclosing && !is_type_word(simple) {
                    simple
                } else {
                    &name
                });
            }
            Use::Define(name) => put_record(schema, &name, (enclosing, names), &mut out),
        },
    }
    let decimal = decimal_of(schema);
    if let Some((scale, precision)) = decimal {
        put(&mut out, "scale", scale);
        put(&mut out, "precision", precision);
    }
    put_connect_attributes(schema, connect_type, &mut out);
    if let Some(logical) = logical_type(schema, decimal) {
        put(&mut out, "logicalType", logical);
    }
    match out.get("type") {
        Some(name) if out.len() == 1 => name.clone(),
        Some(_) | None => Json::Object(out),
    }
}

fn put(out: &mut Map<String, Json>, key: &str, value: impl Into<Json>) {
    out.insert(key.to_owned(), value.into());
}

fn put_record<'a>(
    schema: &'a Schema,
    name: &str,
    (enclosing, names): (Option<&str>, &mut Names<'a>),
    out: &mut Map<String, Json>,
) {
    let (namespace, simple) = split_full_name(name);
    put(out, "type", "record");
    put(out, "name", simple);
    if namespace != enclosing {
        put(out, "namespace", namespace.unwrap_or(""));
    }
    let mut taken: Vec<String> = Vec::new();
    let mut fields = Vec::new();
    for field in schema.fields() {
        let adjusted = field_name(&field.name);
        let mut name = adjusted.clone();
        let mut number = 1;
        while taken.contains(&name) {
            number += 1;
            name = format!("{adjusted}_{number}");
        }
        taken.push(name.clone());
        let mut out = Map::new();
        put(&mut out, "name", name);
        put(&mut out, "type", type_json(&field.schema, namespace, names));
        if has_default(&field.schema) {
            if let Some(default) =
                field.schema.default().and_then(|d| default_json(&field.schema, d, NotFinite::Refuse))
            {
                put(&mut out, "default", default);
            }
        } else if field.schema.is_optional() {
            put(&mut out, "default", Json::Null);
        }
        fields.push(Json::Object(out));
    }
    put(out, "fields", fields);
}

fn put_connect_attributes(schema: &Schema, connect_type: Option<&str>, out: &mut Map<String, Json>) {
    if let Some(doc) = schema.doc() {
        put(out, "connect.doc", doc);
    }
    if let Some(version) = schema.version() {
        put(out, "connect.version", version);
    }
    if !schema.parameters().is_empty() {
        let parameters: Map<_, _> = schema
            .parameters()
            .iter()
            .map(|(key, value)| (key.clone(), Json::from(value.as_str())))
            .collect();
        put(out, "connect.parameters", parameters);
    }
    if has_default(schema)
        && let Some(default) = schema.default().and_then(|d| default_json(schema, d, NotFinite::Spell))
    {
        put(out, "connect.default", default);
    }
    if let Some(name) = schema.name() {
        let is_struct = matches!(schema.ty(), SchemaType::Struct(_));
        put(out, "connect.name", if is_struct { full_name(name) } else { name.to_owned() });
    }
    if let Some(connect_type) = connect_type {
        put(out, "connect.type", connect_type);
    }
}

/// Scale and precision of a `Decimal`.
fn decimal_of(schema: &Schema) -> Option<(i32, i64)> {
    let (Semantic::Decimal { scale }, SchemaType::Bytes) = (schema.semantic(), schema.ty()) else {
        return None;
    };
    let stated = schema.parameter(DECIMAL_PRECISION_PARAMETER).and_then(|precision| precision.parse().ok());
    Some((scale, stated.unwrap_or(DECIMAL_PRECISION_DEFAULT)))
}

fn logical_type(schema: &Schema, decimal: Option<(i32, i64)>) -> Option<&'static str> {
    if let Some((scale, precision)) = decimal {
        // Avro knows no negative scale and none above the precision; readers of ours find it in the parameters.
        return (scale >= 0 && i64::from(scale) <= precision).then_some("decimal");
    }
    match (schema.name()?, schema.ty()) {
        ("org.apache.kafka.connect.data.Date", SchemaType::Int32) => Some("date"),
        ("org.apache.kafka.connect.data.Time", SchemaType::Int32) => Some("time-millis"),
        ("org.apache.kafka.connect.data.Timestamp", SchemaType::Int64) => Some("timestamp-millis"),
        _ => None,
    }
}

/// What becomes of NaN and infinities, which JSON numbers cannot be.
#[derive(Clone, Copy)]
enum NotFinite {
    /// A string in `connect.default`, which only we read.
    Spell,
    /// No default at all where Avro would check its type.
    Refuse,
}

/// A default as Avro writes it: bytes as a string of ISO 8859-1 characters, structs as objects.
fn default_json(schema: &Schema, value: &Value, not_finite: NotFinite) -> Option<Json> {
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::from(*flag),
        Value::Int(number) => Json::from(*number),
        Value::Float(number) if !number.is_finite() => match not_finite {
            NotFinite::Spell if number.is_nan() => Json::from("NaN"),
            NotFinite::Spell => Json::from(if *number > 0.0 { "Infinity" } else { "-Infinity" }),
            NotFinite::Refuse => return None,
        },
        Value::Float(number) => Json::from(shortest(schema, *number)),
        Value::Str(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => Json::from(bytes.iter().map(|&byte| char::from(byte)).collect::<String>()),
        Value::Array(items) => {
            let SchemaType::Array(item) = schema.ty() else { return None };
            Json::Array(
                items.iter().map(|value| default_json(item, value, not_finite)).collect::<Option<_>>()?,
            )
        }
        Value::Struct(values) => {
            let fields = schema.fields().iter().zip(values);
            let object = fields.map(|(field, value)| {
                Some((field_name(&field.name), default_json(&field.schema, value, not_finite)?))
            });
            Json::Object(object.collect::<Option<_>>()?)
        }
    })
}

/// A FLOAT32 in the few digits that say which it is, not in the seventeen of the double it was widened to.
#[expect(clippy::cast_possible_truncation, reason = "a FLOAT32's default is an f32 that was widened")]
fn shortest(schema: &Schema, number: f64) -> f64 {
    match schema.ty() {
        SchemaType::Float32 => (number as f32).to_string().parse().unwrap_or(number),
        SchemaType::Boolean
        | SchemaType::Int8
        | SchemaType::Int16
        | SchemaType::Int32
        | SchemaType::Int64
        | SchemaType::Float64
        | SchemaType::String
        | SchemaType::Bytes
        | SchemaType::Array(_)
        | SchemaType::Map(_)
        | SchemaType::Struct(_) => number,
    }
}
