//! `topic_log` of worker.yaml: which log, and what it is told.
//!
//! One table of fields serves both kinds, so a field of the other kind is a known key; that it means nothing here is told by
//! name, as any other mistake.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use rowstream_api::{ByteSize, ConfigErrors, Secret, units};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::topic_log::{
    TopicFilter,
    kafka::{
        KafkaConfig, KafkaSasl, KafkaTls, TopicDefaults, TopicSettings,
        config::{GroupProtocol, TRANSACTION_TIMEOUT, TRANSACTION_TIMEOUT_MIN},
    },
};

/// Fields of `topic_log` that only the embedded log has.
const EMBEDDED_ONLY: &[&str] = &["partitions", "segment_size", "retention", "retention_size"];
/// And those that only Kafka has.
const KAFKA_ONLY: &[&str] = &[
    "group",
    "instance_id",
    "group_protocol",
    "bootstrap_servers",
    "transaction_timeout",
    "tls",
    "sasl",
    "topics",
    "properties",
];
/// What stands before `tls`, `sasl` and the others in an error.
const PREFIX: &str = "topic_log.";
/// Of a session that members choose themselves: librdkafka takes them in silence with `group_protocol: consumer`, where brokers do.
const SESSION_PROPERTIES: &[&str] = &["session.timeout.ms", "heartbeat.interval.ms"];

/// `topic_log`.
#[derive(Debug, Clone)]
pub enum TopicLogConfig {
    /// `type: embedded`.
    Embedded(EmbeddedLogConfig),
    /// `type: kafka`.
    Kafka(Box<KafkaConfig>),
}

impl Default for TopicLogConfig {
    fn default() -> Self {
        Self::Embedded(EmbeddedLogConfig::default())
    }
}

/// The embedded log.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct EmbeddedLogConfig {
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

impl Default for EmbeddedLogConfig {
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

fn optional_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    units::duration(deserializer).map(Some)
}

/// As typed; every field has its type already.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct KafkaFields {
    group: String,
    instance_id: Option<String>,
    group_protocol: GroupProtocol,
    bootstrap_servers: Vec<String>,
    #[serde(deserialize_with = "units::duration")]
    commit_interval: Duration,
    #[serde(deserialize_with = "units::duration")]
    transaction_timeout: Duration,
    tls: Option<TlsFields>,
    sasl: Option<SaslFields>,
    topics: TopicFields,
    properties: BTreeMap<String, String>,
}

impl Default for KafkaFields {
    fn default() -> Self {
        let commit_interval = EmbeddedLogConfig::default().commit_interval;
        let (tls, sasl, topics) = (None, None, TopicFields::default());
        Self {
            group: "rowstream".into(),
            instance_id: None,
            group_protocol: GroupProtocol::default(),
            bootstrap_servers: Vec::new(),
            commit_interval,
            transaction_timeout: TRANSACTION_TIMEOUT,
            tls,
            sasl,
            topics,
            properties: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TlsFields {
    enabled: Option<bool>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    key_password: Option<Secret>,
    verify_hostname: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SaslFields {
    mechanism: Option<String>,
    user: Option<String>,
    password: Option<Secret>,
    token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TopicFields {
    partitions: Option<u32>,
    replication_factor: Option<u32>,
    cleanup_policy: Option<String>,
    overrides: BTreeMap<String, String>,
}

/// Reads the typed `topic_log`; what is wrong goes to `errors`.
pub(super) fn read(mut fields: Map<String, Value>, errors: &mut ConfigErrors) -> TopicLogConfig {
    let kafka = fields.remove("type").is_some_and(|kind| kind == "kafka");
    let (foreign, kind) = if kafka { (EMBEDDED_ONLY, "embedded") } else { (KAFKA_ONLY, "kafka") };
    for name in foreign.iter().filter(|name| fields.remove(**name).is_some()) {
        let mut text = format!("belongs to `topic_log: {{ type: {kind} }}`");
        if kafka && *name == "partitions" {
            text.push_str("; for Kafka it is `topic_log.topics.partitions`");
        }
        errors.push(format!("{PREFIX}{name}"), text);
    }
    let document = Value::Object(fields);
    if !kafka {
        let read = serde_json::from_value(document).map_err(|e| errors.push("topic_log", e.to_string()));
        return TopicLogConfig::Embedded(read.unwrap_or_default());
    }
    let read: Result<KafkaFields, _> = serde_json::from_value(document);
    let fields = read.map_err(|e| errors.push("topic_log", e.to_string())).unwrap_or_default();
    TopicLogConfig::Kafka(Box::new(kafka_config(fields, errors)))
}

fn kafka_config(fields: KafkaFields, errors: &mut ConfigErrors) -> KafkaConfig {
    let name_is_sound = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    if !name_is_sound(&fields.group) {
        errors
            .push("topic_log.group", "expected letters, digits, `.`, `_` and `-`: topics are named after it");
    }
    if fields.bootstrap_servers.is_empty() {
        errors
            .push("topic_log.bootstrap_servers", "is required, e.g. `[\"kafka-1:9092\", \"kafka-2:9092\"]`");
    }
    for name in fields.properties.keys() {
        if let Some(why) = KafkaConfig::refused_property(name) {
            errors.push(format!("topic_log.properties.{name}"), format!("is set by rowstream: {why}"));
        }
    }
    if fields.transaction_timeout < TRANSACTION_TIMEOUT_MIN {
        errors.push("topic_log.transaction_timeout", "expected at least 1s: a commit takes its time");
    }
    if fields.group_protocol == GroupProtocol::Consumer {
        for name in SESSION_PROPERTIES.iter().filter(|name| fields.properties.contains_key(**name)) {
            errors.push(
                format!("topic_log.properties.{name}"),
                "has no effect with `group_protocol: consumer`: the brokers say how long a session is, by `group.consumer.session.timeout.ms`",
            );
        }
    }
    let instance_id = fields.instance_id.filter(|id| !id.is_empty());
    if instance_id.is_some() && fields.group_protocol == GroupProtocol::Consumer {
        errors.push(
            "topic_log.instance_id",
            "leave it out with `group_protocol: consumer`: brokers turn a worker away that comes back before its old session has ended",
        );
    }
    let sasl = fields.sasl.and_then(|sasl| read_sasl(sasl, errors));
    let tls = fields.tls.filter(|tls| tls.enabled != Some(false)).map(|tls| read_tls(tls, errors));
    let TopicFields { partitions, replication_factor, cleanup_policy, overrides } = fields.topics;
    let mut config = KafkaConfig::new(fields.group, fields.bootstrap_servers);
    let overrides = read_overrides(&overrides, errors);
    config.topics =
        TopicDefaults { partitions: partitions.unwrap_or(1), replication_factor, cleanup_policy, overrides };
    KafkaConfig {
        tls,
        sasl,
        commit_interval: fields.commit_interval,
        transaction_timeout: fields.transaction_timeout,
        instance_id,
        group_protocol: fields.group_protocol,
        properties: fields.properties,
        ..config
    }
}

fn read_tls(tls: TlsFields, errors: &mut ConfigErrors) -> KafkaTls {
    let TlsFields {
        ca_file: ca, cert_file: certificate, key_file: key, key_password, verify_hostname, ..
    } = tls;
    if certificate.is_some() != key.is_some() {
        errors.push("topic_log.tls", "a client certificate needs both `cert_file` and `key_file`");
    }
    for (name, path) in [("ca_file", &ca), ("cert_file", &certificate), ("key_file", &key)] {
        if let Some(path) = path
            && let Err(error) = std::fs::metadata(path)
        {
            errors.push(format!("topic_log.tls.{name}"), format!("can't read {}: {error}", path.display()));
        }
    }
    KafkaTls { ca, certificate, key, key_password, verify_hostname: verify_hostname.unwrap_or(true) }
}

fn read_sasl(sasl: SaslFields, errors: &mut ConfigErrors) -> Option<KafkaSasl> {
    let mechanism = match sasl.mechanism.as_deref() {
        Some("OAUTHBEARER") => {
            let file = sasl.token_file.map(KafkaSasl::TokenFile);
            if file.is_none() {
                errors.push(
                    "topic_log.sasl.token_file",
                    "is required with OAUTHBEARER: a file that holds a fresh token",
                );
            }
            return file;
        }
        Some("PLAIN") => "PLAIN",
        Some("SCRAM-SHA-256") => "SCRAM-SHA-256",
        Some("SCRAM-SHA-512") => "SCRAM-SHA-512",
        Some(_) | None => {
            errors.push("topic_log.sasl.mechanism", "is required, e.g. `SCRAM-SHA-512`");
            return None;
        }
    };
    match (sasl.user, sasl.password) {
        (Some(user), Some(password)) => Some(KafkaSasl::Password { mechanism, user, password }),
        (_, _) => {
            errors.push("topic_log.sasl", format!("{mechanism} needs `user` and `password`"));
            None
        }
    }
}

fn read_overrides(
    overrides: &BTreeMap<String, String>,
    errors: &mut ConfigErrors,
) -> Vec<(TopicFilter, TopicSettings)> {
    let mut read: Vec<(&String, TopicSettings)> = Vec::new();
    for (pattern, text) in overrides {
        match settings(text) {
            Ok(settings) => read.push((pattern, settings)),
            Err(problem) => errors.push(format!("topic_log.topics.overrides.{pattern}"), problem),
        }
    }
    // A name counts before the pattern that covers it, whatever their order in the file.
    read.sort_by_key(|(pattern, _)| (pattern.contains('*'), std::cmp::Reverse(pattern.len())));
    read.into_iter().map(|(pattern, settings)| (TopicFilter::new([pattern.as_str()]), settings)).collect()
}

/// `partitions=12, replication_factor=3, cleanup.policy=compact`.
fn settings(text: &str) -> Result<TopicSettings, String> {
    let mut settings = TopicSettings::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .ok_or_else(|| format!("expected `name=value`, found `{part}`"))?;
        let count =
            || value.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("expected a number in `{part}`"));
        match name {
            "partitions" => settings.partitions = Some(count()?),
            "replication_factor" => settings.replication_factor = Some(count()?),
            other => {
                settings.config.insert(other.to_owned(), value.to_owned());
            }
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(document: Value) -> (TopicLogConfig, String) {
        let Value::Object(map) = document else { panic!("no object") };
        let mut errors = ConfigErrors::default();
        let config = read(map, &mut errors);
        (config, errors.to_string())
    }

    #[test]
    fn kafka_is_read_whole() {
        let (config, errors) = parse(serde_json::json!({
            "type": "kafka", "group": "g", "bootstrap_servers": ["a:1", "b:2"], "tls": {"enabled": true},
            "sasl": {"mechanism": "SCRAM-SHA-256", "user": "u", "password": "p"}, "commit_interval": "20ms", "transaction_timeout": "20s",
            "topics": {"partitions": 3, "overrides": {"shop.*": "partitions=6", "shop.a": "cleanup.policy=compact, retention.ms=5"}},
            "properties": {"linger.ms": "1"}
        }));
        assert_eq!(errors, "");
        let TopicLogConfig::Kafka(config) = config else { panic!("not kafka") };
        assert_eq!(config.bootstrap_servers, ["a:1", "b:2"]);
        assert_eq!(config.commit_interval, Duration::from_millis(20));
        assert_eq!(config.transaction_timeout, Duration::from_secs(20));
        assert!(config.tls.as_ref().is_some_and(|tls| tls.verify_hostname));
        assert_eq!(config.settings_of("shop.b").partitions, Some(6));
        let own = config.settings_of("shop.a");
        assert_eq!((own.partitions, own.config["retention.ms"].as_str()), (Some(3), "5"));
    }

    #[test]
    fn what_is_missing_or_of_the_other_log_is_named() {
        let (_, errors) = parse(serde_json::json!({
            "type": "kafka", "group": "a b", "partitions": 3, "sasl": {"mechanism": "PLAIN", "user": "u"},
            "tls": {"ca_file": "/nowhere/ca.pem", "key_file": "/nowhere/key.pem"}, "properties": {"acks": "1"},
            "topics": {"overrides": {"x": "partitions"}}, "transaction_timeout": "10ms"
        }));
        for expected in [
            "topic_log.group: expected letters",
            "topic_log.partitions: belongs to `topic_log: { type: embedded }`; for Kafka it is `topic_log.topics.partitions`",
            "topic_log.bootstrap_servers: is required",
            "topic_log.sasl: PLAIN needs `user` and `password`",
            "topic_log.tls: a client certificate needs both",
            "topic_log.tls.ca_file: can't read /nowhere/ca.pem",
            "topic_log.properties.acks: is set by rowstream",
            "topic_log.transaction_timeout: expected at least 1s",
            "topic_log.topics.overrides.x: expected `name=value`",
        ] {
            assert!(errors.contains(expected), "missing {expected:?} in:\n{errors}");
        }
        let (_, errors) = parse(serde_json::json!({ "group": "g" }));
        assert!(errors.contains("topic_log.group: belongs to `topic_log: { type: kafka }`"), "{errors}");
    }
    #[test]
    fn with_brokers_that_assign_what_members_say_of_sessions_is_refused() {
        let document = |protocol: &str| {
            parse(serde_json::json!({
                "type": "kafka", "bootstrap_servers": ["a:1"], "group_protocol": protocol, "instance_id": "w-0",
                "properties": {"session.timeout.ms": "10000", "linger.ms": "5"}
            }))
        };
        assert_eq!(document("classic").1, "");
        let (_, errors) = document("consumer");
        for expected in [
            "topic_log.instance_id: leave it out with `group_protocol: consumer`",
            "topic_log.properties.session.timeout.ms: has no effect with `group_protocol: consumer`",
            "`group.consumer.session.timeout.ms`",
        ] {
            assert!(errors.contains(expected), "missing {expected:?} in:\n{errors}");
        }
        assert!(!errors.contains("linger"), "{errors}");
    }
}
