//! Which topics a reader wants: names and `*` patterns; and which of their partitions, where several readers share them.

use crate::{pipeline::partition::partition_of, redrive::REDRIVE_PREFIX};

/// A set of topic patterns. `*` stands for any run of characters, so `shop.public.*` matches `shop.public.orders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFilter {
    patterns: Vec<String>,
    share: Share,
}

/// The `index`-th of `count` equal parts of the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    index: u32,
    count: u32,
}

impl TopicFilter {
    /// A filter that accepts a topic when any pattern matches it whole.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let patterns = patterns.into_iter().map(Into::into).collect();
        Self { patterns, share: Share { index: 0, count: 1 } }
    }

    /// The same topics, but of their partitions only the `index`-th of `count` shares. Each partition is in one share, always the
    /// same for the same count; the partitions of a topic, and topics of one partition, are spread.
    #[must_use]
    pub fn share(self, index: u32, count: u32) -> Self {
        Self { share: Share { index, count: count.max(1) }, ..self }
    }

    /// Whether this partition of a topic that [`matches`](Self::matches) is wanted.
    #[must_use]
    pub fn takes(&self, topic: &str, partition: u32) -> bool {
        let Share { index, count } = self.share;
        partition_of(Some(topic.as_bytes()), count).wrapping_add(partition) % count == index
    }

    /// The patterns, as given.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether this topic is wanted. A sink's redrive topic is its own: only a pattern that begins as these topics do matches it.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let own = |pattern: &str| !topic.starts_with(REDRIVE_PREFIX) || pattern.starts_with(REDRIVE_PREFIX);
        self.patterns.iter().any(|p| own(p) && glob(p.as_bytes(), topic.as_bytes()))
    }
}

/// Greedy match with one point of return: linear in practice, never exponential.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&c) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&q) if q == c => (p, t) = (p + 1, t + 1),
            Some(_) | None => {
                let Some((after_star, from)) = retry else { return false };
                retry = Some((after_star, from + 1));
                (p, t) = (after_star, from + 1);
            }
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|&c| c == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_spans_any_run_and_the_rest_is_literal() {
        let filter = TopicFilter::new(["shop.public.*", "exact", "a*b*c"]);
        for wanted in ["shop.public.orders", "shop.public.", "exact", "abc", "a--b--b--c"] {
            assert!(filter.matches(wanted), "{wanted}");
        }
        for unwanted in ["shop.publicXorders", "exactly", "", "ab", "acb"] {
            assert!(!filter.matches(unwanted), "{unwanted}");
        }
        assert!(!TopicFilter::new(["*"]).matches("rowstream.redrive.warehouse"));
        assert!(TopicFilter::new(["rowstream.redrive.warehouse"]).matches("rowstream.redrive.warehouse"));
    }

    #[test]
    fn each_partition_is_in_one_share_and_none_has_all() {
        for count in [1, 2, 3, 5] {
            let shares: Vec<TopicFilter> =
                (0..count).map(|n| TopicFilter::new(["*"]).share(n, count)).collect();
            let mut sizes = vec![0; shares.len()];
            let topics = (0..100).map(|n| (format!("topic{n}"), 1)).chain([("wide".to_owned(), 60)]);
            for (topic, partition) in topics.flat_map(|(topic, n)| (0..n).map(move |p| (topic.clone(), p))) {
                let takers: Vec<usize> =
                    (0..shares.len()).filter(|n| shares[*n].takes(&topic, partition)).collect();
                assert_eq!(takers.len(), 1, "{topic}-{partition} of {count}");
                sizes[takers[0]] += 1;
            }
            let fair = 160 / sizes.len();
            assert!(sizes.iter().all(|size| (fair / 2..=fair * 2).contains(size)), "{sizes:?}");
        }
    }
}
