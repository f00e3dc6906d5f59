//! A row read in place.

use std::sync::Arc;

use crate::{error::RecordError, schema::Schema, value::ValueRef};

/// One row, read in place from the bytes it arrived in: one dynamic call per column at most, no allocation per
/// value. Converters, predicates and sinks read rows through this.
pub trait RowView {
    /// The STRUCT schema whose fields are this row's columns, in order.
    fn schema(&self) -> &Arc<Schema>;
    /// The value of the column at `index` of the schema's fields.
    ///
    /// # Errors
    /// The bytes are not a value of the column's type. Names the column, never its value.
    fn column(&self, index: usize) -> Result<ValueRef<'_>, RecordError>;
}
