//! What the snapshot engine ([`rowstream_api::snapshot`], which says why nothing is lost or doubled) needs of MySQL and MariaDB.
//!
//! Around each chunk's snapshot (reference: mysql.md 4.1):
//!
//! ```text
//!   low ── BEGIN snapshot ── high ── rows ── COMMIT
//! ```
//! - What is in `low` is certainly visible ([`visibility`]): the server adds a transaction there after it made it visible.
//! - Everything that the snapshot sees is in the binlog before `high`.
//! - MariaDB tells the exact position of a snapshot, which is both.
//!
//! A table without a usable key is read under one snapshot with an exact position ([`whole`]).

pub mod chunk;
pub mod condition;
pub mod rows;
pub mod table;
pub mod visibility;
pub mod whole;

use std::{collections::HashMap, sync::Arc, time::Duration};

use mysql_async::prelude::Queryable as _;
use rowstream_api::{
    ConnectorError,
    snapshot::{self, Chunk, ChunkRequest, Database, Key, SnapshotRun, TableName, Told, Work},
};
use tokio::task::JoinSet;

use crate::{
    connection::ConnectionPlan,
    error::from_mysql,
    stream::{
        batch::{EntryKind, RawBatch},
        changes::{Cells, images, is_incomplete},
        position::BinlogPosition,
    },
    table::TablePlan,
    wire::gtid::GtidState,
};
use chunk::SnapshotConnection;
use rows::{ReadRows, write_key};
use table::SnapshotTable;
use visibility::{TransactionId, Visible};
use whole::WholeTable;

/// How often a snapshot is taken again while it does not see what it must.
const RETAKE: Duration = Duration::from_millis(50);

/// How far the snapshot is. Of a table that was read at once: up to which position what the stream has of it was seen.
pub type Progress = snapshot::Progress<(String, u64)>;

/// The server, as the engine reads it.
#[derive(Clone)]
pub struct MySql {
    /// Where it is.
    pub plan: ConnectionPlan,
    /// What was delivered before this run.
    pub delivered: (GtidState, BinlogPosition),
}

impl Database for MySql {
    type Connection = SnapshotConnection;
    type Table = SnapshotTable;
    type Rows = ReadRows;
    type Visible = Visible;
    type Position = BinlogPosition;
    type Seen = (String, u64);
    type Whole = WholeTable;

    async fn connect(&self) -> Result<SnapshotConnection, ConnectorError> {
        chunk::connect(&self.plan).await
    }

    /// A transaction can be in the stream before it is visible, for as long as a semi-synchronous replica keeps it waiting.
    async fn settle(&self, connection: &mut SnapshotConnection) -> Result<(), ConnectorError> {
        let (gtids, at) = &self.delivered;
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

    async fn estimate(
        &self,
        connection: &mut SnapshotConnection,
        tables: &[TableName],
    ) -> Result<Vec<(TableName, u64)>, ConnectorError> {
        let sql = "SELECT CAST(table_schema AS BINARY), CAST(table_name AS BINARY), table_rows
                     FROM information_schema.tables WHERE table_rows IS NOT NULL";
        let rows: Vec<(Vec<u8>, Vec<u8>, u64)> = connection.conn.query(sql).await.map_err(from_mysql)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let named = rows.into_iter().map(|(database, name, rows)| ((text(database), text(name)), rows));
        Ok(named.filter(|(name, _)| tables.contains(name)).collect())
    }

    async fn last_key(
        &self,
        connection: &mut SnapshotConnection,
        table: &SnapshotTable,
    ) -> Result<Option<Key>, ConnectorError> {
        chunk::key(connection, table, &table.select_last_key()).await
    }

    async fn bound(
        &self,
        connection: &mut SnapshotConnection,
        request: &ChunkRequest<SnapshotTable>,
    ) -> Result<Option<Key>, ConnectorError> {
        let select = request.table.select_bound(&request.range, request.rows);
        chunk::key(connection, &request.table, &select).await
    }

    async fn read(
        &self,
        connection: &mut SnapshotConnection,
        request: &ChunkRequest<SnapshotTable>,
    ) -> Result<Chunk<Self>, ConnectorError> {
        chunk::read(connection, request).await
    }

    async fn open(
        &self,
        connection: SnapshotConnection,
        table: Arc<SnapshotTable>,
    ) -> Result<WholeTable, ConnectorError> {
        WholeTable::open(connection, &self.plan, table).await
    }

    async fn reopen(&self, whole: WholeTable) -> Result<WholeTable, ConnectorError> {
        let (connection, table) = whole.give_up().await?;
        tokio::time::sleep(RETAKE).await;
        WholeTable::open(connection, &self.plan, table).await
    }

    fn visible(whole: &WholeTable) -> &Visible {
        &whole.visible
    }

    async fn piece(&self, whole: WholeTable) -> Result<(WholeTable, Chunk<Self>), ConnectorError> {
        whole.next_piece().await
    }

    fn seen(piece: &Chunk<Self>) -> (String, u64) {
        (piece.high.file.as_ref().to_owned(), piece.high.offset)
    }

    fn rest(time: Duration) -> Work<()> {
        Box::pin(async move {
            tokio::time::sleep(time).await;
            Ok(())
        })
    }

    fn spawn<T: Send + 'static>(work: Work<T>) -> Work<T> {
        let mut tasks = JoinSet::new();
        tasks.spawn(work);
        Box::pin(async move {
            match tasks.join_next().await {
                Some(Ok(done)) => done,
                Some(Err(ended)) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
                Some(Err(_)) | None => {
                    Err(ConnectorError::transient("MYSQL_CONNECTION", "the reading of a table was ended"))
                }
            }
        })
    }
}

/// Tells the run what a batch of the stream does to the tables that are to be read. `plans` are its tables' plans.
///
/// # Errors
/// Malformed bytes.
pub fn tell(
    run: &mut SnapshotRun<MySql>,
    progress: &mut Progress,
    raw: &RawBatch,
    plans: &[Option<Arc<TablePlan>>],
) -> Result<(), ConnectorError> {
    let watched: Vec<Option<(&Arc<TablePlan>, TableName)>> = plans
        .iter()
        .map(|plan| {
            let plan = plan.as_ref()?;
            let (database, name) = (plan.shape.database.as_str(), plan.shape.table.as_str());
            progress.is_unread((database, name)).then(|| (plan, (database.to_owned(), name.to_owned())))
        })
        .collect();
    if watched.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut ids: HashMap<u32, Arc<TransactionId>> = HashMap::new();
    let (mut cells, mut key) = (Cells::default(), Vec::new());
    for entry in &raw.rows.entries {
        let Some(info) = raw.rows.events.get(entry.event as usize) else { continue };
        let of = watched.get(info.table as usize).and_then(Option::as_ref);
        let (Some((plan, name)), Some(table), Some(transaction)) =
            (of, raw.rows.tables.get(info.table as usize), raw.transactions.get(info.transaction as usize))
        else {
            continue;
        };
        let id = ids.entry(info.transaction).or_insert_with(|| Arc::new(TransactionId::of(transaction)));
        let mut told = |told: Told<'_>| run.touched.record(name, &plan.schema, id, told);
        if entry.kind == EntryKind::Truncate {
            told(Told::Truncate);
        } else if plan.schema.key.is_none() {
            told(Told::Unknown);
        } else {
            let images = images(plan, &table.widths, &raw.rows.arena, (entry, info), &mut cells)?;
            for row in images.old.iter().chain(&images.new) {
                key.clear();
                write_key(row, &mut key)?;
                let incomplete = row.before.is_some() && is_incomplete(row);
                told(Told::Key { key: &key, incomplete });
            }
        }
    }
    run.told(progress);
    Ok(())
}

/// Forgets the tables read at once of which the stream, standing at `here`, can't bring anything any more that was seen.
pub fn forget_seen(progress: &mut Progress, here: &BinlogPosition) {
    progress.seen.retain(|_, (file, pos)| BinlogPosition::new(file.as_str(), *pos) > *here);
}

/// Whether the snapshot that a table was read under saw what begins at this position.
#[must_use]
pub fn was_seen(progress: &Progress, plan: &TablePlan, begins: &BinlogPosition) -> bool {
    progress
        .seen_of((&plan.shape.database, &plan.shape.table))
        .is_some_and(|(file, pos)| *begins < BinlogPosition::new(file.as_str(), *pos))
}
