//! The bytes of PostgreSQL's protocol, and nothing else: no runtime, no connector errors.
//!
//! Everything here reads through [`Cursor`], which checks each length before it touches a byte, so no input, however
//! malformed, can panic or allocate more than the frame that carried it.

pub mod copy;
pub mod frame;
pub mod pgoutput;

/// What was wrong with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ended too early.
    #[error("the message ends inside its {0}")]
    Truncated(&'static str),
    /// A message or tuple kind that the protocol does not have.
    #[error("unknown tag {0:#04x}")]
    UnknownTag(u8),
    /// A length or count that can't be true.
    #[error("impossible length or count {0}")]
    Length(i64),
    /// Text that is not UTF-8.
    #[error("the {0} is not UTF-8")]
    NotUtf8(&'static str),
}

/// Reads big-endian fields from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
    fn chunk<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(*head)
    }
    /// One byte.
    ///
    /// # Errors
    /// Truncated; so for every method here.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.chunk::<1>(what).map(|[b]| b)
    }
    /// Signed 16 bits.
    pub fn i16(&mut self, what: &'static str) -> Result<i16, DecodeError> {
        self.chunk(what).map(i16::from_be_bytes)
    }
    /// Signed 32 bits.
    pub fn i32(&mut self, what: &'static str) -> Result<i32, DecodeError> {
        self.chunk(what).map(i32::from_be_bytes)
    }
    /// Unsigned 32 bits.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.chunk(what).map(u32::from_be_bytes)
    }
    /// Signed 64 bits.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        self.chunk(what).map(i64::from_be_bytes)
    }
    /// Unsigned 64 bits.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.chunk(what).map(u64::from_be_bytes)
    }
    /// A count of things, as `i16`.
    pub fn count16(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        let n = self.i16(what)?;
        usize::try_from(n).map_err(|_| DecodeError::Length(n.into()))
    }
    /// A count of things, as `i32`.
    pub fn count32(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        let n = self.i32(what)?;
        usize::try_from(n).map_err(|_| DecodeError::Length(n.into()))
    }
    /// `n` bytes.
    pub fn bytes(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }
    /// Text up to a NUL, which is consumed.
    pub fn cstr(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(DecodeError::Truncated(what))?;
        let text = self.bytes(end, what)?;
        self.u8(what)?;
        std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8(what))
    }
}
