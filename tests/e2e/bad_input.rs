//! What the user is told when something is wrong, and that nothing is lost meanwhile.
//!
//! Most cases look twice: at `rowstream validate`, which must fail and name the matter, and at the status of a running daemon. Where the world
//! can be mended, the test mends it and checks that every row arrives.

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    postgres::{Database, PrivateServer, server},
    receiver::{Receiver, Reply},
    rig::{self, Rig},
};

/// A source with a wrong `connection`.
fn misconnected(database: &Database, change: &[(&str, Value)]) -> Daemon {
    let mut connection = rig::connection(database);
    for (key, value) in change {
        connection[*key] = value.clone();
    }
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(database, json!({ "connection": connection })));
    daemon
}

/// `validate` fails and says all of `parts`.
fn validate_says(daemon: &Daemon, parts: &[&str]) -> String {
    let (code, told) = daemon.validate();
    assert_ne!(code, 0, "validate found nothing wrong:\n{told}");
    for part in parts {
        assert!(told.contains(part), "{part:?} is not in what validate says:\n{told}");
    }
    assert!(!told.contains("panicked"), "{told}");
    told
}

fn orders_database(purpose: &str) -> Database {
    let database = Database::new(purpose);
    database.sql.run("CREATE TABLE orders (id bigint PRIMARY KEY, version bigint, note text)");
    database
}

#[test]
fn wrong_password() {
    let database = orders_database("password");
    let role = format!("{}_role", database.name);
    database.sql.run(&format!("CREATE ROLE {role} LOGIN REPLICATION SUPERUSER PASSWORD 'right'"));
    let daemon = misconnected(&database, &[("user", json!(role)), ("password", json!("wrong-and-secret"))]);
    let told = validate_says(&daemon, &["password", &role]);
    assert!(!told.contains("wrong-and-secret"), "the password is told: {told}");
    daemon.start();
    let (state, told) = daemon.until_told("shop", &["PG_AUTHENTICATION", &role]);
    assert_eq!(state, "FAILED", "{told}");
    assert!(!daemon.log().contains("wrong-and-secret"), "the password is in the log");
    // Mended on the server, restarted by hand.
    database.sql.run(&format!(
        "ALTER ROLE {role} PASSWORD 'wrong-and-secret'; INSERT INTO orders VALUES (1, 1, 'x')"
    ));
    daemon.request("POST", "/connectors/shop/restart?includeTasks=true&onlyFailed=true", None);
    daemon.until("the row arrives", || (daemon.topic_end("shop.public.orders") == Some(1)).then_some(()));
    daemon.stop();
    database.drop_slot(&database.connect());
    database.sql.run(&format!("DROP PUBLICATION {}; DROP ROLE {role}", database.slot()));
}

#[test]
fn unknown_host() {
    let database = orders_database("host");
    let daemon = misconnected(&database, &[("host", json!("no-such-host.invalid"))]);
    validate_says(&daemon, &["no-such-host.invalid"]);
    daemon.start();
    let (state, _) = daemon.until_told("shop", &["no-such-host.invalid"]);
    assert_eq!(state, "RETRYING", "a host may come back, so the task keeps trying");
}

#[test]
fn closed_port() {
    let database = orders_database("port");
    let daemon = misconnected(&database, &[("port", json!(1))]);
    validate_says(&daemon, &["127.0.0.1:1"]);
}

#[test]
fn missing_privilege() {
    let database = orders_database("privilege");
    let role = format!("{}_role", database.name);
    database.sql.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'"));
    let daemon = misconnected(&database, &[("user", json!(role)), ("password", json!("pw"))]);
    let told = validate_says(&daemon, &["may not replicate", "REPLICATION;", "GRANT SELECT"]);
    assert!(told.contains("ALTER ROLE"), "no SQL that mends it: {told}");
    daemon.start();
    let (state, told) = daemon.until_told("shop", &["PG_PRIVILEGE", "replication"]);
    assert_eq!(state, "FAILED", "{told}");
    // The SQL that was printed mends it.
    database.sql.run(&format!(
        "ALTER ROLE {role} REPLICATION; ALTER TABLE orders OWNER TO {role}; GRANT CREATE ON DATABASE {} TO {role};
         INSERT INTO orders VALUES (1, 1, 'x')",
        database.name
    ));
    daemon.request("POST", "/connectors/shop/restart?includeTasks=true&onlyFailed=true", None);
    daemon.until("the row arrives", || (daemon.topic_end("shop.public.orders") == Some(1)).then_some(()));
    daemon.stop();
    database.drop_slot(&database.connect());
    database.sql.run(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"));
}

#[test]
fn wal_level_replica() {
    let private = PrivateServer::start(&["-c", "wal_level=replica"]);
    let database = Database::on(private.port, "wal");
    database.sql.run("CREATE TABLE orders (id bigint PRIMARY KEY)");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&database, json!({})));
    validate_says(&daemon, &["wal_level is `replica`", "ALTER SYSTEM SET wal_level = logical"]);
    daemon.start();
    daemon.until_told("shop", &["wal_level"]);
}

/// A slot that somebody dropped takes with it what nobody can bring back: refused, with the choices, and never resumed as if nothing were.
#[test]
fn dropped_slot() {
    let rig = Rig::orders(20);
    rig.daemon.start();
    rig.until_same();
    rig.daemon.stop();
    rig.source.drop_slot(&rig.source.connect());
    rig.insert(21, 30); // These changes are in no slot.
    rig.daemon.start();
    let (state, told) = rig.daemon.until_told("shop", &["PG_SLOT_MISSING", &rig.source.slot()]);
    assert_eq!(state, "FAILED", "{told}");
    assert!(told.contains("what to do"), "no choices: {told}");
    assert_eq!(rig.daemon.topic_end("shop.public.orders"), Some(20));
    assert!(rig.source.confirmed(&rig.source.connect()).is_none(), "a new slot was made in silence");
    // The other connector lives.
    assert_eq!(rig.daemon.state("warehouse").unwrap().0, "RUNNING");
}

/// WAL that the slot still needs was removed by the server's own limit: the same verdict, and `validate` says it too.
#[test]
fn lost_slot() {
    let private = PrivateServer::start(&["-c", "max_slot_wal_keep_size=16MB"]);
    let database = Database::on(private.port, "lost");
    database.sql.run("CREATE TABLE orders (id bigint PRIMARY KEY); INSERT INTO orders VALUES (1)");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&database, json!({})));
    daemon.start();
    daemon.until("the row arrives", || (daemon.topic_end("shop.public.orders") == Some(1)).then_some(()));
    daemon.stop();
    database.sql.run("INSERT INTO orders VALUES (2)");
    let slot = database.slot();
    let status = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'");
    daemon.until("the server gives the slot up", || {
        database.sql.run("CREATE TABLE filler ()");
        database.sql.run("DROP TABLE filler");
        database.sql.run("SELECT pg_switch_wal()");
        database.sql.run("CHECKPOINT");
        (database.sql.one(&status).as_deref() == Some("lost")).then_some(())
    });
    validate_says(
        &daemon,
        &["was invalidated by the server", &format!("pg_drop_replication_slot('{slot}')")],
    );
    daemon.start();
    let (state, told) = daemon.until_told("shop", &["PG_SLOT_LOST", &slot, "what to do"]);
    assert_eq!(state, "FAILED", "{told}");
    assert_eq!(daemon.topic_end("shop.public.orders"), Some(1));
    // Where the mode says so it is made anew, and all rows are read again.
    daemon.connector(&rig::source(&database, json!({ "snapshot": { "mode": "when_needed" } })));
    let (code, said) = daemon.validate();
    assert_eq!(code, 0, "{said}");
    daemon.until("all rows arrive", || (daemon.topic_end("shop.public.orders") == Some(3)).then_some(()));
    assert_eq!(database.sql.one(&status).as_deref(), Some("reserved"));
    let lost = daemon.get("/connectors/shop/snapshot")["position_lost"].clone();
    assert_eq!(lost["code"], "PG_SLOT_LOST", "{lost}");
}

#[test]
fn table_without_replica_identity() {
    let database = Database::new("identity");
    database.sql.run("CREATE TABLE plain (a int)");
    let daemon = Daemon::new(json!({}));
    daemon.connector(&rig::source(&database, json!({})));
    validate_says(&daemon, &["public.plain", "no replica identity", "REPLICA IDENTITY FULL"]);
    daemon.start();
    let (_, told) = daemon.until_told("shop", &["public.plain", "replica identity"]);
    assert!(told.contains("ALTER TABLE"), "{told}");
    // The application can still write: the table was not published.
    database.sql.run("INSERT INTO plain VALUES (1); UPDATE plain SET a = 2");
    database.sql.run("ALTER TABLE plain REPLICA IDENTITY FULL");
    daemon.request("POST", "/connectors/shop/restart?includeTasks=true&onlyFailed=true", None);
    daemon.until("the row arrives", || (daemon.topic_end("shop.public.plain") == Some(1)).then_some(()));
}

#[test]
fn unknown_yaml_key() {
    let database = orders_database("yaml");
    let daemon = Daemon::new(json!({}));
    let mut document = rig::source(&database, json!({ "slot_nam": "x", "snapshot": { "modus": "never" } }));
    document["tasks_maxx"] = json!(2);
    daemon.connector(&document);
    // All at once, each with the nearest known key.
    validate_says(&daemon, &["tasks_max"]);
    document.as_object_mut().unwrap().remove("tasks_maxx");
    daemon.connector(&document);
    validate_says(&daemon, &["slot_nam", "did you mean `slot_name`", "modus", "snapshot.mode"]);
    std::fs::write(daemon.path("worker.yaml"), "data_dri: data\nconnectors: connectors.d\n").unwrap();
    validate_says(&daemon, &["did you mean `data_dir`"]);
    let out = daemon.cli(&["run", "--config", daemon.path("worker.yaml").to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(78), "{}", crate::support::daemon::said(&out));
}

#[test]
fn two_connectors_with_one_slot() {
    let rig = Rig::orders(5);
    rig.daemon.start();
    rig.until_same();
    let mut second = rig::source(&rig.source, json!({ "topic_prefix": "second" }));
    second["name"] = json!("thief");
    rig.daemon.connector(&second);
    let (state, told) = rig.daemon.until_told("thief", &["RESOURCE_IN_USE", &rig.source.slot(), "shop"]);
    assert_eq!(state, "FAILED", "{told}");
    rig.insert(6, 10);
    rig.until_same();
    validate_says(&rig.daemon, &[&rig.source.slot(), "thief", "shop"]);
}

#[test]
fn incompatible_target_column() {
    let rig = Rig::orders(5);
    rig.target.sql.run("CREATE TABLE orders (id bigint PRIMARY KEY, version bigint, note point)");
    rig.daemon.start();
    let (state, told) = rig.daemon.until_told("warehouse", &["`public.orders`, column `note` of type point"]);
    assert_eq!(state, "FAILED", "{told}");
    assert!(!told.contains("row 1"), "a row's value is told: {told}");
    assert_eq!(rig.target.sql.number("SELECT count(*) FROM orders"), 0);
    rig.target.sql.run("ALTER TABLE orders DROP COLUMN note; ALTER TABLE orders ADD COLUMN note text");
    rig.daemon.request("POST", "/connectors/warehouse/restart?includeTasks=true&onlyFailed=true", None);
    rig.until_same();
}

/// A receiver that answers 500 is tried again, visibly; when it heals, everything arrives, in order.
#[test]
fn webhook_that_answers_500() {
    let rig = Rig::orders(0);
    let receiver = Receiver::start(|_, _| Reply::Status(500));
    rig.daemon.connector(&rig::webhook(&receiver, json!({})));
    rig.daemon.start();
    rig.insert(1, 20);
    rig.daemon.until("it is tried again", || (receiver.count() > 60).then_some(()));
    rig.daemon.until("retries are counted", || {
        let metrics = rig.daemon.request("GET", "/metrics", None).text();
        metrics
            .lines()
            .find(|l| l.starts_with("rowstream_connector_webhook_retries_total") && l.contains("hooks"))
            .and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .filter(|n| *n > 0.0)
    });
    receiver.reply_with(|_, _| Reply::Status(200));
    rig.daemon.until("all arrive", || (receiver.accepted() == 20).then_some(()));
    rig.until_same(); // The other sink was never touched by it.
}

/// After the configured attempts a record goes to the dead letter topic with where and why; the next ones are delivered.
#[test]
fn webhook_poison_goes_to_the_dead_letter_topic() {
    let rig = Rig::orders(0);
    let receiver = Receiver::start(|_, body| {
        let poison = String::from_utf8_lossy(body).contains("row 3\"");
        Reply::Status(if poison { 500 } else { 200 })
    });
    let retry = json!({ "attempts": 3, "backoff_initial": "5ms", "backoff_max": "20ms" });
    let mut hooks = rig::webhook(&receiver, json!({ "retry": retry }));
    hooks["errors"] = json!({ "tolerance": "all", "dead_letter_topic": "hooks.dead" });
    rig.daemon.connector(&hooks);
    rig.daemon.start();
    rig.insert(1, 9);
    rig.daemon.until("the others arrive", || (receiver.accepted() == 8).then_some(()));
    rig.daemon.until("the poison is a dead letter", || {
        (rig.daemon.topic_end("hooks.dead") == Some(1)).then_some(())
    });
    let poison = receiver.deliveries().iter().filter(|d| d.status == 500).count();
    assert_eq!(poison, 3, "attempts at the poisoned record");
}

/// A receiver that hangs is given up on after the timeout, and tried again.
#[test]
fn webhook_that_hangs() {
    let rig = Rig::orders(0);
    let receiver = Receiver::start(|n, _| if n < 3 { Reply::Hang } else { Reply::Status(200) });
    rig.daemon.connector(&rig::webhook(&receiver, json!({ "timeout": "500ms" })));
    rig.daemon.start();
    rig.insert(1, 10);
    rig.daemon.until("all arrive in the end", || (receiver.accepted() == 10).then_some(()));
    rig.until_same();
}

/// The target goes away and comes back: the sink retries by itself and catches up.
#[test]
fn target_that_goes_away() {
    let rig = Rig::orders(10);
    rig.daemon.start();
    rig.until_same();
    let admin = crate::support::postgres::Sql::connect(server(), "postgres");
    let name = &rig.target.name;
    admin.run(&format!(
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND application_name <> ''"
    ));
    admin.rows(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"));
    rig.insert(11, 20);
    rig.daemon.until("the sink is retrying", || {
        rig.daemon.state("warehouse").filter(|(state, _)| state == "RETRYING").map(drop)
    });
    admin.run(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    let target = rig.target.connect();
    rig.daemon.until("the target catches up", || {
        (target.number("SELECT count(*) FROM orders") == 20).then_some(())
    });
    assert_eq!(target.number("SELECT count(*) FROM orders"), 20);
}

/// A target whose offsets are gone was emptied or restored behind our back. The daemon may start over, or refuse and say what to choose; it
/// must not go on from its own memory as if the rows were there.
#[test]
fn target_that_lost_its_offsets_is_not_resumed_in_silence() {
    let rig = Rig::orders(30);
    rig.daemon.start();
    rig.until_same();
    rig.daemon.stop();
    rig.target.sql.run("DROP TABLE orders; DROP SCHEMA rowstream CASCADE");
    rig.insert(31, 40);
    rig.daemon.start();
    rig.daemon.until("the target is whole again, or the task refuses", || {
        let refused = rig
            .daemon
            .state("warehouse")
            .is_some_and(|(state, trace)| state == "FAILED" && trace.contains("what to do"));
        (refused || rig.same()).then_some(())
    });
}
