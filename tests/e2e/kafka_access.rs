//! Who is let in by a broker that asks, and what `validate` says to whom it does not let in.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon, kafka::Kafka, postgres::Database, proxy::Proxy, rig, turn_of_kafka_faults,
};

const PORT: u16 = 19_792;
/// The listener of SASL takes tokens too (unsigned ones: a test), the other one certificates; `stranger` may do nothing.
const PROPERTIES: &str = r#"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:SSL,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
listener.name.proxied.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_rowstream="rowstream" user_stranger="strange";
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:rowstream;User:token;User:CN=worker"#;

/// A worker gets rows through a broker that asks for a password (three ways), a token or a certificate; and who has none of them, or
/// the wrong one, or no rights, learns from `validate` what to change.
#[test]
fn tls_sasl_tokens_and_certificates_on_a_real_broker() {
    let _turn = turn_of_kafka_faults();
    let kafka = Kafka::of(PORT, 1, PROPERTIES);
    let _wiped = kafka.until_dropped();
    let _proxy = Proxy::start(kafka.proxy());
    let beside = |name: &str| kafka.ca().with_file_name(name);
    let tls = json!({ "ca_file": kafka.ca() });
    let password = |mechanism: &str, user: &str, password: &str| {
        json!({
            "bootstrap_servers": [kafka.secure()], "tls": tls,
            "sasl": { "mechanism": mechanism, "user": user, "password": password },
        })
    };
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, unsigned_token("token")).unwrap();
    let with_token = json!({
        "bootstrap_servers": [kafka.secure()], "tls": tls, "sasl": { "mechanism": "OAUTHBEARER", "token_file": token },
    });
    let certificate = json!({
        "bootstrap_servers": kafka.behind_proxy().bootstrap(),
        "tls": { "ca_file": kafka.ca(), "cert_file": beside("client.pem"), "key_file": beside("client.key") },
    });
    let allowed = [
        ("plain", password("PLAIN", "rowstream", "rowstream")),
        ("scram-256", password("SCRAM-SHA-256", "rowstream", "rowstream")),
        ("scram-512", password("SCRAM-SHA-512", "rowstream", "rowstream")),
        ("token", with_token),
        ("certificate", certificate.clone()),
    ];
    for (group, settings) in allowed {
        delivers(&kafka, group, settings);
    }

    let refused = |settings: Value, code: i32, parts: &[&str]| {
        let worker = worker(&kafka, "refused", settings);
        let (exit, said) = worker.validate();
        for part in parts {
            assert!(said.contains(part), "missing {part:?} in:\n{said}");
        }
        assert_eq!(exit, code, "{said}");
        assert!(!said.contains("wrong-password"), "a secret is told:\n{said}");
    };
    let wrong = "check `topic_log.sasl`";
    refused(password("PLAIN", "rowstream", "wrong-password"), 78, &["find Kafka at localhost:", wrong]);
    refused(password("SCRAM-SHA-512", "rowstream", "wrong-password"), 78, &[wrong]);
    let rights = [
        "Create on the topic",
        "Write and Describe on the TransactionalId",
        "Read and Describe on the group",
    ];
    refused(password("PLAIN", "stranger", "strange"), 78, &rights);
    let mut anonymous = certificate.clone();
    anonymous["tls"] = tls.clone();
    refused(anonymous, 78, &["check `topic_log.tls`", "`cert_file` and `key_file`"]);
    let mut elsewhere = password("PLAIN", "rowstream", "rowstream");
    elsewhere["tls"] = json!({ "ca_file": beside("client.pem") });
    refused(elsewhere, 78, &["check `topic_log.tls`"]);
    let nowhere = json!({ "bootstrap_servers": ["127.0.0.1:1"] });
    refused(nowhere, 69, &["find Kafka at 127.0.0.1:1", "Connection refused"]);
    let unknown = json!({ "bootstrap_servers": ["kafka.invalid:9092"] });
    refused(
        unknown,
        69,
        &["find Kafka at kafka.invalid:9092", "check the names in `topic_log.bootstrap_servers`"],
    );
}

fn worker(kafka: &Kafka, group: &str, mut settings: Value) -> Daemon {
    settings["group"] = json!(group);
    Daemon::of_group(kafka, settings)
}

/// `validate` has nothing to say, and a row goes from source to target.
fn delivers(kafka: &Kafka, group: &str, settings: Value) {
    let worker = worker(kafka, group, settings);
    let (exit, said) = worker.validate();
    assert_eq!(exit, 0, "{group}: {said}");
    let (source, target) = (Database::new("access_src"), Database::new("access_dst"));
    source.sql.run("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)");
    // Topics are of one cluster, and each group has its own.
    let prefix = json!({ "topic_prefix": group });
    worker.connector(&rig::source(&source, prefix));
    let mut sink = rig::sink(&target, json!({}));
    sink["topics"] = json!([format!("{group}.*")]);
    worker.connector(&sink);
    worker.start();
    worker.until(&format!("a row comes through with {group}"), || {
        target.sql.one("SELECT to_regclass('orders')")?;
        target.sql.one("SELECT id FROM orders")
    });
    assert!(worker.stop().success());
}

/// A JSON Web Token without a signature, good for an hour.
fn unsigned_token(subject: &str) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "sub": subject, "iat": now, "exp": now + 3_600 });
    format!("{}.{}.", part(json!({ "alg": "none" })), part(claims))
}
