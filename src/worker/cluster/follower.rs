//! Follows the group and the shared state: what this worker shall run, what was asked of it, and what it tells of it.
//!
//! One loop does it all, so nothing is told of a shard after its end was answered. What is read of the state is read in an order:
//! questions before target states, so that a question that is known here is one whose stop is in force here; and all of it before
//! gained shards start anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::{
    ConnectorView, Forget, Origin, Worker, WorkerError,
    store::{self, Told},
};
use crate::{
    config::ConnectorSpec,
    task::requests,
    topic_log::{Assignment, Membership},
};

/// How often this worker's connectors are looked at for changed states.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a status is published of which only the numbers changed.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);
/// When what is stored of this worker's tasks is somebody else's, and not just what it published itself before.
const CONTRADICTED_AFTER: Duration = Duration::from_secs(1);
/// Who has not looked for this long stood still. The group may have given its shards away, which it learns before it looks again.
const STOOD_STILL: Duration = Duration::from_secs(2);

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
    let changes = worker.log().state().changes();
    let restarts = store::restarts(worker.log().state()).await.unwrap_or_default();
    worker.cluster.update(|known| known.shards = membership.shards());
    Follower {
        worker,
        membership,
        render,
        process: uuid::Uuid::new_v4().to_string(),
        unread: false,
        gained: BTreeSet::new(),
        seen: restarts.into_iter().map(|(told, (id, _))| (told, id)).collect(),
        published: BTreeMap::new(),
        questions: BTreeMap::new(),
        answered: BTreeMap::new(),
        looked: Instant::now(),
    }
    .run(changes, stop)
    .await
}

struct Follower {
    worker: Arc<Worker>,
    membership: Box<dyn Membership>,
    render: Render,
    /// Tells this process from every other.
    process: String,
    /// The state could not be read when it should have been.
    unread: bool,
    /// Shards that are this worker's, once the state was read as it is now.
    gained: BTreeSet<u32>,
    /// The last restart request of each connector and task that was looked at.
    seen: BTreeMap<Told, String>,
    /// What was published of what is here: states, everything, and when.
    published: BTreeMap<Told, (Value, Value, Instant)>,
    /// Who asks whether a connector rests.
    questions: BTreeMap<String, String>,
    /// What was answered: the question, and for which shards.
    answered: BTreeMap<String, (String, Arc<BTreeSet<u32>>)>,
    /// When it last looked.
    looked: Instant,
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
            // Biased: nothing is told or answered for shards of which the group has said that they go.
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.membership,
                assignment = self.membership.next() => self.assignment(assignment).await,
                _ = look.tick() => self.look().await,
                _ = changed => {
                    self.reconcile().await;
                    self.answer().await;
                }
            }
        }
    }

    async fn look(&mut self) {
        if self.unread || !self.gained.is_empty() {
            self.reconcile().await;
        }
        self.publish().await;
        self.answer().await;
        self.looked = Instant::now();
    }

    async fn assignment(&mut self, assignment: Assignment) {
        match assignment {
            Assignment::Gained(shards) => {
                tracing::info!(?shards, "shards gained");
                // First comes what was stored while they belonged to somebody else, or nobody.
                self.gained.extend(shards);
                self.reconcile().await;
            }
            Assignment::Revoked { shards, done } => {
                tracing::info!(?shards, "shards go to other workers");
                self.gained.retain(|shard| !shards.contains(shard));
                self.worker.cluster.own(|owned| owned.retain(|shard| !shards.contains(shard)));
                self.worker.assign_all().await;
                // The group may have stopped waiting.
                let _gone = done.send(());
            }
        }
        self.publish().await;
    }

    /// Makes this worker's connectors what the shared state says, and starts what is its own and waited for that.
    async fn reconcile(&mut self) {
        match self.try_reconcile().await {
            Ok(()) => {
                self.unread = false;
                if !self.gained.is_empty() {
                    let gained = std::mem::take(&mut self.gained);
                    self.worker.cluster.own(|owned| owned.extend(gained));
                    self.worker.assign_all().await;
                }
            }
            Err(error) if self.unread => tracing::debug!(%error, "the shared state can't be read yet"),
            Err(error) => {
                tracing::warn!(%error, "the shared state could not be read; it is read again until it can be");
                self.unread = true;
            }
        }
    }

    async fn try_reconcile(&mut self) -> Result<(), WorkerError> {
        let worker = Arc::clone(&self.worker);
        let state = worker.log().state();
        let questions = store::rest_questions(state).await?;
        let turn = worker.configs.lock().await;
        match store::connectors(state).await {
            Ok(stored) => follow_connectors(&worker, stored).await?,
            Err(error @ WorkerError::Log(_)) => return Err(error),
            // A document that nobody can read; the others stand.
            Err(error) => tracing::error!(%error, "stored connectors are not in force here"),
        }
        drop(turn);
        worker.follow_targets().await?;
        self.questions = questions;
        for (told, (id, which)) in store::restarts(state).await? {
            let new = self.seen.insert(told.clone(), id.clone()).is_none_or(|seen| seen != id);
            if new && let Err(error) = worker.restart_here(told.connector(), which).await {
                // Deleted since: nothing to restart.
                tracing::debug!(connector = told.connector(), %error, "restart request dropped");
            }
        }
        for name in requests::connectors(state).await? {
            if let Ok(connector) = worker.find(&name).await {
                // A task that does not run here has nobody who looks.
                connector.ask();
            }
        }
        let statuses = store::statuses(state).await?;
        worker.cluster.update(|known| known.statuses = statuses);
        Ok(())
    }

    /// Publishes what changed of what runs here, and withdraws what is told of this worker's shards and is not so.
    async fn publish(&mut self) {
        let views = self.worker.views().await;
        let mut here = BTreeMap::new();
        for view in views.iter().filter(|view| view.home || !view.tasks.is_empty()) {
            let mut body = (self.render)(&self.worker, view);
            let tasks = body.as_object_mut().and_then(|members| members.remove("tasks"));
            let name = &view.spec.name;
            let running: BTreeSet<u64> = view.tasks.iter().map(|task| task.number as u64).collect();
            for task in tasks.iter().flat_map(|tasks| tasks.as_array()).flatten() {
                if let Some(number) = task["id"].as_u64().filter(|number| running.contains(number)) {
                    let number = usize::try_from(number).unwrap_or(usize::MAX);
                    here.insert(Told::Task(name.clone(), number), task.clone());
                }
            }
            if view.home {
                here.insert(Told::Connector(name.clone()), body);
            }
        }
        let (mut puts, mut withdrawn) = (Vec::new(), Vec::new());
        {
            let share = self.worker.cluster.share();
            let known = self.worker.cluster.lock();
            for (told, body) in &here {
                if self.is_due(told, body, known.statuses.get(told)) {
                    puts.push((told.clone(), body.clone()));
                }
            }
            let own = known.statuses.keys().filter(|told| !here.contains_key(told));
            withdrawn.extend(own.filter(|told| share.has(told.connector(), told.task())).cloned());
        }
        self.published.retain(|told, _| here.contains_key(told));
        self.tell(puts, withdrawn).await;
    }

    fn is_due(&self, told: &Told, body: &Value, stored: Option<&Value>) -> bool {
        let Some((published, whole, at)) = self.published.get(told) else { return true };
        let contradicted = stored.is_none_or(|stored| states(stored) != *published);
        *published != states(body)
            || (*whole != *body && at.elapsed() > PUBLISH_EVERY)
            || (contradicted && at.elapsed() > CONTRADICTED_AFTER)
    }

    /// Side by side: each is a record of its own, durable by itself.
    async fn tell(&mut self, puts: Vec<(Told, Value)>, withdrawn: Vec<Told>) {
        let worker = Arc::clone(&self.worker);
        let state = worker.log().state();
        let written = futures::future::join_all(puts.into_iter().map(|(told, body)| async move {
            let result = store::put_status(state, &told, &body).await;
            (told, body, result)
        }));
        let deleted =
            futures::future::join_all(withdrawn.iter().map(|told| store::delete_status(state, told)));
        let (written, deleted) = futures::join!(written, deleted);
        for (told, body, result) in written {
            match result {
                Ok(()) => {
                    self.published.insert(told, (states(&body), body, Instant::now()));
                }
                Err(error) => tracing::debug!(?told, %error, "status not published yet"),
            }
        }
        for error in deleted.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "status not withdrawn yet");
        }
    }

    /// Answers whoever asks whether a connector rests, when nothing of it runs here.
    async fn answer(&mut self) {
        if self.looked.elapsed() > STOOD_STILL {
            return;
        }
        self.answered.retain(|name, (id, _)| self.questions.get(name) == Some(id));
        let owned = self.worker.cluster.owned();
        for (name, id) in &self.questions {
            let said = self.answered.get(name).is_some_and(|(_, shards)| *shards == owned);
            if said || owned.is_empty() || !self.worker.rests_here(name).await {
                continue;
            }
            let state = self.worker.log().state();
            match store::answer_rest(state, &self.process, (name, id), &owned).await {
                Ok(()) => {
                    self.answered.insert(name.clone(), (id.clone(), Arc::clone(&owned)));
                }
                Err(error) => tracing::debug!(connector = name, %error, "not answered yet"),
            }
        }
    }
}

/// Makes, changes and deletes what REST made, changed and deleted, whichever worker was asked.
async fn follow_connectors(worker: &Worker, stored: Vec<ConnectorSpec>) -> Result<(), WorkerError> {
    let names: BTreeSet<String> = stored.iter().map(|spec| spec.name.clone()).collect();
    let before: BTreeMap<String, ConnectorView> =
        worker.views().await.into_iter().map(|view| (view.spec.name.clone(), view)).collect();
    for spec in stored {
        let name = spec.name.clone();
        if before.get(&name).is_some_and(|view| view.spec == spec) {
            continue;
        }
        if let Err(error) = worker.apply(spec, Origin::Rest).await {
            tracing::error!(connector = name, %error, "a stored connector is not in force here");
        }
    }
    for view in before.into_values() {
        let name = &view.spec.name;
        if view.origin == Origin::Rest && !names.contains(name) {
            match worker.delete(name, Forget::Nothing).await {
                // Whoever was asked to delete it was faster.
                Ok(()) | Err(WorkerError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// What people wait for: everything but the numbers.
fn states(body: &Value) -> Value {
    json!([
        body["connector"],
        body["target_state"],
        body["origin"],
        body["state"],
        body["worker_id"],
        body["trace"]
    ])
}
