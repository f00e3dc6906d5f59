//! The snapshot of a source, beside its stream: one engine for all databases.
//!
//! A table is read in chunks of key order, each under a snapshot of its own, by several readers at once. Chunks are delivered in key
//! order, so one key per table says how far it is; the stream is delivered all the while.
//!
//! ```text
//!  stream    ──u(k1)──────u(k7)───────────────►│ position ≥ high │──u(k2)──►
//!  reader 1       └ S; rows of (–, k5]; high ──┘                 └► rows of (–, k5] whose keys no transaction touched
//!  reader 2          └ S'; rows of (k5, k9]; high' ── held ──────────► … that S could not see; then those of (k5, k9]
//! ```
//! Why nothing is lost, doubled or stale, whatever order commits become visible in:
//! - A transaction that S sees is in the stream before `high`, and the chunk is delivered only after the stream has delivered
//!   everything before `high`: no older event follows a chunk's row. Keys of one chunk are in no other, so each chunk may have a
//!   snapshot of its own.
//! - A row of the chunk is stale only if a transaction that S does not (certainly) see has been delivered already. Its keys are
//!   remembered ([`touched`]), and those rows are left out: the stream has told all about them. What is remembered is forgotten
//!   only when every chunk that is read or held sees it, for later ones then see it too.
//! - A key of which the stream told only a part (an unchanged TOAST value, a minimal row image) can't be left out: the chunk is
//!   read again, smaller, until its snapshot sees that transaction.
//! - A transaction that was delivered before the run is not remembered; so the run begins when all those are visible
//!   ([`Database::settle`]).
//! - A table ends at the key that was its last one when its reading began, so that writers who append faster than chunks are read
//!   can't keep the snapshot going for ever: rows behind it were inserted by transactions that the stream delivers. (Not while the
//!   stream tells rows in part: such a row may have moved there.)
//! - A chunk whose table has another shape by now is read again ([`SnapshotRun::shape_changed`]).
//! - Progress is stored in the same log transaction as the chunk's rows, together with the stream's position.
//!
//! A table without a usable key is read under one snapshot while the stream is held. What the stream has of it before is left out,
//! for that snapshot sees it (the engine takes it again until it does); what it has after is left out as far as that snapshot saw it
//! ([`Progress::seen`]). A crash in the middle starts that table over, so that its rows may then arrive twice.
//!
//! Tables that are asked for while the stream is under way are read in the same way, each by a run of its own ([`on_demand`]).
//!
//! Debezium's signals ask for them, too ([`signal`]). How fast tables are read can be bounded (`throttle`); what it means that they are
//! all read anew because a position was lost is in [`lost`].
//!
//! What is held of a table is bounded: a chunk for each reader and one that is being delivered, each of a bounded size.

pub mod database;
pub mod lost;
mod meter;
#[cfg(test)]
mod model;
pub mod on_demand;
pub mod progress;
mod queue;
pub mod report;
pub mod run;
pub mod signal;
mod throttle;
pub mod touched;

pub use database::{Chunk, ChunkRequest, Database, Key, KeyRange, Rows, Table, TableName, Visibility, Work};
pub use lost::LostPosition;
pub use on_demand::{OnDemand, Order, Refusal, SnapshotAction, SnapshotRequest};
pub use progress::{Marks, Progress};
pub use report::Report;
pub use run::{Delivered, Settings, SnapshotRun};
pub use signal::Signal;
pub use touched::{Told, Touched};
