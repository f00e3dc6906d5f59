//! What the source's tests share: a database of their own on a real server, and a drain that plays the topic log.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mysql_async::{Conn, prelude::Queryable};
use rowstream_api::{
    Change, ChangeView, Class, ConnectorError, Gauges, Op, RowView, SourceBatch, SourceConnector,
    SourceOffsets, SourceTask, StartReason, TableSchema, TaskContext, ValueRef,
    snapshot::{Report, SnapshotAction, SnapshotRequest},
};
use rowstream_mysql::{
    connection::Purpose,
    source::{BinlogSourceTask, MariaDbSource, MySqlSource},
    source_config::{SourceConfig, SourcePlan},
};

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const MYSQL: &str = "mysql-9.7";
pub const MARIADB: &str = "mariadb-11.8";

/// The port of a server, which is brought up when it is not. `options` only count for a server of the test's own.
pub fn port(server: &str, options: &[&str]) -> u16 {
    static PORTS: Mutex<Option<HashMap<String, u16>>> = Mutex::new(None);
    let mut ports = PORTS.lock().unwrap();
    let ports = ports.get_or_insert_with(HashMap::new);
    *ports.entry(server.to_owned()).or_insert_with(|| {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/mysql.sh");
        let out = Command::new("sh").arg(script).arg(server).arg("up").args(options).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let url = String::from_utf8(out.stdout).unwrap();
        url.trim().rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap()
    })
}

/// A server of this test process alone, new; [`wipe`] it at the end.
pub fn fresh(server: &str, options: &[&str]) -> (String, u16) {
    let name = format!("{server}{}", std::process::id());
    let port = port(&name, options);
    (name, port)
}

/// Stops a server and deletes its data.
pub fn wipe(server: &str) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/mysql.sh");
    assert!(Command::new("sh").arg(script).arg(server).arg("wipe").status().unwrap().success());
}

/// A database with a name of its own. Call [`Database::remove`] at the end of the test.
pub struct Database {
    pub server: String,
    pub port: u16,
    pub name: String,
    pub sql: Conn,
}

fn next_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::process::id() % 100_000 * 1000 + NEXT.fetch_add(1, Ordering::SeqCst)
}

pub fn plan_with(server: &str, port: u16, database: &str, extra: serde_json::Value) -> SourcePlan {
    let mut config = serde_json::json!({
        "connection": { "host": "127.0.0.1", "port": port, "user": "root", "tls": { "mode": "disable" } },
        "topic_prefix": "shop",
        "tables": { "include": [format!("{database}.*")] },
        "server_id": next_id() + 1000,
        "include_schema_changes": false,
        "snapshot": { "mode": "never" }
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let config: SourceConfig = serde_json::from_value(config).unwrap();
    if server.starts_with("mysql") { MySqlSource::validate(config) } else { MariaDbSource::validate(config) }
        .unwrap()
}

impl Database {
    pub async fn new(server: &str) -> Self {
        Self::on(server, port(server, &[])).await
    }

    pub async fn on(server: &str, port: u16) -> Self {
        let name = format!("rs_src_{}_{}", std::process::id(), next_id() % 1000);
        let plan = plan_with(server, port, &name, serde_json::json!({}));
        let mut sql = plan.connection.connect(Purpose::Write).await.unwrap().conn;
        sql.query_drop(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await.unwrap();
        sql.query_drop(format!("USE {name}")).await.unwrap();
        Self { server: server.to_owned(), port, name, sql }
    }

    /// A server, without a database of the test's own.
    pub async fn none(server: &str, port: u16) -> Self {
        let plan = plan_with(server, port, "none", serde_json::json!({}));
        let sql = plan.connection.connect(Purpose::Read).await.unwrap().conn;
        Self { server: server.to_owned(), port, name: String::new(), sql }
    }

    pub fn is_mariadb(&self) -> bool {
        self.server.starts_with("mariadb")
    }

    pub fn plan(&self, extra: serde_json::Value) -> SourcePlan {
        plan_with(&self.server, self.port, &self.name, extra)
    }

    /// Runs statements, one after the other, separated by `;` at a line's or the text's end.
    pub async fn run(&mut self, sql: &str) {
        for statement in sql.split(";\n").map(|s| s.trim().trim_end_matches(';')).filter(|s| !s.is_empty()) {
            self.sql.query_drop(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        }
    }

    pub async fn one<T: mysql_async::prelude::FromValue + Send + 'static>(&mut self, sql: &str) -> T {
        self.sql.query_first(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).unwrap()
    }

    /// Another connection to it.
    pub async fn connect(&self) -> Conn {
        let mut conn =
            self.plan(serde_json::json!({})).connection.connect(Purpose::Write).await.unwrap().conn;
        conn.query_drop(format!("USE {}", self.name)).await.unwrap();
        conn
    }

    pub async fn remove(mut self) {
        let name = self.name.clone();
        self.run(&format!("DROP DATABASE {name}")).await;
    }
}

/// A change, owned and printed.
#[derive(Debug, Clone)]
pub struct Event {
    pub op: Op,
    pub rekey: bool,
    pub topic: String,
    pub key: Option<Vec<String>>,
    pub before: Option<Vec<String>>,
    pub after: Option<Vec<String>>,
    pub snapshot: String,
    pub gtid: Option<String>,
    pub table: Arc<TableSchema>,
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
        ValueRef::Bytes(b) => b.iter().map(|b| format!("{b:02x}")).collect::<String>(),
        ValueRef::Hex(h) => (*h).into(),
        ValueRef::Array(items) | ValueRef::Struct(items) => {
            format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(","))
        }
        ValueRef::Map(_) => "map".into(),
    }
}

fn row(row: &dyn RowView) -> Vec<String> {
    let fields = row.schema().fields();
    (0..fields.len()).map(|i| text(&row.column(i).unwrap_or_else(|e| panic!("{e}")))).collect()
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
    assert_eq!(view.source.len(), 17);
    let key_of =
        |row: &Vec<String>| view.table.key_columns.iter().map(|i| row[*i].clone()).collect::<Vec<_>>();
    let key = after.as_ref().or(before.as_ref()).filter(|_| view.table.key.is_some()).map(key_of);
    Event {
        op: view.change.op(),
        rekey,
        topic: view.table.topic.to_string(),
        key,
        before,
        after,
        snapshot: text(&view.source[4]),
        gtid: view.source[11].as_str().map(str::to_owned),
        table: Arc::clone(view.table),
    }
}

pub fn events(batch: &SourceBatch) -> Vec<Event> {
    let mut events = Vec::new();
    let visited = batch.changes.visit(&mut |view| {
        events.push(event(&view));
        Ok(())
    });
    visited.unwrap();
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

pub async fn start(plan: &SourcePlan, stored: &SourceOffsets) -> Result<BinlogSourceTask, ConnectorError> {
    MySqlSource::start(plan.clone(), stored.clone(), context()).await
}

/// Plays the topic log: records and offsets become durable together.
pub struct Drain {
    pub plan: SourcePlan,
    pub task: Option<Box<BinlogSourceTask>>,
    pub stored: SourceOffsets,
    pub events: Vec<Event>,
    /// Every stored position, with the number of events before it.
    pub history: Vec<(usize, SourceOffsets)>,
    pub cx: TaskContext,
}

impl Drain {
    pub async fn start(plan: SourcePlan) -> Self {
        let mut drain = Self::resume(plan, SourceOffsets::new()).await;
        // The first position is stored before anything else, as the worker does.
        drain.step().await.unwrap();
        drain
    }

    pub async fn resume(plan: SourcePlan, stored: SourceOffsets) -> Self {
        let mut drain =
            Self { plan, task: None, stored, events: Vec::new(), history: Vec::new(), cx: context() };
        drain.restart().await;
        drain
    }

    /// Drops the task without a farewell, as a crash would, and starts from what is stored.
    pub async fn restart(&mut self) {
        self.task = None;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        self.task = Some(loop {
            match MySqlSource::start(self.plan.clone(), self.stored.clone(), self.cx.clone()).await {
                Ok(task) => break Box::new(task),
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
        self.history.push((self.events.len(), self.stored.clone()));
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
        MySqlSource::snapshot(&self.plan, &self.stored).unwrap().unwrap()
    }

    pub async fn until(&mut self, mut enough: impl FnMut(&[Event]) -> bool) {
        while !enough(&self.events) {
            self.step().await.unwrap();
        }
    }

    pub async fn until_count(&mut self, n: usize) {
        self.until(|events| events.len() >= n).await;
    }

    pub fn offset(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.stored.values().next().unwrap().0
    }

    /// `op key before after` of each event, for comparisons.
    pub fn lines(&self) -> Vec<String> {
        self.events.iter().map(line).collect()
    }
}

pub fn line(e: &Event) -> String {
    let table = e.topic.rsplit('.').next().unwrap();
    let side = |row: &Option<Vec<String>>| row.as_ref().map_or("-".to_owned(), |r| r.join("|"));
    let op = if e.rekey { "rekey" } else { e.op.letter() };
    format!("{table} {op} {} > {}", side(&e.before), side(&e.after))
}

impl Database {
    pub async fn one_row(&mut self, sql: &str) -> mysql_async::Row {
        self.sql.query_first(sql).await.unwrap().unwrap()
    }
}
