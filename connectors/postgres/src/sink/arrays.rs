//! Rows of the arena as array parameters in PostgreSQL's binary format, one array a column.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use rowstream_api::table_sink::rows::{Entry, NULL, UNAVAILABLE, elements};

use super::plan::TablePlan;

/// One column's array: dimensions, NULL flag, element type, length and lower bound, then the elements.
#[derive(Debug)]
pub(crate) struct ColumnArray {
    bytes: Vec<u8>,
}

const HEADER_BYTES: usize = 20;

/// Builds the arrays of `columns` (indexes of the plan's) for some rows.
pub(crate) fn column_arrays(
    arena: &[u8],
    rows: &[Entry],
    plan: &TablePlan,
    columns: &[usize],
) -> Vec<ColumnArray> {
    // For each of the plan's columns: the array it goes to.
    let mut slots = vec![None; plan.columns.len()];
    let mut arrays = Vec::with_capacity(columns.len());
    let room = rows.iter().map(|row| row.bytes.len()).sum::<usize>() / plan.columns.len().max(1);
    for (position, column) in columns.iter().enumerate() {
        if let Some(slot) = slots.get_mut(*column) {
            *slot = Some(position);
        }
        let oid = plan.columns.get(*column).map_or(0, |column| column.data.wire.oid());
        arrays.push(header(rows.len(), oid, room));
    }
    for row in rows {
        for ((length, element), slot) in elements(arena, row.bytes.clone()).zip(&slots) {
            let Some(array) = slot.and_then(|slot| arrays.get_mut(slot)) else { continue };
            if length == UNAVAILABLE {
                array.extend_from_slice(&NULL.to_be_bytes());
            } else {
                array.extend_from_slice(element);
            }
        }
    }
    arrays.into_iter().map(|bytes| ColumnArray { bytes }).collect()
}

fn header(length: usize, oid: u32, room: usize) -> Vec<u8> {
    let mut array = Vec::with_capacity(HEADER_BYTES + room + room / 4);
    array.extend_from_slice(&1i32.to_be_bytes());
    // The flag is a hint that NULLs may occur.
    array.extend_from_slice(&1i32.to_be_bytes());
    array.extend_from_slice(&oid.to_be_bytes());
    array.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
    array.extend_from_slice(&1i32.to_be_bytes());
    array
}

impl ToSql for ColumnArray {
    fn to_sql(&self, _ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.bytes);
        Ok(IsNull::No)
    }
    fn accepts(_ty: &Type) -> bool {
        true
    }
    to_sql_checked!();
}
