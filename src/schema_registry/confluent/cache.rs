//! What the registry said once and will not say differently: ids stand for one schema forever.
//!
//! Bounded in bytes: a cache that is full is emptied, and what is still in use comes back with one request each. That is rare (64
//! MiB are thousands of wide tables) and needs no bookkeeping per read.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, PoisonError, RwLock},
};

/// Bytes of all schemas and subjects kept.
const BYTES_MAX: usize = 64 << 20;

/// Answers kept.
pub(super) struct Cache {
    schemas: Bounded<u32, Arc<str>>,
    ids: Bounded<(String, String), u32>,
}

struct Bounded<K, V> {
    inner: RwLock<(HashMap<K, V>, usize)>,
    bytes_max: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { schemas: Bounded::new(BYTES_MAX / 2), ids: Bounded::new(BYTES_MAX / 2) }
    }
}

impl Cache {
    pub(super) fn schema(&self, id: u32) -> Option<Arc<str>> {
        self.schemas.get(&id)
    }
    pub(super) fn keep_schema(&self, id: u32, schema: &Arc<str>) {
        self.schemas.keep(id, Arc::clone(schema), schema.len());
    }
    /// The id of a schema that is registered under a subject.
    pub(super) fn id(&self, subject: &str, schema: &str) -> Option<u32> {
        self.ids.get(&(subject.to_owned(), schema.to_owned()))
    }
    pub(super) fn keep_id(&self, subject: &str, schema: &str, id: u32) {
        self.ids.keep((subject.to_owned(), schema.to_owned()), id, subject.len() + schema.len());
    }
}

impl<K: Eq + Hash, V: Clone> Bounded<K, V> {
    fn new(bytes_max: usize) -> Self {
        Self { inner: RwLock::default(), bytes_max }
    }
    fn get(&self, key: &K) -> Option<V> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).0.get(key).cloned()
    }
    fn keep(&self, key: K, value: V, bytes: usize) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.1.saturating_add(bytes) > self.bytes_max {
            *inner = (HashMap::new(), 0);
        }
        if inner.0.insert(key, value).is_none() {
            inner.1 += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_it_may() {
        let cache = Bounded::new(10);
        cache.keep(1, "a", 4);
        cache.keep(1, "a", 4);
        cache.keep(2, "b", 4);
        assert_eq!((cache.get(&1), cache.get(&2)), (Some("a"), Some("b")));
        cache.keep(3, "c", 4);
        assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (None, None, Some("c")));
    }
}
