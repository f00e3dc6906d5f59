//! Everything the registry knows, in memory, and how it is kept in the topic log's state.
//!
//! One change is an [`Edit`]; it has one form on disk ([`Edit::op`]) and one in memory ([`Catalog::apply`]), so
//! that loading what was stored gives what was applied. Tables:
//!
//! | table | key → value |
//! |---|---|
//! | `schemas` | id, ten digits → schema JSON |
//! | `subjects` | subject `/` version → `{"id", "deleted"}` |
//! | `registry_config` | `global` or `subject/` subject → level |
//!
//! A schema is never removed, not even with its last subject: records in the log carry its id, and an id that once
//! stood for one schema must not stand for another. So the id after the largest is always free, and `schema_ids`
//! (text to id) need not be stored: it is the inverse of `schemas`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Level, Refusal, schema_text::SchemaText};
use crate::topic_log::StateOp;

pub(super) const SCHEMAS: &str = "schemas";
pub(super) const SUBJECTS: &str = "subjects";
pub(super) const CONFIG: &str = "registry_config";

type Entries = Vec<(String, Bytes)>;

/// The registry's memory.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    schemas: BTreeMap<u32, Arc<str>>,
    /// By canonical text.
    ids: HashMap<String, u32>,
    /// By text as first registered: finds a known schema without parsing.
    ids_by_text: HashMap<Arc<str>, u32>,
    subjects: BTreeMap<String, BTreeMap<u32, Entry>>,
    global_level: Option<Level>,
    levels: BTreeMap<String, Level>,
}

/// One version of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) deleted: bool,
}

/// A version as Confluent answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectVersion {
    /// Subject.
    pub subject: String,
    /// Schema id.
    pub id: u32,
    /// Version, from 1.
    pub version: u32,
    /// Avro JSON.
    pub schema: Arc<str>,
}

/// Which version is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChoice {
    /// The newest that is not deleted.
    Latest,
    /// This one.
    Exactly(u32),
}

/// Whether soft-deleted versions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// They are not there.
    Hidden,
    /// They are.
    Included,
    /// Only they are.
    Only,
}

impl Deleted {
    fn shows(self, entry: &Entry) -> bool {
        match self {
            Self::Hidden => !entry.deleted,
            Self::Included => true,
            Self::Only => entry.deleted,
        }
    }
}

/// One change.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    AddSchema {
        id: u32,
        schema: SchemaText,
    },
    SetVersion {
        subject: String,
        version: u32,
        entry: Entry,
    },
    RemoveVersion {
        subject: String,
        version: u32,
    },
    /// `None` is the global level.
    SetLevel {
        subject: Option<String>,
        level: Level,
    },
    RemoveLevel {
        subject: Option<String>,
    },
}

impl Edit {
    /// The change on disk.
    pub(super) fn op(&self) -> StateOp {
        match self {
            Self::AddSchema { id, schema } => put(SCHEMAS, format!("{id:010}"), schema.text.to_string()),
            Self::SetVersion { subject, version, entry } => {
                let value = format!(r#"{{"id":{},"deleted":{}}}"#, entry.id, entry.deleted);
                put(SUBJECTS, version_key(subject, *version), value)
            }
            Self::RemoveVersion { subject, version } => delete(SUBJECTS, version_key(subject, *version)),
            Self::SetLevel { subject, level } => {
                put(CONFIG, level_key(subject.as_deref()), level.as_str().to_owned())
            }
            Self::RemoveLevel { subject } => delete(CONFIG, level_key(subject.as_deref())),
        }
    }
}

impl Catalog {
    /// Reads back what was stored; the error names the entry that is damaged.
    pub(super) fn load(schemas: Entries, subjects: Entries, config: Entries) -> Result<Self, Refusal> {
        let mut catalog = Self::default();
        for (key, value) in schemas {
            let id = key.parse().ok();
            let json = serde_json::from_slice(&value).ok();
            let (Some(id), Some(json)) = (id, json) else { return Err(damaged(SCHEMAS, &key)) };
            catalog.apply(Edit::AddSchema { id, schema: SchemaText::of(json) });
        }
        for (key, value) in subjects {
            let place =
                key.rsplit_once('/').and_then(|(subject, v)| Some((subject.to_owned(), v.parse().ok()?)));
            let entry: Option<Entry> = serde_json::from_slice(&value).ok();
            let known = entry.filter(|entry| catalog.schemas.contains_key(&entry.id));
            let (Some((subject, version)), Some(entry)) = (place, known) else {
                return Err(damaged(SUBJECTS, &key));
            };
            catalog.apply(Edit::SetVersion { subject, version, entry });
        }
        for (key, value) in config {
            let level = std::str::from_utf8(&value).ok().and_then(|name| Level::parse(name).ok());
            let subject = key.split_once('/').map(|(_, subject)| subject.to_owned());
            let level = level.ok_or_else(|| damaged(CONFIG, &key))?;
            catalog.apply(Edit::SetLevel { subject, level });
        }
        Ok(catalog)
    }

    /// The change in memory.
    pub(super) fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::AddSchema { id, schema } => {
                self.ids_by_text.insert(schema.text.clone(), id);
                self.schemas.insert(id, schema.text);
                self.ids.insert(schema.canonical, id);
            }
            Edit::SetVersion { subject, version, entry } => {
                self.subjects.entry(subject).or_default().insert(version, entry);
            }
            Edit::RemoveVersion { subject, version } => {
                if let Some(versions) = self.subjects.get_mut(&subject) {
                    versions.remove(&version);
                    if versions.is_empty() {
                        self.subjects.remove(&subject);
                    }
                }
            }
            Edit::SetLevel { subject: None, level } => self.global_level = Some(level),
            Edit::SetLevel { subject: Some(subject), level } => {
                self.levels.insert(subject, level);
            }
            Edit::RemoveLevel { subject: None } => self.global_level = None,
            Edit::RemoveLevel { subject: Some(subject) } => {
                self.levels.remove(&subject);
            }
        }
    }

    pub(super) fn schema(&self, id: u32) -> Result<Arc<str>, Refusal> {
        self.schemas.get(&id).cloned().ok_or(Refusal::IdNotFound(id))
    }

    /// The id of a schema in exactly this text.
    pub(super) fn id_of_text(&self, text: &str) -> Option<u32> {
        self.ids_by_text.get(text).copied()
    }

    /// The id a schema has.
    pub(super) fn id_of(&self, schema: &SchemaText) -> Option<u32> {
        self.ids.get(&schema.canonical).copied()
    }

    pub(super) fn next_id(&self) -> Result<u32, Refusal> {
        let last = self.schemas.keys().next_back().copied().unwrap_or(0);
        // Confluent's framing and clients take ids as signed 32 bits.
        last.checked_add(1)
            .filter(|id| i32::try_from(*id).is_ok())
            .ok_or_else(|| Refusal::Store("all 2^31-1 schema ids are used up".into()))
    }

    /// The next version of a subject; soft-deleted versions keep their numbers.
    pub(super) fn next_version(&self, subject: &str) -> u32 {
        self.entries(subject).last().map_or(1, |(version, _)| version.saturating_add(1))
    }

    /// A subject's versions in order, deleted ones too; none for an unknown subject.
    pub(super) fn entries(&self, subject: &str) -> impl DoubleEndedIterator<Item = (u32, Entry)> + '_ {
        self.subjects.get(subject).into_iter().flatten().map(|(version, entry)| (*version, *entry))
    }

    /// The newest version under which a subject has this id.
    pub(super) fn find(&self, subject: &str, id: u32, deleted: Deleted) -> Option<u32> {
        self.entries(subject).rfind(|(_, e)| e.id == id && deleted.shows(e)).map(|(version, _)| version)
    }

    pub(super) fn versions(&self, subject: &str, deleted: Deleted) -> Result<Vec<u32>, Refusal> {
        let shown: Vec<_> =
            self.entries(subject).filter(|(_, e)| deleted.shows(e)).map(|(version, _)| version).collect();
        if shown.is_empty() { Err(Refusal::SubjectNotFound(subject.to_owned())) } else { Ok(shown) }
    }

    pub(super) fn version(
        &self,
        subject: &str,
        choice: VersionChoice,
        deleted: Deleted,
    ) -> Result<(SubjectVersion, Entry), Refusal> {
        self.versions(subject, deleted)?;
        let mut shown = self.entries(subject).filter(|(_, e)| deleted.shows(e));
        let found = match choice {
            VersionChoice::Latest => shown.next_back(),
            VersionChoice::Exactly(version) => shown.find(|(v, _)| *v == version),
        };
        let (version, entry) = found.ok_or_else(|| match choice {
            VersionChoice::Latest => Refusal::VersionNotFound("latest".into()),
            VersionChoice::Exactly(version) => Refusal::VersionNotFound(version.to_string()),
        })?;
        let schema = self.schema(entry.id)?;
        Ok((SubjectVersion { subject: subject.to_owned(), id: entry.id, version, schema }, entry))
    }

    pub(super) fn subjects(&self, prefix: &str, deleted: Deleted) -> Vec<String> {
        let shown = |subject: &&String| {
            // A subject is deleted when all of its versions are.
            let all_deleted = self.entries(subject).all(|(_, e)| e.deleted);
            subject.starts_with(prefix) && deleted.shows(&Entry { id: 0, deleted: all_deleted })
        };
        self.subjects.keys().filter(shown).cloned().collect()
    }

    /// Where an id is used, by subject and version.
    pub(super) fn uses(&self, id: u32, deleted: Deleted) -> Vec<(String, u32)> {
        let uses = |(subject, versions): (&String, &BTreeMap<u32, Entry>)| {
            let of_id = versions.iter().filter(|(_, e)| e.id == id && deleted.shows(e));
            of_id.map(|(version, _)| (subject.clone(), *version)).collect::<Vec<_>>()
        };
        self.subjects.iter().flat_map(uses).collect()
    }

    /// The level that applies to a subject.
    pub(super) fn level(&self, subject: &str) -> Level {
        self.levels.get(subject).copied().unwrap_or_else(|| self.global_level())
    }

    pub(super) fn own_level(&self, subject: &str) -> Result<Level, Refusal> {
        self.levels.get(subject).copied().ok_or_else(|| Refusal::NoSubjectLevel(subject.to_owned()))
    }

    pub(super) fn global_level(&self) -> Level {
        self.global_level.unwrap_or_default()
    }
}

fn put(table: &str, key: String, value: String) -> StateOp {
    StateOp::Put { table: table.to_owned(), key, value: value.into() }
}

fn delete(table: &str, key: String) -> StateOp {
    StateOp::Delete { table: table.to_owned(), key }
}

fn version_key(subject: &str, version: u32) -> String {
    format!("{subject}/{version:010}")
}

fn level_key(subject: Option<&str>) -> String {
    subject.map_or_else(|| "global".to_owned(), |subject| format!("subject/{subject}"))
}

fn damaged(table: &str, key: &str) -> Refusal {
    Refusal::Store(format!(
        "entry `{key}` of table `{table}` in the topic log's state is not what was written"
    ))
}
