//! What stands in a `.test.yaml`: which transforms, the types of the rows, and the cases.
//!
//! Everything wrong with a file is told at once, each with its place; nothing of a file that has something wrong is run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Format, Yaml},
};
use rowstream_api::ConfigErrors;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    config::{ConnectorSpec, secrets},
    pipeline::chain::ChainPlan,
    registry::{self, PluginKind},
};

/// How the name of a file of examples ends.
pub(super) const SUFFIX: &str = ".test.yaml";

/// The file as typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    connector: Option<PathBuf>,
    transforms: Option<Value>,
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    topic: Option<String>,
    #[serde(default)]
    tables: BTreeMap<String, TableText>,
    #[serde(default)]
    cases: Vec<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Source,
    Sink,
}

/// The types of one topic's rows.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TableText {
    /// Columns of the key.
    pub(super) key: Vec<String>,
    /// Types by column.
    pub(super) columns: BTreeMap<String, String>,
    /// A file with the registered schema of the values.
    pub(super) value_schema: Option<PathBuf>,
    /// A file with the registered schema of the keys.
    pub(super) key_schema: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedCase {
    name: String,
    input: Value,
    expect: Value,
}

/// One case.
#[derive(Debug)]
pub(super) struct Case {
    /// What it is about.
    pub(super) name: String,
    /// Records that go in, in order.
    pub(super) input: Vec<Input>,
    /// What is to come out.
    pub(super) expect: Expect,
}

/// One record that goes in.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Input {
    pub(super) topic: Option<String>,
    pub(super) op: Option<String>,
    #[serde(deserialize_with = "given")]
    pub(super) before: Option<Value>,
    #[serde(deserialize_with = "given")]
    pub(super) after: Option<Value>,
    pub(super) source: Map<String, Value>,
    #[serde(deserialize_with = "given")]
    pub(super) key: Option<Value>,
    /// The whole value of a record without an envelope; null is a tombstone.
    #[serde(deserialize_with = "given")]
    pub(super) value: Option<Value>,
    pub(super) headers: Map<String, Value>,
    pub(super) timestamp: i64,
}

/// What is to come out.
#[derive(Debug)]
pub(super) enum Expect {
    /// These records, in order.
    Records(Vec<Expected>),
    /// A refusal whose code or message holds this.
    Error(String),
}

/// One record that is to come out; what is not given is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Expected {
    pub(super) topic: Option<String>,
    pub(super) partition: Option<u32>,
    pub(super) timestamp: Option<i64>,
    #[serde(deserialize_with = "given")]
    pub(super) key: Option<Value>,
    #[serde(deserialize_with = "given")]
    pub(super) value: Option<Value>,
    /// As `value`, but fields that are not named are not looked at.
    pub(super) contains: Option<Value>,
    #[serde(deserialize_with = "given")]
    pub(super) before: Option<Value>,
    #[serde(deserialize_with = "given")]
    pub(super) after: Option<Value>,
    pub(super) op: Option<String>,
    /// Null: there is no such header.
    pub(super) headers: Map<String, Value>,
}

/// `null` is something else than nothing.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A file, read and checked but for the values of its records.
pub(super) struct Document {
    /// The transforms.
    pub(super) chain: ChainPlan,
    /// Whose they are.
    pub(super) kind: PluginKind,
    /// Types by topic.
    pub(super) tables: BTreeMap<String, TableText>,
    /// The cases.
    pub(super) cases: Vec<Case>,
    /// Directory of the file: others are named from there.
    pub(super) directory: PathBuf,
}

/// Reads a file.
///
/// # Errors
/// Every problem of it and of the transforms.
pub(super) fn read(file: &Path) -> Result<Document, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let typed: Result<Value, _> = Figment::from(Yaml::file_exact(file)).extract();
    let typed = typed.map_err(|error| format!("not valid YAML: {error}"));
    let Some(typed) = errors.take("", typed.and_then(|document| parsed::<Typed>(&document))) else {
        return Err(errors);
    };
    let directory = file.parent().unwrap_or(Path::new("")).to_owned();
    let spec = errors.nest("", spec_of(file, &directory, &typed));
    let environment =
        |name: &str| typed.env.get(name).cloned().or_else(|| secrets::process_environment(name));
    let chain = spec.as_ref().and_then(|(spec, _)| errors.nest("", ChainPlan::within(spec, &environment)));
    if typed.cases.is_empty() {
        errors.push("cases", "there are none; expected a list, each with `name`, `input` and `expect`");
    }
    let mut cases: Vec<Case> = Vec::with_capacity(typed.cases.len());
    for (index, case) in typed.cases.iter().enumerate() {
        let place = format!("cases[{index}]");
        if let Some(case) = errors.nest(&place, self::case(case, typed.topic.as_deref())) {
            if cases.iter().any(|known| known.name == case.name) {
                errors
                    .push(format!("{place}.name"), format!("`{}` is the name of an earlier case", case.name));
            }
            cases.push(case);
        }
    }
    match (spec, chain) {
        (Some((_, kind)), Some(chain)) if errors.0.is_empty() => {
            Ok(Document { chain, kind, tables: typed.tables, cases, directory })
        }
        _ => Err(errors),
    }
}

/// The connector whose transforms are tested: named, inline, or the one whose file stands beside.
fn spec_of(
    file: &Path,
    directory: &Path,
    typed: &Typed,
) -> Result<(ConnectorSpec, PluginKind), ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let path = match (&typed.connector, &typed.transforms) {
        (Some(_), Some(_)) => {
            errors.push("transforms", "stands beside `connector`; expected one of them");
            return Err(errors);
        }
        (None, Some(transforms)) => {
            let kind = match typed.kind {
                Some(Kind::Sink) => PluginKind::Sink,
                Some(Kind::Source) | None => PluginKind::Source,
            };
            let document = json!({ "name": "inline", "connector": "inline", "transforms": transforms });
            let Value::Object(document) = document else { return Err(errors) };
            return ConnectorSpec::from_document(document).map(|spec| (spec, kind));
        }
        (Some(path), None) => directory.join(path),
        (None, None) => {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            directory.join(format!("{}.yaml", name.strip_suffix(SUFFIX).unwrap_or(name)))
        }
    };
    if typed.kind.is_some() {
        errors.push("kind", "goes with `transforms`; a connector's file says itself what it is");
        return Err(errors);
    }
    if !path.is_file() {
        let message = format!(
            "there is no file {}; expected a connector's file, or `transforms` in its place",
            path.display()
        );
        errors.push("connector", message);
        return Err(errors);
    }
    let spec = ConnectorSpec::from_file(&path).map_err(|mut inner| {
        for error in &mut inner.0 {
            error.message = format!("{} (in {})", error.message, path.display());
        }
        inner
    })?;
    match registry::plugin(&spec.connector) {
        Some(plugin) => Ok((spec, plugin.kind)),
        None => {
            errors
                .push("connector", format!("`{}` in {} is not a connector", spec.connector, path.display()));
            Err(errors)
        }
    }
}

fn case(case: &Value, topic: Option<&str>) -> Result<Case, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let Some(typed) = errors.take("", parsed::<TypedCase>(case)) else { return Err(errors) };
    let mut input = Vec::new();
    for (place, record) in each("input", &typed.input) {
        if let Some(mut record) = errors.take(&place, parsed::<Input>(record)) {
            record.topic = record.topic.or_else(|| topic.map(ToOwned::to_owned));
            if record.topic.is_none() {
                errors.push(format!("{place}.topic"), "is required, here or as `topic` of the file");
            }
            let in_envelope = record.op.is_some() || record.before.is_some() || record.after.is_some();
            if in_envelope == record.value.is_some() {
                errors.push(
                    place,
                    "expected `before`, `after` or `op`, or else `value` (null for a tombstone)",
                );
            }
            input.push(record);
        }
    }
    let expect = match typed.expect.get("error") {
        Some(Value::String(text)) if typed.expect.as_object().is_some_and(|members| members.len() == 1) => {
            Some(Expect::Error(text.clone()))
        }
        Some(_) => {
            errors.push(
                "expect.error",
                "expected a text alone: the code of the refusal, or part of its message",
            );
            None
        }
        None => {
            let mut expected = Vec::new();
            for (place, record) in each("expect", &typed.expect) {
                expected.extend(errors.take(&place, parsed::<Expected>(record)));
            }
            Some(Expect::Records(expected))
        }
    };
    match expect {
        Some(expect) if errors.0.is_empty() => Ok(Case { name: typed.name, input, expect }),
        Some(_) | None => Err(errors),
    }
}

/// One record, or each of a list, with its place.
fn each<'v>(place: &str, value: &'v Value) -> Vec<(String, &'v Value)> {
    match value.as_array() {
        Some(items) => {
            items.iter().enumerate().map(|(index, item)| (format!("{place}[{index}]"), item)).collect()
        }
        None => vec![(place.to_owned(), value)],
    }
}

fn parsed<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| error.to_string())
}

/// Takes over problems under a place.
trait Nest {
    fn nest<T>(&mut self, place: &str, result: Result<T, ConfigErrors>) -> Option<T>;
}

impl Nest for ConfigErrors {
    fn nest<T>(&mut self, place: &str, result: Result<T, ConfigErrors>) -> Option<T> {
        result
            .map_err(|errors| {
                for error in errors.0 {
                    let dot = if place.is_empty() || error.field.is_empty() { "" } else { "." };
                    self.push(format!("{place}{dot}{}", error.field), error.message);
                }
            })
            .ok()
    }
}
