//! The topic log: the spine that every record and every offset goes through.
//!
//! Everything else in the daemon is written against the traits of this file and must not know which implementation
//! it has ([`embedded`] or [`kafka`]). What they promise:
//!
//! - **Together or not at all.** The records of one [`WriteGroup`] and its source offsets become visible and durable
//!   in one step. Groups of one writer commit in the order they were appended.
//! - **Committed only.** A reader never sees a record that a crash could take back.
//! - **One writer.** Opening a writer fences every older writer of the same id: its later groups answer
//!   [`CommitError::Fenced`] and change nothing.
//! - **Unknown is said.** When an outcome could not be learned the answer is [`CommitError::Unknown`], and the
//!   caller re-reads the stored offsets before it does anything else.

pub mod batch;
pub mod embedded;
mod filter;
pub mod kafka;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use rowstream_api::{SourceOffsets, TopicOffsets, TopicPartition};

use tokio::sync::{oneshot, watch};

pub use batch::{RecordBatch, RecordBatchBuilder, RecordRef};
pub use filter::TopicFilter;

/// A log, shared by all tasks of the worker.
pub trait TopicLog: Send + Sync + 'static {
    /// Identity of this log: a new one for each new data directory (or cluster). Sinks store it beside their offsets.
    fn id(&self) -> &str;
    /// Opens a writer and fences older writers of the same id (`<connector>-<task>`).
    fn writer<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn LogWriter>, LogError>>;
    /// The committed source offsets of a connector; empty when it never committed any.
    fn source_offsets<'a>(&'a self, connector: &'a str) -> BoxFuture<'a, Result<SourceOffsets, LogError>>;
    /// Replaces (or, with an empty map, removes) the source offsets of a stopped connector.
    fn replace_source_offsets<'a>(
        &'a self,
        connector: &'a str,
        offsets: SourceOffsets,
    ) -> BoxFuture<'a, Result<(), LogError>>;
    /// A reader of all present and future topics that match. It starts with [`LogEvent::Gained`] for the present
    /// ones and waits for `seek` before it reads a partition.
    fn reader<'a>(
        &'a self,
        group: &'a str,
        topics: TopicFilter,
    ) -> BoxFuture<'a, Result<Box<dyn LogReader>, LogError>>;
    /// The committed offsets of a consumer group.
    fn group_offsets<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<TopicOffsets, LogError>>;
    /// Stores a group's offsets: for lag, retention, and sinks that keep no offsets of their own.
    fn commit_group_offsets<'a>(
        &'a self,
        group: &'a str,
        offsets: TopicOffsets,
    ) -> BoxFuture<'a, Result<(), LogError>>;
    /// Forgets a group: its offsets, and its hold on retention.
    fn delete_group<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), LogError>>;
    /// Every topic with its partitions' first and next offsets and sizes.
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicDescription>, LogError>>;
    /// Small durable state of the worker: connectors, target states, schemas.
    fn state(&self) -> &dyn StateStore;
    /// The workers that share this log; `None` when it belongs to one process.
    fn group(&self) -> Option<&dyn WorkerGroup> {
        None
    }
    /// Numbers and conditions for metrics and `/readyz`.
    fn health(&self) -> LogHealth;
    /// Finishes what was appended, then releases the log. Idempotent.
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>>;
}

/// A fenced writer. Not shared: one source task owns it.
pub trait LogWriter: Send {
    /// Number of partitions of a topic, creating the topic with the configured defaults when it is new.
    fn partitions<'a>(&'a mut self, topic: &'a str) -> BoxFuture<'a, Result<u32, LogError>>;
    /// Bytes of the largest record the log takes, key, value and headers together; `None` where there is no limit worth
    /// checking. A larger one is refused by the connector's policy, before it is handed over.
    fn record_bytes_max(&self) -> Option<usize> {
        None
    }
    /// Hands a group over for commit and returns at once with the future of its outcome; waits only while the log's
    /// byte budget is used up. Groups commit in the order of these calls. When one answers an error, every later
    /// group of this writer that was already handed over answers an error too, so that there is never a gap.
    fn append(&mut self, group: WriteGroup) -> BoxFuture<'_, Result<PendingCommit, CommitError>>;
}

/// Resolves when the group is durable and visible, or with the reason why not. Dropping it does not cancel the
/// commit.
pub type PendingCommit = BoxFuture<'static, Result<(), CommitError>>;

/// What commits together.
#[derive(Debug, Default)]
pub struct WriteGroup {
    /// Records, in order per partition. May be empty: an idle source still moves its position.
    pub batches: Vec<TopicBatch>,
    /// The connector whose offsets these are, and the offsets after these records.
    pub source_offsets: Option<(String, SourceOffsets)>,
}

impl WriteGroup {
    /// Bytes of all batches.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(|b| b.records.len_bytes()).sum()
    }
}

/// Records for one partition.
#[derive(Debug)]
pub struct TopicBatch {
    /// Where they go.
    pub partition: TopicPartition,
    /// The records.
    pub records: RecordBatch,
}

/// A reader at its own pace. Owned by one task.
pub trait LogReader: Send {
    /// The next thing to know, committed records only. Waits until there is one. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<LogEvent, LogError>>;
    /// Starts (or goes on) reading a gained partition at `offset`. Answers [`LogError::OffsetOutOfRange`] when that
    /// offset has been retired by retention or does not exist yet.
    fn seek(&mut self, partition: &TopicPartition, offset: SeekTo) -> Result<(), LogError>;
    /// Committed records and bytes behind the end, over all partitions read.
    fn lag(&self) -> Lag;
}

/// Where to start reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// The oldest record kept.
    Earliest,
    /// Behind the newest committed record.
    End,
    /// Exactly this offset.
    Offset(i64),
}

/// What a reader reports.
#[derive(Debug)]
pub enum LogEvent {
    /// Partitions that are now this reader's; each must be `seek`ed before records of it come.
    Gained(Vec<TopicPartition>),
    /// Records of one partition.
    Batch(LogBatch),
}

/// Committed records of one partition, consecutive from `base_offset`. One without records says that the partition was read up
/// to `base_offset` and holds nothing in between (Kafka's commit markers take offsets).
#[derive(Debug, Clone)]
pub struct LogBatch {
    /// Where they come from.
    pub partition: TopicPartition,
    /// Offset of the first record.
    pub base_offset: i64,
    /// The records.
    pub records: RecordBatch,
    /// Next offset of the partition at the time of reading.
    pub end_offset: i64,
}

/// How far a reader is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Records.
    pub records: u64,
    /// Bytes, as stored.
    pub bytes: u64,
}

/// One topic.
#[derive(Debug, Clone)]
pub struct TopicDescription {
    /// Name.
    pub name: Arc<str>,
    /// Identity: a recreated topic has another.
    pub id: String,
    /// Partitions from 0.
    pub partitions: Vec<PartitionDescription>,
}

/// One partition's extent.
#[derive(Debug, Clone, Copy)]
pub struct PartitionDescription {
    /// Oldest offset kept.
    pub start_offset: i64,
    /// Next offset to be written.
    pub end_offset: i64,
    /// Bytes kept, as stored.
    pub bytes: u64,
}

/// Numbers and conditions of the log.
#[derive(Debug, Clone, Default)]
pub struct LogHealth {
    /// Set while writers cannot go on, e.g. "no space left: 120 MiB free of the 128 MiB needed in …".
    pub blocked: Option<String>,
    /// Counters and gauges by metric name without prefix (`commits_total`, `bytes_on_disk`, `commit_seconds_sum` …).
    pub values: BTreeMap<&'static str, f64>,
}

/// Small durable key-value state, in named tables.
pub trait StateStore: Send + Sync {
    /// One value.
    fn get<'a>(&'a self, table: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, LogError>>;
    /// All entries of a table, ordered by key.
    fn scan<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, LogError>>;
    /// Applies all of these atomically and durably.
    fn write(&self, ops: Vec<StateOp>) -> BoxFuture<'_, Result<(), LogError>>;
    /// Woken after anything changed, whoever changed it; `None` when nobody else can.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// The workers that share a log, and which of them runs what.
///
/// The group only says who *should* run a shard. Who *can* is decided by the fences: a writer's epoch in the log, a
/// sink's fence row in its target.
pub trait WorkerGroup: Send + Sync {
    /// Joins. What this worker has is told by [`Membership::next`].
    fn join(&self) -> BoxFuture<'_, Result<Box<dyn Membership>, LogError>>;
}

/// A worker's place in its group. Dropping it leaves the group: what it had goes to the others at once.
pub trait Membership: Send {
    /// Number of shards in all; the same for every worker of the group.
    fn shards(&self) -> u32;
    /// The next thing to know. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Assignment>;
    /// Leaves in order. Returns when the group knows, or after a few seconds.
    fn leave(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What a worker is told by its group.
#[derive(Debug)]
pub enum Assignment {
    /// These shards are its own from now on.
    Gained(Vec<u32>),
    /// These are to be given up. They go to others when `done` is answered or dropped, or when the worker's time is over.
    Revoked {
        /// Which.
        shards: Vec<u32>,
        /// Answered when nothing runs for them here.
        done: oneshot::Sender<()>,
    },
}

/// One change of the state store.
#[derive(Debug, Clone)]
pub enum StateOp {
    /// Inserts or replaces.
    Put {
        /// Table.
        table: String,
        /// Key.
        key: String,
        /// Value.
        value: Bytes,
    },
    /// Removes; no error when absent.
    Delete {
        /// Table.
        table: String,
        /// Key.
        key: String,
    },
}

/// What went wrong in the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process holds the log.
    #[error("{message}")]
    Locked {
        /// Names the directory and, where known, the process.
        message: String,
    },
    /// Stored bytes are not what was written. Never skipped.
    #[error("the topic log is damaged: {message}")]
    Corrupt {
        /// Names the file, the position, and the remedy.
        message: String,
    },
    /// No room; heals when there is some.
    #[error("the topic log's disk is full: {message}")]
    DiskFull {
        /// How much is free and where.
        message: String,
    },
    /// Input or output failed.
    #[error("{attempt}")]
    Io {
        /// What was attempted, with the path.
        attempt: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Anything the state database says.
    #[error("the topic log's state: {0}")]
    State(String),
    /// The offset is not in the log.
    #[error("offset {offset} of {partition} is outside what the log holds ({start} to {end})")]
    OffsetOutOfRange {
        /// Which partition.
        partition: TopicPartition,
        /// What was asked.
        offset: i64,
        /// Oldest kept.
        start: i64,
        /// Next to be written.
        end: i64,
    },
    /// A setting or name the log cannot serve.
    #[error("{0}")]
    Refused(String),
    /// The log was closed.
    #[error("the topic log is closed")]
    Closed,
}

/// Why a group did not commit.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing of it happened; the same position may be written again.
    #[error("the commit was aborted")]
    Aborted(#[source] LogError),
    /// A newer writer took over.
    #[error("a newer writer with this id took over")]
    Fenced,
    /// No answer came. Re-read the stored offsets before doing anything else.
    #[error("the outcome of the commit is unknown")]
    Unknown(#[source] LogError),
}

/// What is refused before it is written never happened.
impl From<LogError> for CommitError {
    fn from(error: LogError) -> Self {
        Self::Aborted(error)
    }
}
