//! A connector's configuration: a serde struct plus the table of its fields.
//!
//! The table is the one definition behind `validate` (unknown keys, types, required fields: all problems at once),
//! `GET /connector-plugins/…/config`, the flat string map of the REST API, and the reference in `config/reference/`.
//! The worker checks a document against the table *before* it deserialises, so that a connector's `validate` sees a
//! struct whose every field has its type, and only checks what fields mean together.

use std::fmt;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldKind {
    /// Free text.
    Text,
    /// Text that must never be shown.
    Secret,
    /// An integer in this inclusive range.
    Integer {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// `true` or `false`.
    Bool,
    /// `500ms`, `10s`, `5m`, `2h`, `7d`.
    Duration,
    /// `512KiB`, `8MiB`.
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts; as a flat string: comma separated.
    List,
    /// A list of texts that must never be shown.
    SecretList,
    /// Text to text with free keys; flat: `field.KEY`.
    Map,
    /// As `Map`, with values that must never be shown (HTTP headers).
    SecretMap,
}

impl FieldKind {
    /// Whether its value must never be shown.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::SecretList | Self::SecretMap)
    }
    /// Whether it has free keys below it.
    #[must_use]
    pub fn is_map(self) -> bool {
        matches!(self, Self::Map | Self::SecretMap)
    }
}

/// One field of a connector's configuration; its `doc` is the user's manual.
#[derive(Debug, Clone, Copy)]
pub struct FieldDoc {
    /// Dotted path in YAML, e.g. `connection.host`.
    pub path: &'static str,
    /// What it holds.
    pub kind: FieldKind,
    /// Must be given.
    pub required: bool,
    /// The default as one would write it; `None` when there is none.
    pub default: Option<&'static str>,
    /// Sentences for the reference.
    pub doc: &'static str,
    /// One example value.
    pub example: &'static str,
}

impl FieldDoc {
    /// An optional field.
    #[must_use]
    pub const fn optional(
        path: &'static str,
        kind: FieldKind,
        default: Option<&'static str>,
        doc: &'static str,
        example: &'static str,
    ) -> Self {
        Self { path, kind, required: false, default, doc, example }
    }
}

/// What the user typed for one connector.
pub trait ConfigSpec: DeserializeOwned + Send + 'static {
    /// Every field, in the order of the reference. A path not listed here is an unknown key.
    const FIELDS: &'static [FieldDoc];
}

/// Text that must not reach a log, an error, a metric or the API: it prints as `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Which of these a person most likely meant; `None` when nothing is near.
pub fn nearest<'n>(wanted: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|name| (distance(wanted, name), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 2.max(wanted.len() / 3))
        .map(|(_, name)| name)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut previous = i;
        let mut next = vec![left];
        for (cb, &above) in b.chars().zip(row.iter().skip(1)) {
            left = (left + 1).min(above + 1).min(previous + usize::from(ca != cb));
            previous = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found() {
        assert_eq!(nearest("regoin", ["id", "region"].into_iter()), Some("region"));
        assert_eq!(nearest("colour", ["id", "region"].into_iter()), None);
    }
}
