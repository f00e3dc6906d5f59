//! A compacted topic that many read and one at a time writes: where the built-in schema registry keeps its schemas.
//!
//! The lock is Kafka's fencing. All who write share one `transactional.id`. Whoever leads has initialised it, and only then
//! read the topic to its end; until somebody else leads, nobody else's record can follow, and from then on its own commits are
//! refused. So a write that commits was decided on everything before it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{Mutex, oneshot, watch};

use super::{
    cluster::Cluster,
    mirror::Mirror,
    transaction::{Job, Opening, Ownership, RawRecord, Transactions},
};
use crate::topic_log::{CommitError, LogError};

/// What a killed leader leaves open ends after this and the coordinator's ten seconds, or when somebody else leads.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a start waits for such a transaction before it leads and so ends it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The topic of schemas.
pub struct SchemasTopic {
    cluster: Arc<Cluster>,
    mirror: Mirror,
    leading: Mutex<Option<Transactions>>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is durable.
    Done,
    /// Somebody else leads: nothing was written. Lead, read and decide again.
    Lost,
}

impl SchemasTopic {
    pub(super) async fn open(cluster: &Arc<Cluster>, topic: &str) -> Result<Self, LogError> {
        let mirror = Mirror::open(cluster, topic, 1).await?;
        let topic = Self { cluster: Arc::clone(cluster), mirror, leading: Mutex::new(None) };
        match tokio::time::timeout(PATIENCE, topic.caught_up()).await {
            Ok(read) => read?,
            Err(_) => topic.lead().await?,
        }
        Ok(topic)
    }

    /// Waits until everything is here that was committed before this call.
    ///
    /// # Errors
    /// [`LogError::Io`] when the brokers do not answer.
    pub async fn caught_up(&self) -> Result<(), LogError> {
        self.mirror.caught_up(None).await
    }

    /// Becomes the one who writes, unless it is already, and reads to the end.
    ///
    /// # Errors
    /// [`LogError::Io`] when the brokers do not answer.
    pub async fn lead(&self) -> Result<(), LogError> {
        let mut leading = self.leading.lock().await;
        if leading.is_none() {
            let id = format!("rowstream-schemas.{}", self.mirror.topic());
            let owner = Box::new(|| Ownership::Lost);
            let opening = Opening { id, timeout: Some(TRANSACTION_TIMEOUT), owner };
            *leading = Some(Transactions::open(&self.cluster, opening).await?);
        }
        drop(leading);
        self.caught_up().await
    }

    /// Writes records (a value or a tombstone for each key) together; durable when it returns.
    ///
    /// # Errors
    /// The outcome may be unknown: lead and read before anything else.
    pub async fn write(&self, records: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<Written, LogError> {
        let mut leading = self.leading.lock().await;
        // Whatever fails, the next attempt leads anew.
        let Some(transactions) = leading.take() else { return Ok(Written::Lost) };
        let topic = self.mirror.topic();
        let raw = |(key, value)| RawRecord { topic: Arc::clone(topic), partition: 0, key, value };
        let positions = records.into_iter().map(raw).collect();
        let (reply, answer) = oneshot::channel();
        transactions.hand_over(Job { batches: Vec::new(), positions, reply, _permit: None })?;
        match answer.await {
            Ok(Ok(())) => {
                *leading = Some(transactions);
                Ok(Written::Done)
            }
            Ok(Err(CommitError::Fenced)) => Ok(Written::Lost),
            Ok(Err(CommitError::Aborted(error) | CommitError::Unknown(error))) => Err(error),
            Err(_) => Err(LogError::Closed),
        }
    }

    /// Every key with its newest value, in the order of the log, and the number of the state that this is.
    #[must_use]
    pub fn read(&self) -> (u64, Vec<(Bytes, Bytes)>) {
        let state = *self.mirror.changes().borrow();
        let mut rows: Vec<(i64, Bytes, Bytes)> = self.mirror.read(|rows| {
            rows.iter().map(|((_, key), row)| (row.offset, key.clone(), row.value.clone())).collect()
        });
        rows.sort_by_key(|(offset, ..)| *offset);
        (state, rows.into_iter().map(|(_, key, value)| (key, value)).collect())
    }

    /// Woken after something was written, by whoever.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.mirror.changes()
    }
}
