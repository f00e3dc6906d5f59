//! Databases of the test's own on each server, and tasks that write to them.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mysql_async::{Conn, prelude::Queryable};
use rowstream_api::{
    ConfigErrors, ConnectorError, Flushed, Gauges, SinkConnector, SinkRecord, SinkTask, StartReason,
    TaskContext, TopicPartition,
};
use rowstream_mysql::{
    connection::{ConnectionConfig, Purpose},
    ident::QuotedIdent,
    sink::{MySqlSink, MySqlSinkTask},
};
use serde_json::{Value, json};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Two databases, for rows and for offsets; dropped with it.
pub(crate) struct Target {
    pub(crate) server: &'static Server,
    pub(crate) database: String,
    pub(crate) db: Conn,
}

/// A running server.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) mariadb: bool,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn up(variable: &str, name: &str) -> Server {
    let name = std::env::var_os(variable).map_or(name.to_owned(), |name| name.into_string().unwrap());
    let run = Command::new("sh")
        .args(["tests/services/mysql.sh", &name, "up"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let url = String::from_utf8(run.stdout).unwrap();
    let port = url.trim().trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    Server { mariadb: name.starts_with("mariadb"), name, port }
}

pub(crate) fn servers() -> &'static [Server; 2] {
    static SERVERS: OnceLock<[Server; 2]> = OnceLock::new();
    SERVERS.get_or_init(|| {
        [up("ROWSTREAM_TEST_MYSQL", "mysql-9.7"), up("ROWSTREAM_TEST_MARIADB", "mariadb-11.8")]
    })
}

/// Runs a test on both servers; a failure names the one.
pub(crate) async fn on_both(test: impl AsyncFn(Target)) {
    for server in servers() {
        eprintln!("on {}", server.name);
        test(Target::new(server).await).await;
    }
}

fn connection(server: &Server, database: &str) -> Value {
    json!({ "host": "127.0.0.1", "port": server.port, "database": database, "user": "root", "tls": { "mode": "disable" } })
}

async fn connect(server: &Server, database: &str) -> Conn {
    let config: ConnectionConfig = serde_json::from_value(connection(server, database)).unwrap();
    let plan = config.plan(&mut ConfigErrors::default()).unwrap();
    plan.connect(Purpose::Write).await.unwrap().conn
}

impl Target {
    async fn new(server: &'static Server) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let database = format!("rowstream_sink_{}_{number}", std::process::id());
        let mut admin = connect(server, "").await;
        admin.query_drop(format!("CREATE DATABASE {database} CHARACTER SET utf8mb4")).await.unwrap();
        let mut db = connect(server, &database).await;
        db.query_drop("SET SESSION time_zone = '+00:00'").await.unwrap();
        Self { server, database, db }
    }

    pub(crate) async fn another_connection(&self) -> Conn {
        connect(self.server, &self.database).await
    }

    /// The database of the offset tables.
    pub(crate) fn offsets(&self) -> String {
        format!("o{}", self.database)
    }

    pub(crate) async fn sql(&mut self, sql: &str) {
        self.db.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Rows of a query that answers one text column.
    pub(crate) async fn texts(&mut self, sql: &str) -> Vec<String> {
        let rows: Vec<Option<Vec<u8>>> = self.db.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let text = |row: Option<Vec<u8>>| {
            row.map_or_else(|| "NULL".to_owned(), |bytes| String::from_utf8(bytes).unwrap())
        };
        rows.into_iter().map(text).collect()
    }

    pub(crate) async fn text(&mut self, sql: &str) -> String {
        self.texts(sql).await.join(";")
    }

    /// A table's rows, NULL as nothing, in order of their text.
    pub(crate) async fn rows(&mut self, table: &str) -> String {
        let sql = format!(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = '{}' AND table_name = '{table}' \
             ORDER BY ordinal_position",
            self.database
        );
        let columns = self.texts(&sql).await;
        let columns: Vec<String> =
            columns.iter().map(|c| format!("COALESCE(CAST({} AS CHAR), '')", QuotedIdent::new(c))).collect();
        let row = format!("CONCAT('(', CONCAT_WS(',', {}), ')')", columns.join(", "));
        let mut rows = self.texts(&format!("SELECT {row} FROM {}", QuotedIdent::new(table))).await;
        rows.sort();
        rows.join(";")
    }

    pub(crate) fn connection(&self) -> Value {
        connection(self.server, &self.database)
    }

    pub(crate) fn plan(&self, settings: Value) -> <MySqlSink as SinkConnector>::Plan {
        let mut config = json!({ "connection": self.connection(), "offsets_database": self.offsets() });
        for (name, value) in settings.as_object().unwrap() {
            config[name] = value.clone();
        }
        MySqlSink::validate(serde_json::from_value(config).unwrap()).unwrap()
    }

    pub(crate) async fn start(&self, settings: Value) -> MySqlSinkTask {
        self.start_in_log(settings, "log-1").await.unwrap()
    }

    pub(crate) async fn start_in_log(
        &self,
        settings: Value,
        log: &str,
    ) -> Result<MySqlSinkTask, ConnectorError> {
        let cx = TaskContext {
            connector: "ware'house".to_owned(),
            task: 0,
            gauges: Gauges::default(),
            log_id: log.to_owned(),
            start: StartReason::Connector,
        };
        MySqlSink::start(self.plan(settings), cx).await
    }

    /// A started task that has opened the partition.
    pub(crate) async fn open(&self, settings: Value, partition: &TopicPartition) -> MySqlSinkTask {
        let mut task = self.start(settings).await;
        task.open(std::slice::from_ref(partition)).await.unwrap();
        task
    }

    /// Waits until a session of this test that is not `self` runs a statement like this, and answers with its id.
    pub(crate) async fn session(&mut self, statement: &str) -> String {
        let sql = format!(
            "SELECT CAST(id AS CHAR) FROM information_schema.processlist WHERE id <> CONNECTION_ID()
             AND (db = '{0}' OR info LIKE '%{0}%') AND info LIKE '{statement}'",
            self.database
        );
        let found = async {
            loop {
                if let Some(id) = self.texts(&sql).await.into_iter().next() {
                    return id;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("no session came to run it")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let program = if self.server.mariadb { "mariadb" } else { "mysql" };
        let sql =
            format!("DROP DATABASE IF EXISTS {}; DROP DATABASE IF EXISTS {}", self.database, self.offsets());
        let dropped = Command::new("sh")
            .args(["tests/services/mysql.sh", &self.server.name, "client", program, "-e", &sql])
            .current_dir(root())
            .output();
        if !std::thread::panicking() {
            let dropped = dropped.unwrap();
            assert!(dropped.status.success(), "{}", String::from_utf8_lossy(&dropped.stderr));
        }
    }
}

pub(crate) async fn deliver(
    task: &mut MySqlSinkTask,
    records: Vec<SinkRecord>,
) -> Result<Flushed, ConnectorError> {
    assert!(task.put(records).await?.is_empty());
    task.flush().await
}

/// Delivers what must go through whole.
pub(crate) async fn done(task: &mut MySqlSinkTask, records: Vec<SinkRecord>) -> Flushed {
    let flushed = deliver(task, records).await.unwrap();
    assert_eq!(flushed.refused, []);
    assert_eq!(task.pending_bytes(), 0);
    flushed
}
