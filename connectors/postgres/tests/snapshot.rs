//! The snapshot against a real server, beside concurrent writers, with the task dropped at any moment.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::too_many_lines, reason = "test code")]

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use common::{
    Database, Drain,
    load::{Dice, WRITE_LOAD, apply, id_and_version, ledger, table_of, write},
};
use rowstream_api::{Op, SourceTask};
use serde_json::json;

fn snapshot_done(drain: &Drain) -> bool {
    !drain.offset().contains_key("snapshot")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_arrive_once_in_key_order_with_markers() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT g, 'v' || g FROM generate_series(1, 25) g;
         CREATE TABLE b (x text COLLATE \"de-x-icu\", y int, g int GENERATED ALWAYS AS (y * 2) STORED, PRIMARY KEY (x, y));
         INSERT INTO b VALUES ('ä', 1), ('a', 2), ('it''s \\', 3), ('z', -4), ('Z', 5), ('', 6);
         CREATE TABLE c (id int PRIMARY KEY);
         CREATE TABLE d (v int); ALTER TABLE d REPLICA IDENTITY FULL; INSERT INTO d SELECT generate_series(1, 30)",
    )
    .await;
    let mut drain =
        Drain::start(db.plan(json!({ "snapshot": { "mode": "initial", "chunk_rows": 2 } }))).await;
    while !snapshot_done(&drain) {
        drain.step().await.unwrap();
    }
    let of =
        |table: &str| drain.events.iter().filter(|e| e.topic.ends_with(table)).cloned().collect::<Vec<_>>();
    let (a, b, d) = (of(".a"), of(".b"), of(".d"));
    assert!(drain.events.iter().all(|e| e.op == Op::Read));
    let ids: Vec<_> = a.iter().map(|e| e.after.as_ref().unwrap()[0].clone()).collect();
    assert_eq!(ids, (1..=25).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(b.len(), 6);
    assert!(b.iter().all(|e| e.after.as_ref().unwrap().len() == 2));
    assert_eq!(d.len(), 30);
    let markers: Vec<&str> = a.iter().map(|e| e.snapshot.as_str()).collect();
    assert_eq!((markers[0], markers[1], markers[24]), ("first", "true", "last_in_data_collection"));
    assert_eq!(d[0].snapshot, "first_in_data_collection");
    assert_eq!(d[29].snapshot, "last");
    // The stream goes on under the same schema.
    db.run("INSERT INTO a VALUES (26, 'w'); INSERT INTO b VALUES ('q', 7)").await;
    let n = drain.events.len();
    drain.until_count(n + 2).await;
    assert_eq!(*drain.events[n].table.value, *a[0].table.value);
    assert_eq!(*drain.events[n + 1].table.value, *b[0].table.value);
    // A restart does not read anything again.
    drain.restart().await;
    db.run("INSERT INTO a VALUES (27, 'w')").await;
    drain.until_count(n + 3).await;
    drain.task.as_mut().unwrap().close().await.unwrap();
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_stale_under_load_and_kills() {
    let db = Database::new().await;
    db.run(WRITE_LOAD).await;
    let mut kills = 0;
    for (round, readers) in (0..4u64).zip([1, 2, 4, 16]) {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(round * 1_000_000)));
        let plan = db.plan(json!({
            "slot_name": format!("{}_{round}", db.name),
            "tables": { "include": ["public.t_a", "public.t_b"] },
            "snapshot": { "mode": "initial", "chunk_rows": 97, "readers": readers },
            "batch_bytes": "8KiB"
        }));
        let writers = write(&db, round + 1, &["t_a", "t_b"], Arc::clone(&stop), Arc::clone(&done)).await;
        let mut dice = Dice(round + 77);
        let mut drain = Drain::start(plan).await;
        // Entries above this one are surely in the stream: they were written after the slot was there.
        let after: i64 = db.one("SELECT coalesce(max(n), 0) FROM audit").await;
        let mut steps = 0;
        while !snapshot_done(&drain) {
            drain.step().await.unwrap();
            steps += 1;
            if dice.roll(12) == 0 {
                for _ in 0..dice.roll(3) {
                    // Polled, never stored: a crash before the log's commit.
                    drain.poll().await.unwrap();
                }
                drain.restart().await;
                kills += 1;
            }
        }
        assert!(steps > 60, "{steps} steps");
        stop.store(true, Ordering::SeqCst);
        writers.join_all().await;
        let end: i64 = db.one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8").await;
        while drain.lsn() < u64::try_from(end).unwrap() {
            drain.step().await.unwrap();
        }
        drain.task.as_mut().unwrap().close().await.unwrap();
        let state = apply(&drain.events);
        let rows = db
            .sql
            .client
            .query("SELECT 't_a', id::text, ver FROM t_a UNION ALL SELECT 't_b', id, ver FROM t_b", &[])
            .await
            .unwrap();
        let truth: BTreeMap<(String, String), i64> =
            rows.iter().map(|r| ((r.get(0), r.get(1)), r.get(2))).collect();
        assert_eq!(state, truth);
        // Each committed change once.
        let mut streamed: HashMap<(String, String, String, i64), usize> = HashMap::new();
        for e in drain.events.iter().filter(|e| e.op != Op::Read && e.op != Op::Delete) {
            let (id, version) = id_and_version(e, e.after.as_ref().unwrap());
            *streamed.entry((table_of(e), e.op.letter().to_owned(), id, version.unwrap())).or_default() += 1;
        }
        for e in drain.events.iter().filter(|e| e.op == Op::Delete && table_of(e) == "t_a") {
            let (id, version) = id_and_version(e, e.before.as_ref().unwrap());
            *streamed.entry((table_of(e), "d".to_owned(), id, version.unwrap())).or_default() += 1;
        }
        assert!(streamed.values().all(|n| *n == 1), "a change came twice");
        let ledger = ledger(&db, after).await;
        assert!(ledger.len() > 100, "{} changes", ledger.len());
        for entry in ledger.into_iter().filter(|(table, op, ..)| op != "d" || table == "t_a") {
            assert!(streamed.contains_key(&entry), "{entry:?} is missing");
        }
        db.run(&format!("SELECT pg_drop_replication_slot('{}_{round}')", db.name)).await;
    }
    assert!(kills >= 20, "{kills} kills");
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_read_once_under_load() {
    let db = Database::new().await;
    db.run(WRITE_LOAD).await;
    db.run("INSERT INTO t_c SELECT g, nextval('version') FROM generate_series(1, 4000) g").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = write(&db, 5, &["t_c"], Arc::clone(&stop), Arc::clone(&done)).await;
    let plan = db.plan(json!({
        "tables": { "include": ["public.t_c"] },
        "snapshot": { "mode": "initial" },
        "batch_bytes": "8KiB"
    }));
    let mut drain = Drain::start(plan).await;
    let mut restarted = false;
    while !snapshot_done(&drain) {
        drain.step().await.unwrap();
        let seen = drain.offset().get("snapshot").is_some_and(|s| s.get("seen").is_some());
        if seen && !restarted {
            // What the snapshot saw must be remembered across a crash.
            drain.restart().await;
            restarted = true;
        }
    }
    stop.store(true, Ordering::SeqCst);
    writers.join_all().await;
    let end: i64 = db.one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8").await;
    while drain.lsn() < u64::try_from(end).unwrap() {
        drain.step().await.unwrap();
    }
    let mut rows: BTreeMap<Vec<String>, i64> = BTreeMap::new();
    for e in &drain.events {
        if let Some(before) = &e.before {
            *rows.entry(before.clone()).or_default() -= 1;
        }
        if let Some(after) = &e.after {
            *rows.entry(after.clone()).or_default() += 1;
        }
    }
    rows.retain(|_, n| *n != 0);
    let truth = db
        .sql
        .client
        .query("SELECT id::text, ver::text, count(*) FROM t_c GROUP BY 1, 2", &[])
        .await
        .unwrap();
    let truth: BTreeMap<Vec<String>, i64> =
        truth.iter().map(|r| (vec![r.get(0), r.get(1)], r.get(2))).collect();
    assert_eq!(rows, truth);
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_toast_value_is_not_lost_when_its_row_changes_meanwhile() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         INSERT INTO t SELECT g, 0, repeat('b', 3000) FROM generate_series(1, 500) g",
    )
    .await;
    let (stop, updates) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (writer, ended) = (db.connect().await, Arc::clone(&stop));
    let counted = Arc::clone(&updates);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut dice = Dice(9);
        while !ended.load(Ordering::SeqCst) {
            let id = dice.roll(500) + 1;
            writer.client.batch_execute(&format!("UPDATE t SET n = n + 1 WHERE id = {id}")).await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let plan = db.plan(json!({ "snapshot": { "mode": "initial", "chunk_rows": 100 } }));
    let mut drain = Drain::start(plan).await;
    while !snapshot_done(&drain) {
        drain.step().await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    tasks.join_all().await;
    let end: i64 = db.one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8").await;
    while drain.lsn() < u64::try_from(end).unwrap() {
        drain.step().await.unwrap();
    }
    let mut state: BTreeMap<String, (String, String)> = BTreeMap::new();
    for e in &drain.events {
        let after = e.after.as_ref().unwrap();
        let row = state.entry(after[0].clone()).or_default();
        row.0.clone_from(&after[1]);
        if after[2] != "UNAVAILABLE" {
            row.1.clone_from(&after[2]);
        }
    }
    let big = "b".repeat(3000);
    assert_eq!(state.len(), 500);
    assert!(state.values().all(|(_, text)| *text == big));
    for row in db.sql.client.query("SELECT id::text, n::text FROM t", &[]).await.unwrap() {
        assert_eq!(state[row.get::<_, &str>(0)].0, row.get::<_, String>(1));
    }
    assert!(updates.load(Ordering::SeqCst) > 10);
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_later_is_read_by_itself_while_the_others_stream() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE a (id int PRIMARY KEY, v int); INSERT INTO a SELECT g, 0 FROM generate_series(1, 50) g;
         CREATE TABLE b (id int PRIMARY KEY, v int); INSERT INTO b SELECT g, 0 FROM generate_series(1, 500) g;
         ANALYZE a; ANALYZE b",
    )
    .await;
    let plan = |tables: &str| {
        db.plan(json!({
            "tables": { "include": [tables] }, "snapshot": { "mode": "initial", "chunk_rows": 20 }
        }))
    };
    let mut drain = Drain::start(plan("public.a")).await;
    while !snapshot_done(&drain) {
        drain.step().await.unwrap();
    }
    // It writes before the table is published, so the stream will not tell of it.
    let open = db.connect().await;
    let writes = "BEGIN; UPDATE b SET v = 1 WHERE id <= 10; INSERT INTO b VALUES (501, 1)";
    open.client.batch_execute(writes).await.unwrap();
    drain.plan = plan("public.*");
    drain.restart().await;
    db.run("INSERT INTO a VALUES (51, 0)").await;
    drain.until_count(51).await;
    assert!(
        drain.events.iter().all(|e| table_of(e) == "a"),
        "rows are read before that transaction has ended"
    );
    open.client.batch_execute("COMMIT").await.unwrap();
    let mut kills = 0;
    while !snapshot_done(&drain) {
        let before = drain.events.len();
        drain.step().await.unwrap();
        if kills < 5 && drain.events.len() > before {
            kills += 1;
            drain.restart().await;
        }
    }
    assert_eq!(kills, 5);
    let gauges: HashMap<&str, f64> = drain.cx.gauges.values().into_iter().collect();
    assert_eq!((gauges["snapshot_percent"], gauges["snapshot_tables_total"]), (100.0, 1.0), "{gauges:?}");
    db.run("UPDATE b SET v = 2 WHERE id = 501").await;
    drain.until(|events| events.iter().any(|e| e.op == Op::Update)).await;
    let read = |table: &str| drain.events.iter().filter(|e| e.op == Op::Read && table_of(e) == table).count();
    assert_eq!((read("a"), read("b")), (50, 501));
    let mut state: BTreeMap<String, String> = BTreeMap::new();
    for after in drain.events.iter().filter(|e| table_of(e) == "b").filter_map(|e| e.after.as_ref()) {
        state.insert(after[0].clone(), after[1].clone());
    }
    for row in db.sql.client.query("SELECT id::text, v::text FROM b", &[]).await.unwrap() {
        assert_eq!(state[row.get::<_, &str>(0)], row.get::<_, String>(1));
    }
    drain.task = None;
    db.remove().await;
}
