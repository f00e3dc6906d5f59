//! Servers and databases of the tests. A database has a name of its own and takes its slots with it when it goes.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::SinkExt;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::runtime;

/// `tests/services/postgres.sh`.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/postgres.sh")
}

/// The port in what the script prints.
pub fn port_of(url: &str) -> u16 {
    url.trim().rsplit(':').next().and_then(|r| r.split('/').next()).and_then(|p| p.parse().ok()).unwrap()
}

/// The shared server; `ROWSTREAM_TEST_POSTGRES` chooses its version.
pub fn server() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let version = std::env::var_os("ROWSTREAM_TEST_POSTGRES").unwrap_or_else(|| "15".into());
        let out = Command::new("sh").arg(script()).arg(version).arg("up").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        port_of(&String::from_utf8_lossy(&out.stdout))
    })
}

/// One connection. Statements of one connection must not overlap, so a thread has its own.
pub struct Sql {
    client: Client,
}

impl Sql {
    pub fn connect(port: u16, database: &str) -> Self {
        let config =
            format!("host=127.0.0.1 port={port} user=postgres dbname={database} options='-c timezone=UTC'");
        let client = runtime().block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&config, NoTls).await.unwrap_or_else(|e| panic!("{database}: {e:?}"));
            runtime().spawn(async move {
                // Ends with the client, or with the server, whose users see their own errors.
                let _ended = connection.await;
            });
            client
        });
        Self { client }
    }

    pub fn run(&self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    pub fn try_run(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        runtime().block_on(self.client.batch_execute(sql))
    }

    /// All rows, each column as text.
    pub fn rows(&self, sql: &str) -> Vec<Row> {
        let messages =
            runtime().block_on(self.client.simple_query(sql)).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let row = |m: SimpleQueryMessage| match m {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(ToOwned::to_owned)).collect())
            }
            SimpleQueryMessage::CommandComplete(_) | SimpleQueryMessage::RowDescription(_) | _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    /// The first column of the first row.
    pub fn one(&self, sql: &str) -> Option<String> {
        self.rows(sql).into_iter().next().and_then(|mut r| r.swap_remove(0))
    }

    pub fn number(&self, sql: &str) -> i64 {
        let text = self.one(sql).unwrap_or_else(|| panic!("no row or null: {sql}"));
        text.parse().unwrap_or_else(|e| panic!("{sql} gave {text}: {e}"))
    }

    /// `COPY … FROM STDIN` with these lines.
    pub fn copy_in(&self, sql: &str, lines: &str) -> Result<u64, tokio_postgres::Error> {
        runtime().block_on(async {
            let sink = self.client.copy_in(sql).await?;
            futures::pin_mut!(sink);
            sink.send(bytes::Bytes::copy_from_slice(lines.as_bytes())).await?;
            sink.finish().await
        })
    }
}

/// One row, each column as text.
pub type Row = Vec<Option<String>>;

/// A target whose rows can be compared with those of a source in PostgreSQL.
pub trait Rows {
    /// How the source selects a column to get the text that the target has.
    fn in_source(&self, column: &str) -> String;
    /// All rows; `None` while there is no such table.
    fn rows_of(&self, table: &str, columns: &[&str]) -> Option<Vec<Row>>;
}

impl Rows for Database {
    fn in_source(&self, column: &str) -> String {
        column.to_owned()
    }

    fn rows_of(&self, table: &str, columns: &[&str]) -> Option<Vec<Row>> {
        self.sql.one(&format!("SELECT to_regclass('public.{table}')"))?;
        Some(self.sql.rows(&format!("SELECT {} FROM {table}", columns.join(", "))))
    }
}

/// A database of one test.
pub struct Database {
    pub name: String,
    pub port: u16,
    pub sql: Sql,
}

impl Database {
    /// On the shared server.
    pub fn new(purpose: &str) -> Self {
        Self::on(server(), purpose)
    }

    pub fn on(port: u16, purpose: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e_{purpose}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        Sql::connect(port, "postgres").run(&format!("CREATE DATABASE {name}"));
        Self { sql: Sql::connect(port, &name), name, port }
    }

    /// Another connection.
    pub fn connect(&self) -> Sql {
        Sql::connect(self.port, &self.name)
    }

    /// The slot that a source of this database uses.
    pub fn slot(&self) -> String {
        format!("{}_slot", self.name)
    }

    /// Makes the publication and the slot ahead of the daemon, so that a test knows which changes lie before the slot. The source
    /// takes them as they are.
    pub fn make_slot(&self) {
        let slot = self.slot();
        self.sql.run(&format!("CREATE PUBLICATION {slot} FOR TABLE customers, orders, visits"));
        self.sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    }

    /// Position that the slot is confirmed up to; `None` while there is no slot.
    pub fn confirmed(&self, sql: &Sql) -> Option<u64> {
        sql.one(&format!(
            "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot()
        ))
        .map(|lsn| lsn.parse().unwrap())
    }

    /// Ends whoever reads the slot and drops it.
    pub fn drop_slot(&self, admin: &Sql) {
        let slot = self.slot();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let active = format!(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
            );
            let drop = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
            );
            if admin.try_run(&active).and_then(|()| admin.try_run(&drop)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("slot {slot} can't be dropped");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Leaves nothing that holds WAL, and does not panic twice: what can't be dropped here stays.
            let name = &self.name;
            let slots = format!(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{name}' AND active"
            );
            let _best_effort = self.sql.try_run(&slots);
            let drop = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}' AND NOT active"
            );
            let _best_effort = self.sql.try_run(&drop);
            return;
        }
        let admin = Sql::connect(self.port, "postgres");
        self.drop_slot(&admin);
        admin.run(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

/// A server of one test, with its own settings: the unpacked tree of the shared one, in a directory of its own.
pub struct PrivateServer {
    pub port: u16,
    directory: tempfile::TempDir,
}

impl PrivateServer {
    pub fn start(options: &[&str]) -> Self {
        server(); // Its tree is unpacked once it is up.
        let shared = std::env::var_os("ROWSTREAM_SERVICES").map_or_else(
            || {
                let id = Command::new("id").arg("-u").output().unwrap();
                PathBuf::from(format!(
                    "/var/tmp/rowstream-services-{}",
                    String::from_utf8_lossy(&id.stdout).trim()
                ))
            },
            PathBuf::from,
        );
        let directory = tempfile::Builder::new().prefix("rowstream-pg-").tempdir_in("/var/tmp").unwrap();
        // The server runs as nobody when the tests run as root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        std::os::unix::fs::symlink(shared.join("postgres-15"), directory.path().join("postgres-15")).unwrap();
        let url = Self::script_in(&directory, "up", options);
        Self { port: port_of(&url), directory }
    }

    fn script_in(directory: &tempfile::TempDir, action: &str, options: &[&str]) -> String {
        let out = Command::new("sh")
            .arg(script())
            .args(["15", action])
            .args(options)
            .env("ROWSTREAM_SERVICES", directory.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let _best_effort = Command::new("sh")
            .arg(script())
            .args(["15", "wipe"])
            .env("ROWSTREAM_SERVICES", self.directory.path())
            .output();
    }
}
