//! The settings of `outbox`: Debezium's names, with `_` for `.`.

use rowstream_api::{ConfigErrors, FieldDoc, FieldKind};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Additional, Columns, Missing, Outbox, Placement, Updates};
use crate::{
    TransformPlugin,
    chain::Transform,
    json_schema::{EmptyArrays, JsonRules, Nulls, Schemas},
    rows::SchemaCache,
    settings::{Replacement, parse, whole_regex},
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin { name: "outbox", fields: FIELDS, build };

const fn text(
    path: &'static str,
    default: Option<&'static str>,
    doc: &'static str,
    example: &'static str,
) -> FieldDoc {
    FieldDoc::optional(path, FieldKind::Text, default, doc, example)
}

const FIELDS: &[FieldDoc] = &[
    text(
        "table_field_event_id",
        Some("id"),
        "The column that holds the event's id, which becomes the header `id`.",
        "event_id",
    ),
    text(
        "table_field_event_key",
        Some("aggregateid"),
        "The column that becomes the record's key.",
        "order_id",
    ),
    text(
        "table_field_event_type",
        Some("type"),
        "The column that holds the event's type. As in Debezium it has no place of its own: give it one with \
         `table_fields_additional_placement`.",
        "event_type",
    ),
    text("table_field_event_payload", Some("payload"), "The column that becomes the record's value.", "body"),
    text(
        "table_field_event_timestamp",
        None,
        "The column that becomes the record's timestamp; when absent, or null in a row, it is the time of the commit.",
        "created_at",
    ),
    text(
        "table_field_event_schema_version",
        None,
        "The column that holds a version of the value's schema, where columns are placed in its envelope.",
        "schema_version",
    ),
    FieldDoc::optional(
        "table_fields_additional_placement",
        FieldKind::List,
        None,
        "More columns, each as `column:header`, `column:envelope` or `column:partition`, and `:name` behind it for another name. \
         With any in the envelope the value is a struct of `payload` and those columns.",
        "[\"type:header:eventType\", \"tenant:envelope\"]",
    ),
    FieldDoc::optional(
        "table_field_additional_missing",
        FieldKind::Choice(&["error", "ignore"]),
        Some("error"),
        "Whether a table without one of these columns is refused, or the column is left out.",
        "ignore",
    ),
    text(
        "route_by_field",
        Some("aggregatetype"),
        "The column whose value, through `route_topic_regex`, names the topic.",
        "stream",
    ),
    text(
        "route_topic_regex",
        Some("(?<routedByValue>.*)"),
        "A regular expression over the whole value of that column; a value that it does not match is the topic's name itself.",
        "(?<routedByValue>[a-z]+)",
    ),
    text(
        "route_topic_replacement",
        Some("outbox.event.${routedByValue}"),
        "The topic's name; `${name}` and `$1` stand for groups of `route_topic_regex`.",
        "events.${routedByValue}",
    ),
    FieldDoc::optional(
        "route_tombstone_on_empty_payload",
        FieldKind::Bool,
        Some("false"),
        "Whether a payload that is null or empty makes a tombstone.",
        "true",
    ),
    FieldDoc::optional(
        "table_op_invalid_behavior",
        FieldKind::Choice(&["warn", "error", "fatal"]),
        Some("warn"),
        "What is done with an updated row, which is no event: `warn` and `error` leave it out with a line in the log, `fatal` \
         refuses the record. Deletes are always left out: they clean the table up.",
        "fatal",
    ),
    FieldDoc::optional(
        "table_expand_json_payload",
        FieldKind::Bool,
        Some("false"),
        "Whether a payload of JSON text becomes a struct, whose schema follows from that text. A payload that can't be is written as \
         text.",
        "true",
    ),
    FieldDoc::optional(
        "table_json_payload_null_behavior",
        FieldKind::Choice(&["ignore", "optional_bytes"]),
        Some("ignore"),
        "Whether a null in such a payload leaves its field out, or makes it one of optional bytes.",
        "optional_bytes",
    ),
    FieldDoc::optional(
        "table_json_payload_empty_array_behavior",
        FieldKind::Choice(&["ignore", "optional_string"]),
        Some("ignore"),
        "Whether an empty array in such a payload leaves its field out, or makes it one of optional strings.",
        "optional_string",
    ),
];

#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    table_field_event_id: String,
    table_field_event_key: String,
    table_field_event_payload: String,
    table_field_event_timestamp: Option<String>,
    table_field_event_schema_version: Option<String>,
    table_fields_additional_placement: Vec<String>,
    table_field_additional_missing: Missing,
    route_by_field: String,
    route_topic_regex: String,
    route_topic_replacement: String,
    route_tombstone_on_empty_payload: bool,
    table_op_invalid_behavior: Updates,
    table_expand_json_payload: bool,
    table_json_payload_null_behavior: Nulls,
    table_json_payload_empty_array_behavior: EmptyArrays,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            table_field_event_id: "id".to_owned(),
            table_field_event_key: "aggregateid".to_owned(),
            table_field_event_payload: "payload".to_owned(),
            table_field_event_timestamp: None,
            table_field_event_schema_version: None,
            table_fields_additional_placement: Vec::new(),
            table_field_additional_missing: Missing::Error,
            route_by_field: "aggregatetype".to_owned(),
            route_topic_regex: "(?<routedByValue>.*)".to_owned(),
            route_topic_replacement: "outbox.event.${routedByValue}".to_owned(),
            route_tombstone_on_empty_payload: false,
            table_op_invalid_behavior: Updates::Warn,
            table_expand_json_payload: false,
            table_json_payload_null_behavior: Nulls::Ignore,
            table_json_payload_empty_array_behavior: EmptyArrays::Ignore,
        }
    }
}

fn build(settings: Map<String, Value>) -> Result<Box<dyn Transform>, ConfigErrors> {
    let settings: Settings = parse(settings)?;
    let mut errors = ConfigErrors::default();
    let additional: Vec<Additional> = settings
        .table_fields_additional_placement
        .iter()
        .filter_map(|text| errors.take("table_fields_additional_placement", Additional::parse(text)))
        .collect();
    let versioned = settings.table_field_event_schema_version.is_some();
    if versioned && !additional.iter().any(|placed| placed.placement == Placement::Envelope) {
        errors.push(
            "table_field_event_schema_version",
            "has no effect unless a column is placed in the envelope with `table_fields_additional_placement`",
        );
    }
    let regex = errors.take("route_topic_regex", whole_regex(&settings.route_topic_regex));
    let replacement = regex.as_ref().and_then(|regex| {
        errors.take("route_topic_replacement", Replacement::parse(&settings.route_topic_replacement, regex))
    });
    let (Some(regex), Some(replacement)) = (regex, replacement) else { return Err(errors) };
    errors.into_result()?;
    let rules = JsonRules {
        nulls: settings.table_json_payload_null_behavior,
        empty_arrays: settings.table_json_payload_empty_array_behavior,
    };
    Ok(Box::new(Outbox {
        columns: Columns {
            id: settings.table_field_event_id,
            key: settings.table_field_event_key,
            payload: settings.table_field_event_payload,
            route: settings.route_by_field,
            timestamp: settings.table_field_event_timestamp,
            version: settings.table_field_event_schema_version,
        },
        additional,
        missing: settings.table_field_additional_missing,
        regex,
        replacement,
        tombstone_on_empty: settings.route_tombstone_on_empty_payload,
        updates: settings.table_op_invalid_behavior,
        json: settings.table_expand_json_payload.then_some(rules),
        plans: SchemaCache::default(),
        expanded: Schemas::default(),
    }))
}

impl Additional {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').map(str::trim).collect();
        let (column, placement, alias) = match parts.as_slice() {
            [column, placement] => (*column, *placement, *column),
            [column, placement, alias] => (*column, *placement, *alias),
            _ => return Err(format!("`{text}`: expected `column:placement` or `column:placement:name`")),
        };
        let placement = match placement {
            "header" => Placement::Header,
            "envelope" => Placement::Envelope,
            "partition" => Placement::Partition,
            _ => {
                return Err(format!(
                    "`{text}`: expected `header`, `envelope` or `partition` after the column"
                ));
            }
        };
        if column.is_empty() || alias.is_empty() {
            return Err(format!("`{text}`: a name is empty"));
        }
        if placement == Placement::Envelope && alias == "payload" {
            return Err(format!("`{text}`: the envelope has a field `payload` already"));
        }
        Ok(Self { column: column.to_owned(), placement, alias: alias.to_owned() })
    }
}
