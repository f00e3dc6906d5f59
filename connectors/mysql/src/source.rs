//! The source connectors: `start` checks what is there, `poll` yields the stream and, beside it, the snapshot.

mod begin;
mod signals;
mod snapshots;

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rowstream_api::{
    ConfigErrors, ConnectorError, Delivery, NoChanges, SourceBatch, SourceConnector, SourceOffsets,
    SourceTask, TableSchema, TaskContext,
    snapshot::{Report, SnapshotAction, SnapshotRequest, SnapshotRun, lost::now_ms},
};
use tokio::task::JoinSet;

use crate::{
    catalog::{self, Catalog},
    connection::{Flavour, Server},
    monitor,
    offset::{StoredOffset, partition},
    preflight,
    schema_change::{
        self, Message,
        initial::{self, InitialTables},
        structure::Structure,
    },
    setup,
    snapshot::{self, MySql, table::is_chunkable},
    source_config::{SnapshotMode, SourceConfig, SourcePlan},
    stream::{
        assemble::DefinitionPlan,
        batch::{Definition, RawBatch},
        changes::{SourceNames, StreamChanges},
        definition::{Action, Target},
        reader::{Reader, StreamPlan},
    },
    table::{self, TablePlan},
    tables::TablePlans,
};
use begin::{Begun, From, Upstream};

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

    async fn tables(plan: &SourcePlan) -> Result<Vec<Arc<TableSchema>>, ConnectorError> {
        preflight::tables(plan).await
    }

    fn split(plan: &SourcePlan, _tasks_max: NonZeroUsize) -> Vec<SourcePlan> {
        // A binlog has one order.
        vec![plan.clone()]
    }

    fn snapshot(plan: &SourcePlan, offsets: &SourceOffsets) -> Result<Option<Report>, ConnectorError> {
        let stored = StoredOffset::of(offsets, &plan.topic_prefix)?;
        let report = |stored: StoredOffset| {
            Report::of(stored.snapshot.as_ref(), &stored.on_demand, stored.lost.as_ref())
        };
        Ok(Some(stored.map(report).unwrap_or_default()))
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
    /// What is delivered with the first position.
    initial: Option<InitialTables>,
    /// A batch that was taken from the queue and not yielded yet.
    pending: Option<RawBatch>,
    /// Why the stream can't go on from its position, where all tables are to be read anew.
    lost: Option<ConnectorError>,
    /// The position is of the server that is streaming: a batch came from it.
    heard: bool,
    tables: TablePlans,
    /// Where statements go.
    schema_changes: Arc<TableSchema>,
    names: Arc<SourceNames>,
    snapshot: Option<SnapshotRun<MySql>>,
    /// Owns the monitor.
    _watching: JoinSet<()>,
}

fn flavour_name(flavour: Flavour) -> String {
    table::connector_name(flavour).to_owned()
}

impl BinlogSourceTask {
    async fn start(plan: SourcePlan, resume: SourceOffsets, cx: TaskContext) -> Result<Self, ConnectorError> {
        let stored = StoredOffset::of(&resume, &plan.topic_prefix)?;
        match Self::begin(plan.clone(), From::Stored(stored.clone()), cx.clone()).await {
            Err(error) if begin::recovers(&plan, &error) => match stored {
                Some(stored) => Self::begin(plan, From::Lost(stored, &error), cx).await,
                None => Err(error),
            },
            begun => begun,
        }
    }

    async fn begin(plan: SourcePlan, from: From<'_>, cx: TaskContext) -> Result<Self, ConnectorError> {
        let (mut conn, server) = catalog::connect(&plan.connection).await?;
        let mut problems = preflight::flavour_problems(&plan, server);
        let captured = catalog::captured_tables(&mut conn, &plan.tables).await?;
        problems.extend(setup::table_problems(&plan.topic_prefix, &captured));
        problems.extend(setup::signal_problems(&mut conn, &plan).await?);
        if !problems.is_empty() {
            return Err(setup::as_error("MYSQL_TABLES", problems));
        }
        let uuid = setup::server_uuid(&mut conn, server.flavour).await?;
        let upstream = Upstream { conn: &mut conn, server, uuid: &uuid, captured };
        let Begun { mut offset, announce, is_first } = begin::begin(&plan, from, upstream, &cx).await?;
        let catalog = Catalog::load(&mut conn, server.flavour).await?;
        let definitions = DefinitionPlan {
            lower_case: setup::stores_lower_case(&mut conn).await?,
            charsets: Arc::new(catalog.charset_table()),
        };
        let stream = stream_plan(&plan, &offset, server, definitions)?;
        let reader = Reader::start(stream.clone()).await?;
        if offset.server_uuid != uuid {
            // Another server of the topology: its files are others. What was seen can't be told any more, and comes twice.
            offset.server_uuid = uuid;
            if let Some(progress) = &mut offset.snapshot {
                progress.seen.clear();
            }
        }
        let mut watching = JoinSet::new();
        watching.spawn(monitor::watch(plan.clone(), cx.gauges.clone(), Arc::clone(&reader.control)));
        let names = Arc::new(SourceNames { server: plan.topic_prefix.clone(), flavour: server.flavour });
        let schema_changes = schema_change::topic(&plan.topic_prefix, server.flavour);
        let mut initial = None;
        if is_first && plan.include_schema_changes {
            // Those that the snapshot will read; without one, none.
            let tables = offset.snapshot.as_ref().map_or(&[][..], |progress| &progress.todo);
            let to = (Arc::clone(&names), Arc::clone(&schema_changes));
            let (same_conn, read) = initial::read((conn, server), &stream, tables, to).await?;
            (conn, initial) = (same_conn, Some(read));
        }
        let tables = TablePlans::new(catalog, (conn, server), stream);
        Ok(Self {
            plan,
            cx,
            reader,
            offset,
            announce,
            initial,
            pending: None,
            lost: None,
            heard: false,
            tables,
            schema_changes,
            names,
            snapshot: None,
            _watching: watching,
        })
    }

    async fn next_batch(&mut self) -> Result<SourceBatch, ConnectorError> {
        loop {
            if let Some(error) = &self.lost {
                let from = From::Lost(self.offset.clone(), error);
                *self = Box::pin(Self::begin(self.plan.clone(), from, self.cx.clone())).await?;
            }
            if std::mem::take(&mut self.announce) {
                let mut batch = self.position_only()?;
                if let Some(initial) = self.initial.take() {
                    batch.changes = Box::new(initial);
                }
                return Ok(batch);
            }
            if !self.offset.signals.is_empty() {
                self.follow_signals().await?;
                continue;
            }
            self.steer_snapshot()?;
            if self.describe_tables().await?.is_break() {
                continue;
            }
            if let Some(batch) = self.deliver_snapshot()? {
                return Ok(batch);
            }
            let hold = self.snapshot.as_ref().is_some_and(SnapshotRun::holds_stream);
            if !hold && self.pending.is_some() {
                return self.deliver_pending().await;
            }
            let work = async {
                match &mut self.snapshot {
                    Some(run) => run.work().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = work => if let Err(error) = done { self.failed_to_read(error)? },
                raw = self.reader.batches.pop(), if !hold => match raw {
                    // Some servers tell only after the stream has begun.
                    Err(error) if begin::recovers(&self.plan, &error) => self.lost = Some(error),
                    raw => self.pending = Some(raw?),
                },
            }
        }
    }

    /// Yields the batch that was taken from the queue; asks the catalog about shapes that are new.
    async fn deliver_pending(&mut self) -> Result<SourceBatch, ConnectorError> {
        let used = self.pending.as_ref().map(|raw| raw.rows.tables.clone()).unwrap_or_default();
        let mut tables = Vec::with_capacity(used.len());
        for table in &used {
            let is_new = !self.tables.knows(table);
            tables.push(self.tables.plan_of(table, &self.plan).await?);
            if let Some(run) = self.snapshot.as_mut().filter(|_| is_new) {
                run.shape_changed((&table.shape.database, &table.shape.table));
            }
        }
        let structures = self.structures().await;
        let Some(raw) = self.pending.take() else { return self.position_only() };
        self.yielded(raw, tables, structures)
    }

    /// The tables that the pending batch's statements defined, as they were right after them.
    async fn structures(&mut self) -> Vec<Option<Structure>> {
        let definitions = self.pending.as_ref().map_or(&[][..], |raw| &raw.rows.definitions);
        let mut structures = Vec::with_capacity(definitions.len());
        for Definition { target, ends, .. } in definitions {
            structures.push(match target {
                Target::Table { action: Action::Create | Action::Alter, name: (database, table), .. }
                    if self.plan.tables.matches(database, table) =>
                {
                    self.tables.structure_after((database, table), ends, &self.plan).await
                }
                Target::Table { .. } | Target::Database(_) => None,
            });
        }
        structures
    }

    fn yielded(
        &mut self,
        mut raw: RawBatch,
        tables: Vec<Option<Arc<TablePlan>>>,
        structures: Vec<Option<Structure>>,
    ) -> Result<SourceBatch, ConnectorError> {
        if let (Some(run), Some(progress)) = (&mut self.snapshot, &mut self.offset.snapshot) {
            snapshot::tell(run, progress, &raw, &tables)?;
        }
        let unread = |plan: &TablePlan| {
            let progress = self.offset.snapshot.as_ref();
            progress.is_some_and(|p| p.will_be_whole((&plan.shape.database, &plan.shape.table)))
        };
        let unread: Vec<bool> = tables.iter().map(|table| table.as_deref().is_some_and(unread)).collect();
        let seen = self.offset.snapshot.clone().filter(|progress| !progress.seen.is_empty());
        self.offset.set_position(&raw.position);
        self.offset.at_ms = Some(now_ms());
        self.heard = true;
        if let Some(progress) = &mut self.offset.snapshot {
            snapshot::forget_seen(progress, &raw.position.at);
        }
        self.offset.on_demand.tidy(&mut self.offset.snapshot);
        self.take_signals(&mut raw, &tables)?;
        let mut entries = raw.rows.entries;
        if seen.is_some() || unread.contains(&true) {
            entries.retain(|entry| {
                let info = raw.rows.events.get(entry.event as usize);
                let place = info.map(|info| info.table as usize);
                let table = place.and_then(|place| tables.get(place)).and_then(Option::as_deref);
                let transaction = info.and_then(|info| raw.transactions.get(info.transaction as usize));
                let (Some(place), Some(table), Some(of)) = (place, table, transaction) else { return true };
                // The one snapshot that a table without a usable key is read under will see this, or saw it.
                let will_be_seen = unread.get(place) == Some(&true) && !is_chunkable(table);
                let was_seen = seen.as_ref().is_some_and(|p| snapshot::was_seen(p, table, &of.begins));
                !will_be_seen && !was_seen
            });
        }
        let is_reading = self.offset.snapshot.as_ref().is_some_and(|progress| !progress.todo.is_empty());
        if self.plan.snapshot.mode == SnapshotMode::InitialOnly && !is_reading {
            entries.clear();
        }
        let at_ms = now_us().div_euclid(1000);
        let defined = raw.rows.definitions.into_iter().zip(structures);
        let widths = raw.rows.tables.iter().map(|table| table.widths.clone());
        let changes = StreamChanges {
            tables: tables
                .into_iter()
                .zip(widths)
                .map(|(plan, widths)| plan.map(|plan| (plan, widths)))
                .collect(),
            arena: raw.rows.arena,
            entries,
            events: raw.rows.events,
            transactions: raw.transactions,
            unread,
            messages: defined
                .map(|(definition, structure)| Message { definition, structure, at_ms })
                .collect(),
            topic: Arc::clone(&self.schema_changes),
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

fn stream_plan(
    plan: &SourcePlan,
    offset: &StoredOffset,
    server: Server,
    definitions: DefinitionPlan,
) -> Result<StreamPlan, ConnectorError> {
    Ok(StreamPlan {
        connection: plan.connection.clone(),
        flavour: server.flavour,
        server_uuid: offset.server_uuid.clone(),
        server_id: plan.server_id,
        from: offset.position()?,
        tables: plan.tables.clone(),
        signal: plan.signal.clone(),
        definitions: plan.include_schema_changes.then_some(definitions),
        batch_bytes: plan.batch_bytes,
        queue_bytes: plan.queue_bytes,
        heartbeat_interval: plan.heartbeat_interval,
    })
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

    async fn snapshot(&mut self, request: &SnapshotRequest) -> Result<(), ConnectorError> {
        let id = request.id.as_str();
        if !self.offset.on_demand.has_taken(id) {
            match &request.action {
                SnapshotAction::Start { tables, condition } => {
                    self.ask(id, tables, condition.as_deref()).await?;
                }
                SnapshotAction::Pause => self.offset.on_demand.pause(id, self.offset.snapshot.as_ref()),
                SnapshotAction::Resume => self.offset.on_demand.resume(id),
                SnapshotAction::Limit { rows_per_second } => {
                    self.offset.on_demand.limit(id, *rows_per_second, self.offset.snapshot.as_ref());
                }
                SnapshotAction::Cancel => {
                    if self.offset.on_demand.cancel(id, &mut self.offset.snapshot) {
                        self.end_run();
                    }
                }
            }
        }
        self.announce = true;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.reader.close().await;
        Ok(())
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
    i64::try_from(now).unwrap_or(i64::MAX)
}
