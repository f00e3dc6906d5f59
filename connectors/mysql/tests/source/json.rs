//! Updates that hold only the changed parts of JSON values: each event has the document that the server has.

use mysql_async::prelude::Queryable;
use serde_json::json;

use crate::common::{Database, Drain, MYSQL};

/// Parts of a document, nested, with keys that need quotes and values of every kind that JSON and MySQL have.
const DOCUMENT: &str = r#"JSON_OBJECT('n', 1, 'text', REPEAT('long enough to be worth a difference ', 40), 'list', JSON_ARRAY(1, 2.5, 'three', NULL, TRUE,
    JSON_OBJECT('deep', JSON_ARRAY(JSON_ARRAY(), JSON_OBJECT()))), 'a key', -70000, 'q"uote\\', 3000000000, 'ünïcode.[0]', CAST('2024-02-29 12:34:56.789' AS DATETIME(6)),
    'd', CAST(-12.500 AS DECIMAL(10,3)), 't', CAST('-100:00:01.5' AS TIME(6)), 'b', CAST(x'00ff10' AS BINARY), 'e', 1e300)"#;

/// Changes that the server writes as differences, from small to large, of every operation and through every kind of step.
const CHANGES: [&str; 22] = [
    "JSON_SET(j, '$.n', 2)",
    "JSON_REPLACE(j, '$.n', 'now a text')",
    "JSON_SET(j, '$.added', JSON_OBJECT('x', 1))",
    "JSON_SET(j, '$.added.y', 2, '$.added.x', NULL)",
    "JSON_SET(j, '$.aa', 1, '$.b2', 2, '$.zzz', 3, '$.a', 4)",
    "JSON_REMOVE(j, '$.added')",
    "JSON_SET(j, '$.list[0]', 70000)",
    "JSON_SET(j, '$.list[100]', 'appended')",
    "JSON_REMOVE(j, '$.list[2]')",
    "JSON_SET(j, '$.list[4].deep[0]', JSON_ARRAY(1, 2))",
    "JSON_REPLACE(j, '$.list[4].deep[1]', -1)",
    "JSON_SET(j, '$.\"a key\"', 1.5, '$.\"q\\\\\"uote\\\\\\\\\"', CAST('1999-01-01' AS DATE))",
    "JSON_SET(j, '$.\"ünïcode.[0]\"', JSON_ARRAY(NULL))",
    "JSON_REMOVE(j, '$.\"ünïcode.[0]\"[0]')",
    "JSON_SET(j, '$.n', 18446744073709551615)",
    "JSON_SET(j, '$.n', -9223372036854775808)",
    "JSON_SET(j, '$.d', CAST(99.99 AS DECIMAL(4,2)), '$.t', CAST('01:02:03' AS TIME))",
    "JSON_REMOVE(j, '$.a', '$.zzz', '$.list[0]')",
    "JSON_SET(j, '$.text', REPEAT('shorter ', 3))",
    "JSON_SET(j, '$.e', TRUE, '$.b', FALSE)",
    "JSON_ARRAY(1)",
    "NULL",
];

#[tokio::test]
async fn parts_of_json_values_become_whole_documents() {
    let mut db = Database::new(MYSQL).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY, k JSON, n INT, j JSON, l JSON)").await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("SET SESSION binlog_row_value_options = PARTIAL_JSON").await;
    db.run(&format!(
        "INSERT INTO t VALUES (1, '[0]', 0, {DOCUMENT}, '{{\"a\": 1}}'), (2, NULL, 0, {DOCUMENT}, NULL)"
    ))
    .await;
    let select = "SELECT CONCAT_WS('|', id, IFNULL(CAST(k AS CHAR), 'null'), n, IFNULL(CAST(j AS CHAR), 'null'), IFNULL(CAST(l AS CHAR), 'null')) \
                  FROM t ORDER BY id";
    let mut expected: Vec<String> = db.sql.query(select).await.unwrap();
    for change in CHANGES {
        // Two rows an event, another JSON column before and behind, of which one changes wholly or not at all.
        db.run(&format!(
            "UPDATE t SET j = {change}, n = n + 1, l = IF(id = 1, JSON_SET(l, '$.b', n), '\"whole\"')"
        ))
        .await;
        let rows: Vec<String> = db.sql.query(select).await.unwrap();
        expected.extend(rows);
    }
    drain.until_count(expected.len()).await;
    let arrived: Vec<String> = drain.events.iter().map(|e| e.after.clone().unwrap().join("|")).collect();
    for (arrived, expected) in arrived.iter().zip(&expected) {
        assert_eq!(arrived, expected);
    }
    let befores: Vec<String> =
        drain.events[2..].iter().map(|e| e.before.clone().unwrap().join("|")).collect();
    assert_eq!(befores, expected[..expected.len() - 2], "the old row is the row before");
    let partial = partial_events(&mut db).await;
    assert!(partial >= CHANGES.len() - 4, "only {partial} updates were written as differences");
    db.remove().await;
}

/// How many updates the server wrote as differences since the current file of the binlog began.
async fn partial_events(db: &mut Database) -> usize {
    let file: Option<(String, u64, String, String, String)> =
        db.sql.query_first("SHOW BINARY LOG STATUS").await.unwrap();
    let events: Vec<mysql_async::Row> =
        db.sql.query(format!("SHOW BINLOG EVENTS IN '{}'", file.unwrap().0)).await.unwrap();
    events.iter().filter(|row| row.get::<String, _>("Event_type").unwrap() == "Update_rows_partial").count()
}
