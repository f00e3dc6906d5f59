//! MySQL 8.3's GTID event with a tag: numbered fields, each number in a length that its first byte tells
//! (mysql/serialization/variable_length_integers.h).

use std::sync::Arc;

use super::{
    Cursor, DecodeError,
    event::GtidEvent,
    gtid::{Gtid, Tsid},
    little_endian,
};

const WHAT: &str = "a tagged GTID event";

/// A number: the count of trailing ones in the first byte is the count of bytes that follow.
fn varlen(cursor: &mut Cursor<'_>) -> Result<u64, DecodeError> {
    let first = cursor.u8()?;
    let more = first.trailing_ones();
    let rest = little_endian(cursor.take(more as usize)?);
    if more >= 8 {
        return Ok(rest);
    }
    // The first byte keeps what the ones and the zero behind them leave of it.
    let kept = 7 - more;
    Ok(u64::from(first) >> (more + 1) | rest.checked_shl(kept).unwrap_or(0))
}

/// A number with a sign, which is its lowest bit.
fn signed(cursor: &mut Cursor<'_>) -> Result<u64, DecodeError> {
    let number = varlen(cursor)?;
    if number & 1 == 1 { Err(DecodeError::Malformed(WHAT)) } else { Ok(number >> 1) }
}

/// Reads the event's body.
///
/// # Errors
/// Malformed bytes.
pub fn decode(body: &[u8]) -> Result<GtidEvent, DecodeError> {
    let mut cursor = Cursor::new(body, WHAT);
    for _ in 0..3 {
        varlen(&mut cursor)?; // Version, size, last field that must be known.
    }
    let mut uuid = [0; 16];
    let (mut number, mut tag): (u64, Arc<str>) = (0, "".into());
    let (mut immediate, mut original) = (0, None);
    while !cursor.is_empty() {
        match varlen(&mut cursor)? {
            0 => drop(varlen(&mut cursor)?), // Flags.
            1 => {
                for byte in &mut uuid {
                    *byte = u8::try_from(varlen(&mut cursor)?).map_err(|_| DecodeError::Malformed(WHAT))?;
                }
            }
            2 => number = signed(&mut cursor)?,
            3 => {
                let length =
                    usize::try_from(varlen(&mut cursor)?).map_err(|_| DecodeError::Malformed(WHAT))?;
                let text =
                    std::str::from_utf8(cursor.take(length)?).map_err(|_| DecodeError::Malformed(WHAT))?;
                tag = text.into();
            }
            4 | 5 => drop(signed(&mut cursor)?), // Logical clock.
            6 => immediate = varlen(&mut cursor)?,
            7 => original = Some(varlen(&mut cursor)?),
            // Length, versions and what later servers add need not be known; their forms are not known either.
            _ => break,
        }
    }
    if number == 0 {
        return Err(DecodeError::Malformed(WHAT));
    }
    let commit_time_us = i64::try_from(original.unwrap_or(immediate)).ok().filter(|t| *t > 0);
    Ok(GtidEvent {
        gtid: Some(Gtid::MySql { tsid: Tsid { uuid, tag }, number }),
        commit_time_us,
        standalone: false,
        xa: None,
    })
}
