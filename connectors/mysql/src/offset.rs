//! Positions as they are stored.
//!
//! A position belongs to its server: it carries the server's uuid and the ids of all transactions that are done, and
//! [`crate::setup::check_position`] compares them with what is there before anything is read.

use rowstream_api::{
    ConnectorError, SourceOffset, SourceOffsets, SourcePartition,
    snapshot::{LostPosition, OnDemand, Signal, TableName},
};
use serde::{Deserialize, Serialize};

use crate::{
    snapshot::Progress,
    source_config::TableFilter,
    stream::position::{BinlogPosition, Partial, Position, Prepared},
    wire::gtid::{Domains, Gtid, GtidSet, GtidState, Tsid},
};

/// The stored position: Connect's source offset, in Debezium's words where it has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOffset {
    /// `mysql` or `mariadb`.
    pub flavour: String,
    /// The server, where it has a uuid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_uuid: String,
    /// File that the last complete transaction ends in.
    pub file: String,
    /// Where it ends.
    pub pos: u64,
    /// When the stream stood there, in milliseconds since 1970-01-01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// Transactions that are done; absent while GTIDs are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtids: Option<String>,
    /// What is done of the next transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<StoredPartial>,
    /// XA transactions that are prepared and not decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared: Vec<StoredPrepared>,
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

/// Whether an error says that a stored position can't be gone on from, and that only a new one can help.
#[must_use]
pub fn is_lost(error: &ConnectorError) -> bool {
    matches!(
        error.code,
        "MYSQL_GTID_PURGED" | "MYSQL_GTID_AHEAD" | "MYSQL_BINLOG_LOST" | "MYSQL_OTHER_SERVER"
    )
}

/// See [`Partial`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPartial {
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid: Option<String>,
    /// File that it begins in.
    pub file: String,
    /// Where it begins.
    pub pos: u64,
    /// Rows done.
    pub ordinal: u64,
}

/// See [`Prepared`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPrepared {
    /// Its name.
    pub name: String,
    /// File that it begins in.
    pub file: String,
    /// Where it begins.
    pub pos: u64,
}

fn gtid_of(text: &str) -> Option<Gtid> {
    if let Ok(domains) = text.parse::<Domains>()
        && let [domain, server, sequence] = text.split('-').collect::<Vec<_>>().as_slice()
        && !domains.is_empty()
    {
        let (domain, server, sequence) = (domain.parse().ok()?, server.parse().ok()?, sequence.parse().ok()?);
        return Some(Gtid::MariaDb { domain, server, sequence });
    }
    let set: GtidSet = text.parse().ok()?;
    let (tsid, number) = set.single()?;
    Some(Gtid::MySql { tsid: Tsid::clone(tsid), number })
}

const START_OVER: &str = "delete the connector's offsets to start over with a new snapshot";

impl StoredOffset {
    /// The stream's part.
    ///
    /// # Errors
    /// What is stored is no position.
    pub fn position(&self) -> Result<Position, ConnectorError> {
        let wrong = |what: &str| {
            ConnectorError::fatal("MYSQL_OFFSET", format!("the stored position is malformed: {what}"))
                .remedy(START_OVER)
        };
        let gtids = match (&self.gtids, self.flavour.as_str()) {
            (None, _) => GtidState::Off,
            (Some(text), "mariadb") => GtidState::Domains(text.parse().map_err(|_| wrong("gtids"))?),
            (Some(text), _) => GtidState::Set(text.parse().map_err(|_| wrong("gtids"))?),
        };
        let partial = match &self.partial {
            None => None,
            Some(stored) => Some(Partial {
                gtid: match &stored.gtid {
                    Some(text) => Some(gtid_of(text).ok_or_else(|| wrong("partial.gtid"))?),
                    None => None,
                },
                begins: BinlogPosition::new(stored.file.as_str(), stored.pos),
                ordinal: stored.ordinal,
            }),
        };
        let prepared = self
            .prepared
            .iter()
            .map(|stored| Prepared {
                name: stored.name.clone(),
                begins: BinlogPosition::new(stored.file.as_str(), stored.pos),
            })
            .collect();
        Ok(Position { at: BinlogPosition::new(self.file.as_str(), self.pos), gtids, partial, prepared })
    }

    /// Replaces the stream's part.
    pub fn set_position(&mut self, position: &Position) {
        position.at.file.as_ref().clone_into(&mut self.file);
        self.pos = position.at.offset;
        self.gtids = match &position.gtids {
            GtidState::Off => None,
            GtidState::Set(_) | GtidState::Domains(_) => Some(position.gtids.to_string()),
        };
        self.partial = position.partial.as_ref().map(|partial| StoredPartial {
            gtid: partial.gtid.as_ref().map(ToString::to_string),
            file: partial.begins.file.as_ref().to_owned(),
            pos: partial.begins.offset,
            ordinal: partial.ordinal,
        });
        let stored = |p: &Prepared| StoredPrepared {
            name: p.name.clone(),
            file: p.begins.file.as_ref().to_owned(),
            pos: p.begins.offset,
        };
        self.prepared = position.prepared.iter().map(stored).collect();
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
                    "MYSQL_OFFSET",
                    format!("the stored position is of {other}, but topic_prefix is `{topic_prefix}`"),
                )
                .remedy("give the old topic_prefix back, or delete the connector's offsets to start over"));
            }
            return Ok(None);
        };
        serde_json::from_value(serde_json::Value::Object(map.clone())).map(Some).map_err(|e| {
            ConnectorError::fatal("MYSQL_OFFSET", "the stored position is not one of this connector")
                .because(e)
                .remedy(START_OVER)
        })
    }
}

/// Connect's source partition of a source.
#[must_use]
pub fn partition(topic_prefix: &str) -> SourcePartition {
    SourcePartition(serde_json::json!({ "server": topic_prefix }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_storing() {
        let uuid = "74e06a68-e588-11f1-b47c-02fc00000001";
        let mut stored = StoredOffset {
            flavour: "mysql".into(),
            server_uuid: uuid.into(),
            file: "binlog.000007".into(),
            pos: 157,
            at_ms: Some(1),
            gtids: Some(format!("{uuid}:1-5:7,{uuid}:tag:1")),
            partial: Some(StoredPartial {
                gtid: Some(format!("{uuid}:tag:2")),
                file: "binlog.000007".into(),
                pos: 157,
                ordinal: 3,
            }),
            prepared: vec![StoredPrepared {
                name: "X'61',X'',1".into(),
                file: "binlog.000006".into(),
                pos: 4,
            }],
            tables: None,
            snapshot: None,
            on_demand: OnDemand::default(),
            signals: Vec::new(),
            lost: None,
        };
        for (flavour, gtids, gtid) in [
            ("mysql", stored.gtids.clone(), format!("{uuid}:tag:2")),
            ("mariadb", Some("0-1-5,7-1-9".into()), "0-1-6".into()),
        ] {
            stored.flavour = flavour.into();
            stored.gtids = gtids;
            stored.partial.as_mut().unwrap().gtid = Some(gtid);
            let offsets = stored.to_offsets("shop").unwrap();
            let mut read = StoredOffset::of(&offsets, "shop").unwrap().unwrap();
            assert_eq!(read, stored);
            let position = read.position().unwrap();
            read.set_position(&position);
            assert_eq!(read, stored);
            assert_eq!(StoredOffset::of(&offsets, "other").unwrap_err().code, "MYSQL_OFFSET");
        }
    }
}
