//! What the daemon says about itself: metrics for machines, log lines for people.

mod json_line;
pub mod logging;
pub mod metrics;
mod names;
mod process;
