//! PostgreSQL: source and sink.
//!
//! Shared by both: [`ident`] (names as SQL), [`connection`] (reaching a server), [`error`] (SQLSTATE to
//! class). The source and the sink never see each other.
//!
//! The source, in reading order: [`source_config`], [`source`] (the task), [`setup`] and [`preflight`] (what must exist
//! upstream), [`replication`] and [`wire`] (the protocol), [`stream`] (changes), [`snapshot`] (rows that are there
//! already), [`catalog`], [`table`] and [`tables`], [`types`] and
//! [`mod@tuple`] (what a row is), [`offset`] (what a position is), [`monitor`] (gauges).
//!
//! The sink: [`sink_config`] and [`sink`].

pub mod catalog;
pub mod connection;
mod end_point;
pub mod error;
pub mod ident;
pub mod monitor;
pub mod offset;
pub mod preflight;
pub mod replication;
pub mod setup;
pub mod sink;
pub mod sink_config;
pub mod snapshot;
pub mod source;
pub mod source_config;
pub mod stream;
pub mod table;
pub mod tables;
pub mod tuple;
pub mod types;
pub mod wire;
