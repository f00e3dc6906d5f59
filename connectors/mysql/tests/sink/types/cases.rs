//! The types: schema, column, and values with their texts in the target.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaBuilder, SchemaType, ValueRef};
use rowstream_testkit::records::{Owned, int, named, s, schema};

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) schema: Arc<Schema>,
    /// `column_type` of the created column, without what only one of the servers writes.
    pub(super) ty: &'static str,
    /// Value and its text in the target.
    pub(super) values: Vec<(Owned, &'static str)>,
}

pub(super) fn case(
    name: &'static str,
    schema: Arc<Schema>,
    ty: &'static str,
    values: Vec<(Owned, &'static str)>,
) -> Case {
    Case { name, schema, ty, values }
}

pub(super) fn n(number: i64) -> Owned {
    ValueRef::Int(number)
}

pub(super) fn bytes(bytes: &'static [u8]) -> Owned {
    ValueRef::bytes(bytes)
}

pub(super) fn decimal(scale: &str, precision: &str) -> Arc<Schema> {
    SchemaBuilder::new(SchemaType::Bytes)
        .optional()
        .name("org.apache.kafka.connect.data.Decimal")
        .parameter("scale", scale)
        .parameter("connect.decimal.precision", precision)
        .build()
}

pub(super) fn variable_decimal() -> Arc<Schema> {
    let start = SchemaBuilder::structure().optional().name("io.debezium.data.VariableScaleDecimal");
    start.field("scale", int()).field("value", schema(SchemaType::Bytes)).build()
}

pub(super) fn variable(scale: i64, unscaled: &'static [u8]) -> Owned {
    ValueRef::Struct(vec![n(scale), ValueRef::bytes(unscaled)])
}

pub(super) fn bits(length: &str) -> Arc<Schema> {
    let start = SchemaBuilder::new(SchemaType::Bytes).optional().name("io.debezium.data.Bits");
    start.parameter("length", length).build()
}

pub(super) fn point() -> Arc<Schema> {
    let start = SchemaBuilder::structure().optional().name("io.debezium.data.geometry.Point");
    let number = || schema(SchemaType::Float64);
    start
        .field("x", number())
        .field("y", number())
        .field("wkb", schema(SchemaType::Bytes))
        .field("srid", int())
        .build()
}

pub(super) fn geometry() -> Arc<Schema> {
    let start = SchemaBuilder::structure().optional().name("io.debezium.data.geometry.Geometry");
    start.field("wkb", schema(SchemaType::Bytes)).field("srid", int()).build()
}

pub(super) fn array(element: Arc<Schema>) -> Arc<Schema> {
    schema(SchemaType::Array(element))
}

pub(super) fn numbers() -> Vec<Case> {
    use SchemaType as T;
    let max128 = Box::leak(Box::new(99_999_999_999_999_999_999_999_999_999_999_999_999_i128.to_be_bytes()));
    vec![
        case(
            "bool",
            schema(T::Boolean),
            "tinyint(1)",
            vec![(ValueRef::Bool(true), "1"), (ValueRef::Bool(false), "0")],
        ),
        case("i8", schema(T::Int8), "tinyint", vec![(n(-128), "-128")]),
        case("i16", schema(T::Int16), "smallint", vec![(n(32767), "32767")]),
        case("i32", schema(T::Int32), "int", vec![(n(i64::from(i32::MIN)), "-2147483648")]),
        case(
            "i64",
            schema(T::Int64),
            "bigint",
            vec![(n(i64::MAX), "9223372036854775807"), (n(i64::MIN), "-9223372036854775808")],
        ),
        case("f32", schema(T::Float32), "float", vec![(ValueRef::Float32(0.5), "0.5")]),
        case(
            "f64",
            schema(T::Float64),
            "double",
            vec![(ValueRef::Float64(0.1), "0.1"), (ValueRef::Float64(-1.5), "-1.5")],
        ),
        case(
            "dec",
            decimal("2", "10"),
            "decimal(10,2)",
            vec![(bytes(&[4, 210]), "12.34"), (bytes(&[255]), "-0.01"), (bytes(&[0]), "0.00")],
        ),
        case("ubig", decimal("0", "20"), "decimal(20,0)", vec![(bytes(&[255]), "-1")]),
        case(
            "decbig",
            decimal("0", "39"),
            "decimal(39,0)",
            vec![(bytes(max128), "99999999999999999999999999999999999999")],
        ),
        case(
            "dectext",
            decimal("40", "50"),
            "longtext",
            vec![(bytes(&[1]), "0.0000000000000000000000000000000000000001")],
        ),
        case(
            "vdec",
            variable_decimal(),
            "decimal(65,30)",
            vec![
                (variable(3, &[4, 210]), "1.234000000000000000000000000000"),
                (variable(-2, &[5]), "500.000000000000000000000000000000"),
            ],
        ),
        case(
            "year",
            named(T::Int32, "io.debezium.time.Year"),
            "year",
            vec![(n(2026), "2026"), (n(1901), "1901")],
        ),
    ]
}

pub(super) fn times() -> Vec<Case> {
    use SchemaType as T;
    let zoned = || named(T::String, "io.debezium.time.ZonedTimestamp");
    vec![
        case(
            "date",
            named(T::Int32, "io.debezium.time.Date"),
            "date",
            vec![(n(0), "1970-01-01"), (n(-719_162), "0001-01-01"), (n(2_932_896), "9999-12-31")],
        ),
        case(
            "time3",
            named(T::Int32, "io.debezium.time.Time"),
            "time(3)",
            vec![(n(3_723_004), "01:02:03.004")],
        ),
        case(
            "time6",
            named(T::Int64, "io.debezium.time.MicroTime"),
            "time(6)",
            vec![
                (n(86_400_000_000), "24:00:00.000000"),
                (n(1), "00:00:00.000001"),
                (n(-3_020_399_000_000), "-838:59:59.000000"),
            ],
        ),
        case(
            "ts3",
            named(T::Int64, "io.debezium.time.Timestamp"),
            "datetime(3)",
            vec![(n(1_700_000_000_123), "2023-11-14 22:13:20.123")],
        ),
        case(
            "ts6",
            named(T::Int64, "io.debezium.time.MicroTimestamp"),
            "datetime(6)",
            vec![
                (n(1_700_000_000_123_456), "2023-11-14 22:13:20.123456"),
                (n(-1), "1969-12-31 23:59:59.999999"),
            ],
        ),
        case(
            "tstz",
            zoned(),
            "datetime(6)",
            vec![
                (s("2026-11-21T10:34:56.789123Z"), "2026-11-21 10:34:56.789123"),
                (s("2038-01-20T00:00:00+01:30"), "2038-01-19 22:30:00.000000"),
            ],
        ),
        case(
            "timetz",
            named(T::String, "io.debezium.time.ZonedTime"),
            "varchar(64)",
            vec![(s("10:34:56.5Z"), "10:34:56.5Z")],
        ),
        case(
            "dur",
            named(T::Int64, "io.debezium.time.MicroDuration"),
            "bigint",
            vec![(n(-90_061_000_001), "-90061000001")],
        ),
        case(
            "ival",
            named(T::String, "io.debezium.time.Interval"),
            "varchar(64)",
            vec![(s("P1Y2M3DT4H5M6.78S"), "P1Y2M3DT4H5M6.78S")],
        ),
    ]
}

pub(super) fn texts() -> Vec<Case> {
    use SchemaType as T;
    let semantic = |name: &str| named(T::String, &format!("io.debezium.data.{name}"));
    vec![
        case(
            "text",
            schema(T::String),
            "longtext",
            vec![(s("grüße 🎈 \\ \" ' {}\t\n\0 "), "grüße 🎈 \\ \" ' {}\t\n\0 "), (s(""), "")],
        ),
        case(
            "bytes",
            schema(T::Bytes),
            "longblob",
            vec![(bytes(b"\0\x01'\\"), "\0\x01'\\"), (bytes(b""), "")],
        ),
        case("xml", semantic("Xml"), "longtext", vec![(s("<a>1</a>"), "<a>1</a>")]),
        case(
            "uuid",
            semantic("Uuid"),
            "varchar(36)",
            vec![(s("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")],
        ),
        case("ltree", semantic("Ltree"), "longtext", vec![(s("a.b"), "a.b")]),
        case("tsv", semantic("Tsvector"), "longtext", vec![(s("'a':1 'b':2"), "'a':1 'b':2")]),
        case("enum", semantic("Enum"), "varchar(255)", vec![(s("happy"), "happy")]),
        case("set", semantic("EnumSet"), "longtext", vec![(s("a,b"), "a,b")]),
        case("varbits", bits("2147483647"), "longtext", vec![(bytes(&[0b101]), "00000101")]),
    ]
}

/// Read back by an expression.
pub(super) fn expressions() -> Vec<(Case, &'static str)> {
    use SchemaType as T;
    let semantic = |name: &str| named(T::String, &format!("io.debezium.data.{name}"));
    let json_type = "json";
    let of = |x: f64, y: f64| {
        ValueRef::Struct(vec![ValueRef::Float64(x), ValueRef::Float64(y), ValueRef::Null, ValueRef::Null])
    };
    let structure = SchemaBuilder::structure().optional().field("x", int()).build();
    vec![
        (
            case("json", semantic("Json"), json_type, vec![(s("{\"a\": [1, \"é\"]}"), "[1, \"é\"]")]),
            "JSON_EXTRACT(json, '$.a')",
        ),
        (case("bits", bits("10"), "bit(10)", vec![(bytes(&[5, 2]), "1000000101")]), "BIN(bits)"),
        (
            case("bits64", bits("64"), "bit(64)", vec![(bytes(&[255; 8]), "18446744073709551615")]),
            "CAST(bits64 + 0 AS CHAR)",
        ),
        (case("point", point(), "point", vec![(of(1.5, -2.0), "POINT(1.5 -2)")]), "ST_AsText(point)"),
        (
            case(
                "ints",
                array(schema(T::Int32)),
                json_type,
                vec![(ValueRef::Array(vec![n(1), ValueRef::Null, n(-3)]), "-3")],
            ),
            "JSON_EXTRACT(ints, '$[2]')",
        ),
        (
            case("struct", structure, json_type, vec![(ValueRef::Struct(vec![n(5)]), "5")]),
            "JSON_EXTRACT(struct, '$.x')",
        ),
        (
            case(
                "map",
                schema(T::Map(schema(T::String))),
                json_type,
                vec![(ValueRef::Map(vec![("k".into(), s("v"))]), "\"v\"")],
            ),
            "JSON_EXTRACT(map, '$.k')",
        ),
        (
            case(
                "texts",
                array(schema(T::String)),
                json_type,
                vec![(ValueRef::Array(vec![s("a \" \\ ,{}"), s("NULL")]), "a \" \\ ,{}")],
            ),
            "JSON_UNQUOTE(JSON_EXTRACT(texts, '$[0]'))",
        ),
    ]
}
