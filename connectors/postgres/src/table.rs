//! A captured table at one shape: its schemas, and how each column's text is read.
//!
//! The shape comes from a Relation message or, before the first one, from the catalog; both go through [`build`], so a
//! snapshot's rows and the stream's have the same schema.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
};

use rowstream_api::{Schema, SchemaBuilder, SchemaType, TableSchema, Value};

use crate::{
    source_config::sanitise_topic,
    types::{Kind, TypeCatalog, column_schema, resolve},
    wire::pgoutput::Relation,
};

/// What the catalog says about a table, beyond its shape.
#[derive(Debug, Clone, Default)]
pub struct TableCatalog {
    /// Columns by name.
    pub columns: Vec<CatalogColumn>,
    /// The primary key's columns, in its own order.
    pub primary_key: Vec<String>,
    /// The replica identity index's columns, in its order; empty when the identity is no index.
    pub identity_index: Vec<String>,
    /// The types that the columns use.
    pub types: TypeCatalog,
}

/// A column as the catalog tells it.
#[derive(Debug, Clone)]
pub struct CatalogColumn {
    /// Name.
    pub name: String,
    /// Type.
    pub type_oid: u32,
    /// Its modifier.
    pub typmod: i32,
    /// Whether it, or a domain it is of, forbids NULL.
    pub not_null: bool,
    /// Its default expression.
    pub default: Option<String>,
}

/// How to read one column.
#[derive(Debug)]
pub struct ColumnPlan {
    /// Its name, for errors.
    pub name: String,
    /// How its text is read.
    pub kind: Kind,
    /// Part of the replica identity, so that a `K` tuple holds it.
    pub identity: bool,
}

/// A table at one shape.
#[derive(Debug)]
pub struct TablePlan {
    /// The shape it was made of.
    pub relation: Arc<Relation>,
    /// Schemas.
    pub schema: Arc<TableSchema>,
    /// Columns, in the order of the shape and of the schema.
    pub columns: Vec<ColumnPlan>,
}

/// Makes the plan of a table.
#[must_use]
pub fn build(relation: &Arc<Relation>, catalog: &TableCatalog, topic_prefix: &str) -> TablePlan {
    let topic = topic_name(topic_prefix, &relation.namespace, &relation.name);
    let mut value = SchemaBuilder::structure().name(format!("{topic}.Value"));
    let mut columns = Vec::with_capacity(relation.columns.len());
    let mut schemas = Vec::with_capacity(relation.columns.len());
    for column in &relation.columns {
        let resolved = resolve(column.type_oid, column.typmod, &catalog.types);
        // The catalog tells the present: only a column that is still the same one may be described by it.
        let known = catalog.columns.iter().find(|c| c.name == column.name && c.type_oid == column.type_oid);
        let in_key = catalog.primary_key.contains(&column.name);
        let nullable = !in_key && known.is_none_or(|c| !c.not_null);
        let default = known.and_then(|c| c.default.as_deref());
        let schema = column_schema(&resolved, nullable, default);
        value = value.field(&column.name, Arc::clone(&schema));
        schemas.push(schema);
        columns.push(ColumnPlan {
            name: column.name.clone(),
            kind: resolved.kind,
            identity: column.identity,
        });
    }
    let value = value.build();
    let key_columns = key_columns(relation, catalog);
    let key = (!key_columns.is_empty()).then(|| {
        let mut key = SchemaBuilder::structure().name(format!("{topic}.Key"));
        for index in &key_columns {
            if let (Some(column), Some(schema)) = (columns.get(*index), schemas.get(*index)) {
                key = key.field(&column.name, Arc::clone(schema));
            }
        }
        key.build()
    });
    let envelope = envelope(&topic, &value);
    let schema = TableSchema { topic: topic.into(), key, key_columns, value, envelope };
    TablePlan { relation: Arc::clone(relation), schema: Arc::new(schema), columns }
}

/// The topic of a table's records.
#[must_use]
pub fn topic_name(topic_prefix: &str, schema: &str, table: &str) -> String {
    sanitise_topic(&format!("{topic_prefix}.{schema}.{table}"))
}

/// The primary key, unless old rows are identified by other columns: then those, because a delete's record must have
/// the key of its insert's.
fn key_columns(relation: &Relation, catalog: &TableCatalog) -> Vec<usize> {
    let position = |name: &String| relation.columns.iter().position(|c| c.name == *name);
    let all = |names: &[String]| names.iter().map(position).collect::<Option<Vec<_>>>().unwrap_or_default();
    let sent: HashSet<&str> =
        relation.columns.iter().filter(|c| c.identity).map(|c| c.name.as_str()).collect();
    let usable = |names: &[String]| {
        relation.replica_identity == b'n' || names.iter().all(|name| sent.contains(name.as_str()))
    };
    if !catalog.primary_key.is_empty() && usable(&catalog.primary_key) {
        let key = all(&catalog.primary_key);
        if !key.is_empty() {
            return key;
        }
    }
    if relation.replica_identity == b'f' || relation.replica_identity == b'n' {
        return Vec::new();
    }
    let index = if usable(&catalog.identity_index) { all(&catalog.identity_index) } else { Vec::new() };
    if !index.is_empty() {
        return index;
    }
    relation.columns.iter().enumerate().filter(|(_, c)| c.identity).map(|(i, _)| i).collect()
}

fn plain(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).build()
}

fn optional(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).optional().build()
}

static SOURCE: LazyLock<Arc<Schema>> = LazyLock::new(|| {
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
        .name("io.debezium.connector.postgresql.Source")
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
        .field("schema", plain(SchemaType::String))
        .field("table", plain(SchemaType::String))
        .field("txId", optional(SchemaType::Int64))
        .field("lsn", optional(SchemaType::Int64))
        .field("xmin", optional(SchemaType::Int64))
        .field("origin", optional(SchemaType::String))
        .field("origin_lsn", optional(SchemaType::Int64))
        .build()
});

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

fn envelope(topic: &str, value: &Arc<Schema>) -> Arc<Schema> {
    let image = value.to_builder().optional().build();
    SchemaBuilder::structure()
        .name(format!("{topic}.Envelope"))
        .version(2)
        .field("before", Arc::clone(&image))
        .field("after", image)
        .field("source", Arc::clone(&SOURCE))
        .field("transaction", Arc::clone(&TRANSACTION))
        .field("op", plain(SchemaType::String))
        .field("ts_ms", optional(SchemaType::Int64))
        .field("ts_us", optional(SchemaType::Int64))
        .field("ts_ns", optional(SchemaType::Int64))
        .build()
}
