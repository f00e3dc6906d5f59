//! Tables that are asked for while the stream goes on, against a real server.
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
    load::{Dice, WRITE_LOAD, apply, id_and_version, table_of, write},
};
use rowstream_api::{Op, SourceTask, snapshot::SnapshotAction};
use serde_json::json;

async fn rows(db: &Database, sql: &str) -> BTreeMap<(String, String), i64> {
    let rows = db.sql.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|r| ((r.get(0), r.get(1)), r.get(2))).collect()
}

async fn until_caught_up(db: &Database, drain: &mut Drain) {
    let end: i64 = db.one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8").await;
    while drain.lsn() < u64::try_from(end).unwrap() {
        drain.step().await.unwrap();
    }
}

/// Who begins to read when the table is asked for has what the table has, row by row; whoever read before is never set back.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_asked_for_under_load_and_kills_is_told_whole() {
    let db = Database::new().await;
    db.run(WRITE_LOAD).await;
    for (round, readers) in (0..3u64).zip([1, 4, 2]) {
        let plan = db.plan(json!({
            "slot_name": format!("{}_{round}", db.name),
            "tables": { "include": ["public.t_a", "public.t_b"] },
            "snapshot": { "mode": "never", "chunk_rows": 97, "readers": readers },
            "batch_bytes": "8KiB"
        }));
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(round * 1_000_000)));
        let mut drain = Drain::start(plan).await;
        let writers = write(&db, round + 1, &["t_a", "t_b"], Arc::clone(&stop), Arc::clone(&done)).await;
        drain.until_count(200).await;
        let (asked, mut dice, mut kills, mut pauses) = (drain.events.len(), Dice(round), 0, 0);
        drain.ask_for("1", "public.t_a", None).await;
        drain.ask_for("2", "public.t_b", Some("id::int % 2 = 0 -- only these")).await;
        while drain.report().reading.is_some() {
            drain.step().await.unwrap();
            if dice.roll(15) == 0 {
                drain.restart().await;
                kills += 1;
            }
            // Few enough that the first request is still remembered.
            if dice.roll(20) == 0 && pauses < 12 {
                pauses += 1;
                // Told again, as after a crash before it was withdrawn.
                drain.ask_for("1", "public.t_a", None).await;
                drain.ask(&format!("p{pauses}"), SnapshotAction::Pause).await;
                drain.step().await.unwrap();
                drain.ask(&format!("r{pauses}"), SnapshotAction::Resume).await;
            }
        }
        assert!(kills > 2, "{kills} kills");
        stop.store(true, Ordering::SeqCst);
        writers.join_all().await;
        until_caught_up(&db, &mut drain).await;
        drain.task.as_mut().unwrap().close().await.unwrap();
        // No row is stale, none read twice.
        apply(&drain.events);
        let reads: Vec<_> = drain.events.iter().filter(|e| e.op == Op::Read).collect();
        assert!(reads.iter().all(|e| e.snapshot == "incremental"));
        let is_even = |id: &str| id.parse::<i64>().unwrap() % 2 == 0;
        let of_b = |e: &&&common::Event| table_of(e) == "t_b";
        assert!(reads.iter().filter(of_b).all(|e| is_even(&id_and_version(e, e.after.as_ref().unwrap()).0)));
        let mut state = apply(&drain.events[asked..]);
        state.retain(|(table, id), _| table == "t_a" || is_even(id));
        let truth = "SELECT 't_a', id::text, ver FROM t_a
                      UNION ALL SELECT 't_b', id, ver FROM t_b WHERE id::int % 2 = 0";
        assert_eq!(state, rows(&db, truth).await);
        db.run(&format!("SELECT pg_drop_replication_slot('{}_{round}')", db.name)).await;
    }
    db.remove().await;
}

/// What can't be read is refused with the reason, nothing else happens, and the stream goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_and_the_stream_goes_on() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, n int, note text);
         CREATE TABLE nokey (id int); ALTER TABLE nokey REPLICA IDENTITY FULL;
         CREATE TABLE other (id int PRIMARY KEY);
         CREATE SEQUENCE s;
         INSERT INTO t SELECT g, g, 'secret' FROM generate_series(1, 20) g; INSERT INTO nokey VALUES (1)",
    )
    .await;
    let plan = db.plan(json!({
        "tables": { "include": ["public.t", "public.nokey"] }, "snapshot": { "mode": "never", "chunk_rows": 5 }
    }));
    let mut drain = Drain::start(plan).await;
    let cases = [
        ("public.nokey", None, "has no key"),
        ("public.other", None, "not captured"),
        ("public.nowhere", None, "not captured"),
        ("t", None, "not captured"),
        ("public.t", Some("nope = 1"), "column \"nope\" does not exist"),
        ("public.t", Some("id = "), "syntax error"),
        ("public.t", Some("id = 1) OR (true"), "syntax error"),
        ("public.t", Some("true; DROP TABLE other"), "syntax error"),
        ("public.t", Some("true); DROP TABLE other; SELECT (true"), "syntax error"),
        ("public.t", Some("true) UNION SELECT 1, 1, 'x' WHERE (true"), "syntax error"),
        ("public.t", Some("/* "), "unterminated"),
        ("public.t", Some("count(*) > 0"), "aggregate"),
        ("public.t", Some("id = $1"), "parameters"),
        ("public.t", Some("id"), "boolean"),
        // Known only when rows are read.
        ("public.t", Some("1 / (id - 7) = 0"), "division by zero"),
        ("public.t", Some("note::int = 1"), "invalid input syntax"),
        ("public.t", Some("nextval('s') > 0"), "read-only"),
    ];
    for (n, (table, condition, reason)) in cases.into_iter().enumerate() {
        let id = format!("r{n}");
        drain.ask_for(&id, table, condition).await;
        let refusal = |drain: &Drain| drain.report().refused.into_iter().find(|r| r.request == id);
        while refusal(&drain).is_none() {
            drain.step().await.unwrap();
        }
        let refusal = refusal(&drain).unwrap();
        assert!(refusal.reason.contains(reason), "{condition:?}: {}", refusal.reason);
        assert!(!refusal.reason.contains("secret"), "{}", refusal.reason);
        assert_eq!((refusal.tables, drain.report().reading), (vec![table.to_owned()], None));
        db.run(&format!("INSERT INTO t VALUES ({n} + 100, 1)")).await;
        drain.until(|events| events.iter().filter(|e| e.op == Op::Create).count() > n).await;
    }
    assert_eq!(db.one::<i64>("SELECT count(*) FROM other").await, 0);
    assert_eq!(db.one::<i64>("SELECT nextval('s')").await, 1);
    // A request is taken whole or not at all.
    let tables = vec!["public.t".to_owned(), "public.nokey".to_owned()];
    drain.events.clear();
    drain.ask("both", SnapshotAction::Start { tables, condition: None }).await;
    assert_eq!(drain.report().reading, None);
    // What is asked for now is read, twice if it is asked for twice.
    drain.ask_for("last", "public.t", Some("id <= 20 AND n IN (SELECT n FROM t)")).await;
    drain.ask_for("again", "public.t", Some("id = 3")).await;
    drain.until_count(21).await;
    assert!(drain.events.iter().all(|e| e.op == Op::Read && e.snapshot == "incremental"));
    assert_eq!(drain.events[20].after.as_ref().unwrap()[0], "3");
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
    }
    assert_eq!(drain.events.len(), 21);
    drain.task = None;
    db.remove().await;
}

/// Behind an initial snapshot; at rest while paused, also after a restart; forgotten when cancelled, but not the initial snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_and_a_cancel_spares_the_initial_snapshot() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100);
         CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b SELECT generate_series(1, 100)",
    )
    .await;
    let plan = db.plan(json!({ "snapshot": { "mode": "initial", "chunk_rows": 10, "readers": 1 } }));
    let mut drain = Drain::start(plan).await;
    drain.ask("0", SnapshotAction::Pause).await;
    drain.ask_for("1", "public.a", None).await;
    drain.restart().await;
    let report = drain.report();
    assert!(report.paused);
    assert_eq!(report.reading.unwrap().request, None);
    let waiting: Vec<_> = report.waiting.iter().map(|t| (t.table.as_str(), t.request.is_some())).collect();
    assert_eq!(waiting, [("public.b", false), ("public.a", true)]);
    // The stream goes on.
    db.run("INSERT INTO b VALUES (1000)").await;
    drain.until_count(1).await;
    assert_eq!(drain.events[0].op, Op::Create);
    drain.ask("2", SnapshotAction::Cancel).await;
    assert!(drain.report().paused && drain.report().waiting.len() == 1);
    drain.ask_for("3", "public.a", None).await;
    drain.ask("4", SnapshotAction::Resume).await;
    let marked = |drain: &Drain, incremental: bool| {
        let reads = drain.events.iter().filter(|e| e.op == Op::Read);
        reads.filter(|e| (e.snapshot == "incremental") == incremental).count()
    };
    while marked(&drain, true) < 30 {
        drain.step().await.unwrap();
    }
    assert_eq!(marked(&drain, false), 201);
    drain.ask("5", SnapshotAction::Pause).await;
    let before = marked(&drain, true);
    db.run("INSERT INTO b VALUES (1001)").await;
    drain.until(|events| events.iter().filter(|e| e.op == Op::Create).count() == 2).await;
    assert!(drain.report().paused && marked(&drain, true) == before);
    drain.ask("6", SnapshotAction::Resume).await;
    while marked(&drain, true) < before + 20 {
        drain.step().await.unwrap();
    }
    drain.ask("7", SnapshotAction::Cancel).await;
    let before = marked(&drain, true);
    assert!(before < 100);
    drain.restart().await;
    db.run("INSERT INTO b VALUES (1002)").await;
    drain.until(|events| events.iter().filter(|e| e.op == Op::Create).count() == 3).await;
    assert_eq!((marked(&drain, true), drain.report().reading), (before, None));
    assert!(!drain.offset().contains_key("snapshot"));
    drain.task = None;
    db.remove().await;
}

/// Where an initial snapshot is all there is to do, what is asked for later is read all the same, and nothing else is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_a_stream_reads_what_is_asked_for() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 10)").await;
    let plan = db.plan(json!({ "snapshot": { "mode": "initial_only", "chunk_rows": 3 } }));
    let mut drain = Drain::start(plan).await;
    drain.until_count(10).await;
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
    }
    db.run("INSERT INTO a VALUES (11)").await;
    until_caught_up(&db, &mut drain).await;
    drain.ask_for("1", "public.a", None).await;
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
    }
    db.run("INSERT INTO a VALUES (12)").await;
    until_caught_up(&db, &mut drain).await;
    assert!(drain.events.iter().all(|e| e.op == Op::Read));
    assert_eq!(drain.events.iter().filter(|e| e.snapshot == "incremental").count(), 11);
    assert_eq!(drain.events.len(), 21);
    drain.task = None;
    db.remove().await;
}

/// The rate holds over chunks, readers and restarts, is shown, and is changed while tables are read.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_reads_no_faster_than_it_may() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 3000); ANALYZE a")
        .await;
    let plan = |rate: u32| {
        db.plan(json!({ "snapshot": { "mode": "initial", "rows_per_second": rate, "readers": 4 } }))
    };
    let mut drain = Drain::start(plan(1000)).await;
    let begin = tokio::time::Instant::now();
    let gauge = |drain: &Drain, name: &str| {
        drain.cx.gauges.values().into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    };
    let (mut restarted, mut seen) = (false, 0);
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
        seen = seen.max(usize::from(gauge(&drain, "snapshot_rows_per_second_limit") == Some(1000.0)));
        // One chunk ahead is all that there may be, once more after a restart.
        let allowed = begin.elapsed().as_secs_f64() * 1000.0 + 1000.0 * if restarted { 2.0 } else { 1.0 };
        assert!(
            drain.events.len() as f64 <= allowed,
            "{} rows after {:?}",
            drain.events.len(),
            begin.elapsed()
        );
        if drain.events.len() > 1500 && !restarted {
            restarted = true;
            drain.restart().await;
        }
    }
    assert_eq!((drain.events.len(), restarted, seen), (3000, true, 1));
    assert_eq!(gauge(&drain, "snapshot_rows_per_second_limit"), None);
    // At one row a second it would take an hour; asked to go faster, it goes on at once, and goes as configured when it is done.
    drain.plan = plan(1);
    drain.restart().await;
    drain.ask_for("1", "public.a", None).await;
    drain.until_count(3001).await;
    drain.ask("2", SnapshotAction::Limit { rows_per_second: Some(0) }).await;
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
    }
    assert_eq!(drain.events.len(), 6000);
    drain.ask_for("3", "public.a", None).await;
    drain.until_count(6001).await;
    assert_eq!(gauge(&drain, "snapshot_rows_per_second_limit"), Some(1.0));
    assert_eq!(gauge(&drain, "snapshot_table_rows_estimated"), Some(3000.0));
    drain.task = None;
    db.remove().await;
}
