//! One connector: an actor that takes commands one after the other and owns its tasks.
//!
//! What it shall be (spec, target state) is set by commands; what it is (tasks, states, errors) is published in a view that anybody
//! may read at any time without waiting for the actor, so `status` answers even while a stop takes its time.

use std::{
    fmt,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rowstream_api::{Chain, ConfigErrors, ConnectorError, Delivery};
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Restart, WorkerContext};
use crate::{
    config::ConnectorSpec,
    pipeline::chain::ChainPlan,
    registry::{self, Plan, PluginKind, SinkPlan},
    task::{
        TaskShared,
        backoff::Backoff,
        sink_loop::SinkTaskRun,
        source_loop::SourceTaskRun,
        status::{TaskSnapshot, TaskState, TaskStatus},
        supervise::{Fenced, Runnable, supervise},
    },
    topic_log::TopicFilter,
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
    /// Whether it is this worker that runs it.
    pub assigned: bool,
    /// What it does.
    pub state: TaskState,
    /// Why it failed, with what to do.
    pub trace: Option<String>,
    /// The promise of its plan.
    pub delivery: Option<Delivery>,
    /// Its tasks, by number; none when another worker runs it.
    pub tasks: Vec<TaskView>,
    /// What the worker that runs it last told of it, where that is another one.
    pub elsewhere: Option<Value>,
}

impl ConnectorView {
    /// How many tasks it has, wherever they run.
    #[must_use]
    pub fn task_count(&self) -> usize {
        let told = self.elsewhere.as_ref().and_then(|told| told["tasks"].as_array());
        told.map_or(self.tasks.len(), Vec::len)
    }

    /// Fills in what the worker that runs it told.
    pub(super) fn told(mut self, told: Option<Value>) -> Self {
        let connector = told.as_ref().map(|told| &told["connector"]);
        let word = |member: &str| connector.and_then(|c| c[member].as_str());
        self.state = word("state").and_then(TaskState::parse).unwrap_or(TaskState::Unassigned);
        self.trace = word("trace").map(str::to_owned);
        self.elsewhere = told;
        self
    }
}

/// One task.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// State and progress.
    pub status: TaskSnapshot,
    /// Numbers that the connector publishes.
    pub gauges: Vec<(&'static str, f64)>,
    /// Notes for people.
    pub notes: Vec<(&'static str, String)>,
}

enum Command {
    /// The published spec was changed.
    Change,
    Target(TargetState),
    Restart(Restart),
    /// This worker runs it from now on, or no longer; answered when that is so.
    Assign(bool, oneshot::Sender<()>),
    ShutDown(oneshot::Sender<()>),
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

struct Published {
    spec: ConnectorSpec,
    origin: Origin,
    kind: Option<PluginKind>,
    target: TargetState,
    assigned: bool,
    state: TaskState,
    trace: Option<String>,
    delivery: Option<Delivery>,
    tasks: Vec<TaskStatus>,
}

impl Connector {
    /// Starts the actor.
    pub(super) fn spawn(
        context: Arc<WorkerContext>,
        spec: ConnectorSpec,
        origin: Origin,
        (target, assigned): (TargetState, bool),
    ) -> Arc<Self> {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let published = Arc::new(Mutex::new(Published {
            spec,
            origin,
            kind: None,
            target,
            assigned,
            state: TaskState::Unassigned,
            trace: None,
            delivery: None,
            tasks: Vec::new(),
        }));
        let span = tracing::info_span!("connector", connector = lock(&published).spec.name);
        let asked = Arc::new(Notify::new());
        let state = Actor {
            context,
            published: Arc::clone(&published),
            asked: Arc::clone(&asked),
            tasks: Vec::new(),
            started: None,
        };
        let mut actor = JoinSet::new();
        actor.spawn(state.run(inbox).instrument(span));
        Arc::new(Self { commands, published, asked, _actor: actor })
    }

    /// What it is now.
    pub(super) fn view(&self) -> ConnectorView {
        let published = lock(&self.published);
        ConnectorView {
            spec: published.spec.clone(),
            origin: published.origin.clone(),
            kind: published.kind,
            target: published.target,
            assigned: published.assigned,
            state: published.state,
            trace: published.trace.clone(),
            delivery: published.delivery.clone(),
            tasks: published
                .tasks
                .iter()
                .map(|t| TaskView { status: t.read(), gauges: t.gauges.values(), notes: t.gauges.notes() })
                .collect(),
            elsewhere: None,
        }
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

    /// Starts to run here, or stops within the deadline. Returns when that is so.
    pub(super) async fn assign(&self, assigned: bool) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Assign(assigned, done)).await.is_ok() {
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

/// Tasks that are not started yet.
type MadeTasks = Vec<(TaskStatus, Box<dyn Runnable>)>;

struct RunningTask {
    status: TaskStatus,
    stop: CancellationToken,
    /// Exactly one task; a set, because it aborts what it holds when dropped.
    run: JoinSet<()>,
}

struct Actor {
    context: Arc<WorkerContext>,
    published: Arc<Mutex<Published>>,
    asked: Arc<Notify>,
    tasks: Vec<RunningTask>,
    /// What was last started, or tried.
    started: Option<ConnectorSpec>,
}

impl Actor {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.start().await;
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Change => {
                    if self.started.as_ref() == Some(&lock(&self.published).spec) {
                        continue;
                    }
                    tracing::info!("configuration changed, restarting");
                    self.stop_tasks().await;
                    self.start().await;
                }
                Command::Target(target) => {
                    tracing::info!(target = target.as_str(), "target state set");
                    let running = lock(&self.published).state == TaskState::Running;
                    if target != TargetState::Running || !running {
                        self.stop_tasks().await;
                        self.start().await;
                    }
                }
                Command::Restart(which) => self.restart(which).await,
                Command::Assign(assigned, done) => {
                    self.assign(assigned).await;
                    // The caller may have given up waiting.
                    let _gone = done.send(());
                }
                Command::ShutDown(done) => {
                    self.stop_tasks().await;
                    self.context.exclusive.release(&self.name());
                    // The caller may have given up waiting.
                    let _gone = done.send(());
                    return;
                }
            }
        }
    }

    async fn assign(&mut self, assigned: bool) {
        if std::mem::replace(&mut lock(&self.published).assigned, assigned) == assigned {
            return;
        }
        tracing::info!("{}", if assigned { "assigned to this worker" } else { "goes to another worker" });
        self.stop_tasks().await;
        self.start().await;
    }

    fn name(&self) -> String {
        lock(&self.published).spec.name.clone()
    }

    /// Plans the connector and brings it into its target state.
    async fn start(&mut self) {
        if let Err(error) = self.try_start() {
            tracing::error!(error = %Chain(&error), code = error.code, remedy = error.remedy, "connector failed to start");
            let mut trace = format!("{}: {}", error.code, Chain(&error));
            if let Some(remedy) = &error.remedy {
                trace.push_str("\nwhat to do: ");
                trace.push_str(remedy);
            }
            let mut published = lock(&self.published);
            published.state = TaskState::Failed;
            published.trace = Some(trace);
        }
        tokio::task::yield_now().await;
    }

    fn try_start(&mut self) -> Result<(), ConnectorError> {
        let (spec, target, assigned) = {
            let published = lock(&self.published);
            (published.spec.clone(), published.target, published.assigned)
        };
        self.started = Some(spec.clone());
        self.context.exclusive.release(&spec.name);
        if !assigned {
            let mut published = lock(&self.published);
            (published.state, published.trace, published.tasks) = (TaskState::Unassigned, None, Vec::new());
            published.kind = registry::plugin(&spec.connector).map(|plugin| plugin.kind);
            return Ok(());
        }
        let (plugin, plan) = registry::plan(&spec)?;
        self.context.exclusive.claim(&spec.name, &plan.exclusive())?;
        let delivery = plan.delivery();
        let made = match target {
            TargetState::Running | TargetState::Paused => self.make_tasks(&spec, plan)?,
            TargetState::Stopped => Vec::new(),
        };
        {
            let mut published = lock(&self.published);
            published.kind = Some(plugin.kind);
            published.delivery = Some(delivery);
            published.trace = None;
            published.state = match target {
                TargetState::Running => TaskState::Running,
                TargetState::Paused => TaskState::Paused,
                TargetState::Stopped => TaskState::Stopped,
            };
            published.tasks = made.iter().map(|(status, _)| status.clone()).collect();
        }
        let fenced = if self.context.log.group().is_some() { Fenced::TryAgain } else { Fenced::ForGood };
        for (number, (status, runnable)) in made.into_iter().enumerate() {
            if target == TargetState::Paused {
                status.set(TaskState::Paused);
            } else {
                self.tasks.push(spawn_task(&spec, number, (status, fenced), runnable));
            }
        }
        if target == TargetState::Running {
            tracing::info!(kind = plugin.kind.as_str(), tasks = self.tasks.len(), "connector started");
        }
        Ok(())
    }

    fn make_tasks(&self, spec: &ConnectorSpec, plan: Plan) -> Result<MadeTasks, ConfigErrors> {
        let transforms = ChainPlan::of(spec)?;
        let tasks_max = NonZeroUsize::new(spec.tasks_max).unwrap_or(NonZeroUsize::MIN);
        let shared = |task: usize| TaskShared {
            log: Arc::clone(&self.context.log),
            registry: Arc::clone(&self.context.registry),
            subjects: spec.subjects.unwrap_or(self.context.subjects),
            connector: spec.name.clone(),
            task,
            transforms: transforms.clone(),
            policy: spec.errors.clone(),
            status: TaskStatus::default(),
            asked: Arc::clone(&self.asked),
        };
        let metrics = &self.context.metrics;
        Ok(match plan {
            Plan::Source(plan) => (0..)
                .zip(plan.split(tasks_max))
                .map(|(task, plan)| {
                    let shared = shared(task);
                    let status = shared.status.clone();
                    let metrics = metrics.source_task(&spec.name, task, &status.gauges);
                    (status, Box::new(SourceTaskRun { plan, shared, metrics, runs: 0 }) as Box<dyn Runnable>)
                })
                .collect(),
            // Each task has a reader of its share of the partitions, and a connection of its own.
            Plan::Sink(plan) => {
                let plan: Arc<dyn SinkPlan> = plan.into();
                let count = u32::try_from(tasks_max.get()).unwrap_or(u32::MAX);
                (0..count)
                    .zip(0..)
                    .map(|(share, task)| {
                        let shared = shared(task);
                        let status = shared.status.clone();
                        let metrics = metrics.sink_task(&spec.name, task, &status.gauges);
                        let topics = TopicFilter::new(spec.topics.iter().cloned()).share(share, count);
                        let plan = Arc::clone(&plan);
                        let run = SinkTaskRun { plan, topics, shared, metrics, runs: 0 };
                        (status, Box::new(run) as Box<dyn Runnable>)
                    })
                    .collect()
            }
        })
    }

    /// Stops all tasks side by side; whoever has not stopped at the deadline is aborted, and named.
    async fn stop_tasks(&mut self) {
        for task in &self.tasks {
            task.stop.cancel();
        }
        let deadline = self.context.stop_timeout;
        for (number, mut task) in self.tasks.drain(..).enumerate() {
            if timeout(deadline, task.run.join_next()).await.is_err() {
                tracing::warn!(
                    task = number,
                    ?deadline,
                    "task did not stop in time and was aborted; it resumes from what is stored"
                );
                task.run.shutdown().await;
                task.status.set(TaskState::Stopped);
            }
        }
    }

    async fn restart(&mut self, which: Restart) {
        let failed = |state: TaskState| matches!(state, TaskState::Failed);
        let connector_failed = failed(lock(&self.published).state);
        match which {
            Restart::OnlyFailed
                if !connector_failed && !self.tasks.iter().any(|t| failed(t.status.read().state)) => {}
            // Tasks of one connector share a plan and, so far, are one: restarting it restarts them.
            Restart::All | Restart::OnlyFailed | Restart::Task(_) => {
                tracing::info!("restart requested");
                for task in &self.tasks {
                    task.status.set(TaskState::Restarting);
                }
                self.stop_tasks().await;
                self.start().await;
            }
        }
    }
}

fn spawn_task(
    spec: &ConnectorSpec,
    number: usize,
    (status, fenced): (TaskStatus, Fenced),
    runnable: Box<dyn Runnable>,
) -> RunningTask {
    let stop = CancellationToken::new();
    let span = tracing::info_span!("task", connector = spec.name, task = number);
    let mut run = JoinSet::new();
    let policy = (Backoff::new(spec.restart.clone()), fenced);
    let supervised = supervise(runnable, status.clone(), policy, stop.clone());
    run.spawn(supervised.instrument(span));
    RunningTask { status, stop, run }
}

fn lock(published: &Mutex<Published>) -> std::sync::MutexGuard<'_, Published> {
    // Nothing in a critical section here can leave the view half written.
    published.lock().unwrap_or_else(PoisonError::into_inner)
}
