//! The schema-change topic: statements that define captured tables, as Debezium writes them.
//!
//! ```text
//!   topic  <topic_prefix>
//!   key    SchemaChangeKey   { databaseName }
//!   value  SchemaChangeValue { source, ts_ms, databaseName, schemaName, ddl, tableChanges: [ Change { type, id, table } ] }
//! ```
//!
//! A statement is a change like any other: it has its place among the rows ([`crate::stream`]) and becomes durable with the position
//! behind it. What it did to a table's columns is not computed from its text: [`structure`] asks the server, and is believed only where
//! the binlog shows that the answer is of that very moment. With a snapshot, the tables that are there already come first ([`initial`]).

use std::sync::{Arc, LazyLock};

use rowstream_api::{RecordError, RowView, Schema, SchemaBuilder, SchemaType, TableSchema, ValueRef};

use crate::{
    connection::Flavour,
    schema_change::structure::{Column, Structure},
    stream::{
        batch::Definition,
        definition::{Action, Target},
    },
    table::{connector_name, source_schema},
};

pub mod initial;
pub mod structure;

/// A statement as it is delivered.
#[derive(Debug)]
pub struct Message {
    /// The statement.
    pub definition: Definition,
    /// The table after it, where that is known.
    pub structure: Option<Structure>,
    /// When we read it, milliseconds since 1970.
    pub at_ms: i64,
}

impl Message {
    /// Database and, where it is about one, table: for the `source` block.
    #[must_use]
    pub fn names(&self) -> (&str, Option<&str>) {
        match &self.definition.target {
            Target::Database(name) => (name, None),
            Target::Table { name: (database, table), .. } => (database, Some(table)),
        }
    }

    /// The record's value. `source` are the values of its `source` struct.
    #[must_use]
    pub fn value<'a>(&'a self, schema: &'a Arc<Schema>, source: &[ValueRef<'a>]) -> MessageValue<'a> {
        let Definition { target, ddl, .. } = &self.definition;
        let fields = [
            ValueRef::Struct(source.to_vec()),
            ValueRef::Int(self.at_ms),
            ValueRef::str(target.database()),
            ValueRef::Null,
            optional_text(ddl.as_deref()),
            ValueRef::Array(self.changes()),
        ];
        MessageValue { schema, fields }
    }

    fn changes(&self) -> Vec<ValueRef<'_>> {
        let Target::Table { action, name: (database, table), .. } = &self.definition.target else {
            return Vec::new();
        };
        let kind = match action {
            Action::Create => "CREATE",
            Action::Alter => "ALTER",
            Action::Drop => "DROP",
            // Nothing is different.
            Action::Truncate => return Vec::new(),
        };
        let id = format!("{}.{}", double_quoted(database), double_quoted(table));
        let table = self.structure.as_ref().map_or(ValueRef::Null, table_value);
        vec![ValueRef::Struct(vec![ValueRef::str(kind), ValueRef::Str(id.into()), table])]
    }
}

/// A record's value.
pub struct MessageValue<'a> {
    schema: &'a Arc<Schema>,
    fields: [ValueRef<'a>; 6],
}

impl RowView for MessageValue<'_> {
    fn schema(&self) -> &Arc<Schema> {
        self.schema
    }

    fn column(&self, index: usize) -> Result<ValueRef<'_>, RecordError> {
        self.fields
            .get(index)
            .cloned()
            .ok_or_else(|| RecordError::value("COLUMN_UNKNOWN", format!("the value has no field {index}")))
    }
}

fn optional_text(text: Option<&str>) -> ValueRef<'_> {
    text.map_or(ValueRef::Null, ValueRef::str)
}

fn double_quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn table_value(structure: &Structure) -> ValueRef<'_> {
    let Structure { charset, key, columns } = structure;
    let key = key.iter().map(|name| ValueRef::str(name)).collect();
    let columns = (1..).zip(columns).map(|(position, column)| column_value(position, column)).collect();
    ValueRef::Struct(vec![
        optional_text(charset.as_deref()),
        ValueRef::Array(key),
        ValueRef::Array(columns),
        ValueRef::Null,
    ])
}

fn column_value(position: i64, column: &Column) -> ValueRef<'_> {
    let number = |n: Option<i64>| n.map_or(ValueRef::Null, ValueRef::Int);
    let labels = || ValueRef::Array(column.labels.iter().map(|label| ValueRef::str(label)).collect());
    ValueRef::Struct(vec![
        ValueRef::str(&column.name),
        ValueRef::Int(column.jdbc_type),
        ValueRef::Null,
        ValueRef::str(&column.type_name),
        ValueRef::str(&column.type_name),
        optional_text(column.charset.as_deref()),
        number(column.length),
        number(column.scale),
        ValueRef::Int(position),
        ValueRef::Bool(column.nullable),
        ValueRef::Bool(column.auto_increment),
        ValueRef::Bool(column.generated),
        ValueRef::Null,
        optional_text(column.default.as_deref()),
        if column.labels.is_empty() { ValueRef::Null } else { labels() },
    ])
}

/// The topic and its schemas.
#[must_use]
pub fn topic(topic_prefix: &str, flavour: Flavour) -> Arc<TableSchema> {
    let (key, value) = match flavour {
        Flavour::MySql => &*MYSQL,
        Flavour::MariaDb => &*MARIADB,
    };
    Arc::new(TableSchema {
        topic: topic_prefix.into(),
        key: Some(Arc::clone(key)),
        key_columns: vec![DATABASE_NAME],
        value: Arc::clone(value),
        envelope: Arc::clone(value),
    })
}

/// `databaseName` in the value.
const DATABASE_NAME: usize = 2;

static MYSQL: LazyLock<(Arc<Schema>, Arc<Schema>)> = LazyLock::new(|| schemas(Flavour::MySql));
static MARIADB: LazyLock<(Arc<Schema>, Arc<Schema>)> = LazyLock::new(|| schemas(Flavour::MariaDb));

fn plain(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).build()
}

fn optional(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).optional().build()
}

fn array(element: Arc<Schema>) -> Arc<Schema> {
    plain(SchemaType::Array(element))
}

/// A struct's builder with Debezium's name and version.
fn named(name: &str) -> SchemaBuilder {
    SchemaBuilder::structure().name(format!("io.debezium.connector.{name}")).version(1)
}

fn schemas(flavour: Flavour) -> (Arc<Schema>, Arc<Schema>) {
    let connector = connector_name(flavour);
    let key = named(&format!("{connector}.SchemaChangeKey")).field("databaseName", plain(SchemaType::String));
    let change = named("schema.Change")
        .field("type", plain(SchemaType::String))
        .field("id", plain(SchemaType::String))
        .field("table", table_schema())
        .build();
    let value = named(&format!("{connector}.SchemaChangeValue"))
        .field("source", source_schema(flavour))
        .field("ts_ms", plain(SchemaType::Int64))
        .field("databaseName", optional(SchemaType::String))
        .field("schemaName", optional(SchemaType::String))
        .field("ddl", optional(SchemaType::String))
        .field("tableChanges", array(change));
    (key.build(), value.build())
}

fn table_schema() -> Arc<Schema> {
    let texts = || optional(SchemaType::Array(plain(SchemaType::String)));
    let column = named("schema.Column")
        .field("name", plain(SchemaType::String))
        .field("jdbcType", plain(SchemaType::Int32))
        .field("nativeType", optional(SchemaType::Int32))
        .field("typeName", plain(SchemaType::String))
        .field("typeExpression", optional(SchemaType::String))
        .field("charsetName", optional(SchemaType::String))
        .field("length", optional(SchemaType::Int32))
        .field("scale", optional(SchemaType::Int32))
        .field("position", plain(SchemaType::Int32))
        .field("optional", optional(SchemaType::Boolean))
        .field("autoIncremented", optional(SchemaType::Boolean))
        .field("generated", optional(SchemaType::Boolean))
        .field("comment", optional(SchemaType::String))
        .field("defaultValueExpression", optional(SchemaType::String))
        .field("enumValues", texts())
        .build();
    named("schema.Table")
        .field("defaultCharsetName", optional(SchemaType::String))
        .field("primaryKeyColumnNames", texts())
        .field("columns", array(column))
        .field("comment", optional(SchemaType::String))
        .optional()
        .build()
}
