//! Confluent's framing: a zero byte, the schema id in four big-endian bytes, then the datum.

use rowstream_api::RecordError;

/// Bytes in front of each datum.
pub const FRAME_HEADER_BYTES: usize = 5;

const MAGIC: u8 = 0;

/// Appends the five bytes in front of a datum written with the schema `id`.
pub fn put_frame_header(id: u32, out: &mut Vec<u8>) {
    out.push(MAGIC);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Splits a framed datum into its schema id and the datum.
///
/// # Errors
/// `AVRO_FRAME`: fewer than five bytes, or another first byte than zero.
pub fn split_frame(bytes: &[u8]) -> Result<(u32, &[u8]), RecordError> {
    match bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        Some((&[MAGIC, a, b, c, d], datum)) => Ok((u32::from_be_bytes([a, b, c, d]), datum)),
        Some((&[other, ..], _)) => {
            let message = format!(
                "expected Confluent's Avro framing, which begins with byte 0, found byte {other}; was the record \
                 written by another converter?"
            );
            Err(RecordError::value("AVRO_FRAME", message))
        }
        None => {
            let message = format!("expected a frame of at least 5 bytes, found {}", bytes.len());
            Err(RecordError::value("AVRO_FRAME", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_foreign_bytes_are_refused() {
        let mut out = Vec::new();
        put_frame_header(0x0102_0304, &mut out);
        out.extend_from_slice(b"xy");
        assert_eq!(out, [0, 1, 2, 3, 4, b'x', b'y']);
        assert_eq!(split_frame(&out).unwrap(), (0x0102_0304, b"xy".as_slice()));
        assert_eq!(split_frame(&[0, 0, 0, 0]).unwrap_err().code, "AVRO_FRAME");
        assert_eq!(split_frame(b"{\"a\":1}").unwrap_err().code, "AVRO_FRAME");
    }
}
