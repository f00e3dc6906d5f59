//! Transforms between real servers: what they make of a source's changes reaches the log exactly once, and what they make of the
//! log's records reaches a sink whose position passes the dropped ones too.

use serde_json::{Value, json};

use crate::support::{
    daemon::{Daemon, said},
    postgres::Database,
    rig,
};

const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, region text, amount int, secret text);
    ALTER TABLE orders REPLICA IDENTITY FULL";

fn with(mut connector: Value, transforms: &Value) -> Value {
    connector["transforms"] = transforms.clone();
    connector
}

fn insert(source: &Database, ids: std::ops::RangeInclusive<i64>) {
    source.sql.run(&format!(
        "INSERT INTO orders SELECT i, CASE i % 3 WHEN 0 THEN 'north' WHEN 1 THEN 'south' ELSE 'west' END, i * 10, 'hush ' || i
         FROM generate_series({}, {}) i",
        ids.start(),
        ids.end()
    ));
}

/// Each change goes to the topic of its region, without a column, killed again and again; the one of the west goes nowhere.
#[test]
fn a_source_routes_filters_and_drops_columns_exactly_once_under_sigkill() {
    let source = Database::new("tf_src");
    source.sql.run(ORDERS);
    let daemon = Daemon::new(json!({}));
    daemon.connector(&with(
        rig::source(&source, json!({})),
        &json!([
            { "type": "filter", "condition": "(op == 'd' ? before.region : after.region) != 'west'", "null_handling": "drop" },
            { "type": "route", "topic": "'orders.' + (op == 'd' ? before.region : after.region)" },
            { "type": "drop", "fields": ["secret"] },
            { "type": "rename", "fields": { "amount": "cents" }, "when": "topic == 'orders.north'" },
        ]),
    ));
    insert(&source, 1..=300);
    // What happens to a row before the slot is there is no change but part of the snapshot.
    daemon.start();
    daemon.until_streaming("shop");
    daemon.kill_running();
    for round in 0..6 {
        daemon.spawn();
        let (from, to) = (1_000 * (round + 1), 1_000 * (round + 1) + 299);
        insert(&source, from..=to);
        source
            .sql
            .run(&format!("UPDATE orders SET amount = amount + 1 WHERE id BETWEEN {from} AND {}", from + 99));
        source.sql.run(&format!("DELETE FROM orders WHERE id BETWEEN {from} AND {}", from + 29));
        if round % 2 == 0 {
            daemon.until("it has written something of this", || {
                daemon.topic_end("orders.north").filter(|end| *end > round * 100)
            });
        }
        daemon.kill_running();
    }
    daemon.start();
    for (region, remainder, amount) in [("north", 0, "cents"), ("south", 1, "amount")] {
        let topic = format!("orders.{region}");
        let expected = expected(remainder);
        daemon.until(&format!("{topic} has {} records", expected.len()), || {
            daemon.topic_end(&topic).filter(|end| usize::try_from(*end).unwrap() >= expected.len())
        });
        let mut arrived: Vec<(i64, String, i64)> = Vec::new();
        for record in daemon.records(&topic) {
            let op = record.value["op"].as_str().unwrap().to_owned();
            let row = if op == "d" { &record.value["before"] } else { &record.value["after"] };
            assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), ["id", "region", amount]);
            assert_eq!(record.key["id"], row["id"]);
            arrived.push((
                row["id"].as_i64().unwrap(),
                if op == "r" { "c".to_owned() } else { op },
                row[amount].as_i64().unwrap(),
            ));
        }
        // Stable: what happened to a row stays in its order.
        arrived.sort_by_key(|(id, _, _)| *id);
        assert_eq!(arrived, expected, "{topic}");
    }
    let topics = daemon.get("/topics");
    let names: Vec<&str> = topics.as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(!names.iter().any(|name| name.starts_with("shop.") || name.contains("west")), "{names:?}");
    let subjects = daemon.get("/subjects").to_string();
    assert!(subjects.contains("orders.north-value") && !subjects.contains("shop.public"), "{subjects}");
}

/// What the workload above did to the rows of one region, by id.
fn expected(remainder: i64) -> Vec<(i64, String, i64)> {
    let mut all = Vec::new();
    for id in
        (1..=300).chain((1..=6).flat_map(|n| 1_000 * n..=1_000 * n + 299)).filter(|id| id % 3 == remainder)
    {
        all.push((id, "c".to_owned(), id * 10));
        if id >= 1_000 && id % 1_000 < 100 {
            all.push((id, "u".to_owned(), id * 10 + 1));
        }
        if id >= 1_000 && id % 1_000 < 30 {
            all.push((id, "d".to_owned(), id * 10 + 1));
        }
    }
    all
}

/// Rows of one region, flat, in a table that the routed topic names; the position passes what was dropped, to the very end.
#[test]
fn a_sink_keeps_some_rows_and_passes_the_others() {
    let (source, target) = (Database::new("ts_src"), Database::new("ts_dst"));
    source.sql.run(ORDERS);
    insert(&source, 1..=90);
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({})));
    let sink = rig::sink(&target, json!({ "table": "public.${topic}" }));
    daemon.connector(&with(
        sink,
        &json!([
            { "type": "filter", "condition": "after.region == 'north'", "null_handling": "drop", "when": "op != 'd'" },
            { "type": "route", "regex": "shop\\.public\\.(.*)", "replacement": "north_$1" },
            { "type": "unwrap", "add_fields": ["op"] },
            { "type": "drop", "fields": ["secret", "region"] },
        ]),
    ));
    daemon.start();
    let sql = "SELECT id, amount, __op FROM north_orders ORDER BY id";
    let there =
        || target.sql.one("SELECT to_regclass('north_orders')").is_some().then(|| target.sql.rows(sql));
    daemon.until("thirty rows are in the target", || there().filter(|rows| rows.len() == 30));
    source.sql.run("DELETE FROM orders WHERE id <= 30");
    insert(&source, 1_000..=1_100);
    // The last record is one that the filter drops.
    source.sql.run("INSERT INTO orders VALUES (5000, 'west', 1, '')");
    daemon.until("all is delivered", || {
        let end = daemon.topic_end("shop.public.orders")?;
        let offsets = daemon.get("/connectors/warehouse/offsets");
        (offsets["offsets"][0]["offset"]["kafka_offset"].as_i64() == Some(end)).then_some(())
    });
    let expected = source.sql.rows("SELECT id, amount FROM orders WHERE region = 'north' ORDER BY id");
    assert_eq!(target.sql.rows("SELECT id, amount FROM north_orders ORDER BY id"), expected);
    assert_eq!(
        target
            .sql
            .number("SELECT count(*) FROM information_schema.columns WHERE table_name = 'north_orders'"),
        3
    );
}

/// Every problem of the steps is reported at once, by the step's name, and by REST too.
#[test]
fn wrong_steps_are_told_all_at_once() {
    let source = Database::new("tw_src");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&with(
        rig::source(&source, json!({})),
        &json!([
            { "type": "filtr", "condition": "true" },
            { "type": "filter", "name": "north", "condtion": "true" },
            { "type": "filter", "name": "south", "condition": "after.region ==" },
            { "type": "drop", "fields": ["a"], "when": { "topic_matches": "(" } },
        ]),
    ));
    let (code, text) = daemon.validate();
    assert_eq!(code, 78, "{text}");
    for expected in [
        "transforms.filtr.type: `filtr` is not a transform; expected one of",
        "transforms.north.condtion: is not a known key; did you mean `condition`?",
        "transforms.north.condition: is required",
        "transforms.south.condition: ",
        "transforms.drop.when.topic_matches: ",
    ] {
        assert!(text.contains(expected), "missing {expected:?} in:\n{text}");
    }
}

/// A record that a step can't handle fails the task by default, naming the step; with tolerance it is a dead letter, and the rest goes on.
#[test]
fn what_a_step_can_not_handle_follows_the_policy() {
    let (source, target) = (Database::new("te_src"), Database::new("te_dst"));
    source.sql.run(ORDERS);
    insert(&source, 1..=10);
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&source, json!({})));
    let steps = json!([{ "type": "filter", "name": "ratio", "condition": "1000 / (after.amount - 50) != 7", "when": "op != 'd'" }]);
    let sink = with(rig::sink(&target, json!({})), &steps);
    daemon.connector(&sink);
    daemon.start();
    let trace = daemon.until_state("warehouse", "FAILED");
    assert!(trace.contains("transform `ratio`") && trace.contains("TRANSFORMATION"), "{trace}");
    let mut tolerant = sink;
    tolerant["errors"] = json!({ "tolerance": "all", "dead_letter_topic": "warehouse.dead" });
    daemon.connector(&tolerant);
    daemon.until("the other rows are delivered", || {
        let there = target.sql.one("SELECT to_regclass('orders')").is_some();
        (there && target.sql.number("SELECT count(*) FROM orders") == 9).then_some(())
    });
    daemon.until("the dead letter is there", || daemon.topic_end("warehouse.dead").filter(|end| *end == 1));
    let letter = &daemon.records("warehouse.dead")[0];
    assert_eq!(letter.value["after"]["id"], 5);
    let url = format!("http://127.0.0.1:{}", daemon.port);
    let read = daemon.cli(&["topics", "read", "warehouse.dead", "--json", "--url", &url]);
    assert!(said(&read).contains("TRANSFORMATION"), "{}", said(&read));
}

/// Before anything runs, and with the place: a column that no table has, in a source's step; in a sink's, one that the source's steps took
/// away.
#[test]
fn validate_checks_transforms_against_the_tables() {
    let (source, target) = (Database::new("tv_src"), Database::new("tv_dst"));
    source.sql.run(ORDERS);
    let daemon = Daemon::new(json!({}));
    let with_steps = |filter: &str| {
        let steps = json!([
            { "type": "filter", "name": "north", "condition": filter },
            { "type": "drop", "fields": ["secret"] },
        ]);
        daemon.connector(&with(rig::source(&source, json!({})), &steps));
    };
    with_steps("after.regoin == 'north'");
    let (code, told) = daemon.validate();
    assert_eq!(code, 78, "{told}");
    let expected = "problem: transforms.north: `after.regoin` is not known; did you mean `region`?";
    assert!(told.contains(expected) && told.contains("every record of `shop.public.orders`"), "{told}");

    with_steps("after.region == 'north'");
    let hush = json!([{ "type": "mask", "fields": ["*"], "when": "after.secret != ''" }]);
    daemon.connector(&with(rig::sink(&target, json!({})), &hush));
    let (code, told) = daemon.validate();
    assert_eq!(code, 78, "{told}");
    assert!(told.contains("problem: transforms.mask: `when`: `after.secret` is not known"), "{told}");

    daemon
        .connector(&with(rig::sink(&target, json!({})), &json!([{ "type": "mask", "fields": ["region"] }])));
    let (code, told) = daemon.validate();
    assert_eq!(code, 0, "{told}");
}

/// Live records of a source and of a sink before and behind each step; what rows hold only to whom asks for it.
#[test]
fn a_tap_shows_records_between_the_steps() {
    let (source, target) = (Database::new("tt_src"), Database::new("tt_dst"));
    source.sql.run(ORDERS);
    let daemon = Daemon::new(json!({}));
    let steps = json!([{ "type": "drop", "fields": ["secret"] }, { "type": "filter", "condition": "after.amount > 0" }]);
    daemon.connector(&with(rig::source(&source, json!({})), &steps));
    daemon.connector(&with(rig::sink(&target, json!({})), &json!([{ "type": "unwrap" }])));
    daemon.start();
    daemon.until_streaming("shop");
    let url = format!("http://127.0.0.1:{}", daemon.port);
    let tap =
        |arguments: &[&str]| said(&daemon.cli(&[&["tap"], arguments, &["--json", "--url", &url]].concat()));
    // Rows come until each looker has seen one.
    let looked = |arguments: &[&str]| -> Value {
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| tap(arguments));
            let mut id = source.sql.number("SELECT coalesce(max(id), 0) FROM orders");
            daemon.until("something is seen", || {
                id += 1;
                source.sql.run(&format!("INSERT INTO orders VALUES ({id}, 'north', -5, 'hush')"));
                looking.is_finished().then_some(())
            });
            let told = looking.join().unwrap();
            serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
        })
    };
    let look = looked(&["shop", "--limit", "1"]);
    let stage = |number: usize| &look["stages"][number];
    assert_eq!(stage(0)["records"][0]["value"]["after"]["secret"], "***", "{look}");
    assert_eq!(
        (&stage(1)["step"], &stage(1)["records"][0]["value"]["op"]),
        (&json!("drop"), &json!("c")),
        "{look}"
    );
    assert_eq!(stage(1)["records"][0]["value"]["after"].get("secret"), None, "{look}");
    assert_eq!((&stage(2)["step"], &stage(2)["records"]), (&json!("filter"), &json!([])), "{look}");
    let look = looked(&["shop", "--limit", "1", "--stage", "drop", "--values"]);
    let stages: Vec<&Value> =
        look["stages"].as_array().unwrap().iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, [&json!(0), &json!(1)]);
    assert_eq!(look["stages"][0]["records"][0]["value"]["after"]["secret"], "hush", "{look}");
    assert!(tap(&["shop", "--stage", "3"]).contains("its steps are drop, filter"));
    daemon.connector(&rig::source(&source, json!({})));
    let look = looked(&["warehouse", "--limit", "1"]);
    assert_eq!(look["stages"][1]["records"][0]["value"]["amount"], "***", "{look}");
}
