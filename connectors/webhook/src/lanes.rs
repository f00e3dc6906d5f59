//! One lane per key: the order of deliveries.
//!
//! ```text
//!  key A   ── a1 (in flight) ── a2 ── a3
//!  key B   ── b1 (parked until 12:00:07) ── b2          parked: only B waits
//!  key C   ── c1 (ready)                                ready:  C is next
//! ```
//!
//! A lane is the records of one key of one partition, in log order; records without a key share their partition's lane.
//! Only a lane's head is ever in flight, and it leaves only by being finished, so deliveries of a key happen in log
//! order and never overlap. A lane that failed is parked by itself: no other lane waits for it. Pure: it neither reads
//! the clock nor sends.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use rowstream_api::TopicPartition;
use tokio::time::Instant;

use crate::body::Pending;

/// Names a lane.
pub(crate) type LaneKey = (TopicPartition, Option<Bytes>);

/// What a tracked record costs besides its bytes: lane, queue slot, schema handles.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// What a record takes from the byte budget.
pub(crate) fn charge(record: &Pending) -> usize {
    let len = |datum: &Option<rowstream_api::Datum>| datum.as_ref().map_or(0, |datum| datum.bytes.len());
    RECORD_OVERHEAD_BYTES + len(&record.key) + len(&record.value)
}

/// All lanes that have records.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: HashMap<LaneKey, Lane>,
    ready: VecDeque<LaneKey>,
    parked: BTreeMap<(Instant, u64), LaneKey>,
    parked_ever: u64,
    records: usize,
    bytes: usize,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Arc<Pending>>,
    /// Failed attempts of the head.
    failures: u32,
}

/// A lane's head, taken for delivery.
pub(crate) struct Head {
    pub(crate) key: LaneKey,
    pub(crate) record: Arc<Pending>,
    /// Failed attempts so far.
    pub(crate) failures: u32,
}

impl Lanes {
    /// Appends a record to its lane.
    pub(crate) fn push(&mut self, record: Pending) {
        let key = (record.id.partition.clone(), record.key.as_ref().map(|key| key.bytes.clone()));
        self.records += 1;
        self.bytes += charge(&record);
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.queue.push_back(Arc::new(record));
        if lane.queue.len() == 1 {
            self.ready.push_back(key);
        }
    }

    /// Records not yet finished.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Bytes of records not yet finished.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keys that wait for another attempt.
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Whether a lane could be taken now.
    pub(crate) fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the lane that has waited longest; it is in flight until `finish`, `park` or `put_back`.
    pub(crate) fn take(&mut self) -> Option<Head> {
        let key = self.ready.pop_front()?;
        let lane = self.lanes.get(&key)?;
        let record = lane.queue.front()?.clone();
        Some(Head { failures: lane.failures, record, key })
    }

    /// The head is delivered or refused: the lane's next record is ready, behind the other lanes.
    pub(crate) fn finish(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        if let Some(record) = lane.queue.pop_front() {
            self.records -= 1;
            self.bytes -= charge(&record);
        }
        lane.failures = 0;
        if lane.queue.is_empty() {
            self.lanes.remove(&key);
        } else {
            self.ready.push_back(key);
        }
    }

    /// The head failed: the lane waits until then, and the failure is counted.
    pub(crate) fn park(&mut self, key: LaneKey, until: Instant) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.failures += 1;
        }
        self.parked_ever += 1;
        self.parked.insert((until, self.parked_ever), key);
    }

    /// The head was not to blame: it is next, and nothing is counted.
    pub(crate) fn put_back(&mut self, key: LaneKey) {
        self.ready.push_front(key);
    }

    /// Makes ready every lane whose wait is over.
    pub(crate) fn unpark(&mut self, now: Instant) {
        while let Some(entry) = self.parked.first_entry() {
            if entry.key().0 > now {
                break;
            }
            self.ready.push_back(entry.remove());
        }
    }

    /// When the next wait is over.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.parked.first_key_value().map(|((until, _), _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rowstream_api::RecordId;

    use super::*;

    fn record(partition: u32, offset: i64) -> Pending {
        let id = RecordId { partition: TopicPartition::new("t", partition), offset };
        Pending { topic: "t".into(), id, timestamp_ms: 0, key: None, value: None }
    }

    #[test]
    fn a_lane_gives_its_head_only_and_in_order() {
        let mut lanes = Lanes::default();
        for offset in 0..3 {
            lanes.push(record(0, offset));
        }
        for offset in 0..3 {
            let head = lanes.take().unwrap();
            assert_eq!(head.record.id.offset, offset);
            assert!(lanes.take().is_none(), "the second record must wait for the first");
            lanes.finish(head.key);
        }
        assert_eq!((lanes.records(), lanes.bytes(), lanes.lanes.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_lane_waits_alone_and_keeps_its_place() {
        let mut lanes = Lanes::default();
        lanes.push(record(0, 0));
        lanes.push(record(0, 1));
        lanes.push(record(1, 0));
        let bad = lanes.take().unwrap();
        let until = Instant::now() + Duration::from_secs(7);
        lanes.park(bad.key, until);
        let other = lanes.take().unwrap();
        assert_eq!(other.record.id.partition.partition, 1);
        lanes.finish(other.key);
        assert_eq!((lanes.next_wake(), lanes.parked()), (Some(until), 1));
        lanes.unpark(Instant::now());
        assert!(lanes.take().is_none());
        tokio::time::advance(Duration::from_secs(7)).await;
        lanes.unpark(Instant::now());
        let head = lanes.take().unwrap();
        assert_eq!((head.record.id.offset, head.failures), (0, 1));
        lanes.finish(head.key);
        assert_eq!(lanes.take().unwrap().failures, 0, "the next record starts anew");
    }
}
