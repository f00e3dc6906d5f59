//! What the Kafka log promises, checked on a real broker.
//!
//! The broker is shared with everything else that uses `tests/services/kafka.sh`; each test has a group and topics of its own.
//! Tests that kill the broker have a cluster of their own.

mod basic;
mod faults;
mod schemas;

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    topic_partition_list::Offset,
};
use rowstream_api::{SourceOffset, SourceOffsets, SourcePartition, TopicPartition};

use super::{KafkaConfig, KafkaLog};
use crate::topic_log::{
    CommitError, LogBatch, LogError, LogEvent, LogReader, LogWriter, RecordBatchBuilder, SeekTo, TopicBatch,
    TopicFilter, TopicLog, WriteGroup,
};

/// The script with the cluster on `port`; answers what it says.
fn script(port: u16, arguments: &[&str]) -> String {
    said(Command::new("bash").env("KAFKA_PORT", port.to_string()), arguments)
}

fn said(bash: &mut Command, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/kafka.sh");
    let out = bash.arg(path).args(arguments).output().unwrap();
    assert!(out.status.success(), "kafka.sh {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// The shared broker.
fn broker() -> &'static str {
    static BROKER: OnceLock<String> = OnceLock::new();
    BROKER.get_or_init(|| script(19_092, &["up"]))
}

/// A name that no other test of any process has.
fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

fn config() -> KafkaConfig {
    KafkaConfig::new(unique("group"), vec![broker().to_owned()])
}

async fn open(config: &KafkaConfig) -> Arc<KafkaLog> {
    KafkaLog::open(config.clone()).await.unwrap()
}

/// Timestamp of the first record of each batch: now, because a broker retires records by their own timestamps.
fn now_ms() -> i64 {
    static NOW: OnceLock<i64> = OnceLock::new();
    *NOW.get_or_init(|| i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap())
}

fn to(topic: &str, values: &[impl AsRef<[u8]>]) -> TopicBatch {
    let mut builder = RecordBatchBuilder::new(&[("common", b"1")]);
    for (n, value) in (0i64..).zip(values) {
        builder.push(now_ms() + n, Some(b"key"), Some(value.as_ref()), &[("own", b"2")]);
    }
    TopicBatch { partition: TopicPartition::new(topic, 0), records: builder.build() }
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

/// The next batch with records.
async fn next_batch(reader: &mut Box<dyn LogReader>) -> LogBatch {
    loop {
        match next(reader).await.unwrap() {
            LogEvent::Batch(batch) if batch.records.count() > 0 => return batch,
            LogEvent::Batch(_) => {}
            LogEvent::Gained(partitions) => panic!("gained {partitions:?}"),
        }
    }
}

async fn reader(log: &KafkaLog, topic: &str, from: SeekTo) -> Box<dyn LogReader> {
    let mut reader = log.reader("", TopicFilter::new([topic])).await.unwrap();
    for partition in gained(&mut reader).await {
        reader.seek(&partition, from).unwrap();
    }
    reader
}

fn texts(batch: &LogBatch) -> Vec<String> {
    let text = |r: crate::topic_log::RecordRef| String::from_utf8(r.value.unwrap().to_vec()).unwrap();
    batch.records.records().unwrap().into_iter().map(text).collect()
}

/// Everything committed to partition 0 of a topic now, in order, with keys, read by a consumer that owes nothing to the log.
fn stored(servers: &str, topic: &str) -> Vec<(i64, Option<String>, Option<String>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "independent")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let partitions =
        consumer.fetch_metadata(Some(topic), Duration::from_secs(30)).unwrap().topics()[0].partitions().len();
    let mut records = Vec::new();
    for partition in 0..i32::try_from(partitions).unwrap() {
        let (_, end) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(30)).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let position =
            || consumer.position().unwrap().elements()[0].offset().to_raw().map_or(0, |n| n.max(0));
        while position() < end {
            let Some(message) = consumer.poll(Duration::from_millis(20)) else { continue };
            let message = message.unwrap();
            let text = |b: Option<&[u8]>| b.map(|b| String::from_utf8_lossy(b).into_owned());
            records.push((message.offset(), text(message.key()), text(message.payload())));
        }
    }
    records
}
