//! The source against real servers: MySQL 9.7 and MariaDB 11.8.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    clippy::wildcard_enum_match_arm,
    reason = "tests panic with context"
)]
#![allow(unreachable_pub, reason = "one binary, whose modules share what they have")]

mod auth;
mod common;
mod json;
mod malformed;
mod manual;
mod modes;
mod on_demand;
mod refusals;
mod schema_changes;
mod signals;
mod snapshot;
mod stream;
mod topology;
mod types;
