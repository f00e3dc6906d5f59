//! A row read in place: from the stream's images, or from the snapshot's values, which are kept in the same cells.

use std::sync::Arc;

use rowstream_api::{RecordError, RowView, Schema, ValueRef};

use crate::{
    table::TablePlan,
    types::{image, selected},
    wire::rows::Cell,
};

/// Which form the values have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The server's storage form, of the stream.
    Image,
    /// The binary protocol's, of the snapshot.
    Selected,
}

/// A row.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// The table.
    pub plan: &'a TablePlan,
    /// What the cells point into.
    pub bytes: &'a [u8],
    /// One for each column of the table.
    pub cells: &'a [Cell],
    /// The form of the values.
    pub form: Form,
    /// The old row of an update: what the new one left out is there, or did not change.
    pub before: Option<&'a [Cell]>,
}

impl<'a> Row<'a> {
    /// The cell of a column of the schema.
    #[must_use]
    pub fn cell(&self, index: usize) -> Option<Cell> {
        let source = self.plan.columns.get(index)?.source;
        match (self.cells.get(source).copied()?, self.before.and_then(|before| before.get(source))) {
            (Cell::Absent, Some(before)) => Some(*before),
            (cell, _) => Some(cell),
        }
    }

    /// The bytes of a value; `None` when it is null or not here.
    #[must_use]
    pub fn value(&self, cell: Cell) -> Option<&'a [u8]> {
        match cell {
            Cell::Value { start, end } => self.bytes.get(start as usize..end as usize),
            Cell::Absent | Cell::Null => None,
        }
    }
}

impl RowView for Row<'_> {
    fn schema(&self) -> &Arc<Schema> {
        &self.plan.schema.value
    }

    fn column(&self, index: usize) -> Result<ValueRef<'_>, RecordError> {
        let (Some(cell), Some(column)) = (self.cell(index), self.plan.columns.get(index)) else {
            return Err(RecordError::value("COLUMN_UNKNOWN", format!("the row has no column {index}")));
        };
        match cell {
            Cell::Null => Ok(ValueRef::Null),
            Cell::Absent if self.before.is_some() => Ok(ValueRef::Unavailable),
            Cell::Absent => Ok(ValueRef::Absent),
            Cell::Value { .. } => {
                let bytes = self.value(cell).unwrap_or_default();
                match self.form {
                    Form::Image => image::parse(&column.kind, bytes),
                    Form::Selected => selected::parse(&column.kind, bytes),
                }
                .map_err(|e| e.in_column(&column.name))
            }
        }
    }
}
