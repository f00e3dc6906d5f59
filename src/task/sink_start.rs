//! Where a sink begins that nothing was delivered to: at the oldest record that the log holds, or with what comes from now on.
//!
//! `start_at: latest` means one moment, the connector's first start, and not wherever the end is whenever no position is found:
//! - The ends of all partitions at that moment are durable before the first record is read. A crash before the first delivery, a
//!   stop for a day, a task that moves to another worker: all begin there.
//! - A partition that is not among them came later, so all of it is from after that moment, and it is read from its oldest record.
//! - Only the connector's first task stores them; its other tasks wait for it. So they are stored once, whatever worker is first.
//! - They are the group's first offsets too, so that lag and retention know them. They go with the connector's group when it is
//!   deleted; a reset of its offsets leads back to them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use rowstream_api::{ConnectorError, TopicOffsets, TopicPartition};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{log_failure, sink_loop::group_of};
use crate::topic_log::{LogError, StateOp, StateStore, TopicFilter, TopicLog};

const TABLE: &str = "sink-starts";
/// How often a task looks whether the first one has stored where the connector begins.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The setting `start_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    /// The oldest records that the log holds.
    #[default]
    Earliest,
    /// What is written after the connector's first start.
    Latest,
}

/// As stored: the ends of each topic's partitions, by number.
#[derive(Serialize, Deserialize)]
struct Stored(BTreeMap<String, BTreeMap<u32, i64>>);

/// Where a connector begins, partition by partition; earliest in those that are not there.
///
/// Waits for the connector's first task when `task` is another one; `None` when told to stop meanwhile.
///
/// # Errors
/// The log's.
pub async fn of(
    log: &Arc<dyn TopicLog>,
    (connector, task): (&str, usize),
    (start_at, topics): (StartAt, &TopicFilter),
    stop: &CancellationToken,
) -> Result<Option<TopicOffsets>, ConnectorError> {
    if start_at == StartAt::Earliest {
        return Ok(Some(TopicOffsets::new()));
    }
    let failed = |error| log_failure("learn where the sink begins", error);
    loop {
        if let Some(stored) = log.state().get(TABLE, connector).await.map_err(failed)? {
            return read(connector, &stored).map(Some);
        }
        if task == 0 {
            let begin = fix(log, connector, topics).await.map_err(failed)?;
            tracing::info!(
                connector,
                partitions = begin.len(),
                "the sink begins with what comes from now on"
            );
            return Ok(Some(begin));
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Stores where it begins: here, or, when something was delivered before, nowhere else than it would have.
async fn fix(
    log: &Arc<dyn TopicLog>,
    connector: &str,
    topics: &TopicFilter,
) -> Result<TopicOffsets, LogError> {
    let group = group_of(connector);
    let mut begin = TopicOffsets::new();
    if log.group_offsets(&group).await?.is_empty() {
        for topic in log.topics().await?.iter().filter(|topic| topics.matches(&topic.name)) {
            for (number, partition) in (0..).zip(&topic.partitions) {
                begin.insert(TopicPartition::new(Arc::clone(&topic.name), number), partition.end_offset);
            }
        }
    }
    let mut stored = Stored(BTreeMap::new());
    for (partition, end) in &begin {
        stored.0.entry(partition.topic.to_string()).or_default().insert(partition.partition, *end);
    }
    let value = serde_json::to_vec(&stored).map_err(|e| LogError::State(e.to_string()))?;
    let (table, key) = (TABLE.to_owned(), connector.to_owned());
    log.state().write(vec![StateOp::Put { table, key, value: Bytes::from(value) }]).await?;
    log.commit_group_offsets(&group, begin.clone()).await?;
    Ok(begin)
}

fn read(connector: &str, stored: &[u8]) -> Result<TopicOffsets, ConnectorError> {
    let stored: Stored = serde_json::from_slice(stored).map_err(|error| {
        let message = format!("what is stored of where sink `{connector}` begins can't be read");
        ConnectorError::fatal("LOG_CORRUPT", message).because(error)
    })?;
    let topics = stored.0.into_iter().flat_map(|(topic, ends)| {
        let topic: Arc<str> = topic.into();
        ends.into_iter().map(move |(number, end)| (TopicPartition::new(Arc::clone(&topic), number), end))
    });
    Ok(topics.collect())
}

/// Forgets where a connector began: one of the same name that is made later begins at its own first start.
///
/// # Errors
/// The log's.
pub async fn forget(state: &dyn StateStore, connector: &str) -> Result<(), LogError> {
    state.write(vec![StateOp::Delete { table: TABLE.to_owned(), key: connector.to_owned() }]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_log::{
        RecordBatchBuilder, TopicBatch, WriteGroup,
        embedded::{EmbeddedConfig, EmbeddedLog},
    };

    async fn log() -> (tempfile::TempDir, Arc<dyn TopicLog>) {
        let directory = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(EmbeddedConfig::new(directory.path().join("log"))).await.unwrap();
        (directory, log)
    }

    async fn write(log: &Arc<dyn TopicLog>, topic: &str) {
        let mut writer = log.writer("w-0").await.unwrap();
        writer.partitions(topic).await.unwrap();
        let mut records = RecordBatchBuilder::new(&[]);
        records.push(1, None, Some(b"v"), &[]);
        let batch = TopicBatch { partition: TopicPartition::new(topic, 0), records: records.build() };
        writer
            .append(WriteGroup { batches: vec![batch], source_offsets: None })
            .await
            .unwrap()
            .await
            .unwrap();
    }

    async fn latest(log: &Arc<dyn TopicLog>, task: usize) -> Option<TopicOffsets> {
        let (stop, topics) = (CancellationToken::new(), TopicFilter::new(["shop.*"]));
        let asked = of(log, ("news", task), (StartAt::Latest, &topics), &stop);
        tokio::time::timeout(Duration::from_secs(1), asked).await.ok()?.unwrap()
    }

    fn at(place: &[(&str, i64)]) -> TopicOffsets {
        place.iter().map(|(topic, offset)| (TopicPartition::new(*topic, 0), *offset)).collect()
    }

    #[tokio::test]
    async fn latest_is_the_moment_of_the_first_start() {
        let (_directory, log) = log().await;
        write(&log, "shop.a").await;
        write(&log, "other").await;
        // The first task says where.
        assert_eq!(latest(&log, 1).await, None);
        assert_eq!(latest(&log, 0).await, Some(at(&[("shop.a", 1)])));
        assert_eq!(log.group_offsets("connect-news").await.unwrap(), at(&[("shop.a", 1)]));
        // What comes is not in it, nor is a topic that is made later; whoever asks, whatever was delivered.
        write(&log, "shop.a").await;
        write(&log, "shop.b").await;
        log.delete_group("connect-news").await.unwrap();
        for task in [0, 1, 0] {
            assert_eq!(latest(&log, task).await, Some(at(&[("shop.a", 1)])));
        }
        forget(log.state(), "news").await.unwrap();
        assert_eq!(latest(&log, 0).await, Some(at(&[("shop.a", 2), ("shop.b", 1)])));
        log.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_sink_that_was_delivered_to_goes_on() {
        let (_directory, log) = log().await;
        write(&log, "shop.a").await;
        write(&log, "shop.b").await;
        log.commit_group_offsets("connect-news", at(&[("shop.a", 0)])).await.unwrap();
        assert_eq!(latest(&log, 0).await, Some(at(&[])));
        log.close().await.unwrap();
    }
}
