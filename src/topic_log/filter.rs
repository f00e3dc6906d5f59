//! Which topics a reader wants: names and `*` patterns.

/// A set of topic patterns. `*` stands for any run of characters, so `shop.public.*` matches `shop.public.orders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFilter {
    patterns: Vec<String>,
}

impl TopicFilter {
    /// A filter that accepts a topic when any pattern matches it whole.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { patterns: patterns.into_iter().map(Into::into).collect() }
    }

    /// The patterns, as given.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether this topic is wanted.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.patterns.iter().any(|p| glob(p.as_bytes(), topic.as_bytes()))
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
    }
}
