//! What the tolerance policy does with a record that can't be handled.
//!
//! `none`: the task fails with the record's place and reason, before an offset past it is committed. `all` with a dead letter
//! topic: the record goes there as it was, with Kafka Connect's `__connect.errors.*` headers, and only when that is durable may the
//! offset pass it. `all` without a topic: it is skipped. It is counted in each case, and nothing is dropped in silence.
//!
//! A change that a source's transforms refuse goes there as the records that it was before them, so that it can be brought back
//! ([`crate::redrive`]) when the transforms are mended; one that never became a record leaves a letter that only says why.
//!
//! A crash between the dead letter's commit and the offset's may write the dead letter again; its headers name the
//! record's place, so a reader can tell.

use std::sync::Arc;

use bytes::Bytes;
use rowstream_api::{Chain, Class, ConnectorError, Datum, RecordError, RecordId, TopicPartition};
use rowstream_avro::{put_frame_header, to_avro_json};

use super::{
    chained::Staged,
    encode::{Refused, now_us, register},
    partition::partition_of,
};
use crate::{
    config::{ErrorPolicy, Tolerance},
    redrive::letter::WHOLE_HEADER,
    schema_registry::{Part, SchemaRegistry, SubjectStrategy},
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

/// The letters of a change that was refused: its records as they were before the transforms, framed so that the dead letter topic's
/// readers can decode them; or, where there are none or the registry won't have their schemas, one that says why and holds no record.
///
/// # Errors
/// The registry could not be reached.
pub async fn letters_of(
    refused: Refused,
    common: &[(String, Vec<u8>)],
    registry: &Arc<dyn SchemaRegistry>,
    dead_letter_topic: Option<&str>,
) -> Result<Vec<DeadLetter>, ConnectorError> {
    let Refused { topic, key, staged, error, .. } = refused;
    if let Some(to) = dead_letter_topic.filter(|_| !staged.is_empty()) {
        match whole(&staged, &error, common, (registry, to)).await {
            Ok(letters) => return Ok(letters),
            Err(failure) if failure.class == Class::Transient => return Err(failure),
            Err(failure) => {
                tracing::warn!(topic = &*topic, error = %Chain(&failure), "a dead letter can't hold its record");
            }
        }
    }
    let (key, timestamp_ms) = (key.map(Bytes::from), now_us() / 1000);
    Ok(vec![DeadLetter { id: None, topic, key, value: None, headers: Vec::new(), timestamp_ms, error }])
}

/// One letter for each record.
async fn whole(
    staged: &[Staged],
    error: &RecordError,
    common: &[(String, Vec<u8>)],
    to: (&Arc<dyn SchemaRegistry>, &str),
) -> Result<Vec<DeadLetter>, ConnectorError> {
    let shared = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let mut letters = Vec::with_capacity(staged.len());
    for record in staged {
        let common = common.iter().map(|(name, value)| (shared(name.as_bytes()), shared(value)));
        let own = record.headers.iter().map(|(name, value)| (shared(name.as_bytes()), shared(value)));
        let mark = (Bytes::from_static(WHOLE_HEADER.as_bytes()), Bytes::from_static(b"true"));
        letters.push(DeadLetter {
            id: None,
            topic: Arc::clone(&record.topic),
            key: framed(to, Part::Key, record.key.as_ref()).await?,
            value: framed(to, Part::Value, record.value.as_ref()).await?,
            headers: common.chain(own).chain([mark]).collect(),
            timestamp_ms: record.timestamp_ms,
            error: error.clone(),
        });
    }
    Ok(letters)
}

/// Key or value with the id of its schema in front. The subject is named after the record, because letters of all tables share a topic.
async fn framed(
    (registry, topic): (&Arc<dyn SchemaRegistry>, &str),
    part: Part,
    datum: Option<&Datum>,
) -> Result<Option<Bytes>, ConnectorError> {
    let Some(datum) = datum else { return Ok(None) };
    let schema = to_avro_json(datum.schema());
    let id = register((Arc::clone(registry), SubjectStrategy::TopicRecord), topic, part, &schema).await?;
    let mut framed = Vec::with_capacity(datum.bytes.len() + 5);
    put_frame_header(id, &mut framed);
    framed.extend_from_slice(&datum.bytes);
    Ok(Some(framed.into()))
}
