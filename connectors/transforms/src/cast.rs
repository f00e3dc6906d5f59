//! `cast`: Kafka Connect's `Cast`, of fields. A value that the new type can't hold is an error, where Connect would wrap it around
//! or read any text but `true` as false.

use std::sync::Arc;

use rowstream_api::{
    ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, SchemaType, Semantic, Value,
    ValueRef, config::nearest,
};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    fields::ON_FIELD,
    refused,
    rows::{On, OverRows, Planning, RowStep, Surroundings, like, type_word},
    settings::parse,
    text::header_text,
    unavailable::is_placeholder,
    values::integer_range,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "cast",
    fields: &[
        FieldDoc {
            path: "spec",
            kind: FieldKind::List,
            required: true,
            default: None,
            doc: "Fields with their new types, each as `field:type`. Types are int8, int16, int32, int64, float32, float64, boolean and \
                  string. Fractions are cut off; a number beyond the type's range, or a text that is none, refuses the record. \
                  Decimals become exact text. A row without the field passes as it is.",
            example: "[\"amount:string\", \"age:int32\"]",
        },
        ON_FIELD,
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            spec: Vec<String>,
            #[serde(default)]
            on: On,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let mut casts: Vec<(String, SchemaType)> = Vec::new();
        if settings.spec.is_empty() {
            errors.push("spec", "must name at least one field");
        }
        for text in &settings.spec {
            match target(text) {
                Ok((name, _)) if casts.iter().any(|(known, _)| *known == name) => {
                    errors.push("spec", format!("names field `{name}` twice"));
                }
                Ok(cast) => casts.push(cast),
                Err(problem) => errors.push("spec", problem),
            }
        }
        errors.into_result()?;
        Ok(OverRows::boxed(Cast(casts), settings.on))
    },
};

/// Connect's names of types that can be cast to.
const TYPES: [(&str, SchemaType); 8] = [
    ("int8", SchemaType::Int8),
    ("int16", SchemaType::Int16),
    ("int32", SchemaType::Int32),
    ("int64", SchemaType::Int64),
    ("float32", SchemaType::Float32),
    ("float64", SchemaType::Float64),
    ("boolean", SchemaType::Boolean),
    ("string", SchemaType::String),
];

fn target(text: &str) -> Result<(String, SchemaType), String> {
    let Some((field, word)) = text.rsplit_once(':').filter(|(field, _)| !field.is_empty()) else {
        return Err(format!("`{text}`: expected `field:type`"));
    };
    match TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word.trim())) {
        Some((_, ty)) => Ok((field.trim().to_owned(), ty.clone())),
        None => {
            let names = || TYPES.iter().map(|(name, _)| *name);
            let meant =
                nearest(word, names()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            let known: Vec<&str> = names().collect();
            Err(format!("`{text}`: there is no type `{word}`; {meant}known are {}", known.join(", ")))
        }
    }
}

struct Cast(Vec<(String, SchemaType)>);

/// A field to cast, with its schema of before.
struct Column {
    index: usize,
    name: String,
    from: Arc<Schema>,
    to: SchemaType,
}

impl RowStep for Cast {
    type Plan = Vec<Column>;

    fn plan(&self, row: &Arc<Schema>) -> Planning<Vec<Column>> {
        let mut columns = Vec::new();
        let mut builder = like(row);
        for (index, field) in row.fields().iter().enumerate() {
            let Some((_, to)) = self.0.iter().find(|(name, _)| *name == field.name) else {
                builder = builder.field(&field.name, Arc::clone(&field.schema));
                continue;
            };
            let from = &field.schema;
            if !castable(from, to) {
                let to = type_word(&SchemaBuilder::new(to.clone()).build());
                let what = from.name().unwrap_or_else(|| type_word(from));
                let message = format!("is {what}, which can't be cast to {to}");
                return Err(refused("FIELD_TYPE", message).in_column(&field.name));
            }
            let mut made = SchemaBuilder::new(to.clone()).optional_if(from.is_optional());
            if let Some(default) = from.default().and_then(|default| cast(from, &default.as_ref(), to).ok()) {
                made = made.default_value(owned(&default));
            }
            builder = builder.field(&field.name, made.build());
            columns.push(Column { index, name: field.name.clone(), from: Arc::clone(from), to: to.clone() });
        }
        Ok(if columns.is_empty() { None } else { Some((builder.build(), columns)) })
    }

    fn row<'a>(
        &self,
        columns: &Vec<Column>,
        mut row: Vec<ValueRef<'a>>,
        around: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError> {
        for Column { index, name, from, to } in columns {
            let Some(value) = row.get_mut(*index) else { continue };
            if around.unavailable.contains(name) && is_placeholder(from, value) {
                *value = ValueRef::Unavailable;
            } else {
                *value = cast(from, value, to).map_err(|error| error.in_column(name))?;
            }
        }
        Ok(row)
    }
}

/// Whether values of one type can be read as another.
fn castable(from: &Schema, to: &SchemaType) -> bool {
    let is_decimal = matches!(from.semantic(), Semantic::Decimal { .. } | Semantic::VariableScaleDecimal);
    match from.ty() {
        SchemaType::Boolean
        | SchemaType::Int8
        | SchemaType::Int16
        | SchemaType::Int32
        | SchemaType::Int64
        | SchemaType::Float32
        | SchemaType::Float64
        | SchemaType::String => true,
        SchemaType::Bytes => is_decimal || *to == SchemaType::String,
        SchemaType::Struct(_) => is_decimal,
        SchemaType::Array(_) | SchemaType::Map(_) => false,
    }
}

fn cast(from: &Schema, value: &ValueRef<'_>, to: &SchemaType) -> Result<ValueRef<'static>, RecordError> {
    if matches!(value, ValueRef::Null | ValueRef::Absent) {
        return Ok(ValueRef::Null);
    }
    match to {
        SchemaType::Boolean => truth(from, value).map(ValueRef::Bool),
        SchemaType::Float32 => {
            let number = float(from, value)?;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the nearest number of the narrower type is what was asked for"
            )]
            let narrow = number as f32;
            if narrow.is_infinite() && number.is_finite() {
                Err(out_of_range(to))
            } else {
                Ok(ValueRef::Float32(narrow))
            }
        }
        SchemaType::Float64 => float(from, value).map(ValueRef::Float64),
        SchemaType::String => {
            let text = header_text(from, value)?.unwrap_or_default();
            String::from_utf8(text)
                .map(|text| ValueRef::Str(text.into()))
                .map_err(|_| no_value(from, "a text"))
        }
        SchemaType::Int8
        | SchemaType::Int16
        | SchemaType::Int32
        | SchemaType::Int64
        | SchemaType::Bytes
        | SchemaType::Array(_)
        | SchemaType::Map(_)
        | SchemaType::Struct(_) => {
            let number = whole(from, value, to)?;
            if integer_range(to).contains(&number) {
                Ok(ValueRef::Int(number))
            } else {
                Err(out_of_range(to))
            }
        }
    }
}

fn whole(from: &Schema, value: &ValueRef<'_>, to: &SchemaType) -> Result<i64, RecordError> {
    match value {
        ValueRef::Int(number) => Ok(*number),
        ValueRef::Bool(truth) => Ok(i64::from(*truth)),
        ValueRef::Float32(number) => cut(f64::from(*number), to),
        ValueRef::Float64(number) => cut(*number, to),
        ValueRef::Null
        | ValueRef::Absent
        | ValueRef::Unavailable
        | ValueRef::Str(_)
        | ValueRef::Bytes(_)
        | ValueRef::Hex(_)
        | ValueRef::Decimal(_)
        | ValueRef::ZonedMicros(_)
        | ValueRef::Array(_)
        | ValueRef::Struct(_)
        | ValueRef::Map(_) => {
            let text = digits(from, value)?;
            let is_decimal = value.as_str().is_none();
            let text = if is_decimal { text.split('.').next().unwrap_or_default() } else { text.trim() };
            text.parse()
                .map_err(|_| if is_decimal { out_of_range(to) } else { no_value(from, "a whole number") })
        }
    }
}

/// Without its fraction.
fn cut(number: f64, to: &SchemaType) -> Result<i64, RecordError> {
    /// 2 to the 63rd, which is the first that INT64 does not hold.
    const END: f64 = 9_223_372_036_854_775_808.0;
    if !(-END..END).contains(&number) {
        return Err(out_of_range(to));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fraction is to be cut off; the range was looked at"
    )]
    let whole = number as i64;
    Ok(whole)
}

fn float(from: &Schema, value: &ValueRef<'_>) -> Result<f64, RecordError> {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "the nearest double is what was asked for")]
        ValueRef::Int(number) => Ok(*number as f64),
        ValueRef::Bool(truth) => Ok(f64::from(u8::from(*truth))),
        ValueRef::Float32(number) => Ok(f64::from(*number)),
        ValueRef::Float64(number) => Ok(*number),
        ValueRef::Null
        | ValueRef::Absent
        | ValueRef::Unavailable
        | ValueRef::Str(_)
        | ValueRef::Bytes(_)
        | ValueRef::Hex(_)
        | ValueRef::Decimal(_)
        | ValueRef::ZonedMicros(_)
        | ValueRef::Array(_)
        | ValueRef::Struct(_)
        | ValueRef::Map(_) => digits(from, value)?.trim().parse().map_err(|_| no_value(from, "a number")),
    }
}

fn truth(from: &Schema, value: &ValueRef<'_>) -> Result<bool, RecordError> {
    match value.as_str().map(str::trim) {
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(no_value(from, "`true` or `false`")),
        None => Ok(float(from, value)? != 0.0),
    }
}

/// A decimal's digits, or a text.
fn digits(from: &Schema, value: &ValueRef<'_>) -> Result<String, RecordError> {
    let text = header_text(from, value)?.unwrap_or_default();
    String::from_utf8(text).map_err(|_| no_value(from, "a number"))
}

fn no_value(from: &Schema, expected: &str) -> RecordError {
    refused("VALUE_TYPE_MISMATCH", format!("the {} is not {expected}", type_word(from)))
}

fn out_of_range(to: &SchemaType) -> RecordError {
    let word = type_word(&SchemaBuilder::new(to.clone()).build());
    refused("VALUE_OUT_OF_RANGE", format!("the value is out of the range of {word}"))
}

/// A value of a type that can be cast to, as a default.
fn owned(value: &ValueRef<'_>) -> Value {
    match value {
        ValueRef::Bool(truth) => Value::Bool(*truth),
        ValueRef::Int(number) => Value::Int(*number),
        ValueRef::Float32(number) => Value::Float(f64::from(*number)),
        ValueRef::Float64(number) => Value::Float(*number),
        ValueRef::Str(text) => Value::Str(text.to_string()),
        ValueRef::Null
        | ValueRef::Absent
        | ValueRef::Unavailable
        | ValueRef::Bytes(_)
        | ValueRef::Hex(_)
        | ValueRef::Decimal(_)
        | ValueRef::ZonedMicros(_)
        | ValueRef::Array(_)
        | ValueRef::Struct(_)
        | ValueRef::Map(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests;
