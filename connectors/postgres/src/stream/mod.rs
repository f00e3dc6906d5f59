//! The replication stream.
//!
//! ```text
//!  walsender ──► reader thread ──► queue (bytes bounded) ──► poll: plans for new relations ──► SourceBatch
//!      ▲             │ frames, positions                                                          │
//!      └── status ───┘◄──────────────── flushed position ◄──────────────── committed() ◄── log ───┘
//! ```
//! The reader never waits for the log without also keeping its promises to the server: status updates go on while the
//! queue is full. What may be acknowledged is one number, the flushed position, written only by `committed`.

pub mod assemble;
pub mod changes;
pub mod reader;
pub mod rekey;
