//! The REST contract, route by route, over a real log in a temporary directory and the webhook connector.

mod config_map;
mod connectors;
mod health;
mod topics;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{AdminState, router};
use crate::{
    pipeline::tap::Taps,
    schema_registry::{BuiltinRegistry, SchemaRegistry, Schemas, SubjectStrategy},
    telemetry::{
        logging::{self, LogFormat, LogLevels},
        metrics::Metrics,
    },
    topic_log::{
        TopicLog,
        embedded::{EmbeddedConfig, EmbeddedLog},
    },
    worker::{Exclusive, Worker, WorkerContext, files::FileProblems},
};

struct Daemon {
    router: Router,
    log: Arc<dyn TopicLog>,
    registry: Arc<BuiltinRegistry>,
    worker: Arc<Worker>,
    problems: FileProblems,
    directory: tempfile::TempDir,
}

/// One logger for the process: tests of one binary share it.
fn levels() -> LogLevels {
    static LEVELS: std::sync::OnceLock<LogLevels> = std::sync::OnceLock::new();
    LEVELS.get_or_init(|| logging::init(LogFormat::Json, "off").unwrap()).clone()
}

impl Daemon {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log: Arc<dyn TopicLog> =
            EmbeddedLog::open(EmbeddedConfig::new(directory.path().join("log"))).await.unwrap();
        let registry = BuiltinRegistry::open(Arc::clone(&log)).await.unwrap();
        let context = WorkerContext {
            taps: Taps::default(),
            log: Arc::clone(&log),
            registry: Arc::clone(&registry) as Arc<dyn SchemaRegistry>,
            subjects: SubjectStrategy::Topic,
            metrics: Metrics::new("1").unwrap(),
            stop_timeout: Duration::from_secs(5),
            exclusive: Exclusive::default(),
        };
        let worker = Worker::new(context, "host:8083".into());
        let problems = FileProblems::default();
        let state = AdminState {
            worker: Arc::clone(&worker),
            schemas: Schemas::Builtin(Arc::clone(&registry)),
            problems: problems.clone(),
            log_levels: levels(),
            started: Instant::now(),
            stall_timeout: Duration::from_mins(1),
        };
        Self { router: router(state), log, registry, worker, problems, directory }
    }

    async fn response(&self, method: Method, path: &str, body: String) -> Response<Body> {
        let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        read(self.response(method, path, body).await).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, Value::Null).await
    }

    /// Waits for a state the actor reaches in its own time.
    async fn until(&self, name: &str, state: &str) {
        let path = format!("/connectors/{name}/status");
        let reached = async {
            while self.get(&path).await.1["connector"]["state"] != state {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect(state);
    }

    async fn with_hook() -> Self {
        let daemon = Self::new().await;
        let created =
            daemon.call(Method::POST, "/connectors", json!({ "name": "hook", "config": hook() })).await;
        assert_eq!(created.0, 201, "{created:?}");
        daemon.until("hook", "RUNNING").await;
        daemon
    }
}

async fn read(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (status, value)
}

/// A webhook nobody listens to, on topics that do not exist: it waits for records.
fn hook() -> Value {
    json!({
        "connector.class": "webhook",
        "topics": "shop.*",
        "url": "http://127.0.0.1:9/hook",
        "headers.authorization": "Bearer abc",
        "signing.secrets": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3,whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4",
        "timeout": "3s",
    })
}

#[track_caller]
fn refused((status, body): (u16, Value), code: u16) -> String {
    assert_eq!((status, &body["error_code"]), (code, &json!(code)), "{body}");
    body["message"].as_str().unwrap().to_owned()
}
