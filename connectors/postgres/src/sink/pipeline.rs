//! Statements in flight together on one connection.
//!
//! `tokio-postgres` sends a statement when its future is first polled and answers in the order of sending. Polling
//! each future once when it is pushed sends it; waiting in the order of pushing then meets the first error first,
//! which is the cause of all that follow.

use std::{collections::VecDeque, future::poll_fn, task::Poll, time::Duration};

use futures::future::BoxFuture;
use rowstream_api::ConnectorError;

/// Statements in flight; each holds one batch of rows.
const IN_FLIGHT_MAX: usize = 4;

/// Why a statement failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server or the connection said so.
    Server(tokio_postgres::Error),
    /// A check of ours.
    Ours(ConnectorError),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl From<ConnectorError> for Failure {
    fn from(error: ConnectorError) -> Self {
        Self::Ours(error)
    }
}

type Answer = Result<(), Failure>;

/// A queue of sent statements.
pub(crate) struct Pipeline<'a> {
    waiting: VecDeque<BoxFuture<'a, Answer>>,
    /// Longest wait for an answer; above the server's own limit, for a network that swallows answers.
    patience: Duration,
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { waiting: VecDeque::new(), patience }
    }

    /// Sends a statement; waits while too many are in flight.
    ///
    /// # Errors
    /// The failure of an earlier statement.
    pub(crate) async fn push(&mut self, mut statement: BoxFuture<'a, Answer>) -> Answer {
        while self.waiting.len() >= IN_FLIGHT_MAX {
            self.first().await?;
        }
        match poll_fn(|cx| Poll::Ready(statement.as_mut().poll(cx))).await {
            Poll::Ready(answer) => {
                // Answers come in order, so the earlier ones are known, or failed the same way, too.
                self.finish().await?;
                answer
            }
            Poll::Pending => {
                self.waiting.push_back(statement);
                Ok(())
            }
        }
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) async fn finish(&mut self) -> Answer {
        while !self.waiting.is_empty() {
            self.first().await?;
        }
        Ok(())
    }

    async fn first(&mut self) -> Answer {
        let Some(statement) = self.waiting.pop_front() else { return Ok(()) };
        answered(self.patience, statement).await
    }
}

/// Waits for an answer, but not for ever.
///
/// # Errors
/// The statement's own, or `PG_NO_ANSWER`.
pub(crate) async fn answered<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(patience, statement).await.unwrap_or_else(|_| {
        let message = format!("the server did not answer a statement within {patience:?}");
        Err(Failure::Ours(ConnectorError::transient("PG_NO_ANSWER", message)))
    })
}
