//! The engine against a model of a database, under random interleavings of commits, visibility, reads, deliveries and crashes.
//!
//! A transaction of the model is in the stream as soon as it commits, and becomes visible to snapshots at any time after that: later
//! than transactions that committed after it, if they share no row. A reader's snapshot is taken at any moment between the beginning
//! and the end of its work. The end of it all: who read the topic has what the table has. And so has who began to read when a table was
//! asked for, whatever was paused and killed meanwhile.

mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

use super::{OnDemand, Progress, Report, Settings, SnapshotRun, Table as _, Told};
use crate::source::Gauges;
use world::{Change, Model, ModelTable, Row, World, table};

/// What somebody has who reads the topic's rows with a key: their versions, and values as far as they were told.
type Reader = BTreeMap<u32, (u32, Option<u32>)>;

/// Applies a change of the stream. Never is a row older than what was read.
fn read_change(reader: &mut Reader, change: &Change) {
    match change {
        Change::Put(key, row) => {
            let known = reader.insert(*key, (row.0, Some(row.1)));
            assert!(known.is_none_or(|known| known.0 < row.0), "an older event follows a row of {key}");
        }
        Change::Update(key, version) => {
            let known = std::mem::replace(&mut reader.entry(*key).or_insert((0, None)).0, *version);
            assert!(known < *version, "an older event follows a row of {key}");
        }
        Change::Move(from, to, version) => {
            let big = reader.remove(from).and_then(|row| row.1);
            reader.insert(*to, (*version, big));
        }
        Change::Delete(key) => drop(reader.remove(key)),
        Change::Truncate => reader.clear(),
        Change::Whole(..) => {}
    }
}

fn told(change: &Change) -> Vec<(u32, bool)> {
    match change {
        Change::Put(key, _) | Change::Delete(key) => vec![(*key, false)],
        Change::Update(key, _) => vec![(*key, true)],
        Change::Move(from, to, _) => vec![(*from, false), (*to, true)],
        Change::Whole(..) | Change::Truncate => vec![],
    }
}

/// Who reads the topic, and the source's task as far as it matters here.
struct Task {
    model: Model,
    readers: usize,
    run: Option<SnapshotRun<Model>>,
    progress: Option<Progress<(BTreeSet<usize>, usize)>>,
    on_demand: OnDemand,
    requests: u32,
    /// Transactions that the stream delivered.
    here: usize,
    keyed: Reader,
    /// Somebody who began to read when the table was last asked for, all of it.
    since: Option<Reader>,
    whole: BTreeMap<u32, i32>,
    tables: (ModelTable, ModelTable),
    reads: usize,
}

impl Task {
    /// Begins a run, where one is due.
    fn steer(&mut self) {
        let is_paused = self.on_demand.is_paused();
        if is_paused && self.run.as_ref().is_some_and(|run| !run.holds_stream()) {
            self.run = None;
        }
        if is_paused || self.run.is_some() {
            return;
        }
        let had_one = self.progress.as_ref().is_some_and(|progress| progress.asked.is_some());
        self.on_demand.begin_next(&mut self.progress);
        let Some(progress) = self.progress.as_ref().filter(|progress| !progress.todo.is_empty()) else {
            return;
        };
        if let Some(asked) = progress.asked.as_ref().filter(|asked| !had_one && asked.condition.is_none()) {
            assert_eq!(asked.table.1, "keyed");
            self.since = Some(Reader::new());
        }
        self.model.delivered = self.here;
        let settings = Settings { chunk_rows: 4, readers: self.readers };
        self.run = Some(SnapshotRun::new(self.model.clone(), settings, progress, &Gauges::default()));
    }

    /// Somebody asks for something.
    fn ask(&mut self, what: u8) {
        self.requests += 1;
        let id = self.requests.to_string();
        let table = || vec![self.tables.0.name()];
        match what {
            0 | 1 => self.on_demand.ask(&id, table(), None),
            2 => self.on_demand.ask(&id, table(), Some("even")),
            3 => self.on_demand.pause(&id, self.progress.as_ref()),
            4 => {
                if self.on_demand.cancel(&id, &mut self.progress) {
                    self.run = None;
                    self.since = None;
                }
            }
            _ => self.on_demand.resume(&id),
        }
    }

    fn is_unread(&self, name: &str) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.is_unread(("s", name)))
    }

    /// Delivers a transaction of the stream.
    fn stream(&mut self) {
        let Some(changes) = self.model.world.lock().unwrap().log.get(self.here).cloned() else { return };
        let unread = (self.is_unread("keyed"), self.is_unread("whole"));
        for change in &changes {
            read_change(&mut self.keyed, change);
            if let Some(since) = &mut self.since {
                read_change(since, change);
            }
            if let Change::Whole(row, n) = change {
                let seen = self.progress.as_ref().and_then(|progress| progress.seen_of(("s", "whole")));
                if !unread.1 && seen.is_none_or(|(seen, _)| !seen.contains(&self.here)) {
                    *self.whole.entry(*row).or_default() += n;
                }
                if let Some(run) = self.run.as_mut().filter(|_| unread.1) {
                    let table = &self.tables.1;
                    run.touched.record(&table.name(), table.schema(), &self.here, Told::Unknown);
                }
            }
            let Some(run) = self.run.as_mut().filter(|_| unread.0) else { continue };
            let (name, schema) = (self.tables.0.name(), self.tables.0.schema());
            if let Change::Truncate = change {
                run.touched.record(&name, schema, &self.here, Told::Truncate);
            }
            for (key, incomplete) in told(change) {
                let key = &key.to_be_bytes();
                run.touched.record(&name, schema, &self.here, Told::Key { key, incomplete });
            }
        }
        self.here += 1;
        let here = self.here;
        if let Some(progress) = &mut self.progress {
            if let Some(run) = &self.run {
                run.told(progress);
            }
            progress.seen.retain(|_, (_, until)| *until > here);
        }
        self.on_demand.tidy(&mut self.progress);
    }

    /// Does what the task's loop does: the snapshot first, then, unless it is held, the stream.
    fn step(&mut self, deliver_stream: bool) {
        self.steer();
        let (Some(run), Some(progress)) = (&mut self.run, &mut self.progress) else {
            return if deliver_stream {
                self.stream()
            };
        };
        while let Some((_, name)) = run.wants(progress) {
            let condition = progress.asked.as_ref().is_some_and(|asked| asked.condition.is_some());
            let name = if name == "keyed" { "keyed" } else { "whole" };
            let of = table(name);
            run.describe(progress, Some(ModelTable(of.0, of.1, condition)));
        }
        if run.is_finished(progress) {
            self.run = None;
            self.on_demand.tidy(&mut self.progress);
            return;
        }
        let read_whole = progress.todo.first().is_some_and(|(_, name)| name == "whole");
        if let Some(delivered) = run.deliver(Some(&self.here), progress).unwrap() {
            for (key, row) in delivered.rows.0 {
                self.reads += 1;
                if read_whole {
                    *self.whole.entry(key).or_default() += 1;
                    continue;
                }
                for reader in std::iter::once(&mut self.keyed).chain(&mut self.since) {
                    let known = reader.insert(key, (row.0, Some(row.1)));
                    assert!(known.is_none_or(|known| known.0 <= row.0), "a stale row of {key}");
                }
            }
            self.on_demand.tidy(&mut self.progress);
            if self.progress.is_none() {
                self.run = None;
            }
            return;
        }
        let holds = run.holds_stream();
        {
            let mut work = std::pin::pin!(run.work());
            if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                done.unwrap();
            }
        }
        if deliver_stream && !holds {
            self.stream();
        }
    }

    fn is_done(&self) -> bool {
        Report::of(self.progress.as_ref(), &self.on_demand, None).reading.is_none()
    }
}

fn play(readers: usize, script: Vec<u8>) -> Result<(), TestCaseError> {
    let mut world = World { script, ..World::default() };
    world.log.push((0..30).map(|key| Change::Put(key * 2, (key, key + 500))).collect());
    world.log.push((0..8).map(|row| Change::Whole(row, 2)).collect());
    world.visible.extend([0, 1]);
    let world = Arc::new(Mutex::new(world));
    let names = ["keyed", "whole"].map(|name| ("s".to_owned(), name.to_owned())).to_vec();
    let mut task = Task {
        model: Model { world: Arc::clone(&world), delivered: 2 },
        readers,
        run: None,
        progress: Some(Progress::of(names)),
        on_demand: OnDemand::default(),
        requests: 0,
        here: 2,
        keyed: Reader::new(),
        since: None,
        whole: BTreeMap::new(),
        tables: (table("keyed"), table("whole")),
        reads: 0,
    };
    loop {
        let (choice, over) = {
            let mut world = world.lock().unwrap();
            (world.dice(17), world.script.is_empty())
        };
        if over {
            break;
        }
        match choice {
            0..3 => world.lock().unwrap().commit(),
            3..5 => {
                let mut world = world.lock().unwrap();
                let invisible: Vec<usize> =
                    (0..world.log.len()).filter(|n| !world.visible.contains(n)).collect();
                if let Some(place) = u8::try_from(invisible.len()).ok().filter(|n| *n > 0) {
                    let n = invisible[usize::from(world.dice(place))];
                    world.visible.insert(n);
                }
            }
            5 if world.lock().unwrap().dice(6) == 0 => {
                // A crash; a table without a key would be read twice.
                if task.run.as_ref().is_some_and(|run| !run.holds_stream()) {
                    task.run = None;
                }
            }
            16 => {
                let what = world.lock().unwrap().dice(24);
                if what < 7 {
                    task.ask(what);
                }
            }
            5..9 => task.step(true),
            _ => task.step(false),
        }
    }
    end(&world, task)
}

/// Nobody writes any more.
fn end(world: &Mutex<World>, mut task: Task) -> Result<(), TestCaseError> {
    task.ask(6);
    for _ in 0..100_000 {
        let log = world.lock().unwrap().log.len();
        world.lock().unwrap().visible.extend(0..log);
        if task.is_done() && task.run.is_none() && task.here == log {
            break;
        }
        task.step(true);
    }
    prop_assert!(task.is_done() && task.run.is_none(), "the snapshot does not come to an end");
    let (keyed, mut whole) = world.lock().unwrap().tables(|_| true);
    for reader in std::iter::once(&task.keyed).chain(&task.since) {
        let found: BTreeMap<u32, Row> =
            reader.iter().map(|(k, (v, big))| (*k, (*v, big.unwrap_or(0)))).collect();
        prop_assert_eq!(&found, &keyed);
    }
    task.whole.retain(|_, n| *n != 0);
    whole.retain(|_, n| *n != 0);
    prop_assert_eq!(task.whole, whole);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn who_reads_the_topic_has_what_the_table_has(
        readers in 1usize..5,
        script in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        play(readers, script)?;
    }
}
