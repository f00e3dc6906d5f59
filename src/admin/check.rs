//! All problems of a connector's document at once, whichever layer finds them.
//!
//! The frame (`name`, `topics`, `errors` …) is read before the connector's own settings are, so a mistake in the first would hide
//! those in the second. Here the settings are then checked inside a frame without mistakes.

use rowstream_api::ConfigErrors;
use serde_json::{Map, Value, json};

use crate::{
    config::{ConnectorSpec, connector::FRAME_FIELDS},
    registry::{self, Plan, Plugin, PluginKind},
};

/// Plans a connector from its nested document. Pure but for secret files and the environment.
///
/// # Errors
/// Every problem of frame and settings.
pub fn document(document: &Map<String, Value>) -> Result<(ConnectorSpec, Plugin, Plan), ConfigErrors> {
    let frame = match ConnectorSpec::from_document(document.clone()) {
        Ok(spec) => {
            let (plugin, plan) = registry::plan(&spec)?;
            return Ok((spec, plugin, plan));
        }
        Err(errors) => errors,
    };
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    let settings = match document.get("config") {
        Some(Value::Object(settings)) => settings.clone(),
        Some(_) | None => Map::new(),
    };
    let known = registry::plugin(text("connector"));
    let mut errors = frame;
    // A missing name of the connector is among the frame's problems already.
    if !text("connector").is_empty()
        && let Some(Err(own)) = sound(text("connector"), known.as_ref(), settings).map(|s| registry::plan(&s))
    {
        errors.0.extend(own.0);
    }
    Err(errors)
}

/// As [`document`], of Connect's flat map.
///
/// # Errors
/// Every problem of frame and settings.
pub fn flat(name: &str, flat: &Map<String, Value>) -> Result<(ConnectorSpec, Plugin, Plan), ConfigErrors> {
    let connector = super::mask::connector_of(flat).unwrap_or_default();
    let fields = super::mask::fields_of(&connector);
    let frame = match ConnectorSpec::from_flat(name, flat, fields) {
        Ok(spec) => {
            let (plugin, plan) = registry::plan(&spec)?;
            return Ok((spec, plugin, plan));
        }
        Err(errors) => errors,
    };
    let mut errors = frame;
    let own: Map<String, Value> =
        flat.iter().filter(|(key, _)| !is_frame(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let settings = crate::config::spec::nest(&own, fields);
    if !connector.is_empty()
        && let Some(Err(own)) =
            sound(&connector, registry::plugin(&connector).as_ref(), settings).map(|s| registry::plan(&s))
    {
        errors.0.extend(own.0);
    }
    Err(errors)
}

/// Our name of a frame field that Connect names otherwise; any other key as it is.
pub(super) fn our_name(key: &str) -> &str {
    match key {
        "connector.class" => "connector",
        "tasks.max" => "tasks_max",
        "errors.deadletterqueue.topic.name" => "errors.dead_letter_topic",
        other => other,
    }
}

/// Whether a key of the flat map belongs to the frame.
fn is_frame(key: &str) -> bool {
    FRAME_FIELDS.iter().any(|f| f.path == our_name(key))
}

/// These settings in a frame without mistakes.
fn sound(connector: &str, plugin: Option<&Plugin>, settings: Map<String, Value>) -> Option<ConnectorSpec> {
    let topics = match plugin.map(|p| p.kind) {
        Some(PluginKind::Sink) => json!(["any"]),
        Some(PluginKind::Source) | None => Value::Null,
    };
    let frame = json!({ "name": "any", "connector": connector, "topics": topics, "config": settings });
    let Value::Object(frame) = frame else { return None };
    ConnectorSpec::from_document(frame).ok()
}
