//! Metrics, in Prometheus' text format.
//!
//! A task gets a handle with its series already looked up, and reports once a batch. Series live exactly as long as
//! some handle of the task does: one that takes a new handle while an old one lives goes on counting, and a deleted
//! connector disappears from the page. That holds because taking and dropping go through one lock: a drop removes
//! series only when no newer handle of the same task has been taken. So the worker holds a handle of each task for
//! as long as the connector exists, and runs of the task take their own.

mod families;
mod reported;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, Registry, TextEncoder};
use rowstream_api::Gauges;

use super::{names, process::Usage};
use crate::topic_log::{Lag, LogHealth};
use families::{Families, opts};

/// Kafka Connect's task states and our `RETRYING`: each has a series, so that an alert can ask for any.
pub const STATES: [&str; 7] =
    ["UNASSIGNED", "RUNNING", "PAUSED", "FAILED", "RESTARTING", "STOPPED", "RETRYING"];

/// All metrics of the process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    registry: Registry,
    families: Families,
    tasks: Mutex<BTreeMap<TaskKey, Weak<Series>>>,
}

type TaskKey = (String, usize);

/// The series of one task, while any handle lives.
struct Series {
    key: TaskKey,
    shared: Arc<Shared>,
    /// Of the newest handle: each run of a task has its own.
    gauges: Mutex<Gauges>,
    /// Commit time, in ms since the epoch, up to which the log is known to hold everything; 0 = not known yet.
    complete_ms: AtomicI64,
}

/// What both kinds of task report.
#[derive(Clone)]
pub struct TaskMetrics {
    series: Arc<Series>,
    restarts: IntCounter,
    skipped: IntCounter,
    dead_letters: IntCounter,
}

/// A source task's handle.
#[derive(Clone)]
pub struct SourceTaskMetrics {
    /// What both kinds of task report.
    pub task: TaskMetrics,
    polled: IntCounter,
    poll_batches: IntCounter,
    written: IntCounter,
    written_bytes: IntCounter,
    transactions: IntCounter,
    active: Gauge,
    commit_to_log: Histogram,
}

/// A sink task's handle.
#[derive(Clone)]
pub struct SinkTaskMetrics {
    /// What both kinds of task report.
    pub task: TaskMetrics,
    read: IntCounter,
    read_bytes: IntCounter,
    sent: IntCounter,
    refused: IntCounter,
    flush: Histogram,
    log_to_sink: Histogram,
    lag_records: Gauge,
    lag_bytes: Gauge,
}

/// A group that has become durable in the topic log.
#[derive(Debug, Clone, Copy, Default)]
pub struct SourceWrite {
    /// Changes of the poll batches it was made from.
    pub changes: u64,
    /// Records written.
    pub records: u64,
    /// Their encoded bytes.
    pub bytes: u64,
    /// Upstream transactions that ended in it.
    pub transactions: u64,
    /// Upstream commit times of its oldest and newest change, in ms since the epoch; `None` when the group only
    /// moved the position, which says that there was nothing to read.
    pub commit_ms: Option<(i64, i64)>,
}

impl Metrics {
    /// Registers every family.
    ///
    /// # Errors
    /// A family is named twice: a mistake in `names`.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        let build: GaugeVec = GaugeVec::new(opts(names::BUILD), names::BUILD.labels)?;
        build.with_label_values(&[version]).set(1.0);
        registry.register(Box::new(build))?;
        Ok(Self(Arc::new(Shared { registry, families, tasks: Mutex::default() })))
    }

    /// The handle of a source task. `gauges` are what the connector publishes, exported as
    /// `rowstream_connector_<name>` in place of those of an older handle.
    #[must_use]
    pub fn source_task(&self, connector: &str, task: usize, gauges: &Gauges) -> SourceTaskMetrics {
        let f = &self.0.families;
        let number = task.to_string();
        let labels = [connector, number.as_str()];
        let mut tasks = self.0.lock();
        SourceTaskMetrics {
            task: self.task(&mut tasks, (connector.to_owned(), task), gauges),
            polled: f.source_polled.with_label_values(&labels),
            poll_batches: f.source_poll_batches.with_label_values(&labels),
            written: f.source_written.with_label_values(&labels),
            written_bytes: f.source_written_bytes.with_label_values(&labels),
            transactions: f.source_transactions.with_label_values(&labels),
            active: f.source_active.with_label_values(&labels),
            commit_to_log: f.source_commit_to_log.with_label_values(&labels),
        }
    }

    /// The handle of a sink task; `gauges` as for [`Metrics::source_task`].
    #[must_use]
    pub fn sink_task(&self, connector: &str, task: usize, gauges: &Gauges) -> SinkTaskMetrics {
        let f = &self.0.families;
        let number = task.to_string();
        let labels = [connector, number.as_str()];
        let mut tasks = self.0.lock();
        SinkTaskMetrics {
            task: self.task(&mut tasks, (connector.to_owned(), task), gauges),
            read: f.sink_read.with_label_values(&labels),
            read_bytes: f.sink_read_bytes.with_label_values(&labels),
            sent: f.sink_sent.with_label_values(&labels),
            refused: f.sink_refused.with_label_values(&labels),
            flush: f.sink_flush.with_label_values(&labels),
            log_to_sink: f.log_to_sink.with_label_values(&labels),
            lag_records: f.sink_lag_records.with_label_values(&labels),
            lag_bytes: f.sink_lag_bytes.with_label_values(&labels),
        }
    }

    /// The handle of a task of which no more is known than that it is there.
    #[must_use]
    pub fn task_series(&self, connector: &str, task: usize, gauges: &Gauges) -> TaskMetrics {
        self.task(&mut self.0.lock(), (connector.to_owned(), task), gauges)
    }

    /// Sets the state of a task, one of [`STATES`], and how long it has had work without a commit; of one that has no
    /// series, nothing.
    pub fn set_task_state(&self, connector: &str, task: usize, state: &'static str, busy: Duration) {
        let living = self.0.lock().get(&(connector.to_owned(), task)).and_then(Weak::upgrade);
        if let Some(series) = living {
            series.set_state(state);
            self.0.families.task_busy.with_label_values(&series.labels()).set(busy.as_secs_f64());
        }
    }

    /// The page for `/metrics`, with what the log says of itself and the state of each connector.
    #[must_use]
    pub fn render(&self, log: &LogHealth, connectors: &[(&str, &str)]) -> String {
        self.render_at(log, connectors, epoch_ms(SystemTime::now()))
    }

    fn render_at(&self, log: &LogHealth, connectors: &[(&str, &str)], now_ms: i64) -> String {
        // Dropped only after the lock is released: the last handle's drop takes it.
        let living: Vec<Arc<Series>> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        for series in &living {
            let complete_ms = series.complete_ms.load(Ordering::Relaxed);
            if complete_ms != 0 {
                let lag = seconds(now_ms.saturating_sub(complete_ms));
                self.0.families.source_lag.with_label_values(&series.labels()).set(lag);
            }
        }
        let mut families = self.0.registry.gather();
        families.extend(reported::log_families(log));
        families.extend(reported::connector_states(connectors));
        families.extend(reported::connector_families(&living));
        families.extend(Usage::read().map(reported::process_families).unwrap_or_default());
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            tracing::warn!(%error, code = "METRICS_UNREADABLE", "metrics could not be rendered");
            String::new()
        })
    }

    fn task(
        &self,
        tasks: &mut MutexGuard<'_, BTreeMap<TaskKey, Weak<Series>>>,
        key: TaskKey,
        gauges: &Gauges,
    ) -> TaskMetrics {
        let living = tasks.get(&key).and_then(Weak::upgrade);
        let series = living.unwrap_or_else(|| {
            let shared = Arc::clone(&self.0);
            let (gauges, complete_ms) = (Mutex::default(), AtomicI64::new(0));
            let series = Arc::new(Series { key: key.clone(), shared, gauges, complete_ms });
            tasks.insert(key, Arc::downgrade(&series));
            series
        });
        series.gauges.lock().unwrap_or_else(PoisonError::into_inner).clone_from(gauges);
        let f = &self.0.families;
        let labels = series.labels();
        let labels: [&str; 2] = labels.each_ref().map(String::as_str);
        TaskMetrics {
            restarts: f.task_restarts.with_label_values(&labels),
            skipped: f.task_skipped.with_label_values(&labels),
            dead_letters: f.dead_letters.with_label_values(&labels),
            series,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Weak<Series>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Series {
    fn labels(&self) -> [String; 2] {
        [self.key.0.clone(), self.key.1.to_string()]
    }
    fn set_state(&self, state: &'static str) {
        let [connector, task] = self.labels();
        for each in STATES {
            let series = self.shared.families.task_state.with_label_values(&[&connector, &task, each]);
            series.set(if each == state { 1.0 } else { 0.0 });
        }
    }
    fn gauges(&self) -> Vec<(&'static str, f64)> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner).values()
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        let mut tasks = self.shared.lock();
        if tasks.get(&self.key).is_some_and(|newest| newest.strong_count() > 0) {
            return;
        }
        tasks.remove(&self.key);
        self.shared.families.forget(&self.labels());
    }
}

impl TaskMetrics {
    /// The state the task is in, one of [`STATES`].
    pub fn state(&self, state: &'static str) {
        self.series.set_state(state);
    }
    /// The task was started again.
    pub fn restarted(&self) {
        self.restarts.inc();
    }
    /// A run of the task ended with this code.
    pub fn failed(&self, code: &'static str) {
        let [connector, task] = self.series.labels();
        self.series.shared.families.task_errors.with_label_values(&[&connector, &task, code]).inc();
    }
    /// Records were skipped, as tolerance allows.
    pub fn skipped(&self, records: u64) {
        self.skipped.inc_by(records);
    }
    /// Records went to the dead letter topic.
    pub fn dead_lettered(&self, records: u64) {
        self.dead_letters.inc_by(records);
    }
}

impl SourceTaskMetrics {
    /// A batch came from the source.
    pub fn polled(&self, changes: u64) {
        self.poll_batches.inc();
        self.polled.inc_by(changes);
        self.active.add(count(changes));
    }
    /// A group became durable at `now`.
    pub fn durable(&self, write: &SourceWrite, now: SystemTime) {
        self.written.inc_by(write.records);
        self.written_bytes.inc_by(write.bytes);
        self.transactions.inc_by(write.transactions);
        self.active.sub(count(write.changes));
        let now_ms = epoch_ms(now);
        let series = &self.task.series;
        let complete_ms = write.commit_ms.map_or(now_ms, |(oldest_ms, newest_ms)| {
            self.commit_to_log.observe(seconds(now_ms.saturating_sub(oldest_ms)));
            let last_commit = &series.shared.families.source_last_commit;
            last_commit.with_label_values(&series.labels()).set(seconds_signed(newest_ms));
            newest_ms
        });
        series.complete_ms.store(complete_ms, Ordering::Relaxed);
    }
    /// A run ended: what it had received and not made durable will be received again.
    pub fn run_ended(&self) {
        self.active.set(0.0);
    }
}

impl SinkTaskMetrics {
    /// Records were read from the log.
    pub fn read(&self, records: u64, bytes: u64) {
        self.read.inc_by(records);
        self.read_bytes.inc_by(bytes);
    }
    /// Records were refused.
    pub fn refused(&self, records: u64) {
        self.refused.inc_by(records);
    }
    /// A flush made `records` durable in `took`; `oldest_age` is the age of the oldest of them, by its timestamp.
    pub fn flushed(&self, records: u64, took: Duration, oldest_age: Option<Duration>) {
        self.sent.inc_by(records);
        self.flush.observe(took.as_secs_f64());
        if let Some(age) = oldest_age {
            self.log_to_sink.observe(age.as_secs_f64());
        }
    }
    /// How far the task's reader is behind.
    pub fn lag(&self, lag: Lag) {
        self.lag_records.set(count(lag.records));
        self.lag_bytes.set(count(lag.bytes));
    }
}

fn epoch_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Clocks of two machines differ: an age below zero counts as none.
fn seconds(ms: i64) -> f64 {
    seconds_signed(ms.max(0))
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch fit the 53 bits of a double")]
fn seconds_signed(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus knows doubles only; counts beyond 2^53 are far off"
)]
fn count(n: u64) -> f64 {
    n as f64
}
