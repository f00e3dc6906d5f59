//! `/connectors/{name}/snapshot`: tables that are read (again) while the stream goes on.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
};
use rowstream_api::snapshot::SnapshotAction;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AdminState, bodies,
    error::{Answer, ApiError, Body, parse},
};
use crate::worker::SnapshotView;

/// What is asked is stored with each position of the source as long as it waits.
const CONDITION_BYTES_MAX: usize = 4 << 10;
const TABLES_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StartBody {
    tables: Vec<String>,
    #[serde(rename = "where", default)]
    condition: Option<String>,
}

pub(super) async fn start(State(state): State<AdminState>, Path(name): Path<String>, body: Body) -> Answer {
    let StartBody { tables, condition } = parse(body)?;
    if tables.is_empty() || tables.len() > TABLES_MAX {
        return Err(ApiError::bad_request(format!(
            "`tables` names {} tables, expected 1 to {TABLES_MAX}, e.g. [\"public.orders\"]",
            tables.len()
        )));
    }
    if let Some(condition) = &condition {
        if condition.trim().is_empty() || condition.contains('\0') {
            return Err(ApiError::bad_request(
                "`where` is no SQL condition; leave it out to read all rows of the tables",
            ));
        }
        if condition.len() > CONDITION_BYTES_MAX {
            return Err(ApiError::bad_request(format!(
                "`where` has {} bytes, at most {CONDITION_BYTES_MAX} are taken",
                condition.len()
            )));
        }
    }
    ask(&state, &name, SnapshotAction::Start { tables, condition }).await
}

pub(super) async fn pause(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    ask(&state, &name, SnapshotAction::Pause).await
}

pub(super) async fn resume(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    ask(&state, &name, SnapshotAction::Resume).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitBody {
    rows_per_second: Option<u32>,
}

pub(super) async fn limit(State(state): State<AdminState>, Path(name): Path<String>, body: Body) -> Answer {
    let LimitBody { rows_per_second } = parse(body)?;
    ask(&state, &name, SnapshotAction::Limit { rows_per_second }).await
}

pub(super) async fn cancel(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    ask(&state, &name, SnapshotAction::Cancel).await
}

async fn ask(state: &AdminState, name: &str, action: SnapshotAction) -> Answer {
    let request = state.worker.ask_snapshot(name, action).await?;
    Ok((StatusCode::ACCEPTED, Json(request)).into_response())
}

pub(super) async fn show(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    let view = state.worker.snapshot(&name).await?;
    let status = bodies::status(&state.worker, &view.connector);
    Ok(Json(body(&view, &status)).into_response())
}

/// What is durable, and what the running task says beside it.
fn body(view: &SnapshotView, status: &Value) -> Value {
    let SnapshotView { connector, report, requests } = view;
    let gauge = |name: &str| status.pointer(&format!("/tasks/0/progress/gauges/{name}"));
    let is_read = gauge("snapshot_running").and_then(Value::as_f64).is_some_and(|running| running > 0.0);
    let number = |name: &str| gauge(name).filter(|_| is_read).cloned().unwrap_or(Value::Null);
    let state = match (&report.reading, report.paused, requests.is_empty()) {
        (Some(_), true, _) => "PAUSED",
        (Some(_), false, _) if is_read => "RUNNING",
        // Begins in a moment, or when the connector runs.
        (Some(_), false, _) | (None, _, false) => "WAITING",
        (None, _, true) => "NONE",
    };
    json!({
        "connector": connector.spec.name,
        "connector_state": status.pointer("/connector/state"),
        "state": state,
        "reading": report.reading,
        "waiting": report.waiting,
        "rows": report.rows,
        "table_rows": report.table_rows,
        "percent": number("snapshot_percent"),
        "rows_per_second": number("snapshot_rows_per_second"),
        "rows_per_second_limit": number("snapshot_rows_per_second_limit"),
        "eta_seconds": number("snapshot_eta_seconds"),
        "table_rows_estimated": number("snapshot_table_rows_estimated"),
        "table_percent": number("snapshot_table_percent"),
        "table_eta_seconds": number("snapshot_table_eta_seconds"),
        "position_lost": report.lost,
        "requests": requests,
        "refused": report.refused,
    })
}
