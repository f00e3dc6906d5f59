//! `/readyz`: whether everything that shall make progress does. A process that runs and moves nothing is not ready.
//!
//! Not ready is: a log that can't write; a connector file that is not in force; a connector or task that has not started,
//! is `FAILED`, or waits to be restarted (`RETRYING`); a task that has had work in hand for longer than `stall_timeout` without a
//! commit. What was paused or stopped on purpose is fine, so is a task with nothing to do, and so is what another worker runs.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    task::status::{TaskSnapshot, TaskState},
    topic_log::LogHealth,
    worker::ConnectorView,
};

/// What stands in the way, most general first.
#[must_use]
pub fn problems(
    log: &LogHealth,
    files: &BTreeMap<PathBuf, String>,
    connectors: &[ConnectorView],
    stall_timeout: Duration,
) -> Vec<Value> {
    let now = SystemTime::now();
    let blocked = log.blocked.iter().map(|why| json!({ "problem": "topic log is blocked", "detail": why }));
    let files = files.iter().map(|(file, why)| {
        json!({ "problem": "connector file is not in force", "file": file.display().to_string(), "detail": why })
    });
    let mut all: Vec<Value> = blocked.chain(files).collect();
    for view in connectors {
        let name = &view.spec.name;
        if let Some(problem) = of_state(view.state).filter(|_| view.home) {
            all.push(
                json!({ "problem": format!("connector {problem}"), "connector": name, "detail": view.trace }),
            );
        }
        for task in &view.tasks {
            if let Some(problem) = of_task(&task.status, now, stall_timeout) {
                all.push(json!({
                    "problem": format!("task {problem}"), "connector": name, "task": task.number,
                    "code": task.status.code, "detail": task.status.trace,
                }));
            }
        }
    }
    all
}

fn of_task(task: &TaskSnapshot, now: SystemTime, stall_timeout: Duration) -> Option<String> {
    if let Some(problem) = of_state(task.state) {
        return Some(problem.to_owned());
    }
    let stuck = busy_for(task, now).filter(|stuck| *stuck > stall_timeout)?;
    Some(format!("is stalled: it has had work for {} s without a commit", stuck.as_secs()))
}

/// How long a running task has had work in hand without a commit; `None` when it has none.
pub(super) fn busy_for(task: &TaskSnapshot, now: SystemTime) -> Option<Duration> {
    let since = task.busy_since.filter(|_| task.state == TaskState::Running)?;
    now.duration_since(task.last_commit.map_or(since, |commit| commit.max(since))).ok()
}

fn of_state(state: TaskState) -> Option<&'static str> {
    match state {
        TaskState::Unassigned => Some("has not started"),
        TaskState::Retrying => Some("is RETRYING"),
        TaskState::Failed => Some("is FAILED"),
        TaskState::Running | TaskState::Paused | TaskState::Stopped | TaskState::Restarting => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::status::TaskStatus;

    const MINUTE: Duration = Duration::from_mins(1);

    fn snapshot(busy: Option<u64>, commit: Option<u64>) -> (TaskSnapshot, SystemTime) {
        let now = SystemTime::now();
        let ago = |seconds| now - Duration::from_secs(seconds);
        let status = TaskStatus::default();
        status.set(TaskState::Running);
        (TaskSnapshot { busy_since: busy.map(ago), last_commit: commit.map(ago), ..status.read() }, now)
    }

    #[test]
    fn only_work_without_commits_is_a_stall() {
        for (busy, commit, stalled) in [
            (None, None, false),
            (None, Some(1000), false),
            (Some(59), None, false),
            (Some(61), None, true),
            (Some(1000), Some(59), false),
            (Some(1000), Some(61), true),
            (Some(59), Some(1000), false),
        ] {
            let (task, now) = snapshot(busy, commit);
            assert_eq!(of_task(&task, now, MINUTE).is_some(), stalled, "busy {busy:?}, commit {commit:?}");
            // What /metrics says is what /readyz judges by.
            assert_eq!(busy_for(&task, now).is_some_and(|busy| busy > MINUTE), stalled);
        }
    }

    #[test]
    fn a_task_at_rest_is_no_problem() {
        let (mut task, now) = snapshot(Some(1000), None);
        task.state = TaskState::Paused;
        assert_eq!(of_task(&task, now, MINUTE), None);
        task.state = TaskState::Retrying;
        assert_eq!(of_task(&task, now, MINUTE).as_deref(), Some("is RETRYING"));
    }
}
