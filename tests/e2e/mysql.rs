//! MySQL and MariaDB as sources, under SIGKILL: each committed change is once in its topic, in the order of its key's commits, and
//! the PostgreSQL target equals the source. So is each statement that alters a table in the schema-change topic.
//!
//! The ledger is written by triggers in the writers' own transactions, into a database that nobody captures.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fastrand::Rng;
use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use serde_json::{Value, json};

use crate::support::{
    daemon::{Daemon, TopicRecord},
    mysql::servers,
    note, one_at_a_time,
    postgres::Database,
    rig, runtime,
};

const KILLS: u32 = 52;
const SEED: u64 = 20_261_121;
const KEYS: u64 = 300;

/// A source database, and beside it the ledger's.
struct Source {
    flavour: &'static str,
    port: u16,
    name: String,
}

/// One event of a key: the version that was put there, or a delete.
type Put = Option<i64>;

async fn open(port: u16, database: &str) -> Conn {
    let options = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).user(Some("root"));
    let options = options.db_name((!database.is_empty()).then_some(database)).prefer_socket(false);
    Conn::new(options).await.unwrap()
}

impl Source {
    fn new(flavour: &'static str, port: u16) -> Self {
        let source = Self { flavour, port, name: format!("e2e_killsrc_{}", std::process::id()) };
        let (name, audit) = (&source.name, source.audit());
        let put =
            |row: &str| format!("INSERT INTO {audit}.ledger (k, version) VALUES ({row}.id, {row}.version);");
        let gone = format!("INSERT INTO {audit}.ledger (k) VALUES (OLD.id);");
        let new = put("NEW");
        runtime().block_on(async {
            let mut conn = open(port, "").await;
            for sql in [
                format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"),
                format!("CREATE DATABASE {audit}"),
                format!("USE {name}"),
                "CREATE TABLE defined (id INT PRIMARY KEY)".into(),
                "CREATE TABLE t (id INT PRIMARY KEY, version BIGINT NOT NULL, amount DECIMAL(12,2), at DATETIME(6), note TEXT)".into(),
                format!("CREATE TABLE {audit}.ledger (seq BIGINT PRIMARY KEY AUTO_INCREMENT, k INT NOT NULL, version BIGINT)"),
                format!("CREATE TRIGGER t_i AFTER INSERT ON t FOR EACH ROW BEGIN {new} END"),
                format!("CREATE TRIGGER t_u AFTER UPDATE ON t FOR EACH ROW BEGIN IF OLD.id <> NEW.id THEN {gone} END IF; {new} END"),
                format!("CREATE TRIGGER t_d AFTER DELETE ON t FOR EACH ROW BEGIN {gone} END"),
            ] {
                conn.query_drop(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
            let rows: Vec<String> = (0..12_000).map(|id| format!("({id}, {id}, {id} / 7, NOW(6), 'old {id}')")).collect();
            for rows in rows.chunks(2000) {
                conn.query_drop(format!("INSERT INTO t VALUES {}", rows.join(","))).await.unwrap();
            }
        });
        source
    }

    fn audit(&self) -> String {
        format!("{}_audit", self.name)
    }

    /// Each key's events in the order of their commits, numbered over all keys.
    fn ledger(&self) -> BTreeMap<i64, Vec<(u64, Put)>> {
        let mut ledger: BTreeMap<i64, Vec<(u64, Put)>> = BTreeMap::new();
        let rows: Vec<(u64, i64, Put)> = runtime().block_on(async {
            let sql = format!("SELECT seq, k, version FROM {}.ledger ORDER BY seq", self.audit());
            open(self.port, "").await.query(sql).await.unwrap()
        });
        for (seq, key, put) in rows {
            ledger.entry(key).or_default().push((seq, put));
        }
        ledger
    }

    fn rows(&self) -> Vec<Vec<Option<String>>> {
        runtime().block_on(async {
            let sql = "SELECT CAST(id AS CHAR), CAST(version AS CHAR), CAST(amount AS CHAR), CAST(at AS CHAR), note FROM t";
            let rows: Vec<mysql_async::Row> = open(self.port, &self.name).await.query(sql).await.unwrap();
            rows.into_iter().map(|row| row.unwrap().into_iter().map(mysql_async::from_value).collect()).collect()
        })
    }

    fn connector(&self) -> Value {
        json!({
            "name": self.flavour, "connector": format!("{}-source", self.flavour),
            "config": {
                "connection": { "host": "127.0.0.1", "port": self.port, "user": "root", "tls": { "mode": "disable" } },
                "topic_prefix": self.flavour,
                "tables": { "include": [format!("{}.*", self.name)] },
                "server_id": std::process::id(),
                "snapshot": { "mode": "initial", "chunk_rows": 20 }
            },
            "restart": { "backoff_initial": "50ms", "backoff_max": "500ms" }
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            runtime().block_on(async {
                let mut conn = open(self.port, "").await;
                for name in [self.name.clone(), self.audit()] {
                    conn.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
                }
            });
        }
    }
}

struct Writers {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(source: &Source, count: u64) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..count).map(|n| {
            let (port, name) = (source.port, source.name.clone());
            let (stop, committed) = (Arc::clone(&stop), Arc::clone(&committed));
            std::thread::spawn(move || {
                let mut rng = Rng::with_seed(SEED + n);
                let mut version = i64::try_from(n + 1).unwrap() << 40;
                runtime().block_on(async {
                    let mut conn = open(port, &name).await;
                    while !stop.load(Ordering::SeqCst) {
                        let done = transaction(&mut conn, &mut rng, &mut version).await;
                        committed.fetch_add(u64::from(done), Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                });
            })
        });
        Self { threads: threads.collect(), stop, committed }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.committed.load(Ordering::SeqCst)
    }
}

/// Alters a table again and again; answers the statements that succeeded, in order.
struct Definer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Definer {
    fn start(source: &Source) -> Self {
        let (port, name, stop) = (source.port, source.name.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut conn = open(port, &name).await;
                let mut done = Vec::new();
                while !stopped.load(Ordering::SeqCst) {
                    let statement = match done.len() % 3 {
                        0 => format!("ALTER TABLE defined COMMENT = 'no {}'", done.len()),
                        1 => "CREATE INDEX i ON defined (id)".to_owned(),
                        _ => "DROP INDEX i ON `defined`".to_owned(),
                    };
                    conn.query_drop(&statement).await.unwrap();
                    done.push(statement);
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
                done
            })
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// The schema-change topic has the tables that were there, then each statement once, in order.
fn statements_are_there_once(daemon: &Daemon, source: &Source, done: &[String]) -> usize {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut told: Vec<String> = Vec::new();
    while told.len() < done.len() + 2 && Instant::now() < deadline {
        let records = daemon.records(source.flavour);
        assert!(records.iter().all(|record| record.key == json!({ "databaseName": source.name })));
        let ddl = |record: TopicRecord| record.value["ddl"].as_str().unwrap().to_owned();
        told = records.into_iter().map(ddl).collect();
        std::thread::sleep(Duration::from_millis(50));
    }
    let (initial, streamed) = told.split_at(told.len().min(2));
    assert!(initial.iter().all(|ddl| ddl.starts_with("CREATE TABLE `")), "{initial:?}");
    assert!(streamed == done, "{}: {} statements, {} told", source.flavour, done.len(), streamed.len());
    streamed.len()
}

/// One transaction; whether it committed. Writers fight over the same keys, so that some fail.
async fn transaction(conn: &mut Conn, rng: &mut Rng, version: &mut i64) -> bool {
    let mut next = || {
        *version += 1;
        *version
    };
    let mut statements = Vec::new();
    for _ in 0..rng.u32(1..5) {
        let (id, other) = (rng.u64(0..KEYS), rng.u64(0..KEYS));
        statements.push(match rng.u8(0..7) {
            0 => format!("INSERT IGNORE INTO t VALUES ({id}, {}, 1.5, NOW(6), 'new')", next()),
            1 | 2 => format!("UPDATE t SET version = {}, amount = amount + 1 WHERE id = {id}", next()),
            3 => format!("UPDATE t SET version = {}, note = REPEAT('n', {id} * 10) WHERE id = {id}", next()),
            4 => format!("DELETE FROM t WHERE id = {id}"),
            5 => format!("UPDATE t SET id = {other}, version = {} WHERE id = {id}", next()),
            _ => format!(
                "INSERT INTO t VALUES ({id}, {0}, 2, NULL, NULL) ON DUPLICATE KEY UPDATE version = {0}",
                next()
            ),
        });
    }
    if rng.u8(0..150) == 0 {
        let first = rng.u64(1 << 20..1 << 30);
        let rows: Vec<String> =
            (0..3000).map(|n| format!("({}, {}, 0, NULL, 'big')", first + n, next())).collect();
        statements.push(format!("INSERT IGNORE INTO t VALUES {}", rows.join(",")));
    }
    let rolled_back = rng.u8(0..8) == 0;
    let mut done = conn.query_drop("BEGIN").await.is_ok();
    for statement in statements {
        done = done && conn.query_drop(statement).await.is_ok();
    }
    conn.query_drop(if done && !rolled_back { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
    done && !rolled_back
}

/// What a topic tells of a key, in order: reads of the snapshot, and changes.
fn told(records: Vec<TopicRecord>) -> BTreeMap<i64, Vec<(bool, Put)>> {
    let mut told: BTreeMap<i64, Vec<(bool, Put)>> = BTreeMap::new();
    for record in records.into_iter().filter(|record| !record.value.is_null()) {
        let key = record.key["id"].as_i64().unwrap_or_else(|| panic!("no key: {}", record.key));
        let put = record.value["after"]["version"].as_i64();
        told.entry(key).or_default().push((record.value["op"] == "r", put));
    }
    told
}

/// The changes must be the ledger's last ones, all that were committed after the connector's first position; the one read must be
/// of a state that no change before it has passed and no change after it repeats.
fn compare(entries: &[(u64, Put)], told: &[(bool, Put)], before: u64) -> Result<(), String> {
    let changes: Vec<Put> = told.iter().filter(|(read, _)| !read).map(|(_, put)| *put).collect();
    let skipped = entries.len().checked_sub(changes.len()).ok_or("more changes than were committed")?;
    if entries[skipped..].iter().map(|(_, put)| *put).ne(changes.iter().copied()) {
        return Err("the changes are not the ledger's last ones, in order".to_owned());
    }
    if entries[..skipped].iter().any(|(seq, _)| *seq > before) {
        return Err("a change is missing".to_owned());
    }
    let reads: Vec<usize> = (0..told.len()).filter(|i| told[*i].0).collect();
    match reads.as_slice() {
        [] => match entries[..skipped].last() {
            Some((_, Some(_))) if changes.is_empty() => Err("a row of the snapshot is missing".to_owned()),
            _ => Ok(()),
        },
        [at] => {
            let state =
                entries.iter().rposition(|(_, put)| *put == told[*at].1).ok_or("a read of what never was")?;
            let next = skipped + at;
            if *at > 0 && next - 1 > state {
                Err("the read is older than a change before it".to_owned())
            } else if next < entries.len() && next <= state {
                Err("a change after the read is in it already".to_owned())
            } else {
                Ok(())
            }
        }
        _ => Err("the row was read more than once".to_owned()),
    }
}

/// Kills at random moments; answers which kills met the snapshot of which source. The daemon is down at the end.
fn kill_repeatedly(daemon: &Daemon, sources: &[Source]) -> HashSet<(&'static str, u32)> {
    let mut rng = Rng::with_seed(SEED);
    let mut in_snapshot = HashSet::new();
    for kill in 0..KILLS {
        daemon.spawn();
        std::thread::sleep(Duration::from_millis(rng.u64(20..if kill < 25 { 700 } else { 1_500 })));
        for source in sources {
            let offsets =
                daemon.try_get(&format!("/connectors/{}/offsets", source.flavour)).map(|a| a.text());
            if offsets.unwrap_or_default().contains("\"todo\"") {
                in_snapshot.insert((source.flavour, kill));
            }
        }
        daemon.kill();
    }
    in_snapshot
}

/// Waits until the target has every row of the source and no other; answers how many.
fn target_equals_source(daemon: &Daemon, source: &Source, target: &Database) -> usize {
    let mut expected = source.rows();
    expected.sort_unstable();
    let deadline = Instant::now() + Duration::from_secs(120);
    let sql =
        "SELECT id::text, version::text, amount::text, to_char(at, 'YYYY-MM-DD HH24:MI:SS.US'), note FROM t";
    let mut found = Vec::new();
    while found != expected && Instant::now() < deadline {
        if target.sql.one("SELECT to_regclass('t')").is_some() {
            found = target.sql.rows(sql);
            found.sort_unstable();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let differ: Vec<_> = expected.iter().zip(&found).filter(|(a, b)| a != b).take(2).collect();
    assert!(
        found == expected,
        "{}: {} rows, expected {}: {differ:?}\n{}",
        source.flavour,
        found.len(),
        expected.len(),
        daemon.explain()
    );
    found.len()
}

#[test]
fn exactly_once_under_sigkill_from_mysql_and_mariadb() {
    let _turn = one_at_a_time();
    let sources = servers().map(|(flavour, port)| Source::new(flavour, port));
    let targets = [Database::new("kill_from_my"), Database::new("kill_from_ma")];
    let daemon = Daemon::new(json!({}));
    for (source, target) in sources.iter().zip(&targets) {
        daemon.connector(&source.connector());
        let mut sink = rig::sink(target, json!({}));
        sink["name"] = json!(format!("to_{}", source.flavour));
        sink["topics"] = json!([format!("{}.*", source.flavour)]);
        daemon.connector(&sink);
    }
    // A position first, and only then changes: so every one of them must arrive.
    daemon.start();
    for source in &sources {
        daemon.until("a position is stored", || {
            let told = daemon.try_get(&format!("/connectors/{}/offsets", source.flavour))?;
            told.text().contains("\"pos\"").then_some(())
        });
    }
    daemon.kill();
    let before: Vec<u64> = sources
        .iter()
        .map(|source| source.ledger().values().flatten().map(|(seq, _)| *seq).max().unwrap())
        .collect();
    let writers: Vec<Writers> = sources.iter().map(|source| Writers::start(source, 3)).collect();
    let definers: Vec<Definer> = sources.iter().map(Definer::start).collect();
    let in_snapshot = kill_repeatedly(&daemon, &sources);
    let committed: u64 = writers.into_iter().map(Writers::stop).sum();
    let defined: Vec<Vec<String>> = definers.into_iter().map(Definer::stop).collect();
    daemon.start();
    for (source, done) in sources.iter().zip(&defined) {
        let statements = statements_are_there_once(&daemon, source, done);
        note(&format!(
            "{}: {statements} statements that define are in their topic once, in order",
            source.flavour
        ));
    }
    for ((source, target), before) in sources.iter().zip(&targets).zip(before) {
        let rows = target_equals_source(&daemon, source, target);
        let records = daemon.records(&format!("{}.{}.t", source.flavour, source.name));
        let count = records.len();
        let (mut told, ledger) = (told(records), source.ledger());
        for (key, entries) in &ledger {
            let told = told.remove(key).unwrap_or_default();
            if let Err(problem) = compare(entries, &told, before) {
                panic!("{} key {key}: {problem}\nledger: {entries:?}\ntopic: {told:?}", source.flavour);
            }
        }
        assert!(told.is_empty(), "{}: the topic has keys that never committed", source.flavour);
        let kills = in_snapshot.iter().filter(|(flavour, _)| *flavour == source.flavour).count();
        assert!(kills > 0, "no kill met the snapshot of {}: make it longer", source.flavour);
        note(&format!(
            "{}: {KILLS} kills, {kills} of them in the snapshot: {count} records equal the ledger, {rows} rows equal the source",
            source.flavour
        ));
    }
    note(&format!("{committed} transactions committed"));
}
