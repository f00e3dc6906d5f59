//! The promise, under SIGKILL.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fastrand::Rng;
use serde_json::json;

use crate::{
    ledger, oracle,
    support::{
        daemon::Daemon,
        mysql::{MySqlDatabase, servers},
        note, one_at_a_time,
        postgres::Database,
        receiver::{Receiver, Reply},
        rig,
    },
    workload::{self, Workload},
};

const KILLS: u32 = 55;
const SEED: u64 = 20_261_121;

/// At least fifty kills at random moments, some while the daemon starts, some in the snapshot, all under load: each committed change
/// is once in its topic, the target equals the source, no webhook id came with two bodies, and the slot was never told too much.
#[test]
fn exactly_once_under_sigkill() {
    let _turn = one_at_a_time();
    let (source, target) = (Database::new("kill_src"), Database::new("kill_dst"));
    source.sql.run(ledger::TABLES);
    workload::fill(&source.sql, 10_000);
    // One request in fifty fails in some way, whatever record it carries.
    let receiver = Receiver::start(|n, _| match n % 150 {
        0 => Reply::Status(503),
        50 => Reply::Status(500),
        100 => Reply::Drop,
        _ => Reply::Status(200),
    });
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({ "snapshot": { "mode": "initial", "chunk_rows": 300 } })));
    daemon.connector(&rig::sink(&target, json!({})));
    daemon.connector(&rig::webhook(&receiver, json!({})));

    let proof = kill_under_load(&daemon, &source);
    let rows = oracle::target_equals_source(&daemon, &source, &target);
    let records = proof.topics_equal_ledger(&daemon, &source);
    let delivered = oracle::webhooks_equal_topics(&daemon, &receiver);
    let sent = receiver.count();
    let Proof { committed, samples, .. } = proof;
    note(&format!(
        "{KILLS} kills, {committed} transactions: {records} records equal the ledger, {rows} rows equal the source, \
         {delivered} webhooks ({sent} requests), {samples} samples of the slot"
    ));
}

/// The same kills with MySQL and MariaDB as targets: both equal the source, row by row, whatever was killed when.
#[test]
fn exactly_once_under_sigkill_into_mysql_and_mariadb() {
    let _turn = one_at_a_time();
    let source = Database::new("kill_my_src");
    source.sql.run(ledger::TABLES);
    workload::fill(&source.sql, 10_000);
    let targets = servers().map(|(name, port)| (name, MySqlDatabase::on(port, "kill_dst")));
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({ "snapshot": { "mode": "initial", "chunk_rows": 300 } })));
    for (name, target) in &targets {
        daemon.connector(&rig::mysql_sink(name, target, json!({})));
    }
    let proof = kill_under_load(&daemon, &source);
    for (name, target) in &targets {
        let rows = oracle::target_equals_source(&daemon, &source, target);
        note(&format!(
            "{KILLS} kills, {} transactions: {rows} rows of {name} equal the source",
            proof.committed
        ));
    }
    let records = proof.topics_equal_ledger(&daemon, &source);
    note(&format!("{records} records equal the ledger"));
}

/// What happened under load and kills.
struct Proof {
    /// What was committed before the slot existed.
    before: HashSet<i64>,
    committed: u64,
    samples: u64,
}

impl Proof {
    /// Answers how many records were compared.
    fn topics_equal_ledger(&self, daemon: &Daemon, source: &Database) -> usize {
        let ledger = ledger::read(&source.connect());
        let equal =
            |(table, _): &(&str, &str)| oracle::topic_equals_ledger(daemon, table, &ledger, &self.before);
        ledger::COLUMNS.iter().map(equal).sum()
    }
}

/// Writers at work while the daemon is killed again and again; it is up at the end.
fn kill_under_load(daemon: &Daemon, source: &Database) -> Proof {
    let before = ledger::committed_now(&source.sql);
    source.make_slot(); // Nobody writes yet, so all of `before` and nothing else lies before the slot.
    let workload = Workload::start(source, 3, SEED, Duration::from_millis(8));
    let stop = AtomicBool::new(false);
    let watched = source.connect();
    let samples = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| oracle::watch_confirmed(daemon, source, &watched, &stop));
        kill_repeatedly(daemon, || {
            let told = daemon.try_get("/connectors/shop/offsets").map(|a| a.text()).unwrap_or_default();
            told.contains("snapshot")
        });
        stop.store(true, Ordering::SeqCst);
        sampler.join().unwrap()
    });
    let committed = workload.stop();
    daemon.start();
    assert!(samples > 100, "only {samples} samples of the slot");
    assert!(committed > 500, "only {committed} transactions committed");
    Proof { before, committed, samples }
}

/// Kills at random moments. The first ones come early, so that they hit start and snapshot; the daemon is down at the end.
fn kill_repeatedly(daemon: &Daemon, in_snapshot: impl Fn() -> bool) {
    let mut rng = Rng::with_seed(SEED);
    let mut during_snapshot = 0;
    for kill in 0..KILLS {
        daemon.spawn();
        let longest = if kill < 15 { 400 } else { 1_500 };
        std::thread::sleep(Duration::from_millis(rng.u64(20..longest)));
        during_snapshot += u32::from(in_snapshot());
        daemon.kill();
    }
    assert!(during_snapshot > 0, "no kill met the snapshot: make it longer");
}
