//! How a schema's values lie in Avro bytes: what decoding needs, whoever wrote them.
//!
//! A Connect schema implies one layout; an Avro schema made elsewhere may have others (enums, fixed, `null` as a
//! union's second branch), which is why decoding follows this and not the Connect schema.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaType};

/// One type's bytes. Finite: recursive schemas are refused where layouts are made, so that decoding cannot recurse
/// further than the schema is deep.
#[derive(Debug, Clone)]
pub(crate) enum Layout {
    /// One byte.
    Boolean,
    /// Zigzag varint of 32 bits.
    Int,
    /// Zigzag varint of 64 bits.
    Long,
    /// Four bytes, little-endian.
    Float,
    /// Eight bytes, little-endian.
    Double,
    /// Length, bytes.
    Bytes,
    /// Length, UTF-8.
    Text,
    /// So many bytes.
    Fixed(usize),
    /// Index of a symbol.
    Enum(Arc<[String]>),
    /// Blocks of items.
    Array(Arc<Item>),
    /// Blocks of keys and items.
    Map(Arc<Item>),
    /// The fields, one behind the other.
    Record(Arc<[Layout]>),
    /// Branch number, then nothing or the value.
    Optional {
        /// Which branch is null.
        null_branch: usize,
        /// The other branch.
        value: Arc<Layout>,
    },
}

/// What a block repeats.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// The item's bytes.
    pub(crate) layout: Layout,
    /// An item may take no bytes at all, so that the input's length does not bound their number.
    pub(crate) may_be_empty: bool,
}

impl Layout {
    /// An array of these.
    pub(crate) fn array_of(item: Layout) -> Self {
        Self::Array(Item::new(item))
    }

    /// A map of these.
    pub(crate) fn map_of(item: Layout) -> Self {
        Self::Map(Item::new(item))
    }

    /// The layout that this crate's encoder gives a schema.
    pub(crate) fn of_connect(schema: &Schema) -> Self {
        let value = match schema.ty() {
            SchemaType::Boolean => Self::Boolean,
            SchemaType::Int8 | SchemaType::Int16 | SchemaType::Int32 => Self::Int,
            SchemaType::Int64 => Self::Long,
            SchemaType::Float32 => Self::Float,
            SchemaType::Float64 => Self::Double,
            SchemaType::String => Self::Text,
            SchemaType::Bytes => Self::Bytes,
            SchemaType::Array(item) => Self::array_of(Self::of_connect(item)),
            SchemaType::Map(item) => Self::map_of(Self::of_connect(item)),
            SchemaType::Struct(fields) => {
                Self::Record(fields.iter().map(|field| Self::of_connect(&field.schema)).collect())
            }
        };
        if !schema.is_optional() {
            return value;
        }
        let null_branch = usize::from(has_default(schema));
        Self::Optional { null_branch, value: Arc::new(value) }
    }

    fn may_be_empty(&self) -> bool {
        match self {
            Self::Fixed(size) => *size == 0,
            Self::Record(fields) => fields.iter().all(Self::may_be_empty),
            Self::Boolean
            | Self::Int
            | Self::Long
            | Self::Float
            | Self::Double
            | Self::Bytes
            | Self::Text
            | Self::Enum(_)
            | Self::Array(_)
            | Self::Map(_)
            | Self::Optional { .. } => false,
        }
    }
}

impl Item {
    fn new(layout: Layout) -> Arc<Self> {
        let may_be_empty = layout.may_be_empty();
        Arc::new(Self { layout, may_be_empty })
    }
}

/// Whether the schema has a default other than null: Avro then wants the value's branch first.
pub(crate) fn has_default(schema: &Schema) -> bool {
    schema.default().is_some_and(|default| *default != rowstream_api::Value::Null)
}
