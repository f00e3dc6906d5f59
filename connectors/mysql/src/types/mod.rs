//! One table from a column's type to its schema and to the way its bytes are read; snapshot and stream both use it, so they
//! can't disagree (debezium-connect.md B6, mysql.md 6).
//!
//! The stream's bytes are the server's storage form ([`image`]), the snapshot's are values of the binary protocol
//! ([`selected`]); each [`Kind`] reads both, and a test holds them equal.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaBuilder, SchemaType};

use crate::wire::table_map::{ColumnShape, column};

pub mod charset;
pub mod decimal;
pub mod default;
pub mod image;
pub mod json;
pub mod manual;
pub mod selected;
pub mod temporal;

use charset::Charset;

/// What becomes of dates with a year, month or day of 0, which no calendar has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroDates {
    /// NULL where the column allows it, else the epoch: as Debezium.
    #[default]
    Convert,
    /// The record is refused, and the connector's error tolerance decides.
    Fail,
}

/// What a BIGINT UNSIGNED becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BigintUnsigned {
    /// A decimal: every value is right.
    #[default]
    Precise,
    /// INT64, negative from 2^63 on: Debezium's default.
    Long,
}

/// What the user chose about types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TypeOptions {
    /// Zero dates.
    pub zero_dates: ZeroDates,
    /// BIGINT UNSIGNED.
    pub bigint_unsigned: BigintUnsigned,
}

/// What stands for a zero date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zero {
    /// NULL.
    Null,
    /// 1970-01-01.
    Epoch,
    /// Nothing: refused.
    Refuse,
}

/// How a column's bytes become a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Every integer of at most 64 bits, with sign.
    Int,
    /// Every integer of at most 32 bits, without sign.
    Unsigned,
    /// BIGINT UNSIGNED as a decimal.
    UnsignedDecimal,
    /// FLOAT
    Float32,
    /// DOUBLE
    Float64,
    /// DECIMAL
    Decimal {
        /// All digits.
        precision: usize,
        /// Digits after the point.
        scale: usize,
    },
    /// BIT(1)
    Bit,
    /// BIT(n)
    Bits,
    /// YEAR
    Year,
    /// DATE
    Date(Zero),
    /// TIME
    Time {
        /// Digits of the second.
        digits: usize,
        /// In the form before 5.6.
        old: bool,
    },
    /// DATETIME
    Datetime {
        /// Digits of the second.
        digits: usize,
        /// In the form before 5.6.
        old: bool,
        /// Zero dates.
        zero: Zero,
    },
    /// TIMESTAMP
    Timestamp {
        /// Digits of the second.
        digits: usize,
        /// In the form before 5.6.
        old: bool,
        /// Zero dates.
        zero: Zero,
    },
    /// Text in a charset; unpacked first when the column is MariaDB's COMPRESSED.
    Text {
        /// Charset.
        charset: Charset,
        /// COMPRESSED.
        compressed: bool,
    },
    /// Bytes.
    Bytes {
        /// BINARY(n), whose trailing zeros are not in the binlog: n.
        padded: Option<usize>,
        /// COMPRESSED.
        compressed: bool,
    },
    /// ENUM
    Enum(Arc<[String]>),
    /// SET
    Set(Arc<[String]>),
    /// MySQL's JSON
    Json,
    /// MariaDB's JSON, which is text
    JsonText,
    /// GEOMETRY and its kin, with the SRID before it
    Geometry,
    /// POINT
    Point,
    /// VECTOR
    Vector,
    /// MariaDB's UUID
    Uuid,
    /// MariaDB's INET4
    Inet4,
    /// MariaDB's INET6
    Inet6,
}

/// A column's type, resolved.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// How its bytes are read.
    pub kind: Kind,
    /// Its schema: required, without a default.
    pub schema: SchemaBuilder,
}

/// What the binlog does not tell of a column, from the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogColumn {
    /// `data_type`: `json`, `uuid` …
    pub data_type: String,
    /// `column_default`
    pub default: Option<String>,
    /// Whether the default is an expression.
    pub computed: bool,
}

fn plain(ty: SchemaType) -> SchemaBuilder {
    SchemaBuilder::new(ty)
}

fn named(ty: SchemaType, name: &str) -> SchemaBuilder {
    SchemaBuilder::new(ty).name(name).version(1)
}

fn decimal_schema(precision: usize, scale: usize) -> SchemaBuilder {
    named(SchemaType::Bytes, "org.apache.kafka.connect.data.Decimal")
        .parameter("scale", scale.to_string())
        .parameter("connect.decimal.precision", precision.to_string())
}

/// Resolves a column's type. `charset` is that of its collation.
///
/// # Errors
/// What is not supported, as a sentence's end: "column `x` …".
pub fn resolve(
    shape: &ColumnShape,
    charset: Option<Charset>,
    catalog: Option<&CatalogColumn>,
    options: TypeOptions,
) -> Result<Resolved, String> {
    let zero = match options.zero_dates {
        ZeroDates::Convert if shape.nullable => Zero::Null,
        ZeroDates::Convert => Zero::Epoch,
        ZeroDates::Fail => Zero::Refuse,
    };
    if let Some(special) = catalog.and_then(|known| of_mariadb(shape, &known.data_type)) {
        return Ok(special);
    }
    let digits = usize::from(shape.meta).min(6);
    let found = |kind, schema| Ok(Resolved { kind, schema });
    match shape.ty {
        column::TINY | column::SHORT | column::INT24 | column::LONG | column::LONGLONG => {
            Ok(integer(shape, options))
        }
        column::YEAR => found(Kind::Year, named(SchemaType::Int32, "io.debezium.time.Year")),
        column::FLOAT => found(Kind::Float32, plain(SchemaType::Float32)),
        column::DOUBLE => found(Kind::Float64, plain(SchemaType::Float64)),
        column::NEWDECIMAL => {
            let [precision, scale] = shape.meta.to_be_bytes().map(usize::from);
            found(Kind::Decimal { precision, scale }, decimal_schema(precision, scale))
        }
        column::BIT if shape.meta == 1 => found(Kind::Bit, plain(SchemaType::Boolean)),
        column::BIT => found(
            Kind::Bits,
            named(SchemaType::Bytes, "io.debezium.data.Bits").parameter("length", shape.meta.to_string()),
        ),
        column::DATE | column::NEWDATE => {
            found(Kind::Date(zero), named(SchemaType::Int32, "io.debezium.time.Date"))
        }
        column::TIME | column::TIME2 => {
            let old = shape.ty == column::TIME;
            found(Kind::Time { digits, old }, named(SchemaType::Int64, "io.debezium.time.MicroTime"))
        }
        column::DATETIME | column::DATETIME2 => {
            let old = shape.ty == column::DATETIME;
            let name =
                if digits <= 3 { "io.debezium.time.Timestamp" } else { "io.debezium.time.MicroTimestamp" };
            found(Kind::Datetime { digits, old, zero }, named(SchemaType::Int64, name))
        }
        column::TIMESTAMP | column::TIMESTAMP2 => {
            let old = shape.ty == column::TIMESTAMP;
            found(
                Kind::Timestamp { digits, old, zero },
                named(SchemaType::String, "io.debezium.time.ZonedTimestamp"),
            )
        }
        column::ENUM => {
            let labels = labels(shape, charset)?;
            let schema =
                named(SchemaType::String, "io.debezium.data.Enum").parameter("allowed", allowed(&labels));
            found(Kind::Enum(labels), schema)
        }
        column::SET => {
            let labels = labels(shape, charset)?;
            let schema =
                named(SchemaType::String, "io.debezium.data.EnumSet").parameter("allowed", allowed(&labels));
            found(Kind::Set(labels), schema)
        }
        column::JSON => found(Kind::Json, named(SchemaType::String, "io.debezium.data.Json")),
        // Kind 1 of well-known binary is a point.
        column::GEOMETRY if shape.geometry == Some(1) => found(Kind::Point, point_schema()),
        column::GEOMETRY => found(Kind::Geometry, geometry_schema()),
        column::VECTOR => found(Kind::Vector, vector_schema()),
        _ => text(shape, charset),
    }
}

fn integer(shape: &ColumnShape, options: TypeOptions) -> Resolved {
    let (kind, schema) = match (shape.ty, shape.unsigned) {
        (column::LONGLONG, true) => match options.bigint_unsigned {
            BigintUnsigned::Precise => (Kind::UnsignedDecimal, decimal_schema(20, 0)),
            BigintUnsigned::Long => (Kind::Int, plain(SchemaType::Int64)),
        },
        (column::LONGLONG, false) => (Kind::Int, plain(SchemaType::Int64)),
        (column::LONG, true) => (Kind::Unsigned, plain(SchemaType::Int64)),
        (column::LONG | column::INT24, false) => (Kind::Int, plain(SchemaType::Int32)),
        (column::INT24 | column::SHORT, true) => (Kind::Unsigned, plain(SchemaType::Int32)),
        (_, true) => (Kind::Unsigned, plain(SchemaType::Int16)),
        (_, false) => (Kind::Int, plain(SchemaType::Int16)),
    };
    Resolved { kind, schema }
}

/// CHAR, VARCHAR, TEXT, and their binary kin.
fn text(shape: &ColumnShape, charset: Option<Charset>) -> Result<Resolved, String> {
    let compressed = matches!(shape.ty, column::BLOB_COMPRESSED | column::VARCHAR_COMPRESSED);
    match charset {
        Some(Charset::Binary) => {
            let padded = (shape.ty == column::STRING).then_some(usize::from(shape.meta));
            Ok(Resolved { kind: Kind::Bytes { padded, compressed }, schema: plain(SchemaType::Bytes) })
        }
        Some(charset) => {
            Ok(Resolved { kind: Kind::Text { charset, compressed }, schema: plain(SchemaType::String) })
        }
        None => Err(format!(
            "has the collation {}, whose character set is not known",
            shape.collation.unwrap_or(0)
        )),
    }
}

/// MariaDB's types that the binlog shows as bytes.
fn of_mariadb(shape: &ColumnShape, data_type: &str) -> Option<Resolved> {
    let is_bytes = matches!(shape.ty, column::STRING | column::VARCHAR | column::VAR_STRING);
    match data_type {
        "uuid" if is_bytes => {
            Some(Resolved { kind: Kind::Uuid, schema: named(SchemaType::String, "io.debezium.data.Uuid") })
        }
        "inet4" if is_bytes => Some(Resolved { kind: Kind::Inet4, schema: plain(SchemaType::String) }),
        "inet6" if is_bytes => Some(Resolved { kind: Kind::Inet6, schema: plain(SchemaType::String) }),
        "vector" if is_bytes => Some(Resolved { kind: Kind::Vector, schema: vector_schema() }),
        "json" if shape.ty != column::JSON => Some(Resolved {
            kind: Kind::JsonText,
            schema: named(SchemaType::String, "io.debezium.data.Json"),
        }),
        _ => None,
    }
}

fn labels(shape: &ColumnShape, charset: Option<Charset>) -> Result<Arc<[String]>, String> {
    let charset = charset.unwrap_or(Charset::Utf8);
    shape
        .labels
        .iter()
        .map(|label| charset.decode(label).map(std::borrow::Cow::into_owned))
        .collect::<Result<_, _>>()
        .map_err(|_| format!("has a label that is not valid {}", charset.name()))
}

/// Debezium's list of labels: a comma of a label's own is escaped.
fn allowed(labels: &[String]) -> String {
    labels.iter().map(|label| label.replace(',', "\\,")).collect::<Vec<_>>().join(",")
}

fn point_schema() -> SchemaBuilder {
    named(SchemaType::Struct(Vec::new()), "io.debezium.data.geometry.Point")
        .doc("Geometry (POINT)")
        .field("x", plain(SchemaType::Float64).build())
        .field("y", plain(SchemaType::Float64).build())
        .field("wkb", plain(SchemaType::Bytes).optional().build())
        .field("srid", plain(SchemaType::Int32).optional().build())
}

fn geometry_schema() -> SchemaBuilder {
    named(SchemaType::Struct(Vec::new()), "io.debezium.data.geometry.Geometry")
        .doc("Geometry")
        .field("wkb", plain(SchemaType::Bytes).build())
        .field("srid", plain(SchemaType::Int32).optional().build())
}

fn vector_schema() -> SchemaBuilder {
    let element = plain(SchemaType::Float32).build();
    named(SchemaType::Array(element), "io.debezium.data.FloatVector")
}

/// Finishes a column's schema: nullability and default.
#[must_use]
pub fn column_schema(resolved: &Resolved, nullable: bool, catalog: Option<&CatalogColumn>) -> Arc<Schema> {
    let schema = resolved.schema.clone().optional_if(nullable);
    match catalog.and_then(|known| default::value(&resolved.kind, known, nullable)) {
        Some(value) => schema.default_value(value).build(),
        None => schema.build(),
    }
}
