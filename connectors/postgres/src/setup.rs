//! What must exist upstream before the stream: the publication, then the slot. In this order, because a slot that is
//! older than its publication can't read what lies between (postgres.md section 7.2).

use std::{collections::HashMap, time::Duration};

use rowstream_api::{Attempting, Class, ConnectorError, Gauges};
use tokio_postgres::Client;

use crate::{
    catalog::{self, CapturedTable},
    error::from_postgres,
    ident::{QuotedIdent, TableName},
    offset::{Lsn, SlotState, SystemState},
    replication::RawConnection,
    source_config::{PublicationMode, SourcePlan},
    table::topic_name,
};

/// How often the wait for a slot looks who is in the way.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Asks who answers.
///
/// # Errors
/// The server's.
pub async fn identify(connection: &mut RawConnection) -> Result<SystemState, ConnectorError> {
    let rows = connection.rows("IDENTIFY_SYSTEM").await.attempting(|| "identify the system".into())?;
    let mut columns = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
    let (id, timeline, wal_end) = (columns.next(), columns.next(), columns.next());
    match (id, timeline.and_then(|t| t.parse().ok()), wal_end) {
        (Some(id), Some(timeline), Some(wal_end)) => {
            Ok(SystemState { id, timeline, wal_end: wal_end.parse::<Lsn>()?.0 })
        }
        _ => Err(ConnectorError::fatal("PG_PROTOCOL", "the server did not identify itself")),
    }
}

/// Problems that make a set of tables impossible to capture, each with its remedy.
#[must_use]
pub fn table_problems(plan: &SourcePlan, tables: &[CapturedTable]) -> Vec<(String, Option<String>)> {
    let mut problems = Vec::new();
    if tables.is_empty() {
        problems.push(("tables.include: no table of the database matches".to_owned(), None));
    }
    let mut topics: HashMap<String, &TableName> = HashMap::new();
    let role = QuotedIdent::new(&plan.connection.config.user);
    for table in tables {
        let name = &table.name;
        let topic = topic_name(&plan.topic_prefix, name.schema.bare(), name.table.bare());
        if let Some(other) = topics.insert(topic.clone(), name) {
            problems.push((
                format!(
                    "tables `{}` and `{}` would share the topic `{topic}`: exclude one",
                    other.plain(),
                    name.plain()
                ),
                None,
            ));
        }
        let has_identity = match table.replica_identity {
            b'd' => table.has_primary_key,
            b'n' => false,
            _ => true,
        };
        if !has_identity {
            problems.push((
                format!(
                    "table `{}` has no replica identity: once published, the application's own UPDATE and DELETE on it \
                     would fail",
                    name.plain()
                ),
                Some(format!("ALTER TABLE {name} REPLICA IDENTITY FULL;")),
            ));
        }
        if !table.readable {
            problems.push((
                format!("role `{}` may not read table `{}`", plan.connection.config.user, name.plain()),
                Some(format!(
                    "GRANT USAGE ON SCHEMA {} TO {role};\nGRANT SELECT ON {name} TO {role};",
                    name.schema
                )),
            ));
        }
    }
    problems
}

/// The captured tables and, where it is another one, the table of signals: those that are published. A table of signals that is missing
/// is a problem.
///
/// # Errors
/// The server's.
pub async fn published_tables(
    client: &Client,
    plan: &SourcePlan,
    captured: &[CapturedTable],
) -> Result<(Vec<CapturedTable>, Option<(String, Option<String>)>), ConnectorError> {
    let mut published = captured.to_vec();
    let Some((schema, table)) = &plan.signal else { return Ok((published, None)) };
    let Some(found) = catalog::signal_table(client, (schema, table)).await? else {
        let name = TableName::new(schema, table);
        let sql = format!(
            "CREATE TABLE {name} (id varchar(42) PRIMARY KEY, type varchar(32) NOT NULL, data text);"
        );
        return Ok((
            published,
            Some((format!("signal.table: there is no table `{}`", name.plain()), Some(sql))),
        ));
    };
    if !published.iter().any(|table| table.oid == found.oid) {
        published.push(found);
    }
    Ok((published, None))
}

/// Joins problems into one error whose remedy is the SQL of them all.
#[must_use]
pub fn as_error(code: &'static str, problems: Vec<(String, Option<String>)>) -> ConnectorError {
    let (messages, remedies): (Vec<_>, Vec<_>) = problems.into_iter().unzip();
    let error = ConnectorError::config(code, messages.join("\n"));
    let sql: Vec<String> = remedies.into_iter().flatten().collect();
    if sql.is_empty() { error } else { error.remedy(sql.join("\n")) }
}

/// What the server has of the publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Holds every table.
    pub all_tables: bool,
    /// Whether we own it.
    pub owned: bool,
    /// Its tables' ids, as listed (not by schema).
    pub tables: Vec<u32>,
}

/// Looks the publication up.
///
/// # Errors
/// The server's.
pub async fn publication(client: &Client, name: &str) -> Result<Option<Publication>, ConnectorError> {
    let sql = "SELECT puballtables, pg_has_role(pubowner, 'USAGE'),
                      ARRAY(SELECT prrelid FROM pg_publication_rel WHERE prpubid = p.oid)
                 FROM pg_publication p WHERE pubname = $1";
    let row = client
        .query_opt(sql, &[&name])
        .await
        .map_err(from_postgres)
        .attempting(|| format!("look up publication `{name}`"))?;
    Ok(row.map(|row| Publication { all_tables: row.get(0), owned: row.get(1), tables: row.get(2) }))
}

/// The SQL that brings the publication to hold exactly `tables`; empty when it does.
#[must_use]
pub fn publication_sql(name: &str, found: Option<&Publication>, tables: &[CapturedTable]) -> Vec<String> {
    let quoted = QuotedIdent::new(name);
    let list = |tables: Vec<&CapturedTable>| {
        tables.iter().map(|t| t.name.to_string()).collect::<Vec<_>>().join(", ")
    };
    match found {
        None => vec![format!(
            "CREATE PUBLICATION {quoted} FOR TABLE {} WITH (publish_via_partition_root = true);",
            list(tables.iter().collect())
        )],
        Some(publication) if publication.all_tables => Vec::new(),
        Some(publication) => {
            let wanted: Vec<u32> = tables.iter().map(|t| t.oid).collect();
            let missing: Vec<_> = tables.iter().filter(|t| !publication.tables.contains(&t.oid)).collect();
            let surplus = publication.tables.iter().any(|oid| !wanted.contains(oid));
            if surplus {
                vec![format!("ALTER PUBLICATION {quoted} SET TABLE {};", list(tables.iter().collect()))]
            } else if missing.is_empty() {
                Vec::new()
            } else {
                vec![format!("ALTER PUBLICATION {quoted} ADD TABLE {};", list(missing))]
            }
        }
    }
}

/// The captured tables whose changes the publication does not carry yet, by id; none where an administrator keeps it.
///
/// # Errors
/// The server's.
pub async fn unpublished(
    client: &Client,
    plan: &SourcePlan,
    tables: &[CapturedTable],
) -> Result<Vec<u32>, ConnectorError> {
    let found = publication(client, &plan.publication).await?;
    let missing = |table: &&CapturedTable| match &found {
        Some(publication) => !publication.all_tables && !publication.tables.contains(&table.oid),
        None => true,
    };
    Ok(match plan.publication_mode {
        PublicationMode::Filtered => tables.iter().filter(missing).map(|table| table.oid).collect(),
        PublicationMode::Disabled => Vec::new(),
    })
}

/// Creates or alters the publication, unless an administrator keeps it.
///
/// # Errors
/// It is missing and not ours to make, or the server refuses; the remedy is the SQL.
pub async fn ensure_publication(
    client: &Client,
    plan: &SourcePlan,
    tables: &[CapturedTable],
) -> Result<(), ConnectorError> {
    let found = publication(client, &plan.publication).await?;
    let sql = publication_sql(&plan.publication, found.as_ref(), tables);
    match plan.publication_mode {
        PublicationMode::Disabled if found.is_none() => Err(ConnectorError::config(
            "PG_PUBLICATION_MISSING",
            format!("publication `{}` does not exist, and publication_mode is `disabled`", plan.publication),
        )
        .remedy(sql.join("\n"))),
        PublicationMode::Disabled => Ok(()),
        PublicationMode::Filtered => {
            for statement in sql {
                client.batch_execute(&statement).await.map_err(|e| {
                    from_postgres(e)
                        .while_attempting(&format!("set up publication `{}`", plan.publication))
                        .remedy(format!(
                            "{statement}\nor have an administrator run it, and set publication_mode: disabled"
                        ))
                })?;
            }
            Ok(())
        }
    }
}

/// Checks that a slot is one of this source.
///
/// # Errors
/// It is of another plugin or database.
pub fn check_owner(plan: &SourcePlan, slot: &SlotState) -> Result<(), ConnectorError> {
    let database = plan.connection.config.database.as_str();
    if slot.plugin.as_deref() == Some("pgoutput") && slot.database.as_deref() == Some(database) {
        return Ok(());
    }
    let name = &plan.slot;
    Err(ConnectorError::config(
        "PG_SLOT_FOREIGN",
        format!(
            "replication slot `{name}` exists, with another plugin than pgoutput or for another database"
        ),
    )
    .remedy("choose another slot_name"))
}

/// Where a slot that exists already, but that no position is stored of, can be read from.
///
/// # Errors
/// It is of another plugin or database, or still being created.
pub fn usable_slot(plan: &SourcePlan, slot: &SlotState) -> Result<u64, ConnectorError> {
    check_owner(plan, slot)?;
    let name = &plan.slot;
    slot.confirmed_flush_lsn.ok_or_else(|| {
        let pid = slot.active_pid.map_or_else(|| "nobody".to_owned(), |pid| format!("pid {pid}"));
        ConnectorError::transient(
            "PG_SLOT_BLOCKED",
            format!("replication slot `{name}` is still being created, by {pid}"),
        )
        .remedy("an open transaction is in its way; creation is tried again")
    })
}

/// Creates the slot and answers its consistent point. While an open transaction is in the way, says which one; gives up
/// after the plan's `slot_creation_timeout` and leaves no half-made slot behind.
///
/// # Errors
/// The server's, or `PG_SLOT_BLOCKED`.
pub async fn create_slot(
    connection: &mut RawConnection,
    client: &Client,
    plan: &SourcePlan,
    gauges: &Gauges,
) -> Result<u64, ConnectorError> {
    let pid = connection.backend_pid;
    let command = format!(
        "CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT",
        QuotedIdent::new(&plan.slot)
    );
    let creation = connection.rows(&command);
    tokio::pin!(creation);
    let deadline = tokio::time::Instant::now() + plan.slot_creation_timeout;
    let created = loop {
        tokio::select! {
            created = &mut creation => break created,
            () = tokio::time::sleep(LOOK_INTERVAL.min(plan.slot_creation_timeout)) => {}
        }
        let blocker = oldest_transaction(client, pid).await?;
        gauges.note("slot_creation", Some(format!("creation of slot `{}` waits for {blocker}", plan.slot)));
        if tokio::time::Instant::now() >= deadline {
            gauges.note("slot_creation", None);
            // Ending the backend drops the slot that it had not finished.
            client
                .execute("SELECT pg_terminate_backend($1)", &[&pid])
                .await
                .map_err(from_postgres)
                .attempting(|| format!("cancel the creation of slot `{}`", plan.slot))?;
            return Err(ConnectorError::new(
                Class::Transient,
                "PG_SLOT_BLOCKED",
                format!(
                    "replication slot `{}` could not be created within {:?}: the server waits for {blocker}",
                    plan.slot, plan.slot_creation_timeout
                ),
            )
            .remedy("end that transaction, or wait for it: creation is tried again"));
        }
    };
    gauges.note("slot_creation", None);
    let rows = created.attempting(|| format!("create replication slot `{}`", plan.slot))?;
    let point = rows.first().and_then(|row| row.get(1)).cloned().flatten().unwrap_or_default();
    Ok(point.parse::<Lsn>()?.0)
}

async fn oldest_transaction(client: &Client, own_pid: i32) -> Result<String, ConnectorError> {
    let sql = "SELECT pid, coalesce(usename::text, '?'), coalesce(datname::text, '?'), coalesce(state, '?'),
                      round(extract(epoch FROM clock_timestamp() - xact_start))::int8
                 FROM pg_stat_activity
                WHERE backend_xid IS NOT NULL AND pid <> $1 AND pid <> pg_backend_pid()
                ORDER BY xact_start LIMIT 1";
    let row = client
        .query_opt(sql, &[&own_pid])
        .await
        .map_err(from_postgres)
        .attempting(|| "look for open transactions".into())?;
    Ok(row.map_or_else(
        || "a transaction that is not listed in pg_stat_activity (a prepared one?)".to_owned(),
        |row| {
            let (pid, user, database, state): (i32, &str, &str, &str) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let seconds: Option<i64> = row.get(4);
            format!(
                "a transaction that was open before: pid {pid}, user `{user}`, database `{database}`, {state}, {} s old",
                seconds.unwrap_or_default()
            )
        },
    ))
}
