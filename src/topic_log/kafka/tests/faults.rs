//! Every row of the error table that can be provoked: fences, timeouts, records that are too large, brokers that die.

use std::time::Instant;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::*;

/// The script with a cluster that may be killed: its port range is its own, and its version does not lose the end of a transaction when it
/// comes back (KAFKA-20734).
fn killed(arguments: &[&str]) -> String {
    said(Command::new("bash").envs([("KAFKA_PORT", "19192"), ("KAFKA_VERSION", "4.0.2")]), arguments)
}

/// A newer writer ends the older one for good, and what the older one had begun is in no topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_writer_fences_the_older() {
    let (config, topic) = (config(), unique("topic"));
    let (log, other) = (open(&config).await, open(&config).await);
    let mut zombie = log.writer("c-0").await.unwrap();
    commit(&mut zombie, group(1, vec![to(&topic, &["before"])])).await.unwrap();
    let mut newer = other.writer("c-0").await.unwrap();
    let fenced = commit(&mut zombie, group(2, vec![to(&topic, &["from the grave"])])).await.unwrap_err();
    assert!(matches!(fenced, CommitError::Fenced), "{fenced:?}");
    let again = commit(&mut zombie, group(3, vec![to(&topic, &["again"])])).await.unwrap_err();
    assert!(matches!(again, CommitError::Aborted(_)), "{again:?}");
    assert_eq!(tx_of(&other.source_offsets("c").await.unwrap()), 1);
    commit(&mut newer, group(2, vec![to(&topic, &["after"])])).await.unwrap();
    let values: Vec<_> = stored(broker(), &topic).into_iter().map(|r| r.2.unwrap()).collect();
    assert_eq!(values, ["before", "after"]);
}

/// The coordinator ends a transaction that takes too long and answers as if somebody had fenced the writer. Nobody has, so the
/// outcome is unknown, not fenced, and a writer opened again finds the truth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_coordinator_timed_out_is_unknown_and_nothing_of_it_is_there() {
    let (config, topic) = (config(), unique("topic"));
    let log = open(&config).await;
    let mut writer = log.writer("c-0").await.unwrap();
    commit(&mut writer, group(1, vec![to(&topic, &["a"])])).await.unwrap();
    // As the coordinator does at its timeout: the epoch grows, and no other writer has noted itself.
    let coordinator = transactional(&format!("{}.c-0", config.group));
    coordinator.init_transactions(Duration::from_secs(30)).unwrap();
    let unknown = commit(&mut writer, group(2, vec![to(&topic, &["b"])])).await.unwrap_err();
    assert!(matches!(unknown, CommitError::Unknown(_)), "{unknown:?}");
    let mut again = log.writer("c-0").await.unwrap();
    assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), 1);
    commit(&mut again, group(2, vec![to(&topic, &["b"])])).await.unwrap();
    let values: Vec<_> = stored(broker(), &topic).into_iter().map(|r| r.2.unwrap()).collect();
    assert_eq!(values, ["a", "b"]);
}

/// Too large is known before anything is sent; the error names topic, size and limit, and nothing of the group is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_is_refused_by_name() {
    let (config, topic) = (config(), unique("topic"));
    let log = open(&config).await;
    let mut writer = log.writer("c-0").await.unwrap();
    assert_eq!(writer.record_bytes_max(), Some(1_000_000));
    let large = vec![b'x'; 1_000_001];
    let batches = vec![to(&topic, &["small"]), to(&topic, &[large.as_slice()])];
    let refused = commit(&mut writer, group(1, batches)).await.unwrap_err();
    let CommitError::Aborted(LogError::Refused(text)) = &refused else { panic!("{refused:?}") };
    for part in [topic.as_str(), "1000015 bytes", "limit is 1000000", "message.max.bytes"] {
        assert!(text.contains(part), "missing {part:?} in {text}");
    }
    let mut writer = log.writer("c-0").await.unwrap();
    assert_eq!(log.source_offsets("c").await.unwrap(), SourceOffsets::new());
    commit(&mut writer, group(1, vec![to(&topic, &["fits"])])).await.unwrap();
    assert_eq!(stored(broker(), &topic).len(), 1);
}

/// A record that only the broker finds too large: not retried for ever, but refused by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_refuses_is_told_by_name() {
    let (mut config, topic) = (config(), unique("topic"));
    config.properties.insert("message.max.bytes".into(), "5000000".into());
    config.properties.insert("compression.type".into(), "none".into());
    let log = open(&config).await;
    let mut writer = log.writer("c-0").await.unwrap();
    let refused =
        commit(&mut writer, group(1, vec![to(&topic, &[vec![b'x'; 3_000_000]])])).await.unwrap_err();
    let CommitError::Aborted(LogError::Refused(text)) = &refused else { panic!("{refused:?}") };
    assert!(text.contains(&topic) && text.contains("max.message.bytes"), "{text}");
}

/// A foreign transaction that is open below the position hides it from readers; the re-read waits for the real end instead of
/// taking an old position for the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_open_transaction_does_not_hide_the_position() {
    let config = config();
    let log = open(&config).await;
    let mut writer = log.writer("c-0").await.unwrap();
    commit(&mut writer, group(1, Vec::new())).await.unwrap();
    let offsets_topic = format!("{}-offsets", config.group);
    let partition = super::super::positions::offsets_partition("c", 25);
    let foreign = transactional(&unique("foreign"));
    foreign.init_transactions(Duration::from_secs(30)).unwrap();
    foreign.begin_transaction().unwrap();
    let record =
        BaseRecord::to(&offsets_topic).partition(i32::try_from(partition).unwrap()).key("?").payload("{}");
    foreign.send(record).unwrap();
    foreign.flush(Duration::from_secs(30)).unwrap();
    commit(&mut writer, group(2, Vec::new())).await.unwrap();
    let read = log.source_offsets("c");
    let early = tokio::time::timeout(Duration::from_secs(1), read).await;
    assert!(early.is_err(), "answered {early:?} while the newest position was hidden");
    foreign.abort_transaction(Duration::from_secs(30)).unwrap();
    assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), 2);
}

/// The broker is killed under commits and comes back: each call answers, nothing is lost, nothing is doubled, order holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_survive_a_killed_broker() {
    let servers = tokio::task::spawn_blocking(|| killed(&["up"])).await.unwrap();
    let (config, topic) = (KafkaConfig::new(unique("group"), vec![servers.clone()]), unique("topic"));
    let log = open(&config).await;
    let mut writer = log.writer("c-0").await.unwrap();
    commit(&mut writer, group(0, vec![to(&topic, &["0"])])).await.unwrap();
    let kills = tokio::task::spawn_blocking(|| {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(400));
            killed(&["kill", "1"]);
            killed(&["start", "1"]);
        }
    });
    let mut tx = 1;
    let mut reopened = 0;
    let deadline = Instant::now() + Duration::from_secs(150);
    while !kills.is_finished() || tx < 50 {
        assert!(Instant::now() < deadline, "stuck at {tx}: {:?}", log.health());
        match commit(&mut writer, group(tx, vec![to(&topic, &[tx.to_string()])])).await {
            Ok(()) => tx += 1,
            Err(CommitError::Fenced) => panic!("nobody else writes"),
            Err(CommitError::Aborted(_) | CommitError::Unknown(_)) => {
                reopened += 1;
                writer = loop {
                    match log.writer("c-0").await {
                        Ok(writer) => break writer,
                        Err(error) => assert!(Instant::now() < deadline, "{error}"),
                    }
                };
                // What is stored decides, whatever the answer was.
                tx = tx_of(&log.source_offsets("c").await.unwrap()) + 1;
            }
        }
    }
    kills.await.unwrap();
    assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), tx - 1);
    let values: Vec<_> = stored(&servers, &topic).into_iter().map(|r| r.2.unwrap()).collect();
    let expected: Vec<_> = (0..tx).map(|n| n.to_string()).collect();
    assert_eq!(values, expected, "after {reopened} new writers");
    tokio::task::spawn_blocking(|| killed(&["wipe"])).await.unwrap();
}

fn transactional(id: &str) -> BaseProducer {
    ClientConfig::new()
        .set("bootstrap.servers", broker())
        .set("transactional.id", id)
        .set("transaction.timeout.ms", "60000")
        .create()
        .unwrap()
}
