//! Values: borrowed ([`ValueRef`], the hot path) and owned ([`Value`], defaults and transforms).
//!
//! A `ValueRef` is in one of two forms, and the column's [`Schema`](crate::Schema) tells what it means:
//! - **physical**: exactly the schema's type (`Int` for every integer type, `Str`, `Bytes`, `Array`, `Struct` …).
//!   This is what a decoder of topic records yields.
//! - **logical**: a form nearer to what a database sends (`Decimal`, `ZonedMicros`, `Hex`), which the encoder
//!   turns into the physical form without an intermediate allocation. This is what sources yield where it is cheaper.

use std::borrow::Cow;

/// One column's value, borrowed from the bytes it arrived in. Allocates only for arrays, structs and escaped text.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueRef<'a> {
    /// SQL NULL.
    Null,
    /// The value exists and was not sent because it did not change (PostgreSQL's unchanged TOAST).
    /// It is its own state all the way to the sink, which leaves the column alone.
    Unavailable,
    /// The column was not part of this image (a key-only `before`). Encoded as null, or as the type's zero
    /// where the schema does not allow null, which is what Debezium writes.
    Absent,
    /// BOOLEAN.
    Bool(bool),
    /// INT8, INT16, INT32, INT64 and every semantic type over them (dates, times, timestamps).
    Int(i64),
    /// FLOAT32.
    Float32(f32),
    /// FLOAT64.
    Float64(f64),
    /// STRING and every semantic type over it.
    Str(Cow<'a, str>),
    /// BYTES. For `Decimal`: two's complement, big-endian, minimal.
    Bytes(Cow<'a, [u8]>),
    /// Logical: bytes as lower- or upper-case hexadecimal digits, two a byte.
    Hex(&'a str),
    /// Logical: a decimal number as plain ASCII digits (`-12.50`; an exponent is not allowed), or `NaN`,
    /// `Infinity`, `-Infinity`. For the semantic types `Decimal` and `VariableScaleDecimal`.
    Decimal(Cow<'a, str>),
    /// Logical: an instant in microseconds since 1970-01-01 UTC, for `ZonedTimestamp` (ISO 8601 text with `Z`).
    ZonedMicros(i64),
    /// ARRAY.
    Array(Vec<ValueRef<'a>>),
    /// STRUCT: one value per field, in the schema's order.
    Struct(Vec<ValueRef<'a>>),
    /// MAP with string keys, in the order they arrived.
    Map(Vec<(Cow<'a, str>, ValueRef<'a>)>),
}

impl<'a> ValueRef<'a> {
    /// A borrowed string.
    #[must_use]
    pub fn str(text: &'a str) -> Self {
        Self::Str(Cow::Borrowed(text))
    }

    /// A borrowed byte string.
    #[must_use]
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }

    /// Whether this is SQL NULL (neither unavailable nor absent).
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The text of a `Str`.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// The number of an `Int`.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// The fields of a `Struct`.
    #[must_use]
    pub fn as_struct(&self) -> Option<&[ValueRef<'a>]> {
        if let Self::Struct(fields) = self { Some(fields) } else { None }
    }
}

/// An owned value in physical form: schema defaults.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// BOOLEAN.
    Bool(bool),
    /// Every integer type.
    Int(i64),
    /// FLOAT32 and FLOAT64.
    Float(f64),
    /// STRING.
    Str(String),
    /// BYTES.
    Bytes(Vec<u8>),
    /// ARRAY.
    Array(Vec<Value>),
    /// STRUCT.
    Struct(Vec<Value>),
}

impl Value {
    /// The same value, borrowed; floats become `Float64`.
    #[must_use]
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Bool(b) => ValueRef::Bool(*b),
            Self::Int(n) => ValueRef::Int(*n),
            Self::Float(f) => ValueRef::Float64(*f),
            Self::Str(s) => ValueRef::str(s),
            Self::Bytes(b) => ValueRef::bytes(b),
            Self::Array(items) => ValueRef::Array(items.iter().map(Self::as_ref).collect()),
            Self::Struct(fields) => ValueRef::Struct(fields.iter().map(Self::as_ref).collect()),
        }
    }
}
