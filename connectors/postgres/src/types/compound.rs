//! Values made of values: arrays, points, bit strings, hstore.

use std::borrow::Cow;

use rowstream_api::{RecordError, ValueRef};

use super::{Kind, malformed, parse};

/// Reads an array's text, such as `{1,NULL,"a \"b\""}`; bounds (`[2:4]=`) are left out.
///
/// # Errors
/// Malformed, or more than one dimension: the schema has only one.
pub fn array<'a>(text: &'a str, element: &Kind, delimiter: u8) -> Result<ValueRef<'a>, RecordError> {
    let body = if text.starts_with('[') { text.split_once('=').map_or(text, |(_, body)| body) } else { text };
    let mut rest =
        body.strip_prefix('{').and_then(|b| b.strip_suffix('}')).ok_or_else(|| malformed("an array"))?;
    let mut items = Vec::new();
    if rest.is_empty() {
        return Ok(ValueRef::Array(items));
    }
    loop {
        if rest.starts_with('{') {
            return Err(RecordError::value(
                "ARRAY_DIMENSIONS",
                "an array of more than one dimension has no form in the column's schema",
            ));
        }
        let after = if let Some(quoted) = rest.strip_prefix('"') {
            let (item, after) = unescape(quoted).ok_or_else(|| malformed("an array"))?;
            items.push(match item {
                Cow::Borrowed(text) => parse(element, text)?,
                Cow::Owned(text) => owned(parse(element, &text)?)?,
            });
            after
        } else {
            let end = rest.bytes().position(|b| b == delimiter).unwrap_or(rest.len());
            let (item, after) = rest.split_at_checked(end).ok_or_else(|| malformed("an array"))?;
            items.push(if item == "NULL" { ValueRef::Null } else { parse(element, item)? });
            after
        };
        if after.is_empty() {
            return Ok(ValueRef::Array(items));
        }
        rest = after
            .strip_prefix(char::from(delimiter))
            .filter(|r| !r.is_empty())
            .ok_or_else(|| malformed("an array"))?;
    }
}

/// The text up to the closing quote, and what follows it. Borrowed when nothing was escaped.
fn unescape(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = quoted.find(['"', '\\'])?;
    let (head, tail) = quoted.split_at_checked(end)?;
    if let Some(after) = tail.strip_prefix('"') {
        return Some((Cow::Borrowed(head), after));
    }
    let mut text = head.to_owned();
    let mut chars = tail.chars();
    loop {
        match chars.next()? {
            '"' => return Some((Cow::Owned(text), chars.as_str())),
            '\\' => text.push(chars.next()?),
            other => text.push(other),
        }
    }
}

fn owned(value: ValueRef<'_>) -> Result<ValueRef<'static>, RecordError> {
    Ok(match value {
        ValueRef::Null => ValueRef::Null,
        ValueRef::Unavailable => ValueRef::Unavailable,
        ValueRef::Absent => ValueRef::Absent,
        ValueRef::Bool(b) => ValueRef::Bool(b),
        ValueRef::Int(n) => ValueRef::Int(n),
        ValueRef::Float32(f) => ValueRef::Float32(f),
        ValueRef::Float64(f) => ValueRef::Float64(f),
        ValueRef::ZonedMicros(n) => ValueRef::ZonedMicros(n),
        ValueRef::Str(text) => ValueRef::Str(Cow::Owned(text.into_owned())),
        ValueRef::Decimal(text) => ValueRef::Decimal(Cow::Owned(text.into_owned())),
        ValueRef::Bytes(bytes) => ValueRef::Bytes(Cow::Owned(bytes.into_owned())),
        ValueRef::Hex(digits) => ValueRef::Bytes(Cow::Owned(from_hex(digits)?)),
        ValueRef::Array(items) => ValueRef::Array(items.into_iter().map(owned).collect::<Result<_, _>>()?),
        ValueRef::Struct(fields) => {
            ValueRef::Struct(fields.into_iter().map(owned).collect::<Result<_, _>>()?)
        }
        ValueRef::Map(_) => return Err(malformed("a value that an array can hold")),
    })
}

fn from_hex(digits: &str) -> Result<Vec<u8>, RecordError> {
    let nibble = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(nibble(high)? << 4 | nibble(low)?),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(|| malformed("hexadecimal bytes"))
}

/// `1010…`, most significant first, as little-endian bytes.
///
/// # Errors
/// Anything but zeros and ones.
pub fn bits(text: &str) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![0u8; text.len().div_ceil(8)];
    for (i, digit) in text.bytes().rev().enumerate() {
        match (digit, bytes.get_mut(i / 8)) {
            (b'1', Some(byte)) => *byte |= 1 << (i % 8),
            (b'0', Some(_)) => {}
            _ => return Err(malformed("a bit string")),
        }
    }
    Ok(bytes)
}

/// `(x,y)` as Debezium's Point, with its well-known binary.
///
/// # Errors
/// Not a point.
pub fn point(text: &str) -> Result<ValueRef<'static>, RecordError> {
    let (x, y) = text
        .strip_prefix('(')
        .and_then(|t| t.strip_suffix(')'))
        .and_then(|t| t.split_once(','))
        .and_then(|(x, y)| Some((x.parse::<f64>().ok()?, y.parse::<f64>().ok()?)))
        .ok_or_else(|| malformed("a point"))?;
    let mut wkb = vec![1, 1, 0, 0, 0];
    wkb.extend(x.to_le_bytes());
    wkb.extend(y.to_le_bytes());
    Ok(ValueRef::Struct(vec![
        ValueRef::Float64(x),
        ValueRef::Float64(y),
        ValueRef::Bytes(Cow::Owned(wkb)),
        ValueRef::Null,
    ]))
}

/// `"a"=>"1", "b"=>NULL` as a JSON object.
///
/// # Errors
/// Not an hstore.
pub fn hstore_json(text: &str) -> Result<String, RecordError> {
    let wrong = || malformed("an hstore");
    let mut json = String::from("{");
    let mut rest = text;
    while !rest.is_empty() {
        if json.len() > 1 {
            rest = rest.strip_prefix(", ").ok_or_else(wrong)?;
            json.push(',');
        }
        let (key, after) = rest.strip_prefix('"').and_then(unescape).ok_or_else(wrong)?;
        json.push_str(&serde_json::Value::from(key.as_ref()).to_string());
        json.push(':');
        let value = after.strip_prefix("=>").ok_or_else(wrong)?;
        rest = if let Some(after) = value.strip_prefix("NULL") {
            json.push_str("null");
            after
        } else {
            let (text, after) = value.strip_prefix('"').and_then(unescape).ok_or_else(wrong)?;
            json.push_str(&serde_json::Value::from(text.as_ref()).to_string());
            after
        };
    }
    json.push('}');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Result<ValueRef<'_>, &'static str> {
        array(text, &Kind::Text, b',').map_err(|e| e.code)
    }

    #[test]
    fn arrays_are_read_as_the_server_writes_them() {
        let str = |s: &'static str| ValueRef::str(s);
        assert_eq!(texts("{}"), Ok(ValueRef::Array(vec![])));
        assert_eq!(
            texts(r#"{a,NULL,"NULL","a,\"b\"\\","é \""}"#),
            Ok(ValueRef::Array(vec![str("a"), ValueRef::Null, str("NULL"), str("a,\"b\"\\"), str("é \"")]))
        );
        assert_eq!(
            array("[2:4]={1,NULL,3}", &Kind::Int, b','),
            Ok(ValueRef::Array(vec![ValueRef::Int(1), ValueRef::Null, ValueRef::Int(3)]))
        );
        assert_eq!(texts("{{1},{2}}"), Err("ARRAY_DIMENSIONS"));
        for bad in ["", "{", "{\"a", "{a,}", "{\"a\"x}", "a"] {
            assert_eq!(texts(bad), Err("VALUE_MALFORMED"), "{bad}");
        }
        assert_eq!(
            array(r#"{"\\x00ff"}"#, &Kind::Bytea, b','),
            Ok(ValueRef::Array(vec![ValueRef::Bytes(Cow::Owned(vec![0, 255]))]))
        );
    }

    #[test]
    fn small_compounds_are_read() {
        assert_eq!(bits("1000000001"), Ok(vec![0x01, 0x02]));
        assert!(bits("12").is_err());
        assert_eq!(hstore_json(r#""a"=>"1", "b\""=>NULL"#).as_deref(), Ok(r#"{"a":"1","b\"":null}"#));
        assert!(hstore_json("a=>1").is_err());
        assert!(point("(1,x)").is_err());
    }
}
