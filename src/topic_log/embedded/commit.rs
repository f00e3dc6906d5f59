//! The log thread: takes what waits, writes it, syncs it, commits it, answers.
//!
//! One thread owns the active segment and the database's write transactions, so groups are ordered by construction.
//! A group is answered `Ok` only after both syncs; `Aborted` only when nothing of it can come back (its commit frame
//! was not written, or the segment was cut behind it and abandoned); anything else is `Unknown`. A writer whose group
//! was not answered `Ok` is poisoned until it is opened again, so what it had queued behind cannot leave a gap.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use super::{
    config::Failpoint,
    frame::{HEADER_BYTES, Op},
    group::WriteFailure,
    open::{self, DirLock, Disk},
    segment::{self, io_error},
    shared::{Append, Message, Shared, Write},
    tables::{self, meta},
};
use crate::topic_log::{CommitError, LogError};

/// Most bytes of records in one commit, unless a single group has more.
const ROUND_BYTES: u64 = 8 << 20;
/// A commit that carried more than this means that bytes flow fast, and that waiting for company pays.
const BUSY_BYTES: u64 = 64 << 10;
/// How often a log that could not be reopened is tried again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// What the log thread owns.
pub(super) struct LogThread {
    pub(super) shared: Arc<Shared>,
    pub(super) receiver: Receiver<Message>,
    pub(super) disk: Disk,
    /// Held until the thread ends.
    pub(super) lock: DirLock,
    pub(super) work: Work,
}

/// What it remembers from one commit to the next.
pub(super) struct Work {
    /// Taken from the queue and not fitting the round it was taken in.
    held: Option<Message>,
    /// Groups that wait for room on the disk.
    stalled: VecDeque<Append>,
    poisoned: HashSet<Arc<str>>,
    /// Set while the log could not be reopened in place.
    broken: Option<LogError>,
    /// A group that may lie whole behind the end of the active segment and must not be rolled forward.
    pub(super) must_abandon: bool,
    last_began: Instant,
    last_bytes: u64,
    next_tick: Instant,
    pub(super) buffer: Vec<u8>,
}

/// What one commit holds.
#[derive(Default)]
pub(super) struct Round {
    pub(super) appends: Vec<Append>,
    writes: Vec<Write>,
    pub(super) bytes: u64,
}

enum Step {
    Round(Round),
    Control(super::shared::Control),
    Tick,
    Close(Option<tokio::sync::oneshot::Sender<()>>),
}

impl LogThread {
    pub(super) fn new(shared: Arc<Shared>, receiver: Receiver<Message>, disk: Disk, lock: DirLock) -> Self {
        let now = Instant::now();
        let work = Work {
            held: None,
            stalled: VecDeque::new(),
            poisoned: HashSet::new(),
            broken: None,
            must_abandon: false,
            last_began: now,
            last_bytes: 0,
            next_tick: now + shared.config.retention_interval,
            buffer: Vec::new(),
        };
        Self { shared, receiver, disk, lock, work }
    }

    /// Runs until the log is closed or nobody is left to ask.
    pub(super) fn run(mut self) {
        let gone = Gone(Arc::clone(&self.shared));
        self.measure();
        let reply = loop {
            match self.step() {
                Step::Round(round) => self.commit(round),
                Step::Control(control) => self.control(control),
                Step::Tick => self.tick(),
                Step::Close(reply) => break reply,
            }
        };
        for append in std::mem::take(&mut self.work.stalled) {
            answer(append.reply, Err(CommitError::Aborted(LogError::Closed)));
        }
        drop(gone);
        drop(self.lock);
        if let Some(reply) = reply {
            answer(reply, ());
        }
    }

    /// Waits for something to do.
    fn step(&mut self) -> Step {
        let mut round = Round::default();
        self.unstall(&mut round);
        loop {
            let message = match self.work.held.take() {
                Some(message) => Ok(message),
                None => self.receive(&round),
            };
            let idle = round.appends.is_empty() && round.writes.is_empty();
            match message {
                Ok(Message::Append(append)) if !self.work.stalled.is_empty() => self.stall(append),
                Ok(Message::Append(append)) => {
                    let bytes = bytes_of(&append);
                    if bytes > 0 && round.bytes == 0 && !self.has_room() {
                        self.stall(append);
                    } else if !idle && round.bytes + bytes > ROUND_BYTES {
                        self.work.held = Some(Message::Append(append));
                        return Step::Round(round);
                    } else {
                        round.bytes += bytes;
                        round.appends.push(append);
                    }
                }
                Ok(Message::Write(write)) => round.writes.push(write),
                Ok(other) if !idle => {
                    self.work.held = Some(other);
                    return Step::Round(round);
                }
                Ok(Message::Control(control)) => return Step::Control(control),
                Ok(Message::Close(reply)) => return Step::Close(Some(reply)),
                Err(_) if !idle => return Step::Round(round),
                Err(RecvTimeoutError::Timeout) => return Step::Tick,
                Err(RecvTimeoutError::Disconnected) => return Step::Close(None),
            }
        }
    }

    /// The next message. With nothing in hand it waits until the next tick; with something, only while waiting for
    /// company pays.
    fn receive(&self, round: &Round) -> Result<Message, RecvTimeoutError> {
        let now = Instant::now();
        if round.appends.is_empty() && round.writes.is_empty() {
            return self.receiver.recv_timeout(self.work.next_tick.saturating_duration_since(now));
        }
        let company = self.work.last_began + self.shared.config.commit_interval;
        let busy = self.work.last_bytes > BUSY_BYTES && round.bytes > 0 && round.bytes < ROUND_BYTES;
        if busy && company > now {
            return self.receiver.recv_timeout(company - now);
        }
        self.receiver.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// Lets a group wait for room, and looks for it sooner.
    fn stall(&mut self, append: Append) {
        self.work.stalled.push_back(append);
        let soon = Instant::now() + self.shared.config.retention_interval / 10;
        self.work.next_tick = self.work.next_tick.min(soon);
    }

    /// Takes up groups that waited for room, when there is some.
    fn unstall(&mut self, round: &mut Round) {
        if self.work.stalled.is_empty() || !self.has_room() {
            return;
        }
        while let Some(append) = self.work.stalled.pop_front() {
            let bytes = bytes_of(&append);
            if !round.appends.is_empty() && round.bytes + bytes > ROUND_BYTES {
                self.work.stalled.push_front(append);
                return;
            }
            round.bytes += bytes;
            round.appends.push(append);
        }
    }

    /// Whether writers may go on: two segments' worth of free space. Says so in `health` when not.
    fn has_room(&self) -> bool {
        let config = &self.shared.config;
        let needed = config.segment_bytes.saturating_mul(2);
        let free = config.failpoints.hit(Failpoint::FreeSpace).and_then(|()| {
            let stat = rustix::fs::statvfs(&config.dir)?;
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        });
        let free = free.unwrap_or(0);
        let mut health = self.shared.health();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        health.values.insert("free_bytes", free as f64);
        let blocked = (free < needed).then(|| {
            format!(
                "no space left: {} MiB free of the {} MiB needed in {}; writers wait, free some space",
                free >> 20,
                needed >> 20,
                config.dir.display()
            )
        });
        if blocked.is_some() != health.blocked.is_some() {
            match &blocked {
                Some(message) => tracing::error!("{message}"),
                None => tracing::info!("there is space again, writers go on"),
            }
        }
        health.blocked = blocked;
        free >= needed
    }

    /// Housekeeping: reopening a log that is broken, retention, the reserve.
    fn tick(&mut self) {
        let config = &self.shared.config;
        let soon = config.retention_interval / 10;
        let waits = !self.work.stalled.is_empty();
        self.work.next_tick = Instant::now()
            + if self.work.broken.is_some() {
                REOPEN_EVERY.min(soon)
            } else if waits {
                soon
            } else {
                config.retention_interval
            };
        if self.work.broken.is_some() {
            self.mend();
        }
        if self.work.broken.is_some() {
            return;
        }
        if let Err(error) = self.retire() {
            tracing::warn!(%error, "retention could not run");
        }
        // The sooner tick is for those who wait; the reserve must not take their room.
        if !waits && self.has_room() {
            open::keep_reserve(&self.shared.config.dir);
        }
    }

    fn commit(&mut self, mut round: Round) {
        let began = Instant::now();
        if let Some(error) = &self.work.broken {
            let error = again(error);
            self.abort(std::mem::take(&mut round.appends), &error);
            return refuse(round.writes, &error);
        }
        self.turn_away(&mut round);
        let written = match self.write(&round) {
            Ok(written) => written,
            Err(WriteFailure::Aborted(error)) => {
                self.abort(std::mem::take(&mut round.appends), &error);
                None
            }
            Err(WriteFailure::Unknown(error)) => {
                self.unknown(round.appends, &error);
                refuse(round.writes, &error);
                return self.settle(error);
            }
        };
        if round.appends.is_empty() && round.writes.is_empty() {
            return;
        }
        let mut ops: Vec<Op> = match &written {
            Some(written) => written.ops.clone(),
            None => round.appends.iter_mut().flat_map(|a| std::mem::take(&mut a.ops)).collect(),
        };
        ops.extend(round.writes.iter_mut().flat_map(|w| std::mem::take(&mut w.ops)));
        if let Some(written) = &written {
            ops.extend([meta("end", written.end), meta("commit_no", self.disk.commit_no + 1)]);
        }
        if let Err(error) = self.commit_state(&ops) {
            self.unknown(round.appends, &error);
            refuse(round.writes, &error);
            return self.reopen();
        }
        let records = written.as_ref().map_or(0, |w| w.records);
        let bytes = written.as_ref().map_or(0, |w| w.end - self.disk.end);
        if let Some(written) = written {
            self.publish(&written);
        }
        (self.work.last_began, self.work.last_bytes) = (began, bytes);
        self.count(began, records, bytes);
        for append in round.appends {
            answer(append.reply, Ok(()));
        }
        for write in round.writes {
            answer(write.reply, Ok(()));
        }
    }

    /// One durable transaction of the state database.
    pub(super) fn commit_state(&self, ops: &[Op]) -> Result<(), LogError> {
        self.shared.with_db(|db| tables::commit(db, ops))?;
        self.hit(Failpoint::StateCommitted).map_err(|e| io_error("commit".into(), e))
    }

    /// Answers groups of writers that may not append, before anything is written.
    fn turn_away(&mut self, round: &mut Round) {
        let (writers, poisoned) = (&self.disk.writers, &self.work.poisoned);
        let (good, bad): (Vec<_>, Vec<_>) =
            std::mem::take(&mut round.appends).into_iter().partition(|append| {
                writers.get(append.writer.as_ref()) == Some(&append.epoch)
                    && !poisoned.contains(&append.writer)
            });
        round.appends = good;
        for append in bad {
            let fenced = writers.get(append.writer.as_ref()) != Some(&append.epoch);
            let error = if fenced {
                CommitError::Fenced
            } else {
                CommitError::Aborted(LogError::Refused(format!(
                    "an earlier group of writer `{}` did not commit; open the writer again",
                    append.writer
                )))
            };
            answer(append.reply, Err(error));
        }
    }

    fn abort(&mut self, appends: Vec<Append>, error: &LogError) {
        for append in appends {
            self.work.poisoned.insert(Arc::clone(&append.writer));
            answer(append.reply, Err(CommitError::Aborted(again(error))));
        }
    }

    fn unknown(&mut self, appends: Vec<Append>, error: &LogError) {
        for append in appends {
            self.work.poisoned.insert(Arc::clone(&append.writer));
            answer(append.reply, Err(CommitError::Unknown(again(error))));
        }
    }

    /// The writer was opened again, so it has read where it stands.
    pub(super) fn absolve(&mut self, writer: &str) {
        self.work.poisoned.remove(writer);
    }

    pub(super) fn broken(&self) -> Option<LogError> {
        self.work.broken.as_ref().map(again)
    }

    pub(super) fn hit(&self, point: Failpoint) -> std::io::Result<()> {
        self.shared.config.failpoints.hit(point)
    }

    /// After an unknown outcome: nothing is answered until it is known. What was never synced must be abandoned, not
    /// rolled forward; anything else recovery reads from the disk.
    fn settle(&mut self, error: LogError) {
        if !self.work.must_abandon {
            return self.reopen();
        }
        self.shared.health().blocked = Some(error.to_string());
        self.work.broken = Some(error);
        self.work.next_tick = Instant::now() + REOPEN_EVERY;
    }

    /// Tries again to leave the broken state.
    fn mend(&mut self) {
        if !self.work.must_abandon {
            return self.reopen();
        }
        match self.abandon_tail() {
            Ok(()) => self.work.broken = None,
            Err(error) => tracing::error!(%error, "could not abandon a segment; it will be tried again"),
        }
    }

    /// Closes the database, and opens the log again where it lies: what is committed is read, not guessed.
    pub(super) fn reopen(&mut self) {
        self.shared.replace_db(None);
        let config = self.shared.config.clone();
        if let Err(error) = segment::remove(&config.dir.join("reserve")) {
            tracing::warn!(%error, "could not give up the reserve");
        }
        match open::recover(&config) {
            Ok(recovered) => {
                self.disk = recovered.disk;
                self.shared.replace_db(Some(recovered.db));
                self.shared.publish(|view| *view = recovered.view);
                self.work.broken = None;
                self.work.must_abandon = false;
                tracing::warn!("reopened the topic log in place");
            }
            Err(error) => {
                tracing::error!(%error, "could not reopen the topic log; it will be tried again");
                self.shared.health().blocked = Some(error.to_string());
                self.work.broken = Some(error);
                self.work.next_tick = Instant::now() + REOPEN_EVERY;
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "metrics")]
    fn count(&self, began: Instant, records: u64, bytes: u64) {
        let mut health = self.shared.health();
        let values = &mut health.values;
        for (name, more) in [
            ("commits_total", 1.0),
            ("commit_seconds_sum", began.elapsed().as_secs_f64()),
            ("records_total", records as f64),
            ("bytes_written_total", bytes as f64),
        ] {
            *values.entry(name).or_insert(0.0) += more;
        }
        values.insert("group_bytes_last", bytes as f64);
    }

    /// Looks at what the segments take on disk.
    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    pub(super) fn measure(&self) {
        use std::os::unix::fs::MetadataExt;
        let dir = &self.shared.config.dir;
        let bases = self.disk.sealed.keys().copied().chain([self.disk.base]);
        let blocks =
            bases.filter_map(|base| Some(std::fs::metadata(segment::path(dir, base)).ok()?.blocks()));
        let bytes = blocks.sum::<u64>() * 512;
        let mut health = self.shared.health();
        health.values.insert("segments", (self.disk.sealed.len() + 1) as f64);
        health.values.insert("bytes_on_disk", bytes as f64);
    }
}

/// Marks the log closed when the thread ends, in whatever way.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        drop(self.0.hang_up());
        self.0.writer_budget.close();
        self.0.replace_db(None);
        if std::thread::panicking() {
            self.0.health().blocked = Some("the log thread has panicked: restart the worker".into());
        }
        self.0.published.send_modify(|n| *n += 1);
    }
}

fn bytes_of(append: &Append) -> u64 {
    append.batches.iter().map(|b| (HEADER_BYTES + b.records.len_bytes()) as u64).sum()
}

/// Nobody may wait any more; that is theirs to decide.
pub(super) fn answer<T>(reply: tokio::sync::oneshot::Sender<T>, outcome: T) {
    drop(reply.send(outcome));
}

fn refuse(writes: Vec<Write>, error: &LogError) {
    for write in writes {
        answer(write.reply, Err(again(error)));
    }
}

/// The same error for one more who waits.
pub(super) fn again(error: &LogError) -> LogError {
    match error {
        LogError::Locked { message } => LogError::Locked { message: message.clone() },
        LogError::Corrupt { message } => LogError::Corrupt { message: message.clone() },
        LogError::DiskFull { message } => LogError::DiskFull { message: message.clone() },
        LogError::Io { attempt, source } => LogError::Io {
            attempt: attempt.clone(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
        LogError::State(message) => LogError::State(message.clone()),
        LogError::OffsetOutOfRange { partition, offset, start, end } => LogError::OffsetOutOfRange {
            partition: partition.clone(),
            offset: *offset,
            start: *start,
            end: *end,
        },
        LogError::Refused(message) => LogError::Refused(message.clone()),
        LogError::Closed => LogError::Closed,
    }
}
