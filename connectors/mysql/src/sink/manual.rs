//! The manual's word on a record's type: the column that the sink makes for it ([`column_type`]), and which values don't arrive in
//! it as they are. The tests let [`encode`](super::encode) prove what is said here to be refused by us.

use rowstream_api::{Schema, SchemaType, Semantic, TargetColumn};

use super::{
    plan::key_length,
    types::{DECIMAL_PRECISION_MAX, DECIMAL_SCALE_MAX, column_type},
};

/// The column that the sink makes for a schema; in the key, as the key's only column.
#[must_use]
pub fn target_column(schema: &Schema) -> TargetColumn {
    let sql = column_type(schema, None);
    let key_sql = Some(column_type(schema, Some(key_length(1)))).filter(|key_sql| *key_sql != sql);
    TargetColumn { remark: remark(schema, &sql), sql, key_sql }
}

const YEARS: &str = "years other than 1 to 9999 are refused";

/// Without a wildcard: a new meaning must be thought about.
fn remark(schema: &Schema, sql: &str) -> Option<String> {
    let remark = match schema.semantic() {
        Semantic::Plain => return plain_remark(schema),
        Semantic::Decimal { .. } => return decimal_remark(schema, sql),
        Semantic::VariableScaleDecimal => format!(
            "more than {DECIMAL_SCALE_MAX} digits behind the point or {} before it are refused",
            DECIMAL_PRECISION_MAX - DECIMAL_SCALE_MAX
        ),
        Semantic::Date | Semantic::TimestampMillis | Semantic::TimestampMicros => YEARS.to_owned(),
        Semantic::ZonedTimestamp => format!("in UTC; {YEARS}"),
        Semantic::ZonedTime | Semantic::Interval => "ISO 8601".to_owned(),
        Semantic::MicroDuration => "microseconds".to_owned(),
        Semantic::Json => {
            "MySQL sorts keys and keeps numbers as 64-bit integers or doubles, MariaDB keeps the text"
                .to_owned()
        }
        Semantic::Bits if sql == "LONGTEXT" => "the digits".to_owned(),
        Semantic::Enum => "what is longer is refused".to_owned(),
        Semantic::Bits
        | Semantic::TimeMillis
        | Semantic::TimeMicros
        | Semantic::Year
        | Semantic::Xml
        | Semantic::Uuid
        | Semantic::Ltree
        | Semantic::Tsvector
        | Semantic::EnumSet
        | Semantic::Point
        | Semantic::Geometry => return None,
    };
    Some(remark)
}

fn decimal_remark(schema: &Schema, sql: &str) -> Option<String> {
    if sql == "LONGTEXT" {
        return Some(format!("the digits: no `DECIMAL` has more than {DECIMAL_SCALE_MAX} behind the point"));
    }
    let precision = schema.parameter("connect.decimal.precision").and_then(|p| p.parse::<i32>().ok());
    let fits = precision.is_some_and(|precision| precision <= DECIMAL_PRECISION_MAX);
    (!fits).then(|| "what has more digits before the point is refused".to_owned())
}

fn plain_remark(schema: &Schema) -> Option<String> {
    match schema.ty() {
        SchemaType::Float32 | SchemaType::Float64 => Some("`NaN` and infinities are refused".to_owned()),
        SchemaType::Boolean
        | SchemaType::Int8
        | SchemaType::Int16
        | SchemaType::Int32
        | SchemaType::Int64
        | SchemaType::String
        | SchemaType::Bytes
        | SchemaType::Array(_)
        | SchemaType::Map(_)
        | SchemaType::Struct(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use rowstream_api::{SchemaBuilder, ValueRef};

    use super::*;
    use crate::sink::{
        encode::encode,
        types::{Limit, Wire},
    };

    fn refused(wire: Wire, schema: &Schema, value: ValueRef<'_>) -> bool {
        encode(wire, schema, &value, &mut Vec::new()).is_err()
    }

    #[test]
    fn what_is_told_to_be_refused_is_refused() {
        let double = SchemaBuilder::new(SchemaType::Float64).build();
        assert_eq!(target_column(&double).remark.as_deref(), Some("`NaN` and infinities are refused"));
        assert!(refused(Wire::Double, &double, ValueRef::Float64(f64::NAN)));
        let date = SchemaBuilder::new(SchemaType::Int32).name("io.debezium.time.Date").build();
        assert_eq!(target_column(&date).remark.as_deref(), Some(YEARS));
        assert!(refused(Wire::Date, &date, ValueRef::Int(-719_163)), "the last day of year 0");
        assert!(!refused(Wire::Date, &date, ValueRef::Int(-719_162)), "the first of year 1");
        let label = SchemaBuilder::new(SchemaType::String).name("io.debezium.data.Enum").build();
        let column = target_column(&label);
        assert_eq!((column.sql.as_str(), column.key_sql), ("VARCHAR(255)", None));
        assert!(refused(Wire::Text(Limit::Chars(255)), &label, ValueRef::str(&"x".repeat(256))));
    }

    #[test]
    fn decimals_tell_what_does_not_fit() {
        let decimal = |scale: &str, precision: &str| {
            let start = SchemaBuilder::new(SchemaType::Bytes).name("org.apache.kafka.connect.data.Decimal");
            let schema = start.parameter("scale", scale).parameter("connect.decimal.precision", precision);
            target_column(&schema.build())
        };
        assert_eq!(decimal("2", "12").remark, None);
        assert!(decimal("2", "80").remark.unwrap().ends_with("refused"));
        let digits = decimal("40", "80");
        assert_eq!((digits.sql.as_str(), digits.key_sql.as_deref()), ("LONGTEXT", Some("VARCHAR(255)")));
        assert!(digits.remark.unwrap().starts_with("the digits"));
    }
}
