//! The source's configuration: what was typed, and the plan that it means.

use std::time::Duration;

use rowstream_api::{ByteSize, ConfigErrors, ConfigSpec, FieldDoc, FieldKind, snapshot::TableName, units};
use serde::{Deserialize, Serialize};

use crate::connection::{CONNECTION_FIELDS, ConnectionConfig, ConnectionPlan};

/// What was typed.
#[derive(Debug, Clone, Deserialize)]
pub struct SourceConfig {
    /// Connection.
    pub connection: ConnectionConfig,
    /// Topic prefix.
    pub topic_prefix: String,
    /// Tables.
    pub tables: TablesConfig,
    /// Slot name.
    #[serde(default)]
    pub slot_name: Option<String>,
    /// Publication name.
    #[serde(default)]
    pub publication_name: Option<String>,
    /// Who manages the publication.
    #[serde(default)]
    pub publication_mode: PublicationMode,
    /// Snapshot.
    #[serde(default)]
    pub snapshot: SnapshotConfig,
    /// Signals.
    #[serde(default)]
    pub signal: SignalConfig,
    /// Size of a batch.
    #[serde(default = "batch_bytes")]
    pub batch_bytes: ByteSize,
    /// Bound of the queue before the pipeline.
    #[serde(default = "queue_bytes")]
    pub queue_bytes: ByteSize,
    /// Longest time between status updates.
    #[serde(default = "status_interval", deserialize_with = "units::duration")]
    pub status_interval: Duration,
    /// Longest wait for a slot.
    #[serde(default = "slot_creation_timeout", deserialize_with = "units::duration")]
    pub slot_creation_timeout: Duration,
}

/// Which tables.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TablesConfig {
    /// Patterns to capture.
    pub include: Vec<String>,
    /// Patterns to leave out of those.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// Who manages the publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublicationMode {
    /// Created and altered by us: exactly the captured tables.
    #[default]
    Filtered,
    /// Exists already.
    Disabled,
}

/// Where signals come from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SignalConfig {
    /// A table.
    pub table: Option<String>,
}

/// What to do with the rows that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotMode {
    /// Deliver them once, beside the stream.
    #[default]
    Initial,
    /// Deliver them and what changes meanwhile, then wait.
    InitialOnly,
    /// As `Initial`, and once more whenever the position is lost.
    WhenNeeded,
    /// As `Initial`, and again at each start of the connector.
    Always,
    /// Leave them out.
    Never,
}

/// The snapshot block.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub struct SnapshotConfig {
    /// Mode.
    pub mode: SnapshotMode,
    /// Rows of a chunk.
    pub chunk_rows: u32,
    /// Connections that read at the same time.
    pub readers: usize,
    /// Most rows that are read in a second; 0 for no bound.
    pub rows_per_second: u32,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { mode: SnapshotMode::default(), chunk_rows: 20_000, readers: 2, rows_per_second: 0 }
    }
}

fn batch_bytes() -> ByteSize {
    ByteSize(1 << 20)
}
fn queue_bytes() -> ByteSize {
    ByteSize(8 << 20)
}
fn status_interval() -> Duration {
    Duration::from_secs(10)
}
fn slot_creation_timeout() -> Duration {
    Duration::from_secs(90)
}

const OWN_FIELDS: [FieldDoc; 15] = [
    FieldDoc {
        path: "topic_prefix",
        kind: FieldKind::Text,
        required: true,
        default: None,
        doc: "First part of every topic name: `<topic_prefix>.<schema>.<table>`. It also names the source in stored \
              positions, so it must not change during the connector's life.",
        example: "shop",
    },
    FieldDoc {
        path: "tables.include",
        kind: FieldKind::List,
        required: true,
        default: None,
        doc: "Tables to capture, as `schema.table`; `*` stands for any text. A partitioned table is captured under \
              its root's name.",
        example: "public.*",
    },
    FieldDoc {
        path: "tables.exclude",
        kind: FieldKind::List,
        required: false,
        default: None,
        doc: "Tables to leave out of those, written alike.",
        example: "public.audit_*",
    },
    FieldDoc {
        path: "slot_name",
        kind: FieldKind::Text,
        required: false,
        default: Some("rowstream_<topic_prefix>"),
        doc: "The replication slot; lower-case letters, digits and underscores, at most 63. It is created when it does \
              not exist, and belongs to this connector alone.",
        example: "rowstream_shop",
    },
    FieldDoc {
        path: "publication_name",
        kind: FieldKind::Text,
        required: false,
        default: Some("rowstream_<topic_prefix>"),
        doc: "The publication.",
        example: "rowstream_shop",
    },
    FieldDoc {
        path: "publication_mode",
        kind: FieldKind::Choice(&["filtered", "disabled"]),
        required: false,
        default: Some("filtered"),
        doc: "`filtered`: the publication is created and altered to hold exactly the captured tables, for which the \
              role must own them. `disabled`: it exists already, and an administrator keeps it.",
        example: "disabled",
    },
    FieldDoc {
        path: "snapshot.mode",
        kind: FieldKind::Choice(&["initial", "initial_only", "when_needed", "always", "never"]),
        required: false,
        default: Some("initial"),
        doc: "`initial`: deliver the rows that are there already, once, while streaming what changes; of a \
              table that comes into `tables` later, too. `initial_only`: stop delivering after that. `when_needed`: as \
              `initial`, and where a start would be refused because the stored position is lost (the slot is missing, was \
              recreated or invalidated, another cluster or an older copy answers), all tables are read anew and the stream goes \
              on from now. What was missing is in the log, in `rowstream snapshot status` and in metrics. Rows that were deleted \
              in between are told by nobody: a target keeps them unless it is emptied first. `always`: as `initial`, and all \
              tables that have a key are read again beside the stream, as if asked for, at each start of the connector: with \
              the worker, on request, with another configuration, or on another worker; not when a task is tried again after \
              a failure. A re-reading that a stop interrupts goes on. `never`: only changes.",
        example: "never",
    },
    FieldDoc {
        path: "snapshot.chunk_rows",
        kind: FieldKind::Integer { min: 1, max: 1_000_000 },
        required: false,
        default: Some("20000"),
        doc: "Rows read in one short transaction; a restart goes on after the last delivered chunk.",
        example: "20000",
    },
    FieldDoc {
        path: "snapshot.readers",
        kind: FieldKind::Integer { min: 1, max: 16 },
        required: false,
        default: Some("2"),
        doc: "Connections that read chunks of a table at the same time, each with one chunk of at most 4 MiB in memory; \
              chunks are delivered in the key's order all the same. More of them load the server more.",
        example: "4",
    },
    FieldDoc {
        path: "snapshot.rows_per_second",
        kind: FieldKind::Integer { min: 0, max: 1_000_000_000 },
        required: false,
        default: Some("0"),
        doc: "Most rows that the snapshot reads in a second, over all its readers; 0: no bound. It holds over chunks, which are \
              never larger than one second's rows. A table without a usable key, which is read at once while the stream \
              waits, is not slowed. For what is being read it is changed without a restart by `rowstream snapshot limit`.",
        example: "5000",
    },
    FieldDoc {
        path: "signal.table",
        kind: FieldKind::Text,
        required: false,
        default: None,
        doc: "A table of Debezium's signals, as `schema.table`: its first three columns are a signal's id, type and data (JSON). \
              Rows inserted into it are read from the stream: `execute-snapshot` (incremental, with `data-collections` and \
              `additional-conditions`), `stop-snapshot`, `pause-snapshot`, `resume-snapshot` and `log`. What can't be done is \
              refused, which `rowstream snapshot status` shows, and the stream goes on. Its rows are no events unless `tables` \
              chooses it, too. Nothing is written to it. It is published with the captured tables; with `publication_mode: \
              disabled` the publication must hold it. Not needed for snapshots: see `rowstream snapshot`.",
        example: "public.debezium_signal",
    },
    FieldDoc {
        path: "batch_bytes",
        kind: FieldKind::Size,
        required: false,
        default: Some("1MiB"),
        doc: "A batch ends at this size; it ends earlier when nothing more is there to read.",
        example: "1MiB",
    },
    FieldDoc {
        path: "queue_bytes",
        kind: FieldKind::Size,
        required: false,
        default: Some("8MiB"),
        doc: "How much may wait between the connection and the topic log.",
        example: "8MiB",
    },
    FieldDoc {
        path: "status_interval",
        kind: FieldKind::Duration,
        required: false,
        default: Some("10s"),
        doc: "Longest time between two status updates; at most a sixth of the server's wal_sender_timeout.",
        example: "10s",
    },
    FieldDoc {
        path: "slot_creation_timeout",
        kind: FieldKind::Duration,
        required: false,
        default: Some("90s"),
        doc: "Longest wait for the slot: the server creates it only after every transaction that is open then has ended.",
        example: "90s",
    },
];

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler: an index out of bounds would not compile"
)]
const fn all_fields() -> [FieldDoc; CONNECTION_FIELDS.len() + OWN_FIELDS.len()] {
    let mut all = [OWN_FIELDS[0]; CONNECTION_FIELDS.len() + OWN_FIELDS.len()];
    let mut i = 0;
    while i < all.len() {
        let own = i.checked_sub(CONNECTION_FIELDS.len());
        all[i] = match own {
            Some(own) => OWN_FIELDS[own],
            None => CONNECTION_FIELDS[i],
        };
        i += 1;
    }
    all
}

const FIELDS: [FieldDoc; CONNECTION_FIELDS.len() + OWN_FIELDS.len()] = all_fields();

impl ConfigSpec for SourceConfig {
    const FIELDS: &'static [FieldDoc] = &FIELDS;
}

/// What was understood.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// The server.
    pub connection: ConnectionPlan,
    /// First part of topic names.
    pub topic_prefix: String,
    /// Which tables.
    pub tables: TableFilter,
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Who manages it.
    pub publication_mode: PublicationMode,
    /// The snapshot.
    pub snapshot: SnapshotConfig,
    /// The table of signals: schema and name.
    pub signal: Option<TableName>,
    /// Size of a batch.
    pub batch_bytes: usize,
    /// Bound of the queue.
    pub queue_bytes: usize,
    /// Longest time between status updates.
    pub status_interval: Duration,
    /// Longest wait for a slot.
    pub slot_creation_timeout: Duration,
}

impl SourceConfig {
    /// Checks what the fields mean together.
    ///
    /// # Errors
    /// Every problem, with its field.
    pub fn plan(self) -> Result<SourcePlan, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let connection = self.connection.plan(&mut errors);
        if self.topic_prefix.is_empty() || sanitise_topic(&self.topic_prefix) != self.topic_prefix {
            errors.push("topic_prefix", "must be letters, digits, `.`, `_` and `-`, and not empty");
        }
        let tables = errors.take("tables", TableFilter::new(&self.tables));
        let default_name = format!("rowstream_{}", sanitise_slot(&self.topic_prefix));
        let slot = self.slot_name.unwrap_or_else(|| default_name.clone());
        if slot.is_empty() || slot.len() > 63 || sanitise_slot(&slot) != slot {
            errors.push("slot_name", "must be 1 to 63 lower-case letters, digits and underscores");
        }
        let publication = self.publication_name.unwrap_or(default_name);
        if publication.is_empty() || publication.len() > 63 {
            errors.push("publication_name", "must have 1 to 63 bytes");
        }
        if self.snapshot.chunk_rows == 0 {
            errors.push("snapshot.chunk_rows", "must be at least 1");
        }
        if !(1..=16).contains(&self.snapshot.readers) {
            errors.push("snapshot.readers", "must be 1 to 16");
        }
        let signal =
            errors.take("signal.table", self.signal.table.map(|table| signal_table(&table)).transpose());
        if self.status_interval.is_zero() {
            errors.push("status_interval", "must be more than 0");
        }
        let size = |bytes: ByteSize| usize::try_from(bytes.0).unwrap_or(usize::MAX).clamp(4 << 10, 1 << 30);
        match (connection, tables, signal) {
            (Some(connection), Some(tables), Some(signal)) if errors.0.is_empty() => Ok(SourcePlan {
                connection,
                topic_prefix: self.topic_prefix,
                tables,
                slot,
                publication,
                publication_mode: self.publication_mode,
                snapshot: self.snapshot,
                signal,
                batch_bytes: size(self.batch_bytes),
                queue_bytes: size(self.queue_bytes),
                status_interval: self.status_interval,
                slot_creation_timeout: self.slot_creation_timeout,
            }),
            _ => Err(errors),
        }
    }
}

fn signal_table(text: &str) -> Result<TableName, String> {
    match text.split_once('.') {
        Some((schema, table)) if !schema.is_empty() && !table.is_empty() => {
            Ok((schema.to_owned(), table.to_owned()))
        }
        Some(_) | None => Err(format!("`{text}` is not `schema.table`")),
    }
}

impl SourcePlan {
    /// Whether this is the table of signals.
    #[must_use]
    pub fn is_signal(&self, schema: &str, table: &str) -> bool {
        self.signal.as_ref().is_some_and(|signal| (signal.0.as_str(), signal.1.as_str()) == (schema, table))
    }
}

/// Letters that a topic may not have become `_`; at most 249 characters.
#[must_use]
pub fn sanitise_topic(name: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars().take(249).map(|c| if legal(c) { c } else { '_' }).collect()
}

fn sanitise_slot(name: &str) -> String {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.chars().map(|c| c.to_ascii_lowercase()).map(|c| if legal(c) { c } else { '_' }).collect()
}

/// Which tables are captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFilter {
    include: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
}

impl TableFilter {
    fn new(config: &TablesConfig) -> Result<Self, String> {
        if config.include.is_empty() {
            return Err("include must name at least one table, such as `public.*`".to_owned());
        }
        for pattern in config.include.iter().chain(&config.exclude) {
            let (schema, table) = pattern.split_once('.').unwrap_or_default();
            if schema.is_empty() || table.is_empty() {
                return Err(format!("`{pattern}` is not `schema.table`"));
            }
        }
        Ok(Self { include: config.include.clone(), exclude: config.exclude.clone() })
    }

    /// Whether a table is captured.
    #[must_use]
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        let name = format!("{schema}.{table}");
        let any = |patterns: &[String]| patterns.iter().any(|p| glob(p.as_bytes(), name.as_bytes()));
        any(&self.include) && !any(&self.exclude)
    }
}

/// Whether `text` matches `pattern`, where `*` stands for any text. Linear: only the last star is gone back to.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| text.get(t) == Some(c)) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_tables() {
        let config = TablesConfig {
            include: vec!["public.*".into(), "a*.b".into()],
            exclude: vec!["public.x*y".into()],
        };
        let filter = TableFilter::new(&config).unwrap();
        assert!(filter.matches("public", "orders"));
        assert!(filter.matches("abc", "b"));
        assert!(!filter.matches("abc", "bb"));
        assert!(!filter.matches("public", "x123y"));
        assert!(filter.matches("public", "x123yz"));
        assert!(TableFilter::new(&TablesConfig { include: vec!["orders".into()], exclude: vec![] }).is_err());
    }
}
