//! The registry over a log that keeps its state in memory and fails on demand.

mod compatibility;
mod double;
mod registry;
mod rest;
