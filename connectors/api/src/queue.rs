//! The queue between the thread that reads a source's stream and the task: bounded by bytes, and it knows when it is empty, which is
//! what lets the reader hand over small batches when the task is waiting and large ones when it is busy.
//!
//! One sender, one receiver; needs no runtime.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use futures::task::AtomicWaker;

use crate::error::ConnectorError;

/// What a queue holds.
pub trait Batch: Send {
    /// Bytes held; always the same of one batch.
    fn bytes(&self) -> usize;
    /// Why no more comes, when the reader ended without saying so.
    fn ended() -> ConnectorError;
}

struct State<B> {
    batches: VecDeque<B>,
    bytes: usize,
    /// A batch was taken since [`Sender::drained`] last told so.
    is_drained: bool,
    /// Set once, when the reader has ended; handed out after the batches.
    end: Option<ConnectorError>,
    has_ended: bool,
}

struct Shared<B> {
    state: Mutex<State<B>>,
    limit_bytes: usize,
    filled: AtomicWaker,
    drained: AtomicWaker,
}

/// The reader's end. Dropping it ends the queue.
pub struct Sender<B>(Arc<Shared<B>>);

/// The task's end.
pub struct Receiver<B>(Arc<Shared<B>>);

/// Makes a queue of at most `limit_bytes` (one batch larger than that still passes, alone).
#[must_use]
pub fn queue<B: Batch>(limit_bytes: usize) -> (Sender<B>, Receiver<B>) {
    let (batches, bytes, is_drained, end, has_ended) = (VecDeque::new(), 0, false, None, false);
    let shared = Arc::new(Shared {
        state: Mutex::new(State { batches, bytes, is_drained, end, has_ended }),
        limit_bytes,
        filled: AtomicWaker::new(),
        drained: AtomicWaker::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<B> Shared<B> {
    fn with<T>(&self, f: impl FnOnce(&mut State<B>) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Batch> Sender<B> {
    /// Whether the task has taken everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.with(|s| s.batches.is_empty())
    }
    /// Whether another batch may be pushed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.with(|s| s.batches.is_empty() || s.bytes < self.0.limit_bytes)
    }
    /// Adds a batch; the caller checked [`Self::has_room`].
    pub fn push(&self, batch: B) {
        self.0.with(|s| {
            s.bytes += batch.bytes();
            s.batches.push_back(batch);
        });
        self.0.filled.wake();
    }
    /// Resolves after the task took a batch, also one that it took before this was called. Cancel-safe.
    pub async fn drained(&self) {
        poll_fn(|cx| {
            self.0.drained.register(cx.waker());
            match self.0.with(|s| std::mem::take(&mut s.is_drained)) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
    /// Says why no more will come. The first reason counts.
    pub fn end(&self, error: ConnectorError) {
        self.0.with(|s| {
            s.end.get_or_insert(error);
            s.has_ended = true;
        });
        self.0.filled.wake();
    }
}

impl<B> Drop for Sender<B> {
    fn drop(&mut self) {
        self.0.with(|s| s.has_ended = true);
        self.0.filled.wake();
    }
}

impl<B: Batch> Receiver<B> {
    /// The next batch. Cancel-safe.
    ///
    /// # Errors
    /// Why the reader ended, after its last batch was taken.
    pub async fn pop(&self) -> Result<B, ConnectorError> {
        let taken = poll_fn(|cx| {
            self.0.filled.register(cx.waker());
            self.0.with(|s| match s.batches.pop_front() {
                Some(batch) => {
                    s.bytes -= batch.bytes();
                    s.is_drained = true;
                    Poll::Ready(Ok(batch))
                }
                None if s.has_ended => Poll::Ready(Err(s.end.take().unwrap_or_else(B::ended))),
                None => Poll::Pending,
            })
        })
        .await;
        if taken.is_ok() {
            self.0.drained.wake();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Context};

    use futures::task::noop_waker;

    use super::*;

    impl Batch for Vec<u8> {
        fn bytes(&self) -> usize {
            self.len()
        }
        fn ended() -> ConnectorError {
            ConnectorError::transient("TEST_ENDED", "the stream has ended")
        }
    }

    /// What a future answers at once.
    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(&noop_waker())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn it_is_bounded_by_bytes_and_a_large_batch_passes_alone() {
        let (sender, receiver) = queue::<Vec<u8>>(10);
        assert!(sender.is_empty() && sender.has_room());
        sender.push(vec![1; 100]);
        assert!(!sender.is_empty() && !sender.has_room());
        assert!(now(sender.drained()).is_none());
        assert_eq!(now(receiver.pop()).unwrap().unwrap().len(), 100);
        assert_eq!(now(sender.drained()), Some(()), "told although it was asked later");
        assert!(now(sender.drained()).is_none(), "once");
        sender.push(vec![2; 9]);
        assert!(sender.has_room());
        sender.push(vec![3; 1]);
        assert!(!sender.has_room());
        assert_eq!(now(receiver.pop()).unwrap().unwrap(), vec![2; 9]);
        assert_eq!(now(receiver.pop()).unwrap().unwrap(), vec![3]);
        assert!(now(receiver.pop()).is_none());
    }

    #[test]
    fn the_end_comes_behind_the_batches_and_the_first_reason_counts() {
        let (sender, receiver) = queue::<Vec<u8>>(10);
        sender.push(vec![1]);
        sender.end(ConnectorError::transient("FIRST", "a"));
        sender.end(ConnectorError::transient("SECOND", "b"));
        assert_eq!(now(receiver.pop()).unwrap().unwrap(), vec![1]);
        assert_eq!(now(receiver.pop()).unwrap().unwrap_err().code, "FIRST");
        drop(sender);
        assert_eq!(now(receiver.pop()).unwrap().unwrap_err().code, "TEST_ENDED");
    }

    #[test]
    fn a_waiting_end_is_woken() {
        let (sender, receiver) = queue::<Vec<u8>>(10);
        let woken = std::thread::spawn(move || {
            let thread = std::thread::current();
            let waker = std::task::Waker::from(Arc::new(Unpark(thread)));
            let mut pop = pin!(receiver.pop());
            loop {
                match pop.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(batch) => return batch.unwrap(),
                    Poll::Pending => std::thread::park(),
                }
            }
        });
        sender.push(vec![7]);
        assert_eq!(woken.join().unwrap(), vec![7]);
    }

    struct Unpark(std::thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
}
