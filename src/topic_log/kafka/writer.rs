//! The writer: makes topics, turns positions into records, takes its share of the byte budget, and hands groups to its thread.
//!
//! Fencing is Kafka's: opening a writer initialises `<group>.<writer id>`. Who opened it last is noted in the log's state, because
//! the coordinator gives the same answer, *fenced*, to a writer whose transaction it timed out: only one that finds another's
//! note is told [`CommitError::Fenced`]; to the other the outcome is unknown, and it may open the writer again.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::{
    cluster::{Cluster, Made},
    direct::DirectWriter,
    mirror::Mirror,
    positions::source_records,
    state::{raw, state_key},
    transaction::{Job, Opening, Owner, Ownership, Transactions},
};
use crate::topic_log::{CommitError, LogError, LogWriter, PendingCommit, WriteGroup};

/// Table of the state: writer id → who opened it last.
const WRITERS: &str = "writers";

/// What a writer is opened with.
pub(super) struct WriterParts {
    pub(super) cluster: Arc<Cluster>,
    pub(super) offsets: Mirror,
    pub(super) state: Mirror,
    pub(super) direct: Arc<DirectWriter>,
    pub(super) budget: Arc<Semaphore>,
}

/// A writer of one epoch.
pub(super) struct KafkaWriter {
    parts: WriterParts,
    transactions: Transactions,
    refused: bool,
}

impl KafkaWriter {
    pub(super) async fn open(parts: WriterParts, id: &str) -> Result<Self, LogError> {
        let note = uuid::Uuid::new_v4().to_string();
        let transactional_id = format!("{}.{id}", parts.cluster.config.group);
        let owner = owner(parts.state.clone(), id.to_owned(), note.clone());
        let opening = Opening { id: transactional_id, timeout: None, owner };
        let transactions = Transactions::open(&parts.cluster, opening).await?;
        parts.direct.write(&[raw(parts.state.topic(), WRITERS, id, Some(note.into_bytes()))]).await?;
        Ok(Self { parts, transactions, refused: false })
    }

    async fn hand_over(&mut self, group: WriteGroup) -> Result<PendingCommit, CommitError> {
        let bytes = group.bytes();
        let WriteGroup { batches, source_offsets } = group;
        for batch in &batches {
            let partitions = self.ensure(&batch.partition.topic).await?;
            if batch.partition.partition >= partitions {
                let text =
                    format!("{} does not exist: the topic has {partitions} partitions", batch.partition);
                return Err(CommitError::Aborted(LogError::Refused(text)));
            }
        }
        let positions = match source_offsets {
            Some((connector, offsets)) => {
                let stored = &self.parts.offsets;
                source_records(stored.topic(), stored.partitions(), &connector, &offsets)?
            }
            None => Vec::new(),
        };
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.parts.cluster.config.queue_bytes);
        let permit = Arc::clone(&self.parts.budget).acquire_many_owned(share).await;
        let permit = Some(permit.map_err(|_| LogError::Closed)?);
        let (reply, answer) = oneshot::channel();
        self.transactions.hand_over(Job { batches, positions, reply, _permit: permit })?;
        Ok(Box::pin(async move { answer.await.unwrap_or(Err(CommitError::Unknown(LogError::Closed))) }))
    }

    async fn ensure(&self, topic: &str) -> Result<u32, LogError> {
        self.parts.cluster.ensure_topic(topic, Made::ForRecords).await
    }
}

impl LogWriter for KafkaWriter {
    fn partitions<'a>(&'a mut self, topic: &'a str) -> BoxFuture<'a, Result<u32, LogError>> {
        Box::pin(self.ensure(topic))
    }

    fn record_bytes_max(&self) -> Option<usize> {
        Some(self.parts.cluster.config.record_bytes_max())
    }

    fn append(&mut self, group: WriteGroup) -> BoxFuture<'_, Result<PendingCommit, CommitError>> {
        Box::pin(async move {
            if self.refused {
                let text = "an earlier group of this writer was refused; open the writer again".to_owned();
                return Err(CommitError::Aborted(LogError::Refused(text)));
            }
            let handed = self.hand_over(group).await;
            self.refused = handed.is_err();
            handed
        })
    }
}

fn owner(state: Mirror, id: String, note: String) -> Owner {
    Box::new(move || {
        if let Err(error) = state.catch_up(None) {
            tracing::warn!(writer = id, %error, "who has the writer now could not be learned");
            return Ownership::Ours;
        }
        let place = (0, Bytes::from(state_key(WRITERS, &id)));
        let noted = state.read(|rows| rows.get(&place).map(|row| row.value.clone()));
        if noted.is_none_or(|noted| *noted == *note.as_bytes()) { Ownership::Ours } else { Ownership::Lost }
    })
}
