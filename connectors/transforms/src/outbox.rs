//! `outbox`: Debezium's `EventRouter`. Rows of an outbox table become the events that they describe.
//!
//! ```text
//!   insert { id, aggregatetype, aggregateid, type, payload }  →  topic outbox.event.<aggregatetype>,
//!                                                               key aggregateid, value payload, header id
//!   delete, truncate, tombstone                               →  nothing: the table is cleaned up
//!   update                                                    →  nothing, with a log line; or refused
//!   no envelope                                               →  itself
//! ```
//!
//! Unlike Debezium's, a key or a value that is not null has a schema that does not allow null, and the record keeps the commit's
//! time unless a column is named.

use std::{collections::HashMap, sync::Arc};

use regex::Regex;
use rowstream_api::{
    RecordError, Schema, SchemaBuilder, SchemaType, Semantic, ValueRef, calendar::parse_instant,
};
use serde::Deserialize;

use crate::{
    chain::Transform,
    json_schema::{self, JsonRules, Schemas},
    record::{Part, Record},
    refused,
    rows::{Images, SchemaCache, column, type_word, with_optional},
    settings::{Replacement, checked_topic},
    text::header_text,
};

mod settings;

pub(crate) use settings::PLUGIN;

/// Schemas of values with an envelope that are remembered for one schema of the table.
const ENVELOPES_MAX: usize = 1024;

struct Outbox {
    columns: Columns,
    additional: Vec<Additional>,
    missing: Missing,
    regex: Regex,
    replacement: Replacement,
    tombstone_on_empty: bool,
    updates: Updates,
    json: Option<JsonRules>,
    plans: SchemaCache<Option<Plan>>,
    expanded: Schemas,
}

/// Names of columns.
struct Columns {
    id: String,
    key: String,
    payload: String,
    route: String,
    timestamp: Option<String>,
    version: Option<String>,
}

/// A column with a place of its own.
struct Additional {
    column: String,
    placement: Placement,
    alias: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placement {
    Header,
    Envelope,
    Partition,
}

/// What is done when an additional column is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Missing {
    Error,
    Ignore,
}

/// What is done with updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Updates {
    Warn,
    Error,
    Fatal,
}

/// A column found.
struct Column {
    index: usize,
    schema: Arc<Schema>,
}

/// Where things stand in one schema of the table.
struct Plan {
    op: usize,
    after: usize,
    row: Arc<Schema>,
    id: Column,
    key: Column,
    key_schema: Arc<Schema>,
    payload: Column,
    payload_schema: Arc<Schema>,
    route: Column,
    timestamp: Option<(Column, Unit)>,
    version: Option<Column>,
    /// Name of a header, and its column.
    headers: Vec<(Arc<str>, Column)>,
    /// Name in the value, and its column.
    envelope: Vec<(String, Column)>,
    partition: Option<Column>,
    /// By the routed value, the version, and the payload's schema, which is held.
    envelopes: HashMap<EnvelopeKey, (Arc<Schema>, Arc<Schema>)>,
}

type EnvelopeKey = (String, Option<i64>, usize);

/// What a timestamp's number counts.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Millis,
    Micros,
    Nanos,
    Text,
}

impl Transform for Outbox {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let Some(schema) = record.value.schema().cloned() else { return Ok(()) };
        if !schema.is_envelope() {
            out.push(record);
            return Ok(());
        }
        let op = self.plan(&schema)?.op;
        let ops = record.value.fields(&[op])?;
        match ops.first().and_then(ValueRef::as_str) {
            Some("c" | "r") => {}
            Some("u") => return self.refuse_update(&record.topic),
            Some(_) | None => return Ok(()),
        }
        let after = self.plan(&schema)?.after;
        let row = match record.value.tree()? {
            Some((_, ValueRef::Struct(fields))) => fields.get_mut(after),
            Some(_) | None => None,
        };
        let Some(ValueRef::Struct(row)) = row.map(|row| std::mem::replace(row, ValueRef::Null)) else {
            return Err(refused("ENVELOPE_INVALID", "the event has no `after`, which its `op` calls for"));
        };
        self.event(&schema, record, &row).map(|record| out.push(record))
    }
}

impl Outbox {
    fn plan(&mut self, schema: &Arc<Schema>) -> Result<&mut Plan, RecordError> {
        let Self { plans, columns, additional, missing, .. } = self;
        let plan = plans.get(schema, |schema| Plan::of(schema, columns, additional, *missing).map(Some))?;
        plan.as_mut().ok_or_else(|| refused("ENVELOPE_INVALID", "the value is no event"))
    }

    fn refuse_update(&self, topic: &str) -> Result<(), RecordError> {
        match self.updates {
            Updates::Warn => {
                tracing::warn!(topic, code = "OUTBOX_UPDATED", "an outbox row was updated; left out")
            }
            Updates::Error => {
                tracing::error!(topic, code = "OUTBOX_UPDATED", "an outbox row was updated; left out")
            }
            Updates::Fatal => {
                let message =
                    "a row of the outbox table was updated; its rows are events, which are only inserted";
                return Err(refused("OUTBOX_UPDATED", message));
            }
        }
        Ok(())
    }

    /// The event that a row describes.
    fn event<'a>(
        &mut self,
        schema: &Arc<Schema>,
        mut record: Record<'a>,
        row: &[ValueRef<'a>],
    ) -> Result<Record<'a>, RecordError> {
        let tombstone_on_empty = self.tombstone_on_empty;
        let Self { plans, columns, additional, missing, expanded, json, .. } = self;
        let plan = plans.get(schema, |schema| Plan::of(schema, columns, additional, *missing).map(Some))?;
        let Some(plan) = plan else { return Ok(record) };
        let routed = plan.route.of(row).as_str().ok_or_else(|| {
            refused(
                "VALUE_NULL",
                format!("field `{}` is null, so that the event has no topic", columns.route),
            )
        })?;
        let topic = self.replacement.apply(&self.regex, routed);
        record.topic =
            checked_topic(topic.as_deref().unwrap_or(routed), &format!("field `{}`", columns.route))?;
        plan.place(&mut record, row)?;
        let payload = plan.payload.of(row);
        if tombstone_on_empty && is_empty(payload) {
            record.value = Part::Null;
            return Ok(record);
        }
        let made = match (json, payload) {
            (Some(rules), ValueRef::Str(text)) => {
                let made = json_schema::expand(text, &columns.payload, *rules, expanded);
                if made.is_none() {
                    let (topic, code) = (&*record.topic, "OUTBOX_NOT_JSON");
                    tracing::warn!(topic, code, "a payload can't be expanded as JSON; written as text");
                }
                made
            }
            (Some(_) | None, _) => None,
        };
        let (payload_schema, payload) =
            made.unwrap_or_else(|| (Arc::clone(&plan.payload_schema), payload.clone()));
        record.value = if !plan.envelope.is_empty() {
            let version = plan.version.as_ref().and_then(|column| column.of(row).as_int());
            let mut fields = vec![payload];
            fields.extend(plan.envelope.iter().map(|(_, column)| column.of(row).clone()));
            let schema = plan.enveloped(routed, version, &payload_schema);
            Part::Tree { schema, value: ValueRef::Struct(fields) }
        } else if payload.is_null() {
            Part::Null
        } else {
            Part::Tree { schema: payload_schema, value: payload }
        };
        Ok(record)
    }
}

/// Null, or nothing but blanks.
fn is_empty(payload: &ValueRef<'_>) -> bool {
    match (payload, payload.as_str()) {
        (ValueRef::Null | ValueRef::Absent, _) => true,
        (ValueRef::Bytes(bytes), _) => bytes.is_empty(),
        (_, text) => text.is_some_and(|text| text.trim().is_empty()),
    }
}

impl Column {
    fn of<'v, 'a>(&self, row: &'v [ValueRef<'a>]) -> &'v ValueRef<'a> {
        row.get(self.index).unwrap_or(&ValueRef::Null)
    }
}

impl Plan {
    fn of(
        schema: &Arc<Schema>,
        columns: &Columns,
        additional: &[Additional],
        missing: Missing,
    ) -> Result<Self, RecordError> {
        let (Images::Envelope { after, .. }, row) = Images::of(schema, "value")? else {
            return Err(refused("ENVELOPE_INVALID", "the value is no event"));
        };
        let op = schema.field("op").map(|(index, _)| index).unwrap_or_default();
        let payload = find(&row, &columns.payload, "table_field_event_payload")?;
        let key = find(&row, &columns.key, "table_field_event_key")?;
        let route = find(&row, &columns.route, "route_by_field")?;
        typed(&route, &columns.route, &[SchemaType::String])?;
        let timestamp = match &columns.timestamp {
            Some(name) => {
                let found = find(&row, name, "table_field_event_timestamp")?;
                let unit = Unit::of(&found.schema, name)?;
                Some((found, unit))
            }
            None => None,
        };
        let version = match &columns.version {
            Some(name) => {
                let found = find(&row, name, "table_field_event_schema_version")?;
                typed(&found, name, &[SchemaType::Int8, SchemaType::Int16, SchemaType::Int32])?;
                Some(found)
            }
            None => None,
        };
        let mut plan = Self {
            op,
            after,
            id: find(&row, &columns.id, "table_field_event_id")?,
            key_schema: with_optional(&key.schema, false),
            key,
            payload_schema: with_optional(&payload.schema, false),
            payload,
            route,
            timestamp,
            version,
            headers: Vec::new(),
            envelope: Vec::new(),
            partition: None,
            envelopes: HashMap::new(),
            row,
        };
        for placed in additional {
            if missing == Missing::Ignore && plan.row.field(&placed.column).is_none() {
                continue;
            }
            let found = find(&plan.row, &placed.column, "table_fields_additional_placement")?;
            match placed.placement {
                Placement::Header => plan.headers.push((placed.alias.as_str().into(), found)),
                Placement::Envelope => plan.envelope.push((placed.alias.clone(), found)),
                Placement::Partition => {
                    typed(&found, &placed.column, &[SchemaType::Int8, SchemaType::Int16, SchemaType::Int32])?;
                    plan.partition = Some(found);
                }
            }
        }
        Ok(plan)
    }

    /// Headers, partition, timestamp and key.
    fn place<'a>(&self, record: &mut Record<'a>, row: &[ValueRef<'a>]) -> Result<(), RecordError> {
        if let Some(id) = header_text(&self.id.schema, self.id.of(row))? {
            record.headers.push(("id".into(), id.into()));
        }
        for (name, column) in &self.headers {
            if let Some(text) = header_text(&column.schema, column.of(row))? {
                record.headers.push((Arc::clone(name), text.into()));
            }
        }
        if let Some(number) = self.partition.as_ref().and_then(|column| column.of(row).as_int()) {
            record.partition = Some(u32::try_from(number).map_err(|_| {
                refused("VALUE_OUT_OF_RANGE", "the column placed as `partition` holds a negative number")
            })?);
        }
        if let Some((column, unit)) = &self.timestamp
            && let Some(millis) = unit.millis(column.of(row))?
        {
            record.timestamp_ms = millis;
        }
        let key = self.key.of(row);
        record.key = if matches!(key, ValueRef::Null | ValueRef::Absent) {
            Part::Null
        } else {
            Part::Tree { schema: Arc::clone(&self.key_schema), value: key.clone() }
        };
        Ok(())
    }

    /// The schema of a value that holds more than the payload.
    fn enveloped(&mut self, routed: &str, version: Option<i64>, payload: &Arc<Schema>) -> Arc<Schema> {
        let address = (routed.to_owned(), version, Arc::as_ptr(payload).addr());
        if let Some((made, _)) = self.envelopes.get(&address) {
            return Arc::clone(made);
        }
        if self.envelopes.len() >= ENVELOPES_MAX {
            self.envelopes.clear();
        }
        let name = match self.row.name().and_then(|name| name.rsplit_once('.')) {
            Some((space, last)) => format!("{space}.{routed}.{last}"),
            None => routed.to_owned(),
        };
        let mut builder =
            SchemaBuilder::structure().name(name).field("payload", with_optional(payload, true));
        if let Some(version) = version.and_then(|version| i32::try_from(version).ok()) {
            builder = builder.version(version);
        }
        for (name, column) in &self.envelope {
            builder = builder.field(name, Arc::clone(&column.schema));
        }
        let made = builder.build();
        self.envelopes.insert(address, (Arc::clone(&made), Arc::clone(payload)));
        made
    }
}

fn find(row: &Schema, name: &str, setting: &str) -> Result<Column, RecordError> {
    column(row, name, setting).map(|(index, schema)| Column { index, schema })
}

fn typed(column: &Column, name: &str, expected: &[SchemaType]) -> Result<(), RecordError> {
    if expected.contains(column.schema.ty()) {
        return Ok(());
    }
    let words: Vec<&str> =
        expected.iter().map(|ty| type_word(&SchemaBuilder::new(ty.clone()).build())).collect();
    let message = format!("field `{name}` is {}, expected {}", type_word(&column.schema), words.join(" or "));
    Err(refused("FIELD_TYPE", message))
}

impl Unit {
    fn of(schema: &Schema, name: &str) -> Result<Self, RecordError> {
        match (schema.semantic(), schema.name()) {
            (Semantic::TimestampMillis, _) => Ok(Self::Millis),
            (Semantic::TimestampMicros, _) => Ok(Self::Micros),
            (_, Some("io.debezium.time.NanoTimestamp")) => Ok(Self::Nanos),
            (Semantic::ZonedTimestamp, _) => Ok(Self::Text),
            _ => {
                let message = format!("field `{name}` is {}, expected a timestamp", type_word(schema));
                Err(refused("FIELD_TYPE", message))
            }
        }
    }

    fn millis(self, value: &ValueRef<'_>) -> Result<Option<i64>, RecordError> {
        Ok(match (self, value) {
            (Self::Millis, ValueRef::Int(number)) => Some(*number),
            (Self::Micros, ValueRef::Int(number)) => Some(number.div_euclid(1_000)),
            (Self::Nanos, ValueRef::Int(number)) => Some(number.div_euclid(1_000_000)),
            (Self::Text, ValueRef::Str(text)) => {
                let micros = parse_instant(text)
                    .ok_or_else(|| refused("VALUE_OUT_OF_RANGE", "the event's timestamp is no instant"))?;
                Some(micros.div_euclid(1_000))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
