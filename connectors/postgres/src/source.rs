//! The source connector: `start` makes what is missing and checks what is there, `poll` yields the stream.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroUsize,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rowstream_api::{
    ConfigErrors, ConnectorError, Delivery, NoChanges, SourceBatch, SourceConnector, SourceOffsets,
    SourceTask, TaskContext,
};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::{
    catalog::{self, CapturedTable},
    connection::Connection,
    monitor,
    offset::{SnapshotProgress, StoredOffset, SystemState, check_slot, partition},
    preflight,
    replication::{Purpose, RawConnection},
    setup,
    snapshot::{
        self, SnapshotRun, Stage,
        chunk::{self, ChunkRequest, ReadChunk},
        rows::SnapshotRows,
    },
    source_config::{SnapshotMode, SourceConfig, SourcePlan},
    stream::{
        assemble::RawBatch,
        changes::{SourceNames, StreamChanges},
        reader::{Reader, StreamPlan},
        rekey,
    },
    table::{self, TablePlan},
    wire::pgoutput::Relation,
};

/// `postgres-source`
#[derive(Debug, Clone, Copy)]
pub struct PostgresSource;

impl SourceConnector for PostgresSource {
    const NAME: &'static str = "postgres-source";
    type Config = SourceConfig;
    type Plan = SourcePlan;
    type Task = PostgresSourceTask;

    fn validate(config: SourceConfig) -> Result<SourcePlan, ConfigErrors> {
        config.plan()
    }

    fn delivery(_plan: &SourcePlan) -> Delivery {
        Delivery::ExactlyOnce
    }

    fn exclusive(plan: &SourcePlan) -> Vec<String> {
        vec![format!("postgres://{} slot {}", plan.connection.address(), plan.slot)]
    }

    async fn preflight(plan: &SourcePlan) -> Result<(), ConnectorError> {
        preflight::check(plan).await
    }

    fn split(plan: &SourcePlan, _tasks_max: NonZeroUsize) -> Vec<SourcePlan> {
        // One slot has one reader.
        vec![plan.clone()]
    }

    async fn start(
        plan: SourcePlan,
        resume: SourceOffsets,
        cx: TaskContext,
    ) -> Result<PostgresSourceTask, ConnectorError> {
        Box::pin(PostgresSourceTask::start(plan, resume, cx)).await
    }
}

/// A running source.
pub struct PostgresSourceTask {
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
    snapshot: Option<SnapshotRun>,
    /// Owns the monitor.
    _watching: JoinSet<()>,
}

impl PostgresSourceTask {
    async fn start(plan: SourcePlan, resume: SourceOffsets, cx: TaskContext) -> Result<Self, ConnectorError> {
        let mut control = RawConnection::connect(&plan.connection, Purpose::Replication).await?;
        let system = setup::identify(&mut control).await?;
        let sql = catalog::connect(&plan.connection).await?;
        let captured = catalog::captured_tables(&sql.client, &plan.tables).await?;
        let problems = setup::table_problems(&plan, &captured);
        if !problems.is_empty() {
            return Err(setup::as_error("PG_TABLES", problems));
        }
        let slot = catalog::slot(&sql.client, &plan.slot).await?;
        let stored = StoredOffset::of(&resume, &plan.topic_prefix)?;
        if let Some(stored) = &stored {
            check_slot(stored, slot.as_ref(), &system)?;
        }
        setup::ensure_publication(&sql.client, &plan, &captured).await?;
        let announce = stored.is_none();
        let offset = match stored {
            Some(stored) => StoredOffset { timeline: system.timeline, ..stored },
            None => {
                let lsn = match slot {
                    Some(slot) => setup::usable_slot(&plan, &slot)?,
                    None => setup::create_slot(&mut control, &sql.client, &plan, &cx.gauges).await?,
                };
                first_offset(&plan, &system, lsn, &captured)
            }
        };
        drop(control);
        let reader = Reader::start(StreamPlan {
            connection: plan.connection.clone(),
            slot: plan.slot.clone(),
            publication: plan.publication.clone(),
            from: offset.position(),
            system_id: system.id,
            batch_bytes: plan.batch_bytes,
            queue_bytes: plan.queue_bytes,
            status_interval: plan.status_interval,
        })
        .await?;
        let mut watching = JoinSet::new();
        watching.spawn(monitor::watch(plan.clone(), cx.gauges.clone(), Arc::clone(&reader.control)));
        let names = Arc::new(SourceNames {
            server: plan.topic_prefix.clone(),
            database: plan.connection.config.database.clone(),
        });
        let tables = TablePlans { by_oid: HashMap::new(), sql: Some(sql) };
        let snapshot =
            offset.snapshot.as_ref().filter(|progress| !progress.todo.is_empty()).map(|progress| {
                SnapshotRun::new(plan.connection.clone(), plan.snapshot.chunk_rows, progress, &cx.gauges)
            });
        Ok(Self {
            plan,
            cx,
            reader,
            offset,
            announce,
            pending: None,
            tables,
            names,
            snapshot,
            _watching: watching,
        })
    }

    async fn next_batch(&mut self) -> Result<SourceBatch, ConnectorError> {
        if self.announce {
            self.announce = false;
            return self.position_only();
        }
        loop {
            self.choose_chunk().await?;
            if let Some(batch) = self.deliver_held()? {
                return Ok(batch);
            }
            if self.snapshot.as_ref().is_some_and(|run| matches!(run.stage, Stage::Idle)) {
                continue;
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
                piece = work => {
                    if let Some(piece) = piece? {
                        return self.deliver_rows(piece);
                    }
                }
                raw = self.reader.batches.pop(), if !hold => self.pending = Some(raw?),
            }
        }
    }

    /// Yields the batch that was taken from the queue; asks the catalog about shapes that are new.
    async fn deliver_pending(&mut self) -> Result<SourceBatch, ConnectorError> {
        let relations = self.pending.as_ref().map(|raw| raw.relations.clone()).unwrap_or_default();
        let mut tables = Vec::with_capacity(relations.len());
        for relation in &relations {
            tables.push(self.tables.plan_of(relation, &self.plan).await?);
        }
        let mut gone = BTreeSet::new();
        if let Some(raw) = self.pending.as_mut().filter(|raw| rekey::may_lack(raw)) {
            gone = rekey::fill(self.tables.client(&self.plan).await?, raw, &tables).await?;
        }
        let Some(raw) = self.pending.take() else { return self.position_only() };
        self.yielded(raw, tables, gone)
    }

    /// Starts the snapshot's next read when it has nothing to do, or ends the snapshot.
    async fn choose_chunk(&mut self) -> Result<(), ConnectorError> {
        while let (Some(run), Some(progress)) = (&mut self.snapshot, &mut self.offset.snapshot)
            && matches!(run.stage, Stage::Idle)
        {
            let Some((schema, table)) = progress.todo.first() else {
                self.snapshot = None;
                self.cx.gauges.set("snapshot_running", 0.0);
                return Ok(());
            };
            match self.tables.request(schema, table, progress.last_key.as_deref(), &self.plan).await? {
                None => {
                    tracing::warn!(schema, table, "the table of the snapshot is gone, or no longer captured");
                    snapshot::finish_table(progress, &self.cx.gauges);
                }
                Some(request) if request.plan.schema.key.is_none() => {
                    run.read_exclusively(request.plan, request.select);
                }
                Some(request) => run.read_chunk(request),
            }
        }
        Ok(())
    }

    /// Yields the held chunk once the stream is far enough.
    fn deliver_held(&mut self) -> Result<Option<SourceBatch>, ConnectorError> {
        let Some(run) = &mut self.snapshot else { return Ok(None) };
        match run.waits_for() {
            Some(high) if self.offset.lsn >= high => match run.release() {
                Some(chunk) => self.deliver_rows(chunk).map(Some),
                None => Ok(None),
            },
            Some(high) => {
                self.reader.control.want(high);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn deliver_rows(&mut self, chunk: ReadChunk) -> Result<SourceBatch, ConnectorError> {
        let progress = self.offset.snapshot.get_or_insert_default();
        let begins_snapshot = !progress.begun;
        let ends_snapshot = progress.todo.len() == 1;
        snapshot::advance(progress, &chunk, &self.cx.gauges);
        if progress.todo.is_empty() && progress.seen.is_empty() {
            self.offset.snapshot = None;
            self.snapshot = None;
            self.cx.gauges.set("snapshot_running", 0.0);
        }
        let read_at_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let rows = SnapshotRows {
            chunk,
            names: Arc::clone(&self.names),
            lsn: self.offset.lsn,
            read_at_us: i64::try_from(read_at_us).unwrap_or(i64::MAX),
            begins_snapshot,
            ends_snapshot,
        };
        Ok(SourceBatch { changes: Box::new(rows), ..self.position_only()? })
    }

    /// The stream's part of the offset moves; so does what depends on it.
    fn advance(&mut self, raw: &RawBatch) {
        self.offset.set_position(raw.position);
        if let Some(progress) = &mut self.offset.snapshot {
            progress.seen.retain(|_, seen| seen.until > raw.position.lsn);
            if progress.todo.is_empty() && progress.seen.is_empty() {
                self.offset.snapshot = None;
            }
        }
    }

    fn yielded(
        &mut self,
        raw: RawBatch,
        tables: Vec<Option<Arc<TablePlan>>>,
        gone: BTreeSet<u32>,
    ) -> Result<SourceBatch, ConnectorError> {
        if let (Some(run), Some(progress)) = (&mut self.snapshot, &self.offset.snapshot) {
            run.touched.record(&raw, &tables, &progress.todo)?;
        }
        let todo = self.offset.snapshot.as_ref().map(|progress| progress.todo.as_slice()).unwrap_or_default();
        let unread = |plan: &TablePlan| {
            todo.iter()
                .any(|(schema, name)| *schema == plan.relation.namespace && *name == plan.relation.name)
        };
        let unread = tables.iter().map(|table| table.as_deref().is_some_and(unread)).collect();
        let seen = self.offset.snapshot.clone().filter(|progress| !progress.seen.is_empty());
        self.advance(&raw);
        let mut entries = raw.entries;
        if tables.iter().any(Option::is_none) || seen.is_some() {
            entries.retain(|e| {
                let table = tables.get(e.relation as usize).and_then(Option::as_deref);
                let xid = raw.transactions.get(e.transaction as usize).map(|t| t.xid);
                match (table, xid, &seen) {
                    (Some(table), Some(xid), Some(progress)) => !snapshot::was_seen(progress, table, xid),
                    (table, _, _) => table.is_some(),
                }
            });
        }
        if self.plan.snapshot.mode == SnapshotMode::InitialOnly && self.snapshot.is_none() {
            entries.clear();
        }
        let changes = StreamChanges {
            arena: raw.arena,
            entries,
            transactions: raw.transactions,
            tables,
            unread,
            gone,
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

fn first_offset(
    plan: &SourcePlan,
    system: &SystemState,
    lsn: u64,
    captured: &[CapturedTable],
) -> StoredOffset {
    let todo = || {
        captured.iter().map(|t| (t.name.schema.bare().to_owned(), t.name.table.bare().to_owned())).collect()
    };
    let snapshot = match plan.snapshot.mode {
        SnapshotMode::Never => None,
        SnapshotMode::Initial | SnapshotMode::InitialOnly => {
            Some(SnapshotProgress { todo: todo(), ..SnapshotProgress::default() })
        }
    };
    StoredOffset {
        lsn,
        slot: plan.slot.clone(),
        system_id: system.id.clone(),
        timeline: system.timeline,
        partial: None,
        snapshot,
    }
}

impl SourceTask for PostgresSourceTask {
    async fn poll(&mut self) -> Result<SourceBatch, ConnectorError> {
        self.next_batch().await
    }

    async fn committed(&mut self, offsets: &SourceOffsets) -> Result<(), ConnectorError> {
        let stored = offsets.get(&partition(&self.plan.topic_prefix));
        if let Some(lsn) = stored.and_then(|offset| offset.0.get("lsn")).and_then(serde_json::Value::as_u64) {
            self.reader.control.flushed(lsn);
            #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
            self.cx.gauges.set("durable_lsn", lsn as f64);
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
    by_oid: HashMap<u32, Arc<TablePlan>>,
    sql: Option<Connection>,
}

impl TablePlans {
    /// The plan of a shape; `None` for a table that is not captured. Asks the catalog when the shape is new.
    ///
    /// # Errors
    /// The server's.
    pub async fn plan_of(
        &mut self,
        relation: &Arc<Relation>,
        plan: &SourcePlan,
    ) -> Result<Option<Arc<TablePlan>>, ConnectorError> {
        if let Some(known) = self.by_oid.get(&relation.oid)
            && known.relation == *relation
        {
            return Ok(Some(Arc::clone(known)));
        }
        if !plan.tables.matches(&relation.namespace, &relation.name) {
            tracing::debug!(
                schema = relation.namespace,
                table = relation.name,
                "table is published but not captured"
            );
            return Ok(None);
        }
        let described = catalog::describe(self.client(plan).await?, relation.oid, Some(relation)).await?;
        let made = Arc::new(table::build(relation, &described, &plan.topic_prefix));
        self.by_oid.insert(relation.oid, Arc::clone(&made));
        Ok(Some(made))
    }

    async fn client(&mut self, plan: &SourcePlan) -> Result<&Client, ConnectorError> {
        let open = self.sql.take().filter(|sql| !sql.client.is_closed());
        let connection = match open {
            Some(connection) => connection,
            None => catalog::connect(&plan.connection).await?,
        };
        Ok(&self.sql.insert(connection).client)
    }

    /// What to read next of a table in the snapshot; `None` when it is gone.
    async fn request(
        &mut self,
        schema: &str,
        table: &str,
        last_key: Option<&[String]>,
        plan: &SourcePlan,
    ) -> Result<Option<ChunkRequest>, ConnectorError> {
        let client = self.client(plan).await?;
        let captured = catalog::captured_tables(client, &plan.tables).await?;
        let found = captured.iter().find(|t| t.name.schema.bare() == schema && t.name.table.bare() == table);
        let Some(captured) = found else { return Ok(None) };
        let mut described = catalog::describe(client, captured.oid, None).await?;
        let published = catalog::published(client, &plan.publication, &captured.name).await?;
        if let Some(names) = &published.columns {
            described.columns.retain(|column| names.contains(&column.name));
        }
        let relation = Arc::new(catalog::relation_of(captured, &described));
        let Some(of) = self.plan_of(&relation, plan).await? else { return Ok(None) };
        let only = if captured.partitioned { "" } else { "ONLY" };
        let select = chunk::select_from(&of, only, published.filter.as_deref());
        let select = if of.schema.key.is_some() {
            let oids: Vec<u32> = of
                .schema
                .key_columns
                .iter()
                .filter_map(|i| relation.columns.get(*i))
                .map(|column| column.type_oid)
                .collect();
            let types = catalog::type_names(self.client(plan).await?, &oids).await?;
            chunk::in_key_order(&select, &of, &types, last_key)
        } else {
            select
        };
        Ok(Some(ChunkRequest { plan: of, select, rows: 0, first: last_key.is_none() }))
    }
}
