//! `/connector-plugins`: what can be run, with which settings, and whether given settings would do.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use rowstream_api::{ConfigError, ConfigErrors, FieldDoc, FieldKind};
use serde_json::{Map, Value, json};

use super::{
    AdminState, check,
    error::{Answer, ApiError, Body, parse},
    mask,
};
use crate::{
    config::connector::FRAME_FIELDS,
    registry::{self, Plugin},
};

/// With `connectorsOnly=false` the transforms too, as Connect has it.
pub(super) async fn list(Query(query): Query<HashMap<String, String>>) -> Response {
    let plugin = |class: &str, kind: &str| json!({ "class": class, "type": kind, "version": env!("CARGO_PKG_VERSION") });
    let mut plugins: Vec<Value> =
        registry::plugins().iter().map(|p| plugin(p.name, p.kind.as_str())).collect();
    if query.get("connectorsOnly").is_some_and(|only| only == "false") {
        plugins.extend(rowstream_transforms::plugins().iter().map(|p| plugin(p.name, "transformation")));
    }
    Json(plugins).into_response()
}

pub(super) async fn config(
    Path(name): Path<String>,
    Query(_version): Query<HashMap<String, String>>,
) -> Answer {
    let plugin = find(&name)?;
    let keys: Vec<Value> =
        fields(&plugin).enumerate().map(|(order, field)| definition(field, order)).collect();
    Ok(Json(keys).into_response())
}

/// 200 even when there are errors: they are the answer.
pub(super) async fn validate(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    body: Body,
) -> Answer {
    let plugin = find(&name)?;
    let mut flat: Map<String, Value> = parse(body)?;
    match mask::connector_of(&flat) {
        Some(class) if class != plugin.name => {
            return Err(ApiError::bad_request(format!(
                "Included connector type {class} does not match request type {name}"
            )));
        }
        Some(_) => {}
        None => {
            flat.insert("connector.class".to_owned(), json!(plugin.name));
        }
    }
    let connector = flat.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let stored = state.worker.view(&connector).await.ok();
    let masks = mask::unmask(&mut flat, stored.as_ref().map(|view| &view.spec));
    let planned = check::flat(&connector, &flat);
    let problems = [masks.err(), planned.err()].into_iter().flatten().flat_map(|errors| errors.0);
    Ok(Json(report(&plugin, &flat, ConfigErrors(problems.collect()))).into_response())
}

fn find(name: &str) -> Answer<Plugin> {
    registry::plugin(name).ok_or_else(|| {
        let known: Vec<&str> = registry::plugins().iter().map(|p| p.name).collect();
        ApiError::not_found(format!("{name} is not a connector; expected one of {}", known.join(", ")))
    })
}

fn fields(plugin: &Plugin) -> impl Iterator<Item = &'static FieldDoc> + use<> {
    FRAME_FIELDS.iter().chain(plugin.fields)
}

/// Connect's `ConfigInfos`.
fn report(plugin: &Plugin, flat: &Map<String, Value>, errors: ConfigErrors) -> Value {
    let count = errors.0.len();
    let mut by_key: Vec<(String, Vec<String>)> = Vec::new();
    for ConfigError { field, message } in errors.0 {
        let field = field.strip_prefix("config.").unwrap_or(&field);
        // What no single field is to blame for has to stand somewhere.
        let key = if field.is_empty() { "connector" } else { field };
        match by_key.iter_mut().find(|(k, _)| k == key) {
            Some((_, messages)) => messages.push(message),
            None => by_key.push((key.to_owned(), vec![message])),
        }
    }
    let mut configs = Vec::new();
    for (order, field) in fields(plugin).enumerate() {
        let at = by_key.iter().position(|(key, _)| key == field.path);
        let messages = at.map(|at| by_key.swap_remove(at).1).unwrap_or_default();
        configs.push(entry(plugin, definition(field, order), flat, messages));
    }
    for (key, messages) in by_key {
        let unknown = json!({ "name": key, "type": "STRING", "required": false });
        configs.push(entry(plugin, unknown, flat, messages));
    }
    let groups: Vec<&str> = plugin.fields.iter().map(|f| group(f)).fold(Vec::new(), |mut all, group| {
        if !all.contains(&group) {
            all.push(group);
        }
        all
    });
    json!({ "name": plugin.name, "error_count": count, "groups": groups, "configs": configs })
}

fn entry(plugin: &Plugin, definition: Value, flat: &Map<String, Value>, errors: Vec<String>) -> Value {
    let name = definition.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let secret = mask::is_secret(&name, plugin.fields, &mask::step_kinds(flat));
    let given = flat.iter().find(|(key, value)| check::our_name(key) == name && !value.is_null());
    let value = match given.map(|(_, value)| value) {
        Some(_) if secret => json!(mask::MASK),
        Some(Value::String(text)) => json!(text),
        Some(other) => json!(other.to_string()),
        None => definition.get("default_value").cloned().unwrap_or(Value::Null),
    };
    json!({
        "definition": definition,
        "value": { "name": name, "value": value, "recommended_values": [], "errors": errors, "visible": true },
    })
}

/// Connect's `ConfigKeyInfo`.
fn definition(field: &FieldDoc, order: usize) -> Value {
    let kind = match field.kind {
        FieldKind::Text | FieldKind::Duration | FieldKind::Size | FieldKind::Choice(_) | FieldKind::Map => {
            "STRING"
        }
        FieldKind::Secret | FieldKind::SecretList | FieldKind::SecretMap => "PASSWORD",
        FieldKind::Integer { .. } => "LONG",
        FieldKind::Bool => "BOOLEAN",
        FieldKind::List => "LIST",
    };
    json!({
        "name": field.path,
        "type": kind,
        "required": field.required,
        "default_value": field.default,
        "importance": if field.required { "HIGH" } else { "MEDIUM" },
        "documentation": field.doc,
        "group": group(field),
        "width": "NONE",
        "display_name": field.path,
        "dependents": [],
        "order": order,
    })
}

/// Fields that share their first name belong together.
fn group(field: &FieldDoc) -> &'static str {
    field.path.split_once('.').map_or("General", |(first, _)| first)
}
