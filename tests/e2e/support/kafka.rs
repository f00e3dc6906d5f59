//! A real Kafka of this test's own, which may be killed, and an independent consumer of its topics.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::daemon::TopicRecord;
use crate::python::python;

/// A cluster on a port range of its own.
#[derive(Debug, Clone)]
pub struct Kafka {
    port: u16,
    servers: String,
}

impl Kafka {
    /// An empty cluster of one node.
    pub fn empty(port: u16) -> Self {
        script(port, &["wipe"]);
        Self { port, servers: script(port, &["up"]) }
    }

    /// The cluster goes when this does.
    pub fn until_dropped(&self) -> Wiped {
        Wiped(self.port)
    }

    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// SIGKILL, and back again.
    pub fn kill_and_start(&self) {
        script(self.port, &["kill", "1"]);
        script(self.port, &["start", "1"]);
    }

    /// All committed records of a topic, as Confluent's Python client reads and decodes them.
    pub fn records(&self, topic: &str, registry_port: u16) -> Vec<TopicRecord> {
        let python = python().expect("confluent-kafka can be installed by pip");
        let registry = format!("http://127.0.0.1:{registry_port}");
        let out =
            Command::new(python).args(["-c", CONSUMER, &self.servers, &registry, topic]).output().unwrap();
        assert!(out.status.success(), "{topic}: {}", String::from_utf8_lossy(&out.stderr));
        let lines = String::from_utf8(out.stdout).unwrap();
        let record = |line: &str| {
            let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            TopicRecord {
                partition: record["partition"].as_i64().unwrap(),
                offset: record["offset"].as_i64().unwrap(),
                key: record["key"].clone(),
                value: record["value"].clone(),
            }
        };
        lines.lines().map(record).collect()
    }
}

/// Takes the cluster away when the test ends.
pub struct Wiped(u16);

impl Drop for Wiped {
    fn drop(&mut self) {
        script(self.0, &["wipe"]);
    }
}

fn script(port: u16, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/kafka.sh");
    let mut command = Command::new("bash");
    command.arg(path).args(arguments).env("KAFKA_PORT", port.to_string());
    let out = command.output().unwrap();
    assert!(out.status.success(), "kafka.sh {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Reads each partition from its beginning to its end as it is now, one record a line.
const CONSUMER: &str = r#"
import json, sys
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import SerializationContext, MessageField
servers, url, topic = sys.argv[1:4]
decode = AvroDeserializer(SchemaRegistryClient({"url": url}))
consumer = Consumer({"bootstrap.servers": servers, "group.id": "independent", "isolation.level": "read_committed",
                     "enable.auto.commit": False, "auto.offset.reset": "error"})
partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
for number in sorted(partitions):
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=60)
    consumer.assign([TopicPartition(topic, number, 0)])
    while consumer.position([TopicPartition(topic, number)])[0].offset < end:
        for message in consumer.consume(1000, timeout=0.1):
            assert message.error() is None, message.error()
            key = decode(message.key(), SerializationContext(topic, MessageField.KEY))
            value = message.value() and decode(message.value(), SerializationContext(topic, MessageField.VALUE))
            print(json.dumps({"partition": number, "offset": message.offset(), "key": key, "value": value}, default=str))
consumer.close()
"#;
