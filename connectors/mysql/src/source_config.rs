//! The source's configuration: what was typed, and the plan that it means.

use std::time::Duration;

use rowstream_api::{ByteSize, ConfigErrors, ConfigSpec, FieldDoc, FieldKind, snapshot::TableName, units};
use serde::Deserialize;

pub use crate::table_filter::TableFilter;
use crate::{
    connection::{CONNECTION_FIELDS, ConnectionConfig, ConnectionPlan, Flavour},
    types::{BigintUnsigned, TypeOptions, ZeroDates},
};

/// What was typed.
#[derive(Debug, Clone, Deserialize)]
pub struct SourceConfig {
    /// Connection.
    pub connection: ConnectionConfig,
    /// Topic prefix.
    pub topic_prefix: String,
    /// Tables.
    pub tables: TablesConfig,
    /// Our id as a replica.
    #[serde(default)]
    pub server_id: Option<u32>,
    /// Whether statements that define tables are delivered, too.
    #[serde(default = "include_schema_changes")]
    pub include_schema_changes: bool,
    /// Snapshot.
    #[serde(default)]
    pub snapshot: SnapshotConfig,
    /// Signals.
    #[serde(default)]
    pub signal: SignalConfig,
    /// Types.
    #[serde(default)]
    pub types: TypesConfig,
    /// What the binlog must tell of columns.
    #[serde(default)]
    pub row_metadata: RowMetadata,
    /// Size of a batch.
    #[serde(default = "batch_bytes")]
    pub batch_bytes: ByteSize,
    /// Bound of the queue before the pipeline.
    #[serde(default = "queue_bytes")]
    pub queue_bytes: ByteSize,
    /// How often an idle server tells its position.
    #[serde(default = "heartbeat_interval", deserialize_with = "units::duration")]
    pub heartbeat_interval: Duration,
    /// Least time that the server must keep the binlog we need.
    #[serde(default = "retention_min", deserialize_with = "units::duration")]
    pub binlog_retention_min: Duration,
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

/// What the binlog must tell of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowMetadata {
    /// Their names.
    #[default]
    Full,
    /// Nothing: the catalog tells, where the binlog shows that it holds.
    Verified,
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

/// The types block.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct TypesConfig {
    /// Dates with a zero part.
    pub zero_dates: ZeroDates,
    /// BIGINT UNSIGNED.
    pub bigint_unsigned: BigintUnsigned,
}

impl From<TypesConfig> for TypeOptions {
    fn from(types: TypesConfig) -> Self {
        Self { zero_dates: types.zero_dates, bigint_unsigned: types.bigint_unsigned }
    }
}

fn include_schema_changes() -> bool {
    true
}

fn batch_bytes() -> ByteSize {
    ByteSize(1 << 20)
}
fn queue_bytes() -> ByteSize {
    ByteSize(8 << 20)
}
fn heartbeat_interval() -> Duration {
    Duration::from_secs(1)
}
fn retention_min() -> Duration {
    Duration::from_secs(24 * 3600)
}

const OWN_FIELDS: [FieldDoc; 17] = [
    FieldDoc {
        path: "topic_prefix",
        kind: FieldKind::Text,
        required: true,
        default: None,
        doc: "First part of every topic name: `<topic_prefix>.<database>.<table>`. It also names the source in stored \
              positions, so it must not change during the connector's life.",
        example: "shop",
    },
    FieldDoc {
        path: "tables.include",
        kind: FieldKind::List,
        required: true,
        default: None,
        doc: "Tables to capture, as `database.table`; `*` stands for any text. The server's own databases are never captured.",
        example: "shop.*",
    },
    FieldDoc::optional(
        "tables.exclude",
        FieldKind::List,
        None,
        "Tables to leave out of those, written alike.",
        "shop.audit_*",
    ),
    FieldDoc::optional(
        "server_id",
        FieldKind::Integer { min: 1, max: 4_294_967_295 },
        None,
        "Our id among the server's replicas; derived from `topic_prefix` when not given. It must be free: the server cuts off the older of two replicas with the same id.",
        "5401",
    ),
    FieldDoc::optional(
        "include_schema_changes",
        FieldKind::Bool,
        Some("true"),
        "Debezium's `include.schema.changes`: whether each statement that makes, alters, renames, truncates or drops a captured table, or a \
         database that has some, is delivered, too. It goes to the topic `<topic_prefix>` in Debezium's format, with the database as \
         its key, exactly once and, among the statements of a database, in order. A statement about several tables is one event for each that is \
         captured. A snapshot begins with a `CREATE TABLE` of each table that it reads. `tableChanges` holds a table's \
         columns after the statement where the server can show that nothing has changed them since, which it can while the connector \
         keeps up; else its `table` is null: it is never guessed. `ddl` is the text as it stands in the binlog; it is null where it may \
         hold the password of another server (engines FEDERATED, CONNECT, SPIDER). Of users, grants, views, routines, sequences, \
         temporary tables, and of tables that are not captured, nothing is delivered. The connector's transforms are for rows and do not see these records. A sink's `topics: [<topic_prefix>.*]` leaves this topic out.",
        "false",
    ),
    FieldDoc::optional(
        "snapshot.mode",
        FieldKind::Choice(&["initial", "initial_only", "when_needed", "always", "never"]),
        Some("initial"),
        "`initial`: deliver the rows that are there already, once, while streaming what changes; of a table that \
         comes into `tables` later, too. `initial_only`: stop delivering after that. `when_needed`: as `initial`, and where the \
         stored position is refused because it is lost (transactions after it are purged, the server does not have it), all \
         tables are read anew and the stream goes on from now. What was missing is in the log, in `rowstream snapshot status` \
         and in metrics. Rows that were deleted in between are told by nobody: a target keeps them unless it is emptied first. \
         `always`: as `initial`, and all tables that have a usable key are read again beside the stream, as if asked for, at \
         each start of the connector: with the worker, on request, with another configuration, or on another worker; not when \
         a task is tried again after a failure. A re-reading that a stop interrupts goes on. `never`: only changes.",
        "never",
    ),
    FieldDoc::optional(
        "snapshot.chunk_rows",
        FieldKind::Integer { min: 1, max: 1_000_000 },
        Some("20000"),
        "Rows read in one short transaction; a restart goes on after the last delivered chunk.",
        "20000",
    ),
    FieldDoc::optional(
        "snapshot.readers",
        FieldKind::Integer { min: 1, max: 16 },
        Some("2"),
        "Connections that read chunks of a table at the same time, each with one chunk of about 4 MiB in memory; chunks are delivered in \
         the key's order all the same. More of them load the server more.",
        "4",
    ),
    FieldDoc::optional(
        "snapshot.rows_per_second",
        FieldKind::Integer { min: 0, max: 1_000_000_000 },
        Some("0"),
        "Most rows that the snapshot reads in a second, over all its readers; 0: no bound. It holds over chunks, which are \
         never larger than one second's rows. A table without a usable key, which is read at once while the stream waits, \
         is not slowed. For what is being read it is changed without a restart by `rowstream snapshot limit`.",
        "5000",
    ),
    FieldDoc::optional(
        "signal.table",
        FieldKind::Text,
        None,
        "A table of Debezium's signals, as `database.table`: its first three columns are a signal's id, type and data (JSON). Rows \
         inserted into it are read from the stream: `execute-snapshot` (incremental, with `data-collections` and \
         `additional-conditions`), `stop-snapshot`, `pause-snapshot`, `resume-snapshot` and `log`. What can't be done is refused, \
         which `rowstream snapshot status` shows, and the stream goes on. Its rows are no events unless `tables` chooses it, \
         too. Nothing is written to it. Not needed for snapshots: see `rowstream snapshot`.",
        "shop.debezium_signal",
    ),
    FieldDoc::optional(
        "types.zero_dates",
        FieldKind::Choice(&["convert", "fail"]),
        Some("convert"),
        "What becomes of dates with a year, month or day of 0. `convert`: NULL where the column allows it, else 1970-01-01, as \
         Debezium. `fail`: the record is refused, and `errors.tolerance` decides.",
        "fail",
    ),
    FieldDoc::optional(
        "types.bigint_unsigned",
        FieldKind::Choice(&["precise", "long"]),
        Some("precise"),
        "What a BIGINT UNSIGNED becomes. `precise`: a decimal, right for every value. `long`: INT64, negative from 2^63 on, as \
         Debezium's default.",
        "long",
    ),
    FieldDoc::optional(
        "row_metadata",
        FieldKind::Choice(&["full", "verified"]),
        Some("full"),
        "What the binlog must tell of columns. `full`: everything (`binlog_row_metadata = FULL` on the server). `verified`: for \
         servers where that can't be set; names and keys are asked for, and the binlog is read ahead to show that no statement has \
         changed them since the rows were written. Where it does not show that (the connector was behind when a table was \
         altered), the connector stops instead of guessing.",
        "verified",
    ),
    FieldDoc::optional(
        "batch_bytes",
        FieldKind::Size,
        Some("1MiB"),
        "A batch ends at this size; it ends earlier when nothing more is there to read.",
        "1MiB",
    ),
    FieldDoc::optional(
        "queue_bytes",
        FieldKind::Size,
        Some("8MiB"),
        "How much may wait between the connection and the topic log.",
        "8MiB",
    ),
    FieldDoc::optional(
        "heartbeat_interval",
        FieldKind::Duration,
        Some("1s"),
        "How often an idle server tells its position. After 30 times this, and at least a minute, of silence the connection is \
         given up.",
        "1s",
    ),
    FieldDoc::optional(
        "binlog_retention_min",
        FieldKind::Duration,
        Some("24h"),
        "Validation refuses a server that keeps its binlog for less than this: a connector that stands still for longer would \
         lose changes.",
        "24h",
    ),
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
    /// Which server the connector is for.
    pub flavour: Flavour,
    /// Our id as a replica.
    pub server_id: u32,
    /// Whether statements that define tables are delivered, too.
    pub include_schema_changes: bool,
    /// The snapshot.
    pub snapshot: SnapshotConfig,
    /// The table of signals: database and name.
    pub signal: Option<TableName>,
    /// Types.
    pub types: TypeOptions,
    /// What the binlog must tell of columns.
    pub row_metadata: RowMetadata,
    /// Size of a batch.
    pub batch_bytes: usize,
    /// Bound of the queue.
    pub queue_bytes: usize,
    /// How often an idle server tells its position.
    pub heartbeat_interval: Duration,
    /// Least time that the server must keep its binlog.
    pub binlog_retention_min: Duration,
}

impl SourceConfig {
    /// Checks what the fields mean together.
    ///
    /// # Errors
    /// Every problem, with its field.
    pub fn plan(self, flavour: Flavour) -> Result<SourcePlan, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let connection = self.connection.plan(&mut errors);
        if self.topic_prefix.is_empty() || sanitise_topic(&self.topic_prefix) != self.topic_prefix {
            errors.push("topic_prefix", "must be letters, digits, `.`, `_` and `-`, and not empty");
        }
        let tables = errors.take("tables", TableFilter::new(&self.tables));
        let server_id = self.server_id.unwrap_or_else(|| default_server_id(&self.topic_prefix));
        if server_id == 0 {
            errors.push("server_id", "must be at least 1");
        }
        if self.snapshot.chunk_rows == 0 {
            errors.push("snapshot.chunk_rows", "must be at least 1");
        }
        if !(1..=16).contains(&self.snapshot.readers) {
            errors.push("snapshot.readers", "must be 1 to 16");
        }
        let signal =
            errors.take("signal.table", self.signal.table.map(|table| signal_table(&table)).transpose());
        if self.heartbeat_interval.is_zero() {
            errors.push("heartbeat_interval", "must be more than 0");
        }
        let size = |bytes: ByteSize| usize::try_from(bytes.0).unwrap_or(usize::MAX).clamp(4 << 10, 1 << 30);
        match (connection, tables, signal) {
            (Some(connection), Some(tables), Some(signal)) if errors.0.is_empty() => Ok(SourcePlan {
                connection,
                topic_prefix: self.topic_prefix,
                tables,
                flavour,
                server_id,
                include_schema_changes: self.include_schema_changes,
                snapshot: self.snapshot,
                signal,
                types: self.types.into(),
                row_metadata: self.row_metadata,
                batch_bytes: size(self.batch_bytes),
                queue_bytes: size(self.queue_bytes),
                heartbeat_interval: self.heartbeat_interval,
                binlog_retention_min: self.binlog_retention_min,
            }),
            _ => Err(errors),
        }
    }
}

fn signal_table(text: &str) -> Result<TableName, String> {
    match text.split_once('.') {
        Some((database, table)) if !database.is_empty() && !table.is_empty() => {
            Ok((database.to_owned(), table.to_owned()))
        }
        Some(_) | None => Err(format!("`{text}` is not `database.table`")),
    }
}

impl SourcePlan {
    /// Whether this is the table of signals.
    #[must_use]
    pub fn is_signal(&self, database: &str, table: &str) -> bool {
        self.signal.as_ref().is_some_and(|signal| (signal.0.as_str(), signal.1.as_str()) == (database, table))
    }
}

/// Above the ids that people give their servers, and the same at each start, so that a second run of the same connector ends the
/// first one's connection.
fn default_server_id(topic_prefix: &str) -> u32 {
    crc32fast::hash(topic_prefix.as_bytes()) | 1 << 31
}

/// Letters that a topic may not have become `_`; at most 249 characters.
#[must_use]
pub fn sanitise_topic(name: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars().take(249).map(|c| if legal(c) { c } else { '_' }).collect()
}
