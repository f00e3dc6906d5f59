//! Any Avro schema as a Connect schema: `AvroData`'s rules in reverse, for our schemas and for foreign ones.
//!
//! Whoever wrote the schema is not trusted: nesting is bounded by the JSON parser, recursive schemas are refused, and so
//! is one whose named types multiply into more than a hundred thousand fields.

use std::{collections::HashMap, sync::Arc};

use rowstream_api::{RecordError, Schema, SchemaBuilder, SchemaType, Value};
use serde_json::{Map, Value as Json};

use crate::{
    layout::Layout,
    schema_json::{DECIMAL_PRECISION_DEFAULT, DECIMAL_PRECISION_PARAMETER, UNNAMED_RECORD},
};

/// The most types one schema may hold, each use of a named one counted whole.
const NODES_MAX: usize = 100_000;

/// The Connect schema that an Avro schema stands for, with names, versions, parameters and defaults.
///
/// # Errors
/// `AVRO_SCHEMA`: no Avro schema, or one that Connect's model cannot hold (unions of more than null and one type,
/// recursion), naming the field.
pub fn from_avro_json(json: &str) -> Result<Arc<Schema>, RecordError> {
    Ok(parse_schema(json)?.schema)
}

/// A type and its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(crate) schema: Arc<Schema>,
    pub(crate) layout: Layout,
    nodes: usize,
}

pub(crate) fn parse_schema(json: &str) -> Result<Parsed, RecordError> {
    let json: Json = serde_json::from_str(json).map_err(|error| refused(format!("not JSON: {error}")))?;
    Parser::default().any(&json, "")
}

fn refused(message: impl Into<String>) -> RecordError {
    RecordError::value("AVRO_SCHEMA", format!("Avro schema: {}", message.into()))
}

#[derive(Default)]
struct Parser {
    /// By full name; `None` while the type's own fields are read. Required and without default: those belong to a use.
    named: HashMap<String, Option<Parsed>>,
}

impl Parser {
    fn any(&mut self, json: &Json, namespace: &str) -> Result<Parsed, RecordError> {
        match json {
            Json::String(name) => self.by_name(name, &Map::new(), namespace),
            Json::Array(branches) => self.union(branches, namespace),
            Json::Object(object) => match object.get("type") {
                Some(Json::String(name)) => self.by_name(name, object, namespace),
                Some(nested @ (Json::Object(_) | Json::Array(_))) => self.any(nested, namespace),
                Some(Json::Null | Json::Bool(_) | Json::Number(_)) | None => {
                    Err(refused("a type without a `type`"))
                }
            },
            Json::Null | Json::Bool(_) | Json::Number(_) => {
                Err(refused("expected a type's name, a type or a union"))
            }
        }
    }

    fn union(&mut self, branches: &[Json], namespace: &str) -> Result<Parsed, RecordError> {
        let is_null = |json: &Json| {
            json.as_str() == Some("null") || json.get("type").and_then(Json::as_str) == Some("null")
        };
        let (null_branch, value) = match branches {
            [null, value] if is_null(null) && !is_null(value) => (0, value),
            [value, null] if is_null(null) && !is_null(value) => (1, value),
            _ => {
                let message =
                    "a union of other than `null` and one type is not supported; Connect has no such type";
                return Err(refused(message));
            }
        };
        let parsed = self.any(value, namespace)?;
        if let Layout::Optional { .. } = parsed.layout {
            return Err(refused("a union directly inside a union"));
        }
        let schema = parsed.schema.to_builder().optional().build();
        let layout = Layout::Optional { null_branch, value: Arc::new(parsed.layout) };
        Ok(Parsed { schema, layout, nodes: parsed.nodes })
    }

    fn by_name(
        &mut self,
        name: &str,
        object: &Map<String, Json>,
        namespace: &str,
    ) -> Result<Parsed, RecordError> {
        let (ty, layout) = match name {
            "boolean" => (SchemaType::Boolean, Layout::Boolean),
            "int" => match object.get("connect.type").and_then(Json::as_str) {
                Some("int8") => (SchemaType::Int8, Layout::Int),
                Some("int16") => (SchemaType::Int16, Layout::Int),
                Some(_) | None => (SchemaType::Int32, Layout::Int),
            },
            "long" => (SchemaType::Int64, Layout::Long),
            "float" => (SchemaType::Float32, Layout::Float),
            "double" => (SchemaType::Float64, Layout::Double),
            "bytes" => (SchemaType::Bytes, Layout::Bytes),
            "string" => (SchemaType::String, Layout::Text),
            "array" => return self.array(object, namespace),
            "map" => return self.map(object, namespace),
            "record" | "error" => return self.record(object, namespace),
            "fixed" | "enum" => return self.fixed_or_enum(name, object, namespace),
            "null" => return Err(refused("the type `null` is supported in a union only")),
            _ => return self.reference(name, namespace),
        };
        Ok(Parsed { schema: attributes(SchemaBuilder::new(ty), object)?, layout, nodes: 1 })
    }

    fn reference(&self, name: &str, namespace: &str) -> Result<Parsed, RecordError> {
        let full = full_name_of(name, None, namespace);
        let found = self.named.get(&full).or_else(|| self.named.get(name));
        match found {
            Some(Some(parsed)) => Ok(parsed.clone()),
            Some(None) => Err(refused(format!("`{name}` contains itself, which Connect's types cannot"))),
            None => Err(refused(format!("`{name}` is not defined"))),
        }
    }

    fn array(&mut self, object: &Map<String, Json>, namespace: &str) -> Result<Parsed, RecordError> {
        let items = object.get("items").ok_or_else(|| refused("an array without `items`"))?;
        let item = self.any(items, namespace)?;
        let schema = attributes(SchemaBuilder::new(SchemaType::Array(item.schema)), object)?;
        Ok(Parsed { schema, layout: Layout::array_of(item.layout), nodes: item.nodes + 1 })
    }

    fn map(&mut self, object: &Map<String, Json>, namespace: &str) -> Result<Parsed, RecordError> {
        let values = object.get("values").ok_or_else(|| refused("a map without `values`"))?;
        let item = self.any(values, namespace)?;
        let schema = attributes(SchemaBuilder::new(SchemaType::Map(item.schema)), object)?;
        Ok(Parsed { schema, layout: Layout::map_of(item.layout), nodes: item.nodes + 1 })
    }

    fn record(&mut self, object: &Map<String, Json>, enclosing: &str) -> Result<Parsed, RecordError> {
        let full = self.define(object, enclosing)?;
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let fields = object.get("fields").and_then(Json::as_array);
        let fields = fields.ok_or_else(|| refused(format!("record `{full}` without `fields`")))?;
        let mut builder = SchemaBuilder::structure();
        if !full.starts_with(UNNAMED_RECORD) {
            builder = builder.name(&full);
        }
        let mut layouts = Vec::new();
        let mut nodes = 1;
        for field in fields {
            let name = field.get("name").and_then(Json::as_str);
            let name = name.ok_or_else(|| refused(format!("a field of `{full}` without a name")))?;
            let parsed =
                self.field(field, &namespace).map_err(|error| error.in_column(&format!("{full}.{name}")))?;
            nodes += parsed.nodes;
            if nodes > NODES_MAX {
                return Err(refused(format!(
                    "`{full}` holds more than {NODES_MAX} fields, nested ones counted"
                )));
            }
            builder = builder.field(name, parsed.schema);
            layouts.push(parsed.layout);
        }
        let layout = Layout::Record(layouts.into());
        let schema = without_default(builder.clone(), object)?;
        self.named.insert(full, Some(Parsed { schema, layout: layout.clone(), nodes }));
        Ok(Parsed { schema: attributes(builder, object)?, layout, nodes })
    }

    fn field(&mut self, field: &Json, namespace: &str) -> Result<Parsed, RecordError> {
        let ty = field.get("type").ok_or_else(|| refused("a field without a type"))?;
        let mut parsed = self.any(ty, namespace)?;
        let default = match field.get("default") {
            None | Some(Json::Null) => None,
            Some(json) => default_value(&parsed.schema, json)?,
        };
        if let Some(default) = default {
            parsed.schema = parsed.schema.to_builder().default_value(default).build();
        }
        Ok(parsed)
    }

    fn fixed_or_enum(
        &mut self,
        kind: &str,
        object: &Map<String, Json>,
        enclosing: &str,
    ) -> Result<Parsed, RecordError> {
        let full = self.define(object, enclosing)?;
        let (ty, layout) = if kind == "fixed" {
            let size = object.get("size").and_then(Json::as_u64).and_then(|size| usize::try_from(size).ok());
            let size = size.ok_or_else(|| refused(format!("fixed `{full}` without a size")))?;
            (SchemaType::Bytes, Layout::Fixed(size))
        } else {
            let symbols = object.get("symbols").and_then(Json::as_array);
            let symbols: Option<Vec<String>> =
                symbols.and_then(|list| list.iter().map(|s| s.as_str().map(str::to_owned)).collect());
            let symbols = symbols.ok_or_else(|| refused(format!("enum `{full}` without symbols")))?;
            (SchemaType::String, Layout::Enum(symbols.into()))
        };
        let builder = SchemaBuilder::new(ty);
        let schema = without_default(builder.clone(), object)?;
        self.named.insert(full, Some(Parsed { schema, layout: layout.clone(), nodes: 1 }));
        Ok(Parsed { schema: attributes(builder, object)?, layout, nodes: 1 })
    }

    /// Reserves the name of a type about to be read.
    fn define(&mut self, object: &Map<String, Json>, enclosing: &str) -> Result<String, RecordError> {
        let name = object.get("name").and_then(Json::as_str);
        let name = name.ok_or_else(|| refused("a record, enum or fixed without a name"))?;
        let full = full_name_of(name, object.get("namespace").and_then(Json::as_str), enclosing);
        if self.named.insert(full.clone(), None).is_some() {
            return Err(refused(format!("`{full}` is defined twice")));
        }
        Ok(full)
    }
}

fn full_name_of(name: &str, namespace: Option<&str>, enclosing: &str) -> String {
    match namespace.unwrap_or(enclosing) {
        _ if name.contains('.') => name.to_owned(),
        "" => name.to_owned(),
        namespace => format!("{namespace}.{name}"),
    }
}

/// Finishes a type with what its attributes say.
fn attributes(builder: SchemaBuilder, object: &Map<String, Json>) -> Result<Arc<Schema>, RecordError> {
    let schema = without_default(builder, object)?;
    let default = match object.get("connect.default") {
        None | Some(Json::Null) => None,
        Some(json) => default_value(&schema, json)?,
    };
    Ok(match default {
        Some(default) => schema.to_builder().default_value(default).build(),
        None => schema,
    })
}

fn without_default(
    mut builder: SchemaBuilder,
    object: &Map<String, Json>,
) -> Result<Arc<Schema>, RecordError> {
    let text = |key: &str| object.get(key).and_then(Json::as_str);
    if let Some(name) = text("connect.name") {
        builder = builder.name(name);
    } else if let Some(logical) = text("logicalType") {
        builder = logical_attributes(builder, logical, object);
    }
    if let Some(version) = object.get("connect.version") {
        let number = version.as_i64().and_then(|version| i32::try_from(version).ok());
        builder = builder.version(number.ok_or_else(|| refused("`connect.version` is not a number"))?);
    }
    if let Some(doc) = text("connect.doc").or_else(|| text("doc")) {
        builder = builder.doc(doc);
    }
    match object.get("connect.parameters") {
        None => {}
        Some(Json::Object(parameters)) => {
            for (key, value) in parameters {
                let value = value
                    .as_str()
                    .ok_or_else(|| refused("a value of `connect.parameters` is not a string"))?;
                builder = builder.parameter(key, value);
            }
        }
        Some(Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_)) => {
            return Err(refused("`connect.parameters` is not an object"));
        }
    }
    Ok(builder.build())
}

/// What a foreign schema's `logicalType` means in Connect's words; unknown ones are carried as their plain type.
fn logical_attributes(builder: SchemaBuilder, logical: &str, object: &Map<String, Json>) -> SchemaBuilder {
    let ty = object.get("type").and_then(Json::as_str).unwrap_or_default();
    let name = match (logical, ty) {
        ("decimal", "bytes" | "fixed") => {
            let number = |key: &str| object.get(key).and_then(Json::as_i64);
            let scale = number("scale").unwrap_or(0);
            let mut decimal = builder
                .name("org.apache.kafka.connect.data.Decimal")
                .version(1)
                .parameter("scale", scale.to_string());
            if let Some(precision) = number("precision").filter(|&p| p != DECIMAL_PRECISION_DEFAULT) {
                decimal = decimal.parameter(DECIMAL_PRECISION_PARAMETER, precision.to_string());
            }
            return decimal;
        }
        ("date", "int") => "org.apache.kafka.connect.data.Date",
        ("time-millis", "int") => "org.apache.kafka.connect.data.Time",
        ("timestamp-millis" | "local-timestamp-millis", "long") => "org.apache.kafka.connect.data.Timestamp",
        ("time-micros", "long") => "io.debezium.time.MicroTime",
        ("timestamp-micros" | "local-timestamp-micros", "long") => "io.debezium.time.MicroTimestamp",
        ("uuid", "string") => "io.debezium.data.Uuid",
        _ => return builder,
    };
    builder.name(name).version(1)
}

/// A default in Avro's JSON; `None` for maps, which [`Value`] does not hold.
fn default_value(schema: &Schema, json: &Json) -> Result<Option<Value>, RecordError> {
    let wrong = || refused(format!("the default is not a value of its type {:?}", kind_of(schema)));
    let value = match schema.ty() {
        _ if json.is_null() => Some(Value::Null),
        SchemaType::Boolean => json.as_bool().map(Value::Bool),
        SchemaType::Int8 | SchemaType::Int16 | SchemaType::Int32 | SchemaType::Int64 => {
            json.as_i64().map(Value::Int)
        }
        SchemaType::Float32 | SchemaType::Float64 => match json.as_str() {
            Some("NaN") => Some(Value::Float(f64::NAN)),
            Some("Infinity") => Some(Value::Float(f64::INFINITY)),
            Some("-Infinity") => Some(Value::Float(f64::NEG_INFINITY)),
            Some(_) | None => json.as_f64().map(|number| Value::Float(narrowed(schema, number))),
        },
        SchemaType::String => json.as_str().map(|text| Value::Str(text.to_owned())),
        SchemaType::Bytes => {
            let bytes = json.as_str().map(|text| text.chars().map(|c| u8::try_from(u32::from(c))).collect());
            bytes.and_then(|bytes: Result<Vec<u8>, _>| bytes.ok()).map(Value::Bytes)
        }
        SchemaType::Map(_) => return Ok(None),
        SchemaType::Array(item) => {
            let items = json.as_array().ok_or_else(wrong)?;
            let values: Option<Vec<Value>> =
                items.iter().map(|json| default_value(item, json)).collect::<Result<_, _>>()?;
            return Ok(values.map(Value::Array));
        }
        SchemaType::Struct(fields) => {
            let object = json.as_object().ok_or_else(wrong)?;
            let value_of = |field: &rowstream_api::Field| match object.get(&field.name) {
                Some(json) => default_value(&field.schema, json),
                None => Ok(Some(field.schema.default().cloned().unwrap_or(Value::Null))),
            };
            let values: Option<Vec<Value>> = fields.iter().map(value_of).collect::<Result<_, _>>()?;
            return Ok(values.map(Value::Struct));
        }
    };
    value.map(Some).ok_or_else(wrong)
}

/// A FLOAT32's default is the f32 nearest to what is written.
#[expect(clippy::cast_possible_truncation, reason = "rounding to the column's own type is the point")]
fn narrowed(schema: &Schema, number: f64) -> f64 {
    if *schema.ty() == SchemaType::Float32 { f64::from(number as f32) } else { number }
}

fn kind_of(schema: &Schema) -> &'static str {
    crate::encode::type_word(schema)
}
