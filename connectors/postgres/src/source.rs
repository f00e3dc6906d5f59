//! The source connector: `start` makes what is missing and checks what is there, `poll` yields the stream.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use rowstream_api::{
    ConfigErrors, ConnectorError, Delivery, NoChanges, SourceBatch, SourceConnector, SourceOffsets,
    SourceTask, TaskContext,
};
use tokio::task::JoinSet;

use crate::{
    catalog::{self, CapturedTable},
    connection::Connection,
    monitor,
    offset::{SnapshotProgress, StoredOffset, SystemState, check_slot, partition},
    preflight,
    replication::{Purpose, RawConnection},
    setup,
    source_config::{SnapshotMode, SourceConfig, SourcePlan},
    stream::{
        assemble::RawBatch,
        changes::{SourceNames, StreamChanges},
        reader::{Reader, StreamPlan},
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
                let lsn = match slot.and_then(|slot| slot.confirmed_flush_lsn) {
                    Some(confirmed) => confirmed,
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
        let relations = self.pending.as_ref().map(|raw| raw.relations.clone()).unwrap_or_default();
        let mut tables = Vec::with_capacity(relations.len());
        for relation in &relations {
            tables.push(self.tables.plan_of(relation, &self.plan).await?);
        }
        let Some(raw) = self.pending.take() else { return self.position_only() };
        self.yielded(raw, tables)
    }

    fn yielded(
        &mut self,
        raw: RawBatch,
        tables: Vec<Option<Arc<TablePlan>>>,
    ) -> Result<SourceBatch, ConnectorError> {
        self.offset.set_position(raw.position);
        let mut entries = raw.entries;
        if tables.iter().any(Option::is_none) {
            entries.retain(|e| tables.get(e.relation as usize).is_some_and(Option::is_some));
        }
        let changes = StreamChanges {
            arena: raw.arena,
            entries,
            transactions: raw.transactions,
            tables,
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
        if self.sql.as_ref().is_none_or(|sql| sql.client.is_closed()) {
            self.sql = Some(catalog::connect(&plan.connection).await?);
        }
        let Some(sql) = &self.sql else { return Ok(None) };
        let described = catalog::describe(&sql.client, relation.oid, Some(relation)).await?;
        let made = Arc::new(table::build(relation, &described, &plan.topic_prefix));
        self.by_oid.insert(relation.oid, Arc::clone(&made));
        Ok(Some(made))
    }
}
