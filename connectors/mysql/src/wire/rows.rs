//! Rows events: the images of rows, framed without reading their values.

use super::{
    Cursor, DecodeError, bit,
    event::kind,
    little_endian,
    table_map::{TableShape, column},
};

/// What a rows event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// One image a row: the new one.
    Insert,
    /// Two images a row: old and new.
    Update,
    /// One image a row: the old one.
    Delete,
}

/// A rows event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsEvent<'a> {
    /// The table map it belongs to.
    pub table_id: u64,
    /// What it does.
    pub operation: Operation,
    /// How many columns the table has.
    pub width: usize,
    /// Which columns the (first) image has.
    pub present: &'a [u8],
    /// Which columns the second image of an update has.
    pub present_after: &'a [u8],
    /// The images.
    pub rows: &'a [u8],
}

/// The operation of an event of this type; `None` when it is no (complete) rows event.
#[must_use]
pub fn operation(event: u8) -> Option<Operation> {
    match event {
        kind::WRITE_ROWS
        | kind::WRITE_ROWS_V1
        | kind::MARIA_WRITE_COMPRESSED
        | kind::MARIA_WRITE_COMPRESSED_V1 => Some(Operation::Insert),
        kind::UPDATE_ROWS
        | kind::UPDATE_ROWS_V1
        | kind::PARTIAL_UPDATE_ROWS
        | kind::MARIA_UPDATE_COMPRESSED
        | kind::MARIA_UPDATE_COMPRESSED_V1 => Some(Operation::Update),
        kind::DELETE_ROWS
        | kind::DELETE_ROWS_V1
        | kind::MARIA_DELETE_COMPRESSED
        | kind::MARIA_DELETE_COMPRESSED_V1 => Some(Operation::Delete),
        _ => None,
    }
}

/// Whether the event's rows are MariaDB's compressed ones.
#[must_use]
pub fn is_compressed(event: u8) -> bool {
    (kind::MARIA_WRITE_COMPRESSED_V1..=kind::MARIA_DELETE_COMPRESSED).contains(&event)
}

/// Bytes of the part before the columns: with extra data in version 2.
fn has_extra(event: u8) -> bool {
    matches!(event, kind::WRITE_ROWS..=kind::DELETE_ROWS | kind::PARTIAL_UPDATE_ROWS | kind::MARIA_WRITE_COMPRESSED..=kind::MARIA_DELETE_COMPRESSED)
}

/// Reads a rows event's body; compressed rows stay as they are.
///
/// # Errors
/// Malformed bytes.
pub fn decode(event: u8, operation: Operation, body: &[u8]) -> Result<RowsEvent<'_>, DecodeError> {
    let mut cursor = Cursor::new(body, "a rows event");
    let table_id = cursor.uint(6)?;
    cursor.u16()?;
    if has_extra(event) {
        let extra = usize::from(cursor.u16()?);
        cursor.take(extra.checked_sub(2).ok_or(DecodeError::Malformed("a rows event"))?)?;
    }
    let width = usize::try_from(cursor.lenenc()?).map_err(|_| DecodeError::Malformed("a rows event"))?;
    let present = cursor.take(width.div_ceil(8))?;
    let present_after =
        if operation == Operation::Update { cursor.take(width.div_ceil(8))? } else { present };
    Ok(RowsEvent { table_id, operation, width, present, present_after, rows: cursor.rest() })
}

/// How many bytes a column's value takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Always these.
    Fixed(usize),
    /// As many as a number of so many bytes before it says.
    Prefixed(usize),
}

const DIGITS_PER_GROUP: usize = 9;
/// Bytes that so many decimal digits take.
const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// Bytes of the digits before and after the point of a DECIMAL.
#[must_use]
pub fn decimal_bytes(digits: usize) -> usize {
    let rest = DIGIT_BYTES.get(digits % DIGITS_PER_GROUP).copied().unwrap_or(0);
    digits / DIGITS_PER_GROUP * 4 + rest
}

/// The width of a column of this type.
#[must_use]
pub fn width(ty: u8, meta: u16) -> Width {
    use column::{
        BIT, BLOB, BLOB_COMPRESSED, DATE, DATETIME, DATETIME2, DOUBLE, ENUM, FLOAT, GEOMETRY, INT24, JSON,
        LONG, LONG_BLOB, LONGLONG, MEDIUM_BLOB, NEWDATE, NEWDECIMAL, SET, SHORT, TIME, TIME2, TIMESTAMP,
        TIMESTAMP2, TINY, TINY_BLOB, VECTOR, YEAR,
    };
    let fraction = usize::from(meta).div_ceil(2);
    match ty {
        TINY | YEAR => Width::Fixed(1),
        SHORT => Width::Fixed(2),
        INT24 | DATE | TIME | NEWDATE => Width::Fixed(3),
        LONG | FLOAT | TIMESTAMP => Width::Fixed(4),
        LONGLONG | DOUBLE | DATETIME => Width::Fixed(8),
        TIMESTAMP2 => Width::Fixed(4 + fraction),
        DATETIME2 => Width::Fixed(5 + fraction),
        TIME2 => Width::Fixed(3 + fraction),
        BIT => Width::Fixed(usize::from(meta).div_ceil(8)),
        ENUM | SET => Width::Fixed(meta.into()),
        NEWDECIMAL => {
            let [precision, scale] = meta.to_be_bytes().map(usize::from);
            Width::Fixed(decimal_bytes(precision.saturating_sub(scale)) + decimal_bytes(scale))
        }
        BLOB | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | GEOMETRY | JSON | VECTOR | BLOB_COMPRESSED => {
            Width::Prefixed(meta.into())
        }
        // VARCHAR and CHAR.
        _ => Width::Prefixed(if meta > 255 { 2 } else { 1 }),
    }
}

/// The widths of a table's columns.
#[must_use]
pub fn widths(shape: &TableShape) -> Vec<Width> {
    shape.columns.iter().map(|column| width(column.ty, column.meta)).collect()
}

/// What an image has of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// The column is not in the image.
    Absent,
    /// NULL.
    Null,
    /// A value, from here to there in the bytes that hold the image; without the length before it.
    Value {
        /// First byte.
        start: u32,
        /// One past the last.
        end: u32,
    },
}

/// Frames one image at `at` of `bytes`; answers where it ends. `visit` hears of each column.
///
/// # Errors
/// The bytes end too early.
pub fn image(
    widths: &[Width],
    present: &[u8],
    bytes: &[u8],
    at: usize,
    mut visit: impl FnMut(Cell),
) -> Result<usize, DecodeError> {
    const WHAT: DecodeError = DecodeError::Truncated("a row");
    let count: usize = present.iter().map(|byte| byte.count_ones() as usize).sum();
    let whole = count == widths.len();
    let values = at + count.div_ceil(8);
    let nulls = bytes.get(at..values).ok_or(WHAT)?;
    let mut at = values;
    let mut position = 0;
    for (index, width) in widths.iter().enumerate() {
        if !whole && !bit(present, index) {
            visit(Cell::Absent);
            continue;
        }
        let null = bit(nulls, position);
        position += 1;
        if null {
            visit(Cell::Null);
            continue;
        }
        let (start, length) = match *width {
            Width::Fixed(length) => (at, length),
            Width::Prefixed(prefix) => {
                let length = little_endian(bytes.get(at..at + prefix).ok_or(WHAT)?);
                (at + prefix, usize::try_from(length).map_err(|_| WHAT)?)
            }
        };
        let end = start.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(WHAT)?;
        let offset = |n: usize| u32::try_from(n).map_err(|_| DecodeError::Malformed("a row"));
        visit(Cell::Value { start: offset(start)?, end: offset(end)? });
        at = end;
    }
    Ok(at)
}
