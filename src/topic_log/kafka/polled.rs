//! A producer and the thread that polls it: without one there are no reports, no log lines, and an abort waits in vain.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use rdkafka::producer::{BaseProducer, ProducerContext};

use super::{cluster::briefly, errors::io_error};
use crate::topic_log::LogError;

/// How long one poll waits. Reports wake it at once; this is how soon the thread sees that its producer goes.
const SLICE_MS: u64 = 100;

/// A producer that is polled for as long as this lives. Dropping it ends the thread and waits for it.
pub(super) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    pub(super) fn start(name: &str, producer: BaseProducer<C>) -> Result<Self, LogError> {
        let (producer, stop) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (polled, stopped) = (Arc::clone(&producer), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                polled.poll(briefly(SLICE_MS));
            }
        });
        let thread = thread.map_err(|e| io_error(format!("start the thread `{name}`"), e.to_string()))?;
        Ok(Self { producer, stop, thread: Some(thread) })
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &Self::Target {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It panics only if librdkafka does.
            drop(thread.join());
        }
    }
}
