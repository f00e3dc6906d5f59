//! A topic log that is only its state.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::future::BoxFuture;
use rowstream_api::{SourceOffsets, TopicOffsets};

use crate::topic_log::{
    LogError, LogHealth, LogReader, LogWriter, StateOp, StateStore, TopicDescription, TopicFilter, TopicLog,
};

/// What the next write does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Reject,
    /// Written, but the answer is an error.
    FailAfterWrite,
}

pub(super) struct MemoryLog {
    tables: Mutex<BTreeMap<(String, String), Bytes>>,
    fault: Mutex<Fault>,
    writes: AtomicUsize,
}

impl MemoryLog {
    pub(super) fn new() -> Arc<Self> {
        let fault = Mutex::new(Fault::None);
        Arc::new(Self { tables: Mutex::default(), fault, writes: AtomicUsize::new(0) })
    }
    /// The next write, and only that.
    pub(super) fn arm(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
    pub(super) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
    pub(super) fn damage(&self, table: &str, key: &str) {
        self.tables.lock().unwrap().insert((table.into(), key.into()), Bytes::from_static(b"\xff"));
    }
    fn store(&self, ops: Vec<StateOp>) {
        let mut tables = self.tables.lock().unwrap();
        for op in ops {
            match op {
                StateOp::Put { table, key, value } => {
                    tables.insert((table, key), value);
                }
                StateOp::Delete { table, key } => {
                    tables.remove(&(table, key));
                }
            }
        }
    }
}

impl StateStore for MemoryLog {
    fn get<'a>(&'a self, table: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, LogError>> {
        let found = self.tables.lock().unwrap().get(&(table.into(), key.into())).cloned();
        Box::pin(async { Ok(found) })
    }
    fn scan<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, LogError>> {
        let tables = self.tables.lock().unwrap();
        let of_table = tables.iter().filter(|((t, _), _)| t == table);
        let entries = of_table.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        Box::pin(async { Ok(entries) })
    }
    fn write(&self, ops: Vec<StateOp>) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            // Lets others run between decision and effect, as a disk does.
            tokio::task::yield_now().await;
            self.writes.fetch_add(1, Ordering::SeqCst);
            let fault = std::mem::replace(&mut *self.fault.lock().unwrap(), Fault::None);
            if fault != Fault::Reject {
                self.store(ops);
            }
            if fault == Fault::None { Ok(()) } else { Err(LogError::State("fault".into())) }
        })
    }
}

fn closed<T: Send + 'static>() -> BoxFuture<'static, Result<T, LogError>> {
    Box::pin(async { Err(LogError::Closed) })
}

impl TopicLog for MemoryLog {
    fn id(&self) -> &'static str {
        "memory"
    }
    fn writer<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Box<dyn LogWriter>, LogError>> {
        closed()
    }
    fn source_offsets<'a>(&'a self, _connector: &'a str) -> BoxFuture<'a, Result<SourceOffsets, LogError>> {
        closed()
    }
    fn replace_source_offsets<'a>(
        &'a self,
        _connector: &'a str,
        _offsets: SourceOffsets,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        closed()
    }
    fn reader<'a>(
        &'a self,
        _group: &'a str,
        _topics: TopicFilter,
    ) -> BoxFuture<'a, Result<Box<dyn LogReader>, LogError>> {
        closed()
    }
    fn group_offsets<'a>(&'a self, _group: &'a str) -> BoxFuture<'a, Result<TopicOffsets, LogError>> {
        closed()
    }
    fn commit_group_offsets<'a>(
        &'a self,
        _group: &'a str,
        _offsets: TopicOffsets,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        closed()
    }
    fn delete_group<'a>(&'a self, _group: &'a str) -> BoxFuture<'a, Result<(), LogError>> {
        closed()
    }
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicDescription>, LogError>> {
        closed()
    }
    fn state(&self) -> &dyn StateStore {
        self
    }
    fn health(&self) -> LogHealth {
        LogHealth::default()
    }
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        closed()
    }
}
