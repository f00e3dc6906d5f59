//! MySQL and MariaDB: source and sink, one connector each for both servers.
//!
//! Shared by both: [`ident`] (names as SQL), [`connection`] (reaching a server, TLS, which server it is), [`error`] (error
//! code to class). The source and the sink never see each other.
//!
//! The sink: [`sink_config`] and [`sink`].

pub mod connection;
pub mod error;
pub mod ident;
pub mod sink;
pub mod sink_config;
