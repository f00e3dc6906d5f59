//! Retention: nothing unread goes, what may go goes, and nobody who reads it is hurt.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::topic_log::embedded::{Failpoint, Failpoints, segment};

/// Segments of 128 KiB, of which everything read may go when a segment is sealed.
fn eager(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig { segment_bytes: 128 << 10, retention_bytes: Some(0), ..EmbeddedConfig::new(dir) }
}

async fn fill(log: &EmbeddedLog, topic: &str, kib: usize) {
    let mut writer = log.writer("w").await.unwrap();
    for _ in 0..kib / 10 {
        commit(&mut writer, group(1, vec![to(topic, &[vec![1u8; 5_000], vec![2u8; 5_000]])])).await.unwrap();
    }
}

async fn start_of(log: &EmbeddedLog, topic: &str) -> i64 {
    let topics = log.topics().await.unwrap();
    topics.iter().find(|t| t.name.as_ref() == topic).unwrap().partitions[0].start_offset
}

async fn end_of(log: &EmbeddedLog, topic: &str) -> i64 {
    let topics = log.topics().await.unwrap();
    topics.iter().find(|t| t.name.as_ref() == topic).unwrap().partitions[0].end_offset
}

#[tokio::test]
async fn unread_records_stay_and_read_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(eager(dir.path())).await.unwrap();
    drop(log.reader("g", TopicFilter::new(["a"])).await.unwrap());
    fill(&log, "a", 1_000).await;
    assert_eq!(start_of(&log, "a").await, 0, "a group that reads it has not read it");
    let files = segment::list(dir.path()).unwrap().len();
    log.close().await.unwrap();
    let log = EmbeddedLog::open(eager(dir.path())).await.unwrap();
    fill(&log, "a", 200).await;
    assert_eq!(start_of(&log, "a").await, 0, "the group is remembered");
    let read = end_of(&log, "a").await;
    log.commit_group_offsets("g", [(TopicPartition::new("a", 0), 100)].into()).await.unwrap();
    fill(&log, "a", 200).await;
    let start = start_of(&log, "a").await;
    assert!(start > 50 && start <= 100, "{start}");
    log.commit_group_offsets("g", [(TopicPartition::new("a", 0), read)].into()).await.unwrap();
    fill(&log, "a", 200).await;
    let start = start_of(&log, "a").await;
    assert!(start > 200 && start <= read, "{start}");
    assert!(segment::list(dir.path()).unwrap().len() < files);
    let whole = read_all(&log).await.unwrap();
    assert_eq!(*whole[&TopicPartition::new("a", 0)].keys().next().unwrap(), start);
    log.delete_group("g").await.unwrap();
    fill(&log, "a", 200).await;
    assert!(start_of(&log, "a").await > read);
    log.close().await.unwrap();
    let log = EmbeddedLog::open(eager(dir.path())).await.unwrap();
    let (start, end) = (start_of(&log, "a").await, end_of(&log, "a").await);
    assert_eq!(read_all(&log).await.unwrap()[&TopicPartition::new("a", 0)].len() as i64, end - start);
    let kept = log.topics().await.unwrap()[0].partitions[0].bytes;
    assert!(kept < 400_000, "{kept}");
}

#[tokio::test]
async fn a_reader_overtaken_by_retention_is_told_and_one_with_the_file_reads_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(eager(dir.path())).await.unwrap();
    drop(log.reader("g", TopicFilter::new(["a"])).await.unwrap());
    fill(&log, "a", 1_000).await;
    let mut reader = log.reader("", TopicFilter::new(["a"])).await.unwrap();
    let partition = gained(&mut reader).await.remove(0);
    reader.seek(&partition, SeekTo::Earliest).unwrap();
    assert_eq!(next_batch(&mut reader).await.base_offset, 0);
    log.delete_group("g").await.unwrap();
    fill(&log, "a", 200).await;
    let start = start_of(&log, "a").await;
    assert!(start > 100);
    let mut at = 2;
    let error = loop {
        match next(&mut reader).await {
            Ok(LogEvent::Batch(batch)) => {
                assert_eq!(batch.base_offset, at);
                at += i64::from(batch.records.count());
            }
            Ok(LogEvent::Gained(_)) => panic!("gained"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::OffsetOutOfRange { start: s, .. } if s == start), "{error}");
    reader.seek(&partition, SeekTo::Earliest).unwrap();
    assert_eq!(next_batch(&mut reader).await.base_offset, start);
}

#[tokio::test]
async fn a_slow_partition_pins_its_records_and_not_the_space_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(eager(dir.path())).await.unwrap();
    drop(log.reader("g", TopicFilter::new(["slow"])).await.unwrap());
    for _ in 0..10 {
        fill(&log, "slow", 10).await;
        let mut writer = log.writer("w").await.unwrap();
        commit(&mut writer, group(1, vec![to("fast", &[vec![1u8; 50_000], vec![2u8; 50_000]])]))
            .await
            .unwrap();
    }
    assert_eq!(start_of(&log, "slow").await, 0);
    assert!(start_of(&log, "fast").await > 10);
    let found = read_all(&log).await.unwrap();
    assert_eq!(found[&TopicPartition::new("slow", 0)].len(), 20);
    let blocks: u64 = segment::list(dir.path())
        .unwrap()
        .into_iter()
        .map(|base| std::fs::metadata(segment::path(dir.path(), base)).unwrap().blocks() * 512)
        .sum();
    assert!(blocks < 600_000, "{blocks} bytes on disk");
    log.close().await.unwrap();
    let log = EmbeddedLog::open(eager(dir.path())).await.unwrap();
    assert_eq!(read_all(&log).await.unwrap(), found);
}

#[tokio::test]
async fn records_go_by_age_too() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { retention_bytes: None, retention_ms: Some(60_000), ..eager(dir.path()) };
    let log = EmbeddedLog::open(config).await.unwrap();
    // The records' timestamps are of 1970.
    fill(&log, "a", 400).await;
    assert!(start_of(&log, "a").await > 0);
}

#[tokio::test]
async fn a_kill_between_commit_and_unlink_leaves_no_file_behind() {
    let (dir, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (dir.path().to_owned(), after.path().to_owned());
    let failpoints = Failpoints::new(move |point| {
        if point == Failpoint::Retired && !to.join("lock").exists() {
            copy(&from, &to);
        }
        Ok(())
    });
    let log = EmbeddedLog::open(EmbeddedConfig { failpoints, ..eager(dir.path()) }).await.unwrap();
    fill(&log, "a", 400).await;
    let before = segment::list(after.path()).unwrap().len();
    let log = EmbeddedLog::open(eager(after.path())).await.unwrap();
    assert!(segment::list(after.path()).unwrap().len() < before);
    let (start, end) = (start_of(&log, "a").await, end_of(&log, "a").await);
    assert!(start > 0);
    assert_eq!(
        read_all(&log).await.unwrap().remove(&TopicPartition::new("a", 0)).unwrap_or_default().len() as i64,
        end - start
    );
}
