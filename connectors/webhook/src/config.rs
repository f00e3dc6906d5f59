//! What the user types for a webhook, and what is understood of it.
//!
//! A [`Plan`] holds only settings that were checked: a URL with a host, headers that HTTP allows and that do not
//! clash with ours, secrets that decode. No error of this file repeats a header's value, a secret or the URL's path
//! and query, which for many receivers are credentials.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hyper::header::{HeaderName, HeaderValue};
use rowstream_api::{ByteSize, ConfigErrors, ConfigSpec, FieldDoc, FieldKind, Secret};
use rowstream_http::{Target, Trust, TrustConfig};
use serde::Deserialize;

use crate::{retry::RetryPolicy, sign::SigningKey};

/// What the user typed.
#[derive(Deserialize)]
pub struct WebhookConfig {
    /// Where to POST.
    pub url: String,
    /// Sent with every request.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Whom to trust, and as whom to speak.
    #[serde(default)]
    pub tls: TrustConfig,
    /// Signature settings.
    #[serde(default)]
    pub signing: SigningConfig,
    /// Longest wait for an answer.
    #[serde(default = "default_timeout", deserialize_with = "rowstream_api::units::duration")]
    pub timeout: Duration,
    /// Retry settings.
    #[serde(default)]
    pub retry: RetryConfig,
    /// Most requests in flight.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Budget of accepted, undelivered bytes.
    #[serde(default = "default_pending_bytes")]
    pub pending_bytes: ByteSize,
    /// Budget of accepted, undelivered records.
    #[serde(default = "default_pending_records")]
    pub pending_records: u32,
    /// What to do with tombstones.
    #[serde(default)]
    pub tombstones: Tombstones,
    /// What the `value` of a body holds.
    #[serde(default)]
    pub body: BodyKind,
}

/// `signing:`
#[derive(Default, Deserialize)]
pub struct SigningConfig {
    /// `whsec_<base64>`, newest first.
    #[serde(default)]
    pub secrets: Vec<Secret>,
}

/// `retry:`
#[derive(Deserialize)]
pub struct RetryConfig {
    /// Attempts in all.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
    /// Upper bound of the first wait.
    #[serde(default = "default_backoff_initial", deserialize_with = "rowstream_api::units::duration")]
    pub backoff_initial: Duration,
    /// Upper bound of every wait.
    #[serde(default = "default_backoff_max", deserialize_with = "rowstream_api::units::duration")]
    pub backoff_max: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: default_attempts(),
            backoff_initial: default_backoff_initial(),
            backoff_max: default_backoff_max(),
        }
    }
}

/// Whether a tombstone (a record with a key and no value) is delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tombstones {
    /// It counts as delivered and nothing is sent: the delete event before it said it all.
    #[default]
    Skip,
    /// It is sent with a null `value`.
    Send,
}

/// What the `value` of a body holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyKind {
    /// The record's whole value: for change events, Debezium's envelope.
    #[default]
    Event,
    /// The row after the change, with the operation beside it.
    After,
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}
fn default_attempts() -> u32 {
    10
}
fn default_backoff_initial() -> Duration {
    Duration::from_millis(500)
}
fn default_backoff_max() -> Duration {
    Duration::from_secs(60)
}
fn default_concurrency() -> u32 {
    8
}
fn default_pending_bytes() -> ByteSize {
    ByteSize(16 << 20)
}
fn default_pending_records() -> u32 {
    10_000
}

/// More requests at once than this would be a load test, not a delivery.
const CONCURRENCY_MAX: u32 = 1024;
/// More attempts than this is "for ever", which would hold the log's retention for one record.
const ATTEMPTS_MAX: u32 = 1_000;
/// A record that is tracked takes memory even when it is small; this many take about 250 MiB.
const PENDING_RECORDS_MAX: u32 = 1_000_000;
/// A longer wait is a slip of the unit.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

impl ConfigSpec for WebhookConfig {
    const FIELDS: &'static [FieldDoc] = &[
        FieldDoc {
            path: "url",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "Where each record is POSTed: an http or https URL. Credentials do not belong in it; use `headers`. \
                  Redirects are not followed.",
            example: "https://orders.example.com/hooks/rowstream",
        },
        FieldDoc {
            path: "headers",
            kind: FieldKind::SecretMap,
            required: false,
            default: None,
            doc: "Headers sent with every request. Their values are secrets: never logged, never shown. The \
                  `webhook-*` headers, `content-type` and those that frame a request can't be set.",
            example: "authorization: \"Bearer ${env:HOOK_TOKEN}\"",
        },
        FieldDoc::optional(
            "tls.ca_file",
            FieldKind::Text,
            None,
            "PEM file of the authorities that may vouch for the receiver; the system's when absent.",
            "/etc/rowstream/receiver-ca.pem",
        ),
        FieldDoc::optional(
            "tls.cert_file",
            FieldKind::Text,
            None,
            "PEM file of the certificate that we show to receivers that ask for one.",
            "/etc/rowstream/hook.crt",
        ),
        FieldDoc::optional(
            "tls.key_file",
            FieldKind::Text,
            None,
            "PEM file of its key.",
            "/etc/rowstream/hook.key",
        ),
        FieldDoc {
            path: "signing.secrets",
            kind: FieldKind::SecretList,
            required: false,
            default: None,
            doc: "Standard Webhooks secrets, each `whsec_` and 24 to 64 bytes in base64. Every request carries one \
                  signature per secret, in this order. To rotate: put the new secret first, switch the receivers, \
                  remove the old one. Without any, requests are not signed.",
            example: "[\"${env:HOOK_SECRET}\"]",
        },
        FieldDoc {
            path: "timeout",
            kind: FieldKind::Duration,
            required: false,
            default: Some("10s"),
            doc: "How long to wait for a connection, and then for the answer to a request.",
            example: "30s",
        },
        FieldDoc {
            path: "retry.attempts",
            kind: FieldKind::Integer { min: 1, max: ATTEMPTS_MAX as i64 },
            required: false,
            default: Some("10"),
            doc: "How many failed answers (408, 425, 5xx, a timeout, a lost connection) a record may get before it is \
                  refused and the connector's error policy decides. Failures to connect at all, and 429, do not \
                  count: they say nothing about the record. The default lasts about a minute and a half; give \
                  more when a load balancer answers 502 or 503 for receivers that are down for longer.",
            example: "20",
        },
        FieldDoc {
            path: "retry.backoff_initial",
            kind: FieldKind::Duration,
            required: false,
            default: Some("500ms"),
            doc: "The wait before the second attempt is a random part of this; it doubles with each attempt.",
            example: "1s",
        },
        FieldDoc {
            path: "retry.backoff_max",
            kind: FieldKind::Duration,
            required: false,
            default: Some("60s"),
            doc: "No wait is longer, except when the receiver asks for it with `Retry-After` (up to one hour).",
            example: "5m",
        },
        FieldDoc {
            path: "concurrency",
            kind: FieldKind::Integer { min: 1, max: CONCURRENCY_MAX as i64 },
            required: false,
            default: Some("8"),
            doc: "Most requests in flight at once, each for another key. Fewer are used while the receiver times \
                  out, or answers 429 or 503.",
            example: "32",
        },
        FieldDoc {
            path: "pending_bytes",
            kind: FieldKind::Size,
            required: false,
            default: Some("16MiB"),
            doc: "Bytes of records that may wait for delivery or retry. When they are used up no more is read.",
            example: "64MiB",
        },
        FieldDoc {
            path: "pending_records",
            kind: FieldKind::Integer { min: 1, max: PENDING_RECORDS_MAX as i64 },
            required: false,
            default: Some("10000"),
            doc: "Records that may wait for delivery or retry. When they are used up no more is read.",
            example: "50000",
        },
        FieldDoc {
            path: "tombstones",
            kind: FieldKind::Choice(&["skip", "send"]),
            required: false,
            default: Some("skip"),
            doc: "Whether tombstones (a key without a value, for log compaction) are sent, with a null `value`.",
            example: "send",
        },
        FieldDoc {
            path: "body",
            kind: FieldKind::Choice(&["event", "after"]),
            required: false,
            default: Some("event"),
            doc: "`event` sends the record's whole value, for change events Debezium's envelope; `after` sends the \
                  row after the change (null for a delete) with the operation beside it.",
            example: "after",
        },
    ];
}

/// What was understood; every setting is checked.
#[derive(Clone)]
pub struct Plan {
    pub(crate) target: Target,
    pub(crate) trust: Arc<Trust>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) keys: Vec<SigningKey>,
    pub(crate) timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) concurrency: u32,
    pub(crate) pending_bytes: usize,
    pub(crate) pending_records: usize,
    pub(crate) tombstones: Tombstones,
    pub(crate) body: BodyKind,
}

/// Checks what was typed and reports every problem.
pub(crate) fn validate(config: WebhookConfig) -> Result<Plan, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let target = errors.take("url", parse_url(&config.url));
    let trust = Arc::new(config.tls.read("tls", &mut errors));
    let headers = parse_headers(&config.headers, &mut errors);
    let keys = parse_secrets(&config.signing.secrets, &mut errors);
    check_range(&mut errors, "retry.attempts", config.retry.attempts, ATTEMPTS_MAX);
    check_range(&mut errors, "concurrency", config.concurrency, CONCURRENCY_MAX);
    check_range(&mut errors, "pending_records", config.pending_records, PENDING_RECORDS_MAX);
    check_duration(&mut errors, "timeout", config.timeout);
    check_duration(&mut errors, "retry.backoff_initial", config.retry.backoff_initial);
    check_duration(&mut errors, "retry.backoff_max", config.retry.backoff_max);
    if config.retry.backoff_max < config.retry.backoff_initial {
        errors.push("retry.backoff_max", "must not be shorter than `retry.backoff_initial`");
    }
    if config.pending_bytes.0 == 0 {
        errors.push("pending_bytes", "must be at least 1 byte; `16MiB` is the default");
    }
    match target {
        Some(target) if errors.0.is_empty() => Ok(Plan {
            target,
            trust,
            headers,
            keys,
            timeout: config.timeout,
            retry: RetryPolicy {
                attempts: config.retry.attempts,
                backoff_initial: config.retry.backoff_initial,
                backoff_max: config.retry.backoff_max,
            },
            concurrency: config.concurrency,
            pending_bytes: usize::try_from(config.pending_bytes.0).unwrap_or(usize::MAX),
            pending_records: config.pending_records as usize,
            tombstones: config.tombstones,
            body: config.body,
        }),
        Some(_) | None => Err(errors),
    }
}

fn check_range(errors: &mut ConfigErrors, field: &str, number: u32, max: u32) {
    if number == 0 || number > max {
        errors.push(field, format!("expected a number from 1 to {max}, got {number}"));
    }
}

fn check_duration(errors: &mut ConfigErrors, field: &str, duration: Duration) {
    if duration.is_zero() || duration > DURATION_MAX {
        errors.push(field, "must be longer than zero and at most 1d");
    }
}

fn parse_url(text: &str) -> Result<Target, String> {
    Target::parse(text, "https://example.com/hook", "`headers.authorization`")
}

/// Headers that say what the request is, or frame it; a user's value would make deliveries unverifiable or broken.
const RESERVED: [&str; 10] = [
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "host",
    "expect",
    "upgrade",
];

fn parse_headers(
    typed: &BTreeMap<String, Secret>,
    errors: &mut ConfigErrors,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(typed.len());
    for (name, value) in typed {
        let field = format!("headers.{name}");
        let Ok(parsed) = name.parse::<HeaderName>() else {
            errors.push(field, "not a valid HTTP header name: letters, digits and `-` are");
            continue;
        };
        if RESERVED.contains(&parsed.as_str()) {
            errors.push(field, format!("`{parsed}` is set by Rowstream; remove it"));
            continue;
        }
        if headers.iter().any(|(known, _)| *known == parsed) {
            errors.push(field, "given twice; header names do not distinguish case");
            continue;
        }
        match HeaderValue::from_str(value.reveal()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.push((parsed, value));
            }
            Err(_) => errors.push(
                field,
                "the value holds characters that HTTP does not allow, perhaps a line break at its end",
            ),
        }
    }
    headers
}

fn parse_secrets(typed: &[Secret], errors: &mut ConfigErrors) -> Vec<SigningKey> {
    let mut keys = Vec::with_capacity(typed.len());
    for (index, secret) in typed.iter().enumerate() {
        keys.extend(errors.take(&format!("signing.secrets[{index}]"), SigningKey::parse(secret.reveal())));
    }
    keys
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
