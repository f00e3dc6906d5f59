//! A read-only look at the server that finds everything that would stop the source, and prints the SQL that mends it.

use std::sync::Arc;

use mysql_async::{Conn, prelude::Queryable};
use rowstream_api::{Attempting, ConnectorError, TableSchema};

use crate::{
    catalog::{self, Catalog},
    connection::{Flavour, Server},
    error::from_mysql,
    ident::QuotedLiteral,
    setup::{self, Problems},
    source_config::{RowMetadata, SnapshotMode, SourcePlan},
    table,
};

/// Looks.
///
/// # Errors
/// All problems in one, with the SQL of them all as the remedy.
pub async fn check(plan: &SourcePlan) -> Result<(), ConnectorError> {
    let (mut conn, server) = catalog::connect(&plan.connection).await?;
    let mut problems = flavour_problems(plan, server);
    if problems.is_empty() {
        settings(&mut conn, plan, server, &mut problems).await?;
        grants(&mut conn, plan, server, &mut problems).await?;
        let tables = catalog::captured_tables(&mut conn, &plan.tables).await?;
        problems.extend(setup::table_problems(&plan.topic_prefix, &tables));
        problems.extend(setup::signal_problems(&mut conn, plan).await?);
    }
    if problems.is_empty() { Ok(()) } else { Err(setup::as_error("MYSQL_PREFLIGHT", problems)) }
}

/// The captured tables at their present shapes.
///
/// # Errors
/// The server's, or a column that is not supported.
pub async fn tables(plan: &SourcePlan) -> Result<Vec<Arc<TableSchema>>, ConnectorError> {
    let (mut conn, server) = catalog::connect(&plan.connection).await?;
    let mut catalog = Catalog::load(&mut conn, server.flavour).await?;
    let mut tables = Vec::new();
    for (database, table) in catalog::captured_tables(&mut conn, &plan.tables).await? {
        if let Some(shape) = catalog.describe(&mut conn, &database, &table).await? {
            tables.push(table::build(&shape, &catalog, plan.types, &plan.topic_prefix)?.schema);
        }
    }
    Ok(tables)
}

/// The server is not what the connector is for.
#[must_use]
pub fn flavour_problems(plan: &SourcePlan, server: Server) -> Problems {
    let mut problems = Problems::new();
    if server.flavour != plan.flavour {
        let name = match server.flavour {
            Flavour::MySql => "mysql-source",
            Flavour::MariaDb => "mariadb-source",
        };
        problems.push((format!("the server is {server}: use the connector `{name}`"), None));
    }
    let oldest = match server.flavour {
        Flavour::MySql => (8, 0, 1),
        Flavour::MariaDb => (10, 5, 0),
    };
    if server.version < oldest {
        let (major, minor, patch) = oldest;
        problems.push((format!("the server is {server}; {major}.{minor}.{patch} or later is needed"), None));
    }
    problems
}

/// The statement that sets a variable for good.
fn set(server: Server, name: &str, value: &str) -> String {
    match server.flavour {
        Flavour::MySql => format!("SET PERSIST {name} = {value};"),
        Flavour::MariaDb => format!("SET GLOBAL {name} = {value}; -- and `{name} = {value}` in my.cnf"),
    }
}

/// A global variable; `None` where the server does not have it.
async fn variable(conn: &mut Conn, name: &str) -> Result<Option<String>, ConnectorError> {
    let sql = format!("SHOW GLOBAL VARIABLES LIKE {}", QuotedLiteral(name));
    let row: Option<(String, String)> = conn
        .query_first(sql)
        .await
        .map_err(from_mysql)
        .attempting(|| format!("look up the variable {name}"))?;
    Ok(row.map(|(_, value)| value))
}

async fn settings(
    conn: &mut Conn,
    plan: &SourcePlan,
    server: Server,
    problems: &mut Problems,
) -> Result<(), ConnectorError> {
    if variable(conn, "log_bin").await?.as_deref() != Some("ON") {
        problems.push((
            "the server writes no binlog (log_bin is OFF)".to_owned(),
            Some("-- put `log_bin = binlog` and `server_id = 1` under [mysqld] in my.cnf and restart the server".to_owned()),
        ));
        return Ok(());
    }
    for (name, wanted) in
        [("binlog_format", "ROW"), ("binlog_row_image", "FULL"), ("binlog_row_metadata", "FULL")]
    {
        if name == "binlog_row_metadata" && plan.row_metadata == RowMetadata::Verified {
            continue;
        }
        let found = variable(conn, name).await?;
        if found.as_deref().is_some_and(|value| !value.eq_ignore_ascii_case(wanted)) {
            let found = found.unwrap_or_default();
            problems
                .push((format!("{name} is {found}; {wanted} is needed"), Some(set(server, name, wanted))));
        }
    }
    if variable(conn, "server_id").await?.and_then(|id| id.parse().ok()) == Some(plan.server_id) {
        problems.push((
            format!("server_id {} is the server's own: give the connector another one", plan.server_id),
            None,
        ));
    }
    retention(conn, plan, server, problems).await?;
    let gtids = server.flavour == Flavour::MariaDb || setup::gtid_executed(conn).await?.is_some();
    if !gtids && plan.snapshot.mode != SnapshotMode::Never {
        let sql = "SELECT server_uuid FROM performance_schema.log_status";
        if conn.query_first::<String, _>(sql).await.is_err() {
            problems.push((
                "gtid_mode is not ON: a snapshot that agrees with the stream needs it, or the privilege BACKUP_ADMIN"
                    .to_owned(),
                Some(format!("GRANT BACKUP_ADMIN ON *.* TO {};", user(plan))),
            ));
        }
    }
    Ok(())
}

/// How long the server keeps its binlog.
async fn retention(
    conn: &mut Conn,
    plan: &SourcePlan,
    server: Server,
    problems: &mut Problems,
) -> Result<(), ConnectorError> {
    let seconds = match variable(conn, "binlog_expire_logs_seconds")
        .await?
        .and_then(|text| text.parse::<f64>().ok())
    {
        Some(seconds) => seconds,
        None => {
            variable(conn, "expire_logs_days").await?.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0)
                * 86_400.0
        }
    };
    // 0: kept until somebody purges them.
    if seconds > 0.0 && seconds < plan.binlog_retention_min.as_secs_f64() {
        let wanted = plan.binlog_retention_min.as_secs();
        problems.push((
            format!(
                "the server keeps its binlog for {seconds} seconds only: a connector that stands still for longer loses changes \
                 (binlog_retention_min is {wanted} seconds)"
            ),
            Some(set(server, "binlog_expire_logs_seconds", &wanted.to_string())),
        ));
    }
    Ok(())
}

fn user(plan: &SourcePlan) -> String {
    format!("{}@'%'", QuotedLiteral(&plan.connection.config.user))
}

async fn grants(
    conn: &mut Conn,
    plan: &SourcePlan,
    server: Server,
    problems: &mut Problems,
) -> Result<(), ConnectorError> {
    let lines: Vec<String> =
        conn.query("SHOW GRANTS").await.map_err(from_mysql).attempting(|| "ask for our privileges".into())?;
    let grants = lines.join("\n").to_ascii_uppercase();
    let has = |name: &str| grants.contains(name) || grants.contains("GRANT ALL PRIVILEGES ON *.*");
    let mut missing = Vec::new();
    if !has("REPLICATION SLAVE") {
        missing.push("REPLICATION SLAVE");
    }
    let status = match server.flavour {
        Flavour::MySql => "REPLICATION CLIENT",
        Flavour::MariaDb => "BINLOG MONITOR",
    };
    if !has(status) && !has("REPLICATION CLIENT") {
        missing.push(status);
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        problems.push((
            format!("user `{}` lacks {missing}", plan.connection.config.user),
            Some(format!("GRANT {missing} ON *.* TO {};", user(plan))),
        ));
    }
    Ok(())
}
