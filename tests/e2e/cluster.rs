//! Several workers on one Kafka: they share the connectors, and nobody needs to be called when one of them goes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    SetWhenDropped, daemon::Daemon, kafka::Kafka, note, one_at_a_time, postgres::Database,
    receiver::Receiver, rig, until,
};

/// The port range of this test's broker.
const KAFKA_PORT: u16 = 19_492;
const SHOPS: usize = 4;

/// A database with one table, its copy, and a receiver; three connectors, numbered.
struct Shop {
    number: usize,
    source: Database,
    target: Database,
    receiver: Receiver,
}

impl Shop {
    fn new(number: usize) -> Self {
        let (source, target) = (Database::new("fleet_src"), Database::new("fleet_dst"));
        // A worker that sleeps keeps its connection, and with it the slot, until the server gives up on it.
        source.sql.run(&format!("ALTER DATABASE \"{}\" SET wal_sender_timeout = '4s'", source.name));
        for database in [&source, &target] {
            database.sql.run("CREATE TABLE orders (id bigint PRIMARY KEY, note text)");
        }
        Self { number, source, target, receiver: Receiver::kind() }
    }

    fn name(&self, part: &str) -> String {
        format!("{part}{}", self.number)
    }

    fn topic(&self) -> String {
        format!("shop{}.public.orders", self.number)
    }

    fn connectors(&self) -> [Value; 3] {
        let mut source = rig::source(&self.source, json!({ "topic_prefix": self.name("shop") }));
        source["name"] = json!(self.name("shop"));
        let mut sink = rig::sink(&self.target, json!({}));
        sink["name"] = json!(self.name("warehouse"));
        let mut hooks = rig::webhook(&self.receiver, json!({}));
        hooks["name"] = json!(self.name("hooks"));
        sink["topics"] = json!([format!("shop{}.*", self.number)]);
        hooks["topics"] = sink["topics"].clone();
        [source, sink, hooks]
    }

    /// Inserts a row now and then, one transaction each, until `stop`.
    fn write_until(&self, stop: &AtomicBool) {
        let sql = self.source.connect();
        for id in 1.. {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            sql.run(&format!("INSERT INTO orders VALUES ({id}, 'note {id}')"));
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    fn newest(&self, database: &Database) -> i64 {
        database.sql.number("SELECT coalesce(max(id), 0) FROM orders")
    }

    /// Each row is once in the topic, in the order of its key, is in the target, and was delivered under one id with one body.
    fn judge(&self, worker: &Daemon) -> usize {
        let rows = self.source.sql.rows("SELECT id, note FROM orders ORDER BY id");
        until(
            "the target has all rows",
            || worker.explain(),
            || (self.target.sql.rows("SELECT id, note FROM orders ORDER BY id") == rows).then_some(()),
        );
        let records = worker.records(&self.topic());
        let mut told: Vec<i64> = records
            .iter()
            .map(|record| {
                assert_eq!(record.value["op"], "c", "{}: {:?}", self.topic(), record.value);
                record.value["after"]["id"].as_i64().unwrap()
            })
            .collect();
        let newest: HashMap<i64, i64> = HashMap::new();
        records.iter().fold(newest, |mut newest, record| {
            let id = record.value["after"]["id"].as_i64().unwrap();
            let last = newest.insert(record.partition, id);
            assert!(last.is_none_or(|last| last < id), "{}: {id} comes after {last:?}", self.topic());
            newest
        });
        told.sort_unstable();
        let wanted: Vec<i64> = (1..=i64::try_from(rows.len()).unwrap()).collect();
        assert_eq!(told, wanted, "{}: rows are missing or doubled", self.topic());
        until(
            "all are delivered",
            || worker.explain(),
            || (self.receiver.accepted() >= rows.len()).then_some(()),
        );
        let mut bodies: HashMap<String, Vec<u8>> = HashMap::new();
        for delivery in self.receiver.deliveries() {
            let first = bodies.entry(delivery.id.clone()).or_insert_with(|| delivery.body.clone());
            assert_eq!(*first, delivery.body, "{} came with two bodies", delivery.id);
        }
        assert_eq!(bodies.len(), rows.len(), "{}: deliveries are missing or invented", self.topic());
        rows.len()
    }
}

/// The workers; some may be down.
struct Fleet {
    workers: Vec<Daemon>,
    shops: Vec<Shop>,
}

impl Fleet {
    /// Who runs what, as `asked` tells it; `None` until everything runs.
    fn owners(&self, asked: usize) -> Option<HashMap<String, String>> {
        let all = self.workers[asked].try_get("/connectors?expand=status")?.json();
        let mut owners = HashMap::new();
        for (name, whole) in all.as_object()? {
            let task = whole["status"]["tasks"].get(0)?;
            if task["state"] != "RUNNING" {
                return None;
            }
            owners.insert(name.clone(), task["worker_id"].as_str()?.to_owned());
        }
        (owners.len() == 3 * SHOPS).then_some(owners)
    }

    fn id(&self, worker: usize) -> String {
        format!("127.0.0.1:{}", self.workers[worker].port)
    }

    /// Waits until everything runs on `alive` only, and what was written after this call is in every target; says how long that took.
    fn recovers(&self, what: &str, alive: &[usize]) {
        let started = Instant::now();
        let marks: Vec<i64> = self.shops.iter().map(|shop| shop.newest(&shop.source) + 1).collect();
        let ids: BTreeSet<String> = alive.iter().map(|worker| self.id(*worker)).collect();
        let asked = alive[0];
        let explain = || self.workers[asked].explain();
        until(&format!("everything runs after {what}"), explain, || {
            self.owners(asked).filter(|owners| owners.values().all(|owner| ids.contains(owner)))
        });
        let assigned = started.elapsed();
        until(&format!("rows flow after {what}"), explain, || {
            let flows = |(shop, mark): (&Shop, &i64)| shop.newest(&shop.target) >= *mark;
            self.shops.iter().zip(&marks).all(flows).then_some(())
        });
        note(&format!(
            "{what}: everything runs after {:.1} s, new rows are in every target after {:.1} s",
            assigned.as_secs_f64(),
            started.elapsed().as_secs_f64()
        ));
    }

    /// The worker that runs most, so that it hurts when it goes.
    fn busiest(&self) -> usize {
        let owners = until("everything runs", || self.workers[0].explain(), || self.owners(0));
        let runs = |worker: &usize| owners.values().filter(|owner| **owner == self.id(*worker)).count();
        (0..self.workers.len()).max_by_key(runs).unwrap()
    }

    /// Starts a worker and waits until it has got shards.
    fn comes_back(&self, worker: usize) {
        let before = self.gained(worker);
        self.workers[worker].start();
        until(
            "the worker gets its share",
            || self.workers[worker].explain(),
            || (self.gained(worker) > before).then_some(()),
        );
    }

    fn gained(&self, worker: usize) -> usize {
        self.workers[worker].log().matches("shards gained").count()
    }
}

fn others(worker: usize) -> Vec<usize> {
    (0..3).filter(|other| *other != worker).collect()
}

/// Three workers and twelve connectors: one is killed, one comes back, one sleeps past its session and wakes up, all are restarted one
/// after the other. Whatever happens, each row is told once and arrives once.
#[test]
fn three_workers_share_twelve_connectors() {
    let _turn = one_at_a_time();
    let kafka = Kafka::empty(KAFKA_PORT);
    let _wiped = kafka.until_dropped();
    let shops: Vec<Shop> = (0..SHOPS).map(Shop::new).collect();
    let workers: Vec<Daemon> = (0..3).map(|_| Daemon::in_group(&kafka, 3)).collect();
    for (worker, shop) in workers.iter().flat_map(|w| shops.iter().map(move |s| (w, s))) {
        shop.connectors().iter().for_each(|connector| worker.connector(connector));
    }
    workers.iter().for_each(Daemon::spawn);
    let fleet = Fleet { workers, shops };
    let owners =
        until("everything runs", || fleet.workers.iter().map(Daemon::explain).collect(), || fleet.owners(0));
    let used: BTreeSet<&String> = owners.values().collect();
    assert!(used.len() > 1, "one worker runs it all: {owners:?}");
    fleet.shops.iter().for_each(|shop| fleet.workers[0].until_streaming(&shop.name("shop")));

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = SetWhenDropped(&stop);
        for shop in &fleet.shops {
            scope.spawn(|| shop.write_until(&stop));
        }
        fleet.recovers("start", &[0, 1, 2]);

        let killed = fleet.busiest();
        fleet.workers[killed].kill();
        fleet.recovers("one of three was killed", &others(killed));
        fleet.comes_back(killed);
        fleet.recovers("one was added", &[0, 1, 2]);

        let sleeper = fleet.busiest();
        fleet.workers[sleeper].signal("STOP");
        fleet.recovers("one fell asleep past its session", &others(sleeper));
        let before = fleet.gained(sleeper);
        fleet.workers[sleeper].signal("CONT");
        until(
            "the sleeper is let in again",
            || fleet.workers[sleeper].explain(),
            || (fleet.gained(sleeper) > before).then_some(()),
        );
        fleet.recovers("it woke up", &[0, 1, 2]);

        for worker in 0..3 {
            assert!(fleet.workers[worker].stop().success());
            fleet.recovers(&format!("worker {worker} was told to stop"), &others(worker));
            fleet.comes_back(worker);
        }
        fleet.recovers("all were restarted", &[0, 1, 2]);
    });
    let rows: usize = fleet.shops.iter().map(|shop| shop.judge(&fleet.workers[0])).sum();
    note(&format!("{rows} rows: each once in its topic, in its target, and delivered"));
    fleet.workers.iter().for_each(Daemon::kill);
}

/// Any worker answers for any connector: made by one, seen and changed by another, deleted by a third.
#[test]
fn any_worker_serves_any_connector() {
    let _turn = one_at_a_time();
    let kafka = Kafka::empty(KAFKA_PORT);
    let _wiped = kafka.until_dropped();
    let shop = Shop::new(7);
    let workers: Vec<Daemon> = (0..2).map(|_| Daemon::in_group(&kafka, 1)).collect();
    workers.iter().for_each(Daemon::start);
    let [a, b] = [&workers[0], &workers[1]];
    for worker in [a, b] {
        worker.until("it has a share", || worker.log().contains("shards gained").then_some(()));
    }
    let names: Vec<String> = (0..6).map(|n| format!("copy{n}")).collect();
    for name in &names {
        let config = json!({
            "connector.class": "postgres-sink", "topics": format!("{name}.*"),
            "connection.host": "127.0.0.1", "connection.port": shop.target.port.to_string(),
            "connection.database": shop.target.name, "connection.user": "postgres", "connection.tls.mode": "disable",
        });
        let made = a.request("POST", "/connectors", Some(&json!({ "name": name, "config": config })));
        assert_eq!(made.status, 201, "{}", made.text());
    }
    for (name, worker) in names.iter().flat_map(|n| [a, b].map(|w| (n, w))) {
        worker.until_state(name, "RUNNING");
    }
    let owner = |name: &str| b.get(&format!("/connectors/{name}/status"))["connector"]["worker_id"].clone();
    let owners: BTreeSet<String> = names.iter().map(|n| owner(n).to_string()).collect();
    assert_eq!(owners.len(), 2, "six connectors, all on {owners:?}");
    for name in &names {
        assert_eq!(b.request("PUT", &format!("/connectors/{name}/pause"), None).status, 202);
        a.until_state(name, "PAUSED");
        assert_eq!(a.request("PUT", &format!("/connectors/{name}/resume"), None).status, 202);
        b.until_state(name, "RUNNING");
        let restarted = b.request("POST", &format!("/connectors/{name}/tasks/0/restart"), None);
        assert_eq!(restarted.status, 204, "{}", restarted.text());
        b.until_state(name, "RUNNING");
        assert_eq!(b.request("DELETE", &format!("/connectors/{name}"), None).status, 204);
    }
    for worker in [a, b] {
        worker.until("all are gone", || (worker.get("/connectors") == json!([])).then_some(()));
    }
    // What is asked of a worker that does not run the source reaches the one that does.
    shop.source.sql.run("INSERT INTO orders VALUES (1, 'a'), (2, 'b')");
    let [source, ..] = shop.connectors();
    [a, b].iter().for_each(|worker| worker.connector(&source));
    for worker in [a, b] {
        worker.until_streaming("shop7");
        worker.until_state("shop7", "RUNNING");
    }
    let runs_it = owner("shop7");
    let other = if runs_it == json!(format!("127.0.0.1:{}", a.port)) { b } else { a };
    let body = json!({ "tables": ["public.orders"], "where": "id > 1" });
    let answer = other.request("POST", "/connectors/shop7/snapshot", Some(&body));
    assert_eq!(answer.status, 202, "{}", answer.text());
    other.until("the table is read again", || {
        (other.get("/connectors/shop7/snapshot")["state"] == "NONE").then_some(())
    });
    let told: Vec<(Value, Value)> = other
        .records(&shop.topic())
        .iter()
        .map(|r| (r.value["after"]["id"].clone(), r.value["source"]["snapshot"].clone()))
        .collect();
    let wanted = [(1, "first"), (2, "last"), (2, "incremental")].map(|(id, mark)| (json!(id), json!(mark)));
    assert_eq!(told, wanted);
}
