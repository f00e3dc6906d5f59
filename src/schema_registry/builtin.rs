//! The built-in schema registry: ids and versions kept in the topic log.
//!
//! What it guarantees: an id once answered is durable and stands for the same schema forever; the same schema has
//! one id whoever registers it, under whichever subject, however many do at once.
//!
//! Why: changes are decided and written one at a time under an async lock, against a memory that equals the store. Where
//! other workers write too, the store refuses a write that was decided before one of theirs, and it is decided anew.
//! The memory changes only after the write is durable. A write that failed or whose caller went away midway may or
//! may not have happened, so the next change first reads the store again. Readers take no part in this: they look
//! at the memory under a lock that is never held across an await.

use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Conflict, Level, Refusal, RegistryError, SchemaDiff, SchemaRegistry,
    catalog::{Catalog, Edit, Entry},
    compatibility::{self, Incompatible},
    confluent_topic::TopicStored,
    schema_text::SchemaText,
    store::{SchemaStore, Shared, StateStored, Stored},
};
use crate::topic_log::{TopicLog, kafka::SchemasTopic};

pub use super::catalog::{Deleted, SubjectVersion, VersionChoice};

/// Times that a change is decided anew because another worker wrote first.
const ROUNDS_MAX: usize = 20;

/// The registry, shared by converters and the REST API.
pub struct BuiltinRegistry {
    store: Box<dyn SchemaStore>,
    catalog: RwLock<Catalog>,
    writer: Mutex<Memory>,
}

/// Whether the catalog is known to equal the store.
enum Memory {
    Current,
    Doubtful,
}

/// What a deletion leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// Hidden, but its number stays taken and it can still be read on request.
    Soft,
    /// Gone from the subject. Its schema can still be read by id, since records may carry it.
    Permanent,
}

impl BuiltinRegistry {
    /// Loads the registry from the log's state.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] when the state cannot be read or holds something else than was written.
    pub async fn open(log: Arc<dyn TopicLog>) -> Result<Arc<Self>, RegistryError> {
        Self::open_in(Box::new(StateStored(log))).await
    }

    /// Loads the registry from a topic of Confluent's format, which other workers read and write too.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_topic(topic: SchemasTopic) -> Result<Arc<Self>, RegistryError> {
        Self::open_in(Box::new(TopicStored::new(topic))).await
    }

    async fn open_in(store: Box<dyn SchemaStore>) -> Result<Arc<Self>, RegistryError> {
        let catalog = RwLock::new(store.load().await?);
        Ok(Arc::new(Self { store, catalog, writer: Mutex::new(Memory::Current) }))
    }

    /// Follows what other workers write, until `stop`, so that readers see it without asking.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.store.changed() => {}
            }
            if let Err(error) = self.reload().await {
                tracing::warn!(%error, "the schema registry could not read what was written to its topic");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
                }
            }
        }
    }

    async fn reload(&self) -> Result<(), Refusal> {
        let mut memory = self.writer.lock().await;
        *memory = Memory::Doubtful;
        self.replace(self.store.load().await?);
        *memory = Memory::Current;
        Ok(())
    }

    fn replace(&self, catalog: Catalog) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    /// Registers a schema under a subject, or finds it there; answers its id. Durable when it returns.
    ///
    /// # Errors
    /// [`Refusal::InvalidSchema`], [`Refusal::InvalidSubject`], [`Refusal::Incompatible`] or [`Refusal::Store`].
    pub async fn register_version(&self, subject: &str, schema: &str) -> Result<u32, Refusal> {
        valid_subject(subject)?;
        let known = self.read(|catalog| {
            let id = catalog.id_of_text(schema)?;
            catalog.find(subject, id, Deleted::Hidden).map(|_| id)
        });
        if let Some(id) = known {
            return Ok(id);
        }
        let schema = SchemaText::parse(schema)?;
        self.change(|catalog| {
            if let Some(id) = present(catalog, subject, &schema) {
                return Ok((Vec::new(), id));
            }
            check_level(catalog, subject, &schema)?;
            let version = catalog.next_version(subject);
            let set = |id| Edit::SetVersion {
                subject: subject.to_owned(),
                version,
                entry: Entry { id, deleted: false },
            };
            if let Some(id) = catalog.id_of(&schema) {
                return Ok((vec![set(id)], id));
            }
            let id = catalog.next_id()?;
            Ok((vec![Edit::AddSchema { id, schema: schema.clone() }, set(id)], id))
        })
        .await
    }

    /// The version under which a subject has this schema.
    ///
    /// # Errors
    /// Unknown subject, unknown schema, or no schema.
    pub fn look_up(&self, subject: &str, schema: &str, deleted: Deleted) -> Result<SubjectVersion, Refusal> {
        self.read(|catalog| {
            catalog.versions(subject, deleted)?;
            let schema = SchemaText::parse(schema)?;
            let id = catalog.id_of(&schema);
            let version = id.and_then(|id| catalog.find(subject, id, deleted));
            let version = version.ok_or_else(|| Refusal::SchemaNotFound(subject.to_owned()))?;
            Ok(catalog.version(subject, VersionChoice::Exactly(version), deleted)?.0)
        })
    }

    /// The schema behind an id, whether or not a subject still has it.
    ///
    /// # Errors
    /// [`Refusal::IdNotFound`].
    pub fn schema_text(&self, id: u32) -> Result<Arc<str>, Refusal> {
        self.read(|catalog| catalog.schema(id))
    }

    /// Subjects and versions that use an id.
    ///
    /// # Errors
    /// [`Refusal::IdNotFound`].
    pub fn uses(&self, id: u32, deleted: Deleted) -> Result<Vec<(String, u32)>, Refusal> {
        self.read(|catalog| catalog.schema(id).map(|_| catalog.uses(id, deleted)))
    }

    /// Subjects by name.
    #[must_use]
    pub fn subjects(&self, prefix: &str, deleted: Deleted) -> Vec<String> {
        self.read(|catalog| catalog.subjects(prefix, deleted))
    }

    /// A subject's versions, oldest first.
    ///
    /// # Errors
    /// [`Refusal::SubjectNotFound`].
    pub fn versions(&self, subject: &str, deleted: Deleted) -> Result<Vec<u32>, Refusal> {
        self.read(|catalog| catalog.versions(subject, deleted))
    }

    /// One version of a subject.
    ///
    /// # Errors
    /// [`Refusal::SubjectNotFound`] or [`Refusal::VersionNotFound`].
    pub fn version(
        &self,
        subject: &str,
        choice: VersionChoice,
        deleted: Deleted,
    ) -> Result<SubjectVersion, Refusal> {
        self.read(|catalog| catalog.version(subject, choice, deleted).map(|(found, _)| found))
    }

    /// Deletes one version; answers which.
    ///
    /// # Errors
    /// Not found, not soft-deleted before a permanent deletion, or [`Refusal::Store`].
    pub async fn delete_version(
        &self,
        subject: &str,
        choice: VersionChoice,
        deletion: Deletion,
    ) -> Result<u32, Refusal> {
        self.change(|catalog| {
            // "latest" means the newest living version, whatever is deleted behind it.
            let among = match choice {
                VersionChoice::Latest => Deleted::Hidden,
                VersionChoice::Exactly(_) => Deleted::Included,
            };
            let (found, entry) = catalog.version(subject, choice, among)?;
            let (subject, version) = (found.subject, found.version);
            let edit = match (deletion, entry.deleted) {
                (Deletion::Soft, true) => return Err(Refusal::VersionDeleted(subject, version)),
                (Deletion::Permanent, false) => return Err(Refusal::VersionNotDeleted(subject, version)),
                (Deletion::Soft, false) => {
                    Edit::SetVersion { subject, version, entry: Entry { deleted: true, ..entry } }
                }
                (Deletion::Permanent, true) => Edit::RemoveVersion { subject, version },
            };
            Ok((vec![edit], version))
        })
        .await
    }

    /// Deletes a subject and its own level; answers the versions deleted by this call.
    ///
    /// # Errors
    /// As [`BuiltinRegistry::delete_version`].
    pub async fn delete_subject(&self, subject: &str, deletion: Deletion) -> Result<Vec<u32>, Refusal> {
        self.change(|catalog| {
            catalog.versions(subject, Deleted::Included)?;
            let living = catalog.versions(subject, Deleted::Hidden).unwrap_or_default();
            let owned = || subject.to_owned();
            let entries = catalog.entries(subject);
            let mut edits: Vec<_> = match (deletion, living.is_empty()) {
                (Deletion::Soft, true) => return Err(Refusal::SubjectDeleted(owned())),
                (Deletion::Permanent, false) => return Err(Refusal::SubjectNotDeleted(owned())),
                (Deletion::Soft, false) => entries
                    .filter(|(_, entry)| !entry.deleted)
                    .map(|(version, entry)| Edit::SetVersion {
                        subject: owned(),
                        version,
                        entry: Entry { deleted: true, ..entry },
                    })
                    .collect(),
                (Deletion::Permanent, true) => {
                    entries.map(|(version, _)| Edit::RemoveVersion { subject: owned(), version }).collect()
                }
            };
            let versions = match deletion {
                Deletion::Soft => living,
                Deletion::Permanent => catalog.versions(subject, Deleted::Included)?,
            };
            if catalog.own_level(subject).is_ok() {
                edits.push(Edit::RemoveLevel { subject: Some(owned()) });
            }
            Ok((edits, versions))
        })
        .await
    }

    /// Whether a schema could follow: against one version, or (`None`) against those the subject's level looks at.
    ///
    /// # Errors
    /// No such version, or no schema. A clash is no error but `Some`.
    pub fn clash(
        &self,
        subject: &str,
        against: Option<VersionChoice>,
        schema: &str,
    ) -> Result<Option<Incompatible>, Refusal> {
        let schema = SchemaText::parse(schema)?;
        self.read(|catalog| {
            let level = catalog.level(subject);
            let Some(choice) = against else { return Ok(first_clash(catalog, subject, &schema)) };
            match catalog.version(subject, choice, Deleted::Hidden) {
                Ok((old, _)) => {
                    let json = stored_json(&old.schema)?;
                    Ok(compatibility::check(level, &schema.json, [(old.version, &json)]).err())
                }
                // Confluent: anything may be the first version of a subject.
                Err(Refusal::SubjectNotFound(_)) if choice == VersionChoice::Latest => Ok(None),
                Err(refusal) => Err(refusal),
            }
        })
    }

    /// The level of a subject, or the global one for `None`.
    ///
    /// # Errors
    /// [`Refusal::NoSubjectLevel`] when the subject has none of its own.
    pub fn level(&self, subject: Option<&str>) -> Result<Level, Refusal> {
        self.read(|catalog| {
            subject.map_or_else(|| Ok(catalog.global_level()), |subject| catalog.own_level(subject))
        })
    }

    /// Sets the level of a subject (which need not exist yet), or the global one for `None`.
    ///
    /// # Errors
    /// [`Refusal::InvalidSubject`] or [`Refusal::Store`].
    pub async fn set_level(&self, subject: Option<&str>, level: Level) -> Result<(), Refusal> {
        subject.map_or(Ok(()), valid_subject)?;
        let subject = subject.map(str::to_owned);
        self.change(|_| Ok((vec![Edit::SetLevel { subject: subject.clone(), level }], ()))).await
    }

    /// Removes a subject's own level, or sets the global one back to the default; answers what it was.
    ///
    /// # Errors
    /// [`Refusal::NoSubjectLevel`] or [`Refusal::Store`].
    pub async fn remove_level(&self, subject: Option<&str>) -> Result<Level, Refusal> {
        self.change(|catalog| {
            let was =
                subject.map_or_else(|| Ok(catalog.global_level()), |subject| catalog.own_level(subject))?;
            Ok((vec![Edit::RemoveLevel { subject: subject.map(str::to_owned) }], was))
        })
        .await
    }

    fn read<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Decides a change, writes it, then follows in memory. Cancel-safe: see the module's doc.
    async fn change<T>(
        &self,
        decide: impl Fn(&Catalog) -> Result<(Vec<Edit>, T), Refusal>,
    ) -> Result<T, Refusal> {
        let mut memory = self.writer.lock().await;
        for _ in 0..ROUNDS_MAX {
            match (self.store.prepare().await?, &*memory) {
                (Some(newer), _) => self.replace(newer),
                (None, Memory::Doubtful) => self.replace(self.store.load().await?),
                (None, Memory::Current) => {}
            }
            *memory = Memory::Current;
            let (edits, answer) = self.read(&decide)?;
            if edits.is_empty() {
                return Ok(answer);
            }
            *memory = Memory::Doubtful;
            let written = self.read(|catalog| self.store.write(catalog, &edits));
            if written.await? == Stored::Done {
                {
                    let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
                    edits.into_iter().for_each(|edit| catalog.apply(edit));
                }
                *memory = Memory::Current;
                return Ok(answer);
            }
        }
        Err(Refusal::Store(format!("other workers wrote first, {ROUNDS_MAX} times in a row; try again")))
    }
}

impl SchemaRegistry for BuiltinRegistry {
    fn register<'a>(
        &'a self,
        subject: &'a str,
        schema: &'a str,
    ) -> BoxFuture<'a, Result<u32, RegistryError>> {
        Box::pin(async move { Ok(self.register_version(subject, schema).await?) })
    }
    fn schema(&self, id: u32) -> BoxFuture<'_, Result<Arc<str>, RegistryError>> {
        Box::pin(async move {
            if self.schema_text(id).is_err() && self.store.shared() == Shared::WithOthers {
                // Another worker may have registered it a moment ago, and its records are here already.
                self.reload().await?;
            }
            Ok(self.schema_text(id)?)
        })
    }
    fn look_up<'a>(
        &'a self,
        subject: &'a str,
        schema: &'a str,
    ) -> BoxFuture<'a, Result<Option<SubjectVersion>, RegistryError>> {
        Box::pin(async move { found(self.look_up(subject, schema, Deleted::Hidden)) })
    }
    fn latest<'a>(
        &'a self,
        subject: &'a str,
    ) -> BoxFuture<'a, Result<Option<SubjectVersion>, RegistryError>> {
        Box::pin(async move { found(self.version(subject, VersionChoice::Latest, Deleted::Hidden)) })
    }
    fn check<'a>(&'a self, subject: &'a str, schema: &'a str) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(async move {
            let schema = SchemaText::parse(schema)?;
            Ok(self.read(|catalog| check_level(catalog, subject, &schema))?)
        })
    }
}

/// Not to be there is an answer, not an error.
fn found(answer: Result<SubjectVersion, Refusal>) -> Result<Option<SubjectVersion>, RegistryError> {
    match answer {
        Ok(version) => Ok(Some(version)),
        Err(Refusal::SubjectNotFound(_) | Refusal::SchemaNotFound(_)) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

fn present(catalog: &Catalog, subject: &str, schema: &SchemaText) -> Option<u32> {
    let id = catalog.id_of(schema)?;
    catalog.find(subject, id, Deleted::Hidden).map(|_| id)
}

fn check_level(catalog: &Catalog, subject: &str, schema: &SchemaText) -> Result<(), Refusal> {
    let Some(found) = first_clash(catalog, subject, schema) else { return Ok(()) };
    let (old, _) = catalog.version(subject, VersionChoice::Exactly(found.version), Deleted::Hidden)?;
    Err(Refusal::Incompatible(Box::new(Conflict {
        subject: subject.to_owned(),
        version: Some(found.version),
        level: Some(catalog.level(subject)),
        reason: found.reason,
        diff: SchemaDiff::between(&stored_json(&old.schema)?, &schema.json),
    })))
}

fn first_clash(catalog: &Catalog, subject: &str, schema: &SchemaText) -> Option<Incompatible> {
    let living = catalog.entries(subject).rev().filter(|(_, entry)| !entry.deleted);
    let older: Vec<(u32, Value)> = living
        .filter_map(|(version, entry)| Some((version, stored_json(&catalog.schema(entry.id).ok()?).ok()?)))
        .collect();
    let older = older.iter().map(|(version, json)| (*version, json));
    compatibility::check(catalog.level(subject), &schema.json, older).err()
}

/// Stored schemas were parsed when they were registered and when they were loaded.
fn stored_json(text: &str) -> Result<Value, Refusal> {
    serde_json::from_str(text).map_err(|e| Refusal::Store(format!("a stored schema is no JSON: {e}")))
}

fn valid_subject(subject: &str) -> Result<(), Refusal> {
    if subject.is_empty() || subject.chars().any(char::is_control) {
        return Err(Refusal::InvalidSubject(subject.escape_debug().to_string()));
    }
    Ok(())
}
