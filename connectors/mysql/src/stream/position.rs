//! Where the stream stands.

use std::{cmp::Ordering, fmt, sync::Arc};

use crate::wire::gtid::{Gtid, GtidState};

/// A place in a server's binlog.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BinlogPosition {
    /// File.
    pub file: Arc<str>,
    /// Offset in it.
    pub offset: u64,
}

impl BinlogPosition {
    /// A position.
    pub fn new(file: impl Into<Arc<str>>, offset: u64) -> Self {
        Self { file: file.into(), offset }
    }

    /// The number behind the last point of the file's name.
    fn number(&self) -> u64 {
        self.file.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

/// Positions of one server are in the order of its files' numbers.
impl PartialOrd for BinlogPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BinlogPosition {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |p: &Self| (p.number(), p.offset);
        key(self).cmp(&key(other)).then_with(|| self.file.cmp(&other.file))
    }
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// A transaction that is done up to an ordinal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Its id; `None` while GTIDs are off.
    pub gtid: Option<Gtid>,
    /// Where it begins.
    pub begins: BinlogPosition,
    /// Rows done, counted over all tables.
    pub ordinal: u64,
}

/// A transaction that was prepared and not decided yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its name, as `XA COMMIT` writes it.
    pub name: String,
    /// Where it begins.
    pub begins: BinlogPosition,
}

/// Where the stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// End of the last complete transaction.
    pub at: BinlogPosition,
    /// Transactions that are done. MySQL: without those that are prepared, so that the server sends them again.
    pub gtids: GtidState,
    /// How much of the next transaction is done, too.
    pub partial: Option<Partial>,
    /// Transactions whose rows wait for a decision.
    pub prepared: Vec<Prepared>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_by_number() {
        let at = |file: &str, offset| BinlogPosition::new(file, offset);
        assert!(at("binlog.000009", 900) < at("binlog.000010", 4));
        assert!(at("binlog.999999", 4) < at("binlog.1000000", 4));
        assert!(at("binlog.000010", 4) < at("binlog.000010", 5));
    }
}
