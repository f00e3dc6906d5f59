//! `cloudevents`: an event as a CloudEvent of version 1.0, with the attributes of Debezium's `CloudEventsConverter`.
//!
//! ```text
//!   Envelope { before, after, source, op, … }
//!     → { id, source, specversion, type, time, datacontenttype, iodebeziumop, iodebezium<field of source>…, data { before, after } }
//! ```
//!
//! The id is made of the event's position in its source and nothing else, so that a redelivery has the same one. Rows of a
//! snapshot share their position; a hash of the key tells them apart. What is no event, and tombstones, pass as they are.

use std::sync::Arc;

use rowstream_api::{
    FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, SchemaType, ValueRef, json::write_json,
    text::write_zoned_micros,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    TransformPlugin,
    chain::Transform,
    record::{Part, Record},
    refused,
    rows::{Images, SchemaCache, with_optional},
    settings::parse,
    text::header_text,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "cloudevents",
    fields: &[
        FieldDoc::optional(
            "extension_attributes",
            FieldKind::Bool,
            Some("true"),
            "Whether the fields of `source` and the operation become attributes whose names begin with `iodebezium`.",
            "false",
        ),
        FieldDoc::optional(
            "schema_cloudevents_name",
            FieldKind::Text,
            None,
            "Name of the value's schema; without it, the table's with `CloudEvents.Envelope` behind it.",
            "com.example.OrderEvent",
        ),
    ],
    build: |settings| {
        let settings: Settings = parse(settings)?;
        Ok(Box::new(CloudEvents { settings, plans: SchemaCache::default() }))
    },
};

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default = "yes")]
    extension_attributes: bool,
    schema_cloudevents_name: Option<String>,
}

struct CloudEvents {
    settings: Settings,
    plans: SchemaCache<Option<Plan>>,
}

struct Plan {
    schema: Arc<Schema>,
    before: Option<usize>,
    after: usize,
    op: usize,
    source: usize,
    source_schema: Arc<Schema>,
    /// Fields of `source` that become attributes.
    attributes: Vec<usize>,
}

/// Fields of `source` that tell one event from another, in the order of the id.
const POSITION: [&str; 9] = ["name", "lsn", "txId", "sequence", "server_id", "gtid", "file", "pos", "row"];

impl Transform for CloudEvents {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let Some(schema) = record.value.schema().cloned() else {
            out.push(record);
            return Ok(());
        };
        let settings = &self.settings;
        let Some(plan) = self.plans.get(&schema, |schema| Plan::of(schema, settings))? else {
            out.push(record);
            return Ok(());
        };
        let key = key_hash(&record)?;
        let Some((_, ValueRef::Struct(envelope))) = record.value.tree()? else {
            return Err(refused("ENVELOPE_INVALID", "the value is no struct, which its schema says it is"));
        };
        let mut envelope = std::mem::take(envelope);
        let mut take = |index: usize| {
            envelope.get_mut(index).map_or(ValueRef::Null, |field| std::mem::replace(field, ValueRef::Null))
        };
        let (before, after, op) =
            (plan.before.map(&mut take).unwrap_or(ValueRef::Null), take(plan.after), take(plan.op));
        let ValueRef::Struct(source) = take(plan.source) else {
            return Err(refused("ENVELOPE_INVALID", "the event has no `source`, which its id is made of"));
        };
        let texts = Texts { schema: &plan.source_schema, values: &source };
        let connector = texts.of("connector")?.unwrap_or_default();
        let text = |text: String| ValueRef::Str(text.into());
        let snapshot = op.as_str() == Some("r");
        let mut event = vec![
            text(texts.id(key.filter(|_| snapshot))?),
            text(format!("/debezium/{connector}/{}", texts.of("name")?.unwrap_or_default())),
            ValueRef::str("1.0"),
            text(format!("io.debezium.connector.{connector}.DataChangeEvent")),
            texts.time().map_or(ValueRef::Null, text),
            ValueRef::str("application/avro"),
        ];
        if settings.extension_attributes {
            event.push(op);
            for index in &plan.attributes {
                event.push(source.get(*index).cloned().unwrap_or(ValueRef::Null));
            }
        }
        event.push(ValueRef::Struct(vec![before, after]));
        record.value = Part::Tree { schema: Arc::clone(&plan.schema), value: ValueRef::Struct(event) };
        out.push(record);
        Ok(())
    }
}

impl Plan {
    fn of(schema: &Arc<Schema>, settings: &Settings) -> Result<Option<Self>, RecordError> {
        let Some((source, block)) = schema.field("source").filter(|_| schema.is_envelope()) else {
            return Ok(None);
        };
        let (Images::Envelope { before, after }, row) = Images::of(schema, "value")? else { return Ok(None) };
        let table = schema.name().and_then(|name| name.strip_suffix(".Envelope")).unwrap_or("event");
        let name = match &settings.schema_cloudevents_name {
            Some(name) => name.clone(),
            None => format!("{table}.CloudEvents.Envelope"),
        };
        let text = SchemaBuilder::new(SchemaType::String).build();
        let mut builder = SchemaBuilder::structure().name(name);
        for attribute in ["id", "source", "specversion", "type"] {
            builder = builder.field(attribute, Arc::clone(&text));
        }
        builder =
            builder.field("time", with_optional(&text, true)).field("datacontenttype", Arc::clone(&text));
        let mut attributes = Vec::new();
        if settings.extension_attributes {
            let mut names = vec!["iodebeziumop".to_owned()];
            builder = builder.field("iodebeziumop", text);
            for (index, field) in block.schema.fields().iter().enumerate() {
                let name = attribute_name(&field.name);
                if !names.contains(&name) {
                    builder = builder.field(&name, with_optional(&field.schema, true));
                    names.push(name);
                    attributes.push(index);
                }
            }
        }
        let data = SchemaBuilder::structure()
            .name(format!("{table}.Data"))
            .field("before", Arc::clone(&row))
            .field("after", row);
        let op = schema.field("op").map(|(index, _)| index).unwrap_or_default();
        let source_schema = Arc::clone(&block.schema);
        let schema = builder.field("data", data.build()).build();
        Ok(Some(Self { schema, before, after, op, source, source_schema, attributes }))
    }
}

/// The fields of `source` as text.
struct Texts<'v, 'a> {
    schema: &'v Schema,
    values: &'v [ValueRef<'a>],
}

impl Texts<'_, '_> {
    fn of(&self, name: &str) -> Result<Option<String>, RecordError> {
        let Some((index, field)) = self.schema.field(name) else { return Ok(None) };
        let value = self.values.get(index).unwrap_or(&ValueRef::Null);
        let text = header_text(&field.schema, value)?;
        Ok(text.and_then(|text| String::from_utf8(text).ok()))
    }

    fn id(&self, key: Option<String>) -> Result<String, RecordError> {
        let mut parts = Vec::new();
        for name in POSITION {
            if let Some(text) = self.of(name)? {
                parts.push(format!("{name}:{text}"));
            }
        }
        parts.extend(key.map(|key| format!("key:{key}")));
        Ok(parts.join(";"))
    }

    /// RFC 3339, with milliseconds.
    fn time(&self) -> Option<String> {
        let (index, _) = self.schema.field("ts_ms")?;
        let millis = self.values.get(index)?.as_int()?;
        let mut out = Vec::new();
        write_zoned_micros(millis.checked_mul(1000)?, 3, &mut out);
        String::from_utf8(out).ok()
    }
}

/// CloudEvents takes lower-case letters and digits.
fn attribute_name(field: &str) -> String {
    let kept = field.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase());
    format!("iodebezium{}", kept.collect::<String>())
}

/// The first half of a hash of the key, in hexadecimal digits.
fn key_hash(record: &Record<'_>) -> Result<Option<String>, RecordError> {
    let mut key = record.key.clone();
    let Some((schema, value)) = key.tree()? else { return Ok(None) };
    let mut json = Vec::new();
    write_json(schema, value, &mut json)?;
    Ok(Some(Sha256::digest(&json).iter().take(16).map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests;
