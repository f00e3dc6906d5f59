//! The promise, under SIGKILL.

use std::{
    collections::HashSet,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use fastrand::Rng;
use serde_json::json;

use crate::{
    ledger, oracle,
    support::{
        SetWhenDropped,
        daemon::Daemon,
        kafka::Kafka,
        mysql::{MySqlDatabase, servers},
        note, one_at_a_time,
        postgres::Database,
        receiver::{Receiver, Reply},
        rig,
    },
    workload::{self, Workload},
};

const KILLS: u32 = 55;
/// Of these, as many come early.
const EARLY_KILLS: u32 = 15;
const SEED: u64 = 20_261_121;

/// At least fifty kills at random moments, some while the daemon starts, some in the snapshot, all under load: each committed change
/// is once in its topic, the target equals the source, no webhook id came with two bodies, and the slot was never told too much.
#[test]
fn exactly_once_under_sigkill() {
    let _turn = one_at_a_time();
    let daemon = Daemon::new(json!({}));
    let pace = Pace::of_embedded();
    judge(&daemon, &pace, |in_snapshot| kill_repeatedly(&daemon, &pace, in_snapshot, |_| true));
}

/// The port range of the cluster that is killed here.
const KAFKA_PORT: u16 = 19_292;
const BROKER_KILLS: u32 = 10;

/// The same over Kafka, where the broker is killed and comes back at least ten times too. The topics are read by an independent
/// consumer of committed records.
#[test]
fn exactly_once_over_kafka_under_sigkill_of_worker_and_broker() {
    let _turn = one_at_a_time();
    let kafka = Kafka::that_may_be_killed(KAFKA_PORT);
    let _wiped = kafka.until_dropped();
    let daemon = Daemon::on_kafka(&kafka, 3);
    // Starting takes longer, a broker's return some seconds.
    let pace = Pace {
        starting: 50..2_000,
        running: 50..3_500,
        pause: Duration::from_millis(100),
        // A few hundred chunks: a life that is long enough to begin the snapshot must not be long enough to end it.
        chunk_rows: 30,
    };
    judge(&daemon, &pace, |in_snapshot| {
        let (stop, killed, worker_kills) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng::with_seed(SEED + 1);
                while !stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(rng.u64(500..4_000)));
                    // The snapshot has its own kills.
                    if worker_kills.load(Ordering::SeqCst) >= EARLY_KILLS {
                        kafka.kill_and_start();
                        killed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
            let _stops = SetWhenDropped(&stop);
            kill_repeatedly(&daemon, &pace, in_snapshot, |kills| {
                worker_kills.store(kills, Ordering::SeqCst);
                killed.load(Ordering::SeqCst) >= BROKER_KILLS
            });
        });
        let (worker, broker) = (worker_kills.load(Ordering::SeqCst), killed.load(Ordering::SeqCst));
        note(&format!("{worker} kills of the worker, {broker} of the broker"));
    });
}

/// How long a daemon lives, in milliseconds, how often writers write, and how much of the snapshot is one step.
struct Pace {
    starting: Range<u64>,
    running: Range<u64>,
    pause: Duration,
    chunk_rows: u32,
}

impl Pace {
    fn of_embedded() -> Self {
        Self { starting: 20..400, running: 20..1_500, pause: Duration::from_millis(8), chunk_rows: 300 }
    }
}

/// Source, sink and webhook under load and kills.
fn judge(daemon: &Daemon, pace: &Pace, kill: impl FnOnce(&dyn Fn() -> bool)) {
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
    let snapshot = json!({ "mode": "initial", "chunk_rows": pace.chunk_rows });
    daemon.connector(&rig::source(&source, json!({ "snapshot": snapshot })));
    daemon.connector(&rig::sink(&target, json!({})));
    daemon.connector(&rig::webhook(&receiver, json!({})));

    let proof = kill_under_load(daemon, &source, pace, kill);
    let rows = oracle::target_equals_source(daemon, &source, &target);
    let records = proof.topics_equal_ledger(daemon, &source);
    let delivered = oracle::webhooks_equal_topics(daemon, &receiver);
    let sent = receiver.count();
    let Proof { committed, samples, .. } = proof;
    note(&format!(
        "at least {KILLS} kills, {committed} transactions: {records} records equal the ledger, {rows} rows equal the \
         source, {delivered} webhooks ({sent} requests), {samples} samples of the slot"
    ));
    daemon.kill(); // Before the databases that it reads go.
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
    let pace = Pace::of_embedded();
    let proof = kill_under_load(&daemon, &source, &pace, |in_snapshot| {
        kill_repeatedly(&daemon, &pace, in_snapshot, |_| true);
    });
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
pub struct Proof {
    /// What was committed before the slot existed.
    before: HashSet<i64>,
    pub committed: u64,
    pub samples: u64,
}

impl Proof {
    /// Answers how many records were compared.
    pub fn topics_equal_ledger(&self, daemon: &Daemon, source: &Database) -> usize {
        let ledger = ledger::read(&source.connect());
        let equal =
            |(table, _): &(&str, &str)| oracle::topic_equals_ledger(daemon, table, &ledger, &self.before);
        ledger::COLUMNS.iter().map(equal).sum()
    }
}

/// As [`under_load`], where `kill` is told how to learn whether a snapshot is under way; the daemon is up at the end.
fn kill_under_load(
    daemon: &Daemon,
    source: &Database,
    pace: &Pace,
    kill: impl FnOnce(&dyn Fn() -> bool),
) -> Proof {
    let proof = under_load(daemon, source, pace.pause, || {
        kill(&|| {
            let told = daemon.try_get("/connectors/shop/offsets").map(|a| a.text()).unwrap_or_default();
            told.contains("snapshot")
        });
    });
    daemon.start();
    proof
}

/// Writers at work, with pauses as long, while `disturb` does its worst.
pub fn under_load(daemon: &Daemon, source: &Database, pause: Duration, disturb: impl FnOnce()) -> Proof {
    let before = ledger::committed_now(&source.sql);
    source.make_slot(); // Nobody writes yet, so all of `before` and nothing else lies before the slot.
    let workload = Workload::start(source, 3, SEED, pause);
    let stop = AtomicBool::new(false);
    let watched = source.connect();
    let samples = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| oracle::watch_confirmed(daemon, source, &watched, &stop));
        {
            let _stops = SetWhenDropped(&stop);
            disturb();
        }
        sampler.join().unwrap()
    });
    let committed = workload.stop();
    assert!(samples > 100, "only {samples} samples of the slot");
    assert!(committed > 500, "only {committed} transactions committed");
    Proof { before, committed, samples }
}

/// Kills at random moments, until `enough`, told how many there were, says so too. The first ones come early, so that they hit
/// start and snapshot; the daemon is down at the end.
fn kill_repeatedly(
    daemon: &Daemon,
    pace: &Pace,
    in_snapshot: &dyn Fn() -> bool,
    enough: impl Fn(u32) -> bool,
) {
    let mut rng = Rng::with_seed(SEED);
    let mut during_snapshot = 0;
    let mut kills = 0;
    while !enough(kills) || kills < KILLS {
        daemon.spawn();
        let early = kills < EARLY_KILLS;
        let life = if early { &pace.starting } else { &pace.running };
        std::thread::sleep(Duration::from_millis(rng.u64(life.clone())));
        // Asked only while it may be: the answer waits for the log, and so would the kill.
        during_snapshot += u32::from(early && in_snapshot());
        daemon.kill_running();
        kills += 1;
    }
    assert!(during_snapshot > 0, "no kill met the snapshot: make it longer");
}
