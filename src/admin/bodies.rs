//! What connectors and tasks look like in answers: Kafka Connect's members, and ours beside them.

use std::time::{SystemTime, UNIX_EPOCH};

use rowstream_api::Delivery;
use serde_json::{Map, Value, json};

use super::mask;
use crate::{
    registry,
    task::status::TaskState,
    worker::{ConnectorView, Origin, TaskView, Worker},
};

/// Connect's `ConnectorInfo`.
pub(super) fn info(view: &ConnectorView) -> Value {
    let name = &view.spec.name;
    let tasks: Vec<Value> =
        view.task_numbers().iter().map(|task| json!({ "connector": name, "task": task })).collect();
    json!({ "name": name, "config": mask::shown(&view.spec), "tasks": tasks, "type": kind(view) })
}

/// Connect's `ConnectorStateInfo`; ours: `origin`, `target_state`, `delivery`, and `progress` of each task. What other workers run is as
/// they told it; `worker_id` says which.
pub fn status(worker: &Worker, view: &ConnectorView) -> Value {
    let mut status = head(worker, view);
    let tasks: Vec<Value> =
        view.task_numbers().iter().filter_map(|number| task_of(worker, view, *number)).collect();
    if let Some(members) = status.as_object_mut() {
        members.insert("target_state".to_owned(), json!(view.target.as_str()));
        members.insert("tasks".to_owned(), json!(tasks));
    }
    status
}

fn head(worker: &Worker, view: &ConnectorView) -> Value {
    let told = view.elsewhere.as_ref().and_then(|elsewhere| elsewhere.head.clone());
    if let Some(told) = told.filter(|_| !view.home) {
        return told;
    }
    let worker_id = if view.home { worker.id() } else { "" };
    let mut connector = json!({ "state": view.state.as_str(), "worker_id": worker_id });
    if let (Some(trace), Some(members)) = (&view.trace, connector.as_object_mut()) {
        members.insert("trace".to_owned(), json!(trace));
    }
    let origin = match &view.origin {
        Origin::File(file) => json!({ "file": file.display().to_string() }),
        Origin::Rest => json!("rest"),
    };
    json!({
        "name": view.spec.name,
        "connector": connector,
        "tasks": [],
        "type": kind(view),
        "class": view.spec.connector,
        "target_state": view.target.as_str(),
        "origin": origin,
        "delivery": view.delivery.as_ref().map(delivery),
    })
}

/// One task, wherever it runs; nobody's while nobody says that it runs there. `None` when there is no such task.
pub(super) fn task_of(worker: &Worker, view: &ConnectorView, number: usize) -> Option<Value> {
    if let Some(here) = view.tasks.iter().find(|task| task.number == number) {
        return Some(task(worker, here));
    }
    let told = view.elsewhere.as_ref().and_then(|elsewhere| elsewhere.tasks.get(&number).cloned());
    let nobodys = || json!({ "id": number, "state": TaskState::Unassigned.as_str(), "worker_id": "" });
    told.or_else(|| view.task_numbers().contains(&number).then(nobodys))
}

/// Connect's `TaskState`, with our `progress`.
fn task(worker: &Worker, view: &TaskView) -> Value {
    let status = &view.status;
    let gauges: Map<String, Value> =
        view.gauges.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let notes: Map<String, Value> =
        view.notes.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
    let mut body = json!({ "id": view.number, "state": status.state.as_str(), "worker_id": worker.id() });
    let progress = json!({
        "records": status.records,
        "since_ms": epoch_ms(status.since),
        "last_commit_ms": status.last_commit.map(epoch_ms),
        "busy_since_ms": status.busy_since.map(epoch_ms),
        "restarts": status.restarts,
        "attempt": status.attempt,
        "code": status.code,
        "retry_at_ms": status.retry_at.map(epoch_ms),
        "gauges": gauges,
        "notes": notes,
    });
    if let Some(members) = body.as_object_mut() {
        if let Some(trace) = &status.trace {
            members.insert("trace".to_owned(), json!(trace));
        }
        members.insert("progress".to_owned(), progress);
    }
    body
}

/// `source`, `sink`, or Connect's word for a connector it can't load.
pub(super) fn kind(view: &ConnectorView) -> &'static str {
    let planned = view.kind.or_else(|| registry::plugin(&view.spec.connector).map(|p| p.kind));
    planned.map_or("unknown", |kind| kind.as_str())
}

fn delivery(delivery: &Delivery) -> Value {
    match delivery {
        Delivery::ExactlyOnce => json!({ "promise": "exactly_once" }),
        Delivery::AtLeastOnce { because } => json!({ "promise": "at_least_once", "because": because }),
    }
}

fn epoch_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
