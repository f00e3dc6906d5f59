//! From events to batches: the bookkeeping of positions.
//!
//! A position is what is complete (file and offset, and the transactions' ids) plus the ordinal inside the next transaction.
//! Ordinals count rows of all tables, whatever becomes of them later, so that a change of the configuration can't shift them, and
//! so that another server of the topology, which may cut its events differently, counts the same. A transaction that was cut is
//! known by its id (or, while ids are off, by where it begins), and exactly `ordinal` of its rows are skipped.

//!
//! Reading order: [`rows`], [`statements`], [`definitions`], [`decisions`] (XA).

mod decisions;
mod definitions;
mod rows;
mod statements;

pub use definitions::DefinitionPlan;
pub(super) use statements::unpack_query;

use std::{collections::HashMap, sync::Arc};

use rowstream_api::{ConnectorError, snapshot::TableName};

use super::{
    batch::{HeldRows, RawBatch, StreamTable, Transaction, index_of},
    position::{BinlogPosition, Partial, Position},
    xa::HeldTransactions,
};
use crate::{
    connection::Flavour,
    source_config::TableFilter,
    transport::connection::malformed,
    wire::{
        DecodeError, compressed,
        event::{self, Checksums, GtidEvent, HEADER_BYTES, Header, kind},
        gtid::{Gtid, GtidState},
        rows as wire_rows,
        table_map::Geometries,
        tagged,
    },
};

struct Open {
    transaction: Transaction,
    /// `BEGIN` was seen, so that a statement is not all of it.
    begun: bool,
    /// Rows seen.
    ordinal: u64,
    /// Rows that were done before this connection.
    skip: u64,
    /// Index in the current batch's transactions.
    index: Option<u32>,
    /// The XA transaction that it is, and its rows so far.
    xa: Option<(String, HeldRows)>,
}

struct KnownTable {
    body: Vec<u8>,
    /// `None` for a table that is not captured and whose shape can't be read.
    table: Option<Arc<StreamTable>>,
    captured: bool,
}

/// Builds batches.
pub struct Assembler {
    geometries: Geometries,
    filter: TableFilter,
    /// A table whose rows are read, too: that of signals.
    signal: Option<TableName>,
    batch: HeldRows,
    transactions: Vec<Transaction>,
    tables: HashMap<u64, KnownTable>,
    checksums: Checksums,
    open: Option<Open>,
    /// Everything before is complete.
    complete: BinlogPosition,
    /// Where the next event begins.
    next: BinlogPosition,
    gtids: GtidState,
    /// The transaction that was cut, until it comes.
    awaited: Option<Partial>,
    held: HeldTransactions,
    /// Statements that define something, so far.
    definitions: u64,
    /// How they are passed on, if they are.
    passed_on: Option<DefinitionPlan>,
    /// The transaction whose decision could not be taken in, because nobody knows its rows.
    unknown: Option<String>,
    payload: Option<compressed::PayloadEvents>,
}
impl Assembler {
    /// Starts at `from`.
    #[must_use]
    pub fn new(from: Position, filter: TableFilter, flavour: Flavour) -> Self {
        Self {
            geometries: match flavour {
                Flavour::MySql => Geometries::Apart,
                Flavour::MariaDb => Geometries::AmongTexts,
            },
            filter,
            signal: None,
            batch: HeldRows::default(),
            transactions: Vec::new(),
            tables: HashMap::new(),
            checksums: Checksums::Crc32,
            open: None,
            complete: from.at.clone(),
            next: from.at,
            gtids: from.gtids,
            awaited: from.partial,
            held: HeldTransactions::default(),
            definitions: 0,
            passed_on: None,
            unknown: None,
            payload: None,
        }
    }

    /// The rows of this table are read, whatever is captured.
    #[must_use]
    pub fn with_signal(mut self, signal: Option<TableName>) -> Self {
        self.signal = signal;
        self
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

    /// Everything before it is complete.
    #[must_use]
    pub fn complete(&self) -> &BinlogPosition {
        &self.complete
    }

    /// Whether a compressed transaction is being read: then [`Self::step`] goes on.
    #[must_use]
    pub fn is_unpacking(&self) -> bool {
        self.payload.is_some()
    }

    /// Takes the batch; a new one begins.
    pub fn take(&mut self) -> RawBatch {
        let partial = match &self.open {
            Some(open) if open.xa.is_none() && open.ordinal.max(open.skip) > 0 => Some(Partial {
                gtid: open.transaction.gtid.clone(),
                begins: open.transaction.begins.clone(),
                ordinal: open.ordinal.max(open.skip),
            }),
            Some(_) | None => self.awaited.clone(),
        };
        if let Some(open) = &mut self.open {
            open.index = None;
        }
        RawBatch {
            rows: std::mem::take(&mut self.batch),
            transactions: std::mem::take(&mut self.transactions),
            position: Position {
                at: self.complete.clone(),
                gtids: self.gtids.clone(),
                partial,
                prepared: self.held.list(),
            },
            ends_transaction: self.open.is_none(),
        }
    }

    /// Takes in one event of the stream.
    ///
    /// # Errors
    /// Malformed bytes, a stream that does not go on where we stopped, or what can't be delivered faithfully.
    pub fn event(&mut self, event: &[u8]) -> Result<(), ConnectorError> {
        if event.get(4) == Some(&kind::FORMAT_DESCRIPTION) {
            self.checksums = event::format_description(event).map_err(malformed)?;
            // A server that was restarted numbers its tables anew.
            self.tables.clear();
            let (header, _) = Header::decode(event).map_err(malformed)?;
            self.moved(&header);
            return Ok(());
        }
        let (header, _) = Header::decode(event).map_err(malformed)?;
        self.begins(&header);
        let bytes = self.checksums.strip(event).map_err(malformed)?;
        let body = bytes.get(HEADER_BYTES..).ok_or(malformed(DecodeError::Truncated("an event")))?;
        match header.kind {
            kind::ROTATE => {
                let (file, offset) = event::rotate(body).map_err(malformed)?;
                self.next = BinlogPosition::new(file, offset);
                self.settle();
                Ok(())
            }
            kind::HEARTBEAT | kind::HEARTBEAT_V2 => self.heartbeat(&header, body),
            kind::TRANSACTION_PAYLOAD => {
                let payload = compressed::payload(body).map_err(malformed)?;
                self.payload = Some(compressed::PayloadEvents::new(payload).map_err(malformed)?);
                self.moved(&header);
                Ok(())
            }
            _ => {
                let begins = self.next.offset;
                self.within(&header, body, begins)?;
                self.moved(&header);
                Ok(())
            }
        }
    }

    /// Takes in one event of the compressed transaction.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn step(&mut self) -> Result<(), ConnectorError> {
        let Some(mut payload) = self.payload.take() else { return Ok(()) };
        let Some(event) = payload.next_event().map_err(malformed)? else {
            self.settle();
            return Ok(());
        };
        let (header, body) = Header::decode(event).map_err(malformed)?;
        let begins = self.next.offset;
        self.within(&header, body, begins)?;
        self.payload = Some(payload);
        Ok(())
    }

    /// Where an event of the file ends; `None` for one that was made for us.
    fn end_of(&self, header: &Header) -> Option<u64> {
        /// `LOG_EVENT_ARTIFICIAL_F`
        const ARTIFICIAL: u16 = 0x20;
        if header.end == 0 || header.flags & ARTIFICIAL != 0 {
            return None;
        }
        // The header has 32 bits; events follow each other, so that a smaller number has gone round.
        let end = self.next.offset & !0xffff_ffff | u64::from(header.end);
        Some(if end < self.next.offset { end.saturating_add(1 << 32) } else { end })
    }

    /// The server may pass events over that we have already.
    fn begins(&mut self, header: &Header) {
        if matches!(header.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2) {
            return;
        }
        if let Some(begins) = self.end_of(header).and_then(|end| end.checked_sub(header.length.into())) {
            self.next.offset = self.next.offset.max(begins);
        }
    }

    /// The next event begins where this one ends.
    fn moved(&mut self, header: &Header) {
        if let Some(end) = self.end_of(header) {
            self.next.offset = end;
        } else if header.end == 0 && self.open.is_some() {
            // MariaDB 11 leaves the position of most events in a transaction out.
            self.next.offset = self.next.offset.saturating_add(header.length.into());
        }
        self.settle();
    }

    /// With nothing open, everything so far is complete.
    fn settle(&mut self) {
        if self.open.is_none() && self.payload.is_none() {
            self.complete.clone_from(&self.next);
        }
    }

    /// An idle server tells its position, which also moves past transactions that it did not send because we have them.
    fn heartbeat(&mut self, header: &Header, body: &[u8]) -> Result<(), ConnectorError> {
        if self.open.is_some() {
            return Ok(());
        }
        let (file, offset) = match header.kind {
            kind::HEARTBEAT_V2 => event::heartbeat_v2(body).map_err(malformed)?,
            _ => (std::str::from_utf8(body).ok().map(str::to_owned), Some(header.end.into())),
        };
        if let (Some(file), Some(offset)) = (file, offset) {
            let told = BinlogPosition::new(file, offset);
            if *told.file != *self.next.file || told.offset > self.next.offset {
                self.next = told;
                self.settle();
            }
        }
        Ok(())
    }

    /// An event that is in the file, or in a compressed transaction.
    fn within(&mut self, header: &Header, body: &[u8], offset: u64) -> Result<(), ConnectorError> {
        if let Some(operation) = wire_rows::operation(header.kind) {
            return self.rows(header, operation, body, offset);
        }
        match header.kind {
            kind::TABLE_MAP => self.table_map(body),
            kind::GTID | kind::ANONYMOUS_GTID => {
                self.begin(event::gtid(header.kind, body).map_err(malformed)?)
            }
            kind::GTID_TAGGED => self.begin(tagged::decode(body).map_err(malformed)?),
            kind::MARIA_GTID => {
                let mut begins = event::maria_gtid(header.server_id, body).map_err(malformed)?;
                let standalone = std::mem::replace(&mut begins.standalone, false);
                self.begin(begins)?;
                if let Some(open) = &mut self.open {
                    open.begun = !standalone;
                }
                Ok(())
            }
            kind::QUERY => self.statement(body, offset, header),
            kind::MARIA_QUERY_COMPRESSED => {
                let unpacked = unpack_query(body).map_err(malformed)?;
                self.statement(&unpacked, offset, header)
            }
            kind::XID => {
                self.end();
                Ok(())
            }
            kind::XA_PREPARE => self.xa_prepare(body),
            kind::EXECUTE_LOAD_QUERY | kind::BEGIN_LOAD_QUERY => self.statement_rows("LOAD DATA", "", ""),
            kind::INCIDENT => Err(ConnectorError::fatal(
                "MYSQL_INCIDENT",
                format!(
                    "the server says at {} that its binlog may lack changes (an incident event)",
                    self.next
                ),
            )
            .remedy("delete the connector's offsets, which starts over with a new snapshot")),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, begins: GtidEvent) -> Result<(), ConnectorError> {
        if self.open.is_some() {
            return Err(malformed(DecodeError::Malformed("a transaction inside another one")));
        }
        let at = self.next.clone();
        let mut skip = 0;
        if let Some(awaited) = &self.awaited {
            let same = match (&awaited.gtid, &begins.gtid) {
                (Some(awaited), Some(found)) => awaited == found,
                (None, None) => awaited.begins == at,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if same {
                skip = awaited.ordinal;
                self.awaited = None;
            } else if is_past(awaited, begins.gtid.as_ref(), &at) {
                return Err(gone(awaited));
            }
        }
        let transaction = Transaction {
            gtid_text: begins.gtid.as_ref().map(|gtid| gtid.to_string().into()),
            gtid: begins.gtid,
            begins: at,
            commit_time_us: begins.commit_time_us,
            thread_id: None,
        };
        let xa = begins.xa.map(|name| (name, HeldRows::default()));
        self.open = Some(Open { transaction, begun: false, ordinal: 0, skip, index: None, xa });
        Ok(())
    }

    /// The open transaction is complete.
    fn end(&mut self) {
        if let Some(open) = self.open.take()
            && let Some(gtid) = &open.transaction.gtid
        {
            self.gtids.insert(gtid);
        }
    }
}

/// The open transaction's index in the batch.
fn transaction_index(transactions: &mut Vec<Transaction>, open: &mut Open) -> Result<u32, ConnectorError> {
    if let Some(index) = open.index {
        return Ok(index);
    }
    let index = index_of(transactions.len())?;
    transactions.push(open.transaction.clone());
    open.index = Some(index);
    Ok(index)
}
/// Whether the stream is past a transaction that it should have sent.
fn is_past(awaited: &Partial, found: Option<&Gtid>, at: &BinlogPosition) -> bool {
    match (&awaited.gtid, found) {
        (Some(Gtid::MariaDb { domain, .. }), Some(Gtid::MariaDb { domain: found, .. })) => domain == found,
        // A set has no order: what is not in it comes, in whichever order this server has it.
        (Some(_), _) => false,
        (None, _) => *at > awaited.begins,
    }
}

fn gone(awaited: &Partial) -> ConnectorError {
    let name = awaited.gtid.as_ref().map_or_else(|| format!("at {}", awaited.begins), ToString::to_string);
    ConnectorError::fatal(
        "MYSQL_TRANSACTION_MISSING",
        format!(
            "{} rows of the transaction {name} were delivered, and the server no longer sends it",
            awaited.ordinal
        ),
    )
    .remedy("was the server replaced by another one? delete the connector's offsets to start over with a new snapshot")
}
