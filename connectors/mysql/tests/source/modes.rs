//! Snapshot modes that read tables more than once.

use std::collections::BTreeMap;

use rowstream_api::{Op, StartReason};
use serde_json::json;

use crate::common::{Database, Drain, MARIADB, MYSQL, PATIENCE, fresh, start, wipe};

fn snapshot_done(drain: &Drain) -> bool {
    !drain.offset().contains_key("snapshot")
}

fn reads(drain: &Drain) -> usize {
    drain.events.iter().filter(|e| e.op == Op::Read).count()
}

/// What somebody has who begins with these events.
fn state(drain: &Drain) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for event in &drain.events {
        if let Some(before) = &event.before {
            rows.remove(&before[0]);
        }
        if let Some(after) = &event.after {
            rows.insert(after[0].clone(), after[1].clone());
        }
    }
    rows
}

fn rows(from: u32, to: u32) -> String {
    let rows: Vec<String> = (from..to).map(|n| format!("({n}, {n})")).collect();
    format!("INSERT INTO t VALUES {}", rows.join(","))
}

/// Removes all of the binlog but its newest file.
async fn purge(db: &mut Database) {
    let status = if db.is_mariadb() { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" };
    let row: mysql_async::Row = db.one_row(status).await;
    let file: String = row.get(0).unwrap();
    // A file that our reader, who was just dropped, is still being sent is kept.
    let purged = async {
        while db.one_row("SHOW BINARY LOGS").await.get::<String, _>(0).as_ref() != Some(&file) {
            db.run(&format!("PURGE BINARY LOGS TO '{file}'")).await;
        }
    };
    tokio::time::timeout(PATIENCE, purged).await.unwrap();
}

/// Purged beneath a stopped source, rows changed meanwhile: refused by `initial`; by `when_needed` all tables are read anew, whatever is
/// killed, and it is said what was lost.
#[tokio::test]
async fn a_purged_position_is_refused_or_all_tables_are_read_anew() {
    for server in ["mysql-9.7@anew", "mariadb-11.8@anew"] {
        let (server, port) = fresh(server, &[]);
        let mut db = Database::on(&server, port).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
        db.run(&rows(0, 500)).await;
        let plan = |mode: &str| json!({ "snapshot": { "mode": mode, "chunk_rows": 20 } });
        let mut drain = Drain::start(db.plan(plan("initial"))).await;
        while !snapshot_done(&drain) {
            drain.step().await.unwrap();
        }
        db.run("UPDATE t SET v = 77 WHERE id = 7").await;
        drain.until_count(501).await;
        drain.task = None;
        db.run(
            "UPDATE t SET v = 88 WHERE id = 8;\nDELETE FROM t WHERE id = 9;\nINSERT INTO t VALUES (1000, 1)",
        )
        .await;
        db.run("FLUSH BINARY LOGS;\nINSERT INTO t VALUES (1001, 1);\nFLUSH BINARY LOGS").await;
        purge(&mut db).await;
        let error = start(&drain.plan, &drain.stored).await.err().unwrap();
        assert!(error.remedy.unwrap().contains("when_needed"), "{server}");

        let old = drain.stored.clone();
        drain.plan = db.plan(plan("when_needed"));
        drain.restart().await;
        let first = drain.poll().await.unwrap();
        assert_eq!(first.changes.len(), 0, "the new position comes alone");
        // A crash before it is stored.
        drain.restart().await;
        assert_eq!(drain.stored, old);
        drain.events.clear();
        drain.step().await.unwrap();
        let lost = drain.report().lost.unwrap();
        assert!(matches!(lost.code.as_str(), "MYSQL_GTID_PURGED" | "MYSQL_BINLOG_LOST"), "{lost:?}");
        assert!(lost.since_ms.is_some() && !lost.since.is_empty(), "{lost:?}");
        let mut kills = 0;
        while !snapshot_done(&drain) {
            drain.step().await.unwrap();
            if kills < 8 && reads(&drain) > 40 * (kills + 1) {
                kills += 1;
                db.run(&format!("UPDATE t SET v = v + 1 WHERE id = {}", 400 + kills)).await;
                db.run(&format!("DELETE FROM t WHERE id = {}", 100 + kills)).await;
                drain.restart().await;
            }
        }
        assert_eq!(kills, 8);
        db.run("INSERT INTO t VALUES (2000, 2)").await;
        drain.until(|events| events.last().is_some_and(|e| e.op == Op::Create)).await;
        let truth: Vec<(String, String)> = mysql_async::prelude::Queryable::query(
            &mut db.sql,
            "SELECT CAST(id AS CHAR), CAST(v AS CHAR) FROM t",
        )
        .await
        .unwrap();
        assert_eq!(state(&drain), truth.into_iter().collect(), "{server}");
        let told_deleted =
            |e: &crate::common::Event| e.op == Op::Delete && e.key == Some(vec!["9".to_owned()]);
        assert!(!drain.events.iter().any(told_deleted), "what was deleted meanwhile is told by nobody");
        assert_eq!(drain.report().lost, Some(lost));
        let gauges = drain.cx.gauges.values();
        assert!(gauges.iter().any(|(name, at)| *name == "position_lost_timestamp_seconds" && *at > 0.0));
        assert!(!drain.cx.gauges.notes().iter().any(|(name, _)| *name == "position_lost"));
        let n = drain.events.len();
        drain.restart().await;
        db.run("INSERT INTO t VALUES (2001, 2)").await;
        drain.until_count(n + 1).await;
        assert_eq!(drain.events[n].op, Op::Create, "nothing is missing now, so nothing is read again");
        drop((drain, db));
        wipe(&server);
    }
}

/// Each start of the connector reads the tables that have a key again, beside the stream; a retry does not, and what a stop interrupts
/// goes on.
#[tokio::test]
async fn always_reads_at_each_start_of_the_connector_and_streams_on() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY, v INT);\nCREATE TABLE nokey (id INT);\nINSERT INTO nokey VALUES (1)")
            .await;
        db.run(&rows(0, 300)).await;
        let mut drain =
            Drain::start(db.plan(json!({ "snapshot": { "mode": "always", "chunk_rows": 20 } }))).await;
        while !snapshot_done(&drain) {
            drain.step().await.unwrap();
        }
        assert_eq!(reads(&drain), 301, "{server}");
        drain.events.clear();
        drain.cx.start = StartReason::Retry;
        drain.restart().await;
        db.run("UPDATE t SET v = 9 WHERE id = 5").await;
        drain.until_count(1).await;
        assert!(drain.report().reading.is_none() && reads(&drain) == 0, "{server}");
        drain.task = None;
        // Told by the stream, from the stored position.
        db.run("DELETE FROM t WHERE id = 6").await;
        drain.cx.start = StartReason::Connector;
        drain.restart().await;
        drain.step().await.unwrap();
        let mut kills = 0;
        while drain.report().reading.is_some() {
            drain.step().await.unwrap();
            if kills < 5 && reads(&drain) > 40 * (kills + 1) {
                kills += 1;
                drain.restart().await;
            }
        }
        assert_eq!((kills, reads(&drain)), (5, 299), "{server}");
        drain.until(|events| events.iter().any(|e| e.op == Op::Delete)).await;
        let refused = drain.report().refused;
        assert_eq!((refused.len(), refused[0].tables[0].as_str()), (1, &*format!("{}.nokey", db.name)));
        drain.task = None;
        db.remove().await;
    }
}
