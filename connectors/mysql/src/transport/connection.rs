//! A connection that speaks the replication protocol: authentication, small queries, and the stream of events.

use std::time::Duration;

use rowstream_api::{Class, ConnectorError};
use rowstream_tls::TlsMode;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};

use super::{
    auth::{self, Greeting},
    packet::{Framed, Packets},
};
use crate::{
    connection::{Address, ConnectionPlan},
    error::classify,
    wire::{Cursor, DecodeError},
};

/// A row of a small query: each column as text.
pub type TextRow = Vec<Option<String>>;

/// See the module.
pub struct BinlogConnection {
    packets: Packets,
    /// `MYSQL_TLS` or a local socket: a password may be sent as it is.
    private: bool,
}

/// What the stream's next packet holds.
#[derive(Debug)]
pub enum Received<'a> {
    /// An event, with its header.
    Event(&'a [u8]),
    /// The server will send no more.
    End,
}

/// Bytes that are not what the protocol says.
#[must_use]
pub fn malformed(error: DecodeError) -> ConnectorError {
    ConnectorError::fatal("MYSQL_PROTOCOL", error.to_string())
}

/// The server's error packet, without its first byte.
fn server_error(body: &[u8]) -> ConnectorError {
    let mut cursor = Cursor::new(body, "an error of the server");
    let code = cursor.u16().unwrap_or(0);
    let rest = cursor.rest();
    let (state, message) = match rest.split_first_chunk::<6>() {
        Some(([b'#', state @ ..], message)) => (String::from_utf8_lossy(state).into_owned(), message),
        Some(_) | None => (String::new(), rest),
    };
    let (class, name, _) = classify(code, &state);
    let text = String::from_utf8_lossy(message);
    let text = format!("{} (error {code}, SQLSTATE {state})", text.lines().next().unwrap_or_default());
    if code == 1236 || code == 1220 {
        return ConnectorError::new(Class::Fatal, "MYSQL_BINLOG_LOST", text);
    }
    ConnectorError::new(class, name, text)
}

impl BinlogConnection {
    /// Connects to one of the plan's servers and authenticates.
    ///
    /// # Errors
    /// Names the addresses and the user; never the password.
    pub async fn connect(plan: &ConnectionPlan) -> Result<Self, ConnectorError> {
        let mut failure = ConnectorError::config("MYSQL_CONNECTION", "no server is named in connection.host");
        for (index, address) in plan.addresses.iter().enumerate() {
            match Self::connect_to(plan, address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    let error =
                        error.while_attempting(&format!("connect to {address} as `{}`", plan.config.user));
                    if index == 0 || failure.class != Class::Transient {
                        failure = error;
                    }
                }
            }
        }
        Err(failure)
    }

    /// Connects to one address.
    ///
    /// # Errors
    /// See [`Self::connect`].
    pub async fn connect_to(plan: &ConnectionPlan, address: &Address) -> Result<Self, ConnectorError> {
        let attempt = async {
            let lost =
                |e: std::io::Error| ConnectorError::transient("MYSQL_CONNECTION", e.to_string()).because(e);
            let (packets, host) = match address {
                Address::Tcp(host, port) => {
                    let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(lost)?;
                    socket.set_nodelay(true).map_err(lost)?;
                    (Packets::plain(socket), Some(host.as_str()))
                }
                Address::Unix(path) => (Packets::unix(UnixStream::connect(path).await.map_err(lost)?), None),
            };
            Self::authenticate(plan, packets, host).await
        };
        tokio::time::timeout(plan.config.connect_timeout, attempt).await.unwrap_or_else(|_| {
            let message = format!("no answer within {:?}", plan.config.connect_timeout);
            Err(ConnectorError::transient("MYSQL_CONNECTION", message))
        })
    }

    async fn authenticate(
        plan: &ConnectionPlan,
        mut packets: Packets,
        host: Option<&str>,
    ) -> Result<Self, ConnectorError> {
        let (user, password) = (&plan.config.user, plan.config.password.reveal());
        let first = packets.receive().await?;
        if let Some((0xff, error)) = first.split_first() {
            return Err(server_error(error));
        }
        let greeting = Greeting::decode(&first).map_err(malformed)?;
        let config = rowstream_tls::client_config(&plan.config.tls, &plan.expiry)?.filter(|_| host.is_some());
        let offered = greeting.capabilities & auth::TLS != 0;
        let mut private = host.is_none();
        if let (Some(config), true) = (&config, offered) {
            packets.send(&auth::tls_request(true)).await?;
            let host = host.unwrap_or_default();
            let name = ServerName::try_from(host.to_owned()).map_err(|e| {
                ConnectorError::config(
                    "MYSQL_TLS",
                    format!("`{host}` is no name that a certificate can have"),
                )
                .because(e)
            })?;
            packets = packets.secure(tokio_rustls::TlsConnector::from(config.clone()), name).await?;
            private = true;
        } else if config.is_some() && plan.config.tls.mode != TlsMode::Prefer {
            return Err(ConnectorError::config("MYSQL_TLS", "the server offers no TLS")
                .remedy("set up TLS on the server, or set connection.tls.mode to prefer or disable"));
        }
        let secured = private && host.is_some();
        let mut plugin = greeting.plugin;
        if auth::answer(&plugin, &greeting.nonce, password).is_none() {
            plugin = "caching_sha2_password".to_owned();
        }
        let answer = auth::answer(&plugin, &greeting.nonce, password).unwrap_or_default();
        packets.send(&auth::response(user, &answer, &plugin, secured)).await?;
        let mut connection = Self { packets, private };
        connection.negotiate(plugin, greeting.nonce, password).await?;
        Ok(connection)
    }

    async fn negotiate(
        &mut self,
        mut plugin: String,
        mut nonce: Vec<u8>,
        password: &str,
    ) -> Result<(), ConnectorError> {
        // A server that goes on asking is not believed for ever.
        for _ in 0..16 {
            let packet = self.packets.receive().await?;
            match packet.split_first() {
                Some((0, _)) => return Ok(()),
                Some((0xff, error)) => return Err(server_error(error)),
                Some((0xfe, switch)) => {
                    let mut parts = switch.splitn(2, |b| *b == 0);
                    plugin = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
                    let data = parts.next().unwrap_or_default();
                    nonce = auth::nonce(data).to_vec();
                    let answer =
                        auth::answer(&plugin, &nonce, password).ok_or_else(|| unsupported(&plugin))?;
                    self.packets.send(&answer).await?;
                }
                Some((_, _)) if plugin == "parsec" => {
                    let answer = auth::parsec(&packet, &nonce, password).map_err(malformed)?;
                    self.packets.send(&answer).await?;
                }
                Some((1, [3])) => {}
                Some((1, [4])) if self.private => {
                    let mut secret = password.as_bytes().to_vec();
                    secret.push(0);
                    self.packets.send(&secret).await?;
                }
                Some((1, [4])) => self.packets.send(&[2]).await?,
                Some((1, key)) => self.packets.send(&auth::under_rsa(key, &nonce, password)?).await?,
                Some(_) | None => return Err(malformed(DecodeError::Malformed("the authentication"))),
            }
        }
        Err(malformed(DecodeError::Malformed("the authentication")))
    }

    /// Sends a command and answers the first packet of the reply.
    async fn command(&mut self, payload: &[u8]) -> Result<Vec<u8>, ConnectorError> {
        self.packets.restart();
        self.packets.send(payload).await?;
        let first = self.packets.receive().await?;
        match first.split_first() {
            Some((0xff, error)) => Err(server_error(error)),
            Some(_) => Ok(first),
            None => Err(malformed(DecodeError::Truncated("a reply"))),
        }
    }

    /// Runs one statement; answers its rows as text.
    ///
    /// # Errors
    /// The server's.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, ConnectorError> {
        let mut command = vec![3];
        command.extend_from_slice(sql.as_bytes());
        let first = self.command(&command).await?;
        if first.first() == Some(&0) {
            return Ok(Vec::new());
        }
        let columns = Cursor::new(&first, "a result").lenenc().map_err(malformed)?;
        for _ in 0..=columns {
            self.packets.receive().await?; // The columns, and what ends them.
        }
        let mut rows = Vec::new();
        loop {
            let packet = self.packets.receive().await?;
            match packet.split_first() {
                Some((0xfe, rest)) if rest.len() < 8 => return Ok(rows),
                Some((0xff, error)) => return Err(server_error(error)),
                Some(_) | None => rows.push(text_row(&packet).map_err(malformed)?),
            }
        }
    }

    /// Registers as a replica, so that the server names us in `SHOW REPLICAS`.
    ///
    /// # Errors
    /// The server's.
    pub async fn register(&mut self, server_id: u32) -> Result<(), ConnectorError> {
        let mut command = vec![21];
        command.extend_from_slice(&server_id.to_le_bytes());
        command.push(9);
        command.extend_from_slice(b"rowstream"); // Host, as shown to people.
        command.extend_from_slice(&[0; 2]); // User and password: none.
        command.extend_from_slice(&[0; 10]); // Port, rank, source id.
        self.command(&command).await.map(drop)
    }

    /// Begins the stream with this command; from then on only [`Self::front`] and what belongs to it.
    ///
    /// # Errors
    /// The connection's; the server's own come as the first packet.
    pub async fn begin_dump(&mut self, command: &[u8]) -> Result<(), ConnectorError> {
        self.packets.restart();
        self.packets.send(command).await
    }

    /// The packet at the front, if all of it is here.
    ///
    /// # Errors
    /// The protocol's.
    pub fn front(&mut self) -> Result<Option<Framed>, ConnectorError> {
        self.packets.front()
    }

    /// What a packet of the stream holds.
    ///
    /// # Errors
    /// The server's.
    pub fn received(&self, framed: Framed) -> Result<Received<'_>, ConnectorError> {
        match self.packets.payload(framed).split_first() {
            Some((0, event)) => Ok(Received::Event(event)),
            Some((0xff, error)) => Err(server_error(error)),
            Some((0xfe, rest)) if rest.len() < 8 => Ok(Received::End),
            Some(_) | None => Err(malformed(DecodeError::Malformed("a packet of the stream"))),
        }
    }

    /// Removes a packet.
    pub fn consume(&mut self, framed: Framed) {
        self.packets.consume(framed);
    }

    /// Reads once. Cancel-safe.
    ///
    /// # Errors
    /// The connection's.
    pub async fn read_more(&mut self) -> Result<usize, ConnectorError> {
        self.packets.shrink();
        self.packets.read_more().await
    }

    /// Says goodbye.
    pub async fn quit(&mut self) {
        self.packets.quit().await;
    }
}

/// COM_BINLOG_DUMP from a file and position; an empty file name where the session's variables say from where. A reader without an id
/// (0) gets what is there, and then the stream's end.
#[must_use]
pub fn dump_from_position(server_id: u32, file: &str, position: u32) -> Vec<u8> {
    /// BINLOG_DUMP_NON_BLOCK
    const NON_BLOCK: u16 = 1;
    let flags = if server_id == 0 { NON_BLOCK } else { 0 };
    let mut command = vec![18];
    command.extend_from_slice(&position.to_le_bytes());
    command.extend_from_slice(&flags.to_le_bytes());
    command.extend_from_slice(&server_id.to_le_bytes());
    command.extend_from_slice(file.as_bytes());
    command
}

/// COM_BINLOG_DUMP_GTID: everything that is not in `set`; or, when that is empty and a file is named, from there. Only this
/// command has positions of 64 bits.
#[must_use]
pub fn dump_gtid(server_id: u32, file: &str, position: u64, set: Option<&[u8]>) -> Vec<u8> {
    /// BINLOG_THROUGH_GTID
    const THROUGH_GTID: u16 = 4;
    let mut command = vec![30];
    command.extend_from_slice(&if set.is_some() { THROUGH_GTID } else { 0 }.to_le_bytes());
    command.extend_from_slice(&server_id.to_le_bytes());
    let length = |n: usize| u32::try_from(n).unwrap_or(0).to_le_bytes();
    command.extend_from_slice(&length(file.len()));
    command.extend_from_slice(file.as_bytes());
    command.extend_from_slice(&position.to_le_bytes());
    let set = set.unwrap_or_default();
    command.extend_from_slice(&length(set.len()));
    command.extend_from_slice(set);
    command
}

fn text_row(packet: &[u8]) -> Result<TextRow, DecodeError> {
    let mut cursor = Cursor::new(packet, "a row of a result");
    let mut row = Vec::new();
    while !cursor.is_empty() {
        if cursor.rest().first() == Some(&0xfb) {
            cursor.u8()?;
            row.push(None);
        } else {
            row.push(Some(String::from_utf8_lossy(cursor.lenenc_bytes()?).into_owned()));
        }
    }
    Ok(row)
}

fn unsupported(plugin: &str) -> ConnectorError {
    ConnectorError::config(
        "MYSQL_AUTHENTICATION",
        format!("the server asks for the authentication plugin `{plugin}`, which is not supported"),
    )
    .remedy("give the user one of caching_sha2_password, mysql_native_password, ed25519 or parsec")
}

/// How long a clean goodbye may take.
pub const FAREWELL: Duration = Duration::from_millis(500);
