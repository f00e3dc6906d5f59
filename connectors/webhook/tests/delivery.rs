//! The webhook against a real HTTP server: order, ids, signatures, retries, refusals, offsets, budgets.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test panics where it finds something else"
)]

mod receiver;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use receiver::{Delivery, Receiver, Reply};
use rowstream_api::{
    Datum, DatumDecoder, Delivery as Promise, Gauges, RecordError, RecordId, Schema, SchemaBuilder,
    SchemaType, SinkConnector, SinkRecord, SinkTask, StartReason, TaskContext, TopicOffsets, TopicPartition,
    ValueRef,
};
use rowstream_webhook::{WebhookSink, WebhookTask};
use serde_json::json;
use tokio::sync::{Barrier, Semaphore};

/// Reads a struct of integers written as `1 2 3`, of any nesting: `null` and `{1 2}` are understood by position.
#[derive(Debug)]
struct Numbers(Arc<Schema>);

impl DatumDecoder for Numbers {
    fn schema(&self) -> &Arc<Schema> {
        &self.0
    }
    fn decode<'a>(&self, bytes: &'a [u8]) -> Result<ValueRef<'a>, RecordError> {
        let all: Vec<usize> = (0..self.0.fields().len()).collect();
        self.decode_fields(bytes, &all).map(ValueRef::Struct)
    }
    fn decode_fields<'a>(&self, bytes: &'a [u8], wanted: &[usize]) -> Result<Vec<ValueRef<'a>>, RecordError> {
        let text = std::str::from_utf8(bytes).unwrap();
        if text == "undecodable" {
            return Err(RecordError::value("TEST_UNDECODABLE", "not a datum"));
        }
        Ok(text
            .split(' ')
            .enumerate()
            .map(|(index, word)| match (wanted.contains(&index), word.parse()) {
                (false, _) => ValueRef::Absent,
                (true, Ok(number)) => ValueRef::Int(number),
                (true, Err(_)) if word == "null" => ValueRef::Null,
                (true, Err(_)) => match word.strip_prefix("row:") {
                    Some(number) => ValueRef::Struct(vec![ValueRef::Int(number.parse().unwrap())]),
                    None => ValueRef::str(word),
                },
            })
            .collect())
    }
}

fn int_struct(name: &str, field: &str) -> Arc<Schema> {
    let int = SchemaBuilder::new(SchemaType::Int64).build();
    SchemaBuilder::structure().name(name).field(field, int).optional().build()
}

fn envelope() -> Arc<Schema> {
    let row = int_struct("shop.public.t.Value", "n");
    let op = SchemaBuilder::new(SchemaType::String).build();
    SchemaBuilder::structure()
        .name("shop.public.t.Envelope")
        .field("before", row.clone())
        .field("after", row)
        .field("op", op)
        .build()
}

fn datum(schema: Arc<Schema>, text: String) -> Datum {
    Datum { bytes: Bytes::from(text), decoder: Arc::new(Numbers(schema)) }
}

fn place(partition: u32, offset: i64) -> RecordId {
    RecordId { partition: TopicPartition::new("shop.public.t", partition), offset }
}

/// An update of row `key`.
fn record(partition: u32, offset: i64, key: i64) -> SinkRecord {
    SinkRecord {
        id: place(partition, offset),
        topic: "shop.public.t".into(),
        dropped: false,
        timestamp_ms: 1_700_000_000_000 + offset,
        key: Some(datum(int_struct("shop.public.t.Key", "id"), key.to_string())),
        value: Some(datum(envelope(), format!("null row:{offset} u"))),
        headers: Vec::new(),
    }
}

/// Fast retries and a patience that a loaded machine does not exhaust; `more` overrides.
fn config(url: &str, more: serde_json::Value) -> serde_json::Value {
    let mut config = json!({
        "url": url,
        "timeout": "20s",
        "retry": {"attempts": 10, "backoff_initial": "1ms", "backoff_max": "5ms"},
    });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

struct Driven {
    task: WebhookTask,
    gauges: Gauges,
    offsets: TopicOffsets,
    refused: BTreeMap<RecordId, RecordError>,
}

impl Driven {
    async fn start(url: &str, more: serde_json::Value) -> Self {
        let config = serde_json::from_value(config(url, more)).unwrap();
        let plan = WebhookSink::validate(config).unwrap();
        let gauges = Gauges::default();
        let cx = TaskContext {
            connector: "hook".into(),
            task: 0,
            gauges: gauges.clone(),
            log_id: "log-7f3a".into(),
            start: StartReason::Connector,
        };
        let mut task = WebhookSink::start(plan, cx).await.unwrap();
        let held = task.open(&[TopicPartition::new("shop.public.t", 0)]).await.unwrap();
        assert!(held.is_empty(), "an endpoint stores no offsets");
        Self { task, gauges, offsets: BTreeMap::new(), refused: BTreeMap::new() }
    }

    async fn put(&mut self, records: Vec<SinkRecord>) {
        assert!(self.task.put(records).await.unwrap().is_empty());
    }

    async fn flush(&mut self) {
        let flushed = self.task.flush().await.unwrap();
        for (partition, offset) in flushed.offsets {
            let before = self.offsets.insert(partition, offset);
            assert!(before.is_none_or(|before| before <= offset), "an offset went back");
        }
        for (id, error) in flushed.refused {
            assert!(self.refused.insert(id, error).is_none(), "refused twice");
        }
    }

    /// Runs as the sink loop does, until this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let run = async {
            loop {
                self.flush().await;
                if holds(self) {
                    return;
                }
                // Some conditions are seen from outside the task, so its own news is not all there is to wait for.
                tokio::select! {
                    () = self.task.progress() => {}
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(60), run).await;
        assert!(done.is_ok(), "still waiting for: {what}");
    }

    fn offset(&self, partition: u32) -> Option<i64> {
        self.offsets.get(&place(partition, 0).partition).copied()
    }
    async fn until_offset(&mut self, offset: i64) {
        self.until("the offset", |t| t.offset(0) == Some(offset)).await;
    }
    fn note(&self) -> Option<String> {
        self.gauges.notes().into_iter().find(|(name, _)| *name == "webhook_endpoint").map(|(_, text)| text)
    }
}

fn offsets_of(deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().map(Delivery::offset).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_is_delivered_in_order_while_a_third_of_the_answers_fail() {
    let receiver = Receiver::start(|d| {
        // A stable pseudo-random choice by id and attempt: some records fail once, some several times.
        let seed: u32 = d.id().bytes().map(u32::from).sum::<u32>() + u32::try_from(d.attempt).unwrap() * 7;
        match seed % 6 {
            0 => Reply::Status(500),
            1 => Reply::Drop,
            _ => Reply::Status(200),
        }
    })
    .await;
    let mut task = Driven::start(
        &receiver.url(),
        json!({"retry": {"attempts": 100, "backoff_initial": "1ms", "backoff_max": "3ms"}}),
    )
    .await;
    for offset in 0..150 {
        task.put(vec![record(0, offset, offset * 7 % 11), record(1, offset, offset % 5)]).await;
    }
    task.until("everything", |t| t.offset(0) == Some(150) && t.offset(1) == Some(150)).await;
    assert!(task.refused.is_empty());
    assert_eq!(receiver.overlaps(), 0, "two requests of one key were in flight together");
    let mut by_key: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for delivery in receiver.accepted() {
        by_key.entry(delivery.key()).or_default().push(delivery.offset());
    }
    assert_eq!(by_key.len(), 16);
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 300);
    assert!(by_key.values().all(|offsets| offsets.is_sorted()), "{by_key:?}");
    assert!(receiver.deliveries().len() > 330, "the failures must have happened");
    assert_eq!(task.task.pending_bytes(), 0);
}

#[tokio::test]
async fn keys_are_delivered_in_parallel_up_to_the_limit() {
    let barrier = Arc::new(Barrier::new(4));
    let receiver = Receiver::start(move |_| Reply::Meet(barrier.clone())).await;
    let mut task = Driven::start(&receiver.url(), json!({"concurrency": 4})).await;
    // No answer comes before four requests are there, so this ends only if four run side by side.
    task.put((0..8).map(|n| record(0, n, n)).collect()).await;
    task.until_offset(8).await;
    assert!(receiver.connections() <= 5, "connections are kept: {}", receiver.connections());
}

#[tokio::test]
async fn a_redelivery_after_a_crash_carries_the_same_ids_and_bodies() {
    let receiver = Receiver::start(|_| Reply::Status(200)).await;
    let records = || (0..20).map(|n| record(0, n, n % 3)).collect::<Vec<_>>();
    let mut task = Driven::start(&receiver.url(), json!({})).await;
    task.put(records()).await;
    task.until("half of it", |_| receiver.accepted().len() >= 10).await;
    drop(task); // Nothing was committed.
    let before = receiver.deliveries().len();
    let mut task = Driven::start(&receiver.url(), json!({})).await;
    task.put(records()).await;
    task.until_offset(20).await;
    let mut seen: BTreeMap<i64, BTreeSet<(String, String)>> = BTreeMap::new();
    let deliveries = receiver.deliveries();
    assert!(before >= 10 && deliveries.len() - before == 20);
    for delivery in &deliveries {
        seen.entry(delivery.offset()).or_default().insert((delivery.id().to_owned(), delivery.body.clone()));
    }
    assert!(seen.len() == 20 && seen.values().all(|bodies| bodies.len() == 1), "{seen:?}");
    let ids: BTreeSet<&str> = deliveries.iter().map(Delivery::id).collect();
    assert_eq!(ids.len(), 20, "two records never share an id");
}

#[tokio::test]
async fn bodies_and_headers_are_as_documented() {
    let receiver = Receiver::start(|_| Reply::Status(204)).await;
    let more = json!({"headers": {"authorization": "Bearer t0ken", "x-tenant": "a"}, "tombstones": "send"});
    let mut task = Driven::start(&receiver.url(), more).await;
    let tombstone = SinkRecord { value: None, ..record(0, 1, 7) };
    let keyless = SinkRecord { key: None, ..record(0, 2, 0) };
    task.put(vec![record(0, 0, 7), tombstone, keyless]).await;
    task.until_offset(3).await;
    let mut deliveries = receiver.deliveries();
    deliveries.sort_by_key(Delivery::offset);
    let first = &deliveries[0];
    assert_eq!(
        first.body,
        format!(
            r#"{{"id":"{}","topic":"shop.public.t","partition":0,"offset":0,"timestamp_ms":1700000000000,"key":{{"id":7}},"value":{{"before":null,"after":{{"n":0}},"op":"u"}}}}"#,
            first.id()
        )
    );
    assert_eq!(first.path, "/hook?from=rowstream");
    assert_eq!(first.headers["authorization"], "Bearer t0ken");
    assert_eq!(first.headers["x-tenant"], "a");
    assert_eq!(first.headers["content-type"], "application/json");
    assert_eq!(first.headers["user-agent"], format!("rowstream/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(first.headers["host"], receiver.address.to_string());
    assert!(!first.headers.contains_key("webhook-signature"), "no secrets, no signature");
    assert!(deliveries[1].body.ends_with(r#""key":{"id":7},"value":null}"#), "{}", deliveries[1].body);
    assert!(deliveries[2].body.contains(r#""key":null,"#), "{}", deliveries[2].body);
}

#[tokio::test]
async fn body_after_sends_the_row_and_the_operation_and_tombstones_are_skipped() {
    let receiver = Receiver::start(|_| Reply::Status(200)).await;
    let mut task = Driven::start(&receiver.url(), json!({"body": "after"})).await;
    let delete = SinkRecord { value: Some(datum(envelope(), "row:1 null d".into())), ..record(0, 1, 7) };
    let tombstone = SinkRecord { value: None, ..record(0, 2, 7) };
    let flat = SinkRecord { value: Some(datum(int_struct("flat", "n"), "5".into())), ..record(0, 3, 7) };
    task.put(vec![record(0, 0, 7), delete, tombstone, flat]).await;
    task.until_offset(4).await;
    let tails: Vec<String> =
        receiver.deliveries().iter().map(|d| d.body.split_once(r#""op""#).unwrap().1.to_owned()).collect();
    assert_eq!(tails, [r#":"u","value":{"n":0}}"#, r#":"d","value":null}"#, r#":null,"value":{"n":5}}"#]);
}

#[tokio::test]
async fn signatures_verify_with_each_secret_while_they_are_rotated() {
    let receiver = Receiver::start(|_| Reply::Status(200)).await;
    let secrets = [[7u8; 32], [9u8; 32]].map(|key| format!("whsec_{}", STANDARD.encode(key)));
    let mut task = Driven::start(&receiver.url(), json!({"signing": {"secrets": secrets}})).await;
    task.put(vec![record(0, 0, 1)]).await;
    task.until_offset(1).await;
    let delivery = &receiver.deliveries()[0];
    let timestamp = &delivery.headers["webhook-timestamp"];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(timestamp.parse().unwrap()) < 60);
    let signed = format!("{}.{timestamp}.{}", delivery.id(), delivery.body);
    let signatures: Vec<&str> = delivery.headers["webhook-signature"].split(' ').collect();
    assert_eq!(signatures.len(), 2);
    for (key, signature) in [[7u8; 32], [9u8; 32]].iter().zip(signatures) {
        // ring, not the code under test.
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        let bytes = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
        ring::hmac::verify(&key, signed.as_bytes(), &bytes).expect("the signature verifies");
    }
}

#[tokio::test]
async fn every_answer_that_may_heal_is_tried_again_with_the_same_id_and_body() {
    let receiver = Receiver::start(|d| match (d.offset(), d.attempt) {
        (0, 1) => Reply::Status(500),
        (1, 1) => Reply::Status(408),
        (2, 1) => Reply::Status(425),
        (3, 1) => Reply::Status(429),
        (4, 1) => Reply::Status(503),
        (5, 1) => Reply::Hang,
        (6, 1) => Reply::Drop,
        _ => Reply::Status(200),
    })
    .await;
    let mut task = Driven::start(&receiver.url(), json!({"timeout": "500ms"})).await;
    task.put((0..7).map(|n| record(0, n, n)).collect()).await;
    task.until_offset(7).await;
    assert!(task.refused.is_empty(), "{:?}", task.refused);
    let accepted = receiver.accepted();
    assert_eq!(offsets_of(&accepted).into_iter().collect::<BTreeSet<_>>().len(), 7);
    for delivery in receiver.deliveries() {
        let same = accepted.iter().find(|a| a.offset() == delivery.offset()).unwrap();
        assert_eq!((same.id(), &same.body), (delivery.id(), &delivery.body));
    }
    assert!(accepted.iter().all(|d| d.attempt == 2 || d.offset() == 6));
}

#[tokio::test]
async fn retry_after_is_obeyed_in_seconds_and_as_a_date() {
    let receiver = Receiver::start(|d| match (d.offset(), d.attempt) {
        (0, 1) => Reply::With(503, "Retry-After", "1".into()),
        // Dates have whole seconds: three ahead are at least two.
        (1, 1) => {
            let then = std::time::SystemTime::now() + Duration::from_secs(3);
            Reply::With(503, "retry-after", httpdate::fmt_http_date(then))
        }
        _ => Reply::Status(200),
    })
    .await;
    let mut task = Driven::start(&receiver.url(), json!({})).await;
    task.put((0..3).map(|n| record(0, n, n)).collect()).await;
    task.until_offset(3).await;
    for (offset, wait) in [(0, 1), (1, 2)] {
        let at: Vec<_> =
            receiver.deliveries().iter().filter(|d| d.offset() == offset).map(|d| d.at).collect();
        assert!(at.len() == 2 && at[1] - at[0] >= Duration::from_secs(wait), "{at:?}");
    }
}

#[tokio::test]
async fn a_429_holds_back_every_key_and_costs_no_attempt() {
    let receiver = Receiver::start(|d| match (d.offset(), d.attempt) {
        (0, 1) => Reply::With(429, "retry-after", "1".into()),
        (0, 2..5) => Reply::Status(429),
        _ => Reply::Status(200),
    })
    .await;
    let retry = json!({"attempts": 1, "backoff_initial": "1ms", "backoff_max": "5ms"});
    let mut task = Driven::start(&receiver.url(), json!({"retry": retry, "concurrency": 1})).await;
    task.put((0..4).map(|n| record(0, n, n)).collect()).await;
    task.until_offset(4).await;
    assert!(task.refused.is_empty(), "{:?}", task.refused);
    let deliveries = receiver.deliveries();
    assert!(deliveries[1].at - deliveries[0].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn answers_that_will_not_change_are_refused_at_once_without_their_body() {
    let receiver = Receiver::start(|d| match d.offset() {
        0 => Reply::Status(410),
        1 => Reply::Status(404),
        2 => Reply::With(302, "location", "/hook?elsewhere".into()),
        _ => Reply::Status(200),
    })
    .await;
    let mut task = Driven::start(&receiver.url(), json!({})).await;
    let undecodable = SinkRecord { value: Some(datum(envelope(), "undecodable".into())), ..record(0, 3, 1) };
    task.put(vec![record(0, 0, 1), record(0, 1, 1), record(0, 2, 1), undecodable, record(0, 4, 1)]).await;
    task.until_offset(5).await;
    let refused: Vec<(i64, &str, &str)> =
        task.refused.iter().map(|(id, e)| (id.offset, e.code, e.stage.as_str())).collect();
    assert_eq!(
        refused,
        [
            (0, "HTTP_4XX", "TASK_PUT"),
            (1, "HTTP_4XX", "TASK_PUT"),
            (2, "HTTP_3XX", "TASK_PUT"),
            (3, "TEST_UNDECODABLE", "VALUE_CONVERTER")
        ]
    );
    let texts: Vec<String> = task.refused.values().map(ToString::to_string).collect();
    assert!(texts[0].contains("410 Gone") && texts[2].contains("redirects are not followed"), "{texts:?}");
    assert!(texts.iter().all(|text| !text.contains("secret") && !text.contains("elsewhere")));
    assert_eq!(
        offsets_of(&receiver.deliveries()),
        [0, 1, 2, 4],
        "one attempt each, and no redirect followed"
    );
}

#[tokio::test]
async fn a_poison_key_stops_only_itself_and_offsets_wait_for_it() {
    let receiver = Receiver::start(|d| match d.json["key"]["id"].as_i64() {
        Some(13) => Reply::With(500, "retry-after", "3000".into()),
        _ => Reply::Status(200),
    })
    .await;
    let mut task = Driven::start(&receiver.url(), json!({})).await;
    // Offset 2 is the poison, offset 5 stands behind it in its lane.
    let keys = [1, 2, 13, 1, 2, 13, 3, 4];
    let records = || keys.iter().zip(0..).map(|(&key, offset)| record(0, offset, key)).collect::<Vec<_>>();
    task.put(records()).await;
    task.until("the healthy keys", |_| receiver.accepted().len() == 6).await;
    task.until("its own lane is parked", |t| t.gauges.values().contains(&("webhook_parked_keys", 1.0))).await;
    assert_eq!(task.offset(0), Some(2), "no offset may pass the record that is not delivered");
    assert!(task.task.pending_bytes() > 0 && task.refused.is_empty());
    let flushed = task.task.close().await.unwrap();
    assert_eq!(flushed.offsets.into_values().collect::<Vec<_>>(), [2]);
    let failed = receiver.deliveries().iter().filter(|d| d.offset() == 5).count();
    assert_eq!(failed, 0, "the record behind the poison must wait for it");
}

#[tokio::test]
async fn a_record_that_used_up_its_attempts_is_refused_and_its_key_goes_on() {
    let receiver =
        Receiver::start(|d| if d.offset() == 0 { Reply::Status(500) } else { Reply::Status(200) }).await;
    let retry = json!({"attempts": 3, "backoff_initial": "1ms", "backoff_max": "5ms"});
    let mut task = Driven::start(&receiver.url(), json!({"retry": retry})).await;
    task.put(vec![record(0, 0, 1), record(0, 1, 1)]).await;
    task.until_offset(2).await;
    assert_eq!(offsets_of(&receiver.deliveries()), [0, 0, 0, 1]);
    let (id, error) = task.refused.first_key_value().unwrap();
    assert_eq!((id.offset, error.code), (0, "HTTP_RETRIES_EXHAUSTED"));
    assert_eq!(error.message, "3 attempts failed, the last one: 500 Internal Server Error");
}

#[tokio::test]
async fn while_the_endpoint_is_unreachable_nothing_is_refused_and_all_arrives_when_it_is_back() {
    let address = Receiver::start(|_| Reply::Status(200)).await.address; // Gone again: the port is refused.
    let url = format!("http://{address}/hook");
    let retry = json!({"attempts": 1, "backoff_initial": "1ms", "backoff_max": "10ms"});
    let mut task = Driven::start(&url, json!({"retry": retry})).await;
    task.put((0..30).map(|n| record(0, n, n)).collect()).await;
    task.until("the outage is told", |t| t.note().is_some()).await;
    let note = task.note().unwrap();
    assert!(note.contains(&address.to_string()) && note.contains("unreachable since"), "{note}");
    // Far more failures than any record has attempts.
    let again = tokio::time::Instant::now() + Duration::from_millis(300);
    task.until("many failures", |_| tokio::time::Instant::now() > again).await;
    assert!(task.refused.is_empty() && task.offset(0).is_none());
    let receiver = Receiver::start_at(address, |_| Reply::Status(200)).await;
    task.until_offset(30).await;
    assert!(task.refused.is_empty() && task.note().is_none());
    assert_eq!(receiver.accepted().len(), 30);
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced_without_a_failure() {
    // Two ways: it was closed while idle, and it is closed on a request that was already read.
    let receiver = Receiver::start(|d| match (d.offset() % 3, d.attempt) {
        (0, _) => Reply::OkThenClose,
        (1, _) => Reply::Status(200),
        (_, 1) => Reply::Drop,
        _ => Reply::Status(200),
    })
    .await;
    let retry = json!({"attempts": 1, "backoff_initial": "1ms", "backoff_max": "5ms"});
    let mut task = Driven::start(&receiver.url(), json!({"retry": retry})).await;
    task.put((0..20).map(|n| record(0, n, 1)).collect()).await;
    task.until_offset(20).await;
    assert!(task.refused.is_empty(), "{:?}", task.refused);
    assert_eq!(receiver.deliveries().len(), 26, "six requests were lost on a kept connection and sent again");
}

#[tokio::test]
async fn budgets_bound_what_is_held() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let receiver = Receiver::start(move |_| Reply::Gate(gate.clone())).await;
    let mut task = Driven::start(&receiver.url(), json!({"pending_records": 10})).await;
    task.put((0..9).map(|n| record(0, n, n)).collect()).await;
    assert!(!task.task.is_full());
    let nine = task.task.pending_bytes();
    task.put(vec![record(0, 9, 9)]).await;
    assert!(task.task.is_full() && task.task.pending_bytes() > nine);
    {
        let mut eleventh = std::pin::pin!(task.task.put(vec![record(0, 10, 10)]));
        let waits = tokio::time::timeout(Duration::from_millis(100), &mut eleventh).await;
        assert!(waits.is_err(), "no room: put must wait");
        opened.add_permits(1);
        eleventh.await.unwrap();
    }
    opened.add_permits(20);
    task.until_offset(11).await;
    assert!(!task.task.is_full() && task.task.pending_bytes() == 0);

    let mut task = Driven::start(&receiver.url(), json!({"pending_bytes": "1KiB"})).await;
    task.put((0..3).map(|n| record(0, n, n)).collect()).await;
    assert!(!task.task.is_full());
    task.put((3..5).map(|n| record(0, n, n)).collect()).await;
    assert!(task.task.is_full());
}

#[tokio::test]
async fn close_waits_for_what_is_in_flight_and_starts_nothing_more() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let receiver = Receiver::start(move |_| Reply::Gate(gate.clone())).await;
    let mut task = Driven::start(&receiver.url(), json!({"concurrency": 2})).await;
    task.put((0..6).map(|n| record(0, n, n)).collect()).await;
    task.until("two in flight", |_| receiver.deliveries().len() == 2).await;
    opened.add_permits(10);
    let flushed = task.task.close().await.unwrap();
    assert_eq!(flushed.offsets.into_values().collect::<Vec<_>>(), [2]);
    assert_eq!(
        offsets_of(&receiver.deliveries()).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([0, 1])
    );
}

#[tokio::test]
async fn preflight_connects_and_sends_nothing() {
    let receiver = Receiver::start(|_| Reply::Status(500)).await;
    let plan =
        |url: &str| WebhookSink::validate(serde_json::from_value(config(url, json!({}))).unwrap()).unwrap();
    WebhookSink::preflight(&plan(&receiver.url())).await.unwrap();
    assert!(receiver.deliveries().is_empty());
    assert!(matches!(WebhookSink::delivery(&plan(&receiver.url())), Promise::AtLeastOnce { .. }));
    let address = receiver.address;
    drop(receiver);
    let refused = WebhookSink::preflight(&plan(&format!("http://{address}/token"))).await.unwrap_err();
    assert_eq!(
        (refused.code, &*refused.message),
        ("WEBHOOK_UNREACHABLE", &*format!("connect to http://{address}"))
    );
    let nowhere = WebhookSink::preflight(&plan("https://nowhere.invalid/token")).await.unwrap_err();
    assert_eq!(nowhere.message, "connect to https://nowhere.invalid:443");
    let cause = rowstream_api::Chain(&nowhere).to_string();
    assert!(cause.contains("`nowhere.invalid` could not be resolved") && !cause.contains("token"), "{cause}");
}
