//! Keys and Debezium envelopes of one table, written straight from its rows.
//!
//! A key is never written from a value that is not there: a null, absent or unavailable key column is an error, since
//! a wrong key would make compaction and sinks change another row.

use std::sync::Arc;

use rowstream_api::{Op, RecordError, RowView, Schema, Stage, TableSchema, ValueRef};

use crate::{
    encode::{EncodePlan, FieldNode, Kind, Node, mismatch, or_undo},
    wire::{put_bytes, put_long},
};

/// One change as it goes into an envelope.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    /// What happened.
    pub op: Op,
    /// The old row.
    pub before: Option<&'a dyn RowView>,
    /// The new row.
    pub after: Option<&'a dyn RowView>,
    /// The values of the `source` struct, in its field order.
    pub source: &'a [ValueRef<'a>],
    /// The connector's clock, microseconds since the epoch: `ts_ms`, `ts_us` and `ts_ns`.
    pub now_us: i64,
}

/// A compiled table.
#[derive(Debug)]
pub struct EnvelopePlan {
    table: Arc<TableSchema>,
    key: Vec<(usize, FieldNode)>,
    slots: Vec<Slot>,
    /// The value of records that are no events of rows, where the value schema is theirs.
    message: Option<EncodePlan>,
}

/// One field of the envelope.
#[derive(Debug)]
enum Slot {
    Before(Node),
    After(Node),
    Source(Node),
    /// Bytes of the op, and whatever stands in front of them.
    Op(Node),
    /// A clock of so many ticks a millisecond.
    Clock(Node, Clock),
    /// `transaction`, and fields that this version does not fill.
    Absent(Node),
}

#[derive(Debug, Clone, Copy)]
enum Clock {
    Millis,
    Micros,
    Nanos,
}

impl EnvelopePlan {
    /// Compiles a table's key and envelope.
    #[must_use]
    pub fn compile(table: &Arc<TableSchema>) -> Self {
        let key_fields = table.key.iter().flat_map(|key| key.fields());
        let key = table.key_columns.iter().zip(key_fields).map(|(&column, field)| {
            (column, FieldNode { name: field.name.clone(), node: Node::compile(&field.schema) })
        });
        let slots = table.envelope.fields().iter().map(|field| Slot::compile(&field.name, &field.schema));
        let message = (!table.envelope.is_envelope()).then(|| EncodePlan::compile(&table.envelope));
        Self { table: table.clone(), key: key.collect(), slots: slots.collect(), message }
    }

    /// The table it was compiled from.
    #[must_use]
    pub fn table(&self) -> &Arc<TableSchema> {
        &self.table
    }

    /// Whether records of this table have a key.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.table.key.is_some()
    }

    /// Appends the key of a row.
    ///
    /// # Errors
    /// A key column is null, absent, unavailable or does not fit, or the table has no key; `out` is as before.
    pub fn encode_key(&self, row: &dyn RowView, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let written = or_undo(out, |out| {
            if !self.has_key() {
                return Err(mismatch("a table with a key", "one without"));
            }
            for (column, field) in &self.key {
                let value = row.column(*column)?;
                if matches!(value, ValueRef::Unavailable | ValueRef::Absent) {
                    let message = "a key column's value was not sent by the source; the table's replica identity \
                                   must hold the key";
                    return Err(RecordError::value("KEY_UNAVAILABLE", message).in_column(&field.name));
                }
                field.node.encode(&value, out).map_err(|error| error.in_column(&field.name))?;
            }
            Ok(())
        });
        written.map_err(|error| RecordError { stage: Stage::KeyConverter, ..error })
    }

    /// Appends the value of a record that is no event of a row.
    ///
    /// # Errors
    /// It does not fit the schema, or the schema is an envelope; `out` is as before.
    pub fn encode_message(&self, value: &dyn RowView, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let Some(message) = &self.message else {
            return Err(mismatch("the schema of a message", "an envelope"));
        };
        message.encode_row(value, out, &mut Vec::new())
    }

    /// Appends an envelope. The indices of the new row's columns that were `Unavailable` are added to `unavailable`; in
    /// the old row a placeholder is written and not reported.
    ///
    /// # Errors
    /// A column or a `source` field does not fit its schema; it is named, and `out` and `unavailable` are as before.
    pub fn encode_envelope(
        &self,
        event: &Event<'_>,
        out: &mut Vec<u8>,
        unavailable: &mut Vec<usize>,
    ) -> Result<(), RecordError> {
        let reported = unavailable.len();
        let written =
            or_undo(out, |out| self.slots.iter().try_for_each(|slot| slot.encode(event, out, unavailable)));
        if written.is_err() {
            unavailable.truncate(reported);
        }
        written
    }
}

impl Slot {
    fn compile(name: &str, schema: &Schema) -> Self {
        let node = Node::compile(schema);
        match name {
            "before" => Self::Before(node),
            "after" => Self::After(node),
            "source" => Self::Source(node),
            "op" => Self::Op(node),
            "ts_ms" => Self::Clock(node, Clock::Millis),
            "ts_us" => Self::Clock(node, Clock::Micros),
            "ts_ns" => Self::Clock(node, Clock::Nanos),
            _ => Self::Absent(node),
        }
    }

    #[inline]
    fn encode(
        &self,
        event: &Event<'_>,
        out: &mut Vec<u8>,
        unavailable: &mut Vec<usize>,
    ) -> Result<(), RecordError> {
        match self {
            Self::Before(node) => {
                let reported = unavailable.len();
                let written = encode_image(node, event.before, out, unavailable);
                unavailable.truncate(reported);
                written.map_err(|error| error.in_column("before"))
            }
            Self::After(node) => encode_image(node, event.after, out, unavailable),
            Self::Source(node) => encode_source(node, event.source, out),
            Self::Op(node) => {
                out.extend_from_slice(node.value_branch());
                put_bytes(event.op.letter().as_bytes(), out);
                Ok(())
            }
            Self::Clock(node, clock) => {
                out.extend_from_slice(node.value_branch());
                put_long(clock.ticks(event.now_us), out);
                Ok(())
            }
            Self::Absent(node) => node.encode(&ValueRef::Absent, out),
        }
    }
}

impl Clock {
    fn ticks(self, micros: i64) -> i64 {
        match self {
            Self::Millis => micros.div_euclid(1000),
            Self::Micros => micros,
            Self::Nanos => micros.saturating_mul(1000),
        }
    }
}

fn encode_image(
    node: &Node,
    row: Option<&dyn RowView>,
    out: &mut Vec<u8>,
    unavailable: &mut Vec<usize>,
) -> Result<(), RecordError> {
    let Some(row) = row else {
        out.push(node.null_branch()?);
        return Ok(());
    };
    node.encode_row(row, out, unavailable)
}

fn encode_source(node: &Node, values: &[ValueRef<'_>], out: &mut Vec<u8>) -> Result<(), RecordError> {
    let Kind::Struct(fields) = &node.kind else { return Err(mismatch(node.kind.word(), "a struct")) };
    if fields.len() != values.len() {
        let message = format!("`source` has {} fields, {} values were given", fields.len(), values.len());
        return Err(RecordError::value("VALUE_TYPE_MISMATCH", message));
    }
    out.extend_from_slice(node.value_branch());
    for (field, value) in fields.iter().zip(values) {
        field.node.encode(value, out).map_err(|error| error.in_column(&format!("source.{}", field.name)))?;
    }
    Ok(())
}
