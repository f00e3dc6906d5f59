//! One flush as one transaction of the target.
//!
//! ```text
//! BEGIN ─ lock and compare the fence ─ rows of each segment in order ─ offsets by compare-and-set ─► every check held? ─ COMMIT
//! ```
//! The commit is sent only after every check held, so rows, offsets and fence agree or nothing changed. A commit without
//! an answer is an error like any lost connection: the task is restarted, raises the fence (which waits for what the
//! lost transaction still holds) and re-reads the offsets, and so learns what happened instead of guessing.

use std::{sync::Arc, time::Duration};

use mysql_async::{Conn, Error, prelude::Queryable};
use rowstream_api::{
    ConnectorError,
    table_sink::{
        Batch, Entry, MissingUnavailable,
        rows::{ByColumns, by_present_columns},
        task::{Counts, Moves, Rejected},
    },
};

use super::{
    fence::Fence,
    plan::TablePlan,
    session,
    sql::Action,
    statements::{Bounds, Statements, next_size, parameters},
};
use crate::{
    connection::Server,
    error::{Kind, from_mysql, kind},
    ident::TableName,
    sink_config::MySqlSinkPlan,
};

/// Longest wait for the rollback of a failed transaction.
const ROLLBACK_MAX: Duration = Duration::from_secs(5);

/// Some rows of one segment and what to do with them; the unit of order, and of isolation.
pub(crate) struct Step {
    /// None for a truncate.
    pub(crate) plan: Option<(Arc<TablePlan>, Action)>,
    pub(crate) table: TableName,
    pub(crate) rows: Vec<Entry>,
    /// The rows are deleted only to be inserted again: that must not reach rows that refer to them.
    replaced: bool,
}

/// Why a statement or a check failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server or the connection said so.
    Server(Error),
    /// A check of ours.
    Ours(ConnectorError),
    /// No answer came in time: the connection can't be used any more.
    Silence(ConnectorError),
}

impl Failure {
    pub(crate) fn into_error(self) -> ConnectorError {
        match self {
            Self::Server(error) => from_mysql(error),
            Self::Ours(error) | Self::Silence(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

/// Turns a batch into steps, in the order in which they must run.
pub(crate) fn steps(batch: &mut Batch<TablePlan>, config: &MySqlSinkPlan) -> (Vec<Step>, Counts) {
    let mut steps = Vec::new();
    let mut counts = Counts::default();
    let Batch { arena, segments, .. } = batch;
    for segment in segments {
        let net = segment.net(arena);
        let table = segment.table.clone();
        if segment.truncate {
            steps.push(Step { plan: None, table: table.clone(), rows: Vec::new(), replaced: false });
        }
        let Some(plan) = segment.plan.clone().filter(|_| !net.is_empty()) else { continue };
        let mut push = |action: Action, rows: Vec<Entry>, replaced: bool| {
            if !rows.is_empty() {
                let plan = Some((Arc::clone(&plan), action));
                steps.push(Step { plan, table: table.clone(), rows, replaced });
            }
        };
        let (deletes, writes): (Vec<Entry>, Vec<Entry>) = net.into_iter().partition(|row| row.delete);
        counts.deleted += deletes.len();
        counts.written += writes.len();
        let (whole, partial) =
            if plan.keys == 0 { (writes, ByColumns::new()) } else { by_present_columns(arena, writes) };
        push(Action::Delete, deletes, false);
        if plan.replace {
            push(Action::Delete, whole.clone(), true);
        }
        for ((columns, begins), rows) in partial {
            let insert = begins || config.missing_unavailable == MissingUnavailable::InsertNull;
            push(if insert { Action::Write(columns) } else { Action::Update(columns) }, rows, false);
        }
        push(Action::Write((0..plan.columns.len()).collect()), whole, false);
    }
    (steps, counts)
}

/// Applies batches over one connection.
pub(crate) struct Applier<'a> {
    pub(crate) conn: &'a mut Conn,
    pub(crate) server: Server,
    pub(crate) config: &'a MySqlSinkPlan,
    pub(crate) fence: &'a Fence,
    pub(crate) statements: &'a mut Statements,
    pub(crate) bounds: Bounds,
}

impl Applier<'_> {
    /// Applies steps and moves offsets, or changes nothing.
    pub(crate) async fn apply(
        &mut self,
        arena: &[u8],
        steps: &[Step],
        moves: &Moves<'_>,
    ) -> Result<(), Rejected> {
        let Err(failure) = self.transaction(arena, steps, moves).await else { return Ok(()) };
        match failure {
            Failure::Ours(error) if error.code == UNAVAILABLE_CODE => self.isolate(arena, steps, error).await,
            Failure::Server(error) => match kind(&error) {
                Some(Kind::Data) => self.isolate(arena, steps, from_mysql(error)).await,
                Some(Kind::Conflict) => {
                    let rolled_back = self.rollback().await;
                    Err(rolled_back.err().map_or(Rejected::Conflict(from_mysql(error)), Rejected::Failed))
                }
                Some(Kind::Other) | None => Err(self.give_up(from_mysql(error)).await),
            },
            Failure::Ours(error) => Err(self.give_up(error).await),
            Failure::Silence(error) => Err(Rejected::Failed(error)),
        }
    }

    /// Lets go of the transaction's locks, above all the fence's, as far as the connection still works.
    async fn give_up(&mut self, error: ConnectorError) -> Rejected {
        let rolled_back = tokio::time::timeout(ROLLBACK_MAX, self.rollback()).await;
        if !matches!(rolled_back, Ok(Ok(()))) {
            tracing::debug!(code = error.code, "the failed transaction ends with its connection");
        }
        Rejected::Failed(error)
    }

    async fn transaction(&mut self, arena: &[u8], steps: &[Step], moves: &Moves<'_>) -> Result<(), Failure> {
        let patience = self.patience();
        let begin = session::begin(self.config);
        answered(patience, async { Ok(self.conn.query_drop(begin).await?) }).await?;
        answered(patience, self.fence.check(self.conn)).await?;
        for step in steps {
            self.run(arena, step, &step.rows).await?;
        }
        answered(patience, self.fence.store(self.conn, moves)).await?;
        answered(patience, async { Ok(self.conn.query_drop(session::commit()).await?) }).await
    }

    /// Runs some of a step's rows.
    pub(crate) async fn run(&mut self, arena: &[u8], step: &Step, rows: &[Entry]) -> Result<(), Failure> {
        let Some((plan, action)) = &step.plan else { return self.truncate(&step.table).await };
        if step.replaced {
            // Else ON DELETE CASCADE would take the rows that refer to those that are about to come back.
            self.conn.query_drop("SET SESSION foreign_key_checks = 0").await?;
            let deleted = self.execute_all(arena, (plan, action), rows).await;
            if !matches!(deleted, Err(Failure::Silence(_))) {
                self.conn.query_drop("SET SESSION foreign_key_checks = 1").await?;
            }
            return deleted.map(|_| ());
        }
        let Action::Update(columns) = action else {
            return self.execute_all(arena, (plan, action), rows).await.map(|_| ());
        };
        self.update(arena, plan, columns, rows).await
    }

    /// Updates rows that lack columns. When all of them are there, an INSERT updates many at once; else one by one, which tells those that are not.
    async fn update(
        &mut self,
        arena: &[u8],
        plan: &TablePlan,
        columns: &[usize],
        rows: &[Entry],
    ) -> Result<(), Failure> {
        let nothing_to_set = columns.len() <= plan.keys;
        let at_once = nothing_to_set || plan.may_leave_out_all_but(columns);
        if at_once && self.execute_all(arena, (plan, &Action::Count), rows).await? == rows.len() {
            if nothing_to_set {
                return Ok(());
            }
            let write = Action::Write(columns.to_vec());
            return self.execute_all(arena, (plan, &write), rows).await.map(|_| ());
        }
        let one = if nothing_to_set { Action::Count } else { Action::Update(columns.to_vec()) };
        for row in rows {
            let found = self.execute(arena, (plan, &one), std::slice::from_ref(row)).await?;
            if found == 0 && !row.follows {
                return Err(Failure::Ours(ConnectorError::fatal(UNAVAILABLE_CODE, UNAVAILABLE_MESSAGE)));
            }
        }
        Ok(())
    }

    /// Runs a statement as often as it takes; answers how many rows it found.
    async fn execute_all(
        &mut self,
        arena: &[u8],
        (plan, action): (&TablePlan, &Action),
        rows: &[Entry],
    ) -> Result<usize, Failure> {
        let mut found = 0;
        let mut rest = rows;
        while !rest.is_empty() {
            let size = next_size(rest, plan, action, self.bounds);
            let (now, later) = rest.split_at_checked(size).unwrap_or((rest, &[]));
            found += self.execute(arena, (plan, action), now).await?;
            rest = later;
        }
        Ok(found)
    }

    async fn execute(
        &mut self,
        arena: &[u8],
        (plan, action): (&TablePlan, &Action),
        rows: &[Entry],
    ) -> Result<usize, Failure> {
        let values = parameters(arena, rows, plan, action)?;
        answered(self.patience(), async {
            let statement = self.statements.get(self.conn, self.server, (plan, action), rows.len()).await?;
            if *action == Action::Count {
                let count: Option<u64> = self.conn.exec_first(&statement, values).await?;
                return Ok(usize::try_from(count.unwrap_or(0)).unwrap_or(usize::MAX));
            }
            self.conn.exec_drop(&statement, values).await?;
            Ok(usize::try_from(self.conn.affected_rows()).unwrap_or(usize::MAX))
        })
        .await
    }

    /// As `DELETE`: the server's own `TRUNCATE` would commit what was done so far, without its offsets.
    async fn truncate(&mut self, table: &TableName) -> Result<(), Failure> {
        let sql = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
        answered(self.patience(), async {
            let names = (table.database.bare(), table.table.bare());
            let known: Option<u64> = self.conn.exec_first(sql, names).await?;
            // A table that was never filled need not exist.
            if known == Some(1) {
                self.conn.query_drop(format!("DELETE FROM {table}")).await?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn rollback(&mut self) -> Result<(), ConnectorError> {
        let sql = "ROLLBACK; SET SESSION foreign_key_checks = 1";
        self.conn.query_drop(sql).await.map_err(from_mysql)
    }

    fn patience(&self) -> Duration {
        self.config.statement_timeout + Duration::from_secs(30)
    }
}

/// Waits for an answer, but not for ever.
async fn answered<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(patience, statement).await.unwrap_or_else(|_| {
        let message = format!("the server did not answer a statement within {patience:?}");
        Err(Failure::Silence(ConnectorError::transient("MYSQL_NO_ANSWER", message)))
    })
}

pub(crate) const UNAVAILABLE_CODE: &str = "UNAVAILABLE_VALUE";
const UNAVAILABLE_MESSAGE: &str = "the event left out columns that did not change, and the target has no such row to \
     keep them from; copy the table again, or set `missing_unavailable: insert_null`";
