//! Positions as records: of sources in Kafka Connect's own shape, of sinks in a shape of ours.
//!
//! | topic | key | value |
//! |---|---|---|
//! | `<group>-offsets` | `["connector",{source partition}]` | `{source offset}` |
//! | `<group>-sink-offsets` | `["group","topic",partition]` | `{"offset":n}` |
//!
//! The first is what Connect's JSON converter without schemas writes, so its tools read and write it. Whoever wrote a key, it
//! is compared by its canonical text: members sorted, no white space.

use std::{collections::BTreeMap, sync::Arc};

use rowstream_api::{SourceOffset, SourceOffsets, SourcePartition, TopicOffsets, TopicPartition};
use serde_json::{Map, Value};

use super::{mirror::Rows, transaction::RawRecord};
use crate::{pipeline::partition::partition_of, topic_log::LogError};

/// The partition of `<group>-offsets` that holds everything of one connector, so that a foreign open transaction rarely
/// stands in the way of reading it.
pub(super) fn offsets_partition(connector: &str, partitions: u32) -> u32 {
    partition_of(Some(connector.as_bytes()), partitions)
}

/// Source offsets as records.
pub(super) fn source_records(
    topic: &Arc<str>,
    partitions: u32,
    connector: &str,
    offsets: &SourceOffsets,
) -> Result<Vec<RawRecord>, LogError> {
    let partition = offsets_partition(connector, partitions);
    let records = offsets.iter().map(|(source, offset)| {
        let value = serde_json::to_vec(&offset.0).map_err(|e| not_json(&e))?;
        Ok(RawRecord {
            topic: Arc::clone(topic),
            partition,
            key: source_key(connector, source)?,
            value: Some(value),
        })
    });
    records.collect()
}

/// Records that take `stored` away, except what `kept` replaces.
pub(super) fn source_tombstones(
    topic: &Arc<str>,
    rows: &Rows,
    connector: &str,
    kept: &[RawRecord],
) -> Vec<RawRecord> {
    let of_connector =
        rows.keys().filter(|(_, key)| parse_source_key(key).is_some_and(|(name, _)| name == connector));
    let gone = of_connector.map(|(partition, key)| RawRecord {
        topic: Arc::clone(topic),
        partition: *partition,
        key: key.to_vec(),
        value: None,
    });
    gone.filter(|r| !kept.iter().any(|k| (k.partition, &k.key) == (r.partition, &r.key))).collect()
}

/// The offsets of one connector.
pub(super) fn read_source(rows: &Rows, connector: &str) -> Result<SourceOffsets, LogError> {
    let mut found: BTreeMap<SourcePartition, (i64, SourceOffset)> = BTreeMap::new();
    for ((_, key), row) in rows {
        let Some((name, partition)) = parse_source_key(key) else { continue };
        if name != connector {
            continue;
        }
        let offset: Map<String, Value> =
            serde_json::from_slice(&row.value).map_err(|_| LogError::Corrupt {
                message: format!(
                    "the stored offset of connector `{connector}` at {} is no JSON object",
                    row.offset
                ),
            })?;
        // A tool may have written the key with other white space; the newer one counts.
        let newer = found.get(&partition).is_none_or(|(at, _)| *at < row.offset);
        if newer {
            found.insert(partition, (row.offset, SourceOffset(offset)));
        }
    }
    Ok(found.into_iter().map(|(partition, (_, offset))| (partition, offset)).collect())
}

fn source_key(connector: &str, source: &SourcePartition) -> Result<Vec<u8>, LogError> {
    let partition: Value = serde_json::from_str(&source.0).map_err(|e| not_json(&e))?;
    Ok(Value::Array(vec![connector.into(), sorted(partition)]).to_string().into_bytes())
}

fn parse_source_key(key: &[u8]) -> Option<(String, SourcePartition)> {
    let (connector, partition): (String, Value) = serde_json::from_slice(key).ok()?;
    partition.is_object().then(|| (connector, SourcePartition(sorted(partition).to_string())))
}

/// The same with the members of every object sorted.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let members: BTreeMap<String, Value> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn not_json(error: &serde_json::Error) -> LogError {
    LogError::Refused(format!("a source offset is not JSON: {error}"))
}

/// A group's offsets as records; `None` takes one away.
pub(super) fn sink_records<'a>(
    topic: &Arc<str>,
    partitions: u32,
    group: &str,
    offsets: impl IntoIterator<Item = (&'a TopicPartition, Option<i64>)>,
) -> Vec<RawRecord> {
    let partition = partition_of(Some(group.as_bytes()), partitions);
    let record = |(of, offset): (&TopicPartition, Option<i64>)| RawRecord {
        topic: Arc::clone(topic),
        partition,
        key: serde_json::json!([group, of.topic, of.partition]).to_string().into_bytes(),
        value: offset.map(|n| format!(r#"{{"offset":{n}}}"#).into_bytes()),
    };
    offsets.into_iter().map(record).collect()
}

/// The offsets of one group.
pub(super) fn read_sink(rows: &Rows, group: &str) -> Result<TopicOffsets, LogError> {
    let mut offsets = TopicOffsets::new();
    for ((_, key), row) in rows {
        let Ok((name, topic, partition)) = serde_json::from_slice::<(String, String, u32)>(key) else {
            continue;
        };
        if name != group {
            continue;
        }
        let value: Option<Value> = serde_json::from_slice(&row.value).ok();
        let offset = value.as_ref().and_then(|v| v.get("offset")).and_then(Value::as_i64);
        let offset = offset.ok_or_else(|| LogError::Corrupt {
            message: format!("the stored position of group `{group}` in {topic}-{partition} is no number"),
        })?;
        offsets.insert(TopicPartition::new(topic, partition), offset);
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::topic_log::kafka::mirror::Row;

    fn offset(value: Value) -> SourceOffset {
        let Value::Object(map) = value else { panic!("no object") };
        SourceOffset(map)
    }

    fn rows(records: &[RawRecord]) -> Rows {
        let row = |(n, r): (i64, &RawRecord)| {
            let value = Bytes::from(r.value.clone().unwrap());
            ((r.partition, Bytes::from(r.key.clone())), Row { offset: n, value })
        };
        (0..).zip(records).map(row).collect()
    }

    #[test]
    fn source_offsets_have_connects_shape_and_read_back() {
        let topic: Arc<str> = "g-offsets".into();
        let partition = SourcePartition(r#"{"server":"shop"}"#.into());
        let offsets = SourceOffsets::from([(partition, offset(json!({"lsn": 7, "txId": 3})))]);
        let records = source_records(&topic, 25, "shop", &offsets).unwrap();
        assert_eq!(String::from_utf8_lossy(&records[0].key), r#"["shop",{"server":"shop"}]"#);
        assert_eq!(String::from_utf8_lossy(records[0].value.as_ref().unwrap()), r#"{"lsn":7,"txId":3}"#);
        let rows = rows(&records);
        assert_eq!(read_source(&rows, "shop").unwrap(), offsets);
        assert_eq!(read_source(&rows, "other").unwrap(), SourceOffsets::new());
        let gone = source_tombstones(&topic, &rows, "shop", &[]);
        assert_eq!((gone.len(), &gone[0].value, &gone[0].key), (1, &None, &records[0].key));
        assert_eq!(source_tombstones(&topic, &rows, "shop", &records), []);
    }

    #[test]
    fn a_key_written_by_a_tool_with_other_white_space_is_the_same_key_and_the_newer_counts() {
        let mut rows = Rows::new();
        let row = |offset, text: &str| Row { offset, value: Bytes::copy_from_slice(text.as_bytes()) };
        rows.insert((0, Bytes::from_static(br#"["shop",{"a":1,"b":2}]"#)), row(5, r#"{"lsn":1}"#));
        rows.insert((0, Bytes::from_static(br#"["shop", {"b": 2, "a": 1}]"#)), row(9, r#"{"lsn":2}"#));
        rows.insert((0, Bytes::from_static(b"garbage")), row(10, "x"));
        let read = read_source(&rows, "shop").unwrap();
        let only = read.into_iter().next().unwrap();
        assert_eq!(only, (SourcePartition(r#"{"a":1,"b":2}"#.into()), offset(json!({"lsn": 2}))));
    }

    #[test]
    fn sink_offsets_read_back() {
        let topic: Arc<str> = "g-sink-offsets".into();
        let offsets = TopicOffsets::from([(TopicPartition::new("a.b", 3), 17)]);
        let records = sink_records(&topic, 5, "connect-x", offsets.iter().map(|(p, o)| (p, Some(*o))));
        let mut rows = rows(&records);
        assert_eq!(read_sink(&rows, "connect-x").unwrap(), offsets);
        assert_eq!(read_sink(&rows, "connect-y").unwrap(), TopicOffsets::new());
        let key = rows.keys().next().unwrap().clone();
        rows.insert(key, Row { offset: 9, value: Bytes::from_static(b"?") });
        assert!(matches!(read_sink(&rows, "connect-x"), Err(LogError::Corrupt { .. })));
    }
}
