//! The chunks of one table, in key order: which are to be read, being read, and waiting to be delivered.
//!
//! ```text
//!  delivered │ slot: held │ slot: reading │ slot: waiting │ … rest of the table │ end
//!            ▲ progress.last_key                          ▲ the finder asks where the next slot ends
//! ```
//! Slots lie side by side without a gap. A slot whose reading stopped early is cut in two where it stopped. With one reader nobody needs
//! to know where a chunk will end: the rest is one slot, and each reading cuts its chunk off.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    database::{Chunk, ChunkRequest, Database, Key, KeyRange, Rows as _, Table as _, Visibility as _, Work},
    run::{Readers, Transaction},
    touched::Touched,
};
use crate::error::{Attempting, ConnectorError};

/// Rows of a table's first chunks, before their size is known.
const FIRST_ROWS: u32 = 500;
/// How often in a row a chunk's rows can be halved.
const SHRINK_MAX: u32 = 31;

type WithConnection<D, T> = Work<(<D as Database>::Connection, T)>;

enum State<D: Database> {
    Waiting,
    Reading {
        work: WithConnection<D, Chunk<D>>,
        /// What the newest snapshot saw that was known when the reading began; its own sees that too.
        floor: Option<D::Visible>,
        /// Rows that it should have.
        expected: u32,
    },
    Held(Chunk<D>),
}

struct Slot<D: Database> {
    range: KeyRange,
    state: State<D>,
}

impl<D: Database> Slot<D> {
    fn waiting(range: KeyRange) -> Self {
        Self { range, state: State::Waiting }
    }
    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }
    fn is_reading(&self) -> bool {
        matches!(self.state, State::Reading { .. })
    }
}

/// What of the table is in no slot yet.
enum Rest<D: Database> {
    /// All, and where it ends is being asked.
    Ending(Option<WithConnection<D, Option<Key>>>),
    /// These keys; perhaps the end of its next slot is being asked.
    Keys(KeyRange, Option<WithConnection<D, Option<Key>>>),
    /// Nothing.
    Nothing,
}

/// See the module.
pub(super) struct ChunkQueue<D: Database> {
    slots: VecDeque<Slot<D>>,
    rest: Rest<D>,
    /// The table's last key when its reading began.
    pub(super) end: Option<Key>,
    /// What the newest known snapshot saw.
    latest: Option<D::Visible>,
    /// How much smaller chunks are read for now.
    shrink: u32,
    bytes_per_row: Option<usize>,
}

impl<D: Database> ChunkQueue<D> {
    /// The table from its begin, or after the last delivered key up to where it ended.
    pub(super) fn new(last_key: Option<Key>, end_key: Option<Key>) -> Self {
        let rest = match last_key {
            None => Rest::Ending(None),
            after => Rest::Keys(KeyRange { after, upto: end_key }, None),
        };
        Self { slots: VecDeque::new(), rest, end: None, latest: None, shrink: 0, bytes_per_row: None }
    }

    /// Everything is delivered that was to be read.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && matches!(self.rest, Rest::Nothing)
    }

    /// More is to be read, after what was delivered.
    pub(super) fn go_on(&mut self, range: KeyRange) {
        self.rest = Rest::Keys(range, None);
    }

    /// Everything that is read or being read is read again.
    pub(super) fn read_again(&mut self) {
        for slot in &mut self.slots {
            slot.state = State::Waiting;
        }
        if let Rest::Ending(finding) | Rest::Keys(_, finding) = &mut self.rest {
            *finding = None;
        }
    }

    /// The position that the first chunk waits for.
    pub(super) fn waits_for(&self) -> Option<&D::Position> {
        match &self.slots.front()?.state {
            State::Held(chunk) => Some(&chunk.high),
            State::Waiting | State::Reading { .. } => None,
        }
    }

    /// Rows that make a chunk of a good size: a bit less than its bytes, so that it rarely ends early.
    fn rows(&self, readers: &Readers<D>) -> u32 {
        match self.bytes_per_row {
            None => readers.chunk_rows().min(FIRST_ROWS),
            Some(bytes) => {
                let fit = readers.chunk_bytes() / 4 * 3 / bytes.max(1);
                u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, readers.chunk_rows())
            }
        }
    }

    /// Begins what can be begun: readings of the slots in front, and the search for the end of the next one. Beside the first slot
    /// no more are read or held than there are readers.
    pub(super) fn start(&mut self, table: &Arc<D::Table>, readers: &mut Readers<D>) {
        self.cut_rest(table, readers);
        let mut reading = self.slots.iter().filter(|slot| slot.is_reading()).count();
        let mut ahead = self.slots.iter().skip(1).filter(|slot| !slot.is_waiting()).count();
        // A slot between known keys has the rows that it was cut for, and some that were inserted since.
        let few = (self.rows(readers) >> self.shrink).max(1);
        let many = if self.shrink == 0 && readers.count > 1 { few.saturating_mul(2) } else { few };
        for (place, slot) in self.slots.iter_mut().enumerate() {
            if !slot.is_waiting() || reading >= readers.count || (place > 0 && ahead >= readers.count) {
                continue;
            }
            if !readers.may_begin(few) {
                break;
            }
            let rows = if slot.range.upto.is_some() { many } else { few };
            let request = ChunkRequest {
                table: Arc::clone(table),
                range: slot.range.clone(),
                rows,
                bytes: readers.chunk_bytes(),
            };
            let work = readers.work(move |database, mut connection| async move {
                let read = database.read(&mut connection, &request).await;
                Ok((connection, read.attempting(|| "read a chunk of the snapshot".into())?))
            });
            slot.state = State::Reading { work, floor: self.latest.clone(), expected: few };
            reading += 1;
            ahead += usize::from(place > 0);
        }
    }

    fn cut_rest(&mut self, table: &Arc<D::Table>, readers: &mut Readers<D>) {
        let rows = self.rows(readers);
        match &mut self.rest {
            Rest::Ending(finding @ None) => {
                let table = Arc::clone(table);
                *finding = Some(readers.work(move |database, mut connection| async move {
                    let key = database.last_key(&mut connection, &table).await;
                    Ok((connection, key.attempting(|| "look for the end of a table".into())?))
                }));
            }
            Rest::Keys(range, None) if readers.count == 1 => {
                self.slots.push_back(Slot::waiting(std::mem::take(range)));
                self.rest = Rest::Nothing;
            }
            Rest::Keys(range, finding @ None) if self.slots.len() <= readers.count => {
                let (table, range) = (Arc::clone(table), range.clone());
                let request = ChunkRequest { table, range, rows, bytes: readers.chunk_bytes() };
                *finding = Some(readers.work(move |database, mut connection| async move {
                    let key = database.bound(&mut connection, &request).await;
                    Ok((connection, key.attempting(|| "look for the end of a chunk".into())?))
                }));
            }
            Rest::Keys(..) | Rest::Ending(Some(_)) | Rest::Nothing => {}
        }
    }

    /// Polls what was begun; answers whether anything came of it.
    pub(super) fn poll(
        &mut self,
        readers: &mut Readers<D>,
        touched: &mut Touched<Transaction<D>>,
        cx: &mut Context<'_>,
    ) -> Result<bool, ConnectorError> {
        let mut moved = self.poll_rest(readers, cx)?;
        let mut place = 0;
        while let Some(slot) = self.slots.get_mut(place) {
            if let State::Reading { work, expected, .. } = &mut slot.state
                && let Poll::Ready(read) = work.as_mut().poll(cx)
            {
                let (connection, chunk) = read?;
                readers.idle.push(connection);
                readers.throttle.read(chunk.rows.len(), *expected);
                self.hold(place, chunk);
                self.forget(touched);
                moved = true;
            }
            place += 1;
        }
        Ok(moved)
    }

    fn poll_rest(&mut self, readers: &mut Readers<D>, cx: &mut Context<'_>) -> Result<bool, ConnectorError> {
        let (Rest::Ending(Some(finding)) | Rest::Keys(_, Some(finding))) = &mut self.rest else {
            return Ok(false);
        };
        let Poll::Ready(found) = finding.as_mut().poll(cx) else { return Ok(false) };
        let (connection, found) = found?;
        readers.idle.push(connection);
        self.rest = match (std::mem::replace(&mut self.rest, Rest::Nothing), found) {
            (Rest::Ending(_), end) => {
                self.end.clone_from(&end);
                Rest::Keys(KeyRange { after: None, upto: end }, None)
            }
            (Rest::Keys(range, _), Some(bound)) if range.upto.as_ref() != Some(&bound) => {
                self.slots
                    .push_back(Slot::waiting(KeyRange { after: range.after, upto: Some(bound.clone()) }));
                Rest::Keys(KeyRange { after: Some(bound), upto: range.upto }, None)
            }
            (Rest::Keys(range, _), _) => {
                self.slots.push_back(Slot::waiting(range));
                Rest::Nothing
            }
            (Rest::Nothing, _) => Rest::Nothing,
        };
        Ok(true)
    }

    /// A chunk was read. What its reading did not come to becomes the next slot.
    fn hold(&mut self, place: usize, chunk: Chunk<D>) {
        self.latest = Some(chunk.visible.clone());
        if let Some(bytes) = chunk.rows.bytes().checked_div(chunk.rows.len()) {
            self.bytes_per_row = Some(bytes);
        }
        let Some(slot) = self.slots.get_mut(place) else { return };
        let stopped =
            chunk.last_key.clone().filter(|key| !chunk.is_complete && slot.range.upto.as_ref() != Some(key));
        slot.state = State::Held(chunk);
        if let Some(key) = stopped {
            let upto = slot.range.upto.replace(key.clone());
            self.slots.insert(place + 1, Slot::waiting(KeyRange { after: Some(key), upto }));
        }
    }

    /// Forgets the transactions that all chunks see: those that are held, those that are being read, and so later ones.
    fn forget(&self, touched: &mut Touched<Transaction<D>>) {
        let bounds: Option<Vec<&D::Visible>> = self
            .slots
            .iter()
            .filter_map(|slot| match &slot.state {
                State::Waiting => None,
                State::Reading { floor, .. } => Some(floor.as_ref()),
                State::Held(chunk) => Some(Some(&chunk.visible)),
            })
            .collect();
        if let Some(bounds) = bounds {
            touched.forget(|transaction| bounds.iter().all(|visible| visible.sees(transaction)));
        }
    }

    /// Takes the first chunk, without its stale rows, and the keys that it stands for; `None` when it must be read again.
    pub(super) fn release(
        &mut self,
        table: &D::Table,
        touched: &Touched<Transaction<D>>,
    ) -> Result<Option<(Chunk<D>, KeyRange)>, ConnectorError> {
        let Some(slot) = self.slots.front_mut() else { return Ok(None) };
        let State::Held(chunk) = &mut slot.state else { return Ok(None) };
        if !touched.leave_out((&table.name(), table.schema()), &chunk.visible, &mut chunk.rows)? {
            slot.state = State::Waiting;
            self.shrink = (self.shrink + 2).min(SHRINK_MAX);
            return Ok(None);
        }
        self.shrink = self.shrink.saturating_sub(1);
        let slot = self.slots.pop_front();
        Ok(slot.and_then(|slot| match slot.state {
            State::Held(chunk) => Some((chunk, slot.range)),
            State::Waiting | State::Reading { .. } => None,
        }))
    }
}
