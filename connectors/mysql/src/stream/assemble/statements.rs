//! Statements in the binlog: where transactions begin and end, TRUNCATE, and changes that are there as statements only.

use std::sync::Arc;

use rowstream_api::ConnectorError;

use super::{Assembler, transaction_index};
use crate::{
    stream::{
        batch::{Entry, EntryKind, HeldRows, RowsInfo, StreamTable, index_of},
        statement::{self, Statement},
    },
    transport::connection::malformed,
    wire::{
        DecodeError, compressed,
        event::{self, GtidEvent, Header},
        table_map::TableShape,
    },
};

impl Assembler {
    pub(super) fn statement(
        &mut self,
        body: &[u8],
        offset: u64,
        header: &Header,
    ) -> Result<(), ConnectorError> {
        let query = event::query(body).map_err(malformed)?;
        let database = String::from_utf8_lossy(query.database);
        if let Some(open) = &mut self.open {
            open.transaction.thread_id.get_or_insert(query.thread_id);
        }
        match statement::classify(query.text) {
            Statement::Begin => {
                match &mut self.open {
                    Some(open) => open.begun = true,
                    // MySQL before GTID events: the BEGIN is the first that is heard of it.
                    None => {
                        self.begin(GtidEvent { gtid: None, commit_time_us: None, standalone: false, xa: None })?;
                        if let Some(open) = &mut self.open {
                            (open.begun, open.transaction.thread_id) = (true, Some(query.thread_id));
                        }
                    }
                }
                Ok(())
            }
            Statement::Commit | Statement::Rollback => {
                self.end();
                Ok(())
            }
            Statement::RollbackTo => Err(ConnectorError::fatal(
                "MYSQL_ROLLBACK_TO",
                format!(
                    "the transaction at {} was rolled back to a savepoint after it changed a table without transactions: \
                     which of its rows hold can't be told from the binlog",
                    self.next
                ),
            )
            .remedy("use InnoDB for all tables, then delete the connector's offsets to start over with a new snapshot")),
            Statement::Nothing | Statement::XaEnd => Ok(()),
            Statement::XaStart(name) => {
                if let Some(open) = &mut self.open {
                    (open.begun, open.xa) = (true, Some((name, HeldRows::default())));
                }
                Ok(())
            }
            Statement::XaCommit(name) => self.xa_commit(&name),
            Statement::XaRollback(name) => {
                let prepared = self.held.take(&name).and_then(|held| held.gtid);
                self.decided(prepared.as_ref());
                Ok(())
            }
            Statement::Truncate(named, table) => {
                let database = named.unwrap_or_else(|| database.into_owned());
                let default = String::from_utf8_lossy(query.database);
                self.truncate(&database, &table, offset, header)?;
                self.defined(&query, &default, offset, header)?;
                self.end_unless_begun();
                Ok(())
            }
            Statement::Rows(verb) => {
                self.statement_rows(verb, &database, &String::from_utf8_lossy(query.text))?;
                self.end_unless_begun();
                Ok(())
            }
            Statement::Other => {
                self.definitions += 1;
                self.defined(&query, &database, offset, header)?;
                self.end_unless_begun();
                Ok(())
            }
        }
    }

    /// A statement that is a transaction of its own ends it.
    fn end_unless_begun(&mut self) {
        if self.open.as_ref().is_none_or(|open| !open.begun) {
            self.end();
        }
    }

    fn truncate(
        &mut self,
        database: &str,
        table: &str,
        offset: u64,
        header: &Header,
    ) -> Result<(), ConnectorError> {
        if !self.filter.matches(database, table) {
            return Ok(());
        }
        if self.open.is_none() {
            self.begin(GtidEvent { gtid: None, commit_time_us: None, standalone: true, xa: None })?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.ordinal += 1;
        if open.ordinal <= open.skip {
            return Ok(());
        }
        let shape = TableShape {
            database: database.to_owned(),
            table: table.to_owned(),
            columns: Vec::new(),
            key: Vec::new(),
        };
        let stream_table = Arc::new(StreamTable {
            shape,
            widths: Vec::new(),
            begins: self.next.clone(),
            version: self.definitions,
        });
        let transaction = transaction_index(&mut self.transactions, open)?;
        let info = RowsInfo {
            table: self.batch.table(&stream_table)?,
            transaction,
            present: (0, 0),
            offset,
            timestamp: header.timestamp,
            server_id: header.server_id,
        };
        self.batch.events.push(info);
        let event = index_of(self.batch.events.len() - 1)?;
        self.batch.entries.push(Entry { start: 0, end: 0, event, row: 0, kind: EntryKind::Truncate });
        Ok(())
    }

    /// Rows that changed by a statement are not in the binlog: silence would be a loss.
    pub(super) fn statement_rows(
        &self,
        verb: &str,
        database: &str,
        text: &str,
    ) -> Result<(), ConnectorError> {
        if !self.filter.may_concern(database, text) {
            return Ok(());
        }
        Err(ConnectorError::fatal(
            "MYSQL_STATEMENT_FORMAT",
            format!(
                "a session wrote by statement ({verb} in database `{database}`, at {}): the rows that it changed are not in \
                 the binlog",
                self.next
            ),
        )
        .remedy(
            "SET PERSIST binlog_format = ROW;\n-- and let no session set binlog_format; then delete the connector's offsets \
             to start over with a new snapshot",
        ))
    }
}

/// A compressed statement: the text is packed, what stands before it is not.
pub(in crate::stream) fn unpack_query(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let query = event::query(body)?;
    let head = body.len() - query.text.len();
    let mut unpacked = body.get(..head).unwrap_or_default().to_vec();
    unpacked.extend_from_slice(&compressed::unpack(query.text)?);
    Ok(unpacked)
}
