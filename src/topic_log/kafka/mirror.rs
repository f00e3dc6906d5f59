//! A compacted topic in memory: followed from its beginning, and on demand to its real end.
//!
//! Whoever asks first learns the topic's high watermark from a client that sees everything, then waits until this reader, which
//! sees committed records only, has passed it. So what was committed before the question is in the answer, whoever wrote
//! it. The end of partition that librdkafka reports is not used: it speaks of the last stable offset, which any open
//! transaction holds back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::Offset,
};
use rowstream_api::TopicPartition;
use tokio::sync::watch;

use super::{
    cluster::{Cluster, Made, blocking, briefly, number},
    config::Isolation,
    context::Context,
    errors::{io_error, log_error},
    stall::Stalls,
};
use crate::topic_log::LogError;

/// An open transaction ends at the latest at its timeout; the coordinator looks every ten seconds, and may be on its way itself. One
/// that is open for longer has been lost by its coordinator, which brokers of 4.3 and 4.4 do (KAFKA-20734): only a person can end it.
const CATCH_UP_GRACE: Duration = Duration::from_secs(30);

/// How often positions are compared with the ends while nothing comes.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A row: where it stands in its partition, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::topic_log) struct Row {
    pub(in crate::topic_log) offset: i64,
    pub(in crate::topic_log) value: Bytes,
}

/// Rows by partition and key.
pub(in crate::topic_log) type Rows = BTreeMap<(u32, Bytes), Row>;

/// A followed topic. Cheap to clone; the thread ends with the log.
#[derive(Clone)]
pub(in crate::topic_log) struct Mirror(Arc<Shared>);

struct Shared {
    cluster: Arc<Cluster>,
    topic: Arc<str>,
    partitions: u32,
    followed: Mutex<Followed>,
    moved: Condvar,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Followed {
    rows: Rows,
    /// Next offset of each partition.
    positions: BTreeMap<u32, i64>,
    failed: Option<String>,
}

impl Mirror {
    /// Follows `topic`, which is made when it is not there.
    pub(super) async fn open(cluster: &Arc<Cluster>, topic: &str, partitions: u32) -> Result<Self, LogError> {
        let partitions = cluster.ensure_topic(topic, Made::Compacted { partitions }).await?;
        let shared = Arc::new(Shared {
            cluster: Arc::clone(cluster),
            topic: topic.into(),
            partitions,
            followed: Mutex::default(),
            moved: Condvar::new(),
            changes: watch::Sender::new(0),
        });
        cluster.keep_to_itself(topic);
        let following = Arc::clone(&shared);
        let consumer = blocking(move || {
            let (consumer, starts) = follow(&following.cluster, &following.topic, partitions)?;
            following.lock().positions = starts;
            Ok((following, consumer))
        });
        let (following, consumer) = consumer.await?;
        std::thread::Builder::new()
            .name("kafka-mirror".into())
            .spawn(move || following.run(&consumer))
            .map_err(|e| io_error("start the thread `kafka-mirror`", e.to_string()))?;
        Ok(Self(shared))
    }

    pub(super) fn topic(&self) -> &Arc<str> {
        &self.0.topic
    }
    pub(super) fn partitions(&self) -> u32 {
        self.0.partitions
    }
    /// Woken after rows changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
    /// Looks at the rows as they are; [`caught_up`](Self::caught_up) comes first where it matters.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Rows) -> T) -> T {
        look(&self.0.lock().rows)
    }
    /// Waits until everything is here that was committed to the topic (or to one partition of it) before this call.
    pub(super) async fn caught_up(&self, partition: Option<u32>) -> Result<(), LogError> {
        let shared = Arc::clone(&self.0);
        blocking(move || shared.catch_up(partition)).await
    }
    /// As [`caught_up`](Self::caught_up); blocks.
    pub(super) fn catch_up(&self, partition: Option<u32>) -> Result<(), LogError> {
        self.0.catch_up(partition)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn catch_up(&self, partition: Option<u32>) -> Result<(), LogError> {
        let wanted: Vec<u32> = partition.map_or_else(|| (0..self.partitions).collect(), |p| vec![p]);
        let asked: Vec<_> = wanted.iter().map(|p| TopicPartition::new(Arc::clone(&self.topic), *p)).collect();
        let ends = self.cluster.extents(&asked, Offset::End, Isolation::Uncommitted)?;
        let deadline = Instant::now() + self.cluster.config.transaction_timeout + CATCH_UP_GRACE;
        let mut followed = self.lock();
        loop {
            if let Some(why) = &followed.failed {
                return Err(io_error(format!("read topic `{}`", self.topic), why.clone()));
            }
            let behind = ends.iter().find(|(partition, end)| {
                followed.positions.get(&partition.partition).copied().unwrap_or(0) < **end
            });
            let Some((partition, end)) = behind else { return Ok(()) };
            if self.cluster.is_closed() {
                return Err(LogError::Closed);
            }
            if Instant::now() > deadline {
                let stands = followed.positions.get(&partition.partition).copied().unwrap_or(0);
                drop(followed);
                return Err(self.held_back(partition, (stands, *end)));
            }
            let waited = self.moved.wait_timeout(followed, Duration::from_millis(200));
            followed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why we stand before the end: others' transactions, or ourselves.
    fn held_back(&self, partition: &TopicPartition, (stands, end): (i64, i64)) -> LogError {
        let committed =
            self.cluster.extents(std::slice::from_ref(partition), Offset::End, Isolation::Committed);
        let why = match committed.map(|ends| ends.get(partition).copied().unwrap_or(0)) {
            Ok(committed) if committed < end => format!(
                "a transaction that begins at {committed} has not ended in time; brokers of 4.3 and 4.4 can lose the end of one when they \
                 come back (KAFKA-20734): ask `kafka-transactions.sh find-hanging`, and end it with `kafka-transactions.sh abort \
                 --topic {} --partition {} --start-offset {committed}`",
                partition.topic, partition.partition
            ),
            Ok(committed) => {
                format!("all is committed up to {committed}, but reading stands at {stands}")
            }
            Err(error) => error.to_string(),
        };
        io_error(format!("read {partition} to its end at {end}"), why)
    }

    fn run(&self, consumer: &BaseConsumer<Context>) {
        let (mut stalls, mut looked) = (Stalls::default(), Instant::now());
        while !self.cluster.is_closed() {
            let mut message = consumer.poll(briefly(50));
            let mut changed = false;
            while let Some(polled) = message {
                match polled {
                    Ok(record) => {
                        self.apply(&record);
                        changed = true;
                    }
                    Err(error) => self.failed(&error),
                }
                message = consumer.poll(Duration::ZERO);
            }
            self.advance(consumer);
            if changed {
                self.changes.send_modify(|n| *n += 1);
            } else if looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                self.read_on_where_it_stalled(consumer, &mut stalls);
            }
        }
    }

    /// Has the consumer read partitions anew that have stood still.
    fn read_on_where_it_stalled(&self, consumer: &BaseConsumer<Context>, stalls: &mut Stalls) {
        let partitions: Vec<_> =
            (0..self.partitions).map(|p| TopicPartition::new(Arc::clone(&self.topic), p)).collect();
        let Ok(ends) = self.cluster.ends_at_once(&partitions) else { return };
        let positions = self.lock().positions.clone();
        let places = ends.into_iter().map(|(partition, end)| {
            let stands = positions.get(&partition.partition).copied().unwrap_or(0);
            (partition, stands, end)
        });
        let stalled = stalls.look(places, Instant::now());
        if stalled.is_empty() {
            return;
        }
        let mut anew = TopicPartitionList::new();
        for (partition, next) in positions {
            // All of them: a consumer is assigned its partitions together.
            drop(anew.add_partition_offset(&self.topic, number(partition), Offset::Offset(next)));
        }
        for (partition, offset) in stalled {
            let partition = partition.partition;
            tracing::warn!(
                topic = &*self.topic,
                partition,
                offset,
                "the consumer stood still and reads anew"
            );
            self.cluster.health.count("readers_stalled_total", 1.0);
        }
        if let Err(error) = consumer.unassign().and_then(|()| consumer.assign(&anew)) {
            tracing::warn!(topic = &*self.topic, %error, "the consumer can't be told to read anew");
        }
    }

    fn apply(&self, record: &impl Message) {
        let partition = u32::try_from(record.partition()).unwrap_or(0);
        let place = (partition, Bytes::copy_from_slice(record.key().unwrap_or_default()));
        let mut followed = self.lock();
        followed.failed = None;
        match record.payload() {
            Some(value) => {
                let row = Row { offset: record.offset(), value: Bytes::copy_from_slice(value) };
                followed.rows.insert(place, row);
            }
            None => {
                followed.rows.remove(&place);
            }
        }
    }

    /// Publishes the positions: they pass commit markers, which no record shows.
    fn advance(&self, consumer: &BaseConsumer<Context>) {
        let Ok(positions) = consumer.position() else { return };
        let mut followed = self.lock();
        for element in positions.elements() {
            if let (Offset::Offset(next), Ok(partition)) =
                (element.offset(), u32::try_from(element.partition()))
            {
                followed.positions.insert(partition, next);
            }
        }
        self.moved.notify_all();
    }

    fn failed(&self, error: &KafkaError) {
        // A broker that has just started may not know its topics yet; what lasts is only this.
        let lasting = [
            RDKafkaErrorCode::AutoOffsetReset,
            RDKafkaErrorCode::OffsetOutOfRange,
            RDKafkaErrorCode::TopicAuthorizationFailed,
        ];
        if error.rdkafka_error_code().is_some_and(|code| lasting.contains(&code)) {
            tracing::error!(topic = &*self.topic, %error, "a topic of the log's own can't be followed");
            self.lock().failed = Some(error.to_string());
            self.moved.notify_all();
        }
    }
}

/// From numbers, not from "the beginning": librdkafka would ask where that is, and a broker that was told of the topic a moment after
/// the others says that there is none, which ends the reading for good.
fn follow(
    cluster: &Cluster,
    topic: &str,
    partitions: u32,
) -> Result<(BaseConsumer<Context>, BTreeMap<u32, i64>), LogError> {
    let attempt = || format!("follow topic `{topic}`");
    let asked: Vec<_> = (0..partitions).map(|n| TopicPartition::new(topic, n)).collect();
    let starts = cluster.extents(&asked, Offset::Beginning, Isolation::Uncommitted)?;
    let group = format!("{}-mirror", cluster.config.group);
    let config = cluster.config.consumer(&group, Isolation::Committed);
    let consumer: BaseConsumer<Context> =
        config.create_with_context(cluster.context(topic)).map_err(|e| log_error(attempt(), &e))?;
    let mut all = TopicPartitionList::new();
    for (partition, start) in &starts {
        all.add_partition_offset(topic, number(partition.partition), Offset::Offset(*start))
            .map_err(|e| log_error(attempt(), &e))?;
    }
    consumer.assign(&all).map_err(|e| log_error(attempt(), &e))?;
    Ok((consumer, starts.into_iter().map(|(partition, start)| (partition.partition, start)).collect()))
}
