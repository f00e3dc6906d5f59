//! What an operator's tools do with a daemon: stop it under load, scrape it.

use std::{collections::BTreeSet, path::Path, time::Instant};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    kafka::Kafka,
    postgres::Database,
    receiver::Receiver,
    rig::{self, Rig},
    until,
};

const KAFKA_PORT: u16 = 19_842;

/// What the chart gives a pod beyond `stop_timeout`; the daemon's default of that is 25 s.
const GRACE_SECONDS: u64 = 35;

/// SIGTERM in the middle of a large backlog: it ends in time, and the next start goes on where it stood.
#[test]
fn a_stop_under_load_keeps_within_the_grace_period_and_replays_nothing() {
    const ROWS: u32 = 20_000;
    let rig = Rig::orders(10);
    let receiver = Receiver::kind();
    rig.daemon.connector(&rig::webhook(&receiver, json!({})));
    rig.daemon.start();
    rig.until_same();
    rig.daemon.until_streaming("shop");
    // Many transactions, so that there are many places to stop between.
    for chunk in 0..20 {
        let from = 11 + chunk * (ROWS / 20);
        rig.insert(from, from + ROWS / 20 - 1);
    }
    let asked = Instant::now();
    let status = rig.daemon.stop();
    assert!(status.success(), "{status}\n{}", rig.daemon.log());
    assert!(asked.elapsed().as_secs() < GRACE_SECONDS, "{:?}", asked.elapsed());
    let delivered = receiver.count();
    assert!(delivered < ROWS as usize, "it was idle already: this proves nothing");

    rig.daemon.start();
    rig.until_same();
    let all = ROWS as usize + 10;
    rig.daemon.until("all webhooks are there", || (receiver.accepted() >= all).then_some(()));
    assert_eq!(receiver.count(), all, "requests were repeated");
    assert_eq!(rig.daemon.topic_end("shop.public.orders"), i64::try_from(all).ok(), "records were repeated");
}

/// Every metric of every dashboard and alert is on the page of a daemon that has one connector of each kind at work, on the embedded log or on
/// Kafka. What appears only in trouble, or with settings that this rig has not, is named here; tests/deploy/check.py finds those in the code.
#[test]
fn what_dashboards_and_alerts_ask_for_is_exported() {
    const ELSEWHERE: [&str; 5] = [
        "rowstream_task_errors_total",                                  // no error yet
        "rowstream_connector_slot_safe_wal_bytes",                      // max_slot_wal_keep_size is not set
        "rowstream_connector_appended_rows",                            // write_mode is upsert
        "rowstream_connector_webhook_retries_total",                    // the receiver accepts at once
        "rowstream_connector_tls_certificate_expiry_timestamp_seconds", // no checked TLS
    ];
    let asked = asked_for();
    assert!(asked.len() > 40, "{asked:?}");
    let rig = Rig::orders(100);
    let receiver = Receiver::kind();
    rig.daemon.connector(&rig::webhook(&receiver, json!({})));
    rig.daemon.start();
    rig.until_same();
    rig.insert(101, 200);
    rig.until_same();
    let kafka = Kafka::empty(KAFKA_PORT);
    let _wiped = kafka.until_dropped();
    let on_kafka = Daemon::of_group(&kafka, json!({}));
    let source = Database::new("metrics");
    source.sql.run("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)");
    on_kafka.connector(&rig::source(&source, json!({})));
    on_kafka.connector(&rig::webhook(&receiver, json!({})));
    on_kafka.start();
    let missing = || {
        let page = |daemon: &Daemon| daemon.try_get("/metrics").map(|a| a.text()).unwrap_or_default();
        let pages = page(&rig.daemon) + &page(&on_kafka);
        let there: BTreeSet<&str> = pages.lines().filter_map(|l| l.split(['{', ' ']).next()).collect();
        let lacks = |name: &&String| !there.contains(name.as_str()) && !ELSEWHERE.contains(&name.as_str());
        asked.iter().filter(lacks).cloned().collect::<Vec<_>>()
    };
    let explain = || format!("not exported: {}", missing().join(", "));
    until("every metric is exported", explain, || missing().is_empty().then_some(()));
}

/// Names of ours in the alerts' expressions and the dashboards' queries.
fn asked_for() -> BTreeSet<String> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let mut queries = vec![std::fs::read_to_string(deploy.join("alerts/rowstream.yaml")).unwrap()];
    for file in std::fs::read_dir(deploy.join("dashboards")).unwrap().map(|e| e.unwrap().path()) {
        if file.extension().is_some_and(|e| e == "json") {
            let board: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            let targets =
                board["panels"].as_array().unwrap().iter().flat_map(|p| p["targets"].as_array().unwrap());
            queries.extend(targets.map(|t| t["expr"].as_str().unwrap().to_owned()));
        }
    }
    let words = queries.iter().flat_map(|q| q.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    words
        .filter(|w| w.starts_with("rowstream_") || w.starts_with("process_"))
        .map(ToOwned::to_owned)
        .collect()
}
