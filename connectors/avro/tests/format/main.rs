//! The Avro format against its oracles: what Debezium wrote, what `apache-avro` writes, and bytes nobody wrote.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests panic, with the line that failed"
)]

mod golden;
mod malformed;
mod oracle;
mod rows;
mod support;
