//! Reading rows of a table, under a snapshot that is known.

use std::sync::Arc;

use rowstream_api::{Attempting, Class, ConnectorError};

use super::{
    touched::{Standing, Touched},
    visibility::Visible,
};
use crate::{
    ident::{QuotedIdent, QuotedLiteral},
    offset::Lsn,
    replication::{RawConnection, data_row, malformed},
    table::TablePlan,
    tuple::{Image, TupleRow},
    wire::{
        DecodeError,
        pgoutput::{Cell, CellKind},
    },
};

/// A chunk ends at this size.
const CHUNK_BYTES: usize = 4 << 20;
/// Rows of the first fetch, before their size is known.
const FIRST_FETCH: usize = 20;
/// Most rows of a fetch.
const FETCH_MAX: usize = 5_000;

/// What to read.
pub struct ChunkRequest {
    /// The table.
    pub plan: Arc<TablePlan>,
    /// `SELECT …`, in key order, after the last key.
    pub select: String,
    /// Most rows.
    pub rows: u32,
    /// Whether it is the table's first chunk.
    pub first: bool,
}

/// Rows of a table under one snapshot, in the form of the stream's tuples.
pub struct ReadChunk {
    /// The table.
    pub plan: Arc<TablePlan>,
    /// What the snapshot sees.
    pub visible: Visible,
    /// Everything that the snapshot sees has its commit record below.
    pub high: u64,
    /// No rows of the table follow.
    pub finished: bool,
    /// It begins with the table's first row.
    pub first: bool,
    /// Key of the last row, as text.
    pub last_key: Option<Vec<String>>,
    arena: Vec<u8>,
    cells: Vec<Cell>,
}

/// A table without a key that is being read.
pub struct TableReader {
    /// In the snapshot's transaction.
    pub connection: RawConnection,
    /// The table.
    pub plan: Arc<TablePlan>,
    /// `SELECT …`
    pub select: String,
    /// What the snapshot sees.
    pub visible: Visible,
    /// As in [`ReadChunk`].
    pub high: u64,
    /// Whether rows were delivered.
    pub begun: bool,
}

impl ReadChunk {
    /// A chunk without rows yet.
    #[must_use]
    pub fn empty(plan: Arc<TablePlan>, visible: Visible, high: u64) -> Self {
        Self {
            plan,
            visible,
            high,
            finished: false,
            first: false,
            last_key: None,
            arena: Vec::new(),
            cells: Vec::new(),
        }
    }

    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len() / self.width()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.cells.len() * size_of::<Cell>()
    }

    fn width(&self) -> usize {
        self.plan.columns.len().max(1)
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = TupleRow<'_>> {
        self.cells.chunks_exact(self.width()).map(|cells| TupleRow {
            plan: &self.plan,
            message: &self.arena,
            cells,
            image: Image::Whole,
            unchanged: None,
        })
    }

    /// Leaves out the rows that the stream has told newer states of. `false`: that can't be done, read it again.
    pub fn leave_out(&mut self, touched: &Touched) -> bool {
        let mut standing = touched.standing(&self.plan, &self.visible);
        let standings: Vec<Standing> = self.rows().map(|row| standing(&row)).collect();
        drop(standing);
        if standings.contains(&Standing::Unclear) {
            return false;
        }
        if standings.contains(&Standing::Stale) {
            let width = self.width();
            let kept = self.cells.chunks_exact(width).zip(&standings).filter(|(_, s)| **s == Standing::Fresh);
            self.cells = kept.flat_map(|(cells, _)| cells).copied().collect();
        }
        true
    }

    fn push(&mut self, body: &[u8]) -> Result<(), ConnectorError> {
        let before = self.cells.len();
        let (arena, cells) = (&mut self.arena, &mut self.cells);
        let mut too_long = false;
        data_row(body, &mut |value| {
            let start = u32::try_from(arena.len());
            arena.extend_from_slice(value.unwrap_or_default());
            let end = u32::try_from(arena.len());
            let kind = if value.is_some() { CellKind::Text } else { CellKind::Null };
            match (start, end) {
                (Ok(start), Ok(end)) => cells.push(Cell { kind, start, end }),
                _ => too_long = true,
            }
        })
        .map_err(malformed)?;
        if too_long || self.cells.len() - before != self.plan.columns.len() {
            return Err(malformed(DecodeError::Length(0)));
        }
        Ok(())
    }

    fn note_last_key(&mut self) {
        let key = self.rows().last().map(|row| {
            let text = |index: &usize| {
                let text = row.cell(*index).and_then(|cell| row.text(cell)).unwrap_or_default();
                String::from_utf8_lossy(text).into_owned()
            };
            row.plan.schema.key_columns.iter().map(text).collect()
        });
        self.last_key = key.or(self.last_key.take());
    }
}

/// The columns and the table of a select.
#[must_use]
pub fn select_from(plan: &TablePlan, only: &str, row_filter: Option<&str>) -> String {
    let columns: Vec<String> = plan.columns.iter().map(|c| QuotedIdent::new(&c.name).to_string()).collect();
    let table = crate::ident::TableName::new(&plan.relation.namespace, &plan.relation.name);
    let filter = row_filter.map(|f| format!(" WHERE ({f})")).unwrap_or_default();
    format!("SELECT {} FROM {only} {table}{filter}", columns.join(", "))
}

/// Adds the order of the key and, after the first chunk, where to go on. `types` are the key columns' types by name.
#[must_use]
pub fn in_key_order(select: &str, plan: &TablePlan, types: &[String], last_key: Option<&[String]>) -> String {
    let columns: Vec<String> = plan
        .schema
        .key_columns
        .iter()
        .filter_map(|i| plan.columns.get(*i))
        .map(|c| QuotedIdent::new(&c.name).to_string())
        .collect();
    let key = columns.join(", ");
    let joint = if select.contains(" WHERE (") { "AND" } else { "WHERE" };
    let after = last_key.map(|values| {
        let values: Vec<String> =
            values.iter().zip(types).map(|(value, ty)| format!("{}::{ty}", QuotedLiteral(value))).collect();
        format!(" {joint} ROW({key}) > ROW({})", values.join(", "))
    });
    format!("{select}{} ORDER BY {key}", after.unwrap_or_default())
}

/// Reads a chunk.
///
/// # Errors
/// The server's. A table that changed its shape since the request was made is transient.
pub async fn read(
    connection: &mut RawConnection,
    request: ChunkRequest,
) -> Result<ReadChunk, ConnectorError> {
    let (visible, high) = begin(connection).await?;
    let mut chunk = ReadChunk::empty(request.plan, visible, high);
    chunk.first = request.first;
    let read = async {
        open_cursor(connection, &request.select).await?;
        fetch(connection, &mut chunk, request.rows).await
    };
    read.await.map_err(|mut error| {
        if matches!(error.code, "PG_NO_COLUMN" | "PG_NO_TABLE") {
            error.class = Class::Transient;
        }
        error
    })?;
    commit(connection).await?;
    Ok(chunk)
}

/// Reads more of a table without a key, in the snapshot's transaction, which ends with the last piece.
///
/// # Errors
/// The server's.
pub async fn next_piece(mut reader: TableReader) -> Result<(TableReader, ReadChunk), ConnectorError> {
    let mut piece = ReadChunk::empty(Arc::clone(&reader.plan), reader.visible.clone(), reader.high);
    piece.first = !reader.begun;
    if !reader.begun {
        open_cursor(&mut reader.connection, &reader.select).await?;
        reader.begun = true;
    }
    fetch(&mut reader.connection, &mut piece, u32::MAX).await?;
    if piece.finished {
        commit(&mut reader.connection).await?;
    }
    Ok((reader, piece))
}

/// Begins the snapshot's transaction; answers what it sees and a bound for the commits that it sees.
///
/// # Errors
/// The server's.
pub async fn begin(connection: &mut RawConnection) -> Result<(Visible, u64), ConnectorError> {
    connection.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", &mut |_| Ok(())).await?;
    let visible = snapshot(connection).await?;
    Ok((visible, insert_position(connection).await?))
}

/// The snapshot of this moment, or of the open transaction.
///
/// # Errors
/// The server's.
pub async fn snapshot(connection: &mut RawConnection) -> Result<Visible, ConnectorError> {
    let rows = connection.rows("SELECT pg_current_snapshot()").await?;
    let text = rows.first().and_then(|row| row.first()).cloned().flatten().unwrap_or_default();
    text.parse().map_err(|e: String| ConnectorError::fatal("PG_PROTOCOL", e))
}

/// Declares the cursor that [`fetch`] reads from.
///
/// # Errors
/// The server's.
pub async fn open_cursor(connection: &mut RawConnection, select: &str) -> Result<(), ConnectorError> {
    let declare = format!("DECLARE rowstream_chunk NO SCROLL CURSOR FOR {select}");
    connection.query(&declare, &mut |_| Ok(())).await
}

/// Fetches rows until there are `rows` of them, or enough bytes, or no more.
///
/// # Errors
/// The server's.
pub async fn fetch(
    connection: &mut RawConnection,
    chunk: &mut ReadChunk,
    rows: u32,
) -> Result<(), ConnectorError> {
    let limit = usize::try_from(rows).unwrap_or(usize::MAX);
    while chunk.len() < limit && chunk.bytes() < CHUNK_BYTES {
        let left = CHUNK_BYTES - chunk.bytes();
        let fits = (left * chunk.len()).checked_div(chunk.bytes()).unwrap_or(FIRST_FETCH);
        let wanted = fits.clamp(1, FETCH_MAX).min(limit - chunk.len());
        let before = chunk.len();
        connection
            .query(&format!("FETCH {wanted} FROM rowstream_chunk"), &mut |body| chunk.push(body))
            .await?;
        if chunk.len() - before < wanted {
            chunk.finished = true;
            break;
        }
    }
    chunk.note_last_key();
    Ok(())
}

/// Ends the snapshot's transaction.
///
/// # Errors
/// The server's.
pub async fn commit(connection: &mut RawConnection) -> Result<(), ConnectorError> {
    connection.query("COMMIT", &mut |_| Ok(())).await
}

const INSERT_POSITION: &str = "
SELECT pg_current_wal_insert_lsn(), current_setting('block_size')::int8,
       pg_size_bytes(current_setting('wal_segment_size'))";

/// Where the next WAL record would begin, less the page header that may lie before it: no position of a record's end
/// is there, and the stream would wait for it until something else is written.
async fn insert_position(connection: &mut RawConnection) -> Result<u64, ConnectorError> {
    /// xlog_internal.h: size of the header of the first page of a segment, and of the others.
    const LONG_HEADER: u64 = 40;
    const SHORT_HEADER: u64 = 24;
    let rows = connection.rows(INSERT_POSITION).await.attempting(|| "ask for the WAL position".into())?;
    let mut row = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
    let (lsn, page, segment) = (row.next().unwrap_or_default(), row.next(), row.next());
    let number =
        |text: Option<String>, default: u64| text.and_then(|t| t.parse().ok()).unwrap_or(default).max(1);
    let (page, segment) = (number(page, 8192), number(segment, 16 << 20));
    let lsn = lsn.parse::<Lsn>()?.0;
    Ok(if lsn % segment == LONG_HEADER {
        lsn - LONG_HEADER
    } else if lsn % page == SHORT_HEADER {
        lsn - SHORT_HEADER
    } else {
        lsn
    })
}
