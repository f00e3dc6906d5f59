//! Commit and abort of a Kafka transaction, and the token of a client that nobody polls, by the C calls themselves.
//!
//! `rdkafka`'s own `commit_transaction` first flushes in slices of 100 ms that never end early, and folds the error's flags into
//! one enum. The C call flushes too (2 ms), and its flags (fatal, must abort, retriable) are what a writer decides by. And its admin
//! client never serves librdkafka's wish for a token. This is the only unsafe code of the workspace: four blocks, each over one pointer
//! that librdkafka owns or hands over.

use std::{
    ffi::{CStr, CString},
    ptr,
    time::Duration,
};

use rdkafka::{
    ClientContext, bindings as sys,
    client::{Client, OAuthToken},
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

/// Gives a client its token for OAUTHBEARER. Clients that are polled ask for it themselves.
///
/// # Errors
/// What is wrong with it in librdkafka's words, which do not hold the token.
pub fn set_token<C: ClientContext>(client: &Client<C>, token: OAuthToken) -> Result<(), String> {
    let text = |text: String| CString::new(text).map_err(|_| "a token holds no NUL".to_owned());
    let (value, principal) = (text(token.token)?, text(token.principal_name)?);
    let mut why = [0_u8; 512];
    #[expect(unsafe_code, reason = "the wrapper's admin client never sets it")]
    // SAFETY: the client's pointer is live for the length of this borrow; the texts are NUL-terminated and are copied; there are no
    // extensions; `why` is ours and as long as is said.
    let code = unsafe {
        sys::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            why.as_mut_ptr().cast(),
            why.len(),
        )
    };
    if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    Err(CStr::from_bytes_until_nul(&why).unwrap_or_default().to_string_lossy().into_owned())
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
