//! Which keys the stream has delivered since the last chunk's snapshot, and by which transactions.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use rowstream_api::{ConnectorError, RowView, ValueRef};

use super::visibility::{TransactionId, Visible};
use crate::{
    stream::{
        batch::{EntryKind, RawBatch},
        changes::{Cells, images, is_incomplete},
    },
    table::TablePlan,
    tuple::Row,
};

/// Above this only the transactions are remembered, and chunks are read again instead.
const BYTES_MAX: usize = 32 << 20;
/// What a remembered key costs beside its bytes.
const KEY_COST: usize = 96;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Touch {
    transaction: Arc<TransactionId>,
    /// The new row lacked a value that did not change.
    incomplete: bool,
}

#[derive(Debug, Default)]
struct TableTouches {
    keys: HashMap<Vec<u8>, Vec<Touch>>,
    /// Transactions that truncated the table.
    truncates: Vec<Arc<TransactionId>>,
    /// Transactions whose keys are not known: there were too many, or the table's key changed.
    unknown: Vec<Arc<TransactionId>>,
    key_names: Vec<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Touched {
    tables: HashMap<(String, String), TableTouches>,
    /// Tables of which the stream has told rows in part, since the run began.
    incomplete: HashSet<(String, String)>,
    bytes: usize,
}

/// What is known of a chunk's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No transaction touched it that the chunk may not see.
    Fresh,
    /// The stream has told a newer state of it.
    Stale,
    /// The stream has told only a part of a newer state, or it is not known what it told.
    Unclear,
}

/// A row's key as bytes, the same from the stream and from the snapshot.
fn key_bytes(row: &Row<'_>, out: &mut Vec<u8>) -> Result<(), ConnectorError> {
    out.clear();
    for index in &row.plan.schema.key_columns {
        let length = out.len();
        match row.column(*index)? {
            ValueRef::Int(number) => out.extend_from_slice(&number.to_be_bytes()),
            ValueRef::Str(text) => out.extend_from_slice(text.as_bytes()),
            ValueRef::Decimal(text) => {
                let (sign, digits) = text.strip_prefix('-').map_or(("", &*text), |digits| ("-", digits));
                out.extend_from_slice(sign.as_bytes());
                out.extend_from_slice(digits.trim_start_matches('0').as_bytes());
            }
            ValueRef::Bytes(bytes) => out.extend_from_slice(&bytes),
            // Types that are no part of keys that chunks are read by; any text that tells values apart will do.
            other @ (ValueRef::Null
            | ValueRef::Unavailable
            | ValueRef::Absent
            | ValueRef::Bool(_)
            | ValueRef::Float32(_)
            | ValueRef::Float64(_)
            | ValueRef::Hex(_)
            | ValueRef::ZonedMicros(_)
            | ValueRef::Array(_)
            | ValueRef::Struct(_)
            | ValueRef::Map(_)) => out.extend_from_slice(format!("{other:?}").as_bytes()),
        }
        out.extend_from_slice(&(out.len() - length).to_be_bytes());
    }
    Ok(())
}

fn key_names(plan: &TablePlan) -> Vec<String> {
    plan.schema.key_columns.iter().filter_map(|i| plan.columns.get(*i)).map(|c| c.name.clone()).collect()
}

fn name_of(plan: &TablePlan) -> (String, String) {
    (plan.shape.database.clone(), plan.shape.table.clone())
}

impl Touched {
    /// Remembers a batch of the stream. `plans` are its tables' plans; only tables of `todo` matter.
    ///
    /// # Errors
    /// Malformed bytes.
    pub fn record(
        &mut self,
        raw: &RawBatch,
        plans: &[Option<Arc<TablePlan>>],
        todo: &[(String, String)],
    ) -> Result<(), ConnectorError> {
        let watched: Vec<Option<&TablePlan>> =
            plans.iter().map(|plan| plan.as_deref().filter(|p| todo.contains(&name_of(p)))).collect();
        if watched.iter().all(Option::is_none) {
            return Ok(());
        }
        let ids: Vec<Arc<TransactionId>> =
            raw.transactions.iter().map(|t| Arc::new(TransactionId::of(t))).collect();
        let mut cells = Cells::default();
        for entry in &raw.rows.entries {
            let Some(info) = raw.rows.events.get(entry.event as usize) else { continue };
            let plan = watched.get(info.table as usize).copied().flatten();
            let table = raw.rows.tables.get(info.table as usize);
            let (Some(plan), Some(table), Some(id)) = (plan, table, ids.get(info.transaction as usize))
            else {
                continue;
            };
            let touches = self
                .tables
                .entry(name_of(plan))
                .or_insert_with(|| TableTouches { key_names: key_names(plan), ..TableTouches::default() });
            if entry.kind == EntryKind::Truncate {
                touches.truncates.push(Arc::clone(id));
            } else if plan.schema.key.is_none() || touches.key_names != key_names(plan) {
                if touches.unknown.last() != Some(id) {
                    touches.unknown.push(Arc::clone(id));
                }
                self.incomplete.insert(name_of(plan));
            } else {
                let images = images(plan, &table.widths, &raw.rows.arena, (entry, info), &mut cells)?;
                let mut key = Vec::new();
                for row in images.old.iter().chain(&images.new) {
                    key_bytes(row, &mut key)?;
                    let touch = Touch {
                        transaction: Arc::clone(id),
                        incomplete: row.before.is_some() && is_incomplete(row),
                    };
                    if touch.incomplete {
                        self.incomplete.insert(name_of(plan));
                    }
                    self.bytes += touches.remember(&key, touch);
                }
            }
        }
        if self.bytes > BYTES_MAX {
            self.forget_keys();
        }
        Ok(())
    }

    fn forget_keys(&mut self) {
        for table in self.tables.values_mut() {
            let mut known = HashSet::new();
            let touches = table.keys.drain().flat_map(|(_, touches)| touches);
            table.unknown.extend(touches.map(|t| t.transaction).filter(|t| known.insert(Arc::as_ptr(t))));
        }
        self.bytes = 0;
    }

    /// Forgets what `visible`, and so every later snapshot, sees.
    pub fn forget_visible(&mut self, visible: &Visible) {
        let mut bytes = 0;
        for table in self.tables.values_mut() {
            table.truncates.retain(|id| !visible.sees(id));
            table.unknown.retain(|id| !visible.sees(id));
            table.keys.retain(|key, touches| {
                touches.retain(|touch| !visible.sees(&touch.transaction));
                bytes += key.len() + KEY_COST + touches.len() * size_of::<Touch>();
                !touches.is_empty()
            });
        }
        self.tables.retain(|_, t| !(t.keys.is_empty() && t.truncates.is_empty() && t.unknown.is_empty()));
        self.bytes = bytes;
    }

    /// Whether the stream may have told a row of the table in part.
    #[must_use]
    pub fn told_in_part(&self, table: &(String, String)) -> bool {
        self.incomplete.contains(table)
    }

    /// Whether `visible` sees every transaction that touched the table.
    #[must_use]
    pub fn all_visible(&self, plan: &TablePlan, visible: &Visible) -> bool {
        self.tables.get(&name_of(plan)).is_none_or(|table| {
            let keys = table.keys.values().flatten().map(|touch| &touch.transaction);
            keys.chain(&table.truncates).chain(&table.unknown).all(|id| visible.sees(id))
        })
    }

    /// Where the rows of a chunk stand.
    pub fn standing<'a>(
        &'a self,
        plan: &TablePlan,
        visible: &'a Visible,
    ) -> impl FnMut(&Row<'_>) -> Result<Standing, ConnectorError> + 'a {
        let table = self.tables.get(&name_of(plan));
        let unseen = |ids: &[Arc<TransactionId>]| ids.iter().any(|id| !visible.sees(id));
        let truncated = table.is_some_and(|t| unseen(&t.truncates));
        let unclear = table
            .is_some_and(|t| unseen(&t.unknown) || (!t.keys.is_empty() && t.key_names != key_names(plan)));
        let mut key = Vec::new();
        move |row| {
            if unclear {
                return Ok(Standing::Unclear);
            }
            if truncated {
                return Ok(Standing::Stale);
            }
            let Some(table) = table.filter(|table| !table.keys.is_empty()) else {
                return Ok(Standing::Fresh);
            };
            key_bytes(row, &mut key)?;
            let touches = table.keys.get(&key).into_iter().flatten();
            let unseen = touches.filter(|touch| !visible.sees(&touch.transaction));
            Ok(unseen.fold(Standing::Fresh, |standing, touch| match (standing, touch.incomplete) {
                (Standing::Unclear, _) | (_, true) => Standing::Unclear,
                (Standing::Fresh | Standing::Stale, false) => Standing::Stale,
            }))
        }
    }
}

impl TableTouches {
    /// Remembers a touch; answers what it costs.
    fn remember(&mut self, key: &[u8], touch: Touch) -> usize {
        match self.keys.get_mut(key) {
            Some(touches) if touches.last() == Some(&touch) => 0,
            Some(touches) => {
                touches.push(touch);
                size_of::<Touch>()
            }
            None => {
                self.keys.insert(key.to_vec(), vec![touch]);
                key.len() + KEY_COST
            }
        }
    }
}
