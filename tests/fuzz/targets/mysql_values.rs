//! The forms of every MySQL and MariaDB type: the storage form of the stream, and the snapshot's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowstream_mysql::types::{Kind, Zero, charset::Charset, image, selected};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let text = |name, compressed| Kind::Text { charset: Charset::of(name).unwrap(), compressed };
    let kinds = [
        Kind::Int,
        Kind::Unsigned,
        Kind::UnsignedDecimal,
        Kind::Float32,
        Kind::Float64,
        Kind::Decimal { precision: 65, scale: 30 },
        Kind::Decimal { precision: 10, scale: 0 },
        Kind::Bit,
        Kind::Bits,
        Kind::Year,
        Kind::Date(Zero::Epoch),
        Kind::Time { digits: 6, old: false },
        Kind::Time { digits: 0, old: true },
        Kind::Datetime { digits: 6, old: false, zero: Zero::Null },
        Kind::Datetime { digits: 3, old: false, zero: Zero::Epoch },
        Kind::Datetime { digits: 0, old: true, zero: Zero::Null },
        Kind::Timestamp { digits: 6, old: false, zero: Zero::Refuse },
        text("gbk", false),
        text("utf8mb4", false),
        text("latin1", false),
        text("utf8mb4", true),
        Kind::Bytes { padded: Some(5), compressed: false },
        Kind::Bytes { padded: None, compressed: true },
        Kind::Enum(vec!["a".to_owned(), "b".to_owned()].into()),
        Kind::Set(vec!["a".to_owned(), "b".to_owned()].into()),
        Kind::Json,
        Kind::JsonText,
        Kind::Geometry,
        Kind::Point,
        Kind::Vector,
        Kind::Uuid,
        Kind::Inet4,
        Kind::Inet6,
    ];
    let kind = &kinds[usize::from(*kind) % kinds.len()];
    drop(image::parse(kind, bytes));
    drop(selected::parse(kind, bytes));
});
