//! The text form of every PostgreSQL type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowstream_postgres::types::{Kind, parse};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let array = |element| Kind::Array { element: Box::new(element), delimiter: b',' };
    let kinds = [
        Kind::Bool,
        Kind::Int,
        Kind::Float32,
        Kind::Float64,
        Kind::Decimal,
        Kind::Money,
        Kind::Bytea,
        Kind::Date,
        Kind::TimeMillis,
        Kind::TimeMicros,
        Kind::TimestampMillis,
        Kind::TimestampMicros,
        Kind::TimestampTz,
        Kind::TimeTz,
        Kind::Interval,
        Kind::Bit,
        Kind::Bits,
        Kind::Point,
        Kind::Hstore,
        array(Kind::Text),
        array(Kind::Bytea),
        array(Kind::Date),
        array(array(Kind::Decimal)),
    ];
    drop(parse(&kinds[usize::from(*kind) % kinds.len()], text));
});
