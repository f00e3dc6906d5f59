//! What the embedded log promises, checked on real files.

mod basic;
mod damage;
mod faults;
mod kill;
mod power;
mod retention;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use rowstream_api::{SourceOffset, SourceOffsets, SourcePartition, TopicPartition};

use super::{EmbeddedConfig, EmbeddedLog};
use crate::topic_log::{
    CommitError, LogBatch, LogError, LogEvent, LogReader, LogWriter, RecordBatch, RecordBatchBuilder, SeekTo,
    TopicBatch, TopicFilter, TopicLog, WriteGroup,
};

/// Values of a topic's partition 0, by offset.
type Values = BTreeMap<i64, Vec<u8>>;

fn config(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig { segment_bytes: 2 << 20, ..EmbeddedConfig::new(dir) }
}

async fn open(dir: &Path) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(config(dir)).await.unwrap()
}

fn batch(values: &[impl AsRef<[u8]>]) -> RecordBatch {
    let mut builder = RecordBatchBuilder::new(&[("common", b"1")]);
    for (n, value) in (0i64..).zip(values) {
        builder.push(1_000 + n, Some(b"key"), Some(value.as_ref()), &[("own", b"2")]);
    }
    builder.build()
}

fn to(topic: &str, values: &[impl AsRef<[u8]>]) -> TopicBatch {
    TopicBatch { partition: TopicPartition::new(topic, 0), records: batch(values) }
}

fn offsets(tx: u64) -> SourceOffsets {
    let position = [("tx".to_owned(), tx.into())].into_iter().collect();
    [(SourcePartition("{\"server\":\"s\"}".into()), SourceOffset(position))].into()
}

fn tx_of(offsets: &SourceOffsets) -> u64 {
    offsets.values().next().map_or(0, |o| o.0["tx"].as_u64().unwrap())
}

fn group(tx: u64, batches: Vec<TopicBatch>) -> WriteGroup {
    WriteGroup { batches, source_offsets: Some(("c".into(), offsets(tx))) }
}

async fn commit(writer: &mut Box<dyn LogWriter>, group: WriteGroup) -> Result<(), CommitError> {
    writer.append(group).await?.await
}

/// What `next` says within a minute.
async fn next(reader: &mut Box<dyn LogReader>) -> Result<LogEvent, LogError> {
    tokio::time::timeout(Duration::from_secs(60), reader.next()).await.expect("the reader waits")
}

async fn gained(reader: &mut Box<dyn LogReader>) -> Vec<TopicPartition> {
    match next(reader).await.unwrap() {
        LogEvent::Gained(partitions) => partitions,
        LogEvent::Batch(batch) => panic!("a batch of {}", batch.partition),
    }
}

async fn next_batch(reader: &mut Box<dyn LogReader>) -> LogBatch {
    match next(reader).await.unwrap() {
        LogEvent::Batch(batch) => batch,
        LogEvent::Gained(partitions) => panic!("gained {partitions:?}"),
    }
}

fn values(batch: &LogBatch) -> Vec<Vec<u8>> {
    batch.records.records().unwrap().into_iter().map(|r| r.value.unwrap().to_vec()).collect()
}

/// Everything in the log from `from` on (or the earliest), by partition; checks that offsets have no gap.
async fn read_from(
    log: &EmbeddedLog,
    from: &BTreeMap<TopicPartition, i64>,
) -> Result<BTreeMap<TopicPartition, Values>, LogError> {
    let mut left = BTreeMap::new();
    for topic in log.topics().await? {
        for (number, extent) in (0u32..).zip(&topic.partitions) {
            let partition = TopicPartition::new(Arc::clone(&topic.name), number);
            let start = from.get(&partition).copied().unwrap_or(extent.start_offset);
            left.insert(partition, (start, extent.end_offset));
        }
    }
    let mut found: BTreeMap<_, Values> = BTreeMap::new();
    if left.is_empty() {
        return Ok(found);
    }
    let mut reader = log.reader("", TopicFilter::new(["*"])).await?;
    for partition in gained(&mut reader).await {
        reader.seek(&partition, SeekTo::Offset(left[&partition].0))?;
    }
    while left.values().any(|(at, end)| at < end) {
        let LogEvent::Batch(batch) = next(&mut reader).await? else { continue };
        let (at, _) = left.get_mut(&batch.partition).unwrap();
        assert_eq!(batch.base_offset, *at, "{}", batch.partition);
        let values = values(&batch);
        assert_eq!(values.len(), batch.records.count() as usize);
        let records = found.entry(batch.partition).or_default();
        for value in values {
            records.insert(*at, value);
            *at += 1;
        }
    }
    Ok(found)
}

async fn read_all(log: &EmbeddedLog) -> Result<BTreeMap<TopicPartition, Values>, LogError> {
    read_from(log, &BTreeMap::new()).await
}

/// Copies the files of a log as they are now.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A small generator of repeatable numbers (splitmix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
