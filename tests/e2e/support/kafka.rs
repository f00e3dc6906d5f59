//! A real Kafka of this test's own, which may be killed or put behind a proxy, and an independent consumer of its topics.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::daemon::TopicRecord;
use crate::python::python;

/// A cluster on a port range of its own.
#[derive(Debug, Clone)]
pub struct Kafka {
    script: Script,
    /// Where nodes answer.
    servers: String,
    /// Where a worker looks for them.
    bootstrap: String,
}

impl Kafka {
    /// An empty cluster of one node.
    pub fn empty(port: u16) -> Self {
        Self::of(port, 1, "")
    }

    /// An empty cluster; `properties`, lines of `name=value`, are laid over those of its nodes.
    pub fn of(port: u16, nodes: u16, properties: &str) -> Self {
        Self::start_empty(Script { port, version: None }, nodes, properties)
    }

    /// An empty cluster of one node whose death at any moment loses nothing. One of 4.3 and 4.4 that comes back while a transaction is
    /// being ended takes a partition without a leader for a deleted one, and ends the transaction without telling it (KAFKA-20734): its
    /// records stay invisible, and hide all behind them.
    pub fn that_may_be_killed(port: u16) -> Self {
        Self::start_empty(Script { port, version: Some("4.0.2") }, 1, "")
    }

    fn start_empty(script: Script, nodes: u16, properties: &str) -> Self {
        script.run(&["wipe"]);
        let mut up = script.command(&["up"]);
        let servers = said(up.env("KAFKA_NODES", nodes.to_string()).env("KAFKA_PROPERTIES", properties));
        Self { script, bootstrap: servers.clone(), servers }
    }

    /// The same for a worker that only knows a proxy: brokers tell it the proxy's address as theirs.
    pub fn behind_proxy(&self) -> Self {
        Self { bootstrap: self.proxy().0.to_string(), ..self.clone() }
    }

    /// Where the proxy of the first node listens, and where it connects to.
    pub fn proxy(&self) -> (SocketAddr, SocketAddr) {
        let at = |offset| SocketAddr::from(([127, 0, 0, 1], self.script.port + offset));
        (at(40), at(30))
    }

    /// The cluster goes when this does.
    pub fn until_dropped(&self) -> Wiped {
        Wiped(self.script)
    }

    /// Where nodes answer, past any proxy.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// Where the first node wants TLS and SASL.
    pub fn secure(&self) -> String {
        format!("localhost:{}", self.script.port + 20)
    }

    /// The authority of its certificate; `client.pem` and `client.key` beside it are a client's.
    pub fn ca(&self) -> PathBuf {
        self.script.run(&["ca"]).into()
    }

    pub fn bootstrap(&self) -> Vec<&str> {
        self.bootstrap.split(',').collect()
    }

    /// SIGKILL for the first node, and back again.
    pub fn kill_and_start(&self) {
        self.kill(1);
        self.start(1);
    }

    /// SIGKILL; nodes count from one.
    pub fn kill(&self, node: u16) {
        self.script.run(&["kill", &node.to_string()]);
    }

    pub fn start(&self, node: u16) {
        self.script.run(&["start", &node.to_string()]);
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
pub struct Wiped(Script);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.run(&["wipe"]);
    }
}

/// What starts and stops the nodes of one cluster.
#[derive(Debug, Clone, Copy)]
struct Script {
    port: u16,
    /// Another version of Kafka than the usual one.
    version: Option<&'static str>,
}

impl Script {
    fn run(self, arguments: &[&str]) -> String {
        said(&mut self.command(arguments))
    }

    fn command(self, arguments: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/kafka.sh")).args(arguments);
        // These are started often and work little.
        command.env("KAFKA_PORT", self.port.to_string()).env("KAFKA_TIER", "1");
        if let Some(version) = self.version {
            command.env("KAFKA_VERSION", version);
        }
        command
    }
}

fn said(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
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
