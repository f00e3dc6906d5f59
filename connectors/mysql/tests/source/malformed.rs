//! Bytes that no server sends: an error, never a panic, never an endless loop.

use proptest::prelude::*;
use rowstream_mysql::{
    types::{Kind, Zero},
    types::{charset::Charset, decimal, image, json},
    wire::{
        compressed, event, rows,
        table_map::{self, Geometries},
        tagged,
    },
};

/// A table map of MySQL 9.7: (id int primary key, v varchar(20), n decimal(10,2), e enum('a','b'), j json).
fn table_map_body() -> Vec<u8> {
    let mut body = vec![90, 0, 0, 0, 0, 0, 1, 0, 4];
    body.extend_from_slice(b"shop\0\x01t\0");
    body.extend_from_slice(&[5, 3, 15, 246, 254, 245]);
    body.extend_from_slice(&[7, 80, 0, 10, 2, 247, 1, 4]);
    body.push(0b11110);
    body.extend_from_slice(&[1, 1, 0]); // Signs.
    body.extend_from_slice(&[2, 2, 0xfc, 255]);
    body.truncate(body.len() - 4);
    body.extend_from_slice(&[2, 1, 45]); // Collation.
    body.extend_from_slice(&[4, 11, 2, b'i', b'd', 1, b'v', 1, b'n', 1, b'e', 1, b'j']);
    body.extend_from_slice(&[6, 5, 2, 1, b'a', 1, b'b', 8, 1, 0]);
    body
}

#[test]
fn a_table_map_is_read() {
    let shape = table_map::decode(&table_map_body(), Geometries::Apart).unwrap();
    assert_eq!(shape.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["id", "v", "n", "e", "j"]);
    assert_eq!(shape.key, [0]);
    assert_eq!(shape.columns[3].labels, [b"a".to_vec(), b"b".to_vec()]);
}

fn damaged(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = bytes.len();
    (0..=length, proptest::collection::vec((0..length, any::<u8>()), 0..4)).prop_map(move |(cut, flips)| {
        let mut bytes = bytes.clone();
        for (at, byte) in flips {
            bytes[at] ^= byte;
        }
        bytes.truncate(cut);
        bytes
    })
}

fn kinds() -> Vec<Kind> {
    vec![
        Kind::Int,
        Kind::Unsigned,
        Kind::UnsignedDecimal,
        Kind::Float32,
        Kind::Float64,
        Kind::Decimal { precision: 65, scale: 30 },
        Kind::Bit,
        Kind::Bits,
        Kind::Year,
        Kind::Date(Zero::Epoch),
        Kind::Time { digits: 6, old: false },
        Kind::Time { digits: 0, old: true },
        Kind::Datetime { digits: 6, old: false, zero: Zero::Null },
        Kind::Datetime { digits: 0, old: true, zero: Zero::Null },
        Kind::Timestamp { digits: 6, old: false, zero: Zero::Refuse },
        Kind::Text { charset: Charset::of("gbk").unwrap(), compressed: false },
        Kind::Text { charset: Charset::Utf8, compressed: true },
        Kind::Bytes { padded: Some(5), compressed: false },
        Kind::Bytes { padded: None, compressed: true },
        Kind::Enum(vec!["a".to_owned()].into()),
        Kind::Set(vec!["a".to_owned()].into()),
        Kind::Json,
        Kind::JsonText,
        Kind::Geometry,
        Kind::Point,
        Kind::Vector,
        Kind::Uuid,
        Kind::Inet4,
        Kind::Inet6,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_table_maps(body in damaged(table_map_body()), present in any::<u8>(), row in proptest::collection::vec(any::<u8>(), 0..60)) {
        assert!(table_map::names(&body).is_ok() || table_map::decode(&body, Geometries::Apart).is_err());
        if let Ok(shape) = table_map::decode(&body, Geometries::Apart) {
            let widths = rows::widths(&shape);
            let mut cells = 0;
            if rows::image(&widths, &[present], &row, 0, |_| cells += 1).is_ok() {
                prop_assert_eq!(cells, widths.len());
            }
        }
    }

    #[test]
    fn arbitrary_values(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        for kind in kinds() {
            drop(image::parse(&kind, &bytes));
            drop(rowstream_mysql::types::selected::parse(&kind, &bytes));
        }
        drop(decimal::text(&bytes, 20, 5));
    }

    #[test]
    fn arbitrary_json(ty in 0_u8..16, bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut document = vec![ty];
        document.extend_from_slice(&bytes);
        if let Ok(text) = json::text(&document) {
            prop_assert!(text.len() < 1 << 20);
        }
    }

    #[test]
    fn arbitrary_events(kind in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _header = event::Header::decode(&bytes);
        let _checksums = event::format_description(&bytes);
        drop(event::gtid(kind, &bytes));
        drop(event::maria_gtid(1, &bytes));
        let _query = event::query(&bytes);
        drop(event::rotate(&bytes));
        drop(event::xa_prepare(&bytes));
        drop(event::heartbeat_v2(&bytes));
        drop(tagged::decode(&bytes));
        drop(compressed::unpack(&bytes));
        drop(compressed::unpack_column(&bytes));
        if let Ok(payload) = compressed::payload(&bytes)
            && let Ok(mut events) = compressed::PayloadEvents::new(payload)
        {
            while let Ok(Some(_)) = events.next_event() {}
        }
        if let Some(operation) = rows::operation(kind) {
            let _rows = rows::decode(kind, operation, &bytes);
        }
    }
}

/// An event with a right header and checksum.
fn sealed(kind: u8, body: &[u8], end: u32) -> Vec<u8> {
    let mut event = vec![0; 4];
    event.push(kind);
    event.extend_from_slice(&1_u32.to_le_bytes());
    event.extend_from_slice(&u32::try_from(body.len() + 23).unwrap().to_le_bytes());
    event.extend_from_slice(&end.to_le_bytes());
    event.extend_from_slice(&[0, 0]);
    event.extend_from_slice(body);
    let sum = crc32fast::hash(&event);
    event.extend_from_slice(&sum.to_le_bytes());
    event
}

fn an_event() -> impl Strategy<Value = (u8, Vec<u8>, u32)> {
    let kinds = proptest::sample::select(vec![
        2_u8, 4, 15, 16, 19, 23, 24, 25, 26, 27, 30, 31, 32, 33, 34, 38, 39, 40, 41, 42, 162, 165, 166, 169,
    ]);
    let body = prop_oneof![
        damaged(table_map_body()),
        proptest::collection::vec(any::<u8>(), 0..60),
        // Rows of the table above: flags, no extra data, five columns, all there, no nulls.
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|row| [
            &[90, 0, 0, 0, 0, 0, 1, 0, 2, 0, 5, 0xff, 0][..],
            &row
        ]
        .concat()),
        Just([&[0_u8; 8][..], &[0, 0, 0, 0, 0], b"\0BEGIN"].concat()),
    ];
    (kinds, body, any::<u32>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn arbitrary_streams(events in proptest::collection::vec(an_event(), 1..12)) {
        use rowstream_mysql::{stream::{assemble::Assembler, position::{BinlogPosition, Position}}, wire::gtid::GtidState};
        let plan = crate::common::plan_with("mysql", 1, "shop", serde_json::json!({}));
        let from = Position { at: BinlogPosition::new("binlog.000001", 4), gtids: GtidState::Off, partial: None, prepared: Vec::new() };
        let mut assembler = Assembler::new(from, plan.tables, rowstream_mysql::connection::Flavour::MySql);
        for (kind, body, end) in events {
            let taken = assembler.event(&sealed(kind, &body, end)).is_ok();
            while assembler.is_unpacking() && assembler.step().is_ok() {}
            if !taken {
                break;
            }
        }
        let batch = assembler.take();
        prop_assert!(batch.rows.entries.len() < 1 << 16);
    }
}
