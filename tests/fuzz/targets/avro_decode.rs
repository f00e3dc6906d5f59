//! Avro bytes against a schema, and schema text itself. What decodes must encode to the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowstream_avro::{AvroDecoder, EncodePlan, from_avro_json, to_avro_json};

const SCHEMA: &str = r#"{"type":"record","name":"V","namespace":"a.b","fields":[
    {"name":"i","type":["null","int"]},{"name":"s","type":"string"},{"name":"l","type":{"type":"array","items":"long"}},
    {"name":"m","type":{"type":"map","values":"bytes"}},{"name":"d","type":"double"},{"name":"b","type":"boolean"},
    {"name":"n","type":["null",{"type":"record","name":"N","fields":[{"name":"x","type":"float"}]}]}]}"#;

fuzz_target!(|bytes: &[u8]| {
    let decoder = AvroDecoder::from_json(SCHEMA).expect("the schema is sound");
    if let Ok(value) = decoder.decode(bytes) {
        let mut again = Vec::new();
        EncodePlan::compile(decoder.schema())
            .encode_value(&value, &mut again)
            .expect("what was read can be written");
        // Compared as bytes: NaN is not equal to itself.
        let twice = decoder.decode(&again).expect("what was written can be read");
        let mut third = Vec::new();
        EncodePlan::compile(decoder.schema()).encode_value(&twice, &mut third).expect("and written again");
        assert_eq!(again, third);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(schema) = from_avro_json(text)
    {
        let json = to_avro_json(&schema);
        from_avro_json(&json).expect("a schema of ours reads");
    }
});
