//! Conditions that somebody typed, on the rows of a table that is asked for.
//!
//! What they can do: choose rows, in a transaction that reads only. They can't end the statement that they are put in, nor be followed
//! by another one: a prepared statement is one statement, and [`SnapshotTable::select_checked`] can only be prepared with what is one
//! expression. A wrong one is refused; it never fails the source.

use mysql_async::{Conn, Error, prelude::Queryable as _};
use rowstream_api::{Class, ConnectorError};

use super::table::SnapshotTable;
use crate::error::from_mysql;

/// Says what is wrong with a condition; `None`: nothing.
///
/// # Errors
/// The server can't be asked.
pub async fn problem(
    conn: &mut Conn,
    table: &SnapshotTable,
    condition: &str,
) -> Result<Option<String>, ConnectorError> {
    match conn.prep(table.select_checked(condition)).await {
        Ok(statement) => {
            let has_parameters = statement.num_params() > 0;
            conn.close(statement).await.map_err(from_mysql)?;
            Ok(has_parameters.then(|| "`where` has parameters (?): write the values into it".to_owned()))
        }
        Err(Error::Server(said)) => {
            let error = refused(from_mysql(Error::Server(said)));
            if error.class == Class::Config { Ok(Some(error.message)) } else { Err(error) }
        }
        Err(error) => Err(from_mysql(error)),
    }
}

/// An error that the server answered while it read rows by a condition.
#[must_use]
pub fn refused(error: ConnectorError) -> ConnectorError {
    // What is not known is rather the condition's fault than the server's.
    let is_unknown = matches!(error.code, "MYSQL_ERROR" | "MYSQL_STATEMENT_TIMEOUT");
    if error.class == Class::Transient && !is_unknown {
        return error;
    }
    let message = format!("the server does not take `where`: {}", error.message);
    ConnectorError::config("MYSQL_SNAPSHOT_CONDITION", message)
}
