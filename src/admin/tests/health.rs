//! Health, metrics, log levels, and what is not there.

use axum::{
    body::Body,
    http::{Method, Request},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Daemon, hook, read, refused};
use crate::worker::files;

#[tokio::test]
async fn the_server_says_who_it_is() {
    let daemon = Daemon::new().await;
    let (_, root) = daemon.get("/").await;
    assert_eq!((&root["version"], &root["kafka_cluster_id"]), (&json!("0.1.0"), &json!(daemon.log.id())));
    assert_eq!(daemon.get("/health").await.1["status"], "healthy");
    assert_eq!(daemon.get("/livez").await.0, 200);
    daemon.log.close().await.unwrap();
    let (status, body) = daemon.get("/livez").await;
    assert_eq!((status, &body["status"]), (503, &json!("dead")));
    assert_eq!(daemon.get("/health").await.0, 500);
}

#[tokio::test]
async fn ready_means_that_everything_makes_progress() {
    let daemon = Daemon::with_hook().await;
    let (status, body) = daemon.get("/readyz").await;
    assert_eq!((status, &body["problems"]), (200, &json!([])), "{body}");
    assert_eq!(body["connectors"][0]["name"], "hook");

    // A file that can't be in force, and a connector that can't run, both from the watched directory.
    let files = daemon.directory.path().join("connectors.d");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("bad.yaml"), "name: [").unwrap();
    std::fs::write(
        files.join("failed.yaml"),
        "{ name: failed, connector: webhook, topics: [a], config: { url: nowhere, hedaers: 1 } }",
    )
    .unwrap();
    let stop = CancellationToken::new();
    let watch = files::watch(daemon.worker.clone(), files, daemon.problems.clone(), stop.clone());
    let look = async {
        daemon.until("failed", "FAILED").await;
        stop.cancel();
    };
    tokio::join!(watch, look);
    let (status, body) = daemon.get("/readyz").await;
    assert_eq!((status, &body["status"]), (503, &json!("not ready")));
    let problems: Vec<&str> =
        body["problems"].as_array().unwrap().iter().map(|p| p["problem"].as_str().unwrap()).collect();
    assert_eq!(problems, ["connector file is not in force", "connector is FAILED"], "{body}");
    // What a file defines is not REST's to change.
    refused(daemon.call(Method::DELETE, "/connectors/failed", Value::Null).await, 409);
    refused(daemon.call(Method::PUT, "/connectors/failed/config", hook()).await, 409);
}

#[tokio::test]
async fn metrics_hold_the_states() {
    let daemon = Daemon::with_hook().await;
    let response = daemon.response(Method::GET, "/metrics", String::new()).await;
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
    let page = response.into_body().collect().await.unwrap().to_bytes();
    let page = std::str::from_utf8(&page).unwrap();
    for line in [
        r#"rowstream_connector_state{connector="hook",state="RUNNING"} 1"#,
        r#"rowstream_connector_state{connector="hook",state="FAILED"} 0"#,
        r#"rowstream_task_state{connector="hook",state="RUNNING",task="0"} 1"#,
        r#"rowstream_task_busy_seconds{connector="hook",task="0"} 0"#,
        "rowstream_log_blocked 0",
    ] {
        assert!(page.lines().any(|l| l == line), "no {line} in\n{page}");
    }
}

#[tokio::test]
async fn log_levels_change() {
    let daemon = Daemon::new().await;
    let logger = "/admin/loggers/rowstream::admin::tests";
    let set = daemon.call(Method::PUT, logger, json!({ "level": "debug" })).await;
    assert_eq!(set, (200, json!(["rowstream::admin::tests"])));
    assert_eq!(daemon.get(logger).await, (200, json!({ "level": "DEBUG", "last_modified": null })));
    assert_eq!(daemon.get("/admin/loggers").await.1["root"]["level"], "OFF");
    let cluster = format!("{logger}?scope=cluster");
    assert_eq!(daemon.call(Method::PUT, &cluster, json!({ "level": "OFF" })).await, (204, Value::Null));
    refused(daemon.call(Method::PUT, logger, json!({ "level": "LOUD" })).await, 404);
    refused(daemon.call(Method::PUT, logger, json!({})).await, 400);
    refused(daemon.get("/admin/loggers/org.apache").await, 404);
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_json() {
    let daemon = Daemon::new().await;
    assert!(refused(daemon.get("/nope").await, 404).contains("/nope"));
    refused(daemon.call(Method::DELETE, "/connectors", Value::Null).await, 405);
    refused(daemon.call(Method::POST, "/livez", Value::Null).await, 405);
    let post =
        async |body: &str| read(daemon.response(Method::POST, "/connectors", body.to_owned()).await).await;
    assert!(refused(post("{\"name\":").await, 400).contains("not the JSON that was expected: EOF"));
    assert!(refused(post("{}").await, 400).contains("missing field `name`"));
    refused(post(&"x".repeat(super::super::BODY_BYTES_MAX + 1)).await, 413);
    assert_eq!(daemon.get("/subjects").await, (200, json!([])));
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let daemon = Daemon::new().await;
    let with = async |origin: &str| {
        let request = Request::get("/connectors").header("host", "127.0.0.1:8083").header("origin", origin);
        read(daemon.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await
    };
    assert_eq!(with("http://127.0.0.1:8083").await.0, 200);
    for foreign in ["http://evil.example", "null", "http://127.0.0.1:80830"] {
        refused(with(foreign).await, 403);
    }
}
