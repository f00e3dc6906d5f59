//! The reference of the Kafka benchmarks: what a producer alone makes of the bytes of a topic, with transactions and without.
//!
//! `bare_producer SERVERS FROM TO [MILLISECONDS]` reads `FROM` into memory, then produces the same records to `TO` (which must exist) and
//! prints how many they were, and the seconds and CPU seconds that producing them took. Without `MILLISECONDS` the producer is idempotent
//! and nothing more; with it what it sends within so long, and within ten times what the last commit took, is a transaction, one after
//! the other as a source task's are.

use std::{
    error::Error,
    fmt::Write,
    io::Write as _,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedMessage,
    producer::{BaseProducer, BaseRecord, Producer},
    topic_partition_list::Offset,
};
use rowstream_kafka_ffi::commit;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let (servers, from, to, transaction) = match &arguments[..] {
        [_, servers, from, to] => (servers, from, to, None),
        [_, servers, from, to, ms] => (servers, from, to, Some(Duration::from_millis(ms.parse()?))),
        _ => return Err("expected SERVERS FROM TO [MILLISECONDS]".into()),
    };
    let records = read(servers, from)?;
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "100")
        .set("batch.num.messages", "4000")
        .set("queue.buffering.max.messages", "20000");
    if transaction.is_some() {
        config.set("transactional.id", to).set("delivery.report.only.error", "true");
    }
    let producer: BaseProducer = config.create()?;
    producer.client().fetch_metadata(Some(to), PATIENCE)?;
    if transaction.is_some() {
        producer.init_transactions(PATIENCE)?;
    }
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    match transaction {
        Some(open) => transact(&producer, to, &records, open)?,
        None => {
            send_all(&producer, to, &records)?;
            producer.flush(PATIENCE)?;
        }
    }
    let mut line = String::new();
    writeln!(line, "{} {:.3} {:.3}", records.len(), began.elapsed().as_secs_f64(), cpu_seconds()? - cpu)?;
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

fn transact(
    producer: &BaseProducer,
    to: &str,
    records: &[OwnedMessage],
    open: Duration,
) -> Result<(), Box<dyn Error>> {
    let (mut rest, mut commit_took) = (records.iter().peekable(), Duration::ZERO);
    while rest.peek().is_some() {
        let began = Instant::now();
        producer.begin_transaction()?;
        while began.elapsed() < open.max(commit_took * 10)
            && let Some(record) = rest.next()
        {
            send(producer, to, record)?;
        }
        let committing = Instant::now();
        commit(producer, PATIENCE).map_err(|e| format!("{}: {}", e.code, e.text))?;
        commit_took = committing.elapsed();
    }
    Ok(())
}

fn read(servers: &str, topic: &str) -> Result<Vec<OwnedMessage>, Box<dyn Error>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bare-producer")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    let (_, end) = consumer.fetch_watermarks(topic, 0, PATIENCE)?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&partitions)?;
    let mut records = Vec::new();
    let position = || -> Result<i64, KafkaError> {
        let positions = consumer.position()?;
        Ok(positions.elements().first().and_then(|e| e.offset().to_raw()).unwrap_or(-1))
    };
    while position()? < end {
        while let Some(record) = consumer.poll(Duration::from_millis(100)) {
            records.push(record?.detach());
        }
    }
    Ok(records)
}

fn send_all(producer: &BaseProducer, to: &str, records: &[OwnedMessage]) -> Result<(), KafkaError> {
    records.iter().try_for_each(|record| send(producer, to, record))
}

fn send(producer: &BaseProducer, to: &str, record: &OwnedMessage) -> Result<(), KafkaError> {
    loop {
        let mut copy = BaseRecord::<[u8], [u8]>::to(to).partition(0);
        copy.key = record.key();
        copy.payload = record.payload();
        match producer.send(copy) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// Of this process, all threads.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / 100.0)
}
