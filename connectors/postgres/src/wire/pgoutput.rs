//! pgoutput, protocol version 1 (postgres.md section 4): transaction frames, relations, and row changes whose tuples
//! stay bytes until somebody reads a column.

use super::{Cursor, DecodeError};

/// A column's value in a tuple, as offsets into the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// What was sent.
    pub kind: CellKind,
    /// First byte of the text.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
}

/// How a column was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// `n`
    Null,
    /// `u`: out-of-line value that did not change.
    Unchanged,
    /// `t`
    Text,
}

/// `B`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Position of the commit record.
    pub final_lsn: u64,
    /// Microseconds since 1970-01-01.
    pub commit_time_us: i64,
    /// Lower 32 bits of the transaction id.
    pub xid: u32,
}

/// `C`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Position of the commit record.
    pub commit_lsn: u64,
    /// Just after it: where to resume, what to acknowledge.
    pub end_lsn: u64,
}

/// One message, its rows still bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// `B`
    Begin(Begin),
    /// `C`
    Commit(Commit),
    /// `O`
    Origin {
        /// Commit position on the origin.
        lsn: u64,
        /// Name of the origin.
        name: &'a str,
    },
    /// `R`: decode with [`Relation::decode`].
    Relation,
    /// `Y`
    Type,
    /// `I`, `U`, `D`: decode with [`RowChange::decode`].
    Row {
        /// The relation.
        oid: u32,
    },
    /// `T`: decode with [`truncated`].
    Truncate,
    /// `M`
    Logical,
}

/// Reads what the reader needs to know of a message; rows are not looked into.
///
/// # Errors
/// Malformed bytes.
pub fn peek(message: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut cursor = Cursor::new(message);
    match cursor.u8("pgoutput message")? {
        b'B' => Ok(Message::Begin(Begin {
            final_lsn: cursor.u64("begin")?,
            commit_time_us: cursor.i64("begin")?.saturating_add(super::copy::POSTGRES_EPOCH_US),
            xid: cursor.u32("begin")?,
        })),
        b'C' => {
            cursor.u8("commit")?;
            Ok(Message::Commit(Commit { commit_lsn: cursor.u64("commit")?, end_lsn: cursor.u64("commit")? }))
        }
        b'O' => Ok(Message::Origin { lsn: cursor.u64("origin")?, name: cursor.cstr("origin name")? }),
        b'R' => Ok(Message::Relation),
        b'Y' => Ok(Message::Type),
        b'I' | b'U' | b'D' => Ok(Message::Row { oid: cursor.u32("relation id")? }),
        b'T' => Ok(Message::Truncate),
        b'M' => Ok(Message::Logical),
        tag => Err(DecodeError::UnknownTag(tag)),
    }
}

/// A column as a Relation message tells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelationColumn {
    /// Part of the replica identity (with FULL: every column); not the primary key.
    pub identity: bool,
    /// Name.
    pub name: String,
    /// Type.
    pub type_oid: u32,
    /// Type modifier, -1 for none.
    pub typmod: i32,
}

/// `R`: a table's shape at a position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Relation {
    /// The table.
    pub oid: u32,
    /// Its schema.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `d`, `n`, `f` or `i`.
    pub replica_identity: u8,
    /// The published columns, in the table's order.
    pub columns: Vec<RelationColumn>,
}

impl Relation {
    /// Reads an `R` message.
    ///
    /// # Errors
    /// Malformed bytes.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(message);
        match cursor.u8("relation")? {
            b'R' => {}
            tag => return Err(DecodeError::UnknownTag(tag)),
        }
        let oid = cursor.u32("relation id")?;
        let namespace = match cursor.cstr("schema name")? {
            "" => "pg_catalog",
            name => name,
        };
        let name = cursor.cstr("table name")?;
        let replica_identity = cursor.u8("replica identity")?;
        let n = cursor.count16("column count")?;
        let mut columns = Vec::with_capacity(n.min(cursor.rest().len() / 10 + 1));
        for _ in 0..n {
            columns.push(RelationColumn {
                identity: cursor.u8("column flags")? & 1 != 0,
                name: cursor.cstr("column name")?.to_owned(),
                type_oid: cursor.u32("column type")?,
                typmod: cursor.i32("type modifier")?,
            });
        }
        Ok(Self { oid, namespace: namespace.to_owned(), name: name.to_owned(), replica_identity, columns })
    }
}

/// What an old tuple holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldTuple {
    /// `K`: identity columns only; the others read as null and were not sent.
    Identity,
    /// `O`: the whole row.
    Whole,
}

/// A row change; its tuples were appended to the caller's cells, the old one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange {
    /// `I`
    Insert,
    /// `U`
    Update {
        /// The old tuple and how many cells it has.
        old: Option<(OldTuple, usize)>,
    },
    /// `D`
    Delete {
        /// What was sent of the old row.
        old: OldTuple,
    },
}

impl RowChange {
    /// Reads an `I`, `U` or `D` message and appends its cells to `cells`.
    ///
    /// # Errors
    /// Malformed bytes; `cells` may then hold some of the row.
    pub fn decode(message: &[u8], cells: &mut Vec<Cell>) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(message);
        let tag = cursor.u8("row message")?;
        cursor.u32("relation id")?;
        let first = cursor.u8("tuple kind")?;
        let old = match first {
            b'K' => Some(OldTuple::Identity),
            b'O' => Some(OldTuple::Whole),
            b'N' => None,
            other => return Err(DecodeError::UnknownTag(other)),
        };
        match (tag, old) {
            (b'I', None) => {
                tuple(message, &mut cursor, cells)?;
                Ok(Self::Insert)
            }
            (b'D', Some(old)) => {
                tuple(message, &mut cursor, cells)?;
                Ok(Self::Delete { old })
            }
            (b'U', None) => {
                tuple(message, &mut cursor, cells)?;
                Ok(Self::Update { old: None })
            }
            (b'U', Some(old)) => {
                let n = tuple(message, &mut cursor, cells)?;
                match cursor.u8("tuple kind")? {
                    b'N' => {}
                    other => return Err(DecodeError::UnknownTag(other)),
                }
                tuple(message, &mut cursor, cells)?;
                Ok(Self::Update { old: Some((old, n)) })
            }
            (other, _) => Err(DecodeError::UnknownTag(other)),
        }
    }
}

fn tuple(message: &[u8], cursor: &mut Cursor<'_>, cells: &mut Vec<Cell>) -> Result<usize, DecodeError> {
    let n = cursor.count16("column count")?;
    for _ in 0..n {
        let kind = match cursor.u8("column tag")? {
            b'n' => CellKind::Null,
            b'u' => CellKind::Unchanged,
            b't' => CellKind::Text,
            other => return Err(DecodeError::UnknownTag(other)),
        };
        let length = if kind == CellKind::Text { cursor.count32("column length")? } else { 0 };
        let start = message.len() - cursor.rest().len();
        cursor.bytes(length, "column value")?;
        let offset = |n: usize| u32::try_from(n).map_err(|_| DecodeError::Length(i64::MAX));
        cells.push(Cell { kind, start: offset(start)?, end: offset(start + length)? });
    }
    Ok(n)
}

/// The relations of a `T` message.
///
/// # Errors
/// Malformed bytes.
pub fn truncated(message: &[u8]) -> Result<Vec<u32>, DecodeError> {
    let mut cursor = Cursor::new(message);
    cursor.u8("truncate")?;
    let n = cursor.count32("relation count")?;
    cursor.u8("truncate flags")?;
    let mut oids = Vec::with_capacity(n.min(cursor.rest().len() / 4));
    for _ in 0..n {
        oids.push(cursor.u32("relation id")?);
    }
    Ok(oids)
}
