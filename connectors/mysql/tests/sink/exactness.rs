//! Fence, offsets, lost answers, conflicts: what keeps each row exactly once.

use mysql_async::prelude::Queryable;
use rowstream_api::{Class, Gauges, SinkConnector, SinkTask, StartReason, TaskContext, ValueRef};
use rowstream_mysql::sink::MySqlSink;
use rowstream_testkit::records::{Topic, int, s, text};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::target::{Target, deliver, done, on_both};

fn items() -> Topic {
    Topic::new("items", 1, &[("id", int()), ("a", text())])
}

fn row(id: i64, a: &str) -> Vec<ValueRef<'static>> {
    vec![ValueRef::Int(id), s(a)]
}

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, a varchar(9))";

#[tokio::test]
async fn a_fenced_task_changes_nothing() {
    on_both(async |mut target: Target| {
        let mut t = items();
        let mut old = target.open(json!({}), &t.partition).await;
        let first = t.create(row(1, "old"));
        done(&mut old, vec![first]).await;
        let mut new = target.start(json!({})).await;
        let held = new.open(std::slice::from_ref(&t.partition)).await.unwrap();
        assert_eq!(held.get(&t.partition), Some(&1));
        let second = t.update(row(1, "new"));
        let error = deliver(&mut old, vec![second.clone()]).await.unwrap_err();
        assert_eq!((error.class, error.code), (Class::Fatal, "SINK_FENCED"));
        assert_eq!(error.message, "another task 0 of connector `ware'house` took over this target");
        // Neither rows nor tables.
        let mut other = Topic::new("other", 1, &[("id", int()), ("a", text())]);
        let mut zombie = target.open(json!({}), &other.partition).await;
        let mut new = {
            drop(new);
            target.open(json!({}), &t.partition).await
        };
        let record = other.create(row(1, "x"));
        assert_eq!(deliver(&mut zombie, vec![record]).await.unwrap_err().code, "SINK_FENCED");
        drop((old, zombie));
        assert_eq!(target.rows("items").await, "(1,old)");
        let exists = format!(
            "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.tables WHERE table_schema = '{}' AND table_name = 'other'",
            target.database
        );
        assert_eq!(target.text(&exists).await, "0");
        done(&mut new, vec![second]).await;
        assert_eq!(target.rows("items").await, "(1,new)");
    })
    .await;
}

#[tokio::test]
async fn a_successor_waits_for_the_open_transaction_and_reads_its_offsets() {
    on_both(async |mut target: Target| {
        target.sql(ITEMS).await;
        let mut t = items();
        let mut old = target.open(json!({}), &t.partition).await;
        let first = t.create(row(1, "one"));
        done(&mut old, vec![first]).await;
        let mut locker = target.another_connection().await;
        locker.query_drop("START TRANSACTION; INSERT INTO items VALUES (2, 'lock')").await.unwrap();
        let second = t.create(row(2, "two"));
        let waiting = format!("INSERT INTO `{}`.`items`%", target.database);
        let raising = format!("INSERT INTO `{}`.sink_fence%", target.offsets());
        let mut watch = Target {
            server: target.server,
            database: target.database.clone(),
            db: target.another_connection().await,
        };
        let flush = async {
            let flushed = deliver(&mut old, vec![second.clone()]).await.unwrap();
            assert_eq!(flushed.offsets.get(&t.partition), Some(&2));
        };
        let succeed = async {
            watch.session(&waiting).await;
            let started = target.start(json!({}));
            let release = async {
                watch.session(&raising).await;
                locker.query_drop("ROLLBACK").await.unwrap();
            };
            let (mut new, ()) = tokio::join!(started, release);
            let held = new.open(std::slice::from_ref(&t.partition)).await.unwrap();
            assert_eq!(held.get(&t.partition), Some(&2), "what the zombie had in flight is known");
            new
        };
        let ((), mut new) = tokio::join!(flush, succeed);
        std::mem::forget(watch);
        done(&mut new, vec![second]).await;
        assert_eq!(target.rows("items").await, "(1,one);(2,two)");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_is_killed_leaves_neither_rows_nor_offsets() {
    on_both(async |mut target: Target| {
        target.sql(&format!("{ITEMS}; CREATE TABLE z (id int PRIMARY KEY, a varchar(9))")).await;
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let mut z = Topic::new("z", 1, &[("id", int()), ("a", text())]);
        let mut locker = target.another_connection().await;
        locker.query_drop("START TRANSACTION; INSERT INTO z VALUES (1, 'lock')").await.unwrap();
        let records = vec![t.create(row(1, "one")), z.create(row(1, "one"))];
        let waiting = format!("INSERT INTO `{}`.`z`%", target.database);
        let kill = async {
            let id = target.session(&waiting).await;
            target.sql(&format!("KILL {id}")).await;
        };
        let (flushed, ()) = tokio::join!(deliver(&mut task, records.clone()), kill);
        assert_eq!(flushed.unwrap_err().class, Class::Transient);
        assert_eq!(task.flush().await.unwrap_err().code, "SINK_TASK_ENDED");
        locker.query_drop("ROLLBACK").await.unwrap();
        assert_eq!(target.rows("items").await, "");
        let mut task = target.start(json!({})).await;
        let held = task.open(&[t.partition.clone(), z.partition.clone()]).await.unwrap();
        assert!(held.is_empty());
        done(&mut task, records).await;
        assert_eq!(target.rows("items").await, "(1,one)");
        assert_eq!(target.rows("z").await, "(1,one)");
    })
    .await;
}

/// What becomes of a flush's commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// The server never hears of it.
    Lost,
    /// The server commits; nobody hears of that.
    Unanswered,
}

/// Passes bytes on until a flush commits.
async fn cut_at_commit(listener: TcpListener, server: String, commit: Commit) {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut from_server) = ([0; 8192], vec![0; 8192]);
    let mut committing = false;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => match read {
                Ok(length @ 1..) => {
                    committing |= from_client[..length].windows(11).any(|w| w == b"COMMIT; SET");
                    if committing && commit == Commit::Lost {
                        return;
                    }
                    server.write_all(&from_client[..length]).await.unwrap();
                }
                Ok(0) | Err(_) => return,
            },
            read = server.read(&mut from_server) => match read {
                Ok(length @ 1..) => {
                    if committing {
                        return;
                    }
                    client.write_all(&from_server[..length]).await.unwrap();
                }
                Ok(0) | Err(_) => return,
            },
        }
    }
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_read_again_and_not_guessed() {
    on_both(async |mut target: Target| {
        for (commit, stored) in [(Commit::Lost, None), (Commit::Unanswered, Some(&2))] {
            let table = format!("items_{commit:?}").to_lowercase();
            target.sql(&format!("CREATE TABLE {table} (id int, a varchar(9))")).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = format!("127.0.0.1:{}", target.server.port);
            let settings = |port: u16| {
                let mut connection = target.connection();
                connection["port"] = Value::from(port);
                json!({ "write_mode": "append", "metadata_columns": false, "connection": connection })
            };
            let mut t = Topic::new(&table, 1, &[("id", int()), ("a", text())]);
            let records = vec![t.create(row(1, "one")), t.create(row(2, "two"))];
            let through_proxy = async {
                let mut task = target.open(settings(port), &t.partition).await;
                deliver(&mut task, records.clone()).await.unwrap_err()
            };
            let (error, ()) = tokio::join!(through_proxy, cut_at_commit(listener, server, commit));
            assert_eq!((error.class, error.code), (Class::Transient, "MYSQL_CONNECTION"), "{commit:?}");
            let mut task = target.start(settings(target.server.port)).await;
            let held = task.open(std::slice::from_ref(&t.partition)).await.unwrap();
            assert_eq!(held.get(&t.partition), stored, "{commit:?}");
            // Delivered again, each row is there once.
            let more = t.create(row(3, "three"));
            done(&mut task, [records, vec![more]].concat()).await;
            assert_eq!(target.rows(&table).await, "(1,one);(2,two);(3,three)");
        }
    })
    .await;
}

async fn watched(
    target: &Target,
    settings: Value,
    t: &Topic,
) -> (rowstream_mysql::sink::MySqlSinkTask, Gauges) {
    let gauges = Gauges::default();
    let cx = TaskContext {
        connector: "ware'house".to_owned(),
        task: 0,
        gauges: gauges.clone(),
        log_id: "log-1".to_owned(),
        start: StartReason::Connector,
    };
    let mut task = MySqlSink::start(target.plan(settings), cx).await.unwrap();
    task.open(std::slice::from_ref(&t.partition)).await.unwrap();
    (task, gauges)
}

#[tokio::test]
async fn a_deadlock_repeats_the_whole_batch() {
    on_both(async |mut target: Target| {
        target.sql(&format!("{ITEMS}; CREATE TABLE heavy (id int PRIMARY KEY)")).await;
        target.sql("INSERT INTO items VALUES (1, 'x'), (2, 'x'), (3, 'x')").await;
        let mut t = items();
        let (mut task, gauges) = watched(&target, json!({}), &t).await;
        let mut locker = target.another_connection().await;
        // The server gives up the transaction that has changed less.
        locker
            .query_drop(
                "START TRANSACTION; INSERT INTO heavy VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9),(10),(11),(12);
                 UPDATE items SET a = 'locker' WHERE id = 3",
            )
            .await
            .unwrap();
        let records = vec![t.update(row(1, "one")), t.update(row(2, "two")), t.delete(row(3, "x"))];
        let waiting = format!("DELETE FROM `{}`.`items`%", target.database);
        // The batch deletes first, so its own lock is that of an earlier segment's row.
        let mut other = Topic::new("heavy2", 1, &[("id", int())]);
        target.sql("CREATE TABLE heavy2 (id int PRIMARY KEY)").await;
        target.sql("INSERT INTO heavy2 VALUES (5)").await;
        let records = [vec![other.create(vec![ValueRef::Int(5)])], records].concat();
        let collide = async {
            target.session(&waiting).await;
            locker.query_drop("DELETE FROM heavy2 WHERE id = 5").await.unwrap();
            locker.query_drop("COMMIT").await.unwrap();
        };
        let (flushed, ()) = tokio::join!(deliver(&mut task, records), collide);
        assert_eq!(flushed.unwrap().refused, []);
        let conflicts = gauges.values().into_iter().find(|(name, _)| *name == "conflicts");
        assert_eq!(conflicts, Some(("conflicts", 1.0)));
        assert_eq!(target.rows("items").await, "(1,one);(2,two)");
        assert_eq!(target.rows("heavy2").await, "(5)");
    })
    .await;
}

#[tokio::test]
async fn a_lock_that_is_never_let_go_is_an_error_that_may_heal() {
    on_both(async |mut target: Target| {
        target.sql(ITEMS).await;
        let mut t = items();
        let (mut task, gauges) = watched(&target, json!({ "statement_timeout": "1s" }), &t).await;
        let mut locker = target.another_connection().await;
        locker.query_drop("START TRANSACTION; INSERT INTO items VALUES (2, 'lock')").await.unwrap();
        let records = vec![t.create(row(1, "one")), t.create(row(2, "two"))];
        let error = deliver(&mut task, records).await.unwrap_err();
        let known = ["MYSQL_CONFLICT", "MYSQL_STATEMENT_TIMEOUT"];
        assert!(error.class == Class::Transient && known.contains(&error.code), "{error:?}");
        assert!(gauges.values().iter().all(|(name, value)| *name != "conflicts" || *value <= 5.0));
        locker.query_drop("ROLLBACK").await.unwrap();
        assert_eq!(target.rows("items").await, "");
    })
    .await;
}

#[tokio::test]
async fn offsets_of_another_log_are_refused_and_explained() {
    on_both(async |target: Target| {
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let record = t.create(row(1, "one"));
        done(&mut task, vec![record]).await;
        drop(task);
        let mut task = target.start_in_log(json!({}), "log-2").await.unwrap();
        let error = task.open(std::slice::from_ref(&t.partition)).await.unwrap_err();
        assert_eq!((error.class, error.code), (Class::Fatal, "SINK_OTHER_LOG"));
        assert_eq!(
            error.message,
            "the target's offsets of connector `ware'house` count in log `log-1`, but this is log `log-2`: resuming \
             from them would skip or repeat records"
        );
        let remedy = error.remedy.unwrap();
        let delete =
            format!("DELETE FROM `{}`.sink_offsets WHERE connector = 'ware''house'", target.offsets());
        assert!(remedy.contains(&delete), "{remedy}");
    })
    .await;
}

#[tokio::test]
async fn offsets_that_moved_behind_the_task_stop_it() {
    on_both(async |mut target: Target| {
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let record = t.create(row(1, "one"));
        done(&mut task, vec![record]).await;
        let offsets = target.offsets();
        for change in [
            format!("UPDATE {offsets}.sink_offsets SET next_offset = 5"),
            format!("DELETE FROM {offsets}.sink_offsets"),
        ] {
            target.sql(&change).await;
            let record = t.update(row(1, "two"));
            let error = deliver(&mut task, vec![record]).await.unwrap_err();
            assert_eq!((error.class, error.code), (Class::Transient, "SINK_OFFSETS_MOVED"));
            assert_eq!(target.rows("items").await, "(1,one)");
            t.next = 5;
            task = target.open(json!({}), &t.partition).await;
        }
        // And where none was known, but somebody's is there.
        let inserted = format!(
            "INSERT INTO {offsets}.sink_offsets SELECT connector, '{}', 0, 9, 'log-1', 0, NOW() FROM {offsets}.sink_fence",
            t.partition.topic
        );
        target.sql(&inserted).await;
        let record = t.update(row(1, "two"));
        assert_eq!(deliver(&mut task, vec![record]).await.unwrap_err().code, "SINK_OFFSETS_MOVED");
        assert_eq!(target.rows("items").await, "(1,one)");
    })
    .await;
}

#[tokio::test]
async fn preflight_says_what_is_missing_with_the_sql() {
    on_both(async |mut target: Target| {
        MySqlSink::preflight(&target.plan(json!({}))).await.unwrap();
        let plan = target.plan(json!({ "table": "no such.t" }));
        let error = MySqlSink::preflight(&plan).await.unwrap_err();
        assert_eq!((error.class, error.code), (Class::Config, "MYSQL_PREFLIGHT"));
        assert!(error.remedy.unwrap().starts_with("CREATE DATABASE IF NOT EXISTS `no such`"));
        // A user who may only write rows is told what else it takes.
        let user = format!("u{}", std::process::id());
        target
            .sql(&format!(
                "CREATE USER IF NOT EXISTS {user} IDENTIFIED BY 'secret';
                 GRANT SELECT, INSERT, UPDATE, DELETE ON {}.* TO {user}",
                target.database
            ))
            .await;
        let mut connection = target.connection();
        connection["user"] = json!(user);
        connection["password"] = json!("secret");
        let plan = target.plan(json!({ "connection": connection, "offsets_database": "no_such_offsets" }));
        let error = MySqlSink::preflight(&plan).await.unwrap_err();
        assert_eq!(
            error.message,
            format!("database `no_such_offsets` does not exist, and user '{user}' may not create it")
        );
        connection["password"] = json!("wrong");
        let plan = target.plan(json!({ "connection": connection }));
        let error = MySqlSink::preflight(&plan).await.unwrap_err();
        assert_eq!((error.class, error.code), (Class::Config, "MYSQL_AUTHENTICATION"));
        target.sql(&format!("DROP USER {user}")).await;
    })
    .await;
}
