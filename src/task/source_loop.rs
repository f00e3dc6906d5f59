//! The source loop: from `poll` to a durable commit, and only then back to the source.
//!
//! ```text
//!  source.poll() ─► encode ─► group ─► writer.append() ─► in flight (ordered) ─► durable ─► source.committed()
//!                               ▲ bounded by GROUP_BYTES_MAX    ▲ bounded by IN_FLIGHT_MAX
//! ```
//!
//! Why nothing is lost or doubled:
//! - A group carries the records of whole polled batches together with the offsets after them, so records and position are one
//!   log transaction (invariant 2).
//! - `committed` is called only with offsets whose commit has been answered, in order (invariant 1).
//! - A failed or unknown commit ends the run. The next run opens a new writer, which fences this one: groups of this run
//!   commit before that or never. Only then it reads the stored offsets and resumes there (invariants 3 and 7).
//! - What is asked of the snapshot is withdrawn when the next batch after it was taken, whose offsets remember it, is durable.
//! - A change that can't be encoded is disposed of by policy, durably, before the group that passes it is handed over.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use rowstream_api::{
    Chain, Class, ConnectorError, SourceBatch, SourceOffsets, StartReason, snapshot::SnapshotRequest,
};
use tokio_util::sync::CancellationToken;

use super::{
    TaskShared, commit_failure, log_failure, requests,
    supervise::{Run, Runnable},
};
use crate::{
    pipeline::{
        chained::SourceChain,
        dead_letters::{DeadLetters, letters_of},
        encode::{EventEncoder, Refused},
        group::RecordGroup,
    },
    registry::{AnySourceTask, SourcePlan},
    telemetry::metrics::{SourceTaskMetrics, SourceWrite},
    topic_log::{CommitError, LogWriter, WriteGroup},
};

/// A group is handed over at the latest at this size; larger groups only delay the first of their records.
const GROUP_BYTES_MAX: usize = 2 << 20;
/// While a commit is under way the next group waits to reach this size: fewer, larger commits under load.
const GROUP_BYTES_EAGER: usize = 512 << 10;
/// Commits under way at once, and the bytes in them: what a log takes into one transaction must fit, or it would wait for more in vain.
const IN_FLIGHT_MAX: usize = 16;
const IN_FLIGHT_BYTES_MAX: u64 = 6 << 20;

/// Requests to the snapshot that a source has taken and that are not withdrawn: a crash tells them all again, and a source remembers
/// the last 32 that it took.
const TAKEN_MAX: usize = 16;

/// A source task, run after run.
pub struct SourceTaskRun {
    /// What to run.
    pub plan: Box<dyn SourcePlan>,
    /// What every task has.
    pub shared: TaskShared,
    /// Its meters.
    pub metrics: SourceTaskMetrics,
    /// Runs so far.
    pub runs: u64,
    /// What the next run is, for the source: what a start of the connector means for it is durable with the first commit.
    pub start: StartReason,
}

impl Runnable for SourceTaskRun {
    fn run<'a>(&'a mut self, stop: &'a CancellationToken) -> BoxFuture<'a, Run> {
        async move {
            let mut committed_any = false;
            if self.runs > 0 {
                self.metrics.task.restarted();
            }
            self.runs += 1;
            let outcome = self.once(stop, &mut committed_any).await;
            self.metrics.run_ended();
            if committed_any {
                self.start = StartReason::Retry;
            }
            if let Err(error) = &outcome {
                self.metrics.task.failed(error.code);
            }
            Run { outcome, committed_any }
        }
        .boxed()
    }
}

impl SourceTaskRun {
    async fn once(
        &mut self,
        stop: &CancellationToken,
        committed_any: &mut bool,
    ) -> Result<(), ConnectorError> {
        let shared = &self.shared;
        let id = format!("{}-{}", shared.connector, shared.task);
        // First the fence, then the stored offsets: nothing of an older run can commit in between.
        let writer =
            shared.log.writer(&id).await.map_err(|e| log_failure("open the topic log's writer", e))?;
        let resume = shared
            .log
            .source_offsets(&shared.connector)
            .await
            .map_err(|e| log_failure("read stored offsets", e))?;
        let cx = shared.context(self.start);
        let source = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            source = self.plan.start(resume, cx) => source?,
        };
        let run_id = uuid::Uuid::new_v4().to_string();
        let mut run = SourceLoop {
            source,
            writer,
            encoder: EventEncoder::new(
                Arc::clone(&shared.registry),
                shared.subjects,
                shared.task,
                &run_id,
                shared.transforms.build()?.map(|chain| SourceChain::new(chain, shared.tap.clone())),
            ),
            dead_letters: DeadLetters::new(
                Arc::clone(&shared.log),
                shared.policy.clone(),
                &shared.connector,
                shared.task,
            ),
            group: RecordGroup::default(),
            offsets: None,
            unwritten: (0, 0),
            taken: Vec::new(),
            remembered: Vec::new(),
            told: BTreeSet::new(),
            withdrawn: 0,
            in_flight: FuturesOrdered::new(),
            in_flight_bytes: 0,
            shared,
            metrics: &self.metrics,
            committed_any,
        };
        run.drive(stop).await?;
        run.finish().await
    }
}

/// A commit that was answered.
struct Answer {
    outcome: Result<(), CommitError>,
    offsets: SourceOffsets,
    write: SourceWrite,
    requests: Vec<SnapshotRequest>,
}

struct SourceLoop<'a> {
    source: Box<dyn AnySourceTask>,
    writer: Box<dyn LogWriter>,
    encoder: EventEncoder,
    dead_letters: DeadLetters,
    group: RecordGroup,
    /// Offsets after the group's records; `None` while nothing waits to be committed.
    offsets: Option<SourceOffsets>,
    /// Changes and transaction ends of the group's batches.
    unwritten: (u64, u64),
    /// Requests that the source took and that no batch remembers yet; then those that `offsets` remember.
    taken: Vec<SnapshotRequest>,
    remembered: Vec<SnapshotRequest>,
    /// Ids of the requests that the source was told in this run.
    told: BTreeSet<String>,
    /// How many of those are withdrawn.
    withdrawn: usize,
    in_flight: FuturesOrdered<BoxFuture<'static, Answer>>,
    in_flight_bytes: u64,
    shared: &'a TaskShared,
    metrics: &'a SourceTaskMetrics,
    committed_any: &'a mut bool,
}

enum Event {
    Stop,
    Asked,
    Answered(Answer),
    Polled(Box<SourceBatch>),
}

impl SourceLoop<'_> {
    async fn drive(&mut self, stop: &CancellationToken) -> Result<(), ConnectorError> {
        let asked = Arc::clone(&self.shared.asked);
        // What was asked while nobody ran the source.
        asked.notify_one();
        loop {
            if self.should_append() {
                self.append().await?;
            }
            let room = self.group.bytes() < GROUP_BYTES_MAX;
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => Event::Stop,
                () = asked.notified() => Event::Asked,
                Some(answer) = self.in_flight.next(), if !self.in_flight.is_empty() => Event::Answered(answer),
                batch = self.source.poll(), if room => Event::Polled(Box::new(batch?)),
            };
            match event {
                Event::Stop => return Ok(()),
                Event::Asked => tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    taken = self.take_requests() => taken?,
                },
                Event::Answered(answer) => self.answered(answer).await?,
                Event::Polled(batch) => self.accept(*batch).await?,
            }
        }
    }

    /// Commits what is in hand, tells the source, and closes it.
    async fn finish(&mut self) -> Result<(), ConnectorError> {
        if self.offsets.is_some() {
            self.append().await?;
        }
        while let Some(answer) = self.in_flight.next().await {
            self.answered(answer).await?;
        }
        self.source.close().await
    }

    fn should_append(&self) -> bool {
        self.offsets.is_some()
            && match self.in_flight.len() {
                0 => true,
                n => {
                    n < IN_FLIGHT_MAX
                        && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX
                        && self.group.bytes() >= GROUP_BYTES_EAGER
                }
            }
    }

    async fn accept(&mut self, batch: SourceBatch) -> Result<(), ConnectorError> {
        self.metrics.polled(batch.changes.len() as u64);
        self.shared.status.busy(true);
        let mut from = 0;
        loop {
            let encoded = self
                .encoder
                .encode(batch.changes.as_ref(), from, self.writer.as_mut(), &mut self.group)
                .await?;
            let Some(refused) = encoded.refused else { break };
            from = refused.ordinal + 1;
            self.dispose(refused).await?;
        }
        self.unwritten.0 += batch.changes.len() as u64;
        self.unwritten.1 += u64::from(batch.ends_transaction);
        self.offsets.get_or_insert_default().extend(batch.offsets);
        self.remembered.append(&mut self.taken);
        Ok(())
    }

    /// Tells the source what was asked of its snapshot. Cancel-safe, as the source is.
    async fn take_requests(&mut self) -> Result<(), ConnectorError> {
        let shared = self.shared;
        let state = shared.log.state();
        let waiting = requests::waiting(state, &shared.connector).await;
        for request in waiting.map_err(|e| log_failure("read what was asked of the snapshot", e))? {
            if self.told.contains(&request.id) {
                continue;
            }
            if self.told.len() - self.withdrawn >= TAKEN_MAX {
                // The rest is looked at when these are withdrawn.
                return Ok(());
            }
            match self.source.snapshot(&request).await {
                Ok(()) => {
                    tracing::info!(
                        request = request.id,
                        action = request.action.word(),
                        "snapshot request taken"
                    );
                    self.told.insert(request.id.clone());
                    self.taken.push(request);
                }
                Err(error) if error.class == Class::Transient => return Err(error),
                Err(error) => {
                    tracing::warn!(request = request.id, error = %Chain(&error), code = error.code, "snapshot request dropped");
                    withdraw(shared, &[request]).await?;
                }
            }
        }
        Ok(())
    }

    async fn dispose(&mut self, refused: Refused) -> Result<(), ConnectorError> {
        let topic = self.shared.policy.dead_letter_topic.as_deref();
        let letters = letters_of(refused, self.encoder.common(), &self.shared.registry, topic).await?;
        let written = self.dead_letters.dispose(&letters).await?;
        self.metrics.task.dead_lettered(written as u64);
        self.metrics.task.skipped(u64::from(written == 0));
        Ok(())
    }

    async fn append(&mut self) -> Result<(), ConnectorError> {
        let Some(offsets) = self.offsets.take() else { return Ok(()) };
        let group = std::mem::take(&mut self.group);
        let (changes, transactions) = std::mem::take(&mut self.unwritten);
        let requests = std::mem::take(&mut self.remembered);
        let meter = SourceWrite {
            changes,
            records: group.records,
            bytes: group.bytes() as u64,
            transactions,
            commit_ms: group.commit_ms,
        };
        let write = WriteGroup {
            batches: group.into_batches(),
            source_offsets: Some((self.shared.connector.clone(), offsets.clone())),
        };
        let pending =
            self.writer.append(write).await.map_err(|e| commit_failure("commit to the topic log", e))?;
        self.in_flight_bytes += meter.bytes;
        let answer = async move { Answer { outcome: pending.await, offsets, write: meter, requests } };
        self.in_flight.push_back(answer.boxed());
        Ok(())
    }

    async fn answered(&mut self, answer: Answer) -> Result<(), ConnectorError> {
        answer.outcome.map_err(|e| commit_failure("commit to the topic log", e))?;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(answer.write.bytes);
        *self.committed_any = true;
        self.shared.status.committed(answer.write.records);
        self.shared.status.busy(self.offsets.is_some() || !self.in_flight.is_empty());
        self.metrics.durable(&answer.write, SystemTime::now());
        if !answer.requests.is_empty() {
            withdraw(self.shared, &answer.requests).await?;
            self.withdrawn += answer.requests.len();
            self.shared.asked.notify_one();
        }
        self.source.committed(&answer.offsets).await
    }
}

/// What was asked of the snapshot is done with.
async fn withdraw(shared: &TaskShared, done: &[SnapshotRequest]) -> Result<(), ConnectorError> {
    let withdrawn = requests::withdraw(shared.log.state(), &shared.connector, done).await;
    withdrawn.map_err(|e| log_failure("withdraw a snapshot request", e))
}
