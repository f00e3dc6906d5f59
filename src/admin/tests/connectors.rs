//! Connectors, their configuration, offsets and plugins.

use std::time::Duration;

use axum::http::Method;
use rowstream_api::{SourceOffset, SourceOffsets, SourcePartition, TopicPartition};
use serde_json::{Value, json};

use super::{Daemon, hook, refused};

#[tokio::test]
async fn a_connector_is_created_shown_changed_and_deleted() {
    let daemon = Daemon::new().await;
    assert_eq!(daemon.get("/connectors").await, (200, json!([])));
    let body = json!({ "name": "hook", "config": hook(), "initial_state": "STOPPED" });
    let response = daemon.response(Method::POST, "/connectors", body.to_string()).await;
    assert_eq!(response.headers()["location"], "/connectors/hook");
    let (status, info) = super::read(response).await;
    assert_eq!((status, &info["name"], &info["type"]), (201, &json!("hook"), &json!("sink")));
    daemon.until("hook", "STOPPED").await;
    assert!(refused(daemon.call(Method::POST, "/connectors", body).await, 409).contains("already exists"));

    let mut changed = hook();
    changed["timeout"] = json!("4s");
    let put = daemon.call(Method::PUT, "/connectors/hook/config", changed.clone()).await;
    assert_eq!((put.0, &put.1["config"]["timeout"]), (200, &json!("4s")));
    let put = daemon.call(Method::PUT, "/connectors/other/config", changed).await;
    assert_eq!((put.0, &put.1["name"]), (201, &json!("other")));
    assert_eq!(daemon.get("/connectors").await.1, json!(["hook", "other"]));

    let patch = json!({ "timeout": null, "concurrency": 2 });
    let (status, patched) = daemon.call(Method::PATCH, "/connectors/other/config", patch).await;
    assert_eq!((status, &patched["config"]["concurrency"]), (200, &json!("2")));
    assert_eq!(patched["config"].get("timeout"), None);
    let (_, patched) =
        daemon.call(Method::PATCH, "/connectors/other/config", json!({ "tasks.max": "2" })).await;
    assert_eq!(patched["config"]["tasks_max"], "2");
    let (_, patched) =
        daemon.call(Method::PATCH, "/connectors/other/config", json!({ "tasks.max": null })).await;
    assert_eq!(patched["config"].get("tasks_max"), None);
    let nameless = json!({ "name": "", "config": hook() });
    assert!(
        refused(daemon.call(Method::POST, "/connectors", nameless).await, 400).contains("name: is empty")
    );

    assert_eq!(daemon.call(Method::DELETE, "/connectors/other", Value::Null).await, (204, Value::Null));
    let gone = refused(daemon.get("/connectors/other").await, 404);
    assert_eq!(gone, "Connector other not found");
    for path in ["config", "status", "tasks", "offsets", "topics", "tasks/0/status"] {
        refused(daemon.get(&format!("/connectors/other/{path}")).await, 404);
    }
}

/// Steps travel in Connect's flat form, its predicates too, and their secrets are secrets.
#[tokio::test]
async fn transforms_are_taken_and_shown_as_connect_has_them() {
    let daemon = Daemon::new().await;
    let mut config = hook();
    for (key, value) in [
        ("transforms", "north,hide"),
        ("transforms.north.type", "filter"),
        ("transforms.north.condition", "after.region == 'north'"),
        ("transforms.north.predicate", "isT"),
        ("transforms.north.negate", "true"),
        ("predicates", "isT"),
        ("predicates.isT.type", "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone"),
        ("transforms.hide.type", "tokenize"),
        ("transforms.hide.fields", "email,phone"),
        ("transforms.hide.key", "an HMAC key that nobody may see"),
    ] {
        config[key] = json!(value);
    }
    let put = daemon.call(Method::PUT, "/connectors/hook/config", config.clone()).await;
    assert_eq!(put.0, 201, "{}", put.1);
    let (_, shown) = daemon.get("/connectors/hook/config").await;
    assert_eq!(shown["transforms"], "north,hide");
    assert_eq!(shown["transforms.hide.key"], "***");
    assert_eq!(shown["transforms.hide.fields"], "email,phone");
    assert_eq!(shown["transforms.north.when"], r#"{"is_tombstone":true,"negate":true}"#);
    // What is shown can be sent back: it means the same, and the mask the secret.
    let again = daemon.call(Method::PUT, "/connectors/hook/config", shown.clone()).await;
    assert_eq!((again.0, &again.1["config"]), (200, &shown));
    config["transforms.hide.fields"] = json!("");
    config["transforms.north.condtion"] = json!("true");
    let wrong = refused(daemon.call(Method::PUT, "/connectors/hook/config", config).await, 400);
    for expected in
        ["transforms.hide.fields", "transforms.north.condtion: is not a known key; did you mean `condition`?"]
    {
        assert!(wrong.contains(expected), "missing {expected:?} in: {wrong}");
    }
    let (_, plugins) = daemon.get("/connector-plugins?connectorsOnly=false").await;
    assert!(plugins.to_string().contains(r#"{"class":"unwrap","type":"transformation""#), "{plugins}");
}

#[tokio::test]
async fn secrets_are_masked_and_a_mask_keeps_them() {
    let daemon = Daemon::with_hook().await;
    let (_, shown) = daemon.get("/connectors/hook/config").await;
    assert_eq!((&shown["headers.authorization"], &shown["signing.secrets"]), (&json!("***"), &json!("***")));
    assert_eq!((&shown["name"], &shown["connector.class"]), (&json!("hook"), &json!("webhook")));
    for path in [
        "/connectors/hook",
        "/connectors/hook/tasks",
        "/connectors?expand=info&expand=status",
        "/readyz?verbose",
    ] {
        let text = daemon.get(path).await.1.to_string();
        assert!(!text.contains("Bearer") && !text.contains("whsec"), "{path}: {text}");
    }

    // What was shown comes back, with one change.
    let mut back = shown.clone();
    back["timeout"] = json!("9s");
    let (status, info) = daemon.call(Method::PUT, "/connectors/hook/config", back).await;
    assert_eq!((status, &info["config"]["timeout"]), (200, &json!("9s")), "{info}");
    let stored = daemon.log.state().get("connectors", "hook").await.unwrap().unwrap();
    let stored: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(stored["config"]["headers"]["authorization"], "Bearer abc");
    assert_eq!(stored["config"]["signing"]["secrets"], hook()["signing.secrets"]);

    // A placeholder says where the secret is, not what.
    let patch = json!({ "headers.authorization": "${file:/dev/null}" });
    daemon.call(Method::PATCH, "/connectors/hook/config", patch).await;
    let (_, info) = daemon.get("/connectors/hook/config").await;
    assert!(["***", "${file:/dev/null}"].contains(&info["headers.authorization"].as_str().unwrap()));

    // Nothing is stored under another name.
    let message = refused(daemon.call(Method::PUT, "/connectors/new/config", shown).await, 400);
    assert!(message.contains("doesn't match connector name"), "{message}");
    let mut masked = hook();
    masked["headers.authorization"] = json!("***");
    let message = refused(daemon.call(Method::PUT, "/connectors/new/config", masked).await, 400);
    assert!(message.contains("headers.authorization: `***` keeps a stored secret"), "{message}");
}

#[tokio::test]
async fn wrong_configurations_name_every_problem() {
    let daemon = Daemon::new().await;
    let wrong = json!({
        "connector.class": "webhook", "topics": "a", "ulr": "http://x/", "timeout": "soon", "tasks.max": "many",
    });
    let message = refused(daemon.call(Method::PUT, "/connectors/hook/config", wrong.clone()).await, 400);
    assert!(
        message.starts_with("Connector configuration is invalid and contains the following 4 error(s):\n"),
        "{message}"
    );
    for part in
        ["tasks_max: ", "ulr: is not a known key; did you mean `url`?", "timeout: ", "url: is required"]
    {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    let path = "/connector-plugins/webhook/config/validate";
    let (status, report) = daemon.call(Method::PUT, path, wrong).await;
    assert_eq!((status, &report["name"]), (200, &json!("webhook")));
    assert_eq!(report["error_count"], 5, "the name is missing too: {report}");
    let entry = |name: &str| {
        let configs = report["configs"].as_array().unwrap();
        configs.iter().find(|c| c["value"]["name"] == name).unwrap()["value"]["errors"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(
        [entry("url"), entry("ulr"), entry("tasks_max"), entry("headers"), entry("name")],
        [1, 1, 1, 0, 1]
    );

    let mut fine = hook();
    fine["name"] = json!("any");
    let (_, report) = daemon.call(Method::PUT, path, fine).await;
    assert_eq!(report["error_count"], 0, "{report}");
    assert!(!report.to_string().contains("MDEyMzQ1"), "{report}");
    let typo =
        json!({ "name": "any", "url_passwrd": "hunter2", "headers.authorization": { "no": "hunter2" } });
    let report = daemon.call(Method::PUT, path, typo).await.1.to_string();
    assert!(!report.contains("hunter2"), "{report}");
    let class = json!({ "connector.class": "postgres-sink" });
    assert_eq!(
        refused(daemon.call(Method::PUT, path, class).await, 400),
        "Included connector type postgres-sink does not match request type webhook"
    );
    refused(daemon.call(Method::PUT, "/connector-plugins/nope/config/validate", json!({})).await, 404);

    let initial = json!({ "name": "a", "config": hook(), "initial_state": "ASLEEP" });
    assert!(
        refused(daemon.call(Method::POST, "/connectors", initial).await, 400)
            .contains("expected one of RUNNING")
    );
    let unknown = json!({ "connector.class": "oracle", "db_password": "x" });
    let message = refused(daemon.call(Method::PUT, "/connectors/o/config", unknown).await, 400);
    assert!(message.contains("`oracle` is not a connector; expected one of"), "{message}");
}

#[tokio::test]
async fn target_states_and_restarts() {
    let daemon = Daemon::with_hook().await;
    let put =
        async |what: &str| daemon.call(Method::PUT, &format!("/connectors/hook/{what}"), Value::Null).await;
    let (_, status) = daemon.get("/connectors/hook/status").await;
    assert_eq!(status["tasks"][0]["worker_id"], "host:8083");
    assert_eq!((&status["type"], &status["origin"]), (&json!("sink"), &json!("rest")));
    assert!(status["tasks"][0]["progress"]["records"].is_u64());

    assert_eq!(put("pause").await, (202, Value::Null));
    daemon.until("hook", "PAUSED").await;
    assert_eq!(put("resume").await.0, 202);
    daemon.until("hook", "RUNNING").await;
    let restart = "/connectors/hook/restart";
    assert_eq!(daemon.call(Method::POST, restart, Value::Null).await, (204, Value::Null));
    let included = format!("{restart}?includeTasks=true");
    let (code, body) = daemon.call(Method::POST, &included, Value::Null).await;
    assert_eq!((code, &body["connector"]["state"]), (202, &json!("RESTARTING")));
    daemon.until("hook", "RUNNING").await;
    let (code, body) = daemon.call(Method::POST, &format!("{included}&onlyFailed=true"), Value::Null).await;
    assert_eq!((code, &body["connector"]["state"]), (202, &json!("RUNNING")));

    assert_eq!(daemon.get("/connectors/hook/tasks/0/status").await.0, 200);
    assert_eq!(
        daemon.get("/connectors/hook/tasks").await.1[0]["id"],
        json!({ "connector": "hook", "task": 0 })
    );
    assert_eq!(daemon.call(Method::POST, "/connectors/hook/tasks/0/restart", Value::Null).await.0, 204);
    refused(daemon.call(Method::POST, "/connectors/hook/tasks/7/restart", Value::Null).await, 404);
    refused(daemon.get("/connectors/hook/tasks/x/status").await, 404);
    assert_eq!(put("stop").await, (204, Value::Null));
    daemon.until("hook", "STOPPED").await;
    assert_eq!(daemon.get("/connectors/hook/tasks").await, (200, json!([])));
    refused(daemon.call(Method::PUT, "/connectors/none/pause", Value::Null).await, 404);
}

#[tokio::test]
async fn offsets_move_only_while_stopped() {
    let daemon = Daemon::with_hook().await;
    let group = crate::task::sink_loop::group_of("hook");
    daemon.log.writer("test-0").await.unwrap().partitions("shop.a").await.unwrap();
    let offsets = [(TopicPartition::new("shop.a", 0), 0)].into();
    daemon.log.commit_group_offsets(&group, offsets).await.unwrap();
    let path = "/connectors/hook/offsets";
    let expected = json!({ "offsets": [{
        "partition": { "kafka_topic": "shop.a", "kafka_partition": 0 }, "offset": { "kafka_offset": 0 },
    }]});
    assert_eq!(daemon.get(path).await, (200, expected));
    let message = refused(daemon.call(Method::DELETE, path, Value::Null).await, 400);
    assert!(message.starts_with("Connectors must be in the STOPPED state"), "{message}");
    daemon.call(Method::PUT, "/connectors/hook/stop", Value::Null).await;
    // Without waiting: the reset waits for the stop itself.
    assert_eq!(daemon.call(Method::DELETE, path, Value::Null).await.0, 200);
    assert_eq!(daemon.get(path).await.1, json!({ "offsets": [] }));
    refused(daemon.call(Method::PATCH, path, json!({ "offsets": [] })).await, 400);
}

#[tokio::test]
async fn source_offsets_are_altered_one_by_one() {
    let daemon = Daemon::new().await;
    let config = json!({
        "connector.class": "postgres-source", "topic_prefix": "shop", "connection.host": "127.0.0.1",
        "connection.port": "9", "connection.database": "shop", "connection.user": "u", "tables.include": "public.*",
    });
    let body = json!({ "name": "shop", "config": config, "initial_state": "STOPPED" });
    let created = daemon.call(Method::POST, "/connectors", body).await;
    assert_eq!(created.0, 201, "{created:?}");
    let offset = |n: u64| SourceOffset(json!({ "lsn": n }).as_object().unwrap().clone());
    let partition = |name: &str| SourcePartition(json!({ "server": name }).to_string());
    let stored: SourceOffsets = [(partition("a"), offset(1)), (partition("b"), offset(2))].into();
    daemon.log.replace_source_offsets("shop", stored).await.unwrap();
    let alter = json!({ "offsets": [
        { "partition": { "server": "a" }, "offset": { "lsn": 9 } },
        { "partition": { "server": "b" }, "offset": null },
    ]});
    let answer = daemon.call(Method::PATCH, "/connectors/shop/offsets", alter).await;
    assert_eq!(answer.1["message"], "The offsets for this connector have been altered successfully");
    let expected = json!({ "offsets": [{ "partition": { "server": "a" }, "offset": { "lsn": 9 } }] });
    assert_eq!(daemon.get("/connectors/shop/offsets").await, (200, expected));
}

#[tokio::test]
async fn plugins_and_their_settings() {
    let daemon = Daemon::new().await;
    let (_, plugins) = daemon.get("/connector-plugins").await;
    let webhook = plugins.as_array().unwrap().iter().find(|p| p["class"] == "webhook").unwrap();
    assert_eq!(webhook["type"], "sink");
    let (_, keys) = daemon.get("/connector-plugins/webhook/config").await;
    let secret = keys.as_array().unwrap().iter().find(|k| k["name"] == "signing.secrets").unwrap();
    assert_eq!((&secret["type"], &secret["group"]), (&json!("PASSWORD"), &json!("signing")));
    refused(daemon.get("/connector-plugins/nope/config").await, 404);
}

/// A restart of one task leaves the others alone, and what is told of each is told of the right one.
#[tokio::test]
async fn one_task_of_several_is_restarted_alone() {
    let daemon = Daemon::with_hook().await;
    let several = json!({ "tasks.max": "3" });
    assert_eq!(daemon.call(Method::PATCH, "/connectors/hook/config", several).await.0, 200);
    let path = "/connectors/hook/status";
    let since = async || -> Vec<Option<u64>> {
        let (_, status) = daemon.get(path).await;
        let tasks = status["tasks"].as_array().unwrap().iter();
        tasks
            .enumerate()
            .map(|(number, task)| {
                assert_eq!((&task["id"], &task["worker_id"]), (&json!(number), &json!("host:8083")));
                task["progress"]["since_ms"].as_u64().filter(|_| task["state"] == "RUNNING")
            })
            .collect()
    };
    let reached = async |wanted: &dyn Fn(&[Option<u64>]) -> bool| {
        let reached = async {
            loop {
                let now = since().await;
                if now.len() == 3 && now.iter().all(Option::is_some) && wanted(&now) {
                    return now;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap()
    };
    let before = reached(&|_| true).await;
    assert_eq!(daemon.call(Method::POST, "/connectors/hook/tasks/1/restart", Value::Null).await.0, 204);
    let after = reached(&|now| now[1] > before[1]).await;
    assert_eq!([after[0], after[2]], [before[0], before[2]]);
    refused(daemon.call(Method::POST, "/connectors/hook/tasks/3/restart", Value::Null).await, 404);
    assert_eq!(daemon.call(Method::POST, "/connectors/hook/restart", Value::Null).await.0, 204);
    reached(&|now| now.iter().zip(&after).all(|(now, after)| now > after)).await;
}
