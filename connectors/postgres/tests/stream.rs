//! The stream against a real server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::too_many_lines, reason = "test code")]

mod common;

use std::time::Duration;

use common::{Database, Drain, PATIENCE, context, plan_with};
use rowstream_api::{Class, Op, SourceConnector, SourceOffsets, SourceTask};
use rowstream_postgres::source::PostgresSource;
use rowstream_tls::TlsMode;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_change_arrives_once_in_commit_order() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY)").await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("INSERT INTO a VALUES (1, 'x'), (2, NULL)").await;
    db.run("UPDATE a SET v = 'y' WHERE id = 1").await;
    db.run("BEGIN; INSERT INTO a VALUES (90, 'never'); ROLLBACK").await;
    db.run("BEGIN; INSERT INTO b VALUES (1); SAVEPOINT s; INSERT INTO b VALUES (2); ROLLBACK TO s; INSERT INTO a VALUES (3, 'z'); COMMIT")
        .await;
    db.run("DELETE FROM a WHERE id = 2").await;
    db.run("UPDATE a SET id = 10 WHERE id = 1").await;
    db.run("TRUNCATE a, b").await;
    drain.until_count(9).await;
    assert_eq!(
        drain.lines(),
        [
            "a c - > 1|x",
            "a c - > 2|null",
            "a u - > 1|y",
            "b c - > 1",
            "a c - > 3|z",
            "a d 2|ABSENT > -",
            "a rekey 1|ABSENT > 10|y",
            "a t - > -",
            "b t - > -"
        ]
    );
    assert_eq!(drain.events[6].old_key, Some(vec!["1".to_owned()]));
    assert!(drain.events.iter().all(|e| e.snapshot == "false" && e.xid.is_some()));
    drain.task.as_mut().unwrap().close().await.unwrap();
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_resumed_at_every_ordinal() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY, v text)").await;
    // Every batch holds few changes, so that positions inside transactions are many.
    let mut drain = Drain::start(db.plan(json!({ "batch_bytes": "4KiB" }))).await;
    let wide = "INSERT INTO a SELECT g, repeat('x', 1500) FROM generate_series";
    db.run(&format!("{wide}(1, 40) g")).await;
    db.run(&format!("BEGIN; {wide}(41, 60) g; UPDATE a SET id = -id WHERE id = 60; COMMIT")).await;
    db.run(&format!("{wide}(61, 80) g")).await;
    let mut partial = 0;
    while drain.events.len() < 81 {
        drain.step().await.unwrap();
        partial += usize::from(drain.offset().contains_key("partial"));
        drain.restart().await;
    }
    assert!(partial > 20, "{partial} positions inside transactions");
    let mut keys: Vec<i64> = drain
        .events
        .iter()
        .filter(|e| !e.rekey)
        .map(|e| e.key.as_ref().unwrap()[0].parse().unwrap())
        .collect();
    assert_eq!(drain.events.iter().filter(|e| e.rekey).count(), 1);
    keys.sort_unstable();
    assert_eq!(keys, (1..=80).collect::<Vec<_>>());
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_toast_is_unavailable_or_taken_from_the_old_row() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE d (id int PRIMARY KEY, big text, n int); ALTER TABLE d ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE f (id int PRIMARY KEY, big text, n int); ALTER TABLE f ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE f REPLICA IDENTITY FULL",
    )
    .await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    for table in ["d", "f"] {
        db.run(&format!("INSERT INTO {table} VALUES (1, repeat('b', 5000), 1); UPDATE {table} SET n = 2"))
            .await;
    }
    drain.until_count(4).await;
    let big = "b".repeat(5000);
    assert_eq!(drain.events[1].after.as_ref().unwrap()[1], "UNAVAILABLE");
    assert_eq!(drain.events[3].after.as_ref().unwrap()[1], big);
    assert_eq!(drain.events[3].before.as_ref().unwrap(), &["1".to_owned(), big, "1".to_owned()]);
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_give_keys_and_old_rows() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE nopk (a int, b text); ALTER TABLE nopk REPLICA IDENTITY FULL;
         CREATE TABLE other (id int PRIMARY KEY, a int NOT NULL, b text);
         CREATE UNIQUE INDEX other_a ON other (a); ALTER TABLE other REPLICA IDENTITY USING INDEX other_a;
         CREATE TABLE two (b text, n int, a int, PRIMARY KEY (a, b))",
    )
    .await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("INSERT INTO nopk VALUES (1, 'x'); UPDATE nopk SET b = 'y'; DELETE FROM nopk").await;
    db.run("INSERT INTO other VALUES (1, 7, 'x'); UPDATE other SET b = 'y'; UPDATE other SET a = 8; DELETE FROM other")
        .await;
    db.run("INSERT INTO two VALUES ('x', 0, 1); DELETE FROM two").await;
    drain.until_count(9).await;
    assert_eq!(
        drain.lines(),
        [
            "nopk c - > 1|x",
            "nopk u 1|x > 1|y",
            "nopk d 1|y > -",
            "other c - > 1|7|x",
            "other u - > 1|7|y",
            "other rekey ABSENT|7|ABSENT > 1|8|y",
            "other d ABSENT|8|ABSENT > -",
            "two c - > x|0|1",
            "two d x|ABSENT|1 > -"
        ]
    );
    let keys: Vec<_> = drain.events.iter().map(|e| e.key.clone()).collect();
    let key = |parts: &[&str]| Some(parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
    assert_eq!(keys[0], None);
    assert_eq!(keys[3], key(&["7"]));
    assert_eq!(keys[6], key(&["8"]));
    assert_eq!(keys[8], key(&["1", "x"]));
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_change_between_rows() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY, v text)").await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("INSERT INTO a VALUES (1, 'x')").await;
    drain.until_count(1).await;
    db.run("ALTER TABLE a ADD n int DEFAULT 42; INSERT INTO a VALUES (2, 'y')").await;
    db.run("ALTER TABLE a RENAME v TO w; INSERT INTO a VALUES (3, 'z')").await;
    drain.until_count(3).await;
    db.run("ALTER TABLE a DROP n; INSERT INTO a VALUES (4, 'q')").await;
    db.run("ALTER TABLE a DROP w; ALTER TABLE a ADD w date; INSERT INTO a VALUES (5, '1970-01-03')").await;
    drain.until_count(5).await;
    assert_eq!(
        drain.lines(),
        ["a c - > 1|x", "a c - > 2|y|42", "a c - > 3|z|42", "a c - > 4|q", "a c - > 5|2"]
    );
    let names: Vec<_> = drain.events[2].table.value.fields().iter().map(|f| f.name.clone()).collect();
    assert_eq!(names, ["id", "w", "n"]);
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_never_passes_what_is_committed_and_follows_when_idle() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)").await;
    let plan = db.plan(json!({ "tables": { "include": ["public.a"] } }));
    let slot = plan.slot.clone();
    let confirmed = format!(
        "SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::int8 FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    let mut drain = Drain::start(plan).await;
    let start = drain.lsn();
    for round in 0..5 {
        db.run(&format!(
            "INSERT INTO a SELECT g FROM generate_series({round} * 1000, {round} * 1000 + 999) g"
        ))
        .await;
    }
    // Everything is polled, nothing is committed.
    let mut polled = 0;
    let mut last = None;
    while polled < 5000 {
        let batch = drain.poll().await.unwrap();
        polled += batch.changes.len();
        last = Some(batch.offsets);
        let confirmed: i64 = db.one(&confirmed).await;
        assert!(u64::try_from(confirmed).unwrap() <= start);
    }
    drain.stored = last.unwrap();
    drain.task.as_mut().unwrap().committed(&drain.stored.clone()).await.unwrap();
    // Unpublished traffic: the slot follows without a record.
    db.run("INSERT INTO other SELECT g FROM generate_series(1, 1000) g").await;
    let target: i64 = db.one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let confirmed: i64 = db.one(&confirmed).await;
        assert!(u64::try_from(confirmed).unwrap() <= drain.lsn());
        if confirmed >= target {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        if drain.lsn() < u64::try_from(target).unwrap() {
            assert_eq!(drain.step().await.unwrap(), 0);
        }
    }
    drain.task.as_mut().unwrap().close().await.unwrap();
    // A closed task leaves the slot free at once.
    let active: bool =
        db.one(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'")).await;
    assert!(!active);
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_cannot_be_resumed_are_refused() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY)").await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    let old = drain.stored.clone();
    db.run("INSERT INTO a VALUES (1)").await;
    let before = drain.lsn();
    drain.until_count(1).await;
    // The change may come before its commit does.
    while drain.lsn() == before {
        drain.step().await.unwrap();
    }
    drain.task.as_mut().unwrap().close().await.unwrap();
    drain.task = None;
    let start = |offsets: SourceOffsets| {
        let plan = drain.plan.clone();
        async move {
            match PostgresSource::start(plan, offsets, context()).await {
                Ok(_) => panic!("resumed"),
                Err(error) => (error.class, error.code),
            }
        }
    };
    assert_eq!(start(old.clone()).await, (Class::Fatal, "PG_SLOT_AHEAD"));
    let mut foreign = drain.stored.clone();
    foreign.values_mut().next().unwrap().0.insert("system_id".into(), json!("1"));
    assert_eq!(start(foreign).await, (Class::Fatal, "PG_OTHER_SYSTEM"));
    let mut future = drain.stored.clone();
    future.values_mut().next().unwrap().0.insert("lsn".into(), json!(i64::MAX));
    assert_eq!(start(future).await, (Class::Fatal, "PG_POSITION_UNKNOWN"));
    db.run(&format!("SELECT pg_drop_replication_slot('{}')", drain.plan.slot)).await;
    assert_eq!(start(drain.stored.clone()).await, (Class::Fatal, "PG_SLOT_MISSING"));
    // Dropped and created again by somebody: its position is ahead of ours.
    db.run("INSERT INTO a VALUES (2)").await;
    db.run(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", drain.plan.slot)).await;
    assert_eq!(start(drain.stored.clone()).await, (Class::Fatal, "PG_SLOT_AHEAD"));
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_finds_everything_at_once() {
    let db = Database::new().await;
    let role = format!("{}_r", db.name);
    db.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'sesame'; CREATE TABLE a (id int); CREATE TABLE b (id int PRIMARY KEY)"))
        .await;
    let mut plan = db.plan(json!({}));
    plan.connection.config.user = role.clone();
    plan.connection.config.password = rowstream_api::Secret::new("open");
    let wrong = PostgresSource::preflight(&plan).await.unwrap_err();
    assert_eq!((wrong.class, wrong.code), (Class::Config, "PG_AUTHENTICATION"), "{wrong:?}");
    let wrong = match PostgresSource::start(plan.clone(), SourceOffsets::new(), context()).await {
        Ok(_) => panic!("started"),
        Err(error) => error,
    };
    assert_eq!((wrong.class, wrong.code), (Class::Config, "PG_AUTHENTICATION"), "{wrong:?}");
    plan.connection.config.password = rowstream_api::Secret::new("sesame");
    let found = PostgresSource::preflight(&plan).await.unwrap_err();
    let (message, remedy) = (found.message, found.remedy.unwrap());
    for part in [
        "may not replicate",
        "`public.a` has no replica identity",
        "may not read table `public.b`",
        "publication",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    for part in [
        format!("ALTER ROLE \"{role}\" REPLICATION;"),
        "ALTER TABLE \"public\".\"a\" REPLICA IDENTITY FULL;".to_owned(),
        format!("GRANT SELECT ON \"public\".\"b\" TO \"{role}\";"),
        "CREATE PUBLICATION".to_owned(),
    ] {
        assert!(remedy.contains(&part), "{part}: {remedy}");
    }
    // What it prints mends it.
    db.run(&remedy).await;
    plan.publication_mode = rowstream_postgres::source_config::PublicationMode::Disabled;
    PostgresSource::preflight(&plan).await.unwrap();
    // And the role can stream with what it was given, over SCRAM.
    let mut drain = Drain::start(plan.clone()).await;
    db.run("INSERT INTO b VALUES (1)").await;
    drain.until_count(1).await;
    drain.task = None;
    db.run(&format!("DROP OWNED BY {role}")).await;
    let admin = plan_with("postgres", json!({})).connection.connect().await.unwrap();
    db.remove().await;
    admin.client.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_slot_names_the_blocker_and_leaves_nothing_behind() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY)").await;
    let blocker = db.connect().await;
    blocker.client.batch_execute("BEGIN; INSERT INTO a VALUES (1)").await.unwrap();
    let plan = db.plan(json!({ "slot_creation_timeout": "1s" }));
    let error = match PostgresSource::start(plan.clone(), SourceOffsets::new(), context()).await {
        Ok(_) => panic!("started"),
        Err(error) => error,
    };
    assert_eq!((error.class, error.code), (Class::Transient, "PG_SLOT_BLOCKED"), "{error:?}");
    assert!(error.message.contains("pid ") && error.message.contains("user `postgres`"), "{error}");
    blocker.client.batch_execute("COMMIT").await.unwrap();
    let mut drain = Drain::start(plan).await;
    db.run("INSERT INTO a VALUES (2)").await;
    drain.until_count(1).await;
    assert_eq!(drain.lines(), ["a c - > 2"]);
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_arrive_under_their_root() {
    let db = Database::new().await;
    db.run(
        "CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)",
    )
    .await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("INSERT INTO p VALUES (1, 'a'), (11, 'b'); UPDATE p SET id = 12 WHERE id = 1; TRUNCATE p").await;
    drain.until(|events| events.iter().any(|e| e.op == Op::Truncate)).await;
    assert_eq!(
        drain.lines(),
        ["p c - > 1|a", "p c - > 11|b", "p d 1|ABSENT > -", "p c - > 12|a", "p t - > -"]
    );
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_not_poll_stays_connected() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY, v text)").await;
    db.run(&format!("ALTER DATABASE {} SET wal_sender_timeout = '2s'", db.name)).await;
    let plan = db.plan(json!({ "status_interval": "300ms", "queue_bytes": "64KiB", "batch_bytes": "16KiB" }));
    let mut drain = Drain::start(plan).await;
    db.run("INSERT INTO a SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g").await;
    // Nothing polls while the server hears from us for longer than its patience.
    let heard = format!(
        "SELECT extract(epoch FROM reply_time)::float8 FROM pg_stat_replication
         WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE database = '{}')",
        db.name
    );
    let first: f64 = db.one(&heard).await;
    while db.one::<f64>(&heard).await < first + 5.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drain.until_count(20_000).await;
    assert_eq!(drain.events.len(), 20_000);
    drain.task = None;
    db.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_channel_binding_are_used() {
    let db = Database::new().await;
    let role = format!("{}_tls", db.name);
    db.run(&format!(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'sesame'"
    ))
    .await;
    let mut plan = db.plan(json!({}));
    plan.connection.config.user = role.clone();
    plan.connection.config.password = rowstream_api::Secret::new("sesame");
    plan.connection.config.tls.mode = TlsMode::Require;
    let files = tempfile::tempdir().unwrap();
    let client = rcgen::generate_simple_self_signed(vec!["rowstream".to_owned()]).unwrap();
    for (name, text, field) in [
        ("cert.pem", client.cert.pem(), &mut plan.connection.config.tls.cert_file),
        ("key.pem", client.signing_key.serialize_pem(), &mut plan.connection.config.tls.key_file),
    ] {
        std::fs::write(files.path().join(name), text).unwrap();
        *field = Some(files.path().join(name).to_str().unwrap().to_owned());
    }
    let mut drain = Drain::start(plan.clone()).await;
    let published = async {
        while !drain.cx.gauges.values().iter().any(|g| g.0 == "tls_certificate_expiry_timestamp_seconds") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, published).await.expect("the monitor says when the certificate ends");
    db.run("INSERT INTO a VALUES (1)").await;
    drain.until_count(1).await;
    let encrypted: bool = db
        .one(&format!(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) WHERE usename = '{role}'"
        ))
        .await;
    assert!(encrypted);
    drain.task = None;
    plan.connection.config.tls.mode = TlsMode::VerifyFull;
    let refused = match PostgresSource::start(plan, drain.stored.clone(), context()).await {
        Ok(_) => panic!("an unknown certificate was accepted"),
        Err(error) => error,
    };
    assert_eq!((refused.class, refused.code), (Class::Config, "TLS_HANDSHAKE"), "{refused:?}");
    let admin = plan_with("postgres", json!({})).connection.connect().await.unwrap();
    db.remove().await;
    admin.client.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_missing_is_a_loss_that_is_said() {
    let db = Database::new().await;
    db.run("CREATE TABLE a (id int PRIMARY KEY)").await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("INSERT INTO a VALUES (1)").await;
    drain.until_count(1).await;
    let name = drain.plan.publication.clone();
    // Dropped, written to, and created again: 13 to 17 stop with an error, 18 skips the row with a warning.
    db.run(&format!("DROP PUBLICATION {name}")).await;
    db.run("INSERT INTO a VALUES (2)").await;
    db.run(&format!("CREATE PUBLICATION {name} FOR TABLE a")).await;
    db.run("INSERT INTO a VALUES (3)").await;
    let error = loop {
        match drain.step().await {
            Ok(changes) => assert_eq!(changes, 0),
            Err(error) => break error,
        }
    };
    assert_eq!((error.class, error.code), (Class::Fatal, "PG_PUBLICATION_MISSING"), "{error:?}");
    drain.task = None;
    db.remove().await;
}

/// What `validate` checks transforms against is what the stream delivers.
#[tokio::test(flavor = "multi_thread")]
async fn the_tables_that_are_told_are_those_of_the_stream() {
    let db = Database::new().await;
    db.run("CREATE TABLE t (id int PRIMARY KEY, amount numeric(9,2) NOT NULL DEFAULT 1, day date, note jsonb, gone int); ALTER TABLE t DROP gone").await;
    let mut drain = Drain::start(db.plan(json!({}))).await;
    db.run("INSERT INTO t (id) VALUES (1)").await;
    let mut streamed = None;
    while streamed.is_none() {
        let batch = drain.poll().await.unwrap();
        let mut visit = |view: rowstream_api::ChangeView<'_>| {
            streamed = Some(std::sync::Arc::clone(view.table));
            Ok(())
        };
        batch.changes.visit(&mut visit).unwrap();
    }
    let (streamed, told) = (streamed.unwrap(), PostgresSource::tables(&drain.plan).await.unwrap());
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0].topic, &told[0].key), (&streamed.topic, &streamed.key));
    assert_eq!((&told[0].value, &told[0].envelope), (&streamed.value, &streamed.envelope));
    drain.task = None;
    db.remove().await;
}
