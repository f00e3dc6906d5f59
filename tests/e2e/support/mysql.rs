//! MySQL and MariaDB as targets: a database of one test on each of the shared servers.

use std::{
    path::Path,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};

use super::{
    postgres::{Row, Rows, port_of},
    runtime,
};

/// The shared servers: `mysql-9.7` and `mariadb-11.8` unless the environment says otherwise.
pub fn servers() -> [(&'static str, u16); 2] {
    static PORTS: OnceLock<[u16; 2]> = OnceLock::new();
    let [mysql, mariadb] = *PORTS.get_or_init(|| {
        [("ROWSTREAM_TEST_MYSQL", "mysql-9.7"), ("ROWSTREAM_TEST_MARIADB", "mariadb-11.8")].map(
            |(variable, name)| {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/mysql.sh");
                let name = std::env::var_os(variable).unwrap_or_else(|| name.into());
                let out = Command::new("sh").arg(script).arg(name).arg("up").output().unwrap();
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
                port_of(&String::from_utf8_lossy(&out.stdout))
            },
        )
    });
    [("mysql", mysql), ("mariadb", mariadb)]
}

/// A database of one test, and beside it one for the offsets.
pub struct MySqlDatabase {
    pub name: String,
    pub port: u16,
}

impl MySqlDatabase {
    pub fn on(port: u16, purpose: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e_{purpose}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let database = Self { name, port };
        database.run("", &format!("CREATE DATABASE {} CHARACTER SET utf8mb4", database.name));
        database
    }

    /// The database of the offset tables.
    pub fn offsets(&self) -> String {
        format!("o{}", self.name)
    }

    fn query(&self, database: &str, sql: &str) -> Vec<Vec<Option<Vec<u8>>>> {
        let options =
            OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port).user(Some("root"));
        let options = options.db_name((!database.is_empty()).then_some(database)).prefer_socket(false);
        runtime().block_on(async {
            let mut conn = Conn::new(options).await.unwrap_or_else(|e| panic!("{database}: {e}"));
            let rows: Vec<mysql_async::Row> = conn.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            conn.disconnect().await.unwrap();
            let columns =
                |row: mysql_async::Row| row.unwrap().into_iter().map(mysql_async::from_value).collect();
            rows.into_iter().map(columns).collect()
        })
    }

    pub fn run(&self, database: &str, sql: &str) {
        self.query(database, sql);
    }

    /// All rows of a query, each column as text.
    pub fn texts(&self, sql: &str) -> Vec<Row> {
        let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8(bytes).unwrap());
        self.query(&self.name, sql).into_iter().map(|row| row.into_iter().map(text).collect()).collect()
    }
}

impl Rows for MySqlDatabase {
    /// The text of two types differs between the servers.
    fn in_source(&self, column: &str) -> String {
        match column {
            "vip" => "vip::int".to_owned(),
            "at" => "to_char(at, 'YYYY-MM-DD HH24:MI:SS.US')".to_owned(),
            other => other.to_owned(),
        }
    }

    fn rows_of(&self, table: &str, columns: &[&str]) -> Option<Vec<Row>> {
        let exists = format!(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = '{}' AND table_name = '{table}'",
            self.name
        );
        if self.query("", &exists).is_empty() {
            return None;
        }
        let columns: Vec<String> = columns.iter().map(|column| format!("`{column}`")).collect();
        Some(self.texts(&format!("SELECT {} FROM {table}", columns.join(", "))))
    }
}

impl Drop for MySqlDatabase {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.run("", &format!("DROP DATABASE IF EXISTS {}", self.name));
            self.run("", &format!("DROP DATABASE IF EXISTS {}", self.offsets()));
        }
    }
}
