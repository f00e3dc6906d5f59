//! The source connectors: `start` checks what is there, `poll` yields the stream and, beside it, the snapshot.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use mysql_async::Conn;
use rowstream_api::{
    ConfigErrors, ConnectorError, Delivery, NoChanges, SourceBatch, SourceConnector, SourceOffsets,
    SourceTask, TaskContext,
};
use tokio::task::JoinSet;

use crate::{
    catalog::{self, Catalog},
    connection::{Flavour, Server},
    monitor,
    offset::{SnapshotProgress, StoredOffset, partition},
    preflight, setup,
    source_config::{SnapshotMode, SourceConfig, SourcePlan},
    stream::{
        assemble::{RawBatch, StreamTable},
        changes::{SourceNames, StreamChanges},
        reader::{Reader, StreamPlan},
    },
    table::{self, TablePlan},
};

/// `mysql-source` and `mariadb-source`: one source, which insists on the server that it is named for.
#[derive(Debug, Clone, Copy)]
pub struct BinlogSource<const MARIADB: bool>;

/// `mysql-source`
pub type MySqlSource = BinlogSource<false>;
/// `mariadb-source`
pub type MariaDbSource = BinlogSource<true>;

impl<const MARIADB: bool> SourceConnector for BinlogSource<MARIADB> {
    const NAME: &'static str = if MARIADB { "mariadb-source" } else { "mysql-source" };
    type Config = SourceConfig;
    type Plan = SourcePlan;
    type Task = BinlogSourceTask;

    fn validate(config: SourceConfig) -> Result<SourcePlan, ConfigErrors> {
        config.plan(if MARIADB { Flavour::MariaDb } else { Flavour::MySql })
    }

    fn delivery(_plan: &SourcePlan) -> Delivery {
        Delivery::ExactlyOnce
    }

    fn exclusive(plan: &SourcePlan) -> Vec<String> {
        let addresses = plan.connection.addresses.iter();
        addresses.map(|address| format!("mysql://{address} server_id {}", plan.server_id)).collect()
    }

    async fn preflight(plan: &SourcePlan) -> Result<(), ConnectorError> {
        preflight::check(plan).await
    }

    fn split(plan: &SourcePlan, _tasks_max: NonZeroUsize) -> Vec<SourcePlan> {
        // A binlog has one order.
        vec![plan.clone()]
    }

    async fn start(
        plan: SourcePlan,
        resume: SourceOffsets,
        cx: TaskContext,
    ) -> Result<BinlogSourceTask, ConnectorError> {
        Box::pin(BinlogSourceTask::start(plan, resume, cx)).await
    }
}

/// A running source.
pub struct BinlogSourceTask {
    plan: SourcePlan,
    cx: TaskContext,
    reader: Reader,
    /// The position of what `poll` has yielded.
    offset: StoredOffset,
    /// A position that must be stored before anything else happens.
    announce: bool,
    /// A batch that was taken from the queue and not yielded yet.
    pending: Option<RawBatch>,
    tables: TablePlans,
    names: Arc<SourceNames>,
    /// Owns the monitor.
    _watching: JoinSet<()>,
}

fn flavour_name(flavour: Flavour) -> String {
    table::connector_name(flavour).to_owned()
}

impl BinlogSourceTask {
    async fn start(plan: SourcePlan, resume: SourceOffsets, cx: TaskContext) -> Result<Self, ConnectorError> {
        let (mut conn, server) = catalog::connect(&plan.connection).await?;
        let mut problems = preflight::flavour_problems(&plan, server);
        let captured = catalog::captured_tables(&mut conn, &plan.tables).await?;
        problems.extend(setup::table_problems(&plan.topic_prefix, &captured));
        if !problems.is_empty() {
            return Err(setup::as_error("MYSQL_TABLES", problems));
        }
        let stored = StoredOffset::of(&resume, &plan.topic_prefix)?;
        let announce = stored.is_none();
        let uuid = setup::server_uuid(&mut conn, server.flavour).await?;
        let offset = match stored {
            Some(stored) if stored.flavour != flavour_name(server.flavour) => {
                return Err(ConnectorError::fatal(
                    "MYSQL_OTHER_SERVER",
                    format!("the stored position is of {}, the server is {server}", stored.flavour),
                )
                .remedy("delete the connector's offsets to start over with a new snapshot"));
            }
            Some(stored) => stored,
            None => first_offset(&mut conn, &plan, server, &uuid, &captured).await?,
        };
        let catalog = Catalog::load(&mut conn, server.flavour).await?;
        let reader = Reader::start(StreamPlan {
            connection: plan.connection.clone(),
            flavour: server.flavour,
            server_uuid: offset.server_uuid.clone(),
            server_id: plan.server_id,
            from: offset.position()?,
            tables: plan.tables.clone(),
            batch_bytes: plan.batch_bytes,
            queue_bytes: plan.queue_bytes,
            heartbeat_interval: plan.heartbeat_interval,
        })
        .await?;
        let mut watching = JoinSet::new();
        watching.spawn(monitor::watch(plan.clone(), cx.gauges.clone(), Arc::clone(&reader.control)));
        let names = Arc::new(SourceNames { server: plan.topic_prefix.clone(), flavour: server.flavour });
        let tables = TablePlans { by_name: HashMap::new(), catalog, conn: Some(conn) };
        Ok(Self { plan, cx, reader, offset, announce, pending: None, tables, names, _watching: watching })
    }

    async fn next_batch(&mut self) -> Result<SourceBatch, ConnectorError> {
        if self.announce {
            self.announce = false;
            return self.position_only();
        }
        if self.pending.is_none() {
            self.pending = Some(self.reader.batches.pop().await?);
        }
        self.deliver_pending().await
    }

    /// Yields the batch that was taken from the queue; asks the catalog about shapes that are new.
    async fn deliver_pending(&mut self) -> Result<SourceBatch, ConnectorError> {
        let used = self.pending.as_ref().map(|raw| raw.rows.tables.clone()).unwrap_or_default();
        let mut tables = Vec::with_capacity(used.len());
        for table in &used {
            tables.push(self.tables.plan_of(table, &self.plan).await?);
        }
        let Some(raw) = self.pending.take() else { return self.position_only() };
        self.offset.set_position(&raw.position);
        let widths = used.iter().map(|table| table.widths.clone());
        let changes = StreamChanges {
            arena: raw.rows.arena,
            entries: raw.rows.entries,
            events: raw.rows.events,
            transactions: raw.transactions,
            tables: tables
                .into_iter()
                .zip(widths)
                .map(|(plan, widths)| plan.map(|plan| (plan, widths)))
                .collect(),
            unread: Vec::new(),
            names: Arc::clone(&self.names),
        };
        Ok(SourceBatch {
            changes: Box::new(changes),
            offsets: self.offset.to_offsets(&self.plan.topic_prefix)?,
            ends_transaction: raw.ends_transaction,
        })
    }

    fn position_only(&self) -> Result<SourceBatch, ConnectorError> {
        Ok(SourceBatch {
            changes: Box::new(NoChanges),
            offsets: self.offset.to_offsets(&self.plan.topic_prefix)?,
            ends_transaction: self.offset.partial.is_none(),
        })
    }
}

async fn first_offset(
    conn: &mut Conn,
    plan: &SourcePlan,
    server: Server,
    uuid: &str,
    captured: &[(String, String)],
) -> Result<StoredOffset, ConnectorError> {
    let position = setup::first_position(conn, server).await?;
    let snapshot = match plan.snapshot.mode {
        SnapshotMode::Never => None,
        SnapshotMode::Initial | SnapshotMode::InitialOnly => {
            Some(SnapshotProgress { todo: captured.to_vec(), ..SnapshotProgress::default() })
        }
    };
    let mut offset = StoredOffset {
        flavour: flavour_name(server.flavour),
        server_uuid: uuid.to_owned(),
        file: String::new(),
        pos: 0,
        gtids: None,
        partial: None,
        prepared: Vec::new(),
        snapshot,
    };
    offset.set_position(&position);
    Ok(offset)
}

impl SourceTask for BinlogSourceTask {
    async fn poll(&mut self) -> Result<SourceBatch, ConnectorError> {
        self.next_batch().await
    }

    async fn committed(&mut self, offsets: &SourceOffsets) -> Result<(), ConnectorError> {
        // The server keeps no account of its readers; what is durable is only shown.
        let stored = offsets.get(&partition(&self.plan.topic_prefix));
        if let Some(pos) = stored.and_then(|offset| offset.0.get("pos")).and_then(serde_json::Value::as_u64) {
            #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
            self.cx.gauges.set("durable_binlog_pos", pos as f64);
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.reader.close().await;
        Ok(())
    }
}

/// The plans of the tables at their present shapes.
pub struct TablePlans {
    by_name: HashMap<(String, String), Arc<TablePlan>>,
    catalog: Catalog,
    conn: Option<Conn>,
}

impl TablePlans {
    /// The plan of a shape. Asks the catalog when the shape is new.
    ///
    /// # Errors
    /// The server's, or a column that is not supported.
    pub async fn plan_of(
        &mut self,
        table: &StreamTable,
        plan: &SourcePlan,
    ) -> Result<Option<Arc<TablePlan>>, ConnectorError> {
        let name = (table.shape.database.clone(), table.shape.table.clone());
        if let Some(known) = self.by_name.get(&name)
            && (known.shape == table.shape || table.shape.columns.is_empty())
        {
            return Ok(Some(Arc::clone(known)));
        }
        let described = self.describe(&name.0, &name.1, plan).await?;
        let shape = if table.shape.columns.is_empty() {
            // TRUNCATE: any shape will do, for the record has no row.
            described.unwrap_or_else(|| table.shape.clone())
        } else {
            table.shape.clone()
        };
        let made = Arc::new(table::build(&shape, &self.catalog, plan.types, &plan.topic_prefix)?);
        self.by_name.insert(name, Arc::clone(&made));
        Ok(Some(made))
    }

    /// Asks the catalog about a table, over a connection that is made anew when it was lost.
    ///
    /// # Errors
    /// The server's.
    pub async fn describe(
        &mut self,
        database: &str,
        table: &str,
        plan: &SourcePlan,
    ) -> Result<Option<crate::wire::table_map::TableShape>, ConnectorError> {
        if let Some(mut conn) = self.conn.take()
            && let Ok(shape) = self.catalog.describe(&mut conn, database, table).await
        {
            self.conn = Some(conn);
            return Ok(shape);
        }
        let (mut conn, _) = catalog::connect(&plan.connection).await?;
        let shape = self.catalog.describe(&mut conn, database, table).await?;
        self.conn = Some(conn);
        Ok(shape)
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
    i64::try_from(now).unwrap_or(i64::MAX)
}
