//! Changes on their way from a source into the topic log.
//!
//! A source hands over a [`SourceBatch`]: the wire bytes of many changes plus what is needed to read them. Nothing
//! is decoded until the pipeline visits the batch, and then each change is lent as a [`ChangeView`] that borrows
//! from those bytes.

use std::sync::Arc;

use crate::{
    error::ConnectorError, error::RecordError, offset::SourceOffsets, row::RowView, schema::Schema,
    value::ValueRef,
};

/// Header of a record that holds placeholders because the source did not send unchanged values: a JSON list of the columns.
pub const UNAVAILABLE_HEADER: &str = "__rowstream.unavailable";

/// Header beside [`UNAVAILABLE_HEADER`] on a record whose left-out values nobody needs to miss: the whole row follows by
/// the snapshot, or the row's end follows. Its value is `true`.
pub const ROW_FOLLOWS_HEADER: &str = "__rowstream.row_follows";

/// Header of a tombstone that is all there is of a delete: the event before it became this one. Its value is `true`.
pub const DELETED_HEADER: &str = "__rowstream.deleted";

/// Debezium's operation letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `c`
    Create,
    /// `u`
    Update,
    /// `d`
    Delete,
    /// `r`: a snapshot read.
    Read,
    /// `t`
    Truncate,
    /// `m`: a message that is no row's change.
    Message,
}

impl Op {
    /// The letter in the envelope's `op` field.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
            Self::Truncate => "t",
            Self::Message => "m",
        }
    }
}

/// Everything about a captured table at one schema version. A new version is a new `Arc`; consumers cache what they
/// compile from it by the `Arc`'s address (and hold the `Arc`).
#[derive(Debug)]
pub struct TableSchema {
    /// Topic of the table's records, already sanitised.
    pub topic: Arc<str>,
    /// The key STRUCT; `None` for a table without a key (records have a null key).
    pub key: Option<Arc<Schema>>,
    /// For each field of `key`, the index of its column in `value`.
    pub key_columns: Vec<usize>,
    /// The row STRUCT (`….Value`).
    pub value: Arc<Schema>,
    /// The whole envelope (`….Envelope`), or what stands in its place in the records of [`Change::Message`].
    pub envelope: Arc<Schema>,
}

/// One change, lent for the duration of a visit.
pub struct ChangeView<'a> {
    /// The table at the version that this change was written under.
    pub table: &'a Arc<TableSchema>,
    /// What happened.
    pub change: Change<'a>,
    /// The values of the envelope's `source` STRUCT, in its field order.
    pub source: &'a [ValueRef<'a>],
    /// Commit time in milliseconds since the epoch; the record's timestamp.
    pub timestamp_ms: i64,
    /// Nobody needs to miss the values that this change left out: the table's snapshot is under way and delivers the whole
    /// row after it, or the row is gone by now and what took it away follows.
    pub row_follows: bool,
}

/// The images of a change. `before` is absent when the source did not send one.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// `c`
    Create {
        /// New row.
        after: &'a dyn RowView,
    },
    /// `u` with the same key.
    Update {
        /// Old row, whole or key only.
        before: Option<&'a dyn RowView>,
        /// New row.
        after: &'a dyn RowView,
    },
    /// An update that changed the key: becomes `d`, tombstone, `c`, as in Debezium.
    Rekey {
        /// Old row, whole or key only; always holds the old key.
        before: &'a dyn RowView,
        /// New row.
        after: &'a dyn RowView,
    },
    /// `d`
    Delete {
        /// Old row, whole or key only; always holds the key.
        before: &'a dyn RowView,
    },
    /// `r`
    Read {
        /// The row.
        after: &'a dyn RowView,
    },
    /// `t`: null key, no images.
    Truncate,
    /// Something that is no row's change: a statement that defined a table. The record's value is this whole struct, and its key
    /// is taken from it; the `envelope` of its [`TableSchema`] is no envelope but the struct's schema, as `value` is.
    Message {
        /// The record's value.
        value: &'a dyn RowView,
    },
}

impl Change<'_> {
    /// The operation; a rekey counts as an update.
    #[must_use]
    pub fn op(&self) -> Op {
        match self {
            Self::Create { .. } => Op::Create,
            Self::Update { .. } | Self::Rekey { .. } => Op::Update,
            Self::Delete { .. } => Op::Delete,
            Self::Read { .. } => Op::Read,
            Self::Truncate => Op::Truncate,
            Self::Message { .. } => Op::Message,
        }
    }
}

/// Many changes in commit order, kept as wire bytes until visited.
pub trait ChangeSet: Send + Sync {
    /// How many changes a visit will lend.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes held, for queue budgets.
    fn bytes(&self) -> usize;
    /// Lends each change in order. Repeatable: visiting again lends the same changes.
    ///
    /// # Errors
    /// Whatever `visitor` answers stops the visit; a change that can't even be framed is a [`ConnectorError`].
    fn visit(
        &self,
        visitor: &mut dyn FnMut(ChangeView<'_>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectorError>;
}

/// What a source task's `poll` yields.
pub struct SourceBatch {
    /// May be empty: an idle upstream still moves its position, and the stored offset must follow.
    pub changes: Box<dyn ChangeSet>,
    /// Where to resume once this whole batch is durable: a commit boundary, or a commit boundary plus an ordinal
    /// when one huge upstream transaction spans several batches.
    pub offsets: SourceOffsets,
    /// The last change closes an upstream transaction.
    pub ends_transaction: bool,
}

/// The empty change set of a batch that only moves the position.
pub struct NoChanges;

impl ChangeSet for NoChanges {
    fn len(&self) -> usize {
        0
    }
    fn bytes(&self) -> usize {
        0
    }
    fn visit(
        &self,
        _visitor: &mut dyn FnMut(ChangeView<'_>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectorError> {
        Ok(())
    }
}
