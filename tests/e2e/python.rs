//! Clients of Confluent's registry in Python decode our topics.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use rowstream::topic_log::{
    LogEvent, SeekTo, TopicFilter, TopicLog,
    embedded::{EmbeddedConfig, EmbeddedLog},
};

use crate::support::{daemon::Daemon, note, rig::Rig, runtime};

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

const SCRIPT: &str = r#"
import sys
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import SerializationContext, MessageField
url, topic = sys.argv[1:3]
registry = SchemaRegistryClient({"url": url})
subjects = registry.get_subjects()
assert topic + "-key" in subjects and topic + "-value" in subjects, subjects
decode = AvroDeserializer(registry)
for line in sys.stdin:
    key, value = (bytes.fromhex(part) for part in line.split())
    key = decode(key, SerializationContext(topic, MessageField.KEY))
    value = decode(value, SerializationContext(topic, MessageField.VALUE))
    print(value["op"], key["id"], value["after"]["version"], value["after"]["note"])
latest = registry.get_latest_version(topic + "-value")
assert registry.test_compatibility(topic + "-value", latest.schema)
"#;

/// Confluent's own Python client finds our schemas under their subjects and decodes keys and values.
#[test]
fn python_registry_client_decodes_topics() {
    let Some(python) = python() else {
        note("SKIPPED python_registry_client_decodes_topics: confluent-kafka can't be installed by pip here");
        return;
    };
    let rig = Rig::orders(3);
    rig.daemon.start();
    rig.until_same();
    rig.insert(4, 5);
    rig.until_same();
    rig.daemon.stop();
    let records = stored_bytes(&rig.daemon, "shop.public.orders", 5);
    rig.daemon.start();
    let url = format!("http://127.0.0.1:{}", rig.daemon.port);
    let mut client = Command::new(python)
        .args(["-c", SCRIPT, &url, "shop.public.orders"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(records.as_bytes()).unwrap();
    let out = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["r 1 1 row 1", "r 2 2 row 2", "r 3 3 row 3", "c 4 4 row 4", "c 5 5 row 5"]);
}

/// Keys and values as they lie in the log of a stopped daemon, in hexadecimal, one record a line.
fn stored_bytes(daemon: &Daemon, topic: &str, count: usize) -> String {
    runtime().block_on(async {
        let log = EmbeddedLog::open(EmbeddedConfig::new(daemon.data_dir().join("log"))).await.unwrap();
        let mut reader = log.reader("python-test", TopicFilter::new([topic.to_owned()])).await.unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut lines = Vec::new();
        while lines.len() < count {
            match reader.next().await.unwrap() {
                LogEvent::Gained(partitions) => {
                    for partition in partitions {
                        reader.seek(&partition, SeekTo::Earliest).unwrap();
                    }
                }
                LogEvent::Batch(batch) => {
                    lines.extend(batch.records.records().unwrap().into_iter().map(|record| {
                        format!("{} {}\n", hex(&record.key.unwrap()), hex(&record.value.unwrap()))
                    }))
                }
            }
        }
        drop(reader);
        log.delete_group("python-test").await.unwrap();
        log.close().await.unwrap();
        lines.concat()
    })
}
