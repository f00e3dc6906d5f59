//! The reader thread: owns the binlog connection, frames what comes, and assembles batches.
//!
//! What it guarantees:
//! - nothing is read before the server was checked to hold everything after our position ([`crate::setup`]), on this very connection;
//! - batches end when they are large enough, or when the task is waiting and nothing more is there to read or they have become old,
//!   so that neither an idle stream nor one that is busy with what is not captured adds latency, or keeps the position from moving;
//! - a server that is silent for much longer than its heartbeats is given up. The server, for its part, is told to be patient
//!   with a reader whose queue is full.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use rowstream_api::{
    Attempting, ConnectorError,
    queue::{self, Receiver, Sender},
    snapshot::TableName,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    assemble::{Assembler, DefinitionPlan},
    batch::RawBatch,
    lookup,
    position::{BinlogPosition, Position},
};
use crate::{
    connection::{ConnectionPlan, Flavour},
    setup,
    source_config::TableFilter,
    transport::connection::{BinlogConnection, FAREWELL, Received, dump_from_position, dump_gtid},
    wire::gtid::GtidState,
};

/// An idle stream's position moves this often.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);
/// Changes wait no longer than this for their batch to fill while the task has nothing to do: among much that is not captured it may
/// never fill.
const CHANGES_INTERVAL: Duration = Duration::from_millis(20);
/// Silence after which the server is given up, at the least.
const SILENCE_MIN: Duration = Duration::from_secs(60);
/// How long the server lets us read nothing (`net_write_timeout`), in seconds.
const PATIENCE_SECONDS: u32 = 3600;
/// From this rate on lingering pays: much is coming, so more will be here in a moment.
const BUSY_BYTES_PER_WINDOW: usize = 40 << 10;
/// Over which time the rate is measured.
const WINDOW: Duration = Duration::from_millis(5);

/// What to stream.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// The server.
    pub connection: ConnectionPlan,
    /// Its flavour.
    pub flavour: Flavour,
    /// The server that the position belongs to: its uuid, where it has one.
    pub server_uuid: String,
    /// Our id.
    pub server_id: u32,
    /// Where to start.
    pub from: Position,
    /// Which tables.
    pub tables: TableFilter,
    /// A table whose rows are read, too: that of signals.
    pub signal: Option<TableName>,
    /// How statements that define something are passed on, if they are.
    pub definitions: Option<DefinitionPlan>,
    /// A batch ends at this size.
    pub batch_bytes: usize,
    /// The queue's bound.
    pub queue_bytes: usize,
    /// How often an idle server tells its position.
    pub heartbeat_interval: Duration,
}

const RUN: u8 = 0;
const STOP: u8 = 1;

/// What the task tells the reader.
#[derive(Debug, Default)]
pub struct Control {
    wanted: Mutex<Option<BinlogPosition>>,
    received: AtomicU64,
    stop: AtomicU8,
    position: Mutex<Option<BinlogPosition>>,
    wake: Notify,
}

impl Control {
    /// Somebody waits for the stream to reach a position, even if nothing that is captured happens until there.
    pub fn want(&self, position: Option<&BinlogPosition>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.as_ref() != position {
            *wanted = position.cloned();
            self.wake.notify_one();
        }
    }
    fn is_wanted(&self, reached: &BinlogPosition) -> bool {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.as_ref().is_some_and(|wanted| reached >= wanted)
    }
    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
    /// Where the stream stands.
    #[must_use]
    pub fn position(&self) -> Option<BinlogPosition> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn stop(&self) {
        self.stop.store(STOP, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

/// A running reader. Dropping it ends the thread.
pub struct Reader {
    /// Batches.
    pub batches: Receiver<RawBatch>,
    /// See [`Control`].
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
        let (opened, is_open) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let reader = Self { batches, control: Arc::clone(&control), ended: Some(ended) };
        std::thread::Builder::new()
            .name(format!("binlog-reader:{}", plan.server_id))
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

    /// Ends the thread.
    pub async fn close(&mut self) {
        self.control.stop();
        if let Some(ended) = self.ended.take() {
            // An error here means that the thread is gone, which is what was asked for.
            drop(tokio::time::timeout(FAREWELL * 4, ended).await);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.control.stop();
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
            let error =
                ConnectorError::transient("THREAD", "can't build the reader's runtime").because(error);
            drop(opened.send(Err(error)));
            return;
        }
    };
    runtime.block_on(async {
        let mut stream = match Stream::open(plan, sender, control).await {
            Ok(stream) => stream,
            Err(error) => {
                drop(opened.send(Err(error)));
                return;
            }
        };
        drop(opened.send(Ok(())));
        if let Err(error) = stream.run().await {
            sender.end(error);
        }
    });
}

/// Prepares the session and begins the stream at `from`.
///
/// # Errors
/// The server's.
pub(super) async fn dump(
    plan: &StreamPlan,
    connection: &mut BinlogConnection,
    from: &Position,
) -> Result<(), ConnectorError> {
    let period = plan.heartbeat_interval.as_nanos();
    connection
        .query(&format!(
            "SET @master_binlog_checksum = @@global.binlog_checksum, @source_binlog_checksum = @@global.binlog_checksum, \
             @master_heartbeat_period = {period}, @source_heartbeat_period = {period}"
        ))
        .await?;
    connection.query(&format!("SET net_write_timeout = {PATIENCE_SECONDS}")).await?;
    if plan.flavour == Flavour::MariaDb {
        connection.query("SET @mariadb_slave_capability = 4").await?;
    }
    let command = match &from.gtids {
        GtidState::Set(set) => dump_gtid(plan.server_id, "", 4, Some(&set.encode())),
        GtidState::Domains(domains) => {
            // The numbers of a position can't hold a quote.
            connection
                .query(&format!("SET @slave_connect_state = '{domains}', @slave_gtid_strict_mode = 1"))
                .await?;
            dump_from_position(plan.server_id, "", 4)
        }
        GtidState::Off => dump_at(plan.server_id, &from.at)?,
    };
    if plan.server_id != 0 {
        connection.register(plan.server_id).await.attempting(|| "register as a replica".into())?;
    }
    connection.begin_dump(&command).await
}

fn dump_at(server_id: u32, at: &BinlogPosition) -> Result<Vec<u8>, ConnectorError> {
    let offset = u32::try_from(at.offset).map_err(|_| {
        ConnectorError::fatal(
            "MYSQL_POSITION",
            format!("the protocol can't name the position {at}, beyond 4 GiB of a file"),
        )
        .remedy("turn on GTIDs, which have no such bound")
    })?;
    Ok(dump_from_position(server_id, &at.file, offset))
}

fn ended() -> ConnectorError {
    ConnectorError::transient("MYSQL_SHUTDOWN", "the server ended the stream")
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
    connection: BinlogConnection,
    assembler: Assembler,
    handed: BinlogPosition,
    last_position: Instant,
    last_received: Instant,
    window: (Instant, usize),
    /// Much is coming.
    busy: bool,
}

impl<'a> Stream<'a> {
    async fn open(
        plan: &'a StreamPlan,
        sender: &'a Sender<RawBatch>,
        control: &'a Control,
    ) -> Result<Self, ConnectorError> {
        let mut connection = BinlogConnection::connect(&plan.connection).await?;
        setup::check_position(&mut connection, plan).await?;
        let mut assembler = Assembler::new(plan.from.clone(), plan.tables.clone(), plan.flavour)
            .with_definitions(plan.definitions.clone())
            .with_signal(plan.signal.clone());
        if !matches!(plan.from.gtids, GtidState::Set(_)) {
            for prepared in &plan.from.prepared {
                assembler.adopt(lookup::fetch(plan, prepared).await?);
            }
        }
        dump(plan, &mut connection, &plan.from).await?;
        let now = Instant::now();
        let mut stream = Self {
            plan,
            sender,
            control,
            connection,
            assembler,
            // Nothing yet: the first position is handed over even when it has not moved, so that the task knows that this server agrees.
            handed: BinlogPosition::new("", 0),
            last_position: now,
            last_received: now,
            window: (now, 0),
            busy: false,
        };
        // The first packet says whether the server agrees.
        while stream.connection.front()?.is_none() {
            stream.read_within(plan.connection.config.connect_timeout).await?;
        }
        if let Some(framed) = stream.connection.front()? {
            stream.connection.received(framed).map(drop).map_err(|error| setup::cannot_start(plan, error))?;
        }
        Ok(stream)
    }

    async fn read_within(&mut self, limit: Duration) -> Result<(), ConnectorError> {
        let read = tokio::time::timeout(limit, self.connection.read_more()).await;
        let bytes = read.unwrap_or_else(|_| {
            Err(ConnectorError::transient("MYSQL_CONNECTION", format!("the server was silent for {limit:?}")))
        })?;
        self.received(bytes);
        Ok(())
    }

    async fn run(&mut self) -> Result<(), ConnectorError> {
        loop {
            let due = self.take_events().await? || self.is_overdue();
            let step = if due { self.hand_over().await? } else { self.read().await? };
            if step == Step::Stop || self.control.stop.load(Ordering::SeqCst) != RUN {
                self.connection.quit().await;
                return Ok(());
            }
        }
    }

    /// Takes in what was received; answers whether the batch is full.
    async fn take_events(&mut self) -> Result<bool, ConnectorError> {
        loop {
            while self.assembler.is_unpacking() {
                self.assembler.step()?;
                if self.assembler.pending_bytes() >= self.plan.batch_bytes {
                    return Ok(true);
                }
            }
            let Some(framed) = self.connection.front()? else { return Ok(false) };
            match self.connection.received(framed) {
                Ok(Received::Event(event)) => {
                    let taken = self.assembler.event(event);
                    match (taken, self.assembler.take_unknown()) {
                        (Err(error), Some(name)) => {
                            let found = lookup::find(self.plan, &name, self.assembler.complete()).await?;
                            let prepared = found.ok_or(error)?;
                            self.assembler.adopt(lookup::fetch(self.plan, &prepared).await?);
                            self.assembler.event(event)?;
                        }
                        (taken, _) => taken?,
                    }
                }
                Ok(Received::End) => return Err(ended()),
                Err(error) => return Err(setup::cannot_start(self.plan, error)),
            }
            self.connection.consume(framed);
            if self.assembler.pending_bytes() >= self.plan.batch_bytes {
                return Ok(true);
            }
        }
    }

    /// Whether the task waits for what is here, though more comes without a pause.
    fn is_overdue(&self) -> bool {
        let age = self.last_position.elapsed();
        let due = (self.assembler.has_changes() && age >= CHANGES_INTERVAL) || self.position_due(age);
        due && self.sender.is_empty()
    }

    /// Whether a position without changes is worth a batch.
    fn position_due(&self, age: Duration) -> bool {
        let complete = self.assembler.complete();
        *complete != self.handed && (age >= POSITION_INTERVAL || self.control.is_wanted(complete))
    }

    /// Hands the batch over, waiting for room.
    async fn hand_over(&mut self) -> Result<Step, ConnectorError> {
        while !self.sender.has_room() {
            tokio::select! {
                () = self.sender.drained() => {}
                () = self.control.wake.notified() => {}
            }
            if self.control.stop.load(Ordering::SeqCst) != RUN {
                return Ok(Step::Stop);
            }
        }
        let batch = self.assembler.take();
        self.handed = batch.position.at.clone();
        *self.control.position.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.handed.clone());
        self.last_position = Instant::now();
        self.sender.push(batch);
        Ok(Step::Continue)
    }

    fn received(&mut self, bytes: usize) {
        self.last_received = Instant::now();
        self.control.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.window.1 += bytes;
        let elapsed = self.last_received.duration_since(self.window.0);
        if elapsed >= WINDOW {
            self.busy = self.window.1 >= BUSY_BYTES_PER_WINDOW && elapsed < WINDOW * 4;
            self.window = (self.last_received, 0);
        }
    }

    async fn read(&mut self) -> Result<Step, ConnectorError> {
        let now = tokio::select! {
            biased;
            read = self.connection.read_more() => Some(read?),
            () = std::future::ready(()) => None,
        };
        let Some(bytes) = now else { return self.idle().await };
        self.received(bytes);
        Ok(Step::Continue)
    }

    /// Nothing is there to read.
    async fn idle(&mut self) -> Result<Step, ConnectorError> {
        let moved = *self.assembler.complete() != self.handed;
        let position_due = self.position_due(self.last_position.elapsed());
        let lingers = self.busy && self.last_position.elapsed() < WINDOW;
        let changes_due = self.assembler.has_changes() && !lingers;
        if self.sender.is_empty() && (changes_due || position_due) {
            return self.hand_over().await;
        }
        let limit = (self.plan.heartbeat_interval * 30).max(SILENCE_MIN);
        if self.last_received.elapsed() >= limit {
            let message = format!("the server was silent for {limit:?}, without heartbeats");
            return Err(ConnectorError::transient("MYSQL_CONNECTION", message));
        }
        let mut deadline = self.last_received + limit;
        if moved && self.sender.is_empty() {
            deadline = deadline.min(self.last_position + POSITION_INTERVAL);
        }
        if lingers {
            deadline = deadline.min(self.last_position + WINDOW);
        }
        let pending = self.assembler.has_changes() || moved;
        tokio::select! {
            read = self.connection.read_more() => {
                let bytes = read?;
                self.received(bytes);
            }
            () = self.control.wake.notified() => {}
            () = self.sender.drained(), if pending => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        Ok(Step::Continue)
    }
}
