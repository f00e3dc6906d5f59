//! The families that tasks have series in, and how a task's series are removed from all of them.

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry,
    core::{Collector, MetricVec, MetricVecBuilder},
    proto::{LabelPair, MetricFamily},
};

use crate::telemetry::names::{self, Name};

/// From a quick local commit to half an hour behind.
const FRESHNESS_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 300.0, 1800.0];

/// Every family with a `connector` and a `task` label.
pub(super) struct Families {
    pub(super) task_state: GaugeVec,
    pub(super) task_busy: GaugeVec,
    pub(super) task_restarts: IntCounterVec,
    pub(super) task_errors: IntCounterVec,
    pub(super) task_skipped: IntCounterVec,
    pub(super) dead_letters: IntCounterVec,
    pub(super) source_polled: IntCounterVec,
    pub(super) source_poll_batches: IntCounterVec,
    pub(super) source_written: IntCounterVec,
    pub(super) source_written_bytes: IntCounterVec,
    pub(super) source_transactions: IntCounterVec,
    pub(super) source_active: GaugeVec,
    pub(super) source_last_commit: GaugeVec,
    pub(super) source_lag: GaugeVec,
    pub(super) source_commit_to_log: HistogramVec,
    pub(super) sink_read: IntCounterVec,
    pub(super) sink_read_bytes: IntCounterVec,
    pub(super) sink_sent: IntCounterVec,
    pub(super) sink_refused: IntCounterVec,
    pub(super) sink_flush: HistogramVec,
    pub(super) sink_lag_records: GaugeVec,
    pub(super) sink_lag_bytes: GaugeVec,
    pub(super) log_to_sink: HistogramVec,
    /// Remove a task's series from each of the above.
    erasers: Vec<Eraser>,
}

type Eraser = Box<dyn Fn(&[String; 2]) + Send + Sync>;

impl Families {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let mut r = Registrar { registry, erasers: Vec::new() };
        Ok(Self {
            task_state: r.gauge(names::TASK_STATE)?,
            task_busy: r.gauge(names::TASK_BUSY)?,
            task_restarts: r.counter(names::TASK_RESTARTS)?,
            task_errors: r.counter(names::TASK_ERRORS)?,
            task_skipped: r.counter(names::TASK_SKIPPED)?,
            dead_letters: r.counter(names::DEAD_LETTERS)?,
            source_polled: r.counter(names::SOURCE_POLLED)?,
            source_poll_batches: r.counter(names::SOURCE_POLL_BATCHES)?,
            source_written: r.counter(names::SOURCE_WRITTEN)?,
            source_written_bytes: r.counter(names::SOURCE_WRITTEN_BYTES)?,
            source_transactions: r.counter(names::SOURCE_TRANSACTIONS)?,
            source_active: r.gauge(names::SOURCE_ACTIVE)?,
            source_last_commit: r.gauge(names::SOURCE_LAST_COMMIT)?,
            source_lag: r.gauge(names::SOURCE_LAG)?,
            source_commit_to_log: r.histogram(names::SOURCE_COMMIT_TO_LOG)?,
            sink_read: r.counter(names::SINK_READ)?,
            sink_read_bytes: r.counter(names::SINK_READ_BYTES)?,
            sink_sent: r.counter(names::SINK_SENT)?,
            sink_refused: r.counter(names::SINK_REFUSED)?,
            sink_flush: r.histogram(names::SINK_FLUSH)?,
            sink_lag_records: r.gauge(names::SINK_LAG_RECORDS)?,
            sink_lag_bytes: r.gauge(names::SINK_LAG_BYTES)?,
            log_to_sink: r.histogram(names::LOG_TO_SINK)?,
            erasers: r.erasers,
        })
    }
    /// Removes a task's series everywhere.
    pub(super) fn forget(&self, labels: &[String; 2]) {
        self.erasers.iter().for_each(|erase| erase(labels));
    }
}

struct Registrar<'a> {
    registry: &'a Registry,
    erasers: Vec<Eraser>,
}

impl Registrar<'_> {
    fn counter(&mut self, name: Name) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(opts(name), name.labels)?, name)
    }
    fn gauge(&mut self, name: Name) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(opts(name), name.labels)?, name)
    }
    fn histogram(&mut self, name: Name) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name.name, name.help).buckets(FRESHNESS_BUCKETS.to_vec());
        self.add(HistogramVec::new(opts, name.labels)?, name)
    }
    fn add<B: MetricVecBuilder + 'static>(
        &mut self,
        vec: MetricVec<B>,
        name: Name,
    ) -> Result<MetricVec<B>, prometheus::Error> {
        self.registry.register(Box::new(vec.clone()))?;
        let erased = vec.clone();
        self.erasers.push(Box::new(move |labels| erase(&erased, name, labels)));
        Ok(vec)
    }
}

/// Removes every series whose first two labels are these, whatever its third is.
fn erase<B: MetricVecBuilder>(vec: &MetricVec<B>, name: Name, task: &[String; 2]) {
    for metric in vec.collect().iter().flat_map(MetricFamily::get_metric) {
        let value = |label: &&str| metric.get_label().iter().find(|pair| pair.name() == *label);
        let values: Vec<&str> = name.labels.iter().filter_map(value).map(LabelPair::value).collect();
        // Another thread cannot have removed it: drops hold the lock. So the answer says nothing new.
        if values.iter().zip(task).all(|(value, wanted)| value == wanted) {
            drop(vec.remove_label_values(&values));
        }
    }
}

pub(super) fn opts(name: Name) -> Opts {
    Opts::new(name.name, name.help)
}
