//! A record taken apart: what happened, to which row of which table.

use std::sync::Arc;

use super::{RecordPolicy, TruncatePolicy, WriteMode, template::Variables};
use crate::{
    change::UNAVAILABLE_HEADER,
    error::{RecordError, Stage},
    schema::Schema,
    sink::SinkRecord,
    value::ValueRef,
};

/// Where things stand in a value schema.
#[derive(Debug, Clone)]
pub struct Shape {
    envelope: Option<Envelope>,
    /// The row STRUCT.
    pub row: Arc<Schema>,
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
#[derive(Debug)]
pub struct Decoded<'a> {
    /// What happened.
    pub op: Kind,
    /// The row, where there is one.
    pub row: Option<Vec<ValueRef<'a>>>,
    /// The key's values; none in append mode.
    pub key: Option<Vec<ValueRef<'a>>>,
    /// Schema (or database) and table.
    pub table: (String, String),
}

/// What a record does to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The row is so now; `c`, `u` or `r`.
    Write(&'static str),
    /// The row is gone.
    Delete,
    /// All rows are.
    Truncate,
}

impl Shape {
    /// Whether the values are events.
    #[must_use]
    pub fn is_envelope(&self) -> bool {
        self.envelope.is_some()
    }
}

/// Finds things in a value schema.
///
/// # Errors
/// It is no struct with fields, or that of statements that define tables.
pub fn shape_of(schema: &Arc<Schema>) -> Result<Shape, RecordError> {
    if schema.name().is_some_and(|name| name.ends_with(".SchemaChangeValue")) {
        return Err(schema_change());
    }
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

/// Takes a record apart; `None` when it changes nothing.
///
/// # Errors
/// The record is no event that can become a row, or the policy refuses it.
pub fn decode<'r>(
    policy: &RecordPolicy,
    record: &'r SinkRecord,
    shape: &Shape,
) -> Result<Option<Decoded<'r>>, RecordError> {
    let Some(value) = &record.value else { return Ok(None) };
    let Some(envelope) = &shape.envelope else {
        let ValueRef::Struct(mut row) = value.decode()? else { return Err(not_a_struct("value")) };
        mark_unavailable(record, &shape.row, &mut row)?;
        let table = table_of(policy, record, None, &[], [None; 3]);
        let key = key_of(policy, record)?;
        return Ok(Some(Decoded { op: Kind::Write("c"), row: Some(row), key, table }));
    };
    let mut wanted = vec![envelope.op, envelope.after];
    wanted.extend(envelope.source.filter(|_| policy.table.needs_source()));
    let mut fields = value.decoder.decode_fields(&value.bytes, &wanted)?;
    let append = policy.write_mode == WriteMode::Append;
    let op = match fields.get(envelope.op).and_then(ValueRef::as_str) {
        Some("c") => Kind::Write("c"),
        Some("u") => Kind::Write("u"),
        Some("r") => Kind::Write("r"),
        Some("d") if append || policy.delete => Kind::Delete,
        Some("t") => match policy.truncate {
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
    let table = table_of(policy, record, Some(envelope), source.unwrap_or(&[]), envelope.names);
    let key = if op == Kind::Truncate { None } else { key_of(policy, record)? };
    Ok(Some(Decoded { op, row, key, table }))
}

/// A tombstone as the delete that it stands for. Behind an event `d` it tells nothing new and is passed. It is a delete where its header says
/// so, behind flat records of its topic, and, while nothing is known of the topic, where the table follows from the topic alone: then the
/// delete before it, if there was one, was of the same row.
///
/// # Errors
/// The key can't be read.
pub fn decode_tombstone<'r>(
    policy: &RecordPolicy,
    record: &'r SinkRecord,
    envelopes: Option<bool>,
) -> Result<Option<Decoded<'r>>, RecordError> {
    let deletes = record.is_delete_itself() || !envelopes.unwrap_or(policy.table.needs_source());
    if !deletes || !policy.delete || policy.write_mode == WriteMode::Append || record.key.is_none() {
        return Ok(None);
    }
    let table = table_of(policy, record, None, &[], [None; 3]);
    Ok(Some(Decoded { op: Kind::Delete, row: None, key: key_of(policy, record)?, table }))
}

fn table_of(
    policy: &RecordPolicy,
    record: &SinkRecord,
    envelope: Option<&Envelope>,
    source: &[ValueRef<'_>],
    names: [Option<usize>; 3],
) -> (String, String) {
    let topic = &*record.topic;
    let named = |index: Option<usize>| index.and_then(|i| source.get(i)).and_then(ValueRef::as_str);
    let [db, schema, table] = names.map(named);
    let last = topic.rsplit('.').next().unwrap_or(topic);
    let table = table.filter(|_| envelope.is_some()).unwrap_or(last);
    let schema = schema.or(db).unwrap_or("public");
    policy.table.names(Variables { topic, db: db.unwrap_or("db"), schema, table })
}

fn key_of<'r>(
    policy: &RecordPolicy,
    record: &'r SinkRecord,
) -> Result<Option<Vec<ValueRef<'r>>>, RecordError> {
    if policy.write_mode == WriteMode::Append {
        return Ok(None);
    }
    let key = record.key.as_ref().ok_or_else(no_key)?;
    let ValueRef::Struct(values) = key.decode()? else { return Err(not_a_struct("key")) };
    Ok(Some(values))
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

/// The record's key STRUCT.
///
/// # Errors
/// There is none.
pub fn key_schema(record: &SinkRecord) -> Result<&Arc<Schema>, RecordError> {
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

fn schema_change() -> RecordError {
    let message = "the record tells of a statement that defined a table, it is no row: its topic is the schema-change topic of a MySQL or \
                   MariaDB source (named as its `topic_prefix`); leave it out of the sink's `topics`, as `<topic_prefix>.*` does";
    RecordError::new(Stage::TaskPut, "SCHEMA_CHANGE_EVENT", message)
}

fn truncate_refused() -> RecordError {
    let message = "the source table was truncated and `truncate` is `fail`";
    RecordError::new(Stage::TaskPut, "TRUNCATE_REFUSED", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{SchemaBuilder, SchemaType};

    #[test]
    fn a_statement_that_defined_a_table_is_no_row() {
        let text = SchemaBuilder::new(SchemaType::String).optional().build();
        let value = SchemaBuilder::structure().field("ddl", text);
        assert!(shape_of(&value.clone().name("shop.statements").build()).is_ok());
        let refused = shape_of(&value.name("io.debezium.connector.mariadb.SchemaChangeValue").build());
        assert_eq!(refused.unwrap_err().code, "SCHEMA_CHANGE_EVENT");
    }
}
