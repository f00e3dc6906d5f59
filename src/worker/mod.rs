//! The worker: owns connectors and their tasks, and answers for them.
//!
//! Each connector is an actor of its own: an operation on one (start, stop, a changed file) never waits for another, and a
//! connector that hangs while it stops is aborted at its deadline, alone. Connectors come from YAML files, which are watched
//! ([`files`]), and from REST, which are stored in the log; a name belongs to one of the two. Whether a connector shall run, pause or
//! stop is stored in the log, so it survives a restart.
//!
//! Where several workers share a log, each knows every connector and runs those of its tasks that are its own ([`cluster`]).

mod actor;
pub mod cluster;
pub mod connector;
pub mod files;
pub mod share;
mod snapshot;
mod store;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rowstream_api::{Chain, ConfigErrors, ConnectorError, SourceOffsets, TopicOffsets};
use tokio::{
    sync::{Mutex as AsyncMutex, RwLock},
    task::JoinSet,
};

use cluster::Cluster;
use connector::Connector;
pub use connector::{ConnectorView, Origin, TargetState, TaskView};
use share::Share;
pub use snapshot::SnapshotView;

use crate::{
    config::ConnectorSpec,
    pipeline::tap::Taps,
    registry::{self, PluginKind},
    schema_registry::{SchemaRegistry, SubjectStrategy},
    task::{sink_loop::group_of, sink_start},
    telemetry::metrics::Metrics,
    topic_log::{LogError, TopicLog},
};

/// What an operation could not do.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No such connector or task.
    #[error("{0}")]
    NotFound(String),
    /// It would contradict something that stands.
    #[error("{0}")]
    Conflict(String),
    /// The request itself is wrong.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration is wrong.
    #[error("{0}")]
    Invalid(ConfigErrors),
    /// The log could not store or read.
    #[error("{}", Chain(.0))]
    Log(#[from] LogError),
}

/// What all connectors share.
pub struct WorkerContext {
    /// The log.
    pub log: Arc<dyn TopicLog>,
    /// The registry.
    pub registry: Arc<dyn SchemaRegistry>,
    /// How connectors name subjects that do not say it themselves.
    pub subjects: SubjectStrategy,
    /// The meters.
    pub metrics: Metrics,
    /// Longest graceful stop of a task.
    pub stop_timeout: Duration,
    /// Which connector uses which upstream resource.
    pub exclusive: Exclusive,
    /// Where records are looked at on their way.
    pub taps: Taps,
}

/// Upstream resources in use, each by one connector.
#[derive(Debug, Default)]
pub struct Exclusive(Mutex<HashMap<String, String>>);

impl Exclusive {
    /// Claims all of `resources` for `connector`, or none.
    ///
    /// # Errors
    /// Names the resource and who has it.
    pub fn claim(&self, connector: &str, resources: &[String]) -> Result<(), ConnectorError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in resources {
            if let Some(other) = held.get(resource).filter(|o| *o != connector) {
                return Err(ConnectorError::config(
                    "RESOURCE_IN_USE",
                    format!("{resource} is already used by connector `{other}`"),
                )
                .remedy(format!("give `{connector}` its own, or delete `{other}`; two readers would steal each other's changes")));
            }
        }
        held.extend(resources.iter().map(|r| (r.clone(), connector.to_owned())));
        Ok(())
    }

    /// Gives back whatever `connector` has.
    pub fn release(&self, connector: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, holder| holder != connector);
    }
}

/// The worker. Cheap to share.
pub struct Worker {
    context: Arc<WorkerContext>,
    connectors: RwLock<BTreeMap<String, Arc<Connector>>>,
    /// `host:port` of the admin server, Connect's worker id.
    id: String,
    /// What runs here, where several workers share the log.
    cluster: Cluster,
    /// Held from reading a stored target state until it is in force here, so that an older one never overtakes a newer one.
    targets: AsyncMutex<()>,
    /// Held while the stored connectors and those here are made equal: a follower that has read what is stored neither undoes nor
    /// repeats what REST does meanwhile. Taken before `targets`.
    configs: AsyncMutex<()>,
}

/// Whether a `put` made a connector or changed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Created,
    /// It was there.
    Updated,
}

impl Worker {
    /// A worker without connectors yet.
    #[must_use]
    pub fn new(context: WorkerContext, id: String) -> Arc<Self> {
        let (context, cluster) = (Arc::new(context), Cluster::default());
        let (connectors, targets, configs) =
            (RwLock::default(), AsyncMutex::default(), AsyncMutex::default());
        Arc::new(Self { context, connectors, id, cluster, targets, configs })
    }

    /// Whether several workers share the log.
    fn clustered(&self) -> bool {
        self.context.log.group().is_some()
    }

    /// Which tasks run here.
    fn share(&self) -> Share {
        if self.clustered() { self.cluster.share() } else { Share::All }
    }

    /// What runs here of the group's work, where several workers share the log.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.clustered().then_some(&self.cluster)
    }

    /// Connect's worker id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The log, for readers of topics and health.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn TopicLog> {
        &self.context.log
    }

    /// The schema registry.
    #[must_use]
    pub fn registry(&self) -> &Arc<dyn SchemaRegistry> {
        &self.context.registry
    }

    /// How subjects are named, where a connector does not say.
    #[must_use]
    pub fn subjects(&self) -> SubjectStrategy {
        self.context.subjects
    }

    /// Where records are looked at on their way through the transforms that run here.
    #[must_use]
    pub fn taps(&self) -> &Taps {
        &self.context.taps
    }

    /// The meters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.context.metrics
    }

    /// Starts the connectors that REST has stored. Files are [`files::watch`]'s.
    ///
    /// # Errors
    /// The stored connectors could not be read.
    pub async fn start_stored(&self) -> Result<(), WorkerError> {
        for spec in store::connectors(self.context.log.state()).await? {
            self.apply(spec, Origin::Rest).await?;
        }
        Ok(())
    }

    /// Names, in order.
    pub async fn names(&self) -> Vec<String> {
        self.connectors.read().await.keys().cloned().collect()
    }

    /// All connectors, in order.
    pub async fn views(&self) -> Vec<ConnectorView> {
        self.connectors.read().await.values().map(|c| self.whole(c.view())).collect()
    }

    /// A view with what other workers told, where they share it.
    fn whole(&self, view: ConnectorView) -> ConnectorView {
        if self.clustered() { self.cluster.complete(view, &self.id) } else { view }
    }

    /// One connector.
    ///
    /// # Errors
    /// [`WorkerError::NotFound`].
    pub async fn view(&self, name: &str) -> Result<ConnectorView, WorkerError> {
        Ok(self.whole(self.find(name).await?.view()))
    }

    /// Creates or changes a connector by REST; durable when it returns. Its tasks start in the background.
    ///
    /// # Errors
    /// Invalid, or the name belongs to a file.
    pub async fn put(&self, spec: ConnectorSpec, initial: Option<TargetState>) -> Result<Put, WorkerError> {
        registry::plan(&spec).map_err(WorkerError::Invalid)?;
        let _turn = self.configs.lock().await;
        let existing = self.find(&spec.name).await.ok();
        if let Some(existing) = &existing
            && let Origin::File(file) = existing.view().origin
        {
            return Err(WorkerError::Conflict(format!(
                "connector `{}` is defined by {}; change that file, it is picked up at once",
                spec.name,
                file.display()
            )));
        }
        // In a group it is said even if it is the usual one: a worker may have missed that a stopped one of this name was deleted.
        let new = self.clustered() && existing.is_none();
        if let Some(target) = initial.or_else(|| new.then_some(TargetState::Running)) {
            store::put_target(self.context.log.state(), &spec.name, target).await?;
        }
        store::put_connector(self.context.log.state(), &spec).await?;
        self.apply(spec, Origin::Rest).await
    }

    /// Makes the running state match `spec`. Returns when the change is under way, not when tasks run.
    ///
    /// # Errors
    /// The target state could not be read, or another file or REST has the name.
    pub async fn apply(&self, spec: ConnectorSpec, origin: Origin) -> Result<Put, WorkerError> {
        let _turn = self.targets.lock().await;
        let target = store::target(self.context.log.state(), &spec.name).await?;
        let mut connectors = self.connectors.write().await;
        if let Some(existing) = connectors.get(&spec.name) {
            let owner = existing.view().origin;
            if owner != origin {
                return Err(WorkerError::Conflict(format!(
                    "connector `{}` is already defined by {owner}",
                    spec.name
                )));
            }
            let existing = Arc::clone(existing);
            drop(connectors);
            existing.change(spec);
            return Ok(Put::Updated);
        }
        let name = spec.name.clone();
        // Under the lock: an assignment that comes in between finds the connector in the map.
        let share = self.share();
        let connector = Connector::spawn(Arc::clone(&self.context), spec, origin, (target, share));
        connectors.insert(name, connector);
        Ok(Put::Created)
    }

    /// Stops a connector and forgets it. By REST its offsets and its group go too, so that a new connector of the same name starts
    /// afresh; a removed file keeps them, because a file is easily removed by accident.
    ///
    /// # Errors
    /// Not found, or the log could not forget it.
    pub async fn delete(&self, name: &str, forget: Forget) -> Result<(), WorkerError> {
        let connector = self.find(name).await?;
        if let (Forget::Offsets, Origin::File(file)) = (forget, connector.view().origin) {
            return Err(WorkerError::Conflict(format!(
                "connector `{name}` is defined by {}; remove that file instead",
                file.display()
            )));
        }
        let mut turn = None;
        if forget == Forget::Offsets {
            if self.clustered() {
                // Wherever its tasks run, they have stopped when its offsets go.
                self.set_target(name, TargetState::Stopped).await?;
                self.at_rest(name).await?;
            }
            // Before it ends here, so that no worker of the group takes it up again.
            if self.clustered() {
                turn = Some(self.configs.lock().await);
            }
            store::delete(self.context.log.state(), name).await?;
            self.forget_requests(name).await?;
        }
        connector.shut_down().await;
        let mut connectors = self.connectors.write().await;
        // One of the same name may have been made since.
        if connectors.get(name).is_some_and(|there| Arc::ptr_eq(there, &connector)) {
            connectors.remove(name);
        }
        drop((connectors, turn));
        if forget == Forget::Offsets {
            // Nobody drops a slot on somebody's behalf; but a slot without a reader fills the primary's disk.
            let resources =
                registry::plan(&connector.view().spec).map(|(_, plan)| plan.exclusive()).unwrap_or_default();
            for resource in resources {
                tracing::warn!(
                    connector = name,
                    resource,
                    "connector deleted; what it used upstream is still there and may hold \
                    data back: drop it if nobody needs it"
                );
            }
            let log = &self.context.log;
            log.replace_source_offsets(name, SourceOffsets::new()).await?;
            log.delete_group(&group_of(name)).await?;
            sink_start::forget(log.state(), name).await?;
        }
        Ok(())
    }

    /// Starts what is this worker's and stops what is not; returns when that is so.
    async fn assign_all(&self) {
        let connectors: Vec<_> = self.connectors.read().await.values().cloned().collect();
        let mut assigned = JoinSet::new();
        let share = self.share();
        for connector in connectors {
            let share = share.clone();
            assigned.spawn(async move { connector.assign(share).await });
        }
        while assigned.join_next().await.is_some() {}
    }

    /// Sets what a connector shall do; durable when it returns.
    ///
    /// # Errors
    /// Not found, or it could not be stored.
    pub async fn set_target(&self, name: &str, target: TargetState) -> Result<(), WorkerError> {
        self.find(name).await?;
        store::put_target(self.context.log.state(), name, target).await?;
        let _turn = self.targets.lock().await;
        // What is stored by now: somebody else may have been asked for something else, by another worker even.
        let target = store::target(self.context.log.state(), name).await?;
        self.find(name).await?.set_target(target);
        Ok(())
    }

    /// Makes every connector do here what is stored that it shall do.
    async fn follow_targets(&self) -> Result<(), WorkerError> {
        let _turn = self.targets.lock().await;
        for (name, target) in store::targets(self.context.log.state()).await? {
            if let Some(connector) = self.connectors.read().await.get(&name)
                && connector.view().target != target
            {
                connector.set_target(target);
            }
        }
        Ok(())
    }

    /// Whether it shall be stopped, or is unknown, and nothing of it runs here.
    async fn rests_here(&self, name: &str) -> bool {
        self.connectors.read().await.get(name).is_none_or(|connector| connector.rests())
    }

    /// Restarts the connector and, as asked, its tasks, wherever they run.
    ///
    /// # Errors
    /// Not found.
    pub async fn restart(&self, name: &str, which: Restart) -> Result<(), WorkerError> {
        let here = match (which, self.share()) {
            (_, Share::All) => true,
            (Restart::Task(task), share) => share.has(name, task),
            (Restart::All | Restart::OnlyFailed, _) => false,
        };
        if here {
            return self.restart_here(name, which).await;
        }
        self.find(name).await?;
        store::ask_restart(self.context.log.state(), name, which).await
    }

    async fn restart_here(&self, name: &str, which: Restart) -> Result<(), WorkerError> {
        self.find(name).await?.restart(which);
        Ok(())
    }

    /// Restarts one task.
    ///
    /// # Errors
    /// No such connector or task.
    pub async fn restart_task(&self, name: &str, task: usize) -> Result<(), WorkerError> {
        if !self.view(name).await?.task_numbers().contains(&task) {
            return Err(WorkerError::NotFound(format!("Unknown task: {name}-{task}")));
        }
        self.restart(name, Restart::Task(task)).await
    }

    /// Where a connector stands.
    ///
    /// # Errors
    /// Not found, or the log could not be read.
    pub async fn offsets(&self, name: &str) -> Result<Offsets, WorkerError> {
        let kind = self.find(name).await?.view().kind;
        Ok(match kind {
            Some(PluginKind::Sink) => Offsets::Sink(self.context.log.group_offsets(&group_of(name)).await?),
            Some(PluginKind::Source) | None => Offsets::Source(self.context.log.source_offsets(name).await?),
        })
    }

    /// Forgets a stopped connector's offsets.
    ///
    /// # Errors
    /// Not found, not stopped, or the log could not store it.
    pub async fn reset_offsets(&self, name: &str) -> Result<(), WorkerError> {
        self.at_rest(name).await?;
        let view = self.find(name).await?.view();
        match view.kind {
            Some(PluginKind::Sink) => self.context.log.delete_group(&group_of(name)).await?,
            Some(PluginKind::Source) | None => {
                self.context.log.replace_source_offsets(name, SourceOffsets::new()).await?;
            }
        }
        Ok(())
    }

    /// Stops every connector side by side, each within its deadline.
    pub async fn shut_down(&self) {
        let connectors: Vec<_> = self.connectors.read().await.values().cloned().collect();
        let mut stops = JoinSet::new();
        for connector in connectors {
            stops.spawn(async move { connector.shut_down().await });
        }
        while stops.join_next().await.is_some() {}
    }

    async fn find(&self, name: &str) -> Result<Arc<Connector>, WorkerError> {
        let connectors = self.connectors.read().await;
        connectors
            .get(name)
            .cloned()
            .ok_or_else(|| WorkerError::NotFound(format!("Connector {name} not found")))
    }
}

/// What `delete` does with offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forget {
    /// Offsets and group go.
    Offsets,
    /// They stay.
    Nothing,
}

/// What to restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The connector with all its tasks.
    All,
    /// Only what is FAILED.
    OnlyFailed,
    /// One task.
    Task(usize),
}

/// Where a connector stands.
#[derive(Debug)]
pub enum Offsets {
    /// Source partitions and offsets.
    Source(SourceOffsets),
    /// Topic partitions and next offsets.
    Sink(TopicOffsets),
}
