//! Rows of prepared XA transactions, held until `XA COMMIT` or `XA ROLLBACK` comes.
//!
//! A prepared transaction is a transaction of its own in the binlog, and its decision another one, at any time later. Only the
//! decision makes the rows a change, so they are delivered as part of it. After a restart they are read again: MySQL sends a
//! prepared transaction again because its id is kept out of the stored set; otherwise it is fetched from where it begins.

use std::collections::HashMap;

use rowstream_api::ConnectorError;

use super::{
    batch::HeldRows,
    position::{BinlogPosition, Prepared},
};
use crate::wire::gtid::Gtid;

/// All held rows together; beyond it the transactions can't be held.
const BYTES_MAX: usize = 64 << 20;

/// A prepared transaction.
#[derive(Debug)]
pub struct Held {
    /// Its rows.
    pub rows: HeldRows,
    /// Its id.
    pub gtid: Option<Gtid>,
    begins: BinlogPosition,
}

/// The prepared transactions.
#[derive(Debug, Default)]
pub struct HeldTransactions {
    by_name: HashMap<String, Held>,
}

impl HeldTransactions {
    /// Holds one.
    pub fn hold(&mut self, name: String, rows: HeldRows, gtid: Option<Gtid>, begins: BinlogPosition) {
        self.by_name.insert(name, Held { rows, gtid, begins });
    }

    /// Takes all of another's.
    pub fn merge(&mut self, other: Self) {
        self.by_name.extend(other.by_name);
    }

    /// Gives one up for its decision.
    pub fn take(&mut self, name: &str) -> Option<Held> {
        self.by_name.remove(name)
    }

    /// For the stored position, in the order of the binlog.
    #[must_use]
    pub fn list(&self) -> Vec<Prepared> {
        let mut list: Vec<Prepared> = self
            .by_name
            .iter()
            .map(|(name, held)| Prepared { name: name.clone(), begins: held.begins.clone() })
            .collect();
        list.sort_by(|a, b| a.begins.cmp(&b.begins));
        list
    }

    /// Refuses to hold more than the memory allows, with `growing` bytes of the one that is open.
    ///
    /// # Errors
    /// `MYSQL_XA_TOO_LARGE`
    pub fn check(&self, growing: usize) -> Result<(), ConnectorError> {
        let held: usize = self.by_name.values().map(|held| held.rows.arena.len()).sum();
        if held + growing <= BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "prepared XA transactions hold more than {} MiB of rows that wait for their decision",
            BYTES_MAX >> 20
        );
        Err(ConnectorError::fatal("MYSQL_XA_TOO_LARGE", message).remedy(
            "commit or roll back prepared transactions (XA RECOVER lists them), then restart the connector",
        ))
    }
}
