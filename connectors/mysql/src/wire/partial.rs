//! Updates that hold only the changed parts of JSON values (`binlog_row_value_options=PARTIAL_JSON`), made whole: the same rows as a
//! plain update has them, so that nothing behind this knows of the difference.
//!
//! A row is the old image, a number of options, where these say so a bit for each JSON column of the table (set: the new image
//! holds differences), and the new image. The old image must hold the document (`binlog_row_image=FULL`); the differences are applied to it.
//! (log_event.cc, `unpack_row` and `Rows_log_event::write_data_body`.)

use super::{
    Cursor, DecodeError, bit, json_document,
    rows::{self, Cell, RowsEvent, Width},
    table_map::{TableShape, column},
};

const WHAT: &str = "an update of parts of JSON values";
/// The option that announces the bits.
const PARTIAL_JSON: u64 = 1;

/// Why the rows can't be made whole.
#[derive(Debug)]
pub enum Refusal {
    /// The bytes are malformed.
    Malformed(DecodeError),
    /// The old image does not hold this column's document.
    NotInOldRow(usize),
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// The images of all rows of the event as an UPDATE_ROWS event has them.
///
/// # Errors
/// See [`Refusal`].
pub fn whole(shape: &TableShape, widths: &[Width], event: &RowsEvent<'_>) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::with_capacity(event.rows.len() * 2);
    let mut at = 0;
    while at < event.rows.len() {
        at = row(shape, widths, event, at, &mut out)?;
    }
    Ok(out)
}

fn row(
    shape: &TableShape,
    widths: &[Width],
    event: &RowsEvent<'_>,
    at: usize,
    out: &mut Vec<u8>,
) -> Result<usize, Refusal> {
    let bytes = event.rows;
    let mut old = Vec::with_capacity(widths.len());
    let end = rows::image(widths, event.present, bytes, at, |cell| old.push(cell))?;
    out.extend_from_slice(bytes.get(at..end).unwrap_or_default());
    let rest = bytes.get(end..).unwrap_or_default();
    let mut cursor = Cursor::new(rest, WHAT);
    let options = cursor.lenenc()?;
    let is_json = |index: usize| shape.columns.get(index).is_some_and(|c| c.ty == column::JSON);
    let partial = if options & PARTIAL_JSON == 0 {
        &[][..]
    } else {
        let count = (0..widths.len()).filter(|index| is_json(*index)).count();
        cursor.take(count.div_ceil(8))?
    };
    let new_at = bytes.len() - cursor.rest().len();
    let mut new = Vec::with_capacity(widths.len());
    let end = rows::image(widths, event.present_after, bytes, new_at, |cell| new.push(cell))?;
    let present = new.iter().filter(|cell| **cell != Cell::Absent).count();
    out.extend_from_slice(bytes.get(new_at..new_at + present.div_ceil(8)).unwrap_or_default());
    let mut json = 0;
    for (index, (cell, width)) in new.iter().zip(widths).enumerate() {
        let differs = is_json(index) && {
            json += 1;
            bit(partial, json - 1)
        };
        let Cell::Value { start, end } = *cell else { continue };
        let value = bytes.get(start as usize..end as usize).unwrap_or_default();
        if differs {
            let Some(Cell::Value { start, end }) = old.get(index) else {
                return Err(Refusal::NotInOldRow(index));
            };
            let document = bytes.get(*start as usize..*end as usize).unwrap_or_default();
            put(*width, &json_document::changed(document, value)?, out)?;
        } else {
            put(*width, value, out)?;
        }
    }
    // Options and bits take at least a byte, so that this moves on.
    Ok(end)
}

/// A value with its length in front, where its type has one.
fn put(width: Width, value: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    if let Width::Prefixed(prefix) = width {
        let length = (value.len() as u64).to_le_bytes();
        let fits = length.get(prefix..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
        out.extend_from_slice(length.get(..prefix).filter(|_| fits).ok_or(DecodeError::Malformed(WHAT))?);
    }
    out.extend_from_slice(value);
    Ok(())
}
