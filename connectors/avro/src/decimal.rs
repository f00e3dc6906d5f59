//! Decimal text to Avro's minimal two's complement, exactly or not at all.

use num_bigint::BigInt;
use rowstream_api::{
    RecordError,
    text::{DECIMAL_BYTES_MAX, DECIMAL_SCALE_MAX},
};

use crate::wire::put_bytes;

/// The most digits that surely fit an `i128`.
const SMALL_DIGITS_MAX: usize = 38;

/// A decimal's text, checked and taken apart.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
}

/// Appends the number at `scale` as Avro bytes.
///
/// # Errors
/// `VALUE_NOT_REPRESENTABLE` for NaN and infinities, `VALUE_OUT_OF_RANGE` for digits beyond the scale,
/// `VALUE_TYPE_MISMATCH` for anything that is no plain decimal.
pub(crate) fn put_decimal(text: &str, scale: i32, out: &mut Vec<u8>) -> Result<(), RecordError> {
    match short(text, scale) {
        Some(number) => {
            put_short_integer(number, out);
            Ok(())
        }
        None => put_scaled(parse(text)?, scale, out),
    }
}

/// The number at `scale` when it is written with at most eighteen digits and fits 64 bits: nearly always, in one pass.
#[inline]
fn short(text: &str, scale: i32) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > 18 || digits.is_empty() {
        return None;
    }
    let mut number = 0i64;
    let mut fraction: Option<usize> = None;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            number = number * 10 + i64::from(digit);
            if let Some(count) = &mut fraction {
                *count += 1;
            }
        } else if byte == b'.' && fraction.is_none() {
            fraction = Some(0);
        } else {
            return None;
        }
    }
    if digits == b"." {
        return None;
    }
    let fraction = fraction.unwrap_or(0);
    let missing = usize::try_from(scale).ok()?.checked_sub(fraction)?;
    let number = if missing == 0 { number } else { number.checked_mul(*POWERS_OF_TEN.get(missing)?)? };
    Some(if negative { -number } else { number })
}

const POWERS_OF_TEN: [i64; 10] =
    [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// Appends the shortest two's complement.
#[inline]
fn put_short_integer(number: i64, out: &mut Vec<u8>) {
    let sign_bits = if number < 0 { number.leading_ones() } else { number.leading_zeros() };
    let len = 8 - (sign_bits.saturating_sub(1) / 8) as usize;
    let bytes = number.to_be_bytes();
    put_bytes(bytes.get(8 - len..).unwrap_or(&bytes), out);
}

/// Appends a `VariableScaleDecimal`: its scale, then the number. Zeros at the end of the fraction are dropped, as
/// Debezium does, so that equal numbers are equal bytes.
///
/// # Errors
/// As [`put_decimal`].
pub(crate) fn put_variable_decimal(text: &str, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let mut parts = parse(text)?;
    while let [fraction @ .., b'0'] = parts.fraction {
        parts.fraction = fraction;
    }
    let scale = i32::try_from(parts.fraction.len()).unwrap_or(i32::MAX);
    crate::wire::put_long(i64::from(scale), out);
    put_scaled(parts, scale, out)
}

fn parse(text: &str) -> Result<Parts<'_>, RecordError> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let point = digits.iter().position(|&byte| byte == b'.').unwrap_or(digits.len());
    let (whole, fraction) = digits.split_at_checked(point).unwrap_or((digits, &[]));
    let fraction = fraction.get(1..).unwrap_or(&[]);
    if !whole.iter().chain(fraction).all(u8::is_ascii_digit) || (whole.is_empty() && fraction.is_empty()) {
        return Err(not_a_number(text));
    }
    Ok(Parts { negative, whole, fraction })
}

#[cold]
fn not_a_number(text: &str) -> RecordError {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        let message = "NaN and infinities have no place in a decimal; map the column to a double or a string, or \
                       clean the row";
        RecordError::value("VALUE_NOT_REPRESENTABLE", message)
    } else {
        RecordError::value("VALUE_TYPE_MISMATCH", "expected a decimal number in plain digits")
    }
}

fn put_scaled(parts: Parts<'_>, scale: i32, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let all = parts.whole.len() + parts.fraction.len();
    let bound = usize::try_from(DECIMAL_SCALE_MAX).unwrap_or(usize::MAX);
    let shift = i64::from(scale) - i64::try_from(parts.fraction.len()).unwrap_or(i64::MAX);
    let appended = usize::try_from(shift).unwrap_or(0);
    let dropped = usize::try_from(shift.saturating_neg()).unwrap_or(0);
    if appended > bound || all > 2 * bound {
        let message = format!("a decimal of {all} digits at scale {scale} is beyond what is supported");
        return Err(RecordError::value("VALUE_OUT_OF_RANGE", message));
    }
    let kept = all.saturating_sub(dropped);
    let digits = || parts.whole.iter().chain(parts.fraction);
    if digits().skip(kept).any(|&digit| digit != b'0') {
        let message = format!("the number has more digits than scale {scale} keeps");
        return Err(RecordError::value("VALUE_OUT_OF_RANGE", message));
    }
    let significant = digits().take(kept).skip_while(|&&digit| digit == b'0');
    if kept + appended <= SMALL_DIGITS_MAX || significant.clone().count() + appended <= SMALL_DIGITS_MAX {
        put_small(significant, appended, parts.negative, out);
        return Ok(());
    }
    let mut text: Vec<u8> = significant.copied().collect();
    text.resize(text.len() + appended, b'0');
    let magnitude = BigInt::parse_bytes(&text, 10).unwrap_or_default();
    let number = if parts.negative { -magnitude } else { magnitude };
    let bytes = number.to_signed_bytes_be();
    if bytes.len() > DECIMAL_BYTES_MAX {
        let message =
            format!("a decimal of {} bytes, at most {DECIMAL_BYTES_MAX} are supported", bytes.len());
        return Err(RecordError::value("VALUE_OUT_OF_RANGE", message));
    }
    put_bytes(&bytes, out);
    Ok(())
}

/// At most 38 digits, zeros appended included.
fn put_small<'a>(
    digits: impl Iterator<Item = &'a u8> + Clone,
    appended: usize,
    negative: bool,
    out: &mut Vec<u8>,
) {
    // Nineteen digits fit a u64, whose arithmetic is several times faster.
    let mut digits = digits;
    let low = digits.by_ref().take(19).fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    let mut magnitude = digits.fold(i128::from(low), |number, digit| number * 10 + i128::from(digit - b'0'));
    for _ in 0..appended {
        magnitude *= 10;
    }
    put_integer(if negative { -magnitude } else { magnitude }, out);
}

/// Appends the shortest two's complement.
fn put_integer(number: i128, out: &mut Vec<u8>) {
    let sign_bits = if number < 0 { number.leading_ones() } else { number.leading_zeros() };
    // One sign bit must stay.
    let len = 16 - (sign_bits.saturating_sub(1) / 8) as usize;
    let bytes = number.to_be_bytes();
    put_bytes(bytes.get(16 - len..).unwrap_or(&bytes), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowstream_api::text::write_decimal;

    fn encoded(text: &str, scale: i32) -> Result<Vec<u8>, &'static str> {
        let mut out = Vec::new();
        put_decimal(text, scale, &mut out).map_err(|e| e.code)?;
        assert_eq!(usize::from(out[0] / 2), out.len() - 1);
        Ok(out[1..].to_vec())
    }

    #[test]
    fn numbers_at_their_scale() {
        let cases: [(&str, i32, &[u8]); 22] = [
            ("0", 2, &[0]),
            ("-0.00", 2, &[0]),
            ("0.01", 2, &[1]),
            ("-0.01", 2, &[0xff]),
            ("1.5", 2, &[0x00, 0x96]),
            ("1.50000", 2, &[0x00, 0x96]),
            ("+1.5", 2, &[0x00, 0x96]),
            (".5", 1, &[5]),
            ("5.", 1, &[50]),
            ("1.27", 2, &[0x7f]),
            ("1.28", 2, &[0x00, 0x80]),
            ("-1.28", 2, &[0x80]),
            ("-1.29", 2, &[0xff, 0x7f]),
            ("2.55", 2, &[0x00, 0xff]),
            ("2.56", 2, &[0x01, 0x00]),
            ("99999999.99", 2, &[0x02, 0x54, 0x0b, 0xe3, 0xff]),
            ("-99999999.99", 2, &[0xfd, 0xab, 0xf4, 0x1c, 0x01]),
            ("1200", -2, &[12]),
            ("1200.000", -2, &[12]),
            ("0", -5, &[0]),
            ("00", -5, &[0]),
            ("00000000000000000000000000000000000000000000001", 0, &[1]),
        ];
        for (text, scale, bytes) in cases {
            assert_eq!(encoded(text, scale).as_deref(), Ok(bytes), "{text} at {scale}");
        }
    }

    #[test]
    fn what_is_no_decimal_of_that_scale_is_refused() {
        assert_eq!(encoded("1.005", 2), Err("VALUE_OUT_OF_RANGE"));
        assert_eq!(encoded("1250", -2), Err("VALUE_OUT_OF_RANGE"));
        assert_eq!(encoded("5", -2), Err("VALUE_OUT_OF_RANGE"));
        assert_eq!(encoded("1", i32::MAX), Err("VALUE_OUT_OF_RANGE"));
        for text in ["NaN", "Infinity", "-Infinity"] {
            assert_eq!(encoded(text, 2), Err("VALUE_NOT_REPRESENTABLE"));
            let error = put_variable_decimal(text, &mut Vec::new()).unwrap_err();
            assert_eq!(error.code, "VALUE_NOT_REPRESENTABLE");
        }
        for text in ["", "-", ".", "1e5", "1.2.3", "0x1", "1 ", "--1", "１"] {
            assert_eq!(encoded(text, 2), Err("VALUE_TYPE_MISMATCH"), "{text}");
        }
    }

    #[test]
    fn every_width_matches_big_integers() {
        for digits in 1..60 {
            for (lead, rest) in [("9", "9"), ("1", "0"), ("-9", "9"), ("-1", "0"), ("5", "7")] {
                let text = format!("{lead}{}", rest.repeat(digits - 1));
                let number: BigInt = text.parse().unwrap();
                assert_eq!(encoded(&text, 0).unwrap(), number.to_signed_bytes_be(), "{text}");
                let shifted = number * BigInt::from(10).pow(7);
                assert_eq!(encoded(&text, 7).unwrap(), shifted.to_signed_bytes_be(), "{text} at 7");
                let mut back = Vec::new();
                write_decimal(&encoded(&text, 7).unwrap(), 7, &mut back).unwrap();
                assert_eq!(back, format!("{text}.0000000").into_bytes());
            }
        }
        let widest = "9".repeat(131_072);
        let number: BigInt = widest.parse().unwrap();
        let mut out = Vec::new();
        put_decimal(&widest, 0, &mut out).unwrap();
        assert!(out.ends_with(&number.to_signed_bytes_be()));
    }

    #[test]
    fn variable_scale_follows_debezium() {
        let cases: [(&str, &[u8]); 8] = [
            ("0", &[0, 2, 0]),
            ("0.00", &[0, 2, 0]),
            ("1.50", &[2, 2, 0x0f]),
            ("100", &[0, 2, 100]),
            ("-1", &[0, 2, 0xff]),
            ("10000000000", &[0, 10, 0x02, 0x54, 0x0b, 0xe4, 0x00]),
            ("0.000000000000000000000000000001", &[60, 2, 1]),
            ("1.0", &[0, 2, 1]),
        ];
        for (text, bytes) in cases {
            let mut out = Vec::new();
            put_variable_decimal(text, &mut out).unwrap();
            assert_eq!(out, bytes, "{text}");
        }
    }
}
