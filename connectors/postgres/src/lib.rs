//! PostgreSQL: source and sink.
//!
//! Shared by both: [`ident`] (names as SQL), [`connection`] and [`tls`] (reaching a server), [`error`] (SQLSTATE to
//! class). The source and the sink never see each other.

pub mod connection;
pub mod error;
pub mod ident;
pub mod sink;
pub mod sink_config;
pub mod tls;
