//! Runs the cases of one file through its chain, and compares.
//!
//! A case has a chain of its own, so that no case depends on another, and each record goes the way it goes in the daemon: applied, encoded
//! with the schema that came out, and read again. What can't be encoded is a refusal here as it is there.

use std::sync::Arc;

use bytes::Bytes;
use rowstream_api::{ConfigErrors, Datum, RecordError, Schema, SinkRecord, json::write_json};
use rowstream_transforms::{Chain, Part, Record};
use serde_json::{Map, Value, json};

use super::{
    diff::{Difference, Others, compare},
    document::{Case, Document, Expect, Expected},
    records,
};
use crate::{
    pipeline::{
        chain::{Reencoder, SinkChain},
        tap::Tap,
    },
    registry::PluginKind,
};

/// What came of one case.
pub(super) struct Outcome {
    /// Its name.
    pub(super) name: String,
    /// What was not as expected; nothing when it passed.
    pub(super) problems: Vec<Problem>,
    /// What came out, for looking at.
    pub(super) made: Value,
}

/// One way in which a case failed.
pub(super) enum Problem {
    /// In words.
    Other(String),
    /// A field of the record of this number, counted from 1.
    Field(usize, Difference),
}

/// A record that came out.
struct Made {
    topic: String,
    partition: Option<u32>,
    timestamp_ms: i64,
    key: Option<Datum>,
    value: Option<Datum>,
    headers: Vec<(String, String)>,
}

/// Runs all cases of a file.
///
/// # Errors
/// Problems of the file itself; no case was run.
pub(super) fn run(document: &Document) -> Result<Vec<Outcome>, ConfigErrors> {
    let prepared = records::prepare(document)?;
    document.cases.iter().zip(&prepared).map(|(case, input)| outcome(document, case, input)).collect()
}

fn outcome(document: &Document, case: &Case, input: &[SinkRecord]) -> Result<Outcome, ConfigErrors> {
    let chain = document.chain.build()?.unwrap_or_default();
    let made = match document.kind {
        PluginKind::Source => of_source(chain, input),
        PluginKind::Sink => of_sink(chain, input),
    };
    let shown = match &made {
        Ok(made) => Value::Array(made.iter().map(Made::json).collect()),
        Err(error) => json!({ "error": format!("{}: {}", error.code, error.message) }),
    };
    let problems = match (&case.expect, &made) {
        (Expect::Error(text), Err(error)) if error.code == text || error.message.contains(text.as_str()) => {
            Vec::new()
        }
        (Expect::Error(text), Err(error)) => {
            vec![Problem::Other(format!(
                "expected a refusal with `{text}`, found {}: {}",
                error.code, error.message
            ))]
        }
        (Expect::Error(text), Ok(made)) => {
            vec![Problem::Other(format!("expected a refusal with `{text}`, found {}", counted(made.len())))]
        }
        (Expect::Records(expected), Err(error)) => {
            let found = format!("the record is refused: {}: {}", error.code, error.message);
            vec![Problem::Other(format!("expected {}, but {found}", counted(expected.len())))]
        }
        (Expect::Records(expected), Ok(made)) => differences(expected, made),
    };
    Ok(Outcome { name: case.name.clone(), problems, made: shown })
}

fn counted(records: usize) -> String {
    match records {
        0 => "no record".to_owned(),
        1 => "1 record".to_owned(),
        more => format!("{more} records"),
    }
}

fn of_source(mut chain: Chain, input: &[SinkRecord]) -> Result<Vec<Made>, RecordError> {
    let mut reencoder = Reencoder::default();
    let mut all = Vec::new();
    for record in input {
        let headers = record.headers.iter().map(|(name, value)| (Arc::clone(name), value.as_ref().into()));
        let made = chain.apply(Record {
            topic: Arc::clone(&record.topic),
            partition: None,
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_ref().map_or(Part::Null, Part::Encoded),
            value: record.value.as_ref().map_or(Part::Null, Part::Encoded),
            headers: headers.collect(),
        })?;
        for one in made {
            all.push(Made {
                topic: one.topic.to_string(),
                partition: one.partition,
                timestamp_ms: one.timestamp_ms,
                key: reencoder.datum(&one.key)?,
                value: reencoder.datum(&one.value)?,
                headers: one.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            });
        }
    }
    Ok(all)
}

fn of_sink(chain: Chain, input: &[SinkRecord]) -> Result<Vec<Made>, RecordError> {
    let mut chain = SinkChain::new(chain, Tap::default());
    let mut all = Vec::new();
    for record in input {
        let made = chain.apply(record)?;
        if !made.dropped {
            let header = |(name, value): &(Arc<str>, Bytes)| (name.to_string(), text(value));
            all.push(Made {
                topic: made.topic.to_string(),
                partition: None,
                timestamp_ms: made.timestamp_ms,
                headers: made.headers.iter().map(header).collect(),
                key: made.key,
                value: made.value,
            });
        }
    }
    Ok(all)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn json_of(datum: Option<&Datum>) -> Value {
    let written = |datum: &Datum| {
        let mut out = Vec::new();
        write_json(datum.schema(), &datum.decode()?, &mut out)?;
        Ok::<_, RecordError>(serde_json::from_slice(&out).unwrap_or_default())
    };
    match datum.map(written) {
        None => Value::Null,
        Some(Ok(value)) => value,
        Some(Err(error)) => json!(format!("(unreadable: {error})")),
    }
}

impl Made {
    fn json(&self) -> Value {
        let headers: Map<String, Value> = self.headers.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        json!({
            "topic": self.topic, "partition": self.partition, "timestamp": self.timestamp_ms,
            "key": json_of(self.key.as_ref()), "value": json_of(self.value.as_ref()), "headers": headers,
        })
    }
}

fn differences(expected: &[Expected], made: &[Made]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if expected.len() != made.len() {
        let (wanted, found) = (counted(expected.len()), counted(made.len()));
        problems.push(Problem::Other(format!("expected {wanted}, found {found}")));
        for (number, one) in (1..).zip(made).skip(expected.len()) {
            problems.push(Problem::Other(format!("record {number} is one too many: {}", one.json())));
        }
    }
    for (number, (expected, made)) in (1..).zip(expected.iter().zip(made)) {
        let mut found = Vec::new();
        record(expected, made, &mut found);
        problems.extend(found.into_iter().map(|difference| Problem::Field(number, difference)));
    }
    problems
}

fn record(expected: &Expected, made: &Made, out: &mut Vec<Difference>) {
    let scalar = |path: &str, wanted: Option<Value>, found: Value, out: &mut Vec<Difference>| {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            out.push(Difference { path: path.to_owned(), expected: Some(wanted), found: Some(found) });
        }
    };
    scalar("topic", expected.topic.as_ref().map(|t| json!(t)), json!(made.topic), out);
    scalar("partition", expected.partition.map(|p| json!(p)), json!(made.partition), out);
    scalar("timestamp", expected.timestamp.map(|t| json!(t)), json!(made.timestamp_ms), out);
    let part = |datum: Option<&Datum>| (datum.map(|datum| Arc::clone(datum.schema())), json_of(datum));
    if let Some(wanted) = &expected.key {
        let (schema, found) = part(made.key.as_ref());
        compare(schema.as_ref(), (wanted, &found), Others::Differ, "key", out);
    }
    let (schema, found) = part(made.value.as_ref());
    if let Some(wanted) = &expected.value {
        compare(schema.as_ref(), (wanted, &found), Others::Differ, "value", out);
    }
    if let Some(wanted) = &expected.contains {
        compare(schema.as_ref(), (wanted, &found), Others::Ignored, "value", out);
    }
    let op = expected.op.as_ref().map(|op| json!(op));
    for (name, wanted) in [("before", &expected.before), ("after", &expected.after), ("op", &op)] {
        let Some(wanted) = wanted else { continue };
        let path = format!("value.{name}");
        let field = schema.as_ref().and_then(|schema: &Arc<Schema>| schema.field(name));
        match found.get(name) {
            Some(found) => {
                compare(field.map(|(_, f)| &f.schema), (wanted, found), Others::Differ, &path, out)
            }
            None => out.push(Difference { path, expected: Some(wanted.clone()), found: None }),
        }
    }
    for (name, wanted) in &expected.headers {
        let found = made.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let written = wanted.as_str().map_or_else(|| wanted.to_string(), ToOwned::to_owned);
        let wanted = (!wanted.is_null()).then_some(written);
        if wanted != found {
            let (expected, found) = (wanted.map(Value::from), found.map(Value::from));
            out.push(Difference { path: format!("headers.{name}"), expected, found });
        }
    }
}
