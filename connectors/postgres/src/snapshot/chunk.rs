//! Reading rows of a table, under a snapshot that is known.

use std::sync::Arc;

use rowstream_api::{
    Attempting, Class, ConnectorError,
    snapshot::{Chunk, ChunkRequest, Key, Rows as _},
};

use super::{Postgres, condition, rows::ReadRows, table::SnapshotTable, visibility::Visible};
use crate::{offset::Lsn, replication::RawConnection};

/// Rows of the first fetch, before their size is known.
const FIRST_FETCH: usize = 20;
/// Most rows of a fetch.
const FETCH_MAX: usize = 5_000;
/// A piece of a table without a key ends at this size.
const PIECE_BYTES: usize = 4 << 20;

/// A table without a key that is being read.
pub struct WholeTable {
    /// In the snapshot's transaction.
    pub connection: RawConnection,
    /// The table.
    pub table: Arc<SnapshotTable>,
    /// What the snapshot sees.
    pub visible: Visible,
    high: u64,
    begun: bool,
}

impl WholeTable {
    /// Takes the snapshot.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(
        mut connection: RawConnection,
        table: Arc<SnapshotTable>,
    ) -> Result<Self, ConnectorError> {
        let (visible, high) = begin(&mut connection).await?;
        Ok(Self { connection, table, visible, high, begun: false })
    }

    /// Reads more. The snapshot's transaction ends with the last piece.
    ///
    /// # Errors
    /// The server's.
    pub async fn next_piece(mut self) -> Result<(Self, Chunk<Postgres>), ConnectorError> {
        let mut rows = ReadRows::new(Arc::clone(&self.table.plan));
        if !self.begun {
            open_cursor(&mut self.connection, &self.table.select()).await?;
            self.begun = true;
        }
        let is_complete = fetch(&mut self.connection, &mut rows, (usize::MAX, PIECE_BYTES)).await?;
        if is_complete {
            commit(&mut self.connection).await?;
        }
        let (visible, high) = (self.visible.clone(), self.high);
        Ok((self, Chunk { rows, visible, high, last_key: None, is_complete }))
    }
}

/// Reads a chunk.
///
/// # Errors
/// The server's. A table that changed its shape since the request was made is transient; a condition that can't be evaluated is not.
pub async fn read(
    connection: &mut RawConnection,
    request: &ChunkRequest<SnapshotTable>,
) -> Result<Chunk<Postgres>, ConnectorError> {
    let (visible, high) = begin(connection).await?;
    let mut rows = ReadRows::new(Arc::clone(&request.table.plan));
    let read = async {
        open_cursor(connection, &request.table.select_range(&request.range)).await?;
        let limits = (usize::try_from(request.rows).unwrap_or(usize::MAX), request.bytes);
        fetch(connection, &mut rows, limits).await
    };
    let read = read.await.map_err(of_a_changed_table);
    let is_complete = match read {
        Err(error) if request.table.condition.is_some() && !is_of_a_changed_table(&error) => {
            return Err(condition::refused(&connection.last_sqlstate, error));
        }
        read => read?,
    };
    commit(connection).await?;
    let last_key = rows.last_key();
    Ok(Chunk { rows, visible, high, last_key, is_complete })
}

fn of_a_changed_table(mut error: ConnectorError) -> ConnectorError {
    if is_of_a_changed_table(&error) {
        error.class = Class::Transient;
    }
    error
}

fn is_of_a_changed_table(error: &ConnectorError) -> bool {
    matches!(error.code, "PG_NO_COLUMN" | "PG_NO_TABLE")
}

/// Asks for one key.
///
/// # Errors
/// The server's.
pub async fn key(connection: &mut RawConnection, select: &str) -> Result<Option<Key>, ConnectorError> {
    let rows = connection.rows(select).await.map_err(of_a_changed_table)?;
    Ok(rows.into_iter().next().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()))
}

/// Begins the snapshot's transaction; answers what it sees and a bound for the commits that it sees: the snapshot is taken before the
/// position is asked for.
async fn begin(connection: &mut RawConnection) -> Result<(Visible, u64), ConnectorError> {
    // Only what is said in this transaction.
    connection.last_sqlstate.clear();
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                 SELECT pg_current_snapshot(), pg_current_wal_insert_lsn(), current_setting('block_size')::int8,
                        pg_size_bytes(current_setting('wal_segment_size'))";
    let rows = connection.rows(begin).await.attempting(|| "take a snapshot".into())?;
    let mut row = rows.into_iter().next().unwrap_or_default().into_iter().map(Option::unwrap_or_default);
    let mut next = || row.next().unwrap_or_default();
    let (visible, lsn) = (next().parse().map_err(no_snapshot)?, next().parse::<Lsn>()?.0);
    let mut number = |default: u64| next().parse().unwrap_or(default).max(1);
    Ok((visible, record_end(lsn, number(8192), number(16 << 20))))
}

/// The snapshot of this moment.
///
/// # Errors
/// The server's.
pub async fn snapshot(connection: &mut RawConnection) -> Result<Visible, ConnectorError> {
    let rows = connection.rows("SELECT pg_current_snapshot()").await?;
    let text = rows.first().and_then(|row| row.first()).cloned().flatten().unwrap_or_default();
    text.parse().map_err(no_snapshot)
}

/// Transactions that have an id and have not ended, those that wait for a standby too: they hold the lock on it until others see them.
///
/// # Errors
/// The server's.
pub async fn open_transactions(connection: &mut RawConnection) -> Result<Vec<String>, ConnectorError> {
    let sql = "SELECT transactionid FROM pg_locks
                WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted";
    Ok(connection.rows(sql).await?.into_iter().flatten().flatten().collect())
}

fn no_snapshot(said: String) -> ConnectorError {
    ConnectorError::fatal("PG_PROTOCOL", said)
}

async fn open_cursor(connection: &mut RawConnection, select: &str) -> Result<(), ConnectorError> {
    let declare = format!("DECLARE rowstream_chunk NO SCROLL CURSOR FOR {select}");
    connection.statement(&declare).await
}

/// Fetches rows until there are enough of them, or enough bytes; `true`: there are no more.
async fn fetch(
    connection: &mut RawConnection,
    rows: &mut ReadRows,
    (rows_max, bytes_max): (usize, usize),
) -> Result<bool, ConnectorError> {
    while rows.len() < rows_max && rows.bytes() < bytes_max {
        let left = bytes_max - rows.bytes();
        let fits = (left * rows.len()).checked_div(rows.bytes()).unwrap_or(FIRST_FETCH);
        let wanted = fits.clamp(1, FETCH_MAX).min(rows_max - rows.len());
        let before = rows.len();
        let sql = format!("FETCH {wanted} FROM rowstream_chunk");
        connection.query(&sql, &mut |body| rows.push(body)).await?;
        if rows.len() - before < wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Ends the snapshot's transaction.
///
/// # Errors
/// The server's.
pub async fn commit(connection: &mut RawConnection) -> Result<(), ConnectorError> {
    connection.query("COMMIT", &mut |_| Ok(())).await
}

/// The insert position is where the next WAL record would begin; less the page header that may lie before it: no position of a
/// record's end is there, and the stream would wait for it until something else is written.
fn record_end(lsn: u64, page: u64, segment: u64) -> u64 {
    /// xlog_internal.h: size of the header of the first page of a segment, and of the others.
    const LONG_HEADER: u64 = 40;
    const SHORT_HEADER: u64 = 24;
    if lsn % segment == LONG_HEADER {
        lsn - LONG_HEADER
    } else if lsn % page == SHORT_HEADER {
        lsn - SHORT_HEADER
    } else {
        lsn
    }
}
