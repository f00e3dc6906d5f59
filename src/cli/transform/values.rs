//! What stands in a test file, as values of a schema: the opposite of `write_json`, and more lenient, because people write it.
//!
//! Dates and times may be texts (`2026-03-01`, `2026-03-01T12:00:00`) or the numbers that Debezium writes; decimals may be numbers or
//! texts. A value that the schema can't hold is an error with the place of the value, never something near it.

use rowstream_api::{
    Field, Schema, SchemaType, Semantic, ValueRef, calendar::parse_instant, json::UNAVAILABLE_PLACEHOLDER,
};
use rowstream_avro::{AvroDecoder, EncodePlan, write_json};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// Where a value stands, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    /// Path below the value that was read; empty for itself.
    pub(super) path: String,
    /// What was expected.
    pub(super) message: String,
}

impl Misfit {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { path: String::new(), message: message.into() }
    }

    fn below(mut self, name: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }
}

/// What becomes of fields that are not given and may not be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// An error.
    Refused,
    /// As a source leaves out what it does not know: the type's zero.
    Zero,
}

/// The value as the schema has it.
///
/// # Errors
/// It is none of the schema.
pub(super) fn read(schema: &Schema, json: &Value, missing: Missing) -> Result<ValueRef<'static>, Misfit> {
    if json.is_null() {
        return if schema.is_optional() || missing == Missing::Zero {
            Ok(ValueRef::Null)
        } else {
            Err(Misfit::new("is null, which its type does not allow"))
        };
    }
    if json.as_str() == Some(UNAVAILABLE_PLACEHOLDER) {
        return Ok(ValueRef::Unavailable);
    }
    let wanted = |what: &str| Misfit::new(format!("expected {what}, found {}", word(json)));
    match (schema.ty(), json) {
        (SchemaType::Boolean, Value::Bool(truth)) => Ok(ValueRef::Bool(*truth)),
        (SchemaType::Boolean, _) => Err(wanted("true or false")),
        (SchemaType::Int8 | SchemaType::Int16 | SchemaType::Int32 | SchemaType::Int64, json) => {
            integer(schema, json)
        }
        (SchemaType::Float32 | SchemaType::Float64, json) => float(schema, json),
        (SchemaType::String, Value::String(text)) if schema.semantic() == Semantic::ZonedTimestamp => {
            let micros = parse_instant(text);
            micros.map(ValueRef::ZonedMicros).ok_or_else(|| wanted("an instant such as 2026-03-01T12:00:00Z"))
        }
        (SchemaType::String, Value::String(text)) => Ok(ValueRef::Str(text.clone().into())),
        (SchemaType::String, _) => Err(wanted("a text (in quotes, if it looks like a number)")),
        (SchemaType::Bytes, json) if matches!(schema.semantic(), Semantic::Decimal { .. }) => decimal(json),
        (SchemaType::Bytes, json) => {
            use base64::{Engine, engine::general_purpose::STANDARD};
            let bytes = json.as_str().and_then(|text| STANDARD.decode(text).ok());
            bytes.map(|bytes| ValueRef::Bytes(bytes.into())).ok_or_else(|| wanted("bytes in base64"))
        }
        (SchemaType::Array(item), Value::Array(items)) => {
            let item = |(index, json): (usize, &Value)| {
                read(item, json, missing).map_err(|misfit| misfit.below(&format!("[{index}]")))
            };
            items.iter().enumerate().map(item).collect::<Result<_, _>>().map(ValueRef::Array)
        }
        (SchemaType::Array(_), _) => Err(wanted("a list")),
        (SchemaType::Map(item), Value::Object(entries)) => {
            let entry = |(key, json): (&String, &Value)| {
                let value = read(item, json, missing).map_err(|misfit| misfit.below(key))?;
                Ok((key.clone().into(), value))
            };
            entries.iter().map(entry).collect::<Result<_, _>>().map(ValueRef::Map)
        }
        (SchemaType::Map(_), _) => Err(wanted("keys with values")),
        (SchemaType::Struct(_), json) if schema.semantic() == Semantic::VariableScaleDecimal => decimal(json),
        (SchemaType::Struct(fields), Value::Object(given)) => structure(fields, given, missing),
        (SchemaType::Struct(_), _) => Err(wanted("fields with values")),
    }
}

fn structure(
    fields: &[Field],
    given: &Map<String, Value>,
    missing: Missing,
) -> Result<ValueRef<'static>, Misfit> {
    if let Some(unknown) = given.keys().find(|name| !fields.iter().any(|field| field.name == **name)) {
        let names = || fields.iter().map(|field| field.name.as_str());
        let meant = rowstream_api::config::nearest(unknown, names());
        let meant = meant.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
        let known: Vec<&str> = names().collect();
        return Err(Misfit::new(format!("is not in the schema; {meant}known are {}", known.join(", ")))
            .below(unknown));
    }
    let field = |field: &Field| match given.get(&field.name) {
        Some(json) => read(&field.schema, json, missing).map_err(|misfit| misfit.below(&field.name)),
        None if missing == Missing::Zero => Ok(ValueRef::Absent),
        None if field.schema.default().is_some() => Ok(owned(field)),
        None if field.schema.is_optional() => Ok(ValueRef::Null),
        None => Err(Misfit::new("is not given, and its type does not allow null").below(&field.name)),
    };
    fields.iter().map(field).collect::<Result<_, _>>().map(ValueRef::Struct)
}

/// The default of a field; a scalar, in practice.
fn owned(field: &Field) -> ValueRef<'static> {
    use rowstream_api::Value as Default;
    match field.schema.default() {
        Some(Default::Bool(truth)) => ValueRef::Bool(*truth),
        Some(Default::Int(number)) => ValueRef::Int(*number),
        Some(Default::Float(number)) => float_of(&field.schema, *number),
        Some(Default::Str(text)) => ValueRef::Str(text.clone().into()),
        Some(Default::Bytes(bytes)) => ValueRef::Bytes(bytes.clone().into()),
        Some(Default::Null | Default::Array(_) | Default::Struct(_)) | None => ValueRef::Absent,
    }
}

fn integer(schema: &Schema, json: &Value) -> Result<ValueRef<'static>, Misfit> {
    let found = word(json);
    let wanted = |what: &str| Misfit::new(format!("expected {what}, found {found}"));
    let at = |text: &str| parse_instant(text);
    let number = match (schema.semantic(), json) {
        (_, Value::Number(number)) => number.as_i64().ok_or_else(|| wanted("a whole number of 64 bits"))?,
        (Semantic::Date, Value::String(text)) => {
            at(&format!("{text}T00:00:00Z")).ok_or_else(|| wanted("a date such as 2026-03-01"))? / DAY_US
        }
        (
            Semantic::TimeMillis
            | Semantic::TimeMicros
            | Semantic::TimestampMillis
            | Semantic::TimestampMicros,
            Value::String(text),
        ) => {
            let clock = matches!(schema.semantic(), Semantic::TimeMillis | Semantic::TimeMicros);
            let written = if clock { format!("1970-01-01T{text}Z") } else { format!("{text}Z") };
            let micros = at(&written).ok_or_else(|| {
                wanted(if clock { "a time such as 12:00:00" } else { "a time such as 2026-03-01T12:00:00" })
            })?;
            let millis = matches!(schema.semantic(), Semantic::TimeMillis | Semantic::TimestampMillis);
            if millis { micros.div_euclid(1000) } else { micros }
        }
        (_, _) => return Err(wanted("a whole number")),
    };
    let bits: u32 = [(SchemaType::Int8, 8), (SchemaType::Int16, 16), (SchemaType::Int32, 32)]
        .into_iter()
        .find_map(|(ty, bits)| (*schema.ty() == ty).then_some(bits))
        .unwrap_or(64);
    let fits = bits == 64 || (-(1i64 << (bits - 1))..1i64 << (bits - 1)).contains(&number);
    fits.then_some(ValueRef::Int(number)).ok_or_else(|| Misfit::new(format!("is beyond {bits} bits")))
}

fn float(schema: &Schema, json: &Value) -> Result<ValueRef<'static>, Misfit> {
    let number = match json {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let number = number.ok_or_else(|| Misfit::new(format!("expected a number, found {}", word(json))))?;
    Ok(float_of(schema, number))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to the column's width is what a FLOAT32 is")]
fn float_of(schema: &Schema, number: f64) -> ValueRef<'static> {
    if *schema.ty() == SchemaType::Float32 {
        ValueRef::Float32(number as f32)
    } else {
        ValueRef::Float64(number)
    }
}

fn decimal(json: &Value) -> Result<ValueRef<'static>, Misfit> {
    match json {
        Value::Number(number) => Ok(ValueRef::Decimal(number.to_string().into())),
        Value::String(text) => Ok(ValueRef::Decimal(text.clone().into())),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err(Misfit::new(format!("expected a decimal such as \"12.50\", found {}", word(json))))
        }
    }
}

/// What `json` would look like in a record of this schema; none where it is no value of it.
pub(super) fn as_written(schema: &Arc<Schema>, json: &Value) -> Option<Value> {
    let value = read(schema, json, Missing::Refused).ok()?;
    let mut bytes = Vec::new();
    EncodePlan::compile(schema).encode_value(&value, &mut bytes).ok()?;
    let decoder = AvroDecoder::new(Arc::clone(schema));
    let mut text = Vec::new();
    write_json(schema, &decoder.decode(&bytes).ok()?, &mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn word(json: &Value) -> &'static str {
    match json {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "keys with values",
    }
}
