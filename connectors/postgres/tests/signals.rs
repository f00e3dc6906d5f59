//! Debezium's signal table, read from the stream of a real server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use common::{Database, Drain, table_of_topic};
use rowstream_api::{Class, Op, SourceConnector, SourceOffsets};
use rowstream_postgres::source::PostgresSource;
use serde_json::json;

const TABLES: &str = "
CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a SELECT g, g FROM generate_series(1, 40) g;
CREATE TABLE b (id int PRIMARY KEY, n int); INSERT INTO b SELECT g, g FROM generate_series(1, 40) g;
CREATE TABLE nokey (id int); ALTER TABLE nokey REPLICA IDENTITY FULL;
CREATE SCHEMA ops; CREATE TABLE ops.signal (id varchar(42) PRIMARY KEY, type varchar(32) NOT NULL, data text)";

fn config(tables: &str) -> serde_json::Value {
    json!({
        "tables": { "include": [tables] }, "signal": { "table": "ops.signal" },
        "snapshot": { "mode": "never", "chunk_rows": 7 }
    })
}

fn reads(drain: &Drain, table: &str) -> usize {
    drain.events.iter().filter(|e| e.op == Op::Read && table_of_topic(e) == table).count()
}

async fn signal(db: &Database, id: &str, kind: &str, data: &str) {
    db.run(&format!("INSERT INTO ops.signal VALUES ('{id}', '{kind}', '{}')", data.replace('\'', "''")))
        .await;
}

/// A signal is followed once, whatever is killed, where it stands in the stream; its row is no event.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_read_as_a_signal_asks_once_and_for_a_kill_at_any_point() {
    let db = Database::new().await;
    db.run(TABLES).await;
    let mut drain = Drain::start(db.plan(config("public.*"))).await;
    db.run(
        "BEGIN; INSERT INTO a VALUES (100, 0);
         INSERT INTO ops.signal VALUES ('1', 'execute-snapshot', '{\"data-collections\": [\"public.a\"]}');
         INSERT INTO a VALUES (101, 0); COMMIT",
    )
    .await;
    // Seen, and not stored.
    loop {
        let batch = drain.poll().await.unwrap();
        if batch.offsets.values().next().unwrap().0.contains_key("signals") {
            break;
        }
    }
    drain.restart().await;
    while !drain.offset().contains_key("signals") {
        drain.step().await.unwrap();
    }
    // Stored, and not followed.
    drain.restart().await;
    drain.step().await.unwrap();
    assert!(!drain.offset().contains_key("signals"));
    assert_eq!(drain.report().reading.unwrap().request.as_deref(), Some("signal 1"));
    // Followed, and not all read.
    drain.until(|events| events.iter().filter(|e| e.op == Op::Read).count() > 10).await;
    drain.restart().await;
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
    }
    assert_eq!((reads(&drain, "a"), reads(&drain, "b")), (42, 0));
    assert!(drain.events.iter().all(|e| table_of_topic(e) == "a"));
    assert_eq!(drain.events.iter().filter(|e| e.op == Op::Create).count(), 2);
    assert!(drain.events.iter().filter(|e| e.op == Op::Read).all(|e| e.snapshot == "incremental"));

    // Patterns and conditions; an update of a signal is none.
    let data = r#"{"data-collections": ["public\\.(a|b)", "public.x"], "type": "INCREMENTAL",
        "additional-conditions": [{"data-collection": "public.b", "filter": "n <= 3 AND n <> '2'"}]}"#;
    signal(&db, "2", "execute-snapshot", data).await;
    db.run("UPDATE ops.signal SET data = NULL WHERE id = '1'; DELETE FROM ops.signal WHERE id = '1'").await;
    while reads(&drain, "b") < 2 {
        drain.step().await.unwrap();
    }
    db.run("INSERT INTO b VALUES (1000, 0)").await;
    drain.until(|events| events.iter().any(|e| e.op == Op::Create && table_of_topic(e) == "b")).await;
    assert_eq!((reads(&drain, "a"), reads(&drain, "b")), (84, 2));
    let refused = drain.report().refused;
    assert_eq!((refused.len(), refused[0].tables[0].as_str()), (1, "public.x"));
    drain.task = None;
    db.remove().await;
}

/// Pause, resume and stop; what is wrong is refused, and the stream goes on.
#[tokio::test(flavor = "multi_thread")]
async fn signals_steer_what_is_read_and_bad_ones_are_refused() {
    let db = Database::new().await;
    db.run(TABLES).await;
    let mut drain = Drain::start(db.plan(config("public.*"))).await;
    for (n, (kind, data, reason)) in [
        ("execute-snapshot", r#"{"data-collections": ["public.nokey"]}"#, "no key"),
        ("execute-snapshot", r#"{"data-collections": ["public.a"], "type": "blocking"}"#, "blocking"),
        ("execute-snapshot", r#"{"data-collections": ["("]}"#, "regular expression"),
        ("execute-snapshot", "secret", "JSON object"),
        (
            "execute-snapshot",
            r#"{"data-collections": ["public.a"], "additional-conditions": [{"data-collection": "public.a", "filter": "nope = 1"}]}"#,
            "nope",
        ),
        ("execute-snapshot", "long", "too long"),
        ("dance", "{}", "type is not known"),
        ("log", "{}", "no `message`"),
    ]
    .into_iter()
    .enumerate()
    {
        let data = data.replace("long", &"x".repeat(9000));
        signal(&db, &format!("bad {n}"), kind, &data).await;
        while drain.report().refused.last().is_none_or(|refusal| refusal.request != format!("signal bad {n}")) {
            drain.step().await.unwrap();
        }
        let refusal = drain.report().refused.pop().unwrap();
        assert!(refusal.reason.contains(reason) && !refusal.reason.contains("secret"), "{refusal:?}");
    }
    signal(&db, "log", "log", r#"{"message": "here: {}"}"#).await;
    signal(&db, "window", "snapshot-window-open", "").await;
    // All in one batch: a is read, nothing of b.
    db.run(
        "INSERT INTO ops.signal VALUES
           ('1', 'execute-snapshot', '{\"data-collections\": [\"public.[ab]\"]}'), ('2', 'pause-snapshot', NULL)",
    )
    .await;
    while !drain.report().paused {
        drain.step().await.unwrap();
    }
    let before = drain.events.len();
    signal(&db, "3", "stop-snapshot", r#"{"data-collections": ["public.b"]}"#).await;
    db.run("INSERT INTO b VALUES (1000, 0)").await;
    drain.until_count(before + 1).await;
    while !drain.report().waiting.is_empty() {
        drain.step().await.unwrap();
    }
    signal(&db, "4", "resume-snapshot", "{}").await;
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
    }
    assert_eq!((reads(&drain, "a"), reads(&drain, "b")), (40, 0));
    // Stopped in the middle.
    signal(&db, "5", "execute-snapshot", r#"{"data-collections": ["public.b"]}"#).await;
    drain
        .until(|events| events.iter().filter(|e| e.op == Op::Read && table_of_topic(e) == "b").count() > 3)
        .await;
    signal(&db, "6", "stop-snapshot", "").await;
    while drain.report().reading.is_some() {
        drain.step().await.unwrap();
    }
    db.run("INSERT INTO b VALUES (1001, 0)").await;
    drain.until(|events| events.iter().filter(|e| e.op == Op::Create).count() == 2).await;
    assert!(reads(&drain, "b") <= 41, "it was not read again");
    drain.task = None;
    db.remove().await;
}

/// The table of signals is published with the captured ones, also when it is named later; captured, its rows are events as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_signal_table_is_published_and_must_exist() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let missing =
        PostgresSource::start(db.plan(config("public.*")), SourceOffsets::new(), common::context()).await;
    let error = missing.err().unwrap();
    assert_eq!((error.class, error.code), (Class::Config, "PG_TABLES"));
    assert!(
        error.message.contains("signal.table") && error.remedy.as_ref().unwrap().contains("CREATE TABLE")
    );
    let found = PostgresSource::preflight(&db.plan(config("public.*"))).await.unwrap_err();
    assert!(found.message.contains("signal.table"), "{found}");

    let mut drain = Drain::start(db.plan(json!({ "tables": { "include": ["public.*"] } }))).await;
    db.run(&format!("CREATE SCHEMA ops; {}", error.remedy.unwrap())).await;
    drain.plan = db.plan(config("public.*"));
    drain.restart().await;
    signal(&db, "1", "execute-snapshot", r#"{"data-collections": ["public.a"]}"#).await;
    drain.until_count(1).await;
    assert_eq!((drain.events[0].op, drain.events[0].topic.as_str()), (Op::Read, "shop.public.a"));
    // Captured, too.
    drain.plan = db.plan(config("*.*"));
    drain.restart().await;
    signal(&db, "2", "execute-snapshot", r#"{"data-collections": ["public.a"]}"#).await;
    drain.until(|events| events.iter().filter(|e| e.topic == "shop.public.a").count() == 2).await;
    let signals = drain.events.iter().filter(|e| e.topic == "shop.ops.signal" && e.op == Op::Create);
    assert_eq!(signals.count(), 1);
    drain.task = None;
    db.remove().await;
}
