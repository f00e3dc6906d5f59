//! The promise over Kafka, under everything but SIGKILL of the worker (that is `exactly_once`): a broker of three that dies, a network
//! that is cut, held and slow, transactions that the coordinator ends, and workers that wake up after others took over.
//!
//! Under each of them writers go on, and at the end the topics (as Confluent's Python client reads them, `read_committed`) equal the
//! ledger, each change once and in order, and the target equals the source.

use std::time::{Duration, Instant};

use fastrand::Rng;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::{Value, json};

use crate::{
    exactly_once::under_load,
    ledger, oracle,
    support::{
        daemon::Daemon,
        kafka::Kafka,
        note,
        postgres::Database,
        proxy::{Proxy, Weather},
        rig, turn_of_kafka_faults, until,
    },
    workload,
};

const SEED: u64 = 20_261_122;
const PARTITIONS: u32 = 3;
/// How long writers rest between transactions.
const PAUSE: Duration = Duration::from_millis(50);

/// A source and its copy, and rows by which to see that changes flow.
struct Shop {
    source: Database,
    target: Database,
}

impl Shop {
    fn new() -> Self {
        let (source, target) = (Database::new("fault_src"), Database::new("fault_dst"));
        // A worker that sleeps keeps its connection, and with it the slot, until the server gives up on it.
        source.sql.run(&format!("ALTER DATABASE \"{}\" SET wal_sender_timeout = '3s'", source.name));
        source.sql.run(ledger::TABLES);
        workload::fill(&source.sql, 1_000);
        Self { source, target }
    }

    fn connect(&self, worker: &Daemon) {
        worker.connector(&rig::source(&self.source, json!({})));
        worker.connector(&rig::sink(&self.target, json!({})));
    }

    /// Waits until a row that is written now is in the target; answers how long that took.
    fn flows(&self, what: &str, worker: &Daemon) -> Duration {
        let started = Instant::now();
        let id = (1i64 << 61) + self.source.sql.number("SELECT nextval('audit.version')");
        self.source.sql.run(&format!("INSERT INTO visits VALUES ({id}, {id}, '/mark', NULL)"));
        until(
            &format!("rows flow {what}"),
            || worker.explain(),
            || {
                self.target.sql.one("SELECT to_regclass('public.visits')")?;
                self.target.sql.one(&format!("SELECT id FROM visits WHERE id = {id}"))
            },
        );
        started.elapsed()
    }

    /// The oracle: `disturb` under load, then everything row by row. Answers what was compared.
    fn judge(&self, worker: &Daemon, disturb: impl FnOnce()) -> String {
        let proof = under_load(worker, &self.source, PAUSE, || {
            worker.start();
            self.flows("at first", worker);
            disturb();
        });
        let rows = oracle::target_equals_source(worker, &self.source, &self.target);
        let records = proof.topics_equal_ledger(worker, &self.source);
        format!(
            "{} transactions: {records} records equal the ledger, {rows} rows equal the source, {} samples of the slot",
            proof.committed, proof.samples
        )
    }
}

/// What the worker had to do to go on, from its log.
fn recoveries(worker: &Daemon) -> String {
    let log = worker.log();
    let said = |text: &str| log.matches(text).count();
    format!(
        "{} waits for a commit's answer, {} transactions sent again, {} unknown outcomes, {} tasks fenced, {} sleeps noticed, {} task restarts",
        said("a writer waits for Kafka"),
        said("a transaction was aborted and is sent again"),
        said("COMMIT_UNKNOWN"),
        said("TASK_FENCED"),
        said("this process stood still"),
        said("task will retry"),
    )
}

const THREE_BROKERS: u16 = 19_592;
const BROKER_KILLS: u16 = 5;

/// Three brokers, each record on three of them and acknowledged by two. One after the other is killed: with two left, changes flow;
/// then it comes back, and the next one goes.
#[test]
fn exactly_once_while_one_of_three_brokers_is_killed() {
    let _turn = turn_of_kafka_faults();
    let kafka = Kafka::of(THREE_BROKERS, 3, "");
    let _wiped = kafka.until_dropped();
    let (shop, worker) = (Shop::new(), Daemon::on_kafka(&kafka, PARTITIONS));
    shop.connect(&worker);
    let mut waits = Vec::new();
    let equal = shop.judge(&worker, || {
        for kill in 0..BROKER_KILLS {
            let node = kill % 3 + 1;
            kafka.kill(node);
            waits.push(shop.flows(&format!("without broker {node}"), &worker).as_secs_f64());
            kafka.start(node);
        }
    });
    note(&format!(
        "{BROKER_KILLS} kills of a broker of three, changes flowed again after {waits:.1?} s; {}; {equal}",
        recoveries(&worker)
    ));
    worker.kill(); // Before the databases that it reads go.
}

const NETWORK: u16 = 19_642;
/// Low, so that a held network makes the coordinator end transactions; it looks twice a second.
const IMPATIENT: &str = "transaction.abort.timed.out.transaction.cleanup.interval.ms=500";

/// The only way to the broker is a proxy, which cuts connections, holds what goes through it (also only the answers, so that commits
/// succeed without telling), and lets it through slowly; one silence is longer than a session and a transaction may be.
#[test]
fn exactly_once_over_a_network_that_is_cut_held_and_slow() {
    let _turn = turn_of_kafka_faults();
    let kafka = Kafka::of(NETWORK, 1, IMPATIENT);
    let _wiped = kafka.until_dropped();
    let proxy = Proxy::start(kafka.proxy());
    let settings = json!({
        "instance_id": "one", "topics": { "partitions": PARTITIONS }, "transaction_timeout": "5s"
    });
    let (shop, worker) = (Shop::new(), Daemon::of_group(&kafka.behind_proxy(), settings));
    shop.connect(&worker);
    let mut waits = Vec::new();
    let equal = shop.judge(&worker, || {
        let mut rng = Rng::with_seed(SEED);
        let lasts = |weather: Weather, milliseconds: u64| {
            proxy.becomes(weather);
            std::thread::sleep(Duration::from_millis(milliseconds));
        };
        for round in 0..4 {
            let slow = Weather::Slow(Duration::from_millis(rng.u64(5..60)));
            lasts(slow, rng.u64(500..2_000));
            lasts(Weather::Cut, rng.u64(50..1_500));
            lasts(Weather::Fair, rng.u64(100..1_500));
            lasts(Weather::Held, if round == 2 { 8_000 } else { rng.u64(300..2_000) });
            // What was held comes through late, or never.
            lasts(if rng.bool() { Weather::Fair } else { Weather::Cut }, 100);
            lasts(Weather::Fair, rng.u64(100..1_000));
            lasts(Weather::Mute, rng.u64(100..1_500));
            lasts(Weather::Cut, rng.u64(50..500));
            proxy.becomes(Weather::Fair);
            waits.push(shop.flows(&format!("after round {round}"), &worker).as_secs_f64());
        }
    });
    note(&format!(
        "4 rounds of a network cut three times, held, mute and slow, changes flowed again after {waits:.1?} s; {}; {equal}",
        recoveries(&worker)
    ));
    worker.kill();
}

const TIMED_OUT: u16 = 19_692;

/// A worker is stopped in the middle of transactions for so long that the coordinator ends them, and goes on: what it thought it was
/// writing never was, and it writes it again.
#[test]
fn exactly_once_when_the_coordinator_ends_transactions() {
    let _turn = turn_of_kafka_faults();
    let kafka = Kafka::of(TIMED_OUT, 1, IMPATIENT);
    let _wiped = kafka.until_dropped();
    // Through a proxy that takes its time, transactions are open most of the time.
    let proxy = Proxy::start(kafka.proxy());
    let settings = json!({
        "instance_id": "one", "topics": { "partitions": PARTITIONS }, "transaction_timeout": "2s"
    });
    let (shop, worker) = (Shop::new(), Daemon::of_group(&kafka.behind_proxy(), settings));
    shop.connect(&worker);
    let ends = Ends::of(&kafka);
    let mut stopped = 0;
    let equal = shop.judge(&worker, || {
        for _ in 0..5 {
            proxy.becomes(Weather::Slow(Duration::from_millis(10)));
            stopped += stop_in_transaction(&worker, &ends);
            until("the coordinator ends the transaction", String::new, || (!ends.open()).then_some(()));
            worker.signal("CONT");
            proxy.becomes(Weather::Fair);
            shop.flows("after the transaction was ended", &worker);
        }
    });
    let unknown = worker.log().matches("COMMIT_UNKNOWN").count();
    assert!(unknown > 0, "no transaction was ended under the worker:\n{}", worker.explain());
    note(&format!(
        "5 transactions ended by the coordinator ({stopped} stops until they were met); {}; {equal}",
        recoveries(&worker)
    ));
    worker.kill();
}

const ZOMBIES: u16 = 19_742;

/// Two workers of one group. The one that has the source is stopped in the middle of a transaction, the other one takes over and
/// writes, the first one wakes up with half a transaction in its hands; and again. What a zombie writes does not count.
#[test]
fn exactly_once_when_zombies_wake_up() {
    let _turn = turn_of_kafka_faults();
    let kafka = Kafka::of(ZOMBIES, 1, "");
    let _wiped = kafka.until_dropped();
    let proxy = Proxy::start(kafka.proxy());
    let settings = json!({
        "topics": { "partitions": PARTITIONS },
        "properties": { "session.timeout.ms": "2000", "heartbeat.interval.ms": "300" },
    });
    let shop = Shop::new();
    let workers = [(); 2].map(|()| Daemon::of_group(&kafka.behind_proxy(), settings.clone()));
    workers.iter().for_each(|worker| shop.connect(worker));
    workers[1].start();
    let (ends, mut stopped) = (Ends::of(&kafka), 0);
    let equal = shop.judge(&workers[0], || {
        for _ in 0..4 {
            let zombie =
                until("somebody has the source", || workers[0].explain(), || owner(&workers, "shop"));
            let heir = &workers[1 - zombie];
            proxy.becomes(Weather::Slow(Duration::from_millis(10)));
            stopped += stop_in_transaction(&workers[zombie], &ends);
            proxy.becomes(Weather::Fair);
            shop.flows("from the heir", heir);
            let gains = || workers[zombie].log().matches("shards gained").count();
            let before = gains();
            workers[zombie].signal("CONT");
            let explain = || workers[zombie].explain();
            until("the zombie is let in again", explain, || (gains() > before).then_some(()));
            shop.flows("with a zombie", heir);
        }
    });
    let told: Vec<String> = workers.iter().map(recoveries).collect();
    note(&format!("4 zombies ({stopped} stops until they had a transaction); {told:#?}; {equal}"));
    workers.iter().for_each(Daemon::kill);
}

/// Which of these runs a connector's task.
fn owner(workers: &[Daemon], connector: &str) -> Option<usize> {
    let status: Value = workers[0].try_get(&format!("/connectors/{connector}/status"))?.json();
    let task = status["tasks"].get(0).filter(|task| task["state"] == "RUNNING")?;
    let id = task["worker_id"].as_str()?.to_owned();
    workers.iter().position(|worker| id == format!("127.0.0.1:{}", worker.port))
}

/// Stops a worker in its sleep until it has a transaction open; answers how often it was stopped.
fn stop_in_transaction(worker: &Daemon, ends: &Ends) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut stops = 0;
    loop {
        worker.signal("STOP");
        stops += 1;
        // What it had sent before may end the transaction a little later.
        if ends.open() && ends.open() && ends.open() {
            return stops;
        }
        worker.signal("CONT");
        assert!(
            Instant::now() < deadline,
            "{stops} stops, and no transaction was open:\n{}",
            worker.explain()
        );
        std::thread::sleep(Duration::from_millis(7));
    }
}

/// Asks where the topics of the workload end, for readers of committed records and really.
struct Ends {
    committed: BaseConsumer,
    all: BaseConsumer,
}

impl Ends {
    fn of(kafka: &Kafka) -> Self {
        let client = |isolation: &str| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", kafka.servers()).set("isolation.level", isolation);
            config.create().unwrap()
        };
        Self { committed: client("read_committed"), all: client("read_uncommitted") }
    }

    /// Whether a transaction that has written something is open.
    fn open(&self) -> bool {
        let end = |client: &BaseConsumer, topic: &str, partition| {
            client.fetch_watermarks(topic, partition, Duration::from_secs(10)).unwrap().1
        };
        ledger::COLUMNS.iter().any(|(table, _)| {
            let topic = format!("shop.public.{table}");
            let partitions = 0..i32::try_from(PARTITIONS).unwrap();
            partitions.into_iter().any(|n| end(&self.committed, &topic, n) < end(&self.all, &topic, n))
        })
    }
}
