//! Positions: in a source (Connect's source partition and source offset) and in topics.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Names one independent stream of a source, e.g. `{"server":"shop"}`. Compact JSON object with sorted keys, so that equal
/// partitions are equal strings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourcePartition(pub String);

/// A position in a source partition: the JSON object that Kafka Connect would store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceOffset(pub serde_json::Map<String, serde_json::Value>);

/// Positions of all partitions of one source.
pub type SourceOffsets = BTreeMap<SourcePartition, SourceOffset>;

/// One partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition number, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// The next offset to read, per partition: everything below it is done.
pub type TopicOffsets = BTreeMap<TopicPartition, i64>;
