//! Tables that are asked for while the stream goes on, by REST and by the command line, under load and SIGKILL: who begins to read the
//! topic when a table is asked for has, in the end, what the table has; whoever read before is never set back; and each committed
//! change is told once by the stream meanwhile.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::{
    ledger::{self, Event, Ledger, key_text},
    oracle,
    support::{
        daemon::{Daemon, said},
        note, one_at_a_time,
        postgres::Database,
        rig,
    },
    workload::{self, Workload},
};

const TABLES: [(&str, &str); 3] = [("customers", "'id'"), ("orders", "'region', 'id'"), ("visits", "'id'")];

#[test]
fn tables_asked_for_under_load_and_kills_are_told_whole() {
    let _turn = one_at_a_time();
    let (source, target) = (Database::new("ask_src"), Database::new("ask_dst"));
    source.sql.run(ledger::TABLES);
    workload::fill(&source.sql, 20_000);
    let daemon = Daemon::new(json!({}));
    let snapshot = json!({ "snapshot": { "mode": "initial", "chunk_rows": 50, "readers": 2 } });
    daemon.connector(&rig::source(&source, snapshot));
    daemon.connector(&rig::sink(&target, json!({})));
    daemon.start();
    daemon.until_streaming("shop");
    let before = ledger::committed_now(&source.sql);
    let workload = Workload::start(&source, 2, 7, Duration::from_millis(5));
    daemon.until("the workload streams", || (daemon.topic_end("shop.public.orders")? > 600).then_some(()));
    let asked: HashMap<&str, i64> =
        TABLES.iter().map(|(t, _)| (*t, daemon.topic_end(&format!("shop.public.{t}")).unwrap())).collect();
    // Stored before it is answered: a kill right after must not lose it.
    let body = json!({ "tables": ["public.customers", "public.visits"] });
    let answer = daemon.request("POST", "/connectors/shop/snapshot", Some(&body));
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["action"], "start");
    daemon.kill_running();
    daemon.start();
    let url = format!("http://127.0.0.1:{}", daemon.port);
    let cli = |arguments: &[&str]| {
        let out = daemon.cli(&[arguments, &["--url", &url]].concat());
        (out.status.code().unwrap_or(-1), said(&out))
    };
    daemon.until("it is asked for by the command line", || {
        (cli(&["snapshot", "start", "shop", "public.orders"]).0 == 0).then_some(())
    });
    let (code, text) = cli(&["snapshot", "start", "shop", "public.orders", "--where", "nope = 1"]);
    assert!(code == 1 && text.contains("column \"nope\" does not exist"), "{code}: {text}");
    let kills = kill_until_done(&daemon);
    pause_and_cancel(&daemon, &cli);

    let committed = workload.stop();
    let rows = oracle::target_equals_source(&daemon, &source, &target);
    let ledger = ledger::read(&source.sql);
    let mut told = 0;
    for (table, key) in TABLES {
        told += judge(&daemon, table, &ledger, &before);
        let since = state_since(&daemon, table, asked[table]);
        assert_eq!(since, truth(&source, table, key), "{table}");
    }
    note(&format!("{kills} kills, {committed} transactions, {told} records, {rows} rows equal the source"));
}

fn status(daemon: &Daemon) -> Option<Value> {
    let answer = daemon.try_get("/connectors/shop/snapshot").filter(|a| a.status == 200)?;
    Some(answer.json())
}

/// Kills the daemon while it reads, and pauses it now and then. Answers how often it was killed in the middle.
fn kill_until_done(daemon: &Daemon) -> u32 {
    let (mut rng, mut kills) = (Rng::with_seed(3), 0);
    loop {
        std::thread::sleep(Duration::from_millis(rng.u64(20..400)));
        daemon.until("it tells of its snapshot", || status(daemon));
        if kills % 4 == 2 {
            for verb in ["pause", "resume"] {
                let answer = daemon.request("PUT", &format!("/connectors/shop/snapshot/{verb}"), None);
                assert_eq!(answer.status, 202, "{}", answer.text());
            }
        }
        let state = status(daemon).unwrap();
        if state["state"] == "NONE" {
            assert!(kills >= 3, "only {kills} kills in the middle");
            assert_eq!(state["refused"][0]["tables"], json!(["public.orders"]));
            return kills;
        }
        if kills < 12 {
            daemon.kill_running();
            daemon.start();
            kills += 1;
        }
    }
}

/// What people do with it, and see of it.
fn pause_and_cancel(daemon: &Daemon, cli: &dyn Fn(&[&str]) -> (i32, String)) {
    let ok = |arguments: &[&str]| {
        let (code, text) = cli(arguments);
        assert_eq!(code, 0, "{arguments:?}: {text}");
        text
    };
    ok(&["snapshot", "start", "shop", "public.visits", "public.orders"]);
    ok(&["snapshot", "pause", "shop"]);
    let text = ok(&["snapshot", "status", "shop"]);
    assert!(text.contains("PAUSED") && text.contains("public.orders  waiting"), "{text}");
    let before = status(daemon).unwrap()["rows"].clone();
    let lsn = daemon.stored_lsn("shop");
    daemon.until("the stream goes on meanwhile", || (daemon.stored_lsn("shop") > lsn).then_some(()));
    assert_eq!(status(daemon).unwrap()["rows"], before);
    ok(&["snapshot", "cancel", "shop"]);
    let text = ok(&["snapshot", "status", "shop"]);
    assert!(text.contains("no snapshot is under way") && !text.contains("refused"), "{text}");
    let body = |tables: Value| Some(json!({ "tables": tables }));
    for (connector, body, status, says) in [
        ("shop", body(json!([])), 400, "names 0 tables"),
        ("shop", Some(json!({ "tables": ["public.orders"], "were": "x" })), 400, "unknown field"),
        ("warehouse", body(json!(["public.orders"])), 400, "is no source"),
        ("nobody", body(json!(["public.orders"])), 404, "not found"),
    ] {
        let answer = daemon.request("POST", &format!("/connectors/{connector}/snapshot"), body.as_ref());
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(says), "{}", answer.text());
    }
}

/// Each change that was committed since is told once, in the ledger's order; no read shows an older state than what came before it.
/// Answers how many records there are.
fn judge(daemon: &Daemon, table: &str, ledger: &Ledger, before: &HashSet<i64>) -> usize {
    let mut places: HashMap<(String, i64), (usize, i64)> = HashMap::new();
    for ((_, key), entries) in ledger.iter().filter(|((t, _), _)| t == table) {
        for (place, entry) in entries.iter().enumerate() {
            if let Event::Put { image, .. } = &entry.event {
                places.insert((key.clone(), image["version"].as_i64().unwrap()), (place, entry.seq));
            }
        }
    }
    let (mut last, mut streamed): (HashMap<String, usize>, HashSet<i64>) = Default::default();
    let records = daemon.records(&format!("shop.public.{table}"));
    for record in records.iter().filter(|r| !r.value.is_null() && !r.value["after"].is_null()) {
        let (key, op) = (key_text(&record.key), record.value["op"].as_str().unwrap());
        let version = record.value["after"]["version"].as_i64().unwrap();
        let Some((place, seq)) = places.get(&(key.clone(), version)).copied() else {
            panic!("{table} {key}: version {version} never was");
        };
        let known = last.insert(key.clone(), place);
        if op == "r" {
            assert!(
                known.is_none_or(|known| known <= place),
                "{table} {key}: a stale row at {}",
                record.offset
            );
        } else {
            assert!(
                known.is_none_or(|known| known < place),
                "{table} {key}: an older event at {}",
                record.offset
            );
            assert!(streamed.insert(seq), "{table} {key}: a change came twice, at {}", record.offset);
        }
    }
    for (_, seq) in places.values() {
        assert!(before.contains(seq) || streamed.contains(seq), "{table}: change {seq} is in no record");
    }
    records.len()
}

/// What somebody has who reads a topic from here on: the version of each row.
fn state_since(daemon: &Daemon, table: &str, from: i64) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for record in daemon.records(&format!("shop.public.{table}")).iter().filter(|r| r.offset >= from) {
        let key = key_text(&record.key);
        if record.value["after"].is_null() {
            rows.remove(&key);
        } else {
            rows.insert(key, record.value["after"]["version"].as_i64().unwrap());
        }
    }
    rows
}

fn truth(source: &Database, table: &str, key: &str) -> BTreeMap<String, i64> {
    let sql = format!("SELECT audit.key_of(to_jsonb(t), ARRAY[{key}]), version FROM {table} t");
    let row = |row: Vec<Option<String>>| {
        let [key, version] = <[Option<String>; 2]>::try_from(row).unwrap().map(Option::unwrap);
        (key_text(&serde_json::from_str(&key).unwrap()), version.parse().unwrap())
    };
    source.sql.rows(&sql).into_iter().map(row).collect()
}
