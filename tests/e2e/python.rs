//! Clients of Confluent's registry in Python decode our topics.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rowstream::topic_log::{
    LogEvent, SeekTo, TopicFilter, TopicLog,
    embedded::{EmbeddedConfig, EmbeddedLog},
};

use serde_json::{Value, json};

use crate::{
    ledger,
    support::{daemon::Daemon, note, postgres::Database, registry, rig, runtime},
    workload,
};

/// The Python of a virtual environment with Confluent's client, made once and kept beside the test servers.
pub fn python() -> Option<PathBuf> {
    let base = std::env::var_os("ROWSTREAM_SERVICES")
        .map_or_else(|| std::env::temp_dir().join("rowstream-python"), |s| PathBuf::from(s).join("python"));
    let python = base.join("bin/python");
    let works = |python: &PathBuf| {
        Command::new(python)
            .args(["-c", "import confluent_kafka.schema_registry.avro"])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if works(&python) {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&base).output().ok()?;
    if !made.status.success() {
        return None;
    }
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "confluent-kafka[avro,schemaregistry]",
    ];
    Command::new(&python).args(install).output().ok()?;
    works(&python).then_some(python)
}

/// Decodes every record of every topic and tells each as one line of JSON.
const SCRIPT: &str = r#"
import json, sys
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import SerializationContext, MessageField
registry = SchemaRegistryClient({"url": sys.argv[1]})
subjects = registry.get_subjects()
decode = AvroDeserializer(registry)
topics = set()
for line in sys.stdin:
    topic, key, value = line.rstrip("\n").split(" ")
    topics.add(topic)
    key = decode(bytes.fromhex(key), SerializationContext(topic, MessageField.KEY))
    value = decode(bytes.fromhex(value), SerializationContext(topic, MessageField.VALUE)) if value else None
    after = value and value["after"]
    told = [topic, key, value and value["op"], after and after.get("version"), after and after["note"]]
    print(json.dumps(told))
for topic in topics:
    assert topic + "-key" in subjects and topic + "-value" in subjects, subjects
    latest = registry.get_latest_version(topic + "-value")
    assert registry.test_compatibility(topic + "-value", latest.schema)
"#;

/// Confluent's own Python client finds our schemas under their subjects and decodes keys and values of every topic, from our
/// registry and from an external one, and reads in them what our own decoder reads.
#[test]
fn python_registry_client_decodes_topics() {
    let Some(python) = python() else {
        note("SKIPPED python_registry_client_decodes_topics: confluent-kafka can't be installed by pip here");
        return;
    };
    decodes_every_topic(&python, None);
    decodes_every_topic(&python, Some(registry::shared()));
}

/// What each topic ends with: the rows that are there at first, and what happens to them.
const TOPICS: &[(&str, i64)] = &[("customers", 410), ("orders", 402), ("visits", 105), ("kinds", 2)];

fn decodes_every_topic(python: &Path, external: Option<&str>) {
    let source = Database::new("python");
    source.sql.run(ledger::TABLES);
    source.sql.run(
        "CREATE TABLE kinds (id int PRIMARY KEY, note text, price numeric(10,2) DEFAULT 1.5, free numeric, at timestamptz,
             day date, clock time, flag boolean, raw bytea, doc jsonb, tags text[], uid uuid, real real, \"Odd name\" int);
         INSERT INTO kinds VALUES (1, 'all', 12.34, 0.1, now(), '2024-02-29', '12:34:56.789', true, '\\x00ff', '{\"a\": 1}',
             ARRAY['x', NULL], gen_random_uuid(), 1.5, 7);
         INSERT INTO kinds (id) VALUES (2)",
    );
    workload::fill(&source.sql, 100);
    let settings = external
        .map_or_else(|| json!({}), |url| json!({ "schema_registry": { "type": "confluent", "url": url } }));
    let daemon = Daemon::new(settings);
    daemon.connector(&rig::source(&source, json!({})));
    daemon.start();
    daemon.until_streaming("shop");
    source.sql.run(
        "UPDATE customers SET note = 'ß' WHERE id <= 10; DELETE FROM orders WHERE id = 1;
         INSERT INTO visits SELECT i, 1, '/new', NULL FROM generate_series(101, 105) i",
    );
    let mut expected = Vec::new();
    for (table, end) in TOPICS {
        let topic = format!("shop.public.{table}");
        daemon.until(&format!("{topic} ends at {end}"), || {
            (daemon.topic_end(&topic) >= Some(*end)).then_some(())
        });
        let records = daemon.records(&topic);
        assert_eq!(records.len(), usize::try_from(*end).unwrap(), "{topic}");
        expected.extend(records.into_iter().map(|record| {
            let after = &record.value["after"];
            json!([topic, record.key, record.value["op"], after["version"], after["note"]])
        }));
    }
    daemon.stop();
    let bytes = stored_bytes(&daemon);
    daemon.start();
    let own = format!("http://127.0.0.1:{}", daemon.port);
    let said = run(python, external.unwrap_or(&own), &bytes);
    let found: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    // Our own server has no schemas of its own then, and says who has.
    if let Some(url) = external {
        let answer = daemon.request("GET", "/subjects", None);
        assert_eq!(answer.status, 404);
        let origin = url.trim_end_matches(registry::PATH);
        assert!(
            answer.text().contains(&format!("in the external registry at {origin}: ask there")),
            "{}",
            answer.text()
        );
    }
}

fn run(python: &Path, url: &str, records: &str) -> String {
    let mut client = Command::new(python)
        .args(["-c", SCRIPT, url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let records = records.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(records.as_bytes()).is_ok());
    let out = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(writer.join().unwrap(), "the client did not read all records");
    said
}

/// Topic, key and value (empty for a tombstone) of every record as they lie in the log of a stopped daemon, in hexadecimal, topic by
/// topic, one record a line.
fn stored_bytes(daemon: &Daemon) -> String {
    runtime().block_on(async {
        let log = EmbeddedLog::open(EmbeddedConfig::new(daemon.data_dir().join("log"))).await.unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut lines = Vec::new();
        for (table, end) in TOPICS {
            let (topic, before) = (format!("shop.public.{table}"), lines.len());
            let group = format!("python-test-{table}");
            let mut reader = log.reader(&group, TopicFilter::new([topic.clone()])).await.unwrap();
            while lines.len() - before < usize::try_from(*end).unwrap() {
                match reader.next().await.unwrap() {
                    LogEvent::Gained(partitions) => {
                        for partition in partitions {
                            reader.seek(&partition, SeekTo::Earliest).unwrap();
                        }
                    }
                    LogEvent::Batch(batch) => {
                        lines.extend(batch.records.records().unwrap().into_iter().map(|record| {
                            let value = record.value.map(|v| hex(&v)).unwrap_or_default();
                            format!("{topic} {} {value}\n", hex(&record.key.unwrap()))
                        }));
                    }
                }
            }
            drop(reader);
            log.delete_group(&group).await.unwrap();
        }
        log.close().await.unwrap();
        lines.concat()
    })
}
