//! Which keys the stream has delivered since the last chunk's snapshot, and by which transactions.

use std::collections::{HashMap, HashSet};

use rowstream_api::ConnectorError;

use super::visibility::Visible;
use crate::{
    replication::malformed,
    stream::{
        assemble::{Entry, EntryKind, RawBatch},
        changes::Images,
    },
    table::TablePlan,
    tuple::TupleRow,
    wire::pgoutput::{CellKind, Relation, RowChange},
};

/// Above this only the transactions are remembered, and chunks are read again instead.
const BYTES_MAX: usize = 32 << 20;
/// What a remembered key costs beside its bytes.
const KEY_COST: usize = 96;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Touch {
    xid: u32,
    /// The new row lacked a value that did not change.
    incomplete: bool,
}

#[derive(Debug, Default)]
struct TableTouches {
    keys: HashMap<Vec<u8>, Vec<Touch>>,
    /// Transactions that truncated the table.
    truncates: HashSet<u32>,
    /// Transactions whose keys are not known: there were too many, or the table's shape changed.
    unknown: HashSet<u32>,
    key_names: Vec<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Touched {
    tables: HashMap<(String, String), TableTouches>,
    bytes: usize,
}

/// What is known of a chunk's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No transaction touched it that the chunk does not see.
    Fresh,
    /// The stream has told a newer state of it.
    Stale,
    /// The stream has told only a part of a newer state, or it is not known what it told.
    Unclear,
}

/// A row's key as bytes: each column's length and text.
fn key_bytes(row: &TupleRow<'_>, out: &mut Vec<u8>) {
    out.clear();
    for index in &row.plan.schema.key_columns {
        let text = row.cell(*index).and_then(|cell| row.text(cell)).unwrap_or_default();
        out.extend_from_slice(&text.len().to_be_bytes());
        out.extend_from_slice(text);
    }
}

fn key_names(plan: &TablePlan) -> Vec<String> {
    plan.schema.key_columns.iter().filter_map(|i| plan.columns.get(*i)).map(|c| c.name.clone()).collect()
}

fn name_of(relation: &Relation) -> (String, String) {
    (relation.namespace.clone(), relation.name.clone())
}

impl Touched {
    /// Remembers a batch of the stream. `plans` are its relations' plans; only tables of `todo` matter.
    ///
    /// # Errors
    /// Malformed bytes.
    pub fn record(
        &mut self,
        raw: &RawBatch,
        plans: &[Option<std::sync::Arc<TablePlan>>],
        todo: &[(String, String)],
    ) -> Result<(), ConnectorError> {
        let watched: Vec<Option<&TablePlan>> = plans
            .iter()
            .map(|plan| plan.as_deref().filter(|p| todo.contains(&name_of(&p.relation))))
            .collect();
        if watched.iter().all(Option::is_none) {
            return Ok(());
        }
        for entry in &raw.entries {
            let plan = watched.get(entry.relation as usize).copied().flatten();
            let transaction = raw.transactions.get(entry.transaction as usize);
            if let (Some(plan), Some(transaction)) = (plan, transaction) {
                self.entry(raw, entry, plan, transaction.xid)?;
            }
        }
        if self.bytes > BYTES_MAX {
            self.forget_keys();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        raw: &RawBatch,
        entry: &Entry,
        plan: &TablePlan,
        xid: u32,
    ) -> Result<(), ConnectorError> {
        let table = self
            .tables
            .entry(name_of(&plan.relation))
            .or_insert_with(|| TableTouches { key_names: key_names(plan), ..TableTouches::default() });
        if entry.kind == EntryKind::Truncate {
            table.truncates.insert(xid);
            return Ok(());
        }
        if plan.schema.key.is_none() || table.key_names != key_names(plan) {
            table.unknown.insert(xid);
            return Ok(());
        }
        let message = raw.arena.get(entry.start as usize..entry.end as usize).unwrap_or_default();
        let mut cells = Vec::new();
        let change = RowChange::decode(message, &mut cells).map_err(malformed)?;
        let images = Images::of(plan, message, change, &cells)?;
        let mut key = Vec::new();
        for row in images.old.iter().chain(&images.new) {
            let incomplete = (0..row.cells.len())
                .any(|i| row.cell(i).is_some_and(|cell| cell.kind == CellKind::Unchanged));
            key_bytes(row, &mut key);
            let touch = Touch { xid, incomplete };
            match table.keys.get_mut(&key) {
                Some(touches) if touches.last() == Some(&touch) => {}
                Some(touches) => {
                    touches.push(touch);
                    self.bytes += size_of::<Touch>();
                }
                None => {
                    self.bytes += key.len() + KEY_COST;
                    table.keys.insert(key.clone(), vec![touch]);
                }
            }
        }
        Ok(())
    }

    fn forget_keys(&mut self) {
        for table in self.tables.values_mut() {
            table.unknown.extend(table.keys.drain().flat_map(|(_, touches)| touches).map(|touch| touch.xid));
        }
        self.bytes = 0;
    }

    /// Forgets what `visible`, and so every later snapshot, sees.
    pub fn forget_visible(&mut self, visible: &Visible) {
        let mut bytes = 0;
        for table in self.tables.values_mut() {
            table.truncates.retain(|xid| !visible.sees(*xid));
            table.unknown.retain(|xid| !visible.sees(*xid));
            table.keys.retain(|key, touches| {
                touches.retain(|touch| !visible.sees(touch.xid));
                bytes += key.len() + KEY_COST + touches.len() * size_of::<Touch>();
                !touches.is_empty()
            });
        }
        self.tables.retain(|_, t| !(t.keys.is_empty() && t.truncates.is_empty() && t.unknown.is_empty()));
        self.bytes = bytes;
    }

    /// Whether `visible` sees every transaction that touched the table.
    #[must_use]
    pub fn all_visible(&self, relation: &Relation, visible: &Visible) -> bool {
        self.tables.get(&name_of(relation)).is_none_or(|table| {
            let keys = table.keys.values().flatten().map(|touch| &touch.xid);
            keys.chain(&table.truncates).chain(&table.unknown).all(|xid| visible.sees(*xid))
        })
    }

    /// Where the rows of a chunk stand; a function, because most chunks need no look at all.
    pub fn standing<'a>(
        &'a self,
        plan: &TablePlan,
        visible: &'a Visible,
    ) -> impl FnMut(&TupleRow<'_>) -> Standing + 'a {
        let table = self.tables.get(&name_of(&plan.relation));
        let truncated = table.is_some_and(|t| t.truncates.iter().any(|xid| !visible.sees(*xid)));
        let unclear = table.is_some_and(|t| {
            t.unknown.iter().any(|xid| !visible.sees(*xid))
                || (!t.keys.is_empty() && t.key_names != key_names(plan))
        });
        let mut key = Vec::new();
        move |row| {
            if unclear {
                return Standing::Unclear;
            }
            if truncated {
                return Standing::Stale;
            }
            let Some(table) = table else { return Standing::Fresh };
            key_bytes(row, &mut key);
            let unseen = table.keys.get(&key).into_iter().flatten().filter(|touch| !visible.sees(touch.xid));
            unseen.fold(Standing::Fresh, |standing, touch| match (standing, touch.incomplete) {
                (Standing::Unclear, _) | (_, true) => Standing::Unclear,
                (Standing::Fresh | Standing::Stale, false) => Standing::Stale,
            })
        }
    }
}
