//! A captured table at one shape: its schemas, and how each column's bytes are read.
//!
//! The shape is a TABLE_MAP event's; the snapshot reads a table by the shape that the catalog tells ([`crate::catalog`]), which
//! has the same form, so both phases have the same schema.

use std::sync::{Arc, LazyLock};

use rowstream_api::{ConnectorError, Schema, SchemaBuilder, SchemaType, TableSchema, Value};

use crate::{
    catalog::Catalog,
    connection::Flavour,
    source_config::sanitise_topic,
    types::{Kind, TypeOptions, column_schema, resolve},
    wire::table_map::TableShape,
};

/// How to read one column.
#[derive(Debug)]
pub struct ColumnPlan {
    /// Its name, for errors and SQL.
    pub name: String,
    /// How its bytes are read.
    pub kind: Kind,
    /// Its place in the table.
    pub source: usize,
}

/// A table at one shape.
#[derive(Debug)]
pub struct TablePlan {
    /// The shape it was made of.
    pub shape: TableShape,
    /// Schemas.
    pub schema: Arc<TableSchema>,
    /// Columns, in the order of the schema.
    pub columns: Vec<ColumnPlan>,
    /// The servers' names of the charsets of the table's columns.
    pub charset_names: Vec<Option<String>>,
}

impl TablePlan {
    /// `database.table`, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.shape.database, self.shape.table)
    }
}

/// Columns that the server adds for itself: of indexes over expressions, and of unique indexes over long texts.
fn is_hidden(name: &str) -> bool {
    name.starts_with("!hidden!") || name.starts_with("DB_ROW_HASH_")
}

/// Makes the plan of a table.
///
/// # Errors
/// The shape has no names, or a column's type is not supported: both need a person.
pub fn build(
    shape: &TableShape,
    catalog: &Catalog,
    options: TypeOptions,
    topic_prefix: &str,
) -> Result<TablePlan, ConnectorError> {
    let (database, table) = (&shape.database, &shape.table);
    if !shape.is_named() {
        return Err(minimal_metadata(&format!("{database}.{table}"), catalog.flavour));
    }
    let topic = topic_name(topic_prefix, database, table);
    let mut value = SchemaBuilder::structure().name(format!("{topic}.Value"));
    let mut columns = Vec::with_capacity(shape.columns.len());
    let mut schemas = Vec::with_capacity(shape.columns.len());
    for (source, column) in shape.columns.iter().enumerate().filter(|(_, c)| !is_hidden(&c.name)) {
        let charset = column.collation.and_then(|id| catalog.charset(id));
        let known = catalog.column(database, table, &column.name);
        let resolved = resolve(column, charset, known, options).map_err(|problem| {
            ConnectorError::config(
                "MYSQL_COLUMN_TYPE",
                format!("column `{}` of `{database}.{table}` {problem}", column.name),
            )
            .remedy("leave the table out with tables.exclude, or change the column")
        })?;
        let nullable = column.nullable && !shape.key.contains(&source);
        let schema = column_schema(&resolved, nullable, known);
        value = value.field(&column.name, Arc::clone(&schema));
        schemas.push(schema);
        columns.push(ColumnPlan { name: column.name.clone(), kind: resolved.kind, source });
    }
    let value = value.build();
    let field_of = |source: &usize| columns.iter().position(|column| column.source == *source);
    let key_columns: Vec<usize> = shape.key.iter().filter_map(field_of).collect();
    let key = (!key_columns.is_empty()).then(|| {
        let mut key = SchemaBuilder::structure().name(format!("{topic}.Key"));
        for index in &key_columns {
            if let (Some(column), Some(schema)) = (columns.get(*index), schemas.get(*index)) {
                key = key.field(&column.name, Arc::clone(schema));
            }
        }
        key.build()
    });
    let envelope = envelope(&topic, &value, catalog.flavour);
    let schema = TableSchema { topic: topic.into(), key, key_columns, value, envelope };
    let charset_names =
        shape.columns.iter().map(|column| column.collation.and_then(|id| catalog.charset_name(id)));
    let charset_names = charset_names.map(|name| name.map(str::to_owned)).collect();
    Ok(TablePlan { shape: shape.clone(), schema: Arc::new(schema), columns, charset_names })
}

/// The binlog does not name the columns.
#[must_use]
pub fn minimal_metadata(table: &str, flavour: Flavour) -> ConnectorError {
    let remedy = match flavour {
        Flavour::MySql => "SET PERSIST binlog_row_metadata = FULL;",
        Flavour::MariaDb => {
            "SET GLOBAL binlog_row_metadata = FULL; -- and `binlog_row_metadata = FULL` in my.cnf"
        }
    };
    ConnectorError::config(
        "MYSQL_ROW_METADATA",
        format!(
            "rows of `{table}` were written while binlog_row_metadata was not FULL: the binlog does not name their columns"
        ),
    )
    .remedy(format!(
        "{remedy}\n-- rows that were written before can't be read: delete the connector's offsets to start over with a new \
         snapshot, or, where it can't be set, use `row_metadata: verified`"
    ))
}

/// The topic of a table's records.
#[must_use]
pub fn topic_name(topic_prefix: &str, database: &str, table: &str) -> String {
    sanitise_topic(&format!("{topic_prefix}.{database}.{table}"))
}

/// Debezium's word for the connector.
#[must_use]
pub fn connector_name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::MySql => "mysql",
        Flavour::MariaDb => "mariadb",
    }
}

fn plain(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).build()
}

fn optional(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).optional().build()
}

/// The schema of the `source` block.
#[must_use]
pub fn source_schema(flavour: Flavour) -> Arc<Schema> {
    let made = match flavour {
        Flavour::MySql => &MYSQL_SOURCE,
        Flavour::MariaDb => &MARIADB_SOURCE,
    };
    Arc::clone(made)
}

fn make_source_schema(flavour: Flavour) -> Arc<Schema> {
    let snapshot = SchemaBuilder::new(SchemaType::String)
        .name("io.debezium.data.Enum")
        .version(1)
        .parameter(
            "allowed",
            "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental",
        )
        .default_value(Value::Str("false".to_owned()))
        .optional()
        .build();
    SchemaBuilder::structure()
        .name(format!("io.debezium.connector.{}.Source", connector_name(flavour)))
        .version(1)
        .field("version", plain(SchemaType::String))
        .field("connector", plain(SchemaType::String))
        .field("name", plain(SchemaType::String))
        .field("ts_ms", plain(SchemaType::Int64))
        .field("snapshot", snapshot)
        .field("db", plain(SchemaType::String))
        .field("sequence", optional(SchemaType::String))
        .field("ts_us", optional(SchemaType::Int64))
        .field("ts_ns", optional(SchemaType::Int64))
        .field("table", optional(SchemaType::String))
        .field("server_id", plain(SchemaType::Int64))
        .field("gtid", optional(SchemaType::String))
        .field("file", plain(SchemaType::String))
        .field("pos", plain(SchemaType::Int64))
        .field("row", plain(SchemaType::Int32))
        .field("thread", optional(SchemaType::Int64))
        .field("query", optional(SchemaType::String))
        .build()
}

static MYSQL_SOURCE: LazyLock<Arc<Schema>> = LazyLock::new(|| make_source_schema(Flavour::MySql));
static MARIADB_SOURCE: LazyLock<Arc<Schema>> = LazyLock::new(|| make_source_schema(Flavour::MariaDb));

static TRANSACTION: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    SchemaBuilder::structure()
        .name("event.block")
        .version(1)
        .field("id", plain(SchemaType::String))
        .field("total_order", plain(SchemaType::Int64))
        .field("data_collection_order", plain(SchemaType::Int64))
        .optional()
        .build()
});

fn envelope(topic: &str, value: &Arc<Schema>, flavour: Flavour) -> Arc<Schema> {
    let image = value.to_builder().optional().build();
    SchemaBuilder::structure()
        .name(format!("{topic}.Envelope"))
        .version(2)
        .field("before", Arc::clone(&image))
        .field("after", image)
        .field("source", source_schema(flavour))
        .field("transaction", Arc::clone(&TRANSACTION))
        .field("op", plain(SchemaType::String))
        .field("ts_ms", optional(SchemaType::Int64))
        .field("ts_us", optional(SchemaType::Int64))
        .field("ts_ns", optional(SchemaType::Int64))
        .build()
}
