//! Golden records, and `apache-avro` values in our terms.

use std::collections::BTreeMap;

use apache_avro::types::Value as AvroValue;
use rowstream_api::{Field, Schema, SchemaType, ValueRef};

/// One table of the golden sample.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) schemas: BTreeMap<String, String>,
    /// Schema id and datum of every key and value.
    pub(crate) data: Vec<(String, Vec<u8>)>,
}

pub(crate) fn golden() -> Vec<Table> {
    include_str!("../golden/debezium.jsonl").lines().map(table).collect()
}

fn table(line: &str) -> Table {
    let json: serde_json::Value = serde_json::from_str(line).unwrap();
    let schemas = json["schemas"].as_object().unwrap();
    let schemas = schemas.iter().map(|(id, schema)| (id.clone(), schema.to_string())).collect();
    let records = json["avro"].as_array().unwrap().iter();
    let data = records.flat_map(|record| [&record["key"], &record["value"]]).filter(|datum| !datum.is_null());
    let data =
        data.map(|datum| (datum["schema"].to_string(), unhex(datum["hex"].as_str().unwrap()))).collect();
    Table { name: json["table"].as_str().unwrap().to_owned(), schemas, data }
}

pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A physical value as `apache-avro` would hold it under the same schema.
pub(crate) fn to_oracle(schema: &Schema, value: &ValueRef<'_>) -> AvroValue {
    let has_default = schema.default().is_some();
    if schema.is_optional() {
        let null_branch = u32::from(has_default);
        return match value {
            ValueRef::Null => AvroValue::Union(null_branch, Box::new(AvroValue::Null)),
            value => AvroValue::Union(1 - null_branch, Box::new(plain(schema, value))),
        };
    }
    plain(schema, value)
}

fn plain(schema: &Schema, value: &ValueRef<'_>) -> AvroValue {
    match (schema.ty(), value) {
        (SchemaType::Boolean, ValueRef::Bool(flag)) => AvroValue::Boolean(*flag),
        (SchemaType::Int64, ValueRef::Int(number)) => AvroValue::Long(*number),
        (_, ValueRef::Int(number)) => AvroValue::Int(i32::try_from(*number).unwrap()),
        (_, ValueRef::Float32(number)) => AvroValue::Float(*number),
        (_, ValueRef::Float64(number)) => AvroValue::Double(*number),
        (_, ValueRef::Str(text)) => AvroValue::String(text.to_string()),
        (_, ValueRef::Bytes(bytes)) => AvroValue::Bytes(bytes.to_vec()),
        (SchemaType::Array(item), ValueRef::Array(values)) => {
            AvroValue::Array(values.iter().map(|value| to_oracle(item, value)).collect())
        }
        (SchemaType::Map(item), ValueRef::Map(entries)) => {
            AvroValue::Map(entries.iter().map(|(k, v)| (k.to_string(), to_oracle(item, v))).collect())
        }
        (SchemaType::Struct(fields), ValueRef::Struct(values)) => {
            let pair = |(field, value): (&Field, _)| (field.name.clone(), to_oracle(&field.schema, value));
            AvroValue::Record(fields.iter().zip(values).map(pair).collect())
        }
        (ty, value) => panic!("{value:?} is no {ty:?}"),
    }
}

/// What `apache-avro` read, without its logical types, so that it compares with [`to_oracle`].
pub(crate) fn without_logical(value: AvroValue) -> AvroValue {
    match value {
        AvroValue::Decimal(decimal) => AvroValue::Bytes(Vec::<u8>::try_from(decimal).unwrap()),
        AvroValue::Date(number) | AvroValue::TimeMillis(number) => AvroValue::Int(number),
        AvroValue::TimestampMillis(number) => AvroValue::Long(number),
        AvroValue::Union(branch, inner) => AvroValue::Union(branch, Box::new(without_logical(*inner))),
        AvroValue::Array(items) => AvroValue::Array(items.into_iter().map(without_logical).collect()),
        AvroValue::Map(items) => {
            AvroValue::Map(items.into_iter().map(|(k, v)| (k, without_logical(v))).collect())
        }
        AvroValue::Record(fields) => {
            AvroValue::Record(fields.into_iter().map(|(k, v)| (k, without_logical(v))).collect())
        }
        other => other,
    }
}
