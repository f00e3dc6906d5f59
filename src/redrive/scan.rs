//! A dead letter topic read from its beginning to where it ended when the reading began.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rowstream_api::{ConnectorError, TopicPartition};
use tokio::time::timeout;

use crate::{
    task::log_failure,
    topic_log::{LogBatch, LogError, LogEvent, LogReader, SeekTo, TopicFilter, TopicLog},
};

/// Silence after which it is given up: what was to be read is gone, by retention or with the topic, or the log does not answer.
const SILENCE: Duration = Duration::from_secs(15);

/// The reading. What it holds is one batch.
pub struct Scan {
    topic_id: String,
    reader: Box<dyn LogReader>,
    starts: BTreeMap<TopicPartition, SeekTo>,
    ends: BTreeMap<u32, i64>,
    /// Partitions that are not read to their end.
    open: BTreeMap<u32, ()>,
}

impl Scan {
    /// Of this topic, or of one partition of it; `None` when there is no such topic.
    ///
    /// # Errors
    /// The log can't be read.
    pub async fn of(
        log: &Arc<dyn TopicLog>,
        topic: &str,
        partition: Option<u32>,
    ) -> Result<Option<Self>, ConnectorError> {
        let topics = log.topics().await.map_err(unreadable)?;
        let Some(found) = topics.into_iter().find(|known| *known.name == *topic) else { return Ok(None) };
        // Nobody's group: it only looks.
        let reader = log.reader("", TopicFilter::new([topic])).await.map_err(unreadable)?;
        let (mut starts, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for (number, extent) in (0..).zip(&found.partitions) {
            if extent.start_offset < extent.end_offset && partition.is_none_or(|only| only == number) {
                starts.insert(TopicPartition::new(topic, number), SeekTo::Earliest);
                ends.insert(number, extent.end_offset);
            }
        }
        let open = ends.keys().map(|number| (*number, ())).collect();
        Ok(Some(Self { topic_id: found.id, reader, starts, ends, open }))
    }

    /// The topic's identity.
    #[must_use]
    pub fn topic_id(&self) -> &str {
        &self.topic_id
    }

    /// Where a partition ended when the reading began; records of a batch from there on are not part of it.
    #[must_use]
    pub fn end_of(&self, partition: u32) -> i64 {
        self.ends.get(&partition).copied().unwrap_or_default()
    }

    /// The next batch; `None` when all is read.
    ///
    /// # Errors
    /// The log can't be read.
    pub async fn next(&mut self) -> Result<Option<LogBatch>, ConnectorError> {
        while !self.open.is_empty() {
            let Ok(event) = timeout(SILENCE, self.reader.next()).await else {
                let message = format!(
                    "the dead letters were not read to their end: nothing came for {} s",
                    SILENCE.as_secs()
                );
                return Err(ConnectorError::transient("DEAD_LETTERS_SILENT", message));
            };
            match event.map_err(unreadable)? {
                LogEvent::Gained(partitions) => {
                    for partition in partitions {
                        if let Some(at) = self.starts.get(&partition) {
                            self.reader.seek(&partition, *at).map_err(unreadable)?;
                        }
                    }
                }
                LogEvent::Batch(batch) => {
                    let number = batch.partition.partition;
                    let next = batch.base_offset.saturating_add(i64::from(batch.records.count()));
                    if !self.open.contains_key(&number) {
                        continue;
                    }
                    if next >= self.end_of(number) {
                        self.open.remove(&number);
                    }
                    return Ok(Some(batch));
                }
            }
        }
        Ok(None)
    }
}

fn unreadable(error: LogError) -> ConnectorError {
    log_failure("read the dead letters", error)
}
