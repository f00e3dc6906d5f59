//! The task of every sink that writes rows into tables: what it holds between `put` and `flush`, and how a flush goes.
//!
//! A flush encodes the pending records and has the database apply them; when records turn out bad it starts over without them
//! and without what stands behind them; nothing is committed before that has settled. After any error the task does nothing
//! more: what became of a transaction is learnt by the successor, from the target, and never guessed here.

use std::{future::Future, time::Instant};

use super::{
    backlog::{Backlog, Refused},
    batch::{Added, Batch, Encoder, PlanRequest, Plans, RowPlan},
    policy::{RecordPolicy, WriteMode},
};
use crate::{
    ConnectorError, Flushed, Gauges, RecordError, RecordId, SinkRecord, SinkTask, TopicOffsets,
    TopicPartition,
};

/// Tries of a batch that collides with other transactions, before the task is restarted.
const CONFLICTS_MAX: u32 = 5;

/// A target's side of the task: its connection, fence, tables and statements.
pub trait TableDatabase: Send + 'static {
    /// How its rows are encoded.
    type Plan: RowPlan;

    /// The offsets that the target holds.
    ///
    /// # Errors
    /// The server's, or the offsets count in another log.
    fn offsets(&mut self) -> impl Future<Output = Result<TopicOffsets, ConnectorError>> + Send;

    /// Compiles the way from a record's schema into its table, and makes the table or its columns by the policy.
    ///
    /// # Errors
    /// The table does not fit, or the server's.
    fn plan(
        &mut self,
        request: &PlanRequest<<Self::Plan as RowPlan>::Table>,
        id: usize,
    ) -> impl Future<Output = Result<(Self::Plan, Changed), ConnectorError>> + Send;

    /// Applies a batch, moves the offsets and checks the fence in one transaction.
    ///
    /// # Errors
    /// As [`Rejected`] says: nothing was committed, or, for `Failed`, it is not known.
    fn apply(
        &mut self,
        batch: &mut Batch<Self::Plan>,
        moves: &Moves<'_>,
    ) -> impl Future<Output = Result<Counts, Rejected>> + Send;
}

/// Why a batch was not applied.
#[derive(Debug)]
pub enum Rejected {
    /// These records (indexes in the flush) can't be applied.
    Records(Vec<(usize, RecordError)>),
    /// Another transaction was in the way; the same batch may go through now.
    Conflict(ConnectorError),
    /// Anything else.
    Failed(ConnectorError),
}

/// Where offsets move from and to.
#[derive(Debug, Clone, Copy)]
pub struct Moves<'a> {
    /// What the target holds.
    pub stored: &'a TopicOffsets,
    /// What it holds after the batch.
    pub next: &'a TopicOffsets,
}

/// Rows written, for the gauges.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Inserted or updated.
    pub written: usize,
    /// Deleted.
    pub deleted: usize,
}

/// What DDL a plan needed, for the gauges.
#[derive(Debug, Default, Clone, Copy)]
pub struct Changed {
    /// Tables.
    pub tables_created: u32,
    /// Columns.
    pub columns_added: u32,
}

/// A running sink task.
#[derive(Debug)]
pub struct TableSinkTask<D: TableDatabase> {
    database: D,
    policy: RecordPolicy,
    gauges: Gauges,
    plans: Plans<D::Plan>,
    backlog: Backlog,
    /// An error ended this task; a successor must re-read the target.
    ended: bool,
}

impl<D: TableDatabase> TableSinkTask<D> {
    /// A task over a database that is connected and has raised its fence.
    #[must_use]
    pub fn new(database: D, policy: RecordPolicy, gauges: Gauges) -> Self {
        Self { database, policy, gauges, plans: Plans::default(), backlog: Backlog::default(), ended: false }
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
            let applied = if next.is_empty() {
                Ok(Counts::default())
            } else {
                let moves = Moves { stored: self.backlog.stored(), next: &next };
                self.database.apply(&mut batch, &moves).await
            };
            match applied {
                Ok(counts) => {
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
        batch: &mut Batch<D::Plan>,
        refused: &mut Refused,
    ) -> Result<(), ConnectorError> {
        let mut cuts = self.backlog.cuts(refused);
        let mut index = 0;
        while let Some(record) = self.backlog.get(index, &cuts) {
            let Some(record) = record else {
                index += 1;
                continue;
            };
            let mut encoder = Encoder { policy: &self.policy, plans: &mut self.plans, batch: &mut *batch };
            match encoder.add(index, record) {
                Ok(Added::Done) => index += 1,
                Ok(Added::NeedsPlan(request)) => {
                    let (plan, changed) = self.database.plan(&request, self.plans.next_id()).await?;
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
        match self.policy.write_mode {
            WriteMode::Upsert => self.gauges.add("upserted_rows", number(counts.written)),
            WriteMode::Append => self.gauges.add("appended_rows", number(counts.written)),
        }
        self.gauges.add("deleted_rows", number(counts.deleted));
        self.gauges.set("last_flush_seconds", started.elapsed().as_secs_f64());
    }
}

impl<D: TableDatabase> SinkTask for TableSinkTask<D> {
    fn keeps_offsets(&self) -> bool {
        true
    }

    async fn open(&mut self, gained: &[TopicPartition]) -> Result<TopicOffsets, ConnectorError> {
        self.alive()?;
        let stored = self.database.offsets().await.inspect_err(|_| self.ended = true)?;
        Ok(self.backlog.open(stored, gained))
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
