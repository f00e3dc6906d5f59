//! A mixed, seeded workload: single and multi-row statements, several tables in one transaction, changes of primary keys,
//! large values left alone, COPY, savepoints, rollbacks, and now and then a transaction of thousands of rows.
//!
//! Writers fight over the same keys, so some of their transactions fail (duplicate keys, deadlocks). That is intended: what
//! failed is not in the ledger, and must not be in a topic.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use fastrand::Rng;

use crate::support::postgres::{Database, Sql};

const KEYS: i32 = 400;

/// Rows that are there before anything captures them.
pub fn fill(sql: &Sql, rows: u32) {
    sql.run(&format!(
        "INSERT INTO customers SELECT i, nextval('audit.version'), 'first ' || i, i % 3 = 0,
             CASE WHEN i % 5 = 0 THEN repeat(md5(i::text), 100) END FROM generate_series(1, {KEYS}) i;
         INSERT INTO orders (region, id, version, customer, amount, note)
             SELECT CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, i, nextval('audit.version'), i % {KEYS}, i / 7.0, 'old'
             FROM generate_series(1, {KEYS}) i;
         INSERT INTO visits SELECT i, nextval('audit.version'), '/p/' || i, NULL FROM generate_series(1, {rows}) i"
    ));
}

/// Writers at work until they are stopped.
pub struct Workload {
    stop: Arc<AtomicBool>,
    pub committed: Arc<AtomicU64>,
    writers: Vec<JoinHandle<()>>,
}

impl Workload {
    pub fn start(database: &Database, writers: u64, seed: u64, pause: Duration) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers = (0..writers)
            .map(|n| {
                let (sql, stop, committed) = (database.connect(), Arc::clone(&stop), Arc::clone(&committed));
                let mut rng = Rng::with_seed(seed + n);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        if transaction(&sql, &mut rng) {
                            committed.fetch_add(1, Ordering::SeqCst);
                        }
                        std::thread::sleep(pause);
                    }
                })
            })
            .collect();
        Self { stop, committed, writers }
    }

    /// Ends after the transactions in flight.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for writer in self.writers {
            writer.join().unwrap();
        }
        self.committed.load(Ordering::SeqCst)
    }
}

/// One transaction; whether it committed.
fn transaction(sql: &Sql, rng: &mut Rng) -> bool {
    let mut text = "BEGIN;\n".to_owned();
    for _ in 0..rng.u32(1..5) {
        statement(&mut text, rng);
        if rng.u8(0..10) == 0 {
            text.push_str("SAVEPOINT s;\n");
            statement(&mut text, rng);
            text.push_str(if rng.bool() { "ROLLBACK TO SAVEPOINT s;\n" } else { "RELEASE SAVEPOINT s;\n" });
        }
    }
    if rng.u8(0..200) == 0 {
        let (from, page) = (rng.i64(1..1 << 40), rng.u32(..));
        writeln!(text, "INSERT INTO visits SELECT i, nextval('audit.version'), '/big/{page}', NULL FROM generate_series({from}, {from} + 3000) i ON CONFLICT DO NOTHING;").unwrap();
    }
    let copied = rng.u8(0..10) == 0;
    let rolled_back = rng.u8(0..8) == 0;
    let mut done = sql.try_run(&text).is_ok();
    if done && copied {
        let first = rng.i64(1 << 41..1 << 50);
        let lines: String = (first..first + 20).map(|i| format!("{i}\t{i}\t/copied\t\\N\n")).collect();
        done = sql.copy_in("COPY visits FROM STDIN", &lines).is_ok();
    }
    let end = if rolled_back || !done { "ROLLBACK" } else { "COMMIT" };
    sql.run(end);
    done && !rolled_back
}

fn statement(text: &mut String, rng: &mut Rng) {
    let (id, other) = (rng.i32(1..=KEYS), rng.i32(1..=KEYS));
    let region = if rng.bool() { "eu" } else { "us" };
    let word = rng.u32(..);
    let version = "version = nextval('audit.version')";
    let written = match rng.u8(0..13) {
        0 => writeln!(
            text,
            "INSERT INTO customers VALUES ({id}, nextval('audit.version'), 'n{word}', true, NULL) ON CONFLICT DO NOTHING;"
        ),
        1 => writeln!(
            text,
            "INSERT INTO customers SELECT i, nextval('audit.version'), 'm{word}', false, repeat(md5('{word}'), 100) FROM generate_series({id}, {id} + 7) i ON CONFLICT DO NOTHING;"
        ),
        // Leaves a large note alone: the stream has no value for it.
        2 | 3 => writeln!(text, "UPDATE customers SET name = 'u{word}', {version} WHERE id = {id};"),
        4 => writeln!(
            text,
            "UPDATE customers SET note = repeat(md5('{word}'), 90), {version} WHERE id BETWEEN {id} AND {id} + 3;"
        ),
        5 => writeln!(text, "DELETE FROM customers WHERE id = {id};"),
        6 => writeln!(
            text,
            "UPDATE customers SET id = {other}, {version} WHERE id = {id} AND NOT EXISTS (SELECT FROM customers WHERE id = {other});"
        ),
        7 => writeln!(
            text,
            "INSERT INTO orders (region, id, version, customer, amount, note) VALUES ('{region}', {id}, nextval('audit.version'), {other}, {word} / 100.0, repeat('x', {id} * 10)) ON CONFLICT DO NOTHING;"
        ),
        8 => writeln!(text, "UPDATE orders SET amount = {word} / 100.0, {version} WHERE id = {id};"),
        9 => writeln!(text, "DELETE FROM orders WHERE region = '{region}' AND id BETWEEN {id} AND {id} + 2;"),
        10 => writeln!(
            text,
            "UPDATE orders o SET region = '{region}', {version} WHERE id = {id} AND region <> '{region}' AND NOT EXISTS (SELECT FROM orders p WHERE p.id = {id} AND p.region = '{region}');"
        ),
        11 => writeln!(
            text,
            "INSERT INTO visits VALUES ({}, nextval('audit.version'), '/v/{word}', 'ünïcødé \"quoted\" {word}') ON CONFLICT DO NOTHING;",
            rng.i64(1 << 51..1 << 60)
        ),
        // The same row twice in one transaction.
        _ => writeln!(
            text,
            "UPDATE customers SET vip = NOT vip, {version} WHERE id = {id};\nUPDATE customers SET name = 'again{word}', {version} WHERE id = {id};"
        ),
    };
    written.unwrap();
}
