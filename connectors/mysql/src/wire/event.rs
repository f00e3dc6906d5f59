//! Events: header, checksum, and those that are not rows.

use super::{
    Cursor, DecodeError,
    gtid::{Gtid, Tsid},
};

/// Bytes of an event's header.
pub const HEADER_BYTES: usize = 19;
const CHECKSUM_BYTES: usize = 4;

/// Event types (binlog_event.h of both servers).
pub mod kind {
    #![allow(missing_docs, reason = "the names are the servers' own")]
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const BEGIN_LOAD_QUERY: u8 = 17;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const MARIA_ANNOTATE_ROWS: u8 = 160;
    pub const MARIA_CHECKPOINT: u8 = 161;
    pub const MARIA_GTID: u8 = 162;
    pub const MARIA_GTID_LIST: u8 = 163;
    pub const MARIA_START_ENCRYPTION: u8 = 164;
    pub const MARIA_QUERY_COMPRESSED: u8 = 165;
    pub const MARIA_WRITE_COMPRESSED_V1: u8 = 166;
    pub const MARIA_UPDATE_COMPRESSED_V1: u8 = 167;
    pub const MARIA_DELETE_COMPRESSED_V1: u8 = 168;
    pub const MARIA_WRITE_COMPRESSED: u8 = 169;
    pub const MARIA_UPDATE_COMPRESSED: u8 = 170;
    pub const MARIA_DELETE_COMPRESSED: u8 = 171;
}

/// `LOG_EVENT_IGNORABLE_F`: whoever does not know the type may pass it over.
const IGNORABLE: u16 = 0x80;

/// An event's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Seconds since 1970.
    pub timestamp: u32,
    /// See [`kind`].
    pub kind: u8,
    /// Who wrote it first.
    pub server_id: u32,
    /// Length with header and checksum.
    pub length: u32,
    /// Where it ends in the file; 32 bits only, and 0 in a compressed transaction.
    pub end: u32,
    /// Flags.
    pub flags: u16,
}

impl Header {
    /// Reads an event's header; answers the rest, too.
    ///
    /// # Errors
    /// Malformed bytes, or a length that is not the event's.
    pub fn decode(event: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut cursor = Cursor::new(event, "an event's header");
        let header = Self {
            timestamp: cursor.u32()?,
            kind: cursor.u8()?,
            server_id: cursor.u32()?,
            length: cursor.u32()?,
            end: cursor.u32()?,
            flags: cursor.u16()?,
        };
        if header.length as usize != event.len() {
            return Err(DecodeError::Malformed("an event's length"));
        }
        Ok((header, cursor.rest()))
    }

    /// Whether an event of an unknown type may be passed over.
    #[must_use]
    pub fn is_ignorable(&self) -> bool {
        self.flags & IGNORABLE != 0
    }
}

/// Whether events carry a CRC32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksums {
    /// They do not.
    #[default]
    Off,
    /// They do, and it is checked.
    Crc32,
}

impl Checksums {
    /// The event without its checksum.
    ///
    /// # Errors
    /// It does not match.
    pub fn strip(self, event: &[u8]) -> Result<&[u8], DecodeError> {
        match self {
            Self::Off => Ok(event),
            Self::Crc32 => {
                let (bytes, sum) = event.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DecodeError::Checksum)?;
                if crc32fast::hash(bytes) == u32::from_le_bytes(*sum) {
                    Ok(bytes)
                } else {
                    Err(DecodeError::Checksum)
                }
            }
        }
    }
}

/// What a FORMAT_DESCRIPTION event says that matters here: whether the events after it carry checksums. It carries one itself
/// whenever the server knows them, which all supported ones do.
///
/// # Errors
/// Malformed bytes, an unknown algorithm, or a checksum that does not match.
pub fn format_description(event: &[u8]) -> Result<Checksums, DecodeError> {
    const WHAT: &str = "a format description";
    let (rest, _) = event.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DecodeError::Truncated(WHAT))?;
    match rest.last() {
        Some(1) => Checksums::Crc32.strip(event).map(|_| Checksums::Crc32),
        Some(0) => Ok(Checksums::Off),
        Some(_) | None => Err(DecodeError::Malformed(WHAT)),
    }
}

/// A ROTATE event's body: the next file, and where it goes on.
///
/// # Errors
/// Malformed bytes.
pub fn rotate(body: &[u8]) -> Result<(String, u64), DecodeError> {
    let mut cursor = Cursor::new(body, "a rotate event");
    let position = cursor.u64()?;
    let name = std::str::from_utf8(cursor.rest()).map_err(|_| DecodeError::Malformed("a binlog's name"))?;
    Ok((name.to_owned(), position))
}

/// Begins a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GtidEvent {
    /// Its id; `None` while GTIDs are off.
    pub gtid: Option<Gtid>,
    /// When it was committed first, in microseconds since 1970, if the server says so.
    pub commit_time_us: Option<i64>,
    /// MariaDB: the next event is all of it.
    pub standalone: bool,
    /// MariaDB: the XA transaction that it prepares.
    pub xa: Option<String>,
}

/// MySQL's GTID and ANONYMOUS_GTID events.
///
/// # Errors
/// Malformed bytes.
pub fn gtid(kind: u8, body: &[u8]) -> Result<GtidEvent, DecodeError> {
    let mut cursor = Cursor::new(body, "a GTID event");
    cursor.u8()?;
    let uuid = cursor.array::<16>()?;
    let number = cursor.u64()?;
    // Logical clock, then the times, which 5.7 did not have.
    let commit_time_us = cursor.take(17).ok().and_then(|_| commit_time(&mut cursor));
    let gtid = (kind == kind::GTID).then(|| Gtid::MySql { tsid: Tsid { uuid, tag: "".into() }, number });
    Ok(GtidEvent { gtid, commit_time_us, standalone: false, xa: None })
}

fn commit_time(cursor: &mut Cursor<'_>) -> Option<i64> {
    const HAS_ORIGINAL: u64 = 1 << 55;
    let immediate = cursor.uint(7).ok()?;
    let time = if immediate & HAS_ORIGINAL == 0 { immediate } else { cursor.uint(7).ok()? };
    i64::try_from(time).ok().filter(|time| *time > 0)
}

/// MariaDB's GTID event.
///
/// # Errors
/// Malformed bytes.
pub fn maria_gtid(server: u32, body: &[u8]) -> Result<GtidEvent, DecodeError> {
    const STANDALONE: u8 = 1;
    const GROUP_COMMIT_ID: u8 = 2;
    const PREPARED_XA: u8 = 64;
    let mut cursor = Cursor::new(body, "a GTID event");
    let (sequence, domain, flags) = (cursor.u64()?, cursor.u32()?, cursor.u8()?);
    let mut xa = None;
    if flags & PREPARED_XA != 0 {
        if flags & GROUP_COMMIT_ID != 0 {
            cursor.u64()?;
        }
        let format = cursor.u32()?;
        let (global, branch) = (cursor.u8()?, cursor.u8()?);
        xa = Some(xa_name([cursor.take(global.into())?, cursor.take(branch.into())?], format));
    }
    let gtid = Some(Gtid::MariaDb { domain, server, sequence });
    Ok(GtidEvent { gtid, commit_time_us: None, standalone: flags & STANDALONE != 0, xa })
}

/// An XA transaction's name as `XA COMMIT` writes it.
fn xa_name(parts: [&[u8]; 2], format: u32) -> String {
    use std::fmt::Write as _;
    let mut name = String::new();
    for part in parts {
        name.push_str("X'");
        for byte in part {
            // Writing to a String can't fail.
            let _ok = write!(name, "{byte:02x}");
        }
        name.push_str("',");
    }
    let _ok = write!(name, "{format}");
    name
}

/// A statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The connection that ran it.
    pub thread_id: u32,
    /// Its default database.
    pub database: &'a [u8],
    /// Its text.
    pub text: &'a [u8],
    /// What else is said of its session (`Q_…_CODE`).
    variables: &'a [u8],
}

impl Query<'_> {
    /// The SQL mode that it was written in, and the collation of the text itself, as far as the event says.
    #[must_use]
    pub fn session(&self) -> (u64, Option<u16>) {
        let mut cursor = Cursor::new(self.variables, "a query event");
        let (mut mode, mut collation) = (0, None);
        // Those of interest stand in front, in this order; at one that is not known the reading ends.
        while let Ok(code) = cursor.u8() {
            let passed = match code {
                0 | 3 => cursor.take(4).map(drop),
                1 => cursor.u64().map(|bits| mode = bits),
                4 => cursor.u16().map(|id| collation = Some(id)),
                6 => cursor.u8().and_then(|length| cursor.take(length.into())).map(drop),
                _ => break,
            };
            if passed.is_err() || collation.is_some() {
                break;
            }
        }
        (mode, collation)
    }
}

/// A QUERY event's body.
///
/// # Errors
/// Malformed bytes.
pub fn query(body: &[u8]) -> Result<Query<'_>, DecodeError> {
    let mut cursor = Cursor::new(body, "a query event");
    let thread_id = cursor.u32()?;
    cursor.u32()?;
    let database = usize::from(cursor.u8()?);
    cursor.u16()?;
    let variables = usize::from(cursor.u16()?);
    let variables = cursor.take(variables)?;
    let database = cursor.take(database)?;
    cursor.u8()?;
    Ok(Query { thread_id, database, text: cursor.rest(), variables })
}

/// What an XA_PREPARE event says: the transaction's name as `XA COMMIT` writes it, and whether it was committed at once.
///
/// # Errors
/// Malformed bytes.
pub fn xa_prepare(body: &[u8]) -> Result<(String, bool), DecodeError> {
    let mut cursor = Cursor::new(body, "an XA prepare event");
    let one_phase = cursor.u8()? != 0;
    let format = cursor.u32()?;
    let length = |n: u32| usize::try_from(n).map_err(|_| DecodeError::Malformed("an XA prepare event"));
    let (global, branch) = (length(cursor.u32()?)?, length(cursor.u32()?)?);
    Ok((xa_name([cursor.take(global)?, cursor.take(branch)?], format), one_phase))
}

/// A HEARTBEAT_V2 event's file and position.
///
/// # Errors
/// Malformed bytes.
pub fn heartbeat_v2(body: &[u8]) -> Result<(Option<String>, Option<u64>), DecodeError> {
    let mut cursor = Cursor::new(body, "a heartbeat");
    let (mut file, mut position) = (None, None);
    while !cursor.is_empty() {
        let field = cursor.u8()?;
        if field == 0 {
            break;
        }
        let value = cursor.lenenc_bytes()?;
        match field {
            1 => file = Some(String::from_utf8_lossy(value).into_owned()),
            2 => position = Some(Cursor::new(value, "a heartbeat").lenenc()?),
            _ => {}
        }
    }
    Ok((file, position))
}
