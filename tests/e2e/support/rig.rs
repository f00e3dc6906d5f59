//! The usual set: a source database, a target database, a receiver, and the connectors between them.

use serde_json::{Value, json};

use super::{daemon::Daemon, mysql::MySqlDatabase, postgres::Database, receiver::Receiver};

/// A secret of Standard Webhooks: `whsec_` and 32 bytes.
pub const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// The `connection` block of a test database.
pub fn connection(database: &Database) -> Value {
    json!({
        "host": "127.0.0.1", "port": database.port, "database": database.name, "user": "postgres",
        "tls": { "mode": "disable" }
    })
}

/// A source `shop` of all tables in `public`; `extra` is laid over its config.
pub fn source(database: &Database, extra: Value) -> Value {
    let config = json!({
        "connection": connection(database),
        "topic_prefix": "shop",
        "tables": { "include": ["public.*"] },
        "slot_name": database.slot(),
        "publication_name": database.slot(),
    });
    json!({
        "name": "shop", "connector": "postgres-source", "config": overlaid(config, extra),
        "restart": { "backoff_initial": "50ms", "backoff_max": "500ms" }
    })
}

/// A sink `warehouse` of all topics.
pub fn sink(database: &Database, extra: Value) -> Value {
    let config = json!({ "connection": connection(database), "write_mode": "upsert" });
    json!({
        "name": "warehouse", "connector": "postgres-sink", "topics": ["shop.*"], "config": overlaid(config, extra),
        "restart": { "backoff_initial": "50ms", "backoff_max": "500ms" }
    })
}

/// A sink of all topics into MySQL or MariaDB, which has this name.
pub fn mysql_sink(name: &str, database: &MySqlDatabase, extra: Value) -> Value {
    let config = json!({
        "connection": {
            "host": "127.0.0.1", "port": database.port, "database": database.name, "user": "root",
            "tls": { "mode": "disable" }
        },
        "offsets_database": database.offsets(),
        "write_mode": "upsert",
    });
    json!({
        "name": name, "connector": "mysql-sink", "topics": ["shop.*"], "config": overlaid(config, extra),
        "restart": { "backoff_initial": "50ms", "backoff_max": "500ms" }
    })
}

/// A webhook `hooks` of all topics.
pub fn webhook(receiver: &Receiver, extra: Value) -> Value {
    let config = json!({
        "url": receiver.url(),
        "signing": { "secrets": [WEBHOOK_SECRET] },
        "timeout": "2s",
        "retry": { "attempts": 1000, "backoff_initial": "10ms", "backoff_max": "200ms" },
        "concurrency": 16,
    });
    json!({
        "name": "hooks", "connector": "webhook", "topics": ["shop.*"], "config": overlaid(config, extra),
        "restart": { "backoff_initial": "50ms", "backoff_max": "500ms" }
    })
}

fn overlaid(mut base: Value, extra: Value) -> Value {
    if let Value::Object(extra) = extra {
        for (key, value) in extra {
            base[key] = value;
        }
    }
    base
}

/// Source and target with one small table `orders` of `rows` rows, and a daemon with both connectors, not yet started.
pub struct Rig {
    // Dropped in this order: who uses a database goes before it.
    pub daemon: Daemon,
    pub source: Database,
    pub target: Database,
}

impl Rig {
    pub fn orders(rows: u32) -> Self {
        let source = Database::new("src");
        source.sql.run(&format!(
            "CREATE TABLE orders (id bigint PRIMARY KEY, version bigint, note text);
             INSERT INTO orders SELECT i, i, 'row ' || i FROM generate_series(1, {rows}) i"
        ));
        let target = Database::new("dst");
        let daemon = Daemon::new(json!({}));
        daemon.connector(&self::source(&source, json!({})));
        daemon.connector(&sink(&target, json!({})));
        Self { daemon, source, target }
    }

    /// Adds rows `from..=to`.
    pub fn insert(&self, from: u32, to: u32) {
        self.source.sql.run(&format!(
            "INSERT INTO orders SELECT i, i, 'row ' || i FROM generate_series({from}, {to}) i"
        ));
    }

    /// Waits until the target's orders are the source's.
    pub fn until_same(&self) {
        self.daemon.until("the target's orders equal the source's", || self.same().then_some(()));
    }

    pub fn same(&self) -> bool {
        let sql = "SELECT id, version, note FROM orders ORDER BY id";
        let present = self.target.sql.one("SELECT to_regclass('orders')").is_some();
        let expected = self.source.sql.rows(sql);
        (present && self.target.sql.rows(sql) == expected) || (!present && expected.is_empty())
    }
}
