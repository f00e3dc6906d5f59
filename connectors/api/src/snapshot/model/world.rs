//! The database: what committed, in the order of the stream, and what of it snapshots see.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use super::super::{Chunk, ChunkRequest, Database, Key, Rows, Table, TableName, Visibility, Work};
use crate::{
    change::TableSchema,
    error::ConnectorError,
    schema::{SchemaBuilder, SchemaType},
};

/// A row: its version, and a value that the stream may leave out.
pub(super) type Row = (u32, u32);

#[derive(Debug, Clone)]
pub(super) enum Change {
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
pub(super) struct World {
    pub(super) script: Vec<u8>,
    /// Committed transactions, in the order of the stream.
    pub(super) log: Vec<Vec<Change>>,
    pub(super) visible: BTreeSet<usize>,
}

impl World {
    pub(super) fn dice(&mut self, sides: u8) -> u8 {
        self.script.pop().unwrap_or(0) % sides
    }

    /// The tables as transactions up to this one left them, or those of them that `sees` says.
    pub(super) fn tables(&self, sees: impl Fn(usize) -> bool) -> (BTreeMap<u32, Row>, BTreeMap<u32, i32>) {
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
    pub(super) fn commit(&mut self) {
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
pub(super) struct Model {
    pub(super) world: Arc<Mutex<World>>,
    /// What the stream delivered before this run.
    pub(super) delivered: usize,
}

#[derive(Clone)]
pub(super) struct Sees(BTreeSet<usize>);

impl Visibility for Sees {
    type Transaction = usize;
    fn sees(&self, transaction: &usize) -> bool {
        self.0.contains(transaction)
    }
}

/// Its name, its schema, and whether only rows with even keys were asked for.
#[derive(PartialEq)]
pub(super) struct ModelTable(pub(super) &'static str, pub(super) PartialSchema, pub(super) bool);

pub(super) struct PartialSchema(Arc<TableSchema>);

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

pub(super) struct ModelRows(pub(super) Vec<(u32, Row)>);

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
    fn rest(_time: Duration) -> Work<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(super) fn table(name: &'static str) -> ModelTable {
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
