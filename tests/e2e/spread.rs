//! The tasks of one connector on several workers: who runs what, what moves when workers come and go, and what reaches all of them.

mod fleet;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use crate::{
    python::python,
    support::{SetWhenDropped, daemon::Daemon, kafka::Kafka, one_at_a_time, receiver::Receiver, rig},
};

use fleet::{Fleet, Shop, others};

/// The port range of these tests' broker.
const KAFKA_PORT: u16 = 19_492;
/// Partitions of a topic, and tasks of a sink.
const TASKS: u32 = 6;

/// Three workers run six tasks of each of two sinks, and their source. One is killed, one comes back, one sleeps past its session and
/// wakes up, all are restarted one after the other, and the number of tasks changes, on one worker after the other.
#[test]
fn three_workers_share_the_tasks_of_each_sink() {
    let _turn = one_at_a_time();
    let kafka = Kafka::empty(KAFKA_PORT);
    let _wiped = kafka.until_dropped();
    let (shop, fleet) = (Shop::new(), Fleet::new(&kafka, 3));
    let tasks = |count: u32| {
        let count = usize::try_from(count).unwrap();
        BTreeMap::from([("shop", 1), ("warehouse", count), ("history", count)])
    };
    let configure = |worker: &Daemon, count: u32| {
        shop.connectors(count).iter().for_each(|connector| worker.connector(connector));
    };
    fleet.0.iter().for_each(|worker| configure(worker, TASKS));
    fleet.0.iter().for_each(Daemon::spawn);
    let wanted = tasks(TASKS);
    fleet.settled("start", &[0, 1, 2], &wanted);
    fleet.0[0].until_streaming("shop");

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = SetWhenDropped(&stop);
        scope.spawn(|| shop.write_until(&stop));
        let recovers = |what: &str, alive: &[usize], wanted: &BTreeMap<&str, usize>| {
            fleet.recovers(&shop, what, alive, wanted)
        };
        recovers("start", &[0, 1, 2], &wanted);

        fleet.0[1].kill();
        let before = recovers("one of three was killed", &others(1), &wanted);
        fleet.comes_back(1);
        let after = recovers("one was added", &[0, 1, 2], &wanted);
        let newcomer = fleet.id(1);
        for (task, place) in after.iter().filter(|(_, place)| place.worker != newcomer) {
            assert_eq!(
                before[task], *place,
                "{task} was disturbed, though it does not run on the new worker"
            );
        }

        fleet.0[2].signal("STOP");
        recovers("one fell asleep past its session", &others(2), &wanted);
        let gained = fleet.gained(2);
        fleet.0[2].signal("CONT");
        fleet.gets_its_share(2, gained);
        recovers("it woke up", &[0, 1, 2], &wanted);

        for worker in 0..3 {
            assert!(fleet.0[worker].stop().success());
            recovers(&format!("worker {worker} was told to stop"), &others(worker), &wanted);
            fleet.comes_back(worker);
        }
        recovers("all were restarted", &[0, 1, 2], &wanted);

        // Workers disagree for a while: some partitions are read twice, some not at all.
        for count in [4, 7, TASKS] {
            for worker in 0..3 {
                configure(&fleet.0[worker], count);
                let worker = &fleet.0[worker];
                worker.until("it has read that", || {
                    let config = worker.get("/connectors/history/config");
                    config["tasks_max"].as_str().filter(|told| told.parse() == Ok(count)).map(|_| ())
                });
            }
            recovers(&format!("all have {count} tasks"), &[0, 1, 2], &tasks(count));
        }
    });
    shop.judge(|| fleet.0[0].explain());
    fleet.0.iter().for_each(Daemon::kill);
}

/// A group that rests goes over to the new protocol (KIP-848: the brokers assign); then one worker is killed, one comes back, one sleeps
/// past its session, one stops.
#[test]
fn a_group_whose_brokers_assign_loses_and_doubles_nothing() {
    let _turn = one_at_a_time();
    let sessions = "group.consumer.session.timeout.ms=6000\ngroup.consumer.min.session.timeout.ms=6000\n\
                    group.consumer.heartbeat.interval.ms=1000\ngroup.consumer.min.heartbeat.interval.ms=1000";
    let kafka = Kafka::of(KAFKA_PORT, 1, sessions);
    let _wiped = kafka.until_dropped();
    let (shop, fleet) = (Shop::new(), Fleet::new(&kafka, 3));
    for worker in &fleet.0 {
        shop.connectors(TASKS).iter().for_each(|connector| worker.connector(connector));
        worker.spawn();
    }
    let count = usize::try_from(TASKS).unwrap();
    let wanted = BTreeMap::from([("shop", 1), ("warehouse", count), ("history", count)]);
    fleet.settled("start", &[0, 1, 2], &wanted);
    fleet.0[0].until_streaming("shop");
    fleet.0.iter().for_each(|worker| assert!(worker.stop().success()));
    for worker in 0..3 {
        fleet.0[worker].set_log("group_protocol", &json!("consumer"));
        fleet.comes_back(worker);
    }
    fleet.settled("the start with the new protocol", &[0, 1, 2], &wanted);

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = SetWhenDropped(&stop);
        scope.spawn(|| shop.write_until(&stop));
        let recovers =
            |what: &str, alive: &[usize]| fleet.recovers(&shop, &format!("KIP-848: {what}"), alive, &wanted);
        recovers("start", &[0, 1, 2]);
        fleet.0[1].kill();
        recovers("one of three was killed", &others(1));
        fleet.comes_back(1);
        recovers("one was added", &[0, 1, 2]);
        fleet.0[2].signal("STOP");
        recovers("one fell asleep past its session", &others(2));
        let gained = fleet.gained(2);
        fleet.0[2].signal("CONT");
        fleet.gets_its_share(2, gained);
        recovers("it woke up", &[0, 1, 2]);
        assert!(fleet.0[0].stop().success());
        recovers("one was told to stop", &others(0));
    });
    shop.judge(|| fleet.0[1].explain());
    fleet.0[1..].iter().for_each(Daemon::kill);
}

/// Makes something else of a task's status, as a worker would that wakes up in the middle of telling it.
fn lie(kafka: &Kafka, key: &Value, status: &Value) {
    let lie = "
import sys
from confluent_kafka import Producer
servers, key, value = sys.argv[1:4]
producer = Producer({'bootstrap.servers': servers})
producer.produce('e2e-state', value, key, partition=0)
assert producer.flush(30) == 0
";
    let python = python().expect("confluent-kafka can be installed by pip");
    let arguments = ["-c", lie, kafka.servers(), &key.to_string(), &status.to_string()];
    let out = Command::new(python).args(arguments).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Whatever is asked of a connector reaches its tasks on every worker, whichever worker was asked; and nothing runs anywhere when its
/// offsets go.
#[test]
fn commands_reach_the_tasks_on_every_worker() {
    let _turn = one_at_a_time();
    let kafka = Kafka::empty(KAFKA_PORT);
    let _wiped = kafka.until_dropped();
    let (shop, receiver, fleet) = (Shop::new(), Receiver::kind(), Fleet::new(&kafka, 2));
    let [source, ..] = shop.connectors(1);
    let [a, b] = [&fleet.0[0], &fleet.0[1]];
    for worker in [a, b] {
        worker.connector(&source);
        worker.start();
        worker.until("it has a share", || worker.log().contains("shards gained").then_some(()));
    }
    shop.source.sql.run("INSERT INTO orders SELECT i, 0, 'old' FROM generate_series(1, 300) i");
    let config = json!({
        "connector.class": "webhook", "topics": "shop.*", "tasks.max": TASKS.to_string(), "url": receiver.url(),
        "signing.secrets": rig::WEBHOOK_SECRET, "timeout": "2s",
    });
    let made = a.request("POST", "/connectors", Some(&json!({ "name": "hooks", "config": config })));
    assert_eq!(made.status, 201, "{}", made.text());
    let wanted = BTreeMap::from([("hooks", usize::try_from(TASKS).unwrap())]);
    let places = fleet.settled("start", &[0, 1], &wanted);
    let workers: BTreeSet<&String> = places.values().map(|place| &place.worker).collect();
    assert_eq!(workers.len(), 2, "one worker runs all tasks: {places:?}");
    a.until("all is delivered", || (receiver.accepted() >= 300).then_some(()));

    restarts_reach_their_tasks(&fleet, &wanted);

    assert_eq!(b.request("PUT", "/connectors/hooks/pause", None).status, 202);
    for worker in [a, b] {
        worker.until("all are paused", || {
            let status = worker.get("/connectors/hooks/status");
            let tasks = status["tasks"].as_array()?;
            let paused = tasks.iter().filter(|task| task["state"] == "PAUSED").count();
            (paused == tasks.len() && paused > 1 && status["connector"]["state"] == "PAUSED").then_some(())
        });
    }
    assert_eq!(a.request("PUT", "/connectors/hooks/resume", None).status, 202);
    fleet.settled("it was resumed", &[0, 1], &wanted);

    // A lie about each task, and one about a task that does not exist.
    for number in 0..=TASKS {
        let status = json!({ "id": number, "state": "FAILED", "worker_id": "nowhere:1", "trace": "a lie" });
        lie(&kafka, &json!(["task_statuses", format!("{number}/hooks")]), &status);
    }
    fleet.settled("lies were told", &[0, 1], &wanted);

    stopped_everywhere(&shop, &receiver, &fleet);
    let before = receiver.count();
    assert_eq!(a.request("PUT", "/connectors/hooks/resume", None).status, 202);
    fleet.settled("it was resumed", &[0, 1], &wanted);
    let rows = usize::try_from(shop.committed.load(Ordering::SeqCst)).unwrap() + 300;
    a.until("all is delivered again", || {
        (receiver.count() >= before + rows && receiver.accepted() >= rows).then_some(())
    });
    assert_eq!(receiver.accepted(), rows, "deliveries have other ids than before");

    assert_eq!(b.request("DELETE", "/connectors/hooks", None).status, 204);
    for worker in [a, b] {
        worker.until("it is gone", || (worker.get("/connectors") == json!(["shop"])).then_some(()));
        assert_eq!(worker.request("GET", "/connectors/hooks/status", None).status, 404);
    }
    // One of the same name is new: it runs, and begins where the log does.
    let before = receiver.count();
    let made = b.request("POST", "/connectors", Some(&json!({ "name": "hooks", "config": config })));
    assert_eq!(made.status, 201, "{}", made.text());
    fleet.settled("it was made again", &[0, 1], &wanted);
    b.until("all is delivered once more", || (receiver.count() >= before + rows).then_some(()));
    made_and_deleted_by_turns(&fleet, &config);
    fleet.0.iter().for_each(Daemon::kill);
}

/// A connector is made by one worker and deleted by the other, again and again: whoever is asked answers for itself, however soon the
/// workers learn of it from each other or from what they stored themselves.
fn made_and_deleted_by_turns(fleet: &Fleet, config: &Value) {
    let body = json!({ "name": "fleeting", "config": config, "initial_state": "STOPPED" });
    for round in 0..20 {
        let (makes, deletes) = (&fleet.0[round % 2], &fleet.0[(round + 1) % 2]);
        let made = makes.request("POST", "/connectors", Some(&body));
        assert_eq!(made.status, 201, "round {round}: {}", made.text());
        let there = makes.request("GET", "/connectors/fleeting/config", None);
        assert_eq!(there.status, 200, "round {round}: {}", there.text());
        deletes.until("it knows of it", || {
            (deletes.request("GET", "/connectors/fleeting/status", None).status == 200).then_some(())
        });
        let deleted = deletes.request("DELETE", "/connectors/fleeting", None);
        assert_eq!(deleted.status, 204, "round {round}: {}", deleted.text());
        makes.until("it is gone", || {
            (makes.request("GET", "/connectors/fleeting/status", None).status == 404).then_some(())
        });
    }
}

/// One task is restarted alone, all together, whichever worker is asked.
fn restarts_reach_their_tasks(fleet: &Fleet, wanted: &BTreeMap<&str, usize>) {
    let [a, b] = [&fleet.0[0], &fleet.0[1]];
    for (worker, number) in [a, b].into_iter().flat_map(|worker| (0..TASKS).map(move |n| (worker, n))) {
        let before = fleet.settled("a restart", &[0, 1], wanted);
        let restarted = worker.request("POST", &format!("/connectors/hooks/tasks/{number}/restart"), None);
        assert_eq!(restarted.status, 204, "{}", restarted.text());
        let name = format!("hooks-{number}");
        let after = worker.until(&format!("{name} restarts"), || {
            fleet.places(0, wanted).filter(|places| places[&name].since_ms > before[&name].since_ms)
        });
        for (task, place) in after.iter().filter(|(task, _)| **task != name) {
            assert_eq!(before[task], *place, "{task} was restarted with {name}");
        }
    }
    assert_eq!(a.request("POST", &format!("/connectors/hooks/tasks/{TASKS}/restart"), None).status, 404);
    let before = fleet.settled("single restarts", &[0, 1], wanted);
    assert_eq!(b.request("POST", "/connectors/hooks/restart", None).status, 204);
    a.until("all are restarted", || {
        let after = fleet.places(0, wanted)?;
        after.iter().all(|(task, place)| place.since_ms > before[task].since_ms).then_some(())
    });
}

/// Stops `hooks` at one worker and at once has its offsets forgotten by the other, under load, again and again: when that is answered,
/// nothing is delivered any more, and no position is stored.
fn stopped_everywhere(shop: &Shop, receiver: &Receiver, fleet: &Fleet) {
    let [a, b] = [&fleet.0[0], &fleet.0[1]];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = SetWhenDropped(&stop);
        scope.spawn(|| {
            let sql = shop.source.connect();
            let mut id = 300;
            while !stop.load(Ordering::SeqCst) {
                id += 1;
                sql.run(&format!("INSERT INTO orders VALUES ({id}, 0, 'new')"));
                shop.committed.fetch_add(1, Ordering::SeqCst);
            }
        });
        for round in 0..5 {
            let before = receiver.count();
            a.until("it delivers", || (receiver.count() > before + 20).then_some(()));
            assert_eq!(a.request("PUT", "/connectors/hooks/stop", None).status, 204);
            let forgotten = b.request("DELETE", "/connectors/hooks/offsets", None);
            let delivered = receiver.count();
            assert_eq!(forgotten.status, 200, "{}", forgotten.text());
            let end = b.topic_end("shop.public.orders").unwrap();
            b.until("more could be delivered", || {
                (b.topic_end("shop.public.orders").unwrap() > end + 50).then_some(())
            });
            assert_eq!(receiver.count(), delivered, "round {round}: a task still ran");
            for worker in [a, b] {
                assert_eq!(
                    worker.get("/connectors/hooks/offsets"),
                    json!({ "offsets": [] }),
                    "round {round}"
                );
                worker.until("it says that it is stopped", || {
                    let status = worker.get("/connectors/hooks/status");
                    (status["tasks"] == json!([]) && status["connector"]["state"] == "STOPPED").then_some(())
                });
            }
            // Stopped again as soon as some of its tasks run.
            if round < 4 {
                assert_eq!(b.request("PUT", "/connectors/hooks/resume", None).status, 202);
            }
        }
    });
}
