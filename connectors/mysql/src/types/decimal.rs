//! DECIMAL in the server's storage form: groups of nine digits in four bytes, the sign in the first bit, negative numbers
//! inverted (decimal.c, `decimal2bin`).

use crate::wire::rows::decimal_bytes;

/// Digits that so many bytes hold, by bytes.
const GROUP: usize = 9;

/// Writes the number as plain digits: `-12.50`. `None` when the bytes are not of this precision and scale.
#[must_use]
pub fn text(bytes: &[u8], precision: usize, scale: usize) -> Option<String> {
    let whole = precision.checked_sub(scale)?;
    let (whole_bytes, scale_bytes) = (decimal_bytes(whole), decimal_bytes(scale));
    if bytes.len() != whole_bytes + scale_bytes {
        return None;
    }
    let negative = bytes.first()? & 0x80 == 0;
    let mask = if negative { 0xff } else { 0 };
    let mut at = 0;
    let mut group = |size: usize| -> Option<u32> {
        let part = bytes.get(at..at + size)?;
        let number = part.iter().enumerate().fold(0_u32, |number, (index, byte)| {
            let sign = if at + index == 0 { 0x80 } else { 0 };
            number << 8 | u32::from(byte ^ mask ^ sign)
        });
        at += size;
        Some(number)
    };
    let mut out = String::with_capacity(precision + 3);
    if negative {
        out.push('-');
    }
    let first = out.len();
    for digits in
        [whole % GROUP].into_iter().filter(|n| *n > 0).chain(std::iter::repeat_n(GROUP, whole / GROUP))
    {
        push(&mut out, group(decimal_bytes(digits))?, digits, first)?;
    }
    if out.len() == first {
        out.push('0');
    }
    if scale > 0 {
        out.push('.');
        let from = usize::MAX;
        for digits in
            std::iter::repeat_n(GROUP, scale / GROUP).chain([scale % GROUP].into_iter().filter(|n| *n > 0))
        {
            push(&mut out, group(decimal_bytes(digits))?, digits, from)?;
        }
    }
    Some(out)
}

/// Appends a group's digits; leading zeros are left out while nothing stands after `first`.
fn push(out: &mut String, number: u32, digits: usize, first: usize) -> Option<()> {
    let mut divisor = 10_u32.checked_pow(u32::try_from(digits).ok()?)?;
    if number >= divisor {
        return None;
    }
    while divisor > 1 {
        divisor /= 10;
        let digit = number / divisor % 10;
        if digit != 0 || out.len() != first {
            out.push(char::from(b'0' + u8::try_from(digit).ok()?));
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn every_sign_and_length() {
        // From decimal.c: 1234567890.1234 as DECIMAL(14,4).
        let bytes = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        assert_eq!(text(&bytes, 14, 4).as_deref(), Some("1234567890.1234"));
        let negative: Vec<u8> = bytes.iter().map(|b| b ^ 0xff).collect();
        assert_eq!(text(&negative, 14, 4).as_deref(), Some("-1234567890.1234"));
        assert_eq!(text(&[0x80, 0], 3, 1).as_deref(), Some("0.0"));
        assert_eq!(text(&[0x80], 2, 2).as_deref(), Some("0.00"));
        assert_eq!(text(&[0x80, 0], 14, 4), None);
    }
}
