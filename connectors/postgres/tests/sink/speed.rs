//! Upserts a second as a share of COPY; run by hand: `cargo test --release -p rowstream-postgres --test sink speed -- --ignored --nocapture`.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures::SinkExt;
use rowstream_api::{SchemaType, SinkRecord, ValueRef};
use serde_json::json;

use crate::{
    records::{Owned, Topic, int, named, schema, text},
    target::{Target, done},
};

const COLUMNS: &str = "id bigint PRIMARY KEY, a text, b text, c int, d bigint, e timestamp, f numeric(12,2), g bool, h float8, i text";
const RECORDS: usize = 300_000;

fn topic() -> Topic {
    let decimal = rowstream_api::SchemaBuilder::new(SchemaType::Bytes)
        .optional()
        .name("org.apache.kafka.connect.data.Decimal")
        .parameter("scale", "2")
        .build();
    let columns = [
        ("id", schema(SchemaType::Int64)),
        ("a", text()),
        ("b", text()),
        ("c", int()),
        ("d", schema(SchemaType::Int64)),
        ("e", named(SchemaType::Int64, "io.debezium.time.MicroTimestamp")),
        ("f", decimal),
        ("g", schema(SchemaType::Boolean)),
        ("h", schema(SchemaType::Float64)),
        ("i", text()),
    ];
    Topic::new("bench", 1, &columns.map(|(name, schema)| (name, Arc::clone(&schema))))
}

/// Keys spread over two million, without repeating soon.
fn key(i: usize) -> i64 {
    i64::try_from(i.wrapping_mul(1_299_709) % 2_000_000).unwrap()
}

fn row(i: usize) -> Vec<Owned> {
    let id = key(i);
    vec![
        ValueRef::Int(id),
        ValueRef::str("some text of a middling length, forty bytes"),
        ValueRef::str("customer@example.com"),
        ValueRef::Int(id % 1000),
        ValueRef::Int(id * 77),
        ValueRef::Int(1_700_000_000_000_000 + id),
        ValueRef::bytes(&[4, 210]),
        ValueRef::Bool(id % 2 == 0),
        ValueRef::Float64(0.25),
        ValueRef::str("a status word"),
    ]
}

fn copy_text(from: usize, count: usize) -> Bytes {
    let mut out = String::new();
    for i in from..from + count {
        let id = i;
        out.push_str(&format!(
            "{id}\tsome text of a middling length, forty bytes\tcustomer@example.com\t{}\t{}\t2023-11-14 22:13:20.5\t12.34\tt\t0.25\ta status word\n",
            id % 1000,
            id * 77
        ));
    }
    Bytes::from(out)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn speed() {
    let target = Target::new().await;
    for (flush, chunk) in [(5_000, 5_000), (20_000, 2_000), (20_000, 5_000)] {
        let copied = copy(&target, flush).await;
        target.sql(&format!("DROP TABLE IF EXISTS bench; CREATE TABLE bench ({COLUMNS}); DROP SCHEMA IF EXISTS rowstream CASCADE")).await;
        target.sql("INSERT INTO bench SELECT i * 2, repeat('x', 40), 'y', 1, 2, now(), 3, true, 0.5, 'z' FROM generate_series(1, 1000000) i").await;
        target.sql("VACUUM ANALYZE bench").await;
        target.sql("CHECKPOINT").await;
        let mut t = topic();
        let mut task = target.open(json!({ "batch_rows_max": chunk }), &t.partition).await;
        let batches: Vec<Vec<SinkRecord>> = (0..RECORDS / flush)
            .map(|b| (0..flush).map(|i| t.update(row(b * flush + i))).collect())
            .collect();
        let started = Instant::now();
        for batch in batches {
            done(&mut task, batch).await;
        }
        let upserted = (RECORDS / flush * flush) as f64 / started.elapsed().as_secs_f64();
        eprintln!(
            "flush {flush:6} statement {chunk:6}: upsert {upserted:8.0}/s, COPY {copied:8.0}/s, ratio {:.2}",
            upserted / copied
        );
    }
}

async fn copy(target: &Target, batch: usize) -> f64 {
    target.sql(&format!("DROP TABLE IF EXISTS bench; CREATE TABLE bench ({COLUMNS})")).await;
    target.sql("CHECKPOINT").await;
    let batches: Vec<Bytes> = (0..RECORDS / batch).map(|b| copy_text(b * batch, batch)).collect();
    let started = Instant::now();
    for bytes in batches {
        let mut sink = Box::pin(target.db.client.copy_in::<_, Bytes>("COPY bench FROM STDIN").await.unwrap());
        sink.send(bytes).await.unwrap();
        sink.as_mut().finish().await.unwrap();
    }
    (RECORDS / batch * batch) as f64 / started.elapsed().as_secs_f64()
}
