//! A batch of the stream as the pipeline visits it: each change is decoded when it is lent, into scratch space that the whole
//! visit shares.

use std::sync::Arc;

use rowstream_api::{
    Change, ChangeSet, ChangeView, ConnectorError, RecordError, RowView, TableSchema, ValueRef,
};

use super::batch::{Entry, EntryKind, RowsInfo, Transaction};
use crate::{
    connection::Flavour,
    schema_change::Message,
    table::{TablePlan, connector_name},
    transport::connection::malformed,
    tuple::{Form, Row},
    wire::{
        DecodeError,
        rows::{self, Cell, Operation, Width},
    },
};

/// What all `source` blocks of a connector share.
#[derive(Debug)]
pub struct SourceNames {
    /// `topic_prefix`
    pub server: String,
    /// The server's flavour.
    pub flavour: Flavour,
}

/// Our version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Changes of the stream.
pub struct StreamChanges {
    /// The images.
    pub arena: Vec<u8>,
    /// The captured ones.
    pub entries: Vec<Entry>,
    /// What entries name.
    pub events: Vec<RowsInfo>,
    /// What events name.
    pub transactions: Vec<Transaction>,
    /// What events name; `None` for a table that no entry names.
    pub tables: Vec<Option<(Arc<TablePlan>, Vec<Width>)>>,
    /// Whether the snapshot has yet to deliver (the rest of) the table's rows, by table.
    pub unread: Vec<bool>,
    /// The statements that entries name.
    pub messages: Vec<Message>,
    /// Where they go.
    pub topic: Arc<TableSchema>,
    /// Names.
    pub names: Arc<SourceNames>,
}

/// A number of 64 bits without a sign, as Connect's INT64.
#[must_use]
pub fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The images of one row, framed.
#[derive(Debug, Default)]
pub struct Cells {
    old: Vec<Cell>,
    new: Vec<Cell>,
}

/// The rows of a change.
pub struct Images<'a> {
    /// The old row.
    pub old: Option<Row<'a>>,
    /// The new row.
    pub new: Option<Row<'a>>,
}

/// Frames the images of a change into `cells`.
///
/// # Errors
/// Malformed bytes.
pub fn images<'a>(
    plan: &'a TablePlan,
    widths: &[Width],
    arena: &'a [u8],
    (entry, info): (&Entry, &RowsInfo),
    cells: &'a mut Cells,
) -> Result<Images<'a>, ConnectorError> {
    let EntryKind::Row(operation) = entry.kind else { return Ok(Images { old: None, new: None }) };
    let bytes = arena.get(entry.start as usize..entry.end as usize).unwrap_or_default();
    let (at, length) = (info.present.0 as usize, info.present.1 as usize);
    let present = arena.get(at..at + length).unwrap_or_default();
    let present_after = arena.get(at + length..at + length * 2).unwrap_or_default();
    cells.old.clear();
    cells.new.clear();
    let first = if operation == Operation::Insert { &mut cells.new } else { &mut cells.old };
    let end = rows::image(widths, present, bytes, 0, |cell| first.push(cell)).map_err(malformed)?;
    if operation == Operation::Update {
        rows::image(widths, present_after, bytes, end, |cell| cells.new.push(cell)).map_err(malformed)?;
    }
    let row = |cells: &'a [Cell], before| Row { plan, bytes, cells, form: Form::Image, before };
    let old = (operation != Operation::Insert).then(|| row(&cells.old, None));
    let before = (operation == Operation::Update).then_some(cells.old.as_slice());
    let new = (operation != Operation::Delete).then(|| row(&cells.new, before));
    Ok(Images { old, new })
}

impl Images<'_> {
    /// Whether the key differs between old and new row.
    fn key_changed(&self) -> bool {
        let (Some(old), Some(new)) = (&self.old, &self.new) else { return false };
        old.plan.schema.key_columns.iter().any(|index| match (old.cell(*index), new.cell(*index)) {
            (Some(before), Some(after)) => old.value(before) != new.value(after),
            _ => false,
        })
    }

    fn change(&self) -> Result<Change<'_>, ConnectorError> {
        match (&self.old, &self.new) {
            (None, Some(after)) => Ok(Change::Create { after }),
            (Some(before), Some(after)) if self.key_changed() => Ok(Change::Rekey { before, after }),
            (Some(before), Some(after)) => Ok(Change::Update { before: Some(before), after }),
            (Some(before), None) => Ok(Change::Delete { before }),
            (None, None) => Err(malformed(DecodeError::Malformed("a change"))),
        }
    }
}

impl ChangeSet for StreamChanges {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn bytes(&self) -> usize {
        let text = |message: &Message| message.definition.ddl.as_ref().map_or(0, String::len);
        self.arena.len()
            + self.entries.len() * size_of::<Entry>()
            + self.messages.iter().map(text).sum::<usize>()
    }

    fn visit(
        &self,
        visitor: &mut dyn FnMut(ChangeView<'_>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectorError> {
        let mut cells = Cells::default();
        for entry in &self.entries {
            let info = self.events.get(entry.event as usize);
            if entry.kind == EntryKind::Definition {
                self.lend_message(entry, info, visitor)?;
                continue;
            }
            let table = info.and_then(|info| self.tables.get(info.table as usize)).and_then(Option::as_ref);
            let transaction = info.and_then(|info| self.transactions.get(info.transaction as usize));
            let (Some(info), Some((plan, widths)), Some(transaction)) = (info, table, transaction) else {
                return Err(names_nothing());
            };
            let micros = commit_time_us(transaction, info);
            let of = (plan.shape.database.as_str(), Some(plan.shape.table.as_str()));
            let source = source_block(&self.names, of, transaction, (entry, info));
            let mut lend = |change: Change<'_>| {
                visitor(ChangeView {
                    table: &plan.schema,
                    change,
                    source: &source,
                    timestamp_ms: micros.div_euclid(1000),
                    row_follows: self.unread.get(info.table as usize).copied().unwrap_or(false),
                })
            };
            match entry.kind {
                EntryKind::Truncate => lend(Change::Truncate)?,
                // Statements were lent above.
                EntryKind::Row(_) | EntryKind::Definition => {
                    let images = images(plan, widths, &self.arena, (entry, info), &mut cells)?;
                    lend(images.change()?)?;
                }
            }
        }
        Ok(())
    }
}

impl StreamChanges {
    fn lend_message(
        &self,
        entry: &Entry,
        info: Option<&RowsInfo>,
        visitor: &mut dyn FnMut(ChangeView<'_>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectorError> {
        let transaction = info.and_then(|info| self.transactions.get(info.transaction as usize));
        let message = self.messages.get(entry.start as usize);
        let (Some(info), Some(transaction), Some(message)) = (info, transaction, message) else {
            return Err(names_nothing());
        };
        let source = source_block(&self.names, message.names(), transaction, (entry, info));
        let value = message.value(&self.topic.value, &source);
        visitor(ChangeView {
            table: &self.topic,
            change: Change::Message { value: &value },
            source: &source,
            timestamp_ms: commit_time_us(transaction, info).div_euclid(1000),
            row_follows: false,
        })?;
        Ok(())
    }
}

fn names_nothing() -> ConnectorError {
    ConnectorError::fatal("BUG", "a change of the batch names nothing of the batch")
}

fn commit_time_us(transaction: &Transaction, info: &RowsInfo) -> i64 {
    transaction.commit_time_us.unwrap_or_else(|| i64::from(info.timestamp) * 1_000_000)
}

fn source_block<'a>(
    names: &'a SourceNames,
    (database, table): (&'a str, Option<&'a str>),
    transaction: &'a Transaction,
    (entry, info): (&Entry, &RowsInfo),
) -> [ValueRef<'a>; 17] {
    let micros = commit_time_us(transaction, info);
    [
        ValueRef::str(VERSION),
        ValueRef::str(connector_name(names.flavour)),
        ValueRef::str(&names.server),
        ValueRef::Int(micros.div_euclid(1000)),
        ValueRef::str("false"),
        ValueRef::str(database),
        ValueRef::Null,
        ValueRef::Int(micros),
        ValueRef::Int(micros.saturating_mul(1000)),
        table.map_or(ValueRef::Null, ValueRef::str),
        ValueRef::Int(info.server_id.into()),
        transaction.gtid_text.as_deref().map_or(ValueRef::Null, ValueRef::str),
        ValueRef::str(&transaction.begins.file),
        ValueRef::Int(signed(info.offset)),
        ValueRef::Int(entry.row.into()),
        transaction.thread_id.map_or(ValueRef::Null, |id| ValueRef::Int(id.into())),
        ValueRef::Null,
    ]
}

/// Whether a row view has a column that was left out.
#[must_use]
pub fn is_incomplete(row: &Row<'_>) -> bool {
    (0..row.schema().fields().len()).any(|index| row.cell(index) == Some(Cell::Absent))
}
