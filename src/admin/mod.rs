//! The admin server's routes: Kafka Connect's REST API, health, metrics, topics, and the schema registry beside them.
//!
//! What it guarantees: paths, bodies and status codes are Kafka Connect's, so that its tools work unchanged; what is ours comes as
//! additional members. Every error is `{"error_code", "message"}`, unknown paths and methods included. No answer shows a secret
//! ([`mask`]). No request holds the server: bodies are bounded, an answer begins within [`ANSWER_TIMEOUT`], and reads of topics
//! hold one batch at a time.
//!
//! There is no authentication yet. The server listens on 127.0.0.1 unless told otherwise; whoever can reach it can change
//! connectors, and a proxy in front of it should decide who that is. What a browser sends for another site is refused
//! ([`error::same_origin`]), so a page that somebody visits can't reach a daemon on their machine.

pub mod bodies;
pub mod check;
mod connectors;
mod dead_letters;
mod error;
mod health;
mod lifecycle;
mod loggers;
pub mod mask;
mod offsets;
mod plugins;
pub mod readiness;
mod records;
mod snapshot;
mod tap;
#[cfg(test)]
mod tests;
mod topics;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};

use crate::{
    schema_registry::{self, Schemas},
    telemetry::logging::LogLevels,
    worker::{Worker, files::FileProblems},
};
use error::ApiError;

/// Kafka Connect's own limit for a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// Connector configurations take a few KiB, schemas of very wide tables a few hundred.
const BODY_BYTES_MAX: usize = 2 << 20;

/// What the routes look at and act upon.
#[derive(Clone)]
pub struct AdminState {
    /// Connectors.
    pub worker: Arc<Worker>,
    /// Schemas.
    pub schemas: Schemas,
    /// Connector files that are not in force.
    pub problems: FileProblems,
    /// Levels of log lines.
    pub log_levels: LogLevels,
    /// When the process started.
    pub started: Instant,
    /// A task that has work and commits nothing for this long counts as stalled.
    pub stall_timeout: Duration,
}

/// All routes, from the root.
pub fn router(state: AdminState) -> Router {
    let registry = schema_registry::rest::router_of(&state.schemas);
    Router::new()
        .merge(connector_routes())
        .route("/", get(health::root))
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/connector-plugins", get(plugins::list))
        .route("/connector-plugins/{plugin}/config", get(plugins::config))
        .route("/connector-plugins/{plugin}/config/validate", put(plugins::validate))
        .route("/admin/loggers", get(loggers::all))
        .route("/admin/loggers/{logger}", get(loggers::one).put(loggers::set))
        .route("/topics", get(topics::list))
        .route("/topics/{topic}", get(topics::one))
        .route("/topics/{topic}/records", get(topics::records))
        .route("/consumer-groups", get(topics::groups))
        .route("/dead-letters", get(dead_letters::list))
        .with_state(state)
        .merge(registry)
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(error::same_origin))
        .layer(middleware::from_fn(in_time))
}

fn connector_routes() -> Router<AdminState> {
    Router::new()
        .route("/connectors", get(connectors::list).post(connectors::create))
        .route("/connectors/{name}", get(connectors::one).delete(connectors::delete))
        .route(
            "/connectors/{name}/config",
            get(connectors::config).put(connectors::put_config).patch(connectors::patch_config),
        )
        .route("/connectors/{name}/status", get(connectors::status))
        .route("/connectors/{name}/topics", get(topics::of_connector))
        .route("/connectors/{name}/topics/reset", put(topics::reset_tracking))
        .route("/connectors/{name}/pause", put(lifecycle::pause))
        .route("/connectors/{name}/resume", put(lifecycle::resume))
        .route("/connectors/{name}/stop", put(lifecycle::stop))
        .route("/connectors/{name}/restart", post(lifecycle::restart))
        .route("/connectors/{name}/tasks", get(lifecycle::tasks))
        .route("/connectors/{name}/tasks/{task}/status", get(lifecycle::task_status))
        .route("/connectors/{name}/tasks/{task}/restart", post(lifecycle::restart_task))
        .route(
            "/connectors/{name}/snapshot",
            get(snapshot::show).post(snapshot::start).delete(snapshot::cancel),
        )
        .route("/connectors/{name}/snapshot/pause", put(snapshot::pause))
        .route("/connectors/{name}/snapshot/resume", put(snapshot::resume))
        .route("/connectors/{name}/tap", get(tap::show))
        .route("/connectors/{name}/dead-letters", get(dead_letters::show))
        .route("/connectors/{name}/dead-letters/redrive", post(dead_letters::redrive))
        .route("/connectors/{name}/snapshot/limit", put(snapshot::limit))
        .route("/connectors/{name}/offsets", get(offsets::show).patch(offsets::alter).delete(offsets::reset))
}

/// Only until the answer begins: a stream of records may go on for days.
async fn in_time(request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        ApiError::internal(format!(
            "Request timed out. {what} was not answered within {} s; it may still take effect, look at the status",
            ANSWER_TIMEOUT.as_secs()
        ))
        .into_response()
    })
}
