//! `/topics` and `/consumer-groups`: what the log holds and who has read how far. For `rowstream topics`, and for people with curl.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
};
use rowstream_api::TopicPartition;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    AdminState,
    connectors::accepted,
    error::{Answer, ApiError},
    records::{self, Read},
};
use crate::{
    config::{ConnectorSpec, spec},
    registry::PluginKind,
    task::sink_loop::group_of,
    topic_log::{PartitionDescription, SeekTo, TopicDescription, TopicFilter},
    worker::{ConnectorView, Offsets},
};

pub(super) async fn list(State(state): State<AdminState>) -> Answer {
    let mut topics = state.worker.log().topics().await?;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(topics.iter().map(topic_json).collect::<Vec<Value>>()).into_response())
}

pub(super) async fn one(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    Ok(Json(topic_json(&find(&state, &name).await?)).into_response())
}

fn topic_json(topic: &TopicDescription) -> Value {
    let partitions: Vec<Value> = (0..)
        .zip(&topic.partitions)
        .map(|(number, p): (u32, _)| {
            json!({
                "partition": number, "start_offset": p.start_offset, "end_offset": p.end_offset, "bytes": p.bytes,
            })
        })
        .collect();
    json!({ "name": topic.name, "id": topic.id, "partitions": partitions })
}

async fn find(state: &AdminState, name: &str) -> Answer<TopicDescription> {
    let topics = state.worker.log().topics().await?;
    topics
        .into_iter()
        .find(|t| *t.name == *name)
        .ok_or_else(|| ApiError::not_found(format!("Topic {name} not found; GET /topics lists them")))
}

/// What to read; `offset` wins over `from`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    partition: Option<u32>,
    offset: Option<i64>,
    from: From,
    limit: Option<u64>,
    follow: bool,
}

#[derive(Debug, Default, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum From {
    #[default]
    Beginning,
    End,
}

/// One JSON object a line. Without `follow` it ends where the log ended when the request came.
pub(super) async fn records(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let Query(wanted) =
        wanted.map_err(|e| ApiError::bad_request(format!("query parameters: {}", e.body_text())))?;
    let topic = find(&state, &name).await?;
    let mut starts = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for (number, extent) in (0..).zip(&topic.partitions) {
        if wanted.partition.is_some_and(|only| only != number) {
            continue;
        }
        let partition = TopicPartition::new(name.as_str(), number);
        let (at, offset) = start(&wanted, &partition, extent)?;
        starts.insert(partition.clone(), at);
        if offset < extent.end_offset {
            ends.insert(partition, extent.end_offset);
        }
    }
    if starts.is_empty() {
        return Err(ApiError::not_found(format!(
            "Topic {name} has {} partition(s), counted from 0",
            topic.partitions.len()
        )));
    }
    let group = format!("rowstream-topics-read-{}", uuid::Uuid::new_v4());
    let reader = state.worker.log().reader(&group, TopicFilter::new([name])).await?;
    let read = Read { starts, ends, limit: wanted.limit, follow: wanted.follow, letters: None };
    let lines = records::lines(reader, state.worker.registry().clone(), read);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Where to seek, and which offset that is now.
fn start(
    wanted: &Wanted,
    partition: &TopicPartition,
    extent: &PartitionDescription,
) -> Answer<(SeekTo, i64)> {
    match (wanted.offset, wanted.from) {
        (Some(offset), _) if (extent.start_offset..=extent.end_offset).contains(&offset) => {
            Ok((SeekTo::Offset(offset), offset))
        }
        (Some(offset), _) => Err(ApiError::bad_request(format!(
            "offset {offset} of {partition} is outside what the log holds ({} to {})",
            extent.start_offset, extent.end_offset
        ))),
        (None, From::Beginning) => Ok((SeekTo::Earliest, extent.start_offset)),
        // The end that was looked at, not the one at the time of seeking: nothing in between is missed.
        (None, From::End) => Ok((SeekTo::Offset(extent.end_offset), extent.end_offset)),
    }
}

/// Each sink connector's group, with how far it is behind.
pub(super) async fn groups(State(state): State<AdminState>) -> Answer {
    let ends: BTreeMap<TopicPartition, i64> = state
        .worker
        .log()
        .topics()
        .await?
        .iter()
        .flat_map(|t| {
            (0..).zip(&t.partitions).map(|(n, p)| (TopicPartition::new(t.name.clone(), n), p.end_offset))
        })
        .collect();
    let mut groups = Vec::new();
    for view in state.worker.views().await {
        if view.kind != Some(PluginKind::Sink) {
            continue;
        }
        let name = &view.spec.name;
        let Offsets::Sink(offsets) = state.worker.offsets(name).await? else { continue };
        let mut total = 0;
        let partitions: Vec<Value> = offsets
            .iter()
            .map(|(partition, offset)| {
                let end = ends.get(partition).copied();
                let lag = end.map(|end| end.saturating_sub(*offset).max(0));
                total += lag.unwrap_or(0);
                json!({
                    "topic": partition.topic, "partition": partition.partition,
                    "offset": offset, "end_offset": end, "lag": lag,
                })
            })
            .collect();
        groups.push(
            json!({ "group": group_of(name), "connector": name, "lag": total, "partitions": partitions }),
        );
    }
    Ok(Json(groups).into_response())
}

/// Connect's active topics: for a sink those its patterns match, for a source those under its prefix.
pub(super) async fn of_connector(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    let view = state.worker.view(&name).await?;
    let topics = state.worker.log().topics().await?;
    let mut names: Vec<&str> = topics.iter().map(|t| &*t.name).filter(|topic| is_of(&view, topic)).collect();
    names.sort_unstable();
    let mut body = Map::new();
    body.insert(name, json!({ "topics": names }));
    Ok(Json(body).into_response())
}

fn is_of(view: &ConnectorView, topic: &str) -> bool {
    if !view.spec.topics.is_empty() {
        return TopicFilter::new(view.spec.topics.iter().cloned()).matches(topic);
    }
    let ConnectorSpec { config, .. } = &view.spec;
    let prefix = spec::lookup(config, "topic_prefix").and_then(Value::as_str);
    prefix
        .and_then(|prefix| topic.strip_prefix(prefix))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// There is nothing to reset: which topics are active is read from the log itself.
pub(super) async fn reset_tracking(State(state): State<AdminState>, Path(name): Path<String>) -> Answer {
    state.worker.view(&name).await?;
    Ok(accepted())
}
