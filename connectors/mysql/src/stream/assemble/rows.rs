//! Table maps and the rows that follow them.

use std::sync::Arc;

use rowstream_api::ConnectorError;

use super::{Assembler, KnownTable, Open, transaction_index};
use crate::{
    stream::{
        batch::{Entry, EntryKind, HeldRows, RowsInfo, StreamTable, Transaction, index_of},
        position::BinlogPosition,
    },
    transport::connection::malformed,
    wire::{
        DecodeError, compressed,
        event::{Header, kind},
        partial::{self, Refusal},
        rows::{self, Operation},
        table_map,
    },
};

impl Assembler {
    pub(super) fn table_map(&mut self, body: &[u8]) -> Result<(), ConnectorError> {
        let (id, database, table) = table_map::names(body).map_err(malformed)?;
        let is_current = |known: &KnownTable| {
            let table = known.table.as_ref().filter(|_| known.captured);
            table.is_none_or(|t| t.version == self.definitions || t.shape.is_named())
        };
        if self.tables.get(&id).is_some_and(|known| known.body == body && is_current(known)) {
            return Ok(());
        }
        let is_signal = self.signal.as_ref().is_some_and(|(of, name)| of == database && name == table);
        let captured = is_signal || self.filter.matches(database, table);
        let table = match table_map::decode(body, self.geometries) {
            Ok(shape) => {
                let (begins, version) = (self.next.clone(), self.definitions);
                Some(Arc::new(StreamTable { widths: rows::widths(&shape), shape, begins, version }))
            }
            Err(_) if !captured => None,
            Err(error) => {
                return Err(
                    malformed(error).while_attempting(&format!("read the shape of `{database}.{table}`"))
                );
            }
        };
        self.tables.insert(id, KnownTable { body: body.to_vec(), table, captured });
        Ok(())
    }

    pub(super) fn rows(
        &mut self,
        header: &Header,
        operation: Operation,
        body: &[u8],
        offset: u64,
    ) -> Result<(), ConnectorError> {
        let event = rows::decode(header.kind, operation, body).map_err(malformed)?;
        let Some(open) = &mut self.open else {
            return Err(malformed(DecodeError::Malformed("a row outside a transaction")));
        };
        let known = self.tables.get(&event.table_id);
        let Some(known) = known else {
            return Err(malformed(DecodeError::Malformed("rows of a table that was not described")));
        };
        let Some(table) = known.table.as_ref() else {
            open.ordinal += 1;
            return Ok(());
        };
        if table.widths.len() != event.width {
            return Err(malformed(DecodeError::Malformed(
                "rows with another number of columns than their table",
            )));
        }
        let unpacked;
        let images = if rows::is_compressed(header.kind) {
            unpacked = compressed::unpack(event.rows).map_err(malformed)?;
            &unpacked
        } else if known.captured && header.kind == kind::PARTIAL_UPDATE_ROWS {
            unpacked = made_whole(table, &event, &self.next)?;
            &unpacked
        } else {
            event.rows
        };
        if !known.captured && header.kind == kind::PARTIAL_UPDATE_ROWS {
            open.ordinal += 1;
            return Ok(());
        }
        if !known.captured {
            let mut at = 0;
            while at < images.len() {
                at = frame(table, &event, images, at).map_err(malformed)?;
                open.ordinal += 1;
            }
            return Ok(());
        }
        let info = RowsInfo {
            table: 0,
            transaction: 0,
            present: (0, 0),
            offset,
            timestamp: header.timestamp,
            server_id: header.server_id,
        };
        append(&mut self.batch, &mut self.transactions, open, table, &event, images, info)?;
        let growing = open.xa.as_ref().map(|(_, rows)| rows.arena.len());
        if let Some(growing) = growing { self.held.check(growing) } else { Ok(()) }
    }
}

/// Updates of parts of JSON values as whole ones.
fn made_whole(
    table: &StreamTable,
    event: &rows::RowsEvent<'_>,
    at: &BinlogPosition,
) -> Result<Vec<u8>, ConnectorError> {
    partial::whole(&table.shape, &table.widths, event).map_err(|refusal| match refusal {
        Refusal::Malformed(error) => malformed(error),
        Refusal::NotInOldRow(index) => {
            let name = format!("{}.{}", table.shape.database, table.shape.table);
            let message = format!(
                "an update of `{name}` at {at} holds only the changed parts of the JSON value in column {}, and the old row does not hold \
                 the value",
                index + 1
            );
            ConnectorError::fatal("MYSQL_PARTIAL_JSON", message).remedy(
                "SET PERSIST binlog_row_image = 'FULL';\n-- or SET PERSIST binlog_row_value_options = '';\n\
                 -- then delete the connector's offsets: that update can't be read",
            )
        }
    })
}

/// Where one row (both images of an update) ends.
fn frame(
    table: &StreamTable,
    event: &rows::RowsEvent<'_>,
    images: &[u8],
    at: usize,
) -> Result<usize, DecodeError> {
    let end = rows::image(&table.widths, event.present, images, at, |_| ())?;
    let end = match event.operation {
        Operation::Update => rows::image(&table.widths, event.present_after, images, end, |_| ())?,
        Operation::Insert | Operation::Delete => end,
    };
    // A table without columns in the image would never end.
    if end > at { Ok(end) } else { Err(DecodeError::Malformed("a row")) }
}

/// Appends an event's rows that were not done before.
#[expect(clippy::too_many_arguments, reason = "parts of the assembler that are borrowed apart")]
fn append(
    batch: &mut HeldRows,
    transactions: &mut Vec<Transaction>,
    open: &mut Open,
    table: &Arc<StreamTable>,
    event: &rows::RowsEvent<'_>,
    images: &[u8],
    mut info: RowsInfo,
) -> Result<(), ConnectorError> {
    let mut index = None;
    let (mut at, mut row) = (0, 0);
    while at < images.len() {
        let end = frame(table, event, images, at).map_err(malformed)?;
        open.ordinal += 1;
        if open.ordinal > open.skip {
            let transaction = if open.xa.is_some() { 0 } else { transaction_index(transactions, open)? };
            let target = open.xa.as_mut().map_or(&mut *batch, |(_, rows)| rows);
            let event_index = match index {
                Some(index) => index,
                None => {
                    info.table = target.table(table)?;
                    info.transaction = transaction;
                    info.present = (index_of(target.arena.len())?, index_of(event.present.len())?);
                    target.arena.extend_from_slice(event.present);
                    target.arena.extend_from_slice(event.present_after);
                    target.events.push(info);
                    *index.insert(index_of(target.events.len() - 1)?)
                }
            };
            let start = index_of(target.arena.len())?;
            target.arena.extend_from_slice(images.get(at..end).unwrap_or_default());
            let end = index_of(target.arena.len())?;
            target.entries.push(Entry {
                start,
                end,
                event: event_index,
                row,
                kind: EntryKind::Row(event.operation),
            });
        }
        row += 1;
        at = end;
    }
    Ok(())
}
