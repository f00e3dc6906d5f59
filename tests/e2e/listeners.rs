//! Services that begin to listen while others do: from the first event, or from now on.

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    postgres::Database,
    receiver::{Receiver, Reply},
    rig::{self, Rig},
};

/// `start_at: latest` is one moment: a kill before anything could be delivered does not move it, a topic that is made later is
/// told whole, and whoever listened before notices nothing.
#[test]
fn a_listener_from_now_on_misses_nothing_that_comes() {
    let rig = Rig::orders(30);
    rig.daemon.start();
    rig.until_same();
    let since = || rig.daemon.get("/connectors/warehouse/status")["tasks"][0]["progress"]["since_ms"].clone();
    let undisturbed = since();

    // Nothing can be delivered to either of them: one is refused, the other's database can't be connected to.
    let receiver = Receiver::start(|_, _| Reply::Status(503));
    let news = Database::new("news");
    rig.source.sql.run(&format!("ALTER DATABASE \"{}\" ALLOW_CONNECTIONS false", news.name));
    let mut hooks = rig::webhook(&receiver, json!({}));
    let mut copy = rig::sink(&news, json!({}));
    copy["name"] = json!("news");
    for listener in [&mut hooks, &mut copy] {
        listener["start_at"] = json!("latest");
        rig.daemon.connector(listener);
    }
    for name in ["hooks", "news"] {
        let offset =
            rig.daemon.until(&format!("it is stored where {name} begins"), || begins(&rig.daemon, name));
        assert_eq!(offset[0]["offset"]["kafka_offset"], 30, "{name}: {offset}");
    }
    rig.insert(31, 40);
    rig.until_same();
    assert_eq!(since(), undisturbed, "the warehouse was restarted");
    rig.daemon.kill();
    rig.daemon.start();
    rig.source.sql.run("CREATE TABLE later (id bigint PRIMARY KEY, version bigint, note text)");
    rig.source.sql.run("INSERT INTO later VALUES (1, 1, 'first')");
    rig.insert(41, 45);

    receiver.reply_with(|_, _| Reply::Status(200));
    rig.daemon.until("all webhooks are there", || (receiver.accepted() == 16).then_some(()));
    let mut told: Vec<(String, i64)> = receiver.deliveries().iter().map(|d| place(&d.json())).collect();
    told.sort_unstable();
    told.dedup();
    let expected = (31..=45).map(|id| ("orders".to_owned(), id));
    let expected: Vec<_> = [("later".to_owned(), 1)].into_iter().chain(expected).collect();
    assert_eq!(told, expected);
    rig.source.sql.run(&format!("ALTER DATABASE \"{}\" ALLOW_CONNECTIONS true", news.name));
    rig.daemon.until("the other database has the same", || {
        news.sql.one("SELECT to_regclass('orders')")?;
        news.sql.one("SELECT to_regclass('later')")?;
        let ids = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM";
        let all =
            ["orders", "later"].map(|table| news.sql.one(&format!("{ids} {table}")).unwrap_or_default());
        (all == ["31 32 33 34 35 36 37 38 39 40 41 42 43 44 45", "1"]).then_some(())
    });
    rig.until_same();
}

/// The offsets of a connector, once there are any: a new file is seen within a second.
fn begins(daemon: &Daemon, connector: &str) -> Option<Value> {
    let answer = daemon.try_get(&format!("/connectors/{connector}/offsets"))?;
    let offsets = answer.json()["offsets"].clone();
    (answer.status == 200 && offsets != json!([])).then_some(offsets)
}

/// Table and id of a webhook.
fn place(body: &Value) -> (String, i64) {
    let event = &body["value"];
    (event["source"]["table"].as_str().unwrap().to_owned(), event["after"]["id"].as_i64().unwrap())
}

/// A database that follows from now on gets what changes from then, and its position is its own from the first delivery on.
#[test]
fn a_database_from_now_on_goes_on_where_it_stands() {
    let rig = Rig::orders(30);
    rig.daemon.start();
    rig.until_same();
    let news = Database::new("news");
    let mut copy = rig::sink(&news, json!({}));
    copy["name"] = json!("news");
    copy["start_at"] = json!("latest");
    rig.daemon.connector(&copy);
    rig.daemon.until("it is stored where it begins", || begins(&rig.daemon, "news"));
    let ids = || {
        news.sql.one("SELECT to_regclass('orders')")?;
        Some(news.sql.one("SELECT string_agg(id::text, ',' ORDER BY id) FROM orders").unwrap_or_default())
    };
    // Nothing was delivered yet, so nothing is at its destination: it begins where it was to begin.
    rig.daemon.kill();
    rig.daemon.start();
    rig.insert(31, 33);
    rig.daemon.until("it has what came", || (ids()? == "31,32,33").then_some(()));
    rig.daemon.kill();
    rig.insert(34, 34);
    rig.daemon.start();
    rig.daemon.until("it has what came while it was down", || (ids()? == "31,32,33,34").then_some(()));

    // A destination that lost what it was delivered is an alarm, as it is for everybody else.
    rig.daemon.stop();
    news.sql.run("DROP TABLE orders; TRUNCATE rowstream.sink_offsets");
    rig.daemon.start();
    let (_, why) = rig.daemon.until_told("news", &["TARGET_OFFSETS_LOST"]);
    assert!(why.contains("shop.public.orders"), "{why}");
}
