//! A position that the server can't go on from any more, so that all tables are read anew.
//!
//! A snapshot tells what is there. What was deleted between the lost position and the new one is told by nobody. So that this is never
//! a secret, the loss is stored with the new position, in the one transaction that replaces the old one, and shown for as long as the
//! connector has offsets.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::progress::Progress;
use crate::{
    error::{Chain, ConnectorError},
    source::Gauges,
};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPosition {
    /// The error that a start from it was refused with.
    pub code: String,
    /// What was missing.
    pub reason: String,
    /// The position: what the server did after it, until the new one, is known only from the tables.
    pub since: String,
    /// When the stream stood there, in milliseconds since 1970-01-01; unknown of positions of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// When the loss was found.
    pub found_ms: u64,
}

/// Milliseconds since 1970-01-01.
#[must_use]
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX)
}

impl LostPosition {
    /// A loss that is found now.
    #[must_use]
    pub fn found(error: &ConnectorError, since: String, since_ms: Option<u64>) -> Self {
        let (code, reason) = (error.code.to_owned(), Chain(error).to_string());
        Self { code, reason, since, since_ms, found_ms: now_ms() }
    }

    /// Shows the last loss: when it was found, for metrics, and for people what it means until the tables are read.
    pub fn show<S>(lost: Option<&Self>, progress: Option<&Progress<S>>, gauges: &Gauges) {
        let Some(lost) = lost else { return };
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
        gauges.set("position_lost_timestamp_seconds", lost.found_ms as f64 / 1000.0);
        let note = || {
            let Self { code, since, reason, .. } = lost;
            format!("{code}: all tables are read anew, rows deleted since {since} are not told: {reason}")
        };
        let is_read = progress.is_some_and(Progress::has_initial);
        gauges.note("position_lost", is_read.then(note));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_noted_until_the_tables_are_read_and_its_time_stays() {
        let error = ConnectorError::fatal("GONE", "the slot is gone");
        let lost = LostPosition::found(&error, "0/1".into(), None);
        let (gauges, table) = (Gauges::default(), ("s".to_owned(), "t".to_owned()));
        LostPosition::show(Some(&lost), Some(&Progress::<()>::of(vec![table])), &gauges);
        let (_, note) = &gauges.notes()[0];
        assert!(
            note.starts_with("GONE: ") && note.contains("since 0/1") && note.ends_with("the slot is gone")
        );
        LostPosition::show::<()>(Some(&lost), None, &gauges);
        assert!(gauges.notes().is_empty());
        assert_eq!(gauges.values()[0].0, "position_lost_timestamp_seconds");
    }
}
