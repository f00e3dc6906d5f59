//! Which worker runs what, by a consumer group: who owns a partition of `<group>-shards` runs the tasks of that shard.
//!
//! The topic stays empty; Kafka's group protocol (cooperative or KIP-848: only what must move, moves) does all the work. A partition
//! is given up in the callback that takes it away, after the worker has answered that nothing runs for it any more, so its next owner
//! finds everything committed. A worker that is killed is noticed when its session ends; one that was paused for longer is told so when
//! it goes on, and in between the fences of writers and targets keep its work out.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use rdkafka::{
    ClientContext, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance},
    error::KafkaError,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{
    KafkaLog,
    cluster::{Cluster, Made, briefly},
    config::{GroupProtocol, Isolation},
    context::Context,
    errors::{io_error, log_error},
    health::Health,
};
use crate::topic_log::{Assignment, LogError, Membership, WorkerGroup};

/// Rebalances wait for their answer, so only a few can be under way.
const TOLD_MAX: usize = 16;
/// Enough for a few hundred tasks on a few dozen workers; fixed, because a task's shard is a hash modulo this.
const SHARDS: u32 = 64;
/// A killed worker's shards move after this long; brokers accept no less unless they are told to. KIP-848's is the brokers' own.
const SESSION_TIMEOUT_MS: &str = "6000";
const HEARTBEAT_INTERVAL_MS: &str = "1000";
/// Longest stop that a rebalance waits for; connectors have deadlines of their own well below it.
const REVOKE_PATIENCE: Duration = Duration::from_mins(2);
/// How long a member that was turned out waits before it joins again.
const REJOIN_AFTER: Duration = Duration::from_millis(500);
/// A thread that polls twenty times a second and does not for this long was stopped with its whole process.
const SLEPT: Duration = Duration::from_secs(4);
/// Longest wait for the group to take note that we leave.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

impl WorkerGroup for KafkaLog {
    fn join(&self) -> BoxFuture<'_, Result<Box<dyn Membership>, LogError>> {
        Box::pin(async move {
            let member = KafkaMembership::join(&self.cluster).await?;
            Ok(Box::new(member) as Box<dyn Membership>)
        })
    }
}

struct KafkaMembership {
    shards: u32,
    told: mpsc::Receiver<Assignment>,
    leave: Arc<AtomicBool>,
    left: oneshot::Receiver<()>,
}

impl KafkaMembership {
    async fn join(cluster: &Arc<Cluster>) -> Result<Self, LogError> {
        let topic = cluster.shards_topic();
        let shards = cluster.ensure_topic(&topic, Made::Compacted { partitions: SHARDS }).await?;
        cluster.keep_to_itself(&topic);
        let (tell, told) = mpsc::channel(TOLD_MAX);
        let (leave, (done, left)) = (Arc::new(AtomicBool::new(false)), oneshot::channel());
        let member = Member {
            cluster: Arc::clone(cluster),
            topic,
            shards,
            tell,
            runtime: Handle::current(),
            leave: Arc::clone(&leave),
        };
        // Wrong settings are told to whoever starts the worker.
        let consumer = member.subscribed()?;
        std::thread::Builder::new()
            .name("kafka-member".into())
            .spawn(move || {
                member.run(consumer);
                let _nobody_waits = done.send(());
            })
            .map_err(|e| io_error("start the thread `kafka-member`", e.to_string()))?;
        Ok(Self { shards, told, leave, left })
    }
}

/// The thread that is the member.
struct Member {
    cluster: Arc<Cluster>,
    topic: String,
    shards: u32,
    tell: mpsc::Sender<Assignment>,
    runtime: Handle,
    leave: Arc<AtomicBool>,
}

impl Member {
    fn leaves(&self) -> bool {
        self.leave.load(Ordering::SeqCst) || self.cluster.is_closed()
    }

    fn subscribed(&self) -> Result<BaseConsumer<MemberContext>, LogError> {
        let inner = self.cluster.context("member");
        let context = MemberContext {
            inner,
            health: Arc::clone(&self.cluster.health),
            tell: self.tell.clone(),
            runtime: self.runtime.clone(),
            answered: Mutex::new(Instant::now()),
        };
        let consumer = member_of(&self.cluster, context)?;
        let attempt = || format!("subscribe to `{}`", self.topic);
        consumer.subscribe(&[&self.topic]).map_err(|e| log_error(attempt(), &e))?;
        Ok(consumer)
    }

    /// Ends when the worker leaves; whatever else happens, it joins again.
    fn run(&self, first: BaseConsumer<MemberContext>) {
        let (mut consumer, mut awake) = (Some(first), Instant::now());
        while !self.leaves() {
            let Some(member) = &consumer else {
                std::thread::sleep(REJOIN_AFTER);
                consumer =
                    self.subscribed().inspect_err(|error| tracing::warn!(%error, "the worker group")).ok();
                awake = Instant::now();
                continue;
            };
            // Rebalances happen inside; the topic holds no records.
            if let Some(Err(error)) = member.poll(briefly(50)) {
                tracing::warn!(%error, "the worker group");
            }
            let slept = awake.max(member.context().answered()).elapsed() > SLEPT;
            awake = Instant::now();
            if slept {
                tracing::warn!(
                    "this process stood still; others may have what it ran: it stops all and joins again"
                );
            }
            let turned_out = member.client().fatal_error();
            if let Some((_, why)) = &turned_out {
                tracing::error!(
                    why,
                    "the worker group turned this worker out; it stops what it runs and joins again. If another worker has \
                     the same `topic_log.instance_id`, give each its own"
                );
            }
            if slept || turned_out.is_some() {
                self.cluster.health.count("group_turned_out_total", 1.0);
                self.cluster.health.rebalanced(0);
                self.give_up();
                consumer = None;
            }
        }
        // Dropping it leaves the group.
        drop(consumer);
    }

    /// Has everything stopped, without waiting for it: it is others' already.
    fn give_up(&self) {
        let (done, _nobody_waits) = oneshot::channel();
        // An error means that the worker stops.
        let _stopping =
            self.tell.blocking_send(Assignment::Revoked { shards: (0..self.shards).collect(), done });
    }
}

impl Membership for KafkaMembership {
    fn shards(&self) -> u32 {
        self.shards
    }

    fn next(&mut self) -> BoxFuture<'_, Assignment> {
        Box::pin(async move {
            match self.told.recv().await {
                Some(assignment) => assignment,
                // The thread ends only after this is dropped, or with the log.
                None => std::future::pending().await,
            }
        })
    }

    fn leave(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut this = *self;
            this.leave.store(true, Ordering::SeqCst);
            // A rebalance that waits for an answer gets none.
            this.told.close();
            while this.told.recv().await.is_some() {}
            if tokio::time::timeout(LEAVE_PATIENCE, &mut this.left).await.is_err() {
                tracing::warn!("the worker group was not left in time; its session ends by itself");
            }
        })
    }
}

impl Drop for KafkaMembership {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::SeqCst);
    }
}

fn member_of(cluster: &Cluster, context: MemberContext) -> Result<BaseConsumer<MemberContext>, LogError> {
    let group = format!("{}-workers", cluster.config.group);
    let mut config = cluster.config.consumer(&group, Isolation::Committed);
    config.set("auto.offset.reset", "latest");
    config.set("fetch.wait.max.ms", "5000");
    config.set("max.poll.interval.ms", "300000");
    let session =
        [("session.timeout.ms", SESSION_TIMEOUT_MS), ("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS)];
    match cluster.config.group_protocol {
        GroupProtocol::Classic => {
            config.set("partition.assignment.strategy", "cooperative-sticky");
            for (name, default) in session {
                if config.get(name).is_none() {
                    config.set(name, default);
                }
            }
        }
        GroupProtocol::Consumer => {
            config.set("group.protocol", "consumer");
            // The brokers'; librdkafka refuses to be told them.
            for (name, _) in session {
                config.remove(name);
            }
        }
    }
    if let Some(instance) = &cluster.config.instance_id {
        config.set("group.instance.id", instance);
    }
    config.create_with_context(context).map_err(|e| log_error(format!("join the group `{group}`"), &e))
}

/// Tells of rebalances, from inside `poll`.
struct MemberContext {
    inner: Context,
    health: Arc<Health>,
    tell: mpsc::Sender<Assignment>,
    runtime: Handle,
    /// When the last rebalance that waited for the worker had its answer.
    answered: Mutex<Instant>,
}

impl ClientContext for MemberContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.inner.log(level, facility, message);
    }
    fn stats_raw(&self, statistics: &[u8]) {
        self.inner.stats_raw(statistics);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        self.inner.error(error, reason);
    }
    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.inner.generate_oauth_token(config)
    }
}

impl ConsumerContext for MemberContext {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(_) => {}
            Rebalance::Revoke(partitions) => self.revoke(shards_of(partitions)),
            Rebalance::Error(error) => tracing::warn!(%error, "the worker group could not rebalance"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        // What can't be told now is told at the next rebalance.
        let ours = consumer.assignment().map_or(0, |partitions| partitions.count());
        self.health.rebalanced(u32::try_from(ours).unwrap_or(u32::MAX));
        if let Rebalance::Assign(partitions) = rebalance {
            let shards = shards_of(partitions);
            if !shards.is_empty() {
                // An error means that the worker stops.
                let _stopping = self.tell.blocking_send(Assignment::Gained(shards));
            }
        }
    }
}

impl MemberContext {
    fn revoke(&self, shards: Vec<u32>) {
        let (done, answer) = oneshot::channel();
        if shards.is_empty() || self.tell.blocking_send(Assignment::Revoked { shards, done }).is_err() {
            return;
        }
        // Made inside: a timer belongs to the runtime.
        let answered = async { tokio::time::timeout(REVOKE_PATIENCE, answer).await };
        if self.runtime.block_on(answered).is_err() {
            tracing::error!("connectors did not stop in time; they go to another worker all the same");
        }
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn answered(&self) -> Instant {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shards_of(partitions: &TopicPartitionList) -> Vec<u32> {
    let partitions = partitions.elements();
    partitions.iter().filter_map(|element| u32::try_from(element.partition()).ok()).collect()
}
