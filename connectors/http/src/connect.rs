//! Reaching a target: name, TCP, TLS.
//!
//! Everything that fails here fails *before* a request exists, so it is never a request's fault; callers rely on that to leave
//! a record's attempts alone. TLS uses ring and HTTP/1.1 only.

use std::{io, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Scheme, SetupError, Target, Trust};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The host's name.
    #[error("the name `{host}` could not be resolved: {source}")]
    Name {
        /// Host.
        host: Arc<str>,
        /// What the resolver said.
        source: io::Error,
    },
    /// TCP.
    #[error("no TCP connection: {source}")]
    Tcp {
        /// What the system said.
        source: io::Error,
    },
    /// TLS.
    #[error("the TLS handshake failed: {source}")]
    Tls {
        /// What rustls or the peer said.
        source: io::Error,
    },
    /// All of it together took too long.
    #[error("no connection within {} ms", .after.as_millis())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
}

/// A fresh connection.
pub enum Connection {
    /// In the clear.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens connections to one target.
#[derive(Clone)]
pub struct Connector {
    target: Target,
    timeout: Duration,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    /// Loads the trusted authorities when the target needs them. `timeout` is for name, TCP and TLS together.
    ///
    /// # Errors
    /// As [`SetupError`] says.
    pub fn new(target: Target, timeout: Duration, trust: &Trust) -> Result<Self, SetupError> {
        let tls = match target.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let name = ServerName::try_from(target.host.to_string())
                    .map_err(|_| SetupError::HostName(target.host.clone()))?;
                Some((TlsConnector::from(Arc::new(trust.client()?)), name))
            }
        };
        Ok(Self { target, timeout, tls })
    }

    /// Where connections go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Resolves, connects and shakes hands, all within the timeout. Cancel-safe: nothing is left open.
    ///
    /// # Errors
    /// The first thing that failed; of several addresses, the last one's failure.
    pub async fn connect(&self) -> Result<Connection, ConnectFailure> {
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
