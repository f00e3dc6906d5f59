//! Which records the target rejects, and which of their columns.
//!
//! Culprits are found by halving, inside a transaction that is rolled back in any case, so that looking for them changes
//! nothing. The server's messages of these error classes quote values but seldom name the column; the column is found by
//! writing the row once more with each column alone, and seeing which raises the same error.

use rowstream_api::{
    ConnectorError, RecordError, Stage,
    table_sink::{Entry, task::Rejected},
};
use tokio_postgres::types::ToSql;

use super::{
    apply::{Applier, CULPRITS_MAX, Step, UNAVAILABLE_CODE, is_data_error},
    arrays::column_arrays,
    pipeline::Failure,
    plan::TablePlan,
    sql::Action,
};
use crate::{error::from_postgres, ident::TableName};

/// Why rows were not taken, their own fault.
enum Refusal {
    /// The server's word on their data.
    Data(tokio_postgres::Error),
    /// A check of ours.
    Ours(RecordError),
}

impl Applier<'_> {
    /// Finds the records that the target rejects. Changes nothing.
    pub(super) async fn isolate(
        &self,
        arena: &[u8],
        steps: &[Step],
        cause: ConnectorError,
    ) -> Result<(), Rejected> {
        if let Err(error) = self.rollback().await {
            return Err(Rejected::Failed(error));
        }
        let begun = self.client.batch_execute("BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await;
        let found = match begun {
            Ok(()) => self.culprits(arena, steps).await,
            Err(error) => Err(Failure::Server(error)),
        };
        if let Err(error) = self.rollback().await {
            return Err(Rejected::Failed(error));
        }
        match found {
            Ok(culprits) if !culprits.is_empty() => Err(Rejected::Records(culprits)),
            // Row by row it went through: something else was there in between.
            Ok(_) => Err(Rejected::Conflict(cause)),
            Err(Failure::Server(error)) => Err(Rejected::Failed(from_postgres(error))),
            Err(Failure::Ours(error)) => Err(Rejected::Failed(error)),
        }
    }

    async fn culprits(&self, arena: &[u8], steps: &[Step]) -> Result<Vec<(usize, RecordError)>, Failure> {
        let mut culprits = Vec::new();
        for step in steps {
            let mut untried: Vec<&[Entry]> = self.chunks(&step.rows);
            untried.reverse();
            while let Some(rows) = untried.pop() {
                if culprits.len() >= CULPRITS_MAX {
                    return Ok(culprits);
                }
                self.client.batch_execute("SAVEPOINT part").await?;
                match self.attempt(arena, step, rows).await {
                    Ok(()) => self.client.batch_execute("RELEASE part").await?,
                    Err(refusal) => {
                        let refusal = refusal?;
                        self.client.batch_execute("ROLLBACK TO part; RELEASE part").await?;
                        match rows {
                            [] => return Ok(culprits),
                            [row] => {
                                let refusal = match refusal {
                                    Refusal::Data(error) => self.refused(arena, step, row, &error).await?,
                                    Refusal::Ours(error) => error,
                                };
                                culprits.push((row.record, refusal));
                            }
                            rows => {
                                let (left, right) = rows.split_at(rows.len() / 2);
                                untried.extend([right, left]);
                            }
                        }
                    }
                }
            }
        }
        Ok(culprits)
    }

    /// Runs some rows; the inner result of an error tells the rows' fault from any other.
    async fn attempt(
        &self,
        arena: &[u8],
        step: &Step,
        rows: &[Entry],
    ) -> Result<(), Result<Refusal, Failure>> {
        let ran = match &step.plan {
            None => self.truncate(&step.table).await,
            Some((plan, action)) => self.run(arena, plan, action, rows).await,
        };
        ran.map_err(|failure| match failure {
            Failure::Server(error) if is_data_error(&error) => Ok(Refusal::Data(error)),
            Failure::Ours(error) if error.code == UNAVAILABLE_CODE => {
                Ok(Refusal::Ours(RecordError::new(Stage::TaskPut, UNAVAILABLE_CODE, error.message)))
            }
            other @ (Failure::Server(_) | Failure::Ours(_)) => Err(other),
        })
    }

    /// The refusal in words, with the column where it can be found.
    async fn refused(
        &self,
        arena: &[u8],
        step: &Step,
        row: &Entry,
        error: &tokio_postgres::Error,
    ) -> Result<RecordError, Failure> {
        let state = error.code().map_or("", |state| state.code());
        let column = match &step.plan {
            Some((plan, Action::Write(columns) | Action::Update(columns))) if state.starts_with("22") => {
                self.guilty_column(arena, plan, columns, (row, state)).await?
            }
            Some(_) | None => None,
        };
        Ok(refusal(error, &step.table, column.as_deref()))
    }

    /// The column that raises `state` when the row is written with its key and that column only, with its type.
    async fn guilty_column(
        &self,
        arena: &[u8],
        plan: &TablePlan,
        columns: &[usize],
        (row, state): (&Entry, &str),
    ) -> Result<Option<String>, Failure> {
        let key: Vec<usize> = (0..plan.keys).collect();
        let others = columns.iter().filter(|column| **column >= plan.keys);
        let alone = others.map(|column| (*column, [key.as_slice(), &[*column]].concat()));
        let key_first = (plan.keys > 0).then(|| (0, key.clone()));
        for (suspect, written) in key_first.into_iter().chain(alone) {
            let action = Action::Write(written);
            self.client.batch_execute("SAVEPOINT alone").await?;
            let outcome = self.write_alone(arena, plan, &action, row).await;
            self.client.batch_execute("ROLLBACK TO alone; RELEASE alone").await?;
            let same = outcome.is_err_and(|error| error.code().is_some_and(|code| code.code() == state));
            if same && let Some(column) = plan.columns.get(suspect) {
                let (table, name) = (plan.table.to_string(), column.name.bare());
                let found = self.client.query_opt(COLUMN_TYPE, &[&table, &name]).await?;
                let ty: Option<String> = found.map(|row| row.try_get(0)).transpose()?;
                let ty = ty.map(|ty| format!(" of type {ty}")).unwrap_or_default();
                return Ok(Some(format!("`{name}`{ty}")));
            }
        }
        Ok(None)
    }

    async fn write_alone(
        &self,
        arena: &[u8],
        plan: &TablePlan,
        action: &Action,
        row: &Entry,
    ) -> Result<u64, tokio_postgres::Error> {
        let statement = self.client.prepare(&action.sql(plan, self.config.records.write_mode)).await?;
        let arrays = column_arrays(arena, std::slice::from_ref(row), plan, &action.columns(plan));
        let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        self.client.execute(&statement, &parameters).await
    }
}

const COLUMN_TYPE: &str = "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute \
     WHERE attrelid = pg_catalog.to_regclass($1) AND attname = $2 AND NOT attisdropped";

/// Names objects only: the server's messages of these classes quote values.
fn refusal(error: &tokio_postgres::Error, table: &TableName, column: Option<&str>) -> RecordError {
    let Some(error) = error.as_db_error() else {
        return RecordError::new(Stage::TaskPut, "PG_DATA", "the target rejected the row");
    };
    let state = error.code().code();
    let (code, what) = match state {
        "23505" => ("PG_UNIQUE", "another row has the same unique value"),
        "23502" => ("PG_NOT_NULL", "a column that must not be null is null"),
        "23503" => ("PG_FOREIGN_KEY", "a foreign key is violated"),
        "23514" | "44000" => ("PG_CHECK", "a check constraint is violated"),
        "22001" => ("PG_DATA", "a text is longer than its column allows"),
        "22003" => ("PG_DATA", "a number is out of its column's range"),
        "22007" | "22008" => ("PG_DATA", "a date or time is invalid or out of range"),
        "22P02" | "22026" => ("PG_DATA", "a text is not a value of its column's type"),
        "P0001" => ("PG_TRIGGER", "a trigger of the target raised an error"),
        _ => ("PG_DATA", "the data is not valid for the table"),
    };
    let named =
        |kind: &str, name: Option<&str>| name.map(|name| format!(", {kind} `{name}`")).unwrap_or_default();
    let message = format!(
        "table `{}`{} rejected the row: {what} (SQLSTATE {state}{}{})",
        table.plain(),
        column.map(|column| format!(", column {column},")).unwrap_or_default(),
        named("column", error.column()),
        named("constraint", error.constraint())
    );
    RecordError::new(Stage::TaskPut, code, message)
}
