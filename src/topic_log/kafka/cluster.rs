//! The brokers as a whole: who they are, which topics they have and where those end, and the making of topics.
//!
//! Everything here that asks a broker blocks, so it is called from threads of the log's own or from the blocking pool.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::Offset,
};
use rowstream_api::{Chain, TopicPartition};
use rowstream_kafka_ffi::set_token;

use super::{
    config::{Isolation, KafkaConfig, KafkaSasl},
    context::Context,
    errors::{code_error, io_error, log_error, unreachable},
    health::Health,
};
use crate::topic_log::LogError;

/// How long a broker may take to answer a question.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the first one may take that is asked: others may have taken over.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a client may take to learn anew where partitions are.
const REMINDER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long somebody may wait who has other things to do.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Pause before a question is asked again that a broker could not answer.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often the list of topics is asked for; a topic of another worker is seen after this long.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How long the brokers may take to be there when the log is opened.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_mins(1);

/// Shared by everything of one log.
pub(super) struct Cluster {
    pub(super) config: KafkaConfig,
    pub(super) health: Arc<Health>,
    /// The brokers' own identity.
    pub(super) id: String,
    /// Asks where partitions really end.
    uncommitted: BaseConsumer<Context>,
    /// Asks where they end for readers.
    committed: BaseConsumer<Context>,
    admin: AdminClient<Context>,
    topics: Mutex<BTreeMap<Arc<str>, u32>>,
    /// Topics of the log's own.
    own: Mutex<BTreeSet<String>>,
    /// Grows with each change of `topics`.
    generation: AtomicU64,
    closed: AtomicBool,
}

impl Cluster {
    /// Finds the brokers; waits as long for the first to answer. Blocks.
    pub(super) fn connect(config: KafkaConfig, patience: Duration) -> Result<Arc<Self>, LogError> {
        let health = Arc::new(Health::default());
        let wrong =
            |e: KafkaError| LogError::Refused(format!("topic_log: librdkafka refuses these settings: {e}"));
        let asking = |isolation| -> Result<BaseConsumer<Context>, LogError> {
            let group = format!("{}-metadata", config.group);
            let mut client = config.consumer(&group, isolation);
            client.remove("group.id"); // It belongs to no group.
            client.create_with_context(Self::context_of(&config, &health, "metadata")).map_err(wrong)
        };
        let (uncommitted, committed) = (asking(Isolation::Uncommitted)?, asking(Isolation::Committed)?);
        let admin = config.admin();
        let admin: AdminClient<Context> =
            admin.create_with_context(Self::context_of(&config, &health, "admin")).map_err(wrong)?;
        let id = identity(&uncommitted, &config, (&health, patience))?;
        let cluster = Arc::new(Self {
            config,
            health,
            id,
            uncommitted,
            committed,
            admin,
            topics: Mutex::default(),
            own: Mutex::default(),
            generation: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        cluster.patiently(|| cluster.refresh())?;
        let refreshed = Arc::clone(&cluster);
        std::thread::Builder::new()
            .name("kafka-topics".into())
            .spawn(move || refreshed.refresh_until_closed())
            .map_err(|e| io_error("start the thread `kafka-topics`", e.to_string()))?;
        Ok(cluster)
    }

    fn context_of(config: &KafkaConfig, health: &Arc<Health>, role: &str) -> Context {
        let token = match &config.sasl {
            Some(KafkaSasl::TokenFile(path)) => Some(path.clone()),
            Some(KafkaSasl::Password { .. }) | None => None,
        };
        Context::new(health, role, token)
    }

    /// The context of one more client.
    pub(super) fn context(&self, role: &str) -> Context {
        Self::context_of(&self.config, &self.health, role)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
    /// Topics are looked at again when this has changed.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
    fn known(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, u32>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Partitions of a topic, as last seen.
    pub(super) fn partitions(&self, topic: &str) -> Option<u32> {
        self.known().get(topic).copied()
    }
    /// Every topic that holds records: neither Kafka's own nor ours.
    pub(super) fn topics(&self) -> BTreeMap<Arc<str>, u32> {
        let mut topics = self.known().clone();
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        topics.retain(|name, _| !name.starts_with("__") && **name != *"_schemas" && !own.contains(&**name));
        topics
    }
    /// Readers do not see this topic.
    pub(super) fn keep_to_itself(&self, topic: &str) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
    }

    /// Where source positions are, as Kafka Connect stores them.
    pub(super) fn offsets_topic(&self) -> String {
        format!("{}-offsets", self.config.group)
    }
    /// Where positions of sinks are.
    pub(super) fn sink_offsets_topic(&self) -> String {
        format!("{}-sink-offsets", self.config.group)
    }
    /// Where the worker's small state is.
    pub(super) fn state_topic(&self) -> String {
        format!("{}-state", self.config.group)
    }

    /// Whose partitions say who runs what; it stays empty.
    pub(super) fn shards_topic(&self) -> String {
        format!("{}-shards", self.config.group)
    }

    fn refresh_until_closed(&self) {
        let mut refreshed = Instant::now();
        while !self.is_closed() {
            // Log lines, errors and the wish for a token are served here.
            drop(self.uncommitted.poll(briefly(90)));
            drop(self.committed.poll(briefly(10)));
            if refreshed.elapsed() >= REFRESH_INTERVAL {
                if let Err(error) = self.refresh() {
                    tracing::debug!(%error, "the list of topics was not renewed");
                }
                refreshed = Instant::now();
            }
        }
    }

    fn refresh(&self) -> Result<(), LogError> {
        let found = self
            .uncommitted
            .fetch_metadata(None, ANSWER_TIMEOUT)
            .map_err(|e| log_error("ask Kafka for its topics", &e))?;
        self.health.answered();
        let mut topics = BTreeMap::new();
        for topic in found.topics().iter().filter(|t| t.error().is_none()) {
            let count = u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX);
            topics.insert(Arc::from(topic.name()), count);
        }
        let mut known = self.known();
        if *known != topics {
            *known = topics;
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Ends (or starts) of partitions. Blocks.
    pub(super) fn extents(
        &self,
        partitions: &[TopicPartition],
        side: Offset,
        isolation: Isolation,
    ) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        let timeout = Cell::new(FIRST_ANSWER_TIMEOUT);
        self.patiently(|| {
            let answer = self.extents_now((partitions, side, isolation), timeout.get());
            if answer.is_err() {
                timeout.set(timeout.get() * 2);
                // librdkafka asks the leaders that it remembers: one of them may have died, and what it remembers may be, for minutes,
                // how a topic was before it had any.
                drop(self.asking(isolation).fetch_metadata(None, REMINDER_TIMEOUT));
            }
            answer
        })
    }

    const fn asking(&self, isolation: Isolation) -> &BaseConsumer<Context> {
        match isolation {
            Isolation::Committed => &self.committed,
            Isolation::Uncommitted => &self.uncommitted,
        }
    }

    /// Ends for readers as far as they can be learned at once: while one broker is away, nobody waits for its partitions. Blocks.
    pub(super) fn ends_at_once(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        self.extents_now((partitions, Offset::End, Isolation::Committed), AT_ONCE)
    }

    /// Asks until it is answered, or until brokers had their time: one that was killed leaves questions without an answer, and one that
    /// has just come back does not know its partitions yet. What a person must change is told at once.
    pub(super) fn patiently<T>(&self, ask: impl Fn() -> Result<T, LogError>) -> Result<T, LogError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match ask() {
                Err(error @ LogError::Io { .. }) if Instant::now() < deadline && !self.is_closed() => {
                    tracing::debug!(error = %Chain(&error), "Kafka is asked again");
                    std::thread::sleep(ASK_AGAIN_AFTER);
                }
                answer => return answer,
            }
        }
    }

    fn extents_now(
        &self,
        (partitions, side, isolation): (&[TopicPartition], Offset, Isolation),
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            asked
                .add_partition_offset(&partition.topic, number(partition.partition), side)
                .map_err(|e| log_error("ask Kafka for a partition's end", &e))?;
        }
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        // Kafka's own trick: the times -1 and -2 stand for the end and the beginning.
        let answer = self.asking(isolation).offsets_for_times(asked, timeout);
        let answer = answer.map_err(|e| log_error("ask Kafka for the extent of partitions", &e))?;
        let read = answer.elements().into_iter().map(|element| {
            let partition =
                TopicPartition::new(element.topic(), u32::try_from(element.partition()).unwrap_or(0));
            let at = || format!("ask Kafka for the extent of {partition}");
            element.error().map_err(|e| log_error(at(), &e))?;
            match element.offset() {
                Offset::Offset(offset) => Ok((partition, offset)),
                Offset::Beginning
                | Offset::End
                | Offset::Stored
                | Offset::Invalid
                | Offset::OffsetTail(_) => Err(io_error(at(), "no answer for it")),
            }
        });
        read.collect()
    }

    /// The partitions of a topic, which is made when it is not there.
    pub(super) async fn ensure_topic(self: &Arc<Self>, topic: &str, made: Made) -> Result<u32, LogError> {
        if let Some(partitions) = self.partitions(topic) {
            return Ok(partitions);
        }
        let (asking, name) = (Arc::clone(self), topic.to_owned());
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while let Err(error) = self.make_topic(topic, made, Asked::For).await {
            let heals = matches!(error, LogError::Io { .. });
            if !heals || Instant::now() > deadline || self.is_closed() {
                return Err(error);
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
        blocking(move || asking.until_led(&name)).await
    }

    /// Makes a topic unless it is there, or asks whether that could be done.
    pub(super) async fn make_topic(&self, topic: &str, made: Made, asked: Asked) -> Result<(), LogError> {
        let settings = match made {
            Made::ForRecords => self.config.settings_of(topic),
            Made::Compacted { partitions } => compacted(partitions, self.config.topics.replication_factor),
        };
        let count = i32::try_from(settings.partitions.unwrap_or(1)).unwrap_or(i32::MAX);
        let copies = settings.replication_factor.and_then(|n| i32::try_from(n).ok()).unwrap_or(-1);
        let mut new = NewTopic::new(topic, count, TopicReplication::Fixed(copies));
        for (name, value) in &settings.config {
            new = new.set(name, value);
        }
        let options =
            AdminOptions::new().operation_timeout(Some(ANSWER_TIMEOUT)).request_timeout(Some(ANSWER_TIMEOUT));
        self.admit()?;
        let options = options.validate_only(asked == Asked::Whether);
        let attempt = || format!("make topic `{topic}`");
        let made = self.admin.create_topics([&new], &options).await.map_err(|e| log_error(attempt(), &e))?;
        for outcome in made {
            match outcome {
                Ok(_) if asked == Asked::Whether => {}
                Ok(_) => tracing::info!(topic, partitions = count, "topic made"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(code_error(attempt(), code)),
            }
        }
        Ok(())
    }

    /// Waits until each partition of a topic has a leader: a record sent before that would wait for it.
    fn until_led(&self, topic: &str) -> Result<u32, LogError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let ask = || {
                let found = self.uncommitted.fetch_metadata(Some(topic), ANSWER_TIMEOUT);
                found.map_err(|e| log_error(format!("ask Kafka for topic `{topic}`"), &e))
            };
            let found = self.patiently(ask)?;
            let led = found.topics().iter().find(|t| t.name() == topic && t.error().is_none());
            let led = led.filter(|t| {
                !t.partitions().is_empty()
                    && t.partitions().iter().all(|p| p.leader() >= 0 && p.error().is_none())
            });
            if let Some(led) = led {
                let count = u32::try_from(led.partitions().len()).unwrap_or(u32::MAX);
                self.known().insert(Arc::from(topic), count);
                self.generation.fetch_add(1, Ordering::SeqCst);
                return Ok(count);
            }
            if Instant::now() > deadline {
                return Err(io_error(format!("make topic `{topic}`"), "its partitions have no leader"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives the admin client its token: unlike the others it never asks, because its wrapper does not let it.
    fn admit(&self) -> Result<(), LogError> {
        if !matches!(self.config.sasl, Some(KafkaSasl::TokenFile(_))) {
            return Ok(());
        }
        let client = self.admin.inner();
        let read = client.context().generate_oauth_token(None).map_err(|e| e.to_string());
        read.and_then(|token| set_token(client, token)).map_err(|e| io_error("show Kafka the token", e))
    }

    /// Forgets a Kafka consumer group, which only served displays.
    pub(super) async fn delete_group(&self, group: &str) {
        let admitted = self.admit();
        let deleted = self.admin.delete_groups(&[group], &AdminOptions::new()).await;
        if let Err(error) = admitted.map_err(|e| e.to_string()).and(deleted.map_err(|e| e.to_string())) {
            tracing::debug!(group, %error, "the consumer group was not deleted");
        }
    }
}

/// How a question is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Do it.
    For,
    /// Say whether it could be done.
    Whether,
}

/// What a topic is made for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Made {
    /// Records of tables: as configured.
    ForRecords,
    /// State: the newest value of each key is kept for ever.
    Compacted {
        /// Its partitions.
        partitions: u32,
    },
}

fn compacted(partitions: u32, replication_factor: Option<u32>) -> super::config::TopicSettings {
    let config = [
        ("cleanup.policy", "compact"),
        // Only closed segments are compacted, and a task that commits twenty times a second fills them.
        ("segment.bytes", "16777216"),
        ("segment.ms", "600000"),
        ("min.cleanable.dirty.ratio", "0.1"),
    ];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    super::config::TopicSettings { partitions: Some(partitions), replication_factor, config }
}

fn identity(
    client: &BaseConsumer<Context>,
    config: &KafkaConfig,
    (health, patience): (&Health, Duration),
) -> Result<String, LogError> {
    let servers = config.bootstrap_servers.join(",");
    let deadline = Instant::now() + patience;
    loop {
        // Serves the wish for a token, and afterwards the log lines and errors that say why nobody answers.
        drop(client.poll(briefly(50)));
        if let Some(id) = client.client().fetch_cluster_id(Duration::from_secs(2)).filter(|id| !id.is_empty())
        {
            return Ok(id);
        }
        drop(client.poll(briefly(50)));
        if Instant::now() > deadline {
            return Err(unreachable(format!("find Kafka at {servers}"), health.why_unreachable()));
        }
        tracing::info!(servers, "waiting for Kafka");
    }
}

/// How long to `poll`, in milliseconds. rdkafka waits in whole ones and asks without a pause for what is left of the last: a thread that
/// polls twenty times a second spends 2 % of a processor so. The tenth more has passed by the time that the whole ones have.
pub(super) fn briefly(ms: u64) -> Duration {
    Duration::from_millis(ms) + Duration::from_micros(100)
}

/// A partition number as librdkafka takes it.
pub(super) fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// Runs something that waits for a broker.
pub(super) async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let asked = tokio::task::spawn_blocking(ask).await;
    asked.map_err(|e| LogError::State(format!("a question to Kafka was cut off: {e}")))?
}
