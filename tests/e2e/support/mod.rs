//! What every end-to-end test stands on: real databases, the real binary, a receiver, and a wait that says what was missing.

pub mod daemon;
pub mod http;
pub mod kafka;
pub mod mysql;
pub mod postgres;
pub mod proxy;
pub mod receiver;
pub mod registry;
pub mod rig;

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a cause may take on a busy two-core machine before the test calls it missing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `cause` until it answers; panics with `explain`'s text when it never does.
pub fn until<T>(what: &str, explain: impl Fn() -> String, mut cause: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = cause() {
            return answer;
        }
        if Instant::now() > deadline {
            panic!("waited {PATIENCE:?} in vain until {what}\n{}", explain());
        }
        std::thread::sleep(Duration::from_millis(15));
    }
}

/// Tells something on standard error that is to be seen even when the test passes.
pub fn note(text: &str) {
    let _nobody_reads = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("\n{text}\n"));
}

/// Tests that load the machine take turns, so that none of them measures another.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tests of Kafka's faults mostly wait for brokers to come back: they take turns among themselves, beside the others.
pub fn turn_of_kafka_faults() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drives the connections of all tests.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

/// Ends what waits for it, also when the test fails.
pub struct SetWhenDropped<'a>(pub &'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
