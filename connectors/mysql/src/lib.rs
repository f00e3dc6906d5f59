//! MySQL and MariaDB: source and sink, one connector each for both servers.
//!
//! Shared by both: [`ident`] (names as SQL), [`connection`] (reaching a server, TLS, which server it is), [`error`] (error
//! code to class). The source and the sink never see each other.
//!
//! The source, in reading order: [`source_config`] and [`table_filter`], [`source`] (the task), [`setup`] and [`preflight`] (what must hold upstream),
//! [`wire`] (the protocol) and [`transport`] (its connection), [`stream`] (changes), [`snapshot`] (rows that are there already), [`catalog`], [`columns`],
//! [`tables`], [`table`], [`types`] and
//! [`mod@tuple`] (what a row is), [`schema_change`] (statements that define tables, as records), [`offset`] (what a position is), [`monitor`] (gauges).
//!
//! The sink: [`sink_config`] and [`sink`].

pub mod catalog;
pub mod columns;
pub mod connection;
pub mod error;
pub mod ident;
pub mod monitor;
pub mod offset;
pub mod preflight;
pub mod schema_change;
pub mod setup;
pub mod sink;
pub mod sink_config;
pub mod snapshot;
pub mod source;
pub mod source_config;
pub mod stream;
pub mod table;
pub mod table_filter;
pub mod tables;
pub mod transport;
pub mod tuple;
pub mod types;
pub mod wire;
