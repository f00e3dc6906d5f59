//! One attempt: a POST and what came of it, over the few kept-alive connections of a [`Client`].
//!
//! The answer separates what the caller must not confuse: [`Answer::Unreachable`] means that no request left this
//! process, [`Answer::Lost`] and [`Answer::TimedOut`] that one did and that its outcome is unknown. A kept connection that
//! the server closed meanwhile is replaced at once and silently: the receiver sees the same id if it had already read
//! the request.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use rowstream_api::RecordError;
use rowstream_http::{Client, ConnectFailure, Connector, Failure, Limits};

use crate::{
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
    client: Client,
    headers: Vec<(HeaderName, HeaderValue)>,
    keys: Vec<SigningKey>,
}

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
        let limits = Limits { head: timeout, body: DRAIN_MAX, body_bytes: RESPONSE_BYTES_MAX };
        Self { client: Client::new(connector, limits), headers, keys }
    }

    /// Where requests go, for people.
    pub(crate) fn origin(&self) -> String {
        self.client.connector().target().origin()
    }

    /// Sends one request, signed for this moment, and waits for its answer.
    pub(crate) async fn post(self: &Arc<Self>, id: &str, body: Bytes) -> Answer {
        let now = SystemTime::now();
        let Some(request) = self.request(id, body, now) else {
            return Answer::Unsendable(error::unsendable());
        };
        match self.client.send(request).await {
            Ok(response) => {
                let asked = response.headers.get(header::RETRY_AFTER);
                let retry_after = asked.and_then(|value| retry_after(value, SystemTime::now()));
                Answer::Status { status: response.status, retry_after }
            }
            Err(Failure::TimedOut) => Answer::TimedOut,
            Err(Failure::Lost(_)) => Answer::Lost,
            Err(Failure::Unreachable(failure)) => Answer::Unreachable(failure),
        }
    }

    fn request(&self, id: &str, body: Bytes, now: SystemTime) -> Option<Request<Full<Bytes>>> {
        let target = self.client.connector().target();
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
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rowstream_http::{Scheme, Target, Trust};
    use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinSet,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

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

    /// A receiver that takes only clients whose certificate `authority` signed.
    fn choosy(authority: &CertifiedIssuer<'_, KeyPair>) -> ServerConfig {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&ring)).build();
        ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.unwrap())
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap()
    }

    #[tokio::test]
    async fn a_receiver_that_asks_for_a_certificate_gets_the_one_of_the_settings() {
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["rowstream".to_owned()]).unwrap();
        let ours = params.signed_by(&key, &authority).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).unwrap();
            directory.path().join(name).to_str().unwrap().to_owned()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/hook", listener.local_addr().unwrap().port());
        let mut server = JoinSet::new();
        server.spawn(serve(listener, TlsAcceptor::from(Arc::new(choosy(&authority)))));

        let ca = file("ca.pem", authority.pem());
        let identity = json!({ "ca_file": ca, "cert_file": file("our.crt", ours.pem()), "key_file": file("our.key", key.serialize_pem()) });
        let mut answers = Vec::new();
        for tls in [identity, json!({ "ca_file": ca })] {
            let config = serde_json::from_value(json!({ "url": url, "tls": tls, "timeout": "20s" })).unwrap();
            let plan = crate::config::validate(config).unwrap();
            let connector = Connector::new(plan.target, plan.timeout, &plan.trust).unwrap();
            let endpoint = Arc::new(Endpoint::new(connector, Vec::new(), Vec::new(), plan.timeout));
            answers.push(endpoint.post("msg_1", Bytes::from_static(b"{}")).await);
        }
        assert!(matches!(answers[0], Answer::Status { status: StatusCode::OK, .. }), "{answers:?}");
        assert!(!matches!(answers[1], Answer::Status { .. }), "{answers:?}");
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

        let connector = |host, trust| Connector::new(target(host), timeout, &trust).unwrap();
        let trusting = connector("localhost", Trust::only(roots.clone()));
        let answer = endpoint(trusting).post("msg_1", Bytes::from_static(b"{}")).await;
        assert!(matches!(answer, Answer::Status { status: StatusCode::OK, .. }), "{answer:?}");

        let stranger = connector("localhost", Trust::default());
        let other_name = connector("127.0.0.1", Trust::only(roots));
        for connector in [stranger, other_name] {
            let answer = endpoint(connector).post("msg_1", Bytes::from_static(b"{}")).await;
            let Answer::Unreachable(failure @ ConnectFailure::Tls { .. }) = answer else {
                panic!("{answer:?}")
            };
            assert!(failure.to_string().contains("certificate"), "{failure}");
        }
    }
}
