//! A table's structure right after a statement, where that can be shown.
//!
//! The catalog tells the present. Asked under a lock that keeps the table from changing, together with the binlog's position `P`, it tells
//! the structure of each moment between the last statement that may have defined the table and `P`. So the binlog between the end of
//! the statement in hand and `P` is read for such statements: when there is none, the answer is of the moment right after it.
//! Far behind the server's newest position nothing is asked: the answer would hardly ever hold.

use mysql_async::{Conn, Row, prelude::Queryable};
use rowstream_api::{Attempting, ConnectorError};

use crate::{
    columns,
    connection::{Flavour, Server},
    error::from_mysql,
    setup,
    stream::{lookup, position::BinlogPosition, reader::StreamPlan, statement},
};

/// So many bytes behind the newest position a structure is asked for: what is read again for one statement.
const NEAR_BYTES: u64 = 16 << 20;
/// So long, in seconds, a statement that is running now may keep us waiting for its table.
const LOCK_WAIT_SECONDS: u32 = 1;

/// A table as the catalog shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// The charset of columns that name none.
    pub charset: Option<String>,
    /// Names of the primary key's columns.
    pub key: Vec<String>,
    /// The columns in their order.
    pub columns: Vec<Column>,
}

/// A column as the catalog shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What JDBC calls its type.
    pub jdbc_type: i64,
    /// Its type without lengths: `BIGINT UNSIGNED`.
    pub type_name: String,
    /// Its charset, where it is text.
    pub charset: Option<String>,
    /// The type's first number.
    pub length: Option<i64>,
    /// Its second.
    pub scale: Option<i64>,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// `AUTO_INCREMENT`
    pub auto_increment: bool,
    /// The server makes its value.
    pub generated: bool,
    /// Its default, as the server writes it.
    pub default: Option<String>,
    /// The labels of ENUM and SET, in single quotes.
    pub labels: Vec<String>,
}

/// The structure of a table right after the statement that ends at `after`; `None` when it is gone since, or not known for certain.
///
/// # Errors
/// The server's.
pub async fn right_after(
    (database, table): (&str, &str),
    after: &BinlogPosition,
    (conn, server): (&mut Conn, Server),
    stream: &StreamPlan,
) -> Result<Option<Structure>, ConnectorError> {
    let attempt = async {
        let is_near = |newest: &BinlogPosition| {
            newest.file == after.file && newest.offset.saturating_sub(after.offset) <= NEAR_BYTES
        };
        if !is_near(&setup::binlog_status(conn, server).await?) {
            return Ok::<_, ConnectorError>(None);
        }
        let described = match columns::lock(conn, (database, table), LOCK_WAIT_SECONDS).await? {
            true => describe(conn, server.flavour, (database, table)).await?,
            false => None,
        };
        let upto = columns::unlock(conn, server).await?;
        let defines = |text: &[u8]| statement::may_define(text, table);
        let changed =
            !is_near(&upto) || lookup::statement_between(stream, after, &upto, defines).await?.is_some();
        Ok(described.filter(|_| !changed))
    };
    attempt.await.attempting(|| format!("ask for the structure of `{database}.{table}`"))
}

/// A table as the catalog shows it now; `None` when there is none.
///
/// # Errors
/// The server's.
pub async fn describe(
    conn: &mut Conn,
    flavour: Flavour,
    name: (&str, &str),
) -> Result<Option<Structure>, ConnectorError> {
    let charset: Option<Option<String>> = conn.exec_first(TABLE, name).await.map_err(from_mysql)?;
    let Some(charset) = charset else { return Ok(None) };
    let rows: Vec<Row> = conn.exec(COLUMNS, name).await.map_err(from_mysql)?;
    let key: Vec<String> = conn.exec(PRIMARY_KEY, name).await.map_err(from_mysql)?;
    let columns: Vec<Column> = rows.into_iter().map(|row| column(row, flavour)).collect();
    Ok((!columns.is_empty()).then_some(Structure { charset, key, columns }))
}

/// A collation's name begins with its charset's.
const TABLE: &str = "SELECT SUBSTRING_INDEX(table_collation, '_', 1) FROM information_schema.tables \
    WHERE table_schema = ? AND table_name = ? AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')";

const COLUMNS: &str = "SELECT column_name, data_type, column_type, is_nullable, column_default, extra, character_set_name \
    FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position";

const PRIMARY_KEY: &str = "SELECT column_name FROM information_schema.statistics \
    WHERE table_schema = ? AND table_name = ? AND index_name = 'PRIMARY' ORDER BY seq_in_index";

fn column(mut row: Row, flavour: Flavour) -> Column {
    let mut text = |index: usize| row.take_opt::<Option<String>, _>(index).and_then(Result::ok).flatten();
    let (name, data_type, column_type) = (text(0), text(1), text(2).unwrap_or_default());
    let (nullable, default, extra, charset) = (text(3), text(4), text(5).unwrap_or_default(), text(6));
    let extra = extra.to_ascii_uppercase();
    let auto_increment = extra.contains("AUTO_INCREMENT");
    let data_type = data_type.unwrap_or_default().to_ascii_lowercase();
    let shape = TypeText::of(&data_type, &column_type);
    Column {
        name: name.unwrap_or_default(),
        jdbc_type: jdbc_type(&data_type),
        type_name: shape.name,
        charset,
        length: shape.length,
        scale: shape.scale,
        nullable: nullable.as_deref() == Some("YES"),
        auto_increment,
        // As Debezium, which counts those as generated, too.
        generated: auto_increment
            || extra.contains("VIRTUAL")
            || extra.contains("STORED")
            || extra.contains("PERSISTENT"),
        default: default.and_then(|text| default_text(text, flavour)),
        labels: shape.labels,
    }
}

/// MariaDB writes defaults as SQL.
fn default_text(text: String, flavour: Flavour) -> Option<String> {
    if flavour == Flavour::MySql {
        return Some(text);
    }
    if text.eq_ignore_ascii_case("null") {
        return None;
    }
    let inner =
        text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).map(|s| s.replace("''", "'"));
    Some(inner.unwrap_or(text))
}

/// What `column_type` says.
struct TypeText {
    name: String,
    length: Option<i64>,
    scale: Option<i64>,
    labels: Vec<String>,
}

impl TypeText {
    fn of(data_type: &str, text: &str) -> Self {
        let (before, rest) = text.split_once('(').unwrap_or((text, ""));
        // Labels may hold parentheses; nothing that holds some follows.
        let (inner, behind) = rest.rsplit_once(')').unwrap_or((rest, ""));
        let name = format!("{}{behind}", before.trim_end()).to_ascii_uppercase();
        let has_labels = matches!(data_type, "enum" | "set");
        let labels = if has_labels { labels_of(inner) } else { Vec::new() };
        let mut numbers = inner.split(',').map(|number| number.trim().parse().ok());
        let (length, scale) = match data_type {
            "enum" => (Some(1), None),
            // All of them, and the commas between.
            "set" => (i64::try_from(labels.len()).ok().map(|n| (n * 2 - 1).max(1)), None),
            _ => (numbers.next().flatten(), numbers.next().flatten()),
        };
        Self { name, length, scale, labels }
    }
}

/// `'a','it''s'`, each with its quotes.
fn labels_of(text: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let (mut label, mut inside) = (String::new(), false);
    for c in text.chars() {
        if c == '\'' {
            inside = !inside;
        }
        if c == ',' && !inside {
            labels.push(std::mem::take(&mut label));
        } else {
            label.push(c);
        }
    }
    labels.push(label);
    labels.retain(|label| !label.is_empty());
    labels
}

/// `java.sql.Types`, as Debezium chooses them.
fn jdbc_type(data_type: &str) -> i64 {
    match data_type {
        "tinyint" | "smallint" => 5,
        "mediumint" | "int" | "year" => 4,
        "bigint" => -5,
        "float" => 6,
        "double" => 8,
        "decimal" => 3,
        "bit" => -7,
        "date" => 91,
        "time" => 92,
        "datetime" => 93,
        "timestamp" => 2014,
        "char" | "enum" | "set" => 1,
        "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => 12,
        "binary" => -2,
        "varbinary" => -3,
        "tinyblob" | "blob" | "mediumblob" | "longblob" => 2004,
        // JSON, VECTOR, geometries, UUID, INET4 and INET6.
        _ => 1111,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_taken_apart() {
        let read = |data_type: &str, text: &str| {
            let TypeText { name, length, scale, labels } = TypeText::of(data_type, text);
            (name, length, scale, labels.join(" "))
        };
        let plain = |name: &str, length, scale| (name.to_owned(), length, scale, String::new());
        assert_eq!(
            read("decimal", "decimal(10,2) unsigned zerofill"),
            plain("DECIMAL UNSIGNED ZEROFILL", Some(10), Some(2))
        );
        assert_eq!(read("bigint", "bigint unsigned"), plain("BIGINT UNSIGNED", None, None));
        assert_eq!(read("varchar", "varchar(20)"), plain("VARCHAR", Some(20), None));
        assert_eq!(read("text", "text"), plain("TEXT", None, None));
        let labels = "'a,b' 'it''s)'".to_owned();
        assert_eq!(read("enum", "enum('a,b','it''s)')"), ("ENUM".to_owned(), Some(1), None, labels.clone()));
        assert_eq!(read("set", "set('a,b','it''s)')"), ("SET".to_owned(), Some(3), None, labels));
        assert_eq!(read("set", "set("), plain("SET", Some(1), None));
    }
}
