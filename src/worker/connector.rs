//! One connector as others see it: the handle that commands its actor, and what they read of it.
//!
//! What it shall be (spec, target state, which of its tasks are here) is set by commands; what it is (tasks, states, errors) is
//! published in a view that anybody may read at any time without waiting for the actor, so `status` answers even while a stop takes
//! its time. Where several workers share it, what the others told is laid beside it ([`Elsewhere`]): a task is told by the worker that
//! runs it, the connector by the one that has task 0.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rowstream_api::Delivery;
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
};
use tracing::Instrument;

use super::{
    Restart, WorkerContext,
    actor::{AT_REST, Actor, Command, Published, TaskHere},
    share::Share,
};
use crate::{
    config::ConnectorSpec,
    registry::PluginKind,
    task::status::{TaskSnapshot, TaskState},
};

/// Who defined a connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A YAML file.
    File(PathBuf),
    /// The REST API.
    Rest,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Rest => f.write_str("the REST API"),
        }
    }
}

/// What a connector shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Run its tasks.
    Running,
    /// Keep its tasks, at rest.
    Paused,
    /// Have no tasks; its offsets may be changed.
    Stopped,
}

impl TargetState {
    /// Connect's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Stopped => "STOPPED",
        }
    }
    /// From Connect's word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Paused, Self::Stopped].into_iter().find(|s| s.as_str() == text)
    }
}

/// What a connector is, at one moment.
#[derive(Debug, Clone)]
pub struct ConnectorView {
    /// As typed.
    pub spec: ConnectorSpec,
    /// Who defined it.
    pub origin: Origin,
    /// Source or sink; `None` when the connector's type is unknown.
    pub kind: Option<PluginKind>,
    /// What it shall do.
    pub target: TargetState,
    /// Whether it is this worker that tells its state.
    pub home: bool,
    /// What it does.
    pub state: TaskState,
    /// Why it failed, with what to do.
    pub trace: Option<String>,
    /// The promise of its plan.
    pub delivery: Option<Delivery>,
    /// Those of its tasks that run here, by number.
    pub tasks: Vec<TaskView>,
    /// What other workers told, where several share it.
    pub elsewhere: Option<Elsewhere>,
}

/// What other workers told of a connector.
#[derive(Debug, Clone, Default)]
pub struct Elsewhere {
    /// How many tasks it has while it is not stopped.
    pub tasks_planned: usize,
    /// Its status, without tasks.
    pub head: Option<Value>,
    /// Its tasks.
    pub tasks: BTreeMap<usize, Value>,
}

impl ConnectorView {
    /// The numbers of its tasks, wherever they run.
    #[must_use]
    pub fn task_numbers(&self) -> BTreeSet<usize> {
        let mut numbers: BTreeSet<usize> = self.tasks.iter().map(|task| task.number).collect();
        if let Some(elsewhere) = &self.elsewhere {
            // Of a stopped one those are left that others have not yet said to have stopped.
            let planned = if self.target == TargetState::Stopped { 0 } else { elsewhere.tasks_planned };
            numbers.extend((0..planned).chain(elsewhere.tasks.keys().copied()));
        }
        numbers
    }

    /// Lays beside it what was told by others.
    pub(super) fn told(mut self, head: Option<Value>, tasks: BTreeMap<usize, Value>) -> Self {
        let elsewhere = self.elsewhere.get_or_insert_default();
        elsewhere.tasks = tasks;
        if !self.home {
            let connector = head.as_ref().map(|told| &told["connector"]);
            let word = |member: &str| connector.and_then(|c| c[member].as_str());
            self.state = word("state").and_then(TaskState::parse).unwrap_or(TaskState::Unassigned);
            self.trace = word("trace").map(str::to_owned);
            elsewhere.head = head;
        }
        self
    }
}

/// One task.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// Its number.
    pub number: usize,
    /// State and progress.
    pub status: TaskSnapshot,
    /// Numbers that the connector publishes.
    pub gauges: Vec<(&'static str, f64)>,
    /// Notes for people.
    pub notes: Vec<(&'static str, String)>,
}

/// Commands queued for one connector; each is short, so a full queue means that the connector is stopping.
const COMMANDS_MAX: usize = 64;

/// A handle on the actor.
pub struct Connector {
    commands: mpsc::Sender<Command>,
    published: Arc<Mutex<Published>>,
    /// Something was asked of its snapshot; kept from one task to the next.
    asked: Arc<Notify>,
    _actor: JoinSet<()>,
}

impl Connector {
    /// Starts the actor.
    pub(super) fn spawn(
        context: Arc<WorkerContext>,
        spec: ConnectorSpec,
        origin: Origin,
        (target, share): (TargetState, Share),
    ) -> Arc<Self> {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let span = tracing::info_span!("connector", connector = spec.name);
        let published = Arc::new(Mutex::new(Published::new(spec, origin, target, share)));
        let asked = Arc::new(Notify::new());
        let state = Actor::new(context, Arc::clone(&published), Arc::clone(&asked));
        let mut actor = JoinSet::new();
        actor.spawn(state.run(inbox).instrument(span));
        Arc::new(Self { commands, published, asked, _actor: actor })
    }

    /// What it is here, now.
    pub(super) fn view(&self) -> ConnectorView {
        let published = lock(&self.published);
        let task = |(number, TaskHere { status, .. }): (&usize, &TaskHere)| TaskView {
            number: *number,
            status: status.read(),
            gauges: status.gauges.values(),
            notes: status.gauges.notes(),
        };
        let elsewhere = match published.share {
            Share::All => None,
            Share::Shards { .. } => {
                Some(Elsewhere { tasks_planned: published.tasks_planned, ..Elsewhere::default() })
            }
        };
        ConnectorView {
            spec: published.spec.clone(),
            origin: published.origin.clone(),
            kind: published.kind,
            target: published.target,
            home: published.share.has(&published.spec.name, 0),
            state: published.state,
            trace: published.trace.clone(),
            delivery: published.delivery.clone(),
            tasks: published.tasks.iter().map(task).collect(),
            elsewhere,
        }
    }

    /// Whether it shall be stopped and nothing of it runs here.
    pub(super) fn rests(&self) -> bool {
        let published = lock(&self.published);
        published.target == TargetState::Stopped && AT_REST.contains(&published.state)
    }

    pub(super) fn change(&self, spec: ConnectorSpec) {
        // Seen at once by whoever asks, whatever the actor is busy with.
        lock(&self.published).spec = spec;
        self.send(Command::Change);
    }

    pub(super) fn set_target(&self, target: TargetState) {
        lock(&self.published).target = target;
        self.send(Command::Target(target));
    }

    /// A request to its snapshot is stored: the task looks, if it runs here.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    pub(super) fn restart(&self, which: Restart) {
        self.send(Command::Restart(which));
    }

    /// Runs those tasks here that `share` has, and no others. Returns when those that go have stopped, within the deadline.
    pub(super) async fn assign(&self, share: Share) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Assign(share, done)).await.is_ok() {
            // An error means that the actor is gone, and with it all it ran.
            wait.await.unwrap_or(());
        }
    }

    /// Stops its tasks within the deadline and ends the actor.
    pub(super) async fn shut_down(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::ShutDown(done)).await.is_ok() {
            // An error means that the actor is gone, which is what was asked for.
            wait.await.unwrap_or(());
        }
    }

    fn send(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::warn!(
                connector = lock(&self.published).spec.name,
                "command dropped: too many are waiting while the connector stops"
            );
        }
    }
}

pub(super) fn lock(published: &Mutex<Published>) -> std::sync::MutexGuard<'_, Published> {
    // Nothing in a critical section can leave the view half written.
    published.lock().unwrap_or_else(PoisonError::into_inner)
}
