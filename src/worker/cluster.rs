//! Many workers, one log: each runs the tasks of the shards that the log's group gave it. [`follow`] is how it keeps up.
//!
//! What it guarantees, and why that holds:
//! - **Everything is shared through the log's state**: connectors made by REST, target states, requests and statuses. So any
//!   worker answers for any connector, and a request is never refused because it reached the wrong one.
//! - **The unit is the task** ([`Share`]): a worker that joins takes over some shards whole, and what is in the others is not
//!   disturbed, not even tasks of the same connector.
//! - **A shard is given up only when nothing runs for it any more**, within the deadline of a stop, so that the next owner finds
//!   everything committed. Where there was no time for that (a kill, a pause past the session) the fences of log and target, one for
//!   each task, keep the old one's work out. Workers that for a moment disagree about *how many* tasks a sink has read some
//!   partitions twice and some not at all; the target's offsets, which move by compare-and-set whoever moves them, let one through.
//! - **Each status has one writer**: the owner of the task's shard, at once when a state changes; the owner of task 0, the
//!   connector's home, tells the connector's own state. An owner that finds something else told of what it runs (a worker that woke
//!   up told what it had meant to say before) tells it again, and withdraws what is told of tasks that are its own and that it
//!   does not run. So a lie lasts as long as its teller believes itself the owner, and no longer.
//! - **"At rest" is asked, not inferred** ([`Worker::at_rest`]): no status proves that no task runs, for one may just be
//!   starting. So whoever needs it writes a question *after* the connector was told to stop; each worker answers, for the shards that it
//!   owns, once it has read both and nothing of the connector runs there; when all shards are answered for, no task runs, and none
//!   will be started, because a shard's next owner reads the state before it starts anything.

mod follower;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;

pub use follower::{Render, follow};

use super::{
    ConnectorView, TargetState, Worker, WorkerError,
    share::Share,
    store::{self, Told},
};
use crate::topic_log::StateStore;

/// How long a worker may need to say that a connector rests, beyond the deadline of a stop: its shards may just have lost their owner.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// Stops are not announced where there is one worker, so the state is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What this worker knows of the group.
#[derive(Debug, Default)]
pub struct Cluster(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Zero until the group was joined.
    shards: u32,
    owned: Arc<BTreeSet<u32>>,
    /// Statuses as they were published, whoever did.
    statuses: BTreeMap<Told, Value>,
}

impl Cluster {
    /// What this worker runs.
    pub(super) fn share(&self) -> Share {
        let known = self.lock();
        Share::Shards { count: known.shards, owned: Arc::clone(&known.owned) }
    }
    /// Shards owned and shards in all.
    #[must_use]
    pub fn shards(&self) -> (usize, u32) {
        let known = self.lock();
        (known.owned.len(), known.shards)
    }
    /// The view with what workers other than `me` told of the connector: of what runs here, the view knows better.
    pub(super) fn complete(&self, view: ConnectorView, me: &str) -> ConnectorView {
        let known = self.lock();
        let name = &view.spec.name;
        let head = known.statuses.get(&Told::Connector(name.clone())).cloned();
        let of_this = Told::Task(name.clone(), 0)..=Told::Task(name.clone(), usize::MAX);
        let tasks = known.statuses.range(of_this).filter_map(|(told, body)| match told {
            Told::Task(_, number) if body["worker_id"] != me => Some((*number, body.clone())),
            Told::Task(..) | Told::Connector(_) => None,
        });
        let tasks = tasks.collect();
        view.told(head, tasks)
    }
    fn owned(&self) -> Arc<BTreeSet<u32>> {
        Arc::clone(&self.lock().owned)
    }
    fn own(&self, change: impl FnOnce(&mut BTreeSet<u32>)) {
        change(Arc::make_mut(&mut self.lock().owned));
    }
    fn update(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.lock());
    }
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Returns when no task of a connector that shall be stopped runs on any worker, or ever will before it is resumed.
    ///
    /// # Errors
    /// Not found; it shall not be stopped; or it has not stopped in time.
    pub async fn at_rest(&self, name: &str) -> Result<(), WorkerError> {
        let connector = self.find(name).await?;
        let state = self.log().state();
        if store::target(state, name).await? != TargetState::Stopped {
            return Err(WorkerError::BadRequest(format!(
                "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the specified \
                 connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
            )));
        }
        let rests = async {
            match self.cluster() {
                Some(cluster) => return all_rest(state, name, cluster.shards().1).await,
                None => {
                    while !connector.rests() {
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                }
            }
            Ok(())
        };
        let patience = self.context.stop_timeout + ANSWERED_WITHIN;
        tokio::time::timeout(patience, rests).await.unwrap_or_else(|_| {
            let place = if self.cluster().is_some() { " on all workers" } else { "" };
            Err(WorkerError::Conflict(format!("Connector {name} has not stopped yet{place}; try again")))
        })
    }
}

/// Asks all workers, and waits until all shards are answered for.
async fn all_rest(state: &dyn StateStore, name: &str, shards: u32) -> Result<(), WorkerError> {
    if shards == 0 {
        return Err(WorkerError::Conflict("this worker has not joined its group yet; try again".to_owned()));
    }
    // What an earlier asker left, who did not come to its end.
    store::forget_rest(state, name).await?;
    let mut changes = state.changes();
    let id = store::ask_rest(state, name).await?;
    loop {
        let resting = store::resting(state, name, &id).await?;
        if (0..shards).all(|shard| resting.contains(&shard)) {
            break;
        }
        match &mut changes {
            // An error means that the log is closed, which the next read says.
            Some(changes) => drop(changes.changed().await),
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    store::forget_rest(state, name).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config::ConnectorSpec,
        task::status::{TaskState, TaskStatus},
        worker::{Origin, TaskView, connector::Elsewhere},
    };

    const ME: &str = "me:1";

    fn cluster() -> Cluster {
        let cluster = Cluster::default();
        let body =
            |number: usize, worker: &str| json!({ "id": number, "state": "RUNNING", "worker_id": worker });
        let task = |name: &str, number: usize, worker: &str| {
            (Told::Task(name.to_owned(), number), body(number, worker))
        };
        let head = json!({ "connector": { "state": "RUNNING", "worker_id": "other:1" } });
        let statuses = [
            (Told::Connector("shop".to_owned()), head),
            task("shop", 1, ME),
            task("shop", 2, "other:1"),
            task("shop", 9, "other:1"),
            task("shop2", 0, "other:1"),
        ];
        cluster.update(|known| known.statuses = statuses.into_iter().collect());
        cluster
    }

    fn view(target: TargetState) -> ConnectorView {
        let document = json!({ "name": "shop", "connector": "webhook" });
        let spec = ConnectorSpec::from_document(document.as_object().unwrap().clone()).unwrap();
        let status = TaskStatus::default().read();
        let here = TaskView { number: 3, status, gauges: Vec::new(), notes: Vec::new() };
        ConnectorView {
            spec,
            origin: Origin::Rest,
            kind: None,
            target,
            home: false,
            state: TaskState::Paused,
            trace: None,
            delivery: None,
            tasks: vec![here],
            elsewhere: Some(Elsewhere { tasks_planned: 4, ..Elsewhere::default() }),
        }
    }

    /// Another worker's words count for what it runs, and never for what this one runs, or has been said to run.
    #[test]
    fn a_view_is_made_whole_by_what_others_told() {
        let whole = cluster().complete(view(TargetState::Running), ME);
        assert_eq!(whole.state, TaskState::Running);
        assert_eq!(whole.task_numbers(), BTreeSet::from([0, 1, 2, 3, 9]));
        let told: Vec<usize> = whole.elsewhere.unwrap().tasks.into_keys().collect();
        assert_eq!(told, [2, 9]);
        let home = cluster().complete(ConnectorView { home: true, ..view(TargetState::Running) }, ME);
        assert_eq!(home.state, TaskState::Paused);
    }

    /// Of a stopped connector those tasks are listed that have not yet been said to have stopped.
    #[test]
    fn a_stopped_connector_has_only_what_still_runs() {
        let whole = cluster().complete(view(TargetState::Stopped), ME);
        assert_eq!(whole.task_numbers(), BTreeSet::from([2, 3, 9]));
    }
}
