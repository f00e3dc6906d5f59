//! The thread of one transactional producer: jobs in, transactions out.
//!
//! ```text
//! writer ─ jobs (bounded by permits) ─► this thread: begin, send, commit ─► answers
//!                                           ▲ polled by a second thread: failed deliveries, log lines, statistics
//! ```
//!
//! Under light load what comes within the commit interval is collected first and then committed, which is quick. Under load the
//! transaction stays open for longer and what comes is sent at once, so brokers write while the source encodes, and commits are few.
//!
//! Why nothing is lost or doubled:
//! - A job is answered `Ok` only when a commit that holds all of it was answered; jobs commit in order, several at once at most.
//! - A commit without an answer goes on in librdkafka. The same call is made again until it answers; never abort, never begin.
//! - What the broker says must be aborted is aborted and sent again, whole: no record of it can be seen by a reader.
//! - After anything fatal the producer is dropped and every job behind it answers an error, so there is never a gap. Only a
//!   new `init_transactions` goes on from there, and it finishes or undoes what this thread had left open.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer},
};
use rowstream_kafka_ffi::{Demand, TransactionError, abort, commit};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    cluster::{Cluster, number},
    context::Context,
    errors::{code_error, io_error, log_error},
    polled::Polled,
};
use crate::topic_log::{CommitError, LogError, TopicBatch, batch::RecordView};

/// A transaction takes no further job beyond this; less than what a source has in flight at most, or it would wait for more in vain.
const TRANSACTION_BYTES_MAX: usize = 4 << 20;
/// A transaction of this size within one commit interval is load.
const LOADED_BYTES: usize = 128 << 10;
/// Under load a commit comes at the earliest this long after the last one: one every 10 ms doubles the brokers' work, one every
/// 100 ms adds a tenth to it. Where commits are slow, after [`COMMITS_APART`] times what the last one took, since nothing is sent while
/// one is under way: so they take about a tenth of the time, and more only where one takes longer than a tenth of
/// [`LOADED_INTERVAL_MAX`], beyond which nobody should wait for rows that are there.
const LOADED_INTERVAL: Duration = Duration::from_millis(100);
const LOADED_INTERVAL_MAX: Duration = Duration::from_secs(1);
const COMMITS_APART: u32 = 10;
/// One wait for a commit: short, so that the end of the owner is seen.
const COMMIT_SLICE: Duration = Duration::from_secs(3);
/// How long a commit without an answer is followed after its owner has gone.
const ABANDONED_GRACE: Duration = Duration::from_secs(10);
/// How long a coordinator may take to be there.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Times that a transaction is sent before its owner hears that it can't be committed.
const ATTEMPTS_MAX: u32 = 5;

/// One record of ours: a position, or state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawRecord {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// What commits together.
pub(super) struct Job {
    pub(super) batches: Vec<TopicBatch>,
    pub(super) positions: Vec<RawRecord>,
    pub(super) reply: oneshot::Sender<Result<(), CommitError>>,
    /// Its share of the budget, given back when it is answered.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// Who has the `transactional.id` now, asked after a fatal error. Blocks.
pub(super) type Owner = Box<dyn Fn() -> Ownership + Send>;

/// What a fatal error turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Nobody else asked for it: the coordinator ended our transaction.
    Ours,
    /// Another writer took over.
    Lost,
}

/// How a producer is opened.
pub(super) struct Opening {
    /// `transactional.id`.
    pub(super) id: String,
    /// The coordinator's patience; the usual minute when `None`.
    pub(super) timeout: Option<Duration>,
    pub(super) owner: Owner,
}

/// The other end of the thread. Dropping it lets the thread finish what it has.
pub(super) struct Transactions {
    jobs: Sender<Job>,
    abandoned: Arc<AtomicBool>,
}

impl Transactions {
    /// Opens a producer and fences older ones of the same id: when this returns, their transactions are committed or undone.
    pub(super) async fn open(cluster: &Arc<Cluster>, opening: Opening) -> Result<Self, LogError> {
        let (jobs, inbox) = mpsc::channel();
        let (ready, opened) = oneshot::channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let (cluster, left) = (Arc::clone(cluster), Arc::clone(&abandoned));
        std::thread::Builder::new()
            .name("kafka-writer".into())
            .spawn(move || match Thread::open(cluster, opening, inbox, left) {
                Ok(thread) => {
                    if ready.send(Ok(())).is_ok() {
                        thread.run();
                    }
                }
                // Whoever asked may have gone.
                Err(error) => drop(ready.send(Err(error))),
            })
            .map_err(|e| io_error("start the thread `kafka-writer`", e.to_string()))?;
        opened.await.map_err(|_| LogError::Closed)??;
        Ok(Self { jobs, abandoned })
    }

    /// Hands a job over; an error when the thread has ended.
    pub(super) fn hand_over(&self, job: Job) -> Result<(), LogError> {
        self.jobs.send(job).map_err(|_| {
            LogError::State("an earlier group of this writer failed; open the writer again".to_owned())
        })
    }
}

impl Drop for Transactions {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }
}

/// Why a transaction did not commit.
enum Failure {
    /// Nothing of it happened; send it again.
    Again(String),
    /// The producer is dead.
    Dead { code: String, text: String },
    /// It can't be written as it is.
    Refused(LogError),
    /// Its outcome was not learned before the owner went.
    GaveUp(String),
}

struct Thread {
    cluster: Arc<Cluster>,
    id: String,
    owner: Owner,
    inbox: Receiver<Job>,
    abandoned: Arc<AtomicBool>,
    producer: Polled<Context>,
    record_bytes_max: usize,
    last_commit: Option<Instant>,
    /// How long it took.
    commit_took: Duration,
}

impl Thread {
    fn open(
        cluster: Arc<Cluster>,
        opening: Opening,
        inbox: Receiver<Job>,
        abandoned: Arc<AtomicBool>,
    ) -> Result<Self, LogError> {
        let Opening { id, timeout, owner } = opening;
        let config = cluster.config.transactional(&id, timeout);
        let attempt = || format!("open the transactional producer `{id}`");
        let producer = config.create_with_context(cluster.context(&id));
        let producer = Polled::start("kafka-poll", producer.map_err(|e| log_error(attempt(), &e))?)?;
        let deadline = Instant::now() + INIT_TIMEOUT;
        loop {
            match producer.init_transactions(COMMIT_SLICE) {
                Ok(()) => break,
                Err(error) => {
                    let heals =
                        matches!(&error, KafkaError::Transaction(e) if e.is_retriable() && !e.is_fatal());
                    if !heals || Instant::now() > deadline || cluster.is_closed() {
                        return Err(log_error(attempt(), &error));
                    }
                    tracing::debug!(writer = id, %error, "the coordinator is not there yet");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        let record_bytes_max = cluster.config.record_bytes_max();
        let (last_commit, commit_took) = (None, Duration::ZERO);
        Ok(Self {
            cluster,
            id,
            owner,
            inbox,
            abandoned,
            producer,
            record_bytes_max,
            last_commit,
            commit_took,
        })
    }

    fn run(mut self) {
        while let Ok(first) = self.inbox.recv() {
            let mut jobs = self.collect(first);
            if let Err(failure) = self.transact(&mut jobs) {
                self.end(jobs, failure);
                return;
            }
            for job in jobs {
                // Whoever asked may have gone; the commit stands.
                drop(job.reply.send(Ok(())));
            }
        }
    }

    /// What waits already, and under light load what comes within the commit interval.
    fn collect(&self, first: Job) -> Vec<Job> {
        let due = self.last_commit.map(|last| last + self.cluster.config.commit_interval);
        let mut bytes = bytes_of(&first);
        let mut jobs = vec![first];
        while bytes < TRANSACTION_BYTES_MAX {
            let wait = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
            match self.inbox.recv_timeout(wait) {
                Ok(job) => {
                    bytes += bytes_of(&job);
                    jobs.push(job);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        jobs
    }

    fn transact(&mut self, jobs: &mut Vec<Job>) -> Result<(), Failure> {
        let mut why = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tracing::warn!(
                    writer = self.id,
                    attempt,
                    reason = why,
                    "a transaction was aborted and is sent again"
                );
                std::thread::sleep(Duration::from_millis(50 << attempt));
            }
            self.producer.begin_transaction().map_err(|e| dead(&e))?;
            let filled = match attempt {
                0 => self.send_all(jobs).and_then(|()| self.send_what_comes(jobs)),
                _ => self.send_all(jobs),
            };
            match filled.and_then(|()| self.send_positions(jobs)).and_then(|()| self.commit()) {
                Ok(()) => return Ok(()),
                Err(Failure::Again(reason)) => {
                    self.abort()?;
                    self.unhealable()?;
                    why = reason;
                }
                Err(Failure::Refused(error)) => {
                    self.abort()?;
                    return Err(Failure::Refused(error));
                }
                Err(failure @ (Failure::Dead { .. } | Failure::GaveUp(_))) => return Err(failure),
            }
        }
        Err(Failure::Again(why))
    }

    /// While there is much to write the transaction goes on: what comes is sent at once, and committed together.
    fn send_what_comes(&self, jobs: &mut Vec<Job>) -> Result<(), Failure> {
        let Some(last) = self.last_commit else { return Ok(()) };
        let due = last + self.cluster.config.commit_interval.max(loaded_interval(self.commit_took));
        let mut bytes: usize = jobs.iter().map(bytes_of).sum();
        while (LOADED_BYTES..TRANSACTION_BYTES_MAX).contains(&bytes) {
            let wait = due.saturating_duration_since(Instant::now());
            // Nothing more, or nobody to send more.
            let Ok(job) = self.inbox.recv_timeout(wait) else { break };
            bytes += bytes_of(&job);
            jobs.push(job);
            self.send_all(jobs.last().map_or(&[], std::slice::from_ref))?;
        }
        Ok(())
    }

    /// The records of these jobs.
    fn send_all(&self, jobs: &[Job]) -> Result<(), Failure> {
        let damaged = |e: LogError| Failure::Refused(e);
        for batch in jobs.iter().flat_map(|job| &job.batches) {
            let (topic, partition) = (&*batch.partition.topic, number(batch.partition.partition));
            let mut records = batch.records.views().map_err(damaged)?;
            while let Some(record) = records.next().map_err(damaged)? {
                self.check_size(topic, &record)?;
                self.send(native(topic, partition, &record))?;
            }
        }
        Ok(())
    }

    /// The newest position of each key, behind all records.
    fn send_positions(&self, jobs: &[Job]) -> Result<(), Failure> {
        let mut newest = BTreeMap::new();
        for position in jobs.iter().flat_map(|job| &job.positions) {
            newest.insert((&position.topic, position.partition, &position.key), position.value.as_deref());
        }
        for ((topic, partition, key), value) in newest {
            let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(number(partition)).key(key);
            record.payload = value;
            self.send(record)?;
        }
        Ok(())
    }

    fn check_size(&self, topic: &str, record: &RecordView<'_>) -> Result<(), Failure> {
        let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers;
        if bytes <= self.record_bytes_max {
            return Ok(());
        }
        Err(Failure::Refused(LogError::Refused(format!(
            "a record for topic `{topic}` has {bytes} bytes, the limit is {}; raise `topic_log.properties: \
             {{ message.max.bytes: … }}` and the topic's max.message.bytes",
            self.record_bytes_max
        ))))
    }

    fn send(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), Failure> {
        loop {
            let Err((error, unsent)) = self.producer.send(record) else { return Ok(()) };
            let topic = unsent.topic;
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.cluster.health.count("queue_full_total", 1.0);
                    self.give_up_when_abandoned("the queue is full", None)?;
                    std::thread::sleep(Duration::from_micros(500));
                    record = unsent;
                }
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    let attempt = format!("write a record to topic `{topic}`");
                    return Err(Failure::Refused(code_error(attempt, RDKafkaErrorCode::MessageSizeTooLarge)));
                }
                Some(code @ (RDKafkaErrorCode::UnknownPartition | RDKafkaErrorCode::UnknownTopic)) => {
                    return Err(Failure::Again(format!("topic `{topic}`: {code}")));
                }
                _ => return Err(dead(&error)),
            }
        }
    }

    /// Asks until the answer is known.
    fn commit(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        while let Err(error) = commit(&self.producer, COMMIT_SLICE) {
            match error.demand {
                Demand::Retry => {
                    let waited = started.elapsed().as_secs();
                    let what =
                        format!("a commit has had no answer for {waited} s ({}): {}", error.code, error.text);
                    self.cluster.health.waits(&self.id, what.clone());
                    self.cluster.health.count("commit_retries_total", 1.0);
                    self.give_up_when_abandoned(&what, Some(started))?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Demand::Abort => return Err(Failure::Again(format!("{}: {}", error.code, error.text))),
                Demand::Discard | Demand::Nothing => return Err(refused_or_dead(error)),
            }
        }
        (self.last_commit, self.commit_took) = (Some(Instant::now()), started.elapsed());
        self.cluster.health.committed(&self.id, self.commit_took);
        Ok(())
    }

    fn abort(&self) -> Result<(), Failure> {
        self.cluster.health.count("transactions_aborted_total", 1.0);
        let started = Instant::now();
        loop {
            let Err(error) = abort(&self.producer, COMMIT_SLICE) else { return Ok(()) };
            match error.demand {
                Demand::Retry => {
                    self.give_up_when_abandoned(&error.text, Some(started))?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Demand::Abort | Demand::Discard | Demand::Nothing => return Err(refused_or_dead(error)),
            }
        }
    }

    /// Whether what made us abort would come again: a broker that refuses a record refuses it always.
    fn unhealable(&self) -> Result<(), Failure> {
        let Some(failure) = self.producer.context().take_failure() else { return Ok(()) };
        let attempt =
            format!("write a record of {} bytes to {}-{}", failure.bytes, failure.topic, failure.partition);
        match code_error(attempt, failure.code) {
            refused @ LogError::Refused(_) => Err(Failure::Refused(refused)),
            LogError::Locked { .. }
            | LogError::Corrupt { .. }
            | LogError::DiskFull { .. }
            | LogError::Io { .. }
            | LogError::State(_)
            | LogError::OffsetOutOfRange { .. }
            | LogError::Closed => Ok(()),
        }
    }

    fn give_up_when_abandoned(&self, why: &str, since: Option<Instant>) -> Result<(), Failure> {
        let left = self.abandoned.load(Ordering::SeqCst) || self.cluster.is_closed();
        let patient = since.is_some_and(|since| since.elapsed() < ABANDONED_GRACE);
        if left && !patient { Err(Failure::GaveUp(why.to_owned())) } else { Ok(()) }
    }

    /// Answers the jobs of a failed transaction, and all behind them.
    fn end(self, jobs: Vec<Job>, failure: Failure) {
        self.cluster.health.goes_on(&self.id);
        self.cluster.health.count("writers_failed_total", 1.0);
        let attempt = format!("commit a transaction of `{}`", self.id);
        let mut answer: Box<dyn FnMut() -> CommitError> = match failure {
            Failure::Again(why) => Box::new(move || {
                CommitError::Aborted(io_error(
                    attempt.clone(),
                    format!("aborted {ATTEMPTS_MAX} times: {why}"),
                ))
            }),
            Failure::Refused(error) => {
                let text = error.to_string();
                Box::new(move || CommitError::Aborted(LogError::Refused(text.clone())))
            }
            Failure::GaveUp(why) => {
                Box::new(move || CommitError::Unknown(io_error(attempt.clone(), why.clone())))
            }
            Failure::Dead { code, text } => match (self.owner)() {
                Ownership::Lost => Box::new(|| CommitError::Fenced),
                Ownership::Ours => Box::new(move || {
                    CommitError::Unknown(io_error(attempt.clone(), format!("{code}: {text}")))
                }),
            },
        };
        for job in jobs {
            drop(job.reply.send(Err(answer())));
        }
        // Never begun, so nothing of them happened.
        let behind = || LogError::State("an earlier group of this writer failed".to_owned());
        while let Ok(job) = self.inbox.try_recv() {
            drop(job.reply.send(Err(CommitError::Aborted(behind()))));
        }
    }
}

fn loaded_interval(commit_took: Duration) -> Duration {
    (commit_took * COMMITS_APART).clamp(LOADED_INTERVAL, LOADED_INTERVAL_MAX)
}

fn bytes_of(job: &Job) -> usize {
    job.batches.iter().map(|batch| batch.records.len_bytes()).sum()
}

fn native<'a>(topic: &'a str, partition: i32, record: &RecordView<'a>) -> BaseRecord<'a, [u8], [u8]> {
    let mut native = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).timestamp(record.timestamp_ms);
    native.key = record.key;
    native.payload = record.value;
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (name, value) in record.headers {
            // Names come from our own encoder and are text.
            let key = std::str::from_utf8(name).unwrap_or_default();
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        native.headers = Some(headers);
    }
    native
}

fn dead(error: &KafkaError) -> Failure {
    let code = error.rdkafka_error_code().map_or_else(|| "no code".to_owned(), |code| code.to_string());
    Failure::Dead { code, text: error.to_string() }
}

fn refused_or_dead(error: TransactionError) -> Failure {
    let TransactionError { code, text, .. } = error;
    if code.contains("AUTHORIZATION") {
        let acls = "the worker's principal needs the ACLs Write and Describe on the TransactionalId, and Write on the topics";
        return Failure::Refused(LogError::Refused(format!("commit a transaction: {code}: {text}; {acls}")));
    }
    Failure::Dead { code, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_commits_come_less_often_but_rows_never_wait_for_long() {
        let after = |took_ms| loaded_interval(Duration::from_millis(took_ms)).as_millis();
        assert_eq!([0, 3, 10].map(after), [100, 100, 100]);
        assert_eq!([25, 100].map(after), [250, 1000]);
        assert_eq!([101, 60_000].map(after), [1000, 1000]);
    }
}
