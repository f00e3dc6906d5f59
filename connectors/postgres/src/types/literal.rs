//! Column defaults: what `pg_get_expr` prints, when it is a constant.

use rowstream_api::{Schema, SchemaType, Value, ValueRef};

use super::{Kind, parse};

/// A default expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constant {
    /// `NULL`
    Null,
    /// A constant, as its type's output function writes it.
    Text(String),
    /// Known only to the server.
    Computed,
}

/// Reads an expression such as `'new'::text`, `0`, `'-1'::integer`, `true`.
#[must_use]
pub fn constant(expression: &str) -> Constant {
    let expression = expression.trim();
    let (body, rest) = match expression.strip_prefix('\'') {
        Some(quoted) => {
            let Some((text, rest)) = unquote(quoted) else { return Constant::Computed };
            (text, rest)
        }
        None => match expression.split_once("::") {
            Some((body, _)) => (bare(body), expression.strip_prefix(body).unwrap_or_default()),
            None => (bare(expression), ""),
        },
    };
    let is_cast = rest.is_empty()
        || (rest.starts_with("::")
            && rest.chars().all(|c| {
                c.is_alphanumeric() || matches!(c, ':' | ' ' | '"' | '(' | ')' | ',' | '_' | '.' | '[' | ']')
            }));
    // `'x'::text || …`, and casts that compute (`'now'::text::date`, `'seq'::regclass`).
    if !is_cast || rest.matches("::").count() > 1 || rest.contains("regclass") {
        return Constant::Computed;
    }
    if expression.starts_with('\'') {
        return Constant::Text(body);
    }
    match body.as_str() {
        "NULL" => Constant::Null,
        "true" => Constant::Text("t".to_owned()),
        "false" => Constant::Text("f".to_owned()),
        number
            if !number.is_empty()
                && number.parse::<f64>().is_ok()
                && !number.contains(['n', 'i', 'N', 'I']) =>
        {
            Constant::Text(body)
        }
        _ => Constant::Computed,
    }
}

fn bare(text: &str) -> String {
    text.trim().trim_start_matches('(').trim_end_matches(')').to_owned()
}

fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('\'')?;
        text.push_str(part);
        match after.strip_prefix('\'') {
            Some(more) => {
                text.push('\'');
                rest = more;
            }
            None => return Some((text, after)),
        }
    }
}

/// The owned, physical form of a constant; `None` when it has none that is small enough to stand in a schema.
#[must_use]
pub fn physical(kind: &Kind, text: &str, schema: &Schema) -> Option<Value> {
    match (parse(kind, text).ok()?, schema.ty()) {
        (ValueRef::Bool(b), _) => Some(Value::Bool(b)),
        (ValueRef::Int(n), _) => Some(Value::Int(n)),
        (ValueRef::Float32(_), _) => text.parse().ok().map(Value::Float),
        (ValueRef::Float64(f), _) => Some(Value::Float(f)),
        (ValueRef::Str(s), _) => Some(Value::Str(s.into_owned())),
        (ValueRef::Decimal(digits), SchemaType::Bytes) => {
            let scale = schema.parameter("scale").and_then(|s| s.parse().ok())?;
            unscaled(&digits, scale).map(Value::Bytes)
        }
        (ValueRef::ZonedMicros(micros), _) => Some(Value::Str(super::temporal::iso_zoned(micros))),
        _ => None,
    }
}

/// The two's complement bytes of `digits` times 10^`scale`.
fn unscaled(digits: &str, scale: usize) -> Option<Vec<u8>> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let padding = "0".repeat(scale.checked_sub(fraction.len())?);
    let number: i128 = format!("{whole}{fraction}{padding}").parse().ok()?;
    let bytes = number.to_be_bytes();
    let redundant = bytes
        .windows(2)
        .take_while(|pair| {
            matches!(pair, [0, next] if next & 0x80 == 0) || matches!(pair, [0xff, next] if next & 0x80 != 0)
        })
        .count();
    bytes.get(redundant..).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_told_from_computed_defaults() {
        let text = |t: &str| Constant::Text(t.to_owned());
        assert_eq!(constant("'it''s'::text"), text("it's"));
        assert_eq!(constant("'-1'::integer"), text("-1"));
        assert_eq!(constant("(-1)"), text("-1"));
        assert_eq!(constant("(0)::numeric"), text("0"));
        assert_eq!(constant("12.50"), text("12.50"));
        assert_eq!(constant("true"), text("t"));
        assert_eq!(constant("NULL::character varying"), Constant::Null);
        for computed in [
            "now()",
            "nextval('s'::regclass)",
            "'a'::text || 'b'::text",
            "CURRENT_TIMESTAMP",
            "'now'::text::date",
        ] {
            assert_eq!(constant(computed), Constant::Computed, "{computed}");
        }
        assert_eq!(unscaled("12.5", 2), Some(vec![0x04, 0xe2]));
        assert_eq!(unscaled("-1", 0), Some(vec![0xff]));
        assert_eq!(unscaled("0", 2), Some(vec![0]));
    }
}
