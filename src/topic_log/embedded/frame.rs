//! Frames: how a segment file holds batches and closes groups.
//!
//! A frame names itself (kind, topic, partition, first offset, length) and carries a checksum of that name and one of
//! its body, so a reader that was sent to the wrong place, or to the right place with one bit flipped, notices. A
//! group of batch frames is closed by one commit frame whose body repeats what the database is told about the group:
//! the second witness that recovery reads.

use super::tables::Table;

/// Bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 48;
/// Largest body; larger ones are refused before they are written. Keeps every length inside its `u32`.
pub(super) const BODY_BYTES_MAX: usize = 1 << 30;
const MAGIC: u32 = u32::from_le_bytes(*b"RSF1");
const COMMIT_VERSION: u8 = 1;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records of one partition.
    Batch,
    /// The end of a group; `base_offset` is its commit number.
    Commit,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) topic: u32,
    pub(super) partition: u32,
    pub(super) count: u32,
    pub(super) base_offset: i64,
    pub(super) len: u32,
    pub(super) body_crc: u32,
    pub(super) max_timestamp_ms: i64,
}

impl Header {
    /// Header and body together.
    pub(super) fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.len)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut named = Vec::with_capacity(HEADER_BYTES - 8);
        named.extend_from_slice(&[
            match self.kind {
                Kind::Batch => 1,
                Kind::Commit => 2,
            },
            0,
            0,
            0,
        ]);
        named.extend_from_slice(&self.topic.to_le_bytes());
        named.extend_from_slice(&self.partition.to_le_bytes());
        named.extend_from_slice(&self.count.to_le_bytes());
        named.extend_from_slice(&self.base_offset.to_le_bytes());
        named.extend_from_slice(&self.len.to_le_bytes());
        named.extend_from_slice(&self.body_crc.to_le_bytes());
        named.extend_from_slice(&self.max_timestamp_ms.to_le_bytes());
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&named).to_le_bytes());
        out.extend_from_slice(&named);
    }

    /// Reads the header in front of `bytes`; says what is wrong when there is none.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut cursor = Cursor(bytes);
        let (magic, crc) = (cursor.u32().ok_or(SHORT)?, cursor.u32().ok_or(SHORT)?);
        if magic != MAGIC {
            return Err("there is no frame");
        }
        let mut cursor = Cursor(cursor.0.get(..HEADER_BYTES - 8).ok_or(SHORT)?);
        if crc32c::crc32c(cursor.0) != crc {
            return Err("the frame's header does not meet its checksum");
        }
        Self::named(&mut cursor).ok_or("the frame is of an unknown kind")
    }

    fn named(cursor: &mut Cursor<'_>) -> Option<Self> {
        let kind = match cursor.bytes(4)? {
            [1, 0, 0, 0] => Kind::Batch,
            [2, 0, 0, 0] => Kind::Commit,
            _ => return None,
        };
        let header = Self {
            kind,
            topic: cursor.u32()?,
            partition: cursor.u32()?,
            count: cursor.u32()?,
            base_offset: cursor.i64()?,
            len: cursor.u32()?,
            body_crc: cursor.u32()?,
            max_timestamp_ms: cursor.i64()?,
        };
        (header.len as usize <= BODY_BYTES_MAX && header.base_offset >= 0).then_some(header)
    }
}

const SHORT: &str = "the frame's header is cut short";

/// One change of the state database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) table: Table,
    pub(super) key: Vec<u8>,
    /// `None` removes.
    pub(super) value: Option<Vec<u8>>,
}

/// The body of a commit frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommitBody {
    /// One more than the group before.
    pub(super) commit_no: u64,
    /// Log position of the group's first frame.
    pub(super) start: u64,
    /// What the database is told, besides `end` and `commit_no`.
    pub(super) ops: Vec<Op>,
}

impl CommitBody {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![COMMIT_VERSION];
        out.extend_from_slice(&self.commit_no.to_le_bytes());
        out.extend_from_slice(&self.start.to_le_bytes());
        out.extend_from_slice(&(self.ops.len() as u64).to_le_bytes());
        for op in &self.ops {
            out.push(op.table.byte());
            put_bytes(&mut out, &op.key);
            out.push(u8::from(op.value.is_some()));
            put_bytes(&mut out, op.value.as_deref().unwrap_or_default());
        }
        out
    }

    /// `None` when the bytes are not one whole body.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        if cursor.u8()? != COMMIT_VERSION {
            return None;
        }
        let (commit_no, start, count) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let mut ops = Vec::new();
        for _ in 0..count {
            let table = Table::from_byte(cursor.u8()?)?;
            let key = cursor.prefixed()?.to_vec();
            let present = cursor.u8()?;
            let value = cursor.prefixed()?.to_vec();
            ops.push(Op { table, key, value: (present == 1).then_some(value) });
        }
        cursor.0.is_empty().then_some(Self { commit_no, start, ops })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends an unsigned LEB128 number.
pub(super) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push((n & 0x7f) as u8);
}

/// Reads little-endian fields from the front of bytes; `None` where they end too soon.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
    pub(super) fn prefixed(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u64()?).ok()?;
        self.bytes(len)
    }
    pub(super) fn u8(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*head))
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*head))
    }
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }
    pub(super) fn i64(&mut self) -> Option<i64> {
        self.u64().map(u64::cast_signed)
    }
}

/// What the fuzz target `log_frame` (tests/fuzz) calls.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(header) = Header::decode(bytes) {
        let mut again = Vec::new();
        header.encode(&mut again);
        assert_eq!(Some(again.as_slice()), bytes.get(..HEADER_BYTES));
    }
    if let Some(body) = CommitBody::decode(bytes) {
        assert_eq!(CommitBody::decode(&body.encode()), Some(body));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        (
            any::<bool>(),
            any::<(u32, u32, u32)>(),
            0..i64::MAX,
            0..u32::try_from(BODY_BYTES_MAX).unwrap(),
            any::<u32>(),
            any::<i64>(),
        )
            .prop_map(
                |(batch, (topic, partition, count), base_offset, len, body_crc, max_timestamp_ms)| Header {
                    kind: if batch { Kind::Batch } else { Kind::Commit },
                    topic,
                    partition,
                    count,
                    base_offset,
                    len,
                    body_crc,
                    max_timestamp_ms,
                },
            )
    }

    proptest! {
        #[test]
        fn a_header_reads_back_and_no_flipped_bit_passes(header in header(), bit in 0..HEADER_BYTES * 8) {
            let mut bytes = Vec::new();
            header.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            prop_assert_eq!(Header::decode(&bytes), Ok(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn a_commit_body_reads_back_and_a_cut_one_does_not(
            commit_no in any::<u64>(),
            start in any::<u64>(),
            ops in proptest::collection::vec(
                (0..Table::ALL.len(), any::<Vec<u8>>(), any::<Option<Vec<u8>>>()), 0..6),
            cut in any::<proptest::sample::Index>(),
        ) {
            let ops = ops
                .into_iter()
                .map(|(table, key, value)| Op { table: Table::ALL[table], key, value })
                .collect();
            let body = CommitBody { commit_no, start, ops };
            let bytes = body.encode();
            prop_assert_eq!(CommitBody::decode(&bytes), Some(body));
            prop_assert_eq!(CommitBody::decode(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn any_bytes_are_a_commit_body_or_none(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            CommitBody::decode(&bytes);
            if let Some(version) = bytes.first_mut() {
                *version = COMMIT_VERSION;
            }
            CommitBody::decode(&bytes);
        }
    }
}
