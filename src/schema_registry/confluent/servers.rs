//! Requests to whichever address answers.
//!
//! The address that answered last is asked first; when it does not answer, or answers 5xx, 408 or 429, the next one is asked at
//! once. When all have failed, another round follows after a short random wait, until a few rounds or the timeout are used up: a
//! restart of the registry behind a load balancer is over by then, and a longer outage belongs to the supervisor, who shows it.
//! Every other answer is final at once.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    header::{self, HeaderValue},
};
use rowstream_http::{Answer, Client, ConnectFailure, Failure, Limits, Scheme};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{Plan, unexpected};
use crate::schema_registry::RegistryError;

/// Confluent's own type; what we send has it, and what we take may also be plain JSON.
const CONTENT: &str = "application/vnd.schemaregistry.v1+json";
const ACCEPT: &str = "application/vnd.schemaregistry.v1+json, application/json";
/// Rounds over all addresses in one call.
const ROUNDS: u32 = 4;
/// The longest wait after the first round; it doubles with each.
const WAIT_FIRST: Duration = Duration::from_millis(200);
/// Schemas of the widest tables take a few hundred KiB.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// What is repeated of a server's words.
const WORDS_MAX: usize = 1000;

/// Addresses, and who we are to them.
pub(super) struct Servers {
    clients: Vec<Client>,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    /// The address that answered last.
    preferred: AtomicUsize,
}

/// A request.
pub(super) struct Ask {
    method: Method,
    /// Below the base address.
    path: String,
    body: Bytes,
}

/// An answer that a registry gives.
pub(super) enum Reply {
    /// 200.
    Said(Value),
    /// 404 with one of Confluent's codes, and its words.
    NotThere(String),
    /// 409 and its words.
    Conflict(String),
    /// 422 for a schema, and its words.
    Invalid(String),
}

/// What one address came to.
enum Outcome {
    Reply(Reply),
    Final(RegistryError),
    Trouble(Trouble),
}

/// Something that may pass.
struct Trouble {
    what: String,
    remedy: Option<&'static str>,
}

impl Ask {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Bytes::new() }
    }
    pub(super) fn post(path: String, body: &Value) -> Self {
        Self { method: Method::POST, path, body: body.to_string().into() }
    }
}

impl Servers {
    pub(super) fn new(plan: Plan) -> Self {
        let timeout = plan.timeout;
        let limits = Limits { head: timeout, body: timeout, body_bytes: ANSWER_BYTES_MAX };
        let clients = plan.servers.into_iter().map(|connector| Client::new(connector, limits)).collect();
        Self { clients, authorization: plan.authorization, timeout, preferred: AtomicUsize::new(0) }
    }

    pub(super) fn origins(&self) -> String {
        let origins: Vec<String> = self.clients.iter().map(|c| c.connector().target().origin()).collect();
        origins.join(", ")
    }

    /// Asks until one address answers. Cancel-safe: a request on its way may still take effect.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Reply, RegistryError> {
        let deadline = Instant::now() + self.timeout;
        let mut round = 1;
        loop {
            let troubles = match self.round(&ask).await {
                Ok(verdict) => return verdict,
                Err(troubles) => troubles,
            };
            let wait = jittered(WAIT_FIRST * 2_u32.pow(round - 1));
            if round == ROUNDS || Instant::now() + wait >= deadline {
                return Err(unavailable(&troubles));
            }
            round += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks every address once, until one gives a verdict.
    async fn round(&self, ask: &Ask) -> Result<Result<Reply, RegistryError>, Vec<Trouble>> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut troubles: Vec<Trouble> = Vec::new();
        let in_turn = self.clients.iter().enumerate().cycle().skip(preferred).take(self.clients.len());
        for (index, client) in in_turn {
            let origin = client.connector().target().origin();
            let verdict = match self.once(client, ask).await {
                Outcome::Trouble(trouble) => {
                    tracing::debug!(
                        registry = origin,
                        error = trouble.what,
                        "the schema registry did not answer"
                    );
                    troubles.push(Trouble { what: format!("{origin}: {}", trouble.what), ..trouble });
                    continue;
                }
                Outcome::Reply(reply) => Ok(reply),
                Outcome::Final(error) => Err(error),
            };
            if self.preferred.swap(index, Ordering::Relaxed) != index {
                let before = troubles.first().map(|t| t.what.as_str());
                tracing::warn!(
                    registry = origin,
                    error = before,
                    "another address of the schema registry answers"
                );
            }
            return Ok(verdict);
        }
        Err(troubles)
    }

    async fn once(&self, client: &Client, ask: &Ask) -> Outcome {
        let Some(request) = self.request(client, ask) else {
            return Outcome::Final(unexpected("the request can't be built"));
        };
        match tokio::time::timeout(self.timeout, client.send(request)).await {
            Ok(Ok(answer)) => self.judge(answer),
            Ok(Err(failure)) => Outcome::Trouble(trouble(&failure, client.connector().target().scheme)),
            Err(_) => Outcome::Trouble(Trouble {
                what: format!("no answer within {} ms", self.timeout.as_millis()),
                remedy: None,
            }),
        }
    }

    fn request(&self, client: &Client, ask: &Ask) -> Option<Request<Full<Bytes>>> {
        let target = client.connector().target();
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{}{}", target.path.trim_end_matches('/'), ask.path))
            .header(header::HOST, target.host_header.clone())
            .header(header::ACCEPT, ACCEPT)
            .header(header::USER_AGENT, concat!("rowstream/", env!("CARGO_PKG_VERSION")));
        if !ask.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, CONTENT);
        }
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value.clone());
        }
        request.body(Full::new(ask.body.clone())).ok()
    }

    fn judge(&self, answer: Answer) -> Outcome {
        let status = answer.status;
        let Some(body) = answer.body else {
            return Outcome::Trouble(Trouble {
                what: format!("answered {} with a body that did not end", name(status)),
                remedy: None,
            });
        };
        if status.is_success() {
            return match serde_json::from_slice(&body) {
                Ok(said) => Outcome::Reply(Reply::Said(said)),
                Err(error) => Outcome::Final(unexpected(&format!("no JSON: {error}"))),
            };
        }
        let said: Said = serde_json::from_slice(&body).unwrap_or_default();
        let words = said.words();
        match (status.as_u16(), said.error_code) {
            (404, Some(40400..=40499)) => Outcome::Reply(Reply::NotThere(words)),
            (409, _) => Outcome::Reply(Reply::Conflict(words)),
            (422, Some(42201)) => Outcome::Reply(Reply::Invalid(words)),
            (408 | 429 | 500.., _) => {
                Outcome::Trouble(Trouble { what: answered(status, &words), remedy: None })
            }
            (401, _) => self.refused(status, &words, self.who_are_we()),
            (403, _) => self.refused(
                status,
                &words,
                "the registry knows us and does not allow this: grant the user of `schema_registry.auth` read and write \
                 on the subject",
            ),
            (404, _) => self.refused(
                status,
                &words,
                "this is not a schema registry's answer: check the path in `schema_registry.url`",
            ),
            (300..=399, _) => self.refused(
                status,
                &words,
                "redirects are not followed: put the final address into `schema_registry.url`",
            ),
            _ => self.refused(status, &words, "see what the registry says, and its own log"),
        }
    }

    fn who_are_we(&self) -> &'static str {
        if self.authorization.is_some() {
            "the registry does not accept the credentials: check `schema_registry.auth`"
        } else {
            "the registry wants credentials: set `schema_registry.auth.user` and `password`, or `token`"
        }
    }

    fn refused(&self, status: StatusCode, words: &str, remedy: &'static str) -> Outcome {
        let what = format!("the schema registry at {} {}", self.origins(), answered(status, words));
        Outcome::Final(RegistryError::Refused { what, remedy })
    }
}

/// The body of an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    error_code: Option<u32>,
    message: String,
}

impl Said {
    /// Its message, on one line and not too long.
    fn words(&self) -> String {
        let printable = self.message.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut words: String = printable.take(WORDS_MAX).collect();
        if self.message.chars().count() > WORDS_MAX {
            words.push('…');
        }
        words.trim().to_owned()
    }
}

fn answered(status: StatusCode, words: &str) -> String {
    if words.is_empty() {
        format!("answered {}", name(status))
    } else {
        format!("answered {}: {words}", name(status))
    }
}

fn name(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    format!("{} {reason}", status.as_u16()).trim_end().to_owned()
}

fn trouble(failure: &Failure, scheme: Scheme) -> Trouble {
    let remedy = match (failure, scheme) {
        (Failure::Unreachable(ConnectFailure::Name { .. }), _) => {
            Some("check the host in `schema_registry.url`, and name resolution on this machine")
        }
        (Failure::Unreachable(ConnectFailure::Tcp { .. } | ConnectFailure::TimedOut { .. }), _) => {
            Some("check that the registry runs, the port in `schema_registry.url`, and firewalls in between")
        }
        (Failure::Unreachable(ConnectFailure::Tls { .. }), _) => Some(
            "`schema_registry.tls.ca_file` has to hold the authority that signed the registry's certificate, and the \
             certificate has to name the host in `schema_registry.url`",
        ),
        (Failure::Lost(_), Scheme::Https) => Some(
            "if the registry wants a certificate of ours, set `schema_registry.tls.cert_file` and `key_file` to one that \
             it trusts",
        ),
        (Failure::Lost(_), Scheme::Http) => {
            Some("check that `schema_registry.url` should not begin with https")
        }
        (Failure::TimedOut, _) => None,
    };
    Trouble { what: failure.to_string(), remedy }
}

fn unavailable(troubles: &[Trouble]) -> RegistryError {
    let what: Vec<&str> = troubles.iter().map(|t| t.what.as_str()).collect();
    let remedy = troubles.iter().find_map(|t| t.remedy);
    RegistryError::Unavailable { what: what.join("; "), remedy }
}

/// Between half and the whole: many tasks that lost the same registry do not come back together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
