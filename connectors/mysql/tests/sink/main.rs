//! The sink against a real MySQL and a real MariaDB: each test runs on both, each time in databases of its own.
//!
//! Records are read by a test decoder over owned values: it stands in for the encoding, never for the database.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests panic with context"
)]

mod connection;
mod exactness;
mod keys;
mod refusals;
mod rows;
mod target;
mod types;
