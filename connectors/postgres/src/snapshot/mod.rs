//! The snapshot, beside the stream, in chunks of key order.
//!
//! ```text
//!  stream   ──u(k1)──────u(k2)────────────────────────►│ position ≥ high │──u(k3)──►
//!  chunk         └ BEGIN; S = pg_current_snapshot(); rows; COMMIT; high ┘ └► rows whose keys no transaction
//!                                                                          touched that S could not see
//! ```
//! Why nothing is lost, doubled or stale, whatever order commits become visible in:
//! - A transaction that S sees had its commit record before `high`, and the chunk is delivered only after the stream
//!   has delivered everything before `high`: no older event follows a chunk's row.
//! - A row of the chunk is stale only if a transaction that S does not see has been delivered already. Its keys are
//!   remembered ([`touched`]), and those rows are left out: the stream has told or will tell all about them.
//! - A key of which the stream told only a part (an unchanged TOAST value) can't be left out: the chunk is read again,
//!   smaller, until S sees that transaction.
//! - Progress is stored in the same log transaction as the chunk's rows, together with the stream's position.
//!
//! A table without a key is read under one snapshot S while the stream is held; what S saw is later left out of the
//! stream. A crash in the middle starts that table over, so that its rows may then arrive twice.

pub mod chunk;
pub mod rows;
pub mod touched;
pub mod visibility;

use std::{pin::Pin, sync::Arc, time::Duration};

use rowstream_api::{Attempting, ConnectorError, Gauges};

use crate::{
    connection::ConnectionPlan,
    offset::{SeenBy, SnapshotProgress},
    replication::{Purpose, RawConnection},
    table::TablePlan,
};
use chunk::{ChunkRequest, ReadChunk, TableReader};
use touched::Touched;
use visibility::Visible;

/// How often a snapshot is taken again while it does not see what it must.
const RETAKE: Duration = Duration::from_millis(50);

/// Work in the background. It lives in the task, so that dropping a `poll` does not cut it in the middle.
type Work<T> = Pin<Box<dyn Future<Output = Result<T, ConnectorError>> + Send>>;

/// What the snapshot is doing.
pub enum Stage {
    /// Choose what to read next.
    Idle,
    /// A chunk is being read.
    Reading(Work<(RawConnection, ReadChunk)>),
    /// A chunk waits for the stream to reach its `high`.
    Held(Box<ReadChunk>),
    /// A snapshot is being taken for a table without a key; the stream is held.
    Opening(Work<TableReader>),
    /// Rows of a table without a key are being read; the stream is held.
    Piece(Work<(TableReader, ReadChunk)>),
}

/// A snapshot in progress.
pub struct SnapshotRun {
    /// What it is doing.
    pub stage: Stage,
    /// What the stream delivered meanwhile.
    pub touched: Touched,
    connection: Option<RawConnection>,
    plan: ConnectionPlan,
    chunk_rows: u32,
    /// How much smaller chunks are read for now.
    shrink: u32,
    settled: bool,
}

impl SnapshotRun {
    /// Goes on where `progress` stands.
    #[must_use]
    pub fn new(plan: ConnectionPlan, chunk_rows: u32, progress: &SnapshotProgress, gauges: &Gauges) -> Self {
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
            settled: false,
        }
    }

    /// Whether the stream must wait.
    #[must_use]
    pub fn holds_stream(&self) -> bool {
        matches!(self.stage, Stage::Opening(_) | Stage::Piece(_))
    }

    /// Starts to read the next chunk of a table with a key.
    pub fn read_chunk(&mut self, mut request: ChunkRequest) {
        request.rows = (self.chunk_rows >> self.shrink).max(1);
        let (connection, plan, settled) = (self.connection.take(), self.plan.clone(), self.settled);
        self.settled = true;
        self.stage = Stage::Reading(Box::pin(async move {
            let mut connection = ready(connection, &plan, settled).await?;
            let chunk = chunk::read(&mut connection, request).await?;
            Ok((connection, chunk))
        }));
    }

    /// Starts to read a table without a key. The caller holds the stream from now on.
    pub fn read_exclusively(&mut self, plan: Arc<TablePlan>, select: String) {
        let (connection, of, settled) = (self.connection.take(), self.plan.clone(), self.settled);
        self.settled = true;
        self.stage = Stage::Opening(Box::pin(async move {
            let mut connection = ready(connection, &of, settled).await?;
            let (visible, high) = chunk::begin(&mut connection).await?;
            Ok(TableReader { connection, plan, select, visible, high, begun: false })
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
                self.touched.forget_visible(&chunk.visible);
                self.stage = Stage::Held(Box::new(chunk));
                Ok(None)
            }
            Stage::Opening(work) => {
                let reader = work.await.attempting(|| "take a snapshot".into())?;
                if self.touched.all_visible(&reader.plan.relation, &reader.visible) {
                    self.touched.forget_visible(&reader.visible);
                    self.stage = Stage::Piece(Box::pin(chunk::next_piece(reader)));
                } else {
                    self.stage = Stage::Opening(Box::pin(retake(reader)));
                }
                Ok(None)
            }
            Stage::Piece(work) => {
                let (reader, piece) = work.await.attempting(|| "read a table without a key".into())?;
                if piece.finished {
                    self.connection = Some(reader.connection);
                    self.stage = Stage::Idle;
                } else {
                    self.stage = Stage::Piece(Box::pin(chunk::next_piece(reader)));
                }
                Ok(Some(piece))
            }
        }
    }

    /// The position that the held chunk waits for.
    #[must_use]
    pub fn waits_for(&self) -> Option<u64> {
        if let Stage::Held(chunk) = &self.stage { Some(chunk.high) } else { None }
    }

    /// Takes the held chunk without its stale rows; `None` when it must be read again.
    pub fn release(&mut self) -> Option<ReadChunk> {
        let Stage::Held(mut chunk) = std::mem::replace(&mut self.stage, Stage::Idle) else { return None };
        if chunk.leave_out(&self.touched) {
            self.shrink = self.shrink.saturating_sub(1);
            Some(*chunk)
        } else {
            self.shrink = (self.shrink + 2).min(31);
            None
        }
    }
}

async fn retake(mut reader: TableReader) -> Result<TableReader, ConnectorError> {
    chunk::commit(&mut reader.connection).await?;
    tokio::time::sleep(RETAKE).await;
    (reader.visible, reader.high) = chunk::begin(&mut reader.connection).await?;
    Ok(reader)
}

async fn ready(
    connection: Option<RawConnection>,
    plan: &ConnectionPlan,
    settled: bool,
) -> Result<RawConnection, ConnectorError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => RawConnection::connect(plan, Purpose::Query).await?,
    };
    if !settled {
        settle(&mut connection).await?;
    }
    Ok(connection)
}

/// With synchronous replication a commit can be in the WAL, and below our position, long before it is visible. What
/// was delivered before this connection is not remembered, so wait until everything that is in progress has ended.
async fn settle(connection: &mut RawConnection) -> Result<(), ConnectorError> {
    let rows = connection.rows("SELECT current_setting('synchronous_standby_names')").await?;
    if rows.first().and_then(|row| row.first()).cloned().flatten().unwrap_or_default().is_empty() {
        return Ok(());
    }
    let first = chunk::snapshot(connection).await?;
    while !chunk::snapshot(connection).await?.has_ended_all_of(&first) {
        tokio::time::sleep(RETAKE).await;
    }
    Ok(())
}

/// Moves the progress past a delivered chunk.
pub fn advance(progress: &mut SnapshotProgress, chunk: &ReadChunk, gauges: &Gauges) {
    progress.begun |= !chunk.is_empty();
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
    gauges.add("snapshot_rows", chunk.len() as f64);
    if chunk.finished {
        finish_table(progress, gauges);
        if chunk.plan.schema.key.is_none() {
            let seen = SeenBy { snapshot: chunk.visible.to_string(), until: chunk.high };
            progress.seen.insert(seen_name(&chunk.plan), seen);
        }
    } else if chunk.plan.schema.key.is_some() {
        progress.last_key.clone_from(&chunk.last_key);
    }
}

/// The first table is done (or gone).
pub fn finish_table(progress: &mut SnapshotProgress, gauges: &Gauges) {
    progress.last_key = None;
    if !progress.todo.is_empty() {
        progress.todo.remove(0);
        gauges.add("snapshot_tables_done", 1.0);
    }
}

/// How [`SnapshotProgress::seen`] names a table.
#[must_use]
pub fn seen_name(plan: &TablePlan) -> String {
    format!("{}.{}", plan.relation.namespace, plan.relation.name)
}

/// Whether the stream's transaction was in the snapshot that the table was read under.
#[must_use]
pub fn was_seen(progress: &SnapshotProgress, plan: &TablePlan, xid: u32) -> bool {
    progress
        .seen
        .get(&seen_name(plan))
        .and_then(|seen| seen.snapshot.parse::<Visible>().ok())
        .is_some_and(|visible| visible.sees(xid))
}
