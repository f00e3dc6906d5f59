//! Snapshots that are taken more than once: after a position is lost, with SIGKILL in their middle, and at each start of a connector;
//! and what people see of them.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::{
    ledger, oracle,
    support::{
        daemon::{Daemon, said},
        note, one_at_a_time,
        postgres::Database,
        rig,
    },
    workload::{self, Workload},
};

fn snapshot(daemon: &Daemon) -> Option<Value> {
    Some(daemon.try_get("/connectors/shop/snapshot").filter(|a| a.status == 200)?.json())
}

/// The slot is dropped beneath a stopped source, and rows change meanwhile. Refused; then, as the mode says, all tables are read anew
/// beside the stream, under load and SIGKILL, and in the end the target equals the source.
#[test]
fn a_lost_position_is_read_over_under_load_and_kills() {
    let _turn = one_at_a_time();
    let (source, target) = (Database::new("lost_src"), Database::new("lost_dst"));
    source.sql.run(ledger::TABLES);
    workload::fill(&source.sql, 20_000);
    let daemon = Daemon::new(json!({}));
    let mode = |mode: &str| json!({ "snapshot": { "mode": mode, "chunk_rows": 50, "readers": 2 } });
    daemon.connector(&rig::source(&source, mode("initial")));
    daemon.connector(&rig::sink(&target, json!({})));
    daemon.start();
    daemon.until_streaming("shop");
    oracle::target_equals_source(&daemon, &source, &target);
    daemon.stop();
    source.drop_slot(&source.connect());
    source.sql.run(
        "UPDATE customers SET name = 'changed', version = nextval('audit.version') WHERE id % 2 = 0;
         INSERT INTO visits SELECT i, nextval('audit.version'), '/new', NULL FROM generate_series(30001, 30500) i",
    );
    daemon.start();
    daemon.until_told("shop", &["PG_SLOT_MISSING", "when_needed"]);
    daemon.stop();

    daemon.connector(&rig::source(&source, mode("when_needed")));
    daemon.start();
    let lost = || snapshot(&daemon).filter(|status| !status["position_lost"].is_null());
    daemon.until("the new position is stored", lost);
    // Not before: what is deleted in the gap is told by nobody.
    let workload = Workload::start(&source, 2, 7, Duration::from_millis(5));
    let (mut rng, mut kills) = (Rng::with_seed(5), 0);
    loop {
        std::thread::sleep(Duration::from_millis(rng.u64(20..300)));
        let status = daemon.until("it is said what was lost", lost);
        assert_eq!(status["position_lost"]["code"], "PG_SLOT_MISSING", "{status}");
        if status["state"] == "NONE" {
            break;
        }
        if kills < 12 {
            daemon.kill_running();
            daemon.start();
            kills += 1;
        }
    }
    assert!(kills >= 3, "only {kills} kills in the middle");
    let url = format!("http://127.0.0.1:{}", daemon.port);
    let out = said(&daemon.cli(&["snapshot", "status", "shop", "--watch", "--url", &url]));
    assert!(out.contains("no snapshot is under way"), "{out}");
    let out = said(&daemon.cli(&["snapshot", "status", "shop", "--url", &url]));
    assert!(out.contains("position lost") && out.contains("rows that were deleted since"), "{out}");
    let committed = workload.stop();
    let rows = oracle::target_equals_source(&daemon, &source, &target);
    assert!(daemon.log().contains("the stored position is lost"));
    let metrics = daemon.request("GET", "/metrics", None).text();
    assert!(metrics.contains("rowstream_connector_position_lost_timestamp_seconds{"), "{metrics}");
    note(&format!("{kills} kills, {committed} transactions meanwhile, {rows} rows equal the source"));
}

/// A start of the connector reads again: with the daemon, or on request. A task that is tried again after a failure does not.
#[test]
fn always_reads_at_each_start_and_not_at_a_retry() {
    let database = Database::new("always");
    database
        .sql
        .run("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 10)");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&database, json!({ "snapshot": { "mode": "always" } })));
    let until = |rows: i64| {
        daemon.until(&format!("{rows} records"), || {
            (daemon.topic_end("shop.public.orders") == Some(rows)
                && snapshot(&daemon).is_some_and(|status| status["state"] == "NONE"))
            .then_some(())
        });
    };
    daemon.start();
    until(10);
    daemon.stop();
    database.sql.run("INSERT INTO orders VALUES (11)");
    daemon.start();
    // The new row comes by the stream, and by the snapshot, if that is read after it.
    until(22);
    let retried = |daemon: &Daemon| {
        let status = daemon.get("/connectors/shop/status");
        status["tasks"][0]["progress"]["restarts"].as_i64().unwrap()
    };
    let before = retried(&daemon);
    database.sql.run(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND database = current_database()",
    );
    daemon.until("it is tried again", || (retried(&daemon) > before).then_some(()));
    database.sql.run("INSERT INTO orders VALUES (12)");
    until(23);
    let answer = daemon.request("POST", "/connectors/shop/restart?includeTasks=true", None);
    assert!(answer.status < 300, "{}", answer.text());
    until(35);
}

/// A snapshot that is slowed, watched, and set free without a restart.
#[test]
fn a_snapshot_is_slowed_and_set_free_from_outside() {
    let database = Database::new("slow");
    database.sql.run(
        "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 5000); ANALYZE orders",
    );
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&database, json!({ "snapshot": { "rows_per_second": 10 } })));
    daemon.start();
    let status = daemon.until("it is slow", || {
        snapshot(&daemon).filter(|s| s["rows_per_second_limit"] == 10.0 && s["rows"].as_i64() > Some(0))
    });
    assert_eq!(
        (&status["state"], &status["table_rows_estimated"]),
        (&json!("RUNNING"), &json!(5000.0)),
        "{status}"
    );
    assert!(status["table_percent"].as_f64().unwrap() < 50.0, "{status}");
    for (body, status) in [(json!({ "rows": 1 }), 400), (json!({ "rows_per_second": -1 }), 400)] {
        let answer = daemon.request("PUT", "/connectors/shop/snapshot/limit", Some(&body));
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let url = format!("http://127.0.0.1:{}", daemon.port);
    let out = daemon.cli(&["snapshot", "limit", "shop", "0", "--url", &url]);
    assert!(out.status.success() && said(&out).contains("without a limit"), "{}", said(&out));
    let out = daemon.cli(&["snapshot", "status", "shop", "--watch", "--url", &url]);
    let text = said(&out);
    assert!(out.status.success() && text.trim_end().ends_with("no snapshot is under way"), "{text}");
    assert_eq!(daemon.topic_end("shop.public.orders"), Some(5000));
}
