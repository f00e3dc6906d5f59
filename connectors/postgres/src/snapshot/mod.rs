//! What the snapshot engine ([`rowstream_api::snapshot`], which says why nothing is lost or doubled) needs of PostgreSQL.
//!
//! A chunk's `S` is `pg_current_snapshot()`, and its `high` the WAL's insert position after that: a transaction that S sees had its
//! commit record before. Whether S sees a transaction of the stream is a question of its id alone ([`visibility`]), never of
//! positions: commits become visible in another order than they are written, and with synchronous replication much later.

pub mod chunk;
pub mod condition;
pub mod rows;
pub mod table;
pub mod visibility;

use std::{sync::Arc, time::Duration};

use rowstream_api::{
    ConnectorError,
    snapshot::{
        self, Chunk, ChunkRequest, Database, Key, SnapshotRun, TableName, Told, Visibility as _, Work,
    },
};
use tokio::task::JoinSet;

use crate::{
    connection::ConnectionPlan,
    offset::SeenBy,
    replication::{Purpose, RawConnection, malformed},
    stream::{
        assemble::{EntryKind, RawBatch},
        changes::Images,
    },
    table::TablePlan,
    wire::pgoutput::{CellKind, RowChange},
};
use chunk::WholeTable;
use rows::{ReadRows, write_key};
use table::SnapshotTable;
use visibility::Visible;

/// How often a snapshot is taken again while it does not see what it must.
const RETAKE: Duration = Duration::from_millis(50);

/// Rows of all tables, as of the last ANALYZE or VACUUM; of a partitioned table, those of its partitions.
const ESTIMATES: &str = "
SELECT n.nspname, c.relname,
       (CASE c.relkind WHEN 'r' THEN nullif(c.reltuples, -1) ELSE
           (SELECT sum(p.reltuples) FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid
             WHERE t.isleaf AND p.reltuples >= 0) END)::int8
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')";

/// How far the snapshot is.
pub type Progress = snapshot::Progress<SeenBy>;

/// The server, as the engine reads it.
#[derive(Clone)]
pub struct Postgres {
    /// Where it is.
    pub plan: ConnectionPlan,
    /// The newest transaction that was delivered while an earlier run was under way.
    pub delivered: Option<u32>,
    /// Tables came into the publication while the stream was under way: what transactions did to them before is not in the stream, so
    /// all that were open then must have ended.
    pub has_joined: bool,
}

impl Database for Postgres {
    type Connection = RawConnection;
    type Table = SnapshotTable;
    type Rows = ReadRows;
    type Visible = Visible;
    type Position = u64;
    type Seen = SeenBy;
    type Whole = WholeTable;

    async fn connect(&self) -> Result<RawConnection, ConnectorError> {
        RawConnection::connect(&self.plan, Purpose::Query).await
    }

    /// A commit can be in the WAL, and delivered, before it is visible: always for a moment, and with synchronous replication as long
    /// as a standby does not answer. So what was delivered must have ended, and, where an earlier slot's begin may hide such a
    /// commit from the stream, everything that is in progress.
    async fn settle(&self, connection: &mut RawConnection) -> Result<(), ConnectorError> {
        let standbys = connection.rows("SELECT current_setting('synchronous_standby_names')").await?;
        let has_standbys = standbys.iter().flatten().flatten().any(|names| !names.is_empty());
        let first = chunk::snapshot(connection).await?;
        let open = if self.has_joined { chunk::open_transactions(connection).await? } else { Vec::new() };
        loop {
            let now = chunk::snapshot(connection).await?;
            if self.delivered.is_none_or(|xid| now.has_ended_up_to(xid))
                && (!has_standbys || now.has_ended_all_of(&first))
                && (open.is_empty()
                    || !chunk::open_transactions(connection).await?.iter().any(|id| open.contains(id)))
            {
                return Ok(());
            }
            tokio::time::sleep(RETAKE).await;
        }
    }

    async fn estimate(
        &self,
        connection: &mut RawConnection,
        tables: &[TableName],
    ) -> Result<Vec<(TableName, u64)>, ConnectorError> {
        let rows = connection.rows(ESTIMATES).await?;
        let of = |row: Vec<Option<String>>| match <[Option<String>; 3]>::try_from(row) {
            Ok([Some(schema), Some(name), Some(rows)]) => Some(((schema, name), rows.parse().ok()?)),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(of).filter(|(name, _)| tables.contains(name)).collect())
    }

    async fn last_key(
        &self,
        connection: &mut RawConnection,
        table: &SnapshotTable,
    ) -> Result<Option<Key>, ConnectorError> {
        chunk::key(connection, &table.select_last_key()).await
    }

    async fn bound(
        &self,
        connection: &mut RawConnection,
        request: &ChunkRequest<SnapshotTable>,
    ) -> Result<Option<Key>, ConnectorError> {
        chunk::key(connection, &request.table.select_bound(&request.range, request.rows)).await
    }

    async fn read(
        &self,
        connection: &mut RawConnection,
        request: &ChunkRequest<SnapshotTable>,
    ) -> Result<Chunk<Self>, ConnectorError> {
        chunk::read(connection, request).await
    }

    async fn open(
        &self,
        connection: RawConnection,
        table: Arc<SnapshotTable>,
    ) -> Result<WholeTable, ConnectorError> {
        WholeTable::open(connection, table).await
    }

    async fn reopen(&self, mut whole: WholeTable) -> Result<WholeTable, ConnectorError> {
        chunk::commit(&mut whole.connection).await?;
        tokio::time::sleep(RETAKE).await;
        WholeTable::open(whole.connection, whole.table).await
    }

    fn visible(whole: &WholeTable) -> &Visible {
        &whole.visible
    }

    async fn piece(&self, whole: WholeTable) -> Result<(WholeTable, Chunk<Self>), ConnectorError> {
        whole.next_piece().await
    }

    fn seen(piece: &Chunk<Self>) -> SeenBy {
        SeenBy { snapshot: piece.visible.to_string(), until: piece.high }
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
                    Err(ConnectorError::transient("PG_CONNECTION", "the reading of a table was ended"))
                }
            }
        })
    }
}

/// Tells the run what a batch of the stream does to the tables that it watches. `plans` are the batch's relations' plans.
///
/// # Errors
/// Malformed bytes.
pub fn tell(
    run: &mut SnapshotRun<Postgres>,
    progress: &mut Progress,
    raw: &RawBatch,
    plans: &[Option<Arc<TablePlan>>],
) -> Result<(), ConnectorError> {
    let watched = plans.iter().map(|plan| {
        let plan = plan.as_ref()?;
        let (schema, name) = (plan.relation.namespace.as_str(), plan.relation.name.as_str());
        progress.is_unread((schema, name)).then(|| (plan, (schema.to_owned(), name.to_owned())))
    });
    let watched: Vec<_> = watched.collect();
    let (mut cells, mut key) = (Vec::new(), Vec::new());
    for entry in &raw.entries {
        let of = watched.get(entry.relation as usize).and_then(Option::as_ref);
        let transaction = raw.transactions.get(entry.transaction as usize);
        let (Some((plan, name)), Some(transaction)) = (of, transaction) else { continue };
        let mut told = |told: Told<'_>| run.touched.record(name, &plan.schema, &transaction.xid, told);
        if entry.kind == EntryKind::Truncate {
            told(Told::Truncate);
            continue;
        }
        if plan.schema.key.is_none() {
            told(Told::Unknown);
            continue;
        }
        let message = raw.arena.get(entry.start as usize..entry.end as usize).unwrap_or_default();
        cells.clear();
        let change = RowChange::decode(message, &mut cells).map_err(malformed)?;
        let images = Images::of(plan, message, change, &cells)?;
        for row in images.old.iter().chain(&images.new) {
            let is_unchanged = |i| row.cell(i).is_some_and(|cell| cell.kind == CellKind::Unchanged);
            let incomplete = (0..row.cells.len()).any(is_unchanged);
            write_key(row, &mut key);
            told(Told::Key { key: &key, incomplete });
        }
    }
    run.told(progress);
    Ok(())
}

/// Whether the stream's transaction was in the snapshot that a table was read under at once.
#[must_use]
pub fn was_seen(progress: &Progress, plan: &TablePlan, xid: u32) -> bool {
    progress
        .seen_of((&plan.relation.namespace, &plan.relation.name))
        .and_then(|seen| seen.snapshot.parse::<Visible>().ok())
        .is_some_and(|visible| visible.sees(&xid))
}
