//! What an answer means for its record, and how long to wait.
//!
//! | answer | verdict | counts as an attempt |
//! |---|---|---|
//! | 2xx | delivered | |
//! | no connection (name, TCP, TLS) | the whole task waits, the record is as if never sent | no |
//! | 429 | the whole task waits: the receiver limits the sender, not this record | no |
//! | 408, 425, 5xx, timeout, connection lost under way | the record's key waits | yes |
//! | 3xx, other 4xx | refused at once | |
//!
//! Attempts that count end: with the defaults after about a minute and a half of failed answers. A load balancer in
//! front of receivers that are all down answers 502 or 503, and those count like a receiver's own; a longer outage of
//! that kind is bridged by more `retry.attempts`.

use std::time::{Duration, SystemTime};

use hyper::{StatusCode, header::HeaderValue};
use rowstream_api::RecordError;

use crate::error;

/// When to try again, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryPolicy {
    pub(crate) attempts: u32,
    pub(crate) backoff_initial: Duration,
    pub(crate) backoff_max: Duration,
}

/// The longest that a receiver's `Retry-After` is obeyed: a wrong clock or a slip of the unit must not park records
/// for days.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

impl RetryPolicy {
    /// The wait after `failures` failures (from 1): exponential with full jitter, so that keys that failed together
    /// do not return together.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        self.backoff_bound(failures).mul_f64(fastrand::f64())
    }

    /// As `backoff`, but no shorter than what the receiver asked for.
    pub(crate) fn wait(&self, failures: u32, asked: Option<Duration>) -> Duration {
        self.backoff(failures).max(asked.unwrap_or_default())
    }

    fn backoff_bound(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.backoff_initial.saturating_mul(1 << doublings).min(self.backoff_max)
    }
}

/// What a status means for the record it answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The receiver has it.
    Delivered,
    /// The receiver wants fewer requests; the record is not to blame.
    Throttled,
    /// Worth another attempt.
    Retry,
    /// Another attempt would get the same answer.
    Refused(RecordError),
}

/// Reads a status.
pub(crate) fn verdict(status: StatusCode) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Delivered,
        429 => Verdict::Throttled,
        408 | 425 | 500..=599 => Verdict::Retry,
        300..=399 => Verdict::Refused(error::redirected(status)),
        400..=499 => Verdict::Refused(error::refused(status)),
        _ => Verdict::Refused(error::not_http(status)),
    }
}

/// Reads `Retry-After`, in seconds or as a date, up to [`RETRY_AFTER_MAX`]. What can't be read is as if not sent.
pub(crate) fn retry_after(header: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = header.to_str().ok()?.trim();
    let asked = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).unwrap_or_default()
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 10,
        backoff_initial: Duration::from_millis(500),
        backoff_max: Duration::from_secs(60),
    };

    #[test]
    fn the_bound_doubles_up_to_the_maximum_and_jitter_stays_below() {
        let bounds: Vec<u128> =
            [1, 2, 3, 7, 8, 40, u32::MAX].map(|n| POLICY.backoff_bound(n).as_millis()).to_vec();
        assert_eq!(bounds, [500, 1000, 2000, 32_000, 60_000, 60_000, 60_000]);
        assert!((0..1000).all(|_| POLICY.backoff(3) <= Duration::from_secs(2)));
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_capped() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let read = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap(), now);
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("999999999"), Some(RETRY_AFTER_MAX));
        let later = httpdate::fmt_http_date(now + Duration::from_secs(90));
        assert_eq!(read(&later), Some(Duration::from_secs(90)));
        let earlier = httpdate::fmt_http_date(now - Duration::from_secs(90));
        assert_eq!(read(&earlier), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert!(POLICY.wait(1, Some(Duration::from_secs(9))) >= Duration::from_secs(9));
    }

    #[test]
    fn each_status_has_the_verdict_of_the_table() {
        let of = |code: u16| verdict(StatusCode::from_u16(code).unwrap());
        for code in [200, 201, 202, 204, 299] {
            assert_eq!(of(code), Verdict::Delivered);
        }
        for code in [408, 425, 500, 502, 503, 504, 599] {
            assert_eq!(of(code), Verdict::Retry);
        }
        assert_eq!(of(429), Verdict::Throttled);
        for (code, name) in
            [(301, "HTTP_3XX"), (400, "HTTP_4XX"), (401, "HTTP_4XX"), (410, "HTTP_4XX"), (600, "HTTP_STATUS")]
        {
            let Verdict::Refused(error) = of(code) else { panic!("{code} must be refused") };
            assert_eq!(error.code, name);
            assert!(error.message.contains(&code.to_string()), "{}", error.message);
        }
    }
}
