//! Example records as the log would hold them: encoded by the schemas of their topic, so that a chain meets in a test what it meets in
//! the daemon.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use rowstream_api::{
    ConfigErrors, Datum, RecordId, Schema, SchemaBuilder, SinkRecord, TopicPartition, UNAVAILABLE_HEADER,
    ValueRef, json::UNAVAILABLE_PLACEHOLDER,
};
use rowstream_avro::{AvroDecoder, EncodePlan, from_avro_json};
use serde_json::{Map, Value, json};

use super::{
    document::{Case, Document, Input, TableText},
    types::{self, Inferred},
    values::{self, Misfit, Missing},
};

/// The schemas of one topic.
struct Shapes {
    key: Option<Arc<Schema>>,
    key_columns: Vec<String>,
    /// Of a value without an envelope.
    plain: Arc<Schema>,
    envelope: Arc<Schema>,
}

/// The records of each case, in the order of the cases.
///
/// # Errors
/// Every value that is none of its schema, with its place in the file.
pub(super) fn prepare(document: &Document) -> Result<Vec<Vec<SinkRecord>>, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let mut shapes = BTreeMap::new();
    for topic in topics(document) {
        let declared = document.tables.get(topic);
        let place = format!("tables.{topic}");
        let made = shapes_of(topic, declared, &document.cases, &document.directory);
        if let Some(made) = errors.take(&place, made) {
            shapes.insert(topic, made);
        }
    }
    let unused = document.tables.keys().filter(|topic| !shapes.contains_key(topic.as_str()));
    if errors.0.is_empty() {
        for topic in unused {
            errors.push(format!("tables.{topic}"), "no case has a record of this topic");
        }
    }
    let mut prepared = Vec::with_capacity(document.cases.len());
    for (index, case) in document.cases.iter().enumerate() {
        let mut records = Vec::with_capacity(case.input.len());
        for (number, input) in case.input.iter().enumerate() {
            let topic = input.topic.as_deref().unwrap_or_default();
            let Some(shapes) = shapes.get(topic) else { continue };
            let offset = i64::try_from(number).unwrap_or(i64::MAX);
            match record(topic, shapes, input, offset) {
                Ok(record) => records.push(record),
                Err(Misfit { path, message }) => {
                    errors.push(format!("cases[{index}] `{}`: input[{number}].{path}", case.name), message);
                }
            }
        }
        prepared.push(records);
    }
    errors.into_result().map(|()| prepared)
}

fn topics(document: &Document) -> Vec<&str> {
    let mut topics: Vec<&str> = document
        .cases
        .iter()
        .flat_map(|case| &case.input)
        .filter_map(|input| input.topic.as_deref())
        .collect();
    topics.sort_unstable();
    topics.dedup();
    topics
}

fn shapes_of(
    topic: &str,
    declared: Option<&TableText>,
    cases: &[Case],
    directory: &Path,
) -> Result<Shapes, String> {
    let registered = |file: &Path| -> Result<Arc<Schema>, String> {
        let path = directory.join(file);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("read {}: {e}", path.display()))?;
        from_avro_json(&text).map_err(|e| format!("{}: {e}", path.display()))
    };
    let inputs: Vec<&Input> = cases
        .iter()
        .flat_map(|case| &case.input)
        .filter(|input| input.topic.as_deref() == Some(topic))
        .collect();
    let none = TableText::default();
    let table = declared.unwrap_or(&none);
    let (plain, envelope) = match &table.value_schema {
        Some(_) if !table.columns.is_empty() => {
            return Err("has `columns` and `value_schema`; expected one of them".to_owned());
        }
        Some(file) => {
            let schema = registered(file)?;
            match schema.field("after").filter(|_| schema.is_envelope()) {
                Some((_, after)) => (after.schema.to_builder().optional_if(false).build(), schema),
                None => (Arc::clone(&schema), types::envelope(topic, &schema)),
            }
        }
        None if table.columns.is_empty() => {
            let row = inferred(&format!("{topic}.Value"), &inputs)?;
            (Arc::clone(&row), types::envelope(topic, &row))
        }
        None => {
            let mut row = SchemaBuilder::structure().name(format!("{topic}.Value"));
            for (name, ty) in &table.columns {
                row = row
                    .field(name, types::column(ty).map_err(|problem| format!("column `{name}`: {problem}"))?);
            }
            let row = row.build();
            (Arc::clone(&row), types::envelope(topic, &row))
        }
    };
    let key = match &table.key_schema {
        Some(file) => Some(registered(file)?),
        None if !table.key.is_empty() => {
            let mut key = SchemaBuilder::structure().name(format!("{topic}.Key"));
            for name in &table.key {
                let (_, field) =
                    plain.field(name).ok_or_else(|| format!("key column `{name}` is no column"))?;
                key = key.field(name, field.schema.to_builder().optional_if(false).build());
            }
            Some(key.build())
        }
        None => inferred_key(topic, &inputs)?,
    };
    let key_columns = key.iter().flat_map(|key| key.fields()).map(|field| field.name.clone()).collect();
    Ok(Shapes { key, key_columns, plain, envelope })
}

fn inferred(name: &str, inputs: &[&Input]) -> Result<Arc<Schema>, String> {
    let mut row = Inferred::default();
    for value in inputs.iter().flat_map(|input| [&input.before, &input.after, &input.value]).flatten() {
        row = row.widen(value).map_err(|path| {
            format!("field `{path}` is of two types in the examples; declare `tables.TOPIC.columns`")
        })?;
    }
    // Only tombstones and truncates: nothing is known of the rows, and nothing needed.
    if row == Inferred::Unknown {
        return Ok(SchemaBuilder::structure().name(name).build());
    }
    Ok(row.schema(name).to_builder().optional_if(false).build())
}

fn inferred_key(topic: &str, inputs: &[&Input]) -> Result<Option<Arc<Schema>>, String> {
    let mut key = Inferred::default();
    for value in inputs.iter().filter_map(|input| input.key.as_ref()) {
        key =
            key.widen(value).map_err(|path| format!("key field `{path}` is of two types in the examples"))?;
    }
    let known = key != Inferred::Unknown;
    Ok(known.then(|| key.schema(&format!("{topic}.Key")).to_builder().optional_if(false).build()))
}

fn record(topic: &str, shapes: &Shapes, input: &Input, offset: i64) -> Result<SinkRecord, Misfit> {
    let mut headers: Vec<(Arc<str>, Bytes)> = Vec::new();
    let unavailable = unavailable(input);
    if !unavailable.is_empty() && !input.headers.contains_key(UNAVAILABLE_HEADER) {
        headers.push((UNAVAILABLE_HEADER.into(), json!(unavailable).to_string().into()));
    }
    for (name, value) in &input.headers {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        headers.push((name.as_str().into(), text.into()));
    }
    let value = match &input.value {
        Some(Value::Null) => None,
        Some(value) => {
            let value =
                values::read(&shapes.plain, value, Missing::Refused).map_err(|m| inside(m, "value"))?;
            Some(datum(&shapes.plain, &value).map_err(|m| inside(m, "value"))?)
        }
        None => Some(event(topic, shapes, input)?),
    };
    Ok(SinkRecord {
        id: RecordId { partition: TopicPartition::new(topic, 0), offset },
        topic: topic.into(),
        timestamp_ms: input.timestamp,
        key: key(shapes, input)?,
        value,
        headers,
        dropped: false,
    })
}

/// Columns of the new row that hold the placeholder.
fn unavailable(input: &Input) -> Vec<&str> {
    let row = input.after.as_ref().or(input.value.as_ref()).and_then(Value::as_object);
    let placeholder = |(_, value): &(&String, &Value)| value.as_str() == Some(UNAVAILABLE_PLACEHOLDER);
    row.into_iter().flatten().filter(placeholder).map(|(name, _)| name.as_str()).collect()
}

fn key(shapes: &Shapes, input: &Input) -> Result<Option<Datum>, Misfit> {
    let Some(schema) = &shapes.key else { return Ok(None) };
    let image = [&input.after, &input.before, &input.value].into_iter().flatten().find(|row| row.is_object());
    let key = match (&input.key, image) {
        (Some(key), _) => key.clone(),
        (None, Some(image)) => {
            let column = |name: &String| Some((name.clone(), image.get(name)?.clone()));
            Value::Object(shapes.key_columns.iter().filter_map(column).collect())
        }
        (None, None) => return Ok(None),
    };
    if key.is_null() {
        return Ok(None);
    }
    let value = values::read(schema, &key, Missing::Refused).map_err(|misfit| inside(misfit, "key"))?;
    datum(schema, &value).map(Some).map_err(|misfit| inside(misfit, "key"))
}

fn event(topic: &str, shapes: &Shapes, input: &Input) -> Result<Datum, Misfit> {
    let there = |image: &Option<Value>| image.as_ref().is_some_and(|image| !image.is_null());
    let op = match (&input.op, there(&input.before), there(&input.after)) {
        (Some(op), _, _) => op.as_str(),
        (None, true, true) => "u",
        (None, true, false) => "d",
        (None, false, _) => "c",
    };
    let envelope = &shapes.envelope;
    let field = |field: &rowstream_api::Field| {
        let name = field.name.as_str();
        let image = |image: &Option<Value>, missing| {
            let image = image.as_ref().unwrap_or(&Value::Null);
            values::read(&field.schema, image, missing)
        };
        let value = match name {
            // A source may send no more of an old row than its key.
            "before" => image(&input.before, Missing::Zero),
            "after" => image(&input.after, Missing::Refused),
            "source" => values::read(&field.schema, &source(topic, input, &field.schema), Missing::Zero),
            "op" => Ok(ValueRef::Str(op.to_owned().into())),
            "ts_ms" => Ok(ValueRef::Int(input.timestamp)),
            _ => Ok(ValueRef::Absent),
        };
        value.map_err(|misfit| inside(misfit, name))
    };
    let fields = envelope.fields().iter().map(field).collect::<Result<Vec<_>, _>>()?;
    datum(envelope, &ValueRef::Struct(fields))
}

/// What is given of `source`, and what follows from the topic: `PREFIX.SCHEMA.TABLE`.
fn source(topic: &str, input: &Input, schema: &Schema) -> Value {
    let mut parts = topic.splitn(3, '.');
    let mut next = || parts.next().unwrap_or_default();
    let (prefix, middle, table) = (next(), next(), next());
    let follows: [(&str, Value); 7] = [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("name", json!(prefix)),
        ("db", json!(middle)),
        ("schema", json!(middle)),
        ("table", json!(table)),
        ("ts_ms", json!(input.timestamp)),
        ("snapshot", json!("false")),
    ];
    let known = follows.into_iter().filter(|(name, _)| schema.field(name).is_some());
    let mut source: Map<String, Value> = known.map(|(name, value)| (name.to_owned(), value)).collect();
    source.extend(input.source.clone());
    Value::Object(source)
}

fn datum(schema: &Arc<Schema>, value: &ValueRef<'_>) -> Result<Datum, Misfit> {
    let mut bytes = Vec::new();
    let written = EncodePlan::compile(schema).encode_value(value, &mut bytes);
    written.map_err(|error| Misfit::new(error.message))?;
    Ok(Datum { bytes: bytes.into(), decoder: AvroDecoder::new(Arc::clone(schema)) })
}

fn inside(misfit: Misfit, name: &str) -> Misfit {
    let Misfit { path, message } = misfit;
    let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
    Misfit { path: format!("{name}{dot}{path}"), message }
}
