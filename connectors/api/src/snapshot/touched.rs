//! Which keys the stream has delivered that a chunk may not see, and by which transactions.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use super::database::{Rows, TableName, Visibility};
use crate::{change::TableSchema, error::ConnectorError};

/// Above this only the transactions are remembered, and chunks are read again instead.
const BYTES_MAX: usize = 32 << 20;
/// What a remembered key costs beside its bytes.
const KEY_COST: usize = 96;

/// What the stream told of a table.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// It was emptied.
    Truncate,
    /// A row that has, or had, this key.
    Key {
        /// The key, in the form of [`Rows::write_key`].
        key: &'a [u8],
        /// The new row lacked a value that did not change.
        incomplete: bool,
    },
    /// A row whose key is not known.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Touch<X> {
    transaction: X,
    incomplete: bool,
}

#[derive(Debug)]
struct TableTouches<X> {
    /// The shape that the keys are of.
    schema: Arc<TableSchema>,
    keys: HashMap<Vec<u8>, Vec<Touch<X>>>,
    /// Transactions that truncated the table.
    truncates: HashSet<X>,
    /// Transactions whose keys are not known: there were too many, or the table's key changed.
    unknown: HashSet<X>,
}

/// See the module. `X` is what the stream says of a transaction.
#[derive(Debug)]
pub struct Touched<X> {
    tables: HashMap<TableName, TableTouches<X>>,
    /// Tables of which the stream has told rows in part, since the run began.
    incomplete: HashSet<TableName>,
    bytes: usize,
}

impl<X> Default for Touched<X> {
    fn default() -> Self {
        Self { tables: HashMap::new(), incomplete: HashSet::new(), bytes: 0 }
    }
}

/// Whether keys of both shapes can be compared.
pub(super) fn has_same_key(a: &Arc<TableSchema>, b: &Arc<TableSchema>) -> bool {
    let names = |schema: &TableSchema| -> Option<Vec<String>> {
        schema.key.as_ref().map(|key| key.fields().iter().map(|field| field.name.clone()).collect())
    };
    Arc::ptr_eq(a, b) || names(a) == names(b)
}

impl<X: Clone + Eq + Hash> Touched<X> {
    /// Remembers what a transaction of the stream did to a table.
    pub fn record(&mut self, name: &TableName, schema: &Arc<TableSchema>, transaction: &X, told: Told<'_>) {
        if !self.tables.contains_key(name) {
            let (keys, truncates, unknown) = (HashMap::new(), HashSet::new(), HashSet::new());
            self.tables
                .insert(name.clone(), TableTouches { schema: Arc::clone(schema), keys, truncates, unknown });
        }
        let Some(table) = self.tables.get_mut(name) else { return };
        match told {
            Told::Truncate => {
                table.truncates.insert(transaction.clone());
            }
            Told::Key { key, incomplete } if has_same_key(&table.schema, schema) => {
                table.schema = Arc::clone(schema); // Compared by its address next time.
                if incomplete && !self.incomplete.contains(name) {
                    self.incomplete.insert(name.clone());
                }
                self.bytes += table.remember(key, Touch { transaction: transaction.clone(), incomplete });
            }
            Told::Key { .. } | Told::Unknown => {
                table.unknown.insert(transaction.clone());
                self.incomplete.insert(name.clone());
            }
        }
        if self.bytes > BYTES_MAX {
            self.forget_keys();
        }
    }

    fn forget_keys(&mut self) {
        for table in self.tables.values_mut() {
            table.unknown.extend(table.keys.drain().flat_map(|(_, touches)| touches).map(|t| t.transaction));
        }
        self.bytes = 0;
    }

    /// Forgets what every chunk sees that is not delivered yet.
    pub(super) fn forget(&mut self, seen: impl Fn(&X) -> bool) {
        let mut bytes = 0;
        for table in self.tables.values_mut() {
            table.truncates.retain(|transaction| !seen(transaction));
            table.unknown.retain(|transaction| !seen(transaction));
            table.keys.retain(|key, touches| {
                touches.retain(|touch| !seen(&touch.transaction));
                bytes += key.len() + KEY_COST + touches.len() * size_of::<Touch<X>>();
                !touches.is_empty()
            });
        }
        self.tables.retain(|_, t| !(t.keys.is_empty() && t.truncates.is_empty() && t.unknown.is_empty()));
        self.bytes = bytes;
    }

    /// Whether the stream may have told a row of the table in part.
    pub(super) fn told_in_part(&self, table: &TableName) -> bool {
        self.incomplete.contains(table)
    }

    /// Whether `visible` sees every transaction that touched the table.
    pub(super) fn all_visible<V>(&self, table: &TableName, visible: &V) -> bool
    where
        V: Visibility<Transaction = X>,
    {
        self.tables.get(table).is_none_or(|table| {
            let keys = table.keys.values().flatten().map(|touch| &touch.transaction);
            keys.chain(&table.truncates).chain(&table.unknown).all(|transaction| visible.sees(transaction))
        })
    }

    /// Leaves out the rows of a chunk that the stream has told newer states of. `false`: of one the stream has told only a part,
    /// or it is not known what it told, and the chunk must be read again.
    pub(super) fn leave_out<V>(
        &self,
        (name, schema): (&TableName, &Arc<TableSchema>),
        visible: &V,
        rows: &mut impl Rows,
    ) -> Result<bool, ConnectorError>
    where
        V: Visibility<Transaction = X>,
    {
        let Some(table) = self.tables.get(name) else { return Ok(true) };
        let is_unseen = |transaction: &X| !visible.sees(transaction);
        if rows.is_empty() {
            return Ok(true);
        }
        if table.unknown.iter().any(is_unseen)
            || (!table.keys.is_empty() && !has_same_key(&table.schema, schema))
        {
            return Ok(false);
        }
        if table.truncates.iter().any(is_unseen) {
            rows.retain(&vec![false; rows.len()]);
            return Ok(true);
        }
        if table.keys.is_empty() {
            return Ok(true);
        }
        let mut fresh = Vec::with_capacity(rows.len());
        let mut key = Vec::new();
        for index in 0..rows.len() {
            key.clear();
            rows.write_key(index, &mut key)?;
            let touches = table.keys.get(key.as_slice()).into_iter().flatten();
            let mut unseen = touches.filter(|touch| is_unseen(&touch.transaction)).peekable();
            fresh.push(unseen.peek().is_none());
            if unseen.any(|touch| touch.incomplete) {
                return Ok(false);
            }
        }
        if fresh.contains(&false) {
            rows.retain(&fresh);
        }
        Ok(true)
    }
}

impl<X: PartialEq> TableTouches<X> {
    /// Remembers a touch; answers what it costs.
    fn remember(&mut self, key: &[u8], touch: Touch<X>) -> usize {
        match self.keys.get_mut(key) {
            Some(touches) if touches.last() == Some(&touch) => 0,
            Some(touches) => {
                touches.push(touch);
                size_of::<Touch<X>>()
            }
            None => {
                self.keys.insert(key.to_vec(), vec![touch]);
                key.len() + KEY_COST
            }
        }
    }
}
