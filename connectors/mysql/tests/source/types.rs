//! The type corpus: each value from the stream against the server's own SELECT, and against the snapshot's.

use mysql_async::prelude::Queryable;
use serde_json::json;

use crate::common::{Database, Drain, MARIADB, MYSQL};

/// Type, values, and how the server itself writes what we should have read.
type Case = (&'static str, &'static str, &'static str);

const MILLIS: &str = "CAST(FLOOR(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', v) / 1000) AS CHAR)";
const MICROS: &str = "CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', v) AS CHAR)";
const PLAIN: &str = "CAST(v AS CHAR)";
const HEX: &str = "LOWER(HEX(v))";
const ZONED: &str = "CONCAT(REPLACE(CAST(v AS CHAR), ' ', 'T'), 'Z')";
const TIME_MICROS: &str = "CAST(CAST(IF(v < 0, -1, 1) * (HOUR(v) * 3600 + MINUTE(v) * 60 + SECOND(v)) * 1000000 \
                           + IF(v < 0, -1, 1) * MICROSECOND(v) AS SIGNED) AS CHAR)";

const BOTH: &[Case] = &[
    ("TINYINT", "0, -128, 127", PLAIN),
    ("TINYINT UNSIGNED", "0, 255", PLAIN),
    ("BOOLEAN", "TRUE, FALSE", PLAIN),
    ("SMALLINT", "-32768, 32767", PLAIN),
    ("SMALLINT UNSIGNED", "65535", PLAIN),
    ("MEDIUMINT", "-1, -8388608, 8388607", PLAIN),
    ("MEDIUMINT UNSIGNED", "16777215", PLAIN),
    ("INT", "-2147483648, 2147483647", PLAIN),
    ("INT UNSIGNED", "4294967295", PLAIN),
    ("BIGINT", "-9223372036854775808, 9223372036854775807", PLAIN),
    ("BIGINT UNSIGNED", "0, 9223372036854775808, 18446744073709551615", PLAIN),
    ("DECIMAL(10,2)", "0, 0.01, -0.01, 99999999.99, -99999999.99, 1.5", PLAIN),
    (
        "DECIMAL(65,30)",
        "12345678901234567890123456789012345.123456789012345678901234567891, -0.000000000000000000000000000001",
        PLAIN,
    ),
    ("DECIMAL(5,0)", "-99999, 7", PLAIN),
    ("DECIMAL(9,9)", "0.123456789, -0.000000001", PLAIN),
    ("FLOAT", "1.5, -0.25, 3.4028e38, 1e-30", "''"),
    ("DOUBLE", "1.5, -1e300, 0.1", "''"),
    (
        "DATE",
        "'1970-01-01', '1969-12-31', '2024-02-29', '1000-01-01', '9999-12-31'",
        "CAST(DATEDIFF(v, '1970-01-01') AS CHAR)",
    ),
    ("DATETIME", "'2026-11-21 12:34:56', '1969-12-31 23:59:59'", MILLIS),
    ("DATETIME(1)", "'2026-11-21 12:34:56.7', '1000-01-01 00:00:00'", MILLIS),
    ("DATETIME(3)", "'2026-11-21 12:34:56.789', '1969-12-31 23:59:59.999'", MILLIS),
    ("DATETIME(4)", "'2026-11-21 12:34:56.7891'", MICROS),
    (
        "DATETIME(6)",
        "'2026-11-21 12:34:56.789123', '9999-12-31 23:59:59.999999', '1969-12-31 23:59:59.999999'",
        MICROS,
    ),
    ("TIMESTAMP NULL", "'2026-11-21 12:34:56', '1970-01-01 00:00:01'", ZONED),
    ("TIMESTAMP(2) NULL", "'2026-11-21 12:34:56.5'", ZONED),
    ("TIMESTAMP(6) NULL", "'2026-11-21 12:34:56.000001'", ZONED),
    ("TIME", "'00:00:00', '-00:00:01', '838:59:59', '-838:59:59', '23:59:59'", TIME_MICROS),
    ("TIME(1)", "'-00:00:00.5', '12:00:00.9'", TIME_MICROS),
    ("TIME(3)", "'-12:34:56.789', '00:00:00.001'", TIME_MICROS),
    ("TIME(6)", "'-838:59:58.999999', '-00:00:00.000001', '01:02:03.456789'", TIME_MICROS),
    ("YEAR", "1901, 2026, 2155, 0", "CAST(v + 0 AS CHAR)"),
    ("CHAR(5)", "'', 'abc', 'üüüüü', 'a  '", "v"),
    ("CHAR(200)", "'long one'", "v"),
    ("VARCHAR(20)", "'', 'x', '😀 and \\\\ and '' '", "v"),
    ("VARCHAR(3000)", "REPEAT('ä', 2500)", "v"),
    ("VARCHAR(20) CHARACTER SET latin1", "'größe', '€', _latin1 0x818d8f909d", "CONVERT(v USING utf8mb4)"),
    ("VARCHAR(20) CHARACTER SET gbk", "'你好'", "CONVERT(v USING utf8mb4)"),
    ("VARCHAR(20) CHARACTER SET utf16", "'a😀'", "CONVERT(v USING utf8mb4)"),
    ("VARCHAR(20) CHARACTER SET utf8mb3", "'äöü'", "CONVERT(v USING utf8mb4)"),
    ("TINYTEXT", "'tiny'", "v"),
    ("TEXT CHARACTER SET latin1", "'lätin'", "CONVERT(v USING utf8mb4)"),
    ("MEDIUMTEXT", "REPEAT('m', 70000)", "v"),
    ("LONGTEXT", "'long'", "v"),
    ("BINARY(4)", "0xDEAD, 0x00, 0xDEADBE00, 0x01020304", HEX),
    ("BINARY(255)", "0x01", HEX),
    ("VARBINARY(10)", "'', 0x00FF, 0x0100", HEX),
    ("BLOB", "0x00FF00", HEX),
    ("LONGBLOB", "REPEAT(0xAB, 70000)", HEX),
    ("ENUM('a','b','größe','com,ma','')", "'a', 'größe', 'com,ma', ''", PLAIN),
    ("ENUM('ä','ö') CHARACTER SET latin1", "'ö'", "CONVERT(v USING utf8mb4)"),
    ("SET('a','b','c')", "'', 'a', 'a,c', 'a,b,c'", PLAIN),
    (
        "GEOMETRY",
        "ST_GeomFromText('LINESTRING(0 0,1 2)'), ST_GeomFromText('POINT(3 4)')",
        "CONCAT('[', LOWER(HEX(ST_AsWKB(v))), ',null]')",
    ),
    (
        "POLYGON",
        "ST_GeomFromText('POLYGON((0 0,0 1,1 1,0 0))')",
        "CONCAT('[', LOWER(HEX(ST_AsWKB(v))), ',null]')",
    ),
    (
        "POINT",
        "ST_GeomFromText('POINT(1.5 -2)')",
        "CONCAT('[', ST_X(v), ',', ST_Y(v), ',', LOWER(HEX(ST_AsWKB(v))), ',null]')",
    ),
];

const MYSQL_ONLY: &[Case] = &[
    (
        "JSON",
        r#"'{}', '[]', 'null', '"s"', '1', 'true', '{"b":1,"a":2}', '{"u":"ü😀\\n\\u0001\\"\\\\","deep":{"a":[1,[2,[3]]]}}',
           '18446744073709551615', '-9223372036854775808', '1.5e300', '0.1', '1.0', '0.0000001', '1e-15', '1e15', '1e14', '123456789012345.6',
           '1.2345678901234567e19', '[70000, -70000, 5000000000]', JSON_OBJECT('d', CAST(1.50 AS DECIMAL(10,2))),
           JSON_OBJECT('t', CAST('12:34:56.5' AS TIME(1)), 'n', CAST('-01:00:00' AS TIME)),
           JSON_ARRAY(CAST('2026-11-21' AS DATE), CAST('2026-11-21 01:02:03.000004' AS DATETIME(6))),
           JSON_ARRAY(CAST('bin' AS BINARY)), JSON_OBJECT('k', REPEAT('x', 70000)), JSON_ARRAY(1e-20, 1e100, -2.5)"#,
        PLAIN,
    ),
    ("VECTOR(3)", "STRING_TO_VECTOR('[1,-2.5,3]')", "'[1,-2.5,3]'"),
    (
        "GEOMETRY SRID 4326",
        "ST_GeomFromText('POINT(10 20)', 4326)",
        "CONCAT('[', LOWER(HEX(ST_SwapXY(v))), ']')",
    ),
    ("VARCHAR(10) CHARACTER SET gb18030", "'你好'", "CONVERT(v USING utf8mb4)"),
];

const MARIADB_ONLY: &[Case] = &[
    (
        "UUID",
        "'123e4567-e89b-12d3-a456-426614174000', 'ffffffff-ffff-ffff-ffff-fffffffffffe', '017f22e2-79b0-7cc3-98c4-dc0c0c07398f'",
        PLAIN,
    ),
    ("INET6", "'::', '2001:db8::ff00:42:8329', '::ffff:192.0.2.128', '::1.2.3.4'", PLAIN),
    ("INET4", "'1.2.3.0', '255.255.255.255'", PLAIN),
    ("JSON", r#"'{"b":  1}', '[1,2]'"#, "v"),
    ("VARCHAR(200) COMPRESSED", "'', 'short', REPEAT('c', 190)", "v"),
    ("TEXT COMPRESSED", "REPEAT('long', 900)", "v"),
    ("BLOB COMPRESSED", "REPEAT(0xAB, 900)", HEX),
    ("VARCHAR(10) COLLATE utf8mb4_uca1400_ai_ci", "'ß'", "v"),
];

async fn corpus(server: &str, cases: &[Case], setting: Option<&str>) {
    let mut db = Database::new(server).await;
    if let Some(setting) = setting {
        db.run(setting).await;
    }
    db.run("SET time_zone = '+00:00'").await;
    for (n, (ty, _, _)) in cases.iter().enumerate() {
        db.run(&format!("CREATE TABLE t{n:03} (id INT PRIMARY KEY AUTO_INCREMENT, v {ty})")).await;
    }
    let mut stream = Drain::start(db.plan(json!({}))).await;
    for (n, (_, values, _)) in cases.iter().enumerate() {
        db.run(&format!("INSERT INTO t{n:03} (v) SELECT NULL")).await;
        for value in split(values) {
            db.run(&format!("INSERT INTO t{n:03} (v) VALUES ({value})")).await;
        }
    }
    let mut expected = Vec::new();
    for (n, (ty, _, select)) in cases.iter().enumerate() {
        let sql = format!("SELECT CAST(id AS CHAR), {select}, v IS NULL FROM t{n:03} ORDER BY id");
        let rows: Vec<(String, Option<String>, bool)> =
            db.sql.query(sql).await.unwrap_or_else(|e| panic!("{ty}: {e}"));
        let text = |(id, value, null): (String, Option<String>, bool)| {
            (id, if null { "null".to_owned() } else { value.unwrap_or_default() })
        };
        expected.extend(rows.into_iter().map(|row| (n, text(row))));
    }
    stream.until_count(expected.len()).await;
    let mut wrong = Vec::new();
    for (event, (n, (id, value))) in stream.events.iter().zip(&expected) {
        let (ty, _, select) = cases[*n];
        let row = event.after.as_ref().unwrap();
        assert_eq!(&row[0], id, "{ty}");
        let agrees = match select {
            "''" => true, // Floats: the text of the server is rounded; the snapshot below tells.
            _ if ty.contains("SRID") => row[1] == "null" || row[1].ends_with(",4326]"),
            _ if ty.starts_with("POINT") || ty == "GEOMETRY" || ty == "POLYGON" => row[1] == *value,
            _ => row[1] == *value,
        };
        if !agrees {
            let cut = |text: &str| text.chars().take(120).collect::<String>();
            wrong.push(format!("{ty} id {id}: got {:?}, the server says {:?}", cut(&row[1]), cut(value)));
        }
    }
    assert!(wrong.is_empty(), "{server}:\n{}", wrong.join("\n"));
    let mut snapshot = Drain::start(db.plan(json!({ "snapshot": { "mode": "initial" } }))).await;
    snapshot.until_count(expected.len()).await;
    for (read, streamed) in snapshot.events.iter().zip(&stream.events) {
        let ty = cases[read.topic.rsplit(".t").next().unwrap().parse::<usize>().unwrap()].0;
        assert_eq!(
            (&read.topic, &read.after),
            (&streamed.topic, &streamed.after),
            "{ty}: snapshot against stream"
        );
        let (a, b) = (&read.table.value, &streamed.table.value);
        assert_eq!(a, b, "{ty}: the schemas of snapshot and stream");
    }
    db.remove().await;
}

/// Splits a list at commas that stand outside of quotes and parentheses.
fn split(values: &str) -> Vec<String> {
    let (mut out, mut depth, mut quoted) = (vec![String::new()], 0, false);
    for c in values.chars() {
        match c {
            '\'' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        out.last_mut().unwrap().push(c);
    }
    out
}

#[tokio::test]
async fn every_type_of_mysql_reads_as_the_server_says() {
    corpus(MYSQL, &[BOTH, MYSQL_ONLY].concat(), None).await;
}

#[tokio::test]
async fn every_type_of_mariadb_reads_as_the_server_says() {
    corpus(MARIADB, &[BOTH, MARIADB_ONLY].concat(), None).await;
}

#[tokio::test]
async fn zero_dates_are_null_or_the_epoch() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run(
            "SET sql_mode = '';
             CREATE TABLE t (id INT PRIMARY KEY, d DATE, n DATE NOT NULL, t DATETIME(3), s TIMESTAMP NULL);
             CREATE TABLE u (id INT PRIMARY KEY)",
        )
        .await;
        let mut drain = Drain::start(db.plan(json!({}))).await;
        db.run("INSERT INTO t VALUES (1, '0000-00-00', '2024-00-10', '0000-00-00 00:00:00', '0000-00-00 00:00:00')").await;
        drain.until_count(1).await;
        assert_eq!(drain.lines(), ["t c - > 1|null|0|null|null"]);
        let mut snapshot = Drain::start(db.plan(json!({ "snapshot": { "mode": "initial" } }))).await;
        snapshot.until_count(1).await;
        assert_eq!(snapshot.lines(), ["t r - > 1|null|0|null|null"]);
        db.remove().await;
    }
}

#[tokio::test]
async fn schemas_are_debeziums() {
    let mut db = Database::new(MYSQL).await;
    db.run(
        "CREATE TABLE t (b VARCHAR(10), n DECIMAL(10,2) NOT NULL DEFAULT 1.5, a INT, i INT NOT NULL DEFAULT 7, \
         e ENUM('x','y,z') NOT NULL DEFAULT 'x', bits BIT(10), g INT AS (a + 1) STORED, h INT INVISIBLE, PRIMARY KEY (a, b))",
    )
    .await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("INSERT INTO t (b, a) VALUES ('k', 1)").await;
    drain.until_count(1).await;
    let table = &drain.events[0].table;
    let field = |name: &str| table.value.field(name).unwrap().1.schema.clone();
    let key: Vec<&str> = table.key.as_ref().unwrap().fields().iter().map(|f| f.name.as_str()).collect();
    assert_eq!(key, ["a", "b"]);
    assert_eq!(field("e").parameter("allowed"), Some("x,y\\,z"));
    assert_eq!(field("i").default(), Some(&rowstream_api::Value::Int(7)));
    assert_eq!(field("bits").parameter("length"), Some("10"));
    assert!(!field("a").is_optional() && field("g").is_optional() && field("h").is_optional());
    assert_eq!(drain.lines(), ["t c - > k|1.50|1|7|x|null|2|null"]);
    db.remove().await;
}
