//! When records become visible: the other end of `kafka-latency`.
//!
//! `watch SERVERS TOPIC` follows partition 0 of `TOPIC` from its beginning, as a `read_committed` consumer, and prints for each record the
//! number that its key holds (Confluent's framing, then one Avro `long`) and the microseconds since the epoch at which it was read.
//! It goes on until it is killed.

use std::{
    error::Error,
    io::{BufWriter, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    topic_partition_list::Offset,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, servers, topic] = &arguments[..] else { return Err("expected SERVERS TOPIC".into()) };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "watch")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&partitions)?;
    let mut out = BufWriter::new(std::io::stdout());
    loop {
        let mut polled = consumer.poll(Duration::from_millis(100));
        while let Some(record) = polled {
            let record = record?;
            let read_at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
            let id =
                record.key().and_then(|key| key.get(5..)).and_then(long).ok_or("a key without a number")?;
            writeln!(out, "{id} {read_at}")?;
            polled = consumer.poll(Duration::ZERO);
        }
        out.flush()?;
    }
}

/// Avro's variable-length zigzag number.
fn long(bytes: &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
        }
    }
    None
}
