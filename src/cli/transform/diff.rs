//! Where what was expected differs from what came, field by field.
//!
//! An expected value is compared as it would stand in a record of the schema that came out, so that `12.5` is the decimal `"12.50"` and
//! `2026-03-01` is its number of days.

use std::sync::Arc;

use rowstream_api::{Schema, SchemaType};
use serde_json::Value;

use super::values::as_written;

/// One place; a side that is absent has no such field.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Difference {
    /// Which field: `value.after.amount`.
    pub(super) path: String,
    /// What the case says.
    pub(super) expected: Option<Value>,
    /// What the transforms made.
    pub(super) found: Option<Value>,
}

/// Whether fields that the case does not name may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They differ.
    Differ,
    /// They are not looked at.
    Ignored,
}

/// Appends every difference between the two.
pub(super) fn compare(
    schema: Option<&Arc<Schema>>,
    (expected, found): (&Value, &Value),
    others: Others,
    path: &str,
    out: &mut Vec<Difference>,
) {
    let mut differ = |path: String, expected: Option<&Value>, found: Option<&Value>| {
        out.push(Difference { path, expected: expected.cloned(), found: found.cloned() });
    };
    match (expected, found) {
        (Value::Object(wanted), Value::Object(there)) => {
            for (name, expected) in wanted {
                let path = format!("{path}.{name}");
                match there.get(name) {
                    Some(found) => compare(member(schema, name), (expected, found), others, &path, out),
                    None => out.push(Difference { path, expected: Some(expected.clone()), found: None }),
                }
            }
            if others == Others::Differ {
                for (name, found) in there.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
                    let path = format!("{path}.{name}");
                    out.push(Difference { path, expected: None, found: Some(found.clone()) });
                }
            }
        }
        (Value::Array(wanted), Value::Array(there)) if wanted.len() == there.len() => {
            let item = schema
                .and_then(|schema| if let SchemaType::Array(item) = schema.ty() { Some(item) } else { None });
            for (index, pair) in wanted.iter().zip(there).enumerate() {
                compare(item, pair, others, &format!("{path}[{index}]"), out);
            }
        }
        (expected, found) => {
            let same = || schema.and_then(|schema| as_written(schema, expected)).is_some_and(|w| w == *found);
            if expected != found && !same() {
                differ(path.to_owned(), Some(expected), Some(found));
            }
        }
    }
}

fn member<'s>(schema: Option<&'s Arc<Schema>>, name: &str) -> Option<&'s Arc<Schema>> {
    let schema = schema?;
    if let SchemaType::Map(item) = schema.ty() {
        return Some(item);
    }
    schema.field(name).map(|(_, field)| &field.schema)
}

#[cfg(test)]
mod tests {
    use rowstream_api::SchemaBuilder;
    use serde_json::json;

    use super::*;

    fn row() -> Arc<Schema> {
        let decimal = SchemaBuilder::new(SchemaType::Bytes)
            .name("org.apache.kafka.connect.data.Decimal")
            .parameter("scale", "2")
            .build();
        let date = SchemaBuilder::new(SchemaType::Int32).name("io.debezium.time.Date").build();
        SchemaBuilder::structure().field("amount", decimal).field("day", date).build()
    }

    fn paths(expected: &Value, found: &Value, others: Others) -> Vec<String> {
        let mut out = Vec::new();
        compare(Some(&row()), (expected, found), others, "value", &mut out);
        out.into_iter().map(|difference| difference.path).collect()
    }

    #[test]
    fn values_are_compared_as_the_record_has_them() {
        let found = json!({ "amount": "12.50", "day": 20_513 });
        for amount in [json!(12.5), json!("12.5"), json!("12.50")] {
            let expected = json!({ "amount": amount, "day": "2026-03-01" });
            assert_eq!(paths(&expected, &found, Others::Differ), [""; 0], "{expected}");
        }
        let expected = json!({ "amount": "12.51", "day": "2026-03-02" });
        assert_eq!(paths(&expected, &found, Others::Differ), ["value.amount", "value.day"]);
    }

    #[test]
    fn fields_that_are_missing_or_too_many_are_named() {
        let found = json!({ "amount": "1.00", "tags": ["a", "b"] });
        let expected = json!({ "amount": 1, "day": null, "tags": ["a", "c"] });
        assert_eq!(paths(&expected, &found, Others::Differ), ["value.day", "value.tags[1]"]);
        assert_eq!(paths(&json!({ "amount": 1 }), &found, Others::Differ), ["value.tags"]);
        assert_eq!(paths(&json!({ "amount": 1 }), &found, Others::Ignored), [""; 0]);
    }
}
