//! Key changes that left a value out.
//!
//! An update that changes the key and not a large value arrives with that value "unchanged" (`u`), and becomes `d` of the old key and
//! `c` of the new one: the value would be gone for good, because no reader may keep anything of a deleted row. So it is read
//! again, by the new key, in a snapshot that sees the transaction.
//!
//! What is read is the row's state now, which may be newer than the change; then the update that made it newer follows in the
//! stream, so every reader ends with the right value. When no row has the new key any more, the delete or the key change that took it
//! away follows in the stream; the value stays unavailable, and the change is marked: nobody needs to miss it.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc, time::Duration};

use rowstream_api::{Attempting, ConnectorError, snapshot::Visibility as _};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::assemble::{EntryKind, RawBatch};
use crate::{
    catalog,
    error::from_postgres,
    ident::{QuotedIdent, QuotedLiteral, TableName},
    replication::malformed,
    snapshot::visibility::Visible,
    table::TablePlan,
    wire::{
        DecodeError,
        pgoutput::{Cell, CellKind, OldTuple, RowChange},
    },
};

/// How often it is looked whether the transaction has become visible (a synchronous standby may hold it back).
const RETRY: Duration = Duration::from_millis(20);

/// A change that lacks values.
struct Lacking {
    entry: usize,
    /// Cells of the old row, then of the new one.
    cells: Vec<Cell>,
    old: usize,
    columns: Vec<usize>,
}

/// Whether the batch holds such a change; cheap, for there hardly ever is one.
#[must_use]
pub fn may_lack(raw: &RawBatch) -> bool {
    raw.entries.iter().any(|e| is_identity_update(raw.arena.get(e.start as usize..).unwrap_or_default()))
}

/// `U`, relation id, `K`: only such an update can have changed the key and left values out.
fn is_identity_update(message: &[u8]) -> bool {
    message.first() == Some(&b'U') && message.get(5) == Some(&b'K')
}

/// Reads what is lacking and writes it into the batch. Answers the changes (by the start of their messages) whose row is gone.
/// Repeatable: what it has not finished when it is dropped is found again.
///
/// # Errors
/// The server's, or malformed bytes.
pub async fn fill(
    client: &Client,
    raw: &mut RawBatch,
    tables: &[Option<Arc<TablePlan>>],
) -> Result<BTreeSet<u32>, ConnectorError> {
    let mut gone = BTreeSet::new();
    for index in 0..raw.entries.len() {
        let Some((plan, lacking)) = lacking(raw, tables, index)? else { continue };
        let xid =
            raw.entries.get(index).and_then(|e| raw.transactions.get(e.transaction as usize)).map(|t| t.xid);
        let sql = select(client, raw, &plan, &lacking).await?;
        match read(client, &sql, xid.unwrap_or_default()).await? {
            Some(values) => rewrite(raw, &lacking, &values)?,
            None => gone.extend(raw.entries.get(index).map(|e| e.start)),
        }
    }
    Ok(gone)
}

fn lacking(
    raw: &RawBatch,
    tables: &[Option<Arc<TablePlan>>],
    index: usize,
) -> Result<Option<(Arc<TablePlan>, Lacking)>, ConnectorError> {
    let Some(entry) = raw.entries.get(index).filter(|e| e.kind == EntryKind::Row) else { return Ok(None) };
    let Some(plan) = tables.get(entry.relation as usize).and_then(Option::as_ref) else { return Ok(None) };
    let message = raw.arena.get(entry.start as usize..entry.end as usize).unwrap_or_default();
    if !is_identity_update(message) || plan.schema.key.is_none() {
        return Ok(None);
    }
    let mut cells = Vec::new();
    let RowChange::Update { old: Some((OldTuple::Identity, old)) } =
        RowChange::decode(message, &mut cells).map_err(malformed)?
    else {
        return Ok(None);
    };
    let unchanged = |(_, cell): &(usize, &Cell)| cell.kind == CellKind::Unchanged;
    let columns: Vec<usize> = cells.iter().skip(old).enumerate().filter(unchanged).map(|(i, _)| i).collect();
    let in_key = columns.iter().any(|i| plan.schema.key_columns.contains(i));
    if columns.is_empty() || in_key {
        return Ok(None);
    }
    Ok(Some((Arc::clone(plan), Lacking { entry: index, cells, old, columns })))
}

/// One row: the snapshot, whether the row is there, its values.
async fn select(
    client: &Client,
    raw: &RawBatch,
    plan: &TablePlan,
    lacking: &Lacking,
) -> Result<String, ConnectorError> {
    let column = |i: &usize| plan.columns.get(*i).map(|c| QuotedIdent::new(&c.name)).ok_or_else(no_column);
    let oid = |i: &usize| plan.relation.columns.get(*i).map(|c| c.type_oid);
    let oids: Vec<u32> = plan.schema.key_columns.iter().filter_map(oid).collect();
    let types = catalog::type_names(client, &oids).await?;
    let mut wanted = String::new();
    for (n, index) in lacking.columns.iter().enumerate() {
        // Writing to a String can't fail.
        let _ok = write!(wanted, ", {} AS c{n}", column(index)?);
    }
    let mut key = Vec::new();
    for (index, ty) in plan.schema.key_columns.iter().zip(&types) {
        let cell = lacking.cells.get(lacking.old + index).ok_or_else(no_column)?;
        let value = std::str::from_utf8(value(raw, lacking, cell)).map_err(|_| no_column())?;
        key.push(format!("{} = {}::{ty}", column(index)?, QuotedLiteral(value)));
    }
    let table = TableName::new(&plan.relation.namespace, &plan.relation.name);
    Ok(format!(
        "SELECT pg_catalog.pg_current_snapshot()::text, r.* FROM (SELECT 1) AS one \
         LEFT JOIN (SELECT true AS found{wanted} FROM {table} WHERE {}) AS r ON true",
        key.join(" AND ")
    ))
}

/// The values, once the transaction is visible; `None` when there is no such row.
async fn read(client: &Client, sql: &str, xid: u32) -> Result<Option<Vec<Option<String>>>, ConnectorError> {
    loop {
        let rows = client.simple_query(sql).await.map_err(from_postgres);
        let rows = rows.attempting(|| "read a value that a key change left out".into())?;
        let row =
            rows.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { Some(row) } else { None });
        let Some(row) = row else { return Ok(None) };
        let visible: Visible = row
            .get(0)
            .unwrap_or_default()
            .parse()
            .map_err(|e: String| ConnectorError::fatal("PG_PROTOCOL", e))?;
        if visible.sees(&xid) {
            let found = row.get(1).is_some();
            return Ok(found.then(|| (2..row.len()).map(|i| row.get(i).map(ToOwned::to_owned)).collect()));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Writes the message anew, behind the others, with the values in place.
fn rewrite(raw: &mut RawBatch, lacking: &Lacking, values: &[Option<String>]) -> Result<(), ConnectorError> {
    let entry = raw.entries.get(lacking.entry).copied().ok_or_else(no_column)?;
    let message = raw.arena.get(entry.start as usize..entry.end as usize).unwrap_or_default();
    let mut out = message.get(..5).unwrap_or_default().to_vec();
    let (old, new) = lacking.cells.split_at_checked(lacking.old).ok_or_else(no_column)?;
    for (tag, cells) in [(b'K', old), (b'N', new)] {
        out.push(tag);
        out.extend_from_slice(&i16::try_from(cells.len()).map_err(|_| no_column())?.to_be_bytes());
        for (index, cell) in cells.iter().enumerate() {
            let at = lacking.columns.iter().position(|c| tag == b'N' && *c == index);
            match (cell.kind, at.and_then(|at| values.get(at))) {
                (CellKind::Unchanged, Some(Some(text))) => put(&mut out, text.as_bytes())?,
                (CellKind::Unchanged, Some(None)) | (CellKind::Null, _) => out.push(b'n'),
                (CellKind::Unchanged, None) => out.push(b'u'),
                (CellKind::Text, _) => put(&mut out, value(raw, lacking, cell))?,
            }
        }
    }
    let too_long = || malformed(DecodeError::Length(i64::MAX));
    let start = u32::try_from(raw.arena.len()).map_err(|_| too_long())?;
    raw.arena.extend_from_slice(&out);
    let end = u32::try_from(raw.arena.len()).map_err(|_| too_long())?;
    if let Some(entry) = raw.entries.get_mut(lacking.entry) {
        (entry.start, entry.end) = (start, end);
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ConnectorError> {
    out.push(b't');
    let length = i32::try_from(text.len()).map_err(|_| malformed(DecodeError::Length(i64::MAX)))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text);
    Ok(())
}

fn value<'a>(raw: &'a RawBatch, lacking: &Lacking, cell: &Cell) -> &'a [u8] {
    let entry = raw.entries.get(lacking.entry);
    let message = entry.and_then(|e| raw.arena.get(e.start as usize..e.end as usize)).unwrap_or_default();
    message.get(cell.start as usize..cell.end as usize).unwrap_or_default()
}

fn no_column() -> ConnectorError {
    ConnectorError::fatal("PG_PROTOCOL", "a row does not have its table's columns")
}
