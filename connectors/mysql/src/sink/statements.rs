//! Prepared statements of this session, and how many rows each takes.

use std::collections::HashMap;

use mysql_async::{Conn, Params, Statement, Value, prelude::Queryable};
use rowstream_api::{
    ConnectorError,
    table_sink::{Entry, rows::elements},
};

use super::{apply::Failure, encode::parameter, plan::TablePlan, sql::Action};
use crate::connection::Server;

/// Rows of a statement: few different numbers, so that few are prepared.
const SIZES: [usize; 5] = [1_000, 500, 100, 10, 1];
/// Both protocols count parameters in sixteen bits.
const PARAMETERS_MAX: usize = 65_535;
/// Statements kept; above it all are closed and prepared again as needed. The server's own limit, 16,382, is everybody's.
const STATEMENTS_MAX: usize = 500;

/// What bounds a statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) rows_max: usize,
    pub(crate) bytes_max: usize,
}

/// The cache.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    prepared: HashMap<(usize, Action, usize), Statement>,
}

impl Statements {
    /// Prepares where needed.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn get(
        &mut self,
        conn: &mut Conn,
        server: Server,
        (plan, action): (&TablePlan, &Action),
        rows: usize,
    ) -> Result<Statement, Failure> {
        let key = (plan.id, action.clone(), rows);
        if let Some(statement) = self.prepared.get(&key) {
            return Ok(statement.clone());
        }
        if self.prepared.len() >= STATEMENTS_MAX {
            for (_, statement) in self.prepared.drain() {
                conn.close(statement).await?;
            }
        }
        let statement = conn.prep(action.sql(plan, rows, server)).await?;
        self.prepared.insert(key, statement.clone());
        Ok(statement)
    }
}

/// How many of these rows the next statement takes; at least one.
pub(crate) fn next_size(rows: &[Entry], plan: &TablePlan, action: &Action, bounds: Bounds) -> usize {
    if !action.takes_many() {
        return 1;
    }
    let parameters = action.parameters(plan).len().max(1);
    let mut bytes = 0usize;
    let fitting = rows
        .iter()
        .take(bounds.rows_max.min(PARAMETERS_MAX / parameters))
        .take_while(|row| {
            bytes += row.bytes.len();
            bytes <= bounds.bytes_max
        })
        .count();
    SIZES.into_iter().find(|size| *size <= fitting).unwrap_or(1)
}

/// The parameters of some rows.
///
/// # Errors
/// None in practice: a row lacks a column that its plan has.
pub(crate) fn parameters(
    arena: &[u8],
    rows: &[Entry],
    plan: &TablePlan,
    action: &Action,
) -> Result<Params, Failure> {
    let wanted = action.parameters(plan);
    let mut values = Vec::with_capacity(rows.len() * wanted.len());
    let mut row_elements: Vec<(i32, &[u8])> = Vec::with_capacity(plan.columns.len());
    for row in rows {
        row_elements.clear();
        row_elements.extend(elements(arena, row.bytes.clone()));
        for index in &wanted {
            let (Some((length, element)), Some(column)) =
                (row_elements.get(*index), plan.columns.get(*index))
            else {
                let message = "a row has not the columns of its plan";
                return Err(Failure::Ours(ConnectorError::fatal("BUG_ROW", message)));
            };
            let bytes = element.get(4..).filter(|_| *length >= 0);
            values.push(bytes.map_or(Value::NULL, |bytes| parameter(column.data.wire, bytes)));
        }
    }
    Ok(Params::Positional(values))
}
