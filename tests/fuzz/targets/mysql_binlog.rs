//! A binlog of MySQL or MariaDB, and every value of the rows that it holds. The input is events without their checksums, one after
//! the other as in a file; each gets its length and the checksum that its bytes need.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rowstream_api::{Change, ChangeSet, RowView};
use rowstream_mysql::{
    catalog::Catalog,
    connection::Flavour,
    schema_change::{self, Message},
    source_config::{TableFilter, TablesConfig},
    stream::{
        assemble::{Assembler, DefinitionPlan},
        batch::{NO_TABLE, RawBatch, StreamTable},
        changes::{SourceNames, StreamChanges},
        position::{BinlogPosition, Position},
    },
    table,
    types::TypeOptions,
    wire::gtid::GtidState,
};

const HEADER_BYTES: usize = 19;

fuzz_target!(|bytes: &[u8]| {
    let tables = TablesConfig { include: vec!["s*.*".to_owned()], exclude: Vec::new() };
    let from = Position {
        at: BinlogPosition::new("binlog.000001", 4),
        gtids: GtidState::Off,
        partial: None,
        prepared: Vec::new(),
    };
    let mut assembler = Assembler::new(from, TableFilter::new(&tables).unwrap(), Flavour::MySql)
        .with_definitions(Some(DefinitionPlan::default()));
    let mut rest = bytes;
    while let Some((mut event, behind)) = split(rest) {
        rest = behind;
        let sum = crc32fast::hash(&event);
        event.extend_from_slice(&sum.to_le_bytes());
        let mut taken = assembler.event(&event).is_ok();
        while taken && assembler.is_unpacking() {
            taken = assembler.step().is_ok();
        }
        if !taken {
            break;
        }
    }
    read(assembler.take());
});

/// The event at the front, with the length that it will have.
fn split(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let length = usize::try_from(u32::from_le_bytes(bytes.get(9..13)?.try_into().ok()?)).ok()?;
    if length < HEADER_BYTES {
        return None;
    }
    let (event, behind) = bytes.split_at_checked(length)?;
    let mut event = event.to_vec();
    event[9..13].copy_from_slice(&u32::try_from(length + 4).ok()?.to_le_bytes());
    Some((event, behind))
}

fn read(batch: RawBatch) {
    let collations = [(8, "latin1"), (28, "gbk"), (33, "utf8mb3"), (45, "utf8mb4"), (63, "binary"), (255, "utf8mb4")];
    let catalog = Catalog::of(Flavour::MySql, collations.map(|(id, name)| (id, name.to_owned())));
    let plan = |table: &Arc<StreamTable>| {
        let plan = table::build(&table.shape, &catalog, TypeOptions::default(), "fuzz").ok()?;
        Some((Arc::new(plan), table.widths.clone()))
    };
    let tables: Vec<_> = batch.rows.tables.iter().map(plan).collect();
    let named = |event: u32| {
        let table = batch.rows.events[event as usize].table;
        table == NO_TABLE || tables[table as usize].is_some()
    };
    let entries = batch.rows.entries.iter().copied().filter(|entry| named(entry.event)).collect();
    let definitions = batch.rows.definitions.into_iter();
    let messages = definitions.map(|definition| Message { definition, structure: None, at_ms: 0 }).collect();
    let changes = StreamChanges {
        unread: vec![false; tables.len()],
        tables,
        arena: batch.rows.arena,
        entries,
        events: batch.rows.events,
        transactions: batch.transactions,
        messages,
        topic: schema_change::topic("fuzz", Flavour::MySql),
        names: Arc::new(SourceNames { server: "fuzz".to_owned(), flavour: Flavour::MySql }),
    };
    drop(changes.visit(&mut |view| {
        let (old, new): (Option<&dyn RowView>, Option<&dyn RowView>) = match view.change {
            Change::Create { after } | Change::Read { after } => (None, Some(after)),
            Change::Update { before, after } => (before, Some(after)),
            Change::Rekey { before, after } => (Some(before), Some(after)),
            Change::Delete { before } => (Some(before), None),
            Change::Truncate => (None, None),
            Change::Message { value } => (None, Some(value)),
        };
        for row in old.iter().chain(&new) {
            for index in 0..row.schema().fields().len() {
                drop(row.column(index));
            }
        }
        Ok(())
    }));
}
