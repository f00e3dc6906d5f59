//! How many requests may be in flight, and whether any may start at all.
//!
//! Three things hold requests back, from the weakest to the strongest:
//! 1. **The limit** is additive increase, multiplicative decrease: an answer in time raises it by one for each round of
//!    requests, a timeout, 429 or 503 halves it, at most once for requests that were already under way. It stays
//!    between 1 and `concurrency`.
//! 2. **A pause** for as long as a 429 asked, or a backoff: the receiver limits the sender.
//! 3. **An outage**: no connection at all. One request at a time probes the endpoint, with backoff; any answer ends it, and
//!    the limit climbs again from 1, so that a receiver that just came back is not trampled.
//!
//! Pure: it reads no clock and sends nothing.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::retry::RetryPolicy;

/// The state of the task's pace.
pub(crate) struct Pace {
    max: u32,
    limit: f64,
    last_cut: Option<Instant>,
    throttles: u32,
    paused_until: Option<Instant>,
    outage: Option<Outage>,
}

/// Since when the endpoint can't be reached.
struct Outage {
    since: SystemTime,
    failures: u32,
    next_probe: Instant,
    last_failure: Instant,
}

impl Pace {
    /// Starts at full width; an endpoint that can't take it says so.
    pub(crate) fn new(concurrency: u32) -> Self {
        Self {
            max: concurrency,
            limit: f64::from(concurrency),
            last_cut: None,
            throttles: 0,
            paused_until: None,
            outage: None,
        }
    }

    /// Requests that may be in flight, at least 1.
    pub(crate) fn limit(&self) -> usize {
        let whole = (1..=self.max).rev().find(|&n| f64::from(n) <= self.limit);
        whole.unwrap_or(1) as usize
    }

    /// Whether one more request may start now.
    pub(crate) fn allows(&self, in_flight: usize, now: Instant) -> bool {
        if self.paused_until.is_some_and(|until| now < until) {
            return false;
        }
        match &self.outage {
            Some(outage) => in_flight == 0 && now >= outage.next_probe,
            None => in_flight < self.limit(),
        }
    }

    /// When `allows` may change without an answer arriving, if later than `now`.
    pub(crate) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let probe = self.outage.as_ref().map(|outage| outage.next_probe);
        self.paused_until.max(probe).filter(|&at| at > now)
    }

    /// Since when the endpoint has been unreachable.
    pub(crate) fn unreachable_since(&self) -> Option<SystemTime> {
        self.outage.as_ref().map(|outage| outage.since)
    }

    /// The endpoint answered, whatever it said.
    pub(crate) fn answered(&mut self) {
        if self.outage.take().is_some() {
            self.limit = 1.0;
        }
    }

    /// An answer in time, of a kind that does not speak of overload.
    pub(crate) fn eased(&mut self) {
        self.throttles = 0;
        self.limit = (self.limit + 1.0 / self.limit).min(f64::from(self.max));
    }

    /// A sign of overload, from a request that started then.
    pub(crate) fn overloaded(&mut self, started: Instant, now: Instant) {
        if self.last_cut.is_none_or(|cut| started >= cut) {
            self.limit = (self.limit / 2.0).max(1.0);
            self.last_cut = Some(now);
        }
    }

    /// 429: nothing starts until the wait that the receiver asked for, or a backoff, is over.
    pub(crate) fn throttled(&mut self, asked: Option<Duration>, policy: &RetryPolicy, now: Instant) {
        self.throttles = self.throttles.saturating_add(1);
        let until = now + policy.wait(self.throttles, asked);
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// No connection, for a request that started then. Answers whether this begins an outage.
    pub(crate) fn unreachable(&mut self, started: Instant, policy: &RetryPolicy, now: Instant) -> bool {
        let Some(outage) = &mut self.outage else {
            self.outage = Some(Outage {
                since: SystemTime::now(),
                failures: 1,
                next_probe: now + policy.backoff(1),
                last_failure: now,
            });
            return true;
        };
        // Requests that failed side by side are one piece of news.
        if started >= outage.last_failure {
            outage.failures = outage.failures.saturating_add(1);
            outage.next_probe = now + policy.backoff(outage.failures);
        }
        outage.last_failure = now;
        false
    }
}
