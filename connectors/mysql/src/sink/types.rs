//! Which type a column gets, and whether an existing column can take a record's values.
//!
//! A pair of types is allowed only when every value of the record's type arrives unchanged, or is refused loudly: by the server, whose
//! strict mode is on, or by us ([`super::encode`]), where the server would round, cut or pad in silence (fractions of
//! a second, digits of a decimal, spaces at the end, bytes of a `BINARY`).
//!
//! Not exact: MySQL's `JSON` keeps numbers as doubles or 64-bit integers and sorts keys. MariaDB's keeps the text.

use rowstream_api::{Schema, SchemaType, Semantic};

use crate::connection::Server;

/// How a column's values travel, and what is checked on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Eight bytes, signed.
    Int,
    /// Four bytes.
    Float,
    /// Eight bytes.
    Double,
    /// Digits, at most so many behind the point.
    Decimal { scale: i32 },
    /// Text.
    Text(Limit),
    /// A fixed-length text, which has no spaces at its end.
    Char { key: bool },
    /// Bytes.
    Bytes,
    /// Exactly so many bytes.
    FixedBytes(usize),
    /// Days.
    Date,
    /// A time of day or a duration, with so many digits of the second.
    Time { digits: u32 },
    /// A point in time, with so many digits of the second.
    Timestamp { digits: u32 },
    /// `BIT(n)`: eight bytes, unsigned.
    Bits,
    /// Spatial reference system (little-endian) and WKB: the servers' own form.
    Geometry,
}

/// What a text column holds; what is longer only by spaces would be cut in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    None,
    Chars(usize),
    Bytes(usize),
}

/// A type of the target, from `information_schema.columns`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TargetType {
    /// `data_type`, lower case.
    pub(crate) name: String,
    pub(crate) unsigned: bool,
    pub(crate) precision: Option<u32>,
    pub(crate) scale: Option<u32>,
    /// Digits of the second.
    pub(crate) digits: u32,
    pub(crate) chars_max: Option<usize>,
    pub(crate) bytes_max: Option<usize>,
    /// Compared byte by byte: two different values are never one key.
    pub(crate) exact: bool,
}

/// Largest precision and scale of `DECIMAL` on both servers.
pub(crate) const DECIMAL_PRECISION_MAX: i32 = 65;
pub(crate) const DECIMAL_SCALE_MAX: i32 = 30;

/// The collation of the tables we make: byte by byte, spaces at the end count.
pub(crate) fn collation(server: Server) -> &'static str {
    if server.is_mariadb() { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" }
}

/// The type that a new column gets; for a key column of text or bytes, with room for `key_length` of them.
pub(crate) fn column_type(schema: &Schema, key_length: Option<usize>) -> String {
    let long = |ty: &str| key_length.map_or(ty.to_owned(), |length| format!("VARCHAR({length})"));
    let fixed = match schema.semantic() {
        Semantic::Decimal { scale } => return decimal(schema, scale).unwrap_or_else(|| long("LONGTEXT")),
        Semantic::Plain => return plain_type(schema, key_length),
        Semantic::Year => "YEAR",
        Semantic::VariableScaleDecimal => "DECIMAL(65,30)",
        Semantic::Date => "DATE",
        Semantic::TimeMillis => "TIME(3)",
        Semantic::TimeMicros => "TIME(6)",
        Semantic::TimestampMillis => "DATETIME(3)",
        // TIMESTAMP ends in 2038; a DATETIME of ours is UTC.
        Semantic::TimestampMicros | Semantic::ZonedTimestamp => "DATETIME(6)",
        Semantic::MicroDuration => "BIGINT",
        Semantic::Uuid => "VARCHAR(36)",
        Semantic::Enum => return format!("VARCHAR({})", key_length.unwrap_or(255)),
        Semantic::ZonedTime | Semantic::Interval => "VARCHAR(64)",
        Semantic::Json => "JSON",
        Semantic::Xml | Semantic::Ltree | Semantic::Tsvector | Semantic::EnumSet => return long("LONGTEXT"),
        Semantic::Bits => match bits_length(schema) {
            Some(length @ 1..=64) => return format!("BIT({length})"),
            Some(_) | None => return long("LONGTEXT"),
        },
        Semantic::Point => "POINT",
        Semantic::Geometry => "GEOMETRY",
    };
    fixed.to_owned()
}

fn plain_type(schema: &Schema, key_length: Option<usize>) -> String {
    let fixed = match schema.ty() {
        SchemaType::Boolean => "BOOLEAN",
        SchemaType::Int8 => "TINYINT",
        SchemaType::Int16 => "SMALLINT",
        SchemaType::Int32 => "INT",
        SchemaType::Int64 => "BIGINT",
        SchemaType::Float32 => "FLOAT",
        SchemaType::Float64 => "DOUBLE",
        SchemaType::String => {
            return key_length.map_or("LONGTEXT".to_owned(), |length| format!("VARCHAR({length})"));
        }
        SchemaType::Bytes => {
            return key_length.map_or("LONGBLOB".to_owned(), |length| format!("VARBINARY({length})"));
        }
        SchemaType::Array(_) | SchemaType::Map(_) | SchemaType::Struct(_) => "JSON",
    };
    fixed.to_owned()
}

/// Whether a key column of this schema needs a length.
pub(crate) fn needs_length(schema: &Schema) -> bool {
    let ty = column_type(schema, None);
    matches!(ty.as_str(), "LONGTEXT" | "LONGBLOB") || schema.semantic() == Semantic::Enum
}

/// `DECIMAL(p,s)`; `None` when no decimal of the servers has so many digits behind the point.
fn decimal(schema: &Schema, scale: i32) -> Option<String> {
    let precision = schema.parameter("connect.decimal.precision").and_then(|p| p.parse::<i32>().ok());
    // A negative scale's zeros are digits, too.
    let precision = precision.and_then(|p| p.checked_add((-scale).max(0)));
    let scale = scale.max(0);
    let precision = precision.filter(|p| (1..=DECIMAL_PRECISION_MAX).contains(p) && scale <= *p);
    (scale <= DECIMAL_SCALE_MAX)
        .then(|| format!("DECIMAL({},{scale})", precision.unwrap_or(DECIMAL_PRECISION_MAX)))
}

pub(crate) fn bits_length(schema: &Schema) -> Option<usize> {
    schema.parameter("length").and_then(|length| length.parse().ok())
}

/// How values of `schema` reach a column of `target`; `None` when they can't without loss.
pub(crate) fn route(schema: &Schema, target: &TargetType) -> Option<Wire> {
    let name = target.name.as_str();
    let json = || (name == "json").then_some(Wire::Text(Limit::None)).or_else(|| text(target));
    let digits = target.digits;
    match schema.semantic() {
        Semantic::Plain => plain_route(schema, target),
        Semantic::Year if name == "year" => Some(Wire::Int),
        Semantic::Year => plain_route(schema, target),
        Semantic::Decimal { scale } => decimal_route(target, Some(scale)).or_else(|| text(target)),
        Semantic::VariableScaleDecimal => decimal_route(target, None).or_else(|| text(target)),
        Semantic::Date => (name == "date").then_some(Wire::Date),
        Semantic::TimeMillis | Semantic::TimeMicros => (name == "time").then_some(Wire::Time { digits }),
        Semantic::TimestampMillis | Semantic::TimestampMicros | Semantic::ZonedTimestamp => {
            matches!(name, "datetime" | "timestamp").then_some(Wire::Timestamp { digits })
        }
        Semantic::MicroDuration => (name == "bigint" && !target.unsigned).then_some(Wire::Int),
        Semantic::Json => json(),
        Semantic::Uuid if name == "uuid" => Some(Wire::Text(Limit::None)),
        Semantic::Enum | Semantic::EnumSet if matches!(name, "enum" | "set") => Some(Wire::Text(Limit::None)),
        Semantic::Uuid
        | Semantic::Enum
        | Semantic::EnumSet
        | Semantic::Xml
        | Semantic::Ltree
        | Semantic::Tsvector
        | Semantic::ZonedTime
        | Semantic::Interval => text(target),
        Semantic::Bits => bits(schema, target),
        Semantic::Point | Semantic::Geometry => spatial(name).then_some(Wire::Geometry).or_else(json),
    }
}

fn plain_route(schema: &Schema, target: &TargetType) -> Option<Wire> {
    let name = target.name.as_str();
    let whole = |rank: u8| {
        let fits = integer_rank(target).is_some_and(|of_target| of_target >= rank) || name == "decimal";
        fits.then_some(Wire::Int)
    };
    // FLOAT(7,4) rounds.
    let unrounded = target.scale.is_none();
    match schema.ty() {
        SchemaType::Boolean => (integer_rank(target).is_some() || name == "bit").then_some(Wire::Int),
        SchemaType::Int8 | SchemaType::Int16 => whole(1),
        SchemaType::Int32 => whole(2),
        SchemaType::Int64 => whole(3),
        SchemaType::Float32 => match name {
            "float" => unrounded.then_some(Wire::Float),
            "double" => unrounded.then_some(Wire::Double),
            _ => None,
        },
        SchemaType::Float64 => (name == "double" && unrounded).then_some(Wire::Double),
        SchemaType::String => match name {
            "enum" | "set" | "uuid" | "inet4" | "inet6" => Some(Wire::Text(Limit::None)),
            _ => text(target),
        },
        SchemaType::Bytes => match name {
            "tinyblob" | "blob" | "mediumblob" | "longblob" | "varbinary" => Some(Wire::Bytes),
            "binary" => target.bytes_max.map(Wire::FixedBytes),
            _ => None,
        },
        SchemaType::Array(_) | SchemaType::Map(_) | SchemaType::Struct(_) => {
            (name == "json").then_some(Wire::Text(Limit::None)).or_else(|| text(target))
        }
    }
}

/// 1, 2 or 3: the record's type that a column of this type is read as from its own server is INT16, INT32 or INT64.
fn integer_rank(target: &TargetType) -> Option<u8> {
    match (target.name.as_str(), target.unsigned) {
        ("tinyint", _) | ("smallint", false) => Some(1),
        ("smallint", true) | ("mediumint", _) | ("int", false) => Some(2),
        ("int", true) | ("bigint", _) => Some(3),
        _ => None,
    }
}

/// A scale that is not known before each value is checked with it.
fn decimal_route(target: &TargetType, scale: Option<i32>) -> Option<Wire> {
    if target.name == "decimal" {
        let of_target = i32::try_from(target.scale.unwrap_or(0)).ok()?;
        return scale.is_none_or(|s| s <= of_target).then_some(Wire::Decimal { scale: of_target });
    }
    (integer_rank(target) == Some(3) && scale.is_some_and(|s| s <= 0)).then_some(Wire::Decimal { scale: 0 })
}

fn text(target: &TargetType) -> Option<Wire> {
    let limit = |limit: fn(usize) -> Limit, max: Option<usize>| max.map_or(Limit::None, limit);
    match target.name.as_str() {
        "varchar" => Some(Wire::Text(limit(Limit::Chars, target.chars_max))),
        "tinytext" | "text" | "mediumtext" | "longtext" => {
            Some(Wire::Text(limit(Limit::Bytes, target.bytes_max)))
        }
        "char" => Some(Wire::Char { key: false }),
        _ => None,
    }
}

fn bits(schema: &Schema, target: &TargetType) -> Option<Wire> {
    if target.name != "bit" {
        return text(target);
    }
    let room = usize::try_from(target.precision.unwrap_or(1)).unwrap_or(1);
    bits_length(schema).is_some_and(|length| length <= room).then_some(Wire::Bits)
}

fn spatial(name: &str) -> bool {
    matches!(
        name,
        "geometry"
            | "point"
            | "linestring"
            | "polygon"
            | "multipoint"
            | "multilinestring"
            | "multipolygon"
            | "geomcollection"
            | "geometrycollection"
    )
}

#[cfg(test)]
mod tests {
    use rowstream_api::SchemaBuilder;

    use super::*;

    fn target(name: &str) -> TargetType {
        TargetType { name: name.to_owned(), ..TargetType::default() }
    }

    #[test]
    fn what_would_round_or_cut_in_silence_is_not_allowed() {
        let decimal = SchemaBuilder::new(SchemaType::Bytes)
            .name("org.apache.kafka.connect.data.Decimal")
            .parameter("scale", "4")
            .build();
        let of_scale = |scale| TargetType { scale: Some(scale), ..target("decimal") };
        assert_eq!(route(&decimal, &of_scale(4)), Some(Wire::Decimal { scale: 4 }));
        assert_eq!(route(&decimal, &of_scale(2)), None);
        assert_eq!(route(&decimal, &target("double")), None);
        let int = SchemaBuilder::new(SchemaType::Int64).build();
        assert_eq!(route(&int, &target("int")), None);
        assert_eq!(route(&int, &TargetType { unsigned: true, ..target("int") }), Some(Wire::Int));
        assert_eq!(route(&int, &target("double")), None);
        let string = SchemaBuilder::new(SchemaType::String).build();
        assert_eq!(route(&string, &target("int")), None);
        let double = SchemaBuilder::new(SchemaType::Float64).build();
        assert_eq!(route(&double, &target("float")), None);
        assert_eq!(route(&double, &TargetType { scale: Some(2), ..target("double") }), None);
    }

    #[test]
    fn decimals_beyond_the_servers_are_kept_as_text() {
        let decimal = |scale: &str, precision: &str| {
            let start = SchemaBuilder::new(SchemaType::Bytes).name("org.apache.kafka.connect.data.Decimal");
            let schema =
                start.parameter("scale", scale).parameter("connect.decimal.precision", precision).build();
            column_type(&schema, None)
        };
        assert_eq!(decimal("2", "10"), "DECIMAL(10,2)");
        assert_eq!(decimal("30", "65"), "DECIMAL(65,30)");
        assert_eq!(decimal("2", "500"), "DECIMAL(65,2)");
        assert_eq!(decimal("-2", "3"), "DECIMAL(5,0)");
        assert_eq!(decimal("31", "65"), "LONGTEXT");
    }
}
