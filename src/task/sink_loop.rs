//! The sink loop: from committed records of the log to a destination that says it has them.
//!
//! ```text
//!  reader.next() ─► decode ─► sink.put() ─► sink.flush() ─► offsets durable at the destination ─► group offsets (lazily)
//!        ▲ while less than PENDING_BYTES_MAX is accepted and not durable
//! ```
//!
//! Why nothing is lost or doubled:
//! - A partition is read from the position that the destination itself holds; the group's offset counts only for sinks that hold
//!   none (invariant 4). A position outside the log is an error, never a jump (invariant 10).
//! - Records reach `put` in order per partition, each once per run; a failed run is followed by one that asks again.
//! - A refused record is disposed of by policy, durably, before the next `flush`, which is the first that may pass it.
//! - Group offsets are stored after the destination's and may lag: they serve lag, retention, and at-least-once sinks.
//! - Dead letters that come back ([`crate::redrive`]) are in a topic of this sink alone, read as the others are, with a position of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{FutureExt, future::BoxFuture};
use rowstream_api::{
    ConnectorError, Flushed, RecordError, RecordId, SinkRecord, StartReason, TopicOffsets, TopicPartition,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    TaskShared, log_failure,
    sink_start::{self, StartAt},
    supervise::{Run, Runnable},
};
use crate::{
    pipeline::{
        chain::SinkChain,
        dead_letters::{DeadLetter, DeadLetters},
        decode::RecordDecoder,
    },
    redrive::{REDRIVE_PREFIX, letter::Redriven},
    registry::{AnySinkTask, SinkPlan},
    telemetry::metrics::SinkTaskMetrics,
    topic_log::{LogBatch, LogEvent, LogReader, RecordRef, SeekTo, TopicFilter},
};

/// Accepted and not yet durable records of one task.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// How long group offsets may lag for a sink that keeps its own.
const GROUP_OFFSETS_LAZY: Duration = Duration::from_secs(1);
/// And for one that does not: what a crash may deliver again.
const GROUP_OFFSETS_EAGER: Duration = Duration::from_millis(100);

/// The consumer group of a sink, Connect's name for it.
#[must_use]
pub fn group_of(connector: &str) -> String {
    format!("connect-{connector}")
}

/// A sink task, run after run.
pub struct SinkTaskRun {
    /// What to run.
    pub plan: Arc<dyn SinkPlan>,
    /// Topics it reads.
    pub topics: TopicFilter,
    /// Where it begins that nothing was delivered to.
    pub start_at: StartAt,
    /// What every task has.
    pub shared: TaskShared,
    /// Its meters.
    pub metrics: SinkTaskMetrics,
    /// Runs so far.
    pub runs: u64,
}

impl Runnable for SinkTaskRun {
    fn run<'a>(&'a mut self, stop: &'a CancellationToken) -> BoxFuture<'a, Run> {
        async move {
            let mut committed_any = false;
            if self.runs > 0 {
                self.metrics.task.restarted();
            }
            self.runs += 1;
            let outcome = self.once(stop, &mut committed_any).await;
            if let Err(error) = &outcome {
                self.metrics.task.failed(error.code);
            }
            Run { outcome, committed_any }
        }
        .boxed()
    }
}

impl SinkTaskRun {
    async fn once(
        &mut self,
        stop: &CancellationToken,
        committed_any: &mut bool,
    ) -> Result<(), ConnectorError> {
        let shared = &self.shared;
        let place = (shared.connector.as_str(), shared.task);
        // Before its destination is asked for: one that is not there must not make "from now on" a later moment.
        let Some(begin) = sink_start::of(&shared.log, place, (self.start_at, &self.topics), stop).await?
        else {
            return Ok(());
        };
        let start = if self.runs > 1 { StartReason::Retry } else { StartReason::Connector };
        let cx = shared.context(start);
        let sink = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            sink = self.plan.start(cx) => sink?,
        };
        let group = group_of(&shared.connector);
        let reader = shared
            .log
            .reader(&group, self.topics.clone())
            .await
            .map_err(|e| log_failure("open a reader of the topic log", e))?;
        let mut run = SinkLoop {
            sink,
            reader,
            decoder: RecordDecoder::new(Arc::clone(&shared.registry)),
            transforms: shared.transforms.build()?.map(|chain| SinkChain::new(chain, shared.tap.clone())),
            dead_letters: DeadLetters::new(
                Arc::clone(&shared.log),
                shared.policy.clone(),
                &shared.connector,
                shared.task,
            ),
            recent: BTreeMap::new(),
            begin,
            group,
            group_offsets: TopicOffsets::new(),
            group_due: None,
            shared,
            metrics: &self.metrics,
            committed_any,
        };
        run.drive(stop).await?;
        run.finish().await
    }
}

struct SinkLoop<'a> {
    sink: Box<dyn AnySinkTask>,
    reader: Box<dyn LogReader>,
    decoder: RecordDecoder,
    transforms: Option<SinkChain>,
    dead_letters: DeadLetters,
    /// Batches with records that the destination does not have yet: a refused one is taken from here.
    recent: BTreeMap<TopicPartition, VecDeque<LogBatch>>,
    /// Where partitions begin that nothing was delivered of; the others at their oldest record.
    begin: TopicOffsets,
    group: String,
    /// Group offsets to be stored, and when.
    group_offsets: TopicOffsets,
    group_due: Option<Instant>,
    shared: &'a TaskShared,
    metrics: &'a SinkTaskMetrics,
    committed_any: &'a mut bool,
}

/// What a flush finished: records, and the timestamp of the oldest batch among them.
#[derive(Default)]
struct Done {
    records: u64,
    oldest_ms: Option<i64>,
}

enum Event {
    Stop,
    Read(LogEvent),
    Progress,
    GroupOffsetsDue,
}

impl SinkLoop<'_> {
    async fn drive(&mut self, stop: &CancellationToken) -> Result<(), ConnectorError> {
        loop {
            let pending = self.sink.pending_bytes();
            let room = pending < PENDING_BYTES_MAX && !self.sink.is_full();
            let group_due = self.group_due;
            // Biased: while records are there for the taking, they fill the batch; only then the batch is flushed.
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => Event::Stop,
                () = sleep_until(group_due), if group_due.is_some() => Event::GroupOffsetsDue,
                read = self.reader.next(), if room => {
                    Event::Read(read.map_err(|e| log_failure("read the topic log", e))?)
                }
                () = self.sink.progress(), if pending > 0 => Event::Progress,
            };
            match event {
                Event::Stop => return Ok(()),
                Event::Read(LogEvent::Gained(partitions)) => self.gained(&partitions).await?,
                Event::Read(LogEvent::Batch(batch)) => self.accept(batch).await?,
                Event::Progress => self.flush().await?,
                Event::GroupOffsetsDue => self.store_group_offsets().await?,
            }
            self.shared.status.busy(self.sink.pending_bytes() > 0);
        }
    }

    /// Makes durable what was accepted, and disconnects.
    async fn finish(&mut self) -> Result<(), ConnectorError> {
        let started = Instant::now();
        let flushed = self.sink.close().await?;
        self.flushed(flushed, started.elapsed()).await?;
        self.store_group_offsets().await
    }

    async fn gained(&mut self, partitions: &[TopicPartition]) -> Result<(), ConnectorError> {
        let held = self.sink.open(partitions).await?;
        let stored = self
            .shared
            .log
            .group_offsets(&self.group)
            .await
            .map_err(|e| log_failure("read group offsets", e))?;
        let keeps_offsets = self.sink.keeps_offsets();
        for partition in partitions {
            let begin = self.begin.get(partition).copied();
            let seek = match (held.get(partition), stored.get(partition)) {
                (Some(held), _) => SeekTo::Offset(*held),
                (None, Some(stored)) if keeps_offsets && *stored > begin.unwrap_or(0) => {
                    return Err(offsets_lost(&self.shared.connector, partition, *stored));
                }
                (None, Some(stored)) => SeekTo::Offset(*stored),
                (None, None) => begin.map_or(SeekTo::Earliest, SeekTo::Offset),
            };
            self.reader.seek(partition, seek).map_err(|e| {
                log_failure(
                    &format!("resume sink `{}` where its destination stands", self.shared.connector),
                    e,
                )
            })?;
        }
        Ok(())
    }

    async fn accept(&mut self, batch: LogBatch) -> Result<(), ConnectorError> {
        if batch.records.count() == 0 {
            return Ok(()); // The partition was read on, and nothing is in it: the destination need not know.
        }
        let decoded = self.decoder.batch(&batch).await?;
        self.metrics.read(decoded.len() as u64, batch.records.len_bytes() as u64);
        let mut records = Vec::with_capacity(decoded.len());
        let mut letters = Vec::new();
        for item in decoded {
            match item {
                Ok(record) => records.push(record),
                Err((id, raw, error)) => {
                    records.push(SinkRecord::dropped(id.clone(), raw.timestamp_ms));
                    letters.push(letter(id, raw, error));
                }
            }
        }
        if batch.partition.topic.starts_with(REDRIVE_PREFIX) {
            records.iter_mut().for_each(bring_back);
        }
        let refused = self.transform(&mut records);
        self.recent.entry(batch.partition.clone()).or_default().push_back(batch);
        self.dispose(letters).await?;
        self.refused(refused).await?;
        let refused = self.sink.put(records).await?;
        self.refused(refused).await
    }

    /// Runs the records through the transforms. What a step can't handle is dropped, and comes back with the reason: it is disposed
    /// of by policy before the sink's position passes it.
    fn transform(&mut self, records: &mut [SinkRecord]) -> Vec<(RecordId, RecordError)> {
        let Some(chain) = &mut self.transforms else { return Vec::new() };
        let mut refused = Vec::new();
        for record in records.iter_mut().filter(|record| !record.dropped) {
            match chain.apply(record) {
                Ok(made) => *record = made,
                Err(error) => {
                    refused.push((record.id.clone(), error));
                    *record = SinkRecord::dropped(record.id.clone(), record.timestamp_ms);
                }
            }
        }
        refused
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        let started = Instant::now();
        let flushed = self.sink.flush().await?;
        self.flushed(flushed, started.elapsed()).await
    }

    async fn flushed(&mut self, flushed: Flushed, took: Duration) -> Result<(), ConnectorError> {
        self.refused(flushed.refused).await?;
        let mut done = Done::default();
        for (partition, next) in flushed.offsets {
            self.release(&partition, next, &mut done);
            self.group_offsets.insert(partition, next);
        }
        if done.records > 0 {
            *self.committed_any = true;
            self.shared.status.committed(done.records);
            let age = done.oldest_ms.and_then(|ms| {
                let written = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).ok()?);
                SystemTime::now().duration_since(written).ok()
            });
            self.metrics.flushed(done.records, took, age);
        }
        self.metrics.lag(self.reader.lag());
        if self.group_due.is_none() && !self.group_offsets.is_empty() {
            let wait = if self.sink.keeps_offsets() { GROUP_OFFSETS_LAZY } else { GROUP_OFFSETS_EAGER };
            self.group_due = Some(Instant::now() + wait);
        }
        Ok(())
    }

    /// Lets go of batches that lie wholly below `next`.
    fn release(&mut self, partition: &TopicPartition, next: i64, done: &mut Done) {
        let Some(batches) = self.recent.get_mut(partition) else { return };
        while let Some(batch) = batches.front() {
            if batch.base_offset + i64::from(batch.records.count()) > next {
                break;
            }
            done.records += u64::from(batch.records.count());
            let newest_ms = batch.records.max_timestamp_ms();
            done.oldest_ms = Some(done.oldest_ms.map_or(newest_ms, |oldest: i64| oldest.min(newest_ms)));
            batches.pop_front();
        }
    }

    async fn refused(&mut self, refused: Vec<(RecordId, RecordError)>) -> Result<(), ConnectorError> {
        let mut letters = Vec::with_capacity(refused.len());
        // A batch is read once, however many of its records are refused.
        let mut read: Option<(TopicPartition, i64, Vec<RecordRef>)> = None;
        for (id, error) in refused {
            let raw = read.as_ref().and_then(|(partition, base, records)| {
                let index = usize::try_from(id.offset.checked_sub(*base)?).ok()?;
                records.get(index).filter(|_| *partition == id.partition)
            });
            let raw = match raw {
                Some(raw) => raw.clone(),
                None => {
                    let (base, records) = self.batch_of(&id)?;
                    let index = usize::try_from(id.offset - base).ok();
                    let raw = index.and_then(|index| records.get(index)).cloned();
                    read = Some((id.partition.clone(), base, records));
                    raw.ok_or_else(|| unknown(&id))?
                }
            };
            letters.push(letter(id, raw, error));
        }
        self.dispose(letters).await
    }

    async fn dispose(&mut self, letters: Vec<DeadLetter>) -> Result<(), ConnectorError> {
        if letters.is_empty() {
            return Ok(());
        }
        self.metrics.refused(letters.len() as u64);
        let written = self.dead_letters.dispose(&letters).await?;
        self.metrics.task.dead_lettered(written as u64);
        self.metrics.task.skipped((letters.len() - written) as u64);
        Ok(())
    }

    /// The records of the batch that holds this one, as they stand in the log, and the offset of the first.
    fn batch_of(&self, id: &RecordId) -> Result<(i64, Vec<RecordRef>), ConnectorError> {
        let batch = self.recent.get(&id.partition).and_then(|batches| {
            batches
                .iter()
                .find(|b| (b.base_offset..b.base_offset + i64::from(b.records.count())).contains(&id.offset))
        });
        let batch = batch.ok_or_else(|| unknown(id))?;
        let records = batch.records.records().map_err(|e| log_failure("read the topic log", e))?;
        Ok((batch.base_offset, records))
    }

    async fn store_group_offsets(&mut self) -> Result<(), ConnectorError> {
        self.group_due = None;
        let offsets = std::mem::take(&mut self.group_offsets);
        if offsets.is_empty() {
            return Ok(());
        }
        self.shared
            .log
            .commit_group_offsets(&self.group, offsets)
            .await
            .map_err(|e| log_failure("store group offsets", e))
    }
}

/// The destination keeps offsets and has none, though it was delivered to before: it was emptied, or restored to a time before
/// its first record. Going on from the group's offset would skip what it lost.
fn offsets_lost(connector: &str, partition: &TopicPartition, stored: i64) -> ConnectorError {
    ConnectorError::fatal(
        "TARGET_OFFSETS_LOST",
        format!("the destination holds no position for {partition}, of which it was delivered to up to offset {stored}"),
    )
    .remedy(format!(
        "restore the destination with its offsets; or deliver everything that the log still holds again: stop the connector, \
         `rowstream offsets reset {connector}`, resume it"
    ))
}

fn unknown(id: &RecordId) -> ConnectorError {
    ConnectorError::fatal(
        "BUG_REFUSED_UNKNOWN",
        format!("the sink refused record {} of {}, which it does not hold", id.offset, id.partition),
    )
}

/// A redriven record counts as one of the topic it came from; its id stays that of its place in the redrive topic, by which the
/// destination remembers it.
fn bring_back(record: &mut SinkRecord) {
    let headers = record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_ref()));
    if let Some(redriven) = Redriven::of(headers) {
        record.topic = redriven.topic.into();
    }
}

fn letter(id: RecordId, raw: RecordRef, error: RecordError) -> DeadLetter {
    let mut id = id;
    // One that fails again names the place it had at first, not the one it was redriven by.
    if id.partition.topic.starts_with(REDRIVE_PREFIX)
        && let Some(redriven) = Redriven::of(raw.headers.iter().map(|(name, value)| (&**name, &**value)))
        && let (Some(partition), Some(offset)) = (redriven.partition, redriven.offset)
    {
        id = RecordId { partition: TopicPartition::new(redriven.topic, partition), offset };
    }
    DeadLetter {
        topic: Arc::clone(&id.partition.topic),
        id: Some(id),
        key: raw.key,
        value: raw.value,
        headers: raw.headers,
        timestamp_ms: raw.timestamp_ms,
        error,
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}
