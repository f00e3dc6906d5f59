//! The tables as the first position finds them: a `CREATE TABLE` of each, before any of its rows.
//!
//! They are delivered together with the first position, so they are there once. Each is of that very position: a table that a statement
//! may have defined between there and its reading is left out, since that statement comes with the stream.

use std::sync::{Arc, Mutex, PoisonError};

use mysql_async::{Conn, Row, prelude::Queryable};
use rowstream_api::{
    Attempting, Chain, Change, ChangeSet, ChangeView, ConnectorError, RecordError, TableSchema,
};

use super::{
    Message,
    structure::{self, Structure},
};
use crate::{
    catalog, columns,
    connection::Server,
    error::from_mysql,
    ident::TableName,
    snapshot::rows::source_block,
    source::now_us,
    stream::{
        batch::Definition,
        changes::SourceNames,
        definition::{self, Action, Target},
        lexer::Quoting,
        lookup,
        position::BinlogPosition,
        reader::StreamPlan,
        statement,
    },
};

/// So long, in seconds, a statement that is running now may keep us waiting for its table.
const LOCK_WAIT_SECONDS: u32 = 1;

/// The statements, and where they go.
pub struct InitialTables {
    messages: Vec<Message>,
    topic: Arc<TableSchema>,
    names: Arc<SourceNames>,
    at: BinlogPosition,
    read_at_us: i64,
}

/// Reads the definitions of tables as they were at `at`, the server's newest position a moment ago. A table that can't be read so is left
/// out.
///
/// # Errors
/// The connection is lost and can't be made anew; the binlog can't be read.
pub async fn read(
    (mut conn, server): (Conn, Server),
    stream: &StreamPlan,
    tables: &[(String, String)],
    (names, topic): (Arc<SourceNames>, Arc<TableSchema>),
) -> Result<(Conn, InitialTables), ConnectorError> {
    let (at, read_at_us) = (stream.from.at.clone(), now_us());
    let (mut found, mut upto) = (Vec::new(), at.clone());
    for name in tables {
        match shown(&mut conn, server, name).await {
            Ok((shown, seen_at)) => {
                found.extend(shown.map(|(ddl, structure)| (name, ddl, structure)));
                upto = upto.max(seen_at);
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "a table's definition is not delivered");
                conn = catalog::connect(&stream.connection).await?.0;
            }
        }
    }
    let since = definitions_between(stream, &at, &upto).await?;
    found.retain(|((_, table), ..)| !since.iter().any(|text| statement::may_define(text, table)));
    let message = |(name, ddl, structure): (&(String, String), String, Structure)| {
        let target = Target::Table { action: Action::Create, name: name.clone(), was: None };
        let ddl = (!definition::may_hold_secret(&ddl, Quoting::default())).then_some(ddl);
        Message {
            definition: Definition { target, ddl, ends: at.clone() },
            structure: Some(structure),
            at_ms: read_at_us.div_euclid(1000),
        }
    };
    let messages = found.into_iter().map(message).collect();
    Ok((conn, InitialTables { messages, topic, names, at, read_at_us }))
}

type Shown = Option<(String, Structure)>;

/// A table's definition, and a position at which it is so.
async fn shown(
    conn: &mut Conn,
    server: Server,
    (database, table): &(String, String),
) -> Result<(Shown, BinlogPosition), ConnectorError> {
    let attempt = async {
        let mut shown = None;
        if columns::lock(conn, (database, table), LOCK_WAIT_SECONDS).await? {
            let sql = format!("SHOW CREATE TABLE {}", TableName::new(database, table));
            let row: Option<Row> = conn.query_first(sql).await.map_err(from_mysql)?;
            let ddl = row.and_then(|row| row.get_opt::<String, _>(1)).and_then(Result::ok);
            shown = ddl.zip(structure::describe(conn, server.flavour, (database, table)).await?);
        }
        Ok::<_, ConnectorError>((shown, columns::unlock(conn, server).await?))
    };
    attempt.await.attempting(|| format!("ask for the definition of `{database}.{table}`"))
}

/// The statements between two positions that define something.
async fn definitions_between(
    stream: &StreamPlan,
    from: &BinlogPosition,
    to: &BinlogPosition,
) -> Result<Vec<Vec<u8>>, ConnectorError> {
    let found = Mutex::new(Vec::new());
    let collect = |text: &[u8]| {
        if statement::classify(text) == statement::Statement::Other {
            found.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_vec());
        }
        false
    };
    lookup::statement_between(stream, from, to, collect).await?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl ChangeSet for InitialTables {
    fn len(&self) -> usize {
        self.messages.len()
    }

    fn bytes(&self) -> usize {
        self.messages.iter().filter_map(|message| message.definition.ddl.as_ref()).map(String::len).sum()
    }

    fn visit(
        &self,
        visitor: &mut dyn FnMut(ChangeView<'_>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectorError> {
        for message in &self.messages {
            let source = source_block(&self.names, message.names(), "true", (&self.at, self.read_at_us));
            let value = message.value(&self.topic.value, &source);
            visitor(ChangeView {
                table: &self.topic,
                change: Change::Message { value: &value },
                source: &source,
                timestamp_ms: self.read_at_us.div_euclid(1000),
                row_follows: false,
            })?;
        }
        Ok(())
    }
}
