//! Changes as the reader hands them over: images in one arena, and what they share told once.

use std::sync::Arc;

use rowstream_api::{ConnectorError, queue};

use super::{
    definition::Target,
    position::{BinlogPosition, Position},
};
use crate::{
    transport::connection::malformed,
    wire::{
        DecodeError,
        gtid::Gtid,
        rows::{Operation, Width},
        table_map::TableShape,
    },
};

/// A table as the stream knows it.
#[derive(Debug)]
pub struct StreamTable {
    /// Its shape.
    pub shape: TableShape,
    /// How long its columns' values are.
    pub widths: Vec<Width>,
    /// Where it was described: no statement that defines something is between there and its first row.
    pub begins: BinlogPosition,
    /// How many statements that define something the stream had met: without names, the shape holds for this many only.
    pub version: u64,
}

/// What a row of a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A row.
    Row(Operation),
    /// TRUNCATE of a table.
    Truncate,
    /// A statement that defined something: the one at `start` of the batch's definitions. Its event has [`NO_TABLE`].
    Definition,
}

/// In place of a table's index: there is none.
pub const NO_TABLE: u32 = u32::MAX;

/// A statement that defined something that is captured, or one table's part of it.
#[derive(Debug, Clone)]
pub struct Definition {
    /// What it is about.
    pub target: Target,
    /// Its text; `None` when that may hold a password.
    pub ddl: Option<String>,
    /// Where the statement ends in the binlog.
    pub ends: BinlogPosition,
}

/// One change of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// First byte of its image (old before new) in the arena.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// Index into the batch's events.
    pub event: u32,
    /// Its number in its event.
    pub row: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// What the rows of an event share.
#[derive(Debug, Clone, Copy)]
pub struct RowsInfo {
    /// Index into the batch's tables.
    pub table: u32,
    /// Index into the batch's transactions.
    pub transaction: u32,
    /// Where the bitmaps of the images' columns are in the arena: from, length of each; the second follows the first.
    pub present: (u32, u32),
    /// Where the event is in its file.
    pub offset: u64,
    /// When its statement began, seconds since 1970.
    pub timestamp: u32,
    /// Who wrote it.
    pub server_id: u32,
}

/// What a transaction's changes share.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// Its id.
    pub gtid: Option<Gtid>,
    /// The same as text.
    pub gtid_text: Option<Arc<str>>,
    /// Where it begins.
    pub begins: BinlogPosition,
    /// Microseconds since 1970, where the server says so.
    pub commit_time_us: Option<i64>,
    /// The connection that ran it.
    pub thread_id: Option<u32>,
}

/// Changes as the reader hands them over.
#[derive(Debug)]
pub struct RawBatch {
    /// The changes.
    pub rows: HeldRows,
    /// Transactions that they name.
    pub transactions: Vec<Transaction>,
    /// Where the stream stands after it.
    pub position: Position,
    /// No transaction is open after it.
    pub ends_transaction: bool,
}

impl queue::Batch for RawBatch {
    fn bytes(&self) -> usize {
        self.rows.bytes() + 64
    }
    fn ended() -> ConnectorError {
        ConnectorError::transient("MYSQL_CONNECTION", "the binlog stream has ended")
    }
}

/// Rows: of a batch, or of one transaction that is held.
#[derive(Debug, Default)]
pub struct HeldRows {
    /// The images.
    pub arena: Vec<u8>,
    /// The rows; their `event` counts in `events`.
    pub entries: Vec<Entry>,
    /// What rows share; `table` counts in `tables`.
    pub events: Vec<RowsInfo>,
    /// Their tables.
    pub tables: Vec<Arc<StreamTable>>,
    /// Statements among the rows.
    pub definitions: Vec<Definition>,
    /// Rows of the transaction, those that are not captured too.
    pub ordinal: u64,
}

impl HeldRows {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let text = |definition: &Definition| definition.ddl.as_ref().map_or(0, String::len);
        self.arena.len()
            + self.entries.len() * size_of::<Entry>()
            + self.events.len() * size_of::<RowsInfo>()
            + self.definitions.len() * size_of::<Definition>()
            + self.definitions.iter().map(text).sum::<usize>()
    }

    /// The index of a table here.
    pub(super) fn table(&mut self, table: &Arc<StreamTable>) -> Result<u32, ConnectorError> {
        let known = self.tables.iter().rposition(|known| Arc::ptr_eq(known, table));
        let index = known.unwrap_or(self.tables.len());
        if known.is_none() {
            self.tables.push(Arc::clone(table));
        }
        index_of(index)
    }
}

/// A place in a batch.
pub(super) fn index_of(n: usize) -> Result<u32, ConnectorError> {
    u32::try_from(n).map_err(|_| malformed(DecodeError::Malformed("a batch")))
}
