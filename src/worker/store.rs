//! What the worker keeps in the log's state: connectors made by REST, and target states; where several workers share the log,
//! restart requests, statuses, and questions whether a connector rests, too.
//!
//! Whatever is written by several workers at once has a key for each writer, so that none overwrites another's: a status and a restart
//! request for each task, an answer for each worker. A key of two parts begins with the one that holds no `/`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Restart, TargetState, WorkerError};
use crate::{
    config::ConnectorSpec,
    topic_log::{StateOp, StateStore},
};

const CONNECTORS: &str = "connectors";
const TARGETS: &str = "target_states";
/// By connector: restart it all, or what failed of it.
const RESTARTS: &str = "restarts";
/// By task and connector.
const TASK_RESTARTS: &str = "task_restarts";
/// By connector, without its tasks.
const STATUSES: &str = "statuses";
/// By task and connector.
const TASK_STATUSES: &str = "task_statuses";
/// By connector: who asks whether it rests.
const REST_QUESTIONS: &str = "rest_questions";
/// By worker process and connector: which shards rest.
const REST_ANSWERS: &str = "rest_answers";

/// A connector, or one of its tasks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    /// The connector without its tasks.
    Connector(String),
    /// One of its tasks.
    Task(String, usize),
}

/// For which shards nothing of a connector runs.
#[derive(Serialize, Deserialize)]
struct RestAnswer {
    /// The question's.
    id: String,
    shards: BTreeSet<u32>,
}

impl Told {
    pub(super) fn connector(&self) -> &str {
        match self {
            Self::Connector(name) | Self::Task(name, _) => name,
        }
    }
    /// The number of the task; the connector is told by whoever has task 0.
    pub(super) fn task(&self) -> usize {
        match self {
            Self::Connector(_) => 0,
            Self::Task(_, task) => *task,
        }
    }
    fn place(&self, (connectors, tasks): (&str, &str)) -> (String, String) {
        match self {
            Self::Connector(name) => (connectors.to_owned(), name.clone()),
            Self::Task(name, task) => (tasks.to_owned(), format!("{task}/{name}")),
        }
    }
    fn of_task(key: &str) -> Option<Self> {
        let (task, name) = key.split_once('/')?;
        Some(Self::Task(name.to_owned(), task.parse().ok()?))
    }
}

/// Connectors made by REST, placeholders and all.
pub(super) async fn connectors(state: &dyn StateStore) -> Result<Vec<ConnectorSpec>, WorkerError> {
    let mut specs = Vec::new();
    for (name, bytes) in state.scan(CONNECTORS).await? {
        let Ok(Value::Object(document)) = serde_json::from_slice(&bytes) else {
            return Err(WorkerError::BadRequest(format!(
                "the stored document of connector `{name}` is no JSON object"
            )));
        };
        specs.push(ConnectorSpec::from_document(document).map_err(WorkerError::Invalid)?);
    }
    Ok(specs)
}

pub(super) async fn put_connector(state: &dyn StateStore, spec: &ConnectorSpec) -> Result<(), WorkerError> {
    let value = Value::Object(spec.document.clone()).to_string();
    state.write(vec![put(CONNECTORS, &spec.name, value)]).await?;
    Ok(())
}

pub(super) async fn target(state: &dyn StateStore, name: &str) -> Result<TargetState, WorkerError> {
    let stored = state.get(TARGETS, name).await?;
    Ok(stored.and_then(|b| TargetState::parse(std::str::from_utf8(&b).ok()?)).unwrap_or(TargetState::Running))
}

pub(super) async fn put_target(
    state: &dyn StateStore,
    name: &str,
    target: TargetState,
) -> Result<(), WorkerError> {
    state.write(vec![put(TARGETS, name, target.as_str().to_owned())]).await?;
    Ok(())
}

/// All target states that were ever set.
pub(super) async fn targets(state: &dyn StateStore) -> Result<BTreeMap<String, TargetState>, WorkerError> {
    let stored = state.scan(TARGETS).await?.into_iter();
    Ok(stored
        .filter_map(|(name, word)| Some((name, TargetState::parse(std::str::from_utf8(&word).ok()?)?)))
        .collect())
}

/// Asks whoever runs it to restart it.
pub(super) async fn ask_restart(
    state: &dyn StateStore,
    name: &str,
    which: Restart,
) -> Result<(), WorkerError> {
    let (told, which) = match which {
        Restart::All => (Told::Connector(name.to_owned()), "all"),
        Restart::OnlyFailed => (Told::Connector(name.to_owned()), "only_failed"),
        Restart::Task(task) => (Told::Task(name.to_owned(), task), "task"),
    };
    let (table, key) = told.place((RESTARTS, TASK_RESTARTS));
    let value = json!({ "id": new_id(), "which": which }).to_string();
    state.write(vec![put(&table, &key, value)]).await?;
    Ok(())
}

/// The last restart request of each connector and task: its id, and what was asked.
pub(super) async fn restarts(
    state: &dyn StateStore,
) -> Result<BTreeMap<Told, (String, Restart)>, WorkerError> {
    let id = |bytes: &Bytes| -> Option<(String, bool)> {
        let request: Value = serde_json::from_slice(bytes).ok()?;
        Some((request.get("id")?.as_str()?.to_owned(), request.get("which")? == "only_failed"))
    };
    let mut requests = BTreeMap::new();
    for (name, bytes) in state.scan(RESTARTS).await? {
        if let Some((id, only_failed)) = id(&bytes) {
            let which = if only_failed { Restart::OnlyFailed } else { Restart::All };
            requests.insert(Told::Connector(name), (id, which));
        }
    }
    for (key, bytes) in state.scan(TASK_RESTARTS).await? {
        if let (Some(told @ Told::Task(_, task)), Some((id, _))) = (Told::of_task(&key), id(&bytes)) {
            requests.insert(told, (id, Restart::Task(task)));
        }
    }
    Ok(requests)
}

/// Statuses as they were published.
pub(super) async fn statuses(state: &dyn StateStore) -> Result<BTreeMap<Told, Value>, WorkerError> {
    let parsed = |bytes: Bytes| serde_json::from_slice(&bytes).ok();
    let connectors = state.scan(STATUSES).await?.into_iter();
    let tasks = state.scan(TASK_STATUSES).await?.into_iter();
    let connectors = connectors.filter_map(|(name, body)| Some((Told::Connector(name), parsed(body)?)));
    Ok(connectors
        .chain(tasks.filter_map(|(key, body)| Some((Told::of_task(&key)?, parsed(body)?))))
        .collect())
}

pub(super) async fn put_status(state: &dyn StateStore, told: &Told, body: &Value) -> Result<(), WorkerError> {
    let (table, key) = told.place((STATUSES, TASK_STATUSES));
    state.write(vec![put(&table, &key, body.to_string())]).await?;
    Ok(())
}

pub(super) async fn delete_status(state: &dyn StateStore, told: &Told) -> Result<(), WorkerError> {
    let (table, key) = told.place((STATUSES, TASK_STATUSES));
    state.write(vec![StateOp::Delete { table, key }]).await?;
    Ok(())
}

/// Asks every worker to say that nothing of the connector runs there any more; answers the question's id.
pub(super) async fn ask_rest(state: &dyn StateStore, name: &str) -> Result<String, WorkerError> {
    let id = new_id();
    state.write(vec![put(REST_QUESTIONS, name, id.clone())]).await?;
    Ok(id)
}

/// Questions that stand, by connector.
pub(super) async fn rest_questions(state: &dyn StateStore) -> Result<BTreeMap<String, String>, WorkerError> {
    let stored = state.scan(REST_QUESTIONS).await?.into_iter();
    Ok(stored.filter_map(|(name, id)| Some((name, String::from_utf8(id.to_vec()).ok()?))).collect())
}

/// Says that nothing of the connector runs for these shards.
pub(super) async fn answer_rest(
    state: &dyn StateStore,
    process: &str,
    (name, id): (&str, &str),
    shards: &BTreeSet<u32>,
) -> Result<(), WorkerError> {
    let answer = RestAnswer { id: id.to_owned(), shards: shards.clone() };
    let value = json!(answer).to_string();
    state.write(vec![put(REST_ANSWERS, &format!("{process}/{name}"), value)]).await?;
    Ok(())
}

/// The shards for which somebody gave this question's answer.
pub(super) async fn resting(
    state: &dyn StateStore,
    name: &str,
    id: &str,
) -> Result<BTreeSet<u32>, WorkerError> {
    let mut shards = BTreeSet::new();
    for (key, bytes) in state.scan(REST_ANSWERS).await? {
        let answer = serde_json::from_slice::<RestAnswer>(&bytes).ok();
        let answer = answer.filter(|answer| is_answer_for(&key, name) && answer.id == id);
        shards.extend(answer.into_iter().flat_map(|answer| answer.shards));
    }
    Ok(shards)
}

/// Forgets the question and its answers.
pub(super) async fn forget_rest(state: &dyn StateStore, name: &str) -> Result<(), WorkerError> {
    let gone = |table: &str, key: String| vec![StateOp::Delete { table: table.to_owned(), key }];
    state.write(gone(REST_QUESTIONS, name.to_owned())).await?;
    for (key, _) in state.scan(REST_ANSWERS).await? {
        if is_answer_for(&key, name) {
            state.write(gone(REST_ANSWERS, key)).await?;
        }
    }
    Ok(())
}

pub(super) async fn delete(state: &dyn StateStore, name: &str) -> Result<(), WorkerError> {
    let gone = |table: &str, key: &str| StateOp::Delete { table: table.to_owned(), key: key.to_owned() };
    let mut all = vec![gone(CONNECTORS, name), gone(TARGETS, name), gone(RESTARTS, name)];
    for (key, _) in state.scan(TASK_RESTARTS).await? {
        if Told::of_task(&key).is_some_and(|told| told.connector() == name) {
            all.push(gone(TASK_RESTARTS, &key));
        }
    }
    state.write(all).await?;
    Ok(())
}

fn is_answer_for(key: &str, name: &str) -> bool {
    key.split_once('/').is_some_and(|(_, of)| of == name)
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn put(table: &str, key: &str, value: String) -> StateOp {
    StateOp::Put { table: table.to_owned(), key: key.to_owned(), value: Bytes::from(value) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::topic_log::{
        TopicLog,
        embedded::{EmbeddedConfig, EmbeddedLog},
    };

    async fn log() -> (tempfile::TempDir, Arc<EmbeddedLog>) {
        let directory = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(EmbeddedConfig::new(directory.path().join("log"))).await.unwrap();
        (directory, log)
    }

    fn task(name: &str, number: usize) -> Told {
        Told::Task(name.to_owned(), number)
    }

    /// Requests for several tasks stand side by side: none is lost when they come faster than they are read.
    #[tokio::test]
    async fn restarts_of_tasks_do_not_overwrite_each_other() {
        let (_directory, log) = log().await;
        let state = log.state();
        for which in
            [Restart::All, Restart::OnlyFailed, Restart::Task(1), Restart::Task(12), Restart::Task(1)]
        {
            ask_restart(state, "a/b", which).await.unwrap();
        }
        let asked = restarts(state).await.unwrap();
        let which: Vec<_> = asked.iter().map(|(told, (_, which))| (told.clone(), *which)).collect();
        let wanted = [
            (Told::Connector("a/b".to_owned()), Restart::OnlyFailed),
            (task("a/b", 1), Restart::Task(1)),
            (task("a/b", 12), Restart::Task(12)),
        ];
        assert_eq!(which, wanted);
        let ids: BTreeSet<&String> = asked.values().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), 3);
        ask_restart(state, "b", Restart::Task(1)).await.unwrap();
        delete(state, "a/b").await.unwrap();
        assert_eq!(restarts(state).await.unwrap().into_keys().collect::<Vec<_>>(), [task("b", 1)]);
    }

    #[tokio::test]
    async fn statuses_are_told_by_task() {
        let (_directory, log) = log().await;
        let state = log.state();
        let told = [Told::Connector("7/shop".to_owned()), task("7/shop", 3), task("shop", 73)];
        for told in &told {
            put_status(state, told, &json!(format!("{told:?}"))).await.unwrap();
        }
        let read: Vec<_> = statuses(state).await.unwrap().into_iter().collect();
        let wanted: Vec<_> = told.iter().map(|told| (told.clone(), json!(format!("{told:?}")))).collect();
        assert_eq!(read, wanted);
        delete_status(state, &told[1]).await.unwrap();
        assert!(!statuses(state).await.unwrap().contains_key(&told[1]));
    }

    /// Only answers to this very question count, and they add up over workers.
    #[tokio::test]
    async fn an_old_answer_is_none() {
        let (_directory, log) = log().await;
        let state = log.state();
        let old = ask_rest(state, "shop").await.unwrap();
        answer_rest(state, "one", ("shop", &old), &BTreeSet::from([0, 1])).await.unwrap();
        let new = ask_rest(state, "shop").await.unwrap();
        assert_eq!(rest_questions(state).await.unwrap(), BTreeMap::from([("shop".to_owned(), new.clone())]));
        answer_rest(state, "two", ("shop", &new), &BTreeSet::from([2])).await.unwrap();
        answer_rest(state, "two", ("other", &new), &BTreeSet::from([3])).await.unwrap();
        assert_eq!(resting(state, "shop", &new).await.unwrap(), BTreeSet::from([2]));
        answer_rest(state, "one", ("shop", &new), &BTreeSet::from([0, 1])).await.unwrap();
        assert_eq!(resting(state, "shop", &new).await.unwrap(), BTreeSet::from([0, 1, 2]));
        forget_rest(state, "shop").await.unwrap();
        assert_eq!(resting(state, "shop", &new).await.unwrap(), BTreeSet::new());
        assert_eq!(rest_questions(state).await.unwrap(), BTreeMap::new());
        assert_eq!(resting(state, "other", &new).await.unwrap(), BTreeSet::from([3]));
    }
}
