//! Steps that change rows: written once for a row, used on envelopes and on plain records, on keys and on values.
//!
//! ```text
//!   envelope { before: Row?, after: Row?, source, op, … }   →  the same envelope over the new Row, both images changed
//!   Row                                                     →  the new Row
//!   tombstone, or no key                                    →  itself
//! ```
//!
//! A [`RowStep`] maps a row's schema once; its rows then follow the plan it made. The new schema is kept by the address of the
//! old one, together with the old one, so that the address can't come to mean another schema, and one schema in is one out.

use std::{collections::HashMap, sync::Arc};

use rowstream_api::{RecordError, Schema, SchemaBuilder, ValueRef, config::nearest};
use serde::Deserialize;

use crate::{
    chain::Transform,
    record::{Part, Record},
    refused,
    unavailable::Unavailable,
};

/// Schemas that are remembered. A source has one for each version of each table; more than this means that something makes
/// schemas for each record, which must not take memory without end.
const SCHEMAS_MAX: usize = 4096;

/// What was made of each schema.
pub(crate) struct SchemaCache<T>(HashMap<usize, (Arc<Schema>, T)>);

impl<T> Default for SchemaCache<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> SchemaCache<T> {
    /// What was made of this schema, made now at its first time.
    pub(crate) fn get(
        &mut self,
        schema: &Arc<Schema>,
        make: impl FnOnce(&Arc<Schema>) -> Result<T, RecordError>,
    ) -> Result<&mut T, RecordError> {
        let address = Arc::as_ptr(schema).addr();
        if self.0.len() >= SCHEMAS_MAX && !self.0.contains_key(&address) {
            self.0.clear();
        }
        match self.0.entry(address) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(&mut entry.into_mut().1),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let made = make(schema)?;
                Ok(&mut entry.insert((Arc::clone(schema), made)).1)
            }
        }
    }
}

/// Which part of a record a step changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum On {
    /// The row, or both rows of an envelope.
    #[default]
    Value,
    /// The key.
    Key,
}

impl On {
    pub(crate) fn part_mut<'r, 'a>(self, record: &'r mut Record<'a>) -> &'r mut Part<'a> {
        match self {
            Self::Value => &mut record.value,
            Self::Key => &mut record.key,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Key => "key",
        }
    }
}

/// What a row step may know of the record that the row is in.
pub(crate) struct Surroundings<'r> {
    /// Columns of the row that hold placeholders.
    pub(crate) unavailable: &'r Unavailable,
    /// The record's topic.
    pub(crate) topic: &'r str,
    /// The record's timestamp.
    pub(crate) timestamp_ms: i64,
}

/// The new schema with the plan; none when rows stay as they are.
pub(crate) type Planning<P> = Result<Option<(Arc<Schema>, P)>, RecordError>;

/// A change of rows.
pub(crate) trait RowStep: Send + 'static {
    /// What is known of the rows of one schema.
    type Plan: Send;

    /// The schema of what becomes of such rows, and how; none when they stay as they are.
    ///
    /// # Errors
    /// Rows of this schema can't be changed so.
    fn plan(&self, row: &Arc<Schema>) -> Planning<Self::Plan>;

    /// One row.
    ///
    /// # Errors
    /// This row can't be changed so.
    fn row<'a>(
        &self,
        plan: &Self::Plan,
        row: Vec<ValueRef<'a>>,
        around: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError>;

    /// Under which names a column of the old row stands in the new one.
    fn now(&self, _plan: &Self::Plan, column: &str) -> Vec<String> {
        vec![column.to_owned()]
    }
}

/// A row step as a transform.
pub(crate) struct OverRows<S: RowStep> {
    step: S,
    on: On,
    plans: SchemaCache<Option<Planned<S::Plan>>>,
}

struct Planned<P> {
    schema: Arc<Schema>,
    images: Images,
    plan: P,
}

/// Where the rows are in a value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Images {
    /// It is one.
    Whole,
    /// In fields of an envelope.
    Envelope {
        /// Index of `before`.
        before: Option<usize>,
        /// Index of `after`.
        after: usize,
    },
}

impl Images {
    /// Where they are, and their schema.
    ///
    /// # Errors
    /// There are no rows in it.
    pub(crate) fn of(schema: &Arc<Schema>, part: &str) -> Result<(Self, Arc<Schema>), RecordError> {
        let (images, row) = match (schema.is_envelope(), schema.field("after")) {
            (true, Some((after, field))) => {
                let before = schema.field("before");
                if before.is_some_and(|(_, before)| before.schema != field.schema) {
                    let message = "`before` and `after` of the envelope are rows of two schemas";
                    return Err(refused("ENVELOPE_INVALID", message));
                }
                let before = before.map(|(index, _)| index);
                (Self::Envelope { before, after }, Arc::clone(&field.schema))
            }
            (true | false, _) => (Self::Whole, Arc::clone(schema)),
        };
        if row.fields().is_empty() {
            let message = format!("the {part} is {}, which has no fields", type_word(&row));
            return Err(refused("NOT_A_STRUCT", message));
        }
        Ok((images, row))
    }

    /// The same value over another row.
    pub(crate) fn over(self, schema: &Schema, row: Arc<Schema>) -> Arc<Schema> {
        let Self::Envelope { before, after } = self else { return row };
        let fields = schema.fields().iter().enumerate();
        fields
            .fold(like(schema), |builder, (index, field)| {
                let is_row = index == after || Some(index) == before;
                builder.field(&field.name, Arc::clone(if is_row { &row } else { &field.schema }))
            })
            .build()
    }

    /// The row as it is now: `after`, or `before` where there is no `after`.
    pub(crate) fn current<'v, 'a>(self, value: &'v ValueRef<'a>) -> Option<&'v [ValueRef<'a>]> {
        let fields = value.as_struct()?;
        let Self::Envelope { before, after } = self else { return Some(fields) };
        let image = |index: usize| fields.get(index).and_then(ValueRef::as_struct);
        image(after).or_else(|| image(before?))
    }

    /// The rows that are there, in the order of [`each`](Self::each).
    pub(crate) fn rows<'v, 'a>(self, value: &'v ValueRef<'a>) -> impl Iterator<Item = &'v [ValueRef<'a>]> {
        let fields = value.as_struct().unwrap_or(&[]);
        let (whole, indices) = match self {
            Self::Whole => (value.as_struct(), [None, None]),
            Self::Envelope { before, after } => (None, [before, Some(after)]),
        };
        let image = move |index: usize| fields.get(index).and_then(ValueRef::as_struct);
        whole.into_iter().chain(indices.into_iter().flatten().filter_map(image))
    }

    /// Changes each row that is there.
    pub(crate) fn each<'a>(
        self,
        value: &mut ValueRef<'a>,
        mut change: impl FnMut(Vec<ValueRef<'a>>) -> Result<Vec<ValueRef<'a>>, RecordError>,
    ) -> Result<(), RecordError> {
        let ValueRef::Struct(fields) = value else { return Ok(()) };
        let Self::Envelope { before, after } = self else {
            *fields = change(std::mem::take(fields))?;
            return Ok(());
        };
        for index in before.into_iter().chain([after]) {
            if let Some(ValueRef::Struct(row)) = fields.get_mut(index) {
                *row = change(std::mem::take(row))?;
            }
        }
        Ok(())
    }
}

impl<S: RowStep> OverRows<S> {
    /// The step on this part of records.
    pub(crate) fn boxed(step: S, on: On) -> Box<dyn Transform> {
        Box::new(Self { step, on, plans: SchemaCache::default() })
    }
}

impl<S: RowStep> Transform for OverRows<S> {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let part = self.on.part_mut(&mut record);
        let Some(schema) = part.schema() else {
            out.push(record);
            return Ok(());
        };
        let (step, on) = (&self.step, self.on);
        let planned = self.plans.get(schema, |schema| {
            let (images, row) = Images::of(schema, on.word())?;
            let planned = step.plan(&row)?;
            Ok(planned.map(|(row, plan)| Planned { schema: images.over(schema, row), images, plan }))
        })?;
        let Some(planned) = planned else {
            out.push(record);
            return Ok(());
        };
        let unavailable = match on {
            On::Value => Unavailable::of(&record.headers)?,
            On::Key => Unavailable::default(),
        };
        let (topic, timestamp_ms) = (Arc::clone(&record.topic), record.timestamp_ms);
        let around = Surroundings { unavailable: &unavailable, topic: &topic, timestamp_ms };
        if let Some((schema, value)) = on.part_mut(&mut record).tree()? {
            *schema = Arc::clone(&planned.schema);
            planned.images.each(value, |row| step.row(&planned.plan, row, &around))?;
        }
        unavailable.rename(&mut record.headers, |column| step.now(&planned.plan, column));
        out.push(record);
        Ok(())
    }
}

/// A STRUCT of the same name, without its fields.
pub(crate) fn like(schema: &Schema) -> SchemaBuilder {
    let mut builder = SchemaBuilder::structure().optional_if(schema.is_optional());
    if let Some(name) = schema.name() {
        builder = builder.name(name);
    }
    if let Some(version) = schema.version() {
        builder = builder.version(version);
    }
    if let Some(doc) = schema.doc() {
        builder = builder.doc(doc);
    }
    schema.parameters().iter().fold(builder, |builder, (key, value)| builder.parameter(key, value))
}

/// Kafka Connect's word for a type.
pub(crate) fn type_word(schema: &Schema) -> &'static str {
    use rowstream_api::SchemaType as T;
    match schema.ty() {
        T::Boolean => "BOOLEAN",
        T::Int8 => "INT8",
        T::Int16 => "INT16",
        T::Int32 => "INT32",
        T::Int64 => "INT64",
        T::Float32 => "FLOAT32",
        T::Float64 => "FLOAT64",
        T::String => "STRING",
        T::Bytes => "BYTES",
        T::Array(_) => "ARRAY",
        T::Map(_) => "MAP",
        T::Struct(_) => "STRUCT",
    }
}

/// A field that must be there: its index and schema.
///
/// # Errors
/// It is not; the message names those that are, and the setting that asks for it.
pub(crate) fn column(row: &Schema, name: &str, setting: &str) -> Result<(usize, Arc<Schema>), RecordError> {
    if let Some((index, field)) = row.field(name) {
        return Ok((index, Arc::clone(&field.schema)));
    }
    let names = || row.fields().iter().map(|field| field.name.as_str());
    let meant = nearest(name, names()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    let known: Vec<&str> = names().collect();
    let message = format!(
        "the row has no field `{name}`, which `{setting}` names; {meant}known are {}",
        known.join(", ")
    );
    Err(refused("FIELD_MISSING", message))
}

/// The same schema, allowing null or not, without its default.
pub(crate) fn with_optional(schema: &Schema, optional: bool) -> Arc<Schema> {
    let mut builder = SchemaBuilder::new(schema.ty().clone()).optional_if(optional);
    if let Some(name) = schema.name() {
        builder = builder.name(name);
    }
    if let Some(version) = schema.version() {
        builder = builder.version(version);
    }
    if let Some(doc) = schema.doc() {
        builder = builder.doc(doc);
    }
    schema.parameters().iter().fold(builder, |builder, (key, value)| builder.parameter(key, value)).build()
}
