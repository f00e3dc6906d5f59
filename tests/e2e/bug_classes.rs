//! The ten classes of bug that lost other people's data, each under its own name. Where another test is the stronger proof, the test
//! here shows the class in its smallest form and says where the proof is.

use std::{collections::HashSet, sync::atomic::AtomicBool, time::Duration};

use serde_json::json;

use crate::{
    ledger, oracle,
    support::{
        daemon::Daemon,
        note, one_at_a_time,
        postgres::{Database, PrivateServer},
        receiver::{Receiver, Reply},
        rig::{self, Rig},
    },
    workload::{self, Workload},
};

/// 1: acknowledged before durable. With the daemon frozen, nothing can be made durable, and nothing may be confirmed, whatever the
/// server sends. `exactly_once_under_sigkill` samples it throughout.
#[test]
fn class_01_acknowledged_before_durable() {
    let rig = Rig::orders(5);
    rig.daemon.start();
    rig.until_same();
    let admin = rig.source.connect();
    for round in 0..5 {
        rig.insert(100 * round + 101, 100 * round + 150);
        rig.daemon.kill(); // Whatever was in flight is gone.
        let confirmed = rig.source.confirmed(&admin).unwrap();
        rig.daemon.start();
        let stored = rig.daemon.until("the position is read", || rig.daemon.stored_lsn("shop"));
        assert!(confirmed <= stored, "confirmed {confirmed:X}, stored {stored:X}");
    }
    rig.until_same();
    assert_eq!(rig.daemon.topic_end("shop.public.orders"), Some(255));
    // And at every instant while it runs: many small commits, each of which leaves a moment between handing over and durable.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let samples = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| crate::oracle::watch_confirmed(&rig.daemon, &rig.source, &admin, &stop));
        for id in 1_000..3_000 {
            rig.insert(id, id);
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        sampler.join().unwrap()
    });
    assert!(samples > 50, "only {samples} samples");
}

/// 2: the hand-off from snapshot to stream, killed in its middle, while rows change.
#[test]
fn class_02_snapshot_to_stream_hand_off() {
    let _turn = one_at_a_time();
    let (source, target) = (Database::new("handoff_src"), Database::new("handoff_dst"));
    source.sql.run(ledger::TABLES);
    workload::fill(&source.sql, 4_000);
    let before = ledger::committed_now(&source.sql);
    source.make_slot(); // Nobody writes yet, so all of `before` and nothing else lies before the slot.
    let workload = Workload::start(&source, 2, 7, Duration::from_millis(5));
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({ "snapshot": { "mode": "initial", "chunk_rows": 100 } })));
    daemon.connector(&rig::sink(&target, json!({})));
    for pause in [150, 250, 350, 500] {
        daemon.spawn();
        std::thread::sleep(Duration::from_millis(pause));
        daemon.kill();
    }
    daemon.start();
    daemon.until_streaming("shop");
    workload.stop();
    oracle::target_equals_source(&daemon, &source, &target);
    let ledger = ledger::read(&source.sql);
    for (table, _) in ledger::COLUMNS {
        oracle::topic_equals_ledger(&daemon, table, &ledger, &before);
    }
}

/// Who waits for a standby's answer.
const WAITS_FOR_STANDBY: &str = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// A server whose synchronous standby never answers, and a database there with rows, a publication and a slot. Only who asks for it waits.
fn orders_with_a_standby_that_does_not_answer(rows: u32) -> (PrivateServer, Database) {
    let server =
        PrivateServer::start(&["-c", "synchronous_standby_names=ghost", "-c", "synchronous_commit=local"]);
    let source = Database::on(server.port, "ghost");
    source.sql.run(&format!(
        "CREATE TABLE orders (id bigint PRIMARY KEY, version bigint, note text);
         INSERT INTO orders SELECT i, 1, 'row ' || i FROM generate_series(1, {rows}) i",
    ));
    let slot = source.slot();
    source.sql.run(&format!("CREATE PUBLICATION {slot} FOR TABLE orders"));
    source.sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    (server, source)
}

/// 2 again: a commit is in the stream long before a snapshot can see it, because a synchronous standby does not answer. Positions say
/// that the chunk is the newer one; only transaction ids tell that it is not.
#[test]
fn class_02_commits_that_snapshots_can_not_see_yet() {
    let (_server, source) = orders_with_a_standby_that_does_not_answer(1000);
    let target = Database::new("ghost_dst");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({ "snapshot": { "chunk_rows": 100 } })));
    daemon.connector(&rig::sink(&target, json!({})));
    std::thread::scope(|scope| {
        let stalled = source.connect();
        scope.spawn(move || {
            stalled.run("SET synchronous_commit = on");
            stalled.run("UPDATE orders SET version = 2 WHERE id % 2 = 0");
        });
        daemon.until("the commit waits for the standby", || source.sql.one(WAITS_FOR_STANDBY));
        daemon.start();
        let arrived = "SELECT count(*) || ' ' || sum(version) FROM orders";
        daemon.until("every row is in the target, changed ones as they will be", || {
            target.sql.one("SELECT to_regclass('orders')")?;
            (target.sql.one(arrived).as_deref() == Some("1000 1500")).then_some(())
        });
        assert_eq!(source.sql.one(arrived).as_deref(), Some("1000 1000"), "nobody sees the commit yet");
        // Each row is told once: by the stream, or by the snapshot.
        assert_eq!(daemon.topic_end("shop.public.orders"), Some(1_000));
        source.sql.run(&format!("SELECT pg_cancel_backend(pid) FROM ({WAITS_FOR_STANDBY}) AS w"));
    });
    let rows = "SELECT id, version, note FROM orders ORDER BY id";
    assert_eq!(target.sql.rows(rows), source.sql.rows(rows));
}

/// 2 once more: the stream told of a commit, then the daemon is killed, and still nobody can see the commit. What was told is not
/// remembered, so the snapshot must wait until it is visible, however long a standby does not answer.
#[test]
fn class_02_commits_that_were_told_before_a_kill_and_can_not_be_seen_yet() {
    let (_server, source) = orders_with_a_standby_that_does_not_answer(3000);
    let target = Database::new("ghost_dst");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({ "snapshot": { "chunk_rows": 1 } })));
    std::thread::scope(|scope| {
        let stalled = source.connect();
        scope.spawn(move || {
            stalled.run("SET synchronous_commit = on");
            stalled.run("UPDATE orders SET version = 2 WHERE id > 2990");
        });
        daemon.until("the commit waits for the standby", || source.sql.one(WAITS_FOR_STANDBY));
        daemon.start();
        daemon.until("the commit is told, and not much of the snapshot", || {
            daemon.topic_end("shop.public.orders").filter(|end| *end > 10)
        });
        daemon.kill();
        daemon.connector(&rig::sink(&target, json!({})));
        daemon.start();
        daemon.until("the snapshot waits", || {
            source.sql.one("SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_current_snapshot()%' AND state = 'idle'")
        });
        assert_eq!(
            source.sql.one("SELECT sum(version) FROM orders").as_deref(),
            Some("3000"),
            "nobody sees the commit yet"
        );
        source.sql.run(&format!("SELECT pg_cancel_backend(pid) FROM ({WAITS_FOR_STANDBY}) AS w"));
    });
    let rows = "SELECT id, version, note FROM orders ORDER BY id";
    daemon.until("the target equals the source", || {
        target.sql.one("SELECT to_regclass('orders')")?;
        (target.sql.rows(rows) == source.sql.rows(rows)).then_some(())
    });
}

/// 3: a checkpoint in the middle of a transaction. One large transaction is killed several times on its way; each row comes once.
#[test]
fn class_03_checkpoint_in_mid_transaction() {
    let rig = Rig::orders(0);
    rig.daemon.start();
    rig.daemon.until_streaming("shop");
    rig.insert(1, 60_000);
    let mut last = 0;
    for _ in 0..4 {
        let seen = rig.daemon.until("some more of it is durable", || {
            rig.daemon.topic_end("shop.public.orders").filter(|end| *end > last || *end == 60_000)
        });
        last = seen;
        rig.daemon.kill();
        rig.daemon.start();
    }
    rig.until_same();
    let records = rig.daemon.records("shop.public.orders");
    assert_eq!(records.len(), 60_000);
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.key["id"], json!(index + 1), "out of order at {index}");
    }
}

/// 4: a slot that is gone is refused, not replaced; `dropped_slot` looks at what the user is told. Here: a slot that was re-created.
#[test]
fn class_04_slot_missing_or_recreated() {
    let rig = Rig::orders(10);
    rig.daemon.start();
    rig.until_same();
    rig.daemon.stop();
    rig.source.drop_slot(&rig.source.connect());
    rig.insert(11, 20);
    rig.source
        .sql
        .run(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", rig.source.slot()));
    rig.daemon.start();
    let (state, told) = rig.daemon.until_told("shop", &["PG_SLOT_AHEAD"]);
    assert_eq!(state, "FAILED", "{told}");
    assert_eq!(rig.daemon.topic_end("shop.public.orders"), Some(10));
}

/// 5: liveness lies. The process is up and its source is stuck: `/livez` says yes, `/readyz` says no, and names the connector.
#[test]
fn class_05_liveness_lies() {
    let rig = Rig::orders(5);
    rig.daemon.start();
    rig.until_same();
    rig.daemon.until("it is ready", || rig.daemon.try_get("/readyz").filter(|a| a.status == 200));
    let mut broken = rig::source(&rig.source, json!({}));
    broken["config"]["connection"]["port"] = json!(1);
    rig.daemon.connector(&broken);
    let told = rig.daemon.until("readiness is lost", || {
        rig.daemon.try_get("/readyz").filter(|a| a.status == 503).map(|a| a.text())
    });
    assert!(told.contains("shop"), "{told}");
    assert_eq!(rig.daemon.request("GET", "/livez", None).status, 200);
}

/// 6: an unchanged large value is not NULL: the topic says that it is not there, and the target keeps what it has.
#[test]
fn class_06_unchanged_toast() {
    let rig = Rig::orders(0);
    rig.source.sql.run("ALTER TABLE orders ALTER note SET STORAGE EXTERNAL");
    rig.daemon.start();
    rig.daemon.until_streaming("shop");
    rig.source.sql.run("INSERT INTO orders VALUES (1, 1, repeat('long ', 4000))");
    rig.until_same();
    rig.source.sql.run("UPDATE orders SET version = 2 WHERE id = 1");
    rig.until_same();
    let records = rig.daemon.records("shop.public.orders");
    let after = &records.last().unwrap().value["after"];
    assert_eq!(after["note"], "__debezium_unavailable_value", "{after}");
    assert_eq!(rig.target.sql.number("SELECT length(note) FROM orders"), 20_000);
    // Explicit NULL is NULL.
    rig.source.sql.run("UPDATE orders SET note = NULL WHERE id = 1");
    rig.until_same();
}

/// 6, with a new key: the server leaves the unchanged value out of the row under its new key too, where the target has nothing yet.
#[test]
fn class_06_unchanged_toast_under_a_new_key() {
    let rig = Rig::orders(0);
    rig.source.sql.run("ALTER TABLE orders ALTER note SET STORAGE EXTERNAL");
    rig.daemon.start();
    rig.daemon.until_streaming("shop");
    rig.source.sql.run("INSERT INTO orders VALUES (1, 1, repeat('long ', 4000))");
    rig.until_same();
    rig.source.sql.run("UPDATE orders SET id = 2 WHERE id = 1");
    rig.until_same();
}

/// 7: chunks follow the database's own order of keys, with collations and composite keys that sort unlike bytes do.
#[test]
fn class_07_chunk_order_of_odd_keys() {
    let (source, target) = (Database::new("collate_src"), Database::new("collate_dst"));
    source.sql.run(
        "CREATE TABLE words (a text COLLATE \"de-x-icu\", b numeric, c uuid, v int, PRIMARY KEY (a, b, c));
         INSERT INTO words SELECT w || chr(64 + i % 50), (i % 7) - 3.5, md5(i::text)::uuid, i
             FROM unnest(ARRAY['ä', 'a', 'Z', 'z', 'Ö', 'o', 'ß', 'ss', '', ' ', '''', '\\', 'é']) w, generate_series(1, 300) i",
    );
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({ "snapshot": { "mode": "initial", "chunk_rows": 37 } })));
    daemon.connector(&rig::sink(&target, json!({})));
    daemon.start();
    let count = source.sql.number("SELECT count(*) FROM words");
    daemon.until("every row is in the topic", || {
        daemon.topic_end("shop.public.words").filter(|end| *end >= count)
    });
    let keys: HashSet<String> =
        daemon.records("shop.public.words").iter().map(|r| ledger::key_text(&r.key)).collect();
    assert_eq!(i64::try_from(keys.len()).unwrap(), count, "a row is missing");
    assert_eq!(daemon.topic_end("shop.public.words"), Some(count), "a row came twice");
    let sql = "SELECT a, b::float8, c::text, v FROM words ORDER BY v, a COLLATE \"C\"";
    daemon.until("the target is the same", || {
        let there = target.sql.one("SELECT to_regclass('words')").is_some();
        (there && target.sql.rows(sql) == source.sql.rows(sql)).then_some(())
    });
}

/// 8: one huge transaction in bounded memory.
#[test]
fn class_08_big_transaction_in_bounded_memory() {
    let _turn = one_at_a_time();
    let rig = Rig::orders(0);
    rig.daemon.start();
    rig.daemon.until_streaming("shop");
    rig.source.sql.run(
        "INSERT INTO orders SELECT i, i, repeat(md5(i::text), 16) FROM generate_series(1, 250000) i", // 130 MB of rows
    );
    rig.daemon.until("all of it is in the topic", || {
        (rig.daemon.topic_end("shop.public.orders") == Some(250_000)).then_some(())
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.daemon.pid())).unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    note(&format!("peak memory for one transaction of 130 MB: {} MiB", kib >> 10));
    assert!(kib >> 10 < 128, "{peak}");
    rig.daemon.until("the target has all", || {
        rig.target.sql.one("SELECT to_regclass('orders')")?;
        (rig.target.sql.number("SELECT count(*) FROM orders") == 250_000).then_some(())
    });
}

/// 9: random ids on resend. Requests whose answer is lost are sent again, by another process too, under the same id and with the same body.
#[test]
fn class_09_ids_stay_on_resend() {
    let rig = Rig::orders(0);
    let receiver = Receiver::start(|_, _| Reply::Drop); // It got them, but never says so.
    rig.daemon.connector(&rig::webhook(&receiver, json!({})));
    rig.daemon.start();
    rig.insert(1, 30);
    rig.daemon.until("many were sent", || (receiver.count() > 60).then_some(()));
    rig.daemon.kill();
    receiver.reply_with(|_, _| Reply::Status(200));
    rig.daemon.start();
    rig.daemon.until("all are accepted", || (receiver.accepted() == 30).then_some(()));
    let pairs: HashSet<(String, Vec<u8>)> =
        receiver.deliveries().into_iter().map(|d| (d.id, d.body)).collect();
    assert_eq!(pairs.len(), 30, "an id came with two bodies, or a record under two ids");
}

/// 10: a stale schema after a restart. The table changes while the daemon is down, with rows on both sides of each change.
#[test]
fn class_10_schema_change_in_the_gap() {
    let rig = Rig::orders(2);
    rig.daemon.start();
    rig.until_same();
    rig.daemon.kill();
    rig.source.sql.run("INSERT INTO orders VALUES (3, 3, 'before')");
    rig.source.sql.run(
        "ALTER TABLE orders ADD COLUMN extra int DEFAULT 7; INSERT INTO orders VALUES (4, 4, 'after', 44)",
    );
    rig.source.sql.run("ALTER TABLE orders DROP COLUMN note; INSERT INTO orders VALUES (5, 5, 55)");
    rig.source
        .sql
        .run("ALTER TABLE orders ADD COLUMN note text; INSERT INTO orders VALUES (6, 6, 66, 'again')");
    rig.daemon.start();
    rig.daemon.until("all rows are in the topic", || {
        (rig.daemon.topic_end("shop.public.orders") == Some(6)).then_some(())
    });
    let records = rig.daemon.records("shop.public.orders");
    let after = |id: i64| records.iter().find(|r| r.key["id"] == id).unwrap().value["after"].clone();
    assert_eq!(after(3)["note"], "before");
    assert_eq!((&after(4)["note"], &after(4)["extra"]), (&json!("after"), &json!(44)));
    assert_eq!(after(5)["extra"], json!(55));
    assert_eq!((&after(6)["note"], &after(6)["extra"]), (&json!("again"), &json!(66)));
    rig.daemon.until("the target has the new column", || {
        let sql = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'orders' AND column_name = 'extra'";
        (rig.target.sql.number(sql) == 1 && rig.target.sql.number("SELECT count(*) FROM orders WHERE extra IS NOT NULL") >= 3)
            .then_some(())
    });
}

/// The sampler of `confirmed_flush_lsn` is itself checked: it must see positions move.
#[test]
fn sampler_sees_the_slot_move() {
    let rig = Rig::orders(1);
    rig.daemon.start();
    rig.until_same();
    let stop = AtomicBool::new(false);
    let admin = rig.source.connect();
    let samples = std::thread::scope(|scope| {
        let watch = scope.spawn(|| oracle::watch_confirmed(&rig.daemon, &rig.source, &admin, &stop));
        rig.insert(2, 500);
        rig.until_same();
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        watch.join().unwrap()
    });
    assert!(samples > 0);
}
