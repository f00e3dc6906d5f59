//! Many workers, one log: each runs the connectors of the shards that the log's group gave it.
//!
//! What it guarantees, and why that holds:
//! - **Everything is shared through the log's state**: connectors made by REST, target states, requests and statuses. So any
//!   worker answers for any connector, and a request is never refused because it reached the wrong one.
//! - **A connector's shard is a hash of its name**, so a worker that joins takes over some shards whole, and what is in the
//!   others is not disturbed.
//! - **A shard is given up only when nothing runs for it any more**, within the deadline of a stop, so that the next owner finds
//!   everything committed. Where there was no time for that (a kill, a pause past the session) the fences of log and target
//!   keep the old one's work out.
//! - **Statuses tell who runs what.** A worker publishes those of its own connectors, at once when a state changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ConnectorView, Forget, Origin, Worker, WorkerError, store};
use crate::{
    pipeline::partition::partition_of,
    task::requests,
    topic_log::{Assignment, Membership},
};

/// How often this worker's connectors are looked at for changed states.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a status is published of which only the numbers changed.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);

/// What this worker knows of the group.
#[derive(Debug, Default)]
pub struct Cluster(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Zero until the group was joined.
    shards: u32,
    owned: BTreeSet<u32>,
    /// Statuses that other workers published, by connector.
    statuses: BTreeMap<String, Value>,
}

impl Cluster {
    /// Whether this worker runs the connector.
    pub(super) fn owns(&self, connector: &str) -> bool {
        let known = self.lock();
        known.shards > 0 && known.owned.contains(&shard_of(connector, known.shards))
    }
    /// The status that was last published of a connector.
    pub(super) fn status(&self, connector: &str) -> Option<Value> {
        self.lock().statuses.get(connector).cloned()
    }
    /// Shards owned and shards in all.
    #[must_use]
    pub fn shards(&self) -> (usize, u32) {
        let known = self.lock();
        (known.owned.len(), known.shards)
    }
    fn update(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.lock());
    }
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shard_of(connector: &str, shards: u32) -> u32 {
    partition_of(Some(connector.as_bytes()), shards)
}

/// How a status is told; given by whoever speaks REST, so that it is told alike wherever it is asked for.
pub type Render = fn(&Worker, &ConnectorView) -> Value;

/// Follows the group and the shared state until `stop`, then answers the membership, still held: whoever stops the worker
/// leaves the group when its connectors have stopped.
pub async fn follow(
    worker: Arc<Worker>,
    membership: Box<dyn Membership>,
    render: Render,
    stop: CancellationToken,
) -> Box<dyn Membership> {
    let changes = worker.context.log.state().changes();
    let restarts = store::restarts(worker.context.log.state()).await.unwrap_or_default();
    let (seen, published) =
        (restarts.into_iter().map(|(name, (id, _))| (name, id)).collect(), BTreeMap::new());
    worker.cluster.update(|known| known.shards = membership.shards());
    Follower { worker, membership, render, seen, published }.run(changes, stop).await
}

struct Follower {
    worker: Arc<Worker>,
    membership: Box<dyn Membership>,
    render: Render,
    /// The last restart request of each connector that was looked at.
    seen: BTreeMap<String, String>,
    /// What was published of this worker's connectors: states, everything, and when.
    published: BTreeMap<String, (Value, Value, Instant)>,
}

impl Follower {
    async fn run(
        mut self,
        mut changes: Option<watch::Receiver<u64>>,
        stop: CancellationToken,
    ) -> Box<dyn Membership> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let changed = async {
                match &mut changes {
                    // The sender lives as long as the log.
                    Some(changes) => changes.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return self.membership,
                assignment = self.membership.next() => self.assignment(assignment).await,
                _ = changed => self.reconcile().await,
                _ = look.tick() => self.publish().await,
            }
        }
    }

    async fn assignment(&mut self, assignment: Assignment) {
        match assignment {
            Assignment::Gained(shards) => {
                tracing::info!(?shards, "shards gained");
                self.worker.cluster.update(|known| known.owned.extend(shards));
                // What was stored while they belonged to somebody else, or nobody.
                self.reconcile().await;
                self.worker.assign_all().await;
            }
            Assignment::Revoked { shards, done } => {
                tracing::info!(?shards, "shards go to other workers");
                self.worker.cluster.update(|known| known.owned.retain(|shard| !shards.contains(shard)));
                self.worker.assign_all().await;
                // The group may have stopped waiting.
                let _gone = done.send(());
            }
        }
        self.publish().await;
    }

    /// Makes this worker's connectors what the shared state says.
    async fn reconcile(&mut self) {
        if let Err(error) = self.try_reconcile().await {
            tracing::warn!(%error, "the shared state could not be read; it is read again when it changes");
        }
    }

    async fn try_reconcile(&mut self) -> Result<(), WorkerError> {
        let state = self.worker.context.log.state();
        let stored = store::connectors(state).await?;
        let targets = store::targets(state).await?;
        let names: BTreeSet<String> = stored.iter().map(|spec| spec.name.clone()).collect();
        let before: BTreeMap<String, ConnectorView> =
            self.worker.views().await.into_iter().map(|view| (view.spec.name.clone(), view)).collect();
        for spec in stored {
            let name = spec.name.clone();
            if before.get(&name).is_some_and(|view| view.spec == spec) {
                continue;
            }
            if let Err(error) = self.worker.apply(spec, Origin::Rest).await {
                tracing::error!(connector = name, %error, "a stored connector is not in force here");
            }
        }
        for view in self.worker.views().await {
            let name = &view.spec.name;
            if view.origin == Origin::Rest && !names.contains(name) {
                match self.worker.delete(name, Forget::Nothing).await {
                    // Whoever was asked to delete it was faster.
                    Ok(()) | Err(WorkerError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            } else if let Some(target) = targets.get(name).filter(|target| **target != view.target) {
                self.worker.find(name).await?.set_target(*target);
            }
        }
        for (name, (id, which)) in store::restarts(state).await? {
            let new = self.seen.insert(name.clone(), id.clone()).is_none_or(|seen| seen != id);
            if new && self.worker.cluster.owns(&name) {
                // Deleted since: nothing to restart.
                self.worker.restart_here(&name, which).await.unwrap_or_else(
                    |error| tracing::debug!(connector = name, %error, "restart request dropped"),
                );
            }
        }
        for name in requests::connectors(state).await? {
            if self.worker.cluster.owns(&name)
                && let Ok(connector) = self.worker.find(&name).await
            {
                connector.ask();
            }
        }
        let statuses = store::statuses(state).await?;
        self.worker.cluster.update(|known| known.statuses = statuses);
        Ok(())
    }

    /// Publishes what changed of the connectors that run here, and withdraws those that are gone.
    async fn publish(&mut self) {
        let state = self.worker.context.log.state();
        let views = self.worker.views().await;
        let mut here = BTreeSet::new();
        for view in views.iter().filter(|view| view.assigned) {
            here.insert(view.spec.name.clone());
            let body = (self.render)(&self.worker, view);
            let states = states(&body);
            let due = self.published.get(&view.spec.name).is_none_or(|(published, whole, at)| {
                *published != states || (*whole != body && at.elapsed() > PUBLISH_EVERY)
            });
            if due {
                match store::put_status(state, &view.spec.name, &body).await {
                    Ok(()) => {
                        self.published.insert(view.spec.name.clone(), (states, body, Instant::now()));
                    }
                    Err(error) => {
                        tracing::debug!(connector = view.spec.name, %error, "status not published yet");
                        return;
                    }
                }
            }
        }
        self.published.retain(|name, _| here.contains(name));
        let known: BTreeSet<&String> = views.iter().map(|view| &view.spec.name).collect();
        let told: Vec<String> = self.worker.cluster.lock().statuses.keys().cloned().collect();
        let orphans = told.into_iter().filter(|name| !known.contains(name) && self.worker.cluster.owns(name));
        for name in orphans {
            if let Err(error) = store::delete_status(state, &name).await {
                tracing::debug!(connector = name, %error, "status not withdrawn yet");
            }
        }
    }
}

/// What people wait for: everything but the numbers.
fn states(body: &Value) -> Value {
    let tasks = body["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tasks: Vec<Value> = tasks.iter().map(|task| json!([task["state"], task["trace"]])).collect();
    json!([body["connector"], body["target_state"], body["origin"], tasks])
}
