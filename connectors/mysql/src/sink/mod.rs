//! The MySQL and MariaDB sink: topics into tables, each change exactly once.
//!
//! Why no row is lost or doubled:
//! 1. Rows, topic offsets and the check of the fence are one transaction of the target ([`apply`]); tables whose engine
//!    has no transactions are refused. `open` answers with the offsets that the target holds, so the log is read from
//!    exactly where the rows end.
//! 2. A commit whose answer was lost is an error like any other: the task ends, its successor raises the fence, which
//!    waits out the lost transaction, and re-reads the offsets ([`fence`]). After any error this task does nothing
//!    more: it answers [`Class::Transient`](rowstream_api::Class) until it is dropped.
//! 3. A batch is reduced to its net change per key ([`rowstream_api::table_sink`]) and applied set-at-a-time in the order of its
//!    segments, keys sorted; a deadlock or a lock wait that ran out repeats the whole batch.
//!
//! **One row a key, exactly.** `ON DUPLICATE KEY UPDATE` fires on *any* unique key, and under a collation such as
//! `utf8mb4_0900_ai_ci` the keys `a` and `A` are one. Where a table has another unique key than the records', or compares a
//! key column otherwise than byte by byte, touched rows are deleted (exactly those) and inserted plainly, so that values
//! may swap between rows and a clash is an error, never an overwritten row ([`plan`]).
//!
//! **DDL commits implicitly** in both servers, so it can't be part of the batch's transaction. It runs on a connection of its own,
//! before any row of the batch, while the task's own transaction holds the fence: a zombie changes no table either. A
//! crash in between leaves an empty table or an empty column, which the next start finds and uses. A truncate event is applied
//! as `DELETE`, because `TRUNCATE` commits.
//!
//! **Refused records** stop their partition's offset until the caller has dealt with them
//! ([`rowstream_api::table_sink::backlog`]). Tombstones change nothing, because the `d` before them did. A record of a null key is
//! refused in `upsert` mode.

mod apply;
mod catalog;
mod encode;
mod fence;
mod isolate;
mod manual;
mod plan;
mod preflight;
mod session;
mod sql;
mod statements;
mod task;
mod temporal;
mod types;

use rowstream_api::{ConfigErrors, ConnectorError, Delivery, SinkConnector, TaskContext};

pub use manual::target_column;
pub use task::{MySqlSinkTask, MySqlTarget};

use crate::sink_config::{MySqlSinkConfig, MySqlSinkPlan};

/// `connector: mysql-sink`, for both servers.
#[derive(Debug, Clone, Copy)]
pub struct MySqlSink;

impl SinkConnector for MySqlSink {
    const NAME: &'static str = "mysql-sink";
    type Config = MySqlSinkConfig;
    type Plan = MySqlSinkPlan;
    type Task = MySqlSinkTask;

    fn validate(config: Self::Config) -> Result<Self::Plan, ConfigErrors> {
        config.plan()
    }

    fn delivery(_plan: &Self::Plan) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn preflight(plan: &Self::Plan) -> Result<(), ConnectorError> {
        preflight::preflight(plan).await
    }

    async fn start(plan: Self::Plan, cx: TaskContext) -> Result<Self::Task, ConnectorError> {
        task::start(plan, cx).await
    }
}
