//! Frames of protocol 3.0: a tag byte and a length that counts itself. [`split`] finds whole frames in a growing
//! buffer without copying; the error fields of `ErrorResponse` and `NoticeResponse` are read here too.

use super::{Cursor, DecodeError};

/// Longest frame accepted: one field may be 1 GiB, and a row holds several, but the server itself never builds a
/// message above 1 GiB.
pub const FRAME_BYTES_MAX: usize = (1 << 30) + 1024;

/// What stands at the front of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// A whole frame: its tag and where its body lies; the frame ends where the body ends.
    Whole {
        /// Kind of message.
        tag: u8,
        /// First byte after the frame.
        end: usize,
    },
    /// More bytes are needed before there is one, `wanted` in all.
    Partial {
        /// Length of the frame, as far as is known.
        wanted: usize,
    },
}

/// Where the body of every frame begins.
pub const HEADER_BYTES: usize = 5;

/// Looks at the front of `buffer`.
///
/// # Errors
/// A length that no frame has.
pub fn split(buffer: &[u8]) -> Result<Front, DecodeError> {
    let Some((&[tag, a, b, c, d], _)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(Front::Partial { wanted: HEADER_BYTES });
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    let bytes = usize::try_from(length).map_err(|_| DecodeError::Length(length.into()))?;
    if !(4..=FRAME_BYTES_MAX).contains(&bytes) {
        return Err(DecodeError::Length(length.into()));
    }
    let end = bytes + 1;
    Ok(if buffer.len() >= end { Front::Whole { tag, end } } else { Front::Partial { wanted: end } })
}

/// What a server says in an `ErrorResponse` or a `NoticeResponse`. The detail is not kept: it may hold row values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerMessage {
    /// SQLSTATE.
    pub sqlstate: String,
    /// Primary message.
    pub message: String,
    /// Hint.
    pub hint: Option<String>,
}

impl ServerMessage {
    /// Reads the body of an `E` or `N` frame.
    ///
    /// # Errors
    /// Malformed bytes.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let mut message = Self::default();
        loop {
            let field = cursor.u8("error field")?;
            if field == 0 {
                return Ok(message);
            }
            // Errors before authentication may come in another encoding: show what can be shown.
            let end =
                cursor.rest().iter().position(|b| *b == 0).ok_or(DecodeError::Truncated("error field"))?;
            let text = String::from_utf8_lossy(cursor.bytes(end, "error field")?).into_owned();
            cursor.u8("error field")?;
            match field {
                b'C' => message.sqlstate = text,
                b'M' => message.message = text,
                b'H' => message.hint = Some(text),
                _ => {}
            }
        }
    }
}
