//! Every type of both sources, created by the sink and read back.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaBuilder, SchemaType, ValueRef};
use rowstream_testkit::records::{Owned, Topic, int, named, s, schema};
use serde_json::json;

use crate::target::{Target, deliver, done, on_both};

struct Case {
    name: &'static str,
    schema: Arc<Schema>,
    /// `column_type` of the created column, without what only one of the servers writes.
    ty: &'static str,
    /// Value and its text in the target.
    values: Vec<(Owned, &'static str)>,
}

fn case(
    name: &'static str,
    schema: Arc<Schema>,
    ty: &'static str,
    values: Vec<(Owned, &'static str)>,
) -> Case {
    Case { name, schema, ty, values }
}

fn n(number: i64) -> Owned {
    ValueRef::Int(number)
}

fn bytes(bytes: &'static [u8]) -> Owned {
    ValueRef::bytes(bytes)
}

fn decimal(scale: &str, precision: &str) -> Arc<Schema> {
    SchemaBuilder::new(SchemaType::Bytes)
        .optional()
        .name("org.apache.kafka.connect.data.Decimal")
        .parameter("scale", scale)
        .parameter("connect.decimal.precision", precision)
        .build()
}

fn variable_decimal() -> Arc<Schema> {
    let start = SchemaBuilder::structure().optional().name("io.debezium.data.VariableScaleDecimal");
    start.field("scale", int()).field("value", schema(SchemaType::Bytes)).build()
}

fn variable(scale: i64, unscaled: &'static [u8]) -> Owned {
    ValueRef::Struct(vec![n(scale), ValueRef::bytes(unscaled)])
}

fn bits(length: &str) -> Arc<Schema> {
    let start = SchemaBuilder::new(SchemaType::Bytes).optional().name("io.debezium.data.Bits");
    start.parameter("length", length).build()
}

fn point() -> Arc<Schema> {
    let start = SchemaBuilder::structure().optional().name("io.debezium.data.geometry.Point");
    let number = || schema(SchemaType::Float64);
    start
        .field("x", number())
        .field("y", number())
        .field("wkb", schema(SchemaType::Bytes))
        .field("srid", int())
        .build()
}

fn geometry() -> Arc<Schema> {
    let start = SchemaBuilder::structure().optional().name("io.debezium.data.geometry.Geometry");
    start.field("wkb", schema(SchemaType::Bytes)).field("srid", int()).build()
}

fn array(element: Arc<Schema>) -> Arc<Schema> {
    schema(SchemaType::Array(element))
}

fn numbers() -> Vec<Case> {
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

fn times() -> Vec<Case> {
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

fn texts() -> Vec<Case> {
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
fn expressions() -> Vec<(Case, &'static str)> {
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

#[tokio::test]
async fn every_type_is_created_and_reads_back_equal() {
    on_both(async |mut target: Target| {
        let plain = [numbers(), times(), texts()].into_iter().flatten();
        let mut cases: Vec<(Case, String)> =
            plain.map(|case| (format!("CAST(`{}` AS CHAR)", case.name), case)).map(|(e, c)| (c, e)).collect();
        cases.extend(expressions().into_iter().map(|(c, e)| (c, e.to_owned())));
        let mut columns = vec![("id", int())];
        columns.extend(cases.iter().map(|(case, _)| (case.name, Arc::clone(&case.schema))));
        let mut t = Topic::new("all_types", 1, &columns);
        let mut task = target.open(json!({}), &t.partition).await;
        let longest = cases.iter().map(|(case, _)| case.values.len()).max().unwrap();
        let value =
            |case: &Case, i: usize| case.values.get(i).map_or(ValueRef::Null, |(value, _)| value.clone());
        let row = |i: usize| {
            let mut row = vec![n(i64::try_from(i).unwrap())];
            row.extend(cases.iter().map(|(case, _)| value(case, i)));
            row
        };
        let records = (0..=longest).map(|i| t.create(row(i))).collect();
        done(&mut task, records).await;
        for (case, expression) in &cases {
            let ty = format!(
                "SELECT column_type FROM information_schema.columns WHERE table_schema = '{}' AND table_name = 'all_types' AND column_name = '{}'",
                target.database, case.name
            );
            let ty = target.text(&ty).await;
            // MariaDB writes widths of integers, and JSON is another word for LONGTEXT there.
            let widthless = ty.split_once('(').map_or(ty.as_str(), |(name, _)| name);
            let fits = ty == case.ty
                || (target.server.mariadb && (widthless == case.ty || (case.ty == "json" && ty == "longtext")));
            assert!(fits, "{}: {ty}", case.name);
            let texts = target.texts(&format!("SELECT {expression} FROM all_types ORDER BY id")).await;
            for (i, text) in texts.iter().enumerate() {
                let expected = case.values.get(i).map_or("NULL", |(_, text)| *text);
                assert_eq!(text, expected, "{} {i}", case.name);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_geometry_keeps_its_bytes_and_its_reference_system() {
    on_both(async |mut target: Target| {
        let wkb: &'static [u8] = b"\x01\x01\0\0\0\0\0\0\0\0\0\xf8\x3f\0\0\0\0\0\0\0\xc0";
        let mut t = Topic::new("places", 1, &[("id", int()), ("g", geometry())]);
        let mut task = target.open(json!({}), &t.partition).await;
        let records = vec![
            t.create(vec![n(1), ValueRef::Struct(vec![bytes(wkb), n(4326)])]),
            t.create(vec![n(2), ValueRef::Struct(vec![bytes(wkb), ValueRef::Null])]),
        ];
        done(&mut task, records).await;
        let read = "SELECT CONCAT(ST_SRID(g), ' ', HEX(ST_AsWKB(ST_GeomFromText(ST_AsText(g))))) FROM places WHERE id = 2";
        assert_eq!(target.text(read).await, "0 0101000000000000000000F83F00000000000000C0");
        assert_eq!(target.text("SELECT CAST(ST_SRID(g) AS CHAR) FROM places ORDER BY id").await, "4326;0");
        let record = t.create(vec![n(3), ValueRef::Struct(vec![bytes(b"no wkb"), n(0)])]);
        let flushed = deliver(&mut task, vec![record]).await.unwrap();
        assert_eq!(flushed.refused.len(), 1, "what is no geometry is refused");
    })
    .await;
}

/// Column, value, and how it is refused.
fn bad_values() -> [(usize, Owned, &'static str, &'static str); 14] {
    [
        (
            1,
            variable(3, &[1]),
            "VALUE_PRECISION",
            "column `dec2`: the decimal has more than the 2 digits behind the point that the column keeps",
        ),
        (
            2,
            s("2026-01-02T03:04:05.5Z"),
            "VALUE_PRECISION",
            "column `ts0`: the time has more than the 0 digits of the second that the column keeps",
        ),
        (
            2,
            s("-0043-03-15T00:00:00Z"),
            "VALUE_OUT_OF_RANGE",
            "column `ts0`: the date is not within the years 1 to 9999",
        ),
        (3, n(1), "VALUE_PRECISION", "column `t3`: "),
        (3, n(4_000_000_000_000), "VALUE_OUT_OF_RANGE", "column `t3`: the time is beyond 838:59:59"),
        (
            4,
            bytes(b"ab"),
            "VALUE_LENGTH",
            "column `b4`: 2 bytes for a BINARY column, which would be padded to 4",
        ),
        (
            5,
            s("ab  "),
            "VALUE_TOO_LONG",
            "column `v3`: a text of 4 is longer than the 3 that the column holds",
        ),
        (6, s("c"), "MYSQL_DATA", "rejected the row: a value is not one of its column's type (error 1265"),
        (7, n(-1), "MYSQL_DATA", "rejected the row: a number is out of its column's range (error 1264"),
        (8, ValueRef::Float64(f64::NAN), "VALUE_OUT_OF_RANGE", "column `f`: NaN and infinities"),
        (9, n(i64::from(i32::MAX)), "VALUE_OUT_OF_RANGE", "column `d`: "),
        (9, n(-1_000_000), "VALUE_OUT_OF_RANGE", "column `d`: "),
        (10, s("{no json"), "", "rejected the row: "),
        (11, s("漢"), "MYSQL_DATA", "its character set"),
    ]
}

/// What these servers can't hold is refused record by record, with the column and the reason, and without the value.
#[tokio::test]
async fn values_that_the_types_can_not_hold_are_refused() {
    use SchemaType as T;
    on_both(async |mut target: Target| {
        target
            .sql(
                "CREATE TABLE own (id int PRIMARY KEY, dec2 decimal(65,2), ts0 datetime, t3 time(3), b4 binary(4),
                     v3 varchar(3), e enum('a','b'), u int unsigned, f double, d date, j json, la varchar(9) CHARACTER SET latin1)",
            )
            .await;
        let columns = [
            ("id", int()),
            ("dec2", variable_decimal()),
            ("ts0", named(T::String, "io.debezium.time.ZonedTimestamp")),
            ("t3", named(T::Int64, "io.debezium.time.MicroTime")),
            ("b4", schema(T::Bytes)),
            ("v3", schema(T::String)),
            ("e", named(T::String, "io.debezium.data.Enum")),
            ("u", schema(T::Int64)),
            ("f", schema(T::Float64)),
            ("d", named(T::Int32, "io.debezium.time.Date")),
            ("j", named(T::String, "io.debezium.data.Json")),
            ("la", schema(T::String)),
        ];
        let mut t = Topic::new("own", 1, &columns);
        let mut task = target.open(json!({}), &t.partition).await;
        let good = || {
            vec![
                n(0),
                variable(3, &[0, 100]), // 0.100
                s("2026-01-02T03:04:05.000000Z"),
                n(1_000),
                bytes(b"abcd"),
                s("äöü"),
                s("a"),
                n(4_294_967_295),
                ValueRef::Float64(1.5),
                n(1),
                s("{\"a\": 1}"),
                s("ä"),
            ]
        };
        let record = t.create(good());
        done(&mut task, vec![record]).await;
        let read = "SELECT CONCAT_WS(' ', dec2, ts0, t3, CONVERT(b4 USING utf8mb4), v3, e, u, f, d, CONVERT(la USING utf8mb4)) FROM own";
        let expected = "0.10 2026-01-02 03:04:05 00:00:00.001 abcd äöü a 4294967295 1.5 1970-01-02 ä";
        assert_eq!(target.text(read).await, expected);
        for (index, value, code, message) in bad_values() {
            let mut row = good();
            row[index] = value;
            let record = t.update(row);
            let flushed = deliver(&mut task, vec![record]).await.unwrap();
            let [(_, error)] = flushed.refused.as_slice() else { panic!("{message}: accepted") };
            assert!(code.is_empty() || error.code == code, "{error:?}");
            assert!(error.message.contains(message), "{error:?}");
            assert!(!error.message.contains("漢") && !error.message.contains("no json"), "{error:?}");
            rowstream_api::SinkTask::flush(&mut task).await.unwrap();
            assert_eq!(target.text(read).await, expected, "{message}");
        }
    })
    .await;
}

/// Types of a MySQL source, as Debezium maps them, into the very types they came from.
#[tokio::test]
async fn mysql_to_mysql_keeps_its_own_types() {
    use SchemaType as T;
    on_both(async |mut target: Target| {
        target
            .sql(
                "CREATE TABLE own (id bigint unsigned PRIMARY KEY, t1 tinyint(1), tu tinyint unsigned, su smallint unsigned,
                     m mediumint, mu mediumint unsigned, iu int unsigned, bu bigint unsigned, f float, dc decimal(65,30),
                     y year, ts timestamp(6) NULL, e enum('a','b'), se set('x','y'), b bit(3), b1 bit(1), bi binary(2),
                     vb varbinary(9), g int GENERATED ALWAYS AS (su + 1) STORED)",
            )
            .await;
        let columns = [
            ("id", schema(T::Int64)),
            ("t1", schema(T::Int16)),
            ("tu", schema(T::Int16)),
            ("su", schema(T::Int32)),
            ("m", schema(T::Int32)),
            ("mu", schema(T::Int32)),
            ("iu", schema(T::Int64)),
            ("bu", decimal("0", "20")),
            ("f", schema(T::Float32)),
            ("dc", decimal("30", "65")),
            ("y", named(T::Int32, "io.debezium.time.Year")),
            ("ts", named(T::String, "io.debezium.time.ZonedTimestamp")),
            ("e", named(T::String, "io.debezium.data.Enum")),
            ("se", named(T::String, "io.debezium.data.EnumSet")),
            ("b", bits("3")),
            ("b1", schema(T::Boolean)),
            ("bi", schema(T::Bytes)),
            ("vb", schema(T::Bytes)),
            ("g", schema(T::Int32)),
        ];
        let mut t = Topic::new("own", 1, &columns);
        let mut task = target.open(json!({}), &t.partition).await;
        let record = t.create(vec![
            n(7),
            n(1),
            n(255),
            n(65_535),
            n(-8_388_608),
            n(16_777_215),
            n(4_294_967_295),
            bytes(b"\0\xff\xff\xff\xff\xff\xff\xff\xff"),
            ValueRef::Float32(1.25),
            bytes(&[1]),
            n(1999),
            s("2026-11-21T10:34:56.789123Z"),
            s("b"),
            s("x,y"),
            bytes(&[0b101]),
            ValueRef::Bool(true),
            bytes(b"a\0"),
            bytes(b"z"),
            n(9),
        ]);
        done(&mut task, vec![record]).await;
        let read = "SELECT CONCAT_WS(' ', id, t1, tu, su, m, mu, iu, bu, f, dc, y, ts, e, se, b + 0, b1 + 0, HEX(bi), vb, g) FROM own";
        assert_eq!(
            target.text(read).await,
            "7 1 255 65535 -8388608 16777215 4294967295 18446744073709551615 1.25 0.000000000000000000000000000001 1999 \
             2026-11-21 10:34:56.789123 b x,y 5 1 6100 z 65536"
        );
        let record = t.delete(vec![n(7)]);
        done(&mut task, vec![record]).await;
        assert_eq!(target.rows("own").await, "");
    })
    .await;
}

#[tokio::test]
async fn key_columns_of_every_kind_find_their_rows() {
    on_both(async |mut target: Target| {
        let columns = [
            ("a", decimal("2", "10")),
            ("b", schema(SchemaType::String)),
            ("c", named(SchemaType::String, "io.debezium.data.Uuid")),
            ("d", named(SchemaType::String, "io.debezium.time.ZonedTimestamp")),
            ("e", schema(SchemaType::Bytes)),
            ("h", named(SchemaType::Int32, "io.debezium.time.Date")),
            ("i", schema(SchemaType::Boolean)),
            ("v", schema(SchemaType::String)),
        ];
        let own = "CREATE TABLE own (a decimal(10,2), b char(4), c varchar(36), d timestamp(6), e varbinary(9), h date, i bit(1),
                   v text, PRIMARY KEY (a, b, c, d, e, h, i))";
        target.sql(own).await;
        // A table of the sink's making, and one of the user's.
        for table in ["made", "own"] {
            let mut t = Topic::new(table, 7, &columns);
            let mut task = target.open(json!({}), &t.partition).await;
            let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
            let row = |number: &'static [u8], v: Owned| {
                let at = s("2026-11-21T10:34:56.000001Z");
                vec![bytes(number), s("ab"), s(uuid), at, bytes(b"\0\xff"), n(20_000), ValueRef::Bool(true), v]
            };
            let records = vec![
                t.create(row(&[1], s("one"))),
                t.create(row(&[2], s("two"))),
                t.create(row(&[3], s("three"))),
            ];
            done(&mut task, records).await;
            let records = vec![
                t.delete(row(&[1], ValueRef::Null)),
                t.update(row(&[2], s("zwei"))),
                t.update(row(&[3], ValueRef::Unavailable)),
            ];
            done(&mut task, records).await;
            assert_eq!(target.text(&format!("SELECT v FROM {table} ORDER BY a")).await, "zwei;three", "{table}");
        }
    })
    .await;
}
