//! What the tolerance policy does with a record that can't be handled.
//!
//! `none`: the task fails with the record's place and reason, before an offset past it is committed. `all` with a dead letter
//! topic: the record goes there as it was, with Kafka Connect's `__connect.errors.*` headers, and only when that is durable may the
//! offset pass it. `all` without a topic: it is skipped. It is counted in each case, and nothing is dropped in silence.
//!
//! A crash between the dead letter's commit and the offset's may write the dead letter again; its headers name the
//! record's place, so a reader can tell.

use std::sync::Arc;

use bytes::Bytes;
use rowstream_api::{ConnectorError, RecordError, RecordId, TopicPartition};

use super::partition::partition_of;
use crate::{
    config::{ErrorPolicy, Tolerance},
    task::{commit_failure, log_failure},
    topic_log::{LogWriter, RecordBatchBuilder, TopicBatch, TopicLog, WriteGroup, batch::Header},
};

/// A record on its way to the dead letter topic, as it stood in its own.
pub struct DeadLetter {
    /// Its place; `None` for a change that never got one.
    pub id: Option<RecordId>,
    /// Topic it was in or meant for.
    pub topic: Arc<str>,
    /// Framed key.
    pub key: Option<Bytes>,
    /// Framed value.
    pub value: Option<Bytes>,
    /// Its own headers.
    pub headers: Vec<(Bytes, Bytes)>,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Why.
    pub error: RecordError,
}

/// Applies one task's policy. Opens its writer when first needed.
pub struct DeadLetters {
    log: Arc<dyn TopicLog>,
    policy: ErrorPolicy,
    connector: String,
    task: usize,
    writer: Option<Box<dyn LogWriter>>,
}

impl DeadLetters {
    /// The policy of this task.
    #[must_use]
    pub fn new(log: Arc<dyn TopicLog>, policy: ErrorPolicy, connector: &str, task: usize) -> Self {
        Self { log, policy, connector: connector.to_owned(), task, writer: None }
    }

    /// Whether a bad record fails the task.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.policy.tolerance == Tolerance::None
    }

    /// The error of a task that may not go past this record.
    #[must_use]
    pub fn failure(place: &str, error: &RecordError) -> ConnectorError {
        ConnectorError::fatal(error.code, format!("{place}, {}: {}", error.stage.as_str(), error.message)).remedy(
            "mend the destination or the record's source and restart the task; or let such records pass with \
             `errors: { tolerance: all, dead_letter_topic: … }`",
        )
    }

    /// Disposes of these records; durable when it returns. Answers how many went to the topic (the rest was skipped).
    ///
    /// # Errors
    /// With `tolerance: none` the first record's failure; else that the dead letter topic could not be written.
    pub async fn dispose(&mut self, letters: &[DeadLetter]) -> Result<usize, ConnectorError> {
        let Some(first) = letters.first() else { return Ok(0) };
        if self.fails() {
            let place = first.id.as_ref().map_or_else(
                || format!("a change for topic `{}`", first.topic),
                |id| format!("record {} of {}", id.offset, id.partition),
            );
            return Err(Self::failure(&place, &first.error));
        }
        let Some(topic) = self.policy.dead_letter_topic.clone() else {
            for letter in letters {
                tracing::warn!(
                    connector = self.connector,
                    task = self.task,
                    topic = &*letter.topic,
                    offset = letter.id.as_ref().map(|id| id.offset),
                    code = letter.error.code,
                    error = %letter.error,
                    "record skipped: it can't be handled and there is no dead letter topic"
                );
            }
            return Ok(0);
        };
        self.write(&topic, letters).await?;
        tracing::warn!(
            connector = self.connector,
            task = self.task,
            topic,
            records = letters.len(),
            code = first.error.code,
            error = %first.error,
            "records went to the dead letter topic"
        );
        Ok(letters.len())
    }

    async fn write(&mut self, topic: &str, letters: &[DeadLetter]) -> Result<(), ConnectorError> {
        let attempt = || format!("write to dead letter topic `{topic}`");
        if self.writer.is_none() {
            let id = format!("{}-{}-dead-letters", self.connector, self.task);
            self.writer = Some(self.log.writer(&id).await.map_err(|e| log_failure(&attempt(), e))?);
        }
        let contexts: Vec<_> = letters.iter().map(|l| self.context(l)).collect();
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        let count = writer.partitions(topic).await.map_err(|e| log_failure(&attempt(), e))?;
        let mut builders: Vec<RecordBatchBuilder> =
            (0..count).map(|_| RecordBatchBuilder::new(&[])).collect();
        for (letter, context) in letters.iter().zip(&contexts) {
            let mut headers: Vec<Header<'_>> = letter
                .headers
                .iter()
                .filter_map(|(k, v)| std::str::from_utf8(k).ok().map(|k| (k, v.as_ref())))
                .collect();
            headers.extend(context.iter().map(|(k, v)| (*k, v.as_bytes())));
            let partition = partition_of(letter.key.as_deref(), count) as usize;
            if let Some(builder) = builders.get_mut(partition) {
                builder.push(letter.timestamp_ms, letter.key.as_deref(), letter.value.as_deref(), &headers);
            }
        }
        let batches = (0..count)
            .zip(builders)
            .filter(|(_, b)| b.count() > 0)
            .map(|(n, b)| TopicBatch { partition: TopicPartition::new(topic, n), records: b.build() })
            .collect();
        let group = WriteGroup { batches, source_offsets: None };
        let outcome = match writer.append(group).await {
            Ok(pending) => pending.await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.writer = None; // A writer that failed once must be opened again.
        }
        outcome.map_err(|e| commit_failure(&attempt(), e))
    }

    fn context(&self, letter: &DeadLetter) -> Vec<(&'static str, String)> {
        let mut headers = vec![("__connect.errors.topic", letter.topic.to_string())];
        if let Some(id) = &letter.id {
            headers.push(("__connect.errors.partition", id.partition.partition.to_string()));
            headers.push(("__connect.errors.offset", id.offset.to_string()));
        }
        headers.extend([
            ("__connect.errors.connector.name", self.connector.clone()),
            ("__connect.errors.task.id", self.task.to_string()),
            ("__connect.errors.stage", letter.error.stage.as_str().to_owned()),
            (
                "__connect.errors.class.name",
                format!("rowstream.{}", letter.error.stage.as_str().to_lowercase()),
            ),
            ("__connect.errors.exception.class.name", letter.error.code.to_owned()),
            ("__connect.errors.exception.message", letter.error.message.clone()),
        ]);
        headers
    }
}
