//! The REST contract, route by route: status, body, error code.

use axum::{
    Router,
    body::Body,
    http::{Method, Request, header::CONTENT_TYPE},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::double::{Fault, MemoryLog};
use crate::schema_registry::{BuiltinRegistry, rest};

const ONE: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
const TWO: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}"#;
const CLASH: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}"#;

struct Client(Router);

impl Client {
    async fn new() -> Self {
        Self::over(&MemoryLog::new()).await
    }
    async fn over(log: &std::sync::Arc<MemoryLog>) -> Self {
        Self(rest::router(BuiltinRegistry::open(log.clone()).await.unwrap()))
    }
    async fn raw(&self, method: Method, path: &str, body: String) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
        let response = self.0.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers()[CONTENT_TYPE], rest::CONTENT, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }
    async fn get(&self, path: &str) -> (u16, Value) {
        self.raw(Method::GET, path, String::new()).await
    }
    async fn delete(&self, path: &str) -> (u16, Value) {
        self.raw(Method::DELETE, path, String::new()).await
    }
    async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.raw(Method::PUT, path, body.to_string()).await
    }
    async fn post(&self, path: &str, schema: &str) -> (u16, Value) {
        self.raw(Method::POST, path, json!({ "schema": schema }).to_string()).await
    }
    /// Subject `s` with versions 1 and 2.
    async fn with_two_versions() -> Self {
        let client = Self::new().await;
        assert_eq!(client.post("/subjects/s/versions", ONE).await, (200, json!({ "id": 1 })));
        assert_eq!(client.post("/subjects/s/versions", TWO).await, (200, json!({ "id": 2 })));
        client
    }
}

#[track_caller]
fn refused((status, body): (u16, Value), code: u64) -> String {
    assert_eq!(body["error_code"], code, "{body}");
    assert_eq!(u64::from(status), if code > 999 { code / 100 } else { code });
    body["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn schemas() {
    let client = Client::with_two_versions().await;
    assert_eq!(client.get("/schemas/types").await, (200, json!(["AVRO"])));
    assert_eq!(client.get("/schemas/ids/1").await, (200, json!({ "schema": ONE })));
    assert_eq!(client.get("/schemas/ids/1/schema").await.1, serde_json::from_str::<Value>(ONE).unwrap());
    client.post("/subjects/t/versions", ONE).await;
    let uses = json!([{ "subject": "s", "version": 1 }, { "subject": "t", "version": 1 }]);
    assert_eq!(client.get("/schemas/ids/1/versions").await, (200, uses));
    assert_eq!(client.get("/schemas/ids/1/subjects").await, (200, json!(["s", "t"])));
    assert_eq!(refused(client.get("/schemas/ids/9").await, 40403), "Schema 9 not found");
    refused(client.get("/schemas/ids/9/versions").await, 40403);
    refused(client.get("/schemas/ids/nine").await, 400);
}

#[tokio::test]
async fn subjects_and_versions() {
    let client = Client::with_two_versions().await;
    client.post("/subjects/t-key/versions", ONE).await;
    assert_eq!(client.get("/subjects").await, (200, json!(["s", "t-key"])));
    assert_eq!(client.get("/subjects?subjectPrefix=t").await, (200, json!(["t-key"])));
    assert_eq!(client.get("/subjects/s/versions").await, (200, json!([1, 2])));
    let two = json!({ "subject": "s", "id": 2, "version": 2, "schema": TWO });
    for version in ["2", "latest", "-1"] {
        assert_eq!(client.get(&format!("/subjects/s/versions/{version}")).await, (200, two.clone()));
    }
    let bare = client.get("/subjects/s/versions/1/schema").await.1;
    assert_eq!(bare, serde_json::from_str::<Value>(ONE).unwrap());
    assert_eq!(refused(client.get("/subjects/no/versions").await, 40401), "Subject 'no' not found.");
    refused(client.get("/subjects/no/versions/1").await, 40401);
    assert_eq!(refused(client.get("/subjects/s/versions/7").await, 40402), "Version 7 not found.");
    for version in ["0", "-2", "x", "2147483648"] {
        refused(client.get(&format!("/subjects/s/versions/{version}")).await, 42202);
    }
}

#[tokio::test]
async fn subject_names_are_percent_encoded() {
    let client = Client::new().await;
    client.post("/subjects/a%2Fb%20%C3%BC-value/versions", ONE).await;
    assert_eq!(client.get("/subjects").await.1, json!(["a/b ü-value"]));
    assert_eq!(client.get("/subjects/a%2Fb%20%C3%BC-value/versions").await, (200, json!([1])));
    refused(client.get("/subjects/%ff/versions").await, 400);
    refused(client.post("/subjects/a%00b/versions", ONE).await, 42208);
}

#[tokio::test]
async fn registration_and_lookup() {
    let client = Client::with_two_versions().await;
    assert_eq!(client.post("/subjects/s/versions?normalize=false", ONE).await, (200, json!({ "id": 1 })));
    let found = json!({ "subject": "s", "id": 1, "version": 1, "schema": ONE });
    assert_eq!(client.post("/subjects/s", ONE).await, (200, found));
    refused(client.post("/subjects/s", CLASH).await, 40403);
    refused(client.post("/subjects/no", ONE).await, 40401);
    let message = refused(client.post("/subjects/s/versions", CLASH).await, 409);
    assert!(message.contains("version 2 of subject \"s\""), "{message}");
    assert!(message.contains("field `a`: type changed from long to string"), "{message}");
    refused(client.post("/subjects/s/versions", "{").await, 42201);
    refused(client.post("/subjects/s/versions", r#"{"type":"nonsense"}"#).await, 42201);
    refused(client.post("/subjects/s", "nonsense").await, 42201);
}

#[tokio::test]
async fn unsupported_bodies_are_explained() {
    let client = Client::new().await;
    let post = async |body: Value| client.raw(Method::POST, "/subjects/s/versions", body.to_string()).await;
    let message = refused(post(json!({ "schema": "x", "schemaType": "PROTOBUF" })).await, 42201);
    assert!(message.contains("PROTOBUF"), "{message}");
    let reference = json!([{ "name": "n", "subject": "t", "version": 1 }]);
    let message = refused(post(json!({ "schema": ONE, "references": reference })).await, 42201);
    assert!(message.contains("references"), "{message}");
    refused(post(json!({ "schemaType": "AVRO" })).await, 42201);
    refused(post(json!({ "schema": ONE, "id": 7 })).await, 42205);
    refused(post(json!([1])).await, 400);
    refused(client.raw(Method::POST, "/subjects/s/versions", "no json".into()).await, 400);
    let full = json!({ "schema": ONE, "schemaType": "AVRO", "references": [], "id": -1, "version": 0 });
    assert_eq!(post(full).await, (200, json!({ "id": 1 })));
}

#[tokio::test]
async fn deleting_versions() {
    let client = Client::with_two_versions().await;
    refused(client.delete("/subjects/s/versions/2?permanent=true").await, 40407);
    assert_eq!(client.delete("/subjects/s/versions/latest").await, (200, json!(2)));
    refused(client.delete("/subjects/s/versions/2").await, 40406);
    assert_eq!(client.get("/subjects/s/versions").await.1, json!([1]));
    assert_eq!(client.get("/subjects/s/versions?deleted=true").await.1, json!([1, 2]));
    refused(client.get("/subjects/s/versions/2").await, 40402);
    assert_eq!(client.get("/subjects/s/versions/2?deleted=true").await.0, 200);
    assert_eq!(client.post("/subjects/s/versions", TWO).await.1, json!({ "id": 2 }));
    assert_eq!(client.get("/subjects/s/versions").await.1, json!([1, 3]), "numbers are not used twice");
    assert_eq!(client.delete("/subjects/s/versions/2?permanent=true").await, (200, json!(2)));
    assert_eq!(client.get("/subjects/s/versions?deleted=true").await.1, json!([1, 3]));
    refused(client.delete("/subjects/s/versions/9").await, 40402);
    refused(client.delete("/subjects/no/versions/1").await, 40401);
}

#[tokio::test]
async fn deleting_subjects() {
    let client = Client::with_two_versions().await;
    client.put("/config/s", json!({ "compatibility": "NONE" })).await;
    refused(client.delete("/subjects/s?permanent=true").await, 40405);
    assert_eq!(client.delete("/subjects/s").await, (200, json!([1, 2])));
    refused(client.delete("/subjects/s").await, 40404);
    assert_eq!(client.get("/subjects").await.1, json!([]));
    assert_eq!(client.get("/subjects?deleted=true").await.1, json!(["s"]));
    refused(client.get("/config/s").await, 40408);
    assert_eq!(client.delete("/subjects/s?permanent=true").await, (200, json!([1, 2])));
    refused(client.delete("/subjects/s").await, 40401);
    assert_eq!(client.get("/schemas/ids/1").await.0, 200, "records may carry the id");
    assert_eq!(client.post("/subjects/s/versions", TWO).await.1, json!({ "id": 2 }));
    assert_eq!(client.get("/subjects/s/versions").await.1, json!([1]));
}

#[tokio::test]
async fn compatibility() {
    let client = Client::with_two_versions().await;
    let path = "/compatibility/subjects/s/versions/latest";
    assert_eq!(client.post(path, TWO).await, (200, json!({ "is_compatible": true })));
    assert_eq!(client.post(path, CLASH).await, (200, json!({ "is_compatible": false })));
    let (_, verbose) = client.post(&format!("{path}?verbose=true"), CLASH).await;
    assert_eq!(
        verbose["messages"],
        json!([
            "field `a`: type changed from long to string (readers of the new schema cannot read data of version 2)"
        ])
    );
    assert_eq!(client.post("/compatibility/subjects/s/versions/1", ONE).await.1["is_compatible"], true);
    assert_eq!(client.post("/compatibility/subjects/s/versions", ONE).await.1["is_compatible"], false);
    assert_eq!(client.post("/compatibility/subjects/no/versions/latest", ONE).await.1["is_compatible"], true);
    refused(client.post("/compatibility/subjects/no/versions/1", ONE).await, 40401);
    refused(client.post("/compatibility/subjects/s/versions/9", ONE).await, 40402);
    refused(client.post("/compatibility/subjects/s/versions/x", ONE).await, 42202);
    refused(client.post(path, "{").await, 42201);
}

#[tokio::test]
async fn levels() {
    let client = Client::with_two_versions().await;
    assert_eq!(client.get("/config").await, (200, json!({ "compatibilityLevel": "BACKWARD" })));
    let full = json!({ "compatibility": "FULL" });
    assert_eq!(client.put("/config", full.clone()).await, (200, full));
    assert_eq!(client.get("/config").await.1, json!({ "compatibilityLevel": "FULL" }));
    refused(client.get("/config/s").await, 40408);
    let inherited = client.get("/config/s?defaultToGlobal=true").await;
    assert_eq!(inherited, (200, json!({ "compatibilityLevel": "FULL" })));
    client.put("/config/s", json!({ "compatibility": "none" })).await;
    assert_eq!(client.get("/config/s").await.1, json!({ "compatibilityLevel": "NONE" }));
    assert_eq!(client.post("/subjects/s/versions", CLASH).await.0, 200);
    assert_eq!(client.delete("/config/s").await, (200, json!({ "compatibilityLevel": "NONE" })));
    refused(client.delete("/config/s").await, 40408);
    assert_eq!(client.delete("/config").await, (200, json!({ "compatibilityLevel": "FULL" })));
    assert_eq!(client.get("/config").await.1, json!({ "compatibilityLevel": "BACKWARD" }));
    refused(client.put("/config", json!({ "compatibility": "SIDEWAYS" })).await, 42203);
    refused(client.put("/config/s", json!({ "level": "FULL" })).await, 400);
}

#[tokio::test]
async fn modes() {
    let client = Client::new().await;
    assert_eq!(client.get("/mode").await, (200, json!({ "mode": "READWRITE" })));
    assert_eq!(client.get("/mode/s?defaultToGlobal=true").await, (200, json!({ "mode": "READWRITE" })));
    refused(client.get("/mode/s").await, 40409);
}

#[tokio::test]
async fn a_store_that_fails_is_50001() {
    let log = MemoryLog::new();
    let client = Client::over(&log).await;
    log.arm(Fault::Reject);
    refused(client.post("/subjects/s/versions", ONE).await, 50001);
    assert_eq!(client.post("/subjects/s/versions", ONE).await, (200, json!({ "id": 1 })));
}
