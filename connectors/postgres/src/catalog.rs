//! What the source asks the catalog, over ordinary SQL connections.

use std::collections::HashMap;

use rowstream_api::{Attempting, ConnectorError};
use tokio_postgres::Client;

use crate::{
    connection::{Connection, ConnectionPlan},
    error::from_postgres,
    ident::TableName,
    offset::{Lsn, SlotState},
    replication::SESSION_SETTINGS,
    source_config::TableFilter,
    table::{CatalogColumn, TableCatalog},
    types::{CatalogType, TypeCatalog},
    wire::pgoutput::{Relation, RelationColumn},
};

/// Connects with the session settings that expressions and values are printed under.
///
/// # Errors
/// As [`ConnectionPlan::connect`].
pub async fn connect(plan: &ConnectionPlan) -> Result<Connection, ConnectorError> {
    let connection = plan.connect().await?;
    let set: String =
        SESSION_SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}';")).collect();
    connection
        .client
        .batch_execute(&set)
        .await
        .map_err(from_postgres)
        .attempting(|| "set up the session".into())?;
    Ok(connection)
}

/// A table that the filter chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedTable {
    /// Its id.
    pub oid: u32,
    /// Its name.
    pub name: TableName,
    /// Whether it is partitioned.
    pub partitioned: bool,
    /// `d`, `n`, `f` or `i`.
    pub replica_identity: u8,
    /// Whether it has a primary key.
    pub has_primary_key: bool,
    /// Whether we may read it.
    pub readable: bool,
    /// Whether we own it.
    pub owned: bool,
}

const TABLES: &str = "
SELECT c.oid, n.nspname, c.relname, c.relkind = 'p', c.relreplident::text,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       pg_has_role(c.relowner, 'USAGE'),
       CASE WHEN c.relispartition THEN
            ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid)
       ELSE '{}'::oid[] END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
 ORDER BY 2, 3";

/// The tables that the filter chooses, by name. A partition is left out when one of its ancestors is chosen.
///
/// # Errors
/// The server's.
pub async fn captured_tables(
    client: &Client,
    filter: &TableFilter,
) -> Result<Vec<CapturedTable>, ConnectorError> {
    let chosen = tables_where(client, |schema, table| filter.matches(schema, table)).await?;
    let all: Vec<u32> = chosen.iter().map(|(table, _)| table.oid).collect();
    let is_apart = |(_, ancestors): &(_, Vec<u32>)| !ancestors.iter().any(|a| all.contains(a));
    Ok(chosen.into_iter().filter(is_apart).map(|(table, _)| table).collect())
}

/// The table of signals; `None` when there is no such table.
///
/// # Errors
/// The server's.
pub async fn signal_table(
    client: &Client,
    signal: (&str, &str),
) -> Result<Option<CapturedTable>, ConnectorError> {
    let found = tables_where(client, |schema, table| (schema, table) == signal).await?;
    Ok(found.into_iter().next().map(|(table, _)| table))
}

/// Tables by name, each with its ancestors.
async fn tables_where(
    client: &Client,
    is_chosen: impl Fn(&str, &str) -> bool,
) -> Result<Vec<(CapturedTable, Vec<u32>)>, ConnectorError> {
    let rows =
        client.query(TABLES, &[]).await.map_err(from_postgres).attempting(|| "list the tables".into())?;
    let mut chosen = Vec::new();
    for row in rows {
        let (schema, table): (&str, &str) = (row.get(1), row.get(2));
        if is_chosen(schema, table) {
            let identity: &str = row.get(4);
            let captured = CapturedTable {
                oid: row.get(0),
                name: TableName::new(schema, table),
                partitioned: row.get(3),
                replica_identity: identity.bytes().next().unwrap_or(b'd'),
                has_primary_key: row.get(5),
                readable: row.get(6),
                owned: row.get(7),
            };
            chosen.push((captured, row.get(8)));
        }
    }
    Ok(chosen)
}

const COLUMNS: &str = "
SELECT a.attname, a.atttypid, a.atttypmod,
       a.attnotnull OR (t.typtype = 'd' AND t.typnotnull),
       CASE WHEN a.attgenerated = '' THEN
            coalesce(pg_get_expr(d.adbin, d.adrelid), CASE WHEN a.attidentity <> '' THEN 'nextval()' END) END,
       a.attgenerated = ''
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum";

const INDEXES: &str = "
SELECT i.indisprimary, i.indisreplident, a.attname
  FROM pg_index i
  CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = $1 AND (i.indisprimary OR i.indisreplident) AND k.place <= i.indnkeyatts
 ORDER BY i.indexrelid, k.place";

const TYPES: &str = "
WITH RECURSIVE need (oid) AS (
    SELECT unnest($1::oid[])
    UNION
    SELECT v.oid FROM need JOIN pg_type t ON t.oid = need.oid,
           LATERAL (VALUES (t.typbasetype), (CASE WHEN t.typcategory = 'A' THEN t.typelem END)) v (oid)
     WHERE v.oid <> 0)
SELECT t.oid, t.typtype::text, t.typcategory::text, t.typelem, t.typbasetype, t.typtypmod, t.typname,
       coalesce(e.typdelim, ',')::text, x.extname,
       ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder)
  FROM need JOIN pg_type t ON t.oid = need.oid
  LEFT JOIN pg_type e ON e.oid = t.typelem
  LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                       AND d.refclassid = 'pg_extension'::regclass
  LEFT JOIN pg_extension x ON x.oid = d.refobjid";

/// int2vector and oidvector call themselves arrays, but are written without braces.
const VECTORS: [u32; 2] = [22, 30];

/// Asks what `relation` (or, without one, the table `oid`) is made of.
///
/// # Errors
/// The server's.
pub async fn describe(
    client: &Client,
    oid: u32,
    relation: Option<&Relation>,
) -> Result<TableCatalog, ConnectorError> {
    let asked = async {
        let columns = client.query(COLUMNS, &[&oid]).await?;
        let indexes = client.query(INDEXES, &[&oid]).await?;
        Ok((columns, indexes))
    };
    let (columns, indexes) =
        asked.await.map_err(from_postgres).attempting(|| format!("describe table {oid}"))?;
    let columns: Vec<CatalogColumn> = columns
        .iter()
        .filter(|row| relation.is_some() || row.get(5))
        .map(|row| CatalogColumn {
            name: row.get(0),
            type_oid: row.get(1),
            typmod: row.get(2),
            not_null: row.get(3),
            default: row.get(4),
        })
        .collect();
    let mut catalog = TableCatalog { columns, ..TableCatalog::default() };
    for row in indexes {
        let name: String = row.get(2);
        if row.get(0) {
            catalog.primary_key.push(name.clone());
        }
        if row.get(1) {
            catalog.identity_index.push(name);
        }
    }
    let mut oids: Vec<u32> = catalog.columns.iter().map(|c| c.type_oid).collect();
    oids.extend(relation.iter().flat_map(|r| r.columns.iter().map(|c| c.type_oid)));
    catalog.types = types(client, &oids).await?;
    Ok(catalog)
}

async fn types(client: &Client, oids: &[u32]) -> Result<TypeCatalog, ConnectorError> {
    let rows = client
        .query(TYPES, &[&oids])
        .await
        .map_err(from_postgres)
        .attempting(|| "look up column types".into())?;
    let mut types = HashMap::new();
    for row in rows {
        let oid: u32 = row.get(0);
        let (kind, category): (&str, &str) = (row.get(1), row.get(2));
        let element: u32 = row.get(3);
        let extension: Option<String> = row.get(8);
        let found = match (kind, category) {
            ("d", _) => CatalogType::Domain { base: row.get(4), typmod: row.get(5) },
            ("e", _) => CatalogType::Enum(row.get(9)),
            (_, "A") if element != 0 && !VECTORS.contains(&oid) => {
                let delimiter: &str = row.get(7);
                CatalogType::Array { element, delimiter: delimiter.bytes().next().unwrap_or(b',') }
            }
            _ => extension.map_or(CatalogType::Other, |name| CatalogType::Extension(name, row.get(6))),
        };
        types.insert(oid, found);
    }
    Ok(types)
}

/// The shape that the stream would send for a table, from the catalog.
#[must_use]
pub fn relation_of(table: &CapturedTable, catalog: &TableCatalog) -> Relation {
    let identity: &[String] = match table.replica_identity {
        b'd' => &catalog.primary_key,
        b'i' => &catalog.identity_index,
        _ => &[],
    };
    let columns = catalog
        .columns
        .iter()
        .map(|column| RelationColumn {
            identity: table.replica_identity == b'f' || identity.contains(&column.name),
            name: column.name.clone(),
            type_oid: column.type_oid,
            typmod: column.typmod,
        })
        .collect();
    Relation {
        oid: table.oid,
        namespace: table.name.schema.bare().to_owned(),
        name: table.name.table.bare().to_owned(),
        replica_identity: table.replica_identity,
        columns,
    }
}

/// The server's version, as `150018`.
///
/// # Errors
/// The server's.
pub async fn server_version(client: &Client) -> Result<i32, ConnectorError> {
    let row = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .map_err(from_postgres)
        .attempting(|| "ask the server's version".into())?;
    Ok(row.get(0))
}

/// A slot, if it exists.
///
/// # Errors
/// The server's.
pub async fn slot(client: &Client, name: &str) -> Result<Option<SlotState>, ConnectorError> {
    let sql = "SELECT plugin::text, database::text, active_pid, restart_lsn::text, confirmed_flush_lsn::text, wal_status
                 FROM pg_replication_slots WHERE slot_name = $1";
    let row = client
        .query_opt(sql, &[&name])
        .await
        .map_err(from_postgres)
        .attempting(|| format!("look up slot `{name}`"))?;
    let Some(row) = row else { return Ok(None) };
    let lsn =
        |column| row.get::<_, Option<&str>>(column).map(|text| text.parse::<Lsn>().map(|l| l.0)).transpose();
    Ok(Some(SlotState {
        plugin: row.get(0),
        database: row.get(1),
        active_pid: row.get(2),
        restart_lsn: lsn(3)?,
        confirmed_flush_lsn: lsn(4)?,
        wal_status: row.get(5),
    }))
}

/// What a publication carries of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Its columns; `None` before version 15, where it is all of them.
    pub columns: Option<Vec<String>>,
    /// Which rows, as an expression.
    pub filter: Option<String>,
}

/// Asks what the publication carries of a table.
///
/// # Errors
/// The server's.
pub async fn published(
    client: &Client,
    publication: &str,
    table: &TableName,
) -> Result<Published, ConnectorError> {
    if server_version(client).await? < 150_000 {
        return Ok(Published::default());
    }
    let sql = "SELECT attnames::text[], rowfilter FROM pg_publication_tables
                WHERE pubname = $1 AND schemaname = $2 AND tablename = $3";
    let row = client
        .query_opt(sql, &[&publication, &table.schema.bare(), &table.table.bare()])
        .await
        .map_err(from_postgres)
        .attempting(|| format!("look up what is published of `{}`", table.plain()))?;
    Ok(row.map(|row| Published { columns: row.get(0), filter: row.get(1) }).unwrap_or_default())
}

/// Types by name, as a cast takes them; without modifiers, because those could cut a value.
///
/// # Errors
/// The server's.
pub async fn type_names(client: &Client, oids: &[u32]) -> Result<Vec<String>, ConnectorError> {
    let sql = "SELECT format_type(o, -1) FROM unnest($1::oid[]) WITH ORDINALITY u(o, n) ORDER BY n";
    let rows = client
        .query(sql, &[&oids])
        .await
        .map_err(from_postgres)
        .attempting(|| "name the key's types".into())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
