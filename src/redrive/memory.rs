//! Which letters of a connector were redriven: ranges of offsets for each partition of its dead letter topic.
//!
//! It belongs to one topic, by the topic's own id: a topic that was made anew begins with an empty memory. A range grows over letters of
//! other connectors and over offsets that hold nothing, which nobody will ask this memory about, so that it stays short where several
//! connectors share a topic.

use std::{collections::BTreeMap, sync::Arc};

use rowstream_api::{ConnectorError, SourceOffset, SourceOffsets, SourcePartition};
use serde_json::{Map, Value, json};

use super::letter::Place;
use crate::{task::log_failure, topic_log::TopicLog};

/// More ranges than this in one partition are refused: the memory is written whole with each group.
const RANGES_MAX: usize = 10_000;

/// What was redriven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    topic: String,
    topic_id: String,
    /// For each partition, the first offset of each range with the one behind its last.
    partitions: BTreeMap<u32, BTreeMap<i64, i64>>,
}

/// The name under which the memory of a connector is stored. No connector can have it.
pub(super) fn name_of(connector: &str) -> String {
    format!("redrive/{connector}")
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    /// The log can't be read, or holds something else under that name.
    pub async fn load(
        log: &Arc<dyn TopicLog>,
        connector: &str,
        topic: &str,
        topic_id: &str,
    ) -> Result<Self, ConnectorError> {
        let attempt = "read which dead letters were redriven";
        let stored = log.source_offsets(&name_of(connector)).await.map_err(|e| log_failure(attempt, e))?;
        Self::of(&stored, topic, topic_id)
    }

    fn of(stored: &SourceOffsets, topic: &str, topic_id: &str) -> Result<Self, ConnectorError> {
        let mut memory =
            Self { topic: topic.to_owned(), topic_id: topic_id.to_owned(), partitions: BTreeMap::new() };
        for (partition, offset) in stored {
            let wrong = || {
                ConnectorError::fatal(
                    "REDRIVE_MEMORY",
                    "what is stored of redriven dead letters can't be read",
                )
            };
            let of: Value = serde_json::from_str(&partition.0).map_err(|_| wrong())?;
            if of.get("dead_letters").and_then(Value::as_str) != Some(topic)
                || offset.0.get("topic_id").and_then(Value::as_str) != Some(topic_id)
            {
                continue;
            }
            let number = of.get("partition").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
            let ranges = offset.0.get("redriven").cloned().unwrap_or_default();
            let ranges: Vec<(i64, i64)> = serde_json::from_value(ranges).map_err(|_| wrong())?;
            memory.partitions.insert(number.ok_or_else(wrong)?, ranges.into_iter().collect());
        }
        Ok(memory)
    }

    /// As the log stores it.
    #[must_use]
    pub(super) fn to_offsets(&self) -> SourceOffsets {
        let stored = |(number, ranges): (&u32, &BTreeMap<i64, i64>)| {
            let partition = json!({ "dead_letters": self.topic, "partition": number }).to_string();
            let ranges: Vec<(i64, i64)> = ranges.iter().map(|(from, to)| (*from, *to)).collect();
            let mut offset = Map::new();
            offset.insert("topic_id".to_owned(), json!(self.topic_id));
            offset.insert("redriven".to_owned(), json!(ranges));
            (SourcePartition(partition), SourceOffset(offset))
        };
        self.partitions.iter().map(stored).collect()
    }

    /// Whether a letter was redriven.
    #[must_use]
    pub fn holds(&self, Place { partition, offset }: Place) -> bool {
        let Some(ranges) = self.partitions.get(&partition) else { return false };
        ranges.range(..=offset).next_back().is_some_and(|(_, to)| offset < *to)
    }

    /// A letter is redriven.
    ///
    /// # Errors
    /// There are too many separate ones.
    pub(super) fn add(&mut self, place: Place) -> Result<(), ConnectorError> {
        if self.holds(place) {
            return Ok(());
        }
        let Place { partition, offset } = place;
        let ranges = self.partitions.entry(partition).or_default();
        let from = match ranges.range(..=offset).next_back() {
            Some((from, to)) if *to >= offset => *from,
            Some(_) | None => offset,
        };
        let to = ranges.remove(&(offset + 1)).unwrap_or(offset + 1);
        ranges.insert(from, to);
        if ranges.len() <= RANGES_MAX {
            return Ok(());
        }
        Err(ConnectorError::config(
            "REDRIVE_SCATTERED",
            format!(
                "more than {RANGES_MAX} separate runs of dead letters of {}-{partition} were redriven; redrive whole stretches",
                self.topic
            ),
        ))
    }

    /// From `from` to before `to` there is nothing of this connector: a range that ends there grows over it, and up to the next.
    pub(super) fn passed(&mut self, partition: u32, from: i64, to: i64) {
        let Some(ranges) = self.partitions.get_mut(&partition) else { return };
        if let Some((_, end)) = ranges.range_mut(..=from).next_back()
            && *end >= from
            && *end < to
        {
            *end = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn empty() -> Memory {
        Memory::of(&SourceOffsets::new(), "dead", "id").unwrap()
    }

    fn at(offset: i64) -> Place {
        Place { partition: 3, offset }
    }

    proptest! {
        #[test]
        fn it_holds_what_was_added_and_nothing_else(offsets in proptest::collection::vec(0..40i64, 0..30)) {
            let mut memory = empty();
            for offset in &offsets {
                memory.add(at(*offset)).unwrap();
            }
            let read = Memory::of(&memory.to_offsets(), "dead", "id").unwrap();
            for offset in 0..40 {
                prop_assert_eq!(read.holds(at(offset)), offsets.contains(&offset), "{}", offset);
            }
        }
    }

    #[test]
    fn it_grows_over_what_is_not_its_own() {
        let mut memory = empty();
        for offset in 0..100 {
            if offset % 2 == 0 {
                memory.add(at(offset)).unwrap();
            } else {
                memory.passed(3, offset, offset + 1);
            }
        }
        assert_eq!(memory.partitions.get(&3).map(BTreeMap::len), Some(1));
        assert!(!memory.holds(at(100)) && memory.holds(at(98)));
        // Not over what lies behind a letter that was not redriven.
        memory.passed(3, 105, 106);
        assert!(!memory.holds(at(105)));
    }

    #[test]
    fn it_belongs_to_one_topic() {
        let mut memory = empty();
        memory.add(at(1)).unwrap();
        let stored = memory.to_offsets();
        assert!(Memory::of(&stored, "dead", "id").unwrap().holds(at(1)));
        assert!(!Memory::of(&stored, "dead", "anew").unwrap().holds(at(1)));
        assert!(!Memory::of(&stored, "other", "id").unwrap().holds(at(1)));
    }
}
