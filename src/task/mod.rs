//! One task's life: [`supervise`] runs it until it is told to stop or fails for good; [`source_loop`] and [`sink_loop`] are what
//! it does meanwhile; [`status`] is what others see of it; [`requests`] is what people ask of a source's snapshot.

pub mod backoff;
pub mod requests;
pub mod sink_loop;
pub mod sink_start;
pub mod source_loop;
pub mod status;
pub mod supervise;

use std::sync::Arc;

use rowstream_api::{ConnectorError, StartReason, TaskContext};
use tokio::sync::Notify;

use crate::{
    config::ErrorPolicy,
    pipeline::{chain::ChainPlan, tap::Tap},
    schema_registry::{SchemaRegistry, SubjectStrategy},
    topic_log::{CommitError, LogError, TopicLog},
};

/// What every task has.
pub struct TaskShared {
    /// The log.
    pub log: Arc<dyn TopicLog>,
    /// The registry.
    pub registry: Arc<dyn SchemaRegistry>,
    /// How it names subjects.
    pub subjects: SubjectStrategy,
    /// Name of the connector.
    pub connector: String,
    /// Number of the task.
    pub task: usize,
    /// What happens to its records on their way.
    pub transforms: ChainPlan,
    /// Where they are looked at meanwhile.
    pub tap: Tap,
    /// What happens to bad records.
    pub policy: ErrorPolicy,
    /// What others see.
    pub status: status::TaskStatus,
    /// Something was asked of its snapshot.
    pub asked: Arc<Notify>,
}

impl TaskShared {
    /// What the connector's task is told.
    #[must_use]
    pub fn context(&self, start: StartReason) -> TaskContext {
        TaskContext {
            connector: self.connector.clone(),
            task: self.task,
            gauges: self.status.gauges.clone(),
            log_id: self.log.id().to_owned(),
            start,
        }
    }
}

/// An error of the log, for the supervisor.
#[must_use]
pub fn log_failure(attempt: &str, error: LogError) -> ConnectorError {
    let code = match &error {
        LogError::Corrupt { .. } => return ConnectorError::fatal("LOG_CORRUPT", attempt).because(error),
        LogError::Refused(_) => return ConnectorError::config("LOG_REFUSED", attempt).because(error),
        LogError::OffsetOutOfRange { .. } => {
            return ConnectorError::fatal("OFFSET_OUT_OF_RANGE", attempt).because(error).remedy(
                "the records between the stored position and what the log still holds are gone from here; either reset the \
                 connector's offsets and rebuild the destination, or restore the log or the destination to a matching state",
            );
        }
        LogError::DiskFull { .. } => "LOG_DISK_FULL",
        LogError::Locked { .. } | LogError::Io { .. } | LogError::State(_) => "LOG_IO",
        LogError::Closed => "LOG_CLOSED",
    };
    ConnectorError::transient(code, attempt).because(error)
}

/// A failed commit, for the supervisor. An unknown outcome is transient on purpose: the restart fences, re-reads the stored
/// offsets and goes on from there.
#[must_use]
pub fn commit_failure(attempt: &str, error: CommitError) -> ConnectorError {
    match error {
        CommitError::Aborted(error) => log_failure(attempt, error),
        CommitError::Fenced => {
            ConnectorError::fatal("TASK_FENCED", format!("{attempt}: a newer task took over"))
        }
        CommitError::Unknown(_) => ConnectorError::transient("COMMIT_UNKNOWN", attempt).because(error),
    }
}
