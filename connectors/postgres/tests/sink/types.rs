//! Every type, created by the sink and read back.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaBuilder, SchemaType, ValueRef};
use rowstream_testkit::records::{Owned, Topic, int, named, s, schema};
use serde_json::json;

use crate::target::{Target, deliver, done};

struct Case {
    name: &'static str,
    schema: Arc<Schema>,
    /// `format_type` of the created column.
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

fn decimal(scale: &str) -> Arc<Schema> {
    SchemaBuilder::new(SchemaType::Bytes)
        .optional()
        .name("org.apache.kafka.connect.data.Decimal")
        .parameter("scale", scale)
        .parameter("connect.decimal.precision", "10")
        .build()
}

fn variable_decimal() -> Arc<Schema> {
    let start = SchemaBuilder::structure().optional().name("io.debezium.data.VariableScaleDecimal");
    start.field("scale", int()).field("value", schema(SchemaType::Bytes)).build()
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

fn array(element: Arc<Schema>) -> Arc<Schema> {
    schema(SchemaType::Array(element))
}

fn numbers() -> Vec<Case> {
    use SchemaType as T;
    let max128 = Box::leak(Box::new(i128::MAX.to_be_bytes()));
    let big = Box::leak(vec![0x7f; 40].into_boxed_slice());
    let variable =
        |scale: i64, unscaled: &'static [u8]| ValueRef::Struct(vec![n(scale), ValueRef::bytes(unscaled)]);
    vec![
        case(
            "bool",
            schema(T::Boolean),
            "boolean",
            vec![(ValueRef::Bool(true), "true"), (ValueRef::Bool(false), "false")],
        ),
        case("i8", schema(T::Int8), "smallint", vec![(n(-128), "-128")]),
        case("i16", schema(T::Int16), "smallint", vec![(n(32767), "32767")]),
        case("i32", schema(T::Int32), "integer", vec![(n(i64::from(i32::MIN)), "-2147483648")]),
        case(
            "i64",
            schema(T::Int64),
            "bigint",
            vec![(n(i64::MAX), "9223372036854775807"), (n(i64::MIN), "-9223372036854775808")],
        ),
        case(
            "f32",
            schema(T::Float32),
            "real",
            vec![(ValueRef::Float32(0.1), "0.1"), (ValueRef::Float32(f32::NAN), "NaN")],
        ),
        case(
            "f64",
            schema(T::Float64),
            "double precision",
            vec![(ValueRef::Float64(-1e300), "-1e+300"), (ValueRef::Float64(f64::INFINITY), "Infinity")],
        ),
        case(
            "dec",
            decimal("2"),
            "numeric(10,2)",
            vec![(bytes(&[4, 210]), "12.34"), (bytes(&[255]), "-0.01"), (bytes(&[0]), "0.00")],
        ),
        case(
            "vdec",
            variable_decimal(),
            "numeric",
            vec![
                (variable(3, &[4, 210]), "1.234"),
                (variable(-2, &[5]), "500"),
                (variable(0, max128), "170141183460469231731687303715884105727"),
            ],
        ),
        case("vbig", variable_decimal(), "numeric", vec![(variable(0, big), "NUMERIC40")]),
        case("year", named(T::Int32, "io.debezium.time.Year"), "integer", vec![(n(2026), "2026")]),
    ]
}

fn number_arrays() -> Vec<Case> {
    use SchemaType as T;
    vec![
        case(
            "ints",
            array(schema(T::Int32)),
            "integer[]",
            vec![
                (ValueRef::Array(vec![n(1), ValueRef::Null, n(-3)]), "{1,NULL,-3}"),
                (ValueRef::Array(vec![]), "{}"),
            ],
        ),
        case(
            "grid",
            array(array(schema(T::Int32))),
            "integer[]",
            vec![(
                ValueRef::Array(vec![ValueRef::Array(vec![n(1), n(2)]), ValueRef::Array(vec![n(3), n(4)])]),
                "{{1,2},{3,4}}",
            )],
        ),
        case(
            "decs",
            array(decimal("1")),
            "numeric(10,1)[]",
            vec![(ValueRef::Array(vec![bytes(&[15])]), "{1.5}")],
        ),
    ]
}

fn times() -> Vec<Case> {
    use SchemaType as T;
    let micros = || named(T::Int64, "io.debezium.time.MicroTimestamp");
    vec![
        case(
            "date",
            named(T::Int32, "io.debezium.time.Date"),
            "date",
            vec![(n(0), "1970-01-01"), (n(-1_000_000), "0769-02-04 BC")],
        ),
        case(
            "time3",
            named(T::Int32, "io.debezium.time.Time"),
            "time(3) without time zone",
            vec![(n(3_723_004), "01:02:03.004")],
        ),
        case(
            "time6",
            named(T::Int64, "io.debezium.time.MicroTime"),
            "time(6) without time zone",
            vec![(n(86_400_000_000), "24:00:00"), (n(1), "00:00:00.000001")],
        ),
        case(
            "ts3",
            named(T::Int64, "io.debezium.time.Timestamp"),
            "timestamp(3) without time zone",
            vec![
                (n(1_700_000_000_123), "2023-11-14 22:13:20.123"),
                (n(9_223_372_036_825_200_000), "infinity"),
                (n(-9_223_372_036_832_400_000), "-infinity"),
            ],
        ),
        case(
            "ts6",
            micros(),
            "timestamp(6) without time zone",
            vec![
                (n(1_700_000_000_123_456), "2023-11-14 22:13:20.123456"),
                (n(-1), "1969-12-31 23:59:59.999999"),
                (n(-62_135_596_800_000_001), "0001-12-31 23:59:59.999999 BC"),
                (n(9_223_372_036_825_200_000), "infinity"),
                (n(-9_223_372_036_832_400_000), "-infinity"),
            ],
        ),
    ]
}

fn zoned_times() -> Vec<Case> {
    use SchemaType as T;
    let zoned = || named(T::String, "io.debezium.time.ZonedTimestamp");
    let micros = || named(T::Int64, "io.debezium.time.MicroTimestamp");
    vec![
        case(
            "tstz",
            zoned(),
            "timestamp with time zone",
            vec![
                (s("2026-11-21T10:34:56.789123Z"), "2026-11-21 10:34:56.789123+00"),
                (s("-0043-03-15T00:00:00Z"), "0044-03-15 00:00:00+00 BC"),
                (s("+292278994-08-16T23:00:00.000000Z"), "infinity"),
                (s("-292275055-05-16T23:00:00.000000Z"), "-infinity"),
            ],
        ),
        case(
            "timetz",
            named(T::String, "io.debezium.time.ZonedTime"),
            "time with time zone",
            vec![(s("10:34:56.5Z"), "10:34:56.5+00")],
        ),
        case(
            "dur",
            named(T::Int64, "io.debezium.time.MicroDuration"),
            "interval",
            vec![(n(-90_061_000_001), "-25:01:01.000001")],
        ),
        case(
            "ival",
            named(T::String, "io.debezium.time.Interval"),
            "interval",
            vec![(s("P1Y2M3DT4H5M6.78S"), "1 year 2 mons 3 days 04:05:06.78")],
        ),
        case(
            "tss",
            array(micros()),
            "timestamp(6) without time zone[]",
            vec![(
                ValueRef::Array(vec![n(-62_135_596_800_000_001), n(9_223_372_036_825_200_000)]),
                "{\"0001-12-31 23:59:59.999999 BC\",infinity}",
            )],
        ),
        case(
            "tstzs",
            array(zoned()),
            "timestamp with time zone[]",
            vec![(ValueRef::Array(vec![s("2026-01-02T03:04:05Z")]), "{\"2026-01-02 03:04:05+00\"}")],
        ),
    ]
}

fn texts() -> Vec<Case> {
    use SchemaType as T;
    let semantic = |name: &str| named(T::String, &format!("io.debezium.data.{name}"));
    let point_value = ValueRef::Struct(vec![
        ValueRef::Float64(1.5),
        ValueRef::Float64(-2.0),
        ValueRef::Null,
        ValueRef::Null,
    ]);
    let structure = SchemaBuilder::structure().optional().field("x", int()).build();
    let map = schema(T::Map(schema(T::String)));
    vec![
        case(
            "text",
            schema(T::String),
            "text",
            vec![(s("grüße \\ \" ' {}\t\n"), "grüße \\ \" ' {}\t\n"), (s(""), "")],
        ),
        case("bytes", schema(T::Bytes), "bytea", vec![(bytes(b"\0\xff"), "\\x00ff"), (bytes(b""), "\\x")]),
        case("json", semantic("Json"), "jsonb", vec![(s("{\"a\": [1, \"é\"]}"), "{\"a\": [1, \"é\"]}")]),
        case("xml", semantic("Xml"), "xml", vec![(s("<a>1</a>"), "<a>1</a>")]),
        case(
            "uuid",
            semantic("Uuid"),
            "uuid",
            vec![(s("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")],
        ),
        case("ltree", semantic("Ltree"), "text", vec![(s("a.b"), "a.b")]),
        case("tsv", semantic("Tsvector"), "tsvector", vec![(s("'a':1 'b':2"), "'a':1 'b':2")]),
        case("enum", semantic("Enum"), "text", vec![(s("happy"), "happy")]),
        case(
            "bits",
            bits("10"),
            "bit varying",
            vec![(bytes(&[0b0000_0101, 0b10]), "1000000101"), (bytes(&[]), "0000000000")],
        ),
        case("varbits", bits("2147483647"), "bit varying", vec![(bytes(&[0b101]), "00000101")]),
        case("point", point(), "point", vec![(point_value, "(1.5,-2)")]),
        case("struct", structure, "jsonb", vec![(ValueRef::Struct(vec![n(5)]), "{\"x\": 5}")]),
        case("map", map, "jsonb", vec![(ValueRef::Map(vec![("k".into(), s("v"))]), "{\"k\": \"v\"}")]),
        case(
            "texts",
            array(schema(T::String)),
            "text[]",
            vec![(
                ValueRef::Array(vec![s("a \" \\ ,{}"), s("NULL"), ValueRef::Null, s("")]),
                "{\"a \\\" \\\\ ,{}\",\"NULL\",NULL,\"\"}",
            )],
        ),
        case(
            "blobs",
            array(schema(T::Bytes)),
            "bytea[]",
            vec![(ValueRef::Array(vec![bytes(b"\x01")]), "{\"\\\\x01\"}")],
        ),
        case(
            "flags",
            array(schema(T::Boolean)),
            "boolean[]",
            vec![(ValueRef::Array(vec![ValueRef::Bool(true)]), "{t}")],
        ),
    ]
}

#[tokio::test]
async fn every_type_is_created_and_reads_back_equal() {
    let target = Target::new().await;
    target.sql("SET timezone = 'UTC'").await;
    let cases: Vec<Case> =
        [numbers(), number_arrays(), times(), zoned_times(), texts()].into_iter().flatten().collect();
    let mut columns = vec![("id", int())];
    columns.extend(cases.iter().map(|case| (case.name, Arc::clone(&case.schema))));
    let mut t = Topic::new("all_types", 1, &columns);
    let mut task = target.open(json!({}), &t.partition).await;
    let longest = cases.iter().map(|case| case.values.len()).max().unwrap();
    let value = |case: &Case, i: usize| case.values.get(i).map_or(ValueRef::Null, |(value, _)| value.clone());
    let row = |i: usize| {
        let mut row = vec![n(i64::try_from(i).unwrap())];
        row.extend(cases.iter().map(|case| value(case, i)));
        row
    };
    let records = (0..=longest).map(|i| t.create(row(i))).collect();
    done(&mut task, records).await;
    for case in &cases {
        let ty = format!(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'all_types'::regclass AND attname = '{}'",
            case.name
        );
        assert_eq!(target.text(&ty).await, case.ty, "{}", case.name);
        let texts = target.texts(&format!("SELECT \"{}\"::text FROM all_types ORDER BY id", case.name)).await;
        for (i, text) in texts.iter().enumerate() {
            let expected = case.values.get(i).map_or("NULL", |(_, text)| *text);
            if expected == "NUMERIC40" {
                assert_eq!(*text, num_bigint_text(40), "{}", case.name);
            } else {
                assert_eq!(text, expected, "{} {i}", case.name);
            }
        }
    }
}

#[tokio::test]
async fn columns_of_a_table_made_by_the_user_take_what_fits() {
    let target = Target::new().await;
    target
        .sql(
            "CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE DOMAIN small AS varchar(5);
             CREATE TABLE own (id bigint PRIMARY KEY, e mood, d small, i inet, v varchar(3), c char(5), n numeric,
                               j json, r int4range, m money, g int GENERATED ALWAYS AS (length(v)) STORED)",
        )
        .await;
    let text = || schema(SchemaType::String);
    let columns = [
        ("id", int()),
        ("e", named(SchemaType::String, "io.debezium.data.Enum")),
        ("d", text()),
        ("i", text()),
        ("v", text()),
        ("c", text()),
        ("n", int()),
        ("j", named(SchemaType::String, "io.debezium.data.Json")),
        ("r", text()),
        ("m", decimal("2")),
        ("g", int()),
    ];
    let mut t = Topic::new("own", 1, &columns);
    let mut task = target.open(json!({}), &t.partition).await;
    let row = |d: &str| {
        vec![
            n(1),
            s("sad"),
            s(d),
            s("10.0.0.1"),
            s("abc"),
            s("ab"),
            n(7),
            s("{}"),
            s("[1,3)"),
            bytes(&[4, 210]),
            n(9),
        ]
    };
    let records = vec![t.create(row("five5"))];
    done(&mut task, records).await;
    assert_eq!(target.rows("own").await, "(1,sad,five5,10.0.0.1,abc,\"ab   \",7,{},\"[1,3)\",$12.34,3)");
    let records = vec![t.update(row("sixsix"))];
    let flushed = deliver(&mut task, records).await.unwrap();
    assert_eq!(flushed.refused[0].1.code, "PG_DATA", "what is too long is refused, not cut");
}

/// 0x7f7f… of this many bytes, by schoolbook arithmetic.
fn num_bigint_text(bytes: usize) -> String {
    let mut digits = vec![0u32];
    for _ in 0..bytes {
        let mut carry = 0x7f;
        for digit in &mut digits {
            let sum = *digit * 256 + carry;
            *digit = sum % 10;
            carry = sum / 10;
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().map(|digit| char::from_digit(*digit, 10).unwrap()).collect()
}

#[tokio::test]
async fn key_columns_of_every_kind_find_their_rows() {
    let target = Target::new().await;
    target.sql("CREATE TABLE k (a numeric, b char(4), c uuid, d timestamptz, e bytea, PRIMARY KEY (a, b, c, d, e), v text)").await;
    let columns = [
        ("a", decimal("2")),
        ("b", schema(SchemaType::String)),
        ("c", named(SchemaType::String, "io.debezium.data.Uuid")),
        ("d", named(SchemaType::String, "io.debezium.time.ZonedTimestamp")),
        ("e", schema(SchemaType::Bytes)),
        ("v", schema(SchemaType::String)),
    ];
    let mut t = Topic::new("k", 5, &columns);
    let mut task = target.open(json!({}), &t.partition).await;
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let row = |number: &'static [u8], v: Owned| {
        vec![bytes(number), s("ab"), s(uuid), s("2026-11-21T10:34:56Z"), bytes(b"\0"), v]
    };
    let records =
        vec![t.create(row(&[1], s("one"))), t.create(row(&[2], s("two"))), t.create(row(&[3], s("three")))];
    done(&mut task, records).await;
    let records = vec![
        t.delete(row(&[1], ValueRef::Null)),
        t.update(row(&[2], s("zwei"))),
        t.update(row(&[3], ValueRef::Unavailable)),
    ];
    done(&mut task, records).await;
    assert_eq!(target.text("SELECT v FROM k ORDER BY a").await, "zwei;three");
}
