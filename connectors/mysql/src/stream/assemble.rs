//! From events to batches: the bookkeeping of positions.
//!
//! A position is what is complete (file and offset, and the transactions' ids) plus the ordinal inside the next transaction.
//! Ordinals count rows of all tables, whatever becomes of them later, so that a change of the configuration can't shift them, and
//! so that another server of the topology, which may cut its events differently, counts the same. A transaction that was cut is
//! known by its id (or, while ids are off, by where it begins), and exactly `ordinal` of its rows are skipped.

use std::{collections::HashMap, sync::Arc};

use rowstream_api::ConnectorError;

use super::{
    position::{BinlogPosition, Partial, Position},
    statement::{self, Statement},
    xa::{HeldRows, HeldTransactions},
};
use crate::{
    source_config::TableFilter,
    transport::connection::malformed,
    wire::{
        DecodeError, compressed,
        event::{self, Checksums, GtidEvent, HEADER_BYTES, Header, kind},
        gtid::{Gtid, GtidState},
        rows::{self, Operation, Width},
        table_map::{self, TableShape},
        tagged,
    },
};

/// A table as the stream knows it.
#[derive(Debug)]
pub struct StreamTable {
    /// Its shape.
    pub shape: TableShape,
    /// How long its columns' values are.
    pub widths: Vec<Width>,
}

/// What a row of a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A row.
    Row(Operation),
    /// TRUNCATE of a table.
    Truncate,
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

impl RawBatch {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.bytes() + 64
    }
}

impl HeldRows {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * size_of::<Entry>() + self.events.len() * size_of::<RowsInfo>()
    }

    /// The index of a table here.
    fn table(&mut self, table: &Arc<StreamTable>) -> Result<u32, ConnectorError> {
        let known = self.tables.iter().rposition(|known| Arc::ptr_eq(known, table));
        let index = known.unwrap_or(self.tables.len());
        if known.is_none() {
            self.tables.push(Arc::clone(table));
        }
        index_of(index)
    }
}

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
    filter: TableFilter,
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
    payload: Option<compressed::PayloadEvents>,
}

fn index_of(n: usize) -> Result<u32, ConnectorError> {
    u32::try_from(n).map_err(|_| malformed(DecodeError::Malformed("a batch")))
}

impl Assembler {
    /// Starts at `from`.
    #[must_use]
    pub fn new(from: Position, filter: TableFilter) -> Self {
        Self {
            filter,
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
            payload: None,
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
        if let Some(operation) = rows::operation(header.kind) {
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
            kind::PARTIAL_UPDATE_ROWS => self.partial_json(body),
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

    fn table_map(&mut self, body: &[u8]) -> Result<(), ConnectorError> {
        let (id, database, table) = table_map::names(body).map_err(malformed)?;
        if self.tables.get(&id).is_some_and(|known| known.body == body) {
            return Ok(());
        }
        let captured = self.filter.matches(database, table);
        let table = match table_map::decode(body) {
            Ok(shape) => Some(Arc::new(StreamTable { widths: rows::widths(&shape), shape })),
            Err(_) if !captured => None,
            Err(error) => {
                return Err(
                    malformed(error).while_attempting(&format!("read the shape of `{database}.{table}`"))
                );
            }
        };
        self.tables.insert(id, KnownTable { body: body.to_vec(), table, captured });
        Ok(())
    }

    fn rows(
        &mut self,
        header: &Header,
        operation: Operation,
        body: &[u8],
        offset: u64,
    ) -> Result<(), ConnectorError> {
        let event = rows::decode(header.kind, operation, body).map_err(malformed)?;
        let Some(open) = &mut self.open else {
            return Err(malformed(DecodeError::Malformed("a row outside a transaction")));
        };
        let known = self.tables.get(&event.table_id);
        let Some(known) = known else {
            return Err(malformed(DecodeError::Malformed("rows of a table that was not described")));
        };
        let Some(table) = known.table.as_ref() else {
            open.ordinal += 1;
            return Ok(());
        };
        if table.widths.len() != event.width {
            return Err(malformed(DecodeError::Malformed(
                "rows with another number of columns than their table",
            )));
        }
        let unpacked;
        let images = if rows::is_compressed(header.kind) {
            unpacked = compressed::unpack(event.rows).map_err(malformed)?;
            &unpacked
        } else {
            event.rows
        };
        if !known.captured {
            let mut at = 0;
            while at < images.len() {
                at = frame(table, &event, images, at).map_err(malformed)?;
                open.ordinal += 1;
            }
            return Ok(());
        }
        let info = RowsInfo {
            table: 0,
            transaction: 0,
            present: (0, 0),
            offset,
            timestamp: header.timestamp,
            server_id: header.server_id,
        };
        append(&mut self.batch, &mut self.transactions, open, table, &event, images, info)?;
        let growing = open.xa.as_ref().map(|(_, rows)| rows.arena.len());
        if let Some(growing) = growing { self.held.check(growing) } else { Ok(()) }
    }

    fn partial_json(&mut self, body: &[u8]) -> Result<(), ConnectorError> {
        let event = rows::decode(kind::UPDATE_ROWS, Operation::Update, body).map_err(malformed)?;
        let known = self.tables.get(&event.table_id);
        let Some(table) = known.filter(|known| known.captured).and_then(|known| known.table.as_ref()) else {
            if let Some(open) = &mut self.open {
                open.ordinal += 1;
            }
            return Ok(());
        };
        let name = format!("{}.{}", table.shape.database, table.shape.table);
        Err(ConnectorError::fatal(
            "MYSQL_PARTIAL_JSON",
            format!("an update of `{name}` at {} holds only the changed parts of its JSON values", self.next),
        )
        .remedy("SET PERSIST binlog_row_value_options = '';\n-- then delete the connector's offsets: that update can't be read"))
    }

    fn statement(&mut self, body: &[u8], offset: u64, header: &Header) -> Result<(), ConnectorError> {
        let query = event::query(body).map_err(malformed)?;
        let database = String::from_utf8_lossy(query.database);
        if let Some(open) = &mut self.open {
            open.transaction.thread_id.get_or_insert(query.thread_id);
        }
        match statement::classify(query.text) {
            Statement::Begin => {
                match &mut self.open {
                    Some(open) => open.begun = true,
                    // MySQL before GTID events: the BEGIN is the first that is heard of it.
                    None => {
                        self.begin(GtidEvent { gtid: None, commit_time_us: None, standalone: false, xa: None })?;
                        if let Some(open) = &mut self.open {
                            (open.begun, open.transaction.thread_id) = (true, Some(query.thread_id));
                        }
                    }
                }
                Ok(())
            }
            Statement::Commit | Statement::Rollback => {
                self.end();
                Ok(())
            }
            Statement::RollbackTo => Err(ConnectorError::fatal(
                "MYSQL_ROLLBACK_TO",
                format!(
                    "the transaction at {} was rolled back to a savepoint after it changed a table without transactions: \
                     which of its rows hold can't be told from the binlog",
                    self.next
                ),
            )
            .remedy("use InnoDB for all tables, then delete the connector's offsets to start over with a new snapshot")),
            Statement::Nothing | Statement::XaEnd => Ok(()),
            Statement::XaStart(name) => {
                if let Some(open) = &mut self.open {
                    (open.begun, open.xa) = (true, Some((name, HeldRows::default())));
                }
                Ok(())
            }
            Statement::XaCommit(name) => self.xa_commit(&name),
            Statement::XaRollback(name) => {
                if let Some(Some(gtid)) = self.held.take(&name).map(|held| held.gtid) {
                    self.gtids.insert(&gtid);
                }
                self.end();
                Ok(())
            }
            Statement::Truncate(named, table) => {
                let database = named.unwrap_or_else(|| database.into_owned());
                self.truncate(&database, &table, offset, header)?;
                self.end_unless_begun();
                Ok(())
            }
            Statement::Rows(verb) => {
                self.statement_rows(verb, &database, &String::from_utf8_lossy(query.text))?;
                self.end_unless_begun();
                Ok(())
            }
            Statement::Other => {
                self.end_unless_begun();
                Ok(())
            }
        }
    }

    /// A statement that is a transaction of its own ends it.
    fn end_unless_begun(&mut self) {
        if self.open.as_ref().is_none_or(|open| !open.begun) {
            self.end();
        }
    }

    fn truncate(
        &mut self,
        database: &str,
        table: &str,
        offset: u64,
        header: &Header,
    ) -> Result<(), ConnectorError> {
        if !self.filter.matches(database, table) {
            return Ok(());
        }
        if self.open.is_none() {
            self.begin(GtidEvent { gtid: None, commit_time_us: None, standalone: true, xa: None })?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.ordinal += 1;
        if open.ordinal <= open.skip {
            return Ok(());
        }
        let shape = TableShape {
            database: database.to_owned(),
            table: table.to_owned(),
            columns: Vec::new(),
            key: Vec::new(),
        };
        let stream_table = Arc::new(StreamTable { shape, widths: Vec::new() });
        let transaction = transaction_index(&mut self.transactions, open)?;
        let info = RowsInfo {
            table: self.batch.table(&stream_table)?,
            transaction,
            present: (0, 0),
            offset,
            timestamp: header.timestamp,
            server_id: header.server_id,
        };
        self.batch.events.push(info);
        let event = index_of(self.batch.events.len() - 1)?;
        self.batch.entries.push(Entry { start: 0, end: 0, event, row: 0, kind: EntryKind::Truncate });
        Ok(())
    }

    /// Rows that changed by a statement are not in the binlog: silence would be a loss.
    fn statement_rows(&self, verb: &str, database: &str, text: &str) -> Result<(), ConnectorError> {
        if !self.filter.may_concern(database, text) {
            return Ok(());
        }
        Err(ConnectorError::fatal(
            "MYSQL_STATEMENT_FORMAT",
            format!(
                "a session wrote by statement ({verb} in database `{database}`, at {}): the rows that it changed are not in \
                 the binlog",
                self.next
            ),
        )
        .remedy(
            "SET PERSIST binlog_format = ROW;\n-- and let no session set binlog_format; then delete the connector's offsets \
             to start over with a new snapshot",
        ))
    }

    fn xa_prepare(&mut self, body: &[u8]) -> Result<(), ConnectorError> {
        let (name, one_phase) = event::xa_prepare(body).map_err(malformed)?;
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let Some((_, mut rows)) = open.xa.take() else {
            self.open = Some(open);
            self.end();
            return Ok(());
        };
        rows.ordinal = open.ordinal;
        if one_phase {
            open.ordinal = 0;
            release(&mut self.batch, &mut self.transactions, &mut open, rows)?;
            self.open = Some(open);
            self.end();
        } else {
            let begins = open.transaction.begins.clone();
            if !matches!(self.gtids, GtidState::Set(_))
                && let Some(gtid) = &open.transaction.gtid
            {
                self.gtids.insert(gtid);
            }
            self.held.hold(name, rows, open.transaction.gtid, begins);
        }
        Ok(())
    }

    fn xa_commit(&mut self, name: &str) -> Result<(), ConnectorError> {
        let Some(held) = self.held.take(name) else {
            return Err(ConnectorError::fatal(
                "MYSQL_XA_UNKNOWN",
                format!(
                    "the XA transaction {name}, committed at {}, was prepared before the connector's first position: its \
                     rows are not known",
                    self.next
                ),
            )
            .remedy("delete the connector's offsets, which starts over with a new snapshot, while XA RECOVER lists nothing"));
        };
        if let Some(open) = &mut self.open {
            release(&mut self.batch, &mut self.transactions, open, held.rows)?;
        }
        if let Some(gtid) = &held.gtid {
            self.gtids.insert(gtid);
        }
        self.end();
        Ok(())
    }

    /// Gives a prepared transaction back that was held before a restart.
    pub fn adopt(&mut self, other: Self) {
        self.held.merge(other.held);
    }

    /// Whether the named transaction is held.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        self.held.list().iter().any(|held| held.name == name)
    }
}

/// Where one row (both images of an update) ends.
fn frame(
    table: &StreamTable,
    event: &rows::RowsEvent<'_>,
    images: &[u8],
    at: usize,
) -> Result<usize, DecodeError> {
    let end = rows::image(&table.widths, event.present, images, at, |_| ())?;
    let end = match event.operation {
        Operation::Update => rows::image(&table.widths, event.present_after, images, end, |_| ())?,
        Operation::Insert | Operation::Delete => end,
    };
    // A table without columns in the image would never end.
    if end > at { Ok(end) } else { Err(DecodeError::Malformed("a row")) }
}

/// Appends an event's rows that were not done before.
#[expect(clippy::too_many_arguments, reason = "parts of the assembler that are borrowed apart")]
fn append(
    batch: &mut HeldRows,
    transactions: &mut Vec<Transaction>,
    open: &mut Open,
    table: &Arc<StreamTable>,
    event: &rows::RowsEvent<'_>,
    images: &[u8],
    mut info: RowsInfo,
) -> Result<(), ConnectorError> {
    let mut index = None;
    let (mut at, mut row) = (0, 0);
    while at < images.len() {
        let end = frame(table, event, images, at).map_err(malformed)?;
        open.ordinal += 1;
        if open.ordinal > open.skip {
            let transaction = if open.xa.is_some() { 0 } else { transaction_index(transactions, open)? };
            let target = open.xa.as_mut().map_or(&mut *batch, |(_, rows)| rows);
            let event_index = match index {
                Some(index) => index,
                None => {
                    info.table = target.table(table)?;
                    info.transaction = transaction;
                    info.present = (index_of(target.arena.len())?, index_of(event.present.len())?);
                    target.arena.extend_from_slice(event.present);
                    target.arena.extend_from_slice(event.present_after);
                    target.events.push(info);
                    *index.insert(index_of(target.events.len() - 1)?)
                }
            };
            let start = index_of(target.arena.len())?;
            target.arena.extend_from_slice(images.get(at..end).unwrap_or_default());
            let end = index_of(target.arena.len())?;
            target.entries.push(Entry {
                start,
                end,
                event: event_index,
                row,
                kind: EntryKind::Row(event.operation),
            });
        }
        row += 1;
        at = end;
    }
    Ok(())
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

/// Delivers held rows as part of the open transaction.
fn release(
    batch: &mut HeldRows,
    transactions: &mut Vec<Transaction>,
    open: &mut Open,
    rows: HeldRows,
) -> Result<(), ConnectorError> {
    if rows.entries.is_empty() {
        return Ok(());
    }
    let transaction = transaction_index(transactions, open)?;
    let base = index_of(batch.arena.len())?;
    let first_event = index_of(batch.events.len())?;
    batch.arena.extend_from_slice(&rows.arena);
    for mut info in rows.events {
        let table = rows.tables.get(info.table as usize).cloned();
        info.table = match table {
            Some(table) => batch.table(&table)?,
            None => return Err(malformed(DecodeError::Malformed("a held row"))),
        };
        info.transaction = transaction;
        info.present.0 += base;
        batch.events.push(info);
    }
    for entry in rows.entries {
        open.ordinal += 1;
        if open.ordinal > open.skip {
            let entry = Entry {
                start: entry.start + base,
                end: entry.end + base,
                event: entry.event + first_event,
                ..entry
            };
            batch.entries.push(entry);
        }
    }
    Ok(())
}

/// A compressed statement: the text is packed, what stands before it is not.
fn unpack_query(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let query = event::query(body)?;
    let head = body.len() - query.text.len();
    let mut unpacked = body.get(..head).unwrap_or_default().to_vec();
    unpacked.extend_from_slice(&compressed::unpack(query.text)?);
    Ok(unpacked)
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
