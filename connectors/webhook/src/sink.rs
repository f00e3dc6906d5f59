//! The sink task: accepts records, keeps requests in flight, and answers what is done.
//!
//! ```text
//!  put ─► completed.accept ─► lanes ─ take ─► flight (one request of one key)
//!                                ▲               │ answer
//!                 park / put back └──────────────┤
//!                                                ├─► delivered ─┐
//!                                                └─► refused ───┴─► completed.done ─► flush
//! ```
//!
//! Requests run on their own ([`JoinSet`]); everything else happens inside the calls of the sink loop: `put`, `flush` and
//! `progress` each take in the answers that have come and start what may start. All state is in `self`, so `progress`
//! may be dropped at any point. A record leaves its lane only in `finish`, which marks its offset as done in the same
//! step; there is no other way for a position to move.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rowstream_api::{
    ConfigErrors, ConnectorError, Datum, Delivery, Flushed, Gauges, RecordError, RecordId, SinkConnector,
    SinkRecord, SinkTask, TaskContext, TopicOffsets, TopicPartition,
};
use rowstream_http::Connector;
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};

use crate::{
    body::{self, Pending},
    completed::Completed,
    config::{self, BodyKind, Plan, Tombstones, WebhookConfig},
    error,
    lanes::{Head, Lanes},
    pace::Pace,
    preflight,
    request::{Answer, Endpoint},
    retry::{RetryPolicy, Verdict, verdict},
    sign::webhook_id,
};

/// The connector `webhook`.
pub struct WebhookSink;

impl SinkConnector for WebhookSink {
    const NAME: &'static str = "webhook";
    type Config = WebhookConfig;
    type Plan = Plan;
    type Task = WebhookTask;

    fn validate(config: WebhookConfig) -> Result<Plan, ConfigErrors> {
        config::validate(config)
    }

    fn delivery(_plan: &Plan) -> Delivery {
        Delivery::AtLeastOnce {
            because: "an answer can be lost on its way; a redelivery carries the same webhook-id, so an idempotent \
                      receiver sees each event once",
        }
    }

    async fn preflight(plan: &Plan) -> Result<(), ConnectorError> {
        preflight::check(plan).await
    }

    async fn start(plan: Plan, cx: TaskContext) -> Result<WebhookTask, ConnectorError> {
        let connector =
            Connector::new(plan.target.clone(), plan.timeout, &plan.trust).map_err(error::setup)?;
        Ok(WebhookTask::new(plan, connector, cx))
    }
}

/// A running webhook task.
pub struct WebhookTask {
    endpoint: Arc<Endpoint>,
    log_id: Arc<str>,
    retry: RetryPolicy,
    pending_bytes_max: usize,
    pending_records_max: usize,
    tombstones: Tombstones,
    body: BodyKind,
    gauges: Gauges,
    lanes: Lanes,
    completed: Completed,
    pace: Pace,
    flights: JoinSet<Landed>,
    refused: Vec<(RecordId, RecordError)>,
    counts: Counts,
    /// The moment that the last `advance` went by: what was due then has been seen to.
    advanced: Instant,
}

/// Counted since the last flush.
#[derive(Default)]
struct Counts {
    delivered: u32,
    refused: u32,
}

/// A request that ended.
struct Landed {
    head: Head,
    started: Instant,
    answer: Answer,
}

/// Records that may be delivered ahead of one that is parked, per task: they must be remembered until it is done, and
/// are sent again (under the same ids) when the process is restarted before that.
const AHEAD_RECORDS_MAX: usize = 100_000;

impl WebhookTask {
    pub(crate) fn new(plan: Plan, connector: Connector, cx: TaskContext) -> Self {
        cx.gauges.note("webhook_endpoint", None);
        Self {
            endpoint: Arc::new(Endpoint::new(connector, plan.headers, plan.keys, plan.timeout)),
            log_id: cx.log_id.into(),
            retry: plan.retry,
            pending_bytes_max: plan.pending_bytes,
            pending_records_max: plan.pending_records,
            tombstones: plan.tombstones,
            body: plan.body,
            gauges: cx.gauges,
            lanes: Lanes::default(),
            completed: Completed::default(),
            pace: Pace::new(plan.concurrency),
            flights: JoinSet::new(),
            refused: Vec::new(),
            counts: Counts::default(),
            advanced: Instant::now(),
        }
    }

    fn accept(&mut self, record: SinkRecord) {
        self.completed.accept(&record.id);
        let tells_nothing = record.value.is_none() && !record.is_delete_itself();
        if record.dropped || (tells_nothing && self.tombstones == Tombstones::Skip) {
            self.completed.done(&record.id);
            return;
        }
        self.lanes.push(Pending {
            id: record.id,
            topic: record.topic,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(owned),
            value: record.value.map(owned),
        });
    }

    fn is_over_budget(&self) -> bool {
        self.lanes.bytes() >= self.pending_bytes_max
            || self.lanes.records() >= self.pending_records_max
            || self.completed.tracked() >= self.pending_records_max + AHEAD_RECORDS_MAX
    }

    fn has_news(&self) -> bool {
        self.completed.moved() || !self.refused.is_empty()
    }

    /// Takes in what has ended and starts what may start. Never waits.
    fn advance(&mut self) {
        while let Some(landed) = self.flights.try_join_next() {
            self.settle(landed);
        }
        let now = Instant::now();
        self.advanced = now;
        self.lanes.unpark(now);
        while self.pace.allows(self.flights.len(), now) {
            let Some(head) = self.lanes.take() else { break };
            self.launch(head, now);
        }
    }

    /// After an `advance`: waits until a request ends or a wait is over, and advances. Cancel-safe. Waits for ever when
    /// nothing is pending.
    async fn turn(&mut self) {
        let wake = self.next_wake();
        let alarm = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(landed) = self.flights.join_next() => self.settle(landed),
            () = alarm => {}
        }
        self.advance();
    }

    fn next_wake(&self) -> Option<Instant> {
        let pace = self.pace.next_wake(self.advanced).filter(|_| self.lanes.any_ready());
        [self.lanes.next_wake(), pace].into_iter().flatten().min()
    }

    fn launch(&mut self, head: Head, started: Instant) {
        let (endpoint, log_id, kind) = (self.endpoint.clone(), self.log_id.clone(), self.body);
        self.flights.spawn(async move {
            let id = webhook_id(&log_id, &head.record.id);
            let answer = match body::render(&head.record, &id, kind) {
                Ok(body) => endpoint.post(&id, body).await,
                Err(error) => Answer::Unsendable(error),
            };
            Landed { head, started, answer }
        });
    }

    fn settle(&mut self, landed: Result<Landed, JoinError>) {
        let Landed { head, started, answer } = match landed {
            Ok(landed) => landed,
            // A bug of ours must reach the supervisor as the panic it is. Flights are aborted only by dropping the task.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let now = Instant::now();
        match answer {
            Answer::Unreachable(failure) => {
                self.lanes.put_back(head.key);
                let begins = self.pace.unreachable(started, &self.retry, now);
                self.note_outage(begins, &failure.to_string());
            }
            Answer::Unsendable(error) => self.finish(head, Some(error)),
            Answer::TimedOut => {
                self.end_outage();
                self.pace.overloaded(started, now);
                self.fail(head, "no answer in time", None);
            }
            Answer::Lost => {
                self.end_outage();
                self.fail(head, "the connection ended without an answer", None);
            }
            Answer::Status { status, retry_after } => {
                self.end_outage();
                match verdict(status) {
                    Verdict::Delivered => {
                        self.pace.eased();
                        self.finish(head, None);
                    }
                    Verdict::Refused(error) => {
                        self.pace.eased();
                        self.finish(head, Some(error));
                    }
                    Verdict::Throttled => {
                        self.pace.overloaded(started, now);
                        self.pace.throttled(retry_after, &self.retry, now);
                        self.gauges.add("webhook_retries_total", 1.0);
                        self.lanes.put_back(head.key);
                    }
                    Verdict::Retry => {
                        if status == hyper::StatusCode::SERVICE_UNAVAILABLE {
                            self.pace.overloaded(started, now);
                        }
                        self.fail(head, &error::name(status), retry_after);
                    }
                }
            }
        }
    }

    /// The record is done: delivered, or refused for this reason.
    fn finish(&mut self, head: Head, refused: Option<RecordError>) {
        self.completed.done(&head.record.id);
        match refused {
            None => self.counts.delivered += 1,
            Some(error) => {
                self.counts.refused += 1;
                self.refused.push((head.record.id.clone(), error));
            }
        }
        self.lanes.finish(head.key);
    }

    /// An attempt failed in a way that counts.
    fn fail(&mut self, head: Head, reason: &str, asked: Option<Duration>) {
        let failures = head.failures.saturating_add(1);
        if failures >= self.retry.attempts {
            self.finish(head, Some(error::retries_exhausted(failures, reason)));
            return;
        }
        self.gauges.add("webhook_retries_total", 1.0);
        let until = Instant::now() + self.retry.wait(failures, asked);
        self.lanes.park(head.key, until);
    }

    fn note_outage(&mut self, begins: bool, reason: &str) {
        let Some(since) = self.pace.unreachable_since() else { return };
        let origin = self.endpoint.origin();
        if begins {
            tracing::warn!(endpoint = origin, reason, "webhook endpoint is unreachable, retrying");
        }
        let since = httpdate::fmt_http_date(since);
        let text = format!(
            "endpoint {origin} is unreachable since {since} ({reason}); retrying, no record is refused"
        );
        self.gauges.note("webhook_endpoint", Some(text));
        self.publish_outage();
    }

    fn end_outage(&mut self) {
        if self.pace.unreachable_since().is_some() {
            tracing::info!(endpoint = self.endpoint.origin(), "webhook endpoint answers again");
            self.gauges.note("webhook_endpoint", None);
        }
        self.pace.answered();
    }

    fn flushed(&mut self) -> Flushed {
        self.publish();
        Flushed { offsets: self.completed.positions(), refused: std::mem::take(&mut self.refused) }
    }

    fn publish(&mut self) {
        let counts = std::mem::take(&mut self.counts);
        self.gauges.add("webhook_delivered_total", f64::from(counts.delivered));
        self.gauges.add("webhook_refused_total", f64::from(counts.refused));
        self.gauges.set("webhook_pending_records", count(self.lanes.records()));
        self.gauges.set("webhook_pending_bytes", count(self.lanes.bytes()));
        self.gauges.set("webhook_parked_keys", count(self.lanes.parked()));
        self.gauges.set("webhook_concurrency_limit", count(self.pace.limit()));
        self.publish_outage();
    }

    /// Also outside of flushes: during an outage there is nothing to flush.
    fn publish_outage(&self) {
        let unreachable =
            self.pace.unreachable_since().and_then(|since| SystemTime::now().duration_since(since).ok());
        self.gauges.set("webhook_unreachable_seconds", unreachable.unwrap_or_default().as_secs_f64());
    }
}

impl SinkTask for WebhookTask {
    /// Nothing is stored at a webhook's endpoint: the group's offsets in the log decide.
    fn keeps_offsets(&self) -> bool {
        false
    }

    async fn open(&mut self, _gained: &[TopicPartition]) -> Result<TopicOffsets, ConnectorError> {
        Ok(TopicOffsets::new())
    }

    /// Refuses nothing at once. Waits for deliveries when the budgets are used up already; a caller that heeds `is_full`
    /// never meets that wait. Memory is thus bounded by the budgets and one batch.
    async fn put(
        &mut self,
        records: Vec<SinkRecord>,
    ) -> Result<Vec<(RecordId, RecordError)>, ConnectorError> {
        self.advance();
        while self.is_over_budget() {
            self.turn().await;
        }
        for record in records {
            self.accept(record);
        }
        self.advance();
        Ok(Vec::new())
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        self.advance();
        Ok(self.flushed())
    }

    fn pending_bytes(&self) -> usize {
        self.lanes.bytes()
    }

    fn is_full(&self) -> bool {
        self.is_over_budget()
    }

    async fn progress(&mut self) {
        self.advance();
        while !self.has_news() {
            self.turn().await;
        }
    }

    /// Waits for the requests in flight, starts none, and leaves what is parked or queued to the next start.
    async fn close(&mut self) -> Result<Flushed, ConnectorError> {
        while let Some(landed) = self.flights.join_next().await {
            self.settle(landed);
        }
        Ok(self.flushed())
    }
}

/// The same datum with memory of its own.
fn owned(datum: Datum) -> Datum {
    Datum { bytes: bytes::Bytes::copy_from_slice(&datum.bytes), decoder: datum.decoder }
}

/// A count as a gauge's number.
fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::from(u32::MAX), f64::from)
}
