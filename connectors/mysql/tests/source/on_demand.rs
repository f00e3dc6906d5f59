//! Tables that are asked for while the stream goes on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mysql_async::prelude::Queryable;
use rowstream_api::{Op, snapshot::SnapshotAction};
use serde_json::json;

use crate::common::{Database, Drain, Event, MARIADB, MYSQL};

/// What a reader of these events has, by key: the row's version. Never is a row older than what was told before.
fn state(events: &[Event], table: &str) -> BTreeMap<i64, i64> {
    let (mut rows, mut newest) = (BTreeMap::new(), BTreeMap::new());
    for event in events.iter().filter(|e| e.topic.ends_with(&format!(".{table}"))) {
        if let Some(before) = &event.before {
            rows.remove(&before[0].parse::<i64>().unwrap());
        }
        let Some(after) = &event.after else { continue };
        let (id, version) = (after[0].parse::<i64>().unwrap(), after[1].parse::<i64>().unwrap());
        let known = newest.insert(id, version).unwrap_or(0);
        let is_fresh = if event.op == Op::Read { known <= version } else { known < version };
        assert!(is_fresh, "{:?} of {id} tells {version} after {known}", event.op);
        rows.insert(id, version);
    }
    rows
}

async fn under_load(server: &str) {
    let mut db = Database::new(server).await;
    db.run(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, version BIGINT NOT NULL, pad VARCHAR(50));
         CREATE TABLE u (id BIGINT PRIMARY KEY, version BIGINT NOT NULL);
         CREATE TABLE done (a INT)",
    )
    .await;
    let rows: Vec<String> = (1..3000).map(|n| format!("({n}, 1)")).collect();
    let rows = rows.join(",");
    db.run(&format!("INSERT INTO t (id, version) VALUES {rows};\nINSERT INTO u VALUES {rows}")).await;
    let plan = db.plan(json!({
        "snapshot": { "mode": "never", "chunk_rows": 100, "readers": 3 }, "batch_bytes": "8KiB"
    }));
    let mut drain = Drain::start(plan).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3_i64 {
        let mut conn = db.connect().await;
        let stop = Arc::clone(&stop);
        writers.spawn(async move {
            let mut n = 1;
            while !stop.load(Ordering::SeqCst) {
                n += 1;
                // Each writer has keys of its own, and versions grow.
                let id = (n * 37) % 1000 * 3 + writer;
                for sql in [
                    format!("UPDATE t SET version = {n} WHERE id = {id}"),
                    format!("UPDATE u SET version = {n} WHERE id = {id}"),
                    format!("DELETE FROM t WHERE id = {} AND {n} % 5 = 0", id + 3),
                    format!("INSERT IGNORE INTO t (id, version) VALUES ({}, {n})", id + 6),
                    format!("INSERT IGNORE INTO t (id, version) VALUES ({}, {n})", 10_000 + n * 3 + writer),
                ] {
                    conn.query_drop(sql).await.unwrap();
                }
            }
        });
    }
    drain.until_count(200).await;
    let (asked, mut kills, mut steps) = (drain.events.len(), 0, 0);
    drain.ask_for("1", &format!("{}.t", db.name), None).await;
    drain.ask_for("2", &format!("{}.u", db.name), Some("id % 2 = 0 # only these")).await;
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
        steps += 1;
        if steps % 25 == 0 {
            drain.restart().await;
            kills += 1;
        }
        if steps % 40 == 0 && steps < 400 {
            // Told again, as after a crash before it was withdrawn.
            drain.ask_for("1", &format!("{}.t", db.name), None).await;
            drain.ask(&format!("p{steps}"), SnapshotAction::Pause).await;
            drain.step().await.unwrap();
            drain.ask(&format!("r{steps}"), SnapshotAction::Resume).await;
        }
    }
    assert!(kills > 1, "{server}: {kills} kills");
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    db.run("INSERT INTO done VALUES (1)").await;
    drain.until(|events| events.iter().any(|e| e.topic.ends_with(".done"))).await;
    for (table, which) in [("t", "TRUE"), ("u", "id % 2 = 0")] {
        let truth: Vec<(i64, i64)> =
            db.sql.query(format!("SELECT id, version FROM {table} WHERE {which}")).await.unwrap();
        state(&drain.events, table);
        let mut told = state(&drain.events[asked..], table);
        told.retain(|id, _| table == "t" || id % 2 == 0);
        assert_eq!(told, truth.into_iter().collect(), "{server} {table}");
        let reads =
            drain.events.iter().filter(|e| e.op == Op::Read && e.topic.ends_with(&format!(".{table}")));
        let reads: Vec<&Event> = reads.collect();
        assert!(reads.iter().all(|e| e.snapshot == "incremental"), "{server}");
        let odd =
            reads.iter().filter(|e| e.after.as_ref().unwrap()[0].parse::<i64>().unwrap() % 2 == 1).count();
        assert_eq!(odd > 0, table == "t", "{server} {table}");
    }
    db.remove().await;
}

/// Who begins to read when the table is asked for has what the table has, row by row; whoever read before is never set back.
#[tokio::test]
async fn a_table_asked_for_under_load_and_kills_is_told_whole_by_mysql() {
    under_load(MYSQL).await;
}

#[tokio::test]
async fn a_table_asked_for_under_load_and_kills_is_told_whole_by_mariadb() {
    under_load(MARIADB).await;
}

/// What can't be read is refused with the reason, nothing else happens, and the stream goes on.
#[tokio::test]
async fn what_cannot_be_read_is_refused_and_the_stream_goes_on() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run(
            "CREATE TABLE t (id INT PRIMARY KEY, note VARCHAR(20));
             CREATE TABLE nokey (id INT);
             CREATE TABLE other (id INT PRIMARY KEY);
             INSERT INTO t VALUES (1, 'secret'), (2, 'secret'), (3, 'secret')",
        )
        .await;
        let name = db.name.clone();
        let plan =
            db.plan(json!({ "tables": { "include": [format!("{name}.t"), format!("{name}.nokey")] } }));
        let mut drain = Drain::start(plan).await;
        let drop_other = format!("TRUE; DROP TABLE {name}.other");
        let cases = [
            ("nokey", None, "has no key"),
            ("other", None, "not captured"),
            ("t", Some("nope = 1"), "nope"),
            ("t", Some("id = "), "syntax"),
            ("t", Some("id = 1) OR (TRUE"), "syntax"),
            ("t", Some(drop_other.as_str()), "syntax"),
            ("t", Some("TRUE) UNION SELECT 1, 'x' WHERE (TRUE"), "syntax"),
            ("t", Some("TRUE INTO OUTFILE '/tmp/never'"), "syntax"),
            ("t", Some("/* "), "syntax"),
            ("t", Some("COUNT(*) > 0"), "group function"),
            ("t", Some("id = ?"), "parameters"),
            // Known only when rows are read.
            ("t", Some("id * 9223372036854775807 > 0"), "out of"),
            ("t", Some("id = (SELECT id FROM t AS o)"), "more than 1 row"),
        ];
        for (n, (table, condition, reason)) in cases.into_iter().enumerate() {
            let id = format!("r{n}");
            drain
                .ask_for(
                    &id,
                    &format!("{name}.{table}"),
                    condition.map(|c| c.replace("FROM t", &format!("FROM {name}.t"))).as_deref(),
                )
                .await;
            let refusal = |drain: &Drain| drain.report().refused.into_iter().find(|r| r.request == id);
            while refusal(&drain).is_none() {
                drain.step().await.unwrap();
            }
            let refusal = refusal(&drain).unwrap();
            assert!(refusal.reason.contains(reason), "{server} {condition:?}: {}", refusal.reason);
            assert!(!refusal.reason.contains("secret"), "{server}: {}", refusal.reason);
            db.run(&format!("INSERT INTO t VALUES ({n} + 100, 'new')")).await;
            drain.until(|events| events.iter().filter(|e| e.op == Op::Create).count() > n).await;
        }
        assert_eq!(db.one::<i64>("SELECT count(*) FROM other").await, 0, "{server}");
        drain.events.clear();
        drain.ask_for("last", &format!("{name}.t"), Some("id <= 20 AND note = 'secret'")).await;
        drain.until_count(3).await;
        assert!(drain.events.iter().all(|e| e.op == Op::Read && e.snapshot == "incremental"), "{server}");
        db.remove().await;
    }
}
