//! Reading rows of a table, under a snapshot whose place in the binlog is known (reference: mysql.md 4.1).
//!
//! - MariaDB tells the exact position of a consistent snapshot.
//! - MySQL with GTIDs: what is in `gtid_executed` *before* the snapshot is visible in it; what is visible in it was written to the
//!   binlog before, so it ends before the binlog's position *after* it. The position before it would lose rows: a transaction is
//!   in the binlog before it becomes visible.
//! - MySQL without GTIDs: `performance_schema.log_status` takes the place of `gtid_executed`.

use std::sync::Arc;

use mysql_async::{Conn, prelude::Queryable};
use rowstream_api::{
    Attempting, Class, ConnectorError,
    snapshot::{Chunk, ChunkRequest, Key, Rows as _},
};

use super::{MySql, condition, rows::ReadRows, table::SnapshotTable, visibility::Visible};
use crate::{
    catalog,
    connection::{ConnectionPlan, Flavour, Server},
    error::from_mysql,
    setup,
    stream::position::BinlogPosition,
};

/// A connection that reads, and who answered.
pub struct SnapshotConnection {
    /// The client.
    pub conn: Conn,
    /// Flavour and version.
    pub server: Server,
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
/// The server's. A table that changed its shape since the request was made is transient; a condition that can't be evaluated is not.
pub async fn read(
    connection: &mut SnapshotConnection,
    request: &ChunkRequest<SnapshotTable>,
) -> Result<Chunk<MySql>, ConnectorError> {
    let (visible, high) = begin(connection).await?;
    let mut rows = ReadRows::new(Arc::clone(&request.table.plan));
    let select = request.table.select_range(&request.range, request.rows);
    let read = async {
        let conn = &mut connection.conn;
        let statement = conn.prep(select).await.map_err(from_mysql)?;
        let mut result = conn.exec_iter(&statement, ()).await.map_err(from_mysql)?;
        let mut is_full = false;
        while let Some(row) = result.next().await.map_err(from_mysql)? {
            // Of wide rows fewer are kept than were asked for; the others are asked for again.
            is_full |= rows.bytes() >= request.bytes;
            if !is_full {
                rows.push(&row)?;
            }
        }
        drop(result);
        conn.close(statement).await.map_err(from_mysql)?;
        Ok(is_full)
    };
    let refuses = |error: ConnectorError| match error.class {
        Class::Transient if matches!(error.code, "MYSQL_NO_COLUMN" | "MYSQL_NO_TABLE") => error,
        _ if request.table.condition.is_some() => condition::refused(error),
        Class::Transient | Class::Config | Class::Fatal => error,
    };
    let is_full = read.await.map_err(of_a_changed_table).map_err(refuses)?;
    commit(connection).await?;
    let is_complete = !is_full && rows.len() < usize::try_from(request.rows).unwrap_or(usize::MAX);
    let last_key = rows.last_key()?;
    Ok(Chunk { rows, visible, high, last_key, is_complete })
}

/// Asks for one key: the key's columns, of which the select has no others.
///
/// # Errors
/// As [`read`].
pub async fn key(
    connection: &mut SnapshotConnection,
    table: &SnapshotTable,
    select: &str,
) -> Result<Option<Key>, ConnectorError> {
    let read = async {
        let statement = connection.conn.prep(select).await.map_err(from_mysql)?;
        let row = connection.conn.exec_first(&statement, ()).await.map_err(from_mysql)?;
        connection.conn.close(statement).await.map_err(from_mysql)?;
        Ok(row)
    };
    let Some(row) = read.await.map_err(of_a_changed_table)? else { return Ok(None) };
    let mut rows = ReadRows::new(Arc::clone(&table.plan));
    rows.push_key(&row)?;
    rows.last_key()
}

/// A table that is gone or has lost a column was altered since the request was made: the next request knows. So does one that
/// was altered after the snapshot was taken (error 1412).
pub(super) fn of_a_changed_table(mut error: ConnectorError) -> ConnectorError {
    if matches!(error.code, "MYSQL_NO_COLUMN" | "MYSQL_NO_TABLE") {
        error.class = Class::Transient;
    }
    error
}
