//! The PostgreSQL sink: topics into tables, each change exactly once.
//!
//! Why no row is lost or doubled:
//! 1. Rows, topic offsets and the check of the fence are one transaction of the target ([`apply`]). `open` answers
//!    with the offsets that the target holds, so the log is read from exactly where the rows end.
//! 2. A commit whose answer was lost is an error like any other: the task ends, its successor raises the fence, which
//!    waits out the lost transaction, and re-reads the offsets ([`fence`]). After any error this task does nothing
//!    more: it answers [`Class::Transient`](rowstream_api::Class) until it is dropped.
//! 3. A batch is reduced to its net change per key ([`rowstream_api::table_sink`]) and applied set-at-a-time in the order of its segments.
//!
//! **Refused records** stop their partition's offset until the caller has dealt with them
//! ([`rowstream_api::table_sink::backlog`]).
//!
//! Tombstones change nothing, because the `d` before them did. A record of a null key is refused in `upsert` mode.
//! A table that has other unique or exclusion constraints than its key gets its touched rows deleted before any is
//! inserted, so that a batch may swap values between rows.

mod apply;
mod arrays;
mod calendar;
mod catalog;
mod culprits;
mod encode;
mod fence;
mod manual;
mod pipeline;
mod plan;
mod preflight;
mod sql;
mod task;
mod types;

use rowstream_api::{ConfigErrors, ConnectorError, Delivery, SinkConnector, TaskContext};

pub use manual::target_column;
pub use task::{PostgresSinkTask, PostgresTarget};

use crate::sink_config::{PostgresSinkConfig, PostgresSinkPlan};

/// `connector: postgres-sink`.
#[derive(Debug, Clone, Copy)]
pub struct PostgresSink;

impl SinkConnector for PostgresSink {
    const NAME: &'static str = "postgres-sink";
    type Config = PostgresSinkConfig;
    type Plan = PostgresSinkPlan;
    type Task = PostgresSinkTask;

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
