//! What the source's tests share: a database of their own on a real server, and a drain that plays the topic log.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod load;

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rowstream_api::{
    Change, ChangeView, Class, ConnectorError, Gauges, Op, RowView, SourceBatch, SourceConnector,
    SourceOffsets, SourceTask, StartReason, TableSchema, TaskContext, ValueRef,
    snapshot::{Report, SnapshotAction, SnapshotRequest},
};
use rowstream_postgres::{
    connection::Connection,
    source::{PostgresSource, PostgresSourceTask},
    source_config::{SourceConfig, SourcePlan},
};

pub const PATIENCE: Duration = Duration::from_secs(60);

fn server_port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/postgres.sh");
        let version = std::env::var_os("ROWSTREAM_TEST_POSTGRES").unwrap_or_else(|| "15".into());
        let out = Command::new("sh").arg(script).arg(version).arg("up").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let url = String::from_utf8(out.stdout).unwrap();
        url.trim().rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap()
    })
}

/// A database with a name of its own. Call [`Database::remove`] at the end of the test.
pub struct Database {
    pub name: String,
    pub sql: Connection,
}

pub fn plan_with(database: &str, extra: serde_json::Value) -> SourcePlan {
    let mut config = serde_json::json!({
        "connection": {
            "host": "127.0.0.1", "port": server_port(), "database": database, "user": "postgres",
            "tls": { "mode": "disable" }
        },
        "topic_prefix": "shop",
        "tables": { "include": ["*.*"] },
        "slot_name": format!("{database}_slot"),
        "snapshot": { "mode": "never" }
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let config: SourceConfig = serde_json::from_value(config).unwrap();
    PostgresSource::validate(config).unwrap()
}

impl Database {
    pub async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rs_src_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let admin = plan_with("postgres", serde_json::json!({})).connection.connect().await.unwrap();
        admin.client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let sql = plan_with(&name, serde_json::json!({})).connection.connect().await.unwrap();
        Self { name, sql }
    }

    pub fn plan(&self, extra: serde_json::Value) -> SourcePlan {
        plan_with(&self.name, extra)
    }

    pub async fn run(&self, sql: &str) {
        self.sql.client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.sql.client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
    }

    /// Another connection to it.
    pub async fn connect(&self) -> Connection {
        self.plan(serde_json::json!({})).connection.connect().await.unwrap()
    }

    /// Drops the slot, once nobody uses it, and the database.
    pub async fn remove(self) {
        let drop_slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                           WHERE database = current_database() AND NOT active";
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database() AND active").await;
            self.sql.client.batch_execute(drop_slots).await.ok();
            let left: i64 = self
                .one("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()")
                .await;
            if left == 0 || tokio::time::Instant::now() > deadline {
                break;
            }
        }
        let admin = plan_with("postgres", serde_json::json!({})).connection.connect().await.unwrap();
        admin
            .client
            .batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))
            .await
            .unwrap();
    }
}

/// A change, owned and printed.
#[derive(Debug, Clone)]
pub struct Event {
    pub op: Op,
    pub rekey: bool,
    pub topic: String,
    pub key: Option<Vec<String>>,
    pub old_key: Option<Vec<String>>,
    pub before: Option<Vec<String>>,
    pub after: Option<Vec<String>>,
    pub snapshot: String,
    pub lsn: i64,
    pub xid: Option<i64>,
    pub table: std::sync::Arc<TableSchema>,
}

pub fn text(value: &ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".into(),
        ValueRef::Unavailable => "UNAVAILABLE".into(),
        ValueRef::Absent => "ABSENT".into(),
        ValueRef::Bool(b) => b.to_string(),
        ValueRef::Int(n) | ValueRef::ZonedMicros(n) => n.to_string(),
        ValueRef::Float32(f) => f.to_string(),
        ValueRef::Float64(f) => f.to_string(),
        ValueRef::Str(s) | ValueRef::Decimal(s) => s.to_string(),
        ValueRef::Bytes(b) => format!("{b:?}"),
        ValueRef::Hex(h) => format!("x{h}"),
        ValueRef::Array(items) | ValueRef::Struct(items) => {
            format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(","))
        }
        ValueRef::Map(_) => "map".into(),
    }
}

fn row(row: &dyn RowView) -> Vec<String> {
    (0..row.schema().fields().len()).map(|i| text(&row.column(i).unwrap())).collect()
}

fn event(view: &ChangeView<'_>) -> Event {
    let (before, after, rekey) = match view.change {
        Change::Create { after } | Change::Read { after } => (None, Some(row(after)), false),
        Change::Update { before, after } => (before.map(row), Some(row(after)), false),
        Change::Rekey { before, after } => (Some(row(before)), Some(row(after)), true),
        Change::Delete { before } => (Some(row(before)), None, false),
        Change::Truncate => (None, None, false),
        Change::Message { value } => (None, Some(row(value)), false),
    };
    let key_of =
        |row: &Vec<String>| view.table.key_columns.iter().map(|i| row[*i].clone()).collect::<Vec<_>>();
    let key = after.as_ref().or(before.as_ref()).filter(|_| view.table.key.is_some()).map(key_of);
    Event {
        op: view.change.op(),
        rekey,
        topic: view.table.topic.to_string(),
        key,
        old_key: before.as_ref().filter(|_| rekey).map(key_of),
        before,
        after,
        snapshot: text(&view.source[4]),
        lsn: view.source[12].as_int().unwrap(),
        xid: view.source[11].as_int(),
        table: std::sync::Arc::clone(view.table),
    }
}

pub fn events(batch: &SourceBatch) -> Vec<Event> {
    let mut events = Vec::new();
    batch
        .changes
        .visit(&mut |view| {
            events.push(event(&view));
            Ok(())
        })
        .unwrap();
    assert_eq!(events.len(), batch.changes.len());
    events
}

pub fn context() -> TaskContext {
    TaskContext {
        connector: "test".into(),
        task: 0,
        gauges: Gauges::default(),
        log_id: "log".into(),
        start: StartReason::Connector,
    }
}

/// Plays the topic log: records and offsets become durable together.
pub struct Drain {
    pub plan: SourcePlan,
    pub task: Option<PostgresSourceTask>,
    pub stored: SourceOffsets,
    pub events: Vec<Event>,
    pub cx: TaskContext,
}

impl Drain {
    pub async fn start(plan: SourcePlan) -> Self {
        let mut drain =
            Self { plan, task: None, stored: SourceOffsets::new(), events: Vec::new(), cx: context() };
        drain.restart().await;
        // The first position is stored before anything else, as the worker does.
        drain.step().await.unwrap();
        drain
    }

    /// Drops the task without a farewell, as a crash would, and starts from what is stored.
    pub async fn restart(&mut self) {
        self.task = None;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        self.task = Some(loop {
            match PostgresSource::start(self.plan.clone(), self.stored.clone(), self.cx.clone()).await {
                Ok(task) => break task,
                Err(error) => {
                    assert_eq!(error.class, Class::Transient, "{error:?}");
                    assert!(tokio::time::Instant::now() < deadline, "{error:?}");
                }
            }
        });
    }

    pub async fn poll(&mut self) -> Result<SourceBatch, ConnectorError> {
        let task = self.task.as_mut().unwrap();
        tokio::time::timeout(PATIENCE, task.poll()).await.expect("a batch in time")
    }

    /// Polls, stores, commits.
    pub async fn step(&mut self) -> Result<usize, ConnectorError> {
        let batch = self.poll().await?;
        let events = events(&batch);
        let n = events.len();
        self.events.extend(events);
        self.stored = batch.offsets;
        self.task.as_mut().unwrap().committed(&self.stored).await?;
        Ok(n)
    }

    /// Asks something of the snapshot, and stores that it was asked.
    pub async fn ask(&mut self, id: &str, action: SnapshotAction) {
        let request = SnapshotRequest { id: id.to_owned(), asked_at_ms: 0, action };
        self.task.as_mut().unwrap().snapshot(&request).await.unwrap();
        self.step().await.unwrap();
    }

    /// Asks for a table.
    pub async fn ask_for(&mut self, id: &str, table: &str, condition: Option<&str>) {
        let tables = vec![table.to_owned()];
        self.ask(id, SnapshotAction::Start { tables, condition: condition.map(str::to_owned) }).await;
    }

    /// What is stored of the snapshot.
    pub fn report(&self) -> Report {
        PostgresSource::snapshot(&self.plan, &self.stored).unwrap().unwrap()
    }

    pub async fn until(&mut self, mut enough: impl FnMut(&[Event]) -> bool) {
        while !enough(&self.events) {
            self.step().await.unwrap();
        }
    }

    pub async fn until_count(&mut self, n: usize) {
        self.until(|events| events.len() >= n).await;
    }

    pub fn lsn(&self) -> u64 {
        self.stored.values().next().unwrap().0["lsn"].as_u64().unwrap()
    }

    pub fn offset(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.stored.values().next().unwrap().0
    }

    /// `op key before after` of each event, for comparisons.
    pub fn lines(&self) -> Vec<String> {
        self.events.iter().map(line).collect()
    }
}

pub fn table_of_topic(e: &Event) -> &str {
    e.topic.rsplit('.').next().unwrap()
}

pub fn line(e: &Event) -> String {
    let table = e.topic.rsplit('.').next().unwrap();
    let side = |row: &Option<Vec<String>>| row.as_ref().map_or("-".to_owned(), |r| r.join("|"));
    let op = if e.rekey { "rekey" } else { e.op.letter() };
    format!("{table} {op} {} > {}", side(&e.before), side(&e.after))
}
