//! One table from a column's type to its schema and to the way its text is read; snapshot and stream both use it, so
//! they can't disagree (postgres.md section 12, debezium-connect.md B5).
//!
//! Built-in types are known by oid. Everything else is resolved through the catalog by oid, never by name: a user's
//! table or type called `json` changes nothing. A type without a rule travels as its text: never dropped.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use rowstream_api::{
    RecordError, Schema, SchemaBuilder, SchemaType, Value, ValueRef,
    calendar::{NEGATIVE_INFINITY_ZONED, POSITIVE_INFINITY_ZONED},
};

pub mod compound;
pub mod literal;
pub mod manual;
pub mod temporal;

/// How a column's text becomes a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `t` or `f`
    Bool,
    /// Every integer type and oid.
    Int,
    /// real
    Float32,
    /// double precision
    Float64,
    /// numeric, with or without a scale
    Decimal,
    /// money, as `lc_monetary=C` prints it
    Money,
    /// Text as it is.
    Text,
    /// `\x…`
    Bytea,
    /// date
    Date,
    /// time with at most 3 digits
    TimeMillis,
    /// time
    TimeMicros,
    /// timestamp with at most 3 digits
    TimestampMillis,
    /// timestamp
    TimestampMicros,
    /// timestamptz
    TimestampTz,
    /// timetz
    TimeTz,
    /// interval
    Interval,
    /// bit(1)
    Bit,
    /// bit(n), varbit
    Bits,
    /// point
    Point,
    /// hstore, as JSON text
    Hstore,
    /// An array.
    Array {
        /// Its elements.
        element: Box<Kind>,
        /// Between them; `,` for all but box.
        delimiter: u8,
    },
}

/// A column's type, resolved.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// How its text is read.
    pub kind: Kind,
    /// Its schema: required, without a default.
    pub schema: SchemaBuilder,
}

/// A type as the catalog tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogType {
    /// Labels in their order.
    Enum(Vec<String>),
    /// Over another type, with that one's modifier.
    Domain {
        /// The type.
        base: u32,
        /// Its modifier.
        typmod: i32,
    },
    /// Of another type.
    Array {
        /// The type.
        element: u32,
        /// Between the elements.
        delimiter: u8,
    },
    /// Made by an extension: its name and the type's.
    Extension(String, String),
    /// Anything else.
    Other,
}

/// What the catalog says about the types of some columns.
pub type TypeCatalog = HashMap<u32, CatalogType>;

/// Resolves a column's type.
#[must_use]
pub fn resolve(oid: u32, typmod: i32, catalog: &TypeCatalog) -> Resolved {
    resolve_nested(oid, typmod, catalog, 0)
}

/// Domains and arrays nest; the catalog can't hold a cycle, but bytes from outside are not believed.
const NESTING_MAX: usize = 32;

fn resolve_nested(oid: u32, typmod: i32, catalog: &TypeCatalog, depth: usize) -> Resolved {
    let plain = |kind, ty| Resolved { kind, schema: SchemaBuilder::new(ty) };
    if depth > NESTING_MAX {
        return plain(Kind::Text, SchemaType::String);
    }
    match catalog.get(&oid) {
        Some(CatalogType::Domain { base, typmod: of_base }) => {
            let typmod = if *of_base >= 0 { *of_base } else { typmod };
            resolve_nested(*base, typmod, catalog, depth + 1)
        }
        Some(CatalogType::Array { element, delimiter }) => {
            let element = resolve_nested(*element, typmod, catalog, depth + 1);
            let kind = Kind::Array { element: Box::new(element.kind), delimiter: *delimiter };
            plain(kind, SchemaType::Array(element.schema.optional().build()))
        }
        Some(CatalogType::Enum(labels)) => Resolved {
            kind: Kind::Text,
            schema: named(SchemaType::String, "io.debezium.data.Enum").parameter("allowed", labels.join(",")),
        },
        Some(CatalogType::Extension(extension, name)) => OF_EXTENSIONS
            .iter()
            .find(|known| (known.extension, known.name) == (extension.as_str(), name.as_str()))
            .map_or_else(
                || plain(Kind::Text, SchemaType::String),
                |known| Resolved {
                    kind: known.kind.clone(),
                    schema: named(SchemaType::String, known.schema),
                },
            ),
        Some(CatalogType::Other) | None => built_in(oid, typmod),
    }
}

/// A type of an extension that has a rule: text with a meaning.
struct OfExtension {
    extension: &'static str,
    name: &'static str,
    kind: Kind,
    schema: &'static str,
}

static OF_EXTENSIONS: [OfExtension; 2] = [
    OfExtension { extension: "hstore", name: "hstore", kind: Kind::Hstore, schema: "io.debezium.data.Json" },
    OfExtension { extension: "ltree", name: "ltree", kind: Kind::Text, schema: "io.debezium.data.Ltree" },
];

fn named(ty: SchemaType, name: &str) -> SchemaBuilder {
    SchemaBuilder::new(ty).name(name).version(1)
}

fn built_in(oid: u32, typmod: i32) -> Resolved {
    let (kind, schema) = match oid {
        16 => (Kind::Bool, SchemaBuilder::new(SchemaType::Boolean)),
        20 | 26 => (Kind::Int, SchemaBuilder::new(SchemaType::Int64)),
        21 => (Kind::Int, SchemaBuilder::new(SchemaType::Int16)),
        23 => (Kind::Int, SchemaBuilder::new(SchemaType::Int32)),
        700 => (Kind::Float32, SchemaBuilder::new(SchemaType::Float32)),
        701 => (Kind::Float64, SchemaBuilder::new(SchemaType::Float64)),
        1700 => (Kind::Decimal, numeric(typmod)),
        790 => (Kind::Money, decimal().parameter("scale", "2")),
        17 => (Kind::Bytea, SchemaBuilder::new(SchemaType::Bytes)),
        114 | 3802 => (Kind::Text, named(SchemaType::String, "io.debezium.data.Json")),
        142 => (Kind::Text, named(SchemaType::String, "io.debezium.data.Xml")),
        2950 => (Kind::Text, named(SchemaType::String, "io.debezium.data.Uuid")),
        3614 => (Kind::Text, named(SchemaType::String, "io.debezium.data.Tsvector")),
        1082 => (Kind::Date, named(SchemaType::Int32, "io.debezium.time.Date")),
        1083 if (0..=3).contains(&typmod) => {
            (Kind::TimeMillis, named(SchemaType::Int32, "io.debezium.time.Time"))
        }
        1083 => (Kind::TimeMicros, named(SchemaType::Int64, "io.debezium.time.MicroTime")),
        1114 if (0..=3).contains(&typmod) => {
            (Kind::TimestampMillis, named(SchemaType::Int64, "io.debezium.time.Timestamp"))
        }
        1114 => (Kind::TimestampMicros, named(SchemaType::Int64, "io.debezium.time.MicroTimestamp")),
        1184 => (Kind::TimestampTz, named(SchemaType::String, "io.debezium.time.ZonedTimestamp")),
        1266 => (Kind::TimeTz, named(SchemaType::String, "io.debezium.time.ZonedTime")),
        1186 => (Kind::Interval, named(SchemaType::Int64, "io.debezium.time.MicroDuration")),
        1560 if typmod == 1 => (Kind::Bit, SchemaBuilder::new(SchemaType::Boolean)),
        1560 | 1562 => {
            let length = if typmod > 0 { typmod } else { i32::MAX };
            (
                Kind::Bits,
                named(SchemaType::Bytes, "io.debezium.data.Bits").parameter("length", length.to_string()),
            )
        }
        600 => (Kind::Point, point()),
        _ => (Kind::Text, SchemaBuilder::new(SchemaType::String)),
    };
    Resolved { kind, schema }
}

fn decimal() -> SchemaBuilder {
    named(SchemaType::Bytes, "org.apache.kafka.connect.data.Decimal")
}

fn numeric(typmod: i32) -> SchemaBuilder {
    if typmod < 4 {
        return named(SchemaType::Struct(Vec::new()), "io.debezium.data.VariableScaleDecimal")
            .doc("Variable scaled decimal")
            .field("scale", SchemaBuilder::new(SchemaType::Int32).build())
            .field("value", SchemaBuilder::new(SchemaType::Bytes).build());
    }
    // numeric.c: 16 bits of precision above 11 bits of scale in two's complement.
    let precision = ((typmod - 4) >> 16) & 0xffff;
    let scale = (((typmod - 4) & 0x7ff) ^ 1024) - 1024;
    decimal()
        .parameter("scale", scale.to_string())
        .parameter("connect.decimal.precision", precision.to_string())
}

fn point() -> SchemaBuilder {
    named(SchemaType::Struct(Vec::new()), "io.debezium.data.geometry.Point")
        .doc("Geometry (POINT)")
        .field("x", SchemaBuilder::new(SchemaType::Float64).build())
        .field("y", SchemaBuilder::new(SchemaType::Float64).build())
        .field("wkb", SchemaBuilder::new(SchemaType::Bytes).optional().build())
        .field("srid", SchemaBuilder::new(SchemaType::Int32).optional().build())
}

/// The text is not what the type's output function writes.
#[must_use]
pub fn malformed(expected: &str) -> RecordError {
    RecordError::value("VALUE_MALFORMED", format!("the text is not {expected}"))
}

/// Reads a value's text.
///
/// # Errors
/// The text is not a value of the kind, or the value has no form in the schema.
pub fn parse<'a>(kind: &Kind, text: &'a str) -> Result<ValueRef<'a>, RecordError> {
    Ok(match kind {
        Kind::Text => ValueRef::str(text),
        Kind::Int => ValueRef::Int(text.parse().map_err(|_| malformed("an integer"))?),
        Kind::Bool | Kind::Bit => match text {
            "t" | "1" => ValueRef::Bool(true),
            "f" | "0" => ValueRef::Bool(false),
            _ => return Err(malformed("a boolean")),
        },
        Kind::Float32 => ValueRef::Float32(text.parse().map_err(|_| malformed("a number"))?),
        Kind::Float64 => ValueRef::Float64(text.parse().map_err(|_| malformed("a number"))?),
        Kind::Decimal => ValueRef::Decimal(Cow::Borrowed(text)),
        Kind::Money => ValueRef::Decimal(Cow::Owned(text.replace(['$', ','], ""))),
        Kind::Bytea => ValueRef::Hex(text.strip_prefix("\\x").ok_or_else(|| malformed("hexadecimal bytes"))?),
        Kind::Date => ValueRef::Int(temporal::date(text)?),
        Kind::TimeMillis => ValueRef::Int(temporal::time(text)? / 1000),
        Kind::TimeMicros => ValueRef::Int(temporal::time(text)?),
        Kind::TimestampMillis => ValueRef::Int(match temporal::infinity(text) {
            Some(sentinel) => sentinel,
            None => temporal::timestamp(text)?.div_euclid(1000),
        }),
        Kind::TimestampMicros => ValueRef::Int(match temporal::infinity(text) {
            Some(sentinel) => sentinel,
            None => temporal::timestamp(text)?,
        }),
        Kind::TimestampTz => match text {
            "infinity" => ValueRef::str(POSITIVE_INFINITY_ZONED),
            "-infinity" => ValueRef::str(NEGATIVE_INFINITY_ZONED),
            _ => ValueRef::ZonedMicros(temporal::timestamp(text)?),
        },
        Kind::TimeTz => ValueRef::Str(Cow::Owned(temporal::time_with_zone(text)?)),
        Kind::Interval => ValueRef::Int(temporal::interval(text)?),
        Kind::Bits => ValueRef::Bytes(Cow::Owned(compound::bits(text)?)),
        Kind::Point => compound::point(text)?,
        Kind::Hstore => ValueRef::Str(Cow::Owned(compound::hstore_json(text)?)),
        Kind::Array { element, delimiter } => compound::array(text, element, *delimiter)?,
    })
}

/// Finishes a column's schema: nullability and default (debezium-connect.md B3).
#[must_use]
pub fn column_schema(resolved: &Resolved, nullable: bool, default: Option<&str>) -> Arc<Schema> {
    let schema = resolved.schema.clone().optional_if(nullable);
    let value = default.and_then(|expression| match literal::constant(expression) {
        literal::Constant::Null => None,
        literal::Constant::Text(text) => {
            literal::physical(&resolved.kind, &text, &resolved.schema.clone().build())
        }
        // What a function answers is not known: the type's zero where something must stand there.
        literal::Constant::Computed if nullable => None,
        literal::Constant::Computed => zero(&resolved.kind),
    });
    match value {
        Some(value) => schema.default_value(value).build(),
        None => schema.build(),
    }
}

fn zero(kind: &Kind) -> Option<Value> {
    match kind {
        Kind::Bool | Kind::Bit => Some(Value::Bool(false)),
        Kind::Int
        | Kind::Date
        | Kind::TimeMillis
        | Kind::TimeMicros
        | Kind::TimestampMillis
        | Kind::TimestampMicros
        | Kind::Interval => Some(Value::Int(0)),
        Kind::Float32 | Kind::Float64 => Some(Value::Float(0.0)),
        Kind::Text => Some(Value::Str(String::new())),
        Kind::TimestampTz => Some(Value::Str("1970-01-01T00:00:00.000000Z".to_owned())),
        Kind::TimeTz => Some(Value::Str("00:00:00Z".to_owned())),
        Kind::Hstore => Some(Value::Str("{}".to_owned())),
        Kind::Decimal | Kind::Money | Kind::Bytea | Kind::Bits | Kind::Point | Kind::Array { .. } => None,
    }
}
