//! The statements of a plan, all set-at-a-time: their rows come as one array a column.
//!
//! Keys are compared in the column's own type, so that its index serves. The session forbids sequential scans where
//! an index exists and plans each execution for the arrays it got, so that a table without statistics can't lead to
//! a nested loop over all its rows.

use std::fmt::Write as _;

use super::plan::{ColumnPlan, TablePlan};
use crate::sink_config::WriteMode;

/// What a statement does with its rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Key columns only.
    Delete,
    /// Inserts, and updates on conflict unless rows were deleted before; these columns.
    Write(Vec<usize>),
    /// Updates these columns (the key first) of existing rows.
    Update(Vec<usize>),
    /// Which keys (counted from 1) no row has.
    Missing,
}

impl Action {
    /// Indexes of the plan's columns that are the statement's parameters, in order.
    pub(crate) fn columns(&self, plan: &TablePlan) -> Vec<usize> {
        match self {
            Self::Write(columns) | Self::Update(columns) => columns.clone(),
            Self::Delete | Self::Missing => (0..plan.keys).collect(),
        }
    }

    pub(crate) fn sql(&self, plan: &TablePlan, mode: WriteMode) -> String {
        let indexes = self.columns(plan);
        let columns: Vec<&ColumnPlan> = indexes.iter().filter_map(|i| plan.columns.get(*i)).collect();
        match self {
            Self::Delete => {
                format!("DELETE FROM {} AS t USING {} WHERE {}", plan.table, rows(&columns), join(plan))
            }
            Self::Write(_) => write_sql(plan, &columns, mode),
            Self::Update(_) => {
                let assigned: Vec<String> = columns
                    .iter()
                    .enumerate()
                    .skip(plan.keys)
                    .map(|(i, column)| format!("{} = k.c{i}{}", column.name, column.assign))
                    .collect();
                let (table, assigned, rows) = (&plan.table, assigned.join(", "), rows(&columns));
                format!("UPDATE {table} AS t SET {assigned} FROM {rows} WHERE {}", join(plan))
            }
            Self::Missing => format!(
                "SELECT k.n FROM {} WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})",
                numbered_rows(&columns),
                plan.table,
                join(plan)
            ),
        }
    }
}

/// `(SELECT unnest($1::int4[]) AS c0, …) AS k`: in step, row by row. As a function scan each array would be stored
/// whole before the first row comes out.
fn rows(columns: &[&ColumnPlan]) -> String {
    let mut sql = String::new();
    for (i, column) in columns.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        // Writing to a String can't fail.
        write!(sql, "{comma}{} AS c{i}", array(i, column)).unwrap_or_default();
    }
    format!("(SELECT {sql}) AS k")
}

/// The same with its ordinal as `n`.
fn numbered_rows(columns: &[&ColumnPlan]) -> String {
    let arrays: Vec<String> = columns.iter().enumerate().map(|(i, column)| array(i, column)).collect();
    let names: Vec<String> = (0..columns.len()).map(|i| format!("c{i}")).collect();
    format!("ROWS FROM ({}) WITH ORDINALITY AS k({}, n)", arrays.join(", "), names.join(", "))
}

fn array(i: usize, column: &ColumnPlan) -> String {
    format!("pg_catalog.unnest(${}::{}[])", i + 1, column.data.wire.sql())
}

fn join(plan: &TablePlan) -> String {
    let on = plan.columns.iter().take(plan.keys).enumerate();
    on.map(|(i, column)| format!("t.{} = k.c{i}{}", column.name, column.compare))
        .collect::<Vec<_>>()
        .join(" AND ")
}

fn write_sql(plan: &TablePlan, columns: &[&ColumnPlan], mode: WriteMode) -> String {
    let names: Vec<String> = columns.iter().map(|column| column.name.to_string()).collect();
    let values: Vec<String> =
        columns.iter().enumerate().map(|(i, column)| format!("k.c{i}{}", column.assign)).collect();
    let mut sql = format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
        plan.table,
        names.join(", "),
        values.join(", "),
        rows(columns)
    );
    if mode == WriteMode::Upsert && !plan.replace {
        let (key, others) = names.split_at_checked(plan.keys).unwrap_or((&names, &[]));
        let set: Vec<String> = others.iter().map(|name| format!("{name} = EXCLUDED.{name}")).collect();
        let action =
            if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        sql.push_str(&format!(" ON CONFLICT ({}) DO {action}", key.join(", ")));
    }
    sql
}
