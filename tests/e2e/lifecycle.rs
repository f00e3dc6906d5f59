//! What a user does with a daemon that works: stop it, change it, drive it by REST, leave it alone.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    http,
    postgres::Database,
    receiver::Receiver,
    rig::{self, Rig},
};

/// A graceful stop commits and acknowledges what it has: the next start tells nothing again.
#[test]
fn graceful_stop_replays_nothing() {
    let rig = Rig::orders(500);
    let receiver = Receiver::kind();
    rig.daemon.connector(&rig::webhook(&receiver, json!({})));
    rig.daemon.start();
    rig.until_same();
    rig.insert(501, 700);
    rig.until_same();
    rig.daemon.until("all webhooks are there", || (receiver.accepted() == 700).then_some(()));
    let status = rig.daemon.stop();
    assert!(status.success(), "{status}\n{}", rig.daemon.log());

    rig.daemon.start();
    rig.insert(701, 701);
    rig.until_same();
    rig.daemon.until("the last webhook is there", || (receiver.accepted() == 701).then_some(()));
    assert_eq!(receiver.count(), 701, "requests were repeated");
    assert_eq!(rig.daemon.records("shop.public.orders").len(), 701, "records were repeated");
}

/// A stop with an unreachable target still ends, inside its deadline.
#[test]
fn graceful_stop_has_a_deadline() {
    let rig = Rig::orders(10);
    let receiver = Receiver::start(|_, _| crate::support::receiver::Reply::Hang);
    rig.daemon.connector(&rig::webhook(&receiver, json!({ "timeout": "1h" })));
    let worker = rig.daemon.path("worker.yaml");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&worker).unwrap()).unwrap();
    settings["stop_timeout"] = json!("2s");
    std::fs::write(&worker, settings.to_string()).unwrap();
    rig.daemon.start();
    rig.daemon.until("a request hangs", || (receiver.count() > 0).then_some(()));
    let asked = std::time::Instant::now();
    rig.daemon.stop();
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}\n{}", asked.elapsed(), rig.daemon.log());
}

/// Only the connector whose file changed is restarted; a broken file changes nothing that runs.
#[test]
fn config_file_change_restarts_only_that_connector() {
    let rig = Rig::orders(20);
    rig.daemon.start();
    rig.until_same();
    let pid_of = |database: &Database, like: &str| {
        database.sql.rows(&format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND backend_type {like} 'walsender' ORDER BY pid"
        ))
    };
    let walsender = pid_of(&rig.source, "=");
    let sessions = pid_of(&rig.target, "<>");
    assert_eq!(walsender.len(), 1);

    rig.daemon.connector(&rig::sink(&rig.target, json!({ "batch_rows_max": 77 })));
    rig.daemon.until("the sink has new sessions", || (pid_of(&rig.target, "<>") != sessions).then_some(()));
    rig.insert(21, 40);
    rig.until_same();
    assert_eq!(pid_of(&rig.source, "="), walsender, "the source was restarted too");

    std::fs::write(
        rig.daemon.path("connectors.d/shop.yaml"),
        "name: shop\nconnector: postgres-source\nconfg: {}\n",
    )
    .unwrap();
    rig.daemon.until("the log tells of the broken file", || rig.daemon.log().contains("confg").then_some(()));
    rig.insert(41, 60);
    rig.until_same();
    assert_eq!(pid_of(&rig.source, "="), walsender, "a broken file stopped the source");

    rig.daemon.remove_connector("warehouse");
    rig.daemon.until("the removed connector is gone", || {
        (rig.daemon.request("GET", "/connectors/warehouse", None).status == 404).then_some(())
    });
    // Its offsets are kept: the file comes back, and nothing is told twice.
    rig.insert(61, 70);
    rig.daemon.connector(&rig::sink(&rig.target, json!({})));
    rig.until_same();
}

/// Kafka Connect's requests, with its bodies and codes.
#[test]
fn rest_lifecycle() {
    let rig = Rig::orders(30);
    let (daemon, source) = (&rig.daemon, &rig.source);
    daemon.remove_connector("shop");
    daemon.remove_connector("warehouse");
    daemon.start();
    assert_eq!(daemon.get("/connectors"), json!([]));
    let root = daemon.get("/");
    assert!(root["version"].is_string(), "{root}");
    let plugins = daemon.get("/connector-plugins").to_string();
    for class in ["postgres-source", "postgres-sink", "mysql-sink", "webhook"] {
        assert!(plugins.contains(class), "{class} is not in {plugins}");
    }

    let config = json!({
        "connector.class": "postgres-source",
        "connection.host": "127.0.0.1", "connection.port": source.port.to_string(),
        "connection.database": source.name, "connection.user": "postgres", "connection.password": "never-shown",
        "connection.tls.mode": "disable",
        "topic_prefix": "shop", "tables.include": "public.*",
        "slot_name": source.slot(), "publication_name": source.slot(),
    });
    let created = daemon.request("POST", "/connectors", Some(&json!({ "name": "shop", "config": config })));
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.json()["name"], "shop");
    let again = daemon.request("POST", "/connectors", Some(&json!({ "name": "shop", "config": config })));
    assert_eq!(again.status, 409, "{}", again.text());
    assert_eq!(again.json()["error_code"], 409);
    daemon.until_state("shop", "RUNNING");
    daemon.until("the snapshot is in the topic", || {
        (daemon.topic_end("shop.public.orders") == Some(30)).then_some(())
    });
    let shown = daemon.get("/connectors/shop").to_string()
        + &daemon.get("/connectors?expand=info&expand=status").to_string();
    assert!(!shown.contains("never-shown"), "the password is shown: {shown}");

    pause_and_resume(&rig);
    change_and_validate(&rig, &config);
    stop_reset_delete(&rig);
}

fn pause_and_resume(rig: &Rig) {
    let daemon = &rig.daemon;
    assert_eq!(daemon.request("PUT", "/connectors/shop/pause", None).status, 202);
    daemon.until_state("shop", "PAUSED");
    rig.insert(31, 35);
    assert_eq!(daemon.request("PUT", "/connectors/shop/resume", None).status, 202);
    daemon.until("what was written during the pause comes", || {
        (daemon.topic_end("shop.public.orders") == Some(35)).then_some(())
    });
    let restart = daemon.request("POST", "/connectors/shop/restart?includeTasks=true", None);
    assert!([200, 202, 204].contains(&restart.status), "{} {}", restart.status, restart.text());
    daemon.until_state("shop", "RUNNING");
    let task = daemon.request("POST", "/connectors/shop/tasks/0/restart", None);
    assert!([200, 202, 204].contains(&task.status), "{} {}", task.status, task.text());
    assert_eq!(daemon.request("POST", "/connectors/shop/tasks/9/restart", None).status, 404);
    assert_eq!(daemon.get("/connectors/shop/tasks")[0]["id"], json!({ "connector": "shop", "task": 0 }));
    daemon.until_state("shop", "RUNNING");
}

fn change_and_validate(rig: &Rig, config: &Value) {
    let daemon = &rig.daemon;
    let mut wrong = config.clone();
    wrong["topic_prefixx"] = json!("x");
    let refused = daemon.request("PUT", "/connectors/shop/config", Some(&wrong));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("topic_prefix"), "{}", refused.text());
    let path = "/connector-plugins/postgres-source/config/validate";
    let report = daemon.request("PUT", path, Some(&wrong));
    assert_eq!(report.status, 200, "{}", report.text());
    assert_ne!(report.json()["error_count"], 0, "{}", report.text());
    let mut named = config.clone();
    named["name"] = json!("shop");
    let fine = daemon.request("PUT", path, Some(&named));
    assert_eq!(fine.json()["error_count"], 0, "{}", fine.text());
    let mut changed = config.clone();
    changed["batch_bytes"] = json!("512KiB");
    assert_eq!(daemon.request("PUT", "/connectors/shop/config", Some(&changed)).status, 200);
    assert_eq!(daemon.get("/connectors/shop/config")["batch_bytes"], "512KiB");
    daemon.until_state("shop", "RUNNING");
    // It is stored: a crash keeps it.
    daemon.kill();
    daemon.start();
    daemon.until_state("shop", "RUNNING");
    assert_eq!(daemon.get("/connectors/shop/config")["batch_bytes"], "512KiB");
    assert_eq!(daemon.topic_end("shop.public.orders"), Some(35), "a restart told something twice");
}

fn stop_reset_delete(rig: &Rig) {
    let daemon = &rig.daemon;
    let offsets = daemon.get("/connectors/shop/offsets");
    assert!(offsets["offsets"][0]["offset"]["lsn"].is_u64(), "{offsets}");
    let running = daemon.request("DELETE", "/connectors/shop/offsets", None);
    assert_eq!(running.status, 400, "{}", running.text());
    let stop = daemon.request("PUT", "/connectors/shop/stop", None);
    assert!([202, 204].contains(&stop.status), "{} {}", stop.status, stop.text());
    daemon.until("it is stopped", || {
        (daemon.get("/connectors/shop/status")["connector"]["state"] == "STOPPED").then_some(())
    });
    let deleted = daemon.request("DELETE", "/connectors/shop", None);
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(daemon.request("GET", "/connectors/shop", None).status, 404);
    assert_eq!(daemon.get("/connectors"), json!([]));
}

/// With an idle captured table and other traffic on the server, the slot still advances; no record is made for it.
#[test]
fn idle_table_advances_slot() {
    let rig = Rig::orders(5);
    rig.source.sql.run("CREATE SCHEMA other; CREATE TABLE other.noise (t text)");
    rig.daemon.start();
    rig.until_same();
    for _ in 0..3 {
        rig.source.sql.run("INSERT INTO other.noise SELECT md5(i::text) FROM generate_series(1, 2000) i");
        let written = rig.source.sql.number("SELECT (pg_current_wal_lsn() - '0/0')::int8");
        let admin = rig.source.connect();
        rig.daemon.until("the slot passes traffic that nobody captures", || {
            rig.source.confirmed(&admin).filter(|c| i64::try_from(*c).unwrap() >= written).map(drop)
        });
        let stored = rig.daemon.stored_lsn("shop").unwrap();
        assert!(rig.source.confirmed(&admin).unwrap() <= rig.daemon.stored_lsn("shop").unwrap().max(stored));
    }
    assert_eq!(rig.daemon.topic_end("shop.public.orders"), Some(5));
}

/// `/livez`, `/readyz` and `/metrics` say what the issue lists.
#[test]
fn health_and_metrics_tell_progress() {
    let rig = Rig::orders(50);
    rig.daemon.start();
    rig.until_same();
    rig.daemon.until("it is ready", || rig.daemon.try_get("/readyz").filter(|a| a.status == 200));
    let wanted = [
        "rowstream_source_record_write_total",
        "rowstream_source_lag_seconds",
        "rowstream_sink_lag_bytes",
        "rowstream_sink_record_send_total",
        "rowstream_deadletterqueue_produce_total",
        "rowstream_log_to_sink_seconds",
        "rowstream_source_commit_to_log_seconds",
        "rowstream_build_info",
    ];
    let metrics = rig.daemon.request("GET", "/metrics", None).text();
    let missing: Vec<_> = wanted.iter().filter(|name| !metrics.contains(**name)).collect();
    assert!(missing.is_empty(), "missing {missing:?} in\n{metrics}");
    rig.daemon.until("the WAL that the slot holds is a metric", || {
        let text = rig.daemon.request("GET", "/metrics", None).text();
        text.lines().any(|l| l.starts_with("rowstream_connector_") && l.contains("wal")).then_some(())
    });
}

/// A webhook is signed as Standard Webhooks says; Python's standard library agrees.
#[test]
fn webhooks_are_signed() {
    let rig = Rig::orders(3);
    let receiver = Receiver::kind();
    rig.daemon.connector(&rig::webhook(&receiver, json!({})));
    rig.daemon.start();
    rig.daemon.until("three webhooks", || (receiver.accepted() == 3).then_some(()));
    for delivery in receiver.deliveries() {
        let script = "import sys,hmac,hashlib,base64\n\
            s,i,t,g=sys.argv[1:5];b=sys.stdin.buffer.read()\n\
            d=hmac.new(base64.b64decode(s[6:]),f'{i}.{t}.'.encode()+b,hashlib.sha256).digest()\n\
            sys.exit(0 if 'v1,'+base64.b64encode(d).decode() in g.split() else 1)";
        let headers: &std::collections::BTreeMap<String, String> = &delivery.headers;
        let mut python = std::process::Command::new("python3")
            .args(["-c", script, rig::WEBHOOK_SECRET, &delivery.id])
            .args([&headers["webhook-timestamp"], &headers["webhook-signature"]])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut python.stdin.take().unwrap(), &delivery.body).unwrap();
        assert!(python.wait().unwrap().success(), "signature of {} is wrong", delivery.id);
    }
}

/// The command line against a running daemon, tables and `--json`.
#[test]
fn command_line_speaks_to_the_daemon() {
    let rig = Rig::orders(12);
    rig.daemon.start();
    rig.until_same();
    let url = format!("http://127.0.0.1:{}", rig.daemon.port);
    let run = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--url", &url]);
        let out = rig.daemon.cli(&all);
        assert!(out.status.success(), "{arguments:?}: {}", crate::support::daemon::said(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let expected: HashMap<&str, Vec<&str>> =
        HashMap::from([("status", vec!["status"]), ("list", vec!["connectors", "list"])]);
    for arguments in expected.values() {
        let table = run(arguments);
        assert!(table.contains("shop") && table.contains("warehouse"), "{arguments:?}: {table}");
        let json: Value = serde_json::from_str(&run(&[arguments.as_slice(), &["--json"]].concat())).unwrap();
        assert!(json.to_string().contains("warehouse"), "{json}");
    }
    assert!(run(&["topics", "list"]).contains("shop.public.orders"));
    let events = run(&["topics", "read", "shop.public.orders", "--json"]);
    assert_eq!(events.lines().count(), 12, "{events}");
    assert!(run(&["offsets", "show", "shop"]).contains("lsn"));
    let version = rig.daemon.cli(&["version"]);
    assert!(version.status.success());
    assert!(crate::support::daemon::said(&version).contains(env!("CARGO_PKG_VERSION")));
    let answer = http::request(rig.daemon.port, "GET", "/nowhere", None).unwrap();
    assert_eq!(answer.status, 404);
    // An answer that can't be had is an exit code, not a success.
    let unknown = rig.daemon.cli(&["topics", "read", "no.such.topic", "--url", &url]);
    assert!(!unknown.status.success());
}
