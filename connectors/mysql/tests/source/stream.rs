//! The stream: order, positions, transactions of every kind.

use mysql_async::prelude::Queryable;
use rowstream_api::SourceConnector;
use serde_json::json;

use crate::common::{Database, Drain, MARIADB, MYSQL, PATIENCE, line};

async fn ordinary(server: &str) {
    let mut db = Database::new(server).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), n DECIMAL(10,2));\nINSERT INTO t VALUES (0, 'before', 1)").await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run(
        "INSERT INTO t VALUES (1, 'a', 1.50), (2, 'ü😀', -0.01);
         UPDATE t SET v = 'x' WHERE id = 1;
         UPDATE t SET id = 9 WHERE id = 2;
         REPLACE INTO t VALUES (1, 'r', NULL);
         INSERT INTO t VALUES (1, 'dup', 5) ON DUPLICATE KEY UPDATE n = 7;
         DELETE FROM t WHERE id = 1;
         TRUNCATE TABLE t;
         INSERT INTO t VALUES (3, NULL, NULL)",
    )
    .await;
    drain.until_count(9).await;
    assert_eq!(
        drain.lines(),
        [
            "t c - > 1|a|1.50",
            "t c - > 2|ü😀|-0.01",
            "t u 1|a|1.50 > 1|x|1.50",
            "t rekey 2|ü😀|-0.01 > 9|ü😀|-0.01",
            "t u 1|x|1.50 > 1|r|null",
            "t u 1|r|null > 1|r|7.00",
            "t d 1|r|7.00 > -",
            "t t - > -",
            "t c - > 3|null|null",
        ]
    );
    assert_eq!(drain.events[3].key, Some(vec!["9".to_owned()]));
    assert!(drain.events.iter().all(|e| e.gtid.is_some()));
    db.remove().await;
}

#[tokio::test]
async fn ordinary_changes_arrive_in_order() {
    ordinary(MYSQL).await;
    ordinary(MARIADB).await;
}

/// Every stored position, also those in the middle of a transaction, leads to exactly the rest.
async fn resumes(server: &str) {
    let mut db = Database::new(server).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200));\nCREATE TABLE u (a INT)").await;
    let plan = db.plan(json!({ "batch_bytes": "4KiB" }));
    let mut drain = Drain::start(plan.clone()).await;
    db.run("INSERT INTO t VALUES (1, 'first')").await;
    for round in 0..3 {
        db.run("BEGIN").await;
        for n in 0..60 {
            let id = 100 * (round + 1) + n;
            db.run(&format!("INSERT INTO t VALUES ({id}, REPEAT('x', 190))")).await;
            db.run(&format!("INSERT INTO u VALUES ({id}), ({id})")).await;
        }
        db.run("COMMIT").await;
    }
    db.run("UPDATE t SET v = CONCAT(id, 'y')").await;
    let total = 1 + 3 * 180 + 181;
    drain.until_count(total).await;
    let all = drain.lines();
    let history = drain.history.clone();
    assert!(
        history.iter().filter(|(_, o)| o.values().next().unwrap().0.contains_key("partial")).count() > 10
    );
    for (n, stored) in history.into_iter().step_by(5) {
        let mut again = Drain::resume(plan.clone(), stored).await;
        again.until_count(total - n).await;
        assert_eq!(again.lines(), all[n..], "resumed after {n}");
    }
    db.remove().await;
}

#[tokio::test]
async fn any_stored_position_leads_to_exactly_the_rest() {
    resumes(MYSQL).await;
    resumes(MARIADB).await;
}

#[tokio::test]
async fn alter_table_shows_as_a_new_schema() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY, a INT)").await;
        let mut drain = Drain::start(db.plan(json!({}))).await;
        db.run(
            "INSERT INTO t VALUES (1, 10);
             ALTER TABLE t ADD COLUMN b VARCHAR(10) FIRST;
             INSERT INTO t VALUES ('x', 2, 20);
             ALTER TABLE t DROP COLUMN a;
             DELETE FROM t WHERE id = 2;
             RENAME TABLE t TO renamed;
             INSERT INTO renamed VALUES ('r', 3);
             DROP TABLE renamed;
             CREATE TABLE t AS SELECT 5 AS five",
        )
        .await;
        drain.until_count(5).await;
        assert_eq!(
            drain.lines(),
            ["t c - > 1|10", "t c - > x|2|20", "t d x|2 > -", "renamed c - > r|3", "t c - > 5"]
        );
        let names = |n: usize| -> Vec<String> {
            drain.events[n].table.value.fields().iter().map(|f| f.name.clone()).collect()
        };
        assert_eq!(names(1), ["b", "id", "a"]);
        assert_eq!(drain.events[4].key, None);
        db.remove().await;
    }
}

#[tokio::test]
async fn an_idle_upstream_moves_the_position() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        let mut other = Database::new(server).await;
        let mut drain = Drain::start(db.plan(json!({}))).await;
        let before = drain.offset().clone();
        other.run("CREATE TABLE t (a INT);\nINSERT INTO t VALUES (1)").await;
        while drain.offset()["gtids"] == before["gtids"] {
            drain.step().await.unwrap();
        }
        assert!(drain.events.is_empty());
        db.run("SELECT 1").await;
        other.remove().await;
        db.remove().await;
    }
}

#[tokio::test]
async fn compressed_transactions_are_read() {
    let mut db = Database::new(MYSQL).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)").await;
    let plan = db.plan(json!({ "batch_bytes": "16KiB" }));
    let mut drain = Drain::start(plan.clone()).await;
    db.run("SET SESSION binlog_transaction_compression = ON;\nBEGIN").await;
    for id in 0..200 {
        db.run(&format!("INSERT INTO t VALUES ({id}, REPEAT('abc', 400))")).await;
    }
    db.run("COMMIT;\nUPDATE t SET v = 'z' WHERE id < 3").await;
    drain.until_count(203).await;
    let all = drain.lines();
    assert_eq!(all[202], format!("t u 2|{} > 2|z", "abc".repeat(400)));
    let middle = drain.history.iter().find(|(n, _)| *n > 20 && *n < 190).unwrap().clone();
    let mut again = Drain::resume(plan, middle.1).await;
    again.until_count(203 - middle.0).await;
    assert_eq!(again.lines(), all[middle.0..]);
    db.remove().await;
}

#[tokio::test]
async fn prepared_transactions_wait_for_their_decision() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY)").await;
        let plan = db.plan(json!({}));
        let mut drain = Drain::start(plan.clone()).await;
        let xa = |name: &str| format!("'{}_{name}'", db.name);
        let (one, two, three) = (xa("1"), xa("2"), xa("3"));
        prepare(&db, &one, &[1]).await;
        prepare(&db, &two, &[2]).await;
        db.run("INSERT INTO t VALUES (10)").await;
        drain.until_count(1).await;
        drain.restart().await;
        decide(&mut db, &format!("XA ROLLBACK {two}")).await;
        db.run("INSERT INTO t VALUES (11)").await;
        decide(&mut db, &format!("XA COMMIT {one}")).await;
        db.run("INSERT INTO t VALUES (12)").await;
        db.run(&format!(
            "XA START {three};\nINSERT INTO t VALUES (3);\nXA END {three};\nXA COMMIT {three} ONE PHASE"
        ))
        .await;
        drain.until_count(5).await;
        let lines: Vec<String> = drain.events.iter().map(line).collect();
        assert_eq!(lines, ["t c - > 10", "t c - > 11", "t c - > 1", "t c - > 12", "t c - > 3"], "{server}");
        // Other tests on this server prepare, too.
        assert!(
            !drain.offset().get("prepared").is_some_and(|p| p.to_string().contains(&name_in_hex(&db.name)))
        );
        db.remove().await;
    }
}

/// Prepared before the first position, and in an older file: read from there when the decision comes, also again after a restart.
#[tokio::test]
async fn transactions_that_were_prepared_before_the_start_are_found() {
    for (server, setting) in [
        (MYSQL, "SET SESSION binlog_transaction_compression = OFF"),
        (MYSQL, "SET SESSION binlog_transaction_compression = ON"),
        (MARIADB, "DO 1"),
    ] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY);\nINSERT INTO t VALUES (1)").await;
        let name = format!("'{}_before'", db.name);
        let mut decided = db.connect().await;
        xa(&mut decided, &name, &[50], setting).await;
        decided.query_drop(format!("XA ROLLBACK {name}")).await.unwrap();
        xa(&mut decided, &name, &[2, 3, 4], setting).await;
        drop(decided);
        db.run("FLUSH BINARY LOGS").await;
        let plan = db.plan(json!({ "snapshot": { "mode": "initial" } }));
        let mut drain = Drain::start(plan.clone()).await;
        while drain.offset().contains_key("snapshot") {
            drain.step().await.unwrap();
        }
        let before = drain.stored.clone();
        decide(&mut db, &format!("XA COMMIT {name}")).await;
        db.run("INSERT INTO t VALUES (9)").await;
        drain.until_count(5).await;
        let expected = ["t r - > 1", "t c - > 2", "t c - > 3", "t c - > 4", "t c - > 9"];
        assert_eq!(drain.lines(), expected, "{server} {setting}");
        let mut again = Drain::resume(plan, before).await;
        again.until_count(4).await;
        assert_eq!(again.lines(), expected[1..], "{server} {setting}, again");
        db.remove().await;
    }
}

/// MariaDB lets go of a prepared transaction when it has noticed that its session is gone.
async fn decide(db: &mut Database, statement: &str) {
    let decided = async { while db.sql.query_drop(statement).await.is_err() {} };
    tokio::time::timeout(PATIENCE, decided).await.unwrap_or_else(|_| panic!("{statement}"));
}

/// Leaves a prepared transaction behind.
async fn prepare(db: &Database, name: &str, ids: &[u32]) {
    xa(&mut db.connect().await, name, ids, "DO 1").await;
}

async fn xa(conn: &mut mysql_async::Conn, name: &str, ids: &[u32], setting: &str) {
    let rows: Vec<String> = ids.iter().map(|id| format!("({id})")).collect();
    for statement in [
        setting.to_owned(),
        format!("XA START {name}"),
        format!("INSERT INTO t VALUES {}", rows.join(",")),
        format!("XA END {name}"),
        format!("XA PREPARE {name}"),
    ] {
        conn.query_drop(statement).await.unwrap();
    }
}

fn name_in_hex(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn tagged_gtids_are_counted() {
    let mut db = Database::new(MYSQL).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY)").await;
    let plan = db.plan(json!({}));
    let mut drain = Drain::start(plan.clone()).await;
    db.run("SET gtid_next = 'AUTOMATIC:rowstream';\nINSERT INTO t VALUES (1);\nSET gtid_next = AUTOMATIC;\nINSERT INTO t VALUES (2)").await;
    drain.until_count(2).await;
    assert!(drain.events[0].gtid.as_ref().unwrap().contains(":rowstream:"));
    assert!(drain.offset()["gtids"].as_str().unwrap().contains(":rowstream:1"));
    drain.restart().await;
    db.run("INSERT INTO t VALUES (3)").await;
    drain.until_count(3).await;
    assert_eq!(drain.lines(), ["t c - > 1", "t c - > 2", "t c - > 3"]);
    db.remove().await;
}

#[tokio::test]
async fn rows_left_out_by_a_minimal_image_are_unavailable() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT);\nINSERT INTO t VALUES (1, 1, 'b')").await;
        let mut drain = Drain::start(db.plan(json!({}))).await;
        db.run("SET SESSION binlog_row_image = MINIMAL;\nUPDATE t SET a = 2;\nDELETE FROM t").await;
        drain.until_count(2).await;
        assert_eq!(drain.lines(), ["t u 1|ABSENT|ABSENT > 1|2|UNAVAILABLE", "t d 1|ABSENT|ABSENT > -"]);
        db.remove().await;
    }
}

/// What `validate` checks transforms against is what the stream delivers.
#[tokio::test]
async fn the_tables_that_are_told_are_those_of_the_stream() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY, amount DECIMAL(9,2) NOT NULL DEFAULT 1, day DATE, note JSON)").await;
        let mut drain = Drain::start(db.plan(json!({}))).await;
        db.run("INSERT INTO t (id) VALUES (1)").await;
        let mut streamed = None;
        while streamed.is_none() {
            let batch = drain.poll().await.unwrap();
            let mut visit = |view: rowstream_api::ChangeView<'_>| {
                streamed = Some(std::sync::Arc::clone(view.table));
                Ok(())
            };
            batch.changes.visit(&mut visit).unwrap();
        }
        let (streamed, told) =
            (streamed.unwrap(), rowstream_mysql::source::MySqlSource::tables(&drain.plan).await.unwrap());
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0].topic, &told[0].key), (&streamed.topic, &streamed.key));
        assert_eq!((&told[0].value, &told[0].envelope), (&streamed.value, &streamed.envelope));
        db.remove().await;
    }
}
