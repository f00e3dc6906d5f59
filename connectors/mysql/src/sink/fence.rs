//! The fence, and the topic offsets that commit with the rows.
//!
//! `sink_fence` holds one epoch a task. Starting raises it, which waits for the row lock of a transaction that an
//! older task still has open; every transaction of a task locks the row and compares the epoch before it commits.
//! So an older task either has committed before the new one reads its offsets, or never commits again.
//!
//! `sink_offsets` moves by compare-and-set: a transaction that does not find the offset it started from fails. That
//! holds even between tasks of different numbers, when partitions move from one to another.

use std::collections::BTreeMap;

use mysql_async::{Conn, prelude::Queryable};
use rowstream_api::{ConnectorError, TaskContext, TopicOffsets, TopicPartition, table_sink::task::Moves};

use super::apply::Failure;
use crate::{
    error::{Kind, from_mysql, kind},
    ident::{QuotedIdent, QuotedLiteral},
};

/// This task's hold on the target.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    database: QuotedIdent,
    connector: String,
    task: usize,
    epoch: i64,
    log_id: String,
}

impl Fence {
    /// Makes the tables where they are missing and raises the epoch.
    ///
    /// # Errors
    /// Privileges, with the SQL that grants them; or no answer.
    pub(crate) async fn raise(
        conn: &mut Conn,
        database: &QuotedIdent,
        cx: &TaskContext,
    ) -> Result<Self, ConnectorError> {
        create_tables(conn, database).await?;
        let raised = raise(conn, database, cx).await.map_err(|error| {
            from_mysql(error).while_attempting("raise the fence (an older task's transaction may be open)")
        })?;
        let epoch = raised.ok_or_else(|| {
            ConnectorError::transient("MYSQL_ERROR", "the fence's row vanished while it was raised")
        })?;
        Ok(Self {
            database: database.clone(),
            connector: cx.connector.clone(),
            task: cx.task,
            epoch,
            log_id: cx.log_id.clone(),
        })
    }

    /// Locks the fence row for the running transaction and compares.
    ///
    /// # Errors
    /// `SINK_FENCED`, fatal, when another task has taken over.
    pub(crate) async fn check(&self, conn: &mut Conn) -> Result<(), Failure> {
        let sql = format!(
            "SELECT epoch FROM {}.sink_fence WHERE connector = {} AND task = {} FOR UPDATE",
            self.database,
            QuotedLiteral(&self.connector),
            self.task
        );
        let epoch: Option<i64> = conn.query_first(sql).await?;
        if epoch == Some(self.epoch) {
            return Ok(());
        }
        let fenced = ConnectorError::fatal(
            "SINK_FENCED",
            format!("another task {} of connector `{}` took over this target", self.task, self.connector),
        )
        .remedy("if no other worker should run this connector, stop that worker and restart this task");
        Err(Failure::Ours(fenced))
    }

    /// The stored offsets of the connector.
    ///
    /// # Errors
    /// `SINK_OTHER_LOG`, fatal, when they count in another log.
    pub(crate) async fn offsets(&self, conn: &mut Conn) -> Result<TopicOffsets, ConnectorError> {
        let sql = format!(
            "SELECT topic, `partition`, next_offset, log_id FROM {}.sink_offsets WHERE connector = {}",
            self.database,
            QuotedLiteral(&self.connector)
        );
        let rows: Vec<(String, u32, i64, String)> = conn.query(sql).await.map_err(from_mysql)?;
        let mut offsets = BTreeMap::new();
        for (topic, partition, next, log_id) in rows {
            if log_id != self.log_id {
                return Err(self.other_log(&log_id));
            }
            offsets.insert(TopicPartition::new(topic, partition), next);
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
            self.database,
            QuotedLiteral(&self.connector)
        ))
    }

    /// Moves offsets in the running transaction. The rows that are there are locked and compared; one that is not there is
    /// inserted plainly, so that somebody else's is a duplicate and not overwritten.
    ///
    /// # Errors
    /// `SINK_OFFSETS_MOVED` when the offsets are not those this task started from.
    pub(crate) async fn store(&self, conn: &mut Conn, moves: &Moves<'_>) -> Result<(), Failure> {
        let (known, new): (Vec<_>, Vec<_>) =
            moves.next.iter().partition(|(partition, _)| moves.stored.contains_key(*partition));
        if !known.is_empty() {
            self.compare(conn, &known, moves).await?;
            let values = self.values(&known);
            let sql = format!(
                "INSERT INTO {}.sink_offsets ({OFFSET_COLUMNS}) VALUES {values} ON DUPLICATE KEY UPDATE next_offset = \
                 VALUES(next_offset), task = VALUES(task), updated_at = VALUES(updated_at)",
                self.database
            );
            conn.query_drop(sql).await?;
        }
        if !new.is_empty() {
            let values = self.values(&new);
            let sql =
                format!("INSERT INTO {}.sink_offsets ({OFFSET_COLUMNS}) VALUES {values}", self.database);
            if let Err(error) = conn.query_drop(sql).await {
                return Err(if kind(&error) == Some(Kind::Data) { moved() } else { error.into() });
            }
        }
        Ok(())
    }

    async fn compare(
        &self,
        conn: &mut Conn,
        known: &[(&TopicPartition, &i64)],
        moves: &Moves<'_>,
    ) -> Result<(), Failure> {
        let place = |partition: &TopicPartition| {
            format!("(topic = {} AND `partition` = {})", QuotedLiteral(&partition.topic), partition.partition)
        };
        let places: Vec<String> = known.iter().map(|(partition, _)| place(partition)).collect();
        let sql = format!(
            "SELECT topic, `partition`, next_offset, log_id FROM {}.sink_offsets WHERE connector = {} AND ({}) FOR UPDATE",
            self.database,
            QuotedLiteral(&self.connector),
            places.join(" OR ")
        );
        let rows: Vec<(String, u32, i64, String)> = conn.query(sql).await?;
        let as_stored = rows.iter().filter(|(topic, partition, next, log_id)| {
            let partition = TopicPartition::new(topic.as_str(), *partition);
            moves.stored.get(&partition) == Some(next) && *log_id == self.log_id
        });
        if as_stored.count() == known.len() { Ok(()) } else { Err(moved()) }
    }

    fn values(&self, offsets: &[(&TopicPartition, &i64)]) -> String {
        let row = |(partition, next): &(&TopicPartition, &i64)| {
            format!(
                "({}, {}, {}, {next}, {}, {}, UTC_TIMESTAMP(6))",
                QuotedLiteral(&self.connector),
                QuotedLiteral(&partition.topic),
                partition.partition,
                QuotedLiteral(&self.log_id),
                self.task
            )
        };
        offsets.iter().map(row).collect::<Vec<_>>().join(", ")
    }
}

const OFFSET_COLUMNS: &str = "connector, topic, `partition`, next_offset, log_id, task, updated_at";

fn moved() -> Failure {
    Failure::Ours(ConnectorError::transient(
        "SINK_OFFSETS_MOVED",
        "the offsets in the target are not those this task started from; they are read again",
    ))
}

async fn raise(
    conn: &mut Conn,
    database: &QuotedIdent,
    cx: &TaskContext,
) -> Result<Option<i64>, mysql_async::Error> {
    let (connector, task) = (QuotedLiteral(&cx.connector), cx.task);
    conn.query_drop("START TRANSACTION").await?;
    conn.query_drop(format!(
        "INSERT INTO {database}.sink_fence (connector, task, epoch) VALUES ({connector}, {task}, 1)
         ON DUPLICATE KEY UPDATE epoch = epoch + 1"
    ))
    .await?;
    let epoch = conn
        .query_first(format!(
            "SELECT epoch FROM {database}.sink_fence WHERE connector = {connector} AND task = {task}"
        ))
        .await?;
    conn.query_drop("COMMIT").await?;
    Ok(epoch)
}

async fn create_tables(conn: &mut Conn, database: &QuotedIdent) -> Result<(), ConnectorError> {
    let present: Option<u64> = conn
        .exec_first(
            "SELECT COUNT(*) FROM information_schema.tables
             WHERE table_schema = ? AND table_name IN ('sink_fence', 'sink_offsets')",
            (database.bare(),),
        )
        .await
        .map_err(from_mysql)?;
    if present == Some(2) {
        return Ok(());
    }
    let database_present: Option<u64> = conn
        .exec_first(
            "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = ?",
            (database.bare(),),
        )
        .await
        .map_err(from_mysql)?;
    let mut statements = tables_sql(database);
    if database_present != Some(1) {
        statements.insert(0, format!("CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4"));
    }
    for sql in &statements {
        conn.query_drop(sql).await.map_err(|error| {
            from_mysql(error)
                .while_attempting(&format!("create the offset tables in database {database}"))
                .remedy(format!(
                    "run as a user that may:\n{};\nthen GRANT SELECT, INSERT, UPDATE ON {database}.* TO this user",
                    statements.join(";\n")
                ))
        })?;
    }
    Ok(())
}

/// The tables of the fence and the offsets.
fn tables_sql(database: &QuotedIdent) -> Vec<String> {
    let options = "ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
    vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {database}.sink_fence (connector VARCHAR(255), task INT UNSIGNED, \
             epoch BIGINT NOT NULL, PRIMARY KEY (connector, task)) {options}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {database}.sink_offsets (connector VARCHAR(255), topic VARCHAR(255), \
             `partition` INT UNSIGNED, next_offset BIGINT NOT NULL, log_id VARCHAR(255) NOT NULL, \
             task INT UNSIGNED NOT NULL, updated_at DATETIME(6) NOT NULL, \
             PRIMARY KEY (connector, topic, `partition`)) {options}"
        ),
    ]
}
