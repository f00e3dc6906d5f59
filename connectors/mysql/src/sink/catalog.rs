//! What the target's catalog says about one table.
//!
//! Read once per table and schema version; everything that depends on it is checked before a row is written.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::{Conn, prelude::Queryable};
use rowstream_api::ConnectorError;

use super::types::TargetType;
use crate::{error::from_mysql, ident::TableName};

/// One column of an existing table.
#[derive(Debug, Clone)]
pub(crate) struct TargetColumn {
    pub(crate) name: String,
    /// As a person writes it: `decimal(10,2)`.
    pub(crate) display: String,
    pub(crate) ty: TargetType,
    /// NOT NULL, and nothing fills it in when it is left out.
    pub(crate) must_be_given: bool,
    /// Can't be written.
    pub(crate) generated: bool,
    auto_increment: bool,
}

/// One unique index.
#[derive(Debug, Clone, Default)]
struct TargetIndex {
    /// Lower case, as the servers compare them.
    columns: BTreeSet<String>,
    /// Over whole plain columns.
    plain: bool,
}

/// An existing table.
#[derive(Debug, Clone)]
pub(crate) struct TargetTable {
    pub(crate) columns: Vec<TargetColumn>,
    indexes: Vec<TargetIndex>,
}

/// How the unique indexes of a table relate to the records' key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyIndex {
    /// No unique index has exactly the key's columns.
    Missing,
    /// One has, and nothing else constrains rows.
    Only,
    /// One has, and other unique indexes exist.
    AmongOthers,
}

impl TargetTable {
    /// Names of columns differ by more than case on both servers.
    pub(crate) fn column(&self, name: &str) -> Option<&TargetColumn> {
        let name = name.to_lowercase();
        self.columns.iter().find(|column| column.name.to_lowercase() == name)
    }

    /// `wanted` are the columns that records have, `key` those of their key; all in lower case.
    pub(crate) fn key_index(&self, key: &BTreeSet<String>, wanted: &BTreeSet<String>) -> KeyIndex {
        let fits = |index: &&TargetIndex| index.plain && index.columns == *key;
        // A counter that records do not have gives each row a value of its own: it can't clash.
        let counted = |index: &TargetIndex| {
            index.columns.iter().any(|name| {
                !wanted.contains(name) && self.column(name).is_some_and(|column| column.auto_increment)
            })
        };
        let constraining = self.indexes.iter().filter(|index| !counted(index)).count();
        match self.indexes.iter().filter(fits).count() {
            0 => KeyIndex::Missing,
            fitting if fitting == constraining => KeyIndex::Only,
            _ => KeyIndex::AmongOthers,
        }
    }
}

const TABLE: &str = "
SELECT t.table_type, COALESCE(t.engine, ''), COALESCE(e.transactions, 'NO')
FROM information_schema.tables t LEFT JOIN information_schema.engines e ON e.engine = t.engine
WHERE t.table_schema = ? AND t.table_name = ?";

const COLUMNS: &str = "
SELECT column_name, data_type, column_type, is_nullable, column_default, extra, numeric_precision, numeric_scale,
       datetime_precision, character_maximum_length, character_octet_length, collation_name
FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position";

const INDEXES: &str = "
SELECT index_name, column_name, sub_part FROM information_schema.statistics
WHERE table_schema = ? AND table_name = ? AND non_unique = 0";

/// As `COLUMNS` selects them.
type ColumnRow = (
    String,
    String,
    String,
    String,
    Option<String>,
    String,
    Option<u64>,
    Option<u64>,
    Option<u64>,
    Option<u64>,
    Option<u64>,
    Option<String>,
);

/// Reads a table; `None` when there is none of that name.
///
/// # Errors
/// The name belongs to something that rows can't be written to in a transaction, or the server does not answer.
pub(crate) async fn read_table(
    conn: &mut Conn,
    table: &TableName,
) -> Result<Option<TargetTable>, ConnectorError> {
    let names = (table.database.bare(), table.table.bare());
    let found: Option<(String, String, String)> = conn.exec_first(TABLE, names).await.map_err(from_mysql)?;
    let Some((kind, engine, transactions)) = found else { return Ok(None) };
    if !matches!(kind.as_str(), "BASE TABLE" | "SYSTEM VERSIONED") {
        return Err(ConnectorError::config(
            "MYSQL_NO_TABLE",
            format!("`{}` is no table but a {kind}, so that rows can't be written to it", table.plain()),
        )
        .remedy("choose another name with the `table` setting, or write into the table behind it"));
    }
    if transactions != "YES" {
        return Err(ConnectorError::config(
            "MYSQL_ENGINE",
            format!(
                "table `{}` is of engine {engine}, which has no transactions, so that rows and offsets could part",
                table.plain()
            ),
        )
        .remedy(format!("ALTER TABLE {table} ENGINE = InnoDB;")));
    }
    let rows: Vec<ColumnRow> = conn.exec(COLUMNS, names).await.map_err(from_mysql)?;
    let columns = rows.into_iter().map(column).collect();
    let rows: Vec<(String, Option<String>, Option<u64>)> =
        conn.exec(INDEXES, names).await.map_err(from_mysql)?;
    let mut indexes: BTreeMap<String, TargetIndex> = BTreeMap::new();
    for (name, column, prefix) in rows {
        let index =
            indexes.entry(name).or_insert_with(|| TargetIndex { plain: true, ..TargetIndex::default() });
        // An expression has no column; a prefix takes different values for equal.
        index.plain &= column.is_some() && prefix.is_none();
        index.columns.extend(column.map(|column| column.to_lowercase()));
    }
    Ok(Some(TargetTable { columns, indexes: indexes.into_values().collect() }))
}

fn column(row: ColumnRow) -> TargetColumn {
    let (name, ty, display, nullable, default, extra, precision, scale, digits, chars, bytes, collation) =
        row;
    let extra = extra.to_lowercase();
    let auto_increment = extra.contains("auto_increment");
    let generated = extra.contains("virtual generated") || extra.contains("stored generated");
    let small = |number: Option<u64>| number.and_then(|n| u32::try_from(n).ok());
    let size = |number: Option<u64>| number.and_then(|n| usize::try_from(n).ok());
    let ty = TargetType {
        name: ty.to_lowercase(),
        unsigned: display.to_lowercase().contains("unsigned"),
        precision: small(precision),
        scale: small(scale),
        digits: small(digits).unwrap_or(0),
        chars_max: size(chars),
        bytes_max: size(bytes),
        exact: collation.is_none_or(|name| name.ends_with("_0900_bin") || name.ends_with("_nopad_bin")),
    };
    TargetColumn {
        name,
        display,
        ty,
        must_be_given: nullable == "NO" && default.is_none() && !auto_increment && !generated,
        generated,
        auto_increment,
    }
}
