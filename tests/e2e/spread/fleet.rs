//! Workers of one group, and a shop whose rows and changes they bring to two targets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::TASKS;
use crate::support::{daemon::Daemon, kafka::Kafka, note, postgres::Database, rig, until};

/// A task, as `connector-number`.
pub(super) type TaskName = String;

/// Where a task runs, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) worker: String,
    pub(super) since_ms: u64,
}

/// Workers of one group; some may be down.
pub(super) struct Fleet(pub(super) Vec<Daemon>);

impl Fleet {
    pub(super) fn new(kafka: &Kafka, workers: usize) -> Self {
        Self((0..workers).map(|_| Daemon::in_group(kafka, TASKS)).collect())
    }

    pub(super) fn id(&self, worker: usize) -> String {
        format!("127.0.0.1:{}", self.0[worker].port)
    }

    /// Where `wanted` tasks of each connector run, as `asked` tells it; `None` until all run.
    pub(super) fn places(
        &self,
        asked: usize,
        wanted: &BTreeMap<&str, usize>,
    ) -> Option<BTreeMap<TaskName, Place>> {
        let all = self.0[asked].try_get("/connectors?expand=status")?.json();
        let mut places = BTreeMap::new();
        for (name, count) in wanted {
            let status = &all[*name]["status"];
            let tasks = status["tasks"].as_array()?;
            if tasks.len() != *count || status["connector"]["state"] != "RUNNING" {
                return None;
            }
            for (number, task) in tasks.iter().enumerate() {
                assert_eq!(task["id"], number, "{name}: {status}");
                if task["state"] != "RUNNING" {
                    return None;
                }
                let place = Place {
                    worker: task["worker_id"].as_str()?.to_owned(),
                    since_ms: task["progress"]["since_ms"].as_u64()?,
                };
                places.insert(format!("{name}-{number}"), place);
            }
        }
        Some(places)
    }

    /// Those of the tasks that a worker says of itself, for Prometheus, that it runs.
    pub(super) fn runs(
        &self,
        worker: usize,
        places: &BTreeMap<TaskName, Place>,
    ) -> Option<BTreeSet<TaskName>> {
        let page = self.0[worker].try_get("/metrics")?.text();
        let running = page.lines().filter(|line| {
            line.starts_with("rowstream_task_state{")
                && line.contains("state=\"RUNNING\"")
                && line.ends_with(" 1")
        });
        let label = |line: &str, name: &str| -> Option<String> {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let running =
            running.map(|line| Some(format!("{}-{}", label(line, "connector")?, label(line, "task")?)));
        let running: Option<BTreeSet<TaskName>> = running.collect();
        running.map(|tasks| tasks.into_iter().filter(|task| places.contains_key(task)).collect())
    }

    /// Waits until all tasks run on `alive` only, each of those says the same, and that is what each of them really runs.
    pub(super) fn settled(
        &self,
        what: &str,
        alive: &[usize],
        wanted: &BTreeMap<&str, usize>,
    ) -> BTreeMap<TaskName, Place> {
        until(
            &format!("all tasks run, and every worker says where, after {what}"),
            || alive.iter().map(|worker| self.0[*worker].explain()).collect(),
            || {
                let places = self.places(alive[0], wanted)?;
                let agreed = alive.iter().all(|worker| {
                    let told = self.places(*worker, wanted);
                    let here = places.iter().filter(|(_, place)| place.worker == self.id(*worker));
                    let here: BTreeSet<TaskName> = here.map(|(task, _)| task.clone()).collect();
                    told.as_ref().map(owners) == Some(owners(&places))
                        && self.runs(*worker, &places) == Some(here)
                });
                let ids: BTreeSet<String> = alive.iter().map(|worker| self.id(*worker)).collect();
                (agreed && places.values().all(|place| ids.contains(&place.worker))).then_some(places)
            },
        )
    }

    /// Waits until all is settled and new rows flow; says how long that took and where tasks are.
    pub(super) fn recovers(
        &self,
        shop: &Shop,
        what: &str,
        alive: &[usize],
        wanted: &BTreeMap<&str, usize>,
    ) -> BTreeMap<TaskName, Place> {
        let started = Instant::now();
        let places = self.settled(what, alive, wanted);
        let settled = started.elapsed().as_secs_f64();
        shop.flows(what, || self.0[alive[0]].explain());
        let flows = started.elapsed().as_secs_f64();
        let count = |worker| places.values().filter(|place| place.worker == self.id(worker)).count();
        let spread: Vec<usize> = alive.iter().map(|worker| count(*worker)).collect();
        note(&format!(
            "{what}: all tasks run after {settled:.1} s ({spread:?}), rows flow after {flows:.1} s"
        ));
        assert!(spread.iter().all(|tasks| *tasks > 0), "{what}: a worker has nothing to do: {places:?}");
        self.settled(what, alive, wanted)
    }

    /// Starts a worker and waits until it has got shards.
    pub(super) fn comes_back(&self, worker: usize) {
        let before = self.gained(worker);
        self.0[worker].start();
        self.gets_its_share(worker, before);
    }

    pub(super) fn gets_its_share(&self, worker: usize, before: usize) {
        let cause = || (self.gained(worker) > before).then_some(());
        until("the worker gets its share", || self.0[worker].explain(), cause);
    }

    pub(super) fn gained(&self, worker: usize) -> usize {
        self.0[worker].log().matches("shards gained").count()
    }
}

pub(super) fn owners(places: &BTreeMap<TaskName, Place>) -> BTreeMap<TaskName, String> {
    places.iter().map(|(task, place)| (task.clone(), place.worker.clone())).collect()
}

pub(super) fn others(worker: usize) -> Vec<usize> {
    (0..3).filter(|other| *other != worker).collect()
}

/// A table, and two targets: one that holds its rows, and one that holds its changes and would show each that came twice.
pub(super) struct Shop {
    pub(super) source: Database,
    pub(super) rows: Database,
    pub(super) changes: Database,
    /// Changes committed so far.
    pub(super) committed: AtomicI64,
}

impl Shop {
    pub(super) fn new() -> Self {
        let [source, rows, changes] = ["spread_src", "spread_rows", "spread_log"].map(Database::new);
        source.sql.run(&format!("ALTER DATABASE \"{}\" SET wal_sender_timeout = '4s'", source.name));
        source.sql.run("CREATE TABLE orders (id bigint PRIMARY KEY, version bigint, note text)");
        rows.sql.run("CREATE TABLE orders (id bigint PRIMARY KEY, version bigint, note text)");
        changes.sql.run("CREATE TABLE orders (id bigint, version bigint, note text)");
        Self { source, rows, changes, committed: AtomicI64::new(0) }
    }

    pub(super) fn connectors(&self, tasks: u32) -> [Value; 3] {
        let source = rig::source(&self.source, json!({}));
        let mut rows = rig::sink(&self.rows, json!({}));
        let mut changes = rig::sink(&self.changes, json!({ "write_mode": "append" }));
        changes["name"] = json!("history");
        for sink in [&mut rows, &mut changes] {
            sink["tasks_max"] = json!(tasks);
        }
        [source, rows, changes]
    }

    /// Inserts rows and changes old ones, one transaction each, until `stop`.
    pub(super) fn write_until(&self, stop: &AtomicBool) {
        let sql = self.source.connect();
        for id in 1_i64.. {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            sql.run(&format!("INSERT INTO orders VALUES ({id}, 0, 'note {id}')"));
            sql.run(&format!("UPDATE orders SET version = version + 1 WHERE id = {}", 1 + id * 7 % id));
            self.committed.fetch_add(2, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    /// Waits until what was written after this call is in both targets.
    pub(super) fn flows(&self, what: &str, explain: impl Fn() -> String) {
        let newest = |database: &Database| database.sql.number("SELECT coalesce(max(id), 0) FROM orders");
        let mark = newest(&self.source) + 1;
        until(&format!("rows flow after {what}"), explain, || {
            (newest(&self.rows) >= mark && newest(&self.changes) >= mark).then_some(())
        });
    }

    /// Both targets have what was committed: each row as it is, and each change once.
    pub(super) fn judge(&self, explain: impl Fn() -> String) {
        let all = "SELECT id, version, note FROM orders ORDER BY id, version";
        let rows = self.source.sql.rows(all);
        until("the rows are the source's", &explain, || (self.rows.sql.rows(all) == rows).then_some(()));
        let committed = self.committed.load(Ordering::SeqCst);
        until("all changes are there", &explain, || {
            (self.changes.sql.number("SELECT count(*) FROM orders") >= committed).then_some(())
        });
        let doubled = "SELECT id, version, count(*) FROM orders GROUP BY id, version HAVING count(*) > 1";
        assert_eq!(self.changes.sql.rows(doubled), Vec::<Vec<Option<String>>>::new(), "changes came twice");
        assert_eq!(self.changes.sql.number("SELECT count(*) FROM orders"), committed);
        note(&format!("{committed} changes of {} rows: each once in both targets", rows.len()));
    }
}
