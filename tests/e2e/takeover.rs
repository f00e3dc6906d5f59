//! Two daemons where one should be.

use serde_json::json;

use crate::support::{
    daemon::{Daemon, said},
    rig::{self, Rig},
};

/// A data directory has one daemon; a second one is told which directory and ends, and the first does not notice.
#[test]
fn second_daemon_on_same_directory_is_refused() {
    let rig = Rig::orders(10);
    rig.daemon.start();
    rig.until_same();
    let second = Daemon::new(json!({ "data_dir": rig.daemon.data_dir() }));
    let out = second.cli(&["run", "--config", second.path("worker.yaml").to_str().unwrap()]);
    assert!(!out.status.success(), "a second daemon ran: {}", said(&out));
    let told = said(&out);
    assert!(told.contains(rig.daemon.data_dir().to_str().unwrap()), "the directory is not named: {told}");
    assert!(told.contains(&rig.daemon.pid().to_string()), "the process is not named: {told}");
    rig.insert(11, 20);
    rig.until_same();
}

/// Daemon A stops breathing; a successor with a copy of its log takes the target over; A wakes up and goes on where it was.
/// Whatever A then tries, the target does not change, and A says why.
#[test]
fn zombie_sink_changes_nothing() {
    let rig = Rig::orders(200);
    let (zombie, target) = (&rig.daemon, &rig.target);
    zombie.start();
    rig.until_same();
    zombie.signal("STOP");
    let successor = Daemon::new(json!({}));
    zombie.copy_data_to(&successor);
    successor.connector(&rig::sink(target, json!({})));
    let epoch = || target.sql.number("SELECT epoch FROM rowstream.sink_fence WHERE connector = 'warehouse'");
    let first = epoch();
    successor.start();
    successor.until_state("warehouse", "RUNNING");
    successor.until("the successor has raised the fence", || (epoch() > first).then_some(()));

    let sql = "SELECT id, version, note, xmin FROM orders ORDER BY id";
    let offsets = "SELECT topic, partition, next_offset, xmin FROM rowstream.sink_offsets ORDER BY 1, 2";
    let (rows, positions) = (target.sql.rows(sql), target.sql.rows(offsets));
    // Work for the zombie: it captures this itself when it wakes.
    rig.insert(201, 400);
    rig.source.sql.run("UPDATE orders SET note = 'from the grave'; DELETE FROM orders WHERE id < 50");
    zombie.signal("CONT");
    let (state, told) = zombie.until_told("warehouse", &["SINK_FENCED"]);
    assert_eq!(state, "FAILED", "{told}");
    assert!(told.contains("warehouse"), "{told}");
    let metric = r#"rowstream_task_state{connector="warehouse",state="FAILED",task="0"} 1"#;
    let metrics = zombie.try_get("/metrics").unwrap().text();
    assert!(metrics.contains(metric), "nobody is alerted:\n{metrics}");
    assert_eq!(target.sql.rows(sql), rows, "the zombie changed rows");
    assert_eq!(target.sql.rows(offsets), positions, "the zombie moved offsets");
    assert!(zombie.topic_end("shop.public.orders") > Some(200), "the zombie had nothing to apply");
}

/// A connector of the same name with another log is refused: its positions mean something else.
#[test]
fn sink_of_another_log_is_refused() {
    let rig = Rig::orders(50);
    rig.daemon.start();
    rig.until_same();
    rig.daemon.stop();
    let stranger = Daemon::new(json!({}));
    stranger.connector(&rig::source(
        &rig.source,
        json!({ "slot_name": format!("{}_two", rig.source.name), "publication_name": "two" }),
    ));
    stranger.connector(&rig::sink(&rig.target, json!({})));
    stranger.start();
    let (state, told) = stranger.until_told("warehouse", &["SINK_OTHER_LOG"]);
    assert_eq!(state, "FAILED");
    assert!(told.contains("what to do"), "no remedy: {told}");
    stranger.stop();
    rig.source.sql.run(&format!("SELECT pg_drop_replication_slot('{}_two')", rig.source.name));
    rig.insert(51, 60);
    rig.daemon.start();
    rig.until_same();
}
