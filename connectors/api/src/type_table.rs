//! Rows of the manual's type tables.
//!
//! A connector makes them by calling the functions that its tasks call, so that the table says what the code does: a source tells the
//! schema that each of its database's types becomes ([`TypeRow`]), a sink the column that it makes for a schema ([`TargetColumn`]). Only the
//! names of the database's types are written down.

use std::sync::Arc;

use crate::schema::Schema;

/// A type of a source's database, and what it becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeRow {
    /// The type as `CREATE TABLE` takes it.
    pub sql: &'static str,
    /// The statement that makes the type, when the server does not bring it.
    pub made_by: Option<&'static str>,
    /// The schema of a column that forbids NULL, without a default, when no setting is given.
    pub schema: Arc<Schema>,
    /// What settings change about it.
    pub options: Vec<TypeOption>,
    /// What is not evident from the schema.
    pub remark: Option<String>,
}

/// A setting that changes what a type becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeOption {
    /// The setting with its value: `types.bigint_unsigned: long`.
    pub setting: String,
    /// What it changes.
    pub effect: TypeEffect,
}

/// What a setting changes about a type.
#[derive(Debug, Clone, PartialEq)]
pub enum TypeEffect {
    /// Another schema.
    Schema(Arc<Schema>),
    /// Other values of the same schema, in words.
    Values(&'static str),
}

/// The column that a sink makes for a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetColumn {
    /// Its type as `CREATE TABLE` takes it.
    pub sql: String,
    /// Its type in the table's key, when that is another.
    pub key_sql: Option<String>,
    /// Which values don't arrive as they are.
    pub remark: Option<String>,
}
