//! The fence, and the topic offsets that commit with the rows.
//!
//! `sink_fence` holds one epoch a task. Starting raises it, which waits for the row lock of a transaction that an
//! older task still has open; every transaction of a task locks the row and compares the epoch before it commits.
//! So an older task either has committed before the new one reads its offsets, or never commits again.
//!
//! `sink_offsets` moves by compare-and-set: a transaction that does not find the offset it started from fails. That
//! holds even between tasks of different numbers, when partitions move from one to another.

use std::collections::BTreeMap;

use rowstream_api::{ConnectorError, TaskContext, TopicOffsets, TopicPartition};
use tokio_postgres::{Client, GenericClient, Statement};

use super::catalog::get;
use crate::{error::from_postgres, ident::QuotedIdent};

/// This task's hold on the target.
#[derive(Clone)]
pub(crate) struct Fence {
    schema: QuotedIdent,
    connector: String,
    task: i32,
    epoch: i64,
    log_id: String,
    /// Prepared once, so that each is one message in a pipeline.
    check: Statement,
    store: Statement,
}

impl Fence {
    /// Makes the tables where they are missing and raises the epoch.
    ///
    /// # Errors
    /// Privileges, with the SQL that grants them; or no answer.
    pub(crate) async fn raise(
        client: &mut Client,
        schema: &QuotedIdent,
        cx: &TaskContext,
    ) -> Result<Self, ConnectorError> {
        create_tables(client, schema).await?;
        let task = i32::try_from(cx.task).unwrap_or(i32::MAX);
        let sql = format!(
            "INSERT INTO {schema}.sink_fence AS f (connector, task, epoch) VALUES ($1::text, $2::int4, 1)
             ON CONFLICT (connector, task) DO UPDATE SET epoch = f.epoch + 1 RETURNING epoch"
        );
        let row = client.query_one(&sql, &[&cx.connector, &task]).await.map_err(|error| {
            from_postgres(error).while_attempting("raise the fence (an older task's transaction may be open)")
        })?;
        let epoch = get(&row, 0)?;
        let (connector, log_id) = (cx.connector.clone(), cx.log_id.clone());
        let check = format!(
            "SELECT epoch FROM {schema}.sink_fence WHERE connector = $1::text AND task = $2::int4 FOR UPDATE"
        );
        let check = client.prepare(&check).await.map_err(from_postgres)?;
        let store = client.prepare(&store_sql(schema)).await.map_err(from_postgres)?;
        Ok(Self { schema: schema.clone(), connector, task, epoch, log_id, check, store })
    }

    /// Locks the fence row for the running transaction and compares.
    ///
    /// # Errors
    /// `SINK_FENCED`, fatal, when another task has taken over.
    pub(crate) async fn check(&self, client: &impl GenericClient) -> Result<(), ConnectorError> {
        let row =
            client.query_opt(&self.check, &[&self.connector, &self.task]).await.map_err(from_postgres)?;
        let epoch: Option<i64> = row.as_ref().map(|row| get(row, 0)).transpose()?;
        if epoch == Some(self.epoch) {
            return Ok(());
        }
        Err(ConnectorError::fatal(
            "SINK_FENCED",
            format!("another task {} of connector `{}` took over this target", self.task, self.connector),
        )
        .remedy("if no other worker should run this connector, stop that worker and restart this task"))
    }

    /// The stored offsets of the connector.
    ///
    /// # Errors
    /// `SINK_OTHER_LOG`, fatal, when they count in another log.
    pub(crate) async fn offsets(&self, client: &Client) -> Result<TopicOffsets, ConnectorError> {
        let sql = format!(
            "SELECT topic, partition, next_offset, log_id FROM {}.sink_offsets WHERE connector = $1::text",
            self.schema
        );
        let rows = client.query(&sql, &[&self.connector]).await.map_err(from_postgres)?;
        let mut offsets = BTreeMap::new();
        for row in &rows {
            let log_id: String = get(row, 3)?;
            if log_id != self.log_id {
                return Err(self.other_log(&log_id));
            }
            let topic: String = get(row, 0)?;
            let partition: i32 = get(row, 1)?;
            let partition = TopicPartition::new(topic, u32::try_from(partition).unwrap_or(u32::MAX));
            offsets.insert(partition, get(row, 2)?);
        }
        Ok(offsets)
    }

    fn other_log(&self, stored: &str) -> ConnectorError {
        ConnectorError::fatal(
            "SINK_OTHER_LOG",
            format!(
                "the target's offsets of connector `{}` count in log `{stored}`, but this is log `{}`: resuming from \
                 them would skip or repeat records",
                self.connector, self.log_id
            ),
        )
        .remedy(format!(
            "choose one:\n\
             1. bring back the log `{stored}`;\n\
             2. deliver this log from its beginning into the same tables (upserts repeat harmlessly, appended rows \
             come twice):\n   DELETE FROM {}.sink_offsets WHERE connector = {};\n\
             3. give the connector another name, or another target",
            self.schema,
            crate::ident::QuotedLiteral(&self.connector)
        ))
    }

    pub(crate) fn store_statement(&self) -> &Statement {
        &self.store
    }
    pub(crate) fn connector(&self) -> &str {
        &self.connector
    }
    pub(crate) fn log_id(&self) -> &str {
        &self.log_id
    }
    pub(crate) fn task(&self) -> i32 {
        self.task
    }
}

async fn create_tables(client: &mut Client, schema: &QuotedIdent) -> Result<(), ConnectorError> {
    let present = client
        .query_one(
            "SELECT pg_catalog.to_regclass($1) IS NOT NULL AND pg_catalog.to_regclass($2) IS NOT NULL,
                    pg_catalog.to_regnamespace($3) IS NOT NULL",
            &[&format!("{schema}.sink_fence"), &format!("{schema}.sink_offsets"), &schema.to_string()],
        )
        .await
        .map_err(from_postgres)?;
    if get(&present, 0)? {
        return Ok(());
    }
    let mut sql = String::new();
    if !get::<bool>(&present, 1)? {
        sql.push_str(&format!("CREATE SCHEMA IF NOT EXISTS {schema};\n"));
    }
    sql.push_str(&tables_sql(schema));
    let transaction = client.transaction().await.map_err(from_postgres)?;
    let created = transaction
        .batch_execute(&format!(
            "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('rowstream sink ddl'));\n{sql}"
        ))
        .await;
    created.map_err(|error| {
        from_postgres(error)
            .while_attempting(&format!("create the offset tables in schema {schema}"))
            .remedy(format!("run as a role that may, then grant this role ALL on both tables:\n{sql}"))
    })?;
    transaction.commit().await.map_err(from_postgres)
}

/// The statement that moves offsets by compare-and-set; it must touch as many rows as partitions were given.
/// Parameters: topics `text[]`, partitions `int4[]`, next offsets `int8[]`, expected ones (null for none)
/// `int8[]`, connector, log id, task.
fn store_sql(schema: &QuotedIdent) -> String {
    format!(
        "INSERT INTO {schema}.sink_offsets AS o (connector, topic, partition, next_offset, log_id, task, updated_at)
         SELECT $5::text, k.topic, k.partition, k.next_offset, $6::text, $7::int4, pg_catalog.now()
         FROM unnest($1::text[], $2::int4[], $3::int8[], $4::int8[]) AS k(topic, partition, next_offset, expected)
         WHERE k.expected IS NULL OR EXISTS (SELECT FROM {schema}.sink_offsets e WHERE e.connector = $5::text
               AND e.topic = k.topic AND e.partition = k.partition AND e.next_offset = k.expected)
         ON CONFLICT (connector, topic, partition) DO UPDATE SET next_offset = EXCLUDED.next_offset,
            log_id = EXCLUDED.log_id, task = EXCLUDED.task, updated_at = EXCLUDED.updated_at
         WHERE o.log_id = EXCLUDED.log_id AND o.next_offset < EXCLUDED.next_offset AND o.next_offset = ANY (
            SELECT x.expected FROM unnest($1::text[], $2::int4[], $4::int8[]) AS x(topic, partition, expected)
            WHERE x.topic = o.topic AND x.partition = o.partition)"
    )
}

/// The tables of the fence and the offsets.
fn tables_sql(schema: &QuotedIdent) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {schema}.sink_fence (connector text, task int4, epoch int8 NOT NULL, \
         PRIMARY KEY (connector, task));\n\
         CREATE TABLE IF NOT EXISTS {schema}.sink_offsets (connector text, topic text, partition int4, \
         next_offset int8 NOT NULL, log_id text NOT NULL, task int4 NOT NULL, \
         updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(), PRIMARY KEY (connector, topic, partition));\n"
    )
}
