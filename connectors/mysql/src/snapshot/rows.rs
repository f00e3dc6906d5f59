//! Rows that were read, in the form of the stream's rows; and delivered, as the pipeline visits them: reads (`r`).

use std::sync::Arc;

use mysql_async::Row as SqlRow;
use rowstream_api::{
    Change, ChangeSet, ChangeView, ConnectorError, RecordError, RowView, ValueRef,
    snapshot::{Delivered, Key, Rows},
};

use super::table::key_of;
use crate::{
    stream::{
        changes::{SourceNames, VERSION, signed},
        position::BinlogPosition,
    },
    table::{TablePlan, connector_name},
    tuple::{Form, Row},
    types::selected,
    wire::rows::Cell,
};

/// Rows of a table.
pub struct ReadRows {
    plan: Arc<TablePlan>,
    arena: Vec<u8>,
    cells: Vec<Cell>,
}

/// Appends a row's key, the same from the stream and from the snapshot.
///
/// # Errors
/// A value that can't be read.
pub fn write_key(row: &Row<'_>, out: &mut Vec<u8>) -> Result<(), ConnectorError> {
    for index in &row.plan.schema.key_columns {
        let length = out.len();
        match row.column(*index)? {
            ValueRef::Int(number) => out.extend_from_slice(&number.to_be_bytes()),
            ValueRef::Str(text) => out.extend_from_slice(text.as_bytes()),
            ValueRef::Decimal(text) => {
                let (sign, digits) = text.strip_prefix('-').map_or(("", &*text), |digits| ("-", digits));
                out.extend_from_slice(sign.as_bytes());
                out.extend_from_slice(digits.trim_start_matches('0').as_bytes());
            }
            ValueRef::Bytes(bytes) => out.extend_from_slice(&bytes),
            // Types that are no part of keys that chunks are read by; any text that tells values apart will do.
            other @ (ValueRef::Null
            | ValueRef::Unavailable
            | ValueRef::Absent
            | ValueRef::Bool(_)
            | ValueRef::Float32(_)
            | ValueRef::Float64(_)
            | ValueRef::Hex(_)
            | ValueRef::ZonedMicros(_)
            | ValueRef::Array(_)
            | ValueRef::Struct(_)
            | ValueRef::Map(_)) => out.extend_from_slice(format!("{other:?}").as_bytes()),
        }
        out.extend_from_slice(&(out.len() - length).to_be_bytes());
    }
    Ok(())
}

impl ReadRows {
    /// None yet.
    #[must_use]
    pub fn new(plan: Arc<TablePlan>) -> Self {
        Self { plan, arena: Vec::new(), cells: Vec::new() }
    }

    fn width(&self) -> usize {
        self.plan.shape.columns.len().max(1)
    }

    fn row<'a>(&'a self, cells: &'a [Cell]) -> Row<'a> {
        Row { plan: &self.plan, bytes: &self.arena, cells, form: Form::Selected, before: None }
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.cells.chunks_exact(self.width()).map(|cells| self.row(cells))
    }

    /// Appends a row of a select that has the plan's columns in their order.
    ///
    /// # Errors
    /// It has others, or is too long.
    pub fn push(&mut self, row: &SqlRow) -> Result<(), ConnectorError> {
        let plan = Arc::clone(&self.plan);
        self.push_columns(row, 0..plan.columns.len())
    }

    /// Appends a row of a select that has the key's columns only.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_key(&mut self, row: &SqlRow) -> Result<(), ConnectorError> {
        let plan = Arc::clone(&self.plan);
        self.push_columns(row, plan.schema.key_columns.iter().copied())
    }

    fn push_columns(
        &mut self,
        row: &SqlRow,
        columns: impl Iterator<Item = usize>,
    ) -> Result<(), ConnectorError> {
        let too_long = || ConnectorError::fatal("MYSQL_PROTOCOL", "a chunk of rows is too long");
        let foreign = || ConnectorError::fatal("MYSQL_PROTOCOL", "a row does not have its table's columns");
        let first = self.cells.len();
        self.cells.resize(first + self.width(), Cell::Absent);
        for (place, column) in columns.enumerate() {
            let value = row.as_ref(place).ok_or_else(foreign)?;
            let start = u32::try_from(self.arena.len()).map_err(|_| too_long())?;
            let cell = if selected::put(value, &mut self.arena) {
                Cell::Value { start, end: u32::try_from(self.arena.len()).map_err(|_| too_long())? }
            } else {
                Cell::Null
            };
            let source = self.plan.columns.get(column).ok_or_else(foreign)?.source;
            if let Some(place) = self.cells.get_mut(first + source) {
                *place = cell;
            }
        }
        Ok(())
    }

    /// The last row's key, as SQL literals.
    ///
    /// # Errors
    /// A key that can't be written as SQL; such tables are not read in chunks.
    pub fn last_key(&self) -> Result<Option<Key>, ConnectorError> {
        let Some(row) = self.rows().last() else { return Ok(None) };
        let unwritable = || ConnectorError::fatal("BUG", "a key that can't be written as SQL");
        key_of(&row).map(Some).ok_or_else(unwritable)
    }
}

impl Rows for ReadRows {
    fn len(&self) -> usize {
        self.cells.len() / self.width()
    }

    fn bytes(&self) -> usize {
        self.arena.len() + self.cells.len() * size_of::<Cell>()
    }

    fn write_key(&self, index: usize, out: &mut Vec<u8>) -> Result<(), ConnectorError> {
        let start = index * self.width();
        write_key(&self.row(self.cells.get(start..start + self.width()).unwrap_or_default()), out)
    }

    fn retain(&mut self, keep: &[bool]) {
        let rows = self.cells.chunks_exact(self.width()).zip(keep).filter(|(_, keep)| **keep);
        self.cells = rows.flat_map(|(cells, _)| cells).copied().collect();
    }
}

/// Rows that are delivered.
pub struct SnapshotRows {
    /// The rows.
    pub delivered: Delivered<ReadRows>,
    /// Names.
    pub names: Arc<SourceNames>,
    /// The stream's position when they are delivered.
    pub at: BinlogPosition,
    /// Microseconds since 1970-01-01.
    pub read_at_us: i64,
}

impl ChangeSet for SnapshotRows {
    fn len(&self) -> usize {
        self.delivered.rows.len()
    }

    fn bytes(&self) -> usize {
        self.delivered.rows.bytes()
    }

    fn visit(
        &self,
        visitor: &mut dyn FnMut(ChangeView<'_>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectorError> {
        let Delivered { rows, marks } = &self.delivered;
        let (plan, n) = (&rows.plan, rows.len());
        for (index, row) in rows.rows().enumerate() {
            let of = (plan.shape.database.as_str(), Some(plan.shape.table.as_str()));
            let source = source_block(&self.names, of, marks.marker(index, n), (&self.at, self.read_at_us));
            visitor(ChangeView {
                table: &plan.schema,
                change: Change::Read { after: &row },
                source: &source,
                timestamp_ms: self.read_at_us.div_euclid(1000),
                row_follows: false,
            })?;
        }
        Ok(())
    }
}

/// The `source` block of what was read, not streamed.
#[must_use]
pub fn source_block<'a>(
    names: &'a SourceNames,
    (database, table): (&'a str, Option<&'a str>),
    marker: &'a str,
    (at, read_at_us): (&'a BinlogPosition, i64),
) -> [ValueRef<'a>; 17] {
    [
        ValueRef::str(VERSION),
        ValueRef::str(connector_name(names.flavour)),
        ValueRef::str(&names.server),
        ValueRef::Int(read_at_us.div_euclid(1000)),
        ValueRef::str(marker),
        ValueRef::str(database),
        ValueRef::Null,
        ValueRef::Int(read_at_us),
        ValueRef::Int(read_at_us.saturating_mul(1000)),
        table.map_or(ValueRef::Null, ValueRef::str),
        ValueRef::Int(0),
        ValueRef::Null,
        ValueRef::str(&at.file),
        ValueRef::Int(signed(at.offset)),
        ValueRef::Int(0),
        ValueRef::Null,
        ValueRef::Null,
    ]
}
