//! Values in physical form, made from text and numbers.

use std::ops::RangeInclusive;

use num_bigint::BigInt;
use rowstream_api::{SchemaType, text::DECIMAL_SCALE_MAX};

/// What an integer type holds; every other type counts as INT64.
pub(crate) fn integer_range(ty: &SchemaType) -> RangeInclusive<i64> {
    match ty {
        SchemaType::Int8 => i64::from(i8::MIN)..=i64::from(i8::MAX),
        SchemaType::Int16 => i64::from(i16::MIN)..=i64::from(i16::MAX),
        SchemaType::Int32 => i64::from(i32::MIN)..=i64::from(i32::MAX),
        SchemaType::Int64
        | SchemaType::Boolean
        | SchemaType::Float32
        | SchemaType::Float64
        | SchemaType::String
        | SchemaType::Bytes
        | SchemaType::Array(_)
        | SchemaType::Map(_)
        | SchemaType::Struct(_) => i64::MIN..=i64::MAX,
    }
}

/// A decimal in plain digits as the unscaled bytes of this scale; none when it is no number, or has more digits than the scale
/// keeps.
pub(crate) fn decimal_bytes(text: &str, scale: i32) -> Option<Vec<u8>> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if !(0..=DECIMAL_SCALE_MAX).contains(&scale) {
        return None;
    }
    let zeros = usize::try_from(scale).ok()?.checked_sub(fraction.len())?;
    let number: BigInt = format!("{sign}0{whole}{fraction}{}", "0".repeat(zeros)).parse().ok()?;
    Some(number.to_signed_bytes_be())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_nothing() {
        assert_eq!(decimal_bytes("1.5", 2), Some(vec![0, 150]));
        assert_eq!(decimal_bytes("-0.01", 2), Some(vec![255]));
        assert_eq!(decimal_bytes("+7.", 0), Some(vec![7]));
        assert_eq!(decimal_bytes("1.500", 1), Some(vec![15]));
        assert_eq!(decimal_bytes("1.55", 1), None);
        for text in ["", ".", "-", "1e5", "NaN", "1_0", "1.2.3"] {
            assert_eq!(decimal_bytes(text, 2), None, "{text}");
        }
    }
}
