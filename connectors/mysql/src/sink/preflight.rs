//! A read-only look at the target before the task starts: reach, version, databases.

use mysql_async::prelude::Queryable;
use rowstream_api::ConnectorError;

use super::session;
use crate::{
    connection::Flavour,
    error::from_mysql,
    ident::{QuotedIdent, QuotedLiteral},
    sink_config::MySqlSinkPlan,
};

/// The oldest servers whose SQL this sink speaks: `AS rowstream_new` (8.0.19) and `utf8mb4_0900_bin` (8.0.17).
const MYSQL_MIN: (u16, u16, u16) = (8, 0, 19);
const MARIADB_MIN: (u16, u16, u16) = (10, 5, 0);

/// Reports every problem at once, with the SQL that mends it.
///
/// # Errors
/// No connection, or a config error that lists what is missing.
pub(crate) async fn preflight(plan: &MySqlSinkPlan) -> Result<(), ConnectorError> {
    let mut connection = session::connect(plan).await?;
    let mut problems: Vec<(String, String)> = Vec::new();
    let (oldest, shown) = match connection.server.flavour {
        Flavour::MySql => (MYSQL_MIN, "MySQL 8.0.19"),
        Flavour::MariaDb => (MARIADB_MIN, "MariaDB 10.5"),
    };
    if connection.server.version < oldest {
        problems.push((
            format!("{} is too old, {shown} or newer is needed", connection.server),
            "-- upgrade the server".to_owned(),
        ));
    }
    let databases: Vec<String> = connection
        .conn
        .query("SELECT schema_name FROM information_schema.schemata")
        .await
        .map_err(from_mysql)?;
    let user = QuotedLiteral(&plan.connection.config.user);
    let exists = |name: &str| databases.iter().any(|database| database == name);
    if let Some(database) = plan.records.table.fixed_schema().filter(|name| !exists(name)) {
        let quoted = QuotedIdent::new(database);
        problems.push((
            format!("database `{database}` does not exist, or user {user} may not see it"),
            format!(
                "CREATE DATABASE IF NOT EXISTS {quoted} CHARACTER SET utf8mb4;\n\
                 GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER ON {quoted}.* TO {user};"
            ),
        ));
    }
    let offsets = &plan.offsets_database;
    if !exists(offsets.bare()) && !may_create_databases(&mut connection.conn).await? {
        problems.push((
            format!("database `{}` does not exist, and user {user} may not create it", offsets.bare()),
            format!(
                "CREATE DATABASE IF NOT EXISTS {offsets} CHARACTER SET utf8mb4;\n\
                 GRANT SELECT, INSERT, UPDATE, CREATE ON {offsets}.* TO {user};"
            ),
        ));
    }
    if problems.is_empty() {
        return Ok(());
    }
    let (messages, remedies): (Vec<String>, Vec<String>) = problems.into_iter().unzip();
    Err(ConnectorError::config("MYSQL_PREFLIGHT", messages.join("; ")).remedy(remedies.join("\n")))
}

/// By the user's own grants; what a role grants is seen when the role is active.
async fn may_create_databases(conn: &mut mysql_async::Conn) -> Result<bool, ConnectorError> {
    let grants: Vec<String> = conn.query("SHOW GRANTS").await.map_err(from_mysql)?;
    let may = |grant: &String| {
        let (what, on) = grant.split_once(" ON ").unwrap_or((grant, ""));
        let listed = what.trim_start_matches("GRANT ").split(", ");
        on.starts_with("*.*") && listed.into_iter().any(|p| matches!(p, "ALL PRIVILEGES" | "CREATE"))
    };
    Ok(grants.iter().any(may))
}
