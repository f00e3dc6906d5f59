//! The Kafka log: transactions write, `read_committed` consumers read, compacted topics keep what is small.
//!
//! What the traits promise, and why it holds here:
//! - **Together or not at all**: records and the record of their source position are one Kafka transaction (`transaction`).
//! - **Committed only**: every reader is `read_committed`.
//! - **One writer**: `transactional.id` is `<group>.<writer id>`; opening a writer initialises it, which finishes or undoes the
//!   last one's transaction before it returns. The position read after that is the truth.
//! - **Unknown is said**: a commit without an answer is asked again for as long as its owner lives (`transaction`).
//! - **All state is in Kafka**, and read to the real end of its topic (`mirror`), so it does not matter which process wrote it.
//!
//! Reading order: `config`, `context` and `health` (how librdkafka is set up and what it tells), `cluster`, `transaction` and
//! `writer`, `reader`, `stall`, `mirror` with `positions` and `state`, `direct`, `membership`, `probe`.

mod cluster;
pub mod config;
mod context;
mod direct;
mod errors;
mod health;
mod membership;
mod mirror;
mod polled;
mod positions;
mod probe;
mod reader;
mod schemas;
mod stall;
mod state;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    topic_partition_list::Offset,
};
use rowstream_api::{SourceOffsets, TopicOffsets, TopicPartition};
use tokio::sync::{Mutex, Semaphore};

use self::{
    cluster::{Cluster, OPEN_TIMEOUT, blocking, number},
    config::Isolation,
    context::Context,
    direct::DirectWriter,
    mirror::Mirror,
    positions::{offsets_partition, read_sink, read_source, sink_records, source_records, source_tombstones},
    reader::KafkaReader,
    state::KafkaState,
    writer::{KafkaWriter, WriterParts},
};
pub use self::{
    config::{KafkaConfig, KafkaSasl, KafkaTls, TopicDefaults, TopicSettings},
    context::until_clients_are_gone,
    probe::probe,
    schemas::{SchemasTopic, Written},
};
use super::{
    LogError, LogHealth, LogReader, LogWriter, PartitionDescription, StateStore, TopicDescription,
    TopicFilter, TopicLog, WorkerGroup,
};

/// Partitions of `<group>-offsets`, as Connect has.
const OFFSETS_PARTITIONS: u32 = 25;
/// Partitions of `<group>-sink-offsets`.
const SINK_OFFSETS_PARTITIONS: u32 = 5;

/// A log on Kafka. Dropping it ends its threads.
pub struct KafkaLog {
    cluster: Arc<Cluster>,
    /// Identity as sinks store it.
    id: String,
    offsets: Mirror,
    sink_offsets: Mirror,
    state: KafkaState,
    direct: Arc<DirectWriter>,
    budget: Arc<Semaphore>,
    /// For displays of lag: one consumer for each group that stored offsets here.
    committers: SyncMutex<BTreeMap<String, Arc<BaseConsumer<Context>>>>,
}

impl KafkaLog {
    /// Connects, makes the log's own topics where they are missing, and reads what is in them.
    ///
    /// # Errors
    /// [`LogError::Refused`] for settings or rights that a person must change, [`LogError::Io`] when no broker answers
    /// for a minute.
    pub async fn open(config: KafkaConfig) -> Result<Arc<Self>, LogError> {
        let queue_bytes = config.queue_bytes as usize;
        let cluster = blocking(move || Cluster::connect(config, OPEN_TIMEOUT)).await?;
        let offsets = Mirror::open(&cluster, &cluster.offsets_topic(), OFFSETS_PARTITIONS).await?;
        let sink_offsets =
            Mirror::open(&cluster, &cluster.sink_offsets_topic(), SINK_OFFSETS_PARTITIONS).await?;
        let mirror = Mirror::open(&cluster, &cluster.state_topic(), 1).await?;
        let direct = Arc::new(DirectWriter::start(&cluster)?);
        let state = KafkaState {
            cluster: Arc::clone(&cluster),
            mirror,
            direct: Arc::clone(&direct),
            together: Mutex::new(None),
            process: uuid::Uuid::new_v4().to_string(),
        };
        let id = format!("kafka-{}", cluster.id);
        let budget = Arc::new(Semaphore::new(queue_bytes));
        let committers = SyncMutex::default();
        Ok(Arc::new(Self { cluster, id, offsets, sink_offsets, state, direct, budget, committers }))
    }

    /// The topic in which the built-in schema registry keeps its schemas.
    ///
    /// # Errors
    /// It is not there and can't be made.
    pub async fn schemas_topic(&self, topic: &str) -> Result<SchemasTopic, LogError> {
        SchemasTopic::open(&self.cluster, topic).await
    }

    /// Stores a group's offsets where Kafka's tools look for them. A failure costs a display and nothing else.
    async fn show_offsets(&self, group: &str, offsets: &TopicOffsets) {
        let known = self.committers.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned();
        let (cluster, name, offsets) = (Arc::clone(&self.cluster), group.to_owned(), offsets.clone());
        let shown = blocking(move || {
            let consumer = match known {
                Some(consumer) => consumer,
                None => {
                    let config = cluster.config.consumer(&name, Isolation::Committed);
                    let made = config.create_with_context(cluster.context(&format!("{name}-offsets")));
                    Arc::new(made.map_err(|e| errors::log_error("show a group's offsets", &e))?)
                }
            };
            // Serves what earlier commits left behind.
            drop(consumer.poll(Duration::ZERO));
            let mut list = TopicPartitionList::new();
            let mut outcome = Ok(());
            for (partition, offset) in &offsets {
                let (topic, number) = (&partition.topic, number(partition.partition));
                outcome = outcome.and(list.add_partition_offset(topic, number, Offset::Offset(*offset)));
            }
            outcome
                .and_then(|()| consumer.commit(&list, CommitMode::Async))
                .map_err(|e| errors::log_error("show a group's offsets", &e))?;
            Ok(consumer)
        });
        match shown.await {
            Ok(consumer) => {
                let mut committers = self.committers.lock().unwrap_or_else(PoisonError::into_inner);
                committers.insert(group.to_owned(), consumer);
            }
            Err(error) => tracing::debug!(group, %error, "the group's offsets are not shown in Kafka"),
        }
    }

    fn forget_committers(&self, which: impl Fn(&str) -> bool) {
        let mut committers = self.committers.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, kept) = std::mem::take(&mut *committers).into_iter().partition(|(group, _)| which(group));
        *committers = kept;
        drop_elsewhere(gone);
    }
}

/// Closing a consumer waits for its broker.
fn drop_elsewhere(consumers: BTreeMap<String, Arc<BaseConsumer<Context>>>) {
    if !consumers.is_empty() {
        let closing = std::thread::Builder::new().name("kafka-close".into()).spawn(move || drop(consumers));
        // Without a thread they were closed here.
        drop(closing);
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.cluster.close();
        self.forget_committers(|_| true);
    }
}

impl TopicLog for KafkaLog {
    fn id(&self) -> &str {
        &self.id
    }

    fn writer<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn LogWriter>, LogError>> {
        Box::pin(async move {
            let parts = WriterParts {
                cluster: Arc::clone(&self.cluster),
                offsets: self.offsets.clone(),
                state: self.state.mirror.clone(),
                direct: Arc::clone(&self.direct),
                budget: Arc::clone(&self.budget),
            };
            let writer: Box<dyn LogWriter> = Box::new(KafkaWriter::open(parts, id).await?);
            Ok(writer)
        })
    }

    fn source_offsets<'a>(&'a self, connector: &'a str) -> BoxFuture<'a, Result<SourceOffsets, LogError>> {
        Box::pin(async move {
            self.offsets.caught_up(Some(offsets_partition(connector, self.offsets.partitions()))).await?;
            self.offsets.read(|rows| read_source(rows, connector))
        })
    }

    fn replace_source_offsets<'a>(
        &'a self,
        connector: &'a str,
        offsets: SourceOffsets,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            self.offsets.caught_up(None).await?;
            let topic = self.offsets.topic();
            let mut records = source_records(topic, self.offsets.partitions(), connector, &offsets)?;
            let gone = self.offsets.read(|rows| source_tombstones(topic, rows, connector, &records));
            records.extend(gone);
            self.direct.write(&records).await
        })
    }

    fn reader<'a>(
        &'a self,
        group: &'a str,
        topics: TopicFilter,
    ) -> BoxFuture<'a, Result<Box<dyn LogReader>, LogError>> {
        Box::pin(async move {
            // librdkafka takes no consumer without a group, and one that only looks belongs to none.
            let group = if group.is_empty() {
                format!("{}-look", self.cluster.config.group)
            } else {
                group.to_owned()
            };
            let reader: Box<dyn LogReader> = Box::new(KafkaReader::open(&self.cluster, &group, topics)?);
            Ok(reader)
        })
    }

    fn group_offsets<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<TopicOffsets, LogError>> {
        Box::pin(async move {
            self.sink_offsets.caught_up(None).await?;
            self.sink_offsets.read(|rows| read_sink(rows, group))
        })
    }

    fn commit_group_offsets<'a>(
        &'a self,
        group: &'a str,
        offsets: TopicOffsets,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            let stored = &self.sink_offsets;
            let positions = offsets.iter().map(|(partition, offset)| (partition, Some(*offset)));
            self.direct.write(&sink_records(stored.topic(), stored.partitions(), group, positions)).await?;
            self.show_offsets(group, &offsets).await;
            Ok(())
        })
    }

    fn delete_group<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            let offsets = self.group_offsets(group).await?;
            let stored = &self.sink_offsets;
            let gone = offsets.keys().map(|partition| (partition, None));
            self.direct.write(&sink_records(stored.topic(), stored.partitions(), group, gone)).await?;
            self.forget_committers(|name| name == group);
            if !offsets.is_empty() {
                self.cluster.delete_group(group).await;
            }
            Ok(())
        })
    }

    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicDescription>, LogError>> {
        let cluster = Arc::clone(&self.cluster);
        Box::pin(blocking(move || describe(&cluster)))
    }

    fn state(&self) -> &dyn StateStore {
        &self.state
    }

    fn group(&self) -> Option<&dyn WorkerGroup> {
        Some(self)
    }

    fn health(&self) -> LogHealth {
        self.cluster.health.read()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.cluster.close();
        self.forget_committers(|_| true);
        Box::pin(std::future::ready(Ok(())))
    }
}

fn describe(cluster: &Cluster) -> Result<Vec<TopicDescription>, LogError> {
    let topics = cluster.topics();
    let all: Vec<TopicPartition> = topics
        .iter()
        .flat_map(|(name, count)| (0..*count).map(|n| TopicPartition::new(Arc::clone(name), n)))
        .collect();
    let starts = cluster.extents(&all, Offset::Beginning, Isolation::Committed)?;
    let ends = cluster.extents(&all, Offset::End, Isolation::Committed)?;
    let described = topics.into_iter().map(|(name, count)| {
        let partitions = (0..count).map(|n| {
            let partition = TopicPartition::new(Arc::clone(&name), n);
            let of = |offsets: &BTreeMap<TopicPartition, i64>| offsets.get(&partition).copied().unwrap_or(0);
            // librdkafka's Rust client can't ask for sizes on disk.
            PartitionDescription { start_offset: of(&starts), end_offset: of(&ends), bytes: 0 }
        });
        let partitions = partitions.collect();
        TopicDescription { id: format!("kafka-{}-{name}", cluster.id), name, partitions }
    });
    Ok(described.collect())
}
