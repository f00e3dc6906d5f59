//! The record batch: many records as one run of bytes, encoded by the task that makes them and stored as they are.
//!
//! Layout, integers as unsigned LEB128 unless said:
//! `common headers | record*`, where headers are `count, (name length, name, value length, value)*` and a record is
//! `zigzag timestamp delta (ms, against the previous record), key length + 1 (0 = null), key, value length + 1
//! (0 = tombstone), value, headers`. The common headers belong to every record of the batch, in front of its own: what
//! is the same for all (Debezium's `__debezium.context.*`) is stored once.

use bytes::Bytes;

use super::LogError;

/// Encoded records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    body: Bytes,
    count: u32,
    max_timestamp_ms: i64,
}

/// A header: name and value.
pub type Header<'a> = (&'a str, &'a [u8]);

/// One record, borrowed from its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRef {
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Key bytes with the converter's prefix; `None` is a null key.
    pub key: Option<Bytes>,
    /// Value bytes with the converter's prefix; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The batch's common headers, then the record's own.
    pub headers: Vec<(Bytes, Bytes)>,
}

/// One record, lent from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Key bytes with the converter's prefix; `None` is a null key.
    pub key: Option<&'a [u8]>,
    /// Value bytes with the converter's prefix; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The batch's common headers, then the record's own: names and values.
    pub headers: &'a [(&'a [u8], &'a [u8])],
}

/// The records of a batch, one after the other; made by [`RecordBatch::views`].
#[derive(Debug)]
pub struct Views<'a> {
    reader: Reader<'a>,
    left: u32,
    timestamp_ms: i64,
    /// How many of `headers` belong to every record.
    common: usize,
    headers: Vec<(&'a [u8], &'a [u8])>,
}

impl Views<'_> {
    /// The next record.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the bytes are not whole records.
    #[expect(clippy::should_implement_trait, reason = "an iterator can't lend what it holds")]
    pub fn next(&mut self) -> Result<Option<RecordView<'_>>, LogError> {
        if self.left == 0 {
            let whole = self.reader.at == self.reader.body.len();
            return if whole { Ok(None) } else { Err(damaged("bytes after the last record")) };
        }
        self.left -= 1;
        let delta = self.reader.varint()?;
        self.timestamp_ms = self.timestamp_ms.wrapping_add(unzigzag(delta));
        let (key, value) = (self.reader.nullable()?, self.reader.nullable()?);
        self.headers.truncate(self.common);
        self.reader.headers(&mut self.headers)?;
        Ok(Some(RecordView { timestamp_ms: self.timestamp_ms, key, value, headers: &self.headers }))
    }
}

impl RecordBatch {
    /// Takes stored bytes as a batch. The caller has checked their checksum.
    #[must_use]
    pub fn from_stored(body: Bytes, count: u32, max_timestamp_ms: i64) -> Self {
        Self { body, count, max_timestamp_ms }
    }
    /// Number of records.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }
    /// The largest record timestamp.
    #[must_use]
    pub fn max_timestamp_ms(&self) -> i64 {
        self.max_timestamp_ms
    }
    /// The encoded bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }
    /// Length of the encoded bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.body.len()
    }
    /// The records in order, sharing the batch's memory.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the bytes are not `count` whole records; never a panic.
    pub fn records(&self) -> Result<Vec<RecordRef>, LogError> {
        // A count from damaged bytes must not choose the allocation: each record takes at least four bytes.
        let mut records = Vec::with_capacity((self.count as usize).min(self.body.len() / 4 + 1));
        let mut views = self.views()?;
        let shared = |bytes: &[u8]| self.body.slice_ref(bytes);
        while let Some(view) = views.next()? {
            records.push(RecordRef {
                timestamp_ms: view.timestamp_ms,
                key: view.key.map(shared),
                value: view.value.map(shared),
                headers: view.headers.iter().map(|(name, value)| (shared(name), shared(value))).collect(),
            });
        }
        Ok(records)
    }
    /// The records in order, one lent at a time.
    ///
    /// # Errors
    /// As [`records`](Self::records), as soon as it shows.
    pub fn views(&self) -> Result<Views<'_>, LogError> {
        let mut reader = Reader { body: &self.body, at: 0 };
        let mut headers = Vec::new();
        reader.headers(&mut headers)?;
        Ok(Views { reader, left: self.count, timestamp_ms: 0, common: headers.len(), headers })
    }
    /// The batch without its first `skip` records.
    ///
    /// # Errors
    /// As [`records`](Self::records).
    pub fn without_first(&self, skip: u32) -> Result<Self, LogError> {
        let mut reader = Reader { body: &self.body, at: 0 };
        let mut headers = Vec::new();
        reader.headers(&mut headers)?;
        let common_end = reader.at;
        let (mut timestamp_ms, mut max_timestamp_ms) = (0i64, i64::MIN);
        let mut rest = Vec::new();
        for ordinal in 0..self.count {
            timestamp_ms = timestamp_ms.wrapping_add(unzigzag(reader.varint()?));
            if ordinal == skip {
                // The first record kept counts its time from 0; those behind it count from it, as before.
                rest.extend_from_slice(self.body.get(..common_end).unwrap_or_default());
                put_varint(&mut rest, zigzag(timestamp_ms));
                rest.extend_from_slice(self.body.get(reader.at..).unwrap_or_default());
            }
            if ordinal >= skip {
                max_timestamp_ms = max_timestamp_ms.max(timestamp_ms);
            }
            reader.nullable()?;
            reader.nullable()?;
            headers.clear();
            reader.headers(&mut headers)?;
        }
        if reader.at != self.body.len() {
            return Err(damaged("bytes after the last record"));
        }
        if rest.is_empty() {
            rest.extend_from_slice(self.body.get(..common_end).unwrap_or_default());
        }
        Ok(Self { body: rest.into(), count: self.count.saturating_sub(skip), max_timestamp_ms })
    }
}

/// Encodes records into a [`RecordBatch`].
#[derive(Debug)]
pub struct RecordBatchBuilder {
    body: Vec<u8>,
    count: u32,
    last_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl RecordBatchBuilder {
    /// An empty batch whose records all carry `common` headers.
    #[must_use]
    pub fn new(common: &[Header<'_>]) -> Self {
        let mut body = Vec::new();
        put_headers(&mut body, common);
        Self { body, count: 0, last_timestamp_ms: 0, max_timestamp_ms: i64::MIN }
    }
    /// Appends a record.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        put_varint(&mut self.body, zigzag(timestamp_ms.wrapping_sub(self.last_timestamp_ms)));
        self.last_timestamp_ms = timestamp_ms;
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        put_nullable(&mut self.body, key);
        put_nullable(&mut self.body, value);
        put_headers(&mut self.body, headers);
        self.count += 1;
    }
    /// Bytes so far.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.body.len()
    }
    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }
    /// Finishes the batch.
    #[must_use]
    pub fn build(self) -> RecordBatch {
        RecordBatch { body: self.body.into(), count: self.count, max_timestamp_ms: self.max_timestamp_ms }
    }
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -((n & 1).cast_signed())
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push((n & 0x7f) as u8);
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            put_varint(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
    }
}

fn put_headers(out: &mut Vec<u8>, headers: &[Header<'_>]) {
    put_varint(out, headers.len() as u64);
    for (name, value) in headers {
        put_varint(out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

fn damaged(what: &str) -> LogError {
    LogError::Corrupt { message: format!("a record batch holds {what}") }
}

#[derive(Debug)]
struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, LogError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.body.get(self.at).ok_or_else(|| damaged("a number cut short"))?;
            self.at += 1;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(damaged("a number longer than ten bytes"))
    }
    fn slice(&mut self, len: u64) -> Result<&'a [u8], LogError> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let slice = end.and_then(|end| self.body.get(self.at..end));
        let slice = slice.ok_or_else(|| damaged("a field longer than itself"))?;
        self.at += slice.len();
        Ok(slice)
    }
    fn nullable(&mut self) -> Result<Option<&'a [u8]>, LogError> {
        match self.varint()? {
            0 => Ok(None),
            len => self.slice(len - 1).map(Some),
        }
    }
    fn headers(&mut self, out: &mut Vec<(&'a [u8], &'a [u8])>) -> Result<(), LogError> {
        let count = self.varint()?;
        if count > self.body.len() as u64 {
            return Err(damaged("more headers than bytes"));
        }
        for _ in 0..count {
            let len = self.varint()?;
            let name = self.slice(len)?;
            let len = self.varint()?;
            out.push((name, self.slice(len)?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

    fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        proptest::collection::vec(("[a-z_.]{0,9}", proptest::collection::vec(any::<u8>(), 0..9)), 0..3)
    }

    fn record() -> impl Strategy<Value = Plain> {
        let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
        (any::<i64>(), bytes(), bytes(), headers())
    }

    fn borrowed(headers: &[(String, Vec<u8>)]) -> Vec<Header<'_>> {
        headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
    }

    fn build(common: &[(String, Vec<u8>)], records: &[Plain]) -> RecordBatch {
        let mut builder = RecordBatchBuilder::new(&borrowed(common));
        for (time, key, value, own) in records {
            builder.push(*time, key.as_deref(), value.as_deref(), &borrowed(own));
        }
        builder.build()
    }

    fn plain(batch: &RecordBatch) -> Vec<Plain> {
        let owned =
            |(name, value): &(Bytes, Bytes)| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec());
        let records = batch.records().unwrap().into_iter();
        records
            .map(|r| {
                let (key, value) = (r.key.map(|b| b.to_vec()), r.value.map(|b| b.to_vec()));
                (r.timestamp_ms, key, value, r.headers.iter().map(owned).collect())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn records_read_back_whole_and_from_any_place(
            common in headers(),
            records in proptest::collection::vec(record(), 0..20),
            from in any::<proptest::sample::Index>(),
        ) {
            let batch = build(&common, &records);
            let wanted: Vec<Plain> = records
                .iter()
                .map(|(t, k, v, own)| (*t, k.clone(), v.clone(), [common.clone(), own.clone()].concat()))
                .collect();
            prop_assert_eq!(plain(&batch), wanted.clone());
            let from = from.index(records.len() + 1);
            let tail = batch.without_first(u32::try_from(from).unwrap()).unwrap();
            prop_assert_eq!(plain(&tail), &wanted[from..]);
            let youngest = records[from..].iter().map(|r| r.0).max().unwrap_or(i64::MIN);
            prop_assert_eq!(tail.max_timestamp_ms(), youngest);
        }

        #[test]
        fn any_bytes_are_records_or_an_error(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            count in any::<u32>(),
            skip in any::<u32>(),
        ) {
            let batch = RecordBatch::from_stored(body.into(), count, 0);
            let (whole, tail) = (batch.records(), batch.without_first(skip));
            prop_assert_eq!(whole.is_ok(), tail.is_ok());
        }

        #[test]
        fn cut_bytes_are_an_error(records in proptest::collection::vec(record(), 1..8), cut in any::<proptest::sample::Index>()) {
            let batch = build(&[], &records);
            let cut = batch.body().slice(..cut.index(batch.len_bytes()));
            prop_assert!(RecordBatch::from_stored(cut, batch.count(), 0).records().is_err());
        }
    }
}
