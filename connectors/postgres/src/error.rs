//! SQLSTATE to class, in one table; every error of this crate comes through here.

use rowstream_api::{Class, ConnectorError};
use tokio_postgres::error::SqlState;

/// Class and stable code of a server error, by SQLSTATE (PostgreSQL manual, appendix A).
#[must_use]
pub fn classify(sqlstate: &str) -> (Class, &'static str) {
    match sqlstate {
        "28P01" | "28000" => (Class::Config, "PG_AUTHENTICATION"),
        "3D000" => (Class::Config, "PG_NO_DATABASE"),
        "42501" => (Class::Config, "PG_PRIVILEGE"),
        "42P01" => (Class::Config, "PG_NO_TABLE"),
        "42703" => (Class::Config, "PG_NO_COLUMN"),
        "42804" | "42846" => (Class::Config, "PG_COLUMN_TYPE"),
        "42710" | "42P07" => (Class::Config, "PG_DUPLICATE_OBJECT"),
        "21000" | "23502" | "23503" | "23514" | "23P01" => (Class::Fatal, "PG_DATA"),
        "23505" => (Class::Fatal, "PG_UNIQUE"),
        "0A000" => (Class::Config, "PG_UNSUPPORTED"),
        "53100" => (Class::Transient, "PG_DISK_FULL"),
        "53300" => (Class::Transient, "PG_TOO_MANY_CONNECTIONS"),
        "55006" => (Class::Transient, "PG_OBJECT_IN_USE"),
        "58P01" => (Class::Fatal, "PG_WAL_REMOVED"),
        "40001" | "40P01" => (Class::Transient, "PG_SERIALIZATION"),
        "57P01" | "57P02" | "57P03" => (Class::Transient, "PG_SHUTDOWN"),
        code if code.starts_with("22") => (Class::Fatal, "PG_DATA"),
        // Unknown: retried on the bounded budget, visible in the status.
        _ => (Class::Transient, "PG_ERROR"),
    }
}

/// Turns a client error into ours. The message is the server's primary message (and hint), which names objects and
/// never holds row values; the detail, which may (`Failing row contains …`), is left out.
#[must_use]
pub fn from_postgres(error: tokio_postgres::Error) -> ConnectorError {
    if let Some(db) = error.as_db_error() {
        let (class, code) = classify(db.code().code());
        let mut message = format!("{} (SQLSTATE {})", first_line(db.message()), db.code().code());
        // 22P02's message quotes the input: `invalid input syntax for type integer: "…"`.
        if *db.code() == SqlState::INVALID_TEXT_REPRESENTATION
            || *db.code() == SqlState::INVALID_DATETIME_FORMAT
            || *db.code() == SqlState::NUMERIC_VALUE_OUT_OF_RANGE
        {
            let until_value = db.message().split(": \"").next().unwrap_or_default();
            message = format!("{} (SQLSTATE {})", first_line(until_value), db.code().code());
        }
        let mut result = ConnectorError::new(class, code, message);
        if let Some(hint) = db.hint() {
            result = result.remedy(hint.to_owned());
        }
        return result;
    }
    // `tokio-postgres` has no variant for it that can be asked for.
    if std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("password missing")) {
        return ConnectorError::config(
            "PG_AUTHENTICATION",
            "the server asks for a password and none is configured",
        )
        .remedy("set connection.password");
    }
    // The client's own errors say little themselves ("error connecting to server"): the cause is the message.
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    let message = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    ConnectorError::transient("PG_CONNECTION", message)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
