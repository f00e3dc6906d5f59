//! The snapshot, beside the stream, in chunks of key order; in the shape of the PostgreSQL source's.
//!
//! ```text
//!  stream   ──u(k1)──────u(k2)────────────────────────────►│ position ≥ high │──u(k3)──►
//!  chunk         └ low; BEGIN snapshot; high; rows; COMMIT ┘                 └► rows whose keys no transaction
//!                                                                               touched that is not in low
//! ```
//! Why nothing is lost, doubled or stale (reference: mysql.md 4.1):
//! - Everything that the snapshot sees is in the binlog before `high`, and the chunk is delivered only after the stream has
//!   delivered everything before `high`: no older event follows a chunk's row.
//! - A row of the chunk can be stale only if a transaction that the snapshot does not see has been delivered already. `low` holds
//!   only transactions that it sees; the keys of all others are remembered ([`touched`]), and those rows are left out: the stream
//!   has told all about them.
//! - A key of which the stream told only a part (a minimal row image) can't be left out: the chunk is read again, smaller, until
//!   `low` has that transaction.
//! - A table ends at the key that was its last one when its first chunk was read, so that writers who append faster than chunks are
//!   read can't keep the snapshot going for ever: rows behind it were inserted by transactions that the stream delivers. (Not while
//!   the stream tells rows in part.)
//! - Progress is stored in the same log transaction as the chunk's rows, together with the stream's position.
//!
//! A table without a usable key is read under one snapshot with an exact position ([`whole`]) while the stream is held; what the
//! stream has of it before that position is later left out. A crash in the middle starts that table over, so that its rows may
//! then arrive twice.

pub mod chunk;
pub mod rows;
pub mod touched;
pub mod visibility;
pub mod whole;

use std::{pin::Pin, sync::Arc, time::Duration};

use rowstream_api::{Attempting, ConnectorError, Gauges};

use crate::{
    connection::ConnectionPlan, offset::SnapshotProgress, stream::position::BinlogPosition, table::TablePlan,
    wire::gtid::GtidState,
};
use chunk::{ChunkRequest, ReadChunk, SnapshotConnection};
use touched::Touched;
use visibility::Visible;
use whole::{OpenTable, Pieces};

/// How often a snapshot is taken again while it does not see what it must.
const RETAKE: Duration = Duration::from_millis(50);

/// Work in the background. It lives in the task, so that dropping a `poll` does not cut it in the middle.
type Work<T> = Pin<Box<dyn Future<Output = Result<T, ConnectorError>> + Send>>;

/// What the snapshot is doing.
pub enum Stage {
    /// Choose what to read next.
    Idle,
    /// A chunk is being read.
    Reading(Work<(SnapshotConnection, ReadChunk)>),
    /// A chunk waits for the stream to reach its `high`.
    Held(Box<ReadChunk>),
    /// The snapshot of a whole table is being taken; the stream is held.
    Opening(Work<OpenTable>),
    /// Rows of a whole table are being read; the stream is held.
    Pieces(Pieces),
}

/// A snapshot in progress.
pub struct SnapshotRun {
    /// What it is doing.
    pub stage: Stage,
    /// What the stream delivered meanwhile.
    pub touched: Touched,
    connection: Option<SnapshotConnection>,
    plan: ConnectionPlan,
    chunk_rows: u32,
    /// How much smaller chunks are read for now.
    shrink: u32,
    /// Bytes of a row of the table that is being read.
    bytes_per_row: Option<usize>,
    /// What was delivered before this run must be visible first.
    unsettled: Option<(GtidState, BinlogPosition)>,
}

impl SnapshotRun {
    /// Goes on where `progress` stands; `delivered` is the stream's position.
    #[must_use]
    pub fn new(
        plan: ConnectionPlan,
        chunk_rows: u32,
        progress: &SnapshotProgress,
        delivered: (GtidState, BinlogPosition),
        gauges: &Gauges,
    ) -> Self {
        gauges.set("snapshot_running", 1.0);
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
        gauges.set("snapshot_tables_total", progress.todo.len() as f64);
        gauges.set("snapshot_tables_done", 0.0);
        Self {
            stage: Stage::Idle,
            touched: Touched::default(),
            connection: None,
            plan,
            chunk_rows,
            shrink: 0,
            bytes_per_row: None,
            unsettled: Some(delivered),
        }
    }

    /// Whether the stream must wait.
    #[must_use]
    pub fn holds_stream(&self) -> bool {
        matches!(self.stage, Stage::Opening(_) | Stage::Pieces(_))
    }

    /// Starts to read the next chunk of a table with a key.
    pub fn read_chunk(&mut self, mut request: ChunkRequest) {
        if request.first {
            self.bytes_per_row = None;
        }
        request.rows = (chunk::rows_of_chunk(self.chunk_rows, self.bytes_per_row) >> self.shrink).max(1);
        let (connection, plan, unsettled) =
            (self.connection.take(), self.plan.clone(), self.unsettled.take());
        self.stage = Stage::Reading(Box::pin(async move {
            let mut connection = ready(connection, &plan, unsettled).await?;
            let chunk = chunk::read(&mut connection, request).await?;
            Ok((connection, chunk))
        }));
    }

    /// Starts to read a table at once. The caller holds the stream from now on.
    pub fn read_whole(&mut self, plan: Arc<TablePlan>, select: String) {
        let (connection, of, unsettled) = (self.connection.take(), self.plan.clone(), self.unsettled.take());
        self.stage = Stage::Opening(Box::pin(async move {
            let connection = ready(connection, &of, unsettled).await?;
            whole::open(connection, &of, plan, select).await
        }));
    }

    /// Waits for the work in the background, and answers rows that can be delivered. Cancel-safe. Pending for ever when
    /// there is no work.
    ///
    /// # Errors
    /// The work's.
    pub async fn work(&mut self) -> Result<Option<ReadChunk>, ConnectorError> {
        match &mut self.stage {
            Stage::Idle | Stage::Held(_) => std::future::pending().await,
            Stage::Reading(work) => {
                let (connection, chunk) = work.await.attempting(|| "read a chunk of the snapshot".into())?;
                self.connection = Some(connection);
                if !chunk.is_empty() {
                    self.bytes_per_row = chunk.bytes().checked_div(chunk.len());
                }
                self.touched.forget_visible(&chunk.visible);
                self.stage = Stage::Held(Box::new(chunk));
                Ok(None)
            }
            Stage::Opening(work) => {
                let table = work.await.attempting(|| "begin the snapshot of a table without a key".into())?;
                if self.touched.all_visible(&table.plan, &table.visible) {
                    self.stage = Stage::Pieces(Pieces::of(table));
                } else {
                    let of = self.plan.clone();
                    self.stage = Stage::Opening(Box::pin(async move {
                        let (plan, select) = (Arc::clone(&table.plan), table.select.clone());
                        let connection = whole::give_up(table).await?;
                        tokio::time::sleep(RETAKE).await;
                        whole::open(connection, &of, plan, select).await
                    }));
                }
                Ok(None)
            }
            Stage::Pieces(pieces) => {
                let piece = pieces.next().await.attempting(|| "read a table without a key".into())?;
                if piece.finished {
                    self.stage = Stage::Idle;
                }
                Ok(Some(piece))
            }
        }
    }

    /// The position that the held chunk waits for.
    #[must_use]
    pub fn waits_for(&self) -> Option<&BinlogPosition> {
        if let Stage::Held(chunk) = &self.stage { Some(&chunk.high) } else { None }
    }

    /// Takes the held chunk without its stale rows; `None` when it must be read again.
    ///
    /// # Errors
    /// A key that can't be read.
    pub fn release(&mut self) -> Result<Option<ReadChunk>, ConnectorError> {
        let Stage::Held(mut chunk) = std::mem::replace(&mut self.stage, Stage::Idle) else { return Ok(None) };
        if chunk.leave_out(&self.touched)? {
            self.shrink = self.shrink.saturating_sub(1);
            Ok(Some(*chunk))
        } else {
            self.shrink = (self.shrink + 2).min(31);
            Ok(None)
        }
    }
}

async fn ready(
    connection: Option<SnapshotConnection>,
    plan: &ConnectionPlan,
    unsettled: Option<(GtidState, BinlogPosition)>,
) -> Result<SnapshotConnection, ConnectorError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => chunk::connect(plan).await?,
    };
    if let Some((gtids, at)) = unsettled {
        settle(&mut connection, &gtids, &at).await?;
    }
    Ok(connection)
}

/// A transaction can be in the stream before it is visible, for as long as a semi-synchronous replica keeps it waiting. What was
/// delivered before this run is not remembered, so wait until it is visible.
async fn settle(
    connection: &mut SnapshotConnection,
    gtids: &GtidState,
    at: &BinlogPosition,
) -> Result<(), ConnectorError> {
    loop {
        let (visible, _) = chunk::begin(connection).await?;
        chunk::commit(connection).await?;
        let settled = match (&visible, gtids) {
            (Visible::Executed(executed), GtidState::Set(done)) => done.is_in(executed),
            // GTIDs were turned on since: what was delivered without them has long been visible.
            (Visible::Executed(_), GtidState::Domains(_) | GtidState::Off) => true,
            (Visible::Until(position), _) => position >= at,
        };
        if settled {
            return Ok(());
        }
        tokio::time::sleep(RETAKE).await;
    }
}

/// Moves the progress past a delivered chunk.
pub fn advance(progress: &mut SnapshotProgress, chunk: &ReadChunk, gauges: &Gauges) {
    progress.begun |= !chunk.is_empty();
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
    gauges.add("snapshot_rows", chunk.len() as f64);
    let chunked = chunk::is_chunkable(&chunk.plan);
    if chunk.finished {
        finish_table(progress, gauges);
        if !chunked {
            let seen = (chunk.high.file.as_ref().to_owned(), chunk.high.offset);
            progress.seen.insert(chunk.plan.name(), seen);
        }
    } else if chunked {
        progress.last_key.clone_from(&chunk.last_key);
        if chunk.end_key.is_some() {
            progress.end_key.clone_from(&chunk.end_key);
        }
    }
}

/// The first table is done (or gone).
pub fn finish_table(progress: &mut SnapshotProgress, gauges: &Gauges) {
    (progress.last_key, progress.end_key) = (None, None);
    if !progress.todo.is_empty() {
        progress.todo.remove(0);
        gauges.add("snapshot_tables_done", 1.0);
    }
}

/// A row that the stream told in part (a minimal row image) may have moved behind the table's end, where the snapshot must then
/// still find it.
pub fn look_behind_the_end(progress: &mut SnapshotProgress, touched: &Touched) {
    if progress.todo.first().is_some_and(|table| touched.told_in_part(table)) {
        progress.end_key = None;
    }
}

/// Forgets the tables read at once of which the stream, standing at `here`, can't bring anything any more that was seen.
pub fn forget_seen(progress: &mut SnapshotProgress, here: &BinlogPosition) {
    progress.seen.retain(|_, (file, pos)| BinlogPosition::new(file.as_str(), *pos) > *here);
}

/// Whether the snapshot that a table was read under saw what begins at this position.
#[must_use]
pub fn was_seen(progress: &SnapshotProgress, plan: &TablePlan, begins: &BinlogPosition) -> bool {
    progress
        .seen
        .get(&plan.name())
        .is_some_and(|(file, pos)| *begins < BinlogPosition::new(file.as_str(), *pos))
}
