//! A thin connection of our own: startup, TLS, authentication, the simple query protocol and CopyBoth.
//!
//! `tokio-postgres` can't speak the replication protocol and gives rows as owned values. This connection serves both
//! the stream (frames are borrowed from one growing buffer) and the snapshot (rows come as text under exactly the
//! session settings of the stream, so that both phases read the same characters).

use bytes::{Buf, BytesMut};
use postgres_protocol::{
    IsNull,
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
    },
    message::frontend,
};
use rowstream_api::{Attempting, Class, ConnectorError};
use rowstream_tls::TlsMode;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    connection::ConnectionPlan,
    end_point,
    error::classify,
    ident::QuotedIdent,
    wire::{
        Cursor, DecodeError,
        frame::{self, Front, HEADER_BYTES, ServerMessage},
    },
};

/// Session settings that decide how values look as text. Set by us, because `ALTER ROLE … SET` may have changed them.
pub const SESSION_SETTINGS: [(&str, &str); 6] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("timezone", "UTC"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
];

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The replication protocol (and simple queries).
    Replication,
    /// Simple queries only; needs no REPLICATION attribute.
    Query,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// An authenticated connection. Dropping it closes the socket.
pub struct RawConnection {
    socket: Box<dyn Socket>,
    inbox: BytesMut,
    outbox: BytesMut,
    /// Process id of the server's backend.
    pub backend_pid: i32,
    /// SQLSTATE of the server's last error.
    pub last_sqlstate: String,
}

/// Turns malformed bytes into an error of the connection.
pub fn malformed(error: DecodeError) -> ConnectorError {
    ConnectorError::fatal("PG_PROTOCOL", "the server sent bytes that are not PostgreSQL's protocol")
        .because(error)
}

/// Turns an `ErrorResponse` into an error of its class.
#[must_use]
pub fn server_error(body: &[u8]) -> ConnectorError {
    match ServerMessage::decode(body) {
        Ok(said) => {
            let (class, code) = classify(&said.sqlstate);
            let error =
                ConnectorError::new(class, code, format!("{} (SQLSTATE {})", said.message, said.sqlstate));
            match said.hint {
                Some(hint) => error.remedy(hint),
                None => error,
            }
        }
        Err(error) => malformed(error),
    }
}

fn lost(error: std::io::Error) -> ConnectorError {
    ConnectorError::transient("PG_CONNECTION", "the connection to the server was lost").because(error)
}

fn closed() -> ConnectorError {
    ConnectorError::transient("PG_CONNECTION", "the server closed the connection")
}

impl RawConnection {
    /// Connects and authenticates, all within the plan's `connect_timeout`.
    ///
    /// # Errors
    /// Names the address; never the password.
    pub async fn connect(plan: &ConnectionPlan, purpose: Purpose) -> Result<Self, ConnectorError> {
        let limit = plan.config.connect_timeout;
        tokio::time::timeout(limit, Self::connect_now(plan, purpose))
            .await
            .unwrap_or_else(|_| {
                Err(ConnectorError::transient("PG_CONNECTION", format!("no answer within {limit:?}")))
            })
            .attempting(|| format!("connect to {} as `{}` for replication", plan.address(), plan.config.user))
            .map_err(|error| match error.code {
                "PG_PRIVILEGE" => {
                    let role = QuotedIdent::new(&plan.config.user);
                    error.remedy(format!("as a superuser: ALTER ROLE {role} REPLICATION;"))
                }
                _ => error,
            })
    }

    async fn connect_now(plan: &ConnectionPlan, purpose: Purpose) -> Result<Self, ConnectorError> {
        let unreachable = |e| ConnectorError::transient("PG_CONNECTION", "can't reach the server").because(e);
        let tcp =
            TcpStream::connect((plan.config.host.as_str(), plan.config.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(lost)?;
        let (socket, end_point) = secure(plan, tcp).await?;
        let mut connection = Self {
            socket,
            inbox: BytesMut::with_capacity(64 << 10),
            outbox: BytesMut::new(),
            backend_pid: 0,
            last_sqlstate: String::new(),
        };
        let options: String = SESSION_SETTINGS.iter().map(|(k, v)| format!("-c {k}={v} ")).collect();
        let mut parameters = vec![
            ("user", plan.config.user.as_str()),
            ("database", plan.config.database.as_str()),
            ("application_name", plan.application_name.as_str()),
            ("client_encoding", "UTF8"),
            ("options", options.as_str()),
        ];
        if purpose == Purpose::Replication {
            parameters.push(("replication", "database"));
        }
        frontend::startup_message(parameters, &mut connection.outbox).map_err(lost)?;
        connection.flush().await?;
        connection.authenticate(plan, end_point).await?;
        connection.until_ready(&mut |_| Ok(())).await?;
        Ok(connection)
    }

    async fn authenticate(
        &mut self,
        plan: &ConnectionPlan,
        end_point: Option<Vec<u8>>,
    ) -> Result<(), ConnectorError> {
        let password = plan.config.password.reveal();
        let mut scram: Option<ScramSha256> = None;
        let failed = |e: std::io::Error| {
            ConnectorError::config("PG_AUTHENTICATION", "the password exchange with the server failed")
                .because(e)
        };
        loop {
            let (tag, body) = self.frame().await?;
            match tag {
                b'E' => return Err(server_error(&body)),
                b'R' => {}
                _ => continue,
            }
            let mut cursor = Cursor::new(&body);
            let kind = cursor.u32("authentication").map_err(malformed)?;
            if kind != 0 && password.is_empty() {
                return Err(ConnectorError::config(
                    "PG_AUTHENTICATION",
                    format!(
                        "the server wants a password for role `{}`; set connection.password",
                        plan.config.user
                    ),
                ));
            }
            match kind {
                0 => return Ok(()),
                3 => frontend::password_message(password.as_bytes(), &mut self.outbox).map_err(lost)?,
                5 => {
                    let salt = cursor.u32("salt").map_err(malformed)?.to_be_bytes();
                    let hash = md5_hash(plan.config.user.as_bytes(), password.as_bytes(), salt);
                    frontend::password_message(hash.as_bytes(), &mut self.outbox).map_err(lost)?;
                }
                10 => {
                    let (mechanism, binding) = choose_mechanism(cursor.rest(), end_point.as_deref())?;
                    let exchange = ScramSha256::new(password.as_bytes(), binding);
                    frontend::sasl_initial_response(mechanism, exchange.message(), &mut self.outbox)
                        .map_err(lost)?;
                    scram = Some(exchange);
                }
                11 | 12 => {
                    let exchange =
                        scram.as_mut().ok_or_else(|| malformed(DecodeError::Length(kind.into())))?;
                    if kind == 11 {
                        exchange.update(cursor.rest()).map_err(failed)?;
                        frontend::sasl_response(exchange.message(), &mut self.outbox).map_err(lost)?;
                    } else {
                        exchange.finish(cursor.rest()).map_err(failed)?;
                    }
                }
                other => {
                    return Err(ConnectorError::config(
                        "PG_AUTHENTICATION",
                        format!(
                            "the server wants authentication method {other}; use scram-sha-256, md5, password, cert or trust"
                        ),
                    ));
                }
            }
            self.flush().await?;
        }
    }

    /// Runs one simple query, which may hold several statements, and lends the body of each `DataRow` to `row`.
    ///
    /// # Errors
    /// The server's, or the first one that `row` answers. The connection is of no further use after an error of
    /// `row`, and stays usable after one of the server.
    pub async fn query(
        &mut self,
        sql: &str,
        row: &mut (dyn FnMut(&[u8]) -> Result<(), ConnectorError> + Send),
    ) -> Result<(), ConnectorError> {
        frontend::query(sql, &mut self.outbox).map_err(lost)?;
        self.flush().await?;
        self.until_ready(row).await
    }

    /// Runs one statement, and only one, whatever the text holds: the server refuses a second one in it.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn statement(&mut self, sql: &str) -> Result<(), ConnectorError> {
        frontend::parse("", sql, [], &mut self.outbox).map_err(lost)?;
        let bound = frontend::bind("", "", [], [(); 0], |(), _| Ok(IsNull::Yes), [], &mut self.outbox);
        bound.map_err(|_| malformed(DecodeError::Length(0)))?;
        frontend::execute("", 0, &mut self.outbox).map_err(lost)?;
        frontend::sync(&mut self.outbox);
        self.flush().await?;
        self.until_ready(&mut |_| Ok(())).await
    }

    /// Runs one simple query and answers its rows as text.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ConnectorError> {
        let mut rows = Vec::new();
        self.query(sql, &mut |body| {
            let mut row = Vec::new();
            data_row(body, &mut |value| {
                row.push(value.map(|v| String::from_utf8_lossy(v).into_owned()));
            })
            .map_err(malformed)?;
            rows.push(row);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    /// Sends `START_REPLICATION …` and waits until the stream is open.
    ///
    /// # Errors
    /// The server's.
    pub async fn start_copy(&mut self, command: &str) -> Result<(), ConnectorError> {
        frontend::query(command, &mut self.outbox).map_err(lost)?;
        self.flush().await?;
        loop {
            let (tag, body) = self.frame().await?;
            match tag {
                b'W' => return Ok(()),
                b'E' => {
                    self.last_sqlstate = ServerMessage::decode(&body).map_err(malformed)?.sqlstate;
                    // A failed command leaves the connection ready for the next one.
                    self.until_ready(&mut |_| Ok(())).await?;
                    return Err(server_error(&body));
                }
                _ => {}
            }
        }
    }

    async fn until_ready(
        &mut self,
        row: &mut (dyn FnMut(&[u8]) -> Result<(), ConnectorError> + Send),
    ) -> Result<(), ConnectorError> {
        let mut failure = None;
        loop {
            while let Some((tag, end)) = self.front()? {
                let body = self.inbox.get(HEADER_BYTES..end).unwrap_or_default();
                match tag {
                    b'D' => row(body)?,
                    b'E' => {
                        self.last_sqlstate = ServerMessage::decode(body).map_err(malformed)?.sqlstate;
                        failure = Some(server_error(body));
                    }
                    b'K' => self.backend_pid = Cursor::new(body).i32("backend key").map_err(malformed)?,
                    _ => {}
                }
                self.consume(end);
                if tag == b'Z' {
                    return failure.map_or(Ok(()), Err);
                }
            }
            // A FATAL error is followed by the end of the connection, not by readiness.
            match (self.fill().await, failure.take()) {
                (Ok(()), kept) => failure = kept,
                (Err(_), Some(said)) => return Err(said),
                (Err(error), None) => return Err(error),
            }
        }
    }

    /// The whole frame at the front of what was received, if there is one: its tag and end. Its body is
    /// [`Self::body`].
    ///
    /// # Errors
    /// Bytes that are no frame.
    pub fn front(&mut self) -> Result<Option<(u8, usize)>, ConnectorError> {
        match frame::split(&self.inbox).map_err(malformed)? {
            Front::Whole { tag, end } => Ok(Some((tag, end))),
            Front::Partial { wanted } => {
                // Room for the rest of a large frame at once, and for a good read in any case.
                self.inbox.reserve(wanted.saturating_sub(self.inbox.len()).max(64 << 10));
                Ok(None)
            }
        }
    }

    /// The body of the front frame that ends at `end`.
    #[must_use]
    pub fn body(&self, end: usize) -> &[u8] {
        self.inbox.get(HEADER_BYTES..end).unwrap_or_default()
    }

    /// Drops the front frame.
    pub fn consume(&mut self, end: usize) {
        self.inbox.advance(end.min(self.inbox.len()));
    }

    /// Waits for more bytes. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost or was closed.
    pub async fn fill(&mut self) -> Result<(), ConnectorError> {
        self.read_more().await.map(|_| ())
    }

    /// As [`Self::fill`]; answers how many bytes came.
    ///
    /// # Errors
    /// The connection is lost or was closed.
    pub async fn read_more(&mut self) -> Result<usize, ConnectorError> {
        match self.socket.read_buf(&mut self.inbox).await {
            Ok(0) => Err(closed()),
            Ok(n) => Ok(n),
            Err(error) => Err(lost(error)),
        }
    }

    async fn frame(&mut self) -> Result<(u8, Vec<u8>), ConnectorError> {
        loop {
            if let Some((tag, end)) = self.front()? {
                let body = self.body(end).to_vec();
                self.consume(end);
                return Ok((tag, body));
            }
            self.fill().await?;
        }
    }

    /// Where to put bytes for [`Self::flush`].
    pub fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    /// Sends the outbox. Cancel-safe: what was not sent stays in it.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn flush(&mut self) -> Result<(), ConnectorError> {
        while self.outbox.has_remaining() {
            if self.socket.write_buf(&mut self.outbox).await.map_err(lost)? == 0 {
                return Err(closed());
            }
        }
        self.socket.flush().await.map_err(lost)
    }
}

/// Lends each column of a `DataRow` body.
///
/// # Errors
/// Malformed bytes.
pub fn data_row(body: &[u8], column: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(body);
    for _ in 0..cursor.count16("column count")? {
        match cursor.i32("column length")? {
            -1 => column(None),
            n => {
                let n = usize::try_from(n).map_err(|_| DecodeError::Length(n.into()))?;
                column(Some(cursor.bytes(n, "column value")?));
            }
        }
    }
    Ok(())
}

fn choose_mechanism(
    offered: &[u8],
    end_point: Option<&[u8]>,
) -> Result<(&'static str, ChannelBinding), ConnectorError> {
    let mut cursor = Cursor::new(offered);
    let (mut plain, mut plus) = (false, false);
    while !matches!(cursor.rest(), [] | [0]) {
        match cursor.cstr("mechanism").map_err(malformed)? {
            "" => break,
            SCRAM_SHA_256 => plain = true,
            SCRAM_SHA_256_PLUS => plus = true,
            _ => {}
        }
    }
    match (plain, plus, end_point) {
        (_, true, Some(hash)) => {
            Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.to_vec())))
        }
        // We could have bound the channel, the server did not offer to: said in the exchange, so that a man in the
        // middle who removed the offer is noticed.
        (true, false, Some(_)) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        (true, _, None) => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(ConnectorError::config(
            "PG_AUTHENTICATION",
            "the server offers no SASL mechanism that is known here",
        )),
    }
}

async fn secure(
    plan: &ConnectionPlan,
    mut tcp: TcpStream,
) -> Result<(Box<dyn Socket>, Option<Vec<u8>>), ConnectorError> {
    let Some(config) = plan.tls()? else { return Ok((Box::new(tcp), None)) };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(lost)?;
    if tcp.read_u8().await.map_err(lost)? != b'S' {
        return if plan.config.tls.mode == TlsMode::Prefer {
            Ok((Box::new(tcp), None))
        } else {
            Err(ConnectorError::config(
                "PG_NO_TLS",
                "the server does not offer TLS, and connection.tls.mode wants it",
            ))
        };
    }
    let name = ServerName::try_from(plan.config.host.clone()).map_err(|e| {
        ConnectorError::config("TLS_CONFIG", "connection.host is no name that TLS can check").because(e)
    })?;
    let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| {
        let class =
            if e.kind() == std::io::ErrorKind::InvalidData { Class::Config } else { Class::Transient };
        ConnectorError::new(class, "TLS_HANDSHAKE", "the TLS handshake failed").because(e)
    })?;
    let hash = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .and_then(|certificate| end_point::hash(certificate));
    Ok((Box::new(tls), hash))
}
