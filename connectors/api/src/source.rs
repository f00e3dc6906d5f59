//! The contract of a source connector.

use std::{future::Future, num::NonZeroUsize, sync::Arc};

use crate::{
    change::{SourceBatch, TableSchema},
    config::ConfigSpec,
    error::{ConfigErrors, ConnectorError},
    offset::SourceOffsets,
    snapshot::{Report, SnapshotRequest},
};

/// What a task is told about its surroundings.
#[derive(Debug, Clone)]
pub struct TaskContext {
    /// Name of the connector, unique in the worker group.
    pub connector: String,
    /// Task number, from 0.
    pub task: usize,
    /// Where the task puts its gauges (slot lag, snapshot progress …). Cheap to clone.
    pub gauges: Gauges,
    /// The identity of the topic log this task delivers from or to; a sink stores it beside its offsets, so that
    /// offsets are never applied to another log.
    pub log_id: String,
    /// Why it starts.
    pub start: StartReason,
}

/// Why a task is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartReason {
    /// Its connector starts: with the worker, on request, with another configuration, or because another worker takes it over.
    Connector,
    /// It failed and is tried again, after something of this start of the connector became durable.
    Retry,
}

/// Named numbers that a task publishes; the worker exports them as metrics and in status. Names are
/// `snake_case` with the unit last (`slot_retained_wal_bytes`). Setting one is lock-cheap but not for each row.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    values: std::sync::Arc<std::sync::Mutex<std::collections::BTreeMap<&'static str, f64>>>,
    notes: std::sync::Arc<std::sync::Mutex<std::collections::BTreeMap<&'static str, String>>>,
}

impl Gauges {
    /// Sets a number.
    pub fn set(&self, name: &'static str, value: f64) {
        if let Ok(mut values) = self.values.lock() {
            values.insert(name, value);
        }
    }
    /// Sets a number while it is known; without one there is no such gauge.
    pub fn show(&self, name: &'static str, value: Option<f64>) {
        if let Ok(mut values) = self.values.lock() {
            match value {
                Some(value) => values.insert(name, value),
                None => values.remove(name),
            };
        }
    }
    /// Adds to a number, from 0.
    pub fn add(&self, name: &'static str, delta: f64) {
        if let Ok(mut values) = self.values.lock() {
            *values.entry(name).or_insert(0.0) += delta;
        }
    }
    /// Sets or clears a note for people: what the task waits for ("replication slot creation waits for pid 42 …").
    pub fn note(&self, name: &'static str, text: Option<String>) {
        if let Ok(mut notes) = self.notes.lock() {
            match text {
                Some(text) => notes.insert(name, text),
                None => notes.remove(name),
            };
        }
    }
    /// All numbers.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        self.values.lock().map(|v| v.iter().map(|(k, v)| (*k, *v)).collect()).unwrap_or_default()
    }
    /// All notes.
    #[must_use]
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        self.notes.lock().map(|v| v.iter().map(|(k, v)| (*k, v.clone())).collect()).unwrap_or_default()
    }
}

/// The promise a plan can keep. There is no default: silence is not an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Each change arrives exactly once.
    ExactlyOnce,
    /// A change may arrive again after a crash.
    AtLeastOnce {
        /// Why, for `validate` and `status`.
        because: &'static str,
    },
}

/// One implementation per external system; everything user-facing about it hangs off this.
pub trait SourceConnector: Sized + Send + Sync + 'static {
    /// Value of `connector:` in YAML, metric label, docs slug.
    const NAME: &'static str;
    /// What the user typed.
    type Config: ConfigSpec;
    /// What was understood.
    type Plan: Clone + Send + Sync + 'static;
    /// The running task.
    type Task: SourceTask;

    /// Pure: no I/O, clock or environment. Reports every problem, not the first.
    ///
    /// # Errors
    /// All that is wrong, each with its field.
    fn validate(config: Self::Config) -> Result<Self::Plan, ConfigErrors>;
    /// The promise this plan can keep.
    fn delivery(plan: &Self::Plan) -> Delivery;
    /// Names of upstream resources that only one connector may use at a time (a replication slot, a server id),
    /// e.g. `postgres://db:5432/shop slot shop_slot`. Two connectors that name the same one are refused.
    fn exclusive(plan: &Self::Plan) -> Vec<String>;
    /// Read-only look at the live system: reach, privileges, retention, replica identity. Reports every problem
    /// as a config error whose remedy is the SQL that mends it.
    fn preflight(plan: &Self::Plan) -> impl Future<Output = Result<(), ConnectorError>> + Send;
    /// The captured tables as they are now, for looking whether what a user configured fits them. Read-only; needs no more than
    /// [`preflight`](Self::preflight) does, and is asked for after it. A source whose tables can't be known before they change tells none.
    fn tables(
        _plan: &Self::Plan,
    ) -> impl Future<Output = Result<Vec<Arc<TableSchema>>, ConnectorError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }
    /// Divides the work into at most `tasks_max` plans.
    fn split(plan: &Self::Plan, tasks_max: NonZeroUsize) -> Vec<Self::Plan>;
    /// How far the snapshot is of a source that stands here; `None` from a source that has no snapshots. Pure.
    ///
    /// # Errors
    /// The offsets are not of this source.
    fn snapshot(_plan: &Self::Plan, _offsets: &SourceOffsets) -> Result<Option<Report>, ConnectorError> {
        Ok(None)
    }
    /// Connects and stands just after `resume`; an empty map means "never run before".
    fn start(
        plan: Self::Plan,
        resume: SourceOffsets,
        cx: TaskContext,
    ) -> impl Future<Output = Result<Self::Task, ConnectorError>> + Send;
}

/// A running source task. The source loop calls `poll`, `committed` and `snapshot` from one task, never at the same time.
pub trait SourceTask: Send + 'static {
    /// Waits for the next batch. Cancel-safe: dropping the future loses nothing. Several batches may be polled
    /// before the first is reported `committed`.
    fn poll(&mut self) -> impl Future<Output = Result<SourceBatch, ConnectorError>> + Send;
    /// `offsets` are durable in the topic log, so upstream may reclaim its own. Called in order; idempotent; a crash
    /// may skip it.
    fn committed(
        &mut self,
        offsets: &SourceOffsets,
    ) -> impl Future<Output = Result<(), ConnectorError>> + Send;
    /// Takes what somebody asks of the snapshot, or refuses it and says so in its [`SourceConnector::snapshot`]. The next batch,
    /// which comes at once, has offsets that remember it: once they are durable the request is done with. Idempotent by the
    /// request's id. Cancel-safe: dropped, nothing has happened.
    ///
    /// # Errors
    /// Transient: the request is told again after a restart. Others: it can't be taken at all, and is dropped.
    fn snapshot(
        &mut self,
        _request: &SnapshotRequest,
    ) -> impl Future<Output = Result<(), ConnectorError>> + Send {
        let refused = ConnectorError::config("SNAPSHOT_UNSUPPORTED", "this source has no snapshots");
        std::future::ready(Err(refused))
    }
    /// Tells upstream the last committed position and disconnects. Called once, after the last `committed`.
    fn close(&mut self) -> impl Future<Output = Result<(), ConnectorError>> + Send;
}
