//! Dependencies point one way: `wire/` ← connector crate → `api`; `avro`, `transforms`, `testkit` → `api`; the daemon → all.
//! Read from `cargo metadata` and from the sources, so that a wrong edge is a failing test and not a matter of taste.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests panic with context")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Crates that are no connector and may be used by connectors.
const SHARED: &[&str] = &["rowstream-api", "rowstream-http", "rowstream-tls"];
/// What each shared crate of the workspace may use of the workspace.
const ALLOWED: &[(&str, &[&str])] = &[
    ("rowstream-api", &[]),
    ("rowstream-http", &["rowstream-api", "rowstream-tls"]),
    ("rowstream-tls", &["rowstream-api"]),
    ("rowstream-avro", &["rowstream-api"]),
    ("rowstream-transforms", &["rowstream-api"]),
    ("rowstream-testkit", &["rowstream-api"]),
    ("rowstream-kafka-ffi", &[]),
    ("rowstream-memory", &[]),
];
/// Who may know Kafka: the daemon, and the crate of two C calls, which stands apart because it alone may be unsafe.
const KAFKA: &[&str] = &["rowstream", "rowstream-kafka-ffi"];
/// Crates that bring a runtime, a network or a broker: not for `api`.
const RUNTIMES: &[&str] = &[
    "tokio",
    "tokio-util",
    "tokio-postgres",
    "hyper",
    "axum",
    "rdkafka",
    "mysql_async",
    "rustls",
    "reqwest",
];

/// Ordinary dependencies of each workspace crate; tests may use what they like, except other connectors.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let name = |v: &Value| v["name"].as_str().unwrap().to_owned();
    let of = |package: &Value| {
        let list = package["dependencies"].as_array().unwrap();
        list.iter().filter(|d| d["kind"].is_null()).map(name).collect()
    };
    metadata["packages"].as_array().unwrap().iter().map(|p| (name(p), of(p))).collect()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(next) else { continue };
        for path in entries.map(|e| e.unwrap().path()) {
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn connectors_see_only_the_api() {
    let all = dependencies();
    let ours: BTreeSet<&String> = all.keys().collect();
    for (package, uses) in all.iter().filter(|(name, _)| *name != "rowstream") {
        let allowed = ALLOWED.iter().find(|(name, _)| name == package).map_or(SHARED, |(_, uses)| uses);
        for used in uses.iter().filter(|u| ours.contains(u)) {
            assert!(allowed.contains(&used.as_str()), "{package} must not depend on {used}");
        }
        assert!(
            KAFKA.contains(&package.as_str()) || !uses.contains("rdkafka"),
            "{package} must not know Kafka"
        );
        assert!(!uses.contains("rowstream-kafka-ffi"), "{package} must not know Kafka");
    }
}

#[test]
fn only_the_kafka_log_calls_c() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let outside = |p: &PathBuf| !p.starts_with(root.join("src/topic_log/kafka"));
    for path in sources(&root.join("src")).into_iter().filter(outside) {
        let text = std::fs::read_to_string(&path).unwrap();
        for name in ["rdkafka", "rowstream_kafka_ffi"] {
            assert!(!text.contains(&format!("{name}::")), "{} uses {name}", path.display());
        }
    }
    let text = std::fs::read_to_string(root.join("kafka-ffi/src/lib.rs")).unwrap();
    assert_eq!(
        text.matches("unsafe {").count(),
        4,
        "every unsafe block is argued for in kafka-ffi's module doc"
    );
    let text = std::fs::read_to_string(root.join("memory/src/lib.rs")).unwrap();
    assert_eq!(
        text.matches("unsafe {").count(),
        2,
        "both unsafe blocks are argued for in memory's module doc"
    );
}

#[test]
fn the_api_has_no_runtime() {
    let all = dependencies();
    for runtime in RUNTIMES {
        assert!(!all["rowstream-api"].contains(*runtime), "rowstream-api must not depend on {runtime}");
    }
}

#[test]
fn only_the_mysql_crate_speaks_to_mysql() {
    for (package, uses) in dependencies() {
        for client in ["mysql_async", "mysql_common"] {
            assert!(
                package == "rowstream-mysql" || !uses.contains(client),
                "{package} must not depend on {client}"
            );
        }
    }
}

#[test]
fn only_the_postgres_crate_speaks_to_postgres() {
    for (package, uses) in dependencies() {
        for client in ["tokio-postgres", "postgres-protocol"] {
            assert!(
                package == "rowstream-postgres" || !uses.contains(client),
                "{package} must not depend on {client}"
            );
        }
    }
}

#[test]
fn wire_modules_know_no_runtime_and_no_errors_of_ours() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("connectors");
    let wire: Vec<PathBuf> =
        sources(&root).into_iter().filter(|p| p.components().any(|c| c.as_os_str() == "wire")).collect();
    assert!(!wire.is_empty(), "no wire module found: was it renamed?");
    for path in wire {
        let text = std::fs::read_to_string(&path).unwrap();
        for banned in ["tokio", "ConnectorError", "RecordError"] {
            assert!(!text.contains(banned), "{} mentions {banned}", path.display());
        }
    }
}

#[test]
fn only_the_registry_names_a_connector() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&root).into_iter().filter(|p| !p.ends_with("src/registry.rs")) {
        let text = std::fs::read_to_string(&path).unwrap();
        for connector in ["rowstream_postgres", "rowstream_webhook", "rowstream_mysql"] {
            assert!(!text.contains(connector), "{} names {connector}", path.display());
        }
    }
}
