//! The binlog protocol: bytes in, borrowed structures out.
//!
//! Nothing here panics on bytes from outside: every read is checked, every count is bounded by the bytes that are there.

pub mod compressed;
pub mod event;
pub mod gtid;
mod json_document;
pub mod partial;
pub mod rows;
pub mod table_map;
pub mod tagged;

/// The bytes are not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("{0} is cut short")]
    Truncated(&'static str),
    /// A value that can't be.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// An event whose checksum does not match.
    #[error("an event's checksum does not match its bytes")]
    Checksum,
    /// A column type that is not known.
    #[error("a column has type {0}, which is not known")]
    ColumnType(u8),
}

/// Reads little-endian numbers and lengths from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes`; `what` names them in errors.
    #[must_use]
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn short(&self) -> DecodeError {
        DecodeError::Truncated(self.what)
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// There are fewer; the same holds for every other read.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(self.short())?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(self.short())?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// `n` bytes, at most eight.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn uint(&mut self, n: usize) -> Result<u64, DecodeError> {
        Ok(little_endian(self.take(n)?))
    }

    /// A length-encoded number.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn lenenc(&mut self) -> Result<u64, DecodeError> {
        match self.u8()? {
            0xfc => self.uint(2),
            0xfd => self.uint(3),
            0xfe => self.uint(8),
            0xfb | 0xff => Err(DecodeError::Malformed(self.what)),
            n => Ok(n.into()),
        }
    }

    /// A length-encoded number that counts bytes or items.
    ///
    /// # Errors
    /// See [`Self::take`]; or it counts more than there are bytes.
    pub fn count(&mut self) -> Result<usize, DecodeError> {
        let n = usize::try_from(self.lenenc()?).map_err(|_| DecodeError::Malformed(self.what))?;
        if n > self.rest.len() { Err(self.short()) } else { Ok(n) }
    }

    /// A length-encoded string.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn lenenc_bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let n = self.count()?;
        self.take(n)
    }

    /// Bytes up to a zero, which is taken too.
    ///
    /// # Errors
    /// There is no zero.
    pub fn until_zero(&mut self) -> Result<&'a [u8], DecodeError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(self.short())?;
        let taken = self.take(end)?;
        self.u8()?;
        Ok(taken)
    }
}

/// A number of at most eight bytes, the least significant first.
#[must_use]
pub fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| (n << 8) | u64::from(*b))
}

/// A number of at most eight bytes, the most significant first.
#[must_use]
pub fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| (n << 8) | u64::from(*b))
}

/// Whether bit `index` is set, the least significant of each byte first.
#[must_use]
pub fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

/// Whether bit `index` is set, the most significant of each byte first.
#[must_use]
pub fn bit_from_left(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte >> (7 - index % 8) & 1 == 1)
}
