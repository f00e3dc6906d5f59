//! How far a snapshot is, as it is stored beside the stream's position.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    database::{Key, TableName},
    on_demand::Asked,
};

/// How far the snapshot is. `S` says what a table's snapshot saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress<S> {
    /// The tables that are not finished, in order; the first one is being read.
    pub todo: Vec<TableName>,
    /// What was asked for, when the first table is one that was asked for; the others belong to the initial snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Key of the last row that was delivered of the first table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_key: Option<Key>,
    /// Its last key when its reading began: whatever was inserted behind it since is the stream's to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_key: Option<Key>,
    /// Whether any row was delivered.
    #[serde(default)]
    pub begun: bool,
    /// Rows that were delivered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows: u64,
    /// Rows of those that are of the first table.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub table_rows: u64,
    /// Tables that were read at once, by name, as long as the stream may bring changes that were seen.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, S>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl<S> Default for Progress<S> {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl<S> Progress<S> {
    /// Nothing is done of these tables.
    #[must_use]
    pub fn of(todo: Vec<TableName>) -> Self {
        let (rows, table_rows, seen) = (0, 0, BTreeMap::new());
        Self { todo, asked: None, last_key: None, end_key: None, begun: false, rows, table_rows, seen }
    }

    /// Nothing is left to read, and nothing to leave out of the stream.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.todo.is_empty() && self.seen.is_empty()
    }

    /// Whether rows of a table are still to be read.
    #[must_use]
    pub fn is_unread(&self, table: (&str, &str)) -> bool {
        self.todo.iter().any(|(schema, name)| (schema.as_str(), name.as_str()) == table)
    }

    /// Whether all rows of a table are still to be read, whatever comes: what the stream tells in part is told whole by the snapshot.
    /// Of a table that was asked for perhaps only some rows are read, or it is cancelled.
    #[must_use]
    pub fn will_be_whole(&self, table: (&str, &str)) -> bool {
        let initial = self.todo.iter().skip(usize::from(self.asked.is_some()));
        initial.into_iter().any(|(schema, name)| (schema.as_str(), name.as_str()) == table)
    }

    /// Whether tables are still to be read that nobody asked for.
    #[must_use]
    pub fn has_initial(&self) -> bool {
        self.todo.len() > usize::from(self.asked.is_some())
    }

    /// What is stored of a table that was read at once.
    #[must_use]
    pub fn seen_of(&self, table: (&str, &str)) -> Option<&S> {
        if self.seen.is_empty() { None } else { self.seen.get(&seen_name(table)) }
    }

    /// The first table is done, or gone.
    pub(super) fn finish_table(&mut self) {
        (self.asked, self.last_key, self.end_key, self.table_rows) = (None, None, None, 0);
        if !self.todo.is_empty() {
            self.todo.remove(0);
        }
    }
}

/// How [`Progress::seen`] names a table.
pub(super) fn seen_name((schema, name): (&str, &str)) -> String {
    format!("{schema}.{name}")
}

/// Where delivered rows stand in the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The table was asked for while the stream was under way.
    pub asked: bool,
    /// Nothing of the snapshot was delivered before.
    pub begins_snapshot: bool,
    /// Nothing of the table was delivered before.
    pub begins_table: bool,
    /// Nothing of the table follows.
    pub ends_table: bool,
    /// Nothing of the snapshot follows.
    pub ends_snapshot: bool,
}

impl Marks {
    /// Debezium's `source.snapshot` of the row at `index` of `n`.
    #[must_use]
    pub fn marker(&self, index: usize, n: usize) -> &'static str {
        let last = index + 1 == n && self.ends_table;
        if self.asked {
            "incremental"
        } else if last && self.ends_snapshot {
            "last"
        } else if index == 0 && self.begins_snapshot {
            "first"
        } else if index == 0 && self.begins_table {
            "first_in_data_collection"
        } else if last {
            "last_in_data_collection"
        } else {
            "true"
        }
    }
}
