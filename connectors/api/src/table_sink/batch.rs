//! Records into rows, in segments that one plan may apply in one go.
//!
//! ```text
//! records ─► encode: one arena, one entry a record ─► segments, in order ─► net: one row a key, sorted by key
//! ```
//! A new plan for the same table (its schema changed inside the batch) opens a new segment behind the old one, and a
//! truncate throws away the table's earlier segments, whose rows it would delete anyway. Inside a segment the last
//! record of a key wins. So applying the segments in order leaves the target as applying the records one by one would.

use std::{collections::HashMap, fmt::Debug, hash::Hash, sync::Arc};

use super::{
    RecordPolicy, WriteMode,
    record::{Decoded, Kind, Shape, decode, decode_tombstone, key_schema, shape_of},
    rows::{Entry, length_at, net},
};
use crate::{
    change::ROW_FOLLOWS_HEADER,
    error::RecordError,
    schema::{Schema, SchemaBuilder, SchemaType},
    sink::SinkRecord,
    value::ValueRef,
};

/// A table's name in a sink's own form.
pub trait Table: Clone + Eq + Hash + Debug + Send + Sync + 'static {
    /// Of bare names, schema (or database) first.
    fn of(names: (&str, &str)) -> Self;
}

/// The compiled way from one record schema into one target table.
pub trait RowPlan: Debug + Send + Sync + 'static {
    /// How the sink names tables.
    type Table: Table;
    /// How a column's values travel.
    type Wire: Copy + Debug + Send + Sync + 'static;
    /// Unique in the task.
    fn id(&self) -> usize;
    /// The target.
    fn table(&self) -> &Self::Table;
    /// How many of the columns are the key, which comes first; 0 in append mode.
    fn keys(&self) -> usize;
    /// All columns as `encode` needs them.
    fn columns(&self) -> impl Iterator<Item = &Column<Self::Wire>>;
    /// Appends one element (see [`super::rows`]).
    ///
    /// # Errors
    /// The value is not of the schema, or the column can't hold it.
    fn encode(
        wire: Self::Wire,
        schema: &Schema,
        value: &ValueRef<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError>;
}

/// One column of a plan, as far as records are concerned.
#[derive(Debug)]
pub struct Column<W> {
    /// Bare name.
    pub name: String,
    /// Where its value comes from.
    pub origin: Origin,
    /// What its values are.
    pub schema: Arc<Schema>,
    /// How they travel.
    pub wire: W,
}

/// Where a column's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Field of the record's key.
    Key(usize),
    /// Field of the row.
    Value(usize),
    /// The record itself.
    Meta(Meta),
}

/// The columns that `append` adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The operation's letter.
    Op,
    /// The record's timestamp.
    TimestampMs,
    /// Its topic.
    Topic,
    /// Its partition.
    Partition,
    /// Its offset.
    Offset,
}

const META: [(Meta, &str, SchemaType); 5] = [
    (Meta::Op, "__op", SchemaType::String),
    (Meta::TimestampMs, "__ts_ms", SchemaType::Int64),
    (Meta::Topic, "__topic", SchemaType::String),
    (Meta::Partition, "__partition", SchemaType::Int32),
    (Meta::Offset, "__offset", SchemaType::Int64),
];

/// What a plan is asked for.
#[derive(Debug, Clone)]
pub struct PlanRequest<T> {
    /// The target.
    pub table: T,
    /// The row STRUCT.
    pub row: Arc<Schema>,
    /// The key STRUCT; none in append mode.
    pub key: Option<Arc<Schema>>,
}

/// A column as the record wants it.
#[derive(Debug)]
pub struct Wanted {
    /// Bare name.
    pub name: String,
    /// Where its value comes from.
    pub origin: Origin,
    /// What its values are.
    pub schema: Arc<Schema>,
}

impl Wanted {
    /// Whether it belongs to the primary key of a table that is created.
    #[must_use]
    pub fn in_key(&self) -> bool {
        match self.origin {
            Origin::Key(_) => true,
            Origin::Value(_) => false,
            Origin::Meta(meta) => matches!(meta, Meta::Topic | Meta::Partition | Meta::Offset),
        }
    }
}

impl<T> PlanRequest<T> {
    /// Key fields first, then the row's other fields, then the metadata columns.
    #[must_use]
    pub fn wanted(&self, metadata_columns: bool) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        let keys = self.key.as_ref().map_or(&[][..], |key| key.fields());
        for (index, field) in keys.iter().enumerate() {
            let schema = Arc::clone(&field.schema);
            wanted.push(Wanted { name: field.name.clone(), origin: Origin::Key(index), schema });
        }
        for (index, field) in self.row.fields().iter().enumerate() {
            if keys.iter().all(|key| key.name != field.name) {
                let schema = Arc::clone(&field.schema);
                wanted.push(Wanted { name: field.name.clone(), origin: Origin::Value(index), schema });
            }
        }
        if metadata_columns {
            for (meta, name, ty) in META {
                let schema = SchemaBuilder::new(ty).build();
                wanted.push(Wanted { name: name.to_owned(), origin: Origin::Meta(meta), schema });
            }
        }
        wanted
    }
}

/// Encoded records of one flush.
#[derive(Debug)]
pub struct Batch<P: RowPlan> {
    /// The rows' bytes.
    pub arena: Vec<u8>,
    /// In the order in which they must be applied.
    pub segments: Vec<Segment<P>>,
    /// The segment that a table's next row goes to.
    open: HashMap<P::Table, usize>,
}

impl<P: RowPlan> Default for Batch<P> {
    fn default() -> Self {
        Self { arena: Vec::new(), segments: Vec::new(), open: HashMap::new() }
    }
}

/// Rows of one plan.
#[derive(Debug)]
pub struct Segment<P: RowPlan> {
    /// The target.
    pub table: P::Table,
    /// Truncate the table first.
    pub truncate: bool,
    /// None for a truncate without rows after it.
    pub plan: Option<Arc<P>>,
    entries: Vec<Entry>,
}

impl<P: RowPlan> Segment<P> {
    /// Takes the rows that are left to apply: one a key, sorted by key; in append mode all, in record order.
    pub fn net(&mut self, arena: &mut Vec<u8>) -> Vec<Entry> {
        let entries = std::mem::take(&mut self.entries);
        match &self.plan {
            None => Vec::new(),
            Some(plan) if plan.keys() == 0 => entries,
            Some(_) => net(arena, entries),
        }
    }
}

impl<P: RowPlan> Batch<P> {
    /// The open segment of the plan, or a new one behind the table's last.
    fn segment(&mut self, plan: &Arc<P>) -> &mut Segment<P> {
        let open = self.open.get(plan.table()).copied();
        let fits = open.filter(|index| {
            self.segments.get(*index).is_some_and(|s| s.plan.as_ref().is_none_or(|p| p.id() == plan.id()))
        });
        let index = fits.unwrap_or(self.segments.len());
        if fits.is_none() {
            let (table, entries) = (plan.table().clone(), Vec::new());
            self.segments.push(Segment { table, truncate: false, plan: None, entries });
            self.open.insert(plan.table().clone(), index);
        }
        #[expect(clippy::indexing_slicing, reason = "`index` was found in the vector or pushed just above")]
        let segment = &mut self.segments[index];
        segment.plan.get_or_insert_with(|| Arc::clone(plan));
        segment
    }

    fn truncate(&mut self, table: P::Table) {
        for segment in self.segments.iter_mut().filter(|segment| segment.table == table) {
            segment.entries.clear();
            segment.truncate = false;
        }
        self.open.insert(table.clone(), self.segments.len());
        self.segments.push(Segment { table, truncate: true, plan: None, entries: Vec::new() });
    }
}

/// What came of a record.
pub enum Added<T> {
    /// It is in the batch, or changes nothing.
    Done,
    /// Its plan is not compiled yet; nothing was added.
    NeedsPlan(PlanRequest<T>),
}

/// Compiled plans and the fields of envelopes, by the addresses of schemas (which the values keep alive).
#[derive(Debug)]
pub struct Plans<P: RowPlan> {
    plans: HashMap<(usize, usize), PlansOfSchemas<P>>,
    shapes: HashMap<usize, Shape>,
    /// Of each topic: the newest shape of its values.
    topics: HashMap<Arc<str>, Shape>,
    kept: Vec<PlanRequest<P::Table>>,
    count: usize,
}

/// Nearly always one: a topic's records go to one table.
type PlansOfSchemas<P> = Vec<(<P as RowPlan>::Table, Arc<P>)>;

impl<P: RowPlan> Default for Plans<P> {
    fn default() -> Self {
        Self {
            plans: HashMap::new(),
            shapes: HashMap::new(),
            topics: HashMap::new(),
            kept: Vec::new(),
            count: 0,
        }
    }
}

impl<P: RowPlan> Plans<P> {
    fn find(&self, request: &PlanRequest<P::Table>) -> Option<&Arc<P>> {
        let of_schemas = self.plans.get(&plan_key(request))?;
        of_schemas.iter().find(|(table, _)| *table == request.table).map(|(_, plan)| plan)
    }

    /// The id for the next plan.
    #[must_use]
    pub fn next_id(&self) -> usize {
        self.count
    }

    /// Keeps what was compiled for a request.
    pub fn insert(&mut self, request: PlanRequest<P::Table>, plan: P) {
        self.count += 1;
        let entry = self.plans.entry(plan_key(&request)).or_default();
        entry.push((request.table.clone(), Arc::new(plan)));
        self.kept.push(request);
    }

    fn shape(&mut self, topic: &Arc<str>, schema: &Arc<Schema>) -> Result<Shape, RecordError> {
        let address = Arc::as_ptr(schema) as usize;
        let shape = match self.shapes.get(&address) {
            Some(shape) => shape.clone(),
            None => shape_of(schema)?,
        };
        self.shapes.entry(address).or_insert_with(|| shape.clone());
        if self.topics.get(topic).is_none_or(|known| !Arc::ptr_eq(&known.row, &shape.row)) {
            self.topics.insert(Arc::clone(topic), shape.clone());
        }
        Ok(shape)
    }
}

fn plan_key<T>(request: &PlanRequest<T>) -> (usize, usize) {
    (Arc::as_ptr(&request.row) as usize, request.key.as_ref().map_or(0, |key| Arc::as_ptr(key) as usize))
}

/// Encodes records of one flush into a [`Batch`].
pub struct Encoder<'a, P: RowPlan> {
    /// What is to be made of them.
    pub policy: &'a RecordPolicy,
    /// Plans so far.
    pub plans: &'a mut Plans<P>,
    /// Where they go.
    pub batch: &'a mut Batch<P>,
}

impl<P: RowPlan> Encoder<'_, P> {
    /// Adds a record, which is the flush's `index`-th; on error nothing was added.
    ///
    /// # Errors
    /// The record can't become a row.
    pub fn add(&mut self, index: usize, record: &SinkRecord) -> Result<Added<P::Table>, RecordError> {
        let (row, decoded) = match &record.value {
            Some(value) => {
                let shape = self.plans.shape(&record.topic, value.schema())?;
                let decoded = decode(self.policy, record, &shape)?;
                (Some(shape.row), decoded)
            }
            None => {
                let shape = self.plans.topics.get(&record.topic);
                let decoded = decode_tombstone(self.policy, record, shape.map(Shape::is_envelope))?;
                (shape.map(|shape| Arc::clone(&shape.row)), decoded)
            }
        };
        let Some(decoded) = decoded else { return Ok(Added::Done) };
        let table = P::Table::of((&decoded.table.0, &decoded.table.1));
        if decoded.op == Kind::Truncate && self.policy.write_mode == WriteMode::Upsert {
            self.batch.truncate(table);
            return Ok(Added::Done);
        }
        let key = match self.policy.write_mode {
            WriteMode::Upsert => Some(Arc::clone(key_schema(record)?)),
            WriteMode::Append => None,
        };
        // All that a delete needs is the key.
        let Some(row) = row.or_else(|| key.clone()) else { return Ok(Added::Done) };
        let request = PlanRequest { table, row, key };
        let Some(plan) = self.plans.find(&request) else { return Ok(Added::NeedsPlan(request)) };
        let plan = Arc::clone(plan);
        let start = self.batch.arena.len();
        let added = self.append(index, record, &decoded, &plan);
        if added.is_err() {
            self.batch.arena.truncate(start);
        }
        added.map(|()| Added::Done)
    }

    fn append(
        &mut self,
        index: usize,
        record: &SinkRecord,
        decoded: &Decoded<'_>,
        plan: &Arc<P>,
    ) -> Result<(), RecordError> {
        let arena = &mut self.batch.arena;
        let start = arena.len();
        let delete = decoded.op == Kind::Delete && self.policy.write_mode == WriteMode::Upsert;
        let written = if delete { plan.keys() } else { usize::MAX };
        let mut key_end = start;
        for (position, column) in plan.columns().take(written).enumerate() {
            let before = arena.len();
            encode_column::<P>(column, record, decoded, arena).map_err(|e| e.in_column(&column.name))?;
            if position < plan.keys() {
                key_end = arena.len();
                if matches!(length_at(arena, before), None | Some(..0)) {
                    return Err(RecordError::value("KEY_NULL", "a key column is null or was not sent")
                        .in_column(&column.name));
                }
            }
        }
        let create = decoded.op == Kind::Write("c");
        let follows = record.headers.iter().any(|(name, _)| &**name == ROW_FOLLOWS_HEADER);
        let entry = Entry { record: index, bytes: start..arena.len(), key_end, delete, follows, create };
        self.batch.segment(plan).entries.push(entry);
        Ok(())
    }
}

fn encode_column<P: RowPlan>(
    column: &Column<P::Wire>,
    record: &SinkRecord,
    decoded: &Decoded<'_>,
    arena: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let absent = ValueRef::Absent;
    let at = |values: &Option<Vec<ValueRef<'_>>>, index: usize, arena: &mut Vec<u8>| {
        let value = values.as_ref().and_then(|values| values.get(index));
        P::encode(column.wire, &column.schema, value.unwrap_or(&absent), arena)
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
        Meta::Topic => ValueRef::str(&record.topic),
        Meta::Partition => ValueRef::Int(i64::from(record.id.partition.partition)),
        Meta::Offset => ValueRef::Int(record.id.offset),
    };
    P::encode(column.wire, &column.schema, &value, arena)
}
