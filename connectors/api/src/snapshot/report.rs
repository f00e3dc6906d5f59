//! How far a source's snapshots are, for people.

use serde::Serialize;

use super::{
    database::TableName,
    lost::LostPosition,
    on_demand::{Asked, OnDemand, Refusal, dotted},
    progress::Progress,
};

/// How far a source's snapshots are, as far as it is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing is read for now.
    pub paused: bool,
    /// The table that is being read, or will be next.
    pub reading: Option<ReportedTable>,
    /// Those that follow, in order.
    pub waiting: Vec<ReportedTable>,
    /// Rows of the snapshot under way that were delivered, all tables together.
    pub rows: u64,
    /// Rows of the table that is being read.
    pub table_rows: u64,
    /// What was refused, the newest last.
    pub refused: Vec<Refusal>,
    /// The last position that was lost, so that all tables were read anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostPosition>,
}

/// A table of a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedTable {
    /// `schema.table`
    pub table: String,
    /// The request that asked for it; none of the initial snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Which rows; all when there is none.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

impl Report {
    /// What is stored, for people.
    #[must_use]
    pub fn of<S>(progress: Option<&Progress<S>>, on_demand: &OnDemand, lost: Option<&LostPosition>) -> Self {
        let asked = |asked: &Asked| ReportedTable {
            table: dotted(&asked.table),
            request: Some(asked.request.clone()),
            condition: asked.condition.clone(),
        };
        let initial =
            |table: &TableName| ReportedTable { table: dotted(table), request: None, condition: None };
        let current = progress.and_then(|progress| progress.asked.as_ref());
        let skipped = usize::from(current.is_some());
        let todo = progress.iter().flat_map(|progress| progress.todo.iter().skip(skipped).map(initial));
        let mut tables = current.map(asked).into_iter().chain(todo).chain(on_demand.waiting().map(asked));
        Self {
            paused: on_demand.is_paused(),
            reading: tables.next(),
            waiting: tables.collect(),
            rows: progress.map_or(0, |progress| progress.rows),
            table_rows: progress.map_or(0, |progress| progress.table_rows),
            refused: on_demand.refused().cloned().collect(),
            lost: lost.cloned(),
        }
    }
}
