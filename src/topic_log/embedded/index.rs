//! Where in a segment a partition's records lie.
//!
//! One entry covers about 4 KiB of a partition's own bytes, or at most 256 KiB of file, from the head of one of its
//! frames to the end of another; inside, a reader walks headers, which name themselves. The active segment's index is
//! in memory (and rebuilt from headers at open); a sealed one's is in the table `segidx`, several rows a partition so
//! that a lookup reads little.

use std::collections::BTreeMap;

use super::{
    frame::{Cursor, Header, Op, put_varint},
    tables::{PartitionKey, Table, damaged_row, meta, partition_key},
};
use crate::topic_log::LogError;

/// Own bytes after which an entry is closed: dense entries would be 7 % of a log of tiny batches.
const ENTRY_OWN_BYTES: u64 = 4 << 10;
/// File bytes an entry may span: what a reader must walk at most to find its first record.
const ENTRY_SPAN_BYTES: u64 = 256 << 10;
/// Entries a row: about 2 KB.
const ROW_ENTRIES: usize = 256;

/// A run of file that begins and ends with frames of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Offset of the first record.
    pub(super) base_offset: i64,
    /// Place in the file.
    pub(super) position: u64,
    /// Records of the partition inside.
    pub(super) count: u64,
    /// File bytes spanned.
    pub(super) span: u64,
}

impl Entry {
    pub(super) fn end(&self) -> u64 {
        self.position + self.span
    }
}

/// One partition's share of a segment.
#[derive(Debug, Clone, Default)]
pub(super) struct PartitionIndex {
    pub(super) entries: Vec<Entry>,
    pub(super) first: i64,
    pub(super) next: i64,
    pub(super) bytes: u64,
    own_bytes_of_last: u64,
}

/// The index of one segment.
#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) partitions: BTreeMap<PartitionKey, PartitionIndex>,
    pub(super) max_timestamp_ms: i64,
}

impl Default for Index {
    fn default() -> Self {
        Self { partitions: BTreeMap::new(), max_timestamp_ms: i64::MIN }
    }
}

impl Index {
    /// Adds a batch frame at `position` of the file. False when its offset does not follow the one before.
    #[must_use]
    pub(super) fn add(&mut self, header: &Header, position: u64) -> bool {
        self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
        let partition = self.partitions.entry((header.topic, header.partition)).or_default();
        let bytes = header.frame_bytes();
        if partition.entries.is_empty() {
            partition.first = header.base_offset;
        } else if partition.next != header.base_offset {
            return false;
        }
        match partition.entries.last_mut() {
            Some(last)
                if partition.own_bytes_of_last < ENTRY_OWN_BYTES
                    && position + bytes - last.position <= ENTRY_SPAN_BYTES =>
            {
                last.count += u64::from(header.count);
                last.span = position + bytes - last.position;
                partition.own_bytes_of_last += bytes;
            }
            Some(_) | None => {
                partition.entries.push(Entry {
                    base_offset: header.base_offset,
                    position,
                    count: u64::from(header.count),
                    span: bytes,
                });
                partition.own_bytes_of_last = bytes;
            }
        }
        partition.next = header.base_offset + i64::from(header.count);
        partition.bytes += bytes;
        true
    }

    /// What the database is told when this segment is sealed and another becomes active at `end`.
    pub(super) fn seal(&self, base: u64, end: u64) -> Vec<Op> {
        let mut ops = Vec::new();
        for (&key, partition) in &self.partitions {
            for entries in partition.entries.chunks(ROW_ENTRIES) {
                ops.extend(entries.first().map(|first| row(key, first.base_offset, base, entries)));
            }
        }
        let extent = SegmentExtent {
            end,
            max_timestamp_ms: self.max_timestamp_ms,
            partitions: self
                .partitions
                .iter()
                .map(|(&key, p)| PartitionExtent { key, first: p.first, next: p.next, bytes: p.bytes })
                .collect(),
        };
        ops.push(extent.put(base));
        ops.push(meta("active", end));
        ops
    }
}

/// The run of entries from the one that holds `offset` on.
pub(super) fn entries_from(entries: &[Entry], offset: i64) -> Option<&[Entry]> {
    let after = entries.partition_point(|e| e.base_offset <= offset);
    entries.get(after.checked_sub(1)?..)
}

pub(super) fn row_key(key: PartitionKey, offset: i64) -> Vec<u8> {
    [partition_key(key).as_slice(), &offset.to_be_bytes()].concat()
}

/// Segment, then each entry as differences to the one before: 8 bytes or so.
fn row(key: PartitionKey, first: i64, base: u64, entries: &[Entry]) -> Op {
    let mut value = base.to_le_bytes().to_vec();
    let (mut offset, mut position) = (0, 0);
    for entry in entries {
        put_varint(&mut value, entry.base_offset.cast_unsigned().wrapping_sub(offset));
        put_varint(&mut value, entry.position.wrapping_sub(position));
        put_varint(&mut value, entry.count);
        put_varint(&mut value, entry.span);
        (offset, position) = (entry.base_offset.cast_unsigned(), entry.position);
    }
    let key = row_key(key, first);
    seal_value(&key, &mut value);
    Table::SegIdx.put(key, &value)
}

/// Reads a row of `segidx`: its segment and entries.
pub(super) fn parse_row(key: &[u8], value: &[u8]) -> Result<(u64, Vec<Entry>), LogError> {
    let parsed = checked_value(key, value).and_then(|value| {
        let mut cursor = Cursor(value);
        let base = cursor.u64()?;
        let (mut offset, mut position, mut entries) = (0u64, 0u64, Vec::new());
        while !cursor.0.is_empty() {
            offset = offset.wrapping_add(cursor.varint()?);
            position = position.wrapping_add(cursor.varint()?);
            let (count, span) = (cursor.varint()?, cursor.varint()?);
            entries.push(Entry { base_offset: offset.cast_signed(), position, count, span });
        }
        Some((base, entries))
    });
    parsed.ok_or_else(|| damaged_row(Table::SegIdx))
}

/// What a sealed segment holds: the row of `segments`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentExtent {
    pub(super) end: u64,
    pub(super) max_timestamp_ms: i64,
    /// Partitions that still need it.
    pub(super) partitions: Vec<PartitionExtent>,
}

/// One partition's records in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartitionExtent {
    pub(super) key: PartitionKey,
    pub(super) first: i64,
    pub(super) next: i64,
    pub(super) bytes: u64,
}

impl SegmentExtent {
    pub(super) fn put(&self, base: u64) -> Op {
        let mut value = self.end.to_le_bytes().to_vec();
        value.extend_from_slice(&self.max_timestamp_ms.to_le_bytes());
        for partition in &self.partitions {
            value.extend_from_slice(&partition.key.0.to_le_bytes());
            value.extend_from_slice(&partition.key.1.to_le_bytes());
            value.extend_from_slice(&partition.first.to_le_bytes());
            value.extend_from_slice(&partition.next.to_le_bytes());
            value.extend_from_slice(&partition.bytes.to_le_bytes());
        }
        let key = base.to_be_bytes();
        seal_value(&key, &mut value);
        Table::Segments.put(key, &value)
    }

    /// Reads a row of `segments`: base and extent.
    pub(super) fn parse(key: &[u8], value: &[u8]) -> Result<(u64, Self), LogError> {
        let parsed = checked_value(key, value).and_then(|value| {
            let base = u64::from_be_bytes(*key.as_array()?);
            let mut cursor = Cursor(value);
            let (end, max_timestamp_ms) = (cursor.u64()?, cursor.i64()?);
            let mut partitions = Vec::new();
            while !cursor.0.is_empty() {
                partitions.push(PartitionExtent {
                    key: (cursor.u32()?, cursor.u32()?),
                    first: cursor.i64()?,
                    next: cursor.i64()?,
                    bytes: cursor.u64()?,
                });
            }
            Some((base, Self { end, max_timestamp_ms, partitions }))
        });
        parsed.ok_or_else(|| damaged_row(Table::Segments))
    }
}

/// Appends a checksum over key and value.
fn seal_value(key: &[u8], value: &mut Vec<u8>) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), value);
    value.extend_from_slice(&crc.to_le_bytes());
}

fn checked_value<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (value, crc) = value.split_last_chunk::<4>()?;
    (crc32c::crc32c_append(crc32c::crc32c(key), value) == u32::from_le_bytes(*crc)).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_reads_back_and_no_flipped_bit_passes(
            base in any::<u64>(),
            key in any::<PartitionKey>(),
            entries in proptest::collection::vec(
                (0..i64::MAX, any::<u64>(), any::<u64>(), any::<u64>()), 1..20),
            bit in any::<proptest::sample::Index>(),
        ) {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(base_offset, position, count, span)| Entry { base_offset, position, count, span })
                .collect();
            let op = row(key, entries[0].base_offset, base, &entries);
            // The version byte in front belongs to the table.
            let mut value = op.value.unwrap().split_off(1);
            prop_assert_eq!(parse_row(&op.key, &value).unwrap(), (base, entries));
            let bit = bit.index(value.len() * 8);
            value[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse_row(&op.key, &value).is_err());
        }
    }
}
