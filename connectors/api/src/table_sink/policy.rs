//! The choices that a user has about records and tables, the same words for every database.

use serde::Deserialize;

use super::TableTemplate;

/// How records become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// The target equals the source: one row a key.
    #[default]
    Upsert,
    /// The target is a history: one row a record.
    Append,
}

/// What the sink may change about existing tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaChanges {
    /// Nothing: a column that is missing is an error.
    None,
    /// Missing columns are added; nothing is ever dropped or altered.
    #[default]
    AddColumns,
}

/// What a truncate event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncatePolicy {
    /// Truncates the target table, in order with the rows around it.
    #[default]
    Apply,
    /// Nothing.
    Ignore,
    /// The record is refused.
    Fail,
}

/// What happens when an event lacks unchanged columns of a row that the target does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingUnavailable {
    /// The record is refused.
    #[default]
    Refuse,
    /// The row is inserted with NULL (or the column's default) in these columns.
    InsertNull,
}

/// What is to be made of a record.
#[derive(Debug, Clone)]
pub struct RecordPolicy {
    /// Upsert or append.
    pub write_mode: WriteMode,
    /// Whether deletes are applied.
    pub delete: bool,
    /// What a truncate event does.
    pub truncate: TruncatePolicy,
    /// Where a record goes.
    pub table: TableTemplate,
}
