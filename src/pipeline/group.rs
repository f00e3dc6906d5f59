//! Records that wait to be committed together, by partition.

use std::collections::BTreeMap;

use rowstream_api::TopicPartition;

use crate::topic_log::{RecordBatchBuilder, TopicBatch, batch::Header};

/// A record batch is closed at this size; a larger single record makes a batch of its own.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Records waiting to be committed together.
#[derive(Default)]
pub struct RecordGroup {
    open: BTreeMap<TopicPartition, RecordBatchBuilder>,
    closed: Vec<TopicBatch>,
    closed_bytes: usize,
    /// Records so far.
    pub records: u64,
    /// Commit times of the oldest and the newest change, milliseconds since the epoch.
    pub commit_ms: Option<(i64, i64)>,
}

impl RecordGroup {
    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.closed_bytes + self.open.values().map(RecordBatchBuilder::len_bytes).sum::<usize>()
    }
    /// The batches, in order per partition.
    #[must_use]
    pub fn into_batches(mut self) -> Vec<TopicBatch> {
        for (partition, builder) in self.open {
            self.closed.push(TopicBatch { partition, records: builder.build() });
        }
        self.closed
    }
    /// Appends a record.
    pub fn push(&mut self, partition: &TopicPartition, record: &Record<'_>, common: &[Header<'_>]) {
        // `entry` would clone the partition for every record.
        let builder = match self.open.get_mut(partition) {
            Some(builder) => builder,
            None => self.open.entry(partition.clone()).or_insert_with(|| RecordBatchBuilder::new(common)),
        };
        builder.push(record.timestamp_ms, record.key, record.value, record.headers);
        self.records += 1;
        let (oldest, newest) = self.commit_ms.unwrap_or((record.timestamp_ms, record.timestamp_ms));
        self.commit_ms = Some((oldest.min(record.timestamp_ms), newest.max(record.timestamp_ms)));
        if builder.len_bytes() >= BATCH_BYTES_MAX
            && let Some((partition, builder)) = self.open.remove_entry(partition)
        {
            self.closed_bytes += builder.len_bytes();
            self.closed.push(TopicBatch { partition, records: builder.build() });
        }
    }
}

/// One record on its way into a group.
pub struct Record<'a> {
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Framed key.
    pub key: Option<&'a [u8]>,
    /// Framed value.
    pub value: Option<&'a [u8]>,
    /// Own headers.
    pub headers: &'a [Header<'a>],
}
