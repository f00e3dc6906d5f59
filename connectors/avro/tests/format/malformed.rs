//! Bytes and schemas nobody should have written: always an error or a value, never a panic, never much memory.

use proptest::prelude::*;
use rowstream_avro::{AvroDecoder, EncodePlan, from_avro_json};

use crate::support::golden;

#[test]
fn a_record_cut_anywhere_is_refused() {
    for table in golden() {
        let mut ids = Vec::new();
        for (id, bytes) in &table.data {
            if ids.iter().filter(|seen| *seen == &id).count() >= 2 {
                continue;
            }
            ids.push(id);
            let decoder = AvroDecoder::from_json(&table.schemas[id]).unwrap();
            for len in 0..bytes.len() {
                assert!(decoder.decode(&bytes[..len]).is_err(), "{} cut at {len}", table.name);
                assert!(decoder.decode_fields(&bytes[..len], &[0]).is_err());
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert_eq!(decoder.decode(&longer).unwrap_err().code, "AVRO_MALFORMED");
            assert_eq!(decoder.decode_fields(&longer, &[]).unwrap_err().code, "AVRO_MALFORMED");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn flipped_bytes_never_panic(seed in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        for table in golden() {
            let (id, bytes) = &table.data[seed.index(table.data.len())];
            let mut bytes = bytes.clone();
            for (at, flip) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            let decoder = AvroDecoder::from_json(&table.schemas[id]).unwrap();
            let fields = decoder.decode_fields(&bytes, &[0, 1]);
            if let Ok(value) = decoder.decode(&bytes) {
                prop_assert!(fields.is_ok());
                // What was read can be written, though a varint may have been longer than it must.
                EncodePlan::compile(decoder.schema()).encode_value(&value, &mut Vec::new()).unwrap();
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for schema in [
            r#"{"type":"array","items":["null","long"]}"#,
            r#"{"type":"map","values":{"type":"array","items":"string"}}"#,
            r#"{"type":"array","items":{"type":"record","name":"E","fields":[]}}"#,
            r#"{"type":"record","name":"R","fields":[{"name":"e","type":{"type":"enum","name":"S","symbols":["A","B"]}},{"name":"f","type":{"type":"fixed","name":"F","size":3}},{"name":"b","type":["boolean","null"]}]}"#,
        ] {
            let decoder = AvroDecoder::from_json(schema).unwrap();
            prop_assert!(decoder.decode(&bytes).is_ok() || decoder.decode(&bytes).is_err());
        }
    }

    #[test]
    fn arbitrary_schemas_never_panic(text in "\\PC{0,60}") {
        prop_assert!(from_avro_json(&text).is_ok() || from_avro_json(&text).is_err());
    }
}

#[test]
fn counts_of_items_without_bytes_are_bounded() {
    let empty = AvroDecoder::from_json(
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"array","items":{"type":"record","name":"E","fields":[]}}}]}"#,
    )
    .unwrap();
    let claims_2_to_62 = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x00];
    assert!(empty.decode(&claims_2_to_62).is_err());
    assert!(empty.decode_fields(&claims_2_to_62, &[]).is_err());
    let three = [6, 0];
    assert_eq!(empty.decode(&three).unwrap().as_struct().unwrap().len(), 1);
}

#[test]
fn schemas_connect_cannot_hold_are_refused_by_name() {
    let cases = [
        (r#"["null","int","string"]"#, "a union of other than"),
        (r#"["int"]"#, "a union of other than"),
        (r#""null""#, "in a union only"),
        (r#"{"type":"record","name":"N","fields":[{"name":"next","type":["null","N"]}]}"#, "`N.next`"),
        (
            r#"{"type":"record","name":"N","fields":[{"name":"x","type":"Missing"}]}"#,
            "`Missing` is not defined",
        ),
        (r#"{"type":"record","name":"N","fields":[{"name":"x","type":"int","default":"five"}]}"#, "`N.x`"),
        (r#"{"type":"record","name":"N"}"#, "without `fields`"),
        (r#"{"type":"int","connect.parameters":3}"#, "connect.parameters"),
        ("{", "not JSON"),
    ];
    for (json, part) in cases {
        let error = from_avro_json(json).unwrap_err();
        assert_eq!(error.code, "AVRO_SCHEMA");
        assert!(error.message.contains(part), "{json}: {error}");
    }
}

#[test]
fn a_schema_that_multiplies_is_refused() {
    let mut json = r#"{"type":"record","name":"Top","fields":[{"name":"f0","type":{"type":"record","name":"A0","fields":[{"name":"x","type":"int"}]}}"#.to_owned();
    for level in 1..40 {
        let below = level - 1;
        json.push_str(&format!(
            r#",{{"name":"f{level}","type":{{"type":"record","name":"A{level}","fields":[{{"name":"l","type":"A{below}"}},{{"name":"r","type":"A{below}"}}]}}}}"#
        ));
    }
    json.push_str("]}");
    assert!(from_avro_json(&json).unwrap_err().message.contains("holds more than"));
}
