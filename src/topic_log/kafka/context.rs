//! What librdkafka tells us beside its answers: log lines, errors, statistics, failed deliveries, and its wish for a token.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::{
    ClientContext, Message,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};
use tokio::sync::oneshot;

use super::health::Health;

/// A token without an expiry of its own is read again after this long.
const TOKEN_LIFETIME_MS: i64 = 10 * 60 * 1000;

/// Clients of this process: a context is dropped when librdkafka has destroyed its client, threads and all.
static CLIENTS: Mutex<usize> = Mutex::new(0);
static CLIENT_GONE: Condvar = Condvar::new();

/// Waits until librdkafka has destroyed all clients, so that the process can end: behind `main` OpenSSL frees what a thread of theirs may be
/// using, which ends the process by a signal. `false` when some are left. Blocks.
pub fn until_clients_are_gone(patience: Duration) -> bool {
    let clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = CLIENT_GONE.wait_timeout_while(clients, patience, |clients| *clients > 0);
    *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
}

/// Ear and mouth of one client.
pub(super) struct Context {
    health: Arc<Health>,
    /// Name of the client for metrics and logs.
    role: String,
    token: Option<PathBuf>,
    failure: Mutex<Option<DeliveryFailure>>,
}

/// A record that a broker did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeliveryFailure {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) bytes: usize,
    pub(super) code: RDKafkaErrorCode,
}

impl Context {
    pub(super) fn new(health: &Arc<Health>, role: impl Into<String>, token: Option<PathBuf>) -> Self {
        *CLIENTS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self { health: Arc::clone(health), role: role.into(), token, failure: Mutex::default() }
    }
    /// The first failed delivery since the last call, our own aborts left out.
    pub(super) fn take_failure(&self) -> Option<DeliveryFailure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    fn delivered(&self, result: &DeliveryResult<'_>) -> Result<(), RDKafkaErrorCode> {
        let Err((error, message)) = result else { return Ok(()) };
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        // Purged records are those of a transaction that we aborted ourselves.
        if !matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) {
            let failure = DeliveryFailure {
                topic: message.topic().to_owned(),
                partition: message.partition(),
                bytes: message.payload_len() + message.key_len(),
                code,
            };
            tracing::debug!(client = self.role, topic = failure.topic, %code, "a broker refused a record");
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        }
        Err(code)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        *CLIENTS.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CLIENT_GONE.notify_all();
        self.health.forget(&self.role);
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.role.as_str();
        // Each client tells of each attempt to connect; one line now and then says as much. And while a broker starts, librdkafka
        // looks for leaders in a cache that it has just emptied.
        let noise = facility == "METADATAUPDATE" || (facility == "FAIL" && !self.health.tells_of_failure());
        if noise {
            tracing::debug!(target: "librdkafka", client, facility, "{message}");
            return;
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", client, facility, "{message}");
            }
            // It calls each refused connection an error, and connects again by itself.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", client, facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", client, facility, "{message}");
            }
            RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "librdkafka", client, facility, "{message}");
            }
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.health.statistics(&self.role, statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // librdkafka reconnects by itself; what must not go on unseen comes back as the answer of a call.
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.health.brokers_down(reason),
            _ => tracing::debug!(client = self.role, %error, reason, "librdkafka reports"),
        }
        if let Some(code) = error.rdkafka_error_code() {
            self.health.connection_failed(code, reason);
        }
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let path = self.token.as_deref().ok_or("`topic_log.sasl.token_file` is not set")?;
        Ok(read_token(path)?)
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let _kept_for_the_commit = self.delivered(result);
    }
}

/// As [`Context`], for records that are waited for one by one.
pub(super) struct ReceiptContext(pub(super) Context);

/// The records of one write that are not yet answered.
pub(super) struct Receipt(Mutex<Waiting>);

struct Waiting {
    left: usize,
    error: Option<RDKafkaErrorCode>,
    done: Option<oneshot::Sender<Result<(), RDKafkaErrorCode>>>,
}

impl Receipt {
    /// Answers when `records` records were answered.
    pub(super) fn of(records: usize) -> (Arc<Self>, oneshot::Receiver<Result<(), RDKafkaErrorCode>>) {
        let (done, receiver) = oneshot::channel();
        (Arc::new(Self(Mutex::new(Waiting { left: records, error: None, done: Some(done) }))), receiver)
    }
    fn answered(&self, outcome: Result<(), RDKafkaErrorCode>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.left = waiting.left.saturating_sub(1);
        if let Err(code) = outcome {
            waiting.error.get_or_insert(code);
        }
        if waiting.left == 0
            && let Some(done) = waiting.done.take()
        {
            let _nobody_waits_any_more = done.send(waiting.error.map_or(Ok(()), Err));
        }
    }
}

impl ClientContext for ReceiptContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }
    fn stats_raw(&self, statistics: &[u8]) {
        self.0.stats_raw(statistics);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.0.generate_oauth_token(config)
    }
}

impl ProducerContext for ReceiptContext {
    type DeliveryOpaque = Arc<Receipt>;
    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Arc<Receipt>) {
        receipt.answered(self.0.delivered(result));
    }
}

/// Reads a JWT for its subject and expiry, without checking it: that is the broker's part.
fn read_token(path: &Path) -> Result<OAuthToken, String> {
    let named = |what: &str| format!("{what} in {} (topic_log.sasl.token_file)", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| named(&format!("can't read the token: {e}:")))?;
    let token = text.trim().to_owned();
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<serde_json::Value> = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let claims = claims.ok_or_else(|| named("there is no JSON Web Token"))?;
    let subject = claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or("rowstream");
    let expiry_ms = claims.get("exp").and_then(serde_json::Value::as_i64).map(|s| s.saturating_mul(1000));
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    let lifetime_ms = expiry_ms.unwrap_or_else(|| now_ms.saturating_add(TOKEN_LIFETIME_MS));
    Ok(OAuthToken { principal_name: subject.to_owned(), token, lifetime_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_its_subject_and_expiry() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let claims = URL_SAFE_NO_PAD.encode(br#"{"sub":"worker","exp":2000000000}"#);
        std::fs::write(file.path(), format!("e30.{claims}.c2ln\n")).unwrap();
        let token = read_token(file.path()).unwrap();
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("worker", 2_000_000_000_000));
        assert!(token.token.ends_with("c2ln"));
        std::fs::write(file.path(), "no token").unwrap();
        assert!(read_token(file.path()).err().unwrap().contains("there is no JSON Web Token"));
    }

    #[tokio::test]
    async fn a_receipt_answers_after_the_last_record_and_remembers_the_first_error() {
        let (receipt, mut answer) = Receipt::of(3);
        receipt.answered(Ok(()));
        receipt.answered(Err(RDKafkaErrorCode::MessageSizeTooLarge));
        assert!(answer.try_recv().is_err());
        receipt.answered(Ok(()));
        assert_eq!(answer.await.unwrap(), Err(RDKafkaErrorCode::MessageSizeTooLarge));
    }
}
