//! What the server tells about tables: which there are, and what the binlog does not say about their columns.
//!
//! The binlog alone decides how rows are read. The catalog adds defaults and those types of MariaDB that the binlog shows as bytes,
//! and it gives the snapshot a table's shape before any row of it was seen. It tells the present: a column that was dropped
//! since is simply not in it.

use std::collections::HashMap;

use mysql_async::{Conn, Row, prelude::Queryable};
use rowstream_api::{Attempting, ConnectorError};

use crate::{
    connection::{ConnectionPlan, Flavour, Purpose, Server},
    error::from_mysql,
    source_config::TableFilter,
    types::{CatalogColumn, charset::Charset},
    wire::table_map::{ColumnShape, TableShape, column},
};

/// What is known of columns, and of the server's collations.
pub struct Catalog {
    /// The server's flavour.
    pub flavour: Flavour,
    charsets: HashMap<u32, String>,
    /// For each charset by name, one of its collations.
    collations: HashMap<String, u32>,
    columns: HashMap<(String, String), HashMap<String, CatalogColumn>>,
}

/// An ordinary connection in the state that the source needs.
///
/// # Errors
/// The connection's.
pub async fn connect(plan: &ConnectionPlan) -> Result<(Conn, Server), ConnectorError> {
    let mut connection = plan.connect(Purpose::Read).await?;
    connection.conn.query_drop("SET time_zone = '+00:00', sql_mode = ''").await.map_err(from_mysql)?;
    Ok((connection.conn, connection.server))
}

impl Catalog {
    /// Asks for the collations.
    ///
    /// # Errors
    /// The server's.
    pub async fn load(conn: &mut Conn, flavour: Flavour) -> Result<Self, ConnectorError> {
        let mut rows: Vec<(Option<u64>, Option<String>)> = conn
            .query("SELECT id, character_set_name FROM information_schema.collations WHERE id IS NOT NULL")
            .await
            .map_err(from_mysql)
            .attempting(|| "ask for the collations".into())?;
        // MariaDB's newer collations have their numbers here; older versions lack the column, and have none of those.
        let more =
            "SELECT id, character_set_name FROM information_schema.collation_character_set_applicability";
        if flavour == Flavour::MariaDb
            && let Ok(applicable) = conn.query::<(Option<u64>, Option<String>), _>(more).await
        {
            rows.extend(applicable);
        }
        let collations = rows.into_iter().filter_map(|(id, name)| Some((u32::try_from(id?).ok()?, name?)));
        Ok(Self::of(flavour, collations))
    }

    /// Of a server with these collations, each with its charset's name, of whose tables nothing is known yet.
    #[must_use]
    pub fn of(flavour: Flavour, collations: impl IntoIterator<Item = (u32, String)>) -> Self {
        let mut catalog =
            Self { flavour, charsets: HashMap::new(), collations: HashMap::new(), columns: HashMap::new() };
        for (id, name) in collations {
            catalog.charsets.insert(id, name.clone());
            catalog.collations.entry(name).or_insert(id);
        }
        catalog
    }

    /// The charset of a collation; `None` when it is not known or not supported.
    #[must_use]
    pub fn charset(&self, collation: u32) -> Option<Charset> {
        self.charset_name(collation).and_then(Charset::of)
    }

    /// The server's name of a collation's charset.
    #[must_use]
    pub fn charset_name(&self, collation: u32) -> Option<&str> {
        self.charsets.get(&collation).map(String::as_str)
    }

    /// The charsets of all collations that are supported.
    #[must_use]
    pub fn charset_table(&self) -> HashMap<u32, Charset> {
        self.charsets.iter().filter_map(|(id, name)| Some((*id, Charset::of(name)?))).collect()
    }

    /// What is known of a column.
    #[must_use]
    pub fn column(&self, database: &str, table: &str, name: &str) -> Option<&CatalogColumn> {
        self.columns.get(&(database.to_owned(), table.to_owned()))?.get(name)
    }

    /// Asks about a table; answers its present shape, or `None` when it is gone.
    ///
    /// # Errors
    /// The server's.
    pub async fn describe(
        &mut self,
        conn: &mut Conn,
        database: &str,
        table: &str,
    ) -> Result<Option<TableShape>, ConnectorError> {
        let asked = async {
            let columns: Vec<Row> = conn.exec(COLUMNS, (database, table)).await?;
            let key: Vec<String> = conn.exec(PRIMARY_KEY, (database, table)).await?;
            let mut json: Vec<String> = Vec::new();
            if self.flavour == Flavour::MariaDb {
                json = conn.exec(JSON_CHECKS, (database, table)).await?;
            }
            Ok((columns, key, json))
        };
        let (rows, key, json) =
            asked.await.map_err(from_mysql).attempting(|| format!("describe table `{database}.{table}`"))?;
        if rows.is_empty() {
            self.columns.remove(&(database.to_owned(), table.to_owned()));
            return Ok(None);
        }
        let mut rows: Vec<ColumnRow> = rows.into_iter().map(ColumnRow::of).collect();
        // MariaDB's JSON is a long text with a check.
        for row in rows.iter_mut().filter(|row| row.data_type == "longtext" && json.contains(&row.name)) {
            "json".clone_into(&mut row.data_type);
        }
        let mariadb = self.flavour == Flavour::MariaDb;
        let known = rows.iter().map(|row| (row.name.clone(), catalog_column(row, mariadb))).collect();
        self.columns.insert((database.to_owned(), table.to_owned()), known);
        let columns: Vec<ColumnShape> = rows.iter().map(|row| self.shape_of(row)).collect();
        let position = |name: &String| columns.iter().position(|column| column.name == *name);
        let key = key.iter().filter_map(position).collect();
        Ok(Some(TableShape { database: database.to_owned(), table: table.to_owned(), columns, key }))
    }

    fn shape_of(&self, row: &ColumnRow) -> ColumnShape {
        let small = |n: Option<u64>| u16::try_from(n.unwrap_or(0)).unwrap_or(u16::MAX);
        let text = row.charset.as_deref().and_then(|name| self.collations.get(name)).copied();
        let binary = self.collations.get("binary").copied();
        let (ty, meta, collation) = match row.data_type.as_str() {
            "tinyint" => (column::TINY, 0, None),
            "smallint" => (column::SHORT, 0, None),
            "mediumint" => (column::INT24, 0, None),
            "int" => (column::LONG, 0, None),
            "bigint" => (column::LONGLONG, 0, None),
            "float" => (column::FLOAT, 4, None),
            "double" => (column::DOUBLE, 8, None),
            "decimal" => (column::NEWDECIMAL, small(row.precision) << 8 | small(row.scale), None),
            "bit" => (column::BIT, small(row.precision), None),
            "year" => (column::YEAR, 0, None),
            "date" => (column::DATE, 0, None),
            "time" => (column::TIME2, small(row.digits), None),
            "datetime" => (column::DATETIME2, small(row.digits), None),
            "timestamp" => (column::TIMESTAMP2, small(row.digits), None),
            "enum" => (column::ENUM, 2, text),
            "set" => (column::SET, 8, text),
            "json" if self.flavour == Flavour::MySql => (column::JSON, 4, None),
            "json" => (column::BLOB, 4, text),
            "vector" if self.flavour == Flavour::MySql => (column::VECTOR, 4, None),
            "char" => (column::STRING, small(row.length), text),
            "binary" => (column::STRING, small(row.length), binary),
            "varchar" => (column::VARCHAR, small(row.length), text),
            "tinytext" | "text" | "mediumtext" | "longtext" => (column::BLOB, 4, text),
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geomcollection" | "geometrycollection" => (column::GEOMETRY, 4, None),
            "varbinary" | "vector" | "uuid" | "inet4" | "inet6" => {
                (column::VARCHAR, small(row.length), binary)
            }
            _ => (column::BLOB, 4, binary),
        };
        let labels =
            if matches!(ty, column::ENUM | column::SET) { labels_of(&row.column_type) } else { Vec::new() };
        ColumnShape {
            name: row.name.clone(),
            ty,
            meta,
            nullable: row.nullable,
            unsigned: row.column_type.contains("unsigned"),
            // Labels come as UTF-8 from here.
            collation: if labels.is_empty() { collation } else { self.collations.get("utf8mb4").copied() },
            labels,
            geometry: (row.data_type == "point").then_some(1),
            visible: true,
        }
    }
}

/// A row of information_schema.columns.
struct ColumnRow {
    name: String,
    data_type: String,
    column_type: String,
    nullable: bool,
    default: Option<String>,
    extra: String,
    charset: Option<String>,
    length: Option<u64>,
    precision: Option<u64>,
    scale: Option<u64>,
    digits: Option<u64>,
}

impl ColumnRow {
    fn of(mut row: Row) -> Self {
        let mut text = |index: usize| row.take_opt::<Option<String>, _>(index).and_then(Result::ok).flatten();
        let (name, data_type, column_type) = (text(0), text(1), text(2));
        let (nullable, default, extra, charset) = (text(3), text(4), text(5), text(6));
        let mut number = |index: usize| row.take_opt::<Option<u64>, _>(index).and_then(Result::ok).flatten();
        Self {
            name: name.unwrap_or_default(),
            data_type: data_type.unwrap_or_default().to_ascii_lowercase(),
            column_type: column_type.unwrap_or_default(),
            nullable: nullable.as_deref() == Some("YES"),
            default,
            extra: extra.unwrap_or_default(),
            charset,
            length: number(7),
            precision: number(8),
            scale: number(9),
            digits: number(10),
        }
    }
}

const COLUMNS: &str = "SELECT column_name, data_type, column_type, is_nullable, column_default, extra, character_set_name, \
    character_octet_length, numeric_precision, numeric_scale, datetime_precision \
    FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position";

const PRIMARY_KEY: &str = "SELECT column_name FROM information_schema.statistics \
    WHERE table_schema = ? AND table_name = ? AND index_name = 'PRIMARY' ORDER BY seq_in_index";

const JSON_CHECKS: &str = "SELECT constraint_name FROM information_schema.check_constraints \
    WHERE constraint_schema = ? AND table_name = ? AND level = 'Column' AND check_clause LIKE 'json_valid(%'";

fn catalog_column(row: &ColumnRow, mariadb: bool) -> CatalogColumn {
    let quoted = |text: &str| text.starts_with('\'') || text.starts_with("b'") || text.parse::<f64>().is_ok();
    let computed = if mariadb {
        row.default.as_deref().is_some_and(|text| !quoted(text))
    } else {
        row.extra.to_ascii_uppercase().contains("DEFAULT_GENERATED")
    };
    CatalogColumn { data_type: row.data_type.clone(), default: row.default.clone(), computed }
}

/// `enum('a','it''s')`
fn labels_of(column_type: &str) -> Vec<Vec<u8>> {
    let inner = column_type.split_once('(').map_or("", |(_, rest)| rest);
    let mut labels = Vec::new();
    let mut label: Option<String> = None;
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match (&mut label, c) {
            (None, '\'') => label = Some(String::new()),
            (None, ')') => break,
            (None, _) => {}
            (Some(text), '\'') if chars.peek() == Some(&'\'') => {
                chars.next();
                text.push('\'');
            }
            (Some(_), '\'') => labels.extend(label.take().map(String::into_bytes)),
            (Some(text), c) => text.push(c),
        }
    }
    labels
}

/// The captured tables that exist, as database and table, in their order by name.
///
/// # Errors
/// The server's.
pub async fn captured_tables(
    conn: &mut Conn,
    filter: &TableFilter,
) -> Result<Vec<(String, String)>, ConnectorError> {
    let sql = "SELECT table_schema, table_name FROM information_schema.tables \
               WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY table_schema, table_name";
    let tables: Vec<(String, String)> =
        conn.query(sql).await.map_err(from_mysql).attempting(|| "list the tables".into())?;
    Ok(tables.into_iter().filter(|(database, table)| filter.matches(database, table)).collect())
}

#[cfg(test)]
mod tests {
    use super::labels_of;

    #[test]
    fn labels_are_unquoted() {
        let labels =
            |text| labels_of(text).into_iter().map(|l| String::from_utf8(l).unwrap()).collect::<Vec<_>>();
        assert_eq!(labels("enum('a','it''s','x,y)','')"), ["a", "it's", "x,y)", ""]);
        assert!(labels("int(11)").is_empty());
    }
}
