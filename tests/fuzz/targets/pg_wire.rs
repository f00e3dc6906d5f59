//! PostgreSQL's replication protocol: frames, CopyBoth messages, pgoutput, and a stream of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowstream_postgres::{
    stream::assemble::{Assembler, Position},
    wire::{
        copy,
        frame::{self, Front, ServerMessage},
        pgoutput::{self, Relation, RowChange},
    },
};

fuzz_target!(|bytes: &[u8]| {
    let mut cells = Vec::new();
    if RowChange::decode(bytes, &mut cells).is_err() {
        cells.clear();
    }
    for cell in &cells {
        assert!(
            bytes.get(cell.start as usize..cell.end as usize).is_some(),
            "a cell points out of its message"
        );
    }
    drop(Relation::decode(bytes));
    drop(pgoutput::truncated(bytes));
    drop(pgoutput::peek(bytes));
    drop(copy::decode(bytes));
    drop(ServerMessage::decode(bytes));
    let mut assembler = Assembler::new(Position::default());
    let mut rest = bytes;
    while let Ok(Front::Whole { end, .. }) = frame::split(rest) {
        assert!(end >= 5 && end <= rest.len());
        let (message, behind) = rest.split_at(end);
        if assembler.message(&message[5..]).is_err() {
            return;
        }
        rest = behind;
    }
});
