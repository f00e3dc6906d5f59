//! The queue between the reader thread and the task: bounded by bytes, and it knows when it is empty, which is what
//! lets the reader hand over small batches when the task is waiting and large ones when it is busy.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use rowstream_api::ConnectorError;
use tokio::sync::Notify;

use super::batch::RawBatch;

struct State {
    batches: VecDeque<RawBatch>,
    bytes: usize,
    /// Set once, when the reader has ended; handed out after the batches.
    end: Option<ConnectorError>,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    limit_bytes: usize,
    filled: Notify,
    drained: Notify,
}

/// The reader's end.
pub struct Sender(Arc<Shared>);

/// The task's end.
pub struct Receiver(Arc<Shared>);

/// Makes a queue of at most `limit_bytes` (one batch larger than that still passes, alone).
pub fn queue(limit_bytes: usize) -> (Sender, Receiver) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State { batches: VecDeque::new(), bytes: 0, end: None, ended: false }),
        limit_bytes,
        filled: Notify::new(),
        drained: Notify::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sender {
    /// Whether the task has taken everything.
    pub fn is_empty(&self) -> bool {
        self.0.with(|s| s.batches.is_empty())
    }
    /// Whether another batch may be pushed.
    pub fn has_room(&self) -> bool {
        self.0.with(|s| s.batches.is_empty() || s.bytes < self.0.limit_bytes)
    }
    /// Adds a batch; the caller checked [`Self::has_room`].
    pub fn push(&self, batch: RawBatch) {
        self.0.with(|s| {
            s.bytes += batch.bytes();
            s.batches.push_back(batch);
        });
        self.0.filled.notify_one();
    }
    /// Resolves after the task took a batch. Cancel-safe.
    pub async fn drained(&self) {
        self.0.drained.notified().await;
    }
    /// Says why no more will come.
    pub fn end(&self, error: ConnectorError) {
        self.0.with(|s| {
            s.end.get_or_insert(error);
            s.ended = true;
        });
        self.0.filled.notify_one();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.with(|s| s.ended = true);
        self.0.filled.notify_one();
    }
}

impl Receiver {
    /// The next batch. Cancel-safe.
    ///
    /// # Errors
    /// Why the reader ended, after its last batch was taken.
    pub async fn pop(&self) -> Result<RawBatch, ConnectorError> {
        loop {
            let filled = self.0.filled.notified();
            let taken = self.0.with(|s| match s.batches.pop_front() {
                Some(batch) => {
                    s.bytes -= batch.bytes();
                    Some(Ok(batch))
                }
                None if s.ended => Some(Err(s.end.take().unwrap_or_else(|| {
                    ConnectorError::transient("MYSQL_CONNECTION", "the binlog stream has ended")
                }))),
                None => None,
            });
            match taken {
                Some(result) => {
                    self.0.drained.notify_one();
                    return result;
                }
                None => filled.await,
            }
        }
    }
}
