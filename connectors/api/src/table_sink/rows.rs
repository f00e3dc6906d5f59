//! Encoded rows in one arena, and their net change per key.
//!
//! A row is a run of elements: a four-byte big-endian length and that many bytes; a negative length has no bytes and
//! means NULL or "was not sent". Key elements come first, so that rows compare by key as bytes. What an element's bytes are is the
//! sink's own affair.

use std::ops::Range;

use crate::{error::RecordError, json::UNAVAILABLE_PLACEHOLDER, value::ValueRef};

/// Length of a NULL element (as it happens, PostgreSQL's array format has the same).
pub const NULL: i32 = -1;
/// Length that marks a value which was not sent; never reaches the server.
pub const UNAVAILABLE: i32 = -2;

/// One record's row in the arena: key elements, then the others; key elements only for a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index in the flush's records.
    pub record: usize,
    /// The row.
    pub bytes: Range<usize>,
    /// Where its key ends.
    pub key_end: usize,
    /// The row goes.
    pub delete: bool,
    /// The values it left out need not be missed: the whole row follows by the source's snapshot, or the row's end does.
    pub follows: bool,
    /// It begins a row.
    pub create: bool,
}

/// Appends one element; `body` appends the bytes of a value that is there.
///
/// # Errors
/// Those of `body`, or a value of more than 2 GiB.
pub fn push_element(
    value: &ValueRef<'_>,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    if matches!(value, ValueRef::Null | ValueRef::Absent) {
        out.extend_from_slice(&NULL.to_be_bytes());
        return Ok(());
    }
    if is_unavailable(value) {
        out.extend_from_slice(&UNAVAILABLE.to_be_bytes());
        return Ok(());
    }
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out)?;
    let length = i32::try_from(out.len() - start - 4)
        .map_err(|_| RecordError::value("VALUE_TOO_LARGE", "a value of more than 2 GiB"))?;
    if let Some(slot) = out.get_mut(start..start + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// Whether the value was not sent, as its own state or as the text that Debezium writes for it.
fn is_unavailable(value: &ValueRef<'_>) -> bool {
    match value {
        ValueRef::Unavailable => true,
        ValueRef::Str(text) => text == UNAVAILABLE_PLACEHOLDER,
        ValueRef::Bytes(bytes) => **bytes == *UNAVAILABLE_PLACEHOLDER.as_bytes(),
        ValueRef::Array(items) => match items.as_slice() {
            [ValueRef::Str(only)] => only == UNAVAILABLE_PLACEHOLDER,
            _ => false,
        },
        ValueRef::Null
        | ValueRef::Absent
        | ValueRef::Bool(_)
        | ValueRef::Int(_)
        | ValueRef::Float32(_)
        | ValueRef::Float64(_)
        | ValueRef::Hex(_)
        | ValueRef::Decimal(_)
        | ValueRef::ZonedMicros(_)
        | ValueRef::Struct(_)
        | ValueRef::Map(_) => false,
    }
}

/// Reduces entries to one a key, sorted by key. The last record of a key wins; columns it left out because they did not change are
/// taken from the record before it, as far as that has them.
#[must_use]
pub fn net(arena: &mut Vec<u8>, mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| key(arena, a).cmp(key(arena, b)).then(a.record.cmp(&b.record)));
    let mut rows: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        match rows.last_mut().filter(|last| key(arena, last) == key(arena, &entry)) {
            Some(last) => {
                let earlier = std::mem::replace(last, entry);
                if !earlier.delete && !last.delete && has_unavailable(arena, last) {
                    merge(arena, &earlier, last);
                    (last.create, last.follows) =
                        (last.create || earlier.create, last.follows || earlier.follows);
                }
            }
            None => rows.push(entry),
        }
    }
    rows
}

/// The key's elements.
#[must_use]
pub fn key<'a>(arena: &'a [u8], entry: &Entry) -> &'a [u8] {
    arena.get(entry.bytes.start..entry.key_end).unwrap_or(&[])
}

/// Writes `later` anew with the columns it lacks taken from `earlier`.
fn merge(arena: &mut Vec<u8>, earlier: &Entry, later: &mut Entry) {
    let start = arena.len();
    let mut from_earlier = earlier.bytes.start;
    let mut from_later = later.bytes.start;
    while from_later < later.bytes.end {
        let lacking = length_at(arena, from_later) == Some(UNAVAILABLE);
        let (a, b) = (element_end(arena, from_earlier), element_end(arena, from_later));
        let chosen = if lacking { from_earlier..a } else { from_later..b };
        arena.extend_from_within(chosen);
        (from_earlier, from_later) = (a, b);
    }
    later.key_end = start + (later.key_end - later.bytes.start);
    later.bytes = start..arena.len();
}

fn has_unavailable(arena: &[u8], entry: &Entry) -> bool {
    elements(arena, entry.bytes.clone()).any(|(length, _)| length == UNAVAILABLE)
}

/// By the columns that rows have, and whether they begin a row whose other values nobody will miss.
pub type ByColumns = std::collections::BTreeMap<(Vec<usize>, bool), Vec<Entry>>;

/// Whole rows, and rows that lack columns by the set of those they have.
#[must_use]
pub fn by_present_columns(arena: &[u8], rows: Vec<Entry>) -> (Vec<Entry>, ByColumns) {
    let mut whole = Vec::with_capacity(rows.len());
    let mut partial = ByColumns::new();
    for row in rows {
        if !has_unavailable(arena, &row) {
            whole.push(row);
            continue;
        }
        let has = |(length, _): &(i32, &[u8])| *length != UNAVAILABLE;
        let present = elements(arena, row.bytes.clone()).enumerate().filter(|(_, element)| has(element));
        let present: Vec<usize> = present.map(|(index, _)| index).collect();
        let begins = row.create && row.follows;
        partial.entry((present, begins)).or_default().push(row);
    }
    (whole, partial)
}

/// The elements of a row: length (negative when there are no bytes) and the whole element with its length.
pub fn elements(arena: &[u8], row: Range<usize>) -> impl Iterator<Item = (i32, &[u8])> {
    let mut at = row.start;
    std::iter::from_fn(move || {
        let end = element_end(arena, at);
        let element = arena.get(at..end).filter(|_| end <= row.end)?;
        let length = length_at(arena, at)?;
        at = end;
        Some((length, element))
    })
}

/// The length that stands at `at`.
#[must_use]
pub fn length_at(arena: &[u8], at: usize) -> Option<i32> {
    arena.get(at..)?.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes))
}

fn element_end(arena: &[u8], at: usize) -> usize {
    at + 4 + length_at(arena, at).and_then(|length| usize::try_from(length).ok()).unwrap_or(0)
}
