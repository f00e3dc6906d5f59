//! The running task: what it holds between `put` and `flush`, and how a flush goes.
//!
//! A flush encodes the pending records, applies them, and when records turn out bad starts over without them and
//! without what stands behind them; nothing is committed before that has settled.

use std::time::Instant;

use mysql_async::prelude::Queryable;
use rowstream_api::{
    ConnectorError, Flushed, Gauges, RecordError, RecordId, SinkRecord, SinkTask, TaskContext, TopicOffsets,
    TopicPartition,
    table_sink::{Added, Backlog, Batch, Encoder, Plans, WriteMode, backlog::Refused},
};

use super::{
    apply::{Applier, Counts, Moves, Rejected, steps},
    fence::Fence,
    plan::{Planner, TablePlan},
    session,
    statements::{Bounds, Statements},
};
use crate::{connection::Connection, error::from_mysql, sink_config::MySqlSinkPlan};

/// Tries of a batch that collides with other transactions, before the task is restarted.
const CONFLICTS_MAX: u32 = 5;

/// A running sink task.
pub struct MySqlSinkTask {
    config: MySqlSinkPlan,
    connection: Connection,
    fence: Fence,
    gauges: Gauges,
    plans: Plans<TablePlan>,
    statements: Statements,
    bounds: Bounds,
    backlog: Backlog,
    /// An error ended this task; a successor must re-read the target.
    ended: bool,
}

impl MySqlSinkTask {
    /// Connects and raises the fence.
    ///
    /// # Errors
    /// As the connection's, or missing privileges on the offset tables.
    pub(super) async fn start(config: MySqlSinkPlan, cx: TaskContext) -> Result<Self, ConnectorError> {
        let mut connection = session::connect(&config).await?;
        config.connection.expiry.publish(&cx.gauges);
        let packet: Option<usize> =
            connection.conn.query_first("SELECT @@max_allowed_packet").await.map_err(from_mysql)?;
        let bounds = Bounds {
            rows_max: config.batch_rows_max,
            bytes_max: config.batch_bytes_max.min(packet.unwrap_or(usize::MAX) / 2),
        };
        let fence = Fence::raise(&mut connection.conn, &config.offsets_database, &cx).await?;
        Ok(Self {
            config,
            connection,
            fence,
            gauges: cx.gauges,
            plans: Plans::default(),
            statements: Statements::default(),
            bounds,
            backlog: Backlog::default(),
            ended: false,
        })
    }

    fn alive(&self) -> Result<(), ConnectorError> {
        if !self.ended {
            return Ok(());
        }
        let message =
            "an earlier error ended this task; it must be started again and re-read the target's offsets";
        Err(ConnectorError::transient("SINK_TASK_ENDED", message))
    }

    async fn flush_pending(&mut self) -> Result<Flushed, ConnectorError> {
        let started = Instant::now();
        let mut refused = Refused::new();
        let mut conflicts = 0;
        loop {
            let mut batch = Batch::default();
            self.encode(&mut batch, &mut refused).await?;
            let cuts = self.backlog.cuts(&refused);
            let next = self.backlog.next_offsets(&cuts);
            let (steps, counts) = steps(&mut batch, &self.config);
            let applied = if next.is_empty() {
                Ok(())
            } else {
                let moves = Moves { stored: self.backlog.stored(), next: &next };
                let mut applier = Applier {
                    conn: &mut self.connection.conn,
                    server: self.connection.server,
                    config: &self.config,
                    fence: &self.fence,
                    statements: &mut self.statements,
                    bounds: self.bounds,
                };
                applier.apply(&batch.arena, &steps, &moves).await
            };
            match applied {
                Ok(()) => {
                    self.count(counts, started);
                    return Ok(self.backlog.finish(next, &cuts, refused));
                }
                Err(Rejected::Records(culprits)) => refused.extend(culprits),
                Err(Rejected::Conflict(_)) if conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    self.gauges.add("conflicts", 1.0);
                }
                Err(Rejected::Conflict(error) | Rejected::Failed(error)) => return Err(error),
            }
        }
    }

    /// Encodes what stands below the first newly refused record of each partition, and checks the rest.
    async fn encode(
        &mut self,
        batch: &mut Batch<TablePlan>,
        refused: &mut Refused,
    ) -> Result<(), ConnectorError> {
        let mut cuts = self.backlog.cuts(refused);
        let mut index = 0;
        while let Some(record) = self.backlog.get(index, &cuts) {
            let Some(record) = record else {
                index += 1;
                continue;
            };
            let mut encoder =
                Encoder { policy: &self.config.records, plans: &mut self.plans, batch: &mut *batch };
            match encoder.add(index, record) {
                Ok(Added::Done) => index += 1,
                Ok(Added::NeedsPlan(request)) => {
                    let mut planner = Planner {
                        connection: &mut self.connection,
                        config: &self.config,
                        fence: &self.fence,
                    };
                    let (plan, changed) = planner.plan(&request, self.plans.next_id()).await?;
                    self.gauges.add("tables_created", f64::from(changed.tables_created));
                    self.gauges.add("columns_added", f64::from(changed.columns_added));
                    self.plans.insert(request, plan);
                }
                Err(error) => {
                    cuts.insert(record.id.partition.clone(), record.id.offset);
                    refused.insert(index, error);
                    index += 1;
                }
            }
        }
        Ok(())
    }

    fn count(&self, counts: Counts, started: Instant) {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        match self.config.records.write_mode {
            WriteMode::Upsert => self.gauges.add("upserted_rows", number(counts.written)),
            WriteMode::Append => self.gauges.add("appended_rows", number(counts.written)),
        }
        self.gauges.add("deleted_rows", number(counts.deleted));
        self.gauges.set("last_flush_seconds", started.elapsed().as_secs_f64());
    }
}

impl SinkTask for MySqlSinkTask {
    fn keeps_offsets(&self) -> bool {
        true
    }

    async fn open(&mut self, gained: &[TopicPartition]) -> Result<TopicOffsets, ConnectorError> {
        self.alive()?;
        let stored = self.fence.offsets(&mut self.connection.conn).await;
        Ok(self.backlog.open(stored.inspect_err(|_| self.ended = true)?, gained))
    }

    async fn put(
        &mut self,
        records: Vec<SinkRecord>,
    ) -> Result<Vec<(RecordId, RecordError)>, ConnectorError> {
        self.alive()?;
        self.backlog.put(records);
        Ok(Vec::new())
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        self.alive()?;
        if self.backlog.is_empty() {
            return Ok(Flushed::default());
        }
        // Set first: a flush that is dropped half-way must not go on in an open transaction either.
        self.ended = true;
        let flushed = self.flush_pending().await?;
        self.ended = false;
        Ok(flushed)
    }

    fn pending_bytes(&self) -> usize {
        self.backlog.bytes()
    }

    async fn progress(&mut self) {}

    async fn close(&mut self) -> Result<Flushed, ConnectorError> {
        let flushed = if self.ended { Flushed::default() } else { self.flush().await? };
        self.ended = true;
        Ok(flushed)
    }
}
