//! The engine against a model of a database, under random interleavings of commits, visibility, reads, deliveries and crashes.
//!
//! A transaction of the model is in the stream as soon as it commits, and becomes visible to snapshots at any time after that: later
//! than transactions that committed after it, if they share no row. A reader's snapshot is taken at any moment between the beginning
//! and the end of its work. The end of it all: who read the topic has what the table has. And so has who began to read when a table was
//! asked for, whatever was paused and killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

use super::{
    Chunk, ChunkRequest, Database, Key, OnDemand, Progress, Report, Rows, Settings, SnapshotRun, Table,
    TableName, Told, Visibility, Work,
};
use crate::{
    change::TableSchema,
    error::ConnectorError,
    schema::{SchemaBuilder, SchemaType},
    source::Gauges,
};

/// A row: its version, and a value that the stream may leave out.
type Row = (u32, u32);

#[derive(Debug, Clone)]
enum Change {
    Put(u32, Row),
    /// Told without the second value.
    Update(u32, u32),
    /// The row moves, told without the second value.
    Move(u32, u32, u32),
    Delete(u32),
    /// A row of the table without a key; negative: one less.
    Whole(u32, i32),
    Truncate,
}

#[derive(Default)]
struct World {
    script: Vec<u8>,
    /// Committed transactions, in the order of the stream.
    log: Vec<Vec<Change>>,
    visible: BTreeSet<usize>,
}

impl World {
    fn dice(&mut self, sides: u8) -> u8 {
        self.script.pop().unwrap_or(0) % sides
    }

    /// The tables as transactions up to this one left them, or those of them that `sees` says.
    fn tables(&self, sees: impl Fn(usize) -> bool) -> (BTreeMap<u32, Row>, BTreeMap<u32, i32>) {
        let (mut keyed, mut whole) = (BTreeMap::new(), BTreeMap::new());
        for change in self.log.iter().enumerate().filter(|(n, _)| sees(*n)).flat_map(|(_, changes)| changes) {
            match change {
                Change::Put(key, row) => drop(keyed.insert(*key, *row)),
                Change::Update(key, version) => {
                    keyed.entry(*key).and_modify(|row| row.0 = *version);
                }
                Change::Move(from, to, version) => {
                    if let Some(row) = keyed.remove(from) {
                        keyed.insert(*to, (*version, row.1));
                    }
                }
                Change::Delete(key) => drop(keyed.remove(key)),
                Change::Whole(row, n) => *whole.entry(*row).or_default() += n,
                Change::Truncate => keyed.clear(),
            }
        }
        whole.retain(|_, n| *n != 0);
        (keyed, whole)
    }

    /// Commits a transaction of a few changes. What it shares a row with has become visible by then, for that held its lock.
    fn commit(&mut self) {
        let mut changes = Vec::new();
        for _ in 0..=self.dice(3) {
            let (mut rows, _) = self.tables(|_| true);
            for change in &changes {
                match change {
                    Change::Put(key, row) => drop(rows.insert(*key, *row)),
                    Change::Move(from, to, _) => {
                        if let Some(row) = rows.remove(from) {
                            rows.insert(*to, row);
                        }
                    }
                    Change::Delete(key) => drop(rows.remove(key)),
                    Change::Truncate => rows.clear(),
                    Change::Update(..) | Change::Whole(..) => {}
                }
            }
            let version = u32::try_from(self.log.len() * 4 + changes.len() + 1000).unwrap();
            let key = u32::from(self.dice(40));
            let exists = rows.contains_key(&key);
            changes.push(match self.dice(12) {
                0..4 if exists => Change::Update(key, version),
                4 | 5 if exists => Change::Delete(key),
                6 if exists => {
                    // Upwards: a row that moves behind what was read is the stream's to tell whole.
                    let to = rows.keys().max().unwrap() + 1 + u32::from(self.dice(3));
                    Change::Move(key, to, version)
                }
                7 | 8 => Change::Whole(u32::from(self.dice(10)), 1),
                9 if self.dice(8) == 0 => Change::Truncate,
                _ if exists => Change::Put(key, (version, version)),
                _ => {
                    let key =
                        if self.dice(3) == 0 { rows.keys().max().map_or(key, |max| max + 1) } else { key };
                    Change::Put(key, (version, version))
                }
            });
        }
        let keys = |changes: &[Change]| -> BTreeSet<u32> {
            let of = |change: &Change| match change {
                Change::Put(key, _) | Change::Update(key, _) | Change::Delete(key) => vec![*key],
                Change::Move(from, to, _) => vec![*from, *to],
                Change::Whole(..) => vec![],
                Change::Truncate => (0..1000).collect(),
            };
            changes.iter().flat_map(of).collect()
        };
        let mine = keys(&changes);
        for n in 0..self.log.len() {
            if !keys(&self.log[n]).is_disjoint(&mine) {
                self.visible.insert(n);
            }
        }
        self.log.push(changes);
    }
}

#[derive(Clone)]
struct Model {
    world: Arc<Mutex<World>>,
    /// What the stream delivered before this run.
    delivered: usize,
}

#[derive(Clone)]
struct Sees(BTreeSet<usize>);

impl Visibility for Sees {
    type Transaction = usize;
    fn sees(&self, transaction: &usize) -> bool {
        self.0.contains(transaction)
    }
}

/// Its name, its schema, and whether only rows with even keys were asked for.
#[derive(PartialEq)]
struct ModelTable(&'static str, PartialSchema, bool);

struct PartialSchema(Arc<TableSchema>);

impl PartialEq for PartialSchema {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Table for ModelTable {
    fn name(&self) -> TableName {
        ("s".to_owned(), self.0.to_owned())
    }
    fn schema(&self) -> &Arc<TableSchema> {
        &self.1.0
    }
    fn is_chunkable(&self) -> bool {
        self.0 == "keyed"
    }
}

struct ModelRows(Vec<(u32, Row)>);

impl Rows for ModelRows {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn bytes(&self) -> usize {
        // Rows of a size that makes chunks of a few.
        self.0.len() << 18
    }
    fn write_key(&self, index: usize, out: &mut Vec<u8>) -> Result<(), ConnectorError> {
        out.extend_from_slice(&self.0[index].0.to_be_bytes());
        Ok(())
    }
    fn retain(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.0.retain(|_| *keep.next().unwrap());
    }
}

/// Is pending for a few polls.
async fn wait(world: &Mutex<World>) {
    let mut left = world.lock().unwrap().dice(4);
    std::future::poll_fn(|_| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        Poll::Pending
    })
    .await;
}

fn key_of(key: &Key) -> u32 {
    key[0].parse().unwrap()
}

impl Model {
    /// What a snapshot that is taken now sees, and the end of the stream.
    fn snapshot(&self) -> (Sees, usize) {
        let world = self.world.lock().unwrap();
        (Sees(world.visible.clone()), world.log.len())
    }

    fn range(&self, sees: &Sees, request: &ChunkRequest<ModelTable>) -> Vec<(u32, Row)> {
        let world = self.world.lock().unwrap();
        let (after, upto) =
            (request.range.after.as_ref().map(key_of), request.range.upto.as_ref().map(key_of));
        let rows = world.tables(|n| sees.sees(&n)).0.into_iter();
        let rows = rows.filter(|(key, _)| !request.table.2 || key % 2 == 0);
        rows.filter(|(key, _)| after.is_none_or(|a| *key > a) && upto.is_none_or(|u| *key <= u)).collect()
    }
}

impl Database for Model {
    type Connection = ();
    type Table = ModelTable;
    type Rows = ModelRows;
    type Visible = Sees;
    type Position = usize;
    type Seen = (BTreeSet<usize>, usize);
    type Whole = (Sees, usize, Vec<(u32, Row)>);

    async fn connect(&self) -> Result<(), ConnectorError> {
        wait(&self.world).await;
        Ok(())
    }
    async fn settle(&self, (): &mut ()) -> Result<(), ConnectorError> {
        while !(0..self.delivered).all(|n| self.world.lock().unwrap().visible.contains(&n)) {
            let mut polled = false;
            std::future::poll_fn(|_| {
                if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        Ok(())
    }
    async fn estimate(
        &self,
        (): &mut (),
        tables: &[TableName],
    ) -> Result<Vec<(TableName, u64)>, ConnectorError> {
        wait(&self.world).await;
        Ok(tables.iter().map(|table| (table.clone(), 30)).collect())
    }
    async fn last_key(&self, (): &mut (), _table: &ModelTable) -> Result<Option<Key>, ConnectorError> {
        wait(&self.world).await;
        let (sees, _) = self.snapshot();
        let last = self.world.lock().unwrap().tables(|n| sees.sees(&n)).0.keys().max().copied();
        wait(&self.world).await;
        Ok(last.map(|key| vec![key.to_string()]))
    }
    async fn bound(
        &self,
        (): &mut (),
        request: &ChunkRequest<ModelTable>,
    ) -> Result<Option<Key>, ConnectorError> {
        wait(&self.world).await;
        let rows = self.range(&self.snapshot().0, request);
        wait(&self.world).await;
        Ok(rows.get(request.rows as usize - 1).map(|(key, _)| vec![key.to_string()]))
    }
    async fn read(
        &self,
        (): &mut (),
        request: &ChunkRequest<ModelTable>,
    ) -> Result<Chunk<Self>, ConnectorError> {
        wait(&self.world).await;
        let (visible, high) = self.snapshot();
        let mut rows = self.range(&visible, request);
        wait(&self.world).await;
        let is_complete = rows.len() < request.rows as usize;
        rows.truncate(request.rows as usize);
        let last_key = rows.last().map(|(key, _)| vec![key.to_string()]);
        Ok(Chunk { rows: ModelRows(rows), visible, high, last_key, is_complete })
    }
    async fn open(&self, (): (), _table: Arc<ModelTable>) -> Result<Self::Whole, ConnectorError> {
        wait(&self.world).await;
        let (visible, high) = self.snapshot();
        let whole = self.world.lock().unwrap().tables(|n| visible.sees(&n)).1;
        let each = |(row, n): (u32, i32)| std::iter::repeat_n((row, (0, 0)), usize::try_from(n).unwrap());
        Ok((visible, high, whole.into_iter().flat_map(each).collect()))
    }
    async fn reopen(&self, _whole: Self::Whole) -> Result<Self::Whole, ConnectorError> {
        self.open((), Arc::new(table("whole"))).await
    }
    fn visible(whole: &Self::Whole) -> &Sees {
        &whole.0
    }
    async fn piece(&self, mut whole: Self::Whole) -> Result<(Self::Whole, Chunk<Self>), ConnectorError> {
        wait(&self.world).await;
        let rest = whole.2.split_off(whole.2.len().min(3));
        let rows = ModelRows(std::mem::replace(&mut whole.2, rest));
        let is_complete = whole.2.is_empty();
        let piece = Chunk { rows, visible: whole.0.clone(), high: whole.1, last_key: None, is_complete };
        Ok((whole, piece))
    }
    fn seen(piece: &Chunk<Self>) -> Self::Seen {
        (piece.visible.0.clone(), piece.high)
    }
    fn spawn<T: Send + 'static>(work: Work<T>) -> Work<T> {
        work
    }
}

fn table(name: &'static str) -> ModelTable {
    let key = SchemaBuilder::structure().field("id", SchemaBuilder::new(SchemaType::Int32).build()).build();
    let keyed = name == "keyed";
    ModelTable(
        name,
        PartialSchema(Arc::new(TableSchema {
            topic: name.into(),
            key: keyed.then(|| Arc::clone(&key)),
            key_columns: if keyed { vec![0] } else { vec![] },
            value: Arc::clone(&key),
            envelope: key,
        })),
        false,
    )
}

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
        Report::of(self.progress.as_ref(), &self.on_demand).reading.is_none()
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
