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
    /// The newest statistics of each producer.
    producers: BTreeMap<String, Statistics>,
    down: bool,
    /// When a failed connection was told of last.
    told: Option<Instant>,
    /// Why the last one failed.
    failed: Option<(RDKafkaErrorCode, String)>,
}

/// Failed connections are told of this often at most, over all clients.
const FAILURES_INTERVAL: Duration = Duration::from_secs(10);

/// What is exported of librdkafka's statistics; its full form has hundreds of numbers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Statistics {
    msg_cnt: f64,
    msg_size: f64,
    txmsgs: f64,
    txmsg_bytes: f64,
    tx_bytes: f64,
    brokers: BTreeMap<String, Broker>,
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
        if std::mem::take(&mut inner.down) {
            tracing::info!("brokers answer again");
        }
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
            self.lock().producers.insert(client.to_owned(), statistics);
        }
    }
    pub(super) fn forget(&self, client: &str) {
        let mut inner = self.lock();
        inner.waiting.remove(client);
        if let Some(last) = inner.producers.remove(client) {
            // Counters never go back: what a producer has sent stays sent.
            for (name, value) in [("sent_records_total", last.txmsgs), ("sent_bytes_total", last.tx_bytes)] {
                *inner.counted.entry(name).or_default() += value;
            }
        }
    }

    /// As `/metrics` and `/readyz` show it.
    pub(super) fn read(&self) -> LogHealth {
        let inner = self.lock();
        let mut values = inner.counted.clone();
        let producers = inner.producers.values();
        for statistics in producers.clone() {
            let sums = [
                ("queued_records", statistics.msg_cnt),
                ("queued_bytes", statistics.msg_size),
                ("sent_records_total", statistics.txmsgs),
                ("sent_record_bytes", statistics.txmsg_bytes),
                ("sent_bytes_total", statistics.tx_bytes),
            ];
            for (name, value) in sums {
                *values.entry(name).or_default() += value;
            }
        }
        let brokers = producers.clone().flat_map(|p| p.brokers.values());
        let worst = |of: fn(&Broker) -> f64| brokers.clone().map(of).fold(0.0, f64::max);
        values.insert("broker_rtt_seconds", worst(|b| b.rtt.avg) / 1e6);
        values.insert("broker_rtt_p99_seconds", worst(|b| b.rtt.p99) / 1e6);
        values.insert("request_retries", brokers.clone().map(|b| b.txretries).sum());
        let up = |p: &Statistics| p.brokers.values().filter(|b| b.state == "UP").count();
        let connections = u32::try_from(producers.map(up).sum::<usize>()).unwrap_or(u32::MAX);
        values.insert("producer_connections", f64::from(connections));
        values.insert("producers", f64::from(u32::try_from(inner.producers.len()).unwrap_or(u32::MAX)));
        LogHealth { blocked: inner.waiting.values().next().cloned(), values }
    }
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
