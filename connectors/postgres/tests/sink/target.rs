//! A database of the test's own, and tasks that write to it.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rowstream_api::{
    ConnectorError, Flushed, Gauges, SinkConnector, SinkRecord, SinkTask, StartReason, TaskContext,
    TopicPartition,
};
use rowstream_postgres::{
    connection::{Connection, ConnectionConfig, ConnectionPlan},
    sink::{PostgresSink, PostgresSinkTask},
};
use rowstream_tls::Expiry;
use serde_json::{Value, json};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Dropped with its database.
pub(crate) struct Target {
    pub(crate) database: String,
    pub(crate) db: Connection,
    port: u64,
}

fn script(arguments: &[&str]) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let run = Command::new("sh")
        .arg("tests/services/postgres.sh")
        .args(arguments)
        .current_dir(root)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap().trim().to_owned()
}

fn connection(port: u64, database: &str) -> Value {
    json!({ "host": "127.0.0.1", "port": port, "database": database, "user": "postgres", "tls": { "mode": "disable" } })
}

async fn connect(port: u64, database: &str) -> Connection {
    let config: ConnectionConfig = serde_json::from_value(connection(port, database)).unwrap();
    ConnectionPlan { config, application_name: "test".to_owned(), expiry: Expiry::default() }
        .connect()
        .await
        .unwrap()
}

impl Target {
    pub(crate) async fn new() -> Self {
        let url = script(&["15", "up"]);
        let port = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let database = format!("rowstream_sink_{}_{number}", std::process::id());
        let admin = connect(port, "postgres").await;
        admin.client.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        let db = connect(port, &database).await;
        Self { database, db, port }
    }

    pub(crate) async fn another_connection(&self) -> Connection {
        connect(self.port, &self.database).await
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.db.client.batch_execute(sql).await.unwrap();
    }

    /// Rows of a query that answers one text column.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.db.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_else(|| "NULL".to_owned())).collect()
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        self.texts(sql).await.join(";")
    }

    /// A table's rows, in order of their text.
    pub(crate) async fn rows(&self, table: &str) -> String {
        self.text(&format!("SELECT t::text FROM {table} t ORDER BY 1")).await
    }

    pub(crate) fn plan(&self, settings: Value) -> <PostgresSink as SinkConnector>::Plan {
        let mut config = json!({ "connection": connection(self.port, &self.database) });
        for (name, value) in settings.as_object().unwrap() {
            config[name] = value.clone();
        }
        PostgresSink::validate(serde_json::from_value(config).unwrap()).unwrap()
    }

    pub(crate) async fn start(&self, settings: Value) -> PostgresSinkTask {
        self.start_in_log(settings, "log-1").await.unwrap()
    }

    pub(crate) async fn start_in_log(
        &self,
        settings: Value,
        log: &str,
    ) -> Result<PostgresSinkTask, ConnectorError> {
        let cx = TaskContext {
            connector: "warehouse".to_owned(),
            task: 0,
            gauges: Gauges::default(),
            log_id: log.to_owned(),
            start: StartReason::Connector,
        };
        PostgresSink::start(self.plan(settings), cx).await
    }

    /// A started task that has opened the partition.
    pub(crate) async fn open(&self, settings: Value, partition: &TopicPartition) -> PostgresSinkTask {
        let mut task = self.start(settings).await;
        task.open(std::slice::from_ref(partition)).await.unwrap();
        task
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        script(&["15", "client", "psql", "-qc", &sql]);
    }
}

pub(crate) async fn deliver(
    task: &mut PostgresSinkTask,
    records: Vec<SinkRecord>,
) -> Result<Flushed, ConnectorError> {
    assert!(task.put(records).await?.is_empty());
    task.flush().await
}

/// Delivers what must go through whole.
pub(crate) async fn done(task: &mut PostgresSinkTask, records: Vec<SinkRecord>) -> Flushed {
    let flushed = deliver(task, records).await.unwrap();
    assert_eq!(flushed.refused, []);
    assert_eq!(task.pending_bytes(), 0);
    flushed
}
