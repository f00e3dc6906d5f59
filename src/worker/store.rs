//! What the worker keeps in the log's state: connectors made by REST, and target states; where several workers share the log,
//! restart requests and statuses too.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Restart, TargetState, WorkerError};
use crate::{
    config::ConnectorSpec,
    topic_log::{StateOp, StateStore},
};

const CONNECTORS: &str = "connectors";
const TARGETS: &str = "target_states";
const RESTARTS: &str = "restarts";
const STATUSES: &str = "statuses";

/// Connectors made by REST, placeholders and all.
pub(super) async fn connectors(state: &dyn StateStore) -> Result<Vec<ConnectorSpec>, WorkerError> {
    let mut specs = Vec::new();
    for (name, bytes) in state.scan(CONNECTORS).await? {
        let Ok(Value::Object(document)) = serde_json::from_slice(&bytes) else {
            return Err(WorkerError::BadRequest(format!(
                "the stored document of connector `{name}` is no JSON object"
            )));
        };
        specs.push(ConnectorSpec::from_document(document).map_err(WorkerError::Invalid)?);
    }
    Ok(specs)
}

pub(super) async fn put_connector(state: &dyn StateStore, spec: &ConnectorSpec) -> Result<(), WorkerError> {
    let value = Value::Object(spec.document.clone()).to_string();
    state.write(vec![put(CONNECTORS, &spec.name, value)]).await?;
    Ok(())
}

pub(super) async fn target(state: &dyn StateStore, name: &str) -> Result<TargetState, WorkerError> {
    let stored = state.get(TARGETS, name).await?;
    Ok(stored.and_then(|b| TargetState::parse(std::str::from_utf8(&b).ok()?)).unwrap_or(TargetState::Running))
}

pub(super) async fn put_target(
    state: &dyn StateStore,
    name: &str,
    target: TargetState,
) -> Result<(), WorkerError> {
    state.write(vec![put(TARGETS, name, target.as_str().to_owned())]).await?;
    Ok(())
}

/// All target states that were ever set.
pub(super) async fn targets(state: &dyn StateStore) -> Result<BTreeMap<String, TargetState>, WorkerError> {
    let stored = state.scan(TARGETS).await?.into_iter();
    Ok(stored
        .filter_map(|(name, word)| Some((name, TargetState::parse(std::str::from_utf8(&word).ok()?)?)))
        .collect())
}

/// Asks whoever runs the connector to restart it.
pub(super) async fn ask_restart(
    state: &dyn StateStore,
    name: &str,
    which: Restart,
) -> Result<(), WorkerError> {
    let which = match which {
        Restart::All => json!("all"),
        Restart::OnlyFailed => json!("only_failed"),
        Restart::Task(task) => json!(task),
    };
    let id = uuid::Uuid::new_v4().to_string();
    state.write(vec![put(RESTARTS, name, json!({ "id": id, "which": which }).to_string())]).await?;
    Ok(())
}

/// The last restart request of each connector: its id, and what was asked.
pub(super) async fn restarts(
    state: &dyn StateStore,
) -> Result<BTreeMap<String, (String, Restart)>, WorkerError> {
    let request = |(name, bytes): (String, Bytes)| {
        let request: Value = serde_json::from_slice(&bytes).ok()?;
        let which = request.get("which")?;
        let which = match which.as_u64() {
            Some(task) => Restart::Task(usize::try_from(task).ok()?),
            None if which == "only_failed" => Restart::OnlyFailed,
            None => Restart::All,
        };
        Some((name, (request.get("id")?.as_str()?.to_owned(), which)))
    };
    Ok(state.scan(RESTARTS).await?.into_iter().filter_map(request).collect())
}

/// Statuses as they were published.
pub(super) async fn statuses(state: &dyn StateStore) -> Result<BTreeMap<String, Value>, WorkerError> {
    let stored = state.scan(STATUSES).await?.into_iter();
    Ok(stored.filter_map(|(name, body)| Some((name, serde_json::from_slice(&body).ok()?))).collect())
}

pub(super) async fn put_status(state: &dyn StateStore, name: &str, body: &Value) -> Result<(), WorkerError> {
    state.write(vec![put(STATUSES, name, body.to_string())]).await?;
    Ok(())
}

pub(super) async fn delete_status(state: &dyn StateStore, name: &str) -> Result<(), WorkerError> {
    state.write(vec![StateOp::Delete { table: STATUSES.to_owned(), key: name.to_owned() }]).await?;
    Ok(())
}

pub(super) async fn delete(state: &dyn StateStore, name: &str) -> Result<(), WorkerError> {
    let gone = |table: &str| StateOp::Delete { table: table.to_owned(), key: name.to_owned() };
    state.write(vec![gone(CONNECTORS), gone(TARGETS), gone(RESTARTS)]).await?;
    Ok(())
}

fn put(table: &str, key: &str, value: String) -> StateOp {
    StateOp::Put { table: table.to_owned(), key: key.to_owned(), value: Bytes::from(value) }
}
