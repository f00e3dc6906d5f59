//! `/connectors/{name}/tap`: live records of a connector before and after each of its transforms.
//!
//! Values of rows are masked unless they are asked for: what a step does to a record shows without them, and a look should not be a leak.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
};
use bytes::Bytes;
use futures::{Stream, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    AdminState,
    error::{Answer, ApiError},
};
use crate::pipeline::tap::{Look, Looker, Stage};

/// An empty line this often: only a write tells that a silent client is gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// What to show.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shown {
    /// Only before and behind this step: its name, or its number from 1.
    stage: Option<String>,
    /// Unmasked.
    values: bool,
    limit: Option<u64>,
}

/// One JSON object a line, until the client goes away.
pub(super) async fn show(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    shown: Result<Query<Shown>, QueryRejection>,
) -> Answer {
    let Query(shown) =
        shown.map_err(|e| ApiError::bad_request(format!("query parameters: {}", e.body_text())))?;
    let view = state.worker.view(&name).await?;
    let steps: Vec<&str> = view.spec.transforms.iter().map(|step| step.name.as_str()).collect();
    if steps.is_empty() {
        return Err(ApiError::conflict(format!(
            "Connector {name} has no transforms; GET /topics/TOPIC/records?follow=true shows its records"
        )));
    }
    let only = match &shown.stage {
        None => None,
        Some(stage) => {
            let by_name = steps.iter().position(|step| step == stage).map(|index| index + 1);
            let by_number = stage.parse().ok().filter(|number| (1..=steps.len()).contains(number));
            Some(by_name.or(by_number).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "Connector {name} has no step `{stage}`; its steps are {}, counted from 1",
                    steps.join(", ")
                ))
            })?)
        }
    };
    let tap = state.worker.taps().known(&name).ok_or_else(|| {
        ApiError::conflict(format!(
            "Connector {name} does not run on this worker; its status says where its tasks run"
        ))
    })?;
    let lines = lines(Looking { looker: tap.look(), only, values: shown.values, limit: shown.limit });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Looking {
    looker: Looker,
    only: Option<usize>,
    values: bool,
    limit: Option<u64>,
}

fn lines(looking: Looking) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(looking, |mut looking| async move {
        if looking.limit == Some(0) {
            return None;
        }
        let line = match timeout(SIGN_OF_LIFE, looking.looker.next()).await {
            Ok(Some(look)) => {
                looking.limit = looking.limit.map(|left| left - 1);
                format!("{}\n", looking.line(&look))
            }
            Ok(None) => return None,
            Err(_) => "\n".to_owned(),
        };
        Some((Ok(Bytes::from(line)), looking))
    })
}

impl Looking {
    fn line(&self, look: &Arc<Look>) -> Value {
        let wanted = |number: &usize| self.only.is_none_or(|only| (only - 1..=only).contains(number));
        let stages = look.stages.iter().enumerate().filter(|(number, _)| wanted(number));
        let stage = |(number, Stage { step, records }): (usize, &Stage)| {
            let records: Vec<Value> =
                records.iter().map(|r| if self.values { r.clone() } else { masked(r) }).collect();
            json!({ "stage": number, "step": step, "records": records })
        };
        json!({ "stages": stages.map(stage).collect::<Vec<Value>>(), "error": look.error })
    }
}

/// The record without what its rows hold: names, nulls, and what an envelope says of the change stay.
fn masked(record: &Value) -> Value {
    let mut record = record.clone();
    if let Some(key) = record.get_mut("key") {
        mask(key);
    }
    if let Some(headers) = record.get_mut("headers").and_then(Value::as_object_mut) {
        headers
            .iter_mut()
            .filter(|(name, _)| !name.starts_with("__rowstream."))
            .for_each(|(_, value)| mask(value));
    }
    let Some(value) = record.get_mut("value") else { return record };
    match value.as_object_mut().filter(|fields| fields.contains_key("op") && fields.contains_key("source")) {
        Some(envelope) => {
            for (name, part) in envelope.iter_mut() {
                if !["op", "source", "transaction", "ts_ms", "ts_us", "ts_ns"].contains(&name.as_str()) {
                    mask(part);
                }
            }
        }
        None => mask(value),
    }
    record
}

fn mask(value: &mut Value) {
    match value {
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) => *value = json!("***"),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(fields) => fields.values_mut().for_each(mask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rows_hold_is_masked_and_what_happened_is_not() {
        let record = json!({
            "topic": "t", "key": { "id": 7 }, "headers": { "h": "secret", "__rowstream.unavailable": "[]" },
            "value": { "before": null, "after": { "id": 7, "name": "Ada", "tags": ["a"] }, "op": "c", "source": { "lsn": 1 } },
        });
        let expected = json!({
            "topic": "t", "key": { "id": "***" }, "headers": { "h": "***", "__rowstream.unavailable": "[]" },
            "value": {
                "before": null, "after": { "id": "***", "name": "***", "tags": ["***"] }, "op": "c", "source": { "lsn": 1 },
            },
        });
        assert_eq!(masked(&record), expected);
        assert_eq!(
            masked(&json!({ "value": { "id": 7, "none": null } })),
            json!({ "value": { "id": "***", "none": null } })
        );
        assert_eq!(masked(&json!({ "value": "Ada" })), json!({ "value": "***" }));
    }
}
