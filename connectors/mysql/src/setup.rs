//! What must hold before anything is read: the first position, and whether the server still has everything after a stored one.

use std::{collections::BTreeMap, time::Duration};

use mysql_async::{Conn, Row, prelude::Queryable};
use rowstream_api::{Attempting, Class, ConnectorError};

use crate::{
    catalog,
    connection::{Flavour, Server},
    error::from_mysql,
    ident::QuotedIdent,
    source_config::{SourcePlan, TableFilter},
    stream::{
        position::{BinlogPosition, Position},
        reader::StreamPlan,
    },
    table,
    transport::connection::BinlogConnection,
    wire::gtid::{GtidSet, GtidState},
};

/// A transaction reaches the stream before `gtid_executed` knows it; so long after a restart the difference is believed.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);

const START_OVER: &str = "choices: connect to a server that has what is missing; or delete the connector's offsets, which starts \
                          over with a new snapshot (rows deleted meanwhile are not seen); or have that done whenever a position \
                          is lost, with snapshot.mode: when_needed";

/// What is wrong, each with the SQL that mends it.
pub type Problems = Vec<(String, Option<String>)>;

/// All problems in one error.
#[must_use]
pub fn as_error(code: &'static str, problems: Problems) -> ConnectorError {
    let (messages, remedies): (Vec<String>, Vec<Option<String>>) = problems.into_iter().unzip();
    let remedies: Vec<String> = remedies.into_iter().flatten().collect();
    let error = ConnectorError::config(code, messages.join("; "));
    if remedies.is_empty() { error } else { error.remedy(remedies.join("\n")) }
}

/// Tables whose records would share a topic.
#[must_use]
pub fn table_problems(topic_prefix: &str, tables: &[(String, String)]) -> Problems {
    let mut by_topic: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (database, name) in tables {
        let topic = table::topic_name(topic_prefix, database, name);
        by_topic.entry(topic).or_default().push(format!("{database}.{name}"));
    }
    let shared = by_topic.into_iter().filter(|(_, names)| names.len() > 1);
    shared
        .map(|(topic, names)| {
            (
                format!(
                    "{} would share the topic `{topic}`: leave out all but one with tables.exclude",
                    names.join(" and ")
                ),
                None,
            )
        })
        .collect()
}

/// A table of signals that is missing.
///
/// # Errors
/// The server's.
pub async fn signal_problems(conn: &mut Conn, plan: &SourcePlan) -> Result<Problems, ConnectorError> {
    let Some(signal) = &plan.signal else { return Ok(Vec::new()) };
    if !catalog::captured_tables(conn, &TableFilter::of(signal)).await?.is_empty() {
        return Ok(Vec::new());
    }
    let (database, table) = (QuotedIdent::new(&signal.0), QuotedIdent::new(&signal.1));
    let sql = format!(
        "CREATE TABLE {database}.{table} (id varchar(42) PRIMARY KEY, type varchar(32) NOT NULL, data text);"
    );
    let missing = format!("signal.table: there is no table `{}.{}`", signal.0, signal.1);
    Ok(vec![(missing, Some(sql))])
}

/// `SHOW BINARY LOG STATUS`, or what older servers call it.
///
/// # Errors
/// The server's; it writes no binlog.
pub async fn binlog_status(conn: &mut Conn, server: Server) -> Result<BinlogPosition, ConnectorError> {
    let sql = if server.flavour == Flavour::MySql && server.version >= (8, 2, 0) {
        "SHOW BINARY LOG STATUS"
    } else {
        "SHOW MASTER STATUS"
    };
    let row: Option<Row> = conn
        .query_first(sql)
        .await
        .map_err(from_mysql)
        .attempting(|| "ask for the binlog's position".into())?;
    let file = row.as_ref().and_then(|row| row.get::<String, _>(0));
    let offset = row.as_ref().and_then(|row| row.get::<u64, _>(1));
    match (file, offset) {
        (Some(file), Some(offset)) => Ok(BinlogPosition::new(file, offset)),
        _ => Err(ConnectorError::config("MYSQL_NO_BINLOG", "the server writes no binlog (log_bin is OFF)")),
    }
}

/// What tells this server from others: its uuid; for MariaDB, which has none, its server id.
///
/// # Errors
/// The server's.
pub async fn server_uuid(conn: &mut Conn, flavour: Flavour) -> Result<String, ConnectorError> {
    let sql = match flavour {
        Flavour::MySql => "SELECT @@global.server_uuid",
        Flavour::MariaDb => "SELECT CONCAT('server_id ', @@global.server_id)",
    };
    let uuid: Option<String> = conn.query_first(sql).await.map_err(from_mysql)?;
    Ok(uuid.unwrap_or_default())
}

/// Whether the server stores the names of tables in lower case, however they are written.
///
/// # Errors
/// The server's.
pub async fn stores_lower_case(conn: &mut Conn) -> Result<bool, ConnectorError> {
    let setting: Option<u8> =
        conn.query_first("SELECT @@global.lower_case_table_names").await.map_err(from_mysql)?;
    Ok(setting == Some(1))
}

/// `gtid_executed`; `None` while GTIDs are off.
///
/// # Errors
/// The server's.
pub async fn gtid_executed(conn: &mut Conn) -> Result<Option<GtidSet>, ConnectorError> {
    let row: Option<(String, String)> = conn
        .query_first("SELECT @@global.gtid_mode, @@global.gtid_executed")
        .await
        .map_err(from_mysql)
        .attempting(|| "ask for the executed transactions".into())?;
    match row {
        Some((mode, set)) if mode == "ON" => {
            set.parse().map(Some).map_err(|e| ConnectorError::fatal("MYSQL_PROTOCOL", format!("{e}")))
        }
        Some(_) | None => Ok(None),
    }
}

/// Where a connector that never ran starts: everything that becomes visible later comes after it.
///
/// # Errors
/// The server's.
pub async fn first_position(conn: &mut Conn, server: Server) -> Result<Position, ConnectorError> {
    let gtids = match server.flavour {
        // Before the position: what is in this set is visible.
        Flavour::MySql => gtid_executed(conn).await?.map_or(GtidState::Off, GtidState::Set),
        Flavour::MariaDb => GtidState::Off,
    };
    let at = binlog_status(conn, server).await?;
    let gtids = match server.flavour {
        Flavour::MySql => gtids,
        Flavour::MariaDb => {
            let text: Option<Option<String>> = conn
                .exec_first("SELECT BINLOG_GTID_POS(?, ?)", (at.file.as_ref(), at.offset))
                .await
                .map_err(from_mysql)
                .attempting(|| format!("ask for the GTID of {at}"))?;
            let text = text.flatten().unwrap_or_default();
            GtidState::Domains(
                text.parse().map_err(|e| ConnectorError::fatal("MYSQL_PROTOCOL", format!("{e}")))?,
            )
        }
    };
    Ok(Position { at, gtids, partial: None, prepared: Vec::new() })
}

/// Checks, on the connection that will stream, that this server has everything after the plan's position.
///
/// # Errors
/// `MYSQL_GTID_PURGED`, `MYSQL_GTID_AHEAD`, `MYSQL_OTHER_SERVER`, with what is missing; `MYSQL_REPLICA_BEHIND`, which heals.
pub async fn check_position(
    connection: &mut BinlogConnection,
    plan: &StreamPlan,
) -> Result<(), ConnectorError> {
    if plan.flavour == Flavour::MariaDb {
        return Ok(()); // The server itself compares: it refuses positions that are not in its binlog.
    }
    let GtidState::Set(done) = &plan.from.gtids else {
        let rows = connection.query("SELECT @@global.server_uuid").await?;
        let found = rows.into_iter().flatten().flatten().next().unwrap_or_default();
        return if found == plan.server_uuid { Ok(()) } else { Err(other_server(&plan.server_uuid, &found)) };
    };
    let deadline = tokio::time::Instant::now() + VISIBLE_WITHIN;
    loop {
        let rows = connection
            .query("SELECT @@global.server_uuid, @@global.gtid_mode, @@global.gtid_executed, @@global.gtid_purged")
            .await?;
        let mut row = rows.into_iter().flatten().flatten();
        let (uuid, mode) = (row.next().unwrap_or_default(), row.next().unwrap_or_default());
        let mut set = || -> Result<GtidSet, ConnectorError> {
            let text = row.next().unwrap_or_default();
            text.parse().map_err(|e| ConnectorError::fatal("MYSQL_PROTOCOL", format!("{e}")))
        };
        let (executed, purged) = (set()?, set()?);
        if mode != "ON" {
            return Err(ConnectorError::config(
                "MYSQL_GTID_MODE",
                format!("the stored position counts GTIDs, but the server has gtid_mode = {mode}"),
            )
            .remedy("SET PERSIST gtid_mode = ON;"));
        }
        let missing = purged.without(done);
        if !missing.is_empty() {
            return Err(ConnectorError::fatal(
                "MYSQL_GTID_PURGED",
                format!("the server has purged transactions that were not delivered yet: {missing}"),
            )
            .remedy(START_OVER));
        }
        let ahead = done.without(&executed);
        if ahead.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(ahead_of(&ahead, &uuid));
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn ahead_of(ahead: &GtidSet, uuid: &str) -> ConnectorError {
    if ahead.has_of(uuid) {
        return ConnectorError::fatal(
            "MYSQL_GTID_AHEAD",
            format!(
                "transactions of this server were delivered that it does not have: {ahead}. It was restored from a backup, or \
                 lost its last transactions in a crash"
            ),
        )
        .remedy(START_OVER);
    }
    ConnectorError::transient(
        "MYSQL_REPLICA_BEHIND",
        format!("the server does not have transactions that were delivered from another one yet: {ahead}"),
    )
}

fn other_server(stored: &str, found: &str) -> ConnectorError {
    ConnectorError::fatal(
        "MYSQL_OTHER_SERVER",
        format!(
            "the stored position is of the server {stored}, this is {found}; without GTIDs their positions can't be compared"
        ),
    )
    .remedy(START_OVER)
}

/// The stored position is of the other kind of server.
#[must_use]
pub fn other_flavour(stored: &str, server: Server) -> ConnectorError {
    ConnectorError::fatal(
        "MYSQL_OTHER_SERVER",
        format!("the stored position is of {stored}, the server is {server}"),
    )
    .remedy(START_OVER)
}

/// Says what the server's refusal to stream means.
#[must_use]
pub fn cannot_start(plan: &StreamPlan, error: ConnectorError) -> ConnectorError {
    if error.code != "MYSQL_BINLOG_LOST" {
        return error;
    }
    let message = error.message.clone();
    if message.contains("same server_uuid/server_id") || message.contains("same server_id") {
        return ConnectorError::new(
            Class::Fatal,
            "MYSQL_SERVER_ID",
            format!("another replica with server_id {} has connected: {message}", plan.server_id),
        )
        .remedy("give each connector and each replica of the server a server_id of its own");
    }
    if message.contains("max_allowed_packet") {
        // It is there, and can't be sent.
        return ConnectorError::config("MYSQL_PACKET_TOO_LARGE", message).remedy(
            "raise max_allowed_packet on the server, e.g. SET PERSIST max_allowed_packet = 1073741824;",
        );
    }
    let position = match &plan.from.gtids {
        GtidState::Off => plan.from.at.to_string(),
        GtidState::Set(_) | GtidState::Domains(_) => format!("{} ({})", plan.from.gtids, plan.from.at),
    };
    ConnectorError::fatal("MYSQL_BINLOG_LOST", format!("the server can't stream from {position}: {message}"))
        .remedy(START_OVER)
}
