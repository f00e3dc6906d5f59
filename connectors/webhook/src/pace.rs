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

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 10,
        backoff_initial: Duration::from_millis(500),
        backoff_max: Duration::from_secs(60),
    };

    #[tokio::test(start_paused = true)]
    async fn overload_halves_the_limit_once_a_round_and_answers_raise_it_again() {
        let mut pace = Pace::new(8);
        let started = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        for _ in 0..8 {
            pace.overloaded(started, Instant::now());
        }
        assert_eq!(pace.limit(), 4, "eight timeouts of one round are one sign");
        tokio::time::advance(Duration::from_millis(10)).await;
        for halved in [2, 1, 1] {
            pace.overloaded(Instant::now(), Instant::now());
            assert_eq!(pace.limit(), halved);
        }
        for _ in 0..100 {
            pace.eased();
        }
        assert_eq!(pace.limit(), 8, "and never above what was allowed");
        assert!(pace.allows(7, Instant::now()) && !pace.allows(8, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_holds_for_as_long_as_was_asked() {
        let mut pace = Pace::new(8);
        let start = Instant::now();
        pace.throttled(Some(Duration::from_secs(30)), &POLICY, start);
        pace.throttled(None, &POLICY, start);
        assert!(!pace.allows(0, start + Duration::from_secs(29)));
        assert!(pace.allows(0, start + Duration::from_secs(30)));
        assert_eq!(pace.next_wake(start), Some(start + Duration::from_secs(30)));
        assert_eq!(pace.next_wake(start + Duration::from_secs(30)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_probed_one_request_at_a_time_and_ends_gently() {
        let mut pace = Pace::new(8);
        let mut now = Instant::now();
        assert!(pace.unreachable(now, &POLICY, now), "the first failure begins it");
        for _ in 0..20 {
            let probe = pace.next_wake(now).unwrap_or(now);
            assert!(probe - now <= POLICY.backoff_max);
            assert!(pace.allows(0, probe) && !pace.allows(1, probe));
            now = probe + Duration::from_millis(1);
            assert!(!pace.unreachable(probe, &POLICY, now));
        }
        assert!(pace.unreachable_since().is_some());
        pace.answered();
        assert!(pace.unreachable_since().is_none());
        assert_eq!(pace.limit(), 1);
        assert!(pace.allows(0, now));
    }
}
