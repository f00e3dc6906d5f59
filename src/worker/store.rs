//! What the worker keeps in the log's state: connectors made by REST, and target states.

use bytes::Bytes;
use serde_json::Value;

use super::{TargetState, WorkerError};
use crate::{
    config::ConnectorSpec,
    topic_log::{StateOp, StateStore},
};

const CONNECTORS: &str = "connectors";
const TARGETS: &str = "target_states";

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

pub(super) async fn delete(state: &dyn StateStore, name: &str) -> Result<(), WorkerError> {
    let gone = |table: &str| StateOp::Delete { table: table.to_owned(), key: name.to_owned() };
    state.write(vec![gone(CONNECTORS), gone(TARGETS)]).await?;
    Ok(())
}

fn put(table: &str, key: &str, value: String) -> StateOp {
    StateOp::Put { table: table.to_owned(), key: key.to_owned(), value: Bytes::from(value) }
}
