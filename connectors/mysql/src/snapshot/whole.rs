//! Reading a table at once, under one snapshot: tables without a key, or with a key that rows can't be asked for after.
//!
//! MariaDB's snapshots have an exact position. MySQL's do not, so the one table is locked against writers for as long as it takes
//! to begin the snapshot and to read the position: no transaction on it is then between the binlog and visibility.

use std::sync::Arc;

use mysql_async::prelude::Queryable;
use rowstream_api::{
    Attempting, ConnectorError,
    snapshot::{Chunk, Rows as _},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    MySql,
    chunk::{self, SnapshotConnection},
    rows::ReadRows,
    table::SnapshotTable,
    visibility::Visible,
};
use crate::{
    connection::{ConnectionPlan, Flavour},
    error::from_mysql,
    ident::TableName,
    setup,
    stream::position::BinlogPosition,
};

/// A piece ends at this size.
const PIECE_BYTES: usize = 4 << 20;

/// A table under one snapshot.
pub struct WholeTable {
    /// What the snapshot sees of the table: exact.
    pub visible: Visible,
    table: Arc<SnapshotTable>,
    /// The same as `visible`, as a position.
    exact: BinlogPosition,
    reading: Reading,
}

enum Reading {
    /// In the snapshot's transaction.
    Opened(Box<SnapshotConnection>),
    /// Rows come, and whether they are the last ones.
    Begun { pieces: mpsc::Receiver<Piece>, task: JoinSet<()> },
}

type Piece = Result<(ReadRows, bool), ConnectorError>;

impl WholeTable {
    /// Begins the snapshot.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(
        mut connection: SnapshotConnection,
        of: &ConnectionPlan,
        table: Arc<SnapshotTable>,
    ) -> Result<Self, ConnectorError> {
        let (visible, exact) = if connection.server.flavour == Flavour::MariaDb {
            chunk::begin(&mut connection).await?
        } else {
            let name = TableName::new(&table.plan.shape.database, &table.plan.shape.table);
            let exact = begin_locked(&mut connection, of, &name).await?;
            (Visible::Until(exact.clone()), exact)
        };
        Ok(Self { visible, table, exact, reading: Reading::Opened(Box::new(connection)) })
    }

    /// Ends the snapshot, of which nothing was read.
    ///
    /// # Errors
    /// The server's.
    pub async fn give_up(self) -> Result<(SnapshotConnection, Arc<SnapshotTable>), ConnectorError> {
        match self.reading {
            Reading::Opened(mut connection) => {
                chunk::commit(&mut connection).await?;
                Ok((*connection, self.table))
            }
            Reading::Begun { .. } => Err(ended_early()),
        }
    }

    /// The next rows.
    ///
    /// # Errors
    /// The server's.
    pub async fn next_piece(mut self) -> Result<(Self, Chunk<MySql>), ConnectorError> {
        let (mut pieces, task) = match self.reading {
            Reading::Begun { pieces, task } => (pieces, task),
            Reading::Opened(connection) => {
                let (sender, pieces) = mpsc::channel(1);
                let (mut task, table) = (JoinSet::new(), Arc::clone(&self.table));
                task.spawn(async move {
                    if let Err(error) = read(*connection, &table, &sender).await {
                        // Nobody listens any more when this fails.
                        drop(sender.send(Err(error)).await);
                    }
                });
                (pieces, task)
            }
        };
        let (rows, is_complete) = pieces.recv().await.unwrap_or_else(|| Err(ended_early()))?;
        self.reading = Reading::Begun { pieces, task };
        let (visible, high) = (self.visible.clone(), self.exact.clone());
        Ok((self, Chunk { rows, visible, high, last_key: None, is_complete }))
    }
}

fn ended_early() -> ConnectorError {
    ConnectorError::transient("MYSQL_CONNECTION", "the reading of a table has ended early")
}

/// Begins a snapshot while nobody writes to the table; answers where it stands in the binlog.
async fn begin_locked(
    connection: &mut SnapshotConnection,
    of: &ConnectionPlan,
    name: &TableName,
) -> Result<BinlogPosition, ConnectorError> {
    let mut locking = chunk::connect(of).await?;
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
    exact
}

async fn read(
    mut connection: SnapshotConnection,
    table: &SnapshotTable,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), ConnectorError> {
    let conn = &mut connection.conn;
    let statement = conn.prep(table.select()).await.map_err(from_mysql)?;
    let mut result = conn
        .exec_iter(&statement, ())
        .await
        .map_err(from_mysql)
        .attempting(|| format!("read `{}`", table.plan.name()))?;
    let new = || ReadRows::new(Arc::clone(&table.plan));
    let mut rows = new();
    while let Some(row) = result.next().await.map_err(from_mysql)? {
        rows.push(&row)?;
        if rows.bytes() >= PIECE_BYTES
            && sender.send(Ok((std::mem::replace(&mut rows, new()), false))).await.is_err()
        {
            return Ok(());
        }
    }
    drop(sender.send(Ok((rows, true))).await);
    Ok(())
}
