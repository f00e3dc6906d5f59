//! The wire decoders on bytes that no server would send.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::hint::black_box;

use bytes::BytesMut;
use proptest::prelude::*;
use rowstream_postgres::{
    stream::assemble::{Assembler, Partial, Position},
    types::{Kind, parse},
    wire::{
        copy::{self, FromServer, Reply, Status},
        frame::{self, Front, ServerMessage},
        pgoutput::{self, CellKind, Message, OldTuple, Relation, RowChange},
    },
};

fn text_cell(text: &str) -> Vec<u8> {
    let mut out = vec![b't'];
    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text.as_bytes());
    out
}

fn relation(oid: u32) -> Vec<u8> {
    let mut out = vec![b'R'];
    out.extend(oid.to_be_bytes());
    out.extend(b"public\0orders\0d");
    out.extend(2u16.to_be_bytes());
    for (flag, name, ty) in [(1u8, "id", 23u32), (0, "v", 25)] {
        out.push(flag);
        out.extend(name.as_bytes());
        out.push(0);
        out.extend(ty.to_be_bytes());
        out.extend((-1i32).to_be_bytes());
    }
    out
}

fn update(oid: u32) -> Vec<u8> {
    let mut out = vec![b'U'];
    out.extend(oid.to_be_bytes());
    out.push(b'K');
    out.extend(2u16.to_be_bytes());
    out.extend(text_cell("1"));
    out.push(b'n');
    out.push(b'N');
    out.extend(2u16.to_be_bytes());
    out.extend(text_cell("2"));
    out.push(b'u');
    out
}

fn insert(oid: u32) -> Vec<u8> {
    let mut out = vec![b'I'];
    out.extend(oid.to_be_bytes());
    out.push(b'N');
    out.extend(2u16.to_be_bytes());
    out.extend(text_cell("7"));
    out.extend(text_cell("text"));
    out
}

fn begin(final_lsn: u64) -> Vec<u8> {
    let mut out = vec![b'B'];
    out.extend(final_lsn.to_be_bytes());
    out.extend(0i64.to_be_bytes());
    out.extend(77u32.to_be_bytes());
    out
}

fn commit(lsn: u64) -> Vec<u8> {
    let mut out = vec![b'C', 0];
    out.extend(lsn.to_be_bytes());
    out.extend((lsn + 8).to_be_bytes());
    out.extend(0i64.to_be_bytes());
    out
}

fn truncate(oid: u32) -> Vec<u8> {
    let mut out = vec![b'T'];
    out.extend(1u32.to_be_bytes());
    out.push(0);
    out.extend(oid.to_be_bytes());
    out
}

fn xlog(lsn: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![b'w'];
    out.extend(lsn.to_be_bytes());
    out.extend(lsn.to_be_bytes());
    out.extend(0i64.to_be_bytes());
    out.extend(payload);
    out
}

fn keepalive(wal_end: u64) -> Vec<u8> {
    let mut out = vec![b'k'];
    out.extend(wal_end.to_be_bytes());
    out.extend(0i64.to_be_bytes());
    out.push(1);
    out
}

fn decode_all(bytes: &[u8]) {
    let mut cells = Vec::new();
    black_box(RowChange::decode(bytes, &mut cells).is_ok());
    black_box(Relation::decode(bytes).is_ok());
    black_box(pgoutput::truncated(bytes).is_ok());
    black_box(pgoutput::peek(bytes).is_ok());
    black_box(copy::decode(bytes).is_ok());
    black_box(frame::split(bytes).is_ok());
    black_box(ServerMessage::decode(bytes).is_ok());
    black_box(Assembler::new(Position::default()).message(bytes).is_ok());
}

#[test]
fn messages_are_read() {
    let shape = Relation::decode(&relation(5)).unwrap();
    assert_eq!((shape.namespace.as_str(), shape.name.as_str(), shape.columns.len()), ("public", "orders", 2));
    assert!(shape.columns[0].identity && !shape.columns[1].identity);
    let mut cells = Vec::new();
    let change = RowChange::decode(&update(5), &mut cells).unwrap();
    assert_eq!(change, RowChange::Update { old: Some((OldTuple::Identity, 2)) });
    let kinds: Vec<_> = cells.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [CellKind::Text, CellKind::Null, CellKind::Text, CellKind::Unchanged]);
    assert!(matches!(pgoutput::peek(&insert(5)), Ok(Message::Row { oid: 5 })));
    assert_eq!(copy::decode(&keepalive(9)), Ok(FromServer::Keepalive { wal_end: 9, reply_requested: true }));
    let mut out = BytesMut::new();
    Status { received: 3, flushed: 2, reply: Reply::Requested, clock_us: 0 }.encode(&mut out);
    assert_eq!(frame::split(&out), Ok(Front::Whole { tag: b'd', end: out.len() }));
    assert_eq!(&out[6..30], [3u64, 2, 2].map(u64::to_be_bytes).concat());
}

#[test]
fn a_message_cut_at_any_byte_is_an_error_not_a_panic() {
    for message in [relation(5), update(5), insert(5), begin(9), commit(9), truncate(5), xlog(1, &insert(5))]
    {
        for cut in 0..message.len() {
            decode_all(&message[..cut]);
        }
    }
    for cut in 0..relation(5).len() {
        assert!(Relation::decode(&relation(5)[..cut]).is_err());
    }
    let mut cells = Vec::new();
    for cut in 0..update(5).len() {
        assert!(RowChange::decode(&update(5)[..cut], &mut cells).is_err());
    }
}

fn feed(assembler: &mut Assembler, messages: &[(u64, Vec<u8>)]) -> Result<(), &'static str> {
    messages.iter().try_for_each(|(lsn, m)| assembler.message(&xlog(*lsn, m)).map(|_| ()).map_err(|e| e.code))
}

#[test]
fn a_transaction_goes_on_at_its_ordinal_and_nowhere_else() {
    let transaction = |final_lsn| {
        vec![
            (1, begin(final_lsn)),
            (0, relation(5)),
            (10, insert(5)),
            (11, truncate(5)),
            (12, insert(5)),
            (13, commit(final_lsn)),
        ]
    };
    for ordinal in 0..=3 {
        let partial = (ordinal > 0).then_some(Partial { final_lsn: 100, ordinal });
        let mut assembler = Assembler::new(Position { lsn: 5, partial });
        feed(&mut assembler, &transaction(100)).unwrap();
        let batch = assembler.take();
        assert_eq!(batch.entries.len() as u64, 3 - ordinal);
        assert_eq!(batch.position, Position { lsn: 108, partial: None });
        assert!(batch.ends_transaction);
    }
    let resumed = Position { lsn: 5, partial: Some(Partial { final_lsn: 100, ordinal: 2 }) };
    // Another transaction in its place, or a server that is past it.
    assert_eq!(feed(&mut Assembler::new(resumed), &transaction(101)), Err("PG_TRANSACTION_MISSING"));
    assert_eq!(
        Assembler::new(resumed).message(&keepalive(101)).map_err(|e| e.code),
        Err("PG_TRANSACTION_MISSING")
    );
    // Cut again further on, and before anything new came.
    let mut assembler = Assembler::new(resumed);
    assert_eq!(assembler.take().position, resumed);
    feed(&mut assembler, &transaction(100)[..3]).unwrap();
    assert_eq!(assembler.take().position, resumed);
    feed(&mut assembler, &transaction(100)[3..5]).unwrap();
    let batch = assembler.take();
    assert_eq!(batch.position, Position { lsn: 5, partial: Some(Partial { final_lsn: 100, ordinal: 3 }) });
    assert_eq!((batch.entries.len(), batch.ends_transaction), (1, false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(tag in prop::sample::select(b"BCORYIUDTMwkN".to_vec()), rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![tag];
        bytes.extend(rest);
        decode_all(&bytes);
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..200, value in any::<u8>()) {
        for mut message in [relation(5), update(5), insert(5), xlog(1, &update(5))] {
            let at = at % message.len();
            message[at] = value;
            decode_all(&message);
        }
    }

    #[test]
    fn random_text_never_panics(text in "[-0-9:. {}\",\\\\()+a-zBCé=>\\[\\]]{0,40}") {
        let array = |element| Kind::Array { element: Box::new(element), delimiter: b',' };
        for kind in [
            Kind::Bool, Kind::Int, Kind::Float32, Kind::Float64, Kind::Decimal, Kind::Money, Kind::Bytea, Kind::Date,
            Kind::TimeMillis, Kind::TimeMicros, Kind::TimestampMillis, Kind::TimestampMicros, Kind::TimestampTz,
            Kind::TimeTz, Kind::Interval, Kind::Bit, Kind::Bits, Kind::Point, Kind::Hstore, array(Kind::Text),
            array(Kind::Bytea), array(Kind::Date),
        ] {
            black_box(parse(&kind, &text).is_ok());
        }
    }

    /// The acknowledged position is never above what was received, and positions never go back.
    #[test]
    fn positions_only_grow(steps in prop::collection::vec((0u8..3, 1u64..50), 1..60)) {
        let mut assembler = Assembler::new(Position { lsn: 10, partial: None });
        let (mut lsn, mut last) = (10, 10);
        for (what, forward) in steps {
            lsn += forward;
            match what {
                0 => { assembler.message(&keepalive(lsn)).unwrap(); }
                1 => { assembler.message(&keepalive(lsn - forward)).unwrap(); }
                _ => {
                    feed(&mut assembler, &[(lsn, begin(lsn + 10)), (0, relation(5)), (lsn, insert(5))]).unwrap();
                    let open = assembler.take();
                    prop_assert_eq!(open.position.partial, Some(Partial { final_lsn: lsn + 10, ordinal: 1 }));
                    // A keepalive inside a transaction says nothing about it.
                    assembler.message(&keepalive(lsn + 5)).unwrap();
                    prop_assert_eq!(assembler.complete_lsn(), last);
                    feed(&mut assembler, &[(lsn, commit(lsn + 10))]).unwrap();
                    lsn += 18;
                }
            }
            let position = assembler.take().position;
            prop_assert!(position.lsn >= last && position.lsn <= assembler.received);
            last = position.lsn;
        }
    }
}
