//! Writing, reading, positions and state, while nothing goes wrong.

use super::*;
use crate::topic_log::{RecordRef, StateOp};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_and_position_commit_together_and_read_back_whole() {
    let (config, topic) = (config(), unique("topic"));
    let log = open(&config).await;
    assert!(log.id().starts_with("kafka-"), "{}", log.id());
    let mut writer = log.writer("c-0").await.unwrap();
    assert_eq!(writer.partitions(&topic).await.unwrap(), 1);
    assert_eq!(log.source_offsets("c").await.unwrap(), SourceOffsets::new());
    commit(&mut writer, group(1, vec![to(&topic, &["a", "b"])])).await.unwrap();
    commit(&mut writer, group(2, vec![to(&topic, &["c"])])).await.unwrap();
    commit(&mut writer, group(3, Vec::new())).await.unwrap();
    assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), 3);

    let mut reader = reader(&log, &topic, SeekTo::Earliest).await;
    let first = next_batch(&mut reader).await;
    assert_eq!((first.base_offset, texts(&first)), (0, vec!["a".to_owned(), "b".to_owned()]));
    let records = first.records.records().unwrap();
    let pair = |name: &str, value: &str| (name.to_owned().into(), value.to_owned().into());
    let RecordRef { timestamp_ms, key, headers, .. } = &records[1];
    assert_eq!((*timestamp_ms, key.as_deref()), (now_ms() + 1, Some(b"key".as_slice())));
    assert_eq!(*headers, vec![pair("common", "1"), pair("own", "2")]);
    // The commit marker takes an offset: the next batch begins behind it.
    let second = next_batch(&mut reader).await;
    assert_eq!((second.base_offset, texts(&second)), (3, vec!["c".to_owned()]));
    // And past the last marker an empty batch says where the partition stands.
    let LogEvent::Batch(end) = next(&mut reader).await.unwrap() else { panic!("no batch") };
    assert_eq!((end.records.count(), end.base_offset, reader.lag().records), (0, 5, 0));
    let described = log.topics().await.unwrap().into_iter().find(|t| *t.name == *topic).unwrap();
    assert_eq!((described.partitions[0].start_offset, described.partitions[0].end_offset), (0, 5));
    assert_eq!(log.health().values["commits_total"], 3.0);
}

/// The offsets topic is what Kafka Connect writes, byte for byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_offsets_are_in_connects_shape() {
    let config = config();
    let log = open(&config).await;
    let mut writer = log.writer("c-0").await.unwrap();
    commit(&mut writer, group(7, Vec::new())).await.unwrap();
    let topic = format!("{}-offsets", config.group);
    let key = r#"["c",{"server":"s"}]"#.to_owned();
    let records = stored(broker(), &topic);
    assert_eq!(records, [(0, Some(key.clone()), Some(r#"{"tx":7}"#.to_owned()))]);
    log.replace_source_offsets("c", SourceOffsets::new()).await.unwrap();
    assert_eq!(log.source_offsets("c").await.unwrap(), SourceOffsets::new());
    assert_eq!(stored(broker(), &topic).last().unwrap().2, None, "no tombstone");
    log.replace_source_offsets("c", offsets(9)).await.unwrap();
    let other = open(&config).await;
    assert_eq!(tx_of(&other.source_offsets("c").await.unwrap()), 9, "another worker reads something else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_start_where_they_are_told() {
    let (config, topic) = (config(), unique("topic"));
    let log = open(&config).await;
    let mut writer = log.writer("c-0").await.unwrap();
    commit(&mut writer, group(1, vec![to(&topic, &["a", "b", "c"])])).await.unwrap();
    // A commit is answered before readers see it; who asks for a place has read up to there.
    let mut from_a = reader(&log, &topic, SeekTo::Earliest).await;
    assert_eq!(texts(&next_batch(&mut from_a).await), ["a", "b", "c"]);
    let mut from_b = reader(&log, &topic, SeekTo::Offset(1)).await;
    assert_eq!(texts(&next_batch(&mut from_b).await), ["b", "c"]);
    let mut from_end = reader(&log, &topic, SeekTo::End).await;
    commit(&mut writer, group(2, vec![to(&topic, &["d"])])).await.unwrap();
    assert_eq!(texts(&next_batch(&mut from_end).await), ["d"]);
    // A second seek of the same reader wins over what was on its way.
    from_end.seek(&TopicPartition::new(topic.as_str(), 0), SeekTo::Earliest).unwrap();
    assert_eq!(texts(&next_batch(&mut from_end).await), ["a", "b", "c"]);

    let mut beyond = log.reader("", TopicFilter::new([topic.clone()])).await.unwrap();
    let partition = gained(&mut beyond).await.remove(0);
    beyond.seek(&partition, SeekTo::Offset(99)).unwrap();
    let error = next(&mut beyond).await.unwrap_err();
    assert!(matches!(error, LogError::OffsetOutOfRange { offset: 99, start: 0, .. }), "{error}");
    let mut before = log.reader("", TopicFilter::new([topic])).await.unwrap();
    let partition = gained(&mut before).await.remove(0);
    let error = before.seek(&partition, SeekTo::Offset(-1)).unwrap_err();
    assert!(matches!(error, LogError::OffsetOutOfRange { .. }), "{error}");
}

/// A topic that another worker makes is found by a reader of a pattern that covers it, and has the partitions configured for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_topic_of_a_pattern_is_discovered() {
    let mut config = config();
    let prefix = unique("shop");
    config.topics.overrides = vec![(
        TopicFilter::new([format!("{prefix}.wide")]),
        super::super::TopicSettings { partitions: Some(3), ..super::super::TopicSettings::default() },
    )];
    let (log, other) = (open(&config).await, open(&config).await);
    let mut reader = log.reader("", TopicFilter::new([format!("{prefix}.*")])).await.unwrap();
    let mut writer = other.writer("c-0").await.unwrap();
    let topic = format!("{prefix}.wide");
    assert_eq!(writer.partitions(&topic).await.unwrap(), 3);
    let found = gained(&mut reader).await;
    assert_eq!(found, (0..3).map(|n| TopicPartition::new(topic.as_str(), n)).collect::<Vec<_>>());
    for partition in &found {
        reader.seek(partition, SeekTo::Earliest).unwrap();
    }
    commit(&mut writer, group(1, vec![to(&topic, &["a"])])).await.unwrap();
    assert_eq!(texts(&next_batch(&mut reader).await), ["a"]);
    let missing = TopicBatch { partition: TopicPartition::new(topic.as_str(), 3), ..to(&topic, &["x"]) };
    let refused = commit(&mut writer, group(2, vec![missing])).await.unwrap_err();
    assert!(matches!(refused, CommitError::Aborted(LogError::Refused(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_and_group_offsets_are_read_by_another_worker() {
    let config = config();
    let (log, other) = (open(&config).await, open(&config).await);
    let put = |key: &str, value: &'static str| StateOp::Put {
        table: "t".into(),
        key: key.into(),
        value: value.as_bytes().into(),
    };
    let delete = |key: &str| StateOp::Delete { table: "t".into(), key: key.into() };
    log.state().write(vec![put("b", "2")]).await.unwrap();
    log.state().write(vec![put("a", "1"), put("c", "3"), delete("b")]).await.unwrap();
    let scanned = other.state().scan("t").await.unwrap();
    assert_eq!(scanned, [("a".to_owned(), "1".into()), ("c".to_owned(), "3".into())]);
    assert_eq!(other.state().get("t", "b").await.unwrap(), None);
    assert_eq!(other.state().scan("u").await.unwrap(), []);

    let at = |offset| [(TopicPartition::new("some.topic", 2), offset)].into();
    log.commit_group_offsets("connect-x", at(5)).await.unwrap();
    log.commit_group_offsets("connect-x", at(6)).await.unwrap();
    assert_eq!(other.group_offsets("connect-x").await.unwrap(), at(6));
    assert_eq!(other.group_offsets("connect-y").await.unwrap(), [].into());
    other.delete_group("connect-x").await.unwrap();
    assert_eq!(log.group_offsets("connect-x").await.unwrap(), [].into());
    // A log's own topics hold no records of tables.
    assert!(log.topics().await.unwrap().iter().all(|t| !t.name.starts_with(&config.group)));
}

/// TLS and each password mechanism; a wrong password and an untrusted certificate do not connect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_sasl_connect() {
    let _broker = broker();
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let mut secured = KafkaConfig::new(unique("group"), vec!["localhost:19112".to_owned()]);
        secured.tls = Some(super::super::KafkaTls {
            ca: Some(script(19_092, &["ca"]).into()),
            verify_hostname: true,
            ..super::super::KafkaTls::default()
        });
        let (user, password) = ("rowstream".to_owned(), rowstream_api::Secret::new("rowstream"));
        secured.sasl = Some(super::super::KafkaSasl::Password { mechanism, user, password });
        let log = open(&secured).await;
        let mut writer = log.writer("c-0").await.unwrap();
        commit(&mut writer, group(1, Vec::new())).await.unwrap();
        assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), 1, "{mechanism}");
    }
}
