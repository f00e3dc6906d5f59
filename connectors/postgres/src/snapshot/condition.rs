//! Conditions that somebody typed, on the rows of a table that is asked for.
//!
//! What they can do: choose rows, in a transaction that reads only. They can't end the statement that they are put in, nor be followed
//! by another one: the server takes one statement at a time here, and [`SnapshotTable::select_checked`] can only be prepared with
//! what is one expression. A wrong one is refused; it never fails the source.

use rowstream_api::{Class, ConnectorError};
use tokio_postgres::Client;

use super::table::SnapshotTable;
use crate::error::from_postgres;

/// Says what is wrong with a condition; `None`: nothing.
///
/// # Errors
/// The server can't be asked.
pub async fn problem(
    client: &Client,
    table: &SnapshotTable,
    condition: &str,
) -> Result<Option<String>, ConnectorError> {
    match client.prepare(&table.select_checked(condition)).await {
        Ok(statement) if statement.params().is_empty() => Ok(None),
        Ok(_) => Ok(Some("`where` has parameters ($1): write the values into it".to_owned())),
        Err(error) if error.code().is_some_and(|state| blames_statement(state.code())) => {
            Ok(Some(format!("the server does not take `where`: {}", from_postgres(error))))
        }
        Err(error) => Err(from_postgres(error)),
    }
}

/// An error that the server answered while it read rows by a condition. Its message may quote their values.
#[must_use]
pub fn refused(sqlstate: &str, error: ConnectorError) -> ConnectorError {
    if !blames_statement(sqlstate) {
        return error;
    }
    let said = match sqlstate.get(..2) {
        Some("22") => error
            .message
            .split('"')
            .step_by(2)
            .map(str::trim)
            .collect::<Vec<_>>()
            .join(" … ")
            .trim()
            .to_owned(),
        Some("38" | "39" | "P0") => format!("a function raised an error (SQLSTATE {sqlstate})"),
        _ => error.message,
    };
    ConnectorError::new(
        Class::Config,
        "PG_SNAPSHOT_CONDITION",
        format!("the server can't evaluate `where`: {said}"),
    )
}

/// Whether the statement is at fault, and would fail again.
fn blames_statement(sqlstate: &str) -> bool {
    /// What was cancelled took too long, by statement_timeout or somebody's judgement.
    const CANCELLED: &str = "57014";
    matches!(
        sqlstate.get(..2),
        Some("0A" | "20" | "21" | "22" | "25" | "2F" | "38" | "39" | "42" | "54" | "P0")
    ) || sqlstate == CANCELLED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_condition_fails_with_quotes_no_values() {
        let error = |message: &str| ConnectorError::transient("PG_ERROR", message);
        let said = |state, message| refused(state, error(message)).to_string();
        assert_eq!(
            said("22P02", "invalid input syntax for type integer: \"secret\" (SQLSTATE 22P02)"),
            "the server can't evaluate `where`: invalid input syntax for type integer: … (SQLSTATE 22P02)"
        );
        assert!(!said("P0001", "secret").contains("secret"));
        assert_eq!(refused("57P01", error("shutting down")).class, Class::Transient);
        assert_eq!(
            refused("25006", error("cannot execute nextval() in a read-only transaction")).class,
            Class::Config
        );
    }
}
