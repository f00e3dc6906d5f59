//! Reaching a server: the `connection` block, and ordinary SQL connections made from it.

use std::{sync::Arc, time::Duration};

use rowstream_api::{ConfigErrors, ConnectorError, FieldDoc, FieldKind, Secret, units};
use rowstream_tls::{Expiry, TlsConfig, TlsMode};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::from_postgres;

/// The `connection` block of a source or a sink.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ConnectionConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Its password; none for trust or certificate authentication.
    #[serde(default)]
    pub password: Secret,
    /// TLS.
    #[serde(default)]
    pub tls: TlsConfig,
    /// Longest wait for a connection.
    #[serde(default = "default_connect_timeout", deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
}

fn default_port() -> u16 {
    5432
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

/// The fields of the block, for a connector's `FIELDS`.
pub const CONNECTION_FIELDS: [FieldDoc; 10] = [
    FieldDoc {
        path: "connection.host",
        kind: FieldKind::Text,
        required: true,
        default: None,
        doc: "Host name or address of the server.",
        example: "db.internal",
    },
    FieldDoc {
        path: "connection.port",
        kind: FieldKind::Integer { min: 1, max: 65535 },
        required: false,
        default: Some("5432"),
        doc: "TCP port of the server.",
        example: "5432",
    },
    FieldDoc {
        path: "connection.database",
        kind: FieldKind::Text,
        required: true,
        default: None,
        doc: "Database to connect to.",
        example: "shop",
    },
    FieldDoc {
        path: "connection.user",
        kind: FieldKind::Text,
        required: true,
        default: None,
        doc: "Role to connect as. A source's role needs LOGIN and REPLICATION.",
        example: "rowstream",
    },
    FieldDoc {
        path: "connection.password",
        kind: FieldKind::Secret,
        required: false,
        default: None,
        doc: "The role's password. Write `${env:NAME}` or `${file:/path}`, not the password itself.",
        example: "${env:SHOP_PASSWORD}",
    },
    FieldDoc {
        path: "connection.tls.mode",
        kind: FieldKind::Choice(&["disable", "prefer", "require", "verify-ca", "verify-full"]),
        required: false,
        default: Some("prefer"),
        doc: "How far the connection is secured, as libpq's sslmode: `verify-full` checks the certificate and the \
              host name, `require` only encrypts, `prefer` encrypts when the server can.",
        example: "verify-full",
    },
    FieldDoc {
        path: "connection.tls.ca_file",
        kind: FieldKind::Text,
        required: false,
        default: None,
        doc: "PEM file of trusted root certificates; the machine's own when not given.",
        example: "/etc/rowstream/ca.pem",
    },
    FieldDoc {
        path: "connection.tls.cert_file",
        kind: FieldKind::Text,
        required: false,
        default: None,
        doc: "PEM file of the client certificate chain, for certificate authentication.",
        example: "/etc/rowstream/client.pem",
    },
    FieldDoc {
        path: "connection.tls.key_file",
        kind: FieldKind::Text,
        required: false,
        default: None,
        doc: "PEM file of the client certificate's key.",
        example: "/etc/rowstream/client.key",
    },
    FieldDoc {
        path: "connection.connect_timeout",
        kind: FieldKind::Duration,
        required: false,
        default: Some("10s"),
        doc: "Longest wait for a connection to be made.",
        example: "10s",
    },
];

/// A checked connection block.
#[derive(Debug, Clone)]
pub struct ConnectionPlan {
    /// What was typed.
    pub config: ConnectionConfig,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// When the certificates of its connections end.
    pub expiry: Expiry,
}

impl ConnectionConfig {
    /// Checks what the fields mean together.
    ///
    /// # Errors
    /// Adds to `errors`; answers `None` then.
    pub fn plan(self, errors: &mut ConfigErrors) -> Option<ConnectionPlan> {
        let before = errors.0.len();
        for (field, text) in [
            ("connection.host", &self.host),
            ("connection.database", &self.database),
            ("connection.user", &self.user),
        ] {
            if text.trim().is_empty() {
                errors.push(field, "must not be empty");
            }
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            errors.push(
                "connection.tls.cert_file",
                "cert_file and key_file belong together: give both or neither",
            );
        }
        (errors.0.len() == before).then(|| ConnectionPlan {
            config: self,
            application_name: "rowstream".to_owned(),
            expiry: Expiry::default(),
        })
    }
}

impl ConnectionPlan {
    /// `db:5432/shop`, for messages and for naming exclusive resources.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}/{}", self.config.host, self.config.port, self.config.database)
    }

    /// The rustls configuration; `None` when TLS is disabled.
    ///
    /// # Errors
    /// As [`rowstream_tls::client_config`].
    pub fn tls(&self) -> Result<Option<Arc<ClientConfig>>, ConnectorError> {
        rowstream_tls::client_config(&self.config.tls, &self.expiry)
    }

    /// Opens a connection for ordinary SQL. The returned guard drives it and closes it when dropped.
    ///
    /// # Errors
    /// Names the address, and for authentication errors the user; never the password.
    pub async fn connect(&self) -> Result<Connection, ConnectorError> {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.config.host)
            .port(self.config.port)
            .dbname(&self.config.database)
            .user(&self.config.user)
            .application_name(&self.application_name)
            .connect_timeout(self.config.connect_timeout)
            .keepalives_idle(Duration::from_secs(30));
        if !self.config.password.reveal().is_empty() {
            config.password(self.config.password.reveal());
        }
        config.ssl_mode(match self.config.tls.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        let attempt = |e| {
            from_postgres(e).while_attempting(&format!(
                "connect to {} as `{}`",
                self.address(),
                self.config.user
            ))
        };
        let connected = tokio::time::timeout(self.config.connect_timeout, async {
            match self.tls()? {
                Some(tls) => {
                    let (client, driver) =
                        config.connect(MakeRustlsConnect::new((*tls).clone())).await.map_err(attempt)?;
                    Ok(Connection::new(client, driver))
                }
                None => {
                    let (client, driver) = config.connect(NoTls).await.map_err(attempt)?;
                    Ok(Connection::new(client, driver))
                }
            }
        });
        connected.await.unwrap_or_else(|_| {
            Err(ConnectorError::transient(
                "PG_CONNECTION",
                format!("connect to {}: no answer within {:?}", self.address(), self.config.connect_timeout),
            ))
        })
    }
}

/// A client and the task that drives it.
pub struct Connection {
    /// The client.
    pub client: Client,
    driver: JoinHandle<()>,
}

impl Connection {
    #[expect(
        clippy::disallowed_methods,
        reason = "the driver's owner is this guard, which aborts it on drop"
    )]
    fn new<D>(client: Client, driver: D) -> Self
    where
        D: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
    {
        let driver = tokio::spawn(async move {
            // A broken connection shows as an error of the client's next call; nothing to add here.
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a PostgreSQL connection ended");
            }
        });
        Self { client, driver }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
