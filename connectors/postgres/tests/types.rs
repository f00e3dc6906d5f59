//! Every type reads the same from snapshot and from stream, and as what it should.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::too_many_lines, reason = "test code")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{Database, Drain};
use rowstream_api::{Schema, TypeRow};
use rowstream_postgres::types::manual::{NOT_FOR_TABLES, type_table};
use serde_json::json;

/// Type, value as SQL, the schema's name (or its type), what is read.
const TYPES: &[(&str, &str, &str, &str)] = &[
    ("bool", "true", "Boolean", "true"),
    ("int2", "'-32768'", "Int16", "-32768"),
    ("int4", "2147483647", "Int32", "2147483647"),
    ("int8", "'-9223372036854775808'", "Int64", "-9223372036854775808"),
    ("oid", "4294967295", "Int64", "4294967295"),
    ("float4", "1.1", "Float32", "1.1"),
    ("float8", "'-Infinity'", "Float64", "-inf"),
    ("numeric(10,2)", "1.5", "org.apache.kafka.connect.data.Decimal 2", "1.50"),
    ("numeric(5,-2)", "12345", "org.apache.kafka.connect.data.Decimal -2", "12300"),
    ("numeric", "'NaN'", "io.debezium.data.VariableScaleDecimal", "NaN"),
    ("money", "'-1234.5'", "org.apache.kafka.connect.data.Decimal 2", "-1234.50"),
    ("varchar(5)", "'é'", "String", "é"),
    ("char(3)", "'x'", "String", "x  "),
    ("name", "'n'", "String", "n"),
    ("citext", "'CiT'", "String", "CiT"),
    ("bytea", "'\\x00ff'", "Bytes", "x00ff"),
    ("json", "'{ \"a\" : 1}'", "io.debezium.data.Json", "{ \"a\" : 1}"),
    ("jsonb", "'{ \"a\" : 1}'", "io.debezium.data.Json", "{\"a\": 1}"),
    ("xml", "'<a/>'", "io.debezium.data.Xml", "<a/>"),
    (
        "uuid",
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        "io.debezium.data.Uuid",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    ("mood", "'it''s'", "io.debezium.data.Enum sad,it's", "it's"),
    ("mood_domain", "'sad'", "io.debezium.data.Enum sad,it's", "sad"),
    ("cents", "12.345", "org.apache.kafka.connect.data.Decimal 2", "12.35"),
    ("date", "'0044-03-15 BC'", "io.debezium.time.Date", "-735160"),
    ("date", "'infinity'", "io.debezium.time.Date", "2147483647"),
    ("time(3)", "'12:34:56.789'", "io.debezium.time.Time", "45296789"),
    ("time", "'24:00:00'", "io.debezium.time.MicroTime", "86400000000"),
    ("timetz", "'12:34:56+01:02:03'", "io.debezium.time.ZonedTime", "11:32:53Z"),
    ("timestamp(3)", "'1969-12-31 23:59:59.999'", "io.debezium.time.Timestamp", "-1"),
    ("timestamp", "'1970-01-01 00:00:01'", "io.debezium.time.MicroTimestamp", "1000000"),
    ("timestamp", "'-infinity'", "io.debezium.time.MicroTimestamp", "-9223372036832400000"),
    ("timestamptz", "'1970-01-01 01:00:00+01'", "io.debezium.time.ZonedTimestamp", "0"),
    ("timestamptz", "'infinity'", "io.debezium.time.ZonedTimestamp", "+292278994-08-16T23:00:00.000000Z"),
    ("interval", "'1 mon -1 day 00:00:01'", "io.debezium.time.MicroDuration", "2543401000000"),
    ("bit(1)", "B'1'", "Boolean", "true"),
    ("bit(10)", "B'1000000001'", "io.debezium.data.Bits 10", "[1, 2]"),
    ("varbit", "B'11'", "io.debezium.data.Bits 2147483647", "[3]"),
    ("inet", "'10.0.0.1/8'", "String", "10.0.0.1/8"),
    ("cidr", "'10.0.0.0/8'", "String", "10.0.0.0/8"),
    ("macaddr", "'08:00:2b:01:02:03'", "String", "08:00:2b:01:02:03"),
    ("int4range", "'[1,3)'", "String", "[1,3)"),
    ("tsvector", "'a:1'", "io.debezium.data.Tsvector", "'a':1"),
    ("ltree", "'a.b'", "io.debezium.data.Ltree", "a.b"),
    ("hstore", "'a=>1,b=>NULL'", "io.debezium.data.Json", "{\"a\":\"1\",\"b\":null}"),
    (
        "point",
        "'(1.5,-2)'",
        "io.debezium.data.geometry.Point",
        "[1.5,-2,[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 248, 63, 0, 0, 0, 0, 0, 0, 0, 192],null]",
    ),
    ("box", "'(1,1),(0,0)'", "String", "(1,1),(0,0)"),
    ("pair", "'(1,x)'", "String", "(1,x)"),
    ("pg_lsn", "'0/10'", "String", "0/10"),
    ("int2vector", "'1 2'", "String", "1 2"),
    ("int4[]", "'[2:4]={1,NULL,3}'", "Array(int4)", "[1,null,3]"),
    ("text[]", "ARRAY['a,\"b\"', NULL, 'NULL', '']", "Array(text)", "[a,\"b\",null,NULL,]"),
    ("mood[]", "'{sad,NULL}'", "Array(enum)", "[sad,null]"),
    ("date[]", "'{1970-01-02}'", "Array(date)", "[1]"),
    ("\"Odd\".json", "'x'", "io.debezium.data.Enum x", "x"),
];

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_and_stream_read_every_type_alike() {
    let db = Database::new().await;
    db.run(
        "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree;
         CREATE TYPE mood AS ENUM ('sad', 'it''s'); CREATE DOMAIN mood_domain AS mood;
         CREATE DOMAIN money_like AS numeric(8,2); CREATE DOMAIN cents AS money_like;
         CREATE TYPE pair AS (a int, b text);
         CREATE SCHEMA \"Odd\"; CREATE TYPE \"Odd\".json AS ENUM ('x');
         CREATE TABLE \"Odd\".uuid (id int PRIMARY KEY)",
    )
    .await;
    let negative_scale: bool = db.one("SELECT current_setting('server_version_num')::int >= 150000").await;
    let types: Vec<_> = TYPES.iter().filter(|(ty, ..)| negative_scale || !ty.contains("-2")).collect();
    let columns: Vec<String> = types.iter().enumerate().map(|(i, (ty, ..))| format!("c{i} {ty}")).collect();
    let values: Vec<String> = types.iter().map(|(ty, value, ..)| format!("{value}::{ty}")).collect();
    db.run(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", "))).await;
    let insert = |id: i32| format!("INSERT INTO t VALUES ({id}, {})", values.join(", "));
    db.run(&insert(1)).await;
    // What the role has set must not change how values look.
    db.run(&format!(
        "ALTER DATABASE {0} SET datestyle = 'German'; ALTER DATABASE {0} SET intervalstyle = 'iso_8601';
         ALTER DATABASE {0} SET timezone = 'Asia/Kolkata'; ALTER DATABASE {0} SET bytea_output = 'escape';
         ALTER DATABASE {0} SET extra_float_digits = -15",
        db.name
    ))
    .await;
    let plan = db.plan(json!({ "tables": { "include": ["public.t"] }, "snapshot": { "mode": "initial" } }));
    let mut drain = Drain::start(plan).await;
    drain.until_count(1).await;
    db.run(&insert(2)).await;
    drain.until_count(2).await;
    let (read, streamed) = (drain.events[0].after.clone().unwrap(), drain.events[1].after.clone().unwrap());
    assert_eq!(read[1..], streamed[1..]);
    assert_eq!(*drain.events[0].table.value, *drain.events[1].table.value);
    for (i, (ty, _, schema, expected)) in types.iter().enumerate() {
        let field = &drain.events[0].table.value.fields()[i + 1].schema;
        assert!(field.is_optional());
        let parameter = ["scale", "allowed", "length"].iter().find_map(|p| field.parameter(p));
        let name = match (field.name(), parameter) {
            (Some(name), Some(parameter)) => format!("{name} {parameter}"),
            (Some(name), None) => name.to_owned(),
            (None, _) => format!("{:?}", field.ty()),
        };
        if !schema.starts_with("Array") {
            assert_eq!(&name, schema, "{ty}");
        }
        assert_eq!(&streamed[i + 1], expected, "{ty}");
    }
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_stand_in_the_schema_and_null_stays_null() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE t (id serial PRIMARY KEY, a int DEFAULT 7, b text NOT NULL DEFAULT 'it''s', c numeric(5,2) DEFAULT 1.5,
                         d timestamptz NOT NULL DEFAULT now(), e timestamptz DEFAULT now(), f bool DEFAULT true,
                         g int GENERATED ALWAYS AS IDENTITY, h date DEFAULT '1970-01-03')",
    )
    .await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("INSERT INTO t (a, h) VALUES (NULL, NULL)").await;
    drain.until_count(1).await;
    let fields = drain.events[0].table.value.fields();
    let defaults: Vec<String> =
        fields.iter().map(|f| f.schema.default().map_or("-".into(), |d| format!("{d:?}"))).collect();
    assert_eq!(
        defaults,
        [
            "Int(0)",
            "Int(7)",
            "Str(\"it's\")",
            "Bytes([0, 150])",
            "Str(\"1970-01-01T00:00:00.000000Z\")",
            "-",
            "Bool(true)",
            "Int(0)",
            "Int(2)"
        ]
    );
    let after = drain.events[0].after.as_ref().unwrap();
    assert_eq!((after[1].as_str(), after[8].as_str()), ("null", "null"));
    drain.task = None;
    db.remove().await;
}

/// The manual's rows whose types this server can make, after making them. Only what an older server lacks and extensions that are not
/// installed are left out.
async fn rows_of(db: &Database) -> Vec<TypeRow> {
    let newest: bool = db.one("SELECT current_setting('server_version_num')::int >= 150000").await;
    let statements: BTreeSet<&str> = type_table().iter().filter_map(|row| row.made_by).collect();
    for statement in statements {
        if let Some(extension) = statement.strip_prefix("CREATE EXTENSION ") {
            let there =
                format!("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = '{extension}')");
            if !db.one::<bool>(&there).await {
                continue;
            }
        }
        db.run(statement).await;
    }
    let mut rows = Vec::new();
    for row in type_table() {
        let made =
            db.sql.client.batch_execute(&format!("CREATE TEMPORARY TABLE probe (v {})", row.sql)).await;
        if made.is_ok() {
            db.run("DROP TABLE probe").await;
            rows.push(row);
        } else {
            let of_extension = row.made_by.is_some_and(|made_by| made_by.contains("EXTENSION"));
            assert!(of_extension || !newest, "{}: {made:?}", row.sql);
        }
    }
    rows
}

/// What a type decides about a schema; the rest is the column's.
fn of_type(schema: &Schema) -> Arc<Schema> {
    let mut bare = rowstream_api::SchemaBuilder::new(schema.ty().clone());
    for (name, value) in schema.parameters() {
        bare = bare.parameter(name, value);
    }
    match schema.name() {
        Some(name) => bare.name(name).build(),
        None => bare.build(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manual_is_true_of_the_server() {
    let db = Database::new().await;
    let rows = rows_of(&db).await;
    let columns: Vec<String> = rows.iter().enumerate().map(|(i, row)| format!("c{i} {}", row.sql)).collect();
    db.run(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", "))).await;
    db.run("INSERT INTO t VALUES (1)").await;
    let plan = db.plan(json!({ "tables": { "include": ["public.t"] }, "snapshot": { "mode": "initial" } }));
    let mut drain = Drain::start(plan).await;
    drain.until_count(1).await;
    db.run("INSERT INTO t VALUES (2)").await;
    drain.until_count(2).await;
    for event in &drain.events {
        let fields = &event.table.value.fields()[1..];
        assert_eq!(fields.len(), rows.len());
        for (field, row) in fields.iter().zip(&rows) {
            assert_eq!(of_type(&field.schema), of_type(&row.schema), "{}", row.sql);
        }
    }
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manual_knows_every_type_of_the_server() {
    let db = Database::new().await;
    let mut listed = Vec::new();
    for row in rows_of(&db).await {
        listed.push(db.one::<u32>(&format!("SELECT '{}'::regtype::oid", row.sql.replace('\'', "''"))).await);
    }
    // Base, range and multirange types; arrays are of these.
    let sql = "SELECT typname::text FROM pg_type
                WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
                  AND (typcategory <> 'A' OR typname IN ('int2vector', 'oidvector')) AND NOT oid = ANY ($1)";
    let missing = db.sql.client.query(sql, &[&listed]).await.unwrap();
    let missing: Vec<String> = missing.iter().map(|row| row.get(0)).collect();
    let unexplained: Vec<&String> =
        missing.iter().filter(|name| !NOT_FOR_TABLES.contains(&name.as_str())).collect();
    assert!(unexplained.is_empty(), "list these types in types/manual.rs: {unexplained:?}");
    db.remove().await;
}
