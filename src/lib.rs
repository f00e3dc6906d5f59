//! The daemon, in reading order.

pub mod config;
pub mod schema_registry;
pub mod telemetry;
pub mod topic_log;
