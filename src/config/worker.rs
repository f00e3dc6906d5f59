//! `worker.yaml`: file first, then `ROWSTREAM_*` from the environment (`ROWSTREAM_ADMIN__LISTEN` is `admin.listen`).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Env, Format, Yaml},
};
use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, units};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    secrets, spec,
    topic_log::{self, TopicLogConfig},
};
use crate::schema_registry::{SubjectStrategy, confluent::SchemaRegistryConfig};

/// Everything the process itself needs to know.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkerConfig {
    /// The embedded log lives here; nothing else is kept. Empty with Kafka, where a worker keeps nothing.
    #[serde(default)]
    pub data_dir: PathBuf,
    /// Directory of connector YAML files.
    pub connectors: PathBuf,
    /// The topic log.
    #[serde(skip)]
    pub topic_log: TopicLogConfig,
    /// The schema registry.
    #[serde(default)]
    pub schema_registry: SchemaRegistryConfig,
    /// The admin server.
    #[serde(default)]
    pub admin: AdminConfig,
    /// Longest graceful stop.
    #[serde(default = "default_stop_timeout", deserialize_with = "units::duration")]
    pub stop_timeout: Duration,
    /// A task that neither commits nor waits for input for this long is reported as stalled.
    #[serde(default = "default_stall_timeout", deserialize_with = "units::duration")]
    pub stall_timeout: Duration,
}

/// `admin`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// Address of the REST API, health, metrics and the schema registry.
    pub listen: SocketAddr,
    /// Where others find that address; what `worker_id` says.
    pub advertised: Option<String>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8083)), advertised: None }
    }
}

fn default_stop_timeout() -> Duration {
    Duration::from_secs(25)
}

fn default_stall_timeout() -> Duration {
    Duration::from_mins(1)
}

/// Every field of `worker.yaml`.
pub const WORKER_FIELDS: &[FieldDoc] = &[
    FieldDoc::optional(
        "data_dir",
        FieldKind::Text,
        None,
        "Directory of the embedded topic log: records, offsets, schemas. One daemon at a time; a second one is refused. Required with the embedded log; with Kafka nothing is kept on disk.",
        "/var/lib/rowstream",
    ),
    FieldDoc {
        required: true,
        ..FieldDoc::optional(
            "connectors",
            FieldKind::Text,
            None,
            "Directory of connector files (`*.yaml`), relative to worker.yaml. Watched: a changed file restarts its connector only.",
            "connectors.d",
        )
    },
    FieldDoc::optional(
        "topic_log.type",
        FieldKind::Choice(&["embedded", "kafka"]),
        Some("embedded"),
        "The topic log: `embedded`, inside this process, or `kafka`, shared by many workers.",
        "kafka",
    ),
    FieldDoc::optional(
        "topic_log.partitions",
        FieldKind::Integer { min: 1, max: 1024 },
        Some("1"),
        "Partitions of newly made topics of the embedded log.",
        "1",
    ),
    FieldDoc::optional(
        "topic_log.segment_size",
        FieldKind::Size,
        Some("64MiB"),
        "Size of one segment file. The disk must have room for two more at any time.",
        "64MiB",
    ),
    FieldDoc::optional(
        "topic_log.commit_interval",
        FieldKind::Duration,
        Some("10ms"),
        "Under load, how long a commit may wait for more records; on Kafka the shortest time between two commits of a task, and 50ms at least while there is much to write. Light traffic commits at once.",
        "10ms",
    ),
    FieldDoc::optional(
        "topic_log.retention",
        FieldKind::Duration,
        Some("7d"),
        "Records are kept this long, and longer while a sink has not read them.",
        "7d",
    ),
    FieldDoc::optional(
        "topic_log.retention_size",
        FieldKind::Size,
        None,
        "Bytes kept per log, and more while a sink has not read them; unlimited when not given.",
        "100GiB",
    ),
    FieldDoc::optional(
        "topic_log.group",
        FieldKind::Text,
        Some("rowstream"),
        "Kafka: workers of one group share connectors, offsets and state. Names the topics `GROUP-offsets`, `GROUP-sink-offsets`, `GROUP-state` and `GROUP-shards`, the consumer group `GROUP-workers`, and begins every `transactional.id`.",
        "rowstream",
    ),
    FieldDoc::optional(
        "topic_log.instance_id",
        FieldKind::Text,
        None,
        "Kafka: this worker's name in its group, its own and the same after every restart, e.g. a StatefulSet's host name. It then gets back what it had at once, and its connectors wait for it up to the session timeout (6 s) instead of moving when it stops. Without one they move as soon as it stops.",
        "${env:HOSTNAME}",
    ),
    FieldDoc::optional(
        "topic_log.group_protocol",
        FieldKind::Choice(&["classic", "consumer"]),
        Some("classic"),
        "Kafka: how the workers' group comes to an agreement. With `consumer` (KIP-848, brokers 4.0 and newer) the brokers assign, and it is they who say after how long a killed worker's tasks move: `group.consumer.session.timeout.ms`, 45 s unless they are told otherwise. Change it while all workers of the group are stopped: beside workers of the old protocol a new one gets nothing to do.",
        "consumer",
    ),
    FieldDoc::optional(
        "topic_log.bootstrap_servers",
        FieldKind::List,
        None,
        "Kafka: brokers to begin with, as `host:port`. Required.",
        "[\"kafka-1:9092\", \"kafka-2:9092\"]",
    ),
    FieldDoc::optional(
        "topic_log.transaction_timeout",
        FieldKind::Duration,
        Some("1m"),
        "Kafka: a transaction that a source left open, because its worker was killed, paused or cut off, is undone by the brokers after this long at the latest (its next start does so at once); until then it hides what others write to the same partitions. At least 1s, at most the brokers' `transaction.max.timeout.ms`.",
        "1m",
    ),
    FieldDoc::optional(
        "topic_log.tls.enabled",
        FieldKind::Bool,
        Some("true"),
        "Kafka: with anything under `tls` the connection is encrypted, unless this says no.",
        "true",
    ),
    FieldDoc::optional(
        "topic_log.tls.ca_file",
        FieldKind::Text,
        None,
        "Kafka: PEM file of the authorities that sign the brokers' certificates; the machine's own when not given.",
        "/etc/rowstream/kafka-ca.pem",
    ),
    FieldDoc::optional(
        "topic_log.tls.cert_file",
        FieldKind::Text,
        None,
        "Kafka: PEM file of the client's certificate chain, where brokers ask for one (mTLS).",
        "/etc/rowstream/kafka-client.pem",
    ),
    FieldDoc::optional(
        "topic_log.tls.key_file",
        FieldKind::Text,
        None,
        "Kafka: PEM file of the key of that certificate.",
        "/etc/rowstream/kafka-client.key",
    ),
    FieldDoc::optional(
        "topic_log.tls.key_password",
        FieldKind::Secret,
        None,
        "Kafka: password of that key.",
        "${env:KAFKA_KEY_PASSWORD}",
    ),
    FieldDoc::optional(
        "topic_log.tls.verify_hostname",
        FieldKind::Bool,
        Some("true"),
        "Kafka: whether a broker's name must be the one in its certificate.",
        "true",
    ),
    FieldDoc::optional(
        "topic_log.sasl.mechanism",
        FieldKind::Choice(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]),
        None,
        "Kafka: how the worker proves who it is. Without it, by its certificate or not at all.",
        "SCRAM-SHA-512",
    ),
    FieldDoc::optional(
        "topic_log.sasl.user",
        FieldKind::Text,
        None,
        "Kafka: user of PLAIN and SCRAM.",
        "rowstream",
    ),
    FieldDoc::optional(
        "topic_log.sasl.password",
        FieldKind::Secret,
        None,
        "Kafka: password of PLAIN and SCRAM.",
        "${env:KAFKA_PASSWORD}",
    ),
    FieldDoc::optional(
        "topic_log.sasl.token_file",
        FieldKind::Text,
        None,
        "Kafka: with OAUTHBEARER, a file that holds a token (JWT) and is kept fresh by somebody else, as Kubernetes does with service account tokens. Read again before the token expires.",
        "/var/run/secrets/tokens/kafka",
    ),
    FieldDoc::optional(
        "topic_log.topics.partitions",
        FieldKind::Integer { min: 1, max: 100_000 },
        Some("1"),
        "Kafka: partitions of newly made topics. Keys are spread by murmur2, as Java clients do. Topics that are there keep what they have.",
        "6",
    ),
    FieldDoc::optional(
        "topic_log.topics.replication_factor",
        FieldKind::Integer { min: 1, max: 1024 },
        None,
        "Kafka: copies of newly made topics, the log's own too; the brokers' default when not given.",
        "3",
    ),
    FieldDoc::optional(
        "topic_log.topics.cleanup_policy",
        FieldKind::Choice(&["delete", "compact", "compact,delete"]),
        None,
        "Kafka: `cleanup.policy` of newly made topics; the brokers' default when not given. A compacted topic takes no record of a table without a key.",
        "delete",
    ),
    FieldDoc::optional(
        "topic_log.topics.overrides",
        FieldKind::Map,
        None,
        "Kafka: topic names or patterns with settings of their own for newly made topics: `partitions`, `replication_factor`, and any setting of a Kafka topic. The most specific pattern counts.",
        "{ \"shop.public.orders\": \"partitions=12, cleanup.policy=compact\" }",
    ),
    FieldDoc::optional(
        "topic_log.properties",
        FieldKind::SecretMap,
        None,
        "Kafka: properties of librdkafka for all clients, laid over ours. Those that exactly-once stands on are refused by name. `message.max.bytes` is the largest record: a larger one is handled by the connector's error policy.",
        "{ message.max.bytes: 5000000 }",
    ),
    FieldDoc::optional(
        "schema_registry.type",
        FieldKind::Choice(&["builtin", "confluent"]),
        Some("builtin"),
        "The schema registry: `builtin`, served under the admin address, or `confluent`, a server with Confluent's REST API.",
        "confluent",
    ),
    FieldDoc::optional(
        "schema_registry.url",
        FieldKind::List,
        None,
        "Base address of the external registry, or several of the same registry: when one does not answer, the next one is asked.",
        "https://registry.example.com:8081",
    ),
    FieldDoc::optional(
        "schema_registry.subject_strategy",
        FieldKind::Choice(SubjectStrategy::WORDS),
        Some("topic"),
        "How subjects are named: `topic` (`<topic>-key` and `<topic>-value`; Confluent's TopicNameStrategy), `record` (the record's full name; RecordNameStrategy) or `topic_record` (`<topic>-<record>`; TopicRecordNameStrategy). A connector can have its own.",
        "record",
    ),
    FieldDoc::optional(
        "schema_registry.auto_register",
        FieldKind::Bool,
        Some("true"),
        "Whether new schemas are registered. With `false` they are only looked up, and a task whose schema nobody has registered fails and says which.",
        "false",
    ),
    FieldDoc::optional(
        "schema_registry.timeout",
        FieldKind::Duration,
        Some("10s"),
        "Longest wait for one answer of the external registry, connecting included. A task that got none is shown as RETRYING and tries again until there is one.",
        "5s",
    ),
    FieldDoc::optional(
        "schema_registry.auth.user",
        FieldKind::Text,
        None,
        "User of HTTP basic authentication; Confluent Cloud calls it the API key.",
        "rowstream",
    ),
    FieldDoc::optional(
        "schema_registry.auth.password",
        FieldKind::Secret,
        None,
        "Password of that user.",
        "${env:REGISTRY_PASSWORD}",
    ),
    FieldDoc::optional(
        "schema_registry.auth.token",
        FieldKind::Secret,
        None,
        "Bearer token, in place of user and password.",
        "${file:/run/secrets/registry-token}",
    ),
    FieldDoc::optional(
        "schema_registry.tls.ca_file",
        FieldKind::Text,
        None,
        "PEM file of the authorities that may sign the registry's certificate; the system's when not given.",
        "/etc/ssl/registry-ca.pem",
    ),
    FieldDoc::optional(
        "schema_registry.tls.cert_file",
        FieldKind::Text,
        None,
        "PEM file of our own certificate and those between it and its authority, for registries that want one (mTLS).",
        "/etc/rowstream/client.pem",
    ),
    FieldDoc::optional(
        "schema_registry.tls.key_file",
        FieldKind::Text,
        None,
        "PEM file of the key of that certificate.",
        "/etc/rowstream/client.key",
    ),
    FieldDoc::optional(
        "schema_registry.topic",
        FieldKind::Text,
        Some("_schemas"),
        "With Kafka, the compacted topic in which the built-in registry keeps its schemas, in the format of Confluent's registry.",
        "_schemas",
    ),
    FieldDoc::optional(
        "admin.listen",
        FieldKind::Text,
        Some("127.0.0.1:8083"),
        "Address of the REST API, /livez, /readyz, /metrics and the schema registry.",
        "127.0.0.1:8083",
    ),
    FieldDoc::optional(
        "admin.advertised",
        FieldKind::Text,
        None,
        "Host and port at which others reach `admin.listen`; `worker_id` in a status says this. When not given, the address that is listened on, or the machine's name where that is every address. In a pod it is best the pod's own address.",
        "${env:POD_IP}:8083",
    ),
    FieldDoc::optional(
        "stop_timeout",
        FieldKind::Duration,
        Some("25s"),
        "Longest graceful stop. Keep it below Kubernetes' terminationGracePeriodSeconds.",
        "25s",
    ),
    FieldDoc::optional(
        "stall_timeout",
        FieldKind::Duration,
        Some("1m"),
        "A task that neither commits nor waits for input for this long makes /readyz say so.",
        "1m",
    ),
];

impl WorkerConfig {
    /// Reads the file and the environment; paths in it are relative to the file.
    ///
    /// # Errors
    /// Every problem at once, or that the file can't be read.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let document = match read_yaml(file) {
            Ok(document) => document,
            Err(problem) => {
                errors.push("", problem);
                return Err(errors);
            }
        };
        let resolved = secrets::resolve(&document, &secrets::process_environment, &mut errors);
        let mut typed = spec::check(&resolved, WORKER_FIELDS, "", &mut errors);
        if let Some(Value::String(listen)) = spec::lookup(&typed, "admin.listen")
            && listen.parse::<SocketAddr>().is_err()
        {
            errors.push(
                "admin.listen",
                "expected an address and a port, such as `127.0.0.1:8083` or `0.0.0.0:8083`",
            );
        }
        if let Some(Value::String(advertised)) = spec::lookup(&typed, "admin.advertised")
            && host_and_port(advertised).is_none()
        {
            errors.push("admin.advertised", "expected a host and a port, such as `cdc-0.cdc:8083`");
        }
        let fields = match typed.remove("topic_log") {
            Some(Value::Object(fields)) => fields,
            Some(_) | None => Map::new(),
        };
        let topic_log = topic_log::read(fields, &mut errors);
        if matches!(topic_log, TopicLogConfig::Embedded(_)) && !document.contains_key("data_dir") {
            errors.push(
                "data_dir",
                "is required, e.g. `/var/lib/rowstream`. Directory of the embedded topic log.",
            );
        }
        errors.clone().into_result()?;
        let mut config: Self = serde_json::from_value(Value::Object(typed)).map_err(|e| {
            errors.push("", e.to_string());
            errors.clone()
        })?;
        let base = file.parent().unwrap_or(Path::new("."));
        config.topic_log = topic_log;
        config.admin.advertised = config.admin.advertised.as_deref().and_then(host_and_port);
        config.data_dir = base.join(&config.data_dir);
        config.connectors = base.join(&config.connectors);
        config.schema_registry.relative_to(base);
        config.schema_registry.plan()?;
        Ok(config)
    }
}

impl WorkerConfig {
    /// The directory of connector files that a `worker.yaml` names, even when other keys of it are wrong.
    #[must_use]
    pub fn connectors_of(file: &Path) -> Option<PathBuf> {
        let document = read_yaml(file).ok()?;
        let directory = document.get("connectors")?.as_str()?;
        Some(file.parent().unwrap_or(Path::new(".")).join(directory))
    }
}

/// `host:port` as a URL has it: an IPv6 address, also one that came without, stands in brackets.
fn host_and_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if bare.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some(format!("[{bare}]:{port}"));
    }
    let named = !host.is_empty() && !host.contains([':', '/', '[', ']', ' ']);
    named.then(|| text.to_owned())
}

/// The file, with the environment laid over it.
fn read_yaml(file: &Path) -> Result<Map<String, Value>, String> {
    // figment takes a missing file for an empty one, and a person who mistyped the path must hear of it.
    std::fs::metadata(file).map_err(|e| format!("can't read {}: {e}", file.display()))?;
    let known = |key: &figment::value::UncasedStr| {
        let path = key.as_str().to_lowercase().replace("__", ".");
        WORKER_FIELDS.iter().any(|f| f.path == path)
    };
    let figment =
        Figment::from(Yaml::file_exact(file)).merge(Env::prefixed("ROWSTREAM_").filter(known).split("__"));
    let value: Value = figment.extract().map_err(|e| format!("{}: {e}", file.display()))?;
    match value {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(format!(
            "{}: expected keys with values, such as `data_dir: /var/lib/rowstream`",
            file.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_paths_relative_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("worker.yaml");
        std::fs::write(
            &file,
            "data_dir: data\nconnectors: c.d\nadmin: { listen: '127.0.0.1:0' }\nstop_timeout: 3s\n",
        )
        .unwrap();
        let config = WorkerConfig::load(&file).unwrap();
        assert_eq!(config.data_dir, dir.path().join("data"));
        assert_eq!(config.stop_timeout, Duration::from_secs(3));
        let TopicLogConfig::Embedded(log) = config.topic_log else { panic!("not the default") };
        assert_eq!(log.segment_size.0, 64 << 20);
    }

    #[test]
    fn an_advertised_address_is_a_host_and_a_port() {
        for good in ["cdc-0.cdc:8083", "10.0.0.7:8083", "[fd00::7]:8083"] {
            assert_eq!(host_and_port(good).as_deref(), Some(good));
        }
        // As Kubernetes gives a pod's address.
        assert_eq!(host_and_port("fd00::7:8083").as_deref(), Some("[fd00::7]:8083"));
        for bad in ["cdc", "cdc:", ":8083", "cdc:0", "http://cdc:8083", "[cdc]:8083"] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn wrong_keys_are_all_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("worker.yaml");
        std::fs::write(&file, "data_dri: x\nadmin: { listen: nowhere }\ntopic_log: { segment_size: big }\n")
            .unwrap();
        let text = WorkerConfig::load(&file).unwrap_err().to_string();
        for expected in [
            "data_dri: is not a known key; did you mean `data_dir`?",
            "admin.listen: expected an address",
            "topic_log.segment_size: expected a size",
            "data_dir: is required",
            "connectors: is required",
        ] {
            assert!(text.contains(expected), "missing {expected:?} in:\n{text}");
        }
        assert!(
            WorkerConfig::load(&dir.path().join("nope.yaml")).unwrap_err().to_string().contains("can't read")
        );
    }
}
