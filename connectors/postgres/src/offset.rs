//! Positions as they are stored, and what a position may be resumed with.
//!
//! A position belongs to its system: it carries the system identifier, timeline and slot it counts in, and [`resume`]
//! compares them with what is there. Because only stored positions are acknowledged, a slot whose confirmed position is
//! ahead of ours was moved by somebody else, or our log is an old backup: refused, never resumed.
//!
//! [`resume`]: check_slot

use std::{fmt, str::FromStr};

use rowstream_api::{
    ConnectorError, SourceOffset, SourceOffsets, SourcePartition,
    snapshot::{LostPosition, OnDemand, Signal, TableName},
};
use serde::{Deserialize, Serialize};

use crate::{
    snapshot::Progress,
    source_config::TableFilter,
    stream::assemble::{Partial, Position, Transaction},
};

/// A place in the WAL, printed as PostgreSQL prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = ConnectorError;
    fn from_str(text: &str) -> Result<Self, ConnectorError> {
        text.split_once('/')
            .and_then(|(high, low)| {
                let high = u64::from(u32::from_str_radix(high, 16).ok()?);
                let low = u64::from(u32::from_str_radix(low, 16).ok()?);
                Some(Self(high << 32 | low))
            })
            .ok_or_else(|| ConnectorError::fatal("PG_PROTOCOL", format!("`{text}` is no WAL position")))
    }
}

/// The stored position: Connect's source offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOffset {
    /// End of the last complete transaction.
    pub lsn: u64,
    /// When the stream stood there, in milliseconds since 1970-01-01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// The slot it counts in.
    pub slot: String,
    /// The cluster.
    pub system_id: String,
    /// Its timeline; it grows at each promotion of a standby.
    pub timeline: u32,
    /// What is done of the transaction after `lsn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<StoredPartial>,
    /// The newest transaction that was delivered: a snapshot that begins later waits until it is visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_xid: Option<u32>,
    /// Tables came in while the stream was under way, and are not read yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_joined: bool,
    /// Which tables were captured when this was stored; a table that it leaves out is new to the connector. Absent in positions of
    /// older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<TableFilter>,
    /// Progress of the snapshot; `None` when there is none to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Progress>,
    /// What was asked of the snapshot.
    #[serde(default, skip_serializing_if = "OnDemand::is_empty")]
    pub on_demand: OnDemand,
    /// Signals that the stream brought and that are not followed yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<Signal>,
    /// The last position that was lost, so that all tables were read anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostPosition>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// See [`Partial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPartial {
    /// Position of the commit record.
    pub final_lsn: u64,
    /// Messages done.
    pub ordinal: u64,
}

/// The snapshot that a table without a key was read under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenBy {
    /// `xmin:xmax:xip,…`
    pub snapshot: String,
    /// From this position on the stream has nothing that the snapshot saw.
    pub until: u64,
}

impl StoredOffset {
    /// The stream's part.
    #[must_use]
    pub fn position(&self) -> Position {
        let partial = self.partial.map(|p| Partial { final_lsn: p.final_lsn, ordinal: p.ordinal });
        Position { lsn: self.lsn, partial }
    }

    /// Remembers the newest of these transactions: a snapshot may be asked for at any time.
    pub fn note_newest(&mut self, transactions: &[Transaction]) {
        // Ids go round; these are near each other.
        let newer = |a: u32, b: u32| if a.wrapping_sub(b).cast_signed() > 0 { a } else { b };
        self.newest_xid = transactions.iter().map(|t| t.xid).chain(self.newest_xid).reduce(newer);
    }

    /// Replaces the stream's part.
    pub fn set_position(&mut self, position: Position) {
        self.lsn = position.lsn;
        self.partial = position.partial.map(|p| StoredPartial { final_lsn: p.final_lsn, ordinal: p.ordinal });
    }

    /// Takes in tables that are new to the connector: the snapshot reads them next. Answers whether there are any.
    pub fn take_in(&mut self, new: impl IntoIterator<Item = TableName>) -> bool {
        let todo = |table: &TableName| {
            self.snapshot.as_ref().is_some_and(|progress| progress.will_be_whole((&table.0, &table.1)))
        };
        let new: Vec<TableName> = new.into_iter().filter(|table| !todo(table)).collect();
        let any = !new.is_empty();
        if any {
            self.snapshot.get_or_insert_default().todo.extend(new);
        }
        any
    }

    /// As the worker stores it.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_offsets(&self, topic_prefix: &str) -> Result<SourceOffsets, ConnectorError> {
        let unwritable = |e| ConnectorError::fatal("OFFSET", "can't write the position as JSON").because(e);
        let serde_json::Value::Object(map) = serde_json::to_value(self).map_err(unwritable)? else {
            return Err(ConnectorError::fatal("OFFSET", "a position must be a JSON object"));
        };
        Ok(SourceOffsets::from([(partition(topic_prefix), SourceOffset(map))]))
    }

    /// The stored position of this source; `None` when it never ran.
    ///
    /// # Errors
    /// The stored JSON is not a position of this connector.
    pub fn of(offsets: &SourceOffsets, topic_prefix: &str) -> Result<Option<Self>, ConnectorError> {
        let Some(SourceOffset(map)) = offsets.get(&partition(topic_prefix)) else {
            if let Some(SourcePartition(other)) = offsets.keys().next() {
                return Err(ConnectorError::config(
                    "PG_OFFSET",
                    format!("the stored position is of {other}, but topic_prefix is `{topic_prefix}`"),
                )
                .remedy("give the old topic_prefix back, or delete the connector's offsets to start over"));
            }
            return Ok(None);
        };
        serde_json::from_value(serde_json::Value::Object(map.clone())).map(Some).map_err(|e| {
            ConnectorError::fatal("PG_OFFSET", "the stored position is not one of this connector")
                .because(e)
                .remedy("delete the connector's offsets to start over with a new snapshot")
        })
    }
}

/// Connect's source partition of a source.
#[must_use]
pub fn partition(topic_prefix: &str) -> SourcePartition {
    SourcePartition(serde_json::json!({ "server": topic_prefix }).to_string())
}

/// What the server says about a slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotState {
    /// Output plugin.
    pub plugin: Option<String>,
    /// Database.
    pub database: Option<String>,
    /// Process that uses it.
    pub active_pid: Option<i32>,
    /// Oldest WAL it holds.
    pub restart_lsn: Option<u64>,
    /// What was acknowledged.
    pub confirmed_flush_lsn: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

impl SlotState {
    /// Whether nothing can be read from it any more.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.restart_lsn.is_none()
    }
}

/// Checks that `stored` can be resumed on a cluster where `slot` looks like this.
///
/// # Errors
/// `PG_SLOT_MISSING`, `PG_SLOT_LOST`, `PG_SLOT_AHEAD`, `PG_OTHER_SYSTEM`, `PG_TIMELINE`, `PG_POSITION_UNKNOWN`: all
/// fatal, with the choices.
pub fn check_slot(
    stored: &StoredOffset,
    slot: Option<&SlotState>,
    system: &SystemState,
) -> Result<(), ConnectorError> {
    if stored.system_id != system.id {
        return Err(other_system(&stored.system_id, &system.id));
    }
    if system.timeline < stored.timeline {
        return Err(ConnectorError::fatal(
            "PG_TIMELINE",
            format!(
                "the server is on timeline {}, the stored position on {}: it is an older copy of the cluster",
                system.timeline, stored.timeline
            ),
        )
        .remedy(START_OVER));
    }
    if stored.lsn > system.wal_end {
        return Err(ConnectorError::fatal(
            "PG_POSITION_UNKNOWN",
            format!(
                "the stored position {} is past the server's WAL, which ends at {}: the server was restored from a \
                 backup, or a standby that was behind was promoted",
                Lsn(stored.lsn),
                Lsn(system.wal_end)
            ),
        )
        .remedy(START_OVER));
    }
    let Some(slot) = slot else {
        return Err(slot_missing(&stored.slot));
    };
    if slot.is_invalid() {
        return Err(slot_lost(&stored.slot));
    }
    match slot.confirmed_flush_lsn {
        Some(confirmed) if confirmed > stored.lsn => Err(ConnectorError::fatal(
            "PG_SLOT_AHEAD",
            format!(
                "replication slot `{}` is confirmed up to {}, but the stored position is {}: the changes between are \
                 gone. Either the topic log was restored from an older backup, or the slot was re-created, or somebody \
                 else reads it",
                stored.slot,
                Lsn(confirmed),
                Lsn(stored.lsn)
            ),
        )
        .remedy(START_OVER)),
        _ => Ok(()),
    }
}

const START_OVER: &str = "choices: restore what is missing and start again; or delete the connector's offsets, which \
                          starts over with a new snapshot (rows deleted meanwhile are not seen); or have that done \
                          whenever a position is lost, with snapshot.mode: when_needed";

/// Whether an error says that a stored position can't be gone on from, and that only a new one can help.
#[must_use]
pub fn is_lost(error: &ConnectorError) -> bool {
    matches!(
        error.code,
        "PG_SLOT_MISSING"
            | "PG_SLOT_LOST"
            | "PG_SLOT_AHEAD"
            | "PG_OTHER_SYSTEM"
            | "PG_TIMELINE"
            | "PG_POSITION_UNKNOWN"
    )
}

/// The cluster that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemState {
    /// System identifier.
    pub id: String,
    /// Timeline.
    pub timeline: u32,
    /// End of its WAL.
    pub wal_end: u64,
}

/// The stored position is of another cluster.
#[must_use]
pub fn other_system(stored: &str, found: &str) -> ConnectorError {
    ConnectorError::fatal(
        "PG_OTHER_SYSTEM",
        format!("the stored position is of cluster {stored}, but cluster {found} answers: positions can't be compared"),
    )
    .remedy(START_OVER)
}

fn slot_missing(slot: &str) -> ConnectorError {
    ConnectorError::fatal(
        "PG_SLOT_MISSING",
        format!(
            "replication slot `{slot}` does not exist, but a position in it is stored: changes since are lost"
        ),
    )
    .remedy(START_OVER)
}

fn slot_lost(slot: &str) -> ConnectorError {
    ConnectorError::fatal(
        "PG_SLOT_LOST",
        format!("replication slot `{slot}` was invalidated by the server (see max_slot_wal_keep_size and wal_status)"),
    )
    .remedy(format!("SELECT pg_drop_replication_slot('{slot}');\n{START_OVER}"))
}

/// Gives the error of `START_REPLICATION` its class, by SQLSTATE (postgres.md section 3.3).
#[must_use]
pub fn cannot_start(slot: &str, sqlstate: &str, error: ConnectorError) -> ConnectorError {
    match sqlstate {
        "42704" => slot_missing(slot),
        "55000" => slot_lost(slot).because(error),
        _ => error.while_attempting(&format!("stream from slot `{slot}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> StoredOffset {
        StoredOffset {
            lsn: 100,
            at_ms: None,
            slot: "s".into(),
            system_id: "1".into(),
            timeline: 2,
            partial: Some(StoredPartial { final_lsn: 120, ordinal: 3 }),
            newest_xid: None,
            has_joined: false,
            tables: None,
            snapshot: None,
            on_demand: OnDemand::default(),
            signals: Vec::new(),
            lost: None,
        }
    }

    #[test]
    fn a_position_survives_storing() {
        let offsets = stored().to_offsets("shop").unwrap();
        assert_eq!(StoredOffset::of(&offsets, "shop").unwrap(), Some(stored()));
        assert_eq!(StoredOffset::of(&offsets, "other").unwrap_err().code, "PG_OFFSET");
        assert_eq!("16/B374D848".parse::<Lsn>().unwrap().to_string(), "16/B374D848");
    }

    #[test]
    fn a_position_is_only_resumed_in_its_own_system() {
        let system = SystemState { id: "1".into(), timeline: 2, wal_end: 1000 };
        let slot =
            SlotState { restart_lsn: Some(50), confirmed_flush_lsn: Some(100), ..SlotState::default() };
        let code = |slot: Option<&SlotState>, system: &SystemState| {
            check_slot(&stored(), slot, system).map_err(|e| e.code)
        };
        assert_eq!(code(Some(&slot), &system), Ok(()));
        assert_eq!(code(None, &system), Err("PG_SLOT_MISSING"));
        let ahead = SlotState { confirmed_flush_lsn: Some(101), ..slot.clone() };
        assert_eq!(code(Some(&ahead), &system), Err("PG_SLOT_AHEAD"));
        let lost = SlotState { wal_status: Some("lost".into()), ..slot.clone() };
        assert_eq!(code(Some(&lost), &system), Err("PG_SLOT_LOST"));
        assert_eq!(
            code(Some(&slot), &SystemState { id: "2".into(), ..system.clone() }),
            Err("PG_OTHER_SYSTEM")
        );
        assert_eq!(code(Some(&slot), &SystemState { timeline: 1, ..system.clone() }), Err("PG_TIMELINE"));
        assert_eq!(code(Some(&slot), &SystemState { wal_end: 99, ..system }), Err("PG_POSITION_UNKNOWN"));
    }
}
