//! Topics and their records.

use std::time::Duration;

use axum::http::Method;
use http_body_util::BodyExt;
use rowstream_api::TopicPartition;
use serde_json::{Value, json};

use super::{Daemon, refused};
use crate::{
    schema_registry::SchemaRegistry,
    topic_log::{RecordBatchBuilder, TopicBatch, WriteGroup},
};

const TOPIC: &str = "shop.public.orders";

impl Daemon {
    /// Offsets 0 to `count`-1: Avro strings `v0`, `v1` …; then one record that is no Avro.
    async fn with_records(count: usize) -> Self {
        let daemon = Self::new().await;
        let id = daemon.registry.register("orders-value", "\"string\"").await.unwrap();
        let mut batch = RecordBatchBuilder::new(&[("h", b"1")]);
        for n in 0..count {
            let text = format!("v{n}");
            let length = u8::try_from(text.len() * 2).unwrap();
            let framed = [&[0][..], &id.to_be_bytes(), &[length], text.as_bytes()].concat();
            batch.push(1000, None, Some(&framed), &[("bin", b"\xff")]);
        }
        batch.push(2000, Some(b"k"), Some(b"no avro"), &[]);
        daemon.append(batch).await;
        daemon
    }

    async fn append(&self, batch: RecordBatchBuilder) {
        let mut writer = self.log.writer("test-0").await.unwrap();
        writer.partitions(TOPIC).await.unwrap();
        let records = TopicBatch { partition: TopicPartition::new(TOPIC, 0), records: batch.build() };
        let group = WriteGroup { batches: vec![records], source_offsets: None };
        writer.append(group).await.unwrap().await.unwrap();
    }

    async fn lines(&self, query: &str) -> Vec<Value> {
        let path = format!("/topics/{TOPIC}/records?{query}");
        let response = self.response(Method::GET, &path, String::new()).await;
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        body.split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect()
    }
}

#[tokio::test]
async fn records_are_decoded_or_shown_with_the_reason() {
    let daemon = Daemon::with_records(2).await;
    let lines = daemon.lines("").await;
    let expected = json!({
        "topic": TOPIC, "partition": 0, "offset": 0, "timestamp": 1000,
        "headers": [{ "name": "h", "value": "1" }, { "name": "bin", "value_base64": "/w==" }],
        "key": null, "value": "v0",
    });
    assert_eq!((lines.len(), &lines[0]), (3, &expected));
    assert_eq!(
        (&lines[2]["key_base64"], &lines[2]["value_base64"]),
        (&json!("aw=="), &json!("bm8gYXZybw=="))
    );
    assert_eq!(lines[2]["undecodable"]["stage"], "KEY_CONVERTER", "{}", lines[2]);
}

#[tokio::test]
async fn a_read_begins_and_ends_where_it_was_told() {
    let daemon = Daemon::with_records(3).await;
    let offsets = async |query: &str| -> Vec<i64> {
        daemon.lines(query).await.iter().map(|line| line["offset"].as_i64().unwrap()).collect()
    };
    assert_eq!(offsets("offset=2").await, [2, 3]);
    assert_eq!(offsets("offset=4").await, [] as [i64; 0]);
    assert_eq!(offsets("from=end").await, [] as [i64; 0]);
    assert_eq!(offsets("from=beginning&limit=2&partition=0").await, [0, 1]);
    assert_eq!(offsets("follow=true&limit=3").await, [0, 1, 2]);
    for (query, code) in [("offset=5", 400), ("offset=x", 400), ("partition=1", 404), ("form=end", 400)] {
        refused(daemon.get(&format!("/topics/{TOPIC}/records?{query}")).await, code);
    }
    refused(daemon.get("/topics/none/records").await, 404);
    refused(daemon.get("/topics/none").await, 404);
}

#[tokio::test]
async fn following_shows_what_comes_later() {
    let daemon = Daemon::with_records(1).await;
    let path = format!("/topics/{TOPIC}/records?from=end&follow=true&limit=1");
    let response = daemon.response(Method::GET, &path, String::new()).await;
    let mut batch = RecordBatchBuilder::new(&[]);
    batch.push(3000, None, None, &[]);
    let body = tokio::time::timeout(Duration::from_secs(30), response.into_body().collect());
    let (body, ()) = tokio::join!(body, daemon.append(batch));
    let line: Value = serde_json::from_slice(&body.unwrap().unwrap().to_bytes()).unwrap();
    assert_eq!((&line["offset"], &line["value"]), (&json!(2), &Value::Null));
}

#[tokio::test]
async fn topics_and_groups_show_extents_and_lag() {
    let daemon = Daemon::with_records(2).await;
    let (_, topics) = daemon.get("/topics").await;
    let partition = &topics[0]["partitions"][0];
    assert_eq!((&topics[0]["name"], &partition["end_offset"]), (&json!(TOPIC), &json!(3)));
    assert_eq!(daemon.get(&format!("/topics/{TOPIC}")).await.1, topics[0]);

    let mut hook = super::hook();
    hook["topics"] = json!("shop.*");
    let body = json!({ "name": "hook", "config": hook, "initial_state": "STOPPED" });
    daemon.call(Method::POST, "/connectors", body).await;
    daemon.until("hook", "STOPPED").await;
    let offsets = [(TopicPartition::new(TOPIC, 0), 1)].into();
    daemon.log.commit_group_offsets(&crate::task::sink_loop::group_of("hook"), offsets).await.unwrap();
    let (_, groups) = daemon.get("/consumer-groups").await;
    assert_eq!((&groups[0]["connector"], &groups[0]["lag"]), (&json!("hook"), &json!(2)), "{groups}");
    let active = daemon.get("/connectors/hook/topics").await.1;
    assert_eq!(active, json!({ "hook": { "topics": [TOPIC] } }));
    assert_eq!(daemon.call(Method::PUT, "/connectors/hook/topics/reset", Value::Null).await.0, 202);
}
