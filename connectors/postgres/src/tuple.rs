//! A row read in place from a pgoutput tuple. Snapshot rows are kept in the same form.

use std::sync::Arc;

use rowstream_api::{RecordError, RowView, Schema, ValueRef};

use crate::{
    table::TablePlan,
    types::{malformed, parse},
    wire::pgoutput::{Cell, CellKind},
};

/// What a tuple holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Every column.
    Whole,
    /// The identity's columns; the others were not sent.
    Identity,
}

/// A row.
#[derive(Clone, Copy)]
pub struct TupleRow<'a> {
    /// The table.
    pub plan: &'a TablePlan,
    /// The message that the cells point into.
    pub message: &'a [u8],
    /// One for each column.
    pub cells: &'a [Cell],
    /// What it holds.
    pub image: Image,
    /// The old row, which holds the values that did not change, when the whole of it was sent.
    pub unchanged: Option<&'a [Cell]>,
}

impl<'a> TupleRow<'a> {
    /// The column's text; `None` when it is null or not here.
    pub fn text(&self, cell: Cell) -> Option<&'a [u8]> {
        match cell.kind {
            CellKind::Text => self.message.get(cell.start as usize..cell.end as usize),
            CellKind::Null | CellKind::Unchanged => None,
        }
    }

    /// The cell at `index`, taken from the old row when it did not change.
    pub fn cell(&self, index: usize) -> Option<Cell> {
        let cell = self.cells.get(index).copied()?;
        if cell.kind == CellKind::Unchanged
            && let Some(old) = self.unchanged.and_then(|old| old.get(index))
        {
            return Some(*old);
        }
        Some(cell)
    }
}

impl RowView for TupleRow<'_> {
    fn schema(&self) -> &Arc<Schema> {
        &self.plan.schema.value
    }

    fn column(&self, index: usize) -> Result<ValueRef<'_>, RecordError> {
        let (Some(cell), Some(column)) = (self.cell(index), self.plan.columns.get(index)) else {
            return Err(RecordError::value("COLUMN_UNKNOWN", format!("the row has no column {index}")));
        };
        match cell.kind {
            CellKind::Null if self.image == Image::Identity && !column.identity => Ok(ValueRef::Absent),
            CellKind::Null => Ok(ValueRef::Null),
            CellKind::Unchanged => Ok(ValueRef::Unavailable),
            CellKind::Text => self
                .text(cell)
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .ok_or_else(|| malformed("UTF-8"))
                .and_then(|text| parse(&column.kind, text))
                .map_err(|e| e.in_column(&column.name)),
        }
    }
}
