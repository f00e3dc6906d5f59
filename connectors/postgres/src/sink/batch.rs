//! Records into rows, and rows into their net change per key.
//!
//! ```text
//! records ─► encode: one arena, one entry a record ─► segments, in order ─► net: one row a key, sorted by key
//! ```
//! A **segment** is what one plan may apply in one go: a new plan for the same table (its schema changed inside the
//! batch) opens a new segment behind the old one, and a truncate throws away the table's earlier segments, whose rows
//! it would delete anyway. Inside a segment the last record of a key wins; columns it left out because they did not
//! change are taken from the record before it, as far as that has them. So applying the segments in order leaves the
//! target as applying the records one by one would.

use std::{collections::HashMap, ops::Range, sync::Arc};

use rowstream_api::{
    ROW_FOLLOWS_HEADER, RecordError, Schema, SinkRecord, Stage, UNAVAILABLE_HEADER, ValueRef,
};

use super::{
    encode::{UNAVAILABLE, encode},
    plan::{ColumnPlan, Meta, Origin, PlanRequest, TablePlan},
    template::Variables,
};
use crate::{
    ident::TableName,
    sink_config::{PostgresSinkPlan, TruncatePolicy, WriteMode},
};

/// Encoded records of one flush.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) arena: Vec<u8>,
    pub(crate) segments: Vec<Segment>,
    /// The segment that a table's next row goes to.
    open: HashMap<TableName, usize>,
}

/// Rows of one plan.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) table: TableName,
    /// Truncate the table first.
    pub(crate) truncate: bool,
    /// None for a truncate without rows after it.
    pub(crate) plan: Option<Arc<TablePlan>>,
    entries: Vec<Entry>,
}

/// One record's row in the arena: key elements, then the others; key elements only for a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Index in the flush's records.
    pub(crate) record: usize,
    pub(crate) bytes: Range<usize>,
    pub(crate) key_end: usize,
    pub(crate) delete: bool,
    /// The values it left out need not be missed: the whole row follows by the source's snapshot, or the row's end does.
    pub(crate) follows: bool,
    /// It begins a row.
    pub(crate) create: bool,
}

/// What came of a record.
pub(crate) enum Added {
    Done,
    /// Its plan is not compiled yet; nothing was added.
    NeedsPlan(PlanRequest),
}

/// Compiled plans and the fields of envelopes, by the addresses of schemas (which the values keep alive).
#[derive(Debug, Default)]
pub(crate) struct Plans {
    plans: HashMap<(usize, usize), PlansOfSchemas>,
    shapes: HashMap<usize, Shape>,
    kept: Vec<PlanRequest>,
    count: usize,
}

/// Nearly always one: a topic's records go to one table.
type PlansOfSchemas = Vec<(TableName, Arc<TablePlan>)>;

/// Where things stand in a value schema.
#[derive(Debug, Clone)]
struct Shape {
    envelope: Option<Envelope>,
    row: Arc<Schema>,
    _value: Arc<Schema>,
}

#[derive(Debug, Clone)]
struct Envelope {
    op: usize,
    after: usize,
    before: Option<usize>,
    source: Option<usize>,
    /// `db`, `schema` and `table` in the source block.
    names: [Option<usize>; 3],
}

/// A record taken apart as far as needed.
struct Decoded<'a> {
    op: Kind,
    row: Option<Vec<ValueRef<'a>>>,
    key: Option<Vec<ValueRef<'a>>>,
    table: TableName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write(&'static str),
    Delete,
    Truncate,
}

impl Plans {
    fn find(&self, request: &PlanRequest) -> Option<&Arc<TablePlan>> {
        let of_schemas = self.plans.get(&plan_key(request))?;
        of_schemas.iter().find(|(table, _)| *table == request.table).map(|(_, plan)| plan)
    }

    /// The id for the next plan.
    pub(crate) fn next_id(&self) -> usize {
        self.count
    }

    pub(crate) fn insert(&mut self, request: PlanRequest, plan: TablePlan) {
        self.count += 1;
        let entry = self.plans.entry(plan_key(&request)).or_default();
        entry.push((request.table.clone(), Arc::new(plan)));
        self.kept.push(request);
    }

    fn shape(&mut self, schema: &Arc<Schema>) -> Result<Shape, RecordError> {
        let address = Arc::as_ptr(schema) as usize;
        if let Some(shape) = self.shapes.get(&address) {
            return Ok(shape.clone());
        }
        let shape = shape_of(schema)?;
        self.shapes.insert(address, shape.clone());
        Ok(shape)
    }
}

fn plan_key(request: &PlanRequest) -> (usize, usize) {
    (Arc::as_ptr(&request.row) as usize, request.key.as_ref().map_or(0, |key| Arc::as_ptr(key) as usize))
}

fn shape_of(schema: &Arc<Schema>) -> Result<Shape, RecordError> {
    let index = |name: &str| schema.field(name).map(|(index, _)| index);
    let envelope = match (schema.is_envelope(), schema.field("op"), schema.field("after")) {
        (true, Some((op, _)), Some((after, _))) => {
            let source = schema.field("source");
            let in_source =
                |name: &str| source.and_then(|(_, field)| field.schema.field(name)).map(|(index, _)| index);
            Some(Envelope {
                op,
                after,
                before: index("before"),
                source: source.map(|(index, _)| index),
                names: [in_source("db"), in_source("schema"), in_source("table")],
            })
        }
        _ => None,
    };
    let row = match &envelope {
        Some(_) => schema.field("after").map(|(_, field)| Arc::clone(&field.schema)),
        None => Some(Arc::clone(schema)),
    };
    let row = row.filter(|row| !row.fields().is_empty()).ok_or_else(|| {
        RecordError::new(
            Stage::TaskPut,
            "VALUE_NOT_STRUCT",
            "the value is neither an envelope nor a struct with fields, so that it has no columns",
        )
    })?;
    Ok(Shape { envelope, row, _value: Arc::clone(schema) })
}

/// Encodes records of one flush into a [`Batch`].
pub(crate) struct Encoder<'a> {
    pub(crate) config: &'a PostgresSinkPlan,
    pub(crate) plans: &'a mut Plans,
    pub(crate) batch: &'a mut Batch,
}

impl Encoder<'_> {
    /// Adds a record; on error nothing was added.
    ///
    /// # Errors
    /// The record can't become a row.
    pub(crate) fn add(&mut self, index: usize, record: &SinkRecord) -> Result<Added, RecordError> {
        let Some(value) = &record.value else { return Ok(Added::Done) };
        let shape = self.plans.shape(value.schema())?;
        let Some(decoded) = self.decode(record, &shape)? else { return Ok(Added::Done) };
        if decoded.op == Kind::Truncate && self.config.write_mode == WriteMode::Upsert {
            self.batch.truncate(decoded.table);
            return Ok(Added::Done);
        }
        let key = match self.config.write_mode {
            WriteMode::Upsert => Some(Arc::clone(key_schema(record)?)),
            WriteMode::Append => None,
        };
        let request = PlanRequest { table: decoded.table.clone(), row: shape.row, key };
        let Some(plan) = self.plans.find(&request) else { return Ok(Added::NeedsPlan(request)) };
        let plan = Arc::clone(plan);
        let start = self.batch.arena.len();
        let added = self.append(index, record, &decoded, &plan);
        if added.is_err() {
            self.batch.arena.truncate(start);
        }
        added.map(|()| Added::Done)
    }

    /// `None` when the record changes nothing.
    fn decode<'r>(&self, record: &'r SinkRecord, shape: &Shape) -> Result<Option<Decoded<'r>>, RecordError> {
        let Some(value) = &record.value else { return Ok(None) };
        let Some(envelope) = &shape.envelope else {
            let ValueRef::Struct(row) = value.decode()? else { return Err(not_a_struct("value")) };
            let table = self.table(record, None, &[], [None; 3]);
            let key = self.key(record)?;
            return Ok(Some(Decoded { op: Kind::Write("c"), row: Some(row), key, table }));
        };
        let mut wanted = vec![envelope.op, envelope.after];
        wanted.extend(envelope.source.filter(|_| self.config.table.needs_source()));
        let mut fields = value.decoder.decode_fields(&value.bytes, &wanted)?;
        let append = self.config.write_mode == WriteMode::Append;
        let op = match fields.get(envelope.op).and_then(ValueRef::as_str) {
            Some("c") => Kind::Write("c"),
            Some("u") => Kind::Write("u"),
            Some("r") => Kind::Write("r"),
            Some("d") if append || self.config.delete => Kind::Delete,
            Some("t") => match self.config.truncate {
                TruncatePolicy::Apply => Kind::Truncate,
                TruncatePolicy::Ignore => return Ok(None),
                TruncatePolicy::Fail => return Err(truncate_refused()),
            },
            Some("d" | "m") => return Ok(None),
            Some(_) | None => return Err(unknown_op()),
        };
        let image = match (op, envelope.before) {
            (Kind::Delete, Some(before)) if append => {
                let mut fields = value.decoder.decode_fields(&value.bytes, &[before])?;
                take(&mut fields, before)
            }
            (Kind::Write(_) | Kind::Delete | Kind::Truncate, _) => take(&mut fields, envelope.after),
        };
        let mut row = if let ValueRef::Struct(row) = image { Some(row) } else { None };
        if let (Some(row), Kind::Write(_)) = (&mut row, op) {
            mark_unavailable(record, &shape.row, row)?;
        }
        if row.is_none() && matches!(op, Kind::Write(_)) {
            return Err(no_after());
        }
        let source = envelope.source.and_then(|source| fields.get(source)).and_then(ValueRef::as_struct);
        let table = self.table(record, Some(envelope), source.unwrap_or(&[]), envelope.names);
        let key = if op == Kind::Truncate { None } else { self.key(record)? };
        Ok(Some(Decoded { op, row, key, table }))
    }

    fn table(
        &self,
        record: &SinkRecord,
        envelope: Option<&Envelope>,
        source: &[ValueRef<'_>],
        names: [Option<usize>; 3],
    ) -> TableName {
        let topic = &*record.id.partition.topic;
        let named = |index: Option<usize>| index.and_then(|i| source.get(i)).and_then(ValueRef::as_str);
        let [db, schema, table] = names.map(named);
        let last = topic.rsplit('.').next().unwrap_or(topic);
        let table = table.filter(|_| envelope.is_some()).unwrap_or(last);
        let schema = schema.or(db).unwrap_or("public");
        self.config.table.table_name(Variables { topic, db: db.unwrap_or("db"), schema, table })
    }

    fn key<'r>(&self, record: &'r SinkRecord) -> Result<Option<Vec<ValueRef<'r>>>, RecordError> {
        if self.config.write_mode == WriteMode::Append {
            return Ok(None);
        }
        let key = record.key.as_ref().ok_or_else(no_key)?;
        let ValueRef::Struct(values) = key.decode()? else { return Err(not_a_struct("key")) };
        Ok(Some(values))
    }

    fn append(
        &mut self,
        index: usize,
        record: &SinkRecord,
        decoded: &Decoded<'_>,
        plan: &Arc<TablePlan>,
    ) -> Result<(), RecordError> {
        let arena = &mut self.batch.arena;
        let start = arena.len();
        let delete = decoded.op == Kind::Delete && self.config.write_mode == WriteMode::Upsert;
        let written = if delete { plan.keys } else { plan.columns.len() };
        let mut key_end = start;
        for (position, column) in plan.columns.iter().take(written).enumerate() {
            let before = arena.len();
            encode_column(column, record, decoded, arena).map_err(|e| e.in_column(column.name.bare()))?;
            if position < plan.keys {
                key_end = arena.len();
                if matches!(length_at(arena, before), None | Some(..0)) {
                    return Err(RecordError::value("KEY_NULL", "a key column is null or was not sent")
                        .in_column(column.name.bare()));
                }
            }
        }
        let create = decoded.op == Kind::Write("c");
        let follows = record.headers.iter().any(|(name, _)| &**name == ROW_FOLLOWS_HEADER);
        let entry = Entry { record: index, bytes: start..arena.len(), key_end, delete, follows, create };
        let segment = self.batch.segment(plan);
        segment.entries.push(entry);
        Ok(())
    }
}

fn encode_column(
    column: &ColumnPlan,
    record: &SinkRecord,
    decoded: &Decoded<'_>,
    arena: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let absent = ValueRef::Absent;
    let at = |values: &Option<Vec<ValueRef<'_>>>, index: usize, arena: &mut Vec<u8>| {
        let value = values.as_ref().and_then(|values| values.get(index));
        encode(column.wire, &column.schema, value.unwrap_or(&absent), arena)
    };
    let meta = match column.origin {
        Origin::Key(index) => return at(&decoded.key, index, arena),
        Origin::Value(index) => return at(&decoded.row, index, arena),
        Origin::Meta(meta) => meta,
    };
    let value = match meta {
        Meta::Op => ValueRef::str(match decoded.op {
            Kind::Write(letter) => letter,
            Kind::Delete => "d",
            Kind::Truncate => "t",
        }),
        Meta::TimestampMs => ValueRef::Int(record.timestamp_ms),
        Meta::Topic => ValueRef::str(&record.id.partition.topic),
        Meta::Partition => ValueRef::Int(i64::from(record.id.partition.partition)),
        Meta::Offset => ValueRef::Int(record.id.offset),
    };
    encode(column.wire, &column.schema, &value, arena)
}

impl Batch {
    /// The open segment of the plan, or a new one behind the table's last.
    fn segment(&mut self, plan: &Arc<TablePlan>) -> &mut Segment {
        let open = self.open.get(&plan.table).copied();
        let fits = open.filter(|index| {
            self.segments.get(*index).is_some_and(|s| s.plan.as_ref().is_none_or(|p| p.id == plan.id))
        });
        let index = fits.unwrap_or(self.segments.len());
        if fits.is_none() {
            let (table, entries) = (plan.table.clone(), Vec::new());
            self.segments.push(Segment { table, truncate: false, plan: None, entries });
            self.open.insert(plan.table.clone(), index);
        }
        #[expect(clippy::indexing_slicing, reason = "`index` was found in the vector or pushed just above")]
        let segment = &mut self.segments[index];
        segment.plan.get_or_insert_with(|| Arc::clone(plan));
        segment
    }

    fn truncate(&mut self, table: TableName) {
        for segment in self.segments.iter_mut().filter(|segment| segment.table == table) {
            segment.entries.clear();
            segment.truncate = false;
        }
        self.open.insert(table.clone(), self.segments.len());
        self.segments.push(Segment { table, truncate: true, plan: None, entries: Vec::new() });
    }
}

/// The rows of a segment that are left to apply.
#[derive(Debug, Default)]
pub(crate) struct Net {
    /// Sorted by key (in append mode: in record order).
    pub(crate) rows: Vec<Entry>,
}

impl Segment {
    /// Reduces to one row a key.
    pub(crate) fn net(&mut self, arena: &mut Vec<u8>) -> Net {
        let mut entries = std::mem::take(&mut self.entries);
        let Some(plan) = &self.plan else { return Net::default() };
        if plan.keys == 0 {
            return Net { rows: entries };
        }
        entries.sort_by(|a, b| key(arena, a).cmp(key(arena, b)).then(a.record.cmp(&b.record)));
        let mut rows: Vec<Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            match rows.last_mut().filter(|last| key(arena, last) == key(arena, &entry)) {
                Some(last) => {
                    let earlier = std::mem::replace(last, entry);
                    if !earlier.delete && !last.delete && has_unavailable(arena, last) {
                        merge(arena, &earlier, last);
                        (last.create, last.follows) =
                            (last.create || earlier.create, last.follows || earlier.follows);
                    }
                }
                None => rows.push(entry),
            }
        }
        Net { rows }
    }
}

fn key<'a>(arena: &'a [u8], entry: &Entry) -> &'a [u8] {
    arena.get(entry.bytes.start..entry.key_end).unwrap_or(&[])
}

/// Writes `later` anew with the columns it lacks taken from `earlier`.
fn merge(arena: &mut Vec<u8>, earlier: &Entry, later: &mut Entry) {
    let start = arena.len();
    let mut from_earlier = earlier.bytes.start;
    let mut from_later = later.bytes.start;
    while from_later < later.bytes.end {
        let lacking = length_at(arena, from_later) == Some(UNAVAILABLE);
        let (a, b) = (element_end(arena, from_earlier), element_end(arena, from_later));
        let chosen = if lacking { from_earlier..a } else { from_later..b };
        arena.extend_from_within(chosen);
        (from_earlier, from_later) = (a, b);
    }
    later.key_end = start + (later.key_end - later.bytes.start);
    later.bytes = start..arena.len();
}

fn has_unavailable(arena: &[u8], entry: &Entry) -> bool {
    elements(arena, entry.bytes.clone()).any(|(length, _)| length == UNAVAILABLE)
}

/// The elements of a row: length (negative when there are no bytes) and the whole element with its length.
pub(crate) fn elements(arena: &[u8], row: Range<usize>) -> impl Iterator<Item = (i32, &[u8])> {
    let mut at = row.start;
    std::iter::from_fn(move || {
        let end = element_end(arena, at);
        let element = arena.get(at..end).filter(|_| end <= row.end)?;
        let length = length_at(arena, at)?;
        at = end;
        Some((length, element))
    })
}

fn length_at(arena: &[u8], at: usize) -> Option<i32> {
    arena.get(at..)?.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes))
}

fn element_end(arena: &[u8], at: usize) -> usize {
    at + 4 + length_at(arena, at).and_then(|length| usize::try_from(length).ok()).unwrap_or(0)
}

/// Columns that the record's header names hold a placeholder, whatever it looks like in their type.
fn mark_unavailable(
    record: &SinkRecord,
    schema: &Schema,
    row: &mut [ValueRef<'_>],
) -> Result<(), RecordError> {
    let Some((_, names)) = record.headers.iter().find(|(name, _)| &**name == UNAVAILABLE_HEADER) else {
        return Ok(());
    };
    let names: Vec<String> = serde_json::from_slice(names).map_err(|_| {
        let message = format!("header `{UNAVAILABLE_HEADER}` is not a JSON list of column names");
        RecordError::new(Stage::TaskPut, "HEADER_INVALID", message)
    })?;
    for name in names {
        if let Some(value) = schema.field(&name).and_then(|(index, _)| row.get_mut(index)) {
            *value = ValueRef::Unavailable;
        }
    }
    Ok(())
}

fn take<'a>(fields: &mut [ValueRef<'a>], index: usize) -> ValueRef<'a> {
    fields.get_mut(index).map_or(ValueRef::Absent, |field| std::mem::replace(field, ValueRef::Absent))
}

fn key_schema(record: &SinkRecord) -> Result<&Arc<Schema>, RecordError> {
    let schema = record.key.as_ref().ok_or_else(no_key)?.schema();
    if schema.fields().is_empty() { Err(not_a_struct("key")) } else { Ok(schema) }
}

fn no_key() -> RecordError {
    let message = "the record has no key, so that its row can't be found in the target; give the source table a \
                   primary key, or use `write_mode: append`";
    RecordError::new(Stage::TaskPut, "KEY_MISSING", message)
}

fn not_a_struct(what: &str) -> RecordError {
    let message = format!("the {what} is not a struct with fields, so that it has no columns");
    RecordError::new(Stage::TaskPut, "VALUE_NOT_STRUCT", message)
}

fn no_after() -> RecordError {
    RecordError::new(Stage::TaskPut, "ENVELOPE_INVALID", "the event has no `after`, which its `op` calls for")
}

fn unknown_op() -> RecordError {
    let message = "expected `op` to be one of c, u, r, d, t, m";
    RecordError::new(Stage::TaskPut, "ENVELOPE_INVALID", message)
}

fn truncate_refused() -> RecordError {
    let message = "the source table was truncated and `truncate` is `fail`";
    RecordError::new(Stage::TaskPut, "TRUNCATE_REFUSED", message)
}
