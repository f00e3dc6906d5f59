//! Numbers and conditions of the Kafka log, from our own calls and from librdkafka's statistics.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::error::RDKafkaErrorCode;
use serde::Deserialize;

use crate::topic_log::LogHealth;

/// Shared by every client of the log.
#[derive(Default)]
pub(super) struct Health(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// What each writer waits for, by `transactional.id`.
    waiting: BTreeMap<String, String>,
    counted: BTreeMap<&'static str, f64>,
    /// The newest statistics of each client that has any.
    clients: BTreeMap<String, Statistics>,
    /// When a broker last answered a question or a commit.
    answered: Option<Instant>,
    /// Shards of the worker group that are ours; `None` where there is no group.
    shards: Option<u32>,
    down: bool,
    /// When a failed connection was told of last.
    told: Option<Instant>,
    /// Why the last one failed.
    failed: Option<(RDKafkaErrorCode, String)>,
}

/// Failed connections are told of this often at most, over all clients.
const FAILURES_INTERVAL: Duration = Duration::from_secs(10);

/// What alerts ask for, so that each is there from the start.
const COUNTERS: [&str; 10] = [
    "commits_total",
    "commit_seconds_total",
    "commit_retries_total",
    "queue_full_total",
    "transactions_aborted_total",
    "writers_failed_total",
    "brokers_down_total",
    "readers_stalled_total",
    "group_rebalances_total",
    "group_turned_out_total",
];

/// What is exported of librdkafka's statistics; its full form has hundreds of numbers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Statistics {
    r#type: Kind,
    msg_cnt: f64,
    msg_size: f64,
    txmsgs: f64,
    txmsg_bytes: f64,
    tx_bytes: f64,
    rxmsgs: f64,
    rxmsg_bytes: f64,
    rx_bytes: f64,
    brokers: BTreeMap<String, Broker>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Consumer,
    #[default]
    #[serde(other)]
    Producer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Broker {
    state: String,
    txretries: f64,
    rtt: Window,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Window {
    avg: f64,
    p99: f64,
}

impl Statistics {
    /// What only grows, and stays when the client has gone.
    fn totals(&self) -> [(&'static str, f64); 7] {
        [
            ("sent_records_total", self.txmsgs),
            ("sent_record_bytes_total", self.txmsg_bytes),
            ("sent_bytes_total", self.tx_bytes),
            ("received_records_total", self.rxmsgs),
            ("received_record_bytes_total", self.rxmsg_bytes),
            ("received_bytes_total", self.rx_bytes),
            ("request_retries_total", self.brokers.values().map(|b| b.txretries).sum()),
        ]
    }
    /// Brokers that it is connected to.
    fn connections(&self) -> usize {
        self.brokers.values().filter(|b| b.state == "UP").count()
    }
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn count(&self, name: &'static str, by: f64) {
        *self.lock().counted.entry(name).or_default() += by;
    }
    pub(super) fn committed(&self, writer: &str, took: Duration) {
        let mut inner = self.lock();
        *inner.counted.entry("commits_total").or_default() += 1.0;
        *inner.counted.entry("commit_seconds_total").or_default() += took.as_secs_f64();
        inner.waiting.remove(writer);
        drop(inner);
        self.answered();
    }
    /// A broker is there.
    pub(super) fn answered(&self) {
        let mut inner = self.lock();
        inner.answered = Some(Instant::now());
        if std::mem::take(&mut inner.down) {
            tracing::info!("brokers answer again");
        }
    }
    /// The worker group has given us, or taken from us, shards; so many are ours now.
    pub(super) fn rebalanced(&self, shards: u32) {
        let mut inner = self.lock();
        *inner.counted.entry("group_rebalances_total").or_default() += 1.0;
        inner.shards = Some(shards);
    }
    /// A writer can't go on.
    pub(super) fn waits(&self, writer: &str, what: String) {
        if self.lock().waiting.insert(writer.to_owned(), what.clone()).is_none() {
            tracing::warn!(writer, reason = what, "a writer waits for Kafka");
        }
    }
    /// It is gone, or goes on.
    pub(super) fn goes_on(&self, writer: &str) {
        self.lock().waiting.remove(writer);
    }
    /// Whether a failed connection is worth a line in the log.
    pub(super) fn tells_of_failure(&self) -> bool {
        let mut inner = self.lock();
        let due = inner.told.is_none_or(|told| told.elapsed() >= FAILURES_INTERVAL);
        if due {
            inner.told = Some(Instant::now());
        }
        due
    }
    pub(super) fn brokers_down(&self, reason: &str) {
        let mut inner = self.lock();
        *inner.counted.entry("brokers_down_total").or_default() += 1.0;
        if !std::mem::replace(&mut inner.down, true) {
            tracing::warn!(reason, "no broker answers; connecting again");
        }
    }
    pub(super) fn connection_failed(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut inner = self.lock();
        // That all brokers are down is told besides, and says less.
        if code != RDKafkaErrorCode::AllBrokersDown || inner.failed.is_none() {
            inner.failed = Some((code, reason.to_owned()));
        }
    }
    /// What librdkafka said of the last connection that failed.
    pub(super) fn why_unreachable(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.lock().failed.clone()
    }
    pub(super) fn statistics(&self, client: &str, json: &[u8]) {
        if let Ok(statistics) = serde_json::from_slice(json) {
            self.lock().clients.insert(client.to_owned(), statistics);
        }
    }
    pub(super) fn forget(&self, client: &str) {
        let mut inner = self.lock();
        inner.waiting.remove(client);
        if let Some(last) = inner.clients.remove(client) {
            // Counters never go back: what a client has sent stays sent.
            for (name, value) in last.totals() {
                *inner.counted.entry(name).or_default() += value;
            }
        }
    }

    /// As `/metrics` and `/readyz` show it.
    pub(super) fn read(&self) -> LogHealth {
        let inner = self.lock();
        let mut values = inner.counted.clone();
        for (name, value) in inner.clients.values().flat_map(Statistics::totals) {
            *values.entry(name).or_default() += value;
        }
        let clients = || inner.clients.values();
        let brokers = || clients().flat_map(|client| client.brokers.values());
        let worst = |of: fn(&Broker) -> f64| brokers().map(of).fold(0.0, f64::max);
        let connections =
            |kind: Kind| clients().filter(move |c| c.r#type == kind).map(Statistics::connections);
        let silence = inner.answered.map_or(Duration::ZERO, |answered| answered.elapsed());
        values.insert("queued_records", clients().map(|client| client.msg_cnt).sum());
        values.insert("queued_bytes", clients().map(|client| client.msg_size).sum());
        values.insert("broker_rtt_seconds", worst(|b| b.rtt.avg) / 1e6);
        values.insert("broker_rtt_p99_seconds", worst(|b| b.rtt.p99) / 1e6);
        values.insert("broker_silence_seconds", silence.as_secs_f64());
        values.insert("producer_connections", count(connections(Kind::Producer).sum()));
        values.insert("consumer_connections", count(connections(Kind::Consumer).sum()));
        values.insert("producers", count(connections(Kind::Producer).count()));
        values.insert("consumers", count(connections(Kind::Consumer).count()));
        if let Some(shards) = inner.shards {
            values.insert("group_shards", f64::from(shards));
        }
        // A rate needs a zero before the first.
        for name in COUNTERS {
            values.entry(name).or_default();
        }
        LogHealth { blocked: inner.waiting.values().next().cloned(), values }
    }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_become_numbers_and_a_gone_producer_leaves_its_totals() {
        let health = Health::default();
        let json = br#"{"msg_cnt":3,"tx_bytes":100,"txmsgs":7,"brokers":{"b:1/1":{"state":"UP","rtt":{"avg":2000,"p99":9000}}}}"#;
        health.statistics("a", json);
        health.statistics("b", json);
        let values = health.read().values;
        assert_eq!((values["queued_records"], values["sent_records_total"]), (6.0, 14.0));
        assert_eq!((values["broker_rtt_seconds"], values["producer_connections"]), (0.002, 2.0));
        health.forget("a");
        let values = health.read().values;
        assert_eq!((values["queued_records"], values["sent_records_total"]), (3.0, 14.0));
        health.statistics("b", b"not json");
        let reader = br#"{"type":"consumer","rxmsgs":5,"rx_bytes":50,"brokers":{"b:1/1":{"state":"UP"},"c:1/2":{"state":"INIT"}}}"#;
        health.statistics("reader", reader);
        let values = health.read().values;
        assert_eq!((values["received_records_total"], values["consumer_connections"]), (5.0, 1.0));
        assert_eq!((values["producers"], values["producer_connections"]), (1.0, 1.0));
    }

    #[test]
    fn the_group_and_its_counters_are_there_from_the_start() {
        let health = Health::default();
        let values = health.read().values;
        assert_eq!((values["transactions_aborted_total"], values.get("group_shards")), (0.0, None));
        health.rebalanced(64);
        health.rebalanced(32);
        let values = health.read().values;
        assert_eq!((values["group_rebalances_total"], values["group_shards"]), (2.0, 32.0));
    }

    #[test]
    fn failed_connections_are_told_of_now_and_then() {
        let health = Health::default();
        assert!(health.tells_of_failure());
        assert!(!health.tells_of_failure());
    }

    #[test]
    fn what_a_writer_waits_for_blocks_until_it_commits() {
        let health = Health::default();
        health.waits("w", "no broker".into());
        assert_eq!(health.read().blocked.as_deref(), Some("no broker"));
        health.committed("w", Duration::from_millis(3));
        assert_eq!(health.read().blocked, None);
        assert_eq!(health.read().values["commits_total"], 1.0);
    }
}
