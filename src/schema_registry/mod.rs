//! Schema registry: one interface, the built-in server, and the client of an external one.
//!
//! In reading order: [`BuiltinRegistry`] keeps everything in the topic log (`store`; on Kafka a topic of Confluent's format,
//! `confluent_topic`) and decides; [`rest`] puts it behind Confluent's REST API; [`ConfluentRegistry`] is the client of somebody
//! else's server with that API; [`compatibility`] and [`resolution`] answer which schema may follow which, [`diff`] tells a person
//! what changed; [`subject`] names subjects.

pub mod builtin;
mod catalog;
pub mod compatibility;
pub mod confluent;
mod confluent_topic;
pub mod diff;
mod error;
mod refusal;
pub mod resolution;
pub mod rest;
mod schema_text;
mod store;
pub mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use builtin::{BuiltinRegistry, SubjectVersion};
pub use compatibility::Level;
pub use confluent::ConfluentRegistry;
pub use diff::SchemaDiff;
pub(crate) use error::path_segment;
pub use error::{Conflict, RegistryError};
pub use refusal::Refusal;
pub use subject::{Part, SubjectStrategy};

/// What converters need of a registry. Implementations cache: registering what was registered and reading what was read are
/// cheap. Everything may be called by many at once, and dropped midway: what a dropped call would have stored may be stored or
/// not, and the next call finds out.
pub trait SchemaRegistry: Send + Sync + 'static {
    /// Registers a schema (Avro JSON) under a subject, or finds it there; answers its id. Durable when it returns.
    fn register<'a>(&'a self, subject: &'a str, schema: &'a str)
    -> BoxFuture<'a, Result<u32, RegistryError>>;
    /// The schema (Avro JSON) behind an id. An id stands for one schema forever.
    fn schema(&self, id: u32) -> BoxFuture<'_, Result<Arc<str>, RegistryError>>;
    /// The version under which a subject has this schema; `None` when it has not, or when there is no such subject.
    fn look_up<'a>(
        &'a self,
        subject: &'a str,
        schema: &'a str,
    ) -> BoxFuture<'a, Result<Option<SubjectVersion>, RegistryError>>;
    /// The newest version of a subject; `None` when there is no such subject.
    fn latest<'a>(&'a self, subject: &'a str)
    -> BoxFuture<'a, Result<Option<SubjectVersion>, RegistryError>>;
    /// Whether the subject's compatibility level lets a schema follow. Changes nothing.
    ///
    /// # Errors
    /// As `register` would answer, [`RegistryError::Incompatible`] among them.
    fn check<'a>(&'a self, subject: &'a str, schema: &'a str) -> BoxFuture<'a, Result<(), RegistryError>>;
}

/// Who has the schemas, for the admin server: it serves those of the built-in registry only.
#[derive(Clone)]
pub enum Schemas {
    /// This process.
    Builtin(Arc<BuiltinRegistry>),
    /// Another server, at these addresses.
    External(String),
}
