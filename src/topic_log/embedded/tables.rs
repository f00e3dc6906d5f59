//! The state database: its tables, keys and values.
//!
//! Keys and values are bytes: integers big-endian in keys so that ranges are in order, a version byte in front of
//! every value. redb does not verify checksums on ordinary reads, so the two tables that send a reader to a place in a
//! file (`segidx`, `segments`) carry their own over key and value.

use std::collections::BTreeMap;

use redb::{ReadableDatabase, TableDefinition};

use super::{
    frame::{Cursor, Op},
    segment::write_error,
};
use crate::topic_log::LogError;

type Raw = TableDefinition<'static, &'static [u8], &'static [u8]>;

const VERSION: u8 = 1;

/// A table of the state database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Name → number (or the log's id).
    Meta,
    /// Topic name → id, partitions.
    Topics,
    /// Partition → next offset, bytes ever.
    Ends,
    /// Partition → first offset, bytes retired.
    Starts,
    /// Partition and first offset → places in one segment.
    SegIdx,
    /// Base of a sealed segment → extent.
    Segments,
    /// Writer id → epoch.
    Writers,
    /// Connector and source partition → source offset (JSON).
    SourceOffsets,
    /// Group and partition → next offset.
    GroupOffsets,
    /// Group → topic patterns it reads (JSON).
    Groups,
    /// Table and key of the state store → value.
    State,
}

impl Table {
    pub(super) const ALL: [Self; 11] = [
        Self::Meta,
        Self::Topics,
        Self::Ends,
        Self::Starts,
        Self::SegIdx,
        Self::Segments,
        Self::Writers,
        Self::SourceOffsets,
        Self::GroupOffsets,
        Self::Groups,
        Self::State,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Topics => "topics",
            Self::Ends => "ends",
            Self::Starts => "starts",
            Self::SegIdx => "segidx",
            Self::Segments => "segments",
            Self::Writers => "writers",
            Self::SourceOffsets => "source_offsets",
            Self::GroupOffsets => "group_offsets",
            Self::Groups => "groups",
            Self::State => "state",
        }
    }

    /// Its number in a commit frame.
    pub(super) fn byte(self) -> u8 {
        self as u8
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    fn definition(self) -> Raw {
        TableDefinition::new(self.name())
    }

    /// An insertion; the version byte is put in front of `value`.
    pub(super) fn put(self, key: impl Into<Vec<u8>>, value: &[u8]) -> Op {
        let value = [&[VERSION], value].concat();
        Op { table: self, key: key.into(), value: Some(value) }
    }

    /// A removal.
    pub(super) fn delete(self, key: impl Into<Vec<u8>>) -> Op {
        Op { table: self, key: key.into(), value: None }
    }
}

/// A row as stored: key, and value without its version byte.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// Applies `ops` in order in one durable transaction.
pub(super) fn commit(db: &redb::Database, ops: &[Op]) -> Result<(), LogError> {
    let mut txn = db.begin_write().map_err(state_error)?;
    txn.set_durability(redb::Durability::Immediate)
        .map_err(|e| LogError::State(format!("set the durability of a commit: {e}")))?;
    for table in Table::ALL {
        let mut ops = ops.iter().filter(|op| op.table == table).peekable();
        if ops.peek().is_none() {
            continue;
        }
        let mut open = txn.open_table(table.definition()).map_err(state_error)?;
        for op in ops {
            match &op.value {
                Some(value) => open.insert(op.key.as_slice(), value.as_slice()).map_err(state_error)?,
                None => open.remove(op.key.as_slice()).map_err(state_error)?,
            };
        }
    }
    txn.commit().map_err(state_error)
}

/// One value.
pub(super) fn get(db: &redb::Database, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
    let txn = db.begin_read().map_err(state_error)?;
    let open = match txn.open_table(table.definition()) {
        Ok(open) => open,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(state_error(error)),
    };
    let value = open.get(key).map_err(state_error)?;
    value.map(|value| unversioned(table, value.value())).transpose()
}

/// All rows whose key begins with `prefix`, in order.
pub(super) fn scan(db: &redb::Database, table: Table, prefix: &[u8]) -> Result<Vec<Row>, LogError> {
    let mut rows = Vec::new();
    let txn = db.begin_read().map_err(state_error)?;
    let open = match txn.open_table(table.definition()) {
        Ok(open) => open,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(rows),
        Err(error) => return Err(state_error(error)),
    };
    for row in open.range(prefix..).map_err(state_error)? {
        let (key, value) = row.map_err(state_error)?;
        if !key.value().starts_with(prefix) {
            break;
        }
        rows.push((key.value().to_vec(), unversioned(table, value.value())?));
    }
    Ok(rows)
}

/// The last row whose key is in `first..=last`.
pub(super) fn last_of(
    db: &redb::Database,
    table: Table,
    first: &[u8],
    last: &[u8],
) -> Result<Option<Row>, LogError> {
    let txn = db.begin_read().map_err(state_error)?;
    let open = match txn.open_table(table.definition()) {
        Ok(open) => open,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(state_error(error)),
    };
    let row = open.range(first..=last).map_err(state_error)?.next_back();
    let Some((key, value)) = row.transpose().map_err(state_error)? else { return Ok(None) };
    Ok(Some((key.value().to_vec(), unversioned(table, value.value())?)))
}

fn unversioned(table: Table, value: &[u8]) -> Result<Vec<u8>, LogError> {
    match value.split_first() {
        Some((&VERSION, rest)) => Ok(rest.to_vec()),
        Some((version, _)) => Err(LogError::State(format!(
            "table `{}` holds a value of version {version}, this program knows {VERSION}: run the newer program",
            table.name()
        ))),
        None => Err(damaged_row(table)),
    }
}

/// A row that does not read.
pub(super) fn damaged_row(table: Table) -> LogError {
    LogError::Corrupt {
        message: format!(
            "a row of table `{}` in state.redb does not read; restore the log's directory whole, from one moment",
            table.name()
        ),
    }
}

/// Names what redb says.
pub(super) fn state_error(error: impl Into<redb::Error>) -> LogError {
    let error = error.into();
    let redb::Error::Io(source) = error else { return LogError::State(error.to_string()) };
    write_error("read or write state.redb", source)
}

/// `topic, partition`.
pub(super) type PartitionKey = (u32, u32);

pub(super) fn partition_key((topic, partition): PartitionKey) -> Vec<u8> {
    [topic.to_be_bytes(), partition.to_be_bytes()].concat()
}

pub(super) fn parse_partition_key(key: &[u8]) -> Option<PartitionKey> {
    let (topic, partition) = key.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*topic), u32::from_be_bytes(*partition.as_array()?)))
}

/// `name NUL rest`: names never hold a NUL (checked where they come in).
pub(super) fn named_key(name: &str, rest: &[u8]) -> Vec<u8> {
    [name.as_bytes(), &[0], rest].concat()
}

/// Splits what [`named_key`] joined.
pub(super) fn parse_named_key(key: &[u8]) -> Option<(&str, &[u8])> {
    let nul = key.iter().position(|&b| b == 0)?;
    let (name, rest) = key.split_at_checked(nul)?;
    Some((std::str::from_utf8(name).ok()?, rest.get(1..)?))
}

/// Refuses a name that would break a key apart.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), LogError> {
    if name.is_empty() || name.contains('\0') {
        return Err(LogError::Refused(format!("{what} {name:?} must be neither empty nor hold a NUL")));
    }
    Ok(())
}

/// An offset and a number of bytes: the value of `ends` and `starts`.
pub(super) fn extent_value(offset: i64, bytes: u64) -> Vec<u8> {
    [offset.to_le_bytes(), bytes.to_le_bytes()].concat()
}

pub(super) fn parse_extent(value: &[u8]) -> Option<(i64, u64)> {
    let mut cursor = Cursor(value);
    Some((cursor.i64()?, cursor.u64()?))
}

/// A number in `meta`.
pub(super) fn meta(name: &str, number: u64) -> Op {
    Table::Meta.put(name, &number.to_le_bytes())
}

/// Numbers of `meta`; the id is not one of them.
pub(super) fn meta_numbers(db: &redb::Database) -> Result<BTreeMap<String, u64>, LogError> {
    let mut numbers = BTreeMap::new();
    for (key, value) in scan(db, Table::Meta, b"")? {
        let name = String::from_utf8(key).map_err(|_| damaged_row(Table::Meta))?;
        if name != "id" {
            let number = Cursor(&value).u64().ok_or_else(|| damaged_row(Table::Meta))?;
            numbers.insert(name, number);
        }
    }
    Ok(numbers)
}
