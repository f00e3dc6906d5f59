//! Names for rows whose table maps have none (`binlog_row_metadata` is not FULL), when the user asked for it.
//!
//! The catalog tells a table's columns of the present, under a lock that keeps them from changing, together with the binlog's
//! position `P`. They are the columns of a row at `S` if no statement between `S` and `P` may have defined the table anew: that
//! part of the binlog is read for statements ([`crate::stream::lookup`]). From then on they hold until the stream itself meets a
//! statement that defines something; after that they are asked for again. Whatever can't be shown this way is refused.
//!
//! The binlog's own types are compared with the catalog's, too: a difference is refused.

use mysql_async::{Conn, prelude::Queryable};
use rowstream_api::{Attempting, ConnectorError};

use crate::{
    catalog::Catalog,
    connection::Server,
    error::from_mysql,
    ident::TableName,
    setup,
    stream::{batch::StreamTable, lookup, position::BinlogPosition, reader::StreamPlan, statement},
    wire::table_map::{ColumnShape, TableShape, column},
};

/// So long a statement may keep a table locked that we have to ask about.
const LOCK_WAIT_SECONDS: u32 = 10;

/// The table's shape with the names, keys and labels of the catalog.
///
/// # Errors
/// `MYSQL_COLUMNS_UNKNOWN`: the table was defined anew after these rows were written; the server's.
pub async fn verified(
    table: &StreamTable,
    catalog: &mut Catalog,
    (conn, server): (&mut Conn, Server),
    stream: &StreamPlan,
) -> Result<TableShape, ConnectorError> {
    let (database, name) = (&table.shape.database, &table.shape.table);
    let (described, upto) = present(table, catalog, conn, server)
        .await
        .attempting(|| format!("ask for the columns of `{database}.{name}`"))?;
    let defines = |text: &[u8]| statement::may_define(text, name);
    if let Some(at) = lookup::statement_between(stream, &table.begins, &upto, defines).await? {
        return Err(unknown(
            table,
            &format!("the statement at {at} may have changed its columns after that"),
        ));
    }
    let Some(described) = described else { return Err(unknown(table, "it is gone")) };
    complete(&table.shape, &described).ok_or_else(|| unknown(table, "its columns have other types"))
}

/// The columns, and a position that no statement about them is on both sides of.
async fn present(
    table: &StreamTable,
    catalog: &mut Catalog,
    conn: &mut Conn,
    server: Server,
) -> Result<(Option<TableShape>, BinlogPosition), ConnectorError> {
    let (database, name) = (&table.shape.database, &table.shape.table);
    let described = match lock(conn, (database, name), LOCK_WAIT_SECONDS).await? {
        true => catalog.describe(conn, database, name).await?,
        false => None,
    };
    Ok((described, unlock(conn, server).await?))
}

/// Keeps a table from being defined anew until [`unlock`], waiting for at most so many seconds; answers whether it is there. A statement
/// holds its own lock on the table from before it changes the catalog until it is in the binlog. After an error the connection is of no
/// use any more.
///
/// # Errors
/// The server's; the table is locked for longer.
pub async fn lock(
    conn: &mut Conn,
    (database, name): (&str, &str),
    seconds: u32,
) -> Result<bool, ConnectorError> {
    conn.query_drop(format!("SET lock_wait_timeout = {seconds}")).await.map_err(from_mysql)?;
    conn.query_drop("START TRANSACTION READ ONLY").await.map_err(from_mysql)?;
    let lock = format!("SELECT 1 FROM {} LIMIT 0", TableName::new(database, name));
    match conn.query_drop(lock).await.map_err(from_mysql) {
        Ok(()) => Ok(true),
        Err(error) if error.code == "MYSQL_NO_TABLE" => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets go of what [`lock`] holds; answers the binlog's position while it was held.
///
/// # Errors
/// The server's.
pub async fn unlock(conn: &mut Conn, server: Server) -> Result<BinlogPosition, ConnectorError> {
    let upto = setup::binlog_status(conn, server).await?;
    conn.query_drop("COMMIT").await.map_err(from_mysql)?;
    Ok(upto)
}

fn unknown(table: &StreamTable, why: &str) -> ConnectorError {
    let StreamTable { shape, begins, .. } = table;
    ConnectorError::fatal(
        "MYSQL_COLUMNS_UNKNOWN",
        format!(
            "the columns of rows of `{}.{}` at {begins} are not known: the binlog does not name them (binlog_row_metadata is not \
             FULL), and {why}",
            shape.database, shape.table
        ),
    )
    .remedy(
        "SET PERSIST binlog_row_metadata = FULL; -- MariaDB: SET GLOBAL, and my.cnf\n-- then delete the connector's offsets to start \
         over with a new snapshot",
    )
}

/// Both together; `None` when they are not of the same columns.
fn complete(stream: &TableShape, described: &TableShape) -> Option<TableShape> {
    if stream.columns.len() != described.columns.len() {
        return None;
    }
    let columns = stream.columns.iter().zip(&described.columns).map(|(stream, described)| {
        let labelled = !described.labels.is_empty();
        is_same_type(stream, described).then(|| ColumnShape {
            name: described.name.clone(),
            unsigned: stream.unsigned || described.unsigned,
            // The catalog's labels have the catalog's charset.
            collation: if labelled { described.collation } else { stream.collation.or(described.collation) },
            labels: described.labels.clone(),
            geometry: described.geometry,
            ..stream.clone()
        })
    });
    let columns = columns.collect::<Option<Vec<_>>>()?;
    Some(TableShape { columns, key: described.key.clone(), ..stream.clone() })
}

/// Whether the catalog's type is written as this one. Lengths of texts are not compared: the catalog has them in other units.
fn is_same_type(stream: &ColumnShape, described: &ColumnShape) -> bool {
    let exact = match family(stream.ty) {
        Family::Bytes => true,
        Family::Other(
            column::NEWDECIMAL | column::BIT | column::TIMESTAMP2 | column::DATETIME2 | column::TIME2,
        ) => stream.meta == described.meta,
        Family::Other(_) => true,
    };
    exact && family(stream.ty) == family(described.ty) && stream.nullable == described.nullable
}

#[derive(PartialEq, Eq)]
enum Family {
    /// Texts and bytes of every length: the catalog shows some as another of them.
    Bytes,
    Other(u8),
}

fn family(ty: u8) -> Family {
    use column::{
        BLOB, BLOB_COMPRESSED, DATETIME, DATETIME2, LONG_BLOB, MEDIUM_BLOB, STRING, TIME, TIME2, TIMESTAMP,
        TIMESTAMP2, TINY_BLOB, VAR_STRING, VARCHAR, VARCHAR_COMPRESSED,
    };
    match ty {
        BLOB | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | BLOB_COMPRESSED | STRING | VARCHAR | VAR_STRING
        | VARCHAR_COMPRESSED => Family::Bytes,
        // The forms before 5.6 are those of tables that were never altered since.
        TIME => Family::Other(TIME2),
        DATETIME => Family::Other(DATETIME2),
        TIMESTAMP => Family::Other(TIMESTAMP2),
        other => Family::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, ty: u8, meta: u16, nullable: bool) -> ColumnShape {
        ColumnShape {
            name: name.to_owned(),
            ty,
            meta,
            nullable,
            unsigned: false,
            collation: None,
            labels: Vec::new(),
            geometry: None,
            visible: true,
        }
    }

    fn table(columns: Vec<ColumnShape>, key: Vec<usize>) -> TableShape {
        TableShape { database: "d".to_owned(), table: "t".to_owned(), columns, key }
    }

    #[test]
    fn columns_of_other_types_are_not_taken() {
        let stream = |meta| {
            table(vec![column("", column::NEWDECIMAL, meta, true), column("", column::BLOB, 2, true)], vec![])
        };
        let described = table(
            vec![column("n", column::NEWDECIMAL, 0x0a02, true), column("t", column::BLOB, 4, true)],
            vec![0],
        );
        let made = complete(&stream(0x0a02), &described).unwrap();
        assert_eq!((made.columns[1].name.as_str(), made.columns[1].meta, made.key), ("t", 2, vec![0]));
        assert_eq!(complete(&stream(0x0a03), &described), None);
        let fewer = table(vec![column("n", column::NEWDECIMAL, 0x0a02, true)], vec![0]);
        assert_eq!(complete(&stream(0x0a02), &fewer), None);
        let not_null = table(
            vec![column("n", column::NEWDECIMAL, 0x0a02, false), column("t", column::BLOB, 4, true)],
            vec![0],
        );
        assert_eq!(complete(&stream(0x0a02), &not_null), None);
    }
}
