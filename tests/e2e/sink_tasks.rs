//! A sink of several tasks: they share the partitions, and what they deliver together is everything, once, while their number
//! changes and the daemon is killed.

use std::time::Duration;

use serde_json::json;

use crate::{
    ledger, oracle,
    support::{daemon::Daemon, one_at_a_time, postgres::Database, receiver::Receiver, rig},
    workload::{self, Workload},
};

#[test]
fn several_tasks_deliver_everything_once_while_their_number_changes() {
    let _turn = one_at_a_time();
    let (source, target) = (Database::new("tasks_src"), Database::new("tasks_dst"));
    source.sql.run(ledger::TABLES);
    workload::fill(&source.sql, 3_000);
    let receiver = Receiver::kind();
    let daemon = Daemon::new(json!({ "topic_log": { "segment_size": "4MiB", "partitions": 5 } }));
    daemon.connector(&rig::source(&source, json!({})));
    let with_tasks = |tasks: u32| {
        for mut sink in [rig::sink(&target, json!({})), rig::webhook(&receiver, json!({}))] {
            sink["tasks_max"] = json!(tasks);
            daemon.connector(&sink);
        }
    };
    with_tasks(3);
    daemon.start();
    daemon.until_streaming("shop");
    let workload = Workload::start(&source, 2, 11, Duration::from_millis(5));
    for (round, tasks) in [4, 1, 2, 5, 3].into_iter().enumerate() {
        let progress = |number: usize| {
            // Just started, it may not have read its connectors yet.
            let answer = daemon.try_get("/connectors/warehouse/status").filter(|a| a.status == 200)?;
            let status = answer.json();
            let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
            (tasks.len() == number)
                .then(|| tasks.iter().filter(|t| t["progress"]["records"].as_u64() > Some(0)).count())
        };
        if round % 2 == 0 {
            daemon.kill_running();
            with_tasks(tasks);
            daemon.start();
        } else {
            with_tasks(tasks);
        }
        // With five partitions a topic, each task has something to do.
        let number = usize::try_from(tasks).unwrap();
        daemon.until(&format!("{tasks} tasks deliver"), || progress(number).filter(|busy| *busy == number));
    }
    workload.stop();
    let rows = oracle::target_equals_source(&daemon, &source, &target);
    assert!(rows > 1_000, "only {rows} rows");
    let delivered = oracle::webhooks_equal_topics(&daemon, &receiver);
    assert!(delivered > 3_000, "only {delivered} webhooks");
}
