//! A snapshot in progress: what it is doing, and what it hands over.
//!
//! ```text
//!  settle ─► between tables ─┬─► chunks (the stream goes on) ────────────────────┬─► between tables ─► finished
//!                            └─► open ─► pieces of a whole table (it is held) ───┘
//! ```
//! The source's task drives it: [`SnapshotRun::wants`] and [`SnapshotRun::describe`] (the table's present shape), then
//! [`SnapshotRun::deliver`], then [`SnapshotRun::work`] beside the stream.

use std::{
    future::poll_fn,
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    database::{Chunk, Database, KeyRange, Rows as _, Table as _, TableName, Visibility, Work},
    meter::Meter,
    progress::{Marks, Progress, seen_name},
    queue::ChunkQueue,
    throttle::Throttle,
    touched::{Touched, has_same_key},
};
use crate::{
    error::{Attempting, ConnectorError},
    source::Gauges,
};

/// A table is described again after this time.
const DESCRIBED_FOR: Duration = Duration::from_secs(1);
/// Most bytes of a chunk.
const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Most bytes of all chunks together.
const HELD_BYTES_MAX: usize = 64 << 20;

/// What the stream of a database says of a transaction.
pub type Transaction<D> = <<D as Database>::Visible as Visibility>::Transaction;

/// How a snapshot is read.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Most rows of a chunk.
    pub chunk_rows: u32,
    /// Readers.
    pub readers: usize,
}

/// Rows to deliver, and where they stand.
pub struct Delivered<R> {
    /// The rows; perhaps none.
    pub rows: R,
    /// Where they stand.
    pub marks: Marks,
}

/// Connections that read.
pub(super) struct Readers<D: Database> {
    database: D,
    pub(super) idle: Vec<D::Connection>,
    pub(super) count: usize,
    chunk_rows: u32,
    pub(super) throttle: Throttle,
    /// Until the next chunk may be begun.
    rest: Option<Work<()>>,
}

impl<D: Database> Readers<D> {
    /// Most rows of a chunk.
    pub(super) fn chunk_rows(&self) -> u32 {
        self.throttle.rows(self.chunk_rows)
    }

    /// Whether a chunk of this many rows may be begun, which is then counted. If not, [`Self::poll_rest`] says when.
    pub(super) fn may_begin(&mut self, rows: u32) -> bool {
        let now = Instant::now();
        match self.throttle.wait(now) {
            Some(wait) => {
                self.rest.get_or_insert_with(|| D::rest(wait));
                false
            }
            None => {
                self.rest = None;
                self.throttle.begun(now, rows);
                true
            }
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> bool {
        let is_over = self.rest.as_mut().is_some_and(|rest| rest.as_mut().poll(cx).is_ready());
        if is_over {
            self.rest = None;
        }
        is_over
    }

    /// Most bytes of a chunk.
    pub(super) fn chunk_bytes(&self) -> usize {
        (HELD_BYTES_MAX / (self.count + 1)).min(CHUNK_BYTES_MAX)
    }

    /// Begins work on an idle connection, or on a new one.
    pub(super) fn work<T, F>(&mut self, work: impl FnOnce(D, D::Connection) -> F + Send + 'static) -> Work<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ConnectorError>> + Send,
    {
        let (database, idle) = (self.database.clone(), self.idle.pop());
        D::spawn(Box::pin(async move {
            let connection = match idle {
                Some(connection) => connection,
                None => database.connect().await?,
            };
            work(database, connection).await
        }))
    }
}

type Estimates = Vec<(TableName, u64)>;

enum Stage<D: Database> {
    /// Waits until what was delivered before is visible, and asks how large the tables are.
    Settling(Work<(D::Connection, Estimates)>),
    /// A table must be described.
    Between,
    /// A table is read in chunks.
    Chunks(Arc<D::Table>, ChunkQueue<D>),
    /// The snapshot of a whole table is being taken; the stream is held.
    Opening(Arc<D::Table>, Work<D::Whole>),
    /// A whole table is being read; the stream is held.
    Pieces {
        table: Arc<D::Table>,
        work: Option<Work<(D::Whole, Chunk<D>)>>,
        ready: Option<Chunk<D>>,
        begun: bool,
    },
}

/// See the module.
pub struct SnapshotRun<D: Database> {
    /// What the stream delivered meanwhile.
    pub touched: Touched<Transaction<D>>,
    stage: Stage<D>,
    readers: Readers<D>,
    /// When the table was described; `None` when it may have another shape by now.
    described: Option<Instant>,
    meter: Meter,
}

impl<D: Database> SnapshotRun<D> {
    /// Goes on where `progress` stands.
    #[must_use]
    pub fn new(database: D, settings: Settings, progress: &Progress<D::Seen>, gauges: &Gauges) -> Self {
        let mut readers = Readers {
            database,
            idle: Vec::new(),
            count: settings.readers.max(1),
            chunk_rows: settings.chunk_rows,
            throttle: Throttle::default(),
            rest: None,
        };
        let tables = progress.todo.clone();
        let settling = readers.work(|database, mut connection| async move {
            let settled = database.settle(&mut connection).await;
            settled.attempting(|| "wait until what was delivered is visible to a snapshot".into())?;
            let estimates = database.estimate(&mut connection, &tables).await;
            Ok((connection, estimates.attempting(|| "ask how large the tables are".into())?))
        });
        let meter = Meter::new(progress, gauges);
        Self {
            touched: Touched::default(),
            stage: Stage::Settling(settling),
            readers,
            described: None,
            meter,
        }
    }

    /// Bounds the rows that are read in a second, from now on; none is no bound. A table that is read at once, while the stream is held, is
    /// not slowed.
    pub fn limit(&mut self, rows_per_second: Option<NonZeroU32>) {
        if self.readers.throttle.set(rows_per_second) {
            self.readers.rest = None;
            self.meter.limit(rows_per_second);
        }
    }

    /// Whether the stream must wait.
    #[must_use]
    pub fn holds_stream(&self) -> bool {
        matches!(self.stage, Stage::Opening(..) | Stage::Pieces { .. })
    }

    /// Everything is delivered.
    #[must_use]
    pub fn is_finished(&self, progress: &Progress<D::Seen>) -> bool {
        matches!(self.stage, Stage::Between) && progress.todo.is_empty()
    }

    /// The table that must be described before anything else; `None` while none must.
    pub fn wants(&self, progress: &Progress<D::Seen>) -> Option<TableName> {
        match &self.stage {
            Stage::Between => progress.todo.first().cloned(),
            Stage::Chunks(table, _) => {
                let fresh = self.described.is_some_and(|at| at.elapsed() < DESCRIBED_FOR);
                (!fresh).then(|| table.name())
            }
            Stage::Settling(_) | Stage::Opening(..) | Stage::Pieces { .. } => None,
        }
    }

    /// Tells how the table of [`Self::wants`] is read at present; `None` when it is gone, or no longer captured.
    pub fn describe(&mut self, progress: &mut Progress<D::Seen>, table: Option<D::Table>) {
        self.described = Some(Instant::now());
        let Some(table) = table.map(Arc::new) else {
            return self.finish_table(progress);
        };
        match &mut self.stage {
            Stage::Between => self.begin_table(progress, table),
            Stage::Chunks(known, queue)
                if table.is_chunkable() && has_same_key(known.schema(), table.schema()) =>
            {
                if *known != table {
                    queue.read_again();
                    *known = table;
                }
            }
            Stage::Chunks(..) => {
                // It has another key, which the last one says nothing of.
                (progress.last_key, progress.end_key) = (None, None);
                self.begin_table(progress, table);
            }
            Stage::Settling(_) | Stage::Opening(..) | Stage::Pieces { .. } => {}
        }
    }

    fn begin_table(&mut self, progress: &Progress<D::Seen>, table: Arc<D::Table>) {
        self.stage = if table.is_chunkable() {
            let queue = ChunkQueue::new(progress.last_key.clone(), progress.end_key.clone());
            Stage::Chunks(table, queue)
        } else {
            let of = Arc::clone(&table);
            let opening =
                self.readers.work(|database, connection| async move { database.open(connection, of).await });
            Stage::Opening(table, opening)
        };
    }

    fn finish_table(&mut self, progress: &mut Progress<D::Seen>) {
        progress.finish_table();
        self.meter.delivered(progress);
        self.stage = Stage::Between;
    }

    /// The stream shows a table in a shape that was not known.
    pub fn shape_changed(&mut self, table: (&str, &str)) {
        if let Stage::Chunks(of, _) = &self.stage {
            let (schema, name) = of.name();
            if (schema.as_str(), name.as_str()) == table {
                self.described = None;
            }
        }
    }

    /// What the stream delivered was told to [`Self::touched`].
    pub fn told(&self, progress: &mut Progress<D::Seen>) {
        if progress.todo.first().is_some_and(|table| self.touched.told_in_part(table)) {
            progress.end_key = None;
        }
    }

    /// Waits until something can be delivered or must be described. Cancel-safe. Pending while only the stream can help.
    ///
    /// # Errors
    /// The database's.
    pub async fn work(&mut self) -> Result<(), ConnectorError> {
        if let Stage::Chunks(table, queue) = &mut self.stage {
            queue.start(table, &mut self.readers);
        }
        poll_fn(|cx| match self.poll(cx) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectorError> {
        match &mut self.stage {
            Stage::Between => Ok(false),
            Stage::Settling(work) => {
                let Poll::Ready(settled) = work.as_mut().poll(cx) else { return Ok(false) };
                let (connection, estimates) = settled?;
                self.readers.idle.push(connection);
                self.meter.expect(estimates);
                self.stage = Stage::Between;
                Ok(true)
            }
            Stage::Chunks(_, queue) => {
                let rested = self.readers.poll_rest(cx);
                Ok(queue.poll(&mut self.readers, &mut self.touched, cx)? || rested)
            }
            Stage::Opening(table, work) => {
                let Poll::Ready(opened) = work.as_mut().poll(cx) else { return Ok(false) };
                let whole = opened.attempting(|| "begin to read a table without a key".into())?;
                let (table, database) = (Arc::clone(table), self.readers.database.clone());
                self.stage = if self.touched.all_visible(&table.name(), D::visible(&whole)) {
                    let visible = D::visible(&whole).clone();
                    self.touched.forget(|transaction| visible.sees(transaction));
                    Stage::Pieces {
                        table,
                        work: Some(next_piece(database, whole)),
                        ready: None,
                        begun: false,
                    }
                } else {
                    Stage::Opening(table, D::spawn(Box::pin(async move { database.reopen(whole).await })))
                };
                Ok(true)
            }
            Stage::Pieces { work, ready, .. } => {
                let Some(reading) = work.as_mut().filter(|_| ready.is_none()) else { return Ok(false) };
                let Poll::Ready(read) = reading.as_mut().poll(cx) else { return Ok(false) };
                let (whole, piece) = read.attempting(|| "read a table without a key".into())?;
                *work = (!piece.is_complete).then(|| next_piece(self.readers.database.clone(), whole));
                *ready = Some(piece);
                Ok(true)
            }
        }
    }

    /// The position that the next rows wait for.
    #[must_use]
    pub fn waits_for(&self) -> Option<&D::Position> {
        if let Stage::Chunks(_, queue) = &self.stage { queue.waits_for() } else { None }
    }

    /// Takes rows that can be delivered while the stream stands at `here`, and moves the progress past them.
    ///
    /// # Errors
    /// A key that can't be read.
    pub fn deliver(
        &mut self,
        here: Option<&D::Position>,
        progress: &mut Progress<D::Seen>,
    ) -> Result<Option<Delivered<D::Rows>>, ConnectorError> {
        let (rows, begins_table, ends_table) = match &mut self.stage {
            Stage::Settling(_) | Stage::Between | Stage::Opening(..) => return Ok(None),
            Stage::Chunks(table, queue) => {
                let is_reached = queue.waits_for().zip(here).is_some_and(|(high, here)| here >= high);
                if self.described.is_none() || !is_reached {
                    return Ok(None);
                }
                let Some((chunk, range)) = queue.release(table, &self.touched)? else { return Ok(None) };
                let begins_table = progress.last_key.is_none();
                if begins_table {
                    progress.end_key.clone_from(&queue.end);
                }
                if self.touched.told_in_part(&table.name()) {
                    progress.end_key = None;
                }
                let ends_table = queue.is_empty() && (range.upto.is_none() || range.upto == progress.end_key);
                if !ends_table {
                    if queue.is_empty() {
                        queue.go_on(KeyRange { after: range.upto.clone(), upto: None });
                    }
                    progress.last_key = range.upto;
                }
                (chunk.rows, begins_table, ends_table)
            }
            Stage::Pieces { table, ready, begun, .. } => {
                let Some(piece) = ready.take() else { return Ok(None) };
                let begins_table = !std::mem::replace(begun, true);
                if piece.is_complete {
                    let (schema, name) = table.name();
                    progress.seen.insert(seen_name((&schema, &name)), D::seen(&piece));
                }
                (piece.rows, begins_table, piece.is_complete)
            }
        };
        let ends_snapshot = ends_table && progress.todo.len() == 1;
        let (asked, begins_snapshot) = (progress.asked.is_some(), !progress.begun);
        let marks = Marks { asked, begins_snapshot, begins_table, ends_table, ends_snapshot };
        progress.begun |= !rows.is_empty();
        let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        progress.rows = progress.rows.saturating_add(count);
        progress.table_rows = progress.table_rows.saturating_add(count);
        if ends_table {
            self.finish_table(progress);
        } else {
            self.meter.delivered(progress);
        }
        Ok(Some(Delivered { rows, marks }))
    }
}

fn next_piece<D: Database>(database: D, whole: D::Whole) -> Work<(D::Whole, Chunk<D>)> {
    D::spawn(Box::pin(async move { database.piece(whole).await }))
}
