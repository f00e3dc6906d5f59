//! Retention: what may go, and how it goes without a reader or a crash noticing.
//!
//! A partition's share of a segment may go when the policy allows it and every group that reads the partition has read
//! it; unread data is never dropped for size. First the database is told (`starts`, `segidx`, `segments`), durably;
//! then files whose every share is gone are unlinked, and in the others the bodies of the freed frames are punched.
//! A crash between the two leaves files that the next open removes. A reader that already has the file reads on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    commit::LogThread,
    config::Failpoint,
    frame::{HEADER_BYTES, Kind},
    index::{PartitionExtent, SegmentExtent, row_key},
    segment::{self, Walk, damaged, io_error},
    tables::{
        PartitionKey, Table, damaged_row, extent_value, get, parse_named_key, parse_partition_key,
        partition_key, scan,
    },
};
use crate::topic_log::LogError;

/// How far every reader of a partition has come.
type Consumed = HashMap<PartitionKey, i64>;

/// What one run decides.
#[derive(Default)]
struct Plan {
    ops: Vec<super::frame::Op>,
    starts: BTreeMap<PartitionKey, (i64, u64)>,
    unlink: Vec<u64>,
    punch: Vec<(u64, BTreeSet<PartitionKey>)>,
}

impl LogThread {
    /// One run over the sealed segments, oldest first.
    pub(super) fn retire(&mut self) -> Result<(), LogError> {
        let config = &self.shared.config;
        if config.retention_ms.is_none() && config.retention_bytes.is_none() {
            return Ok(());
        }
        let plan = self.plan()?;
        if plan.ops.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.commit_state(&plan.ops) {
            self.reopen();
            return Err(error);
        }
        for base in &plan.unlink {
            self.disk.sealed.remove(base);
        }
        self.shared.publish(|view| {
            for (&key, &(start, retired)) in &plan.starts {
                if let Some(extent) = view.extent_mut(key) {
                    (extent.start, extent.bytes_retired) = (start, retired);
                }
            }
        });
        self.hit(Failpoint::Retired).map_err(|e| io_error("retire segments".into(), e))?;
        for &base in &plan.unlink {
            segment::remove(&segment::path(&self.shared.config.dir, base))?;
        }
        for (base, freed) in &plan.punch {
            self.punch(*base, freed)?;
        }
        self.measure();
        Ok(())
    }

    fn plan(&self) -> Result<Plan, LogError> {
        let (consumed, mut plan) = (self.consumed()?, Plan::default());
        let mut kept: BTreeSet<PartitionKey> = BTreeSet::new();
        for &base in self.disk.sealed.keys() {
            let key = base.to_be_bytes();
            let value = self.shared.with_db(|db| get(db, Table::Segments, &key))?;
            let (_, extent) =
                SegmentExtent::parse(&key, &value.ok_or_else(|| damaged_row(Table::Segments))?)?;
            let (freed, stay): (Vec<_>, Vec<_>) = extent.partitions.iter().copied().partition(|part| {
                !kept.contains(&part.key) && self.may_go(part, extent.max_timestamp_ms, &consumed, &plan)
            });
            kept.extend(stay.iter().map(|part| part.key));
            if freed.is_empty() && !stay.is_empty() {
                continue;
            }
            for part in &freed {
                self.free(part, &mut plan)?;
            }
            if stay.is_empty() {
                plan.ops.push(Table::Segments.delete(key));
                plan.unlink.push(base);
            } else {
                plan.ops.push(SegmentExtent { partitions: stay, ..extent }.put(base));
                plan.punch.push((base, freed.iter().map(|part| part.key).collect()));
            }
        }
        for (&key, &(start, retired)) in &plan.starts {
            plan.ops.push(Table::Starts.put(partition_key(key), &extent_value(start, retired)));
        }
        Ok(plan)
    }

    /// Whether the policy lets this share go and everybody has read it.
    fn may_go(&self, part: &PartitionExtent, youngest_ms: i64, consumed: &Consumed, plan: &Plan) -> bool {
        let config = &self.shared.config;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let expired = config.retention_ms.is_some_and(|keep| {
            i64::try_from(keep).is_ok_and(|keep| youngest_ms < now_ms.saturating_sub(keep))
        });
        let crowded = config.retention_bytes.is_some_and(|keep| {
            let view = self.shared.view();
            let Some(extent) = view.extent(part.key) else { return false };
            let retired = plan.starts.get(&part.key).map_or(extent.bytes_retired, |s| s.1);
            extent.bytes_written.saturating_sub(retired + part.bytes) >= keep
        });
        (expired || crowded) && consumed.get(&part.key).is_none_or(|&next| next >= part.next)
    }

    /// Moves a partition's start behind this share and forgets where it lay.
    fn free(&self, part: &PartitionExtent, plan: &mut Plan) -> Result<(), LogError> {
        let before = self.shared.view().extent(part.key).map_or(0, |e| e.bytes_retired);
        let start = plan.starts.entry(part.key).or_insert((0, before));
        *start = (part.next, start.1 + part.bytes);
        let rows = self.shared.with_db(|db| scan(db, Table::SegIdx, &partition_key(part.key)))?;
        let (first, next) = (row_key(part.key, part.first), row_key(part.key, part.next));
        let rows = rows.into_iter().map(|(key, _)| key).filter(|key| (&first..&next).contains(&key));
        plan.ops.extend(rows.map(|key| Table::SegIdx.delete(key)));
        Ok(())
    }

    /// The lowest offset that some group still has to read, for every partition that a group reads.
    fn consumed(&self) -> Result<Consumed, LogError> {
        let mut offsets: HashMap<(String, PartitionKey), i64> = HashMap::new();
        for (key, value) in self.shared.with_db(|db| scan(db, Table::GroupOffsets, b""))? {
            let parsed = parse_named_key(&key)
                .and_then(|(group, key)| Some((group.to_owned(), parse_partition_key(key)?)))
                .zip(value.as_array().map(|offset| i64::from_le_bytes(*offset)));
            let (key, offset) = parsed.ok_or_else(|| damaged_row(Table::GroupOffsets))?;
            offsets.insert(key, offset);
        }
        let mut consumed = Consumed::new();
        let mut hold = |key: PartitionKey, offset: i64| {
            let lowest = consumed.entry(key).or_insert(offset);
            *lowest = offset.min(*lowest);
        };
        for ((_, key), &offset) in &offsets {
            hold(*key, offset);
        }
        let view = self.shared.view();
        for (group, filter) in &self.disk.groups {
            for (&id, topic) in view.topics.iter().filter(|(_, topic)| filter.matches(&topic.name)) {
                for partition in (0u32..).take(topic.partitions.len()) {
                    let key = (id, partition);
                    if !offsets.contains_key(&(group.clone(), key)) {
                        hold(key, 0);
                    }
                }
            }
        }
        Ok(consumed)
    }

    /// Gives back the bodies of freed frames in a segment that others still need; headers stay, so it can be walked.
    fn punch(&self, base: u64, freed: &BTreeSet<PartitionKey>) -> Result<(), LogError> {
        let dir = &self.shared.config.dir;
        let (path, end) = (segment::path(dir, base), self.disk.sealed.get(&base).map_or(base, |s| s.0));
        let Some(file) = segment::open(dir, base)? else { return Ok(()) };
        let read_error = |e| io_error(format!("read {}", path.display()), e);
        let (mut walk, mut position) = (Walk::new(&file, end - base), 0);
        while position < end - base {
            let header =
                walk.header(position).map_err(read_error)?.map_err(|what| damaged(&path, position, what))?;
            let body = position + HEADER_BYTES as u64;
            position += header.frame_bytes();
            if header.kind == Kind::Batch && freed.contains(&(header.topic, header.partition)) {
                segment::punch(&file, body, position - body);
            }
        }
        Ok(())
    }
}
