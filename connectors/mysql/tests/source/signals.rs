//! Debezium's signal table, read from the binlog.

use rowstream_api::{Class, Op, SourceConnector, SourceOffsets, snapshot::SnapshotAction};
use rowstream_mysql::source::MySqlSource;
use serde_json::json;

use crate::common::{Database, Drain, Event, MARIADB, MYSQL, start};

fn table_of(event: &Event) -> &str {
    event.topic.rsplit('.').next().unwrap()
}

fn reads(drain: &Drain, table: &str) -> usize {
    drain.events.iter().filter(|e| e.op == Op::Read && table_of(e) == table).count()
}

fn rows(table: &str) -> String {
    let rows: Vec<String> = (1..=40).map(|n| format!("({n}, {n})")).collect();
    format!(
        "CREATE TABLE {table} (id INT PRIMARY KEY, n INT);\nINSERT INTO {table} VALUES {}",
        rows.join(",")
    )
}

/// Followed once, whatever is killed; patterns, conditions, pause and stop; what is wrong is refused. Its rows are no events.
#[tokio::test]
async fn signals_are_followed_once_and_bad_ones_are_refused() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run(&rows("a")).await;
        db.run(&rows("b")).await;
        db.run("CREATE TABLE nokey (id INT)").await;
        let name = db.name.clone();
        let plan = db.plan(json!({
            "tables": { "include": [format!("{name}.*")], "exclude": [format!("{name}.ops")] },
            "signal": { "table": format!("{name}.ops") }, "snapshot": { "mode": "never", "chunk_rows": 7 }
        }));
        let error = start(&plan, &SourceOffsets::new()).await.err().unwrap();
        assert_eq!((error.class, error.code), (Class::Config, "MYSQL_TABLES"), "{server}");
        assert!(
            MySqlSource::preflight(&plan).await.unwrap_err().message.contains("signal.table"),
            "{server}"
        );
        db.run(&error.remedy.unwrap()).await;
        let mut drain = Drain::start(plan).await;
        let signal = |id: &str, kind: &str, data: &str| {
            format!(
                "INSERT INTO ops VALUES ('{id}', '{kind}', '{}')",
                data.replace('\'', "''").replace('\\', "\\\\")
            )
        };
        let all_of = |table: &str| format!(r#"{{"data-collections": ["{name}.{table}"]}}"#);
        db.run(&format!(
            "BEGIN;\nINSERT INTO a VALUES (100, 0);\n{};\nINSERT INTO a VALUES (101, 0);\nCOMMIT",
            signal("1", "execute-snapshot", &all_of("a"))
        ))
        .await;
        loop {
            let batch = drain.poll().await.unwrap();
            if batch.offsets.values().next().unwrap().0.contains_key("signals") {
                break;
            }
        }
        drain.restart().await;
        while !drain.offset().contains_key("signals") {
            drain.step().await.unwrap();
        }
        drain.restart().await;
        drain.step().await.unwrap();
        assert_eq!(drain.report().reading.unwrap().request.as_deref(), Some("signal 1"), "{server}");
        while drain.report().reading.is_some() {
            drain.step().await.unwrap();
        }
        assert_eq!((reads(&drain, "a"), reads(&drain, "b")), (42, 0), "{server}");
        assert!(drain.events.iter().all(|e| table_of(e) == "a"), "{server}");
        let data = format!(
            r#"{{"data-collections": ["{name}\\.(a|b|nokey)"], "additional-conditions": [{{"data-collection": "{name}.b", "filter": "n <= 3 AND n <> '2'"}}]}}"#
        );
        db.run(&signal("2", "execute-snapshot", &data)).await;
        while reads(&drain, "b") < 2 {
            drain.step().await.unwrap();
        }
        let refused = drain.report().refused;
        assert_eq!(
            (refused.len(), refused[0].tables[0].as_str()),
            (1, &*format!("{name}.nokey")),
            "{server}"
        );
        for (id, kind, data, reason) in [
            ("x", "execute-snapshot", "secret", "JSON object"),
            ("y", "dance", "{}", "type is not known"),
            ("z", "execute-snapshot", r#"{"data-collections": ["nope"]}"#, "no table that is captured"),
        ] {
            db.run(&signal(id, kind, data)).await;
            while drain.report().refused.last().is_none_or(|of| of.request != format!("signal {id}")) {
                drain.step().await.unwrap();
            }
            let refusal = drain.report().refused.pop().unwrap();
            assert!(refusal.reason.contains(reason), "{server}: {refusal:?}");
        }
        db.run(&signal("log", "log", r#"{"message": "here: {}"}"#)).await;
        let before = reads(&drain, "a");
        db.run(&format!(
            "BEGIN;\n{};\n{};\nCOMMIT",
            signal("3", "execute-snapshot", &all_of("[ab]")),
            signal("4", "pause-snapshot", "{}")
        ))
        .await;
        while !drain.report().paused {
            drain.step().await.unwrap();
        }
        db.run(&signal("5", "stop-snapshot", &all_of("b"))).await;
        while !drain.report().waiting.is_empty() {
            drain.step().await.unwrap();
        }
        db.run(&signal("6", "resume-snapshot", "{}")).await;
        while drain.report().reading.is_some() {
            drain.step().await.unwrap();
        }
        assert_eq!((reads(&drain, "a") - before, reads(&drain, "b")), (42, 2), "{server}");
        drain.task = None;
        db.remove().await;
    }
}

/// The rate holds over chunks and readers, and is changed while tables are read.
#[tokio::test]
async fn a_snapshot_reads_no_faster_than_it_may() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        let values: Vec<String> = (0..1500).map(|n| format!("({n})")).collect();
        db.run("CREATE TABLE a (id INT PRIMARY KEY)").await;
        db.run(&format!("INSERT INTO a VALUES {}", values.join(","))).await;
        let plan =
            |rate: u32| json!({ "snapshot": { "mode": "initial", "rows_per_second": rate, "readers": 4 } });
        let mut drain = Drain::start(db.plan(plan(1000))).await;
        let begin = tokio::time::Instant::now();
        while drain.report().reading.is_some() {
            drain.step().await.unwrap();
            let allowed = begin.elapsed().as_secs_f64() * 1000.0 + 1000.0;
            assert!(
                drain.events.len() as f64 <= allowed,
                "{} rows after {:?}",
                drain.events.len(),
                begin.elapsed()
            );
        }
        assert_eq!(drain.events.len(), 1500, "{server}");
        drain.plan = db.plan(plan(1));
        drain.restart().await;
        drain.ask_for("1", &format!("{}.a", db.name), None).await;
        drain.until_count(1501).await;
        drain.ask("2", SnapshotAction::Limit { rows_per_second: Some(0) }).await;
        while drain.report().reading.is_some() {
            drain.step().await.unwrap();
        }
        assert_eq!(drain.events.len(), 3000, "{server}");
        drain.task = None;
        db.remove().await;
    }
}
