//! Reaching the endpoint: name, TCP, TLS. Used by deliveries and by preflight.
//!
//! Everything that fails here fails *before* a request exists, so it is never a record's fault; callers rely on that
//! to leave a record's attempts alone. TLS uses ring and HTTP/1.1 only, and trusts the system's authorities, or
//! Mozilla's where the system has none.

use std::{io, sync::Arc, time::Duration};

use hyper::header::HeaderValue;
use rowstream_api::ConnectorError;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    /// Host and port as typed.
    pub(crate) host_header: HeaderValue,
    /// Path and query; may hold credentials, so it stays out of errors.
    pub(crate) path: Arc<str>,
}

impl Target {
    /// `https://host:port`, for people.
    pub(crate) fn origin(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{}", self.host, self.port)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailure {
    #[error("the name `{host}` could not be resolved: {source}")]
    Name { host: Arc<str>, source: io::Error },
    #[error("no TCP connection: {source}")]
    Tcp { source: io::Error },
    #[error("the TLS handshake failed: {source}")]
    Tls { source: io::Error },
    #[error("no connection within {} ms", .after.as_millis())]
    TimedOut { after: Duration },
}

/// A fresh connection.
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens connections to one target.
#[derive(Clone)]
pub(crate) struct Connector {
    target: Target,
    timeout: Duration,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    /// Loads the trusted authorities when the target needs them.
    pub(crate) fn new(target: Target, timeout: Duration) -> Result<Self, ConnectorError> {
        let roots = match target.scheme {
            Scheme::Http => return Ok(Self { target, timeout, tls: None }),
            Scheme::Https => system_roots(),
        };
        Self::trusting(target, timeout, roots)
    }

    /// As `new` for https, trusting these authorities.
    pub(crate) fn trusting(
        target: Target,
        timeout: Duration,
        roots: RootCertStore,
    ) -> Result<Self, ConnectorError> {
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| ConnectorError::fatal("WEBHOOK_TLS", "set up TLS").because(e))?
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(target.host.to_string()).map_err(|_| {
            ConnectorError::config(
                "WEBHOOK_URL",
                format!("`url`: `{}` is not a host name that a certificate can hold", target.host),
            )
        })?;
        Ok(Self { target, timeout, tls: Some((TlsConnector::from(Arc::new(config)), name)) })
    }

    /// Where connections go.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Resolves, connects and shakes hands, all within the timeout.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectFailure> {
        tokio::time::timeout(self.timeout, self.connect_unbounded())
            .await
            .unwrap_or(Err(ConnectFailure::TimedOut { after: self.timeout }))
    }

    async fn connect_unbounded(&self) -> Result<Connection, ConnectFailure> {
        let host = &self.target.host;
        let addresses = tokio::net::lookup_host((&**host, self.target.port))
            .await
            .map_err(|source| ConnectFailure::Name { host: host.clone(), source })?;
        let mut failure = ConnectFailure::Name {
            host: host.clone(),
            source: io::Error::new(io::ErrorKind::NotFound, "it has no address"),
        };
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return self.shake_hands(stream).await,
                Err(source) => failure = ConnectFailure::Tcp { source },
            }
        }
        Err(failure)
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<Connection, ConnectFailure> {
        // Requests are written in one piece; waiting for more to send would only delay them.
        stream.set_nodelay(true).map_err(|source| ConnectFailure::Tcp { source })?;
        let Some((connector, name)) = &self.tls else { return Ok(Connection::Plain(stream)) };
        let stream =
            connector.connect(name.clone(), stream).await.map_err(|source| ConnectFailure::Tls { source })?;
        Ok(Connection::Tls(Box::new(stream)))
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::info!("the system has no certificate authorities, using Mozilla's");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
