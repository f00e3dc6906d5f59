//! A record between two steps of a chain.
//!
//! Key and value arrive as they stand in the log: bytes and a reader of them. A step that asks for a field reads that field; a
//! step that asks for the tree has it decoded, once, for itself and the steps after it; what no step looks at passes through as
//! the bytes it came in. Values are always in physical form (see [`rowstream_api::value`]), because they come from a decoder.

use std::{borrow::Cow, sync::Arc};

use rowstream_api::{Datum, RecordError, Schema, ValueRef};

/// A record's headers, in order; names may repeat.
pub type Headers<'a> = Vec<(Arc<str>, Cow<'a, [u8]>)>;

/// One record. Cloning copies what has been decoded.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Topic it is in, or will be written to.
    pub topic: Arc<str>,
    /// Partition it must be written to; by its key when absent. Has no effect in a sink.
    pub partition: Option<u32>,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Part<'a>,
    /// Its value; [`Part::Null`] is a tombstone.
    pub value: Part<'a>,
    /// Its headers.
    pub headers: Headers<'a>,
}

/// A key or a value.
#[derive(Debug, Clone)]
pub enum Part<'a> {
    /// There is none.
    Null,
    /// As it came; nobody has looked at it as a whole.
    Encoded(&'a Datum),
    /// Decoded, or made by a step.
    Tree {
        /// What `value` is. The same schema is the same `Arc`: whoever encodes compiles a plan once for each address.
        schema: Arc<Schema>,
        /// Never null at the top: that is [`Part::Null`].
        value: ValueRef<'a>,
    },
}

impl<'a> Part<'a> {
    /// Whether there is none.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// What it is, where it is something.
    #[must_use]
    pub fn schema(&self) -> Option<&Arc<Schema>> {
        match self {
            Self::Null => None,
            Self::Encoded(datum) => Some(datum.schema()),
            Self::Tree { schema, .. } => Some(schema),
        }
    }

    /// Decodes it if it was not, and lends schema and value for changing them.
    ///
    /// # Errors
    /// The bytes do not hold a datum of their schema.
    pub fn tree(&mut self) -> Result<Option<(&mut Arc<Schema>, &mut ValueRef<'a>)>, RecordError> {
        if let Self::Encoded(datum) = self {
            *self = Self::Tree { schema: Arc::clone(datum.schema()), value: datum.decode()? };
        }
        Ok(match self {
            Self::Tree { schema, value } => Some((schema, value)),
            Self::Null | Self::Encoded(_) => None,
        })
    }

    /// Top-level fields by index, in the order asked for, without decoding the others. A field that is not there is
    /// [`ValueRef::Absent`], as are all of them where there is no STRUCT.
    ///
    /// # Errors
    /// As [`tree`](Self::tree).
    pub fn fields(&self, wanted: &[usize]) -> Result<Vec<ValueRef<'a>>, RecordError> {
        let pick = |fields: &[ValueRef<'a>]| {
            wanted.iter().map(|&i| fields.get(i).cloned().unwrap_or(ValueRef::Absent)).collect()
        };
        Ok(match self {
            Self::Encoded(datum) if !datum.schema().fields().is_empty() => {
                pick(&datum.decoder.decode_fields(&datum.bytes, wanted)?)
            }
            Self::Tree { value: ValueRef::Struct(fields), .. } => pick(fields),
            Self::Null | Self::Encoded(_) | Self::Tree { .. } => pick(&[]),
        })
    }
}
