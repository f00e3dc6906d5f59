//! The reader thread: owns the replication connection, frames what comes, and speaks to the server.
//!
//! Why a thread of its own: reading lazily, with pauses of half a millisecond while much is coming, finds tens of
//! kilobytes at each wake-up where an eager reader is woken for nearly every row; tokio's timer is too coarse for that.
//! What it guarantees:
//! - the server hears from us at least every `status_interval`, also while the queue is full;
//! - it never hears of a flushed position that is above what `committed` said, or above what it sent itself;
//! - batches end when they are large enough, or when nothing more is there to read and the task is waiting, so an idle
//!   stream adds no latency.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rowstream_api::{
    Attempting, ConnectorError,
    queue::{self, Receiver, Sender},
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub use super::assemble::RawBatch;
use super::assemble::{Assembler, Position};
use crate::{
    connection::ConnectionPlan,
    ident::QuotedIdent,
    offset::Lsn,
    replication::{Purpose, RawConnection, malformed, server_error},
    wire::{
        copy::{Reply, Status},
        frame::ServerMessage,
    },
};

/// How long a reader that reads much sleeps between reads (postgres.md section 8).
const PAUSE: Duration = Duration::from_micros(500);
/// From this rate on pausing pays: 4 KiB a pause.
const BUSY_BYTES_PER_WINDOW: usize = 40 << 10;
/// Over which time the rate is measured.
const WINDOW: Duration = Duration::from_millis(5);
/// A read this large says that we are the slow side.
const LARGE_READ_BYTES: usize = 60 << 10;
/// An idle stream's position moves this often.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);
/// How often the server is asked for its position while somebody waits for it.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// A fresher flushed position is told this often while the stream is busy.
const ACK_INTERVAL: Duration = Duration::from_millis(100);
/// Silence after which the server is asked for a sign of life, and after three times which it is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a slot may stay busy after its last user went away.
const BUSY_SLOT: Duration = Duration::from_secs(10);
/// How long a clean end may take.
const FAREWELL: Duration = Duration::from_millis(1000);

/// What to stream.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// The server.
    pub connection: ConnectionPlan,
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Where to start.
    pub from: Position,
    /// The system identifier that the position belongs to.
    pub system_id: String,
    /// A batch ends at this size.
    pub batch_bytes: usize,
    /// The queue's bound.
    pub queue_bytes: usize,
    /// Longest time between status updates.
    pub status_interval: Duration,
}

const RUN: u8 = 0;
const CLOSE: u8 = 1;
const ABANDON: u8 = 2;

/// What the task tells the reader.
#[derive(Debug, Default)]
pub struct Control {
    flushed: AtomicU64,
    wanted: AtomicU64,
    received: AtomicU64,
    stop: AtomicU8,
    wake: Notify,
}

impl Control {
    /// Everything below `lsn` is durable in the topic log.
    pub fn flushed(&self, lsn: u64) {
        if self.flushed.fetch_max(lsn, Ordering::SeqCst) < lsn {
            self.wake.notify_one();
        }
    }
    /// Somebody waits for the stream's position to reach `lsn`, even if nothing else happens.
    pub fn want(&self, lsn: u64) {
        if self.wanted.fetch_max(lsn, Ordering::SeqCst) < lsn {
            self.wake.notify_one();
        }
    }
    /// How far the server has sent.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
    fn stop(&self, how: u8) {
        self.stop.fetch_max(how, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

/// A running reader. Dropping it ends the thread without a farewell.
pub struct Reader {
    /// Batches.
    pub batches: Receiver<RawBatch>,
    /// The flushed position and more.
    pub control: Arc<Control>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Reader {
    /// Starts the thread and waits until the stream is open.
    ///
    /// # Errors
    /// Why it can't be opened.
    pub async fn start(plan: StreamPlan) -> Result<Self, ConnectorError> {
        let (sender, batches) = queue::queue(plan.queue_bytes);
        let control = Arc::new(Control::default());
        control.flushed.store(plan.from.lsn, Ordering::SeqCst);
        let (opened, is_open) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let reader = Self { batches, control: Arc::clone(&control), ended: Some(ended) };
        let name = format!("pg-reader:{}", plan.slot);
        std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                run_thread(&plan, &sender, &control, opened);
                // Nobody may be waiting any more; that is fine.
                drop(done);
            })
            .map_err(|e| ConnectorError::transient("THREAD", "can't start the reader thread").because(e))?;
        is_open.await.map_err(|e| {
            ConnectorError::transient("THREAD", "the reader thread ended at once").because(e)
        })??;
        Ok(reader)
    }

    /// Tells the server the last flushed position and ends the thread.
    pub async fn close(&mut self) {
        self.control.stop(CLOSE);
        if let Some(ended) = self.ended.take() {
            // An error here means that the thread is gone, which is what was asked for.
            drop(tokio::time::timeout(FAREWELL * 3, ended).await);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.control.stop(ABANDON);
    }
}

fn run_thread(
    plan: &StreamPlan,
    sender: &Sender<RawBatch>,
    control: &Control,
    opened: oneshot::Sender<Result<(), ConnectorError>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            sender
                .end(ConnectorError::transient("THREAD", "can't build the reader's runtime").because(error));
            return;
        }
    };
    runtime.block_on(async {
        let mut stream = match Stream::open(plan, sender, control).await {
            Ok(stream) => {
                drop(opened.send(Ok(())));
                stream
            }
            Err(error) => {
                drop(opened.send(Err(error)));
                return;
            }
        };
        if let Err(error) = stream.run().await {
            sender.end(error);
        }
    });
}

/// What a step of the loop led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Go on.
    Continue,
    /// The task wants the stream to end.
    Stop,
}

struct Stream<'a> {
    plan: &'a StreamPlan,
    sender: &'a Sender<RawBatch>,
    control: &'a Control,
    connection: RawConnection,
    assembler: Assembler,
    last_status: Instant,
    last_received: Instant,
    last_ask: Instant,
    sent_flushed: u64,
    handed_lsn: u64,
    last_position: Instant,
    /// The server asked for a reply: the position must not wait.
    urgent: bool,
    window: (Instant, usize),
    /// Much is coming.
    busy: bool,
    /// The last read was so large that a pause would only let more pile up.
    behind: bool,
}

impl<'a> Stream<'a> {
    async fn open(
        plan: &'a StreamPlan,
        sender: &'a Sender<RawBatch>,
        control: &'a Control,
    ) -> Result<Self, ConnectorError> {
        let mut connection = RawConnection::connect(&plan.connection, Purpose::Replication).await?;
        let system = connection.rows("IDENTIFY_SYSTEM").await?;
        let id = system.first().and_then(|row| row.first()).cloned().flatten().unwrap_or_default();
        if id != plan.system_id {
            return Err(crate::offset::other_system(&plan.system_id, &id));
        }
        let publication = QuotedIdent::new(&plan.publication).to_string().replace('\'', "''");
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names '{publication}')",
            QuotedIdent::new(&plan.slot),
            Lsn(plan.from.lsn)
        );
        let deadline = Instant::now() + BUSY_SLOT;
        loop {
            match connection.start_copy(&command).await {
                Ok(()) => break,
                // The walsender of our own last connection may need a moment to notice that it is gone.
                Err(_) if connection.last_sqlstate == "55006" && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    return Err(crate::offset::cannot_start(&plan.slot, &connection.last_sqlstate, error));
                }
            }
        }
        let now = Instant::now();
        Ok(Self {
            plan,
            sender,
            control,
            connection,
            assembler: Assembler::new(plan.from),
            last_status: now,
            last_received: now,
            last_ask: now,
            sent_flushed: 0,
            handed_lsn: plan.from.lsn,
            last_position: now,
            urgent: false,
            window: (now, 0),
            busy: false,
            behind: false,
        })
    }

    async fn run(&mut self) -> Result<(), ConnectorError> {
        loop {
            let full = self.take_frames()?;
            let step = if full { self.hand_over().await? } else { self.read().await? };
            match (step, self.control.stop.load(Ordering::SeqCst)) {
                (Step::Continue, RUN) => {}
                (_, CLOSE) => return self.farewell().await,
                (Step::Continue | Step::Stop, _) => return Ok(()),
            }
            let flushed_moved = self.control.flushed.load(Ordering::SeqCst) > self.sent_flushed
                && self.last_status.elapsed() >= ACK_INTERVAL;
            if flushed_moved || self.last_status.elapsed() >= self.plan.status_interval {
                self.status(Reply::NotRequested).await?;
            }
        }
    }

    /// Takes in what was received; answers whether the batch is full.
    fn take_frames(&mut self) -> Result<bool, ConnectorError> {
        while let Some((tag, end)) = self.connection.front()? {
            match tag {
                b'd' => {
                    let reply_requested = self.assembler.message(self.connection.body(end))?;
                    self.urgent |= reply_requested;
                }
                b'E' => return Err(self.stream_error(end)),
                b'N' => self.notice(end)?,
                b'c' => return Err(ConnectorError::transient("PG_SHUTDOWN", "the server ended the stream")),
                _ => {}
            }
            self.connection.consume(end);
            if self.assembler.pending_bytes() >= self.plan.batch_bytes {
                return Ok(true);
            }
        }
        self.control.received.store(self.assembler.received, Ordering::Relaxed);
        Ok(false)
    }

    /// PostgreSQL 18 skips the rows of a publication that is missing, with a warning. That is a loss.
    fn notice(&self, end: usize) -> Result<(), ConnectorError> {
        let notice = ServerMessage::decode(self.connection.body(end)).map_err(malformed)?;
        if notice.sqlstate == "55000" && notice.message.contains(&self.plan.publication) {
            return Err(self.publication_missing(&notice.message));
        }
        tracing::debug!(sqlstate = notice.sqlstate, "the server sent a notice");
        Ok(())
    }

    /// An error inside the stream. One about the publication or the WAL stays, however often it is tried: the server
    /// looks the publication up as it was at that point of the WAL.
    fn stream_error(&self, end: usize) -> ConnectorError {
        let body = self.connection.body(end);
        match ServerMessage::decode(body) {
            Ok(said) if said.sqlstate == "42704" => self.publication_missing(&said.message),
            Ok(said) if said.sqlstate == "55000" => {
                crate::offset::cannot_start(&self.plan.slot, &said.sqlstate, server_error(body))
            }
            Ok(_) | Err(_) => server_error(body),
        }
    }

    fn publication_missing(&self, said: &str) -> ConnectorError {
        ConnectorError::fatal(
            "PG_PUBLICATION_MISSING",
            format!(
                "publication `{}` did not exist at a point of the WAL that is still to be read, so what was written \
                 then can't be captured: {said}",
                self.plan.publication
            ),
        )
        .remedy(
            "delete the connector's offsets and its slot to start over with a new snapshot; alter a publication \
             instead of dropping it",
        )
    }

    /// Hands the batch over, waiting for room; the server hears from us meanwhile.
    async fn hand_over(&mut self) -> Result<Step, ConnectorError> {
        while !self.sender.has_room() {
            let due = self.last_status + self.plan.status_interval;
            tokio::select! {
                () = self.sender.drained() => {}
                () = self.control.wake.notified() => {}
                () = tokio::time::sleep_until(due) => self.status(Reply::NotRequested).await?,
            }
            if self.control.stop.load(Ordering::SeqCst) != RUN {
                return Ok(Step::Stop);
            }
            if self.control.flushed.load(Ordering::SeqCst) > self.sent_flushed {
                self.status(Reply::NotRequested).await?;
            }
        }
        let batch = self.assembler.take();
        self.handed_lsn = batch.position.lsn;
        self.last_position = Instant::now();
        self.sender.push(batch);
        Ok(Step::Continue)
    }

    async fn read(&mut self) -> Result<Step, ConnectorError> {
        if self.busy && !self.behind {
            std::thread::sleep(PAUSE);
        }
        let now = tokio::select! {
            biased;
            read = self.connection.read_more() => Some(read?),
            () = std::future::ready(()) => None,
        };
        let Some(bytes) = now else { return self.idle().await };
        self.received(bytes);
        Ok(Step::Continue)
    }

    fn received(&mut self, bytes: usize) {
        self.last_received = Instant::now();
        self.window.1 += bytes;
        let elapsed = self.last_received.duration_since(self.window.0);
        if elapsed >= WINDOW {
            self.busy = self.window.1 >= BUSY_BYTES_PER_WINDOW && elapsed < WINDOW * 4;
            self.window = (self.last_received, 0);
        }
        self.behind = bytes >= LARGE_READ_BYTES;
    }

    /// Nothing is there to read.
    async fn idle(&mut self) -> Result<Step, ConnectorError> {
        let wanted = self.control.wanted.load(Ordering::SeqCst);
        let complete = self.assembler.complete_lsn();
        let moved = complete > self.handed_lsn;
        let position_due = moved
            && (self.urgent
                || (wanted > self.handed_lsn && complete >= wanted)
                || self.last_position.elapsed() >= POSITION_INTERVAL);
        // Much is coming, so more will be here in a moment: small batches would only cost.
        let lingers = self.busy && self.last_position.elapsed() < WINDOW;
        let changes_due = self.assembler.has_changes() && !lingers;
        if self.sender.is_empty() && (changes_due || position_due) {
            self.hand_over().await?;
        }
        if self.urgent || self.control.flushed.load(Ordering::SeqCst) > self.sent_flushed {
            self.urgent = false;
            self.status(Reply::NotRequested).await?;
        }
        let asking = wanted > self.assembler.complete_lsn();
        if asking && self.last_ask.elapsed() >= ASK_INTERVAL {
            self.last_ask = Instant::now();
            self.status(Reply::Requested).await?;
        }
        let silent = self.last_received.elapsed();
        if silent >= SILENCE * 3 {
            return Err(ConnectorError::transient(
                "PG_CONNECTION",
                format!("the server was silent for {silent:?}"),
            ));
        }
        let mut deadline = self.last_status + self.plan.status_interval;
        if moved && self.sender.is_empty() {
            deadline = deadline.min(self.last_position + POSITION_INTERVAL);
        }
        if lingers {
            deadline = deadline.min(self.last_position + WINDOW);
        }
        if asking {
            deadline = deadline.min(self.last_ask + ASK_INTERVAL);
        }
        let pending = self.assembler.has_changes() || moved;
        tokio::select! {
            read = self.connection.read_more() => {
                let bytes = read?;
                self.received(bytes);
            }
            () = self.control.wake.notified() => {}
            () = self.sender.drained(), if pending => {}
            () = tokio::time::sleep_until(deadline) => {
                if self.last_status.elapsed() >= self.plan.status_interval {
                    let reply = if silent >= SILENCE { Reply::Requested } else { Reply::NotRequested };
                    self.status(reply).await?;
                }
            }
        }
        Ok(Step::Continue)
    }

    async fn status(&mut self, reply: Reply) -> Result<(), ConnectorError> {
        let received = self.assembler.received;
        let flushed = self.control.flushed.load(Ordering::SeqCst);
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let clock_us = i64::try_from(micros).unwrap_or(i64::MAX);
        let status = Status { received, flushed: flushed.min(received), reply, clock_us };
        status.encode(self.connection.outbox());
        self.connection.flush().await?;
        self.last_status = Instant::now();
        self.sent_flushed = flushed;
        Ok(())
    }

    /// The last status, then the end of the copy; waits a moment for the server to agree, so that the slot is free.
    async fn farewell(&mut self) -> Result<(), ConnectorError> {
        self.status(Reply::NotRequested).await?;
        postgres_protocol::message::frontend::copy_done(self.connection.outbox());
        postgres_protocol::message::frontend::terminate(self.connection.outbox());
        self.connection.flush().await.attempting(|| "end the stream".to_owned())?;
        let closing = async {
            while self.connection.fill().await.is_ok() {
                while let Ok(Some((_, end))) = self.connection.front() {
                    self.connection.consume(end);
                }
            }
        };
        // Late is as good: the server notices the closed socket.
        drop(tokio::time::timeout(FAREWELL, closing).await);
        Ok(())
    }
}
