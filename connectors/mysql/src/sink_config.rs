//! What a user types for `mysql-sink`, and the plan that is understood from it.
//!
//! Checks are pure. The name template is parsed here, so that a wrong variable is an error before anything connects.

use std::time::Duration;

use rowstream_api::{
    ByteSize, ConfigErrors, ConfigSpec, FieldDoc, FieldKind,
    table_sink::{MissingUnavailable, RecordPolicy, SchemaChanges, TableTemplate, TruncatePolicy, WriteMode},
    units,
};
use serde::Deserialize;

use crate::{
    connection::{CONNECTION_FIELDS, ConnectionConfig, ConnectionPlan},
    ident::QuotedIdent,
};

/// MySQL's and MariaDB's limit on names, in characters.
pub(crate) const NAME_CHARS_MAX: usize = 64;

/// The `config` block.
#[derive(Debug, Clone, Deserialize)]
pub struct MySqlSinkConfig {
    /// Where the target is.
    pub connection: ConnectionConfig,
    /// Upsert or append.
    #[serde(default)]
    pub write_mode: WriteMode,
    /// Whether deletes are applied.
    #[serde(default = "default_true")]
    pub delete: bool,
    /// Table name template.
    #[serde(default = "default_table")]
    pub table: String,
    /// Whether missing tables are created.
    #[serde(default = "default_true")]
    pub create_tables: bool,
    /// What may change about existing tables.
    #[serde(default)]
    pub schema_changes: SchemaChanges,
    /// Rows in one statement.
    #[serde(default = "default_batch_rows")]
    pub batch_rows_max: usize,
    /// Bytes in one statement.
    #[serde(default = "default_batch_bytes")]
    pub batch_bytes_max: ByteSize,
    /// Database of the fence and offset tables.
    #[serde(default = "default_offsets_database")]
    pub offsets_database: String,
    /// What a truncate event does.
    #[serde(default)]
    pub truncate: TruncatePolicy,
    /// What an update of a missing row with unchanged columns does.
    #[serde(default)]
    pub missing_unavailable: MissingUnavailable,
    /// Append mode: whether the `__…` columns are written.
    #[serde(default = "default_true")]
    pub metadata_columns: bool,
    /// Longest run of one statement.
    #[serde(default = "default_statement_timeout", deserialize_with = "units::duration")]
    pub statement_timeout: Duration,
}

fn default_true() -> bool {
    true
}
fn default_table() -> String {
    "${source.table}".to_owned()
}
fn default_offsets_database() -> String {
    "rowstream".to_owned()
}
fn default_batch_rows() -> usize {
    1_000
}
fn default_batch_bytes() -> ByteSize {
    ByteSize(8 << 20)
}
fn default_statement_timeout() -> Duration {
    Duration::from_secs(300)
}

/// An optional field of the table below.
const fn field(
    path: &'static str,
    kind: FieldKind,
    default: &'static str,
    example: &'static str,
    doc: &'static str,
) -> FieldDoc {
    FieldDoc { path, kind, required: false, default: Some(default), doc, example }
}

impl ConfigSpec for MySqlSinkConfig {
    const FIELDS: &'static [FieldDoc] = &[
        CONNECTION_FIELDS[0],
        CONNECTION_FIELDS[1],
        CONNECTION_FIELDS[2],
        CONNECTION_FIELDS[3],
        CONNECTION_FIELDS[4],
        CONNECTION_FIELDS[5],
        CONNECTION_FIELDS[6],
        CONNECTION_FIELDS[7],
        CONNECTION_FIELDS[8],
        CONNECTION_FIELDS[9],
        CONNECTION_FIELDS[10],
        field(
            "write_mode",
            FieldKind::Choice(&["upsert", "append"]),
            "upsert",
            "upsert",
            "`upsert` keeps one row a key, so that the target equals the source; records without a key are refused. \
             `append` inserts one row a record and never changes one.",
        ),
        field(
            "delete",
            FieldKind::Bool,
            "true",
            "true",
            "Whether deletes are applied; `upsert` only. With `false` deleted rows stay in the target.",
        ),
        field(
            "table",
            FieldKind::Text,
            "${source.table}",
            "${source.schema}_${source.table}",
            "Name of the target table. Variables: `${topic}` (dots become `_`), `${source.db}`, `${source.schema}` \
             (of a source without schemas: the database), `${source.table}` (for records without a source block: the \
             last part of the topic). A dot in the template itself separates database and table: \
             `${source.schema}.${source.table}`; without one the table is in `connection.database`.",
        ),
        field(
            "create_tables",
            FieldKind::Bool,
            "true",
            "true",
            "Whether tables that do not exist are created (InnoDB, utf8mb4, compared byte by byte), with the record's \
             key as primary key.",
        ),
        field(
            "schema_changes",
            FieldKind::Choice(&["none", "add_columns"]),
            "add_columns",
            "add_columns",
            "`add_columns` adds columns that records have and the table lacks. Nothing is ever dropped or altered.",
        ),
        field(
            "batch_rows_max",
            FieldKind::Integer { min: 1, max: 1_000 },
            "1000",
            "1000",
            "Most rows in one statement; one transaction holds as many statements as its flush needs. Statements are \
             prepared for 1000, 500, 100, 10 and 1 rows, up to this.",
        ),
        field(
            "batch_bytes_max",
            FieldKind::Size,
            "8MiB",
            "8MiB",
            "Most bytes in one statement, and never more than half of the server's `max_allowed_packet`; a single \
             larger row is still sent whole.",
        ),
        field(
            "offsets_database",
            FieldKind::Text,
            "rowstream",
            "rowstream",
            "Database of the tables `sink_fence` and `sink_offsets`, which commit together with the rows.",
        ),
        field(
            "truncate",
            FieldKind::Choice(&["apply", "ignore", "fail"]),
            "apply",
            "apply",
            "What a TRUNCATE of the source table does. `apply` deletes all rows, in order with the rows around it \
             and in the same transaction (the server's own TRUNCATE would commit at once). In `append` mode `apply` \
             adds a row whose `__op` is `t`.",
        ),
        field(
            "missing_unavailable",
            FieldKind::Choice(&["refuse", "insert_null"]),
            "refuse",
            "refuse",
            "An update that left out unchanged large values, of a row that the target lacks: refuse the record, or \
             insert the row with NULL in these columns.",
        ),
        field(
            "metadata_columns",
            FieldKind::Bool,
            "true",
            "true",
            "`append` only: write `__op`, `__ts_ms`, `__topic`, `__partition` and `__offset`; the last three are the \
             primary key of tables created by the sink.",
        ),
        field(
            "statement_timeout",
            FieldKind::Duration,
            "5m",
            "5m",
            "Longest run of one statement in the target, waits for locks included.",
        ),
    ];
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct MySqlSinkPlan {
    /// How to connect.
    pub connection: ConnectionPlan,
    /// What is to be made of a record.
    pub records: RecordPolicy,
    /// Whether missing tables are created.
    pub create_tables: bool,
    /// What may change about existing tables.
    pub schema_changes: SchemaChanges,
    /// Most rows in one statement.
    pub batch_rows_max: usize,
    /// Most bytes in one statement.
    pub batch_bytes_max: usize,
    /// Database of the fence and offset tables.
    pub offsets_database: QuotedIdent,
    /// What an update of a missing row with unchanged columns does.
    pub missing_unavailable: MissingUnavailable,
    /// Append mode: whether the `__…` columns are written.
    pub metadata_columns: bool,
    /// Longest run of one statement.
    pub statement_timeout: Duration,
}

impl MySqlSinkConfig {
    /// Checks what the fields mean together.
    ///
    /// # Errors
    /// Every problem, each with its field.
    pub fn plan(self) -> Result<MySqlSinkPlan, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = &self.connection.database;
        if self.offsets_database.is_empty() || self.offsets_database.chars().count() > NAME_CHARS_MAX {
            errors.push("offsets_database", "expected a database name of 1 to 64 characters");
        }
        if self.batch_rows_max == 0 {
            errors.push("batch_rows_max", "expected at least 1");
        }
        if self.statement_timeout.is_zero() {
            errors.push("statement_timeout", "expected more than zero: a statement must not wait for ever");
        }
        let table = errors.take("table", TableTemplate::parse(&self.table, database));
        if table.as_ref().is_some_and(|table| table.fixed_schema() == Some("")) {
            errors.push(
                "connection.database",
                "must not be empty, unless `table` names the database (`${source.schema}.${source.table}`)",
            );
        }
        let connection = self.connection.plan(&mut errors);
        match (table, connection, errors.0.is_empty()) {
            (Some(table), Some(connection), true) => Ok(MySqlSinkPlan {
                connection,
                records: RecordPolicy {
                    write_mode: self.write_mode,
                    delete: self.delete,
                    truncate: self.truncate,
                    table,
                },
                create_tables: self.create_tables,
                schema_changes: self.schema_changes,
                batch_rows_max: self.batch_rows_max,
                batch_bytes_max: usize::try_from(self.batch_bytes_max.0).unwrap_or(usize::MAX),
                offsets_database: QuotedIdent::new(&self.offsets_database),
                missing_unavailable: self.missing_unavailable,
                metadata_columns: self.metadata_columns,
                statement_timeout: self.statement_timeout,
            }),
            _ => Err(errors),
        }
    }
}
