//! What the log thread publishes and everybody else reads.
//!
//! The log thread is the only writer of [`View`], and it writes there only what the database has durably committed;
//! so whatever a reader finds in it cannot be taken back. Locks are held for look-ups, never across an await.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        mpsc::{Sender, channel},
    },
};

use rowstream_api::{TopicOffsets, TopicPartition};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{config::EmbeddedConfig, frame::Op, index::Index, tables::PartitionKey};
use crate::topic_log::{CommitError, LogError, LogHealth, RecordBatch, TopicFilter};

/// Budget of small writes (state, group offsets): apart from the writers', so that these go on when those wait.
const SMALL_BYTES: u32 = 4 << 20;
/// What an empty message costs in a budget.
const MESSAGE_BYTES: usize = 256;

/// One partition's extent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) start: i64,
    pub(super) end: i64,
    /// Bytes ever retired and ever written: their difference is what is kept.
    pub(super) bytes_retired: u64,
    pub(super) bytes_written: u64,
}

/// A topic.
#[derive(Debug, Clone)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) partitions: Vec<Extent>,
}

/// The committed log, as of now.
pub(super) struct View {
    /// By id, which grows and is never given again.
    pub(super) topics: BTreeMap<u32, Topic>,
    pub(super) ids: HashMap<Arc<str>, u32>,
    /// The active segment.
    pub(super) base: u64,
    pub(super) file: Arc<File>,
    pub(super) index: Index,
}

impl View {
    pub(super) fn extent(&self, (topic, partition): PartitionKey) -> Option<&Extent> {
        self.topics.get(&topic)?.partitions.get(partition as usize)
    }
    pub(super) fn extent_mut(&mut self, (topic, partition): PartitionKey) -> Option<&mut Extent> {
        self.topics.get_mut(&topic)?.partitions.get_mut(partition as usize)
    }
    pub(super) fn key(&self, partition: &TopicPartition) -> Option<PartitionKey> {
        let id = *self.ids.get(&partition.topic)?;
        let known = self.topics.get(&id)?.partitions.get(partition.partition as usize).is_some();
        known.then_some((id, partition.partition))
    }
    pub(super) fn partition(&self, (topic, partition): PartitionKey) -> Option<TopicPartition> {
        Some(TopicPartition::new(Arc::clone(&self.topics.get(&topic)?.name), partition))
    }
    pub(super) fn add_topic(&mut self, id: u32, name: Arc<str>, partitions: u32) {
        let extents = vec![Extent::default(); partitions as usize];
        self.ids.insert(Arc::clone(&name), id);
        self.topics.insert(id, Topic { name, partitions: extents });
    }
}

/// A batch that knows its checksum.
pub(super) struct PreparedBatch {
    pub(super) key: PartitionKey,
    pub(super) records: RecordBatch,
    pub(super) body_crc: u32,
}

/// A group on its way to the log thread.
pub(super) struct Append {
    pub(super) writer: Arc<str>,
    pub(super) epoch: u64,
    pub(super) batches: Vec<PreparedBatch>,
    pub(super) ops: Vec<Op>,
    pub(super) reply: oneshot::Sender<Result<(), CommitError>>,
    /// Given back to the budget when the group is answered.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Small changes of the state database.
pub(super) struct Write {
    pub(super) ops: Vec<Op>,
    pub(super) reply: oneshot::Sender<Result<(), LogError>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Changes that need to see the state they change: each is a commit of its own.
pub(super) enum Control {
    OpenWriter { id: String, reply: oneshot::Sender<Result<u64, LogError>> },
    CreateTopic { name: String, reply: oneshot::Sender<Result<u32, LogError>> },
    ReplaceSourceOffsets { connector: String, ops: Vec<Op>, reply: oneshot::Sender<Result<(), LogError>> },
    Register { group: String, topics: TopicFilter, reply: oneshot::Sender<Result<(), LogError>> },
    DeleteGroup { group: String, reply: oneshot::Sender<Result<(), LogError>> },
}

/// What the log thread is asked.
pub(super) enum Message {
    Append(Append),
    Write(Write),
    Control(Control),
    Close(oneshot::Sender<()>),
}

/// Everything that tasks and the log thread share.
pub(super) struct Shared {
    pub(super) config: EmbeddedConfig,
    pub(super) id: String,
    /// `None` while the log is closed or reopened in place.
    db: RwLock<Option<redb::Database>>,
    view: RwLock<View>,
    health: Mutex<LogHealth>,
    /// Grows with every publication, so that nobody who waits misses one.
    pub(super) published: watch::Sender<u64>,
    sender: Mutex<Option<Sender<Message>>>,
    pub(super) writer_budget: Arc<Semaphore>,
    small_budget: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(
        config: EmbeddedConfig,
        id: String,
        db: redb::Database,
        view: View,
    ) -> (Arc<Self>, std::sync::mpsc::Receiver<Message>) {
        let (sender, receiver) = channel();
        let shared = Self {
            writer_budget: Arc::new(Semaphore::new(config.queue_bytes as usize)),
            small_budget: Arc::new(Semaphore::new(SMALL_BYTES as usize)),
            config,
            id,
            db: RwLock::new(Some(db)),
            view: RwLock::new(view),
            health: Mutex::default(),
            published: watch::Sender::new(0),
            sender: Mutex::new(Some(sender)),
        };
        (Arc::new(shared), receiver)
    }

    pub(super) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the log thread: changes the view, then wakes who waits.
    pub(super) fn publish(&self, change: impl FnOnce(&mut View)) {
        let mut view: RwLockWriteGuard<'_, View> = self.view.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut view);
        drop(view);
        self.published.send_modify(|n| *n += 1);
    }

    /// Runs a look-up in the state database. Blocks for a page read at most.
    pub(super) fn with_db<T>(
        &self,
        look: impl FnOnce(&redb::Database) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        look(db.as_ref().ok_or(LogError::Closed)?)
    }

    /// For the log thread: takes the database away from everybody, or gives a new one.
    pub(super) fn replace_db(&self, db: Option<redb::Database>) {
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = db;
    }

    pub(super) fn health(&self) -> MutexGuard<'_, LogHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No message is taken from now on. The thread ends when it has done the rest.
    pub(super) fn hang_up(&self) -> Option<Sender<Message>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn send(&self, message: Message) -> Result<(), LogError> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().ok_or(LogError::Closed)?.send(message).map_err(|_| LogError::Closed)
    }

    /// Sends what `message` makes of the reply's sender, and waits for the reply.
    pub(super) async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T, LogError>>) -> Message,
    ) -> Result<T, LogError> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply))?;
        answer.await.map_err(|_| LogError::Closed)?
    }

    /// Commits small changes.
    pub(super) async fn write(&self, ops: Vec<Op>) -> Result<(), LogError> {
        let bytes = ops.iter().map(|op| op.key.len() + op.value.as_ref().map_or(0, Vec::len)).sum();
        let permit = permit(&self.small_budget, bytes, SMALL_BYTES).await?;
        self.ask(|reply| Message::Write(Write { ops, reply, _permit: permit })).await
    }

    /// The committed offsets of a group, from the database.
    pub(super) fn group_offsets(&self, group: &str) -> Result<TopicOffsets, LogError> {
        use super::tables::{Table, damaged_row, named_key, parse_named_key, parse_partition_key, scan};
        let rows = self.with_db(|db| scan(db, Table::GroupOffsets, &named_key(group, b"")))?;
        let view = self.view();
        let parsed = rows.iter().map(|(key, value)| {
            let (_, key) = parse_named_key(key)?;
            let partition = view.partition(parse_partition_key(key)?)?;
            Some((partition, i64::from_le_bytes(*value.as_array()?)))
        });
        parsed.map(|row| row.ok_or_else(|| damaged_row(Table::GroupOffsets))).collect()
    }
}

/// Takes what a message of `bytes` costs from a budget; one that is larger than the budget takes all of it.
pub(super) async fn permit(
    budget: &Arc<Semaphore>,
    bytes: usize,
    all: u32,
) -> Result<OwnedSemaphorePermit, LogError> {
    let cost = u32::try_from(bytes + MESSAGE_BYTES).unwrap_or(u32::MAX).min(all);
    Arc::clone(budget).acquire_many_owned(cost).await.map_err(|_| LogError::Closed)
}
