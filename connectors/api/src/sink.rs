//! The contract of a sink connector, and the records it receives.

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;

use crate::{
    change::DELETED_HEADER,
    config::ConfigSpec,
    error::{ConfigErrors, ConnectorError, RecordError},
    offset::{TopicOffsets, TopicPartition},
    schema::Schema,
    source::{Delivery, TaskContext},
    value::ValueRef,
};

/// Reads the bytes of one schema version. One per schema id, shared by all its records.
pub trait DatumDecoder: Send + Sync + fmt::Debug {
    /// Schema of what the bytes hold.
    fn schema(&self) -> &Arc<Schema>;
    /// Decodes the whole datum in physical form, borrowing from `bytes`. For a STRUCT: `ValueRef::Struct`.
    ///
    /// # Errors
    /// The bytes do not hold a datum of the schema.
    fn decode<'a>(&self, bytes: &'a [u8]) -> Result<ValueRef<'a>, RecordError>;
    /// As `decode` for a STRUCT, but fields not in `wanted` (by index) come as `ValueRef::Absent` and cost little.
    ///
    /// # Errors
    /// As `decode`.
    fn decode_fields<'a>(&self, bytes: &'a [u8], wanted: &[usize]) -> Result<Vec<ValueRef<'a>>, RecordError>;
}

/// A key or a value: bytes without the converter's prefix, and how to read them.
#[derive(Debug, Clone)]
pub struct Datum {
    /// Encoded datum (Avro binary), without the five bytes of Confluent framing.
    pub bytes: Bytes,
    /// Its reader.
    pub decoder: Arc<dyn DatumDecoder>,
}

impl Datum {
    /// The schema it was written with.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        self.decoder.schema()
    }
    /// Decodes it whole.
    ///
    /// # Errors
    /// The bytes do not hold a datum of the schema.
    pub fn decode(&self) -> Result<ValueRef<'_>, RecordError> {
        self.decoder.decode(&self.bytes)
    }
}

/// A record's place in the topic log; unique and stable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// Offset in it.
    pub offset: i64,
}

/// One record of a topic, as a sink receives it.
#[derive(Debug, Clone)]
pub struct SinkRecord {
    /// Where it stands in the log.
    pub id: RecordId,
    /// Topic as the connector's transforms left it; the one of `id` where there are none.
    pub topic: Arc<str>,
    /// A transform dropped it, or it was disposed of already: the sink moves its position past it, and does nothing else.
    pub dropped: bool,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// `None` for a null key.
    pub key: Option<Datum>,
    /// `None` for a tombstone.
    pub value: Option<Datum>,
    /// Record headers, in order.
    pub headers: Vec<(Arc<str>, Bytes)>,
}

impl SinkRecord {
    /// A record that the sink is only to pass.
    #[must_use]
    pub fn dropped(id: RecordId, timestamp_ms: i64) -> Self {
        let topic = Arc::clone(&id.partition.topic);
        Self { id, topic, dropped: true, timestamp_ms, key: None, value: None, headers: Vec::new() }
    }

    /// Whether it is a tombstone that is all there is of a delete.
    #[must_use]
    pub fn is_delete_itself(&self) -> bool {
        self.value.is_none() && self.headers.iter().any(|(name, _)| &**name == DELETED_HEADER)
    }
}

/// As [`SourceConnector`](crate::SourceConnector), for sinks. There is no `resume`: `open` answers it.
pub trait SinkConnector: Sized + Send + Sync + 'static {
    /// Value of `connector:` in YAML, metric label, docs slug.
    const NAME: &'static str;
    /// What the user typed.
    type Config: ConfigSpec;
    /// What was understood.
    type Plan: Clone + Send + Sync + 'static;
    /// The running task.
    type Task: SinkTask;

    /// Pure: no I/O, clock or environment. Reports every problem, not the first.
    ///
    /// # Errors
    /// All that is wrong, each with its field.
    fn validate(config: Self::Config) -> Result<Self::Plan, ConfigErrors>;
    /// The promise this plan can keep.
    fn delivery(plan: &Self::Plan) -> Delivery;
    /// Read-only look at the live system.
    fn preflight(plan: &Self::Plan) -> impl Future<Output = Result<(), ConnectorError>> + Send;
    /// Connects and fences any older task of the same connector and number.
    fn start(
        plan: Self::Plan,
        cx: TaskContext,
    ) -> impl Future<Output = Result<Self::Task, ConnectorError>> + Send;
}

/// A running sink task. One caller: `open` → (`put`* → `flush`)* → `close`.
pub trait SinkTask: Send + 'static {
    /// Whether the destination itself holds the positions. Then the group's committed offsets are never resumed from; they only
    /// tell that there *should* be a position, so that a destination which lost its own is noticed and refused.
    fn keeps_offsets(&self) -> bool;
    /// Takes these partitions; answers with positions the destination already holds. A partition missing from the
    /// answer is new to it, or, for a sink that keeps no offsets, resumes from the group's committed offset. Called again when new topics appear; never with a
    /// partition that is already open.
    fn open(
        &mut self,
        gained: &[TopicPartition],
    ) -> impl Future<Output = Result<TopicOffsets, ConnectorError>> + Send;
    /// Accepts records in order per partition. `Ok` means accepted, not durable; refused records come back with
    /// their reasons for the tolerance policy, which has dead-lettered or skipped them before the next `flush`.
    /// Not cancel-safe: the caller drives it to its end or drops the task.
    fn put(
        &mut self,
        records: Vec<SinkRecord>,
    ) -> impl Future<Output = Result<Vec<(RecordId, RecordError)>, ConnectorError>> + Send;
    /// Makes everything accepted durable, together with the offsets it returns; refused records count as done. May
    /// refuse further records, like `put`, when the destination rejects them only now.
    /// A sink that delivers on its own time (webhook) returns what is done so far and does not wait for the rest.
    fn flush(&mut self) -> impl Future<Output = Result<Flushed, ConnectorError>> + Send;
    /// How many bytes of accepted records are not yet durable; the loop reads on while it is below its budget.
    fn pending_bytes(&self) -> usize;
    /// Whether the sink takes no more for now, by a bound of its own (a number of records); the loop then waits for
    /// `progress` before the next `put`, whatever `pending_bytes` says.
    fn is_full(&self) -> bool {
        false
    }
    /// Waits until `flush` would return more than it last did. Cancel-safe. Only called while something is pending;
    /// a sink whose `flush` always finishes everything returns at once.
    fn progress(&mut self) -> impl Future<Output = ()> + Send;
    /// Finishes what can be finished before the deadline the caller holds, and disconnects.
    fn close(&mut self) -> impl Future<Output = Result<Flushed, ConnectorError>> + Send;
}

/// What a flush achieved.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Next offset per partition: everything below is durable at the destination, or refused.
    pub offsets: TopicOffsets,
    /// Records refused since the last `put` or `flush`, with the reasons.
    pub refused: Vec<(RecordId, RecordError)>,
}
