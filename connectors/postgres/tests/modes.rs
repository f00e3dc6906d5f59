//! Snapshot modes that read tables more than once, against a real server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use common::{
    Database, Drain,
    load::{Dice, WRITE_LOAD, apply, table_of, write},
};
use rowstream_api::{Class, Op, SourceConnector, SourceTask, StartReason};
use rowstream_postgres::source::PostgresSource;
use serde_json::json;

fn snapshot_done(drain: &Drain) -> bool {
    !drain.offset().contains_key("snapshot")
}

async fn until_read(drain: &mut Drain) {
    while !snapshot_done(drain) {
        drain.step().await.unwrap();
    }
}

async fn until_caught_up(db: &Database, drain: &mut Drain) {
    let end: i64 = db.one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8").await;
    while drain.lsn() < u64::try_from(end).unwrap() {
        drain.step().await.unwrap();
    }
}

async fn drop_slot(db: &Database, slot: &str) {
    let idle = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active");
    let deadline = tokio::time::Instant::now() + common::PATIENCE;
    while db.one::<i64>(&idle).await > 0 {
        assert!(tokio::time::Instant::now() < deadline);
    }
    db.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
}

async fn until_read_under_load_and_kills(db: &Database, drain: &mut Drain) {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = write(db, 3, &["t_a", "t_b"], Arc::clone(&stop), done).await;
    let (mut dice, mut kills) = (Dice(5), 0);
    while !snapshot_done(drain) {
        drain.step().await.unwrap();
        if dice.roll(12) == 0 {
            drain.restart().await;
            kills += 1;
        }
    }
    assert!(kills > 2, "{kills} kills");
    stop.store(true, Ordering::SeqCst);
    writers.join_all().await;
    until_caught_up(db, drain).await;
}

/// The state that a reader has who begins with these events, of the tables with a ledger.
async fn truth(db: &Database) -> BTreeMap<(String, String), i64> {
    let sql = "SELECT 't_a', id::text, ver FROM t_a UNION ALL SELECT 't_b', id, ver FROM t_b";
    let rows = db.sql.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|r| ((r.get(0), r.get(1)), r.get(2))).collect()
}

async fn refusal(drain: &Drain) -> &'static str {
    match PostgresSource::start(drain.plan.clone(), drain.stored.clone(), drain.cx.clone()).await {
        Ok(_) => panic!("resumed"),
        Err(error) => {
            assert_eq!(error.class, Class::Fatal, "{error}");
            assert!(error.remedy.unwrap().contains("when_needed"));
            error.code
        }
    }
}

/// A slot that was dropped beneath a stopped source, rows changed meanwhile: refused by `initial`; by `when_needed` all tables are read
/// anew, under load and kills, and it is said what was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_position_is_refused_or_all_tables_are_read_anew() {
    let db = Database::new().await;
    db.run(WRITE_LOAD).await;
    let plan = |mode: &str| {
        db.plan(json!({
            "tables": { "include": ["public.t_a", "public.t_b"] },
            "snapshot": { "mode": mode, "chunk_rows": 97 }, "batch_bytes": "8KiB"
        }))
    };
    let mut drain = Drain::start(plan("initial")).await;
    until_read(&mut drain).await;
    // No writer touches them.
    db.run("INSERT INTO t_a VALUES (9001, nextval('version'), ''); INSERT INTO t_b VALUES ('q', '8001', nextval('version'))").await;
    until_caught_up(&db, &mut drain).await;
    drain.task = None;
    let (old, lsn) = (drain.stored.clone(), drain.lsn());
    drop_slot(&db, &drain.plan.slot).await;
    db.run(
        "UPDATE t_a SET ver = nextval('version') WHERE id <= 100; DELETE FROM t_b WHERE id = '8001';
         INSERT INTO t_b SELECT 'q', g::text, nextval('version') FROM generate_series(9001, 9100) g",
    )
    .await;
    assert_eq!(refusal(&drain).await, "PG_SLOT_MISSING");

    drain.plan = plan("when_needed");
    drain.restart().await;
    let first = drain.poll().await.unwrap();
    assert_eq!(first.changes.len(), 0, "the new position comes alone");
    // A crash before it is stored: the slot that was made for it is ahead of the old position.
    drain.restart().await;
    assert_eq!(drain.stored, old);
    drain.events.clear();
    drain.step().await.unwrap();
    let lost = drain.report().lost.unwrap();
    assert_eq!(lost.code, "PG_SLOT_AHEAD");
    assert!(lost.since.contains("(slot `") && lost.since_ms.is_some() && drain.lsn() > lsn, "{lost:?}");
    drain.step().await.unwrap();
    assert!(
        drain
            .cx
            .gauges
            .notes()
            .iter()
            .any(|(name, text)| *name == "position_lost" && text.contains("PG_SLOT_AHEAD"))
    );

    until_read_under_load_and_kills(&db, &mut drain).await;
    assert_eq!(apply(&drain.events), truth(&db).await);
    assert!(!drain.events.iter().any(|e| table_of(e) == "t_b" && e.key == Some(vec!["8001".into()])));
    assert_eq!(drain.report().lost.unwrap(), lost, "it stays in the status");
    assert!(
        drain
            .cx
            .gauges
            .values()
            .iter()
            .any(|(name, at)| *name == "position_lost_timestamp_seconds" && *at > 0.0)
    );
    assert!(!drain.cx.gauges.notes().iter().any(|(name, _)| *name == "position_lost"));
    // Nothing is missing now, so nothing is read again.
    let n = drain.events.len();
    drain.task.as_mut().unwrap().close().await.unwrap();
    drain.restart().await;
    db.run("INSERT INTO t_b VALUES ('q', 'last', nextval('version'))").await;
    drain.until_count(n + 1).await;
    assert_eq!(drain.events[n].op, Op::Create);
    drain.task = None;
    db.remove().await;
}

/// Other losses: a slot that somebody made again, a position of another cluster. What is not a loss is refused as ever.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_lost_position_is_recovered_from() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 10)").await;
    let mut drain = Drain::start(db.plan(json!({ "snapshot": { "mode": "when_needed" } }))).await;
    until_read(&mut drain).await;
    for (field, value, code) in [
        ("system_id", json!("1"), "PG_OTHER_SYSTEM"),
        ("timeline", json!(1_000_000), "PG_TIMELINE"),
        ("lsn", json!(i64::MAX), "PG_POSITION_UNKNOWN"),
    ] {
        drain.stored.values_mut().next().unwrap().0.insert(field.into(), value);
        let n = drain.events.len();
        drain.restart().await;
        drain.step().await.unwrap();
        until_read(&mut drain).await;
        assert_eq!((drain.report().lost.unwrap().code.as_str(), drain.events.len()), (code, n + 10));
    }
    // A slot that is another's is not taken.
    drain.task = None;
    drop_slot(&db, &drain.plan.slot).await;
    db.run(&format!("SELECT pg_create_physical_replication_slot('{}')", drain.plan.slot)).await;
    let started = PostgresSource::start(drain.plan.clone(), drain.stored.clone(), drain.cx.clone()).await;
    assert_eq!(started.err().unwrap().code, "PG_SLOT_FOREIGN");
    db.remove().await;
}

/// Each start of the connector reads all tables that have a key again, beside the stream; a retry does not, and what a stop interrupts
/// goes on.
#[tokio::test(flavor = "multi_thread")]
async fn always_reads_at_each_start_of_the_connector_and_streams_on() {
    let db = Database::new().await;
    db.run(WRITE_LOAD).await;
    db.run("CREATE TABLE t_d (id int); ALTER TABLE t_d REPLICA IDENTITY FULL; INSERT INTO t_d VALUES (1)")
        .await;
    let plan = db.plan(json!({
        "tables": { "include": ["public.t_a", "public.t_b", "public.t_d"] },
        "snapshot": { "mode": "always", "chunk_rows": 97 }, "batch_bytes": "8KiB"
    }));
    let mut drain = Drain::start(plan).await;
    until_read(&mut drain).await;
    let read = |drain: &Drain| drain.events.iter().filter(|e| e.op == Op::Read).count();
    assert_eq!(read(&drain), 6001);
    drain.events.clear();
    // Tried again after a failure: nothing is read.
    drain.cx.start = StartReason::Retry;
    drain.restart().await;
    db.run("UPDATE t_d SET id = 2").await;
    drain.until_count(1).await;
    assert!(drain.report().reading.is_none());

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = write(&db, 3, &["t_a", "t_b"], Arc::clone(&stop), done).await;
    drain.cx.start = StartReason::Connector;
    drain.events.clear();
    drain.restart().await;
    let mut kills = 0;
    drain.step().await.unwrap();
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
        if kills < 10 && read(&drain) > 500 * (kills + 1) {
            // A start of the connector each time: the reading goes on.
            kills += 1;
            drain.restart().await;
        }
    }
    assert_eq!(kills, 10);
    stop.store(true, Ordering::SeqCst);
    writers.join_all().await;
    until_caught_up(&db, &mut drain).await;
    // Each row once, none stale, the stream whole; the table without a key is not read again, and that is said.
    drain.events.retain(|e| table_of(e) != "t_d");
    assert!(drain.events.iter().filter(|e| e.op == Op::Read).all(|e| e.snapshot == "incremental"));
    assert_eq!(apply(&drain.events), truth(&db).await);
    let refused = drain.report().refused;
    assert_eq!((refused.len(), refused[0].tables[0].as_str()), (1, "public.t_d"));
    drain.task = None;
    db.remove().await;
}
