//! Reading a table at once, under one snapshot: tables without a key, or with a key that rows can't be asked for after.
//!
//! MariaDB's snapshots have an exact position. MySQL's do not, so the one table is locked against writers for as long as it takes
//! to begin the snapshot and to read the position: no transaction on it is then between the binlog and visibility.

use std::sync::Arc;

use mysql_async::prelude::Queryable;
use rowstream_api::{Attempting, ConnectorError};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    chunk::{self, ReadChunk, SnapshotConnection},
    visibility::Visible,
};
use crate::{
    connection::{ConnectionPlan, Flavour},
    error::from_mysql,
    ident::TableName,
    setup,
    stream::position::BinlogPosition,
    table::TablePlan,
};

/// A piece ends at this size.
const PIECE_BYTES: usize = 4 << 20;

/// A table whose snapshot was begun.
pub struct OpenTable {
    /// In the snapshot's transaction.
    pub connection: SnapshotConnection,
    /// The table.
    pub plan: Arc<TablePlan>,
    /// `SELECT …`
    pub select: String,
    /// What the snapshot sees of the table: exact.
    pub visible: Visible,
    /// The same as a position.
    pub exact: BinlogPosition,
}

/// A table that is being read.
pub struct Pieces {
    pieces: mpsc::Receiver<Result<ReadChunk, ConnectorError>>,
    /// Owns the reading.
    _reading: JoinSet<()>,
}

/// Begins the snapshot of one table.
///
/// # Errors
/// The server's.
pub async fn open(
    mut connection: SnapshotConnection,
    of: &ConnectionPlan,
    plan: Arc<TablePlan>,
    select: String,
) -> Result<OpenTable, ConnectorError> {
    if connection.server.flavour == Flavour::MariaDb {
        let (visible, exact) = chunk::begin(&mut connection).await?;
        return Ok(OpenTable { connection, plan, select, visible, exact });
    }
    let mut locking = chunk::connect(of).await?;
    let name = TableName::new(&plan.shape.database, &plan.shape.table);
    locking.conn.query_drop(format!("LOCK TABLES {name} READ")).await.map_err(from_mysql).map_err(
        |error| {
            let error = error
                .while_attempting(&format!("lock `{}`, which has no usable key, for a moment", name.plain()));
            if error.code == "MYSQL_PRIVILEGE" {
                error.remedy(format!(
                    "GRANT LOCK TABLES, SELECT ON {}.* TO CURRENT_USER; -- or give the table a primary key",
                    name.database
                ))
            } else {
                error
            }
        },
    )?;
    let begun = async {
        connection
            .conn
            .query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            .await
            .map_err(from_mysql)?;
        setup::binlog_status(&mut connection.conn, connection.server).await
    };
    let exact = begun.await;
    // A connection that is dropped gives its locks up, too.
    locking.conn.query_drop("UNLOCK TABLES").await.map_err(from_mysql)?;
    let exact = exact?;
    Ok(OpenTable { connection, plan, select, visible: Visible::Until(exact.clone()), exact })
}

/// Ends the snapshot without reading.
///
/// # Errors
/// The server's.
pub async fn give_up(mut table: OpenTable) -> Result<SnapshotConnection, ConnectorError> {
    chunk::commit(&mut table.connection).await?;
    Ok(table.connection)
}

impl Pieces {
    /// Begins to read.
    #[must_use]
    pub fn of(table: OpenTable) -> Self {
        let (sender, pieces) = mpsc::channel(1);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            if let Err(error) = read(table, &sender).await {
                // Nobody listens any more when this fails.
                drop(sender.send(Err(error)).await);
            }
        });
        Self { pieces, _reading: reading }
    }

    /// The next piece; the last one is `finished`. Cancel-safe.
    ///
    /// # Errors
    /// The server's.
    pub async fn next(&mut self) -> Result<ReadChunk, ConnectorError> {
        self.pieces.recv().await.unwrap_or_else(|| {
            Err(ConnectorError::transient("MYSQL_CONNECTION", "the reading of a table has ended early"))
        })
    }
}

async fn read(
    mut table: OpenTable,
    sender: &mpsc::Sender<Result<ReadChunk, ConnectorError>>,
) -> Result<(), ConnectorError> {
    let new = || ReadChunk::empty(Arc::clone(&table.plan), table.visible.clone(), table.exact.clone());
    let conn = &mut table.connection.conn;
    let statement = conn.prep(table.select.as_str()).await.map_err(from_mysql)?;
    let mut result = conn
        .exec_iter(&statement, ())
        .await
        .map_err(from_mysql)
        .attempting(|| format!("read `{}`", table.plan.name()))?;
    let mut piece = new();
    piece.first = true;
    while let Some(row) = result.next().await.map_err(from_mysql)? {
        piece.push(&row)?;
        if piece.bytes() >= PIECE_BYTES
            && sender.send(Ok(std::mem::replace(&mut piece, new()))).await.is_err()
        {
            return Ok(());
        }
    }
    piece.finished = true;
    drop(sender.send(Ok(piece)).await);
    Ok(())
}
