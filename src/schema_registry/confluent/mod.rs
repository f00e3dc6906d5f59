//! The client of an external schema registry with Confluent's REST API.
//!
//! What it guarantees, and why that holds:
//! - **An outage loses nothing and is seen.** A call that finds nobody tries every address again for a short while ([`servers`]) and
//!   then says [`RegistryError::Unavailable`]; the supervisor shows what the task waits for and restarts it from what is stored,
//!   for as long as it takes. What was registered or read once is remembered for the life of the process, so tables whose
//!   schemas are known go on without the registry.
//! - **What a person must change is not retried.** 4xx ends the call at once with the registry's own words; an incompatible
//!   schema is told field by field ([`conflict`]).
//! - **A repeated request does no harm.** Registering is idempotent, everything else only reads; so a request whose answer was
//!   lost is simply sent again.
//! - **No secret is said.** Errors name scheme, host and port; the authorization header goes only to the configured addresses,
//!   and redirects are not followed.

mod cache;
mod conflict;
mod servers;
mod settings;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Conflict, Level, RegistryError, SchemaRegistry, SubjectVersion, error::path_segment};
use cache::Cache;
use servers::{Ask, Reply, Servers};
pub use settings::{AuthConfig, Plan, RegistryKind, SchemaRegistryConfig};

/// An external registry.
pub struct ConfluentRegistry {
    servers: Servers,
    cache: Cache,
    auto_register: bool,
}

impl ConfluentRegistry {
    /// Connects nowhere yet: a daemon starts whether or not its registry is up.
    #[must_use]
    pub fn new(plan: Plan) -> Arc<Self> {
        let auto_register = plan.auto_register;
        Arc::new(Self { servers: Servers::new(plan), cache: Cache::default(), auto_register })
    }

    /// Scheme, host and port of every address, for people.
    #[must_use]
    pub fn origins(&self) -> String {
        self.servers.origins()
    }

    /// Whether it answers, and answers us. Reads nothing that grows.
    ///
    /// # Errors
    /// As every call.
    pub async fn probe(&self) -> Result<(), RegistryError> {
        match self.servers.ask(Ask::get("/schemas/types".to_owned())).await? {
            // Before 5.5 there was no such path: that it is a registry's 404 is answer enough.
            Reply::Said(_) | Reply::NotThere(_) => Ok(()),
            Reply::Conflict(words) | Reply::Invalid(words) => Err(unexpected(&words)),
        }
    }

    async fn register_schema(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        if let Some(id) = self.cache.id(subject, schema) {
            return Ok(id);
        }
        let id = if self.auto_register {
            self.send(subject, schema).await?
        } else {
            let found = self.find(subject, schema).await?;
            found.map(|found| found.id).ok_or_else(|| RegistryError::Refused {
                what: format!("the schema is not registered under subject `{subject}`"),
                remedy: "`schema_registry.auto_register` is `false`, so schemas are registered by somebody else: have this \
                         one registered, then restart the task; or set it to `true`",
            })?
        };
        self.cache.keep_id(subject, schema, id);
        Ok(id)
    }

    async fn send(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        #[derive(Deserialize)]
        struct Registered {
            id: u32,
        }
        let path = format!("/subjects/{}/versions", path_segment(subject));
        match self.servers.ask(Ask::post(path, &body(schema))).await? {
            Reply::Said(said) => read::<Registered>(said).map(|registered| registered.id),
            Reply::Conflict(words) => Err(self.conflict(subject, schema, words).await),
            Reply::Invalid(words) => Err(RegistryError::Invalid(words)),
            Reply::NotThere(words) => Err(RegistryError::NotFound(words)),
        }
    }

    async fn find(&self, subject: &str, schema: &str) -> Result<Option<SubjectVersion>, RegistryError> {
        let path = format!("/subjects/{}", path_segment(subject));
        optional(self.servers.ask(Ask::post(path, &body(schema))).await?)
    }

    async fn version(&self, subject: &str, version: &str) -> Result<Option<SubjectVersion>, RegistryError> {
        let path = format!("/subjects/{}/versions/{version}", path_segment(subject));
        optional(self.servers.ask(Ask::get(path)).await?)
    }

    async fn fetch(&self, id: u32) -> Result<Arc<str>, RegistryError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Stored {
            schema: Arc<str>,
            schema_type: Option<String>,
        }
        if let Some(schema) = self.cache.schema(id) {
            return Ok(schema);
        }
        let stored: Stored = match self.servers.ask(Ask::get(format!("/schemas/ids/{id}"))).await? {
            Reply::Said(said) => read(said)?,
            Reply::NotThere(words) => return Err(RegistryError::NotFound(words)),
            Reply::Conflict(words) | Reply::Invalid(words) => return Err(unexpected(&words)),
        };
        if let Some(other) = stored.schema_type.filter(|kind| kind != "AVRO") {
            return Err(RegistryError::Invalid(format!("schema {id} is of type {other}, expected AVRO")));
        }
        self.cache.keep_schema(id, &stored.schema);
        Ok(stored.schema)
    }

    async fn compatible(&self, subject: &str, schema: &str) -> Result<(), RegistryError> {
        #[derive(Deserialize)]
        struct Verdict {
            is_compatible: bool,
        }
        // All of them only when the level looks at all of them: some servers do not ask the level.
        let transitive = conflict::level(self, subject).await?.is_some_and(Level::is_transitive);
        let against = if transitive { "versions" } else { "versions/latest" };
        let path = format!("/compatibility/subjects/{}/{against}?verbose=true", path_segment(subject));
        let said = match self.servers.ask(Ask::post(path, &body(schema))).await? {
            Reply::Said(said) => said,
            // Anything may be the first version of a subject.
            Reply::NotThere(_) => return Ok(()),
            Reply::Invalid(words) => return Err(RegistryError::Invalid(words)),
            Reply::Conflict(words) => return Err(self.conflict(subject, schema, words).await),
        };
        let words = said.get("messages").map(Value::to_string).unwrap_or_default();
        if read::<Verdict>(said)?.is_compatible {
            return Ok(());
        }
        Err(self.conflict(subject, schema, words).await)
    }

    async fn conflict(&self, subject: &str, schema: &str, words: String) -> RegistryError {
        let conflict: Conflict = conflict::explain(self, subject, schema, words).await;
        RegistryError::Incompatible(Box::new(conflict))
    }
}

impl SchemaRegistry for ConfluentRegistry {
    fn register<'a>(
        &'a self,
        subject: &'a str,
        schema: &'a str,
    ) -> BoxFuture<'a, Result<u32, RegistryError>> {
        Box::pin(self.register_schema(subject, schema))
    }
    fn schema(&self, id: u32) -> BoxFuture<'_, Result<Arc<str>, RegistryError>> {
        Box::pin(self.fetch(id))
    }
    fn look_up<'a>(
        &'a self,
        subject: &'a str,
        schema: &'a str,
    ) -> BoxFuture<'a, Result<Option<SubjectVersion>, RegistryError>> {
        Box::pin(self.find(subject, schema))
    }
    fn latest<'a>(
        &'a self,
        subject: &'a str,
    ) -> BoxFuture<'a, Result<Option<SubjectVersion>, RegistryError>> {
        Box::pin(self.version(subject, "latest"))
    }
    fn check<'a>(&'a self, subject: &'a str, schema: &'a str) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(self.compatible(subject, schema))
    }
}

/// `schemaType` is left out: AVRO is the default, and older servers refuse members that they do not know.
fn body(schema: &str) -> Value {
    json!({ "schema": schema })
}

fn read<T: DeserializeOwned>(said: Value) -> Result<T, RegistryError> {
    serde_json::from_value(said).map_err(|e| unexpected(&e.to_string()))
}

fn optional(reply: Reply) -> Result<Option<SubjectVersion>, RegistryError> {
    match reply {
        Reply::Said(said) => read(said).map(Some),
        Reply::NotThere(_) => Ok(None),
        Reply::Invalid(words) => Err(RegistryError::Invalid(words)),
        Reply::Conflict(words) => Err(unexpected(&words)),
    }
}

/// An answer that Confluent's API does not have at this place.
fn unexpected(what: &str) -> RegistryError {
    RegistryError::Refused {
        what: format!("the answer is not what a schema registry answers here: {what}"),
        remedy: "check that `schema_registry.url` is the base address of a registry with Confluent's REST API",
    }
}
