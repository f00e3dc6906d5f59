//! Requests over a small pool of kept-alive connections to one target.
//!
//! A kept connection that the server closed meanwhile is replaced at once and silently, so a server may read a request twice:
//! callers send what may be repeated. A connection serves again only when its answer was read to the end.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Incoming,
    client::conn::http1::SendRequest,
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use crate::{ConnectFailure, Connection, Connector};

/// Shorter than the idle timeouts of common servers and load balancers, so that most reuses succeed.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long the driver of a lost connection may take to say why; it is over already, or about to be.
const DRIVER_WITHIN: Duration = Duration::from_millis(200);

/// How long and how much.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From sending a request to the head of its answer.
    pub head: Duration,
    /// From the head of an answer to its end.
    pub body: Duration,
    /// Bytes of an answer's body.
    pub body_bytes: usize,
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body; `None` when it was too long, too slow or cut off.
    pub body: Option<Bytes>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request was sent and no answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The request was sent, or partly, and the connection ended without an answer. A server that wants a certificate of ours
    /// may say so only here.
    #[error("the connection was lost before an answer came: {0}")]
    Lost(String),
    /// There was no connection to send on.
    #[error(transparent)]
    Unreachable(#[from] ConnectFailure),
}

/// A target and the connections to it. Shared by all requests.
pub struct Client {
    connector: Connector,
    limits: Limits,
    pool: Mutex<Pool>,
}

/// Idle connections, and the tasks that drive all of them; dropping it ends them.
#[derive(Default)]
struct Pool {
    idle: Vec<(Sender, Instant)>,
    drivers: JoinSet<()>,
}

/// A connection's end for requests, and what its driver says when it is over: of a connection that the peer ended, only the
/// driver knows why.
struct Sender {
    requests: SendRequest<Full<Bytes>>,
    ended: oneshot::Receiver<Option<String>>,
}

impl Client {
    /// Connects nowhere yet.
    #[must_use]
    pub fn new(connector: Connector, limits: Limits) -> Self {
        Self { connector, limits, pool: Mutex::default() }
    }

    /// How it connects, and where to.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Sends a request (which has its own `host` header and a path as its URI) and waits for the answer. Dropping the future
    /// closes the connection it used; what the server does with the request is then unknown.
    ///
    /// # Errors
    /// As [`Failure`] says. A status is never an error.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        if let Some(sender) = self.reuse() {
            match self.send_over(sender, request.clone()).await {
                // The server may have closed the kept connection while the request was on its way.
                Err(Failure::Lost(_)) => {}
                outcome => return outcome,
            }
        }
        let connection = self.connector.connect().await?;
        let sender = self.adopt(connection).await.map_err(|e| Failure::Lost(innermost(&e)))?;
        self.send_over(sender, request).await
    }

    async fn send_over(&self, mut sender: Sender, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.limits.head;
        let exchange = async {
            sender.requests.ready().await?;
            sender.requests.send_request(request).await
        };
        let response = match timeout_at(deadline, exchange).await {
            Err(_) => return Err(Failure::TimedOut),
            Ok(Err(error)) => return Err(Failure::Lost(sender.cause(&error).await)),
            Ok(Ok(response)) => response,
        };
        let (head, body) = response.into_parts();
        let body = self.read(body).await;
        if body.is_some() {
            self.keep(sender);
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Reads a body to its end.
    async fn read(&self, body: Incoming) -> Option<Bytes> {
        let whole = Limited::new(body, self.limits.body_bytes).collect();
        timeout(self.limits.body, whole).await.ok()?.ok().map(|body| body.to_bytes())
    }

    /// A kept connection that is still good.
    fn reuse(&self) -> Option<Sender> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        pool.idle
            .retain(|(sender, since)| !sender.requests.is_closed() && now.duration_since(*since) < IDLE_MAX);
        pool.idle.pop().map(|(sender, _)| sender)
    }

    fn keep(&self, sender: Sender) {
        if !sender.requests.is_closed() {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.idle.push((sender, Instant::now()));
        }
    }

    async fn adopt(&self, connection: Connection) -> Result<Sender, hyper::Error> {
        match connection {
            Connection::Plain(stream) => self.drive(TokioIo::new(stream)).await,
            Connection::Tls(stream) => self.drive(TokioIo::new(stream)).await,
        }
    }

    async fn drive<Io>(&self, io: Io) -> Result<Sender, hyper::Error>
    where
        Io: Read + Write + Unpin + Send + 'static,
    {
        let (requests, driver) = hyper::client::conn::http1::handshake(io).await?;
        let (said, ended) = oneshot::channel();
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        while pool.drivers.try_join_next().is_some() {}
        pool.drivers.spawn(async move {
            let cause = driver.await.err().map(|error| innermost(&error));
            if let Some(error) = &cause {
                tracing::debug!(error, "an HTTP connection ended");
            }
            // Nobody listens any more when the connection was given back or dropped.
            said.send(cause).unwrap_or_default();
        });
        Ok(Sender { requests, ended })
    }
}

impl Sender {
    /// Why a request on this connection got no answer.
    async fn cause(self, error: &hyper::Error) -> String {
        let Self { requests, ended } = self;
        drop(requests);
        match timeout(DRIVER_WITHIN, ended).await {
            Ok(Ok(Some(cause))) => cause,
            Ok(Ok(None) | Err(_)) | Err(_) => innermost(error),
        }
    }
}

/// The innermost cause: `received fatal alert: CertificateRequired` says more than `connection error`.
fn innermost(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}
