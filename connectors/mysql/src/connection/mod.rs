//! Reaching a server: the `connection` block, and ordinary SQL connections made from it.
//!
//! `connection.host` may name several servers; each attempt tries them in order and takes the first that answers and, where
//! rows are to be written, is writable. An error names every server that was tried.

mod server;
mod tls;

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, SslOpts, prelude::Queryable};
use rowstream_api::{Class, ConfigErrors, ConnectorError, FieldDoc, FieldKind, Secret, units};
use rowstream_tls::{Expiry, TlsConfig, TlsMode};
use serde::Deserialize;

pub use server::{Flavour, Server};

use crate::error::from_mysql;

const MISUNDERSTOOD: &str = "MYSQL_HANDSHAKE";

/// The `connection` block of a source or a sink.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ConnectionConfig {
    /// Host names or addresses, comma separated, each perhaps with a port.
    #[serde(default)]
    pub host: String,
    /// TCP port of hosts that name none.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Path of a Unix socket, in place of hosts.
    pub socket: Option<String>,
    /// Database.
    #[serde(default)]
    pub database: String,
    /// User.
    pub user: String,
    /// The user's password; none for users without one.
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
    3306
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

/// The fields of the block, for a connector's `FIELDS`.
pub const CONNECTION_FIELDS: [FieldDoc; 11] = [
    FieldDoc::optional(
        "connection.host",
        FieldKind::Text,
        None,
        "Host name or address of the server; required unless `socket` is given. Several, comma separated and each \
         perhaps with a port (`db1,db2:3307`), are tried in order: for a sink the first writable one is taken.",
        "db.internal",
    ),
    FieldDoc::optional(
        "connection.port",
        FieldKind::Integer { min: 1, max: 65535 },
        Some("3306"),
        "TCP port of hosts that name none themselves.",
        "3306",
    ),
    FieldDoc::optional(
        "connection.socket",
        FieldKind::Text,
        None,
        "Path of the server's Unix socket, in place of `host`. TLS is not used on it.",
        "/run/mysqld/mysqld.sock",
    ),
    FieldDoc::optional(
        "connection.database",
        FieldKind::Text,
        None,
        "Database to connect to. Where a sink's `table` names no database, its tables are here.",
        "shop",
    ),
    FieldDoc {
        path: "connection.user",
        kind: FieldKind::Text,
        required: true,
        default: None,
        doc: "User to connect as. caching_sha2_password, mysql_native_password, ed25519 and parsec are supported.",
        example: "rowstream",
    },
    FieldDoc::optional(
        "connection.password",
        FieldKind::Secret,
        None,
        "The user's password. Write `${env:NAME}` or `${file:/path}`, not the password itself.",
        "${env:SHOP_PASSWORD}",
    ),
    FieldDoc::optional(
        "connection.tls.mode",
        FieldKind::Choice(&["disable", "prefer", "require", "verify-ca", "verify-full"]),
        Some("prefer"),
        "How far the connection is secured: `verify-full` checks the certificate and the host name, `verify-ca` the \
         certificate, `require` only encrypts, `prefer` encrypts when the server can.",
        "verify-full",
    ),
    FieldDoc::optional(
        "connection.tls.ca_file",
        FieldKind::Text,
        None,
        "PEM file of trusted root certificates; the machine's own when not given.",
        "/etc/rowstream/ca.pem",
    ),
    FieldDoc::optional(
        "connection.tls.cert_file",
        FieldKind::Text,
        None,
        "PEM file of the client certificate chain, for certificate authentication.",
        "/etc/rowstream/client.pem",
    ),
    FieldDoc::optional(
        "connection.tls.key_file",
        FieldKind::Text,
        None,
        "PEM file of the client certificate's key.",
        "/etc/rowstream/client.key",
    ),
    FieldDoc::optional(
        "connection.connect_timeout",
        FieldKind::Duration,
        Some("10s"),
        "Longest wait for a connection to be made.",
        "10s",
    ),
];

/// One place where a server may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp(String, u16),
    /// Path of a socket.
    Unix(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// A checked connection block.
#[derive(Debug, Clone)]
pub struct ConnectionPlan {
    /// What was typed.
    pub config: ConnectionConfig,
    /// Where to try, in order; at least one.
    pub addresses: Vec<Address>,
    /// When the certificates of its connections end.
    pub expiry: Expiry,
}

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Any server that answers will do.
    Read,
    /// A read-only server will not do.
    Write,
}

/// An open connection and who answered.
pub struct Connection {
    /// The client. Dropped without ceremony; the server rolls back what is open.
    pub conn: Conn,
    /// Flavour and version.
    pub server: Server,
    /// Which of the addresses answered.
    pub address: Address,
}

impl ConnectionConfig {
    /// Checks what the fields mean together.
    ///
    /// # Errors
    /// Adds to `errors`; answers `None` then.
    pub fn plan(self, errors: &mut ConfigErrors) -> Option<ConnectionPlan> {
        let before = errors.0.len();
        if self.user.trim().is_empty() {
            errors.push("connection.user", "must not be empty");
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            errors.push(
                "connection.tls.cert_file",
                "cert_file and key_file belong together: give both or neither",
            );
        }
        let addresses = match (&self.socket, self.host.trim().is_empty()) {
            (Some(path), true) => vec![Address::Unix(path.clone())],
            (Some(_), false) => {
                errors.push("connection.socket", "give a host or a socket, not both");
                Vec::new()
            }
            (None, true) => {
                errors.push("connection.host", "must not be empty, unless connection.socket is given");
                Vec::new()
            }
            (None, false) => {
                errors.take("connection.host", addresses(&self.host, self.port)).unwrap_or_default()
            }
        };
        (errors.0.len() == before).then_some(ConnectionPlan {
            config: self,
            addresses,
            expiry: Expiry::default(),
        })
    }
}

/// `db1,db2:3307,[::1]:3306`.
fn addresses(hosts: &str, port: u16) -> Result<Vec<Address>, String> {
    let wrong = |host: &str| format!("expected `host`, `host:port` or `[address]:port`, got `{host}`");
    let parse = |text: &str| {
        let text = text.trim();
        let (host, own_port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, behind)) => (host, Some(behind.strip_prefix(':').ok_or_else(|| wrong(text))?)),
            None => match text.split_once(':') {
                Some((host, behind)) if !behind.contains(':') => (host, Some(behind)),
                Some(_) | None => (text, None), // A bare IPv6 address has several colons.
            },
        };
        let port = own_port.map_or(Ok(port), str::parse).map_err(|_| wrong(text))?;
        if host.is_empty() { Err(wrong(text)) } else { Ok(Address::Tcp(host.to_owned(), port)) }
    };
    hosts.split(',').map(parse).collect()
}

impl ConnectionPlan {
    /// `db1:3306,db2:3307/shop`, for messages and for naming exclusive resources.
    #[must_use]
    pub fn address(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        format!("{}/{}", addresses.join(","), self.config.database)
    }

    /// The client library's options for one address.
    ///
    /// # Errors
    /// A TLS file that can't be read.
    pub fn options(&self, address: &Address) -> Result<Opts, ConnectorError> {
        let tls = match address {
            Address::Unix(_) => None,
            Address::Tcp(..) => tls::options(&self.config.tls, &self.expiry)?,
        };
        Ok(self.builder(address, tls).into())
    }

    fn builder(&self, address: &Address, tls: Option<SslOpts>) -> OptsBuilder {
        let password = self.config.password.reveal();
        let database = &self.config.database;
        let builder = OptsBuilder::default()
            .user(Some(&self.config.user))
            .pass((!password.is_empty()).then_some(password))
            .db_name((!database.is_empty()).then_some(database))
            .prefer_socket(false)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .tcp_nodelay(true)
            .client_found_rows(true) // An UPDATE counts the rows it found, changed or not.
            .stmt_cache_size(0) // Whoever prepares also keeps and closes.
            .connect_attribute("program_name", "rowstream")
            .ssl_opts(tls);
        match address {
            Address::Tcp(host, port) => builder.ip_or_hostname(host).tcp_port(*port),
            Address::Unix(path) => builder.socket(Some(path)),
        }
    }

    /// Opens a connection for ordinary SQL to the first address that will do.
    ///
    /// # Errors
    /// Names the addresses, and for authentication errors the user; never the password. Of several servers' errors the one
    /// that a person must mend comes first.
    pub async fn connect(&self, purpose: Purpose) -> Result<Connection, ConnectorError> {
        let mut errors = Vec::new();
        for address in &self.addresses {
            match self.connect_to(address, purpose).await {
                Ok(connection) => return Ok(connection),
                Err(error) => errors
                    .push(error.while_attempting(&format!("connect to {address} as `{}`", self.config.user))),
            }
        }
        let messages: Vec<String> = errors.iter().map(|error| error.message.clone()).collect();
        // A server that is away may come back as the right one: only when none may, a person is needed.
        let index = errors.iter().position(|error| error.class == Class::Transient).unwrap_or(0);
        if errors.is_empty() {
            return Err(ConnectorError::config("MYSQL_CONNECTION", "no server is named in connection.host"));
        }
        let mut error = errors.swap_remove(index);
        error.message = messages.join("; ");
        Err(error)
    }

    /// Opens a connection to one address.
    ///
    /// # Errors
    /// As `connect`.
    pub async fn connect_to(
        &self,
        address: &Address,
        purpose: Purpose,
    ) -> Result<Connection, ConnectorError> {
        let attempt = async {
            let mut conn = self.handshake(address).await?;
            let server = Server::of(&mut conn).await?;
            if purpose == Purpose::Write && is_read_only(&mut conn).await? {
                return Err(ConnectorError::transient("MYSQL_READ_ONLY", "the server is read-only"));
            }
            Ok(Connection { conn, server, address: address.clone() })
        };
        tokio::time::timeout(self.config.connect_timeout, attempt).await.unwrap_or_else(|_| {
            let message = format!("no answer within {:?}", self.config.connect_timeout);
            Err(ConnectorError::transient("MYSQL_CONNECTION", message))
        })
    }

    /// `mysql_common` 0.37 takes a zero at the end of a 32-byte nonce for its terminator, so that one login in 256 panics with parsec and is
    /// refused with ed25519. The next nonce is another, so both are tried once more.
    async fn handshake(&self, address: &Address) -> Result<Conn, ConnectorError> {
        match self.attempt(address).await {
            Err(first) if ["MYSQL_AUTHENTICATION", MISUNDERSTOOD].contains(&first.code) => {
                match self.attempt(address).await {
                    Err(second) if second.code == MISUNDERSTOOD => Err(first),
                    done => done,
                }
            }
            done => done,
        }
    }

    async fn attempt(&self, address: &Address) -> Result<Conn, ConnectorError> {
        match caught(Conn::new(self.options(address)?)).await? {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer))
                if self.config.tls.mode == TlsMode::Prefer =>
            {
                caught(Conn::new(self.builder(address, None))).await?.map_err(from_mysql)
            }
            done => done.map_err(from_mysql),
        }
    }
}

async fn caught<T>(handshake: impl Future<Output = T>) -> Result<T, ConnectorError> {
    AssertUnwindSafe(handshake).catch_unwind().await.map_err(|_| {
        ConnectorError::transient(MISUNDERSTOOD, "the server's part of the handshake was not understood")
    })
}

async fn is_read_only(conn: &mut Conn) -> Result<bool, ConnectorError> {
    // A number, and in newer MariaDB a word.
    let sql = "SELECT CAST(@@global.read_only AS CHAR)";
    let read_only: Option<String> = conn.query_first(sql).await.map_err(from_mysql)?;
    Ok(!matches!(read_only.as_deref(), None | Some("0" | "OFF")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_hosts_with_ports_of_their_own() {
        let shown = |hosts: &str| {
            addresses(hosts, 3306).map(|all| all.iter().map(Address::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(shown("db"), Ok("db:3306".to_owned()));
        assert_eq!(shown("db1, db2:3307"), Ok("db1:3306 db2:3307".to_owned()));
        assert_eq!(shown("[::1]:3307,fe80::1"), Ok("[::1]:3307 [fe80::1]:3306".to_owned()));
        for wrong in ["", "a,,b", "a:b", "[::1]x", ":3306"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_or_a_socket_is_needed_and_not_both() {
        let plan = |host: &str, socket: Option<&str>| {
            let config = ConnectionConfig {
                host: host.to_owned(),
                port: 3306,
                socket: socket.map(str::to_owned),
                database: "shop".to_owned(),
                user: "u".to_owned(),
                password: Secret::default(),
                tls: TlsConfig::default(),
                connect_timeout: Duration::from_secs(1),
            };
            let mut errors = ConfigErrors::default();
            config.plan(&mut errors).ok_or(errors.to_string())
        };
        assert!(plan("", None).unwrap_err().starts_with("connection.host: "));
        assert!(plan("a", Some("/s")).unwrap_err().starts_with("connection.socket: "));
        assert_eq!(plan("", Some("/s")).map(|plan| plan.address()), Ok("/s/shop".to_owned()));
    }
}
