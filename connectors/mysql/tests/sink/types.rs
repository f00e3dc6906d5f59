//! Every type of both sources, created by the sink and read back.

mod cases;

use std::sync::Arc;

use rowstream_api::{SchemaType, ValueRef};
use rowstream_testkit::records::{Owned, Topic, int, named, s, schema};
use serde_json::json;

use crate::target::{Target, deliver, done, on_both};

use cases::*;

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
