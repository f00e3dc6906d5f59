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
use rowstream_api::{ByteSize, ConfigErrors, FieldDoc, FieldKind, units};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{secrets, spec};
use crate::schema_registry::{SubjectStrategy, confluent::SchemaRegistryConfig};

/// Everything the process itself needs to know.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkerConfig {
    /// The embedded log lives here; nothing else is kept.
    pub data_dir: PathBuf,
    /// Directory of connector YAML files.
    pub connectors: PathBuf,
    /// The topic log.
    #[serde(default)]
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

/// `topic_log`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct TopicLogConfig {
    /// Partitions of new topics.
    pub partitions: u32,
    /// Size of one segment file.
    pub segment_size: ByteSize,
    /// Longest wait for more records before a commit, under load.
    #[serde(deserialize_with = "units::duration")]
    pub commit_interval: Duration,
    /// How long records are kept after every group has read them; forever when absent.
    #[serde(deserialize_with = "optional_duration")]
    pub retention: Option<Duration>,
    /// How many bytes are kept; unlimited when absent.
    pub retention_size: Option<ByteSize>,
}

fn optional_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    units::duration(deserializer).map(Some)
}

impl Default for TopicLogConfig {
    fn default() -> Self {
        Self {
            partitions: 1,
            segment_size: ByteSize(64 << 20),
            commit_interval: Duration::from_millis(10),
            retention: Some(Duration::from_hours(7 * 24)),
            retention_size: None,
        }
    }
}

/// `admin`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// Address of the REST API, health, metrics and the schema registry.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8083)) }
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
    FieldDoc {
        required: true,
        ..FieldDoc::optional(
            "data_dir",
            FieldKind::Text,
            None,
            "Directory of the embedded topic log: records, offsets, schemas. One daemon at a time; a second one is refused.",
            "/var/lib/rowstream",
        )
    },
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
        FieldKind::Choice(&["embedded"]),
        Some("embedded"),
        "The topic log: `embedded`, inside this process.",
        "embedded",
    ),
    FieldDoc::optional(
        "topic_log.partitions",
        FieldKind::Integer { min: 1, max: 1024 },
        Some("1"),
        "Partitions of newly made topics.",
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
        "Under load, how long a commit may wait for more records. Light traffic commits at once.",
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
        "admin.listen",
        FieldKind::Text,
        Some("127.0.0.1:8083"),
        "Address of the REST API, /livez, /readyz, /metrics and the schema registry.",
        "127.0.0.1:8083",
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
        let typed = spec::check(&resolved, WORKER_FIELDS, "", &mut errors);
        if let Some(Value::String(listen)) = spec::lookup(&typed, "admin.listen")
            && listen.parse::<SocketAddr>().is_err()
        {
            errors.push(
                "admin.listen",
                "expected an address and a port, such as `127.0.0.1:8083` or `0.0.0.0:8083`",
            );
        }
        errors.clone().into_result()?;
        let mut config: Self = serde_json::from_value(Value::Object(typed)).map_err(|e| {
            errors.push("", e.to_string());
            errors.clone()
        })?;
        let base = file.parent().unwrap_or(Path::new("."));
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
        assert_eq!(config.topic_log.segment_size, ByteSize(64 << 20));
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
