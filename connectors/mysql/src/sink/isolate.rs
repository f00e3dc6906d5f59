//! When the server rejects the data of a batch, the culprits are found by halving, inside a transaction that is rolled back in any
//! case.

use mysql_async::{Error, ServerError, prelude::Queryable};
use rowstream_api::{
    ConnectorError, RecordError, Stage,
    table_sink::{Entry, task::Rejected},
};

use super::apply::{Applier, Failure, Step, UNAVAILABLE_CODE};
use crate::{
    error::{Kind, from_mysql, kind, named, what},
    ident::TableName,
};

/// Culprits looked for at once; the rest are found by the next flush.
const CULPRITS_MAX: usize = 1_000;

impl Applier<'_> {
    /// Finds the records that the target rejects. Changes nothing.
    pub(crate) async fn isolate(
        &mut self,
        arena: &[u8],
        steps: &[Step],
        cause: ConnectorError,
    ) -> Result<(), Rejected> {
        if let Err(error) = self.rollback().await {
            return Err(Rejected::Failed(error));
        }
        let begun = self.conn.query_drop("START TRANSACTION").await;
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
            Err(Failure::Server(error)) if kind(&error) == Some(Kind::Conflict) => {
                Err(Rejected::Conflict(from_mysql(error)))
            }
            Err(failure) => Err(Rejected::Failed(failure.into_error())),
        }
    }

    async fn culprits(&mut self, arena: &[u8], steps: &[Step]) -> Result<Vec<(usize, RecordError)>, Failure> {
        let mut culprits = Vec::new();
        for step in steps {
            let mut untried: Vec<&[Entry]> = vec![&step.rows];
            while let Some(rows) = untried.pop() {
                if culprits.len() >= CULPRITS_MAX {
                    return Ok(culprits);
                }
                self.conn.query_drop("SAVEPOINT part").await?;
                match self.run(arena, step, rows).await {
                    Ok(()) => self.conn.query_drop("RELEASE SAVEPOINT part").await?,
                    Err(failure) => {
                        let refusal = refusal_of(failure, &step.table)?;
                        self.conn
                            .query_drop("ROLLBACK TO SAVEPOINT part; SET SESSION foreign_key_checks = 1")
                            .await?;
                        match rows {
                            [] => return Ok(culprits),
                            [row] => culprits.push((row.record, refusal)),
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
}

/// The rows' own fault, or any other failure.
fn refusal_of(failure: Failure, table: &TableName) -> Result<RecordError, Failure> {
    match failure {
        Failure::Server(Error::Server(error)) if kind(&Error::Server(error.clone())) == Some(Kind::Data) => {
            Ok(refusal(&error, table))
        }
        Failure::Ours(error) if error.code == UNAVAILABLE_CODE => {
            Ok(RecordError::new(Stage::TaskPut, UNAVAILABLE_CODE, error.message))
        }
        other @ (Failure::Server(_) | Failure::Ours(_) | Failure::Silence(_)) => Err(other),
    }
}

/// Names objects only: the server's messages of these errors quote values.
fn refusal(error: &ServerError, table: &TableName) -> RecordError {
    let code = match error.code {
        1022 | 1062 | 1169 | 1586 => "MYSQL_UNIQUE",
        1048 | 1364 => "MYSQL_NOT_NULL",
        1216 | 1217 | 1451 | 1452 | 1557 | 1761 | 1762 => "MYSQL_FOREIGN_KEY",
        3819 | 4025 => "MYSQL_CHECK",
        1644 => "MYSQL_TRIGGER",
        _ => "MYSQL_DATA",
    };
    let message = format!(
        "table `{}` rejected the row: {} (error {}, SQLSTATE {}{})",
        table.plain(),
        what(error.code),
        error.code,
        error.state,
        named(error)
    );
    RecordError::new(Stage::TaskPut, code, message)
}
