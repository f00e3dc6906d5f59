//! Which offsets are done: the positions that a flush may commit.
//!
//! Deliveries finish out of order across keys, but an offset promises everything below it. So each partition keeps its
//! accepted offsets in order with a mark on those that are done, and its position moves only over a run of marks from the
//! front. A position can therefore never pass a record that is neither delivered nor refused.

use std::collections::{BTreeMap, VecDeque};

use rowstream_api::{RecordId, TopicOffsets, TopicPartition};

/// Per partition, what is accepted and what is done.
#[derive(Default)]
pub(crate) struct Completed {
    partitions: BTreeMap<TopicPartition, Window>,
    /// A position moved since the last `positions`.
    moved: bool,
}

#[derive(Default)]
struct Window {
    /// Accepted offsets from the first that is not done, ascending.
    accepted: VecDeque<(i64, bool)>,
    /// Everything below is done; `None` until something is.
    position: Option<i64>,
}

impl Completed {
    /// Remembers an accepted record; in offset order per partition.
    pub(crate) fn accept(&mut self, record: &RecordId) {
        let window = self.partitions.entry(record.partition.clone()).or_default();
        window.accepted.push_back((record.offset, false));
    }

    /// Marks a record as delivered or refused.
    pub(crate) fn done(&mut self, record: &RecordId) {
        let Some(window) = self.partitions.get_mut(&record.partition) else { return };
        let Ok(index) = window.accepted.binary_search_by_key(&record.offset, |(offset, _)| *offset) else {
            return;
        };
        if let Some((_, done)) = window.accepted.get_mut(index) {
            *done = true;
        }
        while let Some((offset, true)) = window.accepted.front() {
            window.position = Some(offset + 1);
            self.moved = true;
            window.accepted.pop_front();
        }
    }

    /// Whether a position moved since the last `positions`.
    pub(crate) fn moved(&self) -> bool {
        self.moved
    }

    /// The next offset of each partition: everything below is done.
    pub(crate) fn positions(&mut self) -> TopicOffsets {
        self.moved = false;
        self.partitions
            .iter()
            .filter_map(|(partition, window)| window.position.map(|position| (partition.clone(), position)))
            .collect()
    }

    /// Records that are remembered: those not done, and those done ahead of them.
    pub(crate) fn tracked(&self) -> usize {
        self.partitions.values().map(|window| window.accepted.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(offset: i64) -> RecordId {
        RecordId { partition: TopicPartition::new("t", 0), offset }
    }

    #[test]
    fn a_position_never_passes_a_record_that_is_not_done() {
        let mut completed = Completed::default();
        // Offsets may have gaps: the log numbers records that a transform dropped, too.
        for offset in [10, 11, 15, 16] {
            completed.accept(&id(offset));
        }
        assert!(completed.positions().is_empty());
        completed.done(&id(11));
        completed.done(&id(16));
        assert!(!completed.moved() && completed.positions().is_empty());
        completed.done(&id(10));
        assert!(completed.moved());
        assert_eq!(completed.positions().into_values().collect::<Vec<_>>(), [12]);
        assert!(!completed.moved());
        completed.done(&id(15));
        assert_eq!(completed.positions().into_values().collect::<Vec<_>>(), [17]);
        assert_eq!(completed.tracked(), 0);
    }
}
