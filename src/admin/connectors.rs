//! `/connectors`: list, create, show, change, delete.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    AdminState, bodies, check,
    error::{Answer, ApiError, Body, parse},
    mask,
};
use crate::worker::{ConnectorView, Forget, Put, TargetState, WorkerError};

/// `?expand=status&expand=info`, also written `expand=status,info`.
pub(super) async fn list(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let expand: Vec<&str> = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("expand="))
        .flat_map(|values| values.split([',']))
        .collect();
    if expand.is_empty() {
        return Json(state.worker.names().await).into_response();
    }
    let mut all = Map::new();
    for view in state.worker.views().await {
        let mut parts = Map::new();
        if expand.contains(&"status") {
            parts.insert("status".to_owned(), bodies::status(&state.worker, &view));
        }
        if expand.contains(&"info") {
            parts.insert("info".to_owned(), bodies::info(&view));
        }
        all.insert(view.spec.name, Value::Object(parts));
    }
    Json(Value::Object(all)).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    config: Map<String, Value>,
    initial_state: Option<String>,
    initial_offsets: Option<Value>,
}

pub(super) async fn create(State(state): State<AdminState>, body: Body) -> Answer {
    let body: CreateBody = parse(body)?;
    if body.initial_offsets.is_some_and(|o| !o.is_null()) {
        return Err(ApiError::bad_request(
            "`initial_offsets` is not supported: create the connector with `\"initial_state\": \"STOPPED\"`, PATCH its offsets, \
             then resume it",
        ));
    }
    let initial = body.initial_state.as_deref().map(initial_state).transpose()?;
    if state.worker.view(&body.name).await.is_ok() {
        return Err(ApiError::conflict(format!("Connector {} already exists", body.name)));
    }
    store(&state, &body.name, body.config, initial).await
}

fn initial_state(word: &str) -> Answer<TargetState> {
    TargetState::parse(&word.to_ascii_uppercase()).ok_or_else(|| {
        ApiError::bad_request(format!(
            "`initial_state` is `{word}`, expected one of RUNNING, PAUSED, STOPPED"
        ))
    })
}

pub(super) async fn one(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    Ok(Json(bodies::info(&state.worker.view(&name).await?)).into_response())
}

pub(super) async fn status(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    let view = state.worker.view(&name).await?;
    Ok(Json(bodies::status(&state.worker, &view)).into_response())
}

pub(super) async fn config(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    Ok(Json(mask::shown(&state.worker.view(&name).await?.spec)).into_response())
}

pub(super) async fn put_config(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    body: Body,
) -> Answer {
    let flat = parse(body)?;
    store(&state, &name, flat, None).await
}

/// KIP-477: members replace, `null` removes.
pub(super) async fn patch_config(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    body: Body,
) -> Answer {
    let patch: Map<String, Value> = parse(body)?;
    let mut flat = mask::whole(&state.worker.view(&name).await?.spec);
    for (key, value) in patch {
        // The stored key may be Connect's name for the same field, or ours.
        flat.retain(|stored, _| check::our_name(stored) != check::our_name(&key));
        if !value.is_null() {
            flat.insert(key, value);
        }
    }
    store(&state, &name, flat, None).await
}

pub(super) async fn delete(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    state.worker.delete(&name, Forget::Offsets).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Creates or changes a connector; 201 with its place, or 200.
async fn store(
    state: &AdminState,
    name: &str,
    mut flat: Map<String, Value>,
    initial: Option<TargetState>,
) -> Answer {
    if let Some(other) = flat.get("name").and_then(Value::as_str).filter(|other| *other != name) {
        return Err(ApiError::bad_request(format!(
            "Connector name configuration ({other}) doesn't match connector name in the URL ({name})"
        )));
    }
    let existing = state.worker.view(name).await.ok();
    mask::unmask(&mut flat, existing.as_ref().map(|view| &view.spec)).map_err(|e| ApiError::invalid(&e))?;
    let (spec, _, _) = check::flat(name, &flat).map_err(|e| ApiError::invalid(&e))?;
    let put = state.worker.put(spec.clone(), initial).await?;
    // The actor takes a changed configuration in its own time; the answer shows what was stored.
    let info = match state.worker.view(name).await {
        Ok(view) => bodies::info(&ConnectorView { spec, ..view }),
        Err(error @ WorkerError::NotFound(_)) => return Err(ApiError::conflict(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    Ok(match put {
        Put::Created => {
            (StatusCode::CREATED, [(LOCATION, format!("/connectors/{name}"))], Json(info)).into_response()
        }
        Put::Updated => Json(info).into_response(),
    })
}

/// Whether a query parameter says `true`.
pub(super) fn flag(query: &HashMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|value| value.is_empty() || value.eq_ignore_ascii_case("true"))
}

/// The answer of operations that go on in the background.
pub(super) fn accepted() -> Response {
    StatusCode::ACCEPTED.into_response()
}

/// Connect's `{"message": …}`.
pub(super) fn message(text: impl Into<String>) -> Response {
    Json(json!({ "message": text.into() })).into_response()
}
