//! The statements of a plan, each for a fixed number of rows, so that they can be prepared once.
//!
//! A key is compared as `column = ?`, where its index serves; a parameter that would make the server compare as doubles or as
//! text (decimals, dates) is cast to the column's type. A key column that the server does not compare byte by byte is
//! compared byte by byte besides, so that no other row than the key's own is touched.

use super::plan::{ColumnPlan, TablePlan};
use crate::connection::Server;

/// What a statement does with its rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Deletes the rows of these keys.
    Delete,
    /// Inserts these columns, and updates where the key is there already unless rows were deleted before.
    Write(Vec<usize>),
    /// Updates these columns (the key first) of one row.
    Update(Vec<usize>),
    /// Counts the rows of these keys, and locks them.
    Count,
}

impl Action {
    /// Whether a statement may have many rows.
    pub(crate) fn takes_many(&self) -> bool {
        !matches!(self, Self::Update(_))
    }

    /// Indexes of the plan's columns whose values are the parameters of one row, in order.
    pub(crate) fn parameters(&self, plan: &TablePlan) -> Vec<usize> {
        match self {
            Self::Write(columns) => columns.clone(),
            Self::Delete | Self::Count => key_parameters(plan),
            Self::Update(columns) => {
                let mut parameters: Vec<usize> = columns.iter().skip(plan.keys).copied().collect();
                parameters.extend(key_parameters(plan));
                parameters
            }
        }
    }

    pub(crate) fn sql(&self, plan: &TablePlan, rows: usize, server: Server) -> String {
        let table = &plan.table;
        match self {
            Self::Delete => format!("DELETE FROM {table} WHERE {}", keys(plan, rows)),
            Self::Count => format!("SELECT COUNT(*) FROM {table} WHERE {} FOR UPDATE", keys(plan, rows)),
            Self::Write(columns) => write_sql(plan, columns, rows, server),
            Self::Update(columns) => {
                let assigned: Vec<String> = columns
                    .iter()
                    .skip(plan.keys)
                    .filter_map(|index| plan.columns.get(*index))
                    .map(|column| format!("{} = {}", column.name, column.assign))
                    .collect();
                format!("UPDATE {table} SET {} WHERE {}", assigned.join(", "), key(plan))
            }
        }
    }
}

/// Key columns, those that are compared twice twice.
fn key_parameters(plan: &TablePlan) -> Vec<usize> {
    let keys = plan.columns.iter().take(plan.keys).enumerate();
    keys.flat_map(|(index, column)| vec![index; if column.exact { 1 } else { 2 }]).collect()
}

fn keys(plan: &TablePlan, rows: usize) -> String {
    match plan.columns.first() {
        Some(only) if plan.keys == 1 && only.exact => {
            format!("{} IN ({})", only.name, repeat(&only.compare, rows, ", "))
        }
        Some(_) | None => repeat(&format!("({})", key(plan)), rows, " OR "),
    }
}

fn key(plan: &TablePlan) -> String {
    let compared = plan.columns.iter().take(plan.keys).map(|column| {
        let ColumnPlan { name, compare, exact, .. } = column;
        if *exact {
            format!("{name} = {compare}")
        } else {
            format!(
                "{name} = {compare} AND CAST(CONVERT({name} USING utf8mb4) AS BINARY) = CAST({compare} AS BINARY)"
            )
        }
    });
    compared.collect::<Vec<_>>().join(" AND ")
}

fn repeat(text: &str, times: usize, separator: &str) -> String {
    let mut out = String::with_capacity((text.len() + separator.len()) * times);
    for index in 0..times {
        if index > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    out
}

fn write_sql(plan: &TablePlan, indexes: &[usize], rows: usize, server: Server) -> String {
    let columns: Vec<&ColumnPlan> = indexes.iter().filter_map(|index| plan.columns.get(*index)).collect();
    let names: Vec<String> = columns.iter().map(|column| column.name.to_string()).collect();
    let values: Vec<&str> = columns.iter().map(|column| column.assign.as_str()).collect();
    let row = format!("({})", values.join(", "));
    let mut sql =
        format!("INSERT INTO {} ({}) VALUES {}", plan.table, names.join(", "), repeat(&row, rows, ", "));
    if plan.keys == 0 || plan.replace {
        return sql;
    }
    // MariaDB has no alias for the new row, MySQL is about to lose VALUES().
    let new: fn(&str) -> String = if server.is_mariadb() {
        |name| format!("{name} = VALUES({name})")
    } else {
        sql.push_str(" AS rowstream_new");
        |name| format!("{name} = rowstream_new.{name}")
    };
    let (key, others) = names.split_at_checked(plan.keys).unwrap_or((&names, &[]));
    let mut set: Vec<String> = others.iter().map(|name| new(name)).collect();
    if set.is_empty() {
        // Nothing to change; IGNORE would hide other errors.
        set.extend(key.first().map(|name| format!("{name} = {}.{name}", plan.table)));
    }
    sql.push_str(&format!(" ON DUPLICATE KEY UPDATE {}", set.join(", ")));
    sql
}
