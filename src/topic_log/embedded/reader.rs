//! The reader: finds, reads and checks committed records, partition after partition.
//!
//! It looks a place up in the published view (active segment) or in one row of `segidx` (sealed segments), reads at
//! least one index entry and up to 256 KiB where entries adjoin, and believes nothing: each frame must name itself,
//! follow the offset before it and meet its checksums, or the read fails with the file and the position. One chunk of
//! one partition is held at a time, so a reader of a thousand partitions needs no more memory than a reader of one,
//! and each partition has its turn.

use std::{collections::VecDeque, fs::File, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use rowstream_api::TopicPartition;
use tokio::sync::watch;

use super::{
    frame::{HEADER_BYTES, Header, Kind},
    index::{Entry, entries_from, parse_row, row_key},
    segment::{self, damaged, io_error},
    shared::{Extent, Shared},
    tables::{PartitionKey, Table, last_of},
};
use crate::topic_log::{Lag, LogBatch, LogError, LogEvent, LogReader, RecordBatch, SeekTo, TopicFilter};

/// Read at once where entries adjoin.
const CHUNK_BYTES: u64 = 256 << 10;
/// Foreign bytes between two entries that still count as adjoining: mostly commit frames.
const GAP_BYTES: u64 = 4 << 10;

/// A reader of matching topics.
pub(super) struct EmbeddedReader {
    shared: Arc<Shared>,
    filter: TopicFilter,
    partitions: Vec<Reading>,
    /// Topics already looked at, by id.
    topics_seen: u32,
    /// Whose turn it is.
    turn: usize,
    /// Read and checked, not yet handed out; all of one partition.
    ready: VecDeque<LogBatch>,
    published: watch::Receiver<u64>,
    sealed: Option<(u64, Arc<File>)>,
}

/// A gained partition.
struct Reading {
    partition: TopicPartition,
    key: PartitionKey,
    /// `None` until it is sought.
    at: Option<At>,
}

#[derive(Clone, Copy)]
struct At {
    /// Next offset to hand out.
    next: i64,
    /// Next offset to read from the file.
    read: i64,
    /// Segment and place behind the last frame read: saves walking the entry again.
    hint: Option<(u64, u64)>,
}

/// A place to read.
struct Place {
    base: u64,
    file: Arc<File>,
    path: PathBuf,
    position: u64,
    bytes: usize,
    active: bool,
}

/// What a chunk must hold.
struct Wanted {
    partition: TopicPartition,
    key: PartitionKey,
    offset: i64,
    end_offset: i64,
}

/// What a chunk held.
struct Chunk {
    batches: VecDeque<LogBatch>,
    next: i64,
    hint: (u64, u64),
}

impl EmbeddedReader {
    pub(super) fn new(shared: Arc<Shared>, filter: TopicFilter) -> Self {
        let published = shared.published.subscribe();
        Self {
            shared,
            filter,
            partitions: Vec::new(),
            topics_seen: 0,
            turn: 0,
            ready: VecDeque::new(),
            published,
            sealed: None,
        }
    }

    async fn next_event(&mut self) -> Result<LogEvent, LogError> {
        loop {
            // Seen before looking, so that what is published while looking wakes the wait below.
            self.published.borrow_and_update();
            let gained = self.gain();
            if !gained.is_empty() {
                return Ok(LogEvent::Gained(gained));
            }
            if let Some(batch) = self.hand_out() {
                return Ok(LogEvent::Batch(batch));
            }
            // A closed log has no database; a tail in memory must not be read on as if it were open.
            self.shared.with_db(|_| Ok(()))?;
            match self.pick()? {
                Some(turn) => self.read(turn).await?,
                None => self.published.changed().await.map_err(|_| LogError::Closed)?,
            }
        }
    }

    /// Partitions of topics that have appeared.
    fn gain(&mut self) -> Vec<TopicPartition> {
        let view = self.shared.view();
        let from = self.topics_seen + 1;
        for (&id, topic) in view.topics.range(from..) {
            self.topics_seen = id;
            if !self.filter.matches(&topic.name) {
                continue;
            }
            let numbers = (0u32..).take(topic.partitions.len());
            for number in numbers.filter(|number| self.filter.takes(&topic.name, *number)) {
                let partition = TopicPartition::new(Arc::clone(&topic.name), number);
                self.partitions.push(Reading { partition, key: (id, number), at: None });
            }
        }
        let new = self.partitions.iter().filter(|p| p.key.0 >= from);
        new.map(|p| p.partition.clone()).collect()
    }

    fn hand_out(&mut self) -> Option<LogBatch> {
        let batch = self.ready.pop_front()?;
        let reading = self.partitions.iter_mut().find(|r| r.partition == batch.partition)?;
        if let Some(at) = &mut reading.at {
            at.next = batch.base_offset + i64::from(batch.records.count());
        }
        Some(batch)
    }

    /// The next partition in turn that has something to read.
    fn pick(&mut self) -> Result<Option<usize>, LogError> {
        let view = self.shared.view();
        let count = self.partitions.len();
        for turn in (self.turn..count).chain(0..self.turn.min(count)) {
            let Some(reading) = self.partitions.get(turn) else { continue };
            let (Some(at), Some(extent)) = (reading.at, view.extent(reading.key)) else { continue };
            if at.read < extent.start {
                return Err(out_of_range(&reading.partition, at.read, extent));
            }
            if at.read < extent.end {
                self.turn = turn + 1;
                return Ok(Some(turn));
            }
        }
        Ok(None)
    }

    /// Reads a chunk of the partition at `turn`. Cancel-safe: nothing of the reader changes before the end.
    async fn read(&mut self, turn: usize) -> Result<(), LogError> {
        let Some((reading, at)) = self.partitions.get(turn).and_then(|r| Some((r, r.at?))) else {
            return Ok(());
        };
        let key = reading.key;
        let Some(extent) = self.shared.view().extent(key).copied() else { return Ok(()) };
        let place = match self.find(reading, at)? {
            Some(place) => place,
            None => return self.not_found(&reading.partition, key, at.read),
        };
        if !place.active {
            self.sealed = Some((place.base, Arc::clone(&place.file)));
        }
        let partition = reading.partition.clone();
        let wanted = Wanted { partition, key, offset: at.read, end_offset: extent.end };
        let chunk = if place.active {
            // Written moments ago, so it is in the page cache.
            read_chunk(&place, &wanted)?
        } else {
            let read = tokio::task::spawn_blocking(move || read_chunk(&place, &wanted));
            read.await.map_err(|e| LogError::State(format!("a read was cut off: {e}")))??
        };
        if let Some(at) = self.partitions.get_mut(turn).and_then(|r| r.at.as_mut()) {
            (at.read, at.hint) = (chunk.next, Some(chunk.hint));
        }
        self.ready = chunk.batches;
        Ok(())
    }

    /// Retention may have come between; otherwise the index has a hole.
    fn not_found(&self, partition: &TopicPartition, key: PartitionKey, offset: i64) -> Result<(), LogError> {
        match self.shared.view().extent(key) {
            Some(extent) if offset < extent.start => Err(out_of_range(partition, offset, extent)),
            Some(_) | None => Err(LogError::Corrupt {
                message: format!(
                    "state.redb does not say where offset {offset} of {partition} is; restore the log's directory \
                     whole, from one moment"
                ),
            }),
        }
    }

    fn find(&self, reading: &Reading, at: At) -> Result<Option<Place>, LogError> {
        let dir = &self.shared.config.dir;
        {
            let view = self.shared.view();
            let partition = view.index.partitions.get(&reading.key);
            if let Some(entries) = partition.and_then(|p| entries_from(&p.entries, at.read)) {
                let Some((position, bytes)) = stretch(entries, at, view.base) else { return Ok(None) };
                let (base, file) = (view.base, Arc::clone(&view.file));
                let path = segment::path(dir, base);
                return Ok(Some(Place { base, file, path, position, bytes, active: true }));
            }
        }
        let (first, last) = (row_key(reading.key, 0), row_key(reading.key, at.read));
        let Some((key, value)) = self.shared.with_db(|db| last_of(db, Table::SegIdx, &first, &last))? else {
            return Ok(None);
        };
        let (base, entries) = parse_row(&key, &value)?;
        let entries = entries_from(&entries, at.read).unwrap_or_default();
        let Some((position, bytes)) = stretch(entries, at, base) else { return Ok(None) };
        let file = match &self.sealed {
            Some((open, file)) if *open == base => Arc::clone(file),
            Some(_) | None => match segment::open(dir, base)? {
                Some(file) => Arc::new(file),
                None => return Ok(None),
            },
        };
        let path = segment::path(dir, base);
        Ok(Some(Place { base, file, path, position, bytes, active: false }))
    }
}

fn out_of_range(partition: &TopicPartition, offset: i64, extent: &Extent) -> LogError {
    LogError::OffsetOutOfRange { partition: partition.clone(), offset, start: extent.start, end: extent.end }
}

/// Where to read and how much: the first entry from the hint on, and those that adjoin it.
fn stretch(entries: &[Entry], at: At, base: u64) -> Option<(u64, usize)> {
    let (first, rest) = entries.split_first()?;
    // Beyond the entry's last record there is a hole in the index.
    let last = first.base_offset.checked_add(i64::try_from(first.count).ok()?)?;
    if at.read >= last {
        return None;
    }
    let hinted =
        at.hint.filter(|&(segment, place)| segment == base && place > first.position && place < first.end());
    let from = hinted.map_or(first.position, |(_, place)| place);
    let mut to = first.end();
    for entry in rest {
        if entry.position > to + GAP_BYTES || entry.end() - from > CHUNK_BYTES {
            break;
        }
        to = entry.end();
    }
    Some((from, usize::try_from(to - from).ok()?))
}

/// Reads and checks; blocks for the disk.
fn read_chunk(place: &Place, wanted: &Wanted) -> Result<Chunk, LogError> {
    let mut bytes = vec![0; place.bytes];
    place.file.read_exact_at(&mut bytes, place.position).map_err(|error| {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            damaged(&place.path, place.position, "the file is cut short")
        } else {
            io_error(format!("read {}", place.path.display()), error)
        }
    })?;
    let bytes = Bytes::from(bytes);
    let (mut at, mut next) = (0usize, wanted.offset);
    let mut batches = VecDeque::new();
    while at < bytes.len() {
        let position = place.position + at as u64;
        let wrong = |what| damaged(&place.path, position, what);
        let header = Header::decode(bytes.get(at..).unwrap_or_default()).map_err(wrong)?;
        let body_at = at + HEADER_BYTES;
        let end = body_at + header.len as usize;
        if end > bytes.len() {
            return Err(wrong("the frame is longer than the index says"));
        }
        at = end;
        if header.kind == Kind::Commit || (header.topic, header.partition) != wanted.key {
            continue;
        }
        let behind = header.base_offset.saturating_add(i64::from(header.count));
        if behind <= next {
            continue;
        }
        if header.base_offset > next {
            return Err(wrong("records before this frame are missing"));
        }
        let body = bytes.slice(body_at..end);
        if crc32c::crc32c(&body) != header.body_crc {
            return Err(wrong("the records do not meet their checksum"));
        }
        let mut records = RecordBatch::from_stored(body, header.count, header.max_timestamp_ms);
        if let Ok(skip) = u32::try_from(next - header.base_offset)
            && skip > 0
        {
            records = records.without_first(skip)?;
        }
        let (partition, end_offset) = (wanted.partition.clone(), wanted.end_offset);
        batches.push_back(LogBatch { partition, base_offset: next, records, end_offset });
        next = behind;
    }
    if batches.is_empty() {
        return Err(damaged(&place.path, place.position, "the records that the index names are not there"));
    }
    Ok(Chunk { batches, next, hint: (place.base, place.position + at as u64) })
}

impl LogReader for EmbeddedReader {
    fn next(&mut self) -> BoxFuture<'_, Result<LogEvent, LogError>> {
        Box::pin(self.next_event())
    }

    fn seek(&mut self, partition: &TopicPartition, offset: SeekTo) -> Result<(), LogError> {
        let reading = self.partitions.iter_mut().find(|r| r.partition == *partition);
        let reading = reading.ok_or_else(|| {
            LogError::Refused(format!("{partition} is not one of this reader's partitions"))
        })?;
        let extent = self.shared.view().extent(reading.key).copied().unwrap_or_default();
        let next = match offset {
            SeekTo::Earliest => extent.start,
            SeekTo::End => extent.end,
            SeekTo::Offset(offset) if (extent.start..=extent.end).contains(&offset) => offset,
            SeekTo::Offset(offset) => return Err(out_of_range(partition, offset, &extent)),
        };
        reading.at = Some(At { next, read: next, hint: None });
        self.ready.retain(|batch| batch.partition != *partition);
        Ok(())
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate from the average size of a record"
    )]
    fn lag(&self) -> Lag {
        let view = self.shared.view();
        let mut lag = Lag::default();
        for (at, extent) in self.partitions.iter().filter_map(|r| Some((r.at?, view.extent(r.key)?))) {
            let records = u64::try_from(extent.end - at.next).unwrap_or(0);
            let kept = u64::try_from(extent.end - extent.start).unwrap_or(0).max(1);
            let bytes = extent.bytes_written.saturating_sub(extent.bytes_retired);
            lag.records += records;
            lag.bytes += (bytes as f64 * (records as f64 / kept as f64)) as u64;
        }
        lag
    }
}
