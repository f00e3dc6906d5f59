//! `/connectors/{name}/offsets`: where a connector stands, and moving a stopped one.
//!
//! Offsets are only changed when no task can write them: a connector that was told to stop is first waited for, on every worker.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use rowstream_api::{SourceOffset, SourceOffsets, SourcePartition};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    AdminState,
    connectors::message,
    error::{Answer, ApiError, Body, parse},
};
use crate::worker::Offsets;

pub(super) async fn show(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    let offsets: Vec<Value> = match state.worker.offsets(&name).await? {
        Offsets::Source(offsets) => offsets
            .into_iter()
            .map(|(partition, offset)| json!({ "partition": partition_json(partition), "offset": offset.0 }))
            .collect(),
        Offsets::Sink(offsets) => offsets
            .into_iter()
            .map(|(partition, offset)| {
                json!({
                    "partition": { "kafka_topic": partition.topic, "kafka_partition": partition.partition },
                    "offset": { "kafka_offset": offset },
                })
            })
            .collect(),
    };
    Ok(Json(json!({ "offsets": offsets })).into_response())
}

fn partition_json(partition: SourcePartition) -> Value {
    serde_json::from_str(&partition.0).unwrap_or(Value::String(partition.0))
}

pub(super) async fn reset(State(state): State<AdminState>, Path(name): Path<String>) -> Answer<Response> {
    state.worker.reset_offsets(&name).await?;
    Ok(message("The offsets for this connector have been reset successfully"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlterBody {
    offsets: Vec<Alteration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alteration {
    partition: Map<String, Value>,
    #[serde(default)]
    offset: Option<Map<String, Value>>,
}

/// For sources. A sink's own offsets live at its destination, beside the rows, and win over what could be stored here.
pub(super) async fn alter(State(state): State<AdminState>, Path(name): Path<String>, body: Body) -> Answer {
    let body: AlterBody = parse(body)?;
    if body.offsets.is_empty() {
        return Err(ApiError::bad_request(
            "Partitions / offsets need to be provided for an alter offsets request",
        ));
    }
    state.worker.at_rest(&name).await?;
    let Offsets::Source(mut offsets) = state.worker.offsets(&name).await? else {
        return Err(ApiError::bad_request(format!(
            "the offsets of sink connector {name} can't be set, only reset (DELETE): a sink keeps its position at its destination"
        )));
    };
    for change in body.offsets {
        apply(&mut offsets, change);
    }
    state.worker.log().replace_source_offsets(&name, offsets).await?;
    Ok(message("The offsets for this connector have been altered successfully"))
}

fn apply(offsets: &mut SourceOffsets, change: Alteration) {
    let mut partition = change.partition;
    partition.sort_keys();
    let partition = SourcePartition(Value::Object(partition).to_string());
    match change.offset {
        Some(offset) => offsets.insert(partition, SourceOffset(offset)),
        None => offsets.remove(&partition),
    };
}
