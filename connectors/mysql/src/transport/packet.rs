//! MySQL packets over a socket: one buffer that is read in place, packets of 16 MiB joined, plain or TLS.

use std::{io, time::Duration};

use rowstream_api::ConnectorError;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// A packet of this length goes on in the next one.
const FULL: usize = 0xff_ffff;
/// How much is asked for at once: below 256 KiB throughput falls, above 1 MiB nothing is gained (reference: mysql.md 3).
const READ_BYTES: usize = 512 << 10;
/// A packet larger than this is not one: `max_allowed_packet` is at most 1 GiB.
const PACKET_BYTES_MAX: usize = (1 << 30) + (1 << 20);

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection's packets.
pub struct Packets {
    socket: Box<dyn Transport>,
    /// Received and not consumed: `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    sequence: u8,
    /// Where the parts of a split packet that were joined already end.
    joined: usize,
}

/// A whole packet's place in the buffer.
#[derive(Debug, Clone, Copy)]
pub struct Framed {
    payload: (usize, usize),
    next: usize,
}

fn lost(error: io::Error) -> ConnectorError {
    ConnectorError::transient("MYSQL_CONNECTION", format!("the connection was lost: {error}")).because(error)
}

impl Packets {
    /// Over a plain socket.
    #[must_use]
    pub fn plain(socket: TcpStream) -> Self {
        Self::over(Box::new(socket))
    }

    /// Over a Unix socket.
    #[must_use]
    pub fn unix(socket: tokio::net::UnixStream) -> Self {
        Self::over(Box::new(socket))
    }

    fn over(socket: Box<dyn Transport>) -> Self {
        Self { socket, buffer: Vec::new(), start: 0, end: 0, sequence: 0, joined: 0 }
    }

    /// Goes on over TLS; nothing may be in the buffer.
    ///
    /// # Errors
    /// The handshake failed, or the server sent something before it.
    pub async fn secure(
        self,
        tls: tokio_rustls::TlsConnector,
        name: rustls::pki_types::ServerName<'static>,
    ) -> Result<Self, ConnectorError> {
        if self.start != self.end {
            return Err(ConnectorError::fatal("MYSQL_PROTOCOL", "the server spoke before TLS began"));
        }
        let secured = tls.connect(name, self.socket).await.map_err(|e| {
            ConnectorError::config("MYSQL_TLS", format!("the TLS handshake failed: {e}")).because(e)
        })?;
        Ok(Self { sequence: self.sequence, ..Self::over(Box::new(secured)) })
    }

    /// Begins a new exchange.
    pub fn restart(&mut self) {
        self.sequence = 0;
    }

    /// Sends one packet.
    ///
    /// # Errors
    /// The connection's; a packet of 16 MiB or more.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), ConnectorError> {
        let length = u32::try_from(payload.len()).ok().filter(|n| (*n as usize) < FULL);
        let length = length.ok_or_else(|| ConnectorError::fatal("BUG", "a command of 16 MiB"))?;
        let [a, b, c, _] = length.to_le_bytes();
        let mut packet = Vec::with_capacity(payload.len() + 4);
        packet.extend_from_slice(&[a, b, c, self.sequence]);
        packet.extend_from_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.write_all(&packet).await.map_err(lost)?;
        self.socket.flush().await.map_err(lost)
    }

    /// The packet at the front of the buffer, if all of it is there.
    ///
    /// # Errors
    /// A packet larger than any server's limit.
    pub fn front(&mut self) -> Result<Option<Framed>, ConnectorError> {
        loop {
            let at = if self.joined > 0 { self.joined } else { self.start };
            let Some([a, b, c, sequence]) =
                self.buffer.get(at..self.end).and_then(|rest| rest.first_chunk::<4>()).copied()
            else {
                return Ok(None);
            };
            let length = u32::from_le_bytes([a, b, c, 0]) as usize;
            let end = at + 4 + length;
            if end > self.end {
                return Ok(None);
            }
            self.sequence = sequence.wrapping_add(1);
            if self.joined > 0 {
                // The part's header goes, so that the payload is one piece.
                self.buffer.copy_within(at + 4..self.end, at);
                self.end -= 4;
                self.joined = end - 4;
            } else {
                self.joined = end;
            }
            if self.joined - self.start > PACKET_BYTES_MAX {
                return Err(ConnectorError::fatal("MYSQL_PROTOCOL", "a packet is larger than 1 GiB"));
            }
            if length < FULL {
                let end = std::mem::take(&mut self.joined);
                return Ok(Some(Framed { payload: (self.start + 4, end), next: end }));
            }
        }
    }

    /// The bytes of a packet that [`Self::front`] answered.
    #[must_use]
    pub fn payload(&self, framed: Framed) -> &[u8] {
        self.buffer.get(framed.payload.0..framed.payload.1).unwrap_or_default()
    }

    /// Removes a packet that [`Self::front`] answered.
    pub fn consume(&mut self, framed: Framed) {
        self.start = framed.next.min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once; answers how many bytes came. Cancel-safe.
    ///
    /// # Errors
    /// The connection's; it has ended.
    pub async fn read_more(&mut self) -> Result<usize, ConnectorError> {
        if self.start > 0 && self.buffer.len() - self.end < READ_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            self.joined = self.joined.saturating_sub(self.start);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < READ_BYTES / 2 {
            self.buffer.resize((self.end + READ_BYTES).max(self.buffer.len()), 0);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let n = self.socket.read(room).await.map_err(lost)?;
        if n == 0 {
            return Err(ConnectorError::transient("MYSQL_CONNECTION", "the server closed the connection"));
        }
        self.end += n;
        Ok(n)
    }

    /// Waits for a packet and answers a copy of it: for everything but the stream.
    ///
    /// # Errors
    /// The connection's.
    pub async fn receive(&mut self) -> Result<Vec<u8>, ConnectorError> {
        loop {
            if let Some(framed) = self.front()? {
                let payload = self.payload(framed).to_vec();
                self.consume(framed);
                return Ok(payload);
            }
            self.read_more().await?;
        }
    }

    /// Gives memory back that one large packet needed.
    pub fn shrink(&mut self) {
        if self.start == self.end && self.buffer.len() > READ_BYTES * 4 {
            self.buffer = Vec::new();
        }
    }

    /// Says goodbye; nobody waits for an answer.
    pub async fn quit(&mut self) {
        self.restart();
        // The server notices a closed socket as well.
        drop(tokio::time::timeout(Duration::from_millis(200), self.send(&[1])).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn split_packets_are_joined() {
        let (mut server, client) = tokio::io::duplex(1 << 20);
        let mut packets = Packets::over(Box::new(client));
        let payload: Vec<u8> = (0..FULL * 2 + 7).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let sent = payload.clone();
        let writing = async move {
            for (n, part) in [(FULL, 0), (FULL, FULL), (7, FULL * 2)] {
                let [a, b, c, _] = u32::try_from(n).unwrap().to_le_bytes();
                server.write_all(&[a, b, c, 0]).await.unwrap();
                server.write_all(&sent[part..part + n]).await.unwrap();
            }
            server.write_all(&[2, 0, 0, 3, 8, 9]).await.unwrap();
            server
        };
        let (_server, received) = tokio::join!(writing, async {
            let first = packets.receive().await.unwrap();
            (first, packets.receive().await.unwrap())
        });
        assert!(received.0 == payload);
        assert_eq!(received.1, [8, 9]);
    }
}
