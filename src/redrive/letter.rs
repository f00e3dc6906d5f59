//! What a dead letter says of itself, and which letters are wanted.

use rowstream_api::Stage;
use serde::{Deserialize, Serialize};

use crate::registry::PluginKind;

/// Begins the name of every header that says where and why a record failed: Kafka Connect's.
pub const ERRORS_PREFIX: &str = "__connect.errors.";
/// A letter of a source that holds the whole record, as it was before the transforms. Its value is `true`.
pub const WHOLE_HEADER: &str = "__rowstream.dead_letter.whole";
/// On a record that was a dead letter: a [`Redriven`] as JSON.
pub const REDRIVEN_HEADER: &str = "__rowstream.redriven";

/// Whether a header of a letter stays on the redriven record.
#[must_use]
pub fn is_kept(name: &[u8]) -> bool {
    !name.starts_with(ERRORS_PREFIX.as_bytes())
        && name != WHOLE_HEADER.as_bytes()
        && name != REDRIVEN_HEADER.as_bytes()
}

/// Where a redriven record comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    /// The dead letter topic.
    pub dead_letters: String,
    /// The letter's partition there.
    pub dead_letter_partition: u32,
    /// The letter's offset there.
    pub dead_letter_offset: i64,
    /// The topic that the record was in, or meant for.
    pub topic: String,
    /// Its partition there, when it was in it.
    pub partition: Option<u32>,
    /// Its offset there, when it was in it.
    pub offset: Option<i64>,
}

impl Redriven {
    /// As a record's headers say; `None` for a record that was no letter.
    #[must_use]
    pub fn of<'h>(mut headers: impl Iterator<Item = (&'h [u8], &'h [u8])>) -> Option<Self> {
        let (_, value) = headers.find(|(name, _)| *name == REDRIVEN_HEADER.as_bytes())?;
        serde_json::from_slice(value).ok()
    }
}

/// A letter's place in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: i64,
}

/// Where and why a record failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Whose record it was.
    pub connector: String,
    /// Its task.
    pub task: String,
    /// The topic it was in, or meant for.
    pub topic: String,
    /// Its partition there; a source's record never got one.
    pub partition: Option<u32>,
    /// Its offset there.
    pub offset: Option<i64>,
    /// Kafka Connect's word for where it failed.
    pub stage: String,
    /// The error's stable code.
    pub code: String,
    /// What was expected and what was found.
    pub message: String,
    /// Of a source: the letter holds the record.
    #[serde(skip)]
    pub whole: bool,
}

impl Reason {
    /// As the headers say; `None` where they name no connector: no letter of ours. The last of a name counts, because the record may have
    /// brought one of its own.
    #[must_use]
    pub fn of<'h>(headers: impl Iterator<Item = (&'h [u8], &'h [u8])>) -> Option<Self> {
        let mut reason = Self::default();
        for (name, value) in headers {
            let text = || String::from_utf8_lossy(value).into_owned();
            if name == WHOLE_HEADER.as_bytes() {
                reason.whole = true;
            }
            match name.strip_prefix(ERRORS_PREFIX.as_bytes()) {
                Some(b"connector.name") => reason.connector = text(),
                Some(b"task.id") => reason.task = text(),
                Some(b"topic") => reason.topic = text(),
                Some(b"partition") => reason.partition = text().parse().ok(),
                Some(b"offset") => reason.offset = text().parse().ok(),
                Some(b"stage") => reason.stage = text(),
                Some(b"exception.class.name") => reason.code = text(),
                Some(b"exception.message") => reason.message = text(),
                Some(_) | None => {}
            }
        }
        (!reason.connector.is_empty()).then_some(reason)
    }

    /// Why it can't be redriven, if so.
    #[must_use]
    pub fn unfit(&self, kind: PluginKind, has_value: bool) -> Option<&'static str> {
        match kind {
            PluginKind::Sink if self.topic.is_empty() => {
                Some("the letter does not say which topic it came from")
            }
            PluginKind::Sink => None,
            PluginKind::Source if self.whole => None,
            PluginKind::Source if has_value || self.stage == Stage::Transformation.as_str() => Some(
                "the letter is of a version that did not keep the record; read the row again: `rowstream snapshot start`",
            ),
            PluginKind::Source => Some(
                "the change never became a record, so there is nothing to write; read the row again: `rowstream snapshot start`",
            ),
        }
    }
}

/// Which letters of a connector; everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Of this partition of the dead letter topic.
    pub partition: Option<u32>,
    /// At these offsets of the dead letter topic.
    pub offsets: Vec<i64>,
    /// With this error code, stage, or topic of origin, or with this in the message.
    #[serde(rename = "where")]
    pub reason: Option<String>,
}

impl Selection {
    /// Whether a letter is among them.
    #[must_use]
    pub fn has(&self, place: Place, reason: &Reason) -> bool {
        let said = |text: &String| {
            [&reason.code, &reason.stage, &reason.topic].contains(&text)
                || reason.message.contains(text.as_str())
        };
        self.partition.is_none_or(|partition| partition == place.partition)
            && (self.offsets.is_empty() || self.offsets.contains(&place.offset))
            && self.reason.as_ref().is_none_or(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(headers: &[(&str, &str)]) -> Option<Reason> {
        Reason::of(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn a_letter_says_where_and_why() {
        let headers = [
            ("h", "1"),
            ("__connect.errors.topic", "older"),
            ("__connect.errors.topic", "shop.orders"),
            ("__connect.errors.partition", "2"),
            ("__connect.errors.offset", "17"),
            ("__connect.errors.connector.name", "warehouse"),
            ("__connect.errors.stage", "TASK_PUT"),
            ("__connect.errors.exception.class.name", "VALUE_OUT_OF_RANGE"),
            ("__connect.errors.exception.message", "column `amount`: too large"),
        ];
        let reason = reason(&headers).unwrap();
        assert_eq!(
            (reason.topic.as_str(), reason.partition, reason.offset),
            ("shop.orders", Some(2), Some(17))
        );
        let wanted = |text: &str| Selection { reason: Some(text.to_owned()), ..Selection::default() };
        let place = Place { partition: 0, offset: 5 };
        for text in ["VALUE_OUT_OF_RANGE", "TASK_PUT", "shop.orders", "`amount`"] {
            assert!(wanted(text).has(place, &reason), "{text}");
        }
        for text in ["VALUE", "orders", "`total`"] {
            assert!(!wanted(text).has(place, &reason), "{text}");
        }
        let at = |offsets: &[i64]| Selection { offsets: offsets.to_vec(), ..Selection::default() };
        assert!(at(&[4, 5]).has(place, &reason) && !at(&[4]).has(place, &reason));
        let kept: Vec<&str> =
            headers.iter().map(|(name, _)| *name).filter(|name| is_kept(name.as_bytes())).collect();
        assert_eq!(kept, ["h"]);
    }

    #[test]
    fn a_change_without_a_record_is_not_redriven() {
        assert_eq!(reason(&[("h", "1")]), None);
        let of = |whole| Reason {
            whole,
            stage: "VALUE_CONVERTER".to_owned(),
            topic: "t".to_owned(),
            ..Reason::default()
        };
        assert!(of(false).unfit(PluginKind::Source, false).unwrap().contains("snapshot start"));
        assert_eq!(of(true).unfit(PluginKind::Source, false), None);
        assert_eq!(of(false).unfit(PluginKind::Sink, false), None, "a tombstone of a sink is a record");
    }
}
