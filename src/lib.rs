//! The daemon, in reading order.
//!
//! | module | owns |
//! |---|---|
//! | [`config`] | what was typed, checked, and turned into plans; secrets |
//! | [`registry`] | the one table of connectors |
//! | [`worker`] | connectors and their tasks: start, stop, pause, restart, status; watched files |
//! | [`task`] | one task's life: supervision, the source loop, the sink loop |
//! | [`pipeline`] | changes to Avro records and back; tolerance and dead letters |
//! | [`redrive`] | dead letters, looked at and brought back |
//! | [`topic_log`] | the spine: records and offsets, committed together |
//! | [`schema_registry`] | Confluent's registry: built in, and the client of an external one |
//! | [`telemetry`] | every metric name; log lines |
//! | [`admin`] | HTTP: Kafka Connect's REST API, health, metrics, topics |
//! | [`cli`] | one file per subcommand |
//! | [`daemon`] | opens everything in order, runs until told to stop, closes in the opposite order |

pub mod admin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod pipeline;
pub mod redrive;
pub mod registry;
pub mod schema_registry;
pub mod task;
pub mod telemetry;
pub mod topic_log;
pub mod worker;
