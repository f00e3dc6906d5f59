//! What happens to a record between a source and the log, or between the log and a sink.
//!
//! Reading order: [`record`] (what a step sees), [`chain`] (steps in order, and what each promises).
#![deny(missing_docs)]

pub mod chain;
pub mod record;

pub use chain::{Chain, Predicate, Step, Transform};
pub use record::{Headers, Part, Record};
