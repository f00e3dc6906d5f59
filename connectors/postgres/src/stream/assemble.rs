//! From messages to batches: the bookkeeping of positions.
//!
//! A position is the end of the last complete transaction plus the ordinal inside the next one. Ordinals count row and
//! truncate messages, whatever becomes of them later, so that a change of the configuration can't shift them. The
//! server resumes exactly after `lsn`, so the transaction that was cut comes first, and exactly `ordinal` of its
//! messages are skipped; should another one come in its place, that is an error and never a guess.

use std::{collections::HashMap, sync::Arc};

use rowstream_api::{
    ConnectorError,
    queue::{self, Batch as _},
};

use crate::{
    replication::malformed,
    wire::{
        DecodeError,
        copy::FromServer,
        pgoutput::{self, Begin, Message, Relation},
    },
};

/// Where the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// End of the last complete transaction, or how far the server decoded when nothing was open.
    pub lsn: u64,
    /// How much of the next transaction is done, too.
    pub partial: Option<Partial>,
}

/// A transaction that is done up to an ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Position of its commit record.
    pub final_lsn: u64,
    /// Messages done.
    pub ordinal: u64,
}

/// What a transaction's changes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Lower 32 bits of the id.
    pub xid: u32,
    /// Position of the commit record.
    pub final_lsn: u64,
    /// Microseconds since 1970-01-01.
    pub commit_time_us: i64,
    /// Commit position of the transaction before it on this connection; 0 for none.
    pub previous_commit_lsn: u64,
    /// Replication origin: name and position there.
    pub origin: Option<(Arc<str>, u64)>,
}

/// What a message of a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Insert, update or delete.
    Row,
    /// One relation of a TRUNCATE.
    Truncate,
}

/// One message of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// First byte in the arena.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// Index into the batch's relations.
    pub relation: u32,
    /// Index into the batch's transactions.
    pub transaction: u32,
    /// Position of the change.
    pub lsn: u64,
    /// Row or truncate.
    pub kind: EntryKind,
}

/// Messages as the reader hands them over.
#[derive(Debug, Default)]
pub struct RawBatch {
    /// The messages, one after the other.
    pub arena: Vec<u8>,
    /// Index of them.
    pub entries: Vec<Entry>,
    /// Transactions that entries name.
    pub transactions: Vec<Transaction>,
    /// Relations that entries name.
    pub relations: Vec<Arc<Relation>>,
    /// Where the stream stands after it.
    pub position: Position,
    /// No transaction is open after it.
    pub ends_transaction: bool,
}

impl queue::Batch for RawBatch {
    fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * size_of::<Entry>() + 64
    }
    fn ended() -> ConnectorError {
        ConnectorError::transient("PG_CONNECTION", "the replication stream has ended")
    }
}

struct Open {
    transaction: Transaction,
    /// Messages seen.
    ordinal: u64,
    /// Messages that were done before this connection.
    skip: u64,
    /// Index in the current batch's transactions.
    index: Option<u32>,
}

/// Builds batches.
pub struct Assembler {
    batch: RawBatch,
    relations: HashMap<u32, Arc<Relation>>,
    /// Index of a relation in the current batch.
    indices: HashMap<u32, u32>,
    last: Option<(u32, u32)>,
    open: Option<Open>,
    position: u64,
    /// The transaction that was cut, until it comes.
    awaited: Option<Partial>,
    previous_commit_lsn: u64,
    /// Everything below was received.
    pub received: u64,
}

impl Assembler {
    /// Starts at `from`.
    #[must_use]
    pub fn new(from: Position) -> Self {
        Self {
            batch: RawBatch::default(),
            relations: HashMap::new(),
            indices: HashMap::new(),
            last: None,
            open: None,
            position: from.lsn,
            awaited: from.partial,
            previous_commit_lsn: 0,
            received: from.lsn,
        }
    }

    /// Bytes of the batch that is being built.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Whether the batch that is being built has changes.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.batch.entries.is_empty()
    }

    /// The position without what is pending inside an open transaction.
    #[must_use]
    pub fn complete_lsn(&self) -> u64 {
        self.position
    }

    /// Takes the batch; a new one begins.
    pub fn take(&mut self) -> RawBatch {
        let partial = match &self.open {
            Some(open) => {
                let ordinal = open.ordinal.max(open.skip);
                (ordinal > 0).then_some(Partial { final_lsn: open.transaction.final_lsn, ordinal })
            }
            None => self.awaited,
        };
        if let Some(open) = &mut self.open {
            open.index = None;
        }
        self.indices.clear();
        self.last = None;
        let mut batch = std::mem::take(&mut self.batch);
        batch.position = Position { lsn: self.position, partial };
        batch.ends_transaction = self.open.is_none();
        batch
    }

    /// Takes in one message. Answers whether the server wants a status update at once.
    ///
    /// # Errors
    /// Malformed bytes, or a stream that does not go on where we stopped.
    pub fn message(&mut self, body: &[u8]) -> Result<bool, ConnectorError> {
        match crate::wire::copy::decode(body).map_err(malformed)? {
            FromServer::Keepalive { wal_end, reply_requested } => {
                self.keepalive(wal_end)?;
                Ok(reply_requested)
            }
            FromServer::Change { lsn, payload } => {
                self.change(lsn, payload)?;
                Ok(false)
            }
        }
    }

    fn keepalive(&mut self, wal_end: u64) -> Result<(), ConnectorError> {
        self.received = self.received.max(wal_end);
        if let Some(awaited) = self.awaited {
            // The server is past the commit of a transaction that it should have sent.
            return if self.open.is_none() && wal_end > awaited.final_lsn {
                Err(gone(awaited))
            } else {
                Ok(())
            };
        }
        if self.open.is_none() {
            self.position = self.position.max(wal_end);
        }
        Ok(())
    }

    fn change(&mut self, lsn: u64, payload: &[u8]) -> Result<(), ConnectorError> {
        self.received = self.received.max(lsn);
        match pgoutput::peek(payload).map_err(malformed)? {
            Message::Row { oid } => self.row(lsn, oid, payload),
            Message::Begin(begin) => self.begin(begin),
            Message::Commit(commit) => {
                self.open = None;
                self.previous_commit_lsn = commit.commit_lsn;
                self.position = self.position.max(commit.end_lsn);
                self.received = self.received.max(commit.end_lsn);
                Ok(())
            }
            Message::Relation => {
                let relation = Relation::decode(payload).map_err(malformed)?;
                if self.relations.get(&relation.oid).is_none_or(|known| **known != relation) {
                    self.indices.remove(&relation.oid);
                    self.last = None;
                    self.relations.insert(relation.oid, Arc::new(relation));
                }
                Ok(())
            }
            Message::Truncate => {
                let Some(transaction) = self.counted()? else { return Ok(()) };
                for oid in pgoutput::truncated(payload).map_err(malformed)? {
                    let relation = self.relation(oid)?;
                    let kind = EntryKind::Truncate;
                    self.batch.entries.push(Entry { start: 0, end: 0, relation, transaction, lsn, kind });
                }
                Ok(())
            }
            Message::Origin { lsn, name } => {
                if let Some(open) = &mut self.open {
                    open.transaction.origin = Some((name.into(), lsn));
                }
                Ok(())
            }
            Message::Type | Message::Logical => Ok(()),
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<(), ConnectorError> {
        let mut skip = 0;
        if let Some(awaited) = self.awaited {
            if begin.final_lsn > awaited.final_lsn {
                return Err(gone(awaited));
            }
            if begin.final_lsn == awaited.final_lsn {
                skip = awaited.ordinal;
                self.awaited = None;
            }
        }
        let transaction = Transaction {
            xid: begin.xid,
            final_lsn: begin.final_lsn,
            commit_time_us: begin.commit_time_us,
            previous_commit_lsn: self.previous_commit_lsn,
            origin: None,
        };
        self.open = Some(Open { transaction, ordinal: 0, skip, index: None });
        Ok(())
    }

    fn row(&mut self, lsn: u64, oid: u32, payload: &[u8]) -> Result<(), ConnectorError> {
        let Some(transaction) = self.counted()? else { return Ok(()) };
        let relation = self.relation(oid)?;
        let offset = |n: usize| u32::try_from(n).map_err(|_| malformed(DecodeError::Length(i64::MAX)));
        let start = offset(self.batch.arena.len())?;
        self.batch.arena.extend_from_slice(payload);
        let end = offset(self.batch.arena.len())?;
        let kind = EntryKind::Row;
        self.batch.entries.push(Entry { start, end, relation, transaction, lsn, kind });
        Ok(())
    }

    /// Counts a message of the open transaction; `None` when it was done before, else the transaction's index.
    fn counted(&mut self) -> Result<Option<u32>, ConnectorError> {
        let open = self.open.as_mut().ok_or_else(|| {
            ConnectorError::fatal("PG_PROTOCOL", "the server sent a change outside a transaction")
        })?;
        open.ordinal += 1;
        if open.ordinal <= open.skip {
            return Ok(None);
        }
        if let Some(index) = open.index {
            return Ok(Some(index));
        }
        let index = index_of(self.batch.transactions.len())?;
        self.batch.transactions.push(open.transaction.clone());
        open.index = Some(index);
        Ok(Some(index))
    }

    fn relation(&mut self, oid: u32) -> Result<u32, ConnectorError> {
        if let Some((last, index)) = self.last
            && last == oid
        {
            return Ok(index);
        }
        let index = if let Some(index) = self.indices.get(&oid) {
            *index
        } else {
            let relation = self.relations.get(&oid).ok_or_else(|| {
                ConnectorError::fatal(
                    "PG_PROTOCOL",
                    "the server sent a change of a table it did not describe",
                )
            })?;
            let index = index_of(self.batch.relations.len())?;
            self.batch.relations.push(Arc::clone(relation));
            self.indices.insert(oid, index);
            index
        };
        self.last = Some((oid, index));
        Ok(index)
    }
}

fn index_of(n: usize) -> Result<u32, ConnectorError> {
    u32::try_from(n).map_err(|_| malformed(DecodeError::Length(i64::MAX)))
}

fn gone(awaited: Partial) -> ConnectorError {
    ConnectorError::fatal(
        "PG_TRANSACTION_MISSING",
        format!(
            "{} changes of the transaction that committed at {} were delivered, and the server no longer sends it",
            awaited.ordinal,
            crate::offset::Lsn(awaited.final_lsn)
        ),
    )
    .remedy(
        "was the publication or the slot changed? delete the connector's offsets to start over with a new snapshot",
    )
}
