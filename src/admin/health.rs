//! `/`, `/health`, `/livez`, `/readyz` and `/metrics`.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{AdminState, bodies, connectors::flag, readiness};
use crate::topic_log::LogError;

/// A log that does not answer a read of its state for this long is not coming back by itself.
const LOG_ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Connect's `ServerInfo`.
pub(super) async fn root(State(state): State<AdminState>) -> Response {
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": option_env!("ROWSTREAM_COMMIT").unwrap_or("unknown"),
        "kafka_cluster_id": state.worker.log().id(),
    });
    Json(body).into_response()
}

/// KIP-1017.
pub(super) async fn health(State(state): State<AdminState>) -> Response {
    match log_answers(&state).await {
        Ok(()) => {
            let message = "Worker has completed startup and is ready to handle requests.";
            Json(json!({ "status": "healthy", "message": message })).into_response()
        }
        Err(problem) => {
            let body = json!({ "status": "unhealthy", "message": problem });
            (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
        }
    }
}

/// Whether restarting the process could help: it can when the runtime or the log no longer answer, and not when a disk is full
/// or a database is away.
pub(super) async fn livez(State(state): State<AdminState>) -> Response {
    match log_answers(&state).await {
        Ok(()) => Json(json!({ "status": "alive", "uptime_seconds": state.started.elapsed().as_secs() }))
            .into_response(),
        Err(problem) => {
            let body = json!({ "status": "dead", "problem": problem });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn log_answers(state: &AdminState) -> Result<(), String> {
    let read = async {
        let log = state.worker.log();
        log.state().get("livez", "livez").await?;
        log.topics().await?;
        Ok::<(), LogError>(())
    };
    match tokio::time::timeout(LOG_ANSWERS_WITHIN, read).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("the topic log answers: {error}")),
        Err(_) => Err(format!("the topic log has not answered within {} s", LOG_ANSWERS_WITHIN.as_secs())),
    }
}

/// See [`readiness`]. With `?verbose` each connector comes with its whole status.
pub(super) async fn readyz(
    State(state): State<AdminState>,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    let views = state.worker.views().await;
    let log = state.worker.log().health();
    let problems = readiness::problems(&log, &state.problems.read(), &views, state.stall_timeout);
    let connectors: Vec<Value> = views
        .iter()
        .map(|view| {
            if flag(&asked, "verbose") {
                return bodies::status(&state.worker, view);
            }
            let tasks: Vec<Value> = view
                .tasks
                .iter()
                .map(|t| {
                    let notes: serde_json::Map<String, Value> =
                        t.notes.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
                    json!({ "state": t.status.state.as_str(), "records": t.status.records, "notes": notes })
                })
                .collect();
            json!({ "name": view.spec.name, "state": view.state.as_str(), "tasks": tasks })
        })
        .collect();
    let ready = problems.is_empty();
    let body = json!({
        "status": if ready { "ready" } else { "not ready" },
        "problems": problems,
        "log": { "blocked": log.blocked },
        "connectors": connectors,
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

/// Prometheus' text format.
pub(super) async fn metrics(State(state): State<AdminState>) -> Response {
    let metrics = state.worker.metrics();
    let views = state.worker.views().await;
    let now = SystemTime::now();
    for view in &views {
        for task in &view.tasks {
            let busy = readiness::busy_for(&task.status, now).unwrap_or_default();
            metrics.set_task_state(&view.spec.name, task.number, task.status.state.as_str(), busy);
        }
    }
    let states: Vec<_> = views
        .iter()
        .filter(|view| view.home)
        .map(|view| (view.spec.name.as_str(), view.state.as_str()))
        .collect();
    let page = metrics.render(&state.worker.log().health(), &states);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response()
}
