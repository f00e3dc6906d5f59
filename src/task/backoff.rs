//! Exponential backoff with full jitter.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use crate::config::RestartPolicy;

/// Waits between restarts of one task.
#[derive(Debug)]
pub struct Backoff {
    policy: RestartPolicy,
    attempt: u32,
    random: RandomState,
}

impl Backoff {
    /// Starts with no attempt made.
    #[must_use]
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, attempt: 0, random: RandomState::new() }
    }

    /// The next attempt's number and wait; `None` when the budget is used up.
    pub fn next_wait(&mut self) -> Option<(u32, Duration)> {
        if self.policy.attempts.is_some_and(|most| self.attempt >= most) {
            return None;
        }
        self.attempt += 1;
        let ceiling = self
            .policy
            .backoff_initial
            .saturating_mul(1 << (self.attempt - 1).min(20))
            .min(self.policy.backoff_max);
        // Between half and the whole: never a stampede, never an immediate retry.
        let mut hasher = self.random.build_hasher();
        hasher.write_u32(self.attempt);
        let half = ceiling / 2;
        let jitter_ms = hasher.finish() % u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        Some((self.attempt, half + Duration::from_millis(jitter_ms)))
    }

    /// Only durable progress earns a fresh budget; a mere reconnect does not.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_the_budget_ends() {
        let policy = RestartPolicy {
            attempts: Some(8),
            backoff_initial: Duration::from_millis(100),
            backoff_max: Duration::from_secs(2),
        };
        let mut backoff = Backoff::new(policy);
        for attempt in 1..=8u32 {
            let (n, wait) = backoff.next_wait().unwrap();
            let ceiling = Duration::from_millis(100 << (attempt - 1)).min(Duration::from_secs(2));
            assert_eq!(n, attempt);
            assert!(
                wait >= ceiling / 2 && wait <= ceiling,
                "attempt {attempt}: {wait:?} not within {ceiling:?}"
            );
        }
        assert!(backoff.next_wait().is_none());
        backoff.reset();
        assert_eq!(backoff.next_wait().unwrap().0, 1);
    }
}
