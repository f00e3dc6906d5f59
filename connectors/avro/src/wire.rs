//! Avro's primitives as bytes. Reading never looks past the end and never allocates.

use rowstream_api::RecordError;

/// Appends an int or a long.
#[inline]
pub(crate) fn put_long(number: i64, out: &mut Vec<u8>) {
    let zigzag = ((number << 1) ^ (number >> 63)).cast_unsigned();
    if zigzag < 0x80 {
        out.push((zigzag & 0x7f) as u8);
    } else {
        put_long_varint(zigzag, out);
    }
}

/// Ten bytes at most, made aside and appended at once.
fn put_long_varint(mut rest: u64, out: &mut Vec<u8>) {
    let mut varint = [0u8; 10];
    let mut len = 0;
    for byte in &mut varint {
        len += 1;
        *byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    out.extend_from_slice(varint.get(..len).unwrap_or(&varint));
}

/// Appends a length or a count. Nothing in memory is longer than `i64::MAX`.
#[inline]
pub(crate) fn put_len(len: usize, out: &mut Vec<u8>) {
    put_long(i64::try_from(len).unwrap_or(i64::MAX), out);
}

/// Appends bytes or a string, with the length in front.
#[inline]
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_len(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// What is left of a datum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, RecordError> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn long(&mut self) -> Result<i64, RecordError> {
        let first = self.byte()?;
        let zigzag = if first < 0x80 { u64::from(first) } else { self.varint_after(first)? };
        Ok((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()))
    }

    fn varint_after(&mut self, first: u8) -> Result<u64, RecordError> {
        let mut number = u64::from(first & 0x7f);
        let mut shift = 7;
        while shift < 64 {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(malformed("a number of more than 64 bits"));
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
            shift += 7;
        }
        Err(malformed("a number of more than ten bytes"))
    }

    /// A length in front of bytes, or a union branch.
    #[inline]
    pub(crate) fn len(&mut self) -> Result<usize, RecordError> {
        usize::try_from(self.long()?).map_err(|_| malformed("a negative length"))
    }

    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let len = self.len()?;
        self.take(len)
    }
}

#[cold]
fn truncated() -> RecordError {
    malformed("fewer bytes than the schema asks for")
}

#[cold]
pub(crate) fn malformed(found: &str) -> RecordError {
    RecordError::value("AVRO_MALFORMED", format!("the record's bytes do not fit its schema: found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longs_round_trip_at_every_width() {
        let mut numbers = vec![0, i64::MIN, i64::MAX];
        numbers.extend((0..63).flat_map(|shift| [1 << shift, -(1 << shift), (1 << shift) - 1]));
        for number in numbers {
            let mut out = Vec::new();
            put_long(number, &mut out);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.long().unwrap(), number);
            assert_eq!(reader.remaining(), 0);
        }
    }

    #[test]
    fn overlong_numbers_are_refused() {
        assert!(Reader::new(&[0xff; 10]).long().is_err());
        assert!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]).long().is_err());
        assert!(Reader::new(&[0x80]).long().is_err());
        assert!(Reader::new(&[0x01]).len().is_err());
    }
}
