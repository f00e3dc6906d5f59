//! What can't be delivered faithfully is refused, and said.

use rowstream_api::{Class, SourceConnector};
use rowstream_mysql::source::MySqlSource;
use serde_json::json;

use crate::common::{Database, Drain, MARIADB, MYSQL, PATIENCE, fresh, start, wipe};

#[tokio::test]
async fn rows_that_are_not_in_the_binlog_are_an_alarm() {
    for server in [MYSQL, MARIADB] {
        let mut db = Database::new(server).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY)").await;
        let mut drain = Drain::start(db.plan(json!({}))).await;
        db.run("SET SESSION binlog_format = STATEMENT;\nINSERT INTO t VALUES (1)").await;
        let error = loop {
            if let Err(error) = drain.step().await {
                break error;
            }
        };
        assert_eq!((error.code, error.class), ("MYSQL_STATEMENT_FORMAT", Class::Fatal), "{error}");
        db.remove().await;
    }
}

#[tokio::test]
async fn rows_without_names_are_refused() {
    let (server, port) =
        fresh("mysql-9.7@minimal", &["--binlog-row-metadata=MINIMAL", "--binlog-expire-logs-seconds=60"]);
    let mut db = Database::on(&server, port).await;
    db.run("CREATE TABLE t (id INT PRIMARY KEY)").await;
    let plan = db.plan(json!({}));
    let error = MySqlSource::preflight(&plan).await.unwrap_err();
    assert_eq!(error.class, Class::Config);
    assert!(
        error.message.contains("binlog_row_metadata is MINIMAL")
            && error.message.contains("keeps its binlog"),
        "{error}"
    );
    assert!(error.remedy.unwrap().contains("SET PERSIST binlog_row_metadata = FULL;"));
    let mut drain = Drain::start(plan).await;
    db.run("INSERT INTO t VALUES (1)").await;
    let error = loop {
        if let Err(error) = drain.step().await {
            break error;
        }
    };
    assert_eq!(error.code, "MYSQL_ROW_METADATA", "{error}");
    drop((drain, db));
    wipe(&server);
}

/// Without names the catalog tells them, for as long as the binlog shows that they hold; then the connector stops.
#[tokio::test]
async fn columns_are_verified_where_the_binlog_does_not_name_them() {
    for (server, metadata) in [("mysql-9.7@verified", "MINIMAL"), ("mariadb-11.8@verified", "NO_LOG")] {
        let (server, port) = fresh(server, &[&format!("--binlog-row-metadata={metadata}")]);
        let mut db = Database::on(&server, port).await;
        db.run(
            "CREATE TABLE t (n DECIMAL(10,2), id INT UNSIGNED PRIMARY KEY, e ENUM('x','y'), v VARCHAR(20) CHARACTER SET latin1, \
             d DATETIME(3) NOT NULL, b BLOB);
             CREATE TABLE other (id INT PRIMARY KEY)",
        )
        .await;
        let plan = db.plan(json!({ "row_metadata": "verified" }));
        MySqlSource::preflight(&plan).await.unwrap();
        let mut drain = Drain::start(plan).await;
        db.run(
            "INSERT INTO t VALUES (1.50, 4000000000, 'y', 'é', '2026-01-01 00:00:00.001', 0xff);
             ALTER TABLE other ADD x INT;
             INSERT INTO other VALUES (1, 2);
             UPDATE t SET e = 'x'",
        )
        .await;
        drain.until_count(3).await;
        assert_eq!(
            drain.lines(),
            [
                "t c - > 1.50|4000000000|y|é|1767225600001|ff",
                "other c - > 1|2",
                "t u 1.50|4000000000|y|é|1767225600001|ff > 1.50|4000000000|x|é|1767225600001|ff"
            ],
            "{server}"
        );
        assert_eq!(drain.events[0].key, Some(vec!["4000000000".to_owned()]), "{server}");
        // The next version, told by a statement that the stream has met.
        db.run("ALTER TABLE t RENAME COLUMN n TO m, DROP COLUMN b, DROP COLUMN d").await;
        db.run("INSERT INTO t VALUES (2, 7, NULL, NULL)").await;
        drain.until_count(4).await;
        assert_eq!(drain.lines()[3], "t c - > 2.00|7|null|null");
        let fields: Vec<&str> =
            drain.events[3].table.value.fields().iter().map(|f| f.name.as_str()).collect();
        assert_eq!(fields, ["m", "id", "e", "v"], "{server}");
        // Behind when the table is altered again.
        drain.task = None;
        db.run("INSERT INTO t VALUES (3, 8, NULL, NULL);\nALTER TABLE t RENAME COLUMN m TO k").await;
        drain.restart().await;
        let error = loop {
            if let Err(error) = drain.step().await {
                break error;
            }
        };
        assert_eq!((error.class, error.code), (Class::Fatal, "MYSQL_COLUMNS_UNKNOWN"), "{error}");
        assert_eq!(drain.events.len(), 4);
        drop((drain, db));
        wipe(&server);
    }
}

#[tokio::test]
async fn a_server_that_is_as_it_should_be_passes() {
    for server in [MYSQL, MARIADB] {
        let db = Database::new(server).await;
        MySqlSource::preflight(&db.plan(json!({}))).await.unwrap();
        db.remove().await;
    }
}

#[tokio::test]
async fn purged_and_foreign_positions_are_refused_with_what_is_missing() {
    for server in ["mysql-9.7@purged", "mariadb-11.8@purged"] {
        let (server, port) = fresh(server, &[]);
        let mut db = Database::on(&server, port).await;
        db.run("CREATE TABLE t (id INT PRIMARY KEY)").await;
        let mut drain = Drain::start(db.plan(json!({}))).await;
        db.run("INSERT INTO t VALUES (1);\nFLUSH BINARY LOGS;\nINSERT INTO t VALUES (2)").await;
        drain.until_count(2).await;
        assert_eq!(drain.lines(), ["t c - > 1", "t c - > 2"]);
        drain.task = None;
        db.run("INSERT INTO t VALUES (3);\nFLUSH BINARY LOGS;\nINSERT INTO t VALUES (4);\nFLUSH BINARY LOGS")
            .await;
        let status = if db.is_mariadb() { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" };
        let row: mysql_async::Row = db.one_row(status).await;
        let file: String = row.get(0).unwrap();
        // A file that our reader, who was just dropped, is still being sent is kept.
        let purged = async {
            while db.one_row("SHOW BINARY LOGS").await.get::<String, _>(0).as_ref() != Some(&file) {
                db.run(&format!("PURGE BINARY LOGS TO '{file}'")).await;
            }
        };
        tokio::time::timeout(PATIENCE, purged).await.unwrap();
        let error = start(&drain.plan, &drain.stored).await.err().unwrap();
        assert_eq!(error.class, Class::Fatal, "{error}");
        assert!(matches!(error.code, "MYSQL_GTID_PURGED" | "MYSQL_BINLOG_LOST"), "{error}");
        if !db.is_mariadb() {
            let mut stored = drain.stored.clone();
            let offset = stored.values_mut().next().unwrap();
            let gtids = offset.0["gtids"].as_str().unwrap().split(':').next().unwrap().to_owned();
            offset.0["gtids"] = json!(format!("{gtids}:1-999999999"));
            let error = start(&drain.plan, &stored).await.err().unwrap();
            assert_eq!(error.code, "MYSQL_GTID_AHEAD", "{error}");
        }
        drop((drain, db));
        wipe(&server);
    }
}
