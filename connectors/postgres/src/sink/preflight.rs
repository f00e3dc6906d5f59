//! A read-only look at the target before the task starts: reach, version, privileges.

use rowstream_api::ConnectorError;

use super::catalog::get;
use crate::{
    error::from_postgres,
    ident::{QuotedIdent, QuotedLiteral},
    sink_config::PostgresSinkPlan,
};

/// The oldest server that this sink is tested with.
const VERSION_MIN: i32 = 130_000;

/// Reports every problem at once, with the SQL that mends it.
///
/// # Errors
/// No connection, or a config error that lists what is missing.
pub(crate) async fn preflight(plan: &PostgresSinkPlan) -> Result<(), ConnectorError> {
    let connection = plan.connection.connect().await?;
    let client = &connection.client;
    let mut problems = Vec::new();
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int4, current_setting('server_encoding'),
                    pg_catalog.pg_is_in_recovery()",
            &[],
        )
        .await
        .map_err(from_postgres)?;
    if get::<i32>(&row, 0)? < VERSION_MIN {
        problems.push(("PostgreSQL 13 or newer is needed".to_owned(), "-- upgrade the server".to_owned()));
    }
    if get::<String>(&row, 1)? != "UTF8" {
        problems
            .push(("the database's encoding is not UTF8".to_owned(), "-- use a UTF8 database".to_owned()));
    }
    if get(&row, 2)? {
        problems.push((
            "the server is a standby and read-only".to_owned(),
            "-- connect to the primary".to_owned(),
        ));
    }
    check_offsets(client, plan, &mut problems).await?;
    check_target(client, plan, &mut problems).await?;
    if problems.is_empty() {
        return Ok(());
    }
    let (messages, remedies): (Vec<String>, Vec<String>) = problems.into_iter().unzip();
    Err(ConnectorError::config("PG_PREFLIGHT", messages.join("; ")).remedy(remedies.join("\n")))
}

/// The tables of the fence and the offsets: usable, or creatable.
async fn check_offsets(
    client: &tokio_postgres::Client,
    plan: &PostgresSinkPlan,
    problems: &mut Vec<(String, String)>,
) -> Result<(), ConnectorError> {
    let role = QuotedIdent::new(&plan.connection.config.user);
    let offsets = plan.offsets_schema.bare();
    let checks = client
        .query_one(
            "SELECT s.oid IS NOT NULL, coalesce(pg_catalog.has_schema_privilege(s.oid, 'CREATE'), false),
                pg_catalog.has_database_privilege(current_database(), 'CREATE'),
                (SELECT count(*) FROM pg_catalog.pg_class c WHERE c.relnamespace = s.oid
                    AND c.relname IN ('sink_fence', 'sink_offsets')) = 2,
                (SELECT coalesce(bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')
                        AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
                        AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')), true)
                    FROM pg_catalog.pg_class c WHERE c.relnamespace = s.oid
                    AND c.relname IN ('sink_fence', 'sink_offsets'))
             FROM (SELECT pg_catalog.to_regnamespace($1)::oid AS oid) s",
            &[&plan.offsets_schema.to_string()],
        )
        .await
        .map_err(from_postgres)?;
    let (exists, create_in, create_schema, tables, usable): (bool, bool, bool, bool, bool) =
        (get(&checks, 0)?, get(&checks, 1)?, get(&checks, 2)?, get(&checks, 3)?, get(&checks, 4)?);
    if !tables && !(if exists { create_in } else { create_schema }) {
        problems.push((
            format!(
                "the offset tables do not exist and role {role} may not create them in schema `{offsets}`"
            ),
            format!(
                "CREATE SCHEMA IF NOT EXISTS {0};\nGRANT USAGE, CREATE ON SCHEMA {0} TO {role};",
                plan.offsets_schema
            ),
        ));
    }
    if tables && !usable {
        problems.push((
            format!("role {role} may not use the offset tables in schema `{offsets}`"),
            format!(
                "GRANT USAGE ON SCHEMA {0} TO {role};\nGRANT SELECT, INSERT, UPDATE ON {0}.sink_fence, \
                 {0}.sink_offsets TO {role};",
                plan.offsets_schema
            ),
        ));
    }
    Ok(())
}

/// The target schema, where the template names one, and the tables that are already in it.
async fn check_target(
    client: &tokio_postgres::Client,
    plan: &PostgresSinkPlan,
    problems: &mut Vec<(String, String)>,
) -> Result<(), ConnectorError> {
    let Some(schema) = plan.records.table.fixed_schema() else { return Ok(()) };
    let role = QuotedIdent::new(&plan.connection.config.user);
    let quoted = QuotedIdent::new(schema);
    let row = client
        .query_one(
            "SELECT s.oid IS NOT NULL, coalesce(pg_catalog.has_schema_privilege(s.oid, 'CREATE'), false),
                    coalesce(pg_catalog.has_schema_privilege(s.oid, 'USAGE'), false)
             FROM (SELECT pg_catalog.to_regnamespace($1)::oid AS oid) s",
            &[&quoted.to_string()],
        )
        .await
        .map_err(from_postgres)?;
    let (exists, create, usage): (bool, bool, bool) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    if !exists {
        problems.push((format!("schema `{schema}` does not exist"), format!("CREATE SCHEMA {quoted};")));
        return Ok(());
    }
    if !usage || (plan.create_tables && !create) {
        let needed = if plan.create_tables { "USAGE, CREATE" } else { "USAGE" };
        problems.push((
            format!("role {role} lacks {needed} on schema `{schema}`"),
            format!("GRANT {needed} ON SCHEMA {quoted} TO {role};"),
        ));
    }
    if let Some(table) = plan.records.table.fixed_table() {
        let row = client
            .query_one(
                "SELECT coalesce(bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')
                     AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
                     AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
                     AND pg_catalog.has_table_privilege(c.oid, 'DELETE')), true)
                 FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)",
                &[&format!("{quoted}.{}", QuotedIdent::new(table))],
            )
            .await
            .map_err(from_postgres)?;
        if !get::<bool>(&row, 0)? {
            problems.push((
                format!("role {role} may not change table {}", QuotedLiteral(table)),
                format!(
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON {quoted}.{} TO {role};",
                    QuotedIdent::new(table)
                ),
            ));
        }
    }
    Ok(())
}
