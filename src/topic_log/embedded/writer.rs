//! The writer: checks a group, takes its share of the byte budget, and hands it to the log thread.

use std::sync::Arc;

use futures::future::BoxFuture;
use rowstream_api::{SourceOffsets, TopicPartition};
use tokio::sync::oneshot;

use super::{
    frame::{BODY_BYTES_MAX, Op},
    shared::{Append, Control, Message, PreparedBatch, Shared, permit},
    tables::{PartitionKey, Table, check_name, named_key},
};
use crate::topic_log::{CommitError, LogError, LogWriter, PendingCommit, WriteGroup};

/// A writer of one epoch.
pub(super) struct EmbeddedWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) id: Arc<str>,
    pub(super) epoch: u64,
    /// A group was refused before it reached the log thread; those behind it must not leave a gap.
    pub(super) refused: bool,
}

impl EmbeddedWriter {
    /// Cancel-safe in that a dropped call has handed nothing over.
    async fn hand_over(&mut self, group: WriteGroup) -> Result<PendingCommit, CommitError> {
        let bytes = group.bytes();
        let batches = self.prepare(&group).await?;
        let ops = match group.source_offsets {
            Some((connector, offsets)) => source_offset_ops(&connector, &offsets)?,
            None => Vec::new(),
        };
        let permit = permit(&self.shared.writer_budget, bytes, self.shared.config.queue_bytes).await?;
        let (reply, outcome) = oneshot::channel();
        let append =
            Append { writer: Arc::clone(&self.id), epoch: self.epoch, batches, ops, reply, _permit: permit };
        self.shared.send(Message::Append(append))?;
        Ok(Box::pin(async move { outcome.await.unwrap_or(Err(CommitError::Unknown(LogError::Closed))) }))
    }

    async fn prepare(&self, group: &WriteGroup) -> Result<Vec<PreparedBatch>, LogError> {
        let mut batches = Vec::with_capacity(group.batches.len());
        for batch in group.batches.iter().filter(|batch| batch.records.count() > 0) {
            if batch.records.len_bytes() > BODY_BYTES_MAX {
                return Err(LogError::Refused(format!(
                    "a batch of {} bytes for {} is larger than the log can hold ({BODY_BYTES_MAX})",
                    batch.records.len_bytes(),
                    batch.partition
                )));
            }
            let key = self.key(&batch.partition).await?;
            let body_crc = crc32c::crc32c(batch.records.body());
            batches.push(PreparedBatch { key, records: batch.records.clone(), body_crc });
        }
        Ok(batches)
    }

    async fn key(&self, partition: &TopicPartition) -> Result<PartitionKey, LogError> {
        let known = self.shared.view().key(partition);
        if let Some(key) = known {
            return Ok(key);
        }
        let partitions = create_topic(&self.shared, &partition.topic).await?;
        self.shared.view().key(partition).ok_or_else(|| {
            LogError::Refused(format!("{partition} does not exist: the topic has {partitions} partitions"))
        })
    }
}

async fn create_topic(shared: &Shared, topic: &str) -> Result<u32, LogError> {
    check_name("topic name", topic)?;
    shared.ask(|reply| Message::Control(Control::CreateTopic { name: topic.to_owned(), reply })).await
}

/// Rows of `source_offsets`.
pub(super) fn source_offset_ops(connector: &str, offsets: &SourceOffsets) -> Result<Vec<Op>, LogError> {
    check_name("connector name", connector)?;
    let rows = offsets.iter().map(|(partition, offset)| {
        let value = serde_json::to_vec(&offset.0)
            .map_err(|e| LogError::Refused(format!("a source offset is not JSON: {e}")))?;
        Ok(Table::SourceOffsets.put(named_key(connector, partition.0.as_bytes()), &value))
    });
    rows.collect()
}

impl LogWriter for EmbeddedWriter {
    fn partitions<'a>(&'a mut self, topic: &'a str) -> BoxFuture<'a, Result<u32, LogError>> {
        Box::pin(create_topic(&self.shared, topic))
    }

    fn append(&mut self, group: WriteGroup) -> BoxFuture<'_, Result<PendingCommit, CommitError>> {
        Box::pin(async move {
            if self.refused {
                let message =
                    format!("an earlier group of writer `{}` was refused; open the writer again", self.id);
                return Err(CommitError::Aborted(LogError::Refused(message)));
            }
            let handed = self.hand_over(group).await;
            self.refused = handed.is_err();
            handed
        })
    }
}
