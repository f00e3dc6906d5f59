//! `mask`, `hash` and `tokenize`: values that must not be seen.
//!
//! - `mask` is Kafka Connect's `MaskField`: the type's zero, or a fixed value.
//! - `hash` writes a keyed HMAC-SHA256 in hexadecimal digits; the column becomes STRING.
//! - `tokenize` keeps the column's type: the same value always gives the same token, so that rows can still be joined.
//!
//! Null stays null. Both rows of an event are changed. A column that the source did not send keeps its placeholder, and only a
//! value that looks like a placeholder counts as one: a header that names the column for the new row never lets the old row's
//! value through.

use std::sync::Arc;

use hmac::{Hmac, Mac};
use rowstream_api::{
    ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, SchemaType, Secret, Semantic,
    ValueRef, json::UNAVAILABLE_PLACEHOLDER,
};
use serde::Deserialize;
use sha2::Sha256;

use crate::{
    TransformPlugin,
    fields::ON_FIELD,
    refused,
    rows::{On, OverRows, Planning, RowStep, Surroundings, like, type_word},
    settings::{FieldNames, parse},
    text::header_text,
    unavailable::is_placeholder,
    values::{decimal_bytes, integer_range},
};

/// Keys shorter than this can be tried.
const KEY_BYTES_MIN: usize = 16;

const NAMES: FieldDoc = FieldDoc {
    path: "fields",
    kind: FieldKind::List,
    required: true,
    default: None,
    doc: "Names of fields; `*` stands for any characters, so that new columns are covered as well. Both rows of an event are \
          changed. A row without the field passes as it is.",
    example: "[email, \"*phone*\"]",
};

const KEY: FieldDoc = FieldDoc {
    path: "key",
    kind: FieldKind::Secret,
    required: true,
    default: None,
    doc: "The key of the HMAC, at least 16 bytes. The same key gives the same result for the same value, in every table and after \
          every restart; without it nobody can find out which value a result came from by trying values.",
    example: "${env:MASKING_KEY}",
};

pub(crate) const MASK: TransformPlugin = TransformPlugin {
    name: "mask",
    fields: &[
        NAMES,
        FieldDoc::optional(
            "replacement",
            FieldKind::Text,
            None,
            "What is written in place of the value, in fields of text and numbers. Without it: an empty text, zero, `false`, no \
             bytes, an empty list or map.",
            "***",
        ),
        ON_FIELD,
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            fields: Vec<String>,
            replacement: Option<String>,
            #[serde(default)]
            on: On,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let names = FieldNames::parse(settings.fields, "fields", &mut errors);
        if settings.replacement.as_deref() == Some("") {
            errors.push("replacement", "must not be empty; leave it out to write the type's zero");
        }
        errors.into_result()?;
        Ok(OverRows::boxed(Hide { names, by: By::Replacing(settings.replacement) }, settings.on))
    },
};

pub(crate) const HASH: TransformPlugin = TransformPlugin {
    name: "hash",
    fields: &[NAMES, KEY, ON_FIELD],
    build: |settings| keyed(settings, By::Hashing),
};

pub(crate) const TOKENIZE: TransformPlugin = TransformPlugin {
    name: "tokenize",
    fields: &[NAMES, KEY, ON_FIELD],
    build: |settings| keyed(settings, By::Tokens),
};

fn keyed(
    settings: serde_json::Map<String, serde_json::Value>,
    by: fn(Hmac<Sha256>) -> By,
) -> Result<Box<dyn crate::Transform>, ConfigErrors> {
    #[derive(Deserialize)]
    struct Settings {
        fields: Vec<String>,
        key: Secret,
        #[serde(default)]
        on: On,
    }
    let settings: Settings = parse(settings)?;
    let mut errors = ConfigErrors::default();
    let names = FieldNames::parse(settings.fields, "fields", &mut errors);
    let key = settings.key.reveal().as_bytes();
    if key.len() < KEY_BYTES_MIN {
        errors
            .push("key", format!("must be at least {KEY_BYTES_MIN} bytes long; this one has {}", key.len()));
    }
    let key = errors.take("key", Hmac::new_from_slice(key).map_err(|_| "can't be used as a key"));
    match key {
        Some(key) if errors.0.is_empty() => Ok(OverRows::boxed(Hide { names, by: by(key) }, settings.on)),
        Some(_) | None => Err(errors),
    }
}

struct Hide {
    names: FieldNames,
    by: By,
}

enum By {
    Replacing(Option<String>),
    Hashing(Hmac<Sha256>),
    Tokens(Hmac<Sha256>),
}

/// What is done with one column.
enum Hidden {
    /// This is written.
    Fixed(ValueRef<'static>),
    Hash,
    Token(Token),
}

/// How a token looks.
#[derive(Debug, Clone, Copy)]
enum Token {
    /// 32 hexadecimal digits.
    Text,
    /// A UUID of version 8.
    Uuid,
    /// Sixteen bytes.
    Bytes,
    /// A number from 0 to this.
    Number(i64),
}

/// A column of one schema.
struct Column {
    index: usize,
    name: String,
    hidden: Hidden,
    /// Its schema of before.
    schema: Arc<Schema>,
}

impl RowStep for Hide {
    type Plan = Vec<Column>;

    fn plan(&self, row: &Arc<Schema>) -> Planning<Vec<Column>> {
        let mut columns = Vec::new();
        let mut builder = like(row);
        for (index, field) in row.fields().iter().enumerate() {
            let mut schema = Arc::clone(&field.schema);
            if self.names.contain(&field.name) {
                let hidden = self.hidden(&schema).map_err(|error| error.in_column(&field.name))?;
                columns.push(Column { index, name: field.name.clone(), hidden, schema: Arc::clone(&schema) });
                if let By::Hashing(_) = self.by {
                    schema = SchemaBuilder::new(SchemaType::String).optional_if(schema.is_optional()).build();
                }
            }
            builder = builder.field(&field.name, schema);
        }
        Ok(if columns.is_empty() { None } else { Some((builder.build(), columns)) })
    }

    fn row<'a>(
        &self,
        columns: &Vec<Column>,
        mut row: Vec<ValueRef<'a>>,
        around: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError> {
        for Column { index, name, hidden, schema } in columns {
            let Some(value) = row.get_mut(*index) else { continue };
            if matches!(value, ValueRef::Null | ValueRef::Absent) {
                continue;
            }
            if around.unavailable.contains(name) && is_placeholder(schema, value) {
                if let Hidden::Hash = hidden {
                    *value = ValueRef::str(UNAVAILABLE_PLACEHOLDER);
                }
                continue;
            }
            *value = match (hidden, &self.by) {
                (Hidden::Fixed(fixed), _) => fixed.clone(),
                (Hidden::Hash, By::Hashing(key) | By::Tokens(key)) => {
                    ValueRef::Str(hex(&digest(key, schema, value)?).into())
                }
                (Hidden::Token(token), By::Hashing(key) | By::Tokens(key)) => {
                    token.of(digest(key, schema, value)?)
                }
                (Hidden::Hash | Hidden::Token(_), By::Replacing(_)) => ValueRef::Null,
            };
        }
        Ok(row)
    }
}

impl Hide {
    fn hidden(&self, schema: &Schema) -> Result<Hidden, RecordError> {
        match &self.by {
            By::Replacing(None) => zero(schema).map(Hidden::Fixed),
            By::Replacing(Some(text)) => replacement(schema, text).map(Hidden::Fixed),
            By::Hashing(_) => scalar(schema).map(|()| Hidden::Hash),
            By::Tokens(_) => Token::for_type(schema).map(Hidden::Token),
        }
    }
}

/// The value that says nothing.
fn zero(schema: &Schema) -> Result<ValueRef<'static>, RecordError> {
    Ok(match schema.ty() {
        SchemaType::Boolean => ValueRef::Bool(false),
        SchemaType::Int8 | SchemaType::Int16 | SchemaType::Int32 | SchemaType::Int64 => ValueRef::Int(0),
        SchemaType::Float32 => ValueRef::Float32(0.0),
        SchemaType::Float64 => ValueRef::Float64(0.0),
        SchemaType::String => ValueRef::str(""),
        SchemaType::Bytes if matches!(schema.semantic(), Semantic::Decimal { .. }) => ValueRef::bytes(&[0]),
        SchemaType::Bytes => ValueRef::bytes(&[]),
        SchemaType::Array(_) => ValueRef::Array(Vec::new()),
        SchemaType::Map(_) => ValueRef::Map(Vec::new()),
        SchemaType::Struct(_) if schema.semantic() == Semantic::VariableScaleDecimal => {
            ValueRef::Struct(vec![ValueRef::Int(0), ValueRef::bytes(&[0])])
        }
        SchemaType::Struct(_) => return Err(unmaskable(schema)),
    })
}

fn replacement(schema: &Schema, text: &str) -> Result<ValueRef<'static>, RecordError> {
    let wrong = || {
        let message = format!("`replacement` is no value of {}", type_word(schema));
        refused("FIELD_TYPE", message)
    };
    Ok(match schema.ty() {
        SchemaType::String => ValueRef::Str(text.to_owned().into()),
        SchemaType::Int8 | SchemaType::Int16 | SchemaType::Int32 | SchemaType::Int64 => {
            let range = integer_range(schema.ty());
            let number = text.parse::<i64>().ok().filter(|number| range.contains(number));
            ValueRef::Int(number.ok_or_else(wrong)?)
        }
        SchemaType::Float32 => ValueRef::Float32(text.parse().map_err(|_| wrong())?),
        SchemaType::Float64 => ValueRef::Float64(text.parse().map_err(|_| wrong())?),
        SchemaType::Bytes => {
            let Semantic::Decimal { scale } = schema.semantic() else { return Err(wrong()) };
            ValueRef::Bytes(decimal_bytes(text, scale).ok_or_else(wrong)?.into())
        }
        SchemaType::Boolean | SchemaType::Array(_) | SchemaType::Map(_) | SchemaType::Struct(_) => {
            return Err(wrong());
        }
    })
}

/// Whether values of it have one text.
fn scalar(schema: &Schema) -> Result<(), RecordError> {
    match schema.ty() {
        SchemaType::Array(_) | SchemaType::Map(_) => Err(unmaskable(schema)),
        SchemaType::Struct(_) if schema.semantic() != Semantic::VariableScaleDecimal => {
            Err(unmaskable(schema))
        }
        SchemaType::Boolean
        | SchemaType::Int8
        | SchemaType::Int16
        | SchemaType::Int32
        | SchemaType::Int64
        | SchemaType::Float32
        | SchemaType::Float64
        | SchemaType::String
        | SchemaType::Bytes
        | SchemaType::Struct(_) => Ok(()),
    }
}

fn unmaskable(schema: &Schema) -> RecordError {
    refused("FIELD_TYPE", format!("is {}, which this step can't hide; use `drop`", type_word(schema)))
}

impl Token {
    fn for_type(schema: &Schema) -> Result<Self, RecordError> {
        match (schema.ty(), schema.semantic()) {
            (SchemaType::String, Semantic::Uuid) => Ok(Self::Uuid),
            (SchemaType::String, Semantic::Plain) => Ok(Self::Text),
            (SchemaType::Bytes, Semantic::Plain) => Ok(Self::Bytes),
            (
                SchemaType::Int8 | SchemaType::Int16 | SchemaType::Int32 | SchemaType::Int64,
                Semantic::Plain,
            ) => Ok(Self::Number(*integer_range(schema.ty()).end())),
            _ => {
                let what = schema.name().unwrap_or_else(|| type_word(schema));
                let message = format!("is {what}, which has no tokens; use `hash`, `mask` or `drop`");
                Err(refused("FIELD_TYPE", message))
            }
        }
    }

    fn of(self, digest: [u8; 32]) -> ValueRef<'static> {
        let (first, _) = digest.split_at(16);
        match self {
            Self::Text => ValueRef::Str(hex(first).into()),
            Self::Bytes => ValueRef::Bytes(first.to_vec().into()),
            Self::Uuid => ValueRef::Str(uuid(first).into()),
            Self::Number(max) => {
                let number = first.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
                // The largest of an integer type is all ones, so that masking is even.
                ValueRef::Int(i64::try_from(number & max.unsigned_abs()).unwrap_or(max))
            }
        }
    }
}

/// The HMAC of the value's text: equal numbers have equal digests, whatever the width of their type.
fn digest(key: &Hmac<Sha256>, schema: &Schema, value: &ValueRef<'_>) -> Result<[u8; 32], RecordError> {
    let mut mac = key.clone();
    let is_decimal = matches!(schema.semantic(), Semantic::Decimal { .. });
    if let (ValueRef::Bytes(bytes), false) = (value, is_decimal) {
        mac.update(bytes);
    } else {
        mac.update(&header_text(schema, value)?.unwrap_or_default());
    }
    Ok(mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// Digits, version and variant of a UUID made by a scheme of one's own (RFC 9562, version 8).
fn uuid(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(36);
    for (index, c) in hex(bytes).chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            out.push('-');
        }
        out.push(match index {
            12 => '8',
            16 => char::from_digit(c.to_digit(16).unwrap_or(0) & 0x3 | 0x8, 16).unwrap_or('8'),
            _ => c,
        });
    }
    out
}

#[cfg(test)]
mod tests;
