//! A segment file's bytes: frames, commit bodies and record batches. What decodes must encode to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowstream::topic_log::{RecordBatch, embedded::fuzzing};

fuzz_target!(|bytes: &[u8]| {
    fuzzing::frame(bytes);
    let Some((count, body)) = bytes.split_first() else { return };
    let batch = RecordBatch::from_stored(bytes::Bytes::copy_from_slice(body), u32::from(*count), 0);
    let Ok(records) = batch.records() else { return };
    assert_eq!(records.len(), usize::from(*count));
    for skip in 0..=u32::from(*count) {
        let rest = batch.without_first(skip).expect("a batch that reads can be cut");
        let rest = rest.records().expect("a cut batch reads");
        assert_eq!(rest, records.get(skip as usize..).unwrap_or_default());
    }
});
