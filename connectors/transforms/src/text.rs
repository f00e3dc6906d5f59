//! Values as the text of a header.

use rowstream_api::{RecordError, Schema, ValueRef, json::write_json};

/// As Connect's `SimpleHeaderConverter` writes it: text as it is, numbers and booleans in digits and words, bytes in base64,
/// all else as JSON. Null has none.
pub(crate) fn header_text(schema: &Schema, value: &ValueRef<'_>) -> Result<Option<Vec<u8>>, RecordError> {
    match value {
        ValueRef::Null | ValueRef::Absent => return Ok(None),
        ValueRef::Str(text) => return Ok(Some(text.as_bytes().to_vec())),
        ValueRef::Unavailable
        | ValueRef::Bool(_)
        | ValueRef::Int(_)
        | ValueRef::Float32(_)
        | ValueRef::Float64(_)
        | ValueRef::Bytes(_)
        | ValueRef::Hex(_)
        | ValueRef::Decimal(_)
        | ValueRef::ZonedMicros(_)
        | ValueRef::Array(_)
        | ValueRef::Struct(_)
        | ValueRef::Map(_) => {}
    }
    let mut json = Vec::new();
    write_json(schema, value, &mut json)?;
    if json.first() == Some(&b'"') {
        // Digits and base64, in which nothing is escaped.
        json = json.split_off(1);
        json.pop();
    }
    Ok(Some(json))
}
