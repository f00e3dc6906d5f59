//! Pause, resume, stop, restart, and tasks.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    AdminState, bodies,
    connectors::{accepted, flag},
    error::{Answer, ApiError},
    mask,
};
use crate::{
    task::status::TaskState,
    worker::{ConnectorView, Restart, TargetState},
};

type Asked = Query<HashMap<String, String>>;

pub(super) async fn pause(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    state.worker.set_target(&name, TargetState::Paused).await?;
    Ok(accepted())
}

pub(super) async fn resume(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    state.worker.set_target(&name, TargetState::Running).await?;
    Ok(accepted())
}

pub(super) async fn stop(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    state.worker.set_target(&name, TargetState::Stopped).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A connector and its tasks share one plan, so restarting it restarts them, wherever they run; `onlyFailed` spares what works. With
/// `includeTasks` (KIP-745) the answer shows what is being restarted.
pub(super) async fn restart(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    Query(asked): Asked,
) -> Answer {
    let only_failed = flag(&asked, "onlyFailed");
    let mut view = state.worker.view(&name).await?;
    state.worker.restart(&name, if only_failed { Restart::OnlyFailed } else { Restart::All }).await?;
    if !flag(&asked, "includeTasks") {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    show_restarting(&mut view, only_failed);
    Ok((StatusCode::ACCEPTED, Json(bodies::status(&state.worker, &view))).into_response())
}

fn show_restarting(view: &mut ConnectorView, only_failed: bool) {
    let affected = |state: TaskState| !only_failed || state == TaskState::Failed;
    if affected(view.state) {
        view.state = TaskState::Restarting;
    }
    for told in view.elsewhere.iter_mut().flat_map(|elsewhere| elsewhere.tasks.values_mut()) {
        if told["state"].as_str().and_then(TaskState::parse).is_some_and(affected) {
            told["state"] = json!(TaskState::Restarting.as_str());
        }
    }
    let head = view.elsewhere.as_mut().and_then(|elsewhere| elsewhere.head.as_mut());
    if let Some(state) = head.and_then(|told| told.pointer_mut("/connector/state")) {
        *state = json!(view.state.as_str());
    }
    for task in view.tasks.iter_mut().filter(|t| affected(t.status.state)) {
        task.status.state = TaskState::Restarting;
    }
}

pub(super) async fn tasks(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    let view = state.worker.view(&name).await?;
    let config = mask::shown(&view.spec);
    let tasks: Vec<Value> = view
        .task_numbers()
        .iter()
        .map(|task| json!({ "id": { "connector": name, "task": task }, "config": config }))
        .collect();
    Ok(Json(tasks).into_response())
}

pub(super) async fn task_status(
    State(state): State<AdminState>,
    Path((name, task)): Path<(String, String)>,
) -> Answer {
    let view = state.worker.view(&name).await?;
    let found = bodies::task_of(&state.worker, &view, number(&name, &task)?);
    Ok(Json(found.ok_or_else(|| unknown(&name, &task))?).into_response())
}

pub(super) async fn restart_task(
    State(state): State<AdminState>,
    Path((name, task)): Path<(String, String)>,
) -> Answer<Response> {
    state.worker.restart_task(&name, number(&name, &task)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn number(name: &str, task: &str) -> Answer<usize> {
    task.parse().map_err(|_| unknown(name, task))
}

fn unknown(name: &str, task: &str) -> ApiError {
    ApiError::not_found(format!("No status found for task {name}-{task}"))
}
