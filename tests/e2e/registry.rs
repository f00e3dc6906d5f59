//! An external schema registry: one battery for it and for our own server, what is said when it can't be used, and an outage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use http_body_util::Full;
use hyper::Request;
use rowstream::{
    schema_registry::{
        BuiltinRegistry, ConfluentRegistry, Level, RegistryError, SchemaRegistry,
        confluent::SchemaRegistryConfig, rest,
    },
    topic_log::{
        TopicLog,
        embedded::{EmbeddedConfig, EmbeddedLog},
    },
};
use rowstream_api::Chain;
use rowstream_http::{Client, Connector, Limits, Target, Trust};
use rustls::RootCertStore;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    ledger, oracle,
    support::{
        daemon::Daemon,
        postgres::Database,
        registry::{self, Authority, Clients, Gate, PATH, Rules},
        rig, runtime,
    },
    workload::{self, Workload},
};

const INT: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
const LONG: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"int","default":0}]}"#;
const CLASH: &str =
    r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"},{"name":"c","type":"int"}]}"#;

/// A client with these settings; nothing is remembered from other clients.
fn client(settings: &Value) -> Arc<ConfluentRegistry> {
    let mut all = json!({ "type": "confluent", "timeout": "20s" });
    for (key, value) in settings.as_object().unwrap() {
        all[key] = value.clone();
    }
    let settings: SchemaRegistryConfig = serde_json::from_value(all).unwrap();
    ConfluentRegistry::new(settings.plan().unwrap().unwrap())
}

fn at(url: &str) -> Arc<ConfluentRegistry> {
    client(&json!({ "url": [url] }))
}

/// A subject that no other test has.
fn subject(of: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let started = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    format!("e2e_{}_{started}_{}.{of}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

/// HTTP/1.1: Apicurio now and then ends a request of HTTP/1.0 without an answer.
async fn set_level(url: &str, subject: &str, level: Level) {
    let target = Target::parse(url, "", "").unwrap();
    let within = Duration::from_secs(20);
    let limits = Limits { head: within, body: within, body_bytes: 1 << 20 };
    let request = Request::put(format!("{}/config/{subject}", target.path.trim_end_matches('/')))
        .header("host", target.host_header.clone())
        .header("content-type", "application/json")
        .body(Full::new(json!({ "compatibility": level.as_str() }).to_string().into()))
        .unwrap();
    let connector = Connector::new(target, within, &Trust::only(RootCertStore::empty())).unwrap();
    let answer = Client::new(connector, limits).send(request).await.unwrap();
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

fn same(a: &str, b: &str) -> bool {
    let parse = |text| serde_json::from_str::<Value>(text).unwrap();
    parse(a) == parse(b)
}

/// What every registry with Confluent's API has to do for us.
async fn battery(url: &str) {
    known_and_unknown(url).await;
    clashes(url).await;
    transitive_levels(url).await;
    many_at_once(url).await;
    only_looking_up(url).await;
    at(url).probe().await.unwrap();
}

async fn known_and_unknown(url: &str) {
    let (registry, name) = (at(url), subject("a b/ü%-value"));
    assert_eq!(registry.latest(&name).await.unwrap(), None);
    assert_eq!(registry.look_up(&name, INT).await.unwrap(), None);
    registry.check(&name, INT).await.unwrap();
    assert!(matches!(registry.schema(2_000_000_000).await, Err(RegistryError::NotFound(_))));
    for invalid in [r#"{"type":"nope"}"#, "{", r#"{"type":"record","name":"R"}"#] {
        let error = registry.register(&name, invalid).await.unwrap_err();
        assert!(matches!(error, RegistryError::Invalid(_)), "{invalid}: {error:?}");
    }

    let id = registry.register(&name, INT).await.unwrap();
    assert_eq!(registry.register(&name, INT).await.unwrap(), id);
    assert_eq!(at(url).register(&name, INT).await.unwrap(), id, "another client");
    assert!(same(&registry.schema(id).await.unwrap(), INT));
    let found = registry.look_up(&name, INT).await.unwrap().unwrap();
    assert_eq!((found.subject.as_str(), found.id, found.version), (name.as_str(), id, 1));
    assert!(same(&found.schema, INT));
    assert_eq!(registry.look_up(&name, LONG).await.unwrap(), None);

    let second = registry.register(&name, LONG).await.unwrap();
    assert_ne!(second, id);
    let latest = registry.latest(&name).await.unwrap().unwrap();
    assert_eq!((latest.id, latest.version), (second, 2));
    let other = subject("other-value");
    assert_eq!(registry.register(&other, INT).await.unwrap(), id, "a schema has one id under every subject");
}

async fn clashes(url: &str) {
    let (registry, name) = (at(url), subject("orders-value"));
    registry.register(&name, INT).await.unwrap();
    set_level(url, &name, Level::Backward).await;
    registry.check(&name, LONG).await.unwrap();
    registry.register(&name, LONG).await.unwrap();
    let told = format!(
        "schema is incompatible with version 2 of subject `{name}` under compatibility level BACKWARD: field `a`: type \
         changed from long to string (readers of the new schema cannot read data of version 2)\n\
         changed since version 2:\n  - b: int, default 0\n  ~ a: type long → string\n  + c: int, without a default"
    );
    for error in [registry.check(&name, CLASH).await, registry.register(&name, CLASH).await.map(|_| ())] {
        assert_eq!(error.unwrap_err().to_string(), told);
    }
    let failure = registry.register(&name, CLASH).await.unwrap_err().into_failure("register".into());
    assert_eq!(failure.code, "SCHEMA_INCOMPATIBLE");
    let remedy = failure.remedy.unwrap();
    assert!(remedy.contains(&format!("PUT /config/{name} {{\"compatibility\": \"NONE\"}}")), "{remedy}");
    set_level(url, &name, Level::None).await;
    registry.register(&name, CLASH).await.unwrap();
}

/// The version that is named is the one that it clashes with, not simply the newest.
async fn transitive_levels(url: &str) {
    let (registry, name) = (at(url), subject("orders-value"));
    let record = |fields: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
    let one = record(r#"{"name":"a","type":"int"}"#);
    let two = record(r#"{"name":"a","type":"int"},{"name":"b","type":"int","default":1}"#);
    let three = record(r#"{"name":"a","type":"int"},{"name":"b","type":"int"}"#);
    registry.register(&name, &one).await.unwrap();
    registry.register(&name, &two).await.unwrap();
    set_level(url, &name, Level::Backward).await;
    registry.check(&name, &three).await.unwrap();
    set_level(url, &name, Level::BackwardTransitive).await;
    let RegistryError::Incompatible(conflict) = registry.register(&name, &three).await.unwrap_err() else {
        panic!("not incompatible")
    };
    assert_eq!((conflict.version, conflict.level), (Some(1), Some(Level::BackwardTransitive)));
    assert!(conflict.reason.starts_with("new field `b` has no default"), "{}", conflict.reason);
    assert_eq!(conflict.diff.to_string(), "  + b: int, without a default");
}

async fn many_at_once(url: &str) {
    let name = subject("race-value");
    let clients: Vec<_> = (0..8).map(|_| at(url)).collect();
    let ids = join_all(clients.iter().map(|client| client.register(&name, LONG))).await;
    let ids: Vec<u32> = ids.into_iter().map(Result::unwrap).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(clients[0].latest(&name).await.unwrap().unwrap().version, 1);
}

async fn only_looking_up(url: &str) {
    let name = subject("curated-value");
    let reader = client(&json!({ "url": [url], "auto_register": false }));
    let error = reader.register(&name, INT).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the schema is not registered under subject `{name}`"));
    assert!(matches!(error, RegistryError::Refused { remedy, .. } if remedy.contains("auto_register")));
    let id = at(url).register(&name, INT).await.unwrap();
    assert_eq!(reader.register(&name, INT).await.unwrap(), id);
}

#[test]
fn the_client_passes_its_battery_against_apicurio() {
    runtime().block_on(battery(registry::shared()));
}

#[test]
fn the_client_passes_its_battery_against_our_own_server() {
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let log: Arc<dyn TopicLog> =
            EmbeddedLog::open(EmbeddedConfig::new(directory.path().join("log"))).await.unwrap();
        let builtin = BuiltinRegistry::open(Arc::clone(&log)).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, rest::router(builtin)).await });
        battery(&url).await;
        server.shutdown().await;
        log.close().await.unwrap();
    });
}

/// What a person reads in the status: the error with its causes, and what to do.
fn told(error: RegistryError) -> (String, String) {
    let failure = error.into_failure("register".into());
    (Chain(&failure).to_string(), failure.remedy.unwrap_or_default())
}

async fn refusal(settings: Value) -> (String, String) {
    told(client(&settings).register(&subject("x-value"), INT).await.unwrap_err())
}

#[test]
fn a_registry_behind_tls_and_a_login_is_used_and_strangers_are_told_why_not() {
    let authority = Authority::new();
    // user `rowstream`, password `s3cret-word`
    let login = "Basic cm93c3RyZWFtOnMzY3JldC13b3Jk";
    let basic = Gate::open(Some((&authority, Clients::Anybody)), Rules::login(login));
    let bearer = Gate::open(Some((&authority, Clients::Anybody)), Rules::login("Bearer t0ken-word"));
    let ca = authority.file("ca.pem");
    let auth = |password: &str| json!({ "user": "rowstream", "password": password });
    runtime().block_on(async {
        let url = basic.url("https");
        let ours = json!({ "url": [url], "auth": auth("s3cret-word"), "tls": { "ca_file": ca } });
        client(&ours).register(&subject("x-value"), INT).await.unwrap();
        let token = json!({ "url": [bearer.url("https")], "auth": { "token": "t0ken-word" }, "tls": { "ca_file": ca } });
        client(&token).register(&subject("x-value"), INT).await.unwrap();

        let wrong = json!({ "url": [url], "auth": auth("wr0ng-word"), "tls": { "ca_file": ca } });
        let (text, remedy) = refusal(wrong).await;
        let origin = format!("https://localhost:{}", basic.port);
        let answered = format!("register: the schema registry at {origin} answered 401 Unauthorized: User is not known");
        assert_eq!(text, answered);
        assert_eq!(remedy, "the registry does not accept the credentials: check `schema_registry.auth`");
        assert!(!format!("{text}{remedy}").contains("word"), "a secret was said");
        let (text, remedy) = refusal(json!({ "url": [url], "tls": { "ca_file": ca } })).await;
        assert_eq!(text, answered);
        assert!(remedy.contains("wants credentials: set `schema_registry.auth.user`"), "{remedy}");

        // The authority of somebody else, and the system's.
        let stranger = Authority::new();
        for tls in [json!({ "ca_file": stranger.file("ca.pem") }), json!({})] {
            let (text, remedy) =
                refusal(json!({ "url": [url], "auth": auth("s3cret-word"), "tls": tls, "timeout": "2s" })).await;
            let expected = format!(
                "register: the schema registry is unavailable: {origin}: the TLS handshake failed: invalid peer \
                 certificate: "
            );
            assert!(text.starts_with(&expected), "{text}");
            assert!(remedy.starts_with("`schema_registry.tls.ca_file` has to hold the authority"), "{remedy}");
        }
        let by_address = format!("https://127.0.0.1:{}{PATH}", basic.port);
        let (text, remedy) =
            refusal(json!({ "url": [by_address], "tls": { "ca_file": ca }, "timeout": "2s" })).await;
        assert!(text.contains("certificate") && text.contains("127.0.0.1"), "{text}");
        assert!(remedy.contains("has to name the host"), "{remedy}");
    });
}

#[test]
fn a_registry_that_wants_our_certificate_gets_it() {
    let authority = Authority::new();
    let gate = Gate::open(Some((&authority, Clients::WithCertificate)), Rules::none());
    let (ca, cert, key) =
        (authority.file("ca.pem"), authority.file("client.pem"), authority.file("client.key"));
    runtime().block_on(async {
        let ours = json!({ "url": [gate.url("https")], "tls": { "ca_file": ca, "cert_file": cert, "key_file": key } });
        client(&ours).register(&subject("x-value"), INT).await.unwrap();
        let (text, remedy) =
            refusal(json!({ "url": [gate.url("https")], "tls": { "ca_file": ca }, "timeout": "2s" })).await;
        assert!(text.contains("the connection was lost before an answer came"), "{text}");
        assert!(text.contains("CertificateRequired"), "{text}");
        assert!(remedy.contains("set `schema_registry.tls.cert_file` and `key_file`"), "{remedy}");
    });
}

#[test]
fn what_is_not_there_is_told() {
    runtime().block_on(async {
        let (text, remedy) =
            refusal(json!({ "url": ["http://registry.invalid:8081"], "timeout": "2s" })).await;
        let expected = "register: the schema registry is unavailable: http://registry.invalid:8081: the name \
                        `registry.invalid` could not be resolved: ";
        assert!(text.starts_with(expected), "{text}");
        assert!(remedy.starts_with("check the host in `schema_registry.url`"), "{remedy}");

        let (text, remedy) = refusal(json!({ "url": ["http://127.0.0.1:1"], "timeout": "2s" })).await;
        assert!(text.contains("http://127.0.0.1:1: no TCP connection: Connection refused"), "{text}");
        assert!(remedy.starts_with("check that the registry runs"), "{remedy}");

        // A web server that is no registry.
        let elsewhere = registry::shared().replace(PATH, "/somewhere");
        let (text, remedy) = refusal(json!({ "url": [elsewhere] })).await;
        assert!(text.contains("answered 404 Not Found"), "{text}");
        assert!(remedy.contains("check the path in `schema_registry.url`"), "{remedy}");
    });
}

#[test]
fn another_address_is_asked_when_one_does_not_answer() {
    let rules = Rules::none();
    let gate = Gate::open(None, rules.clone());
    runtime().block_on(async {
        let urls = json!({ "url": ["http://127.0.0.1:1", gate.url("http")] });
        let registry = client(&urls);
        registry.register(&subject("x-value"), INT).await.unwrap();
        // A load balancer with nobody behind it, for two requests: the call lasts through that.
        rules.unavailable.store(2, Ordering::SeqCst);
        at(&gate.url("http")).register(&subject("x-value"), INT).await.unwrap();
        assert_eq!(rules.unavailable.load(Ordering::SeqCst), 0);
        rules.unavailable.store(1000, Ordering::SeqCst);
        let (text, _) = refusal(json!({ "url": [gate.url("http")], "timeout": "2s" })).await;
        assert!(text.ends_with("answered 503 Service Unavailable"), "{text}");
    });
}

/// `validate` asks the registry, and tells what `run` would run into; a daemon starts all the same, because an outage passes.
#[test]
fn validate_asks_the_registry() {
    let daemon = Daemon::new(external(registry::shared()));
    let (code, said) = daemon.validate();
    assert_eq!(code, 0, "{said}");
    let gate = Gate::open(None, Rules::login("Bearer t0ken-word"));
    let (code, said) = Daemon::new(external(&gate.url("http"))).validate();
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("REGISTRY_REFUSED: ask the schema registry: the schema registry at http://localhost:"),
        "{said}"
    );
    assert!(said.contains("set `schema_registry.auth.user`"), "{said}");
    let down = Daemon::new(external("http://127.0.0.1:1"));
    let (code, said) = down.validate();
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("REGISTRY_UNAVAILABLE: ask the schema registry: "), "{said}");
    down.start();
    assert!(down.stop().success());
    let (code, said) =
        Daemon::new(json!({ "schema_registry": { "type": "confluent", "auth": { "tokn": "x" } } }))
            .validate();
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("did you mean `schema_registry.auth.token`?"), "{said}");
}

/// Settings of `schema_registry` for a daemon.
fn external(url: &str) -> Value {
    json!({ "schema_registry": { "type": "confluent", "url": url, "timeout": "2s" } })
}

/// The registry is killed while a source streams: tables whose schemas are known go on without it, one that changes meanwhile waits,
/// a restart of the daemon waits too, and when the registry is back everything is told once, in order.
#[test]
fn an_outage_of_the_registry_loses_nothing() {
    let registry = registry::Private::up("outage");
    let (source, target) = (Database::new("reg_src"), Database::new("reg_dst"));
    source.sql.run(ledger::TABLES);
    workload::fill(&source.sql, 500);
    let daemon = Daemon::new(external(&registry.url));
    daemon.connector(&rig::source(&source, json!({})));
    daemon.connector(&rig::sink(&target, json!({ "schema_changes": "add_columns" })));
    let before = ledger::committed_now(&source.sql);
    source.make_slot();
    daemon.start();
    daemon.until_streaming("shop");
    oracle::target_equals_source(&daemon, &source, &target);

    let workload = Workload::start(&source, 2, 4, Duration::from_millis(10));
    registry.kill();
    let end = |table: &str| daemon.topic_end(&format!("shop.public.{table}"));
    let reached = end("visits");
    daemon.until("a known table goes on without the registry", || (end("visits") > reached).then_some(()));

    source.sql.run("ALTER TABLE customers ADD COLUMN remark text");
    let waiting = [
        "REGISTRY_UNAVAILABLE",
        "register a schema under `shop.public.customers-value`",
        "no TCP connection",
    ];
    daemon.until("the task waits for the registry", || {
        let (state, trace) = daemon.state("shop")?;
        (state == "RETRYING" && waiting.iter().all(|part| trace.contains(part))).then_some(())
    });
    daemon.kill();
    daemon.start();
    daemon.until("a new process waits too", || {
        let (state, trace) = daemon.state("shop")?;
        (state == "RETRYING" && trace.contains(waiting[0])).then_some(())
    });

    registry.again();
    let back = Instant::now();
    daemon.until_state("shop", "RUNNING");
    let so_far = workload.committed.load(Ordering::SeqCst);
    daemon.until("writers go on after its return", || {
        (workload.committed.load(Ordering::SeqCst) > so_far + 50).then_some(())
    });
    let committed = workload.stop();
    oracle::target_equals_source(&daemon, &source, &target);
    let ledger = ledger::read(&source.sql);
    let records: usize = ledger::COLUMNS
        .iter()
        .map(|(table, _)| oracle::topic_equals_ledger(&daemon, table, &ledger, &before))
        .sum();
    crate::support::note(&format!(
        "registry outage: {committed} transactions, {records} records equal the ledger, {:?} from its return to the end",
        back.elapsed()
    ));
}

/// A column's type changes so that old readers can't follow: the task fails and the status tells what changed, field by field, and
/// the choices; with one of them taken it goes on, and nothing is lost.
#[test]
fn an_incompatible_change_is_told_as_a_diff_and_can_be_allowed() {
    for url in [None, Some(registry::shared())] {
        let source = Database::new("clash");
        source.sql.run("CREATE TABLE t (id int PRIMARY KEY, total int); INSERT INTO t VALUES (1, 10)");
        let daemon = Daemon::new(url.map_or_else(|| json!({}), external));
        let prefix = subject("shop");
        daemon.connector(&rig::source(&source, json!({ "topic_prefix": prefix })));
        daemon.start();
        daemon.until_streaming("shop");
        let name = format!("{prefix}.public.t-value");
        let own = format!("http://127.0.0.1:{}", daemon.port);
        let registry = url.unwrap_or(&own);
        runtime().block_on(set_level(registry, &name, Level::Backward));
        source.sql.run(
            "ALTER TABLE t ALTER total TYPE text USING total::text; ALTER TABLE t ADD note text; INSERT INTO t VALUES (2, 'ten')",
        );
        let trace = daemon.until_state("shop", "FAILED");
        for part in [
            "SCHEMA_INCOMPATIBLE: register a schema under `",
            "version 1 of subject `",
            "under compatibility level BACKWARD: field `before.total`: type changed from int to string",
            "changed since version 1:\n  ~ before.total: type [null, int] → [null, string]\n  + before.note: [null, string], default null\n",
            "what to do: nothing is lost: the task goes on from where it stopped.",
            "- change the table so that old readers can follow",
            &format!("PUT /config/{name} {{\"compatibility\": \"NONE\"}}"),
        ] {
            assert!(trace.contains(part), "{part:?} is not in\n{trace}");
        }
        runtime().block_on(set_level(registry, &name, Level::None));
        assert_eq!(
            daemon.request("POST", "/connectors/shop/restart?includeTasks=true", None).status / 100,
            2
        );
        let topic = format!("{prefix}.public.t");
        daemon.until("both rows are there", || (daemon.topic_end(&topic) == Some(2)).then_some(()));
        assert_eq!(daemon.records(&topic)[1].value["after"]["total"], "ten");
    }
}

/// The strategies name subjects as Confluent's do, for the worker and for one connector, in both registries.
#[test]
fn subjects_are_named_as_the_strategy_says() {
    let source = Database::new("names");
    source.sql.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    for url in [None, Some(registry::shared())] {
        for strategy in ["topic", "record", "topic_record"] {
            let prefix = subject("p");
            let mut registry =
                url.map_or_else(|| json!({}), |url| json!({ "type": "confluent", "url": url }));
            // The worker says one thing for all, and a connector another for itself.
            let mut connector = rig::source(&source, json!({ "topic_prefix": prefix }));
            if url.is_some() {
                registry["subject_strategy"] = json!(strategy);
            } else {
                connector["subject_strategy"] = json!(strategy);
            }
            let daemon = Daemon::new(json!({ "schema_registry": registry }));
            daemon.connector(&connector);
            daemon.start();
            let topic = format!("{prefix}.public.t");
            daemon.until("the row is there", || (daemon.topic_end(&topic) == Some(1)).then_some(()));
            assert_eq!(daemon.records(&topic)[0].value["after"]["id"], 1);
            let expected = match strategy {
                "topic" => [format!("{topic}-key"), format!("{topic}-value")],
                "record" => [format!("{topic}.Key"), format!("{topic}.Envelope")],
                _ => [format!("{topic}-{topic}.Key"), format!("{topic}-{topic}.Envelope")],
            };
            let own = format!("http://127.0.0.1:{}", daemon.port);
            let reader = at(url.unwrap_or(&own));
            for name in expected {
                let found = runtime().block_on(reader.latest(&name)).unwrap();
                assert!(found.is_some(), "{strategy}: no subject {name}");
            }
            daemon.stop();
            source.drop_slot(&source.connect());
        }
    }
}
