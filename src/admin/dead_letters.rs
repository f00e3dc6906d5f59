//! `/dead-letters` and `/connectors/{name}/dead-letters`: what could not be handled, and bringing it back.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Body as AxumBody,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
};
use rowstream_api::{Chain, ConnectorError, TopicPartition};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AdminState,
    error::{Answer, ApiError, Body, parse},
    records::{self, Letters, Read},
};
use crate::{
    pipeline::chain::ChainPlan,
    redrive::{
        self, Connector, Done, Memory, Wanted,
        letter::Selection,
        survey::{self, Counts},
    },
    registry::PluginKind,
    topic_log::{SeekTo, TopicFilter},
    worker::ConnectorView,
};

/// Every connector that has a dead letter topic, with what that holds of it.
pub(super) async fn list(State(state): State<AdminState>) -> Answer {
    let mut all = Vec::new();
    for view in state.worker.views().await {
        let Some(topic) = &view.spec.errors.dead_letter_topic else { continue };
        let counts = survey::count(state.worker.log(), &view.spec.name, topic).await.map_err(failed)?;
        all.push(counts_json(&view, topic, &counts));
    }
    Ok(Json(all).into_response())
}

fn counts_json(view: &ConnectorView, topic: &str, counts: &Counts) -> Value {
    let reasons: Vec<Value> = counts
        .reasons
        .iter()
        .map(|((code, stage), letters)| json!({ "code": code, "stage": stage, "records": letters }))
        .collect();
    json!({
        "connector": view.spec.name, "type": view.kind.map(PluginKind::as_str), "topic": topic,
        "records": counts.letters, "redriven": counts.redriven, "newest_ms": counts.newest_ms,
        "reasons": reasons, "complete": counts.complete,
    })
}

/// Which letters to show.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shown {
    partition: Option<u32>,
    offset: Option<i64>,
    #[serde(rename = "where")]
    reason: Option<String>,
    limit: Option<u64>,
    /// Only those that were not redriven.
    waiting: bool,
}

/// One JSON object a line, as `/topics/{topic}/records`, with a member `dead_letter` that says where and why.
pub(super) async fn show(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    shown: Result<Query<Shown>, QueryRejection>,
) -> Answer {
    let Query(shown) =
        shown.map_err(|e| ApiError::bad_request(format!("query parameters: {}", e.body_text())))?;
    let (_, topic) = with_topic(&state, &name).await?;
    let log = state.worker.log();
    let found = log.topics().await?.into_iter().find(|known| *known.name == *topic);
    let (mut starts, mut ends, mut topic_id) = (BTreeMap::new(), BTreeMap::new(), String::new());
    if let Some(found) = found {
        topic_id = found.id;
        for (number, extent) in (0..).zip(&found.partitions) {
            let partition = TopicPartition::new(topic.as_str(), number);
            let from = shown.offset.unwrap_or(extent.start_offset).max(extent.start_offset);
            if from < extent.end_offset && shown.partition.is_none_or(|only| only == number) {
                starts.insert(partition.clone(), SeekTo::Offset(from));
                ends.insert(partition, extent.end_offset);
            }
        }
    }
    let memory = Memory::load(log, &name, &topic, &topic_id).await.map_err(failed)?;
    let reader = log.reader("", TopicFilter::new([topic])).await?;
    let selection = Selection {
        partition: shown.partition,
        offsets: shown.offset.into_iter().collect(),
        reason: shown.reason,
    };
    let letters = Letters { connector: name, selection, memory, waiting: shown.waiting };
    let read = Read { starts, ends, limit: shown.limit, follow: false, letters: Some(letters) };
    let lines = records::lines(reader, state.worker.registry().clone(), read);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], AxumBody::from_stream(lines)).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RedriveBody {
    partition: Option<u32>,
    offsets: Vec<i64>,
    #[serde(rename = "where")]
    reason: Option<String>,
    to_topic: bool,
    limit: Option<u64>,
}

/// Answers when what it tells is durable. `"more": true` says that time was over before the letters were: ask again.
pub(super) async fn redrive(State(state): State<AdminState>, Path(name): Path<String>, body: Body) -> Answer {
    let RedriveBody { partition, offsets, reason, to_topic, limit } = parse(body)?;
    let (view, dead_letter_topic) = with_topic(&state, &name).await?;
    let kind = view.kind.ok_or_else(|| {
        ApiError::conflict(format!("Connector {name} is of no known type: its letters have nowhere to go"))
    })?;
    let connector = Connector {
        transforms: ChainPlan::of(&view.spec).map_err(|errors| ApiError::invalid(&errors))?,
        subjects: view.spec.subjects.unwrap_or(state.worker.subjects()),
        name,
        kind,
        dead_letter_topic,
    };
    let wanted = Wanted { selection: Selection { partition, offsets, reason }, to_topic, limit };
    let (log, registry) = (Arc::clone(state.worker.log()), Arc::clone(state.worker.registry()));
    let done = redrive::redrive(&log, &registry, &connector, &wanted).await.map_err(failed)?;
    Ok(Json(done_json(&connector, to_topic, &done)).into_response())
}

fn done_json(connector: &Connector, to_topic: bool, done: &Done) -> Value {
    let left: Vec<Value> =
        done.left.iter().map(|(why, records)| json!({ "reason": why, "records": records })).collect();
    let to = match connector.kind {
        PluginKind::Sink if !to_topic => "connector",
        PluginKind::Sink | PluginKind::Source => "topic",
    };
    json!({
        "connector": connector.name, "to": to, "redriven": done.redriven, "dropped": done.dropped,
        "redriven_before": done.before, "doubles": done.doubles, "left": left, "more": done.more,
    })
}

/// A connector with its dead letter topic.
async fn with_topic(state: &AdminState, name: &str) -> Answer<(ConnectorView, String)> {
    let view = state.worker.view(name).await?;
    match view.spec.errors.dead_letter_topic.clone() {
        Some(topic) => Ok((view, topic)),
        None => Err(ApiError::not_found(format!(
            "Connector {name} has no dead letter topic: `errors: {{ tolerance: all, dead_letter_topic: … }}` gives it one"
        ))),
    }
}

fn failed(error: ConnectorError) -> ApiError {
    let remedy = error.remedy.as_ref().map(|remedy| format!("; what to do: {remedy}")).unwrap_or_default();
    ApiError::internal(format!("{}: {}{remedy}", error.code, Chain(&error)))
}
