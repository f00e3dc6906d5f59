//! End to end: the real binary between real servers, killed, starved and lied to.
//!
//! One binary, so that it links once. `support` brings things up; `ledger`, `workload` and `oracle` are the proof; the other modules are
//! the tests, by what a user would ask: is it exactly once, what am I told when something is wrong, what can I do with it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests panic with context"
)]
#![allow(unreachable_pub, reason = "one binary, whose modules share what they have")]

mod bad_input;
mod bug_classes;
mod cluster;
mod damage;
mod dead_letters;
mod exactly_once;
mod kafka_access;
mod kafka_faults;
mod ledger;
mod lifecycle;
mod listeners;
mod modes;
mod mysql;
mod on_demand;
mod operations;
mod oracle;
mod python;
mod registry;
mod sink_tasks;
mod spread;
mod support;
mod takeover;
mod transforms;
mod types;
mod workload;
