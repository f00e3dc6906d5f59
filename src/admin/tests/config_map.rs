//! The connector files as Kubernetes mounts a ConfigMap: `shop.yaml` → `..data/shop.yaml`, `..data` → `..2026_01`. An update
//! makes a new directory, renames a new `..data` over the old one, and only then removes and adds the names that point into it.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Daemon;
use crate::worker::files;

/// Writes a generation as the kubelet's atomic writer does.
fn publish(mount: &Path, generation: &str, connectors: &[(&str, Value)]) {
    let fresh = mount.join(format!("..{generation}"));
    std::fs::create_dir(&fresh).unwrap();
    let name_of = |name: &str| format!("{name}.yaml");
    for (name, document) in connectors {
        std::fs::write(fresh.join(name_of(name)), document.to_string()).unwrap();
    }
    symlink(fresh.file_name().unwrap(), mount.join("..data_tmp")).unwrap();
    let old = std::fs::read_link(mount.join("..data")).ok();
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    for (name, _) in connectors {
        if std::fs::symlink_metadata(mount.join(name_of(name))).is_err() {
            symlink(Path::new("..data").join(name_of(name)), mount.join(name_of(name))).unwrap();
        }
    }
    for entry in std::fs::read_dir(mount).unwrap().map(|e| e.unwrap().path()) {
        if entry.extension().is_some_and(|e| e == "yaml") && !entry.exists() {
            std::fs::remove_file(entry).unwrap();
        }
    }
    if let Some(old) = old {
        std::fs::remove_dir_all(mount.join(old)).unwrap();
    }
}

fn hook(name: &str, timeout: &str) -> (&'static str, Value) {
    let document = json!({
        "name": name, "connector": "webhook", "topics": ["shop.*"],
        "config": { "url": "http://127.0.0.1:9/hook", "timeout": timeout,
            "signing": { "secrets": ["whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"] } },
    });
    (["steady", "changed", "removed", "added"].into_iter().find(|n| *n == name).unwrap(), document)
}

impl Daemon {
    async fn until_problem(&self, path: &Path, there: bool) {
        let reached = async {
            while self.problems.read().contains_key(path) != there {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect("the watcher's verdict");
    }
    async fn until_config(&self, name: &str, timeout: Option<&str>) {
        let path = format!("/connectors/{name}/config");
        let reached = async {
            while self.get(&path).await.1.get("timeout").and_then(Value::as_str) != timeout {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect(name);
    }
}

#[tokio::test]
async fn a_config_map_update_reaches_only_what_changed() {
    let daemon = Daemon::new().await;
    let mount: PathBuf = daemon.directory.path().join("connectors.d");
    std::fs::create_dir(&mount).unwrap();
    publish(&mount, "first", &[hook("steady", "3s"), hook("changed", "3s"), hook("removed", "3s")]);
    let stop = CancellationToken::new();
    let watch = files::watch(daemon.worker.clone(), mount.clone(), daemon.problems.clone(), stop.clone());
    let update = async {
        for name in ["steady", "changed", "removed"] {
            daemon.until(name, "RUNNING").await;
        }
        let since = running_since(&daemon, "steady").await;
        publish(&mount, "second", &[hook("steady", "3s"), hook("changed", "4s"), hook("added", "5s")]);
        daemon.until_config("changed", Some("4s")).await;
        daemon.until("added", "RUNNING").await;
        daemon.until_config("removed", None).await;
        assert_eq!(
            running_since(&daemon, "steady").await,
            since,
            "it was restarted though its file says the same"
        );
        // A mount that is gone for a moment is not an empty one.
        std::fs::rename(&mount, mount.with_extension("away")).unwrap();
        daemon.until_problem(&mount, true).await;
        assert_eq!(daemon.get("/connectors").await.1, json!(["added", "changed", "steady"]));
        std::fs::rename(mount.with_extension("away"), &mount).unwrap();
        daemon.until_problem(&mount, false).await;
        stop.cancel();
    };
    tokio::join!(watch, update);
    assert!(daemon.problems.read().is_empty(), "{:?}", daemon.problems.read());
}

async fn running_since(daemon: &Daemon, name: &str) -> std::time::SystemTime {
    let views = daemon.worker.views().await;
    views.iter().find(|v| v.spec.name == name).unwrap().tasks[0].status.since
}
