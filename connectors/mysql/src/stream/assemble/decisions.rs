//! XA: a prepared transaction's rows are held, and its decision delivers them.

use rowstream_api::ConnectorError;

use super::{Assembler, Open, transaction_index};
use crate::{
    stream::batch::{Entry, HeldRows, Transaction, index_of},
    transport::connection::malformed,
    wire::{
        DecodeError, event,
        gtid::{Gtid, GtidState},
    },
};

impl Assembler {
    pub(super) fn xa_prepare(&mut self, body: &[u8]) -> Result<(), ConnectorError> {
        let (name, one_phase) = event::xa_prepare(body).map_err(malformed)?;
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let Some((_, mut rows)) = open.xa.take() else {
            self.open = Some(open);
            self.end();
            return Ok(());
        };
        rows.ordinal = open.ordinal;
        if one_phase {
            open.ordinal = 0;
            release(&mut self.batch, &mut self.transactions, &mut open, rows)?;
            self.open = Some(open);
            self.end();
        } else {
            let begins = open.transaction.begins.clone();
            if !matches!(self.gtids, GtidState::Set(_))
                && let Some(gtid) = &open.transaction.gtid
            {
                self.gtids.insert(gtid);
            }
            self.held.hold(name, rows, open.transaction.gtid, begins);
        }
        Ok(())
    }

    pub(super) fn xa_commit(&mut self, name: &str) -> Result<(), ConnectorError> {
        let Some(held) = self.held.take(name) else {
            self.unknown = Some(name.to_owned());
            return Err(ConnectorError::fatal(
                "MYSQL_XA_UNKNOWN",
                format!(
                    "the XA transaction {name}, committed at {}, was prepared in a part of the binlog that the server does not \
                     have any more: its rows are not known",
                    self.next
                ),
            )
            .remedy("delete the connector's offsets, which starts over with a new snapshot, while XA RECOVER lists nothing"));
        };
        if let Some(open) = &mut self.open {
            release(&mut self.batch, &mut self.transactions, open, held.rows)?;
        }
        self.decided(held.gtid.as_ref());
        Ok(())
    }

    /// The open transaction was the decision of a prepared one, which only MySQL's set still lacks.
    pub(super) fn decided(&mut self, prepared: Option<&Gtid>) {
        if let (GtidState::Set(_), Some(gtid)) = (&self.gtids, prepared) {
            self.gtids.insert(gtid);
        }
        self.end();
    }

    /// After an error: the XA transaction whose rows must be adopted before the same event is taken in again.
    #[must_use]
    pub fn take_unknown(&mut self) -> Option<String> {
        self.unknown.take()
    }

    /// Gives a prepared transaction back that was held before a restart.
    pub fn adopt(&mut self, other: Self) {
        self.held.merge(other.held);
    }

    /// Whether the named transaction is held.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        self.held.list().iter().any(|held| held.name == name)
    }
}

/// Delivers held rows as part of the open transaction.
fn release(
    batch: &mut HeldRows,
    transactions: &mut Vec<Transaction>,
    open: &mut Open,
    rows: HeldRows,
) -> Result<(), ConnectorError> {
    if rows.entries.is_empty() {
        return Ok(());
    }
    let transaction = transaction_index(transactions, open)?;
    let base = index_of(batch.arena.len())?;
    let first_event = index_of(batch.events.len())?;
    batch.arena.extend_from_slice(&rows.arena);
    for mut info in rows.events {
        let table = rows.tables.get(info.table as usize).cloned();
        info.table = match table {
            Some(table) => batch.table(&table)?,
            None => return Err(malformed(DecodeError::Malformed("a held row"))),
        };
        info.transaction = transaction;
        info.present.0 += base;
        batch.events.push(info);
    }
    for entry in rows.entries {
        open.ordinal += 1;
        if open.ordinal > open.skip {
            let entry = Entry {
                start: entry.start + base,
                end: entry.end + base,
                event: entry.event + first_event,
                ..entry
            };
            batch.entries.push(entry);
        }
    }
    Ok(())
}
