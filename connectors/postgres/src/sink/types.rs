//! Which PostgreSQL type a column gets, and whether an existing column can take it.
//!
//! A pair of types is allowed only when every value of the record's type arrives unchanged, or is refused loudly by
//! the server. What would round or cut in silence (a decimal into fewer digits, microseconds into milliseconds) is
//! not allowed, whatever the server's casts would do.

use rowstream_api::{Schema, SchemaType, Semantic};

/// How a column's values travel: the element type of the array parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Text,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
}

impl Wire {
    /// Type OID (`pg_type.dat`; fixed for built-in types).
    pub(crate) fn oid(self) -> u32 {
        match self {
            Self::Bool => 16,
            Self::Bytea => 17,
            Self::Int8 => 20,
            Self::Int2 => 21,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Float4 => 700,
            Self::Float8 => 701,
            Self::Date => 1082,
            Self::Time => 1083,
            Self::Timestamp => 1114,
            Self::Timestamptz => 1184,
            Self::Interval => 1186,
        }
    }

    /// Type name in SQL.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::Bool => "pg_catalog.bool",
            Self::Bytea => "pg_catalog.bytea",
            Self::Int8 => "pg_catalog.int8",
            Self::Int2 => "pg_catalog.int2",
            Self::Int4 => "pg_catalog.int4",
            Self::Text => "pg_catalog.text",
            Self::Float4 => "pg_catalog.float4",
            Self::Float8 => "pg_catalog.float8",
            Self::Date => "pg_catalog.date",
            Self::Time => "pg_catalog.time",
            Self::Timestamp => "pg_catalog.timestamp",
            Self::Timestamptz => "pg_catalog.timestamptz",
            Self::Interval => "pg_catalog.interval",
        }
    }
}

/// A type of the target, domains resolved to what they are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetType {
    /// OID.
    pub(crate) oid: u32,
    /// `"schema"."name"`, for casts.
    pub(crate) sql: String,
    /// Bare name.
    pub(crate) name: String,
    /// `pg_type.typcategory`.
    pub(crate) category: char,
    /// `atttypmod`; −1 for none.
    pub(crate) typmod: i32,
    /// For arrays.
    pub(crate) element: Option<Box<TargetType>>,
}

/// How values reach a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) wire: Wire,
    /// The expression needs an explicit cast to the column's type.
    pub(crate) cast: bool,
}

const NUMERIC: u32 = 1700;

/// The type that a new column gets.
pub(crate) fn column_type(schema: &Schema) -> String {
    let fixed = match schema.semantic() {
        Semantic::Decimal { scale } => return numeric(schema, scale),
        Semantic::Plain | Semantic::Year => return plain_type(schema),
        Semantic::VariableScaleDecimal => "numeric",
        Semantic::Date => "date",
        Semantic::TimeMillis => "time(3)",
        Semantic::TimeMicros => "time(6)",
        Semantic::TimestampMillis => "timestamp(3)",
        Semantic::TimestampMicros => "timestamp(6)",
        Semantic::ZonedTimestamp => "timestamptz",
        Semantic::ZonedTime => "timetz",
        Semantic::MicroDuration | Semantic::Interval => "interval",
        Semantic::Json | Semantic::Geometry => "jsonb",
        Semantic::Xml => "xml",
        Semantic::Uuid => "uuid",
        // `ltree` is an extension's; text takes it everywhere.
        Semantic::Ltree | Semantic::Enum | Semantic::EnumSet => "text",
        Semantic::Tsvector => "tsvector",
        Semantic::Bits => "bit varying",
        Semantic::Point => "point",
    };
    fixed.to_owned()
}

fn plain_type(schema: &Schema) -> String {
    let fixed = match schema.ty() {
        SchemaType::Boolean => "boolean",
        SchemaType::Int8 | SchemaType::Int16 => "smallint",
        SchemaType::Int32 => "integer",
        SchemaType::Int64 => "bigint",
        SchemaType::Float32 => "real",
        SchemaType::Float64 => "double precision",
        SchemaType::String => "text",
        SchemaType::Bytes => "bytea",
        SchemaType::Array(element) => return array_type(element),
        SchemaType::Map(_) | SchemaType::Struct(_) => "jsonb",
    };
    fixed.to_owned()
}

/// PostgreSQL has one array type for every number of dimensions.
fn array_type(element: &Schema) -> String {
    if let SchemaType::Array(inner) = element.ty() {
        return array_type(inner);
    }
    format!("{}[]", column_type(element))
}

/// `numeric(p,s)` where every server accepts it (before 15 the scale is 0 to p), else `numeric`.
fn numeric(schema: &Schema, scale: i32) -> String {
    let precision = schema.parameter("connect.decimal.precision").and_then(|p| p.parse::<i32>().ok());
    match precision {
        Some(precision) if (1..=1000).contains(&precision) && (0..=precision).contains(&scale) => {
            format!("numeric({precision},{scale})")
        }
        Some(_) | None => "numeric".to_owned(),
    }
}

/// How values of `schema` reach a column of `target`; `None` when they can't without loss.
pub(crate) fn route(schema: &Schema, target: &TargetType) -> Option<Route> {
    let oid = target.oid;
    let native = |wire: Wire| (oid == wire.oid()).then_some(Route { wire, cast: false });
    let cast = |allowed: bool| allowed.then_some(Route { wire: Wire::Text, cast: true });
    let text = || text_route(target);
    match schema.semantic() {
        Semantic::Plain | Semantic::Year => plain_route(schema, target),
        Semantic::Decimal { scale } => {
            cast(oid == 790 || (oid == NUMERIC && numeric_scale(target.typmod).is_none_or(|s| s >= scale)))
        }
        Semantic::VariableScaleDecimal => cast(oid == NUMERIC && target.typmod == -1),
        Semantic::Date => native(Wire::Date),
        Semantic::TimeMillis => native(Wire::Time).filter(|_| keeps_digits(target, 3)),
        Semantic::TimeMicros => native(Wire::Time).filter(|_| keeps_digits(target, 6)),
        Semantic::TimestampMillis => timestamp(target, 3),
        Semantic::TimestampMicros => timestamp(target, 6),
        Semantic::ZonedTimestamp => native(Wire::Timestamptz).filter(|_| keeps_digits(target, 6)),
        Semantic::ZonedTime => cast(oid == 1266 && keeps_digits(target, 6)),
        Semantic::MicroDuration => native(Wire::Interval).filter(|_| target.typmod == -1),
        Semantic::Interval => cast(oid == 1186 && target.typmod == -1),
        Semantic::Json => cast(is_json(oid)).or_else(text),
        Semantic::Xml => cast(oid == 142).or_else(text),
        Semantic::Uuid => cast(oid == 2950).or_else(text),
        Semantic::Ltree => cast(target.name == "ltree").or_else(text),
        Semantic::Tsvector => cast(oid == 3614).or_else(text),
        Semantic::Enum => cast(target.category == 'E').or_else(text),
        Semantic::EnumSet => text(),
        Semantic::Bits => bits(target),
        Semantic::Point => cast(oid == 600 || is_json(oid)),
        Semantic::Geometry => cast(is_json(oid)),
    }
}

fn plain_route(schema: &Schema, target: &TargetType) -> Option<Route> {
    let oid = target.oid;
    let first = |wires: &[Wire]| {
        let wire = wires.iter().copied().find(|wire| wire.oid() == oid);
        wire.map(|wire| Route { wire, cast: false })
    };
    let cast = |allowed: bool| allowed.then_some(Route { wire: Wire::Text, cast: true });
    // Integers into numeric(p,s) overflow loudly; only a negative scale would round.
    let whole = || cast(oid == NUMERIC && numeric_scale(target.typmod).is_none_or(|scale| scale >= 0));
    match schema.ty() {
        SchemaType::Boolean => first(&[Wire::Bool]),
        SchemaType::Int8 | SchemaType::Int16 => first(&[Wire::Int2, Wire::Int4, Wire::Int8]).or_else(whole),
        SchemaType::Int32 => first(&[Wire::Int4, Wire::Int8]).or_else(whole),
        // The source reads `oid` columns as INT64.
        SchemaType::Int64 => first(&[Wire::Int8]).or_else(whole).or_else(|| cast(oid == 26)),
        SchemaType::Float32 => first(&[Wire::Float4, Wire::Float8]),
        SchemaType::Float64 => first(&[Wire::Float8]),
        SchemaType::String => text_route(target)
            .or_else(|| cast(oid != 17 && matches!(target.category, 'I' | 'R' | 'U' | 'E' | 'G' | 'V'))),
        SchemaType::Bytes => first(&[Wire::Bytea]),
        SchemaType::Array(element) => match &target.element {
            Some(inner) => cast(element_fits(element, inner)),
            None => cast(is_json(oid)),
        },
        SchemaType::Map(_) | SchemaType::Struct(_) => cast(is_json(oid)).or_else(|| text_route(target)),
    }
}

fn element_fits(element: &Schema, target: &TargetType) -> bool {
    if let SchemaType::Array(inner) = element.ty() {
        return element_fits(inner, target);
    }
    route(element, target).is_some()
}

/// Assigned, not cast: an explicit cast to `varchar(n)` would cut in silence.
fn text_route(target: &TargetType) -> Option<Route> {
    (target.category == 'S').then_some(Route { wire: Wire::Text, cast: false })
}

/// A timestamp without zone is UTC in the record, so that it fits both types.
fn timestamp(target: &TargetType, digits: i32) -> Option<Route> {
    let wire = [Wire::Timestamp, Wire::Timestamptz].into_iter().find(|wire| wire.oid() == target.oid)?;
    keeps_digits(target, digits).then_some(Route { wire, cast: false })
}

fn bits(target: &TargetType) -> Option<Route> {
    matches!(target.oid, 1560 | 1562).then_some(Route { wire: Wire::Text, cast: true })
}

fn is_json(oid: u32) -> bool {
    matches!(oid, 114 | 3802)
}

fn keeps_digits(target: &TargetType, digits: i32) -> bool {
    target.typmod == -1 || target.typmod >= digits
}

/// Scale in a numeric's typmod (`numeric_typmod_scale` in `numeric.c`): eleven bits, signed since 15.
fn numeric_scale(typmod: i32) -> Option<i32> {
    (typmod >= 4).then(|| (((typmod - 4) & 0x7ff) ^ 1024) - 1024)
}

#[cfg(test)]
mod tests {
    use rowstream_api::SchemaBuilder;

    use super::*;

    fn target(oid: u32, category: char, typmod: i32) -> TargetType {
        TargetType { oid, sql: String::new(), name: String::new(), category, typmod, element: None }
    }

    #[test]
    fn what_would_round_or_cut_in_silence_is_not_allowed() {
        let decimal = SchemaBuilder::new(SchemaType::Bytes)
            .name("org.apache.kafka.connect.data.Decimal")
            .parameter("scale", "4")
            .build();
        let typmod = |precision: i32, scale: i32| (precision << 16 | scale) + 4;
        assert!(route(&decimal, &target(NUMERIC, 'N', typmod(10, 4))).is_some());
        assert!(route(&decimal, &target(NUMERIC, 'N', -1)).is_some());
        assert!(route(&decimal, &target(NUMERIC, 'N', typmod(10, 2))).is_none());
        let micros = SchemaBuilder::new(SchemaType::Int64).name("io.debezium.time.MicroTimestamp").build();
        assert!(route(&micros, &target(1114, 'D', 3)).is_none());
        assert!(route(&micros, &target(1114, 'D', 6)).is_some());
        let int = SchemaBuilder::new(SchemaType::Int64).build();
        assert!(route(&int, &target(23, 'N', -1)).is_none());
        let string = SchemaBuilder::new(SchemaType::String).build();
        assert!(route(&string, &target(23, 'N', -1)).is_none());
        assert_eq!(
            route(&string, &target(1043, 'S', 14)),
            Some(Route { wire: Wire::Text, cast: false }),
            "an explicit cast would cut"
        );
    }
}
