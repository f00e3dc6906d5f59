//! Real Debezium schemas and records.

use apache_avro::from_avro_datum;
use rowstream_avro::{AvroDecoder, EncodePlan, from_avro_json, to_avro_json, write_json};

use crate::support::{golden, to_oracle, without_logical};

#[test]
fn every_schema_comes_back_attribute_for_attribute() {
    let mut seen = 0;
    for table in golden() {
        for (id, json) in &table.schemas {
            let schema = from_avro_json(json).unwrap();
            assert_eq!(to_avro_json(&schema), *json, "{} schema {id}", table.name);
            assert_eq!(schema.is_envelope(), json.contains("\"Envelope\""));
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn every_record_decodes_as_the_oracle_does_and_encodes_back_byte_for_byte() {
    let mut seen = 0;
    for table in golden() {
        for (id, bytes) in &table.data {
            let json = &table.schemas[id];
            let decoder = AvroDecoder::from_json(json).unwrap();
            let value = decoder.decode(bytes).unwrap();

            let theirs = apache_avro::Schema::parse_str(json).unwrap();
            let oracle = from_avro_datum(&theirs, &mut bytes.as_slice(), None).unwrap();
            assert_eq!(to_oracle(decoder.schema(), &value), without_logical(oracle), "{}", table.name);

            let implied = AvroDecoder::new(decoder.schema().clone());
            assert_eq!(implied.decode(bytes).unwrap(), value, "{}", table.name);

            let mut back = Vec::new();
            EncodePlan::compile(decoder.schema()).encode_value(&value, &mut back).unwrap();
            assert_eq!(back, *bytes, "{}", table.name);

            let mut text = Vec::new();
            write_json(decoder.schema(), &value, &mut text).unwrap();
            serde_json::from_slice::<serde_json::Value>(&text).unwrap();
            seen += 1;
        }
    }
    assert!(seen > 300, "{seen}");
}

#[test]
fn chosen_fields_decode_as_in_the_whole() {
    for table in golden() {
        for (id, bytes) in &table.data {
            let decoder = AvroDecoder::from_json(&table.schemas[id]).unwrap();
            let whole = decoder.decode(bytes).unwrap();
            let whole = whole.as_struct().unwrap();
            for wanted in 0..whole.len() {
                let some = decoder.decode_fields(bytes, &[wanted]).unwrap();
                assert_eq!(some.len(), whole.len());
                for (index, value) in some.iter().enumerate() {
                    let expected =
                        if index == wanted { &whole[index] } else { &rowstream_api::ValueRef::Absent };
                    assert_eq!(value, expected, "{}", table.name);
                }
            }
        }
    }
}
