//! The source connector: `start` makes what is missing and checks what is there, `poll` yields the stream.

mod begin;
mod signals;
mod snapshots;

use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc};

use rowstream_api::{
    ConfigErrors, ConnectorError, Delivery, NoChanges, SourceBatch, SourceConnector, SourceOffsets,
    SourceTask, TableSchema, TaskContext,
    snapshot::{Report, SnapshotAction, SnapshotRequest, SnapshotRun, lost::now_ms},
};
use tokio::task::JoinSet;

use crate::{
    catalog::{self, CapturedTable},
    monitor,
    offset::{StoredOffset, partition},
    preflight,
    replication::{Purpose, RawConnection},
    setup,
    snapshot::{self, Postgres},
    source_config::{SnapshotMode, SourceConfig, SourcePlan},
    stream::{
        assemble::RawBatch,
        changes::{SourceNames, StreamChanges},
        reader::{Reader, StreamPlan},
        rekey,
    },
    table::TablePlan,
    tables::TablePlans,
};
use begin::{Begun, From, Upstream};

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

    async fn tables(plan: &SourcePlan) -> Result<Vec<Arc<TableSchema>>, ConnectorError> {
        preflight::tables(plan).await
    }

    fn split(plan: &SourcePlan, _tasks_max: NonZeroUsize) -> Vec<SourcePlan> {
        // One slot has one reader.
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
    snapshot: Option<SnapshotRun<Postgres>>,
    /// Tables to publish once it is stored that the snapshot must read them: what happens to them from then on is in the stream.
    publish: Option<Vec<CapturedTable>>,
    /// Owns the monitor.
    _watching: JoinSet<()>,
}

impl PostgresSourceTask {
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
        let mut control = RawConnection::connect(&plan.connection, Purpose::Replication).await?;
        let system = setup::identify(&mut control).await?;
        let sql = catalog::connect(&plan.connection).await?;
        let captured = catalog::captured_tables(&sql.client, &plan.tables).await?;
        let mut problems = setup::table_problems(&plan, &captured);
        let (published, missing) = setup::published_tables(&sql.client, &plan, &captured).await?;
        problems.extend(missing);
        if !problems.is_empty() {
            return Err(setup::as_error("PG_TABLES", problems));
        }
        let slot = catalog::slot(&sql.client, &plan.slot).await?;
        let (control_ref, client) = (&mut control, &sql.client);
        let upstream = Upstream { control: control_ref, client, system: &system, slot, captured, published };
        let Begun { offset, announce, publish } = begin::begin(&plan, from, upstream, &cx).await?;
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
        let tables = TablePlans::new(sql);
        Ok(Self {
            plan,
            cx,
            reader,
            offset,
            announce,
            pending: None,
            tables,
            names,
            publish,
            snapshot: None,
            _watching: watching,
        })
    }

    async fn next_batch(&mut self) -> Result<SourceBatch, ConnectorError> {
        loop {
            if std::mem::take(&mut self.announce) {
                return self.position_only();
            }
            if !self.offset.signals.is_empty() {
                self.follow_signals().await?;
                continue;
            }
            self.steer_snapshot();
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
                raw = self.reader.batches.pop(), if !hold => self.pending = Some(raw?),
            }
        }
    }

    /// Yields the batch that was taken from the queue; asks the catalog about shapes that are new.
    async fn deliver_pending(&mut self) -> Result<SourceBatch, ConnectorError> {
        let relations = self.pending.as_ref().map(|raw| raw.relations.clone()).unwrap_or_default();
        let mut tables = Vec::with_capacity(relations.len());
        for relation in &relations {
            let is_new = !self.tables.knows(relation);
            tables.push(self.tables.plan_of(relation, &self.plan).await?);
            if let Some(run) = self.snapshot.as_mut().filter(|_| is_new) {
                run.shape_changed((&relation.namespace, &relation.name));
            }
        }
        let mut gone = BTreeSet::new();
        if let Some(raw) = self.pending.as_mut().filter(|raw| rekey::may_lack(raw)) {
            gone = rekey::fill(self.tables.client(&self.plan).await?, raw, &tables).await?;
        }
        let Some(raw) = self.pending.take() else { return self.position_only() };
        self.yielded(raw, tables, gone)
    }

    /// The stream's part of the offset moves; so does what depends on it.
    fn advance(&mut self, raw: &RawBatch) {
        self.offset.set_position(raw.position);
        self.offset.at_ms = Some(now_ms());
        self.offset.note_newest(&raw.transactions);
        if let Some(progress) = &mut self.offset.snapshot {
            progress.seen.retain(|_, seen| seen.until > raw.position.lsn);
        }
        self.offset.on_demand.tidy(&mut self.offset.snapshot);
    }

    fn yielded(
        &mut self,
        mut raw: RawBatch,
        tables: Vec<Option<Arc<TablePlan>>>,
        gone: BTreeSet<u32>,
    ) -> Result<SourceBatch, ConnectorError> {
        if let (Some(run), Some(progress)) = (&mut self.snapshot, &mut self.offset.snapshot) {
            snapshot::tell(run, progress, &raw, &tables)?;
        }
        let unread = |plan: &TablePlan| {
            let progress = self.offset.snapshot.as_ref();
            progress.is_some_and(|p| p.will_be_whole((&plan.relation.namespace, &plan.relation.name)))
        };
        let unread: Vec<bool> = tables.iter().map(|table| table.as_deref().is_some_and(unread)).collect();
        let seen = self.offset.snapshot.clone().filter(|progress| !progress.seen.is_empty());
        self.advance(&raw);
        let mut tables = tables;
        self.take_signals(&mut raw, &mut tables)?;
        let mut entries = raw.entries;
        if tables.iter().any(Option::is_none) || seen.is_some() || unread.contains(&true) {
            entries.retain(|e| {
                let table = tables.get(e.relation as usize).and_then(Option::as_deref);
                let Some(table) = table else { return false };
                // The one snapshot that a table without a key is read under will see this, or saw it.
                let will_be_seen =
                    table.schema.key.is_none() && unread.get(e.relation as usize) == Some(&true);
                let xid = raw.transactions.get(e.transaction as usize).map(|t| t.xid);
                let was_seen = match (xid, &seen) {
                    (Some(xid), Some(progress)) => snapshot::was_seen(progress, table, xid),
                    _ => false,
                };
                !will_be_seen && !was_seen
            });
        }
        let is_reading = self.offset.snapshot.as_ref().is_some_and(|progress| !progress.todo.is_empty());
        if self.plan.snapshot.mode == SnapshotMode::InitialOnly && !is_reading {
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
        if let Some(tables) = self.publish.clone() {
            setup::ensure_publication(self.tables.client(&self.plan).await?, &self.plan, &tables).await?;
            self.publish = None;
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
                        self.snapshot = None;
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
