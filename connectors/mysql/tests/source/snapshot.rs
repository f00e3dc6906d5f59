//! The snapshot beside the stream: nothing lost, nothing doubled, whatever is killed.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable;
use rowstream_api::Op;
use serde_json::json;

use crate::common::{Database, Drain, Event, MARIADB, MYSQL};

const KILLS: u32 = 10;

/// A table that grows by more rows than each chunk has ends where it ended at first, through restarts, and nothing is lost behind that.
#[tokio::test]
async fn a_table_that_grows_faster_than_it_is_read_comes_to_an_end() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE t (id INT, a INT, PRIMARY KEY (a, id))").await;
        let insert = |from: i32, to: i32| {
            let rows: Vec<String> = (from..to).map(|n| format!("({n}, {})", n / 7)).collect();
            format!("INSERT INTO t VALUES {}", rows.join(","))
        };
        db.run(&insert(0, 50)).await;
        let mut drain =
            Drain::start(db.plan(json!({ "snapshot": { "mode": "initial", "chunk_rows": 10 } }))).await;
        let mut end = 50;
        let mut last_key = serde_json::Value::Null;
        while let Some(snapshot) = drain.offset().get("snapshot") {
            let key = snapshot["last_key"].clone();
            if key != last_key {
                last_key = key;
                db.run(&insert(end, end + 15)).await;
                end += 15;
                drain.restart().await;
            }
            assert!(end < 500, "{server}: the snapshot does not come to an end");
            drain.step().await.unwrap();
        }
        drain.until(|events| state(events, "t").len() >= usize::try_from(end).unwrap()).await;
        let of = |op| drain.events.iter().filter(|e| e.op == op).count();
        assert_eq!((of(Op::Read), of(Op::Create)), (50, usize::try_from(end - 50).unwrap()), "{server}");
        db.remove().await;
    }
}

/// What a reader of the topic has in the end, by key.
fn state(events: &[Event], table: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for event in events.iter().filter(|e| e.topic.ends_with(&format!(".{table}"))) {
        if let Some(before) = &event.before {
            rows.remove(&before[0]);
        }
        if let Some(after) = &event.after {
            rows.insert(after[0].clone(), after.join("|"));
        }
    }
    rows
}

/// No row is read twice or created twice without a delete between, and none is created after it was read. (A row that the stream
/// told of before its chunk was read may be read after that.)
fn assert_no_doubles(events: &[Event], table: &str) {
    let (mut created, mut read) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for event in events.iter().filter(|e| e.topic.ends_with(&format!(".{table}"))) {
        let id = event.after.as_ref().or(event.before.as_ref()).unwrap()[0].clone();
        match event.op {
            Op::Create => {
                assert!(!read.contains(&id) && created.insert(id.clone()), "{id} was created twice")
            }
            Op::Read => assert!(read.insert(id.clone()), "{id} was read twice"),
            Op::Delete => {
                created.remove(&id);
                read.remove(&id);
            }
            _ => {}
        }
    }
}

async fn under_load(server: &str) {
    let mut db = Database::new(server).await;
    db.run(
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), n INT NOT NULL DEFAULT 0);
         CREATE TABLE nokey (id INT, v VARCHAR(20));
         CREATE TABLE done (a INT)",
    )
    .await;
    let many: Vec<String> = (0..3000).map(|n| format!("({n}, 'v{n}')")).collect();
    db.run(&format!(
        "INSERT INTO t (id, v) VALUES {};\nINSERT INTO nokey VALUES {}",
        many.join(","),
        many[..500].join(",")
    ))
    .await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let mut conn = db.connect().await;
        let stop = stop.clone();
        writers.spawn(async move {
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                n += 1;
                let id = (n * 37 + writer * 1000) % 3000;
                let id = id - id % 3 + writer; // Each writer has keys of its own.
                let new = 10_000 + n * 3 + writer;
                for sql in [
                    format!("UPDATE t SET n = n + 1 WHERE id = {id}"),
                    format!("INSERT INTO t (id, v) VALUES ({new}, 'new')"),
                    format!("INSERT INTO nokey VALUES ({new}, 'new')"),
                    format!("DELETE FROM t WHERE id = {}", if n % 5 == 0 { id } else { new - 30 }),
                ] {
                    conn.query_drop(sql).await.unwrap();
                }
            }
        });
    }
    let plan = db.plan(json!({
        "snapshot": { "mode": "initial", "chunk_rows": 100, "readers": 4 }, "batch_bytes": "8KiB"
    }));
    let mut drain = Drain::start(plan).await;
    let (mut kills, mut last_key) = (0, serde_json::Value::Null);
    while drain.offset().contains_key("snapshot") {
        drain.step().await.unwrap();
        let Some(snapshot) = drain.offset().get("snapshot") else { break };
        // Tables without a key start over after a crash, so only the one with a key is killed, each time after another chunk of it.
        let key = snapshot["last_key"].clone();
        if snapshot["todo"][0][1] == "t" && kills < KILLS && key != last_key {
            (kills, last_key) = (kills + 1, key);
            drain.restart().await;
        }
    }
    assert_eq!(kills, KILLS, "{server}: the table has too few chunks");
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    db.run("INSERT INTO done VALUES (1)").await;
    drain.until(|events| events.iter().any(|e| e.topic.ends_with(".done"))).await;
    assert_no_doubles(&drain.events, "t");
    let rows: Vec<(String, String, i64)> =
        db.sql.query("SELECT CAST(id AS CHAR), v, n FROM t").await.unwrap();
    let expected: BTreeMap<String, String> =
        rows.into_iter().map(|(id, v, n)| (id.clone(), format!("{id}|{v}|{n}"))).collect();
    let found = state(&drain.events, "t");
    let differ: Vec<_> = expected.iter().filter(|(k, v)| found.get(*k) != Some(v)).take(5).collect();
    assert!(
        differ.is_empty() && found.len() == expected.len(),
        "{server}: {differ:?}, {} rows of {}",
        found.len(),
        expected.len()
    );
    let nokey = drain.events.iter().filter(|e| e.topic.ends_with(".nokey")).count() as u64;
    let there: u64 = db.one("SELECT COUNT(*) FROM nokey").await;
    assert_eq!(nokey, there, "{server}: a table without a key");
    assert!(
        drain.events.iter().any(|e| e.snapshot == "first")
            && drain.events.iter().any(|e| e.snapshot == "last")
    );
    db.remove().await;
}

#[tokio::test]
async fn a_mysql_snapshot_under_load_is_exact_through_restarts() {
    under_load(MYSQL).await;
}

#[tokio::test]
async fn a_mariadb_snapshot_under_load_is_exact_through_restarts() {
    under_load(MARIADB).await;
}

/// The others stream meanwhile, and what is there already is not read again.
#[tokio::test]
async fn a_table_that_comes_later_is_read_by_itself() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE a (id INT PRIMARY KEY);\nCREATE TABLE b (id INT PRIMARY KEY)").await;
        let rows: Vec<String> = (1..=300).map(|n| format!("({n})")).collect();
        db.run(&format!("INSERT INTO a VALUES {0};\nINSERT INTO b VALUES {0}", rows.join(","))).await;
        let plan = |tables: &str| {
            let tables = format!("{}.{tables}", db.name);
            db.plan(json!({
                "tables": { "include": [tables] }, "snapshot": { "mode": "initial", "chunk_rows": 20 }
            }))
        };
        let (first, later) = (plan("a"), plan("*"));
        let mut drain = Drain::start(first).await;
        while drain.offset().contains_key("snapshot") {
            drain.step().await.unwrap();
        }
        // The stream has not come to these when it starts again: the snapshot must see them, or wait for them.
        db.run("INSERT INTO a VALUES (301);\nINSERT INTO b VALUES (301)").await;
        drain.plan = later;
        drain.restart().await;
        let mut kills = 0;
        drain.step().await.unwrap();
        while drain.offset().contains_key("snapshot") {
            let before = drain.events.len();
            drain.step().await.unwrap();
            if kills < 5 && drain.events.len() > before {
                kills += 1;
                drain.restart().await;
            }
        }
        assert_eq!(kills, 5, "{server}");
        drain.until(|events| state(events, "a").len() == 301 && state(events, "b").len() == 301).await;
        let read = |table: &str| {
            let of = |e: &&Event| e.op == Op::Read && e.topic.ends_with(&format!(".{table}"));
            drain.events.iter().filter(of).count()
        };
        assert_eq!(read("a"), 300, "{server}");
        assert!((300..=301).contains(&read("b")), "{server}: {} rows", read("b"));
        db.remove().await;
    }
}

#[tokio::test]
async fn chunks_go_on_after_keys_of_every_type() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        for (n, (ty, values)) in [
            ("VARCHAR(10)", "'a', 'B', 'ü', 'Z', 'zz', ''''"),
            ("VARCHAR(10) CHARACTER SET latin1", "'a', 'B', 'ü', 'Z', 'zz', 'é'"),
            ("DECIMAL(10,3)", "-1.5, 0, 0.001, 2, 99, 100"),
            ("BIGINT UNSIGNED", "0, 1, 9223372036854775808, 18446744073709551615, 5, 6"),
            ("DATE", "'1000-01-01', '1969-12-31', '2026-01-01', '2026-01-02', '2027-01-01', '9999-12-31'"),
            ("DATETIME(6)", "'1969-12-31 23:59:59.999999', '2026-01-01', '2026-01-01 00:00:00.000001', '2027-01-01', '2028-01-01', '2029-01-01'"),
            ("TIME(3)", "'-10:00:00.5', '-00:00:00.001', '00:00:00', '01:00:00', '100:00:00', '838:59:59'"),
            ("BINARY(3)", "0x000000, 0x000001, 0xff0000, 0xffff00, 0xfffffe, 0xffffff"),
            ("VARBINARY(3)", "'', 0x00, 0x0000, 0x01, 0xff, 0xffff"),
            ("ENUM('z','a','m','b','c','d')", "'a', 'b', 'c', 'd', 'm', 'z'"),
            ("DOUBLE", "1.5, -1, 0, 2, 3, 4"),
        ]
        .into_iter()
        .enumerate()
        {
            db.run(&format!("CREATE TABLE t{n} (k {ty}, x INT, PRIMARY KEY (x, k))")).await;
            for value in values.split(", ") {
                db.run(&format!("INSERT INTO t{n} VALUES ({value}, 1), ({value}, 2)")).await;
            }
        }
        let plan = db.plan(json!({ "snapshot": { "mode": "initial", "chunk_rows": 2 } }));
        let mut drain = Drain::start(plan).await;
        while drain.offset().contains_key("snapshot") {
            drain.step().await.unwrap();
        }
        for n in 0..11 {
            let rows: Vec<_> = drain.events.iter().filter(|e| e.topic.ends_with(&format!(".t{n}"))).collect();
            let keys: std::collections::HashSet<_> = rows.iter().map(|e| e.after.clone()).collect();
            assert_eq!((rows.len(), keys.len()), (12, 12), "{server} t{n}");
        }
        db.remove().await;
    }
}
