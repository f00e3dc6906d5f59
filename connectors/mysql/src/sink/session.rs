//! What a connection of the sink is set to before it does anything: the same on every server, whatever its defaults.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use rowstream_api::ConnectorError;

use crate::{
    connection::{Connection, Purpose},
    error::from_mysql,
    sink_config::MySqlSinkPlan,
};

/// An idle connection is kept this long by the server.
const IDLE_SECONDS: u64 = 7 * 86_400;
/// An abandoned transaction of ours must not hold the fence's lock for long.
const IN_TRANSACTION_SECONDS_MIN: u64 = 60;

/// Connects to the first writable server and sets the session.
///
/// # Errors
/// As the connection's.
pub(crate) async fn connect(config: &MySqlSinkPlan) -> Result<Connection, ConnectorError> {
    let mut connection = config.connection.connect(Purpose::Write).await?;
    let lock_seconds = seconds(config.statement_timeout).min(31_536_000);
    // 0 in a counter column is a value; strict for every engine; UTC, so that an instant is one instant everywhere.
    let mut sql = format!(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,\
         NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00', autocommit = 1, unique_checks = 1, \
         foreign_key_checks = 1, sql_safe_updates = 0, wait_timeout = {IDLE_SECONDS}, \
         innodb_lock_wait_timeout = {lock_seconds}, lock_wait_timeout = {lock_seconds}; \
         SET NAMES utf8mb4; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    );
    if connection.server.is_mariadb() {
        // Long IN lists would become joins with a table that has no index.
        sql.push_str(&format!(
            "; SET SESSION in_predicate_conversion_threshold = 0, max_statement_time = {lock_seconds}"
        ));
    }
    connection.conn.query_drop(sql).await.map_err(from_mysql)?;
    Ok(connection)
}

/// Opens a transaction that the server ends when we are gone.
pub(crate) fn begin(config: &MySqlSinkPlan) -> String {
    let limit = seconds(config.statement_timeout).max(IN_TRANSACTION_SECONDS_MIN);
    format!("SET SESSION wait_timeout = {limit}; START TRANSACTION")
}

/// Commits, and lets the connection idle again.
pub(crate) fn commit() -> String {
    format!("COMMIT; SET SESSION wait_timeout = {IDLE_SECONDS}")
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}
