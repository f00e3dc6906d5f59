//! What others see of a task: state, why, since when, and how far it got.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rowstream_api::{Chain, ConnectorError, Gauges};

/// Connect's states, and our `RETRYING`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Made, not yet running.
    Unassigned,
    /// At work, or waiting for input.
    Running,
    /// Will be restarted by itself.
    Retrying,
    /// Told to pause.
    Paused,
    /// Told to stop.
    Stopped,
    /// Needs a person.
    Failed,
    /// Stopped in order to start again.
    Restarting,
}

impl TaskState {
    const ALL: [Self; 7] = [
        Self::Unassigned,
        Self::Running,
        Self::Retrying,
        Self::Paused,
        Self::Stopped,
        Self::Failed,
        Self::Restarting,
    ];

    /// From the word in the REST API.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The word in the REST API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unassigned => "UNASSIGNED",
            Self::Running => "RUNNING",
            Self::Retrying => "RETRYING",
            Self::Paused => "PAUSED",
            Self::Stopped => "STOPPED",
            Self::Failed => "FAILED",
            Self::Restarting => "RESTARTING",
        }
    }
}

/// One reading.
#[derive(Debug, Clone)]
pub struct TaskSnapshot {
    /// State.
    pub state: TaskState,
    /// Since when.
    pub since: SystemTime,
    /// Error with its causes and the remedy, for `FAILED` and `RETRYING`.
    pub trace: Option<String>,
    /// Stable code of that error.
    pub code: Option<&'static str>,
    /// Restarts since the last durable progress.
    pub attempt: u32,
    /// When the next restart is due, for `RETRYING`.
    pub retry_at: Option<SystemTime>,
    /// Restarts in all.
    pub restarts: u64,
    /// Records committed in all runs.
    pub records: u64,
    /// Last durable progress.
    pub last_commit: Option<SystemTime>,
    /// Whether the task has work it has not yet made durable.
    pub busy_since: Option<SystemTime>,
}

/// Shared between the task, its supervisor and the API. Only the supervisor sets the state.
#[derive(Debug, Clone)]
pub struct TaskStatus {
    inner: Arc<Mutex<TaskSnapshot>>,
    /// Numbers and notes that the connector publishes.
    pub gauges: Gauges,
}

impl Default for TaskStatus {
    fn default() -> Self {
        let inner = TaskSnapshot {
            state: TaskState::Unassigned,
            since: SystemTime::now(),
            trace: None,
            code: None,
            attempt: 0,
            retry_at: None,
            restarts: 0,
            records: 0,
            last_commit: None,
            busy_since: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)), gauges: Gauges::default() }
    }
}

impl TaskStatus {
    /// A reading.
    #[must_use]
    pub fn read(&self) -> TaskSnapshot {
        self.lock().clone()
    }

    /// A state without an error.
    pub fn set(&self, state: TaskState) {
        let mut inner = self.lock();
        inner.state = state;
        inner.since = SystemTime::now();
        inner.busy_since = None;
        inner.retry_at = None;
        if state != TaskState::Running {
            (inner.trace, inner.code) = (None, None);
        }
    }

    /// It will be restarted.
    pub fn retry(&self, error: &ConnectorError, attempt: u32, after: Duration) {
        let mut inner = self.lock();
        inner.state = TaskState::Retrying;
        inner.since = SystemTime::now();
        inner.attempt = attempt;
        inner.retry_at = SystemTime::now().checked_add(after);
        inner.restarts += 1;
        inner.busy_since = None;
        (inner.trace, inner.code) = (Some(trace(error)), Some(error.code));
    }

    /// It needs a person.
    pub fn fail(&self, error: &ConnectorError) {
        let mut inner = self.lock();
        inner.state = TaskState::Failed;
        inner.since = SystemTime::now();
        inner.busy_since = None;
        inner.retry_at = None;
        (inner.trace, inner.code) = (Some(trace(error)), Some(error.code));
    }

    /// Durable progress: clears what an earlier failure left.
    pub fn committed(&self, records: u64) {
        let mut inner = self.lock();
        inner.records += records;
        inner.last_commit = Some(SystemTime::now());
        inner.attempt = 0;
        (inner.trace, inner.code) = (None, None);
    }

    /// Whether there is work in hand that is not yet durable; set when it begins, cleared when none is left.
    pub fn busy(&self, busy: bool) {
        let mut inner = self.lock();
        match (busy, inner.busy_since) {
            (true, None) => inner.busy_since = Some(SystemTime::now()),
            (true, Some(_)) => {}
            (false, _) => inner.busy_since = None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, TaskSnapshot> {
        // Nothing in a critical section here can leave the snapshot half written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Code, chain and remedy, as `status` shows them.
fn trace(error: &ConnectorError) -> String {
    let mut text = format!("{}: {}", error.code, Chain(error));
    if let Some(remedy) = &error.remedy {
        text.push_str("\nwhat to do: ");
        text.push_str(remedy);
    }
    text
}
