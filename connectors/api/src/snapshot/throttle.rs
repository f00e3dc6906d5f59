//! How fast a snapshot may read: a bound on rows a second that holds over chunks and readers.
//!
//! A chunk of n rows is paid for with n / rate seconds, from when its reading begins: the next one, whoever reads it, begins when that
//! time is over. While a chunk is being read the rows that it should have are paid for, then those that it had. So over any time no more
//! rows are read than the rate allows and one chunk, which is never larger than a second's worth.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    rate: Option<NonZeroU32>,
    /// Everything that was begun is paid for then.
    free_at: Option<Instant>,
}

impl Throttle {
    /// Sets the rate; none is no bound. Answers whether it is another one. What was read before is forgotten then.
    pub(super) fn set(&mut self, rate: Option<NonZeroU32>) -> bool {
        let is_new = self.rate != rate;
        if is_new {
            *self = Self { rate, free_at: None };
        }
        is_new
    }

    /// Most rows of a chunk, of those that somebody wants.
    pub(super) fn rows(&self, rows: u32) -> u32 {
        self.rate.map_or(rows, |rate| rows.min(rate.get()))
    }

    /// How long nothing may be begun; `None`: it may.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.free_at?.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// A chunk is begun that should have this many rows.
    pub(super) fn begun(&mut self, now: Instant, rows: u32) {
        if let Some(price) = self.price(rows) {
            let from = self.free_at.map_or(now, |free_at| free_at.max(now));
            self.free_at = from.checked_add(price);
        }
    }

    /// A chunk has these rows, and should have had those.
    pub(super) fn read(&mut self, rows: usize, expected: u32) {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let (Some(free_at), Some(more), Some(less)) = (
            self.free_at,
            self.price(rows.saturating_sub(expected)),
            self.price(expected.saturating_sub(rows)),
        ) else {
            return;
        };
        self.free_at = free_at.checked_add(more).and_then(|at| at.checked_sub(less));
    }

    fn price(&self, rows: u32) -> Option<Duration> {
        Some(Duration::from_secs_f64(f64::from(rows) / f64::from(self.rate?.get())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_rate_nothing_waits() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        throttle.begun(now, 1_000_000);
        throttle.read(2_000_000, 1_000_000);
        assert_eq!((throttle.wait(now), throttle.rows(20_000)), (None, 20_000));
    }

    #[test]
    fn another_rate_holds_at_once() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        assert!(throttle.set(NonZeroU32::new(1)) && !throttle.set(NonZeroU32::new(1)));
        throttle.begun(now, 100);
        assert_eq!(throttle.wait(now), Some(Duration::from_secs(100)));
        assert!(throttle.set(NonZeroU32::new(1000)));
        assert_eq!((throttle.wait(now), throttle.rows(20_000)), (None, 1000));
    }

    proptest! {
        /// Whatever is read, by however many readers: never more than the rate allows and a chunk for each reader, and nearly as much.
        #[test]
        fn the_rate_holds_over_chunks(
            rate in 1u32..5000,
            readers in 1usize..5,
            chunks in proptest::collection::vec((0.0f64..1.0, 0u64..400), 20..200),
        ) {
            let mut throttle = Throttle::default();
            throttle.set(NonZeroU32::new(rate));
            let begin = Instant::now();
            let (mut now, mut rows, mut reading) = (begin, 0.0, Vec::new());
            for (part, takes_ms) in chunks {
                while let Some(wait) = throttle.wait(now) {
                    now += wait;
                }
                let expected = throttle.rows(1000);
                throttle.begun(now, expected);
                reading.push((expected, part));
                if reading.len() >= readers {
                    let (expected, part) = reading.remove(0);
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "less than 1000")]
                    let got = (f64::from(expected) * part) as usize;
                    throttle.read(got, expected);
                    rows += f64::from(u32::try_from(got).unwrap());
                    now += Duration::from_millis(takes_ms);
                }
                let allowed = f64::from(rate) * (now - begin).as_secs_f64();
                let chunk = f64::from(rate.min(1000));
                prop_assert!(rows <= allowed + chunk + 1.0, "{rows} rows, {allowed} allowed");
            }
        }
    }
}
