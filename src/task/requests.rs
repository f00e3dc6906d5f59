//! Requests to a source's snapshot, on their way to the task.
//!
//! A request is durable in the log's state before it is answered, whichever worker was asked. The task takes it, in the order of asking;
//! only when a position that remembers it is durable it is withdrawn here. A crash in between tells it again, and the task
//! knows that it took it. While nobody runs the source, requests wait.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use rowstream_api::snapshot::{SnapshotAction, SnapshotRequest};

use crate::topic_log::{LogError, StateOp, StateStore};

const TABLE: &str = "snapshot_requests";

/// Makes a request. It is durable when this returns.
///
/// # Errors
/// The log's.
pub async fn put(
    state: &dyn StateStore,
    connector: &str,
    action: SnapshotAction,
) -> Result<SnapshotRequest, LogError> {
    let request = SnapshotRequest { id: uuid::Uuid::new_v4().to_string(), asked_at_ms: next_ms(), action };
    let value = serde_json::to_vec(&request).map_err(|e| LogError::State(e.to_string()))?;
    let key = key_of(connector, &request);
    state.write(vec![StateOp::Put { table: TABLE.to_owned(), key, value: Bytes::from(value) }]).await?;
    Ok(request)
}

/// Requests that were not withdrawn, in the order of asking.
///
/// # Errors
/// The log's.
pub async fn waiting(state: &dyn StateStore, connector: &str) -> Result<Vec<SnapshotRequest>, LogError> {
    let mut requests = Vec::new();
    for (key, value) in state.scan(TABLE).await? {
        if connector_of(&key) != connector {
            continue;
        }
        match serde_json::from_slice(&value) {
            Ok(request) => requests.push(request),
            // Of a newer version; that one may come back.
            Err(error) => tracing::warn!(connector, %error, "a snapshot request is not understood and waits"),
        }
    }
    Ok(requests)
}

/// The connectors that requests wait for.
///
/// # Errors
/// The log's.
pub async fn connectors(state: &dyn StateStore) -> Result<BTreeSet<String>, LogError> {
    Ok(state.scan(TABLE).await?.iter().map(|(key, _)| connector_of(key).to_owned()).collect())
}

/// Withdraws requests.
///
/// # Errors
/// The log's.
pub async fn withdraw(
    state: &dyn StateStore,
    connector: &str,
    requests: &[SnapshotRequest],
) -> Result<(), LogError> {
    let gone = |request| StateOp::Delete { table: TABLE.to_owned(), key: key_of(connector, request) };
    state.write(requests.iter().map(gone).collect()).await
}

/// Ordered by time. An id has no slash, a connector's name may have some.
fn key_of(connector: &str, request: &SnapshotRequest) -> String {
    format!("{connector}/{:013}-{}", request.asked_at_ms, request.id)
}

fn connector_of(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(connector, _)| connector)
}

/// Milliseconds since 1970, never the same twice, so that requests of one worker stay in order.
fn next_ms() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let before = LAST.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1)));
    now.max(before.unwrap_or(0) + 1)
}
