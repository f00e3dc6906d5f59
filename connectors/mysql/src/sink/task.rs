//! MySQL's and MariaDB's side of the task that all table sinks share ([`rowstream_api::table_sink::task`]).

use mysql_async::prelude::Queryable;
use rowstream_api::{
    ConnectorError, TaskContext, TopicOffsets,
    table_sink::{
        Batch, PlanRequest,
        task::{Changed, Counts, Moves, Rejected, TableDatabase, TableSinkTask},
    },
};

use super::{
    apply::{Applier, steps},
    fence::Fence,
    plan::{Planner, TablePlan},
    session,
    statements::{Bounds, Statements},
};
use crate::{connection::Connection, error::from_mysql, ident::TableName, sink_config::MySqlSinkPlan};

/// A running sink task.
pub type MySqlSinkTask = TableSinkTask<MySqlTarget>;

/// The target, connected.
pub struct MySqlTarget {
    config: MySqlSinkPlan,
    connection: Connection,
    fence: Fence,
    statements: Statements,
    bounds: Bounds,
}

/// Connects and raises the fence.
///
/// # Errors
/// As the connection's, or missing privileges on the offset tables.
pub(super) async fn start(config: MySqlSinkPlan, cx: TaskContext) -> Result<MySqlSinkTask, ConnectorError> {
    let mut connection = session::connect(&config).await?;
    config.connection.expiry.publish(&cx.gauges);
    let packet: Option<usize> =
        connection.conn.query_first("SELECT @@max_allowed_packet").await.map_err(from_mysql)?;
    let bounds = Bounds {
        rows_max: config.batch_rows_max,
        bytes_max: config.batch_bytes_max.min(packet.unwrap_or(usize::MAX) / 2),
    };
    let fence = Fence::raise(&mut connection.conn, &config.offsets_database, &cx).await?;
    let policy = config.records.clone();
    let target = MySqlTarget { config, connection, fence, statements: Statements::default(), bounds };
    Ok(TableSinkTask::new(target, policy, cx.gauges))
}

impl TableDatabase for MySqlTarget {
    type Plan = TablePlan;

    async fn offsets(&mut self) -> Result<TopicOffsets, ConnectorError> {
        self.fence.offsets(&mut self.connection.conn).await
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
            conn: &mut self.connection.conn,
            server: self.connection.server,
            config: &self.config,
            fence: &self.fence,
            statements: &mut self.statements,
            bounds: self.bounds,
        };
        applier.apply(&batch.arena, &steps, moves).await.map(|()| counts)
    }
}
