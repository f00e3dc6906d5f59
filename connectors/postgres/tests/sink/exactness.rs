//! Fence, offsets, lost answers: what keeps each row exactly once.

use rowstream_api::{Class, SinkTask, ValueRef};
use rowstream_testkit::records::{Topic, int, s, text};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::target::{Target, deliver, done};

fn items() -> Topic {
    Topic::new("items", 1, &[("id", int()), ("a", text())])
}

fn row(id: i64, a: &str) -> Vec<ValueRef<'static>> {
    vec![ValueRef::Int(id), s(a)]
}

/// Waits until a query finds the number of a backend.
async fn backend(target: &Target, condition: &str) -> String {
    let sql = format!(
        "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}"
    );
    let found = async {
        loop {
            if let Some(pid) = target.texts(&sql).await.into_iter().next() {
                return pid;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), found).await.expect("no backend came to wait")
}

const WAITS: &str = "wait_event_type = 'Lock' AND application_name = 'rowstream'";

#[tokio::test]
async fn a_fenced_task_changes_nothing() {
    let target = Target::new().await;
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
    assert_eq!(target.text("SELECT to_regclass('other')::text").await, "NULL");
    done(&mut new, vec![second]).await;
    assert_eq!(target.rows("items").await, "(1,new)");
}

#[tokio::test]
async fn a_successor_waits_for_the_open_transaction_and_reads_its_offsets() {
    let target = Target::new().await;
    let mut t = items();
    let mut old = target.open(json!({}), &t.partition).await;
    let first = t.create(row(1, "one"));
    done(&mut old, vec![first]).await;
    let mut locker = target.another_connection().await;
    let lock = locker.client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE items").await.unwrap();
    let second = t.create(row(2, "two"));
    let flush = async {
        let flushed = deliver(&mut old, vec![second.clone()]).await.unwrap();
        assert_eq!(flushed.offsets.get(&t.partition), Some(&2));
    };
    let succeed = async {
        backend(&target, &format!("{WAITS} AND query LIKE 'INSERT INTO \"public\"%'")).await;
        let started = target.start(json!({}));
        let release = async {
            backend(&target, &format!("{WAITS} AND query LIKE 'INSERT INTO \"rowstream\".sink_fence%'"))
                .await;
            lock.commit().await.unwrap();
        };
        let (mut new, ()) = tokio::join!(started, release);
        let held = new.open(std::slice::from_ref(&t.partition)).await.unwrap();
        assert_eq!(held.get(&t.partition), Some(&2), "what the zombie had in flight is known");
        new
    };
    let ((), mut new) = tokio::join!(flush, succeed);
    done(&mut new, vec![second]).await;
    assert_eq!(target.rows("items").await, "(1,one);(2,two)");
}

#[tokio::test]
async fn a_transaction_that_is_killed_leaves_neither_rows_nor_offsets() {
    let target = Target::new().await;
    target
        .sql("CREATE TABLE items (id int PRIMARY KEY, a text); CREATE TABLE z (id int PRIMARY KEY, a text)")
        .await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let mut z = Topic::new("z", 1, &[("id", int()), ("a", text())]);
    let mut locker = target.another_connection().await;
    let lock = locker.client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE z").await.unwrap();
    let records = vec![t.create(row(1, "one")), z.create(row(1, "one"))];
    let kill = async {
        let pid = backend(&target, WAITS).await;
        target.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    };
    let (flushed, ()) = tokio::join!(deliver(&mut task, records.clone()), kill);
    assert_eq!(flushed.unwrap_err().class, Class::Transient);
    assert_eq!(task.flush().await.unwrap_err().code, "SINK_TASK_ENDED");
    lock.rollback().await.unwrap();
    assert_eq!(target.rows("items").await, "");
    let mut task = target.start(json!({})).await;
    let held = task.open(&[t.partition.clone(), z.partition.clone()]).await.unwrap();
    assert!(held.is_empty());
    done(&mut task, records).await;
    assert_eq!(target.rows("items").await, "(1,one)");
}

#[tokio::test]
async fn a_commit_that_was_killed_is_done_again() {
    let target = Target::new().await;
    target
        .sql(
            "CREATE TABLE items (id int PRIMARY KEY, a text);
             CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION hold();
             SELECT pg_advisory_lock(42)",
        )
        .await;
    let mut t = items();
    let mut task =
        target.open(json!({ "write_mode": "append", "metadata_columns": false }), &t.partition).await;
    let records = vec![t.create(row(1, "one"))];
    let kill = async {
        let pid = backend(&target, &format!("{WAITS} AND query = 'COMMIT'")).await;
        target.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    };
    let (flushed, ()) = tokio::join!(deliver(&mut task, records.clone()), kill);
    assert_eq!(flushed.unwrap_err().class, Class::Transient);
    target.sql("SELECT pg_advisory_unlock(42)").await;
    let mut task = target.start(json!({ "write_mode": "append", "metadata_columns": false })).await;
    assert!(task.open(std::slice::from_ref(&t.partition)).await.unwrap().is_empty());
    done(&mut task, records).await;
    assert_eq!(target.rows("items").await, "(1,one)");
}

/// Passes bytes on until the server reports the first commit of a flush, which never arrives.
async fn swallow_commit(listener: TcpListener, server: String) {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut from_server) = ([0; 8192], vec![0; 8192]);
    let mut flushing = false;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => match read {
                Ok(length @ 1..) => {
                    flushing |= from_client[..length].windows(15).any(|w| w == b"BEGIN ISOLATION");
                    server.write_all(&from_client[..length]).await.unwrap();
                }
                Ok(0) | Err(_) => return,
            },
            read = server.read(&mut from_server) => match read {
                Ok(length @ 1..) => {
                    if flushing && from_server[..length].windows(7).any(|w| w == b"COMMIT\0") {
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
async fn a_commit_whose_answer_is_lost_is_found_done() {
    let target = Target::new().await;
    target.sql("CREATE TABLE items (id int, a text)").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = format!("127.0.0.1:{}", target.plan(json!({})).connection.config.port);
    let settings = |port: Option<u16>| {
        let mut settings = json!({ "write_mode": "append", "metadata_columns": false });
        if let Some(port) = port {
            settings["connection"] = Value::from_iter([
                ("host", json!("127.0.0.1")),
                ("port", json!(port)),
                ("database", json!(target.database)),
                ("user", json!("postgres")),
                ("tls", json!({ "mode": "disable" })),
            ]);
        }
        settings
    };
    let mut t = items();
    let records = vec![t.create(row(1, "one")), t.create(row(2, "two"))];
    let through_proxy = async {
        let mut task = target.open(settings(Some(port)), &t.partition).await;
        deliver(&mut task, records.clone()).await.unwrap_err()
    };
    let (error, ()) = tokio::join!(through_proxy, swallow_commit(listener, server));
    assert_eq!((error.class, error.code), (Class::Transient, "PG_CONNECTION"));
    let mut task = target.start(settings(None)).await;
    let held = task.open(std::slice::from_ref(&t.partition)).await.unwrap();
    assert_eq!(held.get(&t.partition), Some(&2), "the commit had happened");
    // Even delivered again, it is not applied again.
    let more = t.create(row(3, "three"));
    done(&mut task, [records, vec![more]].concat()).await;
    assert_eq!(target.rows("items").await, "(1,one);(2,two);(3,three)");
}

#[tokio::test]
async fn offsets_of_another_log_are_refused_and_explained() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let record = t.create(row(1, "one"));
    done(&mut task, vec![record]).await;
    drop(task);
    let mut task = target.start_in_log(json!({}), "log-2").await.unwrap();
    let error = task.open(std::slice::from_ref(&t.partition)).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Fatal, "SINK_OTHER_LOG"));
    let remedy = error.remedy.unwrap();
    assert!(
        remedy.contains("DELETE FROM \"rowstream\".sink_offsets WHERE connector = 'warehouse'"),
        "{remedy}"
    );
}

#[tokio::test]
async fn offsets_that_moved_behind_the_task_stop_it() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let record = t.create(row(1, "one"));
    done(&mut task, vec![record]).await;
    for change in ["UPDATE rowstream.sink_offsets SET next_offset = 5", "DELETE FROM rowstream.sink_offsets"]
    {
        target.sql(change).await;
        let record = t.update(row(1, "two"));
        let error = deliver(&mut task, vec![record]).await.unwrap_err();
        assert_eq!((error.class, error.code), (Class::Transient, "SINK_OFFSETS_MOVED"));
        assert_eq!(target.rows("items").await, "(1,one)");
        t.next = 5;
        task = target.open(json!({}), &t.partition).await;
    }
}

#[tokio::test]
async fn preflight_says_what_is_missing_with_the_sql() {
    use rowstream_api::SinkConnector;
    let target = Target::new().await;
    rowstream_postgres::sink::PostgresSink::preflight(&target.plan(json!({}))).await.unwrap();
    let plan = target.plan(json!({ "schema": "no such" }));
    let error = rowstream_postgres::sink::PostgresSink::preflight(&plan).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Config, "PG_PREFLIGHT"));
    assert_eq!(error.remedy.as_deref(), Some("CREATE SCHEMA \"no such\";"));
}
