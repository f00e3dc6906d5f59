//! Reading rows of a table, under a snapshot whose place in the binlog is known (reference: mysql.md 4.1).
//!
//! - MariaDB tells the exact position of a consistent snapshot.
//! - MySQL with GTIDs: what is in `gtid_executed` *before* the snapshot is visible in it; what is visible in it was written to the
//!   binlog before, so it ends before the binlog's position *after* it. The position before it would lose rows: a transaction is
//!   in the binlog before it becomes visible.
//! - MySQL without GTIDs: `performance_schema.log_status` takes the place of `gtid_executed`.

use std::{fmt::Write as _, sync::Arc};

use mysql_async::{Conn, Row as SqlRow, prelude::Queryable};
use rowstream_api::{Attempting, Class, ConnectorError};

use super::{
    touched::{Standing, Touched},
    visibility::Visible,
};
use crate::{
    catalog,
    connection::{ConnectionPlan, Flavour, Server},
    error::from_mysql,
    ident::{QuotedIdent, QuotedLiteral, TableName},
    offset::SnapshotProgress,
    setup,
    stream::position::BinlogPosition,
    table::TablePlan,
    tuple::{Form, Row},
    types::{Kind, selected},
    wire::rows::Cell,
};

/// A chunk aims at this size.
const CHUNK_BYTES: usize = 4 << 20;
/// Rows of the first chunk of a table, before their size is known.
const FIRST_ROWS: u32 = 500;

/// A connection that reads, and who answered.
pub struct SnapshotConnection {
    /// The client.
    pub conn: Conn,
    /// Flavour and version.
    pub server: Server,
}

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
    /// The table's last row, for its first chunk.
    pub last_row: Option<String>,
}

/// Rows of a table under one snapshot, in the form of the stream's rows.
pub struct ReadChunk {
    /// The table.
    pub plan: Arc<TablePlan>,
    /// What the snapshot sees.
    pub visible: Visible,
    /// Everything that the snapshot sees ends here or before.
    pub high: BinlogPosition,
    /// No rows of the table follow.
    pub finished: bool,
    /// It begins with the table's first row.
    pub first: bool,
    /// Key of the last row, as SQL literals.
    pub last_key: Option<Vec<String>>,
    /// Key of the table's last row, in the same form; of a first chunk only.
    pub end_key: Option<Vec<String>>,
    arena: Vec<u8>,
    cells: Vec<Cell>,
}

impl ReadChunk {
    /// A chunk without rows yet.
    #[must_use]
    pub fn empty(plan: Arc<TablePlan>, visible: Visible, high: BinlogPosition) -> Self {
        let (arena, cells) = (Vec::new(), Vec::new());
        let (finished, first, last_key, end_key) = (false, false, None, None);
        Self { plan, visible, high, finished, first, last_key, end_key, arena, cells }
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
        self.plan.shape.columns.len().max(1)
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.cells.chunks_exact(self.width()).map(|cells| Row {
            plan: &self.plan,
            bytes: &self.arena,
            cells,
            form: Form::Selected,
            before: None,
        })
    }

    /// Leaves out the rows that the stream has told newer states of. `false`: that can't be done, read it again.
    pub fn leave_out(&mut self, touched: &Touched) -> Result<bool, ConnectorError> {
        let mut standing = touched.standing(&self.plan, &self.visible);
        let standings: Vec<Standing> = self.rows().map(|row| standing(&row)).collect::<Result<_, _>>()?;
        drop(standing);
        if standings.contains(&Standing::Unclear) {
            return Ok(false);
        }
        if standings.contains(&Standing::Stale) {
            let width = self.width();
            let kept = self.cells.chunks_exact(width).zip(&standings).filter(|(_, s)| **s == Standing::Fresh);
            self.cells = kept.flat_map(|(cells, _)| cells).copied().collect();
        }
        Ok(true)
    }

    /// Appends a row of the select, which has the plan's columns in their order.
    pub(super) fn push(&mut self, row: &SqlRow) -> Result<(), ConnectorError> {
        let too_long = || ConnectorError::fatal("MYSQL_PROTOCOL", "a chunk of rows is too long");
        let first = self.cells.len();
        self.cells.resize(first + self.width(), Cell::Absent);
        for (index, column) in self.plan.columns.iter().enumerate() {
            let value = row.as_ref(index).ok_or_else(|| {
                ConnectorError::fatal("MYSQL_PROTOCOL", "a row does not have its table's columns")
            })?;
            let start = u32::try_from(self.arena.len()).map_err(|_| too_long())?;
            let cell = if selected::put(value, &mut self.arena) {
                Cell::Value { start, end: u32::try_from(self.arena.len()).map_err(|_| too_long())? }
            } else {
                Cell::Null
            };
            if let Some(place) = self.cells.get_mut(first + column.source) {
                *place = cell;
            }
        }
        Ok(())
    }

    /// The key of the last row, as SQL literals.
    fn key_of_last_row(&self) -> Result<Option<Vec<String>>, ConnectorError> {
        let Some(row) = self.rows().last() else { return Ok(None) };
        let key =
            row.plan.schema.key_columns.iter().map(|index| literal(&row, *index)).collect::<Option<Vec<_>>>();
        key.map(Some).ok_or_else(|| ConnectorError::fatal("BUG", "a key that can't be written as SQL"))
    }
}

/// Whether the table can be read in chunks: rows can be asked for after a key of these types.
#[must_use]
pub fn is_chunkable(plan: &TablePlan) -> bool {
    plan.schema.key.is_some()
        && plan.schema.key_columns.iter().filter_map(|index| plan.columns.get(*index)).all(|column| {
            matches!(
                column.kind,
                Kind::Int
                    | Kind::Unsigned
                    | Kind::UnsignedDecimal
                    | Kind::Decimal { .. }
                    | Kind::Year
                    | Kind::Date(_)
                    | Kind::Time { .. }
                    | Kind::Datetime { .. }
                    | Kind::Timestamp { .. }
                    | Kind::Text { compressed: false, .. }
                    | Kind::Bytes { compressed: false, .. }
                    | Kind::Uuid
                    | Kind::Inet4
                    | Kind::Inet6
            )
        })
}

/// A key's value as a literal that compares as the column does.
fn literal(row: &Row<'_>, index: usize) -> Option<String> {
    let column = row.plan.columns.get(index)?;
    let bytes = row.value(row.cell(index)?)?;
    let number = || bytes.try_into().ok().map(i64::from_le_bytes);
    Some(match &column.kind {
        Kind::Int | Kind::Unsigned | Kind::Year => number()?.to_string(),
        Kind::UnsignedDecimal => number()?.cast_unsigned().to_string(),
        Kind::Decimal { .. } => std::str::from_utf8(bytes).ok()?.to_owned(),
        Kind::Time { .. } => {
            let micros = number()?;
            let (sign, micros) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
            let seconds = micros / 1_000_000;
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            format!("TIME'{sign}{hours:02}:{minutes:02}:{seconds:02}.{:06}'", micros % 1_000_000)
        }
        Kind::Date(_) | Kind::Datetime { .. } | Kind::Timestamp { .. } => {
            let (year, rest) = bytes.split_first_chunk::<2>()?;
            let [month, day, hour, minute, second] = rest.first_chunk::<5>()?;
            let micros = u32::from_le_bytes(*rest.last_chunk::<4>()?);
            let date = format!("{:04}-{month:02}-{day:02}", u16::from_le_bytes(*year));
            if let Kind::Date(_) = column.kind {
                format!("'{date}'")
            } else {
                format!("'{date} {hour:02}:{minute:02}:{second:02}.{micros:06}'")
            }
        }
        Kind::Text { .. } => {
            let charset = row.plan.charset_names.get(column.source).and_then(Option::as_deref)?;
            format!("_{charset} {}", hexadecimal(bytes))
        }
        Kind::Bytes { .. } => hexadecimal(bytes),
        Kind::Uuid | Kind::Inet4 | Kind::Inet6 => QuotedLiteral(std::str::from_utf8(bytes).ok()?).to_string(),
        Kind::Float32
        | Kind::Float64
        | Kind::Bit
        | Kind::Bits
        | Kind::Enum(_)
        | Kind::Set(_)
        | Kind::Json
        | Kind::JsonText
        | Kind::Geometry
        | Kind::Point
        | Kind::Vector => return None,
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2 + 3);
    out.push_str("X'");
    for byte in bytes {
        // Writing to a String can't fail.
        let _ok = write!(out, "{byte:02x}");
    }
    out.push('\'');
    out
}

/// The columns and the table of a select. ENUM and SET are asked for as numbers, so that their labels are the schema's.
#[must_use]
pub fn select_from(plan: &TablePlan) -> String {
    let columns: Vec<String> = plan
        .columns
        .iter()
        .map(|column| {
            let name = QuotedIdent::new(&column.name);
            if matches!(column.kind, Kind::Enum(_) | Kind::Set(_)) {
                format!("CAST({name} AS UNSIGNED)")
            } else {
                name.to_string()
            }
        })
        .collect();
    format!("SELECT {} FROM {}", columns.join(", "), TableName::new(&plan.shape.database, &plan.shape.table))
}

fn key_names(plan: &TablePlan) -> Vec<String> {
    let key = plan.schema.key_columns.iter().filter_map(|index| plan.columns.get(*index));
    key.map(|column| QuotedIdent::new(&column.name).to_string()).collect()
}

/// Rows that stand behind (`>`) or before (`<`) a key: written out, because neither server uses an index for a comparison of rows.
fn beside(names: &[String], key: &[String], side: char) -> Vec<String> {
    let pairs: Vec<(&String, &String)> = names.iter().zip(key).collect();
    let branch = |(depth, (name, value)): (usize, &(&String, &String))| {
        let equal = pairs.iter().take(depth).map(|(name, value)| format!("{name} = {value} AND "));
        format!("({}{name} {side} {value})", equal.collect::<String>())
    };
    pairs.iter().enumerate().map(branch).collect()
}

/// Adds the order of the key and, after the first chunk, where to go on and where the table ends.
#[must_use]
pub fn in_key_order(select: &str, plan: &TablePlan, progress: &SnapshotProgress) -> String {
    let names = key_names(plan);
    let mut conditions = Vec::new();
    if let Some(after) = &progress.last_key {
        conditions.push(beside(&names, after, '>'));
    }
    if let Some(end) = &progress.end_key {
        let mut upto = beside(&names, end, '<');
        let same: Vec<String> =
            names.iter().zip(end).map(|(name, value)| format!("{name} = {value}")).collect();
        upto.push(format!("({})", same.join(" AND ")));
        conditions.push(upto);
    }
    let conditions: Vec<String> =
        conditions.iter().map(|branches| format!("({})", branches.join(" OR "))).collect();
    let condition =
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    format!("{select}{condition} ORDER BY {}", names.join(", "))
}

/// The table's last row.
#[must_use]
pub fn last_row(select: &str, plan: &TablePlan) -> String {
    let names: Vec<String> = key_names(plan).iter().map(|name| format!("{name} DESC")).collect();
    format!("{select} ORDER BY {} LIMIT 1", names.join(", "))
}

/// Rows of the next chunk, when rows have been of this size.
#[must_use]
pub fn rows_of_chunk(most: u32, bytes_per_row: Option<usize>) -> u32 {
    match bytes_per_row {
        None => most.min(FIRST_ROWS),
        Some(bytes) => u32::try_from(CHUNK_BYTES / bytes.max(1)).unwrap_or(u32::MAX).clamp(1, most),
    }
}

/// Opens a connection that reads values as they are stored: texts in their own charsets, timestamps in UTC.
///
/// # Errors
/// The connection's.
pub async fn connect(plan: &ConnectionPlan) -> Result<SnapshotConnection, ConnectorError> {
    let (mut conn, server) = catalog::connect(plan).await?;
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.map_err(from_mysql)?;
    conn.query_drop("SET character_set_results = NULL, lock_wait_timeout = 10").await.map_err(from_mysql)?;
    Ok(SnapshotConnection { conn, server })
}

/// Begins a snapshot's transaction; answers what it sees, and where all that it sees has ended.
///
/// # Errors
/// The server's.
pub async fn begin(connection: &mut SnapshotConnection) -> Result<(Visible, BinlogPosition), ConnectorError> {
    let (conn, server) = (&mut connection.conn, connection.server);
    let begin = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
    if server.flavour == Flavour::MariaDb {
        conn.query_drop(begin).await.map_err(from_mysql)?;
        let exact = maria_position(conn).await?;
        return Ok((Visible::Until(exact.clone()), exact));
    }
    let visible = match setup::gtid_executed(conn).await? {
        Some(executed) => Visible::Executed(executed),
        None => Visible::Until(log_status(conn).await?),
    };
    conn.query_drop(begin).await.map_err(from_mysql)?;
    let high = setup::binlog_status(conn, server).await?;
    Ok((visible, high))
}

/// The position that the open snapshot agrees with.
async fn maria_position(conn: &mut Conn) -> Result<BinlogPosition, ConnectorError> {
    let rows: Vec<(Vec<u8>, Vec<u8>)> =
        conn.query("SHOW STATUS LIKE 'binlog\\_snapshot\\_%'").await.map_err(from_mysql)?;
    let find = |name: &str| {
        let found = rows.iter().find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    let offset = find("Binlog_snapshot_position").and_then(|text| text.parse().ok());
    match (find("Binlog_snapshot_file").filter(|file| !file.is_empty()), offset) {
        (Some(file), Some(offset)) => Ok(BinlogPosition::new(file, offset)),
        _ => Err(ConnectorError::config(
            "MYSQL_NO_BINLOG",
            "the server tells no binlog position of a snapshot",
        )),
    }
}

async fn log_status(conn: &mut Conn) -> Result<BinlogPosition, ConnectorError> {
    let sql = "SELECT local->>'$.binary_log_file', CAST(local->>'$.binary_log_position' AS UNSIGNED) \
               FROM performance_schema.log_status";
    let row: Option<(Vec<u8>, u64)> = conn.query_first(sql).await.map_err(from_mysql).attempting(|| {
        "read performance_schema.log_status, which a snapshot needs while gtid_mode is not ON".into()
    })?;
    let (file, offset) = row.ok_or_else(|| {
        ConnectorError::config("MYSQL_NO_BINLOG", "the server writes no binlog (log_bin is OFF)")
    })?;
    Ok(BinlogPosition::new(String::from_utf8_lossy(&file).into_owned(), offset))
}

/// Ends a snapshot's transaction.
///
/// # Errors
/// The server's.
pub async fn commit(connection: &mut SnapshotConnection) -> Result<(), ConnectorError> {
    connection.conn.query_drop("COMMIT").await.map_err(from_mysql)
}

/// Reads a chunk.
///
/// # Errors
/// The server's. A table that changed its shape since the request was made is transient.
pub async fn read(
    connection: &mut SnapshotConnection,
    request: ChunkRequest,
) -> Result<ReadChunk, ConnectorError> {
    let (visible, high) = begin(connection).await?;
    let mut chunk = ReadChunk::empty(request.plan, visible, high);
    chunk.first = request.first;
    let select = format!("{} LIMIT {}", request.select, request.rows);
    select_into(&mut chunk, &mut connection.conn, &select).await?;
    chunk.finished = chunk.len() < request.rows as usize;
    chunk.last_key = chunk.key_of_last_row()?;
    if let Some(last_row) = request.last_row.filter(|_| !chunk.finished) {
        let mut end = ReadChunk::empty(Arc::clone(&chunk.plan), chunk.visible.clone(), chunk.high.clone());
        select_into(&mut end, &mut connection.conn, &last_row).await?;
        chunk.end_key = end.key_of_last_row()?;
    }
    commit(connection).await?;
    Ok(chunk)
}

async fn select_into(chunk: &mut ReadChunk, conn: &mut Conn, select: &str) -> Result<(), ConnectorError> {
    let read = async {
        let statement = conn.prep(select).await.map_err(from_mysql)?;
        let mut result = conn.exec_iter(&statement, ()).await.map_err(from_mysql)?;
        while let Some(row) = result.next().await.map_err(from_mysql)? {
            chunk.push(&row)?;
        }
        drop(result);
        conn.close(statement).await.map_err(from_mysql)
    };
    read.await.map_err(of_a_changed_table)
}

/// A table that is gone or has lost a column was altered since the request was made: the next request knows. So does one that
/// was altered after the snapshot was taken (error 1412).
pub(super) fn of_a_changed_table(mut error: ConnectorError) -> ConnectorError {
    if matches!(error.code, "MYSQL_NO_COLUMN" | "MYSQL_NO_TABLE") {
        error.class = Class::Transient;
    }
    error
}
