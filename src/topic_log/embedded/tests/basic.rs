//! Round trips, fencing, readers, state.

use bytes::Bytes;
use rowstream_api::TopicOffsets;

use super::*;
use crate::topic_log::{Lag, StateOp};

#[tokio::test]
async fn what_is_committed_is_read_back_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    assert_eq!(writer.partitions("a").await.unwrap(), 1);
    let records = [to("a", &["1", "2"]), to("b", &["x"]), to("a", &["3"])];
    commit(&mut writer, group(7, records.into())).await.unwrap();
    commit(&mut writer, group(8, vec![])).await.unwrap();
    let whole = read_all(&log).await.unwrap();
    assert_eq!(whole[&TopicPartition::new("a", 0)].values().collect::<Vec<_>>(), [b"1", b"2", b"3"]);
    assert_eq!(whole[&TopicPartition::new("b", 0)].values().collect::<Vec<_>>(), [b"x"]);
    let id = log.id().to_owned();
    log.close().await.unwrap();
    log.close().await.unwrap();
    assert!(matches!(read_all(&log).await, Err(LogError::Closed)));
    let log = open(dir.path()).await;
    assert_eq!(log.id(), id);
    assert_eq!(read_all(&log).await.unwrap(), whole);
    assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), 8);
    assert_eq!(log.source_offsets("other").await.unwrap(), SourceOffsets::new());
    let records = {
        let mut reader = log.reader("", TopicFilter::new(["a"])).await.unwrap();
        let partition = gained(&mut reader).await.remove(0);
        reader.seek(&partition, SeekTo::Earliest).unwrap();
        next_batch(&mut reader).await.records.records().unwrap()
    };
    assert_eq!(records[1].timestamp_ms, 1_001);
    assert_eq!(records[1].key.as_deref(), Some(b"key".as_slice()));
    let headers = [("common", "1"), ("own", "2")].map(|(n, v)| (Bytes::from(n), Bytes::from(v)));
    assert_eq!(records[1].headers, headers);
}

#[tokio::test]
async fn many_segments_and_batch_sizes_read_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    let (mut random, mut wanted) = (Random(5), BTreeMap::<TopicPartition, Vec<Vec<u8>>>::new());
    for tx in 1..300 {
        let mut batches = Vec::new();
        for _ in 0..random.below(4) {
            let topic = format!("t{}", random.below(5));
            let len = if random.below(20) == 0 { 300_000 } else { random.below(3_000) };
            let values: Vec<_> = (0..=random.below(4)).map(|_| random.bytes(len)).collect();
            wanted.entry(TopicPartition::new(topic.as_str(), 0)).or_default().extend(values.clone());
            batches.push(to(&topic, &values));
        }
        commit(&mut writer, group(tx, batches)).await.unwrap();
    }
    // One group larger than a segment.
    let large = random.bytes(5 << 20);
    wanted.entry(TopicPartition::new("t0", 0)).or_default().push(large.clone());
    commit(&mut writer, group(300, vec![to("t0", &[large])])).await.unwrap();
    assert!(log.health().values["segments"] > 5.0, "{:?}", log.health());
    for _ in 0..2 {
        let found = read_all(&log).await.unwrap();
        let found: BTreeMap<_, Vec<_>> =
            found.into_iter().map(|(p, v)| (p, v.into_values().collect())).collect();
        assert!(found == wanted);
    }
    log.close().await.unwrap();
    let log = open(dir.path()).await;
    let found = read_all(&log).await.unwrap();
    assert_eq!(found.len(), wanted.len());
    for (partition, values) in found {
        assert!(values.into_values().eq(wanted.remove(&partition).unwrap()), "{partition}");
    }
}

#[tokio::test]
async fn a_newer_writer_fences_the_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut old = log.writer("w").await.unwrap();
    commit(&mut old, group(1, vec![to("a", &["1"])])).await.unwrap();
    let mut new = log.writer("w").await.unwrap();
    let zombie = commit(&mut old, group(2, vec![to("a", &["zombie"])])).await;
    assert!(matches!(zombie, Err(CommitError::Fenced)), "{zombie:?}");
    let zombie = commit(&mut old, group(3, vec![])).await;
    assert!(matches!(zombie, Err(CommitError::Fenced)), "{zombie:?}");
    commit(&mut new, group(4, vec![to("a", &["2"])])).await.unwrap();
    let found = read_all(&log).await.unwrap();
    assert_eq!(found[&TopicPartition::new("a", 0)].values().collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), 4);
}

#[tokio::test]
async fn a_second_open_is_refused_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let Err(error) = EmbeddedLog::open(config(dir.path())).await else { panic!("opened twice") };
    let text = error.to_string();
    assert!(matches!(error, LogError::Locked { .. }), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    log.close().await.unwrap();
    open(dir.path()).await;
}

#[tokio::test]
async fn groups_of_one_writer_commit_in_order_without_waiting_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    let mut pending = Vec::new();
    for tx in 1..=2_000u64 {
        pending.push(writer.append(group(tx, vec![to("a", &[tx.to_string()])])).await.unwrap());
    }
    for outcome in futures::future::join_all(pending).await {
        outcome.unwrap();
    }
    let found = read_all(&log).await.unwrap().remove(&TopicPartition::new("a", 0)).unwrap();
    assert!(found.into_values().eq((1..=2_000u64).map(|tx| tx.to_string().into_bytes())));
    assert!(log.health().values["commits_total"] < 1_500.0, "{:?}", log.health());
}

#[tokio::test]
async fn a_seek_into_a_batch_starts_exactly_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    commit(&mut writer, group(1, vec![to("a", &["0", "1", "2"]), to("a", &["3", "4"])])).await.unwrap();
    let mut reader = log.reader("", TopicFilter::new(["a"])).await.unwrap();
    let partition = gained(&mut reader).await.remove(0);
    for (offset, wanted) in [(0, "012"), (1, "12"), (2, "2"), (3, "34"), (4, "4")] {
        reader.seek(&partition, SeekTo::Offset(offset)).unwrap();
        let batch = next_batch(&mut reader).await;
        assert_eq!(batch.base_offset, offset);
        assert_eq!(values(&batch).concat(), wanted.as_bytes());
        assert_eq!(batch.end_offset, 5);
        assert_eq!(batch.records.records().unwrap()[0].headers.len(), 2);
    }
    let outside = reader.seek(&partition, SeekTo::Offset(6));
    assert!(
        matches!(outside, Err(LogError::OffsetOutOfRange { offset: 6, start: 0, end: 5, .. })),
        "{outside:?}"
    );
}

#[tokio::test]
async fn a_waiting_reader_hears_of_records_and_of_new_topics() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    commit(&mut writer, group(1, vec![to("s.a", &["1"])])).await.unwrap();
    let mut reader = log.reader("", TopicFilter::new(["s.*"])).await.unwrap();
    let a = gained(&mut reader).await;
    assert_eq!(a, [TopicPartition::new("s.a", 0)]);
    reader.seek(&a[0], SeekTo::End).unwrap();
    assert_eq!(reader.lag(), Lag::default());
    let (batch, ()) = tokio::join!(next_batch(&mut reader), async {
        commit(&mut writer, group(2, vec![to("other", &["no"])])).await.unwrap();
        commit(&mut writer, group(3, vec![to("s.a", &["2"])])).await.unwrap();
    });
    assert_eq!((batch.base_offset, values(&batch).concat()), (1, b"2".to_vec()));
    let (b, ()) = tokio::join!(gained(&mut reader), async {
        commit(&mut writer, group(4, vec![to("s.b", &["3", "4"])])).await.unwrap();
    });
    assert_eq!(b, [TopicPartition::new("s.b", 0)]);
    reader.seek(&b[0], SeekTo::Earliest).unwrap();
    let lag = reader.lag();
    assert_eq!(lag.records, 2);
    assert!(lag.bytes > 48, "{lag:?}");
    assert_eq!(values(&next_batch(&mut reader).await), [b"3", b"4"]);
    assert_eq!(reader.lag(), Lag::default());
}

#[tokio::test]
async fn a_dropped_next_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    let value = vec![7u8; 100_000];
    for tx in 0..60 {
        commit(&mut writer, group(tx, vec![to("a", &[&value])])).await.unwrap();
    }
    let mut reader = log.reader("", TopicFilter::new(["a"])).await.unwrap();
    let partition = gained(&mut reader).await.remove(0);
    reader.seek(&partition, SeekTo::Earliest).unwrap();
    let mut at = 0;
    while at < 60 {
        // Polled once and dropped, in the middle of a read on the blocking pool.
        let polled = futures::FutureExt::now_or_never(reader.next());
        let event = match polled {
            Some(event) => event.unwrap(),
            None => next(&mut reader).await.unwrap(),
        };
        let LogEvent::Batch(batch) = event else { panic!("gained") };
        assert_eq!(batch.base_offset, at);
        at += i64::from(batch.records.count());
    }
}

#[tokio::test]
async fn a_busy_topic_does_not_starve_a_quiet_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    for tx in 0..100 {
        commit(&mut writer, group(tx, vec![to("busy", &[vec![1u8; 50_000]])])).await.unwrap();
    }
    commit(&mut writer, group(100, vec![to("quiet", &["here"])])).await.unwrap();
    let mut reader = log.reader("", TopicFilter::new(["*"])).await.unwrap();
    for partition in gained(&mut reader).await {
        reader.seek(&partition, SeekTo::Earliest).unwrap();
    }
    let mut busy = 0;
    while next_batch(&mut reader).await.partition.topic.as_ref() != "quiet" {
        busy += 1;
    }
    assert!(busy < 10, "{busy} batches of the busy topic came first");
}

#[tokio::test]
async fn a_thousand_topics_work_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    let topics: Vec<String> = (0..1_000).map(|n| format!("t{n:04}")).collect();
    for round in 0..3u8 {
        let batches = topics.iter().map(|topic| to(topic, &[format!("{topic} {round}")])).collect();
        commit(&mut writer, group(u64::from(round), batches)).await.unwrap();
    }
    log.close().await.unwrap();
    let log = open(dir.path()).await;
    let found = read_all(&log).await.unwrap();
    assert_eq!(found.len(), 1_000);
    for (partition, values) in found {
        let wanted = (0..3).map(|round| format!("{} {round}", partition.topic).into_bytes());
        assert!(values.into_values().eq(wanted), "{partition}");
    }
    let mut ids: Vec<_> = log.topics().await.unwrap().into_iter().map(|t| t.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1_000);
}

#[tokio::test]
async fn state_and_offsets_are_durable_and_apart_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let put = |table: &str, key: &str, value: &'static str| StateOp::Put {
        table: table.into(),
        key: key.into(),
        value: Bytes::from(value),
    };
    let ops = vec![put("t", "b", "2"), put("t", "a", "1"), put("t2", "a", "other"), put("t", "c", "")];
    log.state().write(ops).await.unwrap();
    log.state().write(vec![StateOp::Delete { table: "t".into(), key: "b".into() }]).await.unwrap();
    let mut writer = log.writer("w").await.unwrap();
    commit(&mut writer, group(1, vec![to("a", &["1", "2"])])).await.unwrap();
    let read = [(TopicPartition::new("a", 0), 2)].into();
    log.commit_group_offsets("g", TopicOffsets::clone(&read)).await.unwrap();
    log.commit_group_offsets("g2", [(TopicPartition::new("a", 0), 1)].into()).await.unwrap();
    let unknown = log.commit_group_offsets("g", [(TopicPartition::new("nowhere", 0), 1)].into()).await;
    assert!(matches!(unknown, Err(LogError::Refused(_))), "{unknown:?}");
    log.close().await.unwrap();
    let log = open(dir.path()).await;
    let rows = log.state().scan("t").await.unwrap();
    assert_eq!(rows, [("a".to_owned(), Bytes::from("1")), ("c".to_owned(), Bytes::new())]);
    assert_eq!(log.state().get("t2", "a").await.unwrap(), Some(Bytes::from("other")));
    assert_eq!(log.state().get("t", "b").await.unwrap(), None);
    assert_eq!(log.group_offsets("g").await.unwrap(), read);
    log.delete_group("g").await.unwrap();
    assert_eq!(log.group_offsets("g").await.unwrap().len(), 0);
    assert_eq!(log.group_offsets("g2").await.unwrap().len(), 1);
    log.replace_source_offsets("c", offsets(99)).await.unwrap();
    assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), 99);
    log.replace_source_offsets("c", SourceOffsets::new()).await.unwrap();
    assert_eq!(log.source_offsets("c").await.unwrap().len(), 0);
}

#[tokio::test]
async fn group_offsets_alone_write_no_segment_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut writer = log.writer("w").await.unwrap();
    commit(&mut writer, group(1, vec![to("a", &["1"])])).await.unwrap();
    let before = log.health().values["bytes_written_total"];
    for offset in 0..50 {
        log.commit_group_offsets("g", [(TopicPartition::new("a", 0), offset)].into()).await.unwrap();
    }
    assert!((log.health().values["bytes_written_total"] - before).abs() < 0.5);
    assert_eq!(log.group_offsets("g").await.unwrap()[&TopicPartition::new("a", 0)], 49);
}
