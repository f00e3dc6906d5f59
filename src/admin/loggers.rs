//! `/admin/loggers`: levels of log lines, changed while running (KIP-495).

use std::collections::HashMap;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::level_filters::LevelFilter;

use super::{
    AdminState,
    error::{Answer, ApiError, Body, parse},
};
use crate::telemetry::logging::parse_level;

/// Targets of our own code, which have a level even when it is inherited.
const OURS: &str = "rowstream";

pub(super) async fn all(State(state): State<AdminState>) -> Response {
    let levels: Map<String, Value> =
        state.log_levels.all().into_iter().map(|(name, level)| (name, body(level))).collect();
    Json(levels).into_response()
}

pub(super) async fn one(State(state): State<AdminState>, Path(logger): Path<String>) -> Answer {
    let known = logger.starts_with(OURS) || state.log_levels.all().iter().any(|(name, _)| *name == logger);
    if !known {
        return Err(ApiError::not_found(format!(
            "Logger {logger} not found; expected `root` or a target such as `rowstream::task`"
        )));
    }
    Ok(Json(body(state.log_levels.level(&logger))).into_response())
}

#[derive(Deserialize)]
struct LevelBody {
    level: Option<String>,
}

pub(super) async fn set(
    State(state): State<AdminState>,
    Path(logger): Path<String>,
    Query(asked): Query<HashMap<String, String>>,
    request: Body,
) -> Answer {
    let request: LevelBody = parse(request)?;
    let level = request
        .level
        .ok_or_else(|| ApiError::bad_request("Desired 'level' parameter was not specified in request."))?;
    let level = parse_level(&level).map_err(|e| ApiError::not_found(e.to_string()))?;
    state.log_levels.set(&logger, level).map_err(|e| ApiError::internal(e.to_string()))?;
    tracing::info!(logger, level = %level, "log level set");
    if asked.get("scope").is_some_and(|scope| scope == "cluster") {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(json!([logger])).into_response())
}

fn body(level: LevelFilter) -> Value {
    json!({ "level": level.to_string().to_ascii_uppercase(), "last_modified": null })
}
