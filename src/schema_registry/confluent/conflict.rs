//! Why a registry refused a schema, told as the built-in registry tells it.
//!
//! The registry says only that a schema is incompatible, each server in its own words. What a person needs is the version it
//! clashes with and what changed since; so the subject's level and versions are read and compared here. When they can't be read,
//! or when our comparison finds nothing (a rule that only this server knows), the registry's words stand alone.

use serde_json::Value;

use super::{
    ConfluentRegistry,
    servers::{Ask, Reply},
};
use crate::schema_registry::{
    Conflict, Level, RegistryError, SchemaDiff, SubjectVersion, compatibility, error::path_segment,
};

/// Versions looked at, newest first; a level that looks further back is explained by the newest version.
const VERSIONS_MAX: usize = 20;

pub(super) async fn explain(
    registry: &ConfluentRegistry,
    subject: &str,
    schema: &str,
    words: String,
) -> Conflict {
    let conflict = look(registry, subject, schema, &words).await.unwrap_or_else(|error| {
        tracing::debug!(subject, %error, "a conflict can't be looked into");
        None
    });
    conflict.unwrap_or_else(|| Conflict {
        subject: subject.to_owned(),
        version: None,
        level: None,
        reason: words,
        diff: SchemaDiff::default(),
    })
}

async fn look(
    registry: &ConfluentRegistry,
    subject: &str,
    schema: &str,
    words: &str,
) -> Result<Option<Conflict>, RegistryError> {
    let Ok(new) = serde_json::from_str::<Value>(schema) else { return Ok(None) };
    let level = level(registry, subject).await?;
    let olds = versions(registry, subject, level).await?;
    let parsed: Vec<(u32, Value)> =
        olds.iter().filter_map(|old| Some((old.version, serde_json::from_str(&old.schema).ok()?))).collect();
    let Some((newest, _)) = parsed.first() else { return Ok(None) };
    let older = parsed.iter().map(|(version, old)| (*version, old));
    let found = level.and_then(|level| compatibility::check(level, &new, older).err());
    let (version, reason) =
        found.map_or_else(|| (*newest, words.to_owned()), |found| (found.version, found.reason));
    let old = parsed.iter().find(|(number, _)| *number == version).map(|(_, old)| old);
    let diff = old.map(|old| SchemaDiff::between(old, &new)).unwrap_or_default();
    Ok(Some(Conflict { subject: subject.to_owned(), version: Some(version), level, reason, diff }))
}

/// The level that holds for a subject, its own or the global one; `None` for a word that is none of Confluent's.
pub(super) async fn level(
    registry: &ConfluentRegistry,
    subject: &str,
) -> Result<Option<Level>, RegistryError> {
    let path = format!("/config/{}?defaultToGlobal=true", path_segment(subject));
    let Reply::Said(said) = registry.servers.ask(Ask::get(path)).await? else { return Ok(None) };
    let name = said.get("compatibilityLevel").and_then(Value::as_str);
    Ok(name.and_then(|name| Level::parse(name).ok()))
}

/// Newest first; only the newest when the level looks no further.
async fn versions(
    registry: &ConfluentRegistry,
    subject: &str,
    level: Option<Level>,
) -> Result<Vec<SubjectVersion>, RegistryError> {
    let path = format!("/subjects/{}/versions", path_segment(subject));
    let Reply::Said(said) = registry.servers.ask(Ask::get(path)).await? else { return Ok(Vec::new()) };
    let mut numbers: Vec<u32> = serde_json::from_value(said).unwrap_or_default();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let depth = if level.is_some_and(Level::is_transitive) { VERSIONS_MAX } else { 1 };
    let mut found = Vec::new();
    for number in numbers.into_iter().take(depth) {
        found.extend(registry.version(subject, &number.to_string()).await?);
    }
    Ok(found)
}
