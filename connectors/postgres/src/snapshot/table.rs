//! How a table's rows are asked for.

use std::sync::Arc;

use rowstream_api::{
    TableSchema,
    snapshot::{Key, KeyRange, Table, TableName},
};

use crate::{
    ident::{self, QuotedIdent, QuotedLiteral},
    table::TablePlan,
};

/// A table at its present shape.
pub struct SnapshotTable {
    /// Its plan.
    pub plan: Arc<TablePlan>,
    /// It has partitions, which are read with it.
    pub partitioned: bool,
    /// The publication's row filter.
    pub filter: Option<String>,
    /// Which rows were asked for: somebody's own SQL, checked by [`super::condition`].
    pub condition: Option<String>,
    /// Types of the key's columns by name, as a cast takes them.
    pub key_types: Vec<String>,
}

impl PartialEq for SnapshotTable {
    fn eq(&self, other: &Self) -> bool {
        self.plan.relation == other.plan.relation
            && (self.partitioned, &self.filter) == (other.partitioned, &other.filter)
            && self.condition == other.condition
    }
}

impl Table for SnapshotTable {
    fn name(&self) -> TableName {
        (self.plan.relation.namespace.clone(), self.plan.relation.name.clone())
    }

    fn schema(&self) -> &Arc<TableSchema> {
        &self.plan.schema
    }

    fn is_chunkable(&self) -> bool {
        self.plan.schema.key.is_some()
    }
}

impl SnapshotTable {
    /// All rows, in any order.
    #[must_use]
    pub fn select(&self) -> String {
        let columns: Vec<String> =
            self.plan.columns.iter().map(|c| QuotedIdent::new(&c.name).to_string()).collect();
        format!("SELECT {} {}", columns.join(", "), self.from(Vec::new()))
    }

    /// Rows of a range, in the order of the key.
    #[must_use]
    pub fn select_range(&self, range: &KeyRange) -> String {
        let columns: Vec<String> =
            self.plan.columns.iter().map(|c| QuotedIdent::new(&c.name).to_string()).collect();
        let mut conditions = self.within(range);
        // The line ends because it may end in a comment.
        conditions.extend(self.condition.as_ref().map(|condition| format!("({condition}\n)")));
        let from = self.from(conditions);
        format!("SELECT {} {from} ORDER BY {}", columns.join(", "), self.key().join(", "))
    }

    /// Reads nothing, and can be prepared when [`Self::condition`] is one condition on the table's rows and nothing else: what closes
    /// a parenthesis that it did not open can't be in the first place, and what is no single expression not in the second.
    #[must_use]
    pub fn select_checked(&self, condition: &str) -> String {
        let checked = format!("CASE WHEN {condition}\n THEN true END AND ({condition}\n)");
        format!("SELECT 1 {}", self.from(vec![checked]))
    }

    /// The key of the row at `place` (from 1) of a range, whatever the condition: so chunks stay short where it holds for few rows.
    #[must_use]
    pub fn select_bound(&self, range: &KeyRange, place: u32) -> String {
        let (key, from) = (self.key().join(", "), self.from(self.within(range)));
        format!("SELECT {key} {from} ORDER BY {key} OFFSET {} LIMIT 1", place.saturating_sub(1))
    }

    /// The last key.
    #[must_use]
    pub fn select_last_key(&self) -> String {
        let (key, from) = (self.key(), self.from(Vec::new()));
        format!("SELECT {} {from} ORDER BY {} DESC LIMIT 1", key.join(", "), key.join(" DESC, "))
    }

    fn key(&self) -> Vec<String> {
        let key = self.plan.schema.key_columns.iter().filter_map(|i| self.plan.columns.get(*i));
        key.map(|column| QuotedIdent::new(&column.name).to_string()).collect()
    }

    /// Compared by the server, as rows, so that the order is its own, of any collation.
    fn within(&self, range: &KeyRange) -> Vec<String> {
        let key = self.key().join(", ");
        let compared = |operator: &str, bound: &Key| {
            let values = bound.iter().zip(&self.key_types);
            let values: Vec<String> =
                values.map(|(value, ty)| format!("{}::{ty}", QuotedLiteral(value))).collect();
            format!("ROW({key}) {operator} ROW({})", values.join(", "))
        };
        let after = range.after.as_ref().map(|bound| compared(">", bound));
        let upto = range.upto.as_ref().map(|bound| compared("<=", bound));
        after.into_iter().chain(upto).collect()
    }

    fn from(&self, mut conditions: Vec<String>) -> String {
        conditions.extend(self.filter.as_ref().map(|filter| format!("({filter})")));
        let only = if self.partitioned { "" } else { "ONLY " };
        let table = ident::TableName::new(&self.plan.relation.namespace, &self.plan.relation.name);
        let joint = if conditions.is_empty() { "" } else { " WHERE " };
        format!("FROM {only}{table}{joint}{}", conditions.join(" AND "))
    }
}
