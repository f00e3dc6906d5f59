//! Rows that were read, in the form of the stream's tuples; and delivered, as the pipeline visits them: reads (`r`).

use std::sync::Arc;

use rowstream_api::{
    Change, ChangeSet, ChangeView, ConnectorError, RecordError, ValueRef,
    snapshot::{Delivered, Key, Rows},
};

use crate::{
    replication::{data_row, malformed},
    stream::changes::{CONNECTOR, SourceNames, VERSION, sequence_text, signed},
    table::TablePlan,
    tuple::{Image, TupleRow},
    wire::{
        DecodeError,
        pgoutput::{Cell, CellKind},
    },
};

/// Rows of a table.
pub struct ReadRows {
    plan: Arc<TablePlan>,
    arena: Vec<u8>,
    cells: Vec<Cell>,
}

/// A row's key as bytes: each column's length and text.
pub fn write_key(row: &TupleRow<'_>, out: &mut Vec<u8>) {
    out.clear();
    for index in &row.plan.schema.key_columns {
        let text = row.cell(*index).and_then(|cell| row.text(cell)).unwrap_or_default();
        out.extend_from_slice(&text.len().to_be_bytes());
        out.extend_from_slice(text);
    }
}

impl ReadRows {
    /// None yet.
    #[must_use]
    pub fn new(plan: Arc<TablePlan>) -> Self {
        Self { plan, arena: Vec::new(), cells: Vec::new() }
    }

    fn width(&self) -> usize {
        self.plan.columns.len().max(1)
    }

    fn row<'a>(&'a self, cells: &'a [Cell]) -> TupleRow<'a> {
        TupleRow { plan: &self.plan, message: &self.arena, cells, image: Image::Whole, unchanged: None }
    }

    fn rows(&self) -> impl Iterator<Item = TupleRow<'_>> {
        self.cells.chunks_exact(self.width()).map(|cells| self.row(cells))
    }

    /// Appends the body of a `DataRow`.
    ///
    /// # Errors
    /// Malformed bytes.
    pub fn push(&mut self, body: &[u8]) -> Result<(), ConnectorError> {
        let before = self.cells.len();
        let (arena, cells) = (&mut self.arena, &mut self.cells);
        let mut too_long = false;
        data_row(body, &mut |value| {
            let start = u32::try_from(arena.len());
            arena.extend_from_slice(value.unwrap_or_default());
            let end = u32::try_from(arena.len());
            let kind = if value.is_some() { CellKind::Text } else { CellKind::Null };
            match (start, end) {
                (Ok(start), Ok(end)) => cells.push(Cell { kind, start, end }),
                _ => too_long = true,
            }
        })
        .map_err(malformed)?;
        if too_long || self.cells.len() - before != self.plan.columns.len() {
            return Err(malformed(DecodeError::Length(0)));
        }
        Ok(())
    }

    /// The last row's key, as text.
    #[must_use]
    pub fn last_key(&self) -> Option<Key> {
        let start = self.cells.len().checked_sub(self.width())?;
        let row = self.row(self.cells.get(start..)?);
        let text = |index: &usize| {
            let text = row.cell(*index).and_then(|cell| row.text(cell)).unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        };
        Some(row.plan.schema.key_columns.iter().map(text).collect())
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
        let cells = self.cells.get(start..start + self.width()).unwrap_or_default();
        write_key(&self.row(cells), out);
        Ok(())
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
    pub lsn: u64,
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
        let mut sequence = String::new();
        sequence_text(&mut sequence, 0, self.lsn);
        let Delivered { rows, marks } = &self.delivered;
        let (plan, n) = (&rows.plan, rows.len());
        for (index, row) in rows.rows().enumerate() {
            let source = [
                ValueRef::str(VERSION),
                ValueRef::str(CONNECTOR),
                ValueRef::str(&self.names.server),
                ValueRef::Int(self.read_at_us.div_euclid(1000)),
                ValueRef::str(marks.marker(index, n)),
                ValueRef::str(&self.names.database),
                ValueRef::str(&sequence),
                ValueRef::Int(self.read_at_us),
                ValueRef::Int(self.read_at_us.saturating_mul(1000)),
                ValueRef::str(&plan.relation.namespace),
                ValueRef::str(&plan.relation.name),
                ValueRef::Null,
                ValueRef::Int(signed(self.lsn)),
                ValueRef::Null,
                ValueRef::Null,
                ValueRef::Null,
            ];
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
