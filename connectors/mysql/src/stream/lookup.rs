//! Prepared XA transactions, looked up in the binlog again: after a restart, from where they are known to begin; and at the decision
//! of one that was prepared before our first position, in the files that the server still has, from the newest to the oldest.
//!
//! A lookup has a connection of its own, as a reader without an id: the server sends what is there, ends, and disconnects nobody.

use std::{future::Future, time::Duration};

use rowstream_api::{Attempting, ConnectorError};

use super::{
    assemble::{Assembler, unpack_query},
    position::{BinlogPosition, Position, Prepared},
    reader::{StreamPlan, dump},
};
use crate::{
    transport::connection::{BinlogConnection, Received, malformed},
    wire::{
        DecodeError, compressed,
        event::{self, Checksums, HEADER_BYTES, Header, kind},
        gtid::GtidState,
    },
};

/// Silence after which the server is given up.
const SILENCE: Duration = Duration::from_secs(60);

async fn within<T>(answer: impl Future<Output = Result<T, ConnectorError>>) -> Result<T, ConnectorError> {
    let silent = || Err(ConnectorError::transient("MYSQL_CONNECTION", "no answer"));
    tokio::time::timeout(SILENCE, answer).await.unwrap_or_else(|_| silent())
}

/// Begins to read at a place, without GTIDs.
async fn read_from(
    plan: &StreamPlan,
    at: BinlogPosition,
) -> Result<(BinlogConnection, Position), ConnectorError> {
    let from = Position { at, gtids: GtidState::Off, partial: None, prepared: Vec::new() };
    let mut connection = BinlogConnection::connect(&plan.connection).await?;
    dump(&StreamPlan { server_id: 0, ..plan.clone() }, &mut connection, &from).await?;
    Ok((connection, from))
}

/// Reads a prepared transaction again, from where it begins.
///
/// # Errors
/// The server's; it is not there.
pub(super) async fn fetch(plan: &StreamPlan, prepared: &Prepared) -> Result<Assembler, ConnectorError> {
    let attempt = async {
        let (mut connection, from) = read_from(plan, prepared.begins.clone()).await?;
        let mut assembler = Assembler::new(from, plan.tables.clone(), plan.flavour);
        loop {
            while let Some(framed) = connection.front()? {
                match connection.received(framed)? {
                    Received::Event(event) => assembler.event(event)?,
                    Received::End => {
                        let message = format!("it is not at {}, where it was prepared", prepared.begins);
                        return Err(ConnectorError::transient("MYSQL_XA_MISSING", message));
                    }
                }
                connection.consume(framed);
                while assembler.is_unpacking() {
                    assembler.step()?;
                }
                if assembler.holds(&prepared.name) {
                    return Ok(assembler);
                }
            }
            within(connection.read_more()).await?;
        }
    };
    attempt.await.attempting(|| format!("read the prepared XA transaction {} again", prepared.name))
}

/// Finds the last preparation of a transaction before a place; `None` when the server has no binlog with it any more.
///
/// # Errors
/// The server's.
pub(super) async fn find(
    plan: &StreamPlan,
    name: &str,
    before: &BinlogPosition,
) -> Result<Option<Prepared>, ConnectorError> {
    find_backwards(plan, name, before)
        .await
        .attempting(|| format!("look for the preparation of the XA transaction {name}"))
}

async fn find_backwards(
    plan: &StreamPlan,
    name: &str,
    before: &BinlogPosition,
) -> Result<Option<Prepared>, ConnectorError> {
    let mut connection = BinlogConnection::connect(&plan.connection).await?;
    let files = connection.query("SHOW BINARY LOGS").await?;
    let files = files.into_iter().filter_map(|row| row.into_iter().next().flatten());
    let mut files: Vec<BinlogPosition> = files.map(|file| BinlogPosition::new(file, 4)).collect();
    files.retain(|file| file < before);
    files.sort();
    for file in files.into_iter().rev() {
        // A transaction is in one file.
        if let Some(begins) = find_in(plan, name, file, before).await? {
            return Ok(Some(Prepared { name: name.to_owned(), begins }));
        }
    }
    Ok(None)
}

async fn find_in(
    plan: &StreamPlan,
    name: &str,
    file: BinlogPosition,
    before: &BinlogPosition,
) -> Result<Option<BinlogPosition>, ConnectorError> {
    let (mut connection, _) = read_from(plan, file.clone()).await?;
    let mut scan = Scan { name, file, before, checksums: Checksums::Crc32, transaction: None, found: None };
    loop {
        while let Some(framed) = connection.front()? {
            let ended = match connection.received(framed)? {
                Received::Event(event) => scan.event(event).map_err(malformed)?,
                Received::End => true,
            };
            if ended {
                return Ok(scan.found);
            }
            connection.consume(framed);
        }
        within(connection.read_more()).await?;
    }
}

/// The first statement between two places of which `matches` is true of the text.
///
/// # Errors
/// The server's.
pub async fn statement_between(
    plan: &StreamPlan,
    from: &BinlogPosition,
    to: &BinlogPosition,
    matches: impl Fn(&[u8]) -> bool,
) -> Result<Option<BinlogPosition>, ConnectorError> {
    if from >= to {
        return Ok(None);
    }
    let attempt = async {
        let (mut connection, _) = read_from(plan, from.clone()).await?;
        let (mut at, mut checksums) = (from.clone(), Checksums::Crc32);
        loop {
            while let Some(framed) = connection.front()? {
                let Received::Event(bytes) = connection.received(framed)? else {
                    return Ok::<_, ConnectorError>(None);
                };
                if let Some(text) = statement(bytes, &mut at, &mut checksums).map_err(malformed)?
                    && matches(&text)
                {
                    return Ok(Some(at));
                }
                if at >= *to {
                    return Ok(None);
                }
                connection.consume(framed);
            }
            within(connection.read_more()).await?;
        }
    };
    attempt.await.attempting(|| format!("look for statements between {from} and {to}"))
}

/// The text of an event that is a statement; moves `at` to the event's end.
fn statement(
    bytes: &[u8],
    at: &mut BinlogPosition,
    checksums: &mut Checksums,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let (header, _) = Header::decode(bytes)?;
    if header.kind == kind::FORMAT_DESCRIPTION {
        *checksums = event::format_description(bytes)?;
        return Ok(None);
    }
    let body = checksums.strip(bytes)?.get(HEADER_BYTES..).ok_or(DecodeError::Truncated("an event"))?;
    if header.kind == kind::ROTATE {
        let (file, offset) = event::rotate(body)?;
        *at = BinlogPosition::new(file, offset);
        return Ok(None);
    }
    if header.end != 0 {
        at.offset = at.offset.max(header.end.into());
    }
    Ok(match header.kind {
        kind::QUERY => Some(event::query(body)?.text.to_vec()),
        kind::MARIA_QUERY_COMPRESSED => {
            let unpacked = unpack_query(body)?;
            Some(event::query(&unpacked)?.text.to_vec())
        }
        _ => None,
    })
}

/// Looks for a preparation without taking rows apart.
struct Scan<'a> {
    name: &'a str,
    file: BinlogPosition,
    before: &'a BinlogPosition,
    checksums: Checksums,
    /// Where the transaction that is being read begins.
    transaction: Option<BinlogPosition>,
    found: Option<BinlogPosition>,
}

impl Scan<'_> {
    /// Takes in an event; answers whether all was seen.
    fn event(&mut self, bytes: &[u8]) -> Result<bool, DecodeError> {
        let (header, _) = Header::decode(bytes)?;
        if header.kind == kind::FORMAT_DESCRIPTION {
            self.checksums = event::format_description(bytes)?;
            return Ok(false);
        }
        let body = || {
            let bytes = self.checksums.strip(bytes)?;
            bytes.get(HEADER_BYTES..).ok_or(DecodeError::Truncated("an event"))
        };
        match header.kind {
            kind::ROTATE => return Ok(event::rotate(body()?)?.0 != *self.file.file),
            kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIA_GTID => {
                let at = u64::from(header.end.saturating_sub(header.length));
                let begins = BinlogPosition { offset: at, ..self.file.clone() };
                if begins >= *self.before {
                    return Ok(true);
                }
                self.transaction = Some(begins);
            }
            kind::XA_PREPARE => self.prepared(body()?)?,
            kind::TRANSACTION_PAYLOAD => {
                let mut events = compressed::PayloadEvents::new(compressed::payload(body()?)?)?;
                while let Some(event) = events.next_event()? {
                    let (header, body) = Header::decode(event)?;
                    if header.kind == kind::XA_PREPARE {
                        self.prepared(body)?;
                    }
                }
            }
            _ => {}
        }
        Ok(false)
    }

    fn prepared(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let (name, one_phase) = event::xa_prepare(body)?;
        if name == self.name && !one_phase {
            self.found = self.transaction.clone().or(self.found.take());
        }
        Ok(())
    }
}
