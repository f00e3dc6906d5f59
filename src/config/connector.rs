//! One connector's document: the frame that every connector shares, and the connector's own `config` inside it.
//!
//! The same [`ConnectorSpec`] comes from a YAML file and from Connect's flat map. It keeps placeholders, so it can be
//! stored, shown and compared.

use std::{path::Path, time::Duration};

use figment::{
    Figment,
    providers::{Format, Yaml},
};
use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, units};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    spec,
    transforms::{self, TransformSpec},
};
use crate::{schema_registry::SubjectStrategy, task::sink_start::StartAt};

/// A connector as typed, placeholders and all.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectorSpec {
    /// Unique name.
    pub name: String,
    /// Which connector, e.g. `postgres-source`.
    pub connector: String,
    /// Most tasks to divide the work into.
    pub tasks_max: usize,
    /// Topics of a sink: names and `*` patterns.
    pub topics: Vec<String>,
    /// Where a sink begins that nothing was delivered to; as by default when absent.
    pub start_at: Option<StartAt>,
    /// What happens to records that can't be handled.
    pub errors: ErrorPolicy,
    /// What happens to its records on their way, in order.
    pub transforms: Vec<TransformSpec>,
    /// How failed tasks are restarted.
    pub restart: RestartPolicy,
    /// How its subjects are named; as the worker says when absent.
    pub subjects: Option<SubjectStrategy>,
    /// The connector's own settings, nested, unresolved.
    pub config: Map<String, Value>,
    /// The whole document as typed, nested, for showing.
    pub document: Map<String, Value>,
}

/// Connect's `errors.tolerance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tolerance {
    /// The first bad record fails the task, before its offset is committed.
    #[default]
    None,
    /// Bad records go to the dead letter topic, or are skipped; counted either way.
    All,
}

/// The `errors` block.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ErrorPolicy {
    /// Fail or go on.
    #[serde(default)]
    pub tolerance: Tolerance,
    /// Where bad records go.
    #[serde(default)]
    pub dead_letter_topic: Option<String>,
}

/// The `restart` block.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// Attempts without durable progress before a task is FAILED; unlimited when absent.
    pub attempts: Option<u32>,
    /// First wait.
    #[serde(deserialize_with = "units::duration")]
    pub backoff_initial: Duration,
    /// Longest wait.
    #[serde(deserialize_with = "units::duration")]
    pub backoff_max: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            attempts: None,
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_mins(1),
        }
    }
}

/// The fields that every connector has, beside `config`.
pub const FRAME_FIELDS: &[FieldDoc] = &[
    FieldDoc {
        required: true,
        ..FieldDoc::optional(
            "name",
            FieldKind::Text,
            None,
            "Unique name of the connector; letters, digits, `.`, `_` and `-`.",
            "shop",
        )
    },
    FieldDoc {
        required: true,
        ..FieldDoc::optional(
            "connector",
            FieldKind::Text,
            None,
            "Which connector to run. REST also takes it as `connector.class`.",
            "postgres-source",
        )
    },
    FieldDoc::optional(
        "tasks_max",
        FieldKind::Integer { min: 1, max: 64 },
        Some("1"),
        "Most tasks to divide the work into. A sink's tasks share the partitions of its topics, each with a connection of its own to the destination; where several workers share a log, they lie spread over the workers. A source has one task.",
        "1",
    ),
    FieldDoc::optional(
        "topics",
        FieldKind::List,
        None,
        "Topics that a sink reads: names, and patterns with `*`.",
        "[\"shop.public.*\"]",
    ),
    FieldDoc::optional(
        "start_at",
        FieldKind::Choice(&["earliest", "latest"]),
        Some("earliest"),
        "Where a sink begins: `earliest` with the oldest records that the log holds, `latest` with what is written after its first start. That moment is stored: after a crash or a stop, and after its offsets are reset, it begins there and nowhere later; partitions and topics that are made later are read whole. A sink that something was delivered to goes on where it stands. Kafka Connect's `consumer.override.auto.offset.reset`.",
        "latest",
    ),
    FieldDoc::optional(
        "subject_strategy",
        FieldKind::Choice(SubjectStrategy::WORDS),
        None,
        "How a source's subjects are named in the schema registry; as `schema_registry.subject_strategy` of worker.yaml says when not given.",
        "topic_record",
    ),
    FieldDoc::optional(
        "errors.tolerance",
        FieldKind::Choice(&["none", "all"]),
        Some("none"),
        "`none`: a record that can't be handled fails the task before its offset is committed. `all`: it goes to the dead letter topic, or is skipped and counted when there is none.",
        "all",
    ),
    FieldDoc::optional(
        "errors.dead_letter_topic",
        FieldKind::Text,
        None,
        "Topic for records that can't be handled, with where and why in their headers; `rowstream dead-letters` shows them and brings them back. Needs `errors.tolerance: all`.",
        "warehouse.dead",
    ),
    FieldDoc::optional(
        "restart.attempts",
        FieldKind::Integer { min: 0, max: 1_000_000 },
        None,
        "Restarts without durable progress before a task is left FAILED; unlimited when not given.",
        "100",
    ),
    FieldDoc::optional(
        "restart.backoff_initial",
        FieldKind::Duration,
        Some("500ms"),
        "First wait before a failed task is restarted; doubles, with jitter.",
        "500ms",
    ),
    FieldDoc::optional(
        "restart.backoff_max",
        FieldKind::Duration,
        Some("1m"),
        "Longest wait before a failed task is restarted.",
        "1m",
    ),
];

/// Connect's names for frame fields in the flat map.
const CONNECT_NAMES: &[(&str, &str)] = &[
    ("connector.class", "connector"),
    ("tasks.max", "tasks_max"),
    ("consumer.override.auto.offset.reset", "start_at"),
    ("errors.deadletterqueue.topic.name", "errors.dead_letter_topic"),
];

impl ConnectorSpec {
    /// Reads one YAML file.
    ///
    /// # Errors
    /// Every problem of the frame at once; the connector's own fields are checked when it is planned.
    pub fn from_file(file: &Path) -> Result<Self, ConfigErrors> {
        let document = Figment::from(Yaml::file_exact(file)).extract::<Value>();
        match document {
            Ok(Value::Object(document)) => Self::from_document(document),
            Ok(_) => Err(single("expected keys with values: `name`, `connector`, `config` …")),
            Err(error) => Err(single(&format!("not valid YAML: {error}"))),
        }
    }

    /// Takes a nested document: frame fields and `config`.
    ///
    /// # Errors
    /// Every problem of the frame at once.
    pub fn from_document(mut document: Map<String, Value>) -> Result<Self, ConfigErrors> {
        let whole = document.clone();
        let mut errors = ConfigErrors::default();
        let config = match document.remove("config") {
            Some(Value::Object(config)) => config,
            None | Some(Value::Null) => Map::new(),
            Some(_) => {
                errors.push("config", "expected the connector's settings as keys with values");
                Map::new()
            }
        };
        let transforms = match document.remove("transforms") {
            None | Some(Value::Null) => Vec::new(),
            Some(steps) => transforms::from_document(&steps, &mut errors),
        };
        let frame = spec::check(&document, FRAME_FIELDS, "", &mut errors);
        let name = text(&frame, "name");
        if frame.contains_key("name") && name.is_empty() {
            errors.push("name", "is empty, e.g. `shop`");
        }
        if !name.is_empty() && !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            errors.push("name", "may hold letters, digits, `.`, `_` and `-` only");
        }
        let restart: RestartPolicy = block(&frame, "restart", &mut errors);
        let policy: ErrorPolicy = block(&frame, "errors", &mut errors);
        if policy.dead_letter_topic.is_some() && policy.tolerance == Tolerance::None {
            errors.push(
                "errors.dead_letter_topic",
                "has no effect with `errors.tolerance: none`; set it to `all`",
            );
        }
        errors.into_result()?;
        Ok(Self {
            name,
            connector: text(&frame, "connector"),
            tasks_max: frame
                .get("tasks_max")
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(1),
            topics: frame
                .get("topics")
                .and_then(Value::as_array)
                .map(|items| items.iter().filter_map(|v| v.as_str().map(ToOwned::to_owned)).collect())
                .unwrap_or_default(),
            start_at: frame.get("start_at").and_then(|word| StartAt::deserialize(word).ok()),
            errors: policy,
            transforms,
            restart,
            subjects: frame.get("subject_strategy").and_then(|word| SubjectStrategy::deserialize(word).ok()),
            config,
            document: whole,
        })
    }

    /// Takes Connect's flat map. `fields` are the connector's own, to tell map keys from paths.
    ///
    /// # Errors
    /// Every problem of the frame at once.
    pub fn from_flat(
        name: &str,
        flat: &Map<String, Value>,
        fields: &[FieldDoc],
    ) -> Result<Self, ConfigErrors> {
        let mut frame = Map::new();
        let mut own = Map::new();
        for (key, value) in flat.iter().filter(|(key, _)| !transforms::is_flat_key(key)) {
            let key = CONNECT_NAMES
                .iter()
                .find(|(connect, _)| connect == key)
                .map_or(key.as_str(), |(_, ours)| ours);
            let target = if FRAME_FIELDS.iter().any(|f| f.path == key) { &mut frame } else { &mut own };
            target.insert(key.to_owned(), value.clone());
        }
        frame.insert("name".to_owned(), Value::String(name.to_owned()));
        let mut document = spec::nest(&frame, FRAME_FIELDS);
        if let Some(steps) = transforms::from_flat(flat) {
            document.insert("transforms".to_owned(), steps);
        }
        document.insert("config".to_owned(), Value::Object(spec::nest(&own, fields)));
        Self::from_document(document)
    }

    /// The document as Connect's flat map of strings: frame fields and the connector's own side by side.
    #[must_use]
    pub fn to_flat(&self) -> Map<String, Value> {
        let mut frame = self.document.clone();
        frame.remove("config");
        frame.remove("transforms");
        let mut flat = spec::flatten(&frame);
        flat.insert("connector.class".to_owned(), Value::String(self.connector.clone()));
        flat.remove("connector");
        flat.append(&mut transforms::to_flat(&self.transforms));
        flat.append(&mut spec::flatten(&self.config));
        flat
    }
}

fn single(problem: &str) -> ConfigErrors {
    let mut errors = ConfigErrors::default();
    errors.push("", problem);
    errors
}

fn text(frame: &Map<String, Value>, key: &str) -> String {
    frame.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn block<T: Default + for<'de> Deserialize<'de>>(
    frame: &Map<String, Value>,
    key: &str,
    errors: &mut ConfigErrors,
) -> T {
    frame
        .get(key)
        .map_or_else(T::default, |v| errors.take(key, serde_json::from_value(v.clone())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        if let Value::Object(map) = value { map } else { panic!("not an object") }
    }

    #[test]
    fn yaml_and_rest_give_the_same_connector() {
        let nested = object(serde_json::json!({
            "name": "warehouse", "connector": "postgres-sink", "topics": ["a.*", "b"],
            "errors": {"tolerance": "all", "dead_letter_topic": "dead"},
            "config": {"connection": {"host": "db"}}
        }));
        let yaml = ConnectorSpec::from_document(nested).unwrap();
        let rest = ConnectorSpec::from_flat("warehouse", &yaml.to_flat(), &[]).unwrap();
        assert_eq!((&rest.topics, &rest.errors, &rest.config), (&yaml.topics, &yaml.errors, &yaml.config));
        assert_eq!(rest.connector, "postgres-sink");
    }

    #[test]
    fn frame_problems_come_together() {
        let document =
            object(serde_json::json!({"name": "a b", "conector": "x", "errors": {"dead_letter_topic": "d"}}));
        let text = ConnectorSpec::from_document(document).unwrap_err().to_string();
        for expected in
            ["did you mean `connector`", "connector: is required", "name: may hold", "has no effect"]
        {
            assert!(text.contains(expected), "missing {expected:?} in:\n{text}");
        }
    }
}
