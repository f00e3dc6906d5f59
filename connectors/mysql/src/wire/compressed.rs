//! Compressed events: MySQL's transaction payload (zstd), read as a stream, so that a transaction of any size takes the memory
//! of its largest event; and MariaDB's compressed statements, rows and columns (zlib).

use std::io::Read;

use super::{Cursor, DecodeError, big_endian};

/// An event inside a payload, or what a compressed event holds, is at most this large: the servers' own limit.
const BYTES_MAX: u64 = 1 << 30;

/// A payload event: how it is compressed, and the compressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Whether by zstd; else not at all.
    pub zstd: bool,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Reads a TRANSACTION_PAYLOAD event's body.
///
/// # Errors
/// Malformed bytes, or a compression that is not known.
pub fn payload(body: &[u8]) -> Result<Payload<'_>, DecodeError> {
    const WHAT: &str = "a compressed transaction";
    let mut cursor = Cursor::new(body, WHAT);
    let (mut zstd, mut size) = (false, None);
    loop {
        let field = cursor.lenenc()?;
        if field == 0 {
            break;
        }
        let mut value = Cursor::new(cursor.lenenc_bytes()?, WHAT);
        match field {
            1 => size = Some(value.lenenc()?),
            2 => {
                zstd = match value.lenenc()? {
                    0 => true,
                    255 => false,
                    _ => return Err(DecodeError::Malformed("a transaction's compression")),
                }
            }
            _ => {}
        }
    }
    let bytes = cursor.rest();
    match size.map(usize::try_from) {
        Some(Ok(size)) if size == bytes.len() => Ok(Payload { zstd, bytes }),
        _ => Err(DecodeError::Malformed(WHAT)),
    }
}

/// Reads the events of a payload one by one.
pub struct PayloadEvents {
    reader: Box<dyn Read + Send>,
    event: Vec<u8>,
}

impl PayloadEvents {
    /// Begins.
    ///
    /// # Errors
    /// No decoder can be made.
    pub fn new(payload: Payload<'_>) -> Result<Self, DecodeError> {
        let bytes = std::io::Cursor::new(payload.bytes.to_vec());
        let reader: Box<dyn Read + Send> = if payload.zstd {
            let decoder = zstd::stream::read::Decoder::with_buffer(bytes);
            Box::new(decoder.map_err(|_| DecodeError::Malformed("a compressed transaction"))?)
        } else {
            Box::new(bytes)
        };
        Ok(Self { reader, event: Vec::new() })
    }

    /// The next event, with its header and without a checksum; `None` at the end.
    ///
    /// # Errors
    /// Malformed bytes.
    pub fn next_event(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        const CUT: DecodeError = DecodeError::Truncated("a compressed transaction");
        let mut header = [0; super::event::HEADER_BYTES];
        let mut filled = 0;
        while filled < header.len() {
            let room = header.get_mut(filled..).unwrap_or_default();
            match self.reader.read(room).map_err(|_| DecodeError::Malformed("a compressed transaction"))? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(CUT),
                n => filled += n,
            }
        }
        let length = u64::from(Cursor::new(header.get(9..).unwrap_or_default(), "an event's header").u32()?);
        let body = length.checked_sub(header.len() as u64).filter(|n| *n <= BYTES_MAX).ok_or(CUT)?;
        self.event.clear();
        self.event.extend_from_slice(&header);
        let read = (&mut self.reader).take(body).read_to_end(&mut self.event).map_err(|_| CUT)?;
        if read as u64 == body { Ok(Some(&self.event)) } else { Err(CUT) }
    }
}

/// MariaDB's form: `0x80 | n`, `n` bytes of the length when unpacked, zlib.
///
/// # Errors
/// Malformed bytes.
pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    const WHAT: &str = "a compressed event";
    let mut cursor = Cursor::new(bytes, WHAT);
    let head = cursor.u8()?;
    let size = usize::from(head & 0x07);
    if head & 0x80 == 0 || head & 0x70 != 0 || !(1..=4).contains(&size) {
        return Err(DecodeError::Malformed(WHAT));
    }
    let length = big_endian(cursor.take(size)?);
    inflate(cursor.rest(), length, WHAT)
}

/// A value of a MariaDB column with COMPRESSED: a byte, then how long it is when unpacked, zlib; or as it is.
///
/// # Errors
/// Malformed bytes.
pub fn unpack_column(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    const WHAT: &str = "a compressed column";
    let Some((head, rest)) = bytes.split_first() else { return Ok(Vec::new()) };
    match head >> 4 {
        0 => Ok(rest.to_vec()),
        // 8: zlib without its header when bit 3 is set (field.cc, Field_longstr::uncompress).
        8 => {
            let mut cursor = Cursor::new(rest, WHAT);
            let length = big_endian(cursor.take(usize::from(head & 0x07))?);
            if head & 0x08 == 0 {
                return inflate(cursor.rest(), length, WHAT);
            }
            let mut out = Vec::new();
            let limit = length.min(BYTES_MAX) + 1;
            flate2::read::DeflateDecoder::new(cursor.rest())
                .take(limit)
                .read_to_end(&mut out)
                .map_err(|_| DecodeError::Malformed(WHAT))?;
            if out.len() as u64 == length { Ok(out) } else { Err(DecodeError::Malformed(WHAT)) }
        }
        _ => Err(DecodeError::Malformed(WHAT)),
    }
}

fn inflate(bytes: &[u8], length: u64, what: &'static str) -> Result<Vec<u8>, DecodeError> {
    if length > BYTES_MAX {
        return Err(DecodeError::Malformed(what));
    }
    let mut out = Vec::new();
    flate2::read::ZlibDecoder::new(bytes)
        .take(length + 1)
        .read_to_end(&mut out)
        .map_err(|_| DecodeError::Malformed(what))?;
    if out.len() as u64 == length { Ok(out) } else { Err(DecodeError::Malformed(what)) }
}
