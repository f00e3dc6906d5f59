//! One flush as one transaction of the target.
//!
//! ```text
//! BEGIN ─ lock and compare the fence ─ rows of each segment in order ─ offsets by compare-and-set ─► all answered? ─ COMMIT
//! ```
//! Everything up to the commit is in flight together. The commit is sent only after every answer came and every check
//! held, so rows, offsets and fence agree or nothing changed. A commit without an answer is an error like any lost
//! connection: the task is restarted, raises the fence (which waits for what the lost transaction still holds) and
//! re-reads the offsets, and so learns what happened instead of guessing.
//!
//! When the server rejects the data of a batch, [`super::culprits`] finds the records to blame.

use std::{collections::HashMap, time::Duration};

use rowstream_api::{
    ConnectorError, TopicPartition,
    table_sink::{
        Batch, Entry,
        rows::{ByColumns, by_present_columns, key},
        task::{Counts, Moves, Rejected},
    },
};
use tokio_postgres::{Client, Statement, types::ToSql};

use super::{
    arrays::column_arrays,
    fence::Fence,
    pipeline::{Failure, Pipeline, answered},
    plan::TablePlan,
    sql::Action,
};
use crate::{
    error::from_postgres,
    ident::TableName,
    sink_config::{MissingUnavailable, PostgresSinkPlan},
};

/// Prepared statements kept; above it all are forgotten and prepared again as needed.
const STATEMENTS_MAX: usize = 2_000;
/// Culprits looked for at once; the rest are found by the next flush.
pub(super) const CULPRITS_MAX: usize = 1_000;

/// Longest wait for the rollback of a failed transaction.
const ROLLBACK_MAX: Duration = Duration::from_secs(5);

/// Some rows of one segment and what to do with them; the unit of order, and of isolation.
pub(crate) struct Step {
    /// None for a truncate.
    pub(super) plan: Option<(std::sync::Arc<TablePlan>, Action)>,
    pub(super) table: TableName,
    pub(super) rows: Vec<Entry>,
}

/// Applies batches over one connection.
pub(crate) struct Applier<'a> {
    pub(crate) client: &'a Client,
    pub(crate) config: &'a PostgresSinkPlan,
    pub(crate) fence: &'a Fence,
    pub(crate) statements: &'a mut Statements,
}

/// Statements prepared in this session, by plan and action.
pub(crate) type Statements = HashMap<(usize, Action), Statement>;

/// Turns a batch into steps, in the order in which they must run.
pub(crate) fn steps(batch: &mut Batch<TablePlan>, config: &PostgresSinkPlan) -> (Vec<Step>, Counts) {
    let mut steps = Vec::new();
    let mut counts = Counts::default();
    let Batch { arena, segments, .. } = batch;
    for segment in segments {
        let net = segment.net(arena);
        let table = segment.table.clone();
        if segment.truncate {
            steps.push(Step { plan: None, table: table.clone(), rows: Vec::new() });
        }
        let Some(plan) = segment.plan.clone().filter(|_| !net.is_empty()) else { continue };
        let mut push = |action: Action, rows: Vec<Entry>| {
            if !rows.is_empty() {
                steps.push(Step {
                    plan: Some((std::sync::Arc::clone(&plan), action)),
                    table: table.clone(),
                    rows,
                });
            }
        };
        let (deletes, writes): (Vec<Entry>, Vec<Entry>) = net.into_iter().partition(|row| row.delete);
        counts.deleted += deletes.len();
        counts.written += writes.len();
        let (whole, partial) =
            if plan.keys == 0 { (writes, ByColumns::new()) } else { by_present_columns(arena, writes) };
        // One delete for all touched keys, where rows are replaced; the order of keys stays.
        let mut touched = deletes;
        if plan.replace {
            touched.extend(whole.iter().cloned());
            touched.sort_by(|a, b| key(arena, a).cmp(key(arena, b)));
        }
        push(Action::Delete, touched);
        for ((columns, begins), rows) in partial {
            let by_policy = config.missing_unavailable == MissingUnavailable::InsertNull;
            let insert = plan.keys == 0 || by_policy || begins;
            push(if insert { Action::Write(columns) } else { Action::Update(columns) }, rows);
        }
        push(Action::Write((0..plan.columns.len()).collect()), whole);
    }
    (steps, counts)
}

impl Applier<'_> {
    /// Applies steps and moves offsets, or changes nothing.
    pub(crate) async fn apply(
        &mut self,
        arena: &[u8],
        steps: &[Step],
        moves: &Moves<'_>,
    ) -> Result<(), Rejected> {
        let failure = match self.prepare(steps).await {
            Ok(()) => match self.transaction(arena, steps, moves).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        match failure {
            Failure::Ours(error) if error.code == UNAVAILABLE_CODE => self.isolate(arena, steps, error).await,
            Failure::Server(error) if is_data_error(&error) => {
                self.isolate(arena, steps, from_postgres(error)).await
            }
            Failure::Server(error) if is_conflict(&error) => {
                let rolled_back = self.rollback().await;
                Err(rolled_back.err().map_or(Rejected::Conflict(from_postgres(error)), Rejected::Failed))
            }
            Failure::Server(error) => Err(self.give_up(from_postgres(error)).await),
            Failure::Ours(error) => Err(self.give_up(error).await),
        }
    }

    /// Lets go of the transaction's locks, above all the fence's, as far as the connection still works.
    async fn give_up(&self, error: ConnectorError) -> Rejected {
        let rolled_back = tokio::time::timeout(ROLLBACK_MAX, self.rollback()).await;
        if !matches!(rolled_back, Ok(Ok(()))) {
            tracing::debug!(code = error.code, "the failed transaction ends with its connection");
        }
        Rejected::Failed(error)
    }

    /// Prepares before the transaction begins: its locks are then held no longer than its statements run.
    async fn prepare(&mut self, steps: &[Step]) -> Result<(), Failure> {
        if self.statements.len() > STATEMENTS_MAX {
            self.statements.clear();
        }
        for (plan, action) in steps.iter().filter_map(|step| step.plan.as_ref()) {
            let mut actions = vec![action.clone()];
            if matches!(action, Action::Update(_)) {
                actions.push(Action::Missing);
            }
            for action in actions {
                if let Action::Update(columns) = &action
                    && columns.len() <= plan.keys
                {
                    continue; // Nothing to set; only whether the row is there matters.
                }
                let key = (plan.id, action);
                if !self.statements.contains_key(&key) {
                    let sql = key.1.sql(plan, self.config.records.write_mode);
                    let statement = answered(self.patience(), async { Ok(self.client.prepare(&sql).await?) });
                    let statement = statement.await?;
                    self.statements.insert(key, statement);
                }
            }
        }
        Ok(())
    }

    async fn transaction(&self, arena: &[u8], steps: &[Step], moves: &Moves<'_>) -> Result<(), Failure> {
        let client = self.client;
        let mut pipeline = Pipeline::new(self.patience());
        pipeline
            .push(Box::pin(async { Ok(client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?) }))
            .await?;
        pipeline.push(Box::pin(async { Ok(self.fence.check(client).await?) })).await?;
        for step in steps {
            for rows in self.chunks(&step.rows) {
                self.send(&mut pipeline, arena, step, rows).await?;
            }
        }
        pipeline.push(Box::pin(self.store_offsets(moves))).await?;
        pipeline.finish().await?;
        answered(self.patience(), async { Ok(client.batch_execute("COMMIT").await?) }).await
    }

    /// Splits rows by number and bytes; a truncate's "no rows" is one chunk.
    pub(super) fn chunks<'r>(&self, rows: &'r [Entry]) -> Vec<&'r [Entry]> {
        if rows.is_empty() {
            return vec![rows];
        }
        let mut chunks = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let mut bytes = 0usize;
            let fitting = rest
                .iter()
                .take(self.config.batch_rows_max)
                .take_while(|row| {
                    bytes += row.bytes.len();
                    bytes <= self.config.batch_bytes_max
                })
                .count();
            let (chunk, behind) = rest.split_at_checked(fitting.max(1)).unwrap_or((rest, &[]));
            chunks.push(chunk);
            rest = behind;
        }
        chunks
    }

    async fn send<'p>(
        &'p self,
        pipeline: &mut Pipeline<'p>,
        arena: &'p [u8],
        step: &'p Step,
        rows: &'p [Entry],
    ) -> Result<(), Failure> {
        match &step.plan {
            None => {
                // Two statements: they must not be overtaken by what is pushed behind them.
                pipeline.finish().await?;
                answered(self.patience(), self.truncate(&step.table)).await
            }
            Some((plan, action)) => pipeline.push(Box::pin(self.run(arena, plan, action, rows))).await,
        }
    }

    pub(super) async fn truncate(&self, table: &TableName) -> Result<(), Failure> {
        // A table that was never filled need not exist.
        let known = self
            .client
            .query_one("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[&table.to_string()])
            .await?;
        if known.try_get(0)? {
            self.client.batch_execute(&format!("TRUNCATE TABLE {table}")).await?;
        }
        Ok(())
    }

    pub(super) async fn run(
        &self,
        arena: &[u8],
        plan: &TablePlan,
        action: &Action,
        rows: &[Entry],
    ) -> Result<(), Failure> {
        let changes = !matches!(action, Action::Update(columns) if columns.len() <= plan.keys);
        let changed = if changes { self.execute(arena, plan, action, rows).await? } else { 0 };
        let complete = !matches!(action, Action::Update(_)) || changed == rows.len() as u64;
        if complete || self.missing(arena, plan, rows).await?.is_empty() {
            return Ok(());
        }
        Err(Failure::Ours(ConnectorError::fatal(UNAVAILABLE_CODE, UNAVAILABLE_MESSAGE)))
    }

    async fn execute(
        &self,
        arena: &[u8],
        plan: &TablePlan,
        action: &Action,
        rows: &[Entry],
    ) -> Result<u64, Failure> {
        let arrays = column_arrays(arena, rows, plan, &action.columns(plan));
        let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        Ok(self.client.execute(self.statement(plan, action)?, &parameters).await?)
    }

    /// The rows of an update that the target does not have and that do not follow later.
    async fn missing<'r>(
        &self,
        arena: &[u8],
        plan: &TablePlan,
        rows: &'r [Entry],
    ) -> Result<Vec<&'r Entry>, Failure> {
        let arrays = column_arrays(arena, rows, plan, &Action::Missing.columns(plan));
        let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        let found = self.client.query(self.statement(plan, &Action::Missing)?, &parameters).await?;
        let mut missing = Vec::new();
        for row in found {
            let ordinal: i64 = row.try_get(0)?;
            missing.extend(usize::try_from(ordinal - 1).ok().and_then(|index| rows.get(index)));
        }
        missing.retain(|row| !row.follows);
        Ok(missing)
    }

    fn statement(&self, plan: &TablePlan, action: &Action) -> Result<&Statement, Failure> {
        self.statements.get(&(plan.id, action.clone())).ok_or_else(|| {
            Failure::Ours(ConnectorError::transient("PG_ERROR", "a statement was not prepared"))
        })
    }

    async fn store_offsets(&self, moves: &Moves<'_>) -> Result<(), Failure> {
        if moves.next.is_empty() {
            return Ok(());
        }
        let topics: Vec<&str> = moves.next.keys().map(|partition| &*partition.topic).collect();
        let partitions: Vec<i32> = moves.next.keys().map(partition_number).collect();
        let next: Vec<i64> = moves.next.values().copied().collect();
        let expected: Vec<Option<i64>> =
            moves.next.keys().map(|partition| moves.stored.get(partition).copied()).collect();
        let moved = self
            .client
            .execute(
                self.fence.store_statement(),
                &[
                    &topics,
                    &partitions,
                    &next,
                    &expected,
                    &self.fence.connector(),
                    &self.fence.log_id(),
                    &self.fence.task(),
                ],
            )
            .await?;
        if moved == moves.next.len() as u64 {
            return Ok(());
        }
        Err(Failure::Ours(ConnectorError::transient(
            "SINK_OFFSETS_MOVED",
            "the offsets in the target are not those this task started from; they are read again",
        )))
    }

    pub(super) async fn rollback(&self) -> Result<(), ConnectorError> {
        self.client.batch_execute("ROLLBACK").await.map_err(from_postgres)
    }

    pub(super) fn patience(&self) -> Duration {
        self.config.statement_timeout + Duration::from_secs(30)
    }
}

pub(super) const UNAVAILABLE_CODE: &str = "UNAVAILABLE_VALUE";
const UNAVAILABLE_MESSAGE: &str = "the event left out columns that did not change, and the target has no such row to \
     keep them from; copy the table again, or set `missing_unavailable: insert_null`";

fn partition_number(partition: &TopicPartition) -> i32 {
    i32::try_from(partition.partition).unwrap_or(i32::MAX)
}

/// Data exceptions, integrity constraints, check options, and what a trigger of the target raises.
pub(super) fn is_data_error(error: &tokio_postgres::Error) -> bool {
    let state = error.code().map_or("", |state| state.code());
    state.starts_with("22") || state.starts_with("23") || matches!(state, "44000" | "P0001")
}

fn is_conflict(error: &tokio_postgres::Error) -> bool {
    matches!(error.code().map_or("", |state| state.code()), "40001" | "40P01")
}
