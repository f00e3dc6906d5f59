//! Accepted records that are not yet durable, what was refused of them, and how far offsets may go.
//!
//! The tolerance policy must have its say before the target's offset passes a bad record. So the flush that first
//! refuses a record commits only what stands *below* it in its partition, and returns it; what stands behind stays
//! pending. The caller then stops, skips or dead-letters, and only the next flush passes the record: calling `flush`
//! again is the caller's word that the refusals were dealt with.

use std::collections::{BTreeMap, HashMap};

use crate::{
    error::RecordError,
    offset::{TopicOffsets, TopicPartition},
    sink::{Datum, Flushed, SinkRecord},
};

/// What a record costs besides its bytes.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// What a flush has refused so far, by index in the backlog.
pub type Refused = BTreeMap<usize, RecordError>;

/// The first newly refused offset of each partition.
pub type Cuts = HashMap<TopicPartition, i64>;

/// Pending records, and the offsets that the target holds.
#[derive(Debug, Default)]
pub struct Backlog {
    stored: TopicOffsets,
    pending: Vec<Pending>,
    bytes: usize,
}

/// An accepted record.
#[derive(Debug)]
struct Pending {
    record: SinkRecord,
    /// Refused by an earlier flush, which the caller has dealt with.
    refused: bool,
}

impl Backlog {
    /// Takes over what the target holds, as far as it was gained; answers with that.
    pub fn open(&mut self, stored: TopicOffsets, gained: &[TopicPartition]) -> TopicOffsets {
        let gained: TopicOffsets =
            stored.into_iter().filter(|(partition, _)| gained.contains(partition)).collect();
        self.stored.extend(gained.iter().map(|(partition, offset)| (partition.clone(), *offset)));
        gained
    }

    /// Accepts records; what the target already holds must not be applied again and is left out.
    pub fn put(&mut self, records: Vec<SinkRecord>) {
        for record in records {
            let held = self.stored.get(&record.id.partition).is_some_and(|next| record.id.offset < *next);
            if !held {
                self.bytes += record_bytes(&record);
                self.pending.push(Pending { record, refused: false });
            }
        }
    }

    /// What the target holds.
    #[must_use]
    pub fn stored(&self) -> &TopicOffsets {
        &self.stored
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// What is pending costs so much.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The `index`-th pending record; `None` behind the last. The inner `None` is a record that must not be applied: dropped by a
    /// transform, refused before, or behind a cut.
    #[must_use]
    pub fn get(&self, index: usize, cuts: &Cuts) -> Option<Option<&SinkRecord>> {
        let Pending { record, refused } = self.pending.get(index)?;
        let behind_cut = cuts.get(&record.id.partition).is_some_and(|cut| record.id.offset >= *cut);
        Some((!refused && !behind_cut && !record.dropped).then_some(record))
    }

    /// The first newly refused offset of each partition.
    #[must_use]
    pub fn cuts(&self, refused: &Refused) -> Cuts {
        let mut cuts = Cuts::new();
        for record in refused.keys().filter_map(|index| self.pending.get(*index)) {
            let id = &record.record.id;
            let cut = cuts.entry(id.partition.clone()).or_insert(id.offset);
            *cut = id.offset.min(*cut);
        }
        cuts
    }

    /// Where the offsets stand once everything below the cuts is durable.
    #[must_use]
    pub fn next_offsets(&self, cuts: &Cuts) -> TopicOffsets {
        let mut next = TopicOffsets::new();
        for Pending { record, .. } in &self.pending {
            let partition = &record.id.partition;
            if cuts.get(partition).is_some_and(|cut| record.id.offset >= *cut) {
                continue;
            }
            match next.get_mut(partition) {
                Some(offset) => *offset = record.id.offset + 1,
                None => {
                    next.insert(partition.clone(), record.id.offset + 1);
                }
            }
        }
        next
    }

    /// Forgets what is durable and marks what was refused.
    pub fn finish(&mut self, next: TopicOffsets, cuts: &Cuts, refused: Refused) -> Flushed {
        let mut reported = Vec::with_capacity(refused.len());
        for (index, error) in refused {
            if let Some(pending) = self.pending.get_mut(index) {
                pending.refused = true;
                reported.push((pending.record.id.clone(), error));
            }
        }
        self.pending.retain(|pending| {
            let id = &pending.record.id;
            cuts.get(&id.partition).is_some_and(|cut| id.offset >= *cut)
        });
        self.bytes = self.pending.iter().map(|pending| record_bytes(&pending.record)).sum();
        self.stored.extend(next.iter().map(|(partition, offset)| (partition.clone(), *offset)));
        Flushed { offsets: next, refused: reported }
    }
}

fn record_bytes(record: &SinkRecord) -> usize {
    let datum = |datum: &Option<Datum>| datum.as_ref().map_or(0, |datum| datum.bytes.len());
    datum(&record.key) + datum(&record.value) + RECORD_OVERHEAD_BYTES
}
