//! Column values straight to Avro bytes: a schema is compiled once into a plan, and a row is written in one pass over
//! its columns, with no tree and no allocation per value.
//!
//! A row that fails leaves the output as it was, so that a batch's other rows are never touched by it, and the error
//! names the column. What is written is what `apache-avro` would write, byte for byte (tests hold it to that).

use std::sync::Arc;

use rowstream_api::{
    RecordError, RowView, Schema, SchemaType, Semantic, Value, ValueRef, json::UNAVAILABLE_PLACEHOLDER,
    text::write_zoned_micros,
};

use crate::{
    decimal::{put_decimal, put_variable_decimal},
    layout::has_default,
    wire::{put_bytes, put_len, put_long},
};

/// A compiled schema. Immutable and cheap to share.
#[derive(Debug)]
pub struct EncodePlan {
    schema: Arc<Schema>,
    node: Node,
}

impl EncodePlan {
    /// Compiles a schema.
    #[must_use]
    pub fn compile(schema: &Arc<Schema>) -> Self {
        Self { schema: schema.clone(), node: Node::compile(schema) }
    }

    /// The schema it was compiled from.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Appends one value.
    ///
    /// # Errors
    /// The value does not fit the schema; `out` is as before.
    pub fn encode_value(&self, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
        or_undo(out, |out| self.node.encode(value, out))
    }

    /// Appends a row: the hot path. The indices of columns that were `Unavailable` are added to `unavailable`; in
    /// their place stands Debezium's placeholder for text, bytes, arrays and maps of text, else null, else zero.
    ///
    /// # Errors
    /// A column does not fit the schema; it is named, and `out` and `unavailable` are as before.
    pub fn encode_row(
        &self,
        row: &dyn RowView,
        out: &mut Vec<u8>,
        unavailable: &mut Vec<usize>,
    ) -> Result<(), RecordError> {
        let reported = unavailable.len();
        let written = or_undo(out, |out| self.node.encode_row(row, out, unavailable));
        if written.is_err() {
            unavailable.truncate(reported);
        }
        written
    }
}

/// Runs `write`; on an error `out` is cut back to where it began.
pub(crate) fn or_undo(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    let start = out.len();
    let written = write(out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// One type of a compiled schema.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    branches: Branches,
    /// What is written for [`ValueRef::Absent`], branch included.
    absent: Vec<u8>,
    /// What is written for [`ValueRef::Unavailable`], branch included.
    unavailable: Vec<u8>,
}

/// A field of a compiled STRUCT.
#[derive(Debug)]
pub(crate) struct FieldNode {
    pub(crate) name: String,
    pub(crate) node: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branches {
    /// No union.
    Required,
    /// `["null", T]`
    NullFirst,
    /// `[T, "null"]`, for optional with a default.
    NullLast,
}

/// How a value that is not null is written.
#[derive(Debug)]
pub(crate) enum Kind {
    Boolean,
    /// INT8, INT16 and INT32 with their bounds.
    Int {
        min: i64,
        max: i64,
    },
    Long,
    Float,
    Double,
    Text,
    Bytes,
    Decimal {
        scale: i32,
    },
    VariableDecimal([Box<Node>; 2]),
    Array(Box<Node>),
    Map(Box<Node>),
    Struct(Vec<FieldNode>),
}

impl Node {
    pub(crate) fn compile(schema: &Schema) -> Self {
        let branches = match (schema.is_optional(), has_default(schema)) {
            (false, _) => Branches::Required,
            (true, false) => Branches::NullFirst,
            (true, true) => Branches::NullLast,
        };
        let mut node =
            Self { kind: Kind::compile(schema), branches, absent: Vec::new(), unavailable: Vec::new() };
        node.absent = node.absent_bytes(schema);
        node.unavailable = node.placeholder_bytes(schema);
        node
    }

    /// What stands in front of a value that is not null.
    #[inline]
    pub(crate) fn value_branch(&self) -> &'static [u8] {
        match self.branches {
            Branches::Required => &[],
            Branches::NullFirst => &[2],
            Branches::NullLast => &[0],
        }
    }

    /// What stands for null.
    #[inline]
    pub(crate) fn null_branch(&self) -> Result<u8, RecordError> {
        match self.branches {
            Branches::NullFirst => Ok(0),
            Branches::NullLast => Ok(2),
            Branches::Required => {
                let message =
                    format!("found null, expected {} (the column is not optional)", self.kind.word());
                Err(RecordError::value("NULL_NOT_ALLOWED", message))
            }
        }
    }

    #[inline]
    pub(crate) fn encode(&self, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
        match value {
            ValueRef::Null => {
                out.push(self.null_branch()?);
                Ok(())
            }
            ValueRef::Absent => {
                out.extend_from_slice(&self.absent);
                Ok(())
            }
            ValueRef::Unavailable => {
                out.extend_from_slice(&self.unavailable);
                Ok(())
            }
            ValueRef::Bool(_)
            | ValueRef::Int(_)
            | ValueRef::Float32(_)
            | ValueRef::Float64(_)
            | ValueRef::Str(_)
            | ValueRef::Bytes(_)
            | ValueRef::Hex(_)
            | ValueRef::Decimal(_)
            | ValueRef::ZonedMicros(_)
            | ValueRef::Array(_)
            | ValueRef::Struct(_)
            | ValueRef::Map(_) => {
                match self.branches {
                    Branches::Required => {}
                    Branches::NullFirst => out.push(2),
                    Branches::NullLast => out.push(0),
                }
                self.kind.encode(value, out)
            }
        }
    }

    /// A row as this STRUCT.
    #[inline]
    pub(crate) fn encode_row(
        &self,
        row: &dyn RowView,
        out: &mut Vec<u8>,
        unavailable: &mut Vec<usize>,
    ) -> Result<(), RecordError> {
        let Kind::Struct(fields) = &self.kind else { return Err(mismatch(self.kind.word(), "a row")) };
        out.extend_from_slice(self.value_branch());
        for (index, field) in fields.iter().enumerate() {
            // Read where it was returned: moving it out of the result costs as much as writing it.
            match &row.column(index) {
                Ok(value) => {
                    if matches!(value, ValueRef::Unavailable) {
                        unavailable.push(index);
                    }
                    field.node.encode(value, out).map_err(|error| error.in_column(&field.name))?;
                }
                Err(error) => return Err(error.clone()),
            }
        }
        Ok(())
    }

    /// Null, else the default, else the type's zero.
    fn absent_bytes(&self, schema: &Schema) -> Vec<u8> {
        let mut out = Vec::new();
        if let Ok(branch) = self.null_branch() {
            out.push(branch);
            return out;
        }
        let default = schema.default().map(Value::as_ref);
        if default.is_some_and(|default| or_undo(&mut out, |out| self.kind.encode(&default, out)).is_ok()) {
            return out;
        }
        self.kind.put_zero(&mut out);
        out
    }

    fn placeholder_bytes(&self, schema: &Schema) -> Vec<u8> {
        let mut out = Vec::new();
        let text = || ValueRef::str(UNAVAILABLE_PLACEHOLDER);
        let is_text = |item: &Schema| *item.ty() == SchemaType::String;
        let placeholder = match schema.ty() {
            SchemaType::String => Some(text()),
            SchemaType::Bytes if !matches!(schema.semantic(), Semantic::Decimal { .. }) => {
                Some(ValueRef::bytes(UNAVAILABLE_PLACEHOLDER.as_bytes()))
            }
            SchemaType::Array(item) if is_text(item) => Some(ValueRef::Array(vec![text()])),
            SchemaType::Map(item) if is_text(item) => {
                Some(ValueRef::Map(vec![(UNAVAILABLE_PLACEHOLDER.into(), text())]))
            }
            SchemaType::Boolean
            | SchemaType::Int8
            | SchemaType::Int16
            | SchemaType::Int32
            | SchemaType::Int64
            | SchemaType::Float32
            | SchemaType::Float64
            | SchemaType::Bytes
            | SchemaType::Array(_)
            | SchemaType::Map(_)
            | SchemaType::Struct(_) => None,
        };
        let written =
            placeholder.is_some_and(|value| or_undo(&mut out, |out| self.encode(&value, out)).is_ok());
        if !written {
            match self.null_branch() {
                Ok(branch) => out.push(branch),
                Err(_) => self.kind.put_zero(&mut out),
            }
        }
        out
    }
}

impl Kind {
    fn compile(schema: &Schema) -> Self {
        match schema.ty() {
            SchemaType::Boolean => Self::Boolean,
            SchemaType::Int8 => Self::Int { min: i64::from(i8::MIN), max: i64::from(i8::MAX) },
            SchemaType::Int16 => Self::Int { min: i64::from(i16::MIN), max: i64::from(i16::MAX) },
            SchemaType::Int32 => Self::Int { min: i64::from(i32::MIN), max: i64::from(i32::MAX) },
            SchemaType::Int64 => Self::Long,
            SchemaType::Float32 => Self::Float,
            SchemaType::Float64 => Self::Double,
            SchemaType::String => Self::Text,
            SchemaType::Bytes => {
                if let Semantic::Decimal { scale } = schema.semantic() {
                    Self::Decimal { scale }
                } else {
                    Self::Bytes
                }
            }
            SchemaType::Array(item) => Self::Array(Box::new(Node::compile(item))),
            SchemaType::Map(item) => Self::Map(Box::new(Node::compile(item))),
            SchemaType::Struct(fields) => match fields.as_slice() {
                [scale, value] if is_variable_decimal(schema, &scale.schema, &value.schema) => {
                    let node = |schema| Box::new(Node::compile(schema));
                    Self::VariableDecimal([node(&scale.schema), node(&value.schema)])
                }
                fields => Self::Struct(fields.iter().map(FieldNode::compile).collect()),
            },
        }
    }

    #[inline]
    fn encode(&self, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
        match (self, value) {
            (Self::Text, ValueRef::Str(text)) => put_bytes(text.as_bytes(), out),
            (Self::Long, ValueRef::Int(number)) => put_long(*number, out),
            (Self::Int { min, max }, ValueRef::Int(number)) => {
                if number < min || number > max {
                    return Err(out_of_range(*min, *max));
                }
                put_long(*number, out);
            }
            (Self::Boolean, ValueRef::Bool(flag)) => out.push(u8::from(*flag)),
            (Self::Double, ValueRef::Float64(number)) => out.extend_from_slice(&number.to_le_bytes()),
            (Self::Float, ValueRef::Float32(number)) => out.extend_from_slice(&number.to_le_bytes()),
            (Self::Bytes | Self::Decimal { .. }, ValueRef::Bytes(bytes)) => put_bytes(bytes, out),
            _ => return self.encode_converted(value, out),
        }
        Ok(())
    }

    /// What takes more than copying. Apart, so that the common types stay small enough to be inlined.
    #[inline(never)]
    fn encode_converted(&self, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), RecordError> {
        match (self, value) {
            (Self::Decimal { scale }, ValueRef::Decimal(text)) => put_decimal(text, *scale, out),
            (Self::VariableDecimal(_), ValueRef::Decimal(text)) => put_variable_decimal(text, out),
            (Self::Bytes, ValueRef::Hex(digits)) => put_hex(digits, out),
            (Self::Text, ValueRef::ZonedMicros(micros)) => {
                put_zoned_micros(*micros, out);
                Ok(())
            }
            (Self::Text, ValueRef::Decimal(text)) => {
                put_bytes(text.as_bytes(), out);
                Ok(())
            }
            (Self::Array(item), ValueRef::Array(values)) => {
                if !values.is_empty() {
                    put_len(values.len(), out);
                }
                for value in values {
                    item.encode(value, out)?;
                }
                out.push(0);
                Ok(())
            }
            (Self::Map(item), ValueRef::Map(entries)) => {
                if !entries.is_empty() {
                    put_len(entries.len(), out);
                }
                for (key, value) in entries {
                    put_bytes(key.as_bytes(), out);
                    item.encode(value, out)?;
                }
                out.push(0);
                Ok(())
            }
            (Self::Struct(fields), ValueRef::Struct(values)) if fields.len() == values.len() => {
                for (field, value) in fields.iter().zip(values) {
                    field.node.encode(value, out).map_err(|error| error.in_column(&field.name))?;
                }
                Ok(())
            }
            (Self::VariableDecimal(parts), ValueRef::Struct(values)) if values.len() == parts.len() => {
                parts.iter().zip(values).try_for_each(|(node, value)| node.encode(value, out))
            }
            (Self::Double, ValueRef::Float32(number)) => {
                out.extend_from_slice(&f64::from(*number).to_le_bytes());
                Ok(())
            }
            (Self::Float, ValueRef::Float64(number)) => put_narrowed(*number, out),
            _ => Err(mismatch(self.word(), value_word(value))),
        }
    }

    /// The type's zero: what Debezium writes for a required column that is not there.
    fn put_zero(&self, out: &mut Vec<u8>) {
        match self {
            Self::Boolean
            | Self::Int { .. }
            | Self::Long
            | Self::Text
            | Self::Bytes
            | Self::Array(_)
            | Self::Map(_) => out.push(0),
            Self::Float => out.extend_from_slice(&0f32.to_le_bytes()),
            Self::Double => out.extend_from_slice(&0f64.to_le_bytes()),
            Self::Decimal { .. } => put_bytes(&[0], out),
            Self::VariableDecimal(_) => out.extend_from_slice(&[0, 2, 0]),
            Self::Struct(fields) => fields.iter().for_each(|field| out.extend_from_slice(&field.node.absent)),
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Boolean => "a boolean",
            Self::Int { .. } => "an integer",
            Self::Long => "a 64-bit integer",
            Self::Float => "a 32-bit float",
            Self::Double => "a 64-bit float",
            Self::Text => "a string",
            Self::Bytes => "bytes",
            Self::Decimal { .. } | Self::VariableDecimal(_) => "a decimal",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Struct(_) => "a struct with the schema's fields",
        }
    }
}

impl FieldNode {
    fn compile(field: &rowstream_api::Field) -> Self {
        Self { name: field.name.clone(), node: Node::compile(&field.schema) }
    }
}

fn is_variable_decimal(schema: &Schema, scale: &Schema, value: &Schema) -> bool {
    schema.semantic() == Semantic::VariableScaleDecimal
        && (*scale.ty() == SchemaType::Int32 && !scale.is_optional())
        && (*value.ty() == SchemaType::Bytes && !value.is_optional())
}

/// At most 31 characters, so that the length takes one byte, known afterwards.
fn put_zoned_micros(micros: i64, out: &mut Vec<u8>) {
    let at = out.len();
    out.push(0);
    write_zoned_micros(micros, 6, out);
    let twice = 2 * (out.len() - at - 1);
    if let (Some(byte), Ok(zigzag)) = (out.get_mut(at), u8::try_from(twice)) {
        *byte = zigzag;
    }
}

fn put_hex(digits: &str, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return Err(mismatch("an even number of hexadecimal digits", "an odd number"));
    };
    put_len(pairs.len(), out);
    out.reserve(pairs.len());
    let mut seen = 0;
    out.extend(pairs.iter().map(|[high, low]| {
        let (high, low) = (nibble(*high), nibble(*low));
        seen |= high | low;
        high << 4 | (low & 0xf)
    }));
    if seen > 0xf { Err(mismatch("hexadecimal digits", "other characters")) } else { Ok(()) }
}

/// Values of hexadecimal digits by character; 255 for what is no digit.
static NIBBLES: [u8; 256] = nibbles();

const fn nibbles() -> [u8; 256] {
    let mut table = [0xff; 256];
    let mut rest = table.as_mut_slice();
    let mut at = 0u8;
    while let [entry, tail @ ..] = rest {
        *entry = match at {
            b'0'..=b'9' => at - b'0',
            b'a'..=b'f' => at - b'a' + 10,
            b'A'..=b'F' => at - b'A' + 10,
            _ => 0xff,
        };
        at = at.wrapping_add(1);
        rest = tail;
    }
    table
}

#[inline]
fn nibble(digit: u8) -> u8 {
    NIBBLES.get(usize::from(digit)).copied().unwrap_or(0xff)
}

#[expect(clippy::cast_possible_truncation, reason = "checked to lose nothing")]
fn put_narrowed(number: f64, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let narrow = number as f32;
    if f64::from(narrow) != number && !number.is_nan() {
        let message = "the number does not fit a 32-bit float exactly";
        return Err(RecordError::value("VALUE_OUT_OF_RANGE", message));
    }
    out.extend_from_slice(&narrow.to_le_bytes());
    Ok(())
}

#[cold]
fn out_of_range(min: i64, max: i64) -> RecordError {
    RecordError::value("VALUE_OUT_OF_RANGE", format!("expected an integer from {min} to {max}"))
}

#[cold]
pub(crate) fn mismatch(expected: &str, found: &str) -> RecordError {
    RecordError::value("VALUE_TYPE_MISMATCH", format!("expected {expected}, found {found}"))
}

/// A schema's type in words.
pub(crate) fn type_word(schema: &Schema) -> &'static str {
    Kind::compile(schema).word()
}

fn value_word(value: &ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Null => "null",
        ValueRef::Unavailable => "an unavailable value",
        ValueRef::Absent => "an absent value",
        ValueRef::Bool(_) => "a boolean",
        ValueRef::Int(_) => "an integer",
        ValueRef::Float32(_) | ValueRef::Float64(_) => "a float",
        ValueRef::Str(_) => "a string",
        ValueRef::Bytes(_) | ValueRef::Hex(_) => "bytes",
        ValueRef::Decimal(_) => "a decimal",
        ValueRef::ZonedMicros(_) => "an instant",
        ValueRef::Array(_) => "an array",
        ValueRef::Struct(_) => "a struct",
        ValueRef::Map(_) => "a map",
    }
}
