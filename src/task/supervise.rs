//! Runs one task until it is told to stop, finishes, or fails for good.
//!
//! A failure that time may mend is retried from the stored offsets for as long as it takes (or the configured number of
//! attempts); one that needs a person leaves the task `FAILED` with what to do. A panic is a broken invariant of ours: `FAILED` with
//! code `BUG_PANIC`, never a silent retry. Only this function writes the state, so a fenced or cancelled run can't.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt, future::BoxFuture};
use rowstream_api::{Chain, Class, ConnectorError};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::Backoff,
    status::{TaskState, TaskStatus},
};

/// What one run of a task came to.
pub struct Run {
    /// `Ok` when it was told to stop and did.
    pub outcome: Result<(), ConnectorError>,
    /// Whether anything became durable in it.
    pub committed_any: bool,
}

/// Something that can be run again and again from stored offsets.
pub trait Runnable: Send {
    /// Connects, seeks to the stored offsets, and loops until `stop`.
    fn run<'a>(&'a mut self, stop: &'a CancellationToken) -> BoxFuture<'a, Run>;
}

/// What it means that a newer task took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// Somebody else runs this task, and shall: it needs a person to say who.
    ForGood,
    /// The group of workers decides who runs it. A worker that slept past its session may take the task once more before it learns
    /// that it lost it, so the rightful one tries again; the other one is stopped by the group.
    TryAgain,
}

/// Supervises one task.
pub async fn supervise(
    mut task: Box<dyn Runnable>,
    status: TaskStatus,
    (mut backoff, fenced): (Backoff, Fenced),
    stop: CancellationToken,
) {
    loop {
        status.set(TaskState::Running);
        let run = AssertUnwindSafe(task.run(&stop)).catch_unwind().await.unwrap_or_else(|_| Run {
            outcome: Err(ConnectorError::fatal("BUG_PANIC", "the task panicked; this is a bug of Rowstream")
                .remedy("please report it with the log lines around it; nothing was acknowledged past what is stored")),
            committed_any: false,
        });
        let Err(error) = run.outcome else { return status.set(TaskState::Stopped) };
        if stop.is_cancelled() {
            tracing::warn!(error = %Chain(&error), code = error.code, "task failed while it stopped; it resumes from what is stored");
            return status.set(TaskState::Stopped);
        }
        if run.committed_any {
            backoff.reset();
        }
        let retry = match error.class {
            Class::Transient => backoff.next_wait(),
            Class::Fatal if fenced == Fenced::TryAgain && error.code.ends_with("_FENCED") => {
                backoff.next_wait()
            }
            Class::Config | Class::Fatal => None,
        };
        let Some((attempt, after)) = retry else {
            tracing::error!(error = %Chain(&error), code = error.code, remedy = error.remedy, "task failed");
            return status.fail(&error);
        };
        tracing::warn!(error = %Chain(&error), code = error.code, attempt, ?after, "task will retry");
        status.retry(&error, attempt, after);
        tokio::select! {
            () = stop.cancelled() => return status.set(TaskState::Stopped),
            () = tokio::time::sleep(after) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, time::Duration};

    use super::*;
    use crate::config::RestartPolicy;

    /// A task whose runs end as scripted; the last one runs until stopped.
    struct Scripted(VecDeque<fn() -> Run>);

    impl Runnable for Scripted {
        fn run<'a>(&'a mut self, stop: &'a CancellationToken) -> BoxFuture<'a, Run> {
            let next = self.0.pop_front();
            async move {
                match next {
                    Some(run) => run(),
                    None => {
                        stop.cancelled().await;
                        Run { outcome: Ok(()), committed_any: false }
                    }
                }
            }
            .boxed()
        }
    }

    async fn outcome(script: Vec<fn() -> Run>, attempts: Option<u32>, stop_at_end: bool) -> TaskStatus {
        fenced_outcome(script, attempts, (stop_at_end, Fenced::ForGood)).await
    }

    async fn fenced_outcome(
        script: Vec<fn() -> Run>,
        attempts: Option<u32>,
        (stop_at_end, fenced): (bool, Fenced),
    ) -> TaskStatus {
        let status = TaskStatus::default();
        let stop = CancellationToken::new();
        let policy = RestartPolicy { attempts, ..RestartPolicy::default() };
        let policy = (Backoff::new(policy), fenced);
        let supervised = supervise(Box::new(Scripted(script.into())), status.clone(), policy, stop.clone());
        if stop_at_end {
            let ((), ()) = tokio::join!(supervised, async {
                tokio::time::sleep(Duration::from_mins(10)).await;
                stop.cancel();
            });
        } else {
            supervised.await;
        }
        status
    }

    fn transient() -> Run {
        Run { outcome: Err(ConnectorError::transient("T", "away")), committed_any: false }
    }

    #[tokio::test(start_paused = true)]
    async fn what_time_may_mend_is_retried_until_it_is_mended() {
        let status = outcome(vec![transient, transient, transient], None, true).await;
        let read = status.read();
        assert_eq!((read.state, read.restarts), (TaskState::Stopped, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_ends_in_failed_and_progress_renews_it() {
        let status = outcome(vec![transient, transient, transient], Some(2), false).await;
        assert_eq!(status.read().state, TaskState::Failed);
        let progress: fn() -> Run = || Run { committed_any: true, ..transient() };
        let status = outcome(vec![transient, transient, progress, transient], Some(2), true).await;
        assert_eq!(status.read().state, TaskState::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_a_person_fails_at_once_and_says_what_to_do() {
        let fatal: fn() -> Run = || Run {
            outcome: Err(ConnectorError::fatal("PG_SLOT_LOST", "slot `s` is gone").remedy("make it again")),
            committed_any: true,
        };
        let read = outcome(vec![fatal], None, false).await.read();
        assert_eq!((read.state, read.restarts), (TaskState::Failed, 0));
        assert_eq!(read.trace.as_deref(), Some("PG_SLOT_LOST: slot `s` is gone\nwhat to do: make it again"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fenced_task_tries_again_only_where_a_group_decides() {
        let taken: fn() -> Run = || Run {
            outcome: Err(ConnectorError::fatal("TASK_FENCED", "a newer task took over")),
            committed_any: false,
        };
        let read = outcome(vec![taken], None, false).await.read();
        assert_eq!((read.state, read.restarts), (TaskState::Failed, 0));
        let read = fenced_outcome(vec![taken, taken], None, (true, Fenced::TryAgain)).await.read();
        assert_eq!((read.state, read.restarts), (TaskState::Stopped, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_failed_with_its_own_code() {
        let read = outcome(vec![|| panic!("broken invariant")], None, false).await.read();
        assert_eq!((read.state, read.code), (TaskState::Failed, Some("BUG_PANIC")));
    }
}
