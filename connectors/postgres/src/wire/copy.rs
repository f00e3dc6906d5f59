//! The envelope of a replication stream, inside `CopyData`: changes and keepalives from the server, status updates
//! from us.

use bytes::{BufMut, BytesMut};

use super::{Cursor, DecodeError};

/// 2000-01-01 in microseconds since 1970-01-01: PostgreSQL counts from there.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One message of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromServer<'a> {
    /// `w`: a pgoutput message.
    Change {
        /// Position of the change; 0 for Relation and Type messages.
        lsn: u64,
        /// The pgoutput message.
        payload: &'a [u8],
    },
    /// `k`
    Keepalive {
        /// How far the server has decoded: everything that committed before it was sent earlier on this connection.
        wal_end: u64,
        /// The server wants a status update at once.
        reply_requested: bool,
    },
}

/// Reads the body of a `CopyData` frame.
///
/// # Errors
/// Malformed bytes.
pub fn decode(body: &[u8]) -> Result<FromServer<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    match cursor.u8("replication message")? {
        b'w' => {
            let lsn = cursor.u64("start position")?;
            cursor.u64("end position")?;
            cursor.i64("clock")?;
            Ok(FromServer::Change { lsn, payload: cursor.rest() })
        }
        b'k' => {
            let wal_end = cursor.u64("end position")?;
            cursor.i64("clock")?;
            Ok(FromServer::Keepalive { wal_end, reply_requested: cursor.u8("reply flag")? != 0 })
        }
        tag => Err(DecodeError::UnknownTag(tag)),
    }
}

/// A standby status update. Only `flushed` lets the server forget WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Everything below was received.
    pub received: u64,
    /// Everything below is durable in the topic log.
    pub flushed: u64,
    /// Ask for a keepalive at once.
    pub reply: Reply,
    /// Our clock, microseconds since 1970-01-01.
    pub clock_us: i64,
}

/// Whether a status update asks for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The server should send a keepalive.
    Requested,
    /// No answer wanted.
    NotRequested,
}

impl Status {
    /// Appends the update as a whole `CopyData` frame.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(b'd');
        out.put_u32(4 + 1 + 8 * 4 + 1);
        out.put_u8(b'r');
        out.put_u64(self.received);
        out.put_u64(self.flushed);
        out.put_u64(self.flushed);
        out.put_i64(self.clock_us.saturating_sub(POSTGRES_EPOCH_US));
        out.put_u8(match self.reply {
            Reply::Requested => 1,
            Reply::NotRequested => 0,
        });
    }
}
