//! Which transactions a snapshot sees, and which of them the stream has delivered.

use std::sync::Arc;

use rowstream_api::snapshot::Visibility;

use crate::{
    stream::{batch::Transaction, position::BinlogPosition},
    wire::gtid::{Gtid, GtidSet},
};

/// What a snapshot certainly sees; of what came later it may see some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// `gtid_executed` before the snapshot was taken: the server adds a transaction there after it made it visible.
    Executed(GtidSet),
    /// Everything that begins before this position.
    Until(BinlogPosition),
}

/// A transaction, as both can tell it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TransactionId {
    gtid: Option<Gtid>,
    begins: BinlogPosition,
}

impl TransactionId {
    /// Of a transaction of the stream.
    #[must_use]
    pub fn of(transaction: &Transaction) -> Self {
        Self { gtid: transaction.gtid.clone(), begins: transaction.begins.clone() }
    }
}

impl Visibility for Visible {
    type Transaction = Arc<TransactionId>;

    fn sees(&self, transaction: &Arc<TransactionId>) -> bool {
        match (self, &transaction.gtid) {
            (Self::Executed(set), Some(Gtid::MySql { tsid, number })) => set.contains(tsid, *number),
            (Self::Executed(_), _) => false,
            (Self::Until(position), _) => transaction.begins < *position,
        }
    }
}
