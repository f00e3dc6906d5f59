//! Records of a topic as JSON lines, read while the client takes them.
//!
//! What is held is one batch of the log and one chunk of lines, whatever the topic's size: the next batch is read when the client
//! has taken the last chunk. Dropping the stream (the client went away) ends the reading. A record that can't be decoded is a
//! line too, with its bytes and the reason; only a log that can't be read ends the stream early, with a last line that says so.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Stream, stream};
use rowstream_api::{
    Chain, ConnectorError, Datum, RecordError, RecordId, SinkRecord, TopicPartition, json::write_json,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    pipeline::decode::RecordDecoder,
    redrive::{
        Memory,
        letter::{Place, Reason, Selection},
    },
    schema_registry::SchemaRegistry,
    task::log_failure,
    topic_log::{LogError, LogEvent, LogReader, RecordRef, SeekTo},
};

/// Lines sent at once, about.
const CHUNK_BYTES: usize = 64 << 10;
/// While following, an empty line this often: only a write tells that a silent client is gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// What to read.
pub(super) struct Read {
    /// The partitions, and where each starts.
    pub(super) starts: BTreeMap<TopicPartition, SeekTo>,
    /// Where each ends, unless followed; only those with something to read.
    pub(super) ends: BTreeMap<TopicPartition, i64>,
    /// Most lines.
    pub(super) limit: Option<u64>,
    /// Whether to wait for more at the end.
    pub(super) follow: bool,
    /// Only dead letters, and these.
    pub(super) letters: Option<Letters>,
}

/// Dead letters of one connector.
pub(super) struct Letters {
    pub(super) connector: String,
    pub(super) selection: Selection,
    /// Which were redriven.
    pub(super) memory: Memory,
    /// Only those that were not.
    pub(super) waiting: bool,
}

impl Letters {
    /// What is told of a letter; `None` for a record that is not wanted.
    fn told(&self, record: &Decoded) -> Option<Value> {
        let (id, reason) = match record {
            Ok(record) => {
                let headers = record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_ref()));
                (&record.id, Reason::of(headers)?)
            }
            Err(bad) => {
                let headers = bad.1.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
                (&bad.0, Reason::of(headers)?)
            }
        };
        let place = Place { partition: id.partition.partition, offset: id.offset };
        let redriven = self.memory.holds(place);
        let wanted = reason.connector == self.connector && self.selection.has(place, &reason);
        if !wanted || (self.waiting && redriven) {
            return None;
        }
        let mut told = json!(reason);
        if let Some(members) = told.as_object_mut() {
            members.insert("redriven".to_owned(), Value::Bool(redriven));
        }
        Some(told)
    }
}

type Decoded = Result<SinkRecord, Box<(RecordId, RecordRef, RecordError)>>;

struct Reading {
    reader: Box<dyn LogReader>,
    decoder: RecordDecoder,
    read: Read,
    ready: VecDeque<Decoded>,
    over: bool,
}

enum Filled {
    Something,
    /// Nothing came for a while.
    Nothing,
}

/// The lines, in chunks.
pub(super) fn lines(
    reader: Box<dyn LogReader>,
    registry: Arc<dyn SchemaRegistry>,
    read: Read,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let decoder = RecordDecoder::new(registry);
    let reading = Reading { reader, decoder, read, ready: VecDeque::new(), over: false };
    stream::unfold(reading, |mut reading| async move {
        let chunk = reading.chunk().await?;
        Some((Ok(chunk), reading))
    })
}

impl Reading {
    /// The next lines; `None` at the end.
    async fn chunk(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.is_empty() {
            if self.over || self.finished() {
                return None;
            }
            if self.ready.is_empty() {
                match self.fill().await {
                    Ok(Filled::Something) => {}
                    // Retention has taken what was to be read.
                    Ok(Filled::Nothing) if !self.read.follow => self.over = true,
                    Ok(Filled::Nothing) => out.push(b'\n'),
                    Err(error) => {
                        self.over = true;
                        line(&json!({ "error": Chain(&error).to_string(), "code": error.code }), &mut out);
                    }
                }
            }
            while out.len() < CHUNK_BYTES && self.read.limit != Some(0) {
                let Some(record) = self.ready.pop_front() else { break };
                let told = match &self.read.letters {
                    Some(letters) => match letters.told(&record) {
                        Some(told) => Some(told),
                        None => continue,
                    },
                    None => None,
                };
                write_record(&record, told.as_ref(), &mut out);
                self.read.limit = self.read.limit.map(|left| left - 1);
            }
        }
        Some(out.into())
    }

    fn finished(&self) -> bool {
        let at_end = !self.read.follow && self.ready.is_empty() && self.read.ends.is_empty();
        at_end || self.read.limit == Some(0)
    }

    /// Reads the next batch. Only the wait for it is bounded: a batch once read is decoded to its end.
    async fn fill(&mut self) -> Result<Filled, ConnectorError> {
        let Ok(event) = timeout(SIGN_OF_LIFE, self.reader.next()).await else { return Ok(Filled::Nothing) };
        match event.map_err(unreadable)? {
            LogEvent::Gained(partitions) => {
                for partition in partitions {
                    if let Some(at) = self.read.starts.get(&partition) {
                        self.reader.seek(&partition, *at).map_err(unreadable)?;
                    }
                }
            }
            LogEvent::Batch(batch) => {
                let records = self.decoder.batch(&batch).await?.into_iter().map(|r| r.map_err(Box::new));
                let next = batch.base_offset.saturating_add(i64::from(batch.records.count()));
                if self.read.follow {
                    self.ready.extend(records);
                } else if let Some(end) = self.read.ends.get(&batch.partition).copied() {
                    let offsets = batch.base_offset..end;
                    self.ready.extend(offsets.zip(records).map(|(_, record)| record));
                    if next >= end {
                        self.read.ends.remove(&batch.partition);
                    }
                }
            }
        }
        Ok(Filled::Something)
    }
}

fn unreadable(error: LogError) -> ConnectorError {
    log_failure("read the topic log", error)
}

fn write_record(record: &Decoded, letter: Option<&Value>, out: &mut Vec<u8>) {
    match record {
        Ok(record) => {
            let start = out.len();
            if let Err(error) = write_decoded(record, letter, out) {
                out.truncate(start);
                let header = |(name, value): &(Arc<str>, Bytes)| (name.to_string(), value.clone());
                let frame = |datum: &Option<Datum>| datum.as_ref().map(|d| d.bytes.clone());
                undecodable(
                    &Undecodable {
                        id: &record.id,
                        timestamp_ms: record.timestamp_ms,
                        key: frame(&record.key),
                        value: frame(&record.value),
                        headers: record.headers.iter().map(header).collect(),
                        error: &error,
                        letter,
                    },
                    out,
                );
            }
        }
        Err(bad) => {
            let (id, record, error) = &**bad;
            let header = |(n, v): &(Bytes, Bytes)| (String::from_utf8_lossy(n).into_owned(), v.clone());
            undecodable(
                &Undecodable {
                    id,
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.clone(),
                    value: record.value.clone(),
                    headers: record.headers.iter().map(header).collect(),
                    error,
                    letter,
                },
                out,
            );
        }
    }
}

/// `{"topic","partition","offset","timestamp","headers","key","value"}`, straight from Avro to JSON.
fn write_decoded(record: &SinkRecord, letter: Option<&Value>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let headers: Vec<Value> = record.headers.iter().map(|(name, value)| header(name, value)).collect();
    let mut place = place(&record.id, record.timestamp_ms, headers, letter).to_string().into_bytes();
    place.pop(); // The closing brace: key and value follow.
    out.extend_from_slice(&place);
    for (name, datum) in [("key", &record.key), ("value", &record.value)] {
        out.extend_from_slice(format!(",\"{name}\":").as_bytes());
        match datum {
            Some(datum) => write_json(datum.schema(), &datum.decode()?, out)?,
            None => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

struct Undecodable<'a> {
    id: &'a RecordId,
    timestamp_ms: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Bytes)>,
    error: &'a RecordError,
    letter: Option<&'a Value>,
}

fn undecodable(record: &Undecodable<'_>, out: &mut Vec<u8>) {
    let headers = record.headers.iter().map(|(name, value)| header(name, value)).collect();
    let mut body = place(record.id, record.timestamp_ms, headers, record.letter);
    if let Some(members) = body.as_object_mut() {
        let base64 = |bytes: &Option<Bytes>| json!(bytes.as_ref().map(|b| STANDARD.encode(b)));
        let RecordError { stage, code, message } = record.error;
        let why = json!({ "stage": stage.as_str(), "code": code, "message": message });
        members.insert("key_base64".to_owned(), base64(&record.key));
        members.insert("value_base64".to_owned(), base64(&record.value));
        members.insert("undecodable".to_owned(), why);
    }
    line(&body, out);
}

fn place(id: &RecordId, timestamp_ms: i64, headers: Vec<Value>, letter: Option<&Value>) -> Value {
    let mut body = json!({
        "topic": id.partition.topic,
        "partition": id.partition.partition,
        "offset": id.offset,
        "timestamp": timestamp_ms,
        "headers": headers,
    });
    if let (Some(letter), Some(members)) = (letter, body.as_object_mut()) {
        members.insert("dead_letter".to_owned(), letter.clone());
    }
    body
}

/// A list, because names may repeat; a value that is no text comes in base64.
fn header(name: &str, value: &Bytes) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => json!({ "name": name, "value": text }),
        Err(_) => json!({ "name": name, "value_base64": STANDARD.encode(value) }),
    }
}

fn line(body: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(body.to_string().as_bytes());
    out.push(b'\n');
}
