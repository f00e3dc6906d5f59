//! A source's records on their way through its transforms.
//!
//! **All or nothing per change.** The records of one change go through the steps and are framed first; they reach the group only
//! when each of them has been, in order.
//!
//! **Registration.** What comes out has a schema and a topic that may be met for the first time. A visit can't wait, so [`SourceChain::push`]
//! says what it does not know yet, having done nothing; the encoder asks the registry or the log, and pushes the change again. The steps are pure,
//! so they make the same of it.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use rowstream_api::{Datum, DatumDecoder, RecordError, Schema, Stage, TopicPartition};
use rowstream_avro::put_frame_header;
use rowstream_transforms::{Chain, Part as RecordPart, Record as Transformed};

use super::{
    chain::Reencoder,
    encode::fits,
    group::{Record, RecordGroup},
    partition::partition_of,
    tap::Tap,
};
use crate::{schema_registry::Part, topic_log::batch::Header};

/// Bytes of the Confluent frame.
const FRAME: usize = 5;

/// A record before the steps.
#[derive(Debug)]
pub struct Staged {
    /// Topic of its table.
    pub topic: Arc<str>,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Datum>,
    /// Its value.
    pub value: Option<Datum>,
    /// Its own headers.
    pub headers: Vec<(Arc<str>, Vec<u8>)>,
}

impl Staged {
    /// A framed key or value with its reader.
    #[must_use]
    pub fn datum(framed: Option<&[u8]>, reader: Option<&Arc<dyn DatumDecoder>>) -> Option<Datum> {
        let bytes = Bytes::copy_from_slice(framed?.get(FRAME..)?);
        Some(Datum { bytes, decoder: Arc::clone(reader?) })
    }
}

/// What the encoder must find out before the change can be pushed.
pub enum Unknown {
    /// The id of a schema under a topic.
    Schema {
        /// Topic it is for.
        topic: Arc<str>,
        /// Key or value.
        part: Part,
        /// The schema.
        schema: Arc<Schema>,
    },
    /// The partitions of a topic.
    Topic(Arc<str>),
}

/// The steps of a source's task, and what is known of what comes out of them.
pub struct SourceChain {
    chain: Chain,
    reencoder: Reencoder,
    ids: Ids,
    topics: HashMap<Arc<str>, Vec<TopicPartition>>,
    record_bytes_max: usize,
    tap: Tap,
}

/// Ids of schemas by topic, part and the schema's address; the schema is held, so that an address is never reused.
type Ids = HashMap<(Arc<str>, Part, usize), (Arc<Schema>, u32)>;

/// A record behind the steps, framed.
struct Made<'a> {
    partition: &'a TopicPartition,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Arc<str>, Vec<u8>)>,
}

impl SourceChain {
    /// Around the chain of this run; whoever looks does so by `tap`.
    #[must_use]
    pub fn new(chain: Chain, tap: Tap) -> Self {
        Self {
            chain,
            reencoder: Reencoder::default(),
            ids: HashMap::new(),
            topics: HashMap::new(),
            record_bytes_max: usize::MAX,
            tap,
        }
    }

    /// A schema's id is known now.
    pub fn registered(&mut self, topic: Arc<str>, part: Part, (schema, id): (Arc<Schema>, u32)) {
        self.ids.insert((topic, part, Arc::as_ptr(&schema).addr()), (schema, id));
    }

    /// A topic's partitions are known now, and the largest record that the log takes.
    pub fn made(&mut self, topic: Arc<str>, partitions: Vec<TopicPartition>, record_bytes_max: usize) {
        self.topics.insert(topic, partitions);
        self.record_bytes_max = record_bytes_max;
    }

    /// Runs the records of one change through the steps and appends what comes out; answers what it must know first.
    ///
    /// # Errors
    /// A step can't handle a record, or what it made does not fit its schema, its topic or the log; nothing was appended.
    pub fn push(
        &mut self,
        staged: &[Staged],
        group: &mut RecordGroup,
        common: &[Header<'_>],
    ) -> Result<Option<Unknown>, RecordError> {
        let Self { chain, reencoder, ids, topics, record_bytes_max, tap } = self;
        let mut ready = Vec::with_capacity(staged.len());
        for record in staged {
            for made in tap.apply(chain, transformed(record))? {
                let key = match framed(&made.topic, Part::Key, reencoder.datum(&made.key)?, ids) {
                    Ok(key) => key,
                    Err(unknown) => return Ok(Some(unknown)),
                };
                let value = match framed(&made.topic, Part::Value, reencoder.datum(&made.value)?, ids) {
                    Ok(value) => value,
                    Err(unknown) => return Ok(Some(unknown)),
                };
                let Some(partitions) = topics.get(&made.topic) else {
                    return Ok(Some(Unknown::Topic(made.topic)));
                };
                let partition = partition(partitions, &made, key.as_deref())?;
                let headers: Vec<_> =
                    made.headers.into_iter().map(|(name, value)| (name, value.into_owned())).collect();
                let own: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                let shared: usize = common.iter().map(|(name, value)| name.len() + value.len()).sum();
                let lengths = key.as_ref().map_or(0, Vec::len) + value.as_ref().map_or(0, Vec::len);
                fits(&made.topic, lengths + own + shared, *record_bytes_max)?;
                ready.push(Made { partition, timestamp_ms: made.timestamp_ms, key, value, headers });
            }
        }
        for Made { partition, timestamp_ms, key, value, headers } in ready {
            let headers: Vec<Header<'_>> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            let record =
                Record { timestamp_ms, key: key.as_deref(), value: value.as_deref(), headers: &headers };
            group.push(partition, &record, common);
        }
        Ok(None)
    }
}

fn transformed(staged: &Staged) -> Transformed<'_> {
    Transformed {
        topic: Arc::clone(&staged.topic),
        partition: None,
        timestamp_ms: staged.timestamp_ms,
        key: staged.key.as_ref().map_or(RecordPart::Null, RecordPart::Encoded),
        value: staged.value.as_ref().map_or(RecordPart::Null, RecordPart::Encoded),
        headers: staged
            .headers
            .iter()
            .map(|(name, value)| (Arc::clone(name), value.as_slice().into()))
            .collect(),
    }
}

/// The bytes with the id of their schema in front.
fn framed(topic: &Arc<str>, part: Part, datum: Option<Datum>, ids: &Ids) -> Result<Option<Vec<u8>>, Unknown> {
    let Some(datum) = datum else { return Ok(None) };
    let schema = datum.schema();
    let Some((_, id)) = ids.get(&(Arc::clone(topic), part, Arc::as_ptr(schema).addr())) else {
        return Err(Unknown::Schema { topic: Arc::clone(topic), part, schema: Arc::clone(schema) });
    };
    let mut framed = Vec::with_capacity(FRAME + datum.bytes.len());
    put_frame_header(*id, &mut framed);
    framed.extend_from_slice(&datum.bytes);
    Ok(Some(framed))
}

/// The partition that a step chose, or the one of the key.
fn partition<'a>(
    partitions: &'a [TopicPartition],
    made: &Transformed<'_>,
    key: Option<&[u8]>,
) -> Result<&'a TopicPartition, RecordError> {
    let count = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
    let wanted = made.partition.unwrap_or_else(|| partition_of(key, count));
    partitions.get(wanted as usize).ok_or_else(|| {
        let topic = &made.topic;
        let message = format!("a transform chose partition {wanted} of topic `{topic}`, which has {count}");
        RecordError::new(Stage::Transformation, "TRANSFORM_PARTITION_UNKNOWN", message)
    })
}
