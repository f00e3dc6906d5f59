//! What the target's catalog says about one table.
//!
//! Read once per table and schema version; everything that depends on it is checked before a row is written.

use std::collections::BTreeSet;

use rowstream_api::ConnectorError;
use tokio_postgres::{GenericClient, Row};

use super::types::TargetType;
use crate::{
    error::from_postgres,
    ident::{QuotedIdent, TableName},
};

/// One column of an existing table.
#[derive(Debug, Clone)]
pub(crate) struct TargetColumn {
    pub(crate) name: String,
    /// As a person writes it: `numeric(10,2)`.
    pub(crate) display: String,
    pub(crate) ty: TargetType,
    /// NOT NULL, and nothing fills it in when it is left out.
    pub(crate) must_be_given: bool,
    /// GENERATED ALWAYS AS: can't be written.
    pub(crate) generated: bool,
}

/// One index that constrains rows: unique or exclusion.
#[derive(Debug, Clone)]
struct TargetIndex {
    columns: BTreeSet<String>,
    /// Unique, complete, over plain columns, checked at once: fit for ON CONFLICT.
    arbiter: bool,
}

/// An existing table.
#[derive(Debug, Clone)]
pub(crate) struct TargetTable {
    pub(crate) columns: Vec<TargetColumn>,
    indexes: Vec<TargetIndex>,
}

/// How the constraints of a table relate to the records' key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyIndex {
    /// No unique index has exactly the key's columns.
    Missing,
    /// One has, and nothing else constrains rows.
    Only,
    /// One has, and other unique or exclusion constraints exist.
    AmongOthers,
}

impl TargetTable {
    pub(crate) fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(crate) fn key_index(&self, key: &BTreeSet<String>) -> KeyIndex {
        let fits = |index: &&TargetIndex| index.arbiter && index.columns == *key;
        match (self.indexes.iter().filter(fits).count(), self.indexes.len()) {
            (0, _) => KeyIndex::Missing,
            (fitting, all) if fitting == all => KeyIndex::Only,
            _ => KeyIndex::AmongOthers,
        }
    }
}

const COLUMNS: &str = "
SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), base.typmod,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS must_be_given, a.attgenerated <> '' AS generated,
       b.oid, bn.nspname::text, b.typname::text, b.typcategory::text,
       e.oid, en.nspname::text, e.typname::text, e.typcategory::text
FROM pg_catalog.pg_attribute a
CROSS JOIN LATERAL (
  WITH RECURSIVE d(oid, typmod) AS (
    SELECT a.atttypid, a.atttypmod
    UNION ALL
    SELECT t.typbasetype, CASE WHEN d.typmod = -1 THEN t.typtypmod ELSE d.typmod END
    FROM d JOIN pg_catalog.pg_type t ON t.oid = d.oid WHERE t.typtype = 'd')
  SELECT d.oid, d.typmod FROM d JOIN pg_catalog.pg_type t ON t.oid = d.oid WHERE t.typtype <> 'd') base
JOIN pg_catalog.pg_type b ON b.oid = base.oid
JOIN pg_catalog.pg_namespace bn ON bn.oid = b.typnamespace
LEFT JOIN pg_catalog.pg_type e ON b.typcategory = 'A' AND e.oid = b.typelem
LEFT JOIN pg_catalog.pg_namespace en ON en.oid = e.typnamespace
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum";

const INDEXES: &str = "
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.n <= i.indnkeyatts),
       i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT i.indisexclusion
FROM pg_catalog.pg_index i
WHERE i.indrelid = $1 AND i.indisvalid AND (i.indisunique OR i.indisexclusion)";

/// Reads a table; `None` when there is none of that name.
///
/// # Errors
/// The name belongs to something that is no table, or the server does not answer.
pub(crate) async fn read_table(
    client: &impl GenericClient,
    table: &TableName,
) -> Result<Option<TargetTable>, ConnectorError> {
    let found = client
        .query_opt(
            "SELECT c.oid, c.relkind::text FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1::text AND c.relname = $2::text",
            &[&table.schema.bare(), &table.table.bare()],
        )
        .await
        .map_err(from_postgres)?;
    let Some(found) = found else { return Ok(None) };
    let oid: u32 = get(&found, 0)?;
    let kind: String = get(&found, 1)?;
    if !matches!(kind.as_str(), "r" | "p") {
        return Err(ConnectorError::config(
            "PG_NO_TABLE",
            format!(
                "`{}` is not a table (relkind `{kind}`), so that rows can't be written to it",
                table.plain()
            ),
        )
        .remedy("choose another name with the `table` setting, or write into the table behind it"));
    }
    let rows = client.query(COLUMNS, &[&oid]).await.map_err(from_postgres)?;
    let columns = rows.iter().map(column).collect::<Result<_, _>>()?;
    let rows = client.query(INDEXES, &[&oid]).await.map_err(from_postgres)?;
    let indexes = rows.iter().map(index).collect::<Result<_, _>>()?;
    Ok(Some(TargetTable { columns, indexes }))
}

fn column(row: &Row) -> Result<TargetColumn, ConnectorError> {
    let typmod = get(row, 2)?;
    let element = match get::<Option<u32>>(row, 9)? {
        Some(_) => Some(Box::new(target_type(row, 9, typmod)?)),
        None => None,
    };
    Ok(TargetColumn {
        name: get(row, 0)?,
        display: get(row, 1)?,
        ty: TargetType { element, ..target_type(row, 5, typmod)? },
        must_be_given: get(row, 3)?,
        generated: get(row, 4)?,
    })
}

fn target_type(row: &Row, from: usize, typmod: i32) -> Result<TargetType, ConnectorError> {
    let schema: String = get(row, from + 1)?;
    let name: String = get(row, from + 2)?;
    let category: String = get(row, from + 3)?;
    Ok(TargetType {
        oid: get(row, from)?,
        sql: format!("{}.{}", QuotedIdent::new(&schema), QuotedIdent::new(&name)),
        name,
        category: category.chars().next().unwrap_or('X'),
        typmod,
        element: None,
    })
}

fn index(row: &Row) -> Result<TargetIndex, ConnectorError> {
    let columns: Vec<String> = get(row, 0)?;
    Ok(TargetIndex { columns: columns.into_iter().collect(), arbiter: get(row, 1)? })
}

/// A column of an answer, as an error instead of a panic when the server answers something else.
pub(crate) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, ConnectorError> {
    row.try_get(index).map_err(from_postgres)
}
