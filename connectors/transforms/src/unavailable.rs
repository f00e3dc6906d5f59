//! Values that the source did not send.
//!
//! Such a column holds a placeholder, and the record's header [`UNAVAILABLE_HEADER`] names it, because in most types the
//! placeholder can't be told from a value. Sinks rely on that header: a step that renames or drops a column keeps it right, and a
//! step that would compute with a placeholder leaves it alone or refuses the record.

use std::borrow::Cow;

use rowstream_api::{
    ROW_FOLLOWS_HEADER, RecordError, Schema, SchemaType, Semantic, UNAVAILABLE_HEADER, ValueRef,
    json::UNAVAILABLE_PLACEHOLDER,
};

use crate::{record::Headers, refused};

/// Names of columns whose values the source did not send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unavailable(Vec<String>);

impl Unavailable {
    /// As the headers say.
    ///
    /// # Errors
    /// The header is no list of names.
    pub(crate) fn of(headers: &Headers<'_>) -> Result<Self, RecordError> {
        let Some((_, names)) = headers.iter().find(|(name, _)| &**name == UNAVAILABLE_HEADER) else {
            return Ok(Self::default());
        };
        serde_json::from_slice(names).map(Self).map_err(|_| {
            let message = format!("header `{UNAVAILABLE_HEADER}` is not a JSON list of column names");
            refused("HEADER_INVALID", message)
        })
    }

    /// Whether all values were sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of them.
    pub(crate) fn first(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    /// Whether this column's was not.
    pub(crate) fn contains(&self, column: &str) -> bool {
        self.0.iter().any(|name| name == column)
    }

    /// Writes the headers anew with one column more.
    pub(crate) fn add(&mut self, headers: &mut Headers<'_>, column: &str) {
        if self.contains(column) {
            return;
        }
        self.0.push(column.to_owned());
        let value = Cow::Owned(serde_json::Value::from(self.0.clone()).to_string().into_bytes());
        match headers.iter_mut().find(|(name, _)| &**name == UNAVAILABLE_HEADER) {
            Some((_, old)) => *old = value,
            None => headers.push((UNAVAILABLE_HEADER.into(), value)),
        }
    }

    /// Writes the headers anew, each column under its names of now; none where it is gone.
    pub(crate) fn rename(&self, headers: &mut Headers<'_>, now: impl Fn(&str) -> Vec<String>) {
        if self.is_empty() {
            return;
        }
        let mut names: Vec<String> = Vec::with_capacity(self.0.len());
        for name in self.0.iter().flat_map(|name| now(name)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names == self.0 {
            return;
        }
        if names.is_empty() {
            headers.retain(|(name, _)| &**name != UNAVAILABLE_HEADER && &**name != ROW_FOLLOWS_HEADER);
            return;
        }
        let value = serde_json::Value::from(names).to_string().into_bytes();
        if let Some((_, old)) = headers.iter_mut().find(|(name, _)| &**name == UNAVAILABLE_HEADER) {
            *old = Cow::Owned(value);
        }
    }
}

/// Whether a value can be what is written in place of one that was not sent: Debezium's text, null, or the type's zero.
pub(crate) fn is_placeholder(schema: &Schema, value: &ValueRef<'_>) -> bool {
    let is_text = |value: &ValueRef<'_>| value.as_str() == Some(UNAVAILABLE_PLACEHOLDER);
    match value {
        ValueRef::Null | ValueRef::Absent | ValueRef::Unavailable => true,
        ValueRef::Bool(truth) => !truth,
        ValueRef::Int(number) => *number == 0,
        ValueRef::Float32(number) => *number == 0.0,
        ValueRef::Float64(number) => *number == 0.0,
        ValueRef::Str(text) => *text == UNAVAILABLE_PLACEHOLDER,
        ValueRef::Bytes(bytes) if matches!(schema.semantic(), Semantic::Decimal { .. }) => {
            bytes.iter().all(|byte| *byte == 0)
        }
        ValueRef::Bytes(bytes) => **bytes == *UNAVAILABLE_PLACEHOLDER.as_bytes(),
        ValueRef::Array(items) => items.is_empty() || matches!(items.as_slice(), [item] if is_text(item)),
        ValueRef::Map(entries) => {
            entries.is_empty() || matches!(entries.as_slice(), [(key, _)] if key == UNAVAILABLE_PLACEHOLDER)
        }
        ValueRef::Struct(values) => {
            let SchemaType::Struct(fields) = schema.ty() else { return false };
            fields.iter().zip(values).all(|(field, value)| {
                matches!(value, ValueRef::Str(text) if text.is_empty())
                    || matches!(value, ValueRef::Bytes(bytes) if bytes.iter().all(|byte| *byte == 0))
                    || is_placeholder(&field.schema, value)
            })
        }
        ValueRef::Hex(_) | ValueRef::Decimal(_) | ValueRef::ZonedMicros(_) => false,
    }
}
