//! What the Kafka log is told, and the settings of librdkafka that follow from it.
//!
//! The user's `properties` are laid over ours, except where the promise of the log stands on ours: those are refused by
//! name before anything connects, so that a passed-through property can never turn exactly-once off.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use rdkafka::ClientConfig;
use rowstream_api::Secret;

use crate::topic_log::TopicFilter;

/// A record's default limit, as librdkafka's and a broker's own.
pub const RECORD_BYTES_MAX: usize = 1_000_000;
/// How long the coordinator waits for an open transaction of a writer that fell silent, when nothing else is said.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(1);
/// What librdkafka takes at least.
pub const TRANSACTION_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Requests under way to one partition, as librdkafka has it for idempotent producers.
const REQUESTS_MAX: usize = 5;
/// Records of one request at most: larger ones cost brokers no less, and more memory here.
const BATCH_MESSAGES: usize = 4_000;

/// How often the clients that move records tell their numbers.
pub(super) const STATISTICS_INTERVAL_MS: &str = "5000";

/// Properties that the log's promise stands on, and why they are not the user's.
const OURS: &[(&str, &str)] = &[
    ("acks", "records are durable when all in-sync replicas have them"),
    ("auto.offset.reset", "a position outside the log is an error, never a jump"),
    ("bootstrap.servers", "it is `topic_log.bootstrap_servers`"),
    ("client.id", "it tells the group and the writer"),
    ("delivery.report.only.error", "inside a transaction only errors are of use"),
    ("enable.auto.commit", "positions are stored when the destination holds the records"),
    ("enable.auto.offset.store", "positions are stored when the destination holds the records"),
    ("enable.idempotence", "records must not be doubled"),
    ("enable.partition.eof", "readers follow it"),
    ("group.id", "it is the connector's"),
    ("group.instance.id", "it is `topic_log.instance_id`"),
    (
        "group.protocol",
        "it is `topic_log.group_protocol`, of the workers' group; no other consumer is in a group",
    ),
    ("partition.assignment.strategy", "only what must move, moves"),
    ("isolation.level", "readers see committed records only"),
    ("message.timeout.ms", "it must stay below the transaction's timeout"),
    ("partitioner", "it is murmur2, as in Java"),
    ("transaction.timeout.ms", "it is `topic_log.transaction_timeout`"),
    ("transactional.id", "it is the writer's, and fences it"),
];

/// Settings of a [`KafkaLog`](super::KafkaLog).
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// Workers of one group share topics of offsets and state; also the first part of every `transactional.id`.
    pub group: String,
    /// `host:port`, at least one.
    pub bootstrap_servers: Vec<String>,
    /// TLS; `None` is plain.
    pub tls: Option<KafkaTls>,
    /// Authentication; `None` is none (or that of a client certificate).
    pub sasl: Option<KafkaSasl>,
    /// How topics are made.
    pub topics: TopicDefaults,
    /// A commit starts at the earliest this long after the last one.
    pub commit_interval: Duration,
    /// How long the coordinator waits for an open transaction of a writer that fell silent.
    pub transaction_timeout: Duration,
    /// Bytes of groups that may wait for commit, over all writers.
    pub queue_bytes: u32,
    /// Name of this worker in its group, the same whenever it comes back: then it gets back what it had without anybody else being
    /// disturbed, and for as long as the session lasts nobody else gets it.
    pub instance_id: Option<String>,
    /// How the workers' group comes to an agreement.
    pub group_protocol: GroupProtocol,
    /// Properties of librdkafka, laid over ours.
    pub properties: BTreeMap<String, String>,
}

/// How the members of the workers' group come to an agreement. All speak the same: a group changes over while it is
/// empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// Members assign, cooperatively; a member says how long its session is.
    #[default]
    Classic,
    /// KIP-848: brokers assign, and say how long a session is (`group.consumer.session.timeout.ms`, 45 s unless told otherwise).
    Consumer,
}

/// TLS of the connection to the brokers.
#[derive(Debug, Clone, Default)]
pub struct KafkaTls {
    /// PEM file of the authorities; the machine's when absent.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// The key's password.
    pub key_password: Option<Secret>,
    /// Whether the broker's name is checked against its certificate.
    pub verify_hostname: bool,
}

/// How we authenticate.
#[derive(Debug, Clone)]
pub enum KafkaSasl {
    /// A user and a password.
    Password {
        /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
        mechanism: &'static str,
        /// User.
        user: String,
        /// Password.
        password: Secret,
    },
    /// A token (JWT) that somebody else keeps fresh in this file, as Kubernetes does with service account tokens.
    TokenFile(PathBuf),
}

/// How topics are made that are not there.
#[derive(Debug, Clone)]
pub struct TopicDefaults {
    /// Partitions.
    pub partitions: u32,
    /// Copies; the broker's default when absent.
    pub replication_factor: Option<u32>,
    /// `delete`, `compact` or both; the broker's default when absent.
    pub cleanup_policy: Option<String>,
    /// Topic patterns with settings of their own; the first that matches counts.
    pub overrides: Vec<(TopicFilter, TopicSettings)>,
}

/// Settings of some topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicSettings {
    /// Partitions.
    pub partitions: Option<u32>,
    /// Copies.
    pub replication_factor: Option<u32>,
    /// Any setting of a topic, such as `cleanup.policy` or `retention.ms`.
    pub config: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// The defaults for a group on these brokers.
    #[must_use]
    pub fn new(group: impl Into<String>, bootstrap_servers: Vec<String>) -> Self {
        Self {
            group: group.into(),
            bootstrap_servers,
            tls: None,
            sasl: None,
            topics: TopicDefaults {
                partitions: 1,
                replication_factor: None,
                cleanup_policy: None,
                overrides: Vec::new(),
            },
            commit_interval: Duration::from_millis(10),
            transaction_timeout: TRANSACTION_TIMEOUT,
            queue_bytes: 16 << 20,
            instance_id: None,
            group_protocol: GroupProtocol::Classic,
            properties: BTreeMap::new(),
        }
    }

    /// Why a passed-through property is refused, if it is.
    #[must_use]
    pub fn refused_property(name: &str) -> Option<&'static str> {
        OURS.iter().find(|(ours, _)| *ours == name).map(|(_, why)| *why)
    }

    /// The largest record, key and headers included, that the client hands to a broker.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        let set = self.properties.get("message.max.bytes").and_then(|text| text.parse().ok());
        set.unwrap_or(RECORD_BYTES_MAX)
    }

    /// Settings of a topic to be made.
    #[must_use]
    pub fn settings_of(&self, topic: &str) -> TopicSettings {
        let own = self.topics.overrides.iter().find(|(filter, _)| filter.matches(topic));
        let mut settings = own.map(|(_, settings)| settings.clone()).unwrap_or_default();
        settings.partitions.get_or_insert(self.topics.partitions);
        settings.replication_factor = settings.replication_factor.or(self.topics.replication_factor);
        if let Some(policy) = &self.topics.cleanup_policy {
            settings.config.entry("cleanup.policy".to_owned()).or_insert_with(|| policy.clone());
        }
        settings
    }

    /// What every client has in common.
    pub(super) fn client(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap_servers.join(","));
        config.set("client.id", format!("rowstream-{}-{role}", self.group));
        config.set("socket.keepalive.enable", "true");
        // A broker that comes back is used within a second, not after librdkafka's ten.
        config.set("reconnect.backoff.ms", "50");
        config.set("reconnect.backoff.max.ms", "1000");
        config.set("statistics.interval.ms", "0");
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            set_tls(&mut config, tls);
        }
        match &self.sasl {
            Some(KafkaSasl::Password { mechanism, user, password }) => {
                config.set("sasl.mechanism", *mechanism);
                config.set("sasl.username", user);
                config.set("sasl.password", password.reveal());
            }
            Some(KafkaSasl::TokenFile(_)) => {
                config.set("sasl.mechanism", "OAUTHBEARER");
            }
            None => {}
        }
        config
    }

    /// A client that makes topics.
    pub(super) fn admin(&self) -> ClientConfig {
        self.passed_through(self.client("admin"))
    }

    /// A producer without transactions: each record counts alone.
    pub(super) fn producer(&self, role: &str) -> ClientConfig {
        let mut config = self.client(role);
        config.set("enable.idempotence", "true");
        config.set("compression.type", "lz4");
        // Full batches go at once, and the end of a transaction sends what there is.
        config.set("linger.ms", "100");
        // While the five requests that may be under way to a partition are, librdkafka's thread asks without a pause for what waits
        // behind them. So the queue holds no more than those five: the processor is the broker's meanwhile.
        config.set("batch.num.messages", BATCH_MESSAGES.to_string());
        config.set("queue.buffering.max.messages", (REQUESTS_MAX * BATCH_MESSAGES).to_string());
        let queue_bytes = REQUESTS_MAX.saturating_mul(self.record_bytes_max().max(RECORD_BYTES_MAX));
        config.set("queue.buffering.max.kbytes", queue_bytes.div_ceil(1024).to_string());
        config.set("message.max.bytes", RECORD_BYTES_MAX.to_string());
        self.passed_through(config)
    }

    /// A transactional producer.
    pub(super) fn transactional(&self, id: &str, transaction_timeout: Option<Duration>) -> ClientConfig {
        let mut config = self.producer(id);
        let timeout = transaction_timeout.unwrap_or(self.transaction_timeout).min(self.transaction_timeout);
        // How long a record may wait for its broker: less, so that the writer hears of it before the coordinator acts.
        let message_timeout = timeout * 3 / 4;
        config.set("transactional.id", id);
        config.set("transaction.timeout.ms", timeout.as_millis().to_string());
        config.set("message.timeout.ms", message_timeout.as_millis().to_string());
        config.set("delivery.report.only.error", "true");
        config.set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
        config
    }

    /// A consumer that is told its partitions.
    pub(super) fn consumer(&self, group: &str, isolation: Isolation) -> ClientConfig {
        let mut config = self.client(group);
        config.set("group.id", group);
        config.set("isolation.level", isolation.as_str());
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("queued.min.messages", "10000");
        config.set("queued.max.messages.kbytes", "8192");
        // With librdkafka's default a reader that once filled its queue waits for a second.
        config.set("fetch.queue.backoff.ms", "10");
        config.set("fetch.wait.max.ms", "100");
        self.passed_through(config)
    }

    fn passed_through(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }
}

/// What a consumer may see, and what it takes for the end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Up to the first open transaction.
    Committed,
    /// Everything: only for asking where a partition really ends.
    Uncommitted,
}

impl Isolation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

fn set_tls(config: &mut ClientConfig, tls: &KafkaTls) {
    let mut file = |name: &str, path: &Option<PathBuf>| {
        if let Some(path) = path {
            config.set(name, path.display().to_string());
        }
    };
    file("ssl.ca.location", &tls.ca);
    file("ssl.certificate.location", &tls.certificate);
    file("ssl.key.location", &tls.key);
    if let Some(password) = &tls.key_password {
        config.set("ssl.key.password", password.reveal());
    }
    let check = if tls.verify_hostname { "https" } else { "none" };
    config.set("ssl.endpoint.identification.algorithm", check);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_override_that_matches_counts_and_the_rest_is_the_default() {
        let mut config = KafkaConfig::new("g", vec!["b:9092".into()]);
        config.topics.partitions = 3;
        config.topics.cleanup_policy = Some("delete".into());
        let own = TopicSettings {
            partitions: Some(12),
            replication_factor: None,
            config: BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
        };
        config.topics.overrides = vec![
            (TopicFilter::new(["shop.public.orders"]), own),
            (TopicFilter::new(["shop.*"]), TopicSettings { partitions: Some(6), ..TopicSettings::default() }),
        ];
        let of = |topic: &str| {
            let settings = config.settings_of(topic);
            (settings.partitions.unwrap(), settings.config["cleanup.policy"].clone())
        };
        assert_eq!(of("shop.public.orders"), (12, "compact".to_owned()));
        assert_eq!(of("shop.public.customers"), (6, "delete".to_owned()));
        assert_eq!(of("other"), (3, "delete".to_owned()));
    }

    #[test]
    fn what_the_promise_stands_on_cannot_be_passed_through() {
        assert!(KafkaConfig::refused_property("isolation.level").is_some());
        assert!(KafkaConfig::refused_property("transactional.id").is_some());
        assert!(KafkaConfig::refused_property("linger.ms").is_none());
        let mut config = KafkaConfig::new("g", vec!["b:9092".into()]);
        config.properties.insert("message.max.bytes".into(), "5000000".into());
        assert_eq!(config.record_bytes_max(), 5_000_000);
        assert_eq!(config.producer("p").get("message.max.bytes"), Some("5000000"));
        config.properties.insert("ssl.ca.pem".into(), "-".into());
        for client in [config.admin(), config.producer("p"), config.consumer("c", Isolation::Committed)] {
            assert_eq!(client.get("ssl.ca.pem"), Some("-"), "{client:?}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let mut config = KafkaConfig::new("g", vec!["b:9092".into()]);
        let password = Secret::new("hunter2");
        config.sasl = Some(KafkaSasl::Password { mechanism: "PLAIN", user: "u".into(), password });
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.client("c").get("security.protocol"), Some("sasl_plaintext"));
    }
}
