//! Constant defaults of columns, as schemas carry them.

use rowstream_api::Value;

use super::{CatalogColumn, Kind};

/// The default of a column as a schema's default; `None` where there is none, or none that is the same for every row.
#[must_use]
pub fn value(kind: &Kind, catalog: &CatalogColumn, nullable: bool) -> Option<Value> {
    let text = catalog.default.as_deref()?;
    if let Kind::Timestamp { .. } = kind {
        // `CURRENT_TIMESTAMP` is no constant; Debezium writes the epoch where something must stand there.
        let now = text.to_ascii_lowercase().starts_with("current_timestamp");
        return (now && !nullable).then(|| Value::Str("1970-01-01T00:00:00Z".to_owned()));
    }
    if catalog.computed || text.eq_ignore_ascii_case("null") {
        return None;
    }
    // MariaDB quotes texts, MySQL does not.
    let quoted = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let bare = quoted.map_or_else(|| text.to_owned(), |inner| inner.replace("''", "'"));
    match kind {
        Kind::Int | Kind::Unsigned | Kind::Year => bare.parse().ok().map(Value::Int),
        Kind::Float32 | Kind::Float64 => bare.parse().ok().map(Value::Float),
        Kind::Bit => match bare.as_str() {
            "b'1'" | "1" => Some(Value::Bool(true)),
            "b'0'" | "0" => Some(Value::Bool(false)),
            _ => None,
        },
        Kind::Text { .. } | Kind::Enum(_) | Kind::Set(_) => Some(Value::Str(bare)),
        Kind::UnsignedDecimal
        | Kind::Decimal { .. }
        | Kind::Bits
        | Kind::Date(_)
        | Kind::Time { .. }
        | Kind::Datetime { .. }
        | Kind::Timestamp { .. }
        | Kind::Bytes { .. }
        | Kind::Json
        | Kind::JsonText
        | Kind::Geometry
        | Kind::Point
        | Kind::Vector
        | Kind::Uuid
        | Kind::Inet4
        | Kind::Inet6 => None,
    }
}
