//! The actor of one connector: takes commands one after the other and owns those of its tasks that run here.
//!
//! What it guarantees, and why that holds:
//! - **One place starts tasks** ([`Actor::start`]), and it starts those that shall run here and do not: all of them after a change, one
//!   after its restart, the gained ones after an assignment. A task that stays is not touched.
//! - **Whoever shall go has gone** when an assignment or a stop is answered: stopped at a boundary, or aborted at the deadline.
//! - **Nobody is told "at rest" by mistake**: the published state leaves rest in the same critical section that reads what the connector
//!   shall do, and comes back to it after the last task has ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use rowstream_api::{Chain, ConfigErrors, ConnectorError, Delivery, StartReason};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Origin, Restart, TargetState, WorkerContext, connector::lock, share::Share};
use crate::{
    config::ConnectorSpec,
    pipeline::chain::ChainPlan,
    redrive::redrive_topic,
    registry::{self, Plan, Plugin, PluginKind, SinkPlan},
    task::{
        TaskShared,
        backoff::Backoff,
        sink_loop::SinkTaskRun,
        source_loop::SourceTaskRun,
        status::{TaskState, TaskStatus},
        supervise::{Fenced, Runnable, supervise},
    },
    telemetry::metrics::TaskMetrics,
    topic_log::TopicFilter,
};

/// What an actor is told.
pub(super) enum Command {
    /// The published spec was changed.
    Change,
    Target(TargetState),
    Restart(Restart),
    /// These tasks run here from now on, and no others; answered when that is so.
    Assign(Share, oneshot::Sender<()>),
    ShutDown(oneshot::Sender<()>),
}

/// States in which nothing runs.
pub(super) const AT_REST: [TaskState; 3] = [TaskState::Stopped, TaskState::Failed, TaskState::Unassigned];

/// What others see.
pub(super) struct Published {
    pub(super) spec: ConnectorSpec,
    pub(super) origin: Origin,
    pub(super) kind: Option<PluginKind>,
    pub(super) target: TargetState,
    /// Which of its tasks are here.
    pub(super) share: Share,
    /// How many tasks it has on all workers while it is not stopped.
    pub(super) tasks_planned: usize,
    pub(super) state: TaskState,
    pub(super) trace: Option<String>,
    pub(super) delivery: Option<Delivery>,
    /// The tasks that are here.
    pub(super) tasks: BTreeMap<usize, TaskHere>,
}

/// A task that is here, whether it runs or not.
#[derive(Clone)]
pub(super) struct TaskHere {
    pub(super) status: TaskStatus,
    /// Held so that a failed or paused one still shows in the metrics; gone with the task.
    _series: TaskMetrics,
}

impl Published {
    pub(super) fn new(spec: ConnectorSpec, origin: Origin, target: TargetState, share: Share) -> Self {
        Self {
            kind: None,
            target,
            share,
            tasks_planned: task_count(&spec, None),
            spec,
            origin,
            state: TaskState::Unassigned,
            trace: None,
            delivery: None,
            tasks: BTreeMap::new(),
        }
    }
}

/// Tasks that are not started yet.
type MadeTasks = Vec<(usize, TaskHere, Box<dyn Runnable>)>;

struct RunningTask {
    here: TaskHere,
    stop: CancellationToken,
    /// Exactly one task; a set, because it aborts what it holds when dropped.
    run: JoinSet<()>,
}

/// What the connector shall be here.
struct Wanted {
    spec: ConnectorSpec,
    target: TargetState,
    share: Share,
}

pub(super) struct Actor {
    context: Arc<WorkerContext>,
    published: Arc<Mutex<Published>>,
    asked: Arc<Notify>,
    tasks: BTreeMap<usize, RunningTask>,
    /// What was last started, or tried.
    started: Option<ConnectorSpec>,
}

impl Actor {
    pub(super) fn new(
        context: Arc<WorkerContext>,
        published: Arc<Mutex<Published>>,
        asked: Arc<Notify>,
    ) -> Self {
        Self { context, published, asked, tasks: BTreeMap::new(), started: None }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.start().await;
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Change => {
                    if self.started.as_ref() == Some(&lock(&self.published).spec) {
                        continue;
                    }
                    tracing::info!("configuration changed, restarting");
                    self.start().await;
                }
                Command::Target(target) => {
                    tracing::info!(target = target.as_str(), "target state set");
                    let running = lock(&self.published).state == TaskState::Running;
                    if target != TargetState::Running || !running {
                        self.start().await;
                    }
                }
                Command::Restart(which) => self.restart(which).await,
                Command::Assign(share, done) => {
                    self.assign(share).await;
                    // The caller may have given up waiting.
                    let _gone = done.send(());
                }
                Command::ShutDown(done) => {
                    self.stop_all().await;
                    let name = lock(&self.published).spec.name.clone();
                    self.context.exclusive.release(&name);
                    // The caller may have given up waiting.
                    let _gone = done.send(());
                    return;
                }
            }
        }
    }

    async fn assign(&mut self, share: Share) {
        let (before, after) = {
            let mut published = lock(&self.published);
            let before = std::mem::replace(&mut published.share, share);
            let of = |share: &Share| numbers(share, &published.spec.name, published.tasks_planned);
            (of(&before), of(&published.share))
        };
        if before == after {
            return;
        }
        let gained: Vec<_> = after.difference(&before).collect();
        let lost: Vec<_> = before.difference(&after).collect();
        tracing::info!(?gained, ?lost, "tasks are shared anew");
        let gone = self.tasks.keys().copied().filter(|task| !after.contains(task)).collect();
        self.stop(gone).await;
        self.start().await;
    }

    /// Plans the connector and brings it into its target state. What runs goes on if that is wanted as it was started; what shall run
    /// here and does not is started.
    async fn start(&mut self) {
        let wanted = {
            let mut published = lock(&self.published);
            if published.target != TargetState::Stopped && AT_REST.contains(&published.state) {
                published.state = TaskState::Restarting;
            }
            let Published { spec, target, share, .. } = &*published;
            Wanted { spec: spec.clone(), target: *target, share: share.clone() }
        };
        if wanted.target != TargetState::Running || self.started.as_ref() != Some(&wanted.spec) {
            self.stop_all().await;
        }
        self.started = Some(wanted.spec.clone());
        if self.tasks.is_empty() {
            self.context.exclusive.release(&wanted.spec.name);
        }
        let planned = registry::plan(&wanted.spec);
        let count = task_count(&wanted.spec, planned.as_ref().ok().map(|(_, plan)| plan));
        let here = numbers(&wanted.share, &wanted.spec.name, count);
        {
            let mut published = lock(&self.published);
            published.tasks_planned = count;
            published.kind = registry::plugin(&wanted.spec.connector).map(|plugin| plugin.kind);
        }
        if here.is_empty() {
            self.publish(TaskState::Unassigned, BTreeMap::new());
        } else if let Err(error) =
            planned.map_err(Into::into).and_then(|planned| self.start_planned(&wanted, planned, &here))
        {
            self.failed(&wanted, &error, &here);
        }
        tokio::task::yield_now().await;
    }

    fn start_planned(
        &mut self,
        wanted: &Wanted,
        (plugin, plan): (Plugin, Plan),
        here: &BTreeSet<usize>,
    ) -> Result<(), ConnectorError> {
        let Wanted { spec, target, .. } = wanted;
        self.context.exclusive.claim(&spec.name, &plan.exclusive())?;
        let delivery = plan.delivery();
        let missing = here.iter().copied().filter(|task| !self.tasks.contains_key(task)).collect();
        let (state, made) = match target {
            TargetState::Running => (TaskState::Running, self.make_tasks(spec, plan, &missing)?),
            TargetState::Paused => (TaskState::Paused, self.make_tasks(spec, plan, &missing)?),
            TargetState::Stopped => (TaskState::Stopped, Vec::new()),
        };
        let mut tasks: BTreeMap<usize, TaskHere> =
            self.tasks.iter().map(|(number, task)| (*number, task.here.clone())).collect();
        tasks.extend(made.iter().map(|(number, here, _)| (*number, here.clone())));
        lock(&self.published).delivery = Some(delivery);
        self.publish(state, tasks);
        let fenced = if self.context.log.group().is_some() { Fenced::TryAgain } else { Fenced::ForGood };
        let started = made.len();
        for (number, here, runnable) in made {
            if *target == TargetState::Paused {
                here.status.set(TaskState::Paused);
            } else {
                self.tasks.insert(number, spawn_task(spec, number, (here, fenced), runnable));
            }
        }
        if *target == TargetState::Running && started > 0 {
            tracing::info!(kind = plugin.kind.as_str(), tasks = started, "connector started");
        }
        Ok(())
    }

    /// The plan can't be run here. Of one worker alone that is the connector's state; in a group it is told of each task that is
    /// here, for the others may do better.
    fn failed(&self, wanted: &Wanted, error: &ConnectorError, here: &BTreeSet<usize>) {
        tracing::error!(error = %Chain(error), code = error.code, remedy = error.remedy, "connector failed to start");
        let metrics = &self.context.metrics;
        let task = |number: &usize| {
            let failed = || {
                let status = TaskStatus::default();
                status.fail(error);
                let series = metrics.task_series(&wanted.spec.name, *number, &status.gauges);
                TaskHere { status, _series: series }
            };
            (*number, self.tasks.get(number).map_or_else(failed, |task| task.here.clone()))
        };
        let tasks = match wanted.share {
            Share::All => BTreeMap::new(),
            Share::Shards { .. } => here.iter().map(task).collect(),
        };
        if !self.tasks.is_empty() {
            // Gained ones could not be started beside those that run on.
            return self.publish(TaskState::Running, tasks);
        }
        self.publish(TaskState::Failed, tasks);
        let mut trace = format!("{}: {}", error.code, Chain(error));
        if let Some(remedy) = &error.remedy {
            trace.push_str("\nwhat to do: ");
            trace.push_str(remedy);
        }
        lock(&self.published).trace = Some(trace);
    }

    fn publish(&self, state: TaskState, tasks: BTreeMap<usize, TaskHere>) {
        let mut published = lock(&self.published);
        (published.state, published.trace, published.tasks) = (state, None, tasks);
    }

    fn make_tasks(
        &self,
        spec: &ConnectorSpec,
        plan: Plan,
        missing: &BTreeSet<usize>,
    ) -> Result<MadeTasks, ConfigErrors> {
        let transforms = ChainPlan::of(spec)?;
        let shared = |task: usize| TaskShared {
            log: Arc::clone(&self.context.log),
            registry: Arc::clone(&self.context.registry),
            subjects: spec.subjects.unwrap_or(self.context.subjects),
            connector: spec.name.clone(),
            task,
            transforms: transforms.clone(),
            tap: self.context.taps.of(&spec.name),
            policy: spec.errors.clone(),
            status: TaskStatus::default(),
            asked: Arc::clone(&self.asked),
        };
        let metrics = &self.context.metrics;
        Ok(match plan {
            Plan::Source(plan) => (0..)
                .zip(plan.split(tasks_max(spec)))
                .filter(|(task, _)| missing.contains(task))
                .map(|(task, plan)| {
                    let shared = shared(task);
                    let status = shared.status.clone();
                    let metrics = metrics.source_task(&spec.name, task, &status.gauges);
                    let here = TaskHere { status, _series: metrics.task.clone() };
                    let start = StartReason::Connector;
                    let run = SourceTaskRun { plan, shared, metrics, runs: 0, start };
                    (task, here, Box::new(run) as Box<dyn Runnable>)
                })
                .collect(),
            // Each task has a reader of its share of the partitions, and a connection of its own.
            Plan::Sink(plan) => {
                let plan: Arc<dyn SinkPlan> = plan.into();
                let start_at = spec.start_at.unwrap_or_default();
                let count = u32::try_from(tasks_max(spec).get()).unwrap_or(u32::MAX);
                (0..count)
                    .zip(0..)
                    .filter(|(_, task)| missing.contains(task))
                    .map(|(share, task)| {
                        let shared = shared(task);
                        let status = shared.status.clone();
                        let metrics = metrics.sink_task(&spec.name, task, &status.gauges);
                        let topics = TopicFilter::new(topics_of(spec)).share(share, count);
                        let plan = Arc::clone(&plan);
                        let here = TaskHere { status, _series: metrics.task.clone() };
                        let run = SinkTaskRun { plan, topics, start_at, shared, metrics, runs: 0 };
                        (task, here, Box::new(run) as Box<dyn Runnable>)
                    })
                    .collect()
            }
        })
    }

    async fn stop_all(&mut self) {
        let all = self.tasks.keys().copied().collect();
        self.stop(all).await;
    }

    /// Stops these tasks side by side; whoever has not stopped at the deadline is aborted, and named.
    async fn stop(&mut self, gone: BTreeSet<usize>) {
        let mut stopping: Vec<_> =
            gone.into_iter().filter_map(|number| Some((number, self.tasks.remove(&number)?))).collect();
        for (_, task) in &stopping {
            task.stop.cancel();
        }
        let patience = self.context.stop_timeout;
        let deadline = Instant::now() + patience;
        for (number, task) in &mut stopping {
            if timeout_at(deadline, task.run.join_next()).await.is_err() {
                tracing::warn!(
                    task = number,
                    deadline = ?patience,
                    "task did not stop in time and was aborted; it resumes from what is stored"
                );
                task.run.shutdown().await;
                task.here.status.set(TaskState::Stopped);
            }
        }
    }

    async fn restart(&mut self, which: Restart) {
        let failed = |task: &RunningTask| task.here.status.read().state == TaskState::Failed;
        let connector_failed = lock(&self.published).state == TaskState::Failed;
        let again: BTreeSet<usize> = match which {
            Restart::All => self.tasks.keys().copied().collect(),
            Restart::OnlyFailed => self.tasks.iter().filter(|(_, t)| failed(t)).map(|(n, _)| *n).collect(),
            Restart::Task(task) => self.tasks.keys().copied().filter(|number| *number == task).collect(),
        };
        if again.is_empty() && !connector_failed {
            return; // None of them is here, or runs.
        }
        tracing::info!(tasks = ?again, "restart requested");
        for task in again.iter().filter_map(|number| self.tasks.get(number)) {
            task.here.status.set(TaskState::Restarting);
        }
        self.stop(again).await;
        self.start().await;
    }
}

fn spawn_task(
    spec: &ConnectorSpec,
    number: usize,
    (here, fenced): (TaskHere, Fenced),
    runnable: Box<dyn Runnable>,
) -> RunningTask {
    let stop = CancellationToken::new();
    let span = tracing::info_span!("task", connector = spec.name, task = number);
    let mut run = JoinSet::new();
    let policy = (Backoff::new(spec.restart.clone()), fenced);
    let supervised = supervise(runnable, here.status.clone(), policy, stop.clone());
    run.spawn(supervised.instrument(span));
    RunningTask { here, stop, run }
}

/// What a sink reads: its topics, and its own dead letters that come back.
fn topics_of(spec: &ConnectorSpec) -> Vec<String> {
    let redriven = spec.errors.dead_letter_topic.as_ref().map(|_| redrive_topic(&spec.name));
    spec.topics.iter().cloned().chain(redriven).collect()
}

fn tasks_max(spec: &ConnectorSpec) -> NonZeroUsize {
    NonZeroUsize::new(spec.tasks_max).unwrap_or(NonZeroUsize::MIN)
}

/// How many tasks a connector has. Without a plan it is a guess for sources, of which each has one so far.
fn task_count(spec: &ConnectorSpec, plan: Option<&Plan>) -> usize {
    match plan {
        Some(Plan::Source(plan)) => plan.split(tasks_max(spec)).len(),
        Some(Plan::Sink(_)) => tasks_max(spec).get(),
        None => match registry::plugin(&spec.connector).map(|plugin| plugin.kind) {
            Some(PluginKind::Sink) => tasks_max(spec).get(),
            Some(PluginKind::Source) | None => 1,
        },
    }
}

fn numbers(share: &Share, connector: &str, count: usize) -> BTreeSet<usize> {
    (0..count).filter(|task| share.has(connector, *task)).collect()
}
