//! One attempt: a POST and what came of it, over a small pool of kept-alive HTTP/1.1 connections to the one endpoint.
//!
//! The answer separates what the caller must not confuse: [`Answer::Unreachable`] means that no request left this
//! process, [`Answer::Lost`] and [`Answer::TimedOut`] that one did and that its outcome is unknown. A kept connection that
//! the server closed meanwhile is replaced at once and silently: the receiver sees the same id if it had already read
//! the request.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http1::SendRequest,
    header::{self, HeaderName, HeaderValue},
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use rowstream_api::RecordError;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    connect::{ConnectFailure, Connection, Connector},
    error,
    retry::retry_after,
    sign::{self, SigningKey},
};

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The endpoint answered.
    Status {
        status: StatusCode,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// The request was sent and no answer came in time.
    TimedOut,
    /// The request was sent, or partly, and the connection ended without an answer.
    Lost,
    /// There was no connection to send on.
    Unreachable(ConnectFailure),
    /// There is no request to send: the record could not be rendered.
    Unsendable(RecordError),
}

/// The endpoint and how to talk to it. Shared by all attempts.
pub(crate) struct Endpoint {
    connector: Connector,
    headers: Vec<(HeaderName, HeaderValue)>,
    keys: Vec<SigningKey>,
    timeout: Duration,
    pool: Mutex<Pool>,
}

/// Idle connections, and the tasks that drive all of them; dropping it ends them.
#[derive(Default)]
struct Pool {
    idle: Vec<(SendRequest<Full<Bytes>>, Instant)>,
    drivers: JoinSet<()>,
}

/// Shorter than the idle timeouts of common servers and load balancers, so that most reuses succeed.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How much of a response is read to keep its connection; what a response says is not used.
const RESPONSE_BYTES_MAX: usize = 64 << 10;
/// How long a response may take to end, once its status is known.
const DRAIN_MAX: Duration = Duration::from_secs(1);

impl Endpoint {
    pub(crate) fn new(
        connector: Connector,
        headers: Vec<(HeaderName, HeaderValue)>,
        keys: Vec<SigningKey>,
        timeout: Duration,
    ) -> Self {
        Self { connector, headers, keys, timeout, pool: Mutex::default() }
    }

    /// Where requests go, for people.
    pub(crate) fn origin(&self) -> String {
        self.connector.target().origin()
    }

    /// Sends one request, signed for this moment, and waits for its answer.
    pub(crate) async fn post(self: &Arc<Self>, id: &str, body: Bytes) -> Answer {
        let now = SystemTime::now();
        let Some(request) = self.request(id, body, now) else {
            return Answer::Unsendable(error::unsendable());
        };
        if let Some(sender) = self.reuse() {
            let answer = self.send(sender, request.clone()).await;
            // The server may have closed the kept connection while the request was on its way.
            if !matches!(answer, Answer::Lost) {
                return answer;
            }
        }
        match self.connector.connect().await {
            Err(failure) => Answer::Unreachable(failure),
            Ok(connection) => match self.adopt(connection).await {
                Some(sender) => self.send(sender, request).await,
                None => Answer::Lost,
            },
        }
    }

    fn request(&self, id: &str, body: Bytes, now: SystemTime) -> Option<Request<Full<Bytes>>> {
        let target = self.connector.target();
        let timestamp = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        let signature = sign::signature(&self.keys, id, &timestamp, &body);
        let mut request = Request::post(&*target.path)
            .header(header::HOST, target.host_header.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("rowstream/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .body(Full::new(body))
            .ok()?;
        let headers = request.headers_mut();
        if let Some(signature) = signature {
            headers.insert("webhook-signature", HeaderValue::try_from(signature).ok()?);
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        Some(request)
    }

    async fn send(&self, mut sender: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Answer {
        let deadline = Instant::now() + self.timeout;
        let exchange = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let response = match timeout_at(deadline, exchange).await {
            Err(_) => return Answer::TimedOut,
            Ok(Err(_)) => return Answer::Lost,
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        let asked = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| retry_after(value, SystemTime::now()));
        if drain(response.into_body()).await {
            self.keep(sender);
        }
        Answer::Status { status, retry_after: asked }
    }

    /// A kept connection that is still good.
    fn reuse(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        pool.idle.retain(|(sender, since)| !sender.is_closed() && now.duration_since(*since) < IDLE_MAX);
        pool.idle.pop().map(|(sender, _)| sender)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        if !sender.is_closed() {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.idle.push((sender, Instant::now()));
        }
    }

    async fn adopt(&self, connection: Connection) -> Option<SendRequest<Full<Bytes>>> {
        match connection {
            Connection::Plain(stream) => self.drive(TokioIo::new(stream)).await,
            Connection::Tls(stream) => self.drive(TokioIo::new(stream)).await,
        }
    }

    async fn drive<Io>(&self, io: Io) -> Option<SendRequest<Full<Bytes>>>
    where
        Io: Read + Write + Unpin + Send + 'static,
    {
        let (sender, driver) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        while pool.drivers.try_join_next().is_some() {}
        pool.drivers.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = %error, "webhook connection ended");
            }
        });
        Some(sender)
    }
}

/// Reads a response to its end; answers whether it ended, so that the connection can be used again.
async fn drain(body: Incoming) -> bool {
    let whole = Limited::new(body, RESPONSE_BYTES_MAX).collect();
    matches!(tokio::time::timeout(DRAIN_MAX, whole).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::connect::{Scheme, Target};

    /// Answers one request per connection with 200, over TLS.
    async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust us ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"{}") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    }

    #[tokio::test]
    async fn https_is_spoken_with_those_who_are_trusted_only() {
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(identity.signing_key.serialize_der().into());
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, TlsAcceptor::from(Arc::new(config))));

        let timeout = Duration::from_secs(20);
        let target = |host: &str| Target {
            scheme: Scheme::Https,
            host: host.into(),
            port,
            host_header: HeaderValue::from_static("localhost"),
            path: "/hook".into(),
        };
        let endpoint = |connector| Arc::new(Endpoint::new(connector, Vec::new(), Vec::new(), timeout));
        let mut roots = RootCertStore::empty();
        roots.add(identity.cert.der().clone()).unwrap();

        let trusting = Connector::trusting(target("localhost"), timeout, roots.clone()).unwrap();
        let answer = endpoint(trusting).post("msg_1", Bytes::from_static(b"{}")).await;
        assert!(matches!(answer, Answer::Status { status: StatusCode::OK, .. }), "{answer:?}");

        let stranger = Connector::new(target("localhost"), timeout).unwrap();
        let other_name = Connector::trusting(target("127.0.0.1"), timeout, roots).unwrap();
        for connector in [stranger, other_name] {
            let answer = endpoint(connector).post("msg_1", Bytes::from_static(b"{}")).await;
            let Answer::Unreachable(failure @ ConnectFailure::Tls { .. }) = answer else {
                panic!("{answer:?}")
            };
            assert!(failure.to_string().contains("certificate"), "{failure}");
        }
    }
}
