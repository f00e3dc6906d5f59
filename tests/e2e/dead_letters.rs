//! Dead letters brought back: to whom they belong, once each, whoever dies meanwhile.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{
    daemon::{Daemon, said},
    kafka::Kafka,
    postgres::Database,
    receiver::Receiver,
    rig,
};

/// The port range of the cluster of this file.
const KAFKA_PORT: u16 = 19_892;

const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, amount int)";

/// A step that can't handle rows whose amount is 50.
fn ratio() -> Value {
    json!([{ "type": "filter", "name": "ratio", "condition": "1000 / (after.amount - 50) != 7", "when": "op != 'd'" }])
}

fn tolerant(mut connector: Value, topic: &str, transforms: Value) -> Value {
    connector["errors"] = json!({ "tolerance": "all", "dead_letter_topic": topic });
    connector["transforms"] = transforms;
    connector
}

fn dead_letters(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let url = format!("http://127.0.0.1:{}", daemon.port);
    let out = daemon.cli(&[&["dead-letters"], arguments, &["--url", &url]].concat());
    (out.status.code(), said(&out))
}

fn until_rows(daemon: &Daemon, target: &Database, rows: i64) {
    daemon.until(&format!("{rows} rows are in the target"), || {
        let there = target.sql.one("SELECT to_regclass('orders')").is_some();
        (there && target.sql.number("SELECT count(*) FROM orders") == rows).then_some(())
    });
}

/// Replaces a connector, and waits until it runs as it is now and no more as it was.
fn replace(daemon: &Daemon, connector: &Value) {
    let name = connector["name"].as_str().unwrap();
    let starts = || {
        let log = daemon.log();
        log.lines().filter(|line| line.contains("connector started") && line.contains(name)).count()
    };
    let before = starts();
    daemon.connector(connector);
    daemon.until(&format!("{name} is started anew"), || (starts() > before).then_some(()));
}

/// The other reader of the topic had no trouble with the record and does not get it again; the sink that refused it gets it once.
#[test]
fn a_letter_goes_back_to_the_sink_that_refused_it_once() {
    let (source, target) = (Database::new("dl_src"), Database::new("dl_dst"));
    source.sql.run(ORDERS);
    source.sql.run("INSERT INTO orders SELECT i, i * 10 FROM generate_series(1, 10) i");
    let receiver = Receiver::kind();
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({})));
    daemon.connector(&rig::webhook(&receiver, json!({})));
    daemon.connector(&tolerant(rig::sink(&target, json!({})), "warehouse.dead", ratio()));
    daemon.start();
    until_rows(&daemon, &target, 9);
    daemon.until("the other reader has all", || (receiver.accepted() == 10).then_some(()));
    daemon.until("the letter is there", || daemon.topic_end("warehouse.dead").filter(|end| *end == 1));

    let (code, told) = dead_letters(&daemon, &["list"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("warehouse  warehouse.dead  1        0") && told.contains("(TRANSFORMATION)"),
        "{told}"
    );
    let (_, told) = dead_letters(&daemon, &["show", "warehouse"]);
    for expected in [
        "warehouse.dead-0 @0",
        "from   shop.public.orders-0 @4, task 0",
        "transform `ratio`",
        "\"amount\":50",
    ] {
        assert!(told.contains(expected), "missing {expected:?} in:\n{told}");
    }
    let (code, told) = dead_letters(&daemon, &["redrive", "hooks", "--all"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("has no dead letter topic"), "{told}");

    // Without the cause being mended it becomes a letter again, which names the same place.
    let (code, told) = dead_letters(&daemon, &["redrive", "warehouse", "--where", "TRANSFORMATION"]);
    assert_eq!(
        (code, told.lines().next()),
        (Some(0), Some("warehouse: 1 redriven, to `warehouse` alone; durable"))
    );
    daemon.until("it is a letter again", || daemon.topic_end("warehouse.dead").filter(|end| *end == 2));
    let (_, told) = dead_letters(&daemon, &["show", "warehouse", "--waiting"]);
    assert!(told.contains("@1  ") && told.contains("from   shop.public.orders-0 @4"), "{told}");
    assert!(!told.contains("redriven"), "{told}");

    replace(&daemon, &tolerant(rig::sink(&target, json!({})), "warehouse.dead", json!([])));
    let (code, told) = dead_letters(&daemon, &["redrive", "warehouse", "--all"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("1 redriven") && told.contains("1 had been redriven before"), "{told}");
    until_rows(&daemon, &target, 10);
    for to in [&["redrive", "warehouse", "--all"][..], &["redrive", "warehouse", "--all", "--to-topic"]] {
        let (_, told) = dead_letters(&daemon, to);
        assert!(told.contains("0 redriven") && told.contains("2 had been redriven before"), "{told}");
    }
    assert_eq!(daemon.topic_end("rowstream.redrive.warehouse"), Some(2));
    assert_eq!(daemon.topic_end("shop.public.orders"), Some(10));
    // Whatever comes later comes to both: nothing of the redrive is on its way to the other reader.
    source.sql.run("INSERT INTO orders VALUES (11, 1)");
    daemon.until("the next row is delivered", || (receiver.accepted() >= 11).then_some(()));
    assert_eq!(receiver.count(), 11);
    let (_, told) = dead_letters(&daemon, &["list", "--json"]);
    assert!(told.contains("\"redriven\": 2"), "{told}");
}

/// To the topic, for all its readers: the record as it was, with the place it comes from.
#[test]
fn a_letter_goes_to_its_topic_when_that_is_asked_for() {
    let (source, target) = (Database::new("dt_src"), Database::new("dt_dst"));
    source.sql.run(ORDERS);
    source.sql.run("INSERT INTO orders SELECT i, i * 10 FROM generate_series(1, 10) i");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({})));
    daemon.connector(&tolerant(rig::sink(&target, json!({})), "warehouse.dead", ratio()));
    daemon.start();
    daemon.until("the letter is there", || daemon.topic_end("warehouse.dead").filter(|end| *end == 1));
    replace(&daemon, &tolerant(rig::sink(&target, json!({})), "warehouse.dead", json!([])));
    let (code, told) = dead_letters(&daemon, &["redrive", "warehouse", "--offset", "0", "--to-topic"]);
    assert_eq!(code, Some(0), "{told}");
    until_rows(&daemon, &target, 10);
    let read = daemon.request("GET", "/topics/shop.public.orders/records?offset=10", None).text();
    let record: Value = serde_json::from_str(read.trim()).unwrap();
    assert_eq!(record["value"]["after"], json!({ "id": 5, "amount": 50 }));
    let headers = record["headers"].as_array().unwrap();
    assert!(
        !headers.iter().any(|h| h["name"].as_str().unwrap().starts_with("__connect.errors")),
        "{headers:?}"
    );
    let redriven = headers.iter().find(|h| h["name"] == "__rowstream.redriven").unwrap();
    let from: Value = serde_json::from_str(redriven["value"].as_str().unwrap()).unwrap();
    assert_eq!((&from["dead_letters"], &from["offset"]), (&json!("warehouse.dead"), &json!(4)));
}

/// Many letters, two who ask for them at a time, and a daemon that is killed again and again while it brings them back: the redrive topic
/// holds each once.
#[test]
fn each_letter_comes_back_once_under_sigkill() {
    come_back_once(&Daemon::new(json!({})), 20_000);
}

#[test]
fn each_letter_comes_back_once_over_kafka_under_sigkill() {
    let kafka = Kafka::empty(KAFKA_PORT);
    let _wiped = kafka.until_dropped();
    come_back_once(&Daemon::on_kafka(&kafka, 3), 6_000);
}

fn come_back_once(daemon: &Daemon, letters: i64) {
    let (source, target) = (Database::new("dk_src"), Database::new("dk_dst"));
    source.sql.run(ORDERS);
    source.sql.run(&format!("INSERT INTO orders SELECT i, 50 FROM generate_series(1, {letters}) i"));
    daemon.connector(&rig::source(&source, json!({})));
    daemon.connector(&tolerant(rig::sink(&target, json!({})), "warehouse.dead", ratio()));
    daemon.start();
    let waiting = || dead_letters(daemon, &["list", "--json"]).1;
    daemon.until("all are letters", || waiting().contains(&format!("\"records\": {letters},")).then_some(()));
    replace(daemon, &tolerant(rig::sink(&target, json!({})), "warehouse.dead", json!([])));
    let topic = "rowstream.redrive.warehouse";
    let limit = (letters / 4).to_string();
    for round in 1..=4 {
        let before = daemon.topic_end(topic).unwrap_or(0);
        std::thread::scope(|scope| {
            let ask = || dead_letters(daemon, &["redrive", "warehouse", "--all", "--limit", &limit]);
            let (asked, other) = (scope.spawn(ask), scope.spawn(ask));
            daemon.until("some of them are written", || {
                let over = asked.is_finished() && other.is_finished();
                (over || daemon.topic_end(topic).unwrap_or(0) > before).then_some(())
            });
            if round > 1 {
                daemon.kill_running();
            }
            asked.join().unwrap();
            other.join().unwrap();
        });
        if round > 1 {
            daemon.start();
        }
    }
    // After a kill the first answer may be that the worker is not ready for it yet.
    let told = daemon.until("a redrive ends well", || {
        let (code, told) = dead_letters(daemon, &["redrive", "warehouse", "--all"]);
        (code == Some(0)).then_some(told)
    });
    let records = daemon.records(topic);
    let ids: BTreeSet<i64> = records.iter().map(|record| record.key["id"].as_i64().unwrap()).collect();
    assert_eq!(
        (i64::try_from(records.len()), i64::try_from(ids.len())),
        (Ok(letters), Ok(letters)),
        "{told}"
    );
    until_rows(daemon, &target, letters);
    let (_, told) = dead_letters(daemon, &["redrive", "warehouse", "--all"]);
    assert!(told.contains("warehouse: 0 redriven"), "{told}");
}

/// A source's letter holds the record as it was before the transforms, and goes through those that are there now.
#[test]
fn a_letter_of_a_source_goes_through_its_mended_transforms() {
    let source = Database::new("ds_src");
    source.sql.run(ORDERS);
    source.sql.run("INSERT INTO orders SELECT i, i * 10 FROM generate_series(1, 10) i");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&tolerant(rig::source(&source, json!({})), "shop.dead", ratio()));
    daemon.start();
    daemon.until("the letter is there", || daemon.topic_end("shop.dead").filter(|end| *end == 1));
    daemon.until("the others are there", || daemon.topic_end("shop.public.orders").filter(|end| *end == 9));
    let (_, told) = dead_letters(&daemon, &["show", "shop"]);
    assert!(told.contains("from   meant for shop.public.orders") && told.contains("\"amount\":50"), "{told}");
    // It is refused as before, and stays.
    let (code, told) = dead_letters(&daemon, &["redrive", "shop", "--all"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("shop: 0 redriven") && told.contains("1 left: ") && told.contains("`ratio`"),
        "{told}"
    );
    let mended = json!([{ "type": "rename", "fields": { "amount": "cents" } }]);
    replace(&daemon, &tolerant(rig::source(&source, json!({})), "shop.dead", mended));
    daemon.until_streaming("shop");
    let (code, told) = dead_letters(&daemon, &["redrive", "shop", "--all"]);
    assert_eq!(code, Some(0), "{told}");
    let last = daemon.records("shop.public.orders").pop().unwrap();
    assert_eq!(
        (last.key, last.value["after"].clone()),
        (json!({ "id": 5 }), json!({ "id": 5, "cents": 50 }))
    );
    let (_, told) = dead_letters(&daemon, &["redrive", "shop", "--all"]);
    assert!(told.contains("0 redriven"), "{told}");
    assert_eq!(daemon.topic_end("shop.public.orders"), Some(10));
}
