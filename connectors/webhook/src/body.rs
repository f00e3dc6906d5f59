//! The body of a delivery.
//!
//! It is a pure function of the record, its place in the log and the configuration: nothing about the delivery (time,
//! attempt, process) is inside, so every delivery of a record is the same, byte for byte, and a receiver may store or
//! hash the body. One JSON object, its members always in this order:
//!
//! ```json
//! {"id":"msg_…","topic":"shop.public.orders","partition":0,"offset":42,"timestamp_ms":1700000000000,
//!  "key":{"id":7},"value":{"before":null,"after":{…},"source":{…},"op":"u","ts_ms":…}}
//! ```
//!
//! - `id` is the `webhook-id` header again, so that a stored body can still be told from its repetitions.
//! - `timestamp_ms` is the record's: for a change, when its transaction committed.
//! - `key` is null for a record without a key, `value` for a tombstone.
//! - With `body: after` there is an `op` before `value` (`c`, `u`, `d`, `r`, `t`; null when the record is not a change
//!   event), and `value` is the row after the change: null for a delete or truncate. A record that is not a change event
//!   comes whole.
//! - Record headers are not sent.
//! - How single values look is said in [`rowstream_api::json`].

use std::sync::Arc;

use bytes::Bytes;
use rowstream_api::{Datum, RecordError, RecordId, Stage, ValueRef, json::write_json};

use crate::config::BodyKind;

/// What is kept of a record until it is delivered. Its bytes are its own: a record that waits for hours must not hold
/// the memory of the batch it came in.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: RecordId,
    pub(crate) topic: Arc<str>,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Datum>,
    pub(crate) value: Option<Datum>,
}

/// Renders the body of a record.
pub(crate) fn render(record: &Pending, webhook_id: &str, kind: BodyKind) -> Result<Bytes, RecordError> {
    let key_len = record.key.as_ref().map_or(0, |key| key.bytes.len());
    let value_len = record.value.as_ref().map_or(0, |value| value.bytes.len());
    let mut out = Vec::with_capacity(256 + 2 * (key_len + value_len));
    let RecordId { partition, offset } = &record.id;
    out.extend_from_slice(b"{\"id\":");
    write_text(webhook_id, &mut out);
    out.extend_from_slice(b",\"topic\":");
    write_text(&record.topic, &mut out);
    let place = format!(
        ",\"partition\":{},\"offset\":{offset},\"timestamp_ms\":{},\"key\":",
        partition.partition, record.timestamp_ms
    );
    out.extend_from_slice(place.as_bytes());
    write_whole(record.key.as_ref(), &mut out)
        .map_err(|e| RecordError { stage: Stage::KeyConverter, ..e })?;
    match (kind, &record.value) {
        (BodyKind::After, Some(value)) if value.schema().is_envelope() => write_after(value, &mut out)?,
        (BodyKind::After, value) => {
            out.extend_from_slice(b",\"op\":null,\"value\":");
            write_whole(value.as_ref(), &mut out)?;
        }
        (BodyKind::Event, value) => {
            out.extend_from_slice(b",\"value\":");
            write_whole(value.as_ref(), &mut out)?;
        }
    }
    out.push(b'}');
    Ok(out.into())
}

fn write_whole(datum: Option<&Datum>, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match datum {
        None => out.extend_from_slice(b"null"),
        Some(datum) => write_json(datum.schema(), &datum.decode()?, out)?,
    }
    Ok(())
}

fn write_after(envelope: &Datum, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let schema = envelope.schema();
    let (Some((op, op_field)), Some((after, after_field))) = (schema.field("op"), schema.field("after"))
    else {
        return Err(RecordError::value("ENVELOPE_INCOMPLETE", "the envelope has no `op` or no `after`"));
    };
    let fields = envelope.decoder.decode_fields(&envelope.bytes, &[op, after])?;
    out.extend_from_slice(b",\"op\":");
    write_json(&op_field.schema, fields.get(op).unwrap_or(&ValueRef::Absent), out)?;
    out.extend_from_slice(b",\"value\":");
    write_json(&after_field.schema, fields.get(after).unwrap_or(&ValueRef::Absent), out)
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}
