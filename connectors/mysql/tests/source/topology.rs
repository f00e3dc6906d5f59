//! Servers that are set up in other ways, and more than one of them.

use mysql_async::prelude::Queryable;
use rowstream_api::SourceOffsets;
use serde_json::json;

use crate::common::{Database, Drain, fresh, start, wipe};

#[tokio::test]
async fn mariadbs_compressed_events_are_read() {
    let (server, port) =
        fresh("mariadb-11.8@compressed", &["--log-bin-compress=ON", "--log-bin-compress-min-len=10"]);
    let mut db = Database::on(&server, port).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)").await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run(
        "INSERT INTO t VALUES (1, REPEAT('a', 1000)), (2, REPEAT('b', 1000));
         UPDATE t SET v = REPEAT('c', 500) WHERE id = 1;
         DELETE FROM t WHERE id = 2;
         TRUNCATE TABLE t /* a comment that is long enough to be compressed, which makes it a QUERY_COMPRESSED event */;
         INSERT INTO t VALUES (3, 'small')",
    )
    .await;
    drain.until_count(6).await;
    let (a, b, c) = ("a".repeat(1000), "b".repeat(1000), "c".repeat(500));
    assert_eq!(
        drain.lines(),
        [
            format!("t c - > 1|{a}"),
            format!("t c - > 2|{b}"),
            format!("t u 1|{a} > 1|{c}"),
            format!("t d 2|{b} > -"),
            "t t - > -".to_owned(),
            "t c - > 3|small".to_owned(),
        ]
    );
    drop((drain, db));
    wipe(&server);
}

/// Without GTIDs the file and the offset count; the snapshot agrees with them by `log_status`.
#[tokio::test]
async fn positions_without_gtids() {
    let (server, port) = fresh("mysql-9.7@nogtid", &["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
    let mut db = Database::on(&server, port).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY);\nINSERT INTO t VALUES (1), (2), (3)").await;
    let plan = db.plan(json!({ "snapshot": { "mode": "initial", "chunk_rows": 2 }, "batch_bytes": "4KiB" }));
    let mut drain = Drain::start(plan.clone()).await;
    while drain.offset().contains_key("snapshot") {
        drain.step().await.unwrap();
    }
    assert_eq!(drain.lines(), ["t r - > 1", "t r - > 2", "t r - > 3"]);
    assert!(!drain.offset().contains_key("gtids"));
    let values: Vec<String> = (10..500).map(|id| format!("({id})")).collect();
    db.run(&format!("INSERT INTO t VALUES {};\nFLUSH BINARY LOGS;\nINSERT INTO t VALUES (900);\nDELETE FROM t WHERE id = 1", values.join(","))).await;
    drain.until_count(3 + 492).await;
    let all = drain.lines();
    let streaming = |stored: &SourceOffsets| !stored.values().next().unwrap().0.contains_key("snapshot");
    for (n, stored) in drain.history.clone().into_iter().filter(|(_, stored)| streaming(stored)).step_by(2) {
        let mut again = Drain::resume(plan.clone(), stored).await;
        again.until_count(all.len() - n).await;
        assert_eq!(again.lines(), all[n..], "resumed after {n}");
    }
    let mut stored = drain.stored.clone();
    stored.values_mut().next().unwrap().0["server_uuid"] = json!("another");
    assert_eq!(start(&plan, &stored).await.err().unwrap().code, "MYSQL_OTHER_SERVER");
    drop((drain, db));
    wipe(&server);
}

/// The stream goes on at a replica, wherever it was cut, with nothing lost or doubled.
async fn fails_over(primary: &str, replica: &str, reset: &str, attach: impl Fn(u16) -> String) {
    let keep =
        if primary.starts_with("mysql") { "--log-replica-updates=ON" } else { "--log-slave-updates=ON" };
    let ((primary, first), (replica, second)) = (fresh(primary, &[]), fresh(replica, &[keep]));
    let mut at_replica = Database::none(&replica, second).await;
    at_replica.run(reset).await;
    let mut db = Database::on(&primary, first).await;
    at_replica.run(&attach(first)).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(100))").await;
    let mut drain = Drain::start(db.plan(json!({ "batch_bytes": "4KiB" }))).await;
    for round in 0..3 {
        let values: Vec<String> =
            (0..200).map(|n| format!("({}, REPEAT('v', 90))", round * 1000 + n)).collect();
        db.run(&format!("INSERT INTO t VALUES {}", values.join(","))).await;
    }
    db.run("UPDATE t SET v = 'u' WHERE id % 7 = 0;\nDELETE FROM t WHERE id = 5").await;
    drain.until(|events| events.last().is_some_and(|e| e.op == rowstream_api::Op::Delete)).await;
    let all = drain.lines();
    let wanted: u64 = db.one("SELECT COUNT(*) FROM t").await;
    let deadline = tokio::time::Instant::now() + crate::common::PATIENCE;
    let sql = format!("SELECT COUNT(*) FROM {}.t", db.name);
    // The delete comes last.
    while at_replica.sql.query_first::<u64, _>(&sql).await.ok().flatten() != Some(wanted) {
        assert!(tokio::time::Instant::now() < deadline, "the replica does not catch up");
        tokio::task::yield_now().await;
    }
    let elsewhere = crate::common::plan_with(&replica, second, &db.name, json!({ "batch_bytes": "4KiB" }));
    let mut resumed = 0;
    for (n, stored) in drain.history.clone() {
        let mut again = Drain::resume(elsewhere.clone(), stored).await;
        again.until_count(all.len() - n).await;
        assert_eq!(again.lines(), all[n..], "resumed at the replica after {n}");
        resumed += 1;
    }
    assert!(resumed > 5);
    drop(db);
    wipe(&replica);
    wipe(&primary);
}

#[tokio::test]
async fn the_stream_goes_on_at_a_replica_of_mysql() {
    fails_over("mysql-9.7@primary", "mysql-9.7@replica", "RESET BINARY LOGS AND GTIDS", |port| {
        format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'root', \
             SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1;\nSTART REPLICA"
        )
    })
    .await;
}

#[tokio::test]
async fn the_stream_goes_on_at_a_replica_of_mariadb() {
    fails_over("mariadb-11.8@primary", "mariadb-11.8@replica", "RESET MASTER", |port| {
        format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root', MASTER_USE_GTID = slave_pos, \
             MASTER_SSL_VERIFY_SERVER_CERT = 0;\nSTART SLAVE"
        )
    })
    .await;
}
