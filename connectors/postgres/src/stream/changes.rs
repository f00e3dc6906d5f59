//! A batch of the stream as the pipeline visits it: each change is decoded when it is lent, into scratch space that
//! the whole visit shares.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use rowstream_api::{Change, ChangeSet, ChangeView, ConnectorError, RecordError, ValueRef};

use super::assemble::{Entry, EntryKind, Transaction};
use crate::{
    replication::malformed,
    table::TablePlan,
    tuple::{Image, TupleRow},
    wire::pgoutput::{Cell, CellKind, OldTuple, RowChange},
};

/// What all `source` blocks of a connector share.
#[derive(Debug)]
pub struct SourceNames {
    /// `topic_prefix`
    pub server: String,
    /// The database.
    pub database: String,
}

/// Debezium's word for the connector.
pub const CONNECTOR: &str = "postgresql";
/// Our version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Changes of the stream.
pub struct StreamChanges {
    /// The messages.
    pub arena: Vec<u8>,
    /// The captured ones.
    pub entries: Vec<Entry>,
    /// What entries name.
    pub transactions: Vec<Transaction>,
    /// What entries name; `None` for a table that is not captured, which no entry names.
    pub tables: Vec<Option<Arc<TablePlan>>>,
    /// Whether the snapshot has yet to deliver (the rest of) the table's rows, by relation.
    pub unread: Vec<bool>,
    /// Key changes whose row is gone by now, by the start of their messages.
    pub gone: BTreeSet<u32>,
    /// Names.
    pub names: Arc<SourceNames>,
}

/// A value of 64 bits without a sign, as Connect's INT64.
#[must_use]
pub fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The tuples of a decoded row message.
pub struct Images<'a> {
    /// The old row, if any of it was sent.
    pub old: Option<TupleRow<'a>>,
    /// The new row.
    pub new: Option<TupleRow<'a>>,
}

impl<'a> Images<'a> {
    /// Splits `cells`, which [`RowChange::decode`] filled from `message`.
    ///
    /// # Errors
    /// A tuple does not have the table's columns.
    pub fn of(
        plan: &'a TablePlan,
        message: &'a [u8],
        change: RowChange,
        cells: &'a [Cell],
    ) -> Result<Self, ConnectorError> {
        let (old, old_cells) = match change {
            RowChange::Insert | RowChange::Update { old: None } => (None, 0),
            RowChange::Update { old: Some((kind, n)) } => (Some(kind), n),
            RowChange::Delete { old } => (Some(old), cells.len()),
        };
        let (before, after) = cells.split_at_checked(old_cells).unwrap_or((cells, &[]));
        let old = old.map(|kind| {
            let image = if kind == OldTuple::Whole { Image::Whole } else { Image::Identity };
            TupleRow { plan, message, cells: before, image, unchanged: None }
        });
        let new = (!matches!(change, RowChange::Delete { .. })).then_some(TupleRow {
            plan,
            message,
            cells: after,
            image: Image::Whole,
            unchanged: old.as_ref().filter(|o| o.image == Image::Whole).map(|o| o.cells),
        });
        for row in old.iter().chain(&new) {
            if row.cells.len() != plan.columns.len() {
                return Err(ConnectorError::fatal("PG_PROTOCOL", "a row does not have its table's columns"));
            }
        }
        Ok(Self { old, new })
    }

    /// Whether the key differs between old and new row.
    fn key_changed(&self) -> bool {
        let (Some(old), Some(new)) = (&self.old, &self.new) else { return false };
        old.plan.schema.key_columns.iter().any(|index| match (old.cell(*index), new.cell(*index)) {
            (Some(before), Some(after)) => {
                after.kind != CellKind::Unchanged && old.text(before) != new.text(after)
            }
            _ => false,
        })
    }
}

impl ChangeSet for StreamChanges {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * size_of::<Entry>()
    }

    fn visit(
        &self,
        visitor: &mut dyn FnMut(ChangeView<'_>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectorError> {
        let mut cells = Vec::new();
        let mut sequence = String::new();
        for entry in &self.entries {
            let table = self.tables.get(entry.relation as usize).and_then(Option::as_deref);
            let transaction = self.transactions.get(entry.transaction as usize);
            let (Some(plan), Some(transaction)) = (table, transaction) else {
                return Err(ConnectorError::fatal(
                    "BUG",
                    "a change of the batch names no table of the batch",
                ));
            };
            sequence_text(&mut sequence, transaction.previous_commit_lsn, entry.lsn);
            let source = source_block(&self.names, plan, transaction, entry.lsn, &sequence);
            let mut lend = |change: Change<'_>| {
                let timestamp_ms = transaction.commit_time_us.div_euclid(1000);
                let row_follows = self.unread.get(entry.relation as usize).copied().unwrap_or(false)
                    || self.gone.contains(&entry.start);
                visitor(ChangeView {
                    table: &plan.schema,
                    change,
                    source: &source,
                    timestamp_ms,
                    row_follows,
                })
            };
            match entry.kind {
                EntryKind::Truncate => lend(Change::Truncate)?,
                EntryKind::Row => {
                    let message =
                        self.arena.get(entry.start as usize..entry.end as usize).unwrap_or_default();
                    cells.clear();
                    let change = RowChange::decode(message, &mut cells).map_err(malformed)?;
                    let images = Images::of(plan, message, change, &cells)?;
                    lend(change_of(&images)?)?;
                }
            }
        }
        Ok(())
    }
}

fn change_of<'a>(images: &'a Images<'_>) -> Result<Change<'a>, ConnectorError> {
    match (&images.old, &images.new) {
        (None, Some(after)) if matches!(after.message.first(), Some(b'I')) => Ok(Change::Create { after }),
        (None, Some(after)) => Ok(Change::Update { before: None, after }),
        (Some(before), Some(after)) if images.key_changed() => Ok(Change::Rekey { before, after }),
        (Some(before), Some(after)) => Ok(Change::Update { before: Some(before), after }),
        (Some(before), None) => Ok(Change::Delete { before }),
        (None, None) => Err(ConnectorError::fatal("PG_PROTOCOL", "a row message without a row")),
    }
}

/// `["<last commit>","<change>"]`, decimal, `null` when there was no commit on this connection.
pub fn sequence_text(out: &mut String, last_commit: u64, lsn: u64) {
    out.clear();
    let written = if last_commit == 0 {
        write!(out, "[null,\"{lsn}\"]")
    } else {
        write!(out, "[\"{last_commit}\",\"{lsn}\"]")
    };
    debug_assert!(written.is_ok(), "a String takes everything");
}

fn source_block<'a>(
    names: &'a SourceNames,
    plan: &'a TablePlan,
    transaction: &'a Transaction,
    lsn: u64,
    sequence: &'a str,
) -> [ValueRef<'a>; 16] {
    let micros = transaction.commit_time_us;
    let (origin, origin_lsn) = match &transaction.origin {
        Some((name, lsn)) => (ValueRef::str(name), ValueRef::Int(signed(*lsn))),
        None => (ValueRef::Null, ValueRef::Null),
    };
    [
        ValueRef::str(VERSION),
        ValueRef::str(CONNECTOR),
        ValueRef::str(&names.server),
        ValueRef::Int(micros.div_euclid(1000)),
        ValueRef::str("false"),
        ValueRef::str(&names.database),
        ValueRef::str(sequence),
        ValueRef::Int(micros),
        ValueRef::Int(micros.saturating_mul(1000)),
        ValueRef::str(&plan.relation.namespace),
        ValueRef::str(&plan.relation.name),
        ValueRef::Int(transaction.xid.into()),
        ValueRef::Int(signed(lsn)),
        ValueRef::Null,
        origin,
        origin_lsn,
    ]
}
