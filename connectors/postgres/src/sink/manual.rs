//! The manual's word on a record's type: the column that the sink makes for it ([`column_type`]), and which values don't arrive in
//! it as they are. The tests let [`encode`](super::encode) prove what is said here to be refused by us.

use rowstream_api::{Schema, SchemaType, Semantic, TargetColumn};

use super::types::column_type;

/// The column that the sink makes for a schema.
#[must_use]
pub fn target_column(schema: &Schema) -> TargetColumn {
    TargetColumn { sql: column_type(schema), key_sql: None, remark: remark(schema).map(str::to_owned) }
}

/// Without a wildcard: a new meaning must be thought about.
fn remark(schema: &Schema) -> Option<&'static str> {
    match schema.semantic() {
        Semantic::Plain => plain_remark(schema),
        Semantic::Json => Some("`jsonb` sorts keys, keeps the last of equal ones, and refuses U+0000"),
        Semantic::TimeMillis | Semantic::TimeMicros => Some("below 0 and beyond 24 hours is refused"),
        Semantic::MicroDuration => Some("without days and months"),
        Semantic::Point => Some("without the SRID"),
        Semantic::Geometry => Some("an object of `wkb` and `srid`"),
        Semantic::Decimal { .. }
        | Semantic::VariableScaleDecimal
        | Semantic::Date
        | Semantic::TimestampMillis
        | Semantic::TimestampMicros
        | Semantic::ZonedTimestamp
        | Semantic::ZonedTime
        | Semantic::Interval
        | Semantic::Year
        | Semantic::Xml
        | Semantic::Uuid
        | Semantic::Ltree
        | Semantic::Tsvector
        | Semantic::Enum
        | Semantic::EnumSet
        | Semantic::Bits => None,
    }
}

fn plain_remark(schema: &Schema) -> Option<&'static str> {
    match schema.ty() {
        SchemaType::String => Some("U+0000 is refused"),
        SchemaType::Array(element) => remark(element),
        SchemaType::Boolean
        | SchemaType::Int8
        | SchemaType::Int16
        | SchemaType::Int32
        | SchemaType::Int64
        | SchemaType::Float32
        | SchemaType::Float64
        | SchemaType::Bytes
        | SchemaType::Map(_)
        | SchemaType::Struct(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use rowstream_api::{SchemaBuilder, ValueRef, calendar::POSITIVE_INFINITY_ZONED};

    use super::*;
    use crate::sink::{encode::encode, types::Wire};

    fn schema(ty: SchemaType, name: &str) -> std::sync::Arc<Schema> {
        SchemaBuilder::new(ty).name(name).build()
    }

    #[test]
    fn what_is_told_to_be_refused_is_refused_and_nothing_else() {
        let refused = |wire, schema: &Schema, value| encode(wire, schema, &value, &mut Vec::new()).is_err();
        let string = SchemaBuilder::new(SchemaType::String).build();
        assert_eq!(target_column(&string).remark.as_deref(), Some("U+0000 is refused"));
        assert!(refused(Wire::Text, &string, ValueRef::str("\0")));
        let millis = schema(SchemaType::Int64, "io.debezium.time.Timestamp");
        assert_eq!(target_column(&millis).remark, None);
        assert!(!refused(Wire::Timestamp, &millis, ValueRef::Int(9_223_372_036_825_200_000)), "infinity");
        let zoned = schema(SchemaType::String, "io.debezium.time.ZonedTimestamp");
        assert_eq!(target_column(&zoned).remark, None);
        assert!(!refused(Wire::Timestamptz, &zoned, ValueRef::str(POSITIVE_INFINITY_ZONED)), "infinity");
    }
}
