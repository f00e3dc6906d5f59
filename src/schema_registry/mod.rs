//! Schema registry: one interface for the built-in server and (later) an external one.
//!
//! In reading order: [`BuiltinRegistry`] keeps everything in the topic log (`store`; on Kafka a topic of Confluent's format,
//! `confluent_topic`) and decides; [`rest`] puts it behind Confluent's REST API; [`compatibility`] and [`resolution`] answer which schema may follow which.

pub mod builtin;
mod catalog;
pub mod compatibility;
mod confluent_topic;
mod refusal;
pub mod resolution;
pub mod rest;
mod schema_text;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use builtin::BuiltinRegistry;
pub use compatibility::Level;
pub use refusal::Refusal;

/// What converters need of a registry. Implementations cache; both calls are cheap after the first.
pub trait SchemaRegistry: Send + Sync + 'static {
    /// Registers a schema (Avro JSON) under a subject, or finds it there; answers its id. Durable when it returns.
    fn register<'a>(&'a self, subject: &'a str, schema: &'a str)
    -> BoxFuture<'a, Result<u32, RegistryError>>;
    /// The schema (Avro JSON) behind an id.
    fn schema(&self, id: u32) -> BoxFuture<'_, Result<Arc<str>, RegistryError>>;
}

/// Why the registry said no.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The text is no Avro schema.
    #[error("not a valid Avro schema: {0}")]
    Invalid(String),
    /// The subject's compatibility level forbids it.
    #[error("schema is incompatible with version {version} of subject `{subject}`: {reason}")]
    Incompatible {
        /// Subject.
        subject: String,
        /// The version it clashes with.
        version: u32,
        /// First difference that breaks readers.
        reason: String,
    },
    /// No such id or subject.
    #[error("{0}")]
    NotFound(String),
    /// It could not be reached or could not store.
    #[error("the schema registry is unavailable: {0}")]
    Unavailable(String),
}
