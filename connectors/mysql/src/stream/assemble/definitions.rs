//! Statements that define something, on their way to the schema-change topic.
//!
//! Each counts as one row of its transaction, captured or not and asked for or not: a transaction that is cut behind
//! `CREATE TABLE … SELECT` goes on with the rows, and a change of the configuration does not shift them. What becomes of one
//! statement is in one batch, with the position behind it.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use rowstream_api::ConnectorError;

use super::{Assembler, transaction_index};
use crate::{
    source_config::TableFilter,
    stream::{
        batch::{Definition, Entry, EntryKind, NO_TABLE, RowsInfo, index_of},
        definition::{self, Context, Part, Target},
        lexer::Quoting,
        position::BinlogPosition,
    },
    types::charset::Charset,
    wire::event::{GtidEvent, Header, Query},
};

/// What is needed to pass statements on.
#[derive(Debug, Clone, Default)]
pub struct DefinitionPlan {
    /// The server stores names in lower case.
    pub lower_case: bool,
    /// Charsets by their collations' ids, to read statements of sessions that do not speak UTF-8.
    pub charsets: Arc<HashMap<u32, Charset>>,
}

impl Assembler {
    /// Passes statements on that define something captured.
    #[must_use]
    pub fn with_definitions(self, plan: Option<DefinitionPlan>) -> Self {
        Self { passed_on: plan, ..self }
    }

    /// Takes in a statement that may define something.
    pub(super) fn defined(
        &mut self,
        query: &Query<'_>,
        database: &str,
        offset: u64,
        header: &Header,
    ) -> Result<(), ConnectorError> {
        let (mode, collation) = query.session();
        let quoting = Quoting::of(mode);
        let text = self.text(query.text, collation);
        let lower_case = self.passed_on.as_ref().is_some_and(|plan| plan.lower_case);
        let parts = definition::parse(&text, &Context { database, quoting, lower_case });
        if parts.is_empty() {
            return Ok(());
        }
        if self.open.is_none() {
            self.begin(GtidEvent { gtid: None, commit_time_us: None, standalone: true, xa: None })?;
        }
        let ends = self.ends(header);
        let Some(open) = &mut self.open else { return Ok(()) };
        open.ordinal += 1;
        let captured: Vec<Part> = parts.into_iter().filter(|part| is_captured(&self.filter, part)).collect();
        if open.ordinal <= open.skip || captured.is_empty() || self.passed_on.is_none() {
            return Ok(());
        }
        let withheld = definition::may_hold_secret(&text, quoting);
        self.batch.events.push(RowsInfo {
            table: NO_TABLE,
            transaction: transaction_index(&mut self.transactions, open)?,
            present: (0, 0),
            offset,
            timestamp: header.timestamp,
            server_id: header.server_id,
        });
        let event = index_of(self.batch.events.len() - 1)?;
        for Part { target, text: own } in captured {
            let ddl = own.or_else(|| (!withheld).then(|| text.clone().into_owned()));
            let start = index_of(self.batch.definitions.len())?;
            self.batch.definitions.push(Definition { target, ddl, ends: ends.clone() });
            self.batch.entries.push(Entry { start, end: start, event, row: 0, kind: EntryKind::Definition });
        }
        Ok(())
    }

    /// The text, which is in the charset of the session's client.
    fn text<'a>(&self, text: &'a [u8], collation: Option<u16>) -> Cow<'a, str> {
        let charsets = self.passed_on.as_ref().map(|plan| &plan.charsets);
        let charset = charsets.zip(collation).and_then(|(charsets, id)| charsets.get(&id.into()));
        let decoded = charset.and_then(|charset| charset.decode(text).ok());
        decoded.unwrap_or_else(|| String::from_utf8_lossy(text))
    }

    /// Where the event ends, or, where it does not say so, where it begins.
    fn ends(&self, header: &Header) -> BinlogPosition {
        let length = u64::from(header.length);
        let end = self.end_of(header).filter(|end| *end == self.next.offset.saturating_add(length));
        BinlogPosition { offset: end.unwrap_or(self.next.offset), ..self.next.clone() }
    }
}

fn is_captured(filter: &TableFilter, part: &Part) -> bool {
    match &part.target {
        Target::Database(name) => filter.reaches(name),
        Target::Table { name, was, .. } => {
            std::iter::once(name).chain(was).any(|(database, table)| filter.matches(database, table))
        }
    }
}
