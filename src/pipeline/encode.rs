//! Changes to records.
//!
//! **Order.** One visit goes through the changes in commit order and appends each one's records at once, so records of a key are
//! in commit order, and a change's records (`d`, tombstone, `c` of a rekey) are adjacent in each partition.
//!
//! **All or nothing per change.** A change that can't be encoded leaves nothing behind: key and values are encoded into
//! scratch buffers first and reach the batch only when all of them succeeded. What happens then is the caller's policy.
//!
//! **Registration.** The schema registry is asked only when a table version is met for the first time. A visit can't wait, so it
//! stops at the first change of an unknown table; [`EventEncoder::encode`] registers the table and visits again from there.
//!
//! **Transforms.** Where the connector has some, a change's records go through them one by one before any reaches the batch
//! ([`super::chained`]), and what is registered is what comes out. Records that are no rows ([`Change::Message`]) pass them by.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rowstream_api::{
    Change, ChangeSet, ChangeView, ConnectorError, DatumDecoder, Op, ROW_FOLLOWS_HEADER, RecordError,
    RowView, TableSchema, TopicPartition, UNAVAILABLE_HEADER, ValueRef,
};
use rowstream_avro::{AvroDecoder, EnvelopePlan, Event, put_frame_header, to_avro_json};

use super::{
    chained::{SourceChain, Staged, Unknown},
    group::{Record, RecordGroup},
    partition::partition_of,
};
use crate::{
    schema_registry::{Part, SchemaRegistry, SubjectStrategy},
    topic_log::{LogWriter, batch::Header},
};

/// What one call achieved.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Changes that became records.
    pub changes: u64,
    /// The first change that could not: its ordinal in the set, its topic, and why. Changes before it are in the group,
    /// changes from it on are not.
    pub refused: Option<Refused>,
}

/// A change that could not be encoded.
#[derive(Debug)]
pub struct Refused {
    /// Ordinal in the change set.
    pub ordinal: usize,
    /// Its topic.
    pub topic: Arc<str>,
    /// Its framed key, where that much could be encoded.
    pub key: Option<Vec<u8>>,
    /// Its records before the transforms, where it was these that refused one of them.
    pub staged: Vec<Staged>,
    /// Why.
    pub error: RecordError,
}

struct Table {
    schema: Arc<TableSchema>,
    plan: EnvelopePlan,
    route: Route,
}

/// Where a table's records go.
enum Route {
    /// To the log.
    Log {
        key_id: u32,
        value_id: u32,
        partitions: Vec<TopicPartition>,
        /// The largest record that the log takes.
        record_bytes_max: usize,
    },
    /// To the transforms, which read them so.
    Chain { key: Option<Arc<dyn DatumDecoder>>, value: Arc<dyn DatumDecoder> },
}

/// Encodes changes of one source task. Not shared.
pub struct EventEncoder {
    registry: Arc<dyn SchemaRegistry>,
    subjects: SubjectStrategy,
    tables: HashMap<usize, Table>,
    common: Vec<(String, Vec<u8>)>,
    chain: Option<SourceChain>,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    old_key: Vec<u8>,
    value: Vec<u8>,
    second: Vec<u8>,
    unavailable: Vec<usize>,
    /// Records of the change in hand, for the transforms.
    staged: Vec<Staged>,
}

enum Pause {
    Unknown(Arc<TableSchema>, Vec<(String, Vec<u8>)>),
    /// The transforms made something new.
    Made(Unknown),
    Refused(Refused),
}

impl EventEncoder {
    /// An encoder for one run of a task; `run_id` goes into every record's context headers.
    #[must_use]
    pub fn new(
        registry: Arc<dyn SchemaRegistry>,
        subjects: SubjectStrategy,
        task: usize,
        run_id: &str,
        chain: Option<SourceChain>,
    ) -> Self {
        let common = vec![
            ("__debezium.context.taskId".to_owned(), task.to_string().into_bytes()),
            ("__debezium.context.runId".to_owned(), run_id.as_bytes().to_vec()),
        ];
        Self { registry, subjects, tables: HashMap::new(), common, chain, scratch: Scratch::default() }
    }

    /// Encodes the changes from ordinal `from` on into `group`.
    ///
    /// # Errors
    /// The registry refused or could not be reached, the log could not make a topic, or the set can't be framed.
    pub async fn encode(
        &mut self,
        changes: &dyn ChangeSet,
        from: usize,
        writer: &mut dyn LogWriter,
        group: &mut RecordGroup,
    ) -> Result<Encoded, ConnectorError> {
        let mut done = from;
        loop {
            let pause = self.visit(changes, &mut done, group)?;
            let encoded = Encoded { changes: (done - from) as u64, refused: None };
            match pause {
                None => return Ok(encoded),
                Some(Pause::Unknown(table, logical)) => self.learn(table, logical, writer).await?,
                Some(Pause::Made(unknown)) => self.learn_made(unknown, writer).await?,
                Some(Pause::Refused(refused)) => return Ok(Encoded { refused: Some(refused), ..encoded }),
            }
        }
    }

    /// Visits from `done` on until the end, an unknown table or a refused change; moves `done` past what it encoded.
    fn visit(
        &mut self,
        changes: &dyn ChangeSet,
        done: &mut usize,
        group: &mut RecordGroup,
    ) -> Result<Option<Pause>, ConnectorError> {
        let (tables, scratch, chain) = (&self.tables, &mut self.scratch, &mut self.chain);
        let common: Vec<Header<'_>> = self.common.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        let now_us = now_us();
        let mut pause = None;
        let mut ordinal = 0;
        let skip = *done;
        let mut visitor = |view: ChangeView<'_>| {
            ordinal += 1;
            if ordinal <= skip {
                return Ok(());
            }
            let Some(table) = tables.get(&address(view.table)) else {
                pause = Some(Pause::Unknown(Arc::clone(view.table), context_headers(&view)));
                return Err(stop());
            };
            let push = Push { table, view: &view, now_us, scratch, group, common: &common };
            let mut staged_whole = false;
            let pushed = push.run().and_then(|()| match chain {
                Some(chain) => {
                    staged_whole = true;
                    chain.push(&scratch.staged, group, &common)
                }
                None => Ok(None),
            });
            match pushed {
                Ok(None) => {
                    *done = ordinal;
                    Ok(())
                }
                Ok(Some(unknown)) => {
                    pause = Some(Pause::Made(unknown));
                    Err(stop())
                }
                Err(error) => {
                    // Before the transforms a key has no schema id, and would say nothing to whoever reads it.
                    let key = (chain.is_none() && !scratch.key.is_empty()).then(|| scratch.key.clone());
                    let topic = Arc::clone(&view.table.topic);
                    let staged = if staged_whole { std::mem::take(&mut scratch.staged) } else { Vec::new() };
                    pause = Some(Pause::Refused(Refused { ordinal: ordinal - 1, topic, key, staged, error }));
                    Err(stop())
                }
            }
        };
        let outcome = changes.visit(&mut visitor);
        if pause.is_some() { Ok(pause) } else { outcome.map(|()| None) }
    }

    fn registry(&self) -> (Arc<dyn SchemaRegistry>, SubjectStrategy) {
        (Arc::clone(&self.registry), self.subjects)
    }

    async fn learn(
        &mut self,
        schema: Arc<TableSchema>,
        context: Vec<(String, Vec<u8>)>,
        writer: &mut dyn LogWriter,
    ) -> Result<(), ConnectorError> {
        for (name, value) in context {
            if !self.common.iter().any(|(known, _)| *known == name) {
                self.common.push((name, value));
            }
        }
        let plan = EnvelopePlan::compile(&schema);
        // Steps are made for rows, and would fail at what has none.
        let route = if self.chain.is_some() && schema.envelope.is_envelope() {
            let key = schema.key.as_ref().map(|key| AvroDecoder::new(Arc::clone(key)));
            Route::Chain { key, value: AvroDecoder::new(Arc::clone(&schema.envelope)) }
        } else {
            let topic = &schema.topic;
            let key_id = match &schema.key {
                Some(key) => register(self.registry(), topic, Part::Key, &to_avro_json(key)).await?,
                None => 0,
            };
            let value_id =
                register(self.registry(), topic, Part::Value, &to_avro_json(&schema.envelope)).await?;
            let partitions = partitions(writer, topic).await?;
            let record_bytes_max = writer.record_bytes_max().unwrap_or(usize::MAX);
            Route::Log { key_id, value_id, partitions, record_bytes_max }
        };
        let table = Table { plan, route, schema };
        self.tables.insert(address(&table.schema), table);
        Ok(())
    }

    async fn learn_made(
        &mut self,
        unknown: Unknown,
        writer: &mut dyn LogWriter,
    ) -> Result<(), ConnectorError> {
        let registry = self.registry();
        match &mut self.chain {
            Some(chain) => learn(chain, unknown, registry, writer).await,
            None => Ok(()),
        }
    }

    /// The headers that every record of this run has.
    #[must_use]
    pub fn common(&self) -> &[(String, Vec<u8>)] {
        &self.common
    }
}

/// Registers what transforms made, or makes the topic that they chose.
///
/// # Errors
/// The registry refused or could not be reached, or the log could not make the topic.
pub async fn learn(
    chain: &mut SourceChain,
    unknown: Unknown,
    registry: (Arc<dyn SchemaRegistry>, SubjectStrategy),
    writer: &mut dyn LogWriter,
) -> Result<(), ConnectorError> {
    match unknown {
        Unknown::Schema { topic, part, schema } => {
            let id = register(registry, &topic, part, &to_avro_json(&schema)).await?;
            chain.registered(topic, part, (schema, id));
        }
        Unknown::Topic(topic) => {
            let partitions = partitions(writer, &topic).await?;
            chain.made(topic, partitions, writer.record_bytes_max().unwrap_or(usize::MAX));
        }
    }
    Ok(())
}

/// Registers a schema under its subject. Not a method: a chain is used by one task and not shared, and a future that holds `&self` is.
pub(super) async fn register(
    (registry, subjects): (Arc<dyn SchemaRegistry>, SubjectStrategy),
    topic: &str,
    part: Part,
    schema: &str,
) -> Result<u32, ConnectorError> {
    let subject = subjects.subject(topic, part, schema).map_err(|problem| {
        ConnectorError::config("SUBJECT_STRATEGY", format!("name the subject of a schema: {problem}"))
    })?;
    let attempt = || format!("register a schema under `{subject}`");
    registry.register(&subject, schema).await.map_err(|error| error.into_failure(attempt()))
}

async fn partitions(
    writer: &mut dyn LogWriter,
    topic: &Arc<str>,
) -> Result<Vec<TopicPartition>, ConnectorError> {
    let count = writer.partitions(topic).await.map_err(log_error)?;
    Ok((0..count).map(|n| TopicPartition::new(Arc::clone(topic), n)).collect())
}

/// One change on its way into a group.
struct Push<'a> {
    table: &'a Table,
    view: &'a ChangeView<'a>,
    now_us: i64,
    scratch: &'a mut Scratch,
    group: &'a mut RecordGroup,
    common: &'a [Header<'a>],
}

/// The images of one event.
#[derive(Clone, Copy)]
struct Images<'a> {
    op: Op,
    before: Option<&'a dyn RowView>,
    after: Option<&'a dyn RowView>,
}

impl Push<'_> {
    /// Encodes the change, then appends its records.
    fn run(mut self) -> Result<(), RecordError> {
        self.scratch.key.clear();
        self.scratch.unavailable.clear();
        self.scratch.staged.clear();
        match self.view.change {
            Change::Create { after } => {
                self.single(after, Images { op: Op::Create, before: None, after: Some(after) })
            }
            Change::Read { after } => {
                self.single(after, Images { op: Op::Read, before: None, after: Some(after) })
            }
            Change::Update { before, after } => {
                self.single(after, Images { op: Op::Update, before, after: Some(after) })
            }
            Change::Delete { before } => {
                self.single(before, Images { op: Op::Delete, before: Some(before), after: None })?;
                self.tombstone();
                Ok(())
            }
            Change::Rekey { before, after } => self.rekey(before, after),
            Change::Message { value } => self.message(value),
            Change::Truncate => {
                let Scratch { value, unavailable, staged, .. } = &mut *self.scratch;
                let images = Images { op: Op::Truncate, before: None, after: None };
                self.table.value(self.view, images, self.now_us, (value, unavailable))?;
                self.table.fits(&[], value, &[self.common])?;
                let mut out = Out { group: self.group, common: self.common, staged };
                out.append(self.table, self.view, (None, Some(value), &[]));
                Ok(())
            }
        }
    }

    fn single(&mut self, keyed: &dyn RowView, images: Images<'_>) -> Result<(), RecordError> {
        let Scratch { key, value, unavailable, staged, .. } = &mut *self.scratch;
        self.table.key(keyed, key)?;
        self.table.value(self.view, images, self.now_us, (value, unavailable))?;
        let unavailable = self.table.unavailable(unavailable);
        let headers = headers(None, unavailable.as_deref(), self.view.row_follows);
        self.table.fits(key, value, &[&headers, self.common])?;
        let mut out = Out { group: self.group, common: self.common, staged };
        out.append(self.table, self.view, (Some(key), Some(value), &headers));
        Ok(())
    }

    /// A record whose value is whole as it is.
    fn message(&mut self, whole: &dyn RowView) -> Result<(), RecordError> {
        let Scratch { key, value, staged, .. } = &mut *self.scratch;
        self.table.key(whole, key)?;
        value.clear();
        put_frame_header(self.table.ids().1, value);
        self.table.plan.encode_message(whole, value)?;
        self.table.fits(key, value, &[self.common])?;
        let mut out = Out { group: self.group, common: self.common, staged };
        out.append(self.table, self.view, (Some(key), Some(value), &[]));
        Ok(())
    }

    /// After a `d`, for compaction; a table without a key has nothing to compact.
    fn tombstone(&mut self) {
        if self.table.plan.has_key() {
            let Scratch { key, staged, .. } = &mut *self.scratch;
            let mut out = Out { group: self.group, common: self.common, staged };
            out.append(self.table, self.view, (Some(key), None, &[]));
        }
    }

    /// `d` of the old key, its tombstone, `c` of the new key: never a single `u`.
    fn rekey(&mut self, before: &dyn RowView, after: &dyn RowView) -> Result<(), RecordError> {
        let (table, view) = (self.table, self.view);
        let Scratch { key, old_key, value, second, unavailable, staged } = &mut *self.scratch;
        old_key.clear();
        table.key(after, key)?;
        table.key(before, old_key)?;
        let gone = Images { op: Op::Delete, before: Some(before), after: None };
        table.value(view, gone, self.now_us, (value, unavailable))?;
        unavailable.clear();
        let come = Images { op: Op::Create, before: None, after: Some(after) };
        table.value(view, come, self.now_us, (second, unavailable))?;
        let (new_json, old_json) = (table.key_json(key)?, table.key_json(old_key)?);
        let unavailable = table.unavailable(unavailable);
        let gone = headers(Some(("__debezium.newkey", &new_json)), None, false);
        let come = headers(Some(("__debezium.oldkey", &old_json)), unavailable.as_deref(), view.row_follows);
        // Both or none.
        table.fits(old_key, value, &[&gone, self.common])?;
        table.fits(key, second, &[&come, self.common])?;
        let mut out = Out { group: self.group, common: self.common, staged };
        out.append(table, view, (Some(old_key), Some(value), &gone));
        if table.plan.has_key() {
            out.append(table, view, (Some(old_key), None, &gone));
        }
        out.append(table, view, (Some(key), Some(second), &come));
        Ok(())
    }
}

/// Where a change's records go: into the group, or to the transforms.
struct Out<'a> {
    group: &'a mut RecordGroup,
    common: &'a [Header<'a>],
    staged: &'a mut Vec<Staged>,
}

impl Out<'_> {
    /// Appends a record of key, value and own headers. An empty key is a null key.
    fn append(
        &mut self,
        table: &Table,
        view: &ChangeView<'_>,
        (key, value, headers): (Option<&[u8]>, Option<&[u8]>, &[Header<'_>]),
    ) {
        let key = key.filter(|k| !k.is_empty());
        let timestamp_ms = view.timestamp_ms;
        match &table.route {
            Route::Log { partitions, .. } => {
                let count = u32::try_from(partitions.len()).unwrap_or(1);
                let Some(partition) = partitions.get(partition_of(key, count) as usize) else { return };
                self.group.push(partition, &Record { timestamp_ms, key, value, headers }, self.common);
            }
            Route::Chain { key: key_reader, value: value_reader } => self.staged.push(Staged {
                topic: Arc::clone(&table.schema.topic),
                timestamp_ms,
                key: Staged::datum(key, key_reader.as_ref()),
                value: Staged::datum(value, Some(value_reader)),
                headers: headers.iter().map(|(name, value)| ((*name).into(), value.to_vec())).collect(),
            }),
        }
    }
}

impl Table {
    fn key(&self, row: &dyn RowView, out: &mut Vec<u8>) -> Result<(), RecordError> {
        if !self.plan.has_key() {
            return Ok(());
        }
        put_frame_header(self.ids().0, out);
        self.plan.encode_key(row, out).inspect_err(|_| out.clear())
    }

    fn value(
        &self,
        view: &ChangeView<'_>,
        Images { op, before, after }: Images<'_>,
        now_us: i64,
        (out, unavailable): (&mut Vec<u8>, &mut Vec<usize>),
    ) -> Result<(), RecordError> {
        out.clear();
        put_frame_header(self.ids().1, out);
        let event = Event { op, before, after, source: view.source, now_us };
        self.plan.encode_envelope(&event, out, unavailable)
    }

    /// Schema ids of key and value; none are known before the transforms.
    fn ids(&self) -> (u32, u32) {
        match self.route {
            Route::Log { key_id, value_id, .. } => (key_id, value_id),
            Route::Chain { .. } => (0, 0),
        }
    }

    /// Refuses a record that the log would not take, so that the connector's policy decides and not a failed commit.
    fn fits(&self, key: &[u8], value: &[u8], headers: &[&[Header<'_>]]) -> Result<(), RecordError> {
        // What the transforms make of it is measured behind them.
        let Route::Log { record_bytes_max, .. } = &self.route else { return Ok(()) };
        let headers: usize =
            headers.iter().copied().flatten().map(|(name, value)| name.len() + value.len()).sum();
        fits(&self.schema.topic, key.len() + value.len() + headers, *record_bytes_max)
    }

    fn key_json(&self, framed: &[u8]) -> Result<Vec<u8>, RecordError> {
        let mut out = Vec::new();
        if let Some(schema) = &self.schema.key {
            let decoder = AvroDecoder::new(Arc::clone(schema));
            let (_, key) = rowstream_avro::split_frame(framed)?;
            rowstream_api::json::write_json(schema, &decoder.decode(key)?, &mut out)?;
        }
        Ok(out)
    }

    fn unavailable(&self, columns: &[usize]) -> Option<Vec<u8>> {
        if columns.is_empty() {
            return None;
        }
        let fields = self.schema.value.fields();
        let names: Vec<&str> =
            columns.iter().filter_map(|&i| fields.get(i).map(|f| f.name.as_str())).collect();
        serde_json::to_vec(&names).ok()
    }
}

/// Refuses a record of more bytes than the log takes.
pub(super) fn fits(topic: &str, bytes: usize, max: usize) -> Result<(), RecordError> {
    if bytes <= max {
        return Ok(());
    }
    let message = format!(
        "the record for topic `{topic}` has {bytes} bytes, the limit is {max}; raise `topic_log.properties: \
         {{ message.max.bytes: … }}` and the topic's max.message.bytes, or leave a large column out"
    );
    Err(RecordError::value("RECORD_TOO_LARGE", message))
}

fn headers<'a>(
    key: Option<(&'a str, &'a [u8])>,
    unavailable: Option<&'a [u8]>,
    row_follows: bool,
) -> Vec<Header<'a>> {
    let follows = (row_follows && unavailable.is_some()).then_some((ROW_FOLLOWS_HEADER, b"true".as_slice()));
    key.into_iter().chain(unavailable.map(|names| (UNAVAILABLE_HEADER, names))).chain(follows).collect()
}

/// Debezium's logical name and connector name, from the change's own `source` block.
fn context_headers(view: &ChangeView<'_>) -> Vec<(String, Vec<u8>)> {
    let source = view.table.envelope.field("source").map(|(_, f)| Arc::clone(&f.schema));
    let text = |field: &str| {
        let (index, _) = source.as_ref()?.field(field)?;
        view.source.get(index).and_then(ValueRef::as_str).map(|s| s.as_bytes().to_vec())
    };
    [("__debezium.context.connectorLogicalName", "name"), ("__debezium.context.connectorName", "connector")]
        .into_iter()
        .filter_map(|(header, field)| Some((header.to_owned(), text(field)?)))
        .collect()
}

/// Table versions are told apart by address; the table kept in the map holds the `Arc`, so an address is never reused.
fn address(table: &Arc<TableSchema>) -> usize {
    Arc::as_ptr(table).addr()
}

/// Ends a visit early; the reason is in `pause`.
fn stop() -> RecordError {
    RecordError::value("VISIT_STOPPED", "the visit was stopped")
}

pub(super) fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_micros()).ok())
        .unwrap_or(0)
}

fn log_error(error: crate::topic_log::LogError) -> ConnectorError {
    crate::task::log_failure("create the topic", error)
}
