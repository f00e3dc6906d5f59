//! What every sink that writes rows into tables does alike: no SQL, no connection.
//!
//! ```text
//! SinkRecord ─► record: op, row, key, table ─► batch: segments of encoded rows ─► rows: net change per key
//!                    └ template: which table                    backlog: what is pending, refused, and how far offsets may go ┘
//! ```
//! [`task`] is the loop over it. A database sink adds the rest ([`task::TableDatabase`]): which types its columns have and how a
//! value is encoded for them ([`batch::RowPlan`]), the statements, the fence and the transaction.

pub mod backlog;
pub mod batch;
pub mod policy;
pub mod record;
pub mod rows;
pub mod task;
pub mod template;

pub use backlog::Backlog;
pub use batch::{Added, Batch, Column, Encoder, Meta, Origin, PlanRequest, Plans, RowPlan, Segment, Wanted};
pub use policy::{MissingUnavailable, RecordPolicy, SchemaChanges, TruncatePolicy, WriteMode};
pub use rows::Entry;
pub use template::TableTemplate;
