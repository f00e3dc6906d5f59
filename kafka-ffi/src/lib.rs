//! Commit and abort of a Kafka transaction by the C calls themselves.
//!
//! `rdkafka`'s own `commit_transaction` first flushes in slices of 100 ms that never end early, and folds the error's flags into
//! one enum. The C call flushes too (2 ms), and its flags (fatal, must abort, retriable) are what a writer decides by. This is
//! the only unsafe code of the workspace: three blocks, each over one pointer that librdkafka owns or hands over.

use std::{ffi::CStr, time::Duration};

use rdkafka::{
    bindings as sys,
    producer::{BaseProducer, Producer, ProducerContext},
};

/// What librdkafka says of a failed transaction call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionError {
    /// Its name, such as `_TIMED_OUT`.
    pub code: String,
    /// Its text; names topics and brokers, never records.
    pub text: String,
    /// What it asks for.
    pub demand: Demand,
}

/// What a failed call asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// The producer is dead: fenced, or timed out by the coordinator.
    Discard,
    /// Nothing was committed: abort, and write the records again.
    Abort,
    /// The call goes on in the background: the same call again.
    Retry,
    /// No flag at all: a call out of turn, or a refusal.
    Nothing,
}

/// Commits the open transaction, flushing first; waits at most `timeout`.
///
/// # Errors
/// With [`Demand::Retry`] the outcome is unknown until the same call answers.
pub fn commit<C: ProducerContext>(
    producer: &BaseProducer<C>,
    timeout: Duration,
) -> Result<(), TransactionError> {
    #[expect(unsafe_code, reason = "the wrapper's call takes 100 ms and hides the flags")]
    // SAFETY: the pointer is the live handle that `producer` owns for the length of this borrow.
    let error =
        unsafe { sys::rd_kafka_commit_transaction(producer.client().native_ptr(), milliseconds(timeout)) };
    taken(error)
}

/// Aborts the open transaction; waits at most `timeout`. Delivery reports must be polled meanwhile.
///
/// # Errors
/// With [`Demand::Retry`] the same call again.
pub fn abort<C: ProducerContext>(
    producer: &BaseProducer<C>,
    timeout: Duration,
) -> Result<(), TransactionError> {
    #[expect(unsafe_code, reason = "the wrapper's call hides the flags")]
    // SAFETY: the pointer is the live handle that `producer` owns for the length of this borrow.
    let error =
        unsafe { sys::rd_kafka_abort_transaction(producer.client().native_ptr(), milliseconds(timeout)) };
    taken(error)
}

fn milliseconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}

/// Reads and frees an error object; null is success.
fn taken(error: *mut sys::rd_kafka_error_t) -> Result<(), TransactionError> {
    if error.is_null() {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "reads and frees the error object of C")]
    // SAFETY: the object is not null, was handed over to us by the call above and nobody else has it; its texts are
    // NUL-terminated and live until it is destroyed, which happens once, after they are copied.
    let read = unsafe {
        let code = CStr::from_ptr(sys::rd_kafka_error_name(error)).to_string_lossy().into_owned();
        let text = CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned();
        let demand = if sys::rd_kafka_error_is_fatal(error) != 0 {
            Demand::Discard
        } else if sys::rd_kafka_error_txn_requires_abort(error) != 0 {
            Demand::Abort
        } else if sys::rd_kafka_error_is_retriable(error) != 0 {
            Demand::Retry
        } else {
            Demand::Nothing
        };
        sys::rd_kafka_error_destroy(error);
        TransactionError { code, text, demand }
    };
    Err(read)
}
