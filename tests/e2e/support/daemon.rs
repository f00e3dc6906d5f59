//! The real binary, in a directory of its own, on a port of its own.

use std::{
    fs::{File, OpenOptions},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use super::{
    http::{self, Answer},
    kafka::Kafka,
    until,
};

/// A daemon that may be down.
pub struct Daemon {
    directory: tempfile::TempDir,
    pub port: u16,
    child: Mutex<Option<Child>>,
    /// Whose topics are its log; the embedded one when there is none.
    kafka: Option<Kafka>,
}

/// One record of a topic, decoded.
#[derive(Debug, Clone)]
pub struct TopicRecord {
    pub partition: i64,
    pub offset: i64,
    pub key: Value,
    /// Null for a tombstone.
    pub value: Value,
}

impl Daemon {
    /// A directory with `worker.yaml`; nothing runs yet. `settings` go into `worker.yaml`.
    pub fn new(settings: Value) -> Self {
        let directory = tempfile::Builder::new().prefix("rowstream-e2e-").tempdir().unwrap();
        // Freed at once and taken by the daemon: the kernel hands out other ports first.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut worker = json!({
            "data_dir": "data",
            "connectors": "connectors.d",
            "admin": { "listen": format!("127.0.0.1:{port}") },
            "topic_log": { "segment_size": "4MiB" },
        });
        for (key, value) in settings.as_object().unwrap() {
            worker[key] = value.clone();
        }
        std::fs::create_dir(directory.path().join("connectors.d")).unwrap();
        // JSON is YAML.
        std::fs::write(directory.path().join("worker.yaml"), worker.to_string()).unwrap();
        Self { directory, port, child: Mutex::new(None), kafka: None }
    }

    /// As `new`, with its log on these brokers. It has a name in its group, so that it goes on at once when it was killed.
    pub fn on_kafka(kafka: &Kafka, partitions: u32) -> Self {
        Self::of_group(kafka, json!({ "instance_id": "one", "topics": { "partitions": partitions } }))
    }

    /// One of several workers on these brokers, without a name: when it is gone, the others take over.
    pub fn in_group(kafka: &Kafka, partitions: u32) -> Self {
        Self::of_group(kafka, json!({ "topics": { "partitions": partitions } }))
    }

    /// A worker on these brokers; `settings` are laid over its `topic_log`.
    pub fn of_group(kafka: &Kafka, settings: Value) -> Self {
        let mut topic_log =
            json!({ "type": "kafka", "group": "e2e", "bootstrap_servers": kafka.bootstrap() });
        for (key, value) in settings.as_object().unwrap() {
            topic_log[key] = value.clone();
        }
        let mut daemon = Self::new(json!({ "topic_log": topic_log }));
        daemon.kafka = Some(kafka.clone());
        daemon
    }

    /// Changes a setting of its log; counts from its next start.
    pub fn set_log(&self, name: &str, value: &Value) {
        let path = self.path("worker.yaml");
        let mut worker: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        worker["topic_log"][name] = value.clone();
        std::fs::write(path, worker.to_string()).unwrap();
    }

    /// What takes offsets besides records: on Kafka, the markers of commits.
    pub fn offsets_have_gaps(&self) -> bool {
        self.kafka.is_some()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// Writes a connector's file whole, as an editor that renames would.
    pub fn connector(&self, document: &Value) {
        let name = document["name"].as_str().unwrap();
        let draft = self.path("draft");
        std::fs::write(&draft, document.to_string()).unwrap();
        std::fs::rename(draft, self.path(&format!("connectors.d/{name}.yaml"))).unwrap();
    }

    pub fn remove_connector(&self, name: &str) {
        std::fs::remove_file(self.path(&format!("connectors.d/{name}.yaml"))).unwrap();
    }

    /// `rowstream ARGUMENTS`, to its end.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// `rowstream validate` of this directory: exit code and all that it says.
    pub fn validate(&self) -> (i32, String) {
        let out = self.cli(&["validate", "--config", self.path("worker.yaml").to_str().unwrap()]);
        (out.status.code().unwrap_or(-1), said(&out))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rowstream"));
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Starts it without waiting for anything.
    pub fn spawn(&self) {
        let log = OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(child.is_none(), "it runs already");
        *child = Some(
            self.command()
                .args(["run", "--config", "worker.yaml"])
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
    }

    /// Starts it and waits until it answers.
    pub fn start(&self) {
        self.spawn();
        self.until("the daemon answers", || {
            let exited = self.child.lock().unwrap().as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "the daemon ended at once: {exited:?}\n{}", self.log());
            self.try_get("/livez").filter(|a| a.status == 200)
        });
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL, for one that must not have ended by itself.
    pub fn kill_running(&self) {
        let ended = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_mut().unwrap().try_wait();
        assert!(ended.as_ref().is_ok_and(Option::is_none), "it ended by itself: {ended:?}\n{}", self.log());
        self.kill();
    }

    /// SIGTERM, and its exit status.
    pub fn stop(&self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it runs");
        until("the daemon ends after SIGTERM", || self.log(), || child.try_wait().unwrap())
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().expect("it runs").id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Waits for a cause; on failure tells the daemon's status and the end of its log.
    pub fn until<T>(&self, what: &str, cause: impl FnMut() -> Option<T>) -> T {
        until(what, || self.explain(), cause)
    }

    pub fn explain(&self) -> String {
        let status = self.try_get("/connectors?expand=status").map_or("no answer".to_owned(), |a| a.text());
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("status: {status}\nlog ({} lines, the last):\n{tail}", lines.len())
    }

    pub fn try_get(&self, path: &str) -> Option<Answer> {
        http::request(self.port, "GET", path, None).ok()
    }

    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        http::request(self.port, method, path, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", self.explain()))
    }

    pub fn get(&self, path: &str) -> Value {
        let answer = self.request("GET", path, None);
        assert_eq!(answer.status, 200, "GET {path}: {}\n{}", answer.text(), self.explain());
        answer.json()
    }

    /// State and trace of a connector's first task, or of the connector when it has no task.
    pub fn state(&self, connector: &str) -> Option<(String, String)> {
        let answer = self.try_get(&format!("/connectors/{connector}/status")).filter(|a| a.status == 200)?;
        let status = answer.json();
        let part = status["tasks"].get(0).unwrap_or(&status["connector"]);
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let own = text(&status["connector"]["trace"]);
        let trace = if own.is_empty() { text(&part["trace"]) } else { own };
        let state =
            if status["connector"]["state"] == "FAILED" { "FAILED".into() } else { text(&part["state"]) };
        Some((state, trace))
    }

    /// Waits for a state; answers its trace.
    pub fn until_state(&self, connector: &str, wanted: &str) -> String {
        self.until(&format!("{connector} is {wanted}"), || {
            self.state(connector).filter(|(state, _)| state == wanted).map(|(_, trace)| trace)
        })
    }

    /// Waits for a trace that holds all of `parts`, whatever the state; answers it.
    pub fn until_told(&self, connector: &str, parts: &[&str]) -> (String, String) {
        self.until(&format!("the status of {connector} says {parts:?}"), || {
            self.state(connector).filter(|(_, trace)| parts.iter().all(|p| trace.contains(p)))
        })
    }

    /// The durable position of a PostgreSQL source; `None` while the daemon is down or has stored none.
    pub fn stored_lsn(&self, connector: &str) -> Option<u64> {
        let answer = self.try_get(&format!("/connectors/{connector}/offsets")).filter(|a| a.status == 200)?;
        answer.json()["offsets"].get(0)?["offset"]["lsn"].as_u64()
    }

    /// Waits until a connector's position is stored and its snapshot done: what is written from now on comes by the stream, once.
    pub fn until_streaming(&self, connector: &str) {
        self.until("it streams", || {
            let answer =
                self.try_get(&format!("/connectors/{connector}/offsets")).filter(|a| a.status == 200)?;
            let offsets = answer.json();
            let offset = offsets["offsets"].get(0)?["offset"].clone();
            (offset["lsn"].is_u64() && offset["snapshot"].is_null()).then_some(())
        });
    }

    /// Every topic's name, start and end of its first partition.
    pub fn topic_end(&self, topic: &str) -> Option<i64> {
        let topics = self.try_get("/topics").filter(|a| a.status == 200)?.json();
        topic_ends(&topics).into_iter().find(|(name, _)| name == topic).map(|(_, end)| end)
    }

    /// All committed records of a topic, in order; on Kafka as an independent consumer reads them.
    pub fn records(&self, topic: &str) -> Vec<TopicRecord> {
        if let Some(kafka) = &self.kafka {
            return kafka.records(topic, self.port);
        }
        let Some(end) = self.topic_end(topic) else { return Vec::new() };
        let mut records: Vec<TopicRecord> = Vec::new();
        while i64::try_from(records.len()).unwrap() < end {
            let from = records.last().map_or(0, |r| r.offset + 1);
            let answer =
                self.request("GET", &format!("/topics/{topic}/records?offset={from}&limit=5000"), None);
            assert_eq!(answer.status, 200, "{topic}: {}", answer.text());
            let before = records.len();
            for line in answer.text().lines().filter(|l| !l.is_empty()) {
                let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
                records.push(TopicRecord {
                    partition: record["partition"].as_i64().unwrap(),
                    offset: record["offset"].as_i64().unwrap(),
                    key: record["key"].clone(),
                    value: record["value"].clone(),
                });
            }
            assert!(records.len() > before, "{topic} ends at {end}, but nothing is behind {from}");
        }
        records
    }

    /// A copy of the data directory as it lies on disk.
    pub fn copy_data_to(&self, other: &Self) {
        copy_directory(&self.data_dir(), &other.data_dir());
    }
}

/// Name and end of each topic in the answer of `GET /topics`.
fn topic_ends(topics: &Value) -> Vec<(String, i64)> {
    let list = topics.as_array().cloned().unwrap_or_default();
    let end = |t: &Value| {
        let partitions = t["partitions"].as_array().cloned().unwrap_or_default();
        partitions.iter().map(|p| p["end_offset"].as_i64().unwrap_or_default()).sum()
    };
    list.iter().map(|t| (t["name"].as_str().unwrap_or_default().to_owned(), end(t))).collect()
}

/// Standard output and error together.
pub fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            let mut source = File::open(entry.path()).unwrap();
            std::io::copy(&mut source, &mut File::create(target).unwrap()).unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let _gone_already = child.kill();
        let _reaped = child.wait();
    }
}
