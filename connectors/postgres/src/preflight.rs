//! A read-only look at the server that finds everything that would stop the source, and prints the SQL that mends it.

use std::sync::Arc;

use rowstream_api::{ConnectorError, TableSchema, units::ByteSize};
use tokio_postgres::Client;

use crate::{
    catalog,
    error::from_postgres,
    ident::QuotedIdent,
    setup,
    source_config::{PublicationMode, SnapshotMode, SourcePlan},
    table,
};

type Problems = Vec<(String, Option<String>)>;

/// Looks.
///
/// # Errors
/// All problems in one, with the SQL of them all as the remedy.
pub async fn check(plan: &SourcePlan) -> Result<(), ConnectorError> {
    let sql = catalog::connect(&plan.connection).await?;
    let client = &sql.client;
    let mut problems = Problems::new();
    server(client, plan, &mut problems).await?;
    let tables = catalog::captured_tables(client, &plan.tables).await?;
    problems.extend(setup::table_problems(plan, &tables));
    let (tables, missing) = setup::published_tables(client, plan, &tables).await?;
    problems.extend(missing);
    let publication = setup::publication(client, &plan.publication).await?;
    let statements = setup::publication_sql(&plan.publication, publication.as_ref(), &tables);
    match plan.publication_mode {
        PublicationMode::Disabled if publication.is_none() && !tables.is_empty() => problems.push((
            format!("publication `{}` does not exist, and publication_mode is `disabled`", plan.publication),
            Some(statements.join("\n")),
        )),
        PublicationMode::Disabled => {}
        PublicationMode::Filtered if statements.is_empty() || tables.is_empty() => {}
        PublicationMode::Filtered => {
            let foreign: Vec<String> = tables.iter().filter(|t| !t.owned).map(|t| t.name.plain()).collect();
            if !foreign.is_empty() || publication.is_some_and(|p| !p.owned) {
                problems.push((
                    format!(
                        "publication `{}` must be set up by its tables' owner: have it run, and set \
                         publication_mode: disabled",
                        plan.publication
                    ),
                    Some(statements.join("\n")),
                ));
            }
        }
    }
    slot(client, plan, &mut problems).await?;
    if problems.is_empty() { Ok(()) } else { Err(setup::as_error("PG_PREFLIGHT", problems)) }
}

/// The captured tables at their present shapes.
///
/// # Errors
/// The server's.
pub async fn tables(plan: &SourcePlan) -> Result<Vec<Arc<TableSchema>>, ConnectorError> {
    let sql = catalog::connect(&plan.connection).await?;
    let client = &sql.client;
    let captured = catalog::captured_tables(client, &plan.tables).await?;
    let mut tables = Vec::with_capacity(captured.len());
    for table in &captured {
        let mut described = catalog::describe(client, table.oid, None).await?;
        let published = catalog::published(client, &plan.publication, &table.name).await?;
        if let Some(names) = &published.columns {
            described.columns.retain(|column| names.contains(&column.name));
        }
        let relation = Arc::new(catalog::relation_of(table, &described));
        tables.push(table::build(&relation, &described, &plan.topic_prefix).schema);
    }
    Ok(tables)
}

const SERVER: &str = "
SELECT current_setting('server_version_num')::int, current_setting('wal_level'),
       current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication),
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
       current_setting('server_encoding'), current_setting('max_slot_wal_keep_size')";

async fn server(client: &Client, plan: &SourcePlan, problems: &mut Problems) -> Result<(), ConnectorError> {
    let row = client.query_one(SERVER, &[]).await.map_err(from_postgres)?;
    let (version, wal_level): (i32, &str) = (row.get(0), row.get(1));
    let (free_slots, free_senders): (i64, i64) = (row.get(2), row.get(3));
    let may_replicate: Option<bool> = row.get(4);
    let (encoding, keep_size): (&str, &str) = (row.get(5), row.get(6));
    if version < 130_000 {
        problems.push((format!("the server is version {}; 13 or later is needed", version / 10_000), None));
    }
    problems.extend(wal_level_problem(wal_level));
    let slot_exists = catalog::slot(client, &plan.slot).await?.is_some();
    if free_slots < 1 && !slot_exists {
        problems.push((
            "all replication slots of the server are taken".to_owned(),
            Some("ALTER SYSTEM SET max_replication_slots = 20; -- needs a restart of the server".to_owned()),
        ));
    }
    if free_senders < 1 {
        problems.push((
            "all walsenders of the server are taken".to_owned(),
            Some("ALTER SYSTEM SET max_wal_senders = 20; -- needs a restart of the server".to_owned()),
        ));
    }
    if may_replicate != Some(true) {
        let user = &plan.connection.config.user;
        problems.push((
            format!("role `{user}` may not replicate"),
            Some(format!("ALTER ROLE {} REPLICATION;", QuotedIdent::new(user))),
        ));
    }
    if encoding != "UTF8" {
        problems.push((format!("the database is encoded in {encoding}; only UTF8 can be captured"), None));
    }
    if keep_size == "-1" {
        tracing::warn!(
            slot = plan.slot,
            suggestion = %ByteSize(64 << 30),
            "max_slot_wal_keep_size is not set: a slot that is not read can fill the server's disk"
        );
    }
    Ok(())
}

fn wal_level_problem(wal_level: &str) -> Option<(String, Option<String>)> {
    (wal_level != "logical").then(|| {
        (
            format!("wal_level is `{wal_level}`; `logical` is needed"),
            Some("ALTER SYSTEM SET wal_level = logical; -- needs a restart of the server".to_owned()),
        )
    })
}

async fn slot(client: &Client, plan: &SourcePlan, problems: &mut Problems) -> Result<(), ConnectorError> {
    let Some(slot) = catalog::slot(client, &plan.slot).await? else { return Ok(()) };
    let name = &plan.slot;
    if slot.plugin.as_deref() != Some("pgoutput") {
        let plugin = slot.plugin.as_deref().unwrap_or("none: it is a physical slot");
        problems.push((format!("replication slot `{name}` has plugin {plugin}; `pgoutput` is needed: choose another slot_name"), None));
    } else if slot.database.as_deref() != Some(plan.connection.config.database.as_str()) {
        problems.push((
            format!("replication slot `{name}` belongs to another database: choose another slot_name"),
            None,
        ));
    }
    if slot.is_invalid() && plan.snapshot.mode != SnapshotMode::WhenNeeded {
        problems.push((
            format!("replication slot `{name}` was invalidated by the server"),
            Some(format!("SELECT pg_drop_replication_slot('{name}');")),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::wal_level_problem;

    #[test]
    fn only_logical_will_do() {
        assert!(wal_level_problem("logical").is_none());
        let (message, remedy) = wal_level_problem("replica").unwrap();
        assert!(message.contains("`replica`") && remedy.unwrap().contains("wal_level = logical"));
    }
}
