//! PostgreSQL's side of the task that all table sinks share ([`rowstream_api::table_sink::task`]).

use std::{collections::HashMap, time::Duration};

use rowstream_api::{
    ConnectorError, TaskContext, TopicOffsets,
    table_sink::{
        Batch, PlanRequest,
        task::{Changed, Counts, Moves, Rejected, TableDatabase, TableSinkTask},
    },
};

use super::{
    apply::{Applier, Statements, steps},
    fence::Fence,
    plan::{Planner, TablePlan},
};
use crate::{connection::Connection, error::from_postgres, ident::TableName, sink_config::PostgresSinkPlan};

/// A running sink task.
pub type PostgresSinkTask = TableSinkTask<PostgresTarget>;

/// The target, connected.
pub struct PostgresTarget {
    config: PostgresSinkPlan,
    connection: Connection,
    fence: Fence,
    statements: Statements,
}

/// Connects and raises the fence.
///
/// # Errors
/// As the connection's, or missing privileges on the offset tables.
pub(super) async fn start(
    config: PostgresSinkPlan,
    cx: TaskContext,
) -> Result<PostgresSinkTask, ConnectorError> {
    let mut connection = config.connection.connect().await?;
    config.connection.expiry.publish(&cx.gauges);
    let timeout_ms = config.statement_timeout.as_millis();
    // An abandoned transaction of ours must not hold the fence's lock for long.
    let idle_ms = config.statement_timeout.max(Duration::from_secs(60)).as_millis();
    connection
        .client
        .batch_execute(&format!(
            "SET statement_timeout = {timeout_ms}; SET idle_in_transaction_session_timeout = {idle_ms};
             SET enable_seqscan = off; SET plan_cache_mode = force_custom_plan; SET TimeZone = 'UTC';
             SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
             SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
             WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
        ))
        .await
        .map_err(from_postgres)?;
    let fence = Fence::raise(&mut connection.client, &config.offsets_schema, &cx).await?;
    let policy = config.records.clone();
    let target = PostgresTarget { config, connection, fence, statements: HashMap::new() };
    Ok(TableSinkTask::new(target, policy, cx.gauges))
}

impl TableDatabase for PostgresTarget {
    type Plan = TablePlan;

    async fn offsets(&mut self) -> Result<TopicOffsets, ConnectorError> {
        self.fence.offsets(&self.connection.client).await
    }

    async fn plan(
        &mut self,
        request: &PlanRequest<TableName>,
        id: usize,
    ) -> Result<(TablePlan, Changed), ConnectorError> {
        let mut planner =
            Planner { connection: &mut self.connection, config: &self.config, fence: &self.fence };
        planner.plan(request, id).await
    }

    async fn apply(&mut self, batch: &mut Batch<TablePlan>, moves: &Moves<'_>) -> Result<Counts, Rejected> {
        let (steps, counts) = steps(batch, &self.config);
        let mut applier = Applier {
            client: &self.connection.client,
            config: &self.config,
            fence: &self.fence,
            statements: &mut self.statements,
        };
        applier.apply(&batch.arena, &steps, moves).await.map(|()| counts)
    }
}
