//! One group in the active segment: placed, written, synced, closed by its commit frame; and the segment's own life.
//!
//! After a failed write or sync the range is never synced again (the kernel may have dropped the pages and still call
//! them clean): the segment is cut at the committed end and another begun. Only then is the group answered `Aborted`,
//! because only then no recovery can find it whole.

use std::{collections::HashMap, os::unix::fs::FileExt, sync::Arc};

use super::{
    commit::{LogThread, Round},
    config::Failpoint,
    frame::{CommitBody, HEADER_BYTES, Header, Kind, Op},
    index::Index,
    open,
    segment::{self, io_error, write_error},
    tables::{PartitionKey, Table, extent_value, partition_key},
};
use crate::topic_log::LogError;

/// Buffer kept between commits; a larger one is given back.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// Frames written and synced, and what the database is told about them.
pub(super) struct Written {
    pub(super) frames: Vec<(Header, u64)>,
    pub(super) ops: Vec<Op>,
    pub(super) ends: HashMap<PartitionKey, (i64, u64)>,
    pub(super) end: u64,
    pub(super) records: u64,
}

/// Why no group was written.
pub(super) enum WriteFailure {
    /// Nothing of it can come back.
    Aborted(LogError),
    /// It may be found whole by a recovery.
    Unknown(LogError),
}

impl LogThread {
    /// Writes and syncs the round's records as one group of frames; `None` when it has none.
    pub(super) fn write(&mut self, round: &Round) -> Result<Option<Written>, WriteFailure> {
        if round.bytes == 0 || round.appends.iter().all(|a| a.batches.is_empty()) {
            return Ok(None);
        }
        let mut buffer = std::mem::take(&mut self.work.buffer);
        let written = self.write_from(round, &mut buffer);
        buffer.clear();
        buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.work.buffer = buffer;
        written.map(Some)
    }

    fn write_from(&mut self, round: &Round, buffer: &mut Vec<u8>) -> Result<Written, WriteFailure> {
        let (batches, mut ends) = (self.place(round), HashMap::new());
        for (header, _) in &batches {
            let key = (header.topic, header.partition);
            let written = self.shared.view().extent(key).map_or(0, |e| e.bytes_written);
            let end = ends.entry(key).or_insert((0, written));
            *end = (header.base_offset + i64::from(header.count), end.1 + header.frame_bytes());
        }
        let mut ops: Vec<Op> = round.appends.iter().flat_map(|a| a.ops.iter().cloned()).collect();
        ops.extend(
            ends.iter()
                .map(|(&key, &(end, bytes))| Table::Ends.put(partition_key(key), &extent_value(end, bytes))),
        );
        let body = CommitBody { commit_no: self.disk.commit_no + 1, start: self.disk.end, ops };
        let body_bytes = body.encode();
        let total = batches.iter().map(|(header, _)| header.frame_bytes()).sum::<u64>()
            + (HEADER_BYTES + body_bytes.len()) as u64;
        self.make_room(total).map_err(WriteFailure::Aborted)?;
        let start = self.disk.end - self.disk.base;
        let mut frames = Vec::with_capacity(batches.len());
        for (header, body) in &batches {
            frames.push((*header, start + buffer.len() as u64));
            header.encode(buffer);
            buffer.extend_from_slice(body);
        }
        let commit = Header {
            kind: Kind::Commit,
            topic: 0,
            partition: 0,
            count: 0,
            base_offset: body.commit_no.cast_signed(),
            len: u32::try_from(body_bytes.len()).map_err(|_| {
                WriteFailure::Aborted(LogError::Refused("a commit with more than 4 GiB of offsets".into()))
            })?,
            body_crc: crc32c::crc32c(&body_bytes),
            max_timestamp_ms: 0,
        };
        commit.encode(buffer);
        buffer.extend_from_slice(&body_bytes);
        self.write_and_sync(buffer, start)?;
        let records = batches.iter().map(|(header, _)| u64::from(header.count)).sum();
        Ok(Written { frames, ops: body.ops, ends, end: self.disk.end + total, records })
    }

    /// Gives every batch its offset, in order.
    fn place<'a>(&self, round: &'a Round) -> Vec<(Header, &'a [u8])> {
        let view = self.shared.view();
        let mut next: HashMap<PartitionKey, i64> = HashMap::new();
        let batches = round.appends.iter().flat_map(|append| &append.batches);
        batches
            .map(|batch| {
                let next =
                    next.entry(batch.key).or_insert_with(|| view.extent(batch.key).map_or(0, |e| e.end));
                let header = Header {
                    kind: Kind::Batch,
                    topic: batch.key.0,
                    partition: batch.key.1,
                    count: batch.records.count(),
                    base_offset: *next,
                    // The writer has refused longer ones.
                    len: u32::try_from(batch.records.len_bytes()).unwrap_or(u32::MAX),
                    body_crc: batch.body_crc,
                    max_timestamp_ms: batch.records.max_timestamp_ms(),
                };
                *next += i64::from(header.count);
                (header, batch.records.body().as_ref())
            })
            .collect()
    }

    fn write_and_sync(&mut self, bytes: &[u8], position: u64) -> Result<(), WriteFailure> {
        let path = segment::path(&self.shared.config.dir, self.disk.base);
        let failpoints = self.shared.config.failpoints.clone();
        let wrote = failpoints
            .hit(Failpoint::SegmentWrite)
            .and_then(|()| self.disk.file.write_all_at(bytes, position));
        let synced = wrote.map_err(|e| write_error(&format!("write {}", path.display()), e)).and_then(|()| {
            failpoints
                .hit(Failpoint::SegmentWritten)
                .and_then(|()| self.disk.file.sync_data())
                .map_err(|e| io_error(format!("sync {}", path.display()), e))
        });
        if let Err(error) = synced {
            // After a failed sync the kernel may have dropped the pages and still call them clean: that range is
            // never synced again. And what did reach the disk must not be found by a recovery.
            self.work.must_abandon = true;
            return Err(match self.abandon_tail() {
                Ok(()) => WriteFailure::Aborted(error),
                Err(second) => {
                    tracing::error!(error = %second, "could not abandon a segment after a failed write");
                    WriteFailure::Unknown(error)
                }
            });
        }
        failpoints
            .hit(Failpoint::SegmentSynced)
            .map_err(|e| WriteFailure::Unknown(io_error(format!("sync {}", path.display()), e)))
    }

    /// Makes sure that a group of `bytes` fits the active segment: seals it and begins another when not.
    fn make_room(&mut self, bytes: u64) -> Result<(), LogError> {
        let used = self.disk.end - self.disk.base;
        if used + bytes <= self.disk.capacity {
            return Ok(());
        }
        if used == 0 {
            let path = segment::path(&self.shared.config.dir, self.disk.base);
            segment::allocate(&self.disk.file, bytes)
                .and_then(|()| self.disk.file.sync_all())
                .map_err(|e| write_error(&format!("allocate {}", path.display()), e))?;
            self.disk.capacity = bytes;
            return Ok(());
        }
        self.seal(bytes)?;
        if let Err(error) = self.retire() {
            tracing::warn!(%error, "retention could not run");
        }
        Ok(())
    }

    /// Cuts the active segment at the end and begins another, so that nothing behind the end is ever seen again.
    pub(super) fn abandon_tail(&mut self) -> Result<(), LogError> {
        let dir = self.shared.config.dir.clone();
        let path = segment::path(&dir, self.disk.base);
        if self.disk.end == self.disk.base {
            let bytes = self.shared.config.segment_bytes;
            let file = Arc::new(segment::create(&dir, self.disk.base, bytes)?);
            self.disk.file = Arc::clone(&file);
            self.disk.capacity = bytes;
            self.shared.publish(|view| view.file = file);
        } else {
            let cut = self.disk.file.set_len(self.disk.end - self.disk.base);
            cut.map_err(|e| io_error(format!("cut {}", path.display()), e))?;
            self.disk.capacity = self.disk.end - self.disk.base;
            self.seal(0)?;
        }
        self.work.must_abandon = false;
        Ok(())
    }

    /// Begins a segment at the end, of the configured size or larger, and commits that the old one is sealed.
    fn seal(&mut self, bytes: u64) -> Result<(), LogError> {
        let config = self.shared.config.clone();
        let (base, end) = (self.disk.base, self.disk.end);
        let capacity = config.segment_bytes.max(bytes);
        let made = |e| write_error(&format!("make {}", segment::path(&config.dir, end).display()), e);
        config.failpoints.hit(Failpoint::SegmentCreate).map_err(made)?;
        let file = Arc::new(segment::create(&config.dir, end, capacity)?);
        config.failpoints.hit(Failpoint::Sealing).map_err(made)?;
        let (ops, youngest) = {
            let view = self.shared.view();
            (view.index.seal(base, end), view.index.max_timestamp_ms)
        };
        if let Err(error) = self.commit_state(&ops) {
            self.reopen();
            return Err(error);
        }
        self.disk.sealed.insert(base, (end, youngest));
        (self.disk.base, self.disk.capacity) = (end, capacity);
        self.disk.file = Arc::clone(&file);
        self.shared.publish(|view| {
            (view.base, view.file, view.index) = (end, file, Index::default());
        });
        open::cut(&config.dir, base, end);
        self.measure();
        Ok(())
    }

    pub(super) fn publish(&mut self, written: &Written) {
        self.disk.end = written.end;
        self.disk.commit_no += 1;
        self.shared.publish(|view| {
            for (header, position) in &written.frames {
                // Offsets were given in order by `place`.
                let follows = view.index.add(header, *position);
                debug_assert!(follows, "a batch does not follow the one before");
            }
            for (&key, &(end, bytes)) in &written.ends {
                if let Some(extent) = view.extent_mut(key) {
                    (extent.end, extent.bytes_written) = (end, bytes);
                }
            }
        });
    }
}
