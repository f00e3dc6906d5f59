//! The reader: a consumer on a thread of its own, which is told its partitions and hands committed records over in batches.
//!
//! ```text
//! brokers ─ prefetch (8 MiB) ─► thread: poll, batch by partition ─► channel (8 events) ─► next()
//!                                  ▲ seeks                                          │ seek()
//! ```
//!
//! A batch holds consecutive offsets only. Commit markers take offsets too, so a batch ends before each one, and when a
//! partition's position has passed markers with nothing behind them, an empty batch says where it stands now.
//! Nothing is read that was not sought: the position is the destination's, and one that the log does not hold is an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use rdkafka::{
    Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
    topic_partition_list::Offset,
};
use rowstream_api::TopicPartition;
use tokio::sync::mpsc;

use super::{
    cluster::{Cluster, briefly, number},
    config::{Isolation, STATISTICS_INTERVAL_MS},
    context::Context,
    errors::{io_error, log_error},
    stall::Stalls,
};
use crate::topic_log::{
    Lag, LogBatch, LogError, LogEvent, LogReader, RecordBatchBuilder, SeekTo, TopicFilter, batch::Header,
};

/// Handed over at once, about.
const BATCH_BYTES: usize = 256 << 10;
/// Events that wait for the task.
const EVENTS_MAX: usize = 8;
/// How often positions are looked at while no records come.
const POSITIONS_INTERVAL: Duration = Duration::from_millis(100);
/// How often the ends of partitions are asked for, for lag.
const ENDS_INTERVAL: Duration = Duration::from_secs(2);

/// What the thread sends.
enum Sent {
    /// New partitions, with the first and the next offset of each.
    Gained(Vec<(TopicPartition, (i64, i64))>),
    /// Records read after the numbered seek of their partition.
    Batch { seek: u64, batch: LogBatch },
    /// The reading is over.
    Failed(LogError),
}

/// What the task asks of the thread.
#[derive(Default)]
struct Wishes {
    seeks: BTreeMap<TopicPartition, (u64, SeekTo)>,
    dropped: bool,
}

/// A reader of matching topics. Dropping it ends its thread.
pub(super) struct KafkaReader {
    events: mpsc::Receiver<Sent>,
    wishes: Arc<Mutex<Wishes>>,
    partitions: BTreeMap<TopicPartition, Reading>,
    /// Bytes and records so far, for the size of a record.
    read: (u64, u64),
}

struct Reading {
    /// First offset kept, as of its gain.
    start: i64,
    /// Newest known end.
    end: i64,
    /// Next offset to hand out.
    next: Option<i64>,
    /// Number of the newest seek.
    seek: u64,
}

impl KafkaReader {
    pub(super) fn open(cluster: &Arc<Cluster>, group: &str, filter: TopicFilter) -> Result<Self, LogError> {
        let attempt = || format!("open a reader of group `{group}`");
        let mut config = cluster.config.consumer(group, Isolation::Committed);
        config.set("client.id", format!("rowstream-{}-{group}", cluster.config.group));
        config.set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
        let consumer: BaseConsumer<Context> = config
            .create_with_context(cluster.context(&format!("{group}-reader")))
            .map_err(|e| log_error(attempt(), &e))?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let wishes = Arc::new(Mutex::new(Wishes::default()));
        let thread = Thread {
            cluster: Arc::clone(cluster),
            consumer: Arc::new(consumer),
            filter,
            wishes: Arc::clone(&wishes),
            events: sender,
            known: BTreeSet::new(),
            generation: None,
            followed: BTreeMap::new(),
            ends_asked: Instant::now(),
            positions_read: Instant::now(),
            stalls: Stalls::default(),
        };
        std::thread::Builder::new()
            .name("kafka-reader".into())
            .spawn(move || thread.run())
            .map_err(|e| io_error("start the thread `kafka-reader`", e.to_string()))?;
        Ok(Self { events, wishes, partitions: BTreeMap::new(), read: (0, 0) })
    }

    /// What the task should see of this; nothing when a newer seek has made it old.
    fn take(&mut self, sent: Sent) -> Option<Result<LogEvent, LogError>> {
        match sent {
            Sent::Failed(error) => Some(Err(error)),
            Sent::Gained(gained) => {
                let mut partitions = Vec::with_capacity(gained.len());
                for (partition, (start, end)) in gained {
                    self.partitions.insert(partition.clone(), Reading { start, end, next: None, seek: 0 });
                    partitions.push(partition);
                }
                Some(Ok(LogEvent::Gained(partitions)))
            }
            Sent::Batch { seek, batch } => {
                let reading = self.partitions.get_mut(&batch.partition)?;
                if reading.seek != seek {
                    return None;
                }
                reading.next = Some(batch.base_offset.saturating_add(i64::from(batch.records.count())));
                reading.end = reading.end.max(batch.end_offset);
                self.read.0 += batch.records.len_bytes() as u64;
                self.read.1 += u64::from(batch.records.count());
                Some(Ok(LogEvent::Batch(batch)))
            }
        }
    }
}

impl LogReader for KafkaReader {
    fn next(&mut self) -> BoxFuture<'_, Result<LogEvent, LogError>> {
        Box::pin(async move {
            loop {
                let sent = self.events.recv().await.ok_or(LogError::Closed)?;
                if let Some(event) = self.take(sent) {
                    return event;
                }
            }
        })
    }

    fn seek(&mut self, partition: &TopicPartition, offset: SeekTo) -> Result<(), LogError> {
        let reading = self.partitions.get_mut(partition).ok_or_else(|| {
            LogError::Refused(format!("{partition} is not one of this reader's partitions"))
        })?;
        let (start, end) = (reading.start, reading.end);
        // Beyond the end that was seen at the gain the thread looks again: another worker may have read on meanwhile.
        if let SeekTo::Offset(offset) = offset
            && offset < start
        {
            return Err(LogError::OffsetOutOfRange { partition: partition.clone(), offset, start, end });
        }
        reading.seek += 1;
        // The end is the one known now: looked up later, it would skip what is committed meanwhile.
        let offset = if offset == SeekTo::End { SeekTo::Offset(end) } else { offset };
        reading.next = Some(if let SeekTo::Offset(offset) = offset { offset } else { start });
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.seeks.insert(partition.clone(), (reading.seek, offset));
        Ok(())
    }

    fn lag(&self) -> Lag {
        let behind = |r: &Reading| r.next.map_or(0, |next| u64::try_from(r.end - next).unwrap_or(0));
        let records: u64 = self.partitions.values().map(behind).sum();
        // Kafka does not tell sizes of ranges: an estimate from the average size of what was read.
        let bytes = records.saturating_mul(self.read.0.checked_div(self.read.1).unwrap_or(0));
        Lag { records, bytes }
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner).dropped = true;
    }
}

struct Thread {
    cluster: Arc<Cluster>,
    consumer: Arc<BaseConsumer<Context>>,
    filter: TopicFilter,
    wishes: Arc<Mutex<Wishes>>,
    events: mpsc::Sender<Sent>,
    known: BTreeSet<TopicPartition>,
    /// Of the topics that were looked at.
    generation: Option<u64>,
    followed: BTreeMap<TopicPartition, Followed>,
    ends_asked: Instant,
    positions_read: Instant,
    stalls: Stalls,
}

struct Followed {
    seek: u64,
    /// Next offset to hand over.
    next: i64,
    end: i64,
}

/// Records of one partition on their way into a batch.
struct Open {
    partition: TopicPartition,
    base_offset: i64,
    next: i64,
    builder: RecordBatchBuilder,
}

impl Thread {
    fn run(mut self) {
        loop {
            let dropped = self.wishes.lock().unwrap_or_else(PoisonError::into_inner).dropped;
            if dropped || self.cluster.is_closed() {
                return;
            }
            let turn = self.gain().and_then(|()| self.seek()).and_then(|()| self.poll());
            match turn {
                Ok(Hearing::Listens) => {}
                Ok(Hearing::Gone) => return,
                Err(error) => {
                    // The task may have gone at the same time.
                    drop(self.events.blocking_send(Sent::Failed(error)));
                    return;
                }
            }
        }
    }

    /// Tells of partitions that have appeared.
    fn gain(&mut self) -> Result<(), LogError> {
        let generation = self.cluster.generation();
        if self.generation == Some(generation) {
            return Ok(());
        }
        let mut new = Vec::new();
        for (topic, count) in self.cluster.topics() {
            if self.filter.matches(&topic) {
                let wanted = (0..count).filter(|n| self.filter.takes(&topic, *n));
                new.extend(wanted.map(|n| TopicPartition::new(Arc::clone(&topic), n)));
            }
        }
        new.retain(|partition| !self.known.contains(partition));
        if !new.is_empty() {
            let starts = self.cluster.extents(&new, Offset::Beginning, Isolation::Committed)?;
            let ends = self.cluster.extents(&new, Offset::End, Isolation::Committed)?;
            let extent = |p: &TopicPartition| Some((*starts.get(p)?, *ends.get(p)?));
            let gained: Vec<_> = new.into_iter().filter_map(|p| extent(&p).map(|e| (p, e))).collect();
            self.known.extend(gained.iter().map(|(partition, _)| partition.clone()));
            // Whether anybody listens shows at the next event.
            drop(self.events.blocking_send(Sent::Gained(gained)));
        }
        self.generation = Some(generation);
        Ok(())
    }

    /// Does what the task has asked for since the last look.
    fn seek(&mut self) -> Result<(), LogError> {
        let wished = std::mem::take(&mut self.wishes.lock().unwrap_or_else(PoisonError::into_inner).seeks);
        if wished.is_empty() {
            return Ok(());
        }
        let partitions: Vec<TopicPartition> = wished.keys().cloned().collect();
        let starts = self.cluster.extents(&partitions, Offset::Beginning, Isolation::Committed)?;
        let ends = self.cluster.extents(&partitions, Offset::End, Isolation::Committed)?;
        let mut assigned = TopicPartitionList::new();
        let mut unassigned = TopicPartitionList::new();
        for (partition, (seek, to)) in wished {
            let (Some(start), Some(end)) = (starts.get(&partition).copied(), ends.get(&partition).copied())
            else {
                continue;
            };
            let next = match to {
                SeekTo::Earliest => start,
                SeekTo::End => end,
                SeekTo::Offset(offset) if (start..=end).contains(&offset) => offset,
                SeekTo::Offset(offset) => {
                    return Err(LogError::OffsetOutOfRange { partition, offset, start, end });
                }
            };
            let attempt = |e: &KafkaError| log_error(format!("read {partition} from {next}"), e);
            assigned
                .add_partition_offset(&partition.topic, number(partition.partition), Offset::Offset(next))
                .map_err(|e| attempt(&e))?;
            if self.followed.contains_key(&partition) {
                unassigned.add_partition(&partition.topic, number(partition.partition));
            }
            self.followed.insert(partition, Followed { seek, next, end });
        }
        let attempt = |e: KafkaError| log_error("tell the consumer its partitions", &e);
        if unassigned.count() > 0 {
            self.consumer.incremental_unassign(&unassigned).map_err(attempt)?;
        }
        self.consumer.incremental_assign(&assigned).map_err(attempt)
    }

    /// Waits a little for records, then takes all that are there.
    fn poll(&mut self) -> Result<Hearing, LogError> {
        let wait = if self.followed.len() < self.known.len() { 5 } else { 50 };
        let mut open: Option<Open> = None;
        let mut taken = 0;
        let consumer = Arc::clone(&self.consumer);
        let mut polled = consumer.poll(briefly(wait));
        if polled.is_none() && self.ask_ends() {
            self.read_on_where_it_stalled()?;
        }
        while let Some(message) = polled {
            let pushed = match message {
                Ok(record) => push(&mut open, &record),
                Err(error) => check(&error).map_or(Ok(None), |e| Err(self.explained(e)))?,
            };
            if let Some(full) = pushed
                && let Hearing::Gone = self.hand_over(full)
            {
                return Ok(Hearing::Gone);
            }
            taken += 1;
            // Now and then the wishes are looked at, however much there is to read.
            if taken >= 10_000 {
                break;
            }
            polled = consumer.poll(Duration::ZERO);
        }
        if let Some(rest) = open
            && let Hearing::Gone = self.hand_over(rest)
        {
            return Ok(Hearing::Gone);
        }
        if taken == 0 && self.positions_read.elapsed() < POSITIONS_INTERVAL {
            return Ok(Hearing::Listens);
        }
        self.pass_markers()
    }

    fn hand_over(&mut self, open: Open) -> Hearing {
        let Open { partition, base_offset, next, builder } = open;
        let Some(followed) = self.followed.get_mut(&partition) else { return Hearing::Listens };
        followed.next = next;
        followed.end = followed.end.max(next);
        let batch = LogBatch { partition, base_offset, records: builder.build(), end_offset: followed.end };
        self.send(followed_seek(&self.followed, &batch.partition), batch)
    }

    fn send(&self, seek: u64, batch: LogBatch) -> Hearing {
        match self.events.blocking_send(Sent::Batch { seek, batch }) {
            Ok(()) => Hearing::Listens,
            Err(_) => Hearing::Gone,
        }
    }

    /// Says where partitions stand whose position has passed what was handed over.
    fn pass_markers(&mut self) -> Result<Hearing, LogError> {
        self.positions_read = Instant::now();
        let positions =
            self.consumer.position().map_err(|e| log_error("ask the consumer where it stands", &e))?;
        let mut passed = Vec::new();
        for element in positions.elements() {
            let Offset::Offset(position) = element.offset() else { continue };
            let partition =
                TopicPartition::new(element.topic(), u32::try_from(element.partition()).unwrap_or(0));
            let Some(followed) = self.followed.get_mut(&partition) else { continue };
            if position > followed.next {
                followed.next = position;
                followed.end = followed.end.max(position);
                let records = RecordBatchBuilder::new(&[]).build();
                let end_offset = followed.end;
                passed.push((
                    followed.seek,
                    LogBatch { partition, base_offset: position, records, end_offset },
                ));
            }
        }
        for (seek, batch) in passed {
            if let Hearing::Gone = self.send(seek, batch) {
                return Ok(Hearing::Gone);
            }
        }
        Ok(Hearing::Listens)
    }

    /// Renews the ends, for lag, when it is time and answers whether it did; a failure only leaves them old.
    fn ask_ends(&mut self) -> bool {
        if self.ends_asked.elapsed() < ENDS_INTERVAL {
            return false;
        }
        self.ends_asked = Instant::now();
        let partitions: Vec<TopicPartition> = self.followed.keys().cloned().collect();
        let Ok(ends) = self.cluster.ends_at_once(&partitions) else { return false };
        for (partition, end) in ends {
            if let Some(followed) = self.followed.get_mut(&partition) {
                followed.end = followed.end.max(end);
            }
        }
        true
    }

    /// Has the consumer read partitions anew that have stood still. What it had fetched of them before, librdkafka throws away.
    fn read_on_where_it_stalled(&mut self) -> Result<(), LogError> {
        let places = self.followed.iter().map(|(partition, f)| (partition.clone(), f.next, f.end));
        let stalled = self.stalls.look(places, Instant::now());
        if stalled.is_empty() {
            return Ok(());
        }
        let attempt = |e: KafkaError| log_error("read on where the consumer stood still", &e);
        let (mut anew, mut gone) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (partition, next) in stalled {
            let (topic, number) = (&*partition.topic, number(partition.partition));
            tracing::warn!(
                topic,
                partition = number,
                offset = next,
                "the consumer stood still and reads anew"
            );
            self.cluster.health.count("readers_stalled_total", 1.0);
            gone.add_partition(topic, number);
            anew.add_partition_offset(topic, number, Offset::Offset(next)).map_err(attempt)?;
        }
        self.consumer.incremental_unassign(&gone).map_err(attempt)?;
        self.consumer.incremental_assign(&anew).map_err(attempt)
    }

    /// The partition behind an error that names none.
    fn explained(&self, error: LogError) -> LogError {
        let partitions: Vec<TopicPartition> = self.followed.keys().cloned().collect();
        let of = |side| self.cluster.extents(&partitions, side, Isolation::Committed);
        let (Ok(starts), Ok(ends)) = (of(Offset::Beginning), of(Offset::End)) else { return error };
        let outside = self.followed.iter().find_map(|(partition, followed)| {
            let (start, end) = (*starts.get(partition)?, *ends.get(partition)?);
            let (partition, offset) = (partition.clone(), followed.next);
            (!(start..=end).contains(&offset)).then_some(LogError::OffsetOutOfRange {
                partition,
                offset,
                start,
                end,
            })
        });
        outside.unwrap_or(error)
    }
}

/// Whether anybody takes the events.
enum Hearing {
    Listens,
    Gone,
}

fn followed_seek(followed: &BTreeMap<TopicPartition, Followed>, partition: &TopicPartition) -> u64 {
    followed.get(partition).map_or(0, |f| f.seek)
}

/// Adds a record; answers the batch before it when that is full, or of another place.
fn push(open: &mut Option<Open>, record: &BorrowedMessage<'_>) -> Option<Open> {
    let partition = u32::try_from(record.partition()).unwrap_or(0);
    let fits = open.as_ref().is_some_and(|o| {
        o.partition.partition == partition
            && *o.partition.topic == *record.topic()
            && o.next == record.offset()
            && o.builder.len_bytes() < BATCH_BYTES
    });
    let full = if fits { None } else { open.take() };
    let entry = open.get_or_insert_with(|| Open {
        partition: TopicPartition::new(record.topic(), partition),
        base_offset: record.offset(),
        next: record.offset(),
        builder: RecordBatchBuilder::new(&[]),
    });
    let mut headers: Vec<Header<'_>> = Vec::new();
    if let Some(native) = record.headers() {
        headers.extend(native.iter().map(|h| (h.key, h.value.unwrap_or_default())));
    }
    let timestamp_ms = record.timestamp().to_millis().unwrap_or(0);
    entry.builder.push(timestamp_ms, record.key(), record.payload(), &headers);
    entry.next = record.offset() + 1;
    full
}

/// Whether a consumer's error ends the reading. Most only tell of a connection that librdkafka makes again.
fn check(error: &KafkaError) -> Option<LogError> {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::AutoOffsetReset
            | RDKafkaErrorCode::OffsetOutOfRange
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::BadMessage,
        ) => Some(log_error("read the topic log", error)),
        _ => {
            tracing::debug!(%error, "the consumer reports");
            None
        }
    }
}
