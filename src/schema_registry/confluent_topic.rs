//! The registry's catalog as records of Confluent's `_schemas` topic, so that Confluent's server could take it over.
//!
//! | key | value |
//! |---|---|
//! | `{"keytype":"SCHEMA","subject":s,"version":v,"magic":1}` | `{"subject":s,"version":v,"id":i,"schema":text,"deleted":b}` |
//! | `{"keytype":"CONFIG","subject":s or null,"magic":0}` | `{"compatibilityLevel":level}` |
//!
//! What Confluent's server writes besides is read too: `DELETE_SUBJECT` and `CLEAR_SUBJECT` count for the versions before them,
//! `NOOP` and `MODE` for nothing. A null value takes its key away. A schema whose last version is deleted for good stays under
//! [`KEPT`], soft-deleted, because records carry its id, and an id must never stand for another schema.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Level, Refusal,
    catalog::{Catalog, Edit, Entry},
    schema_text::SchemaText,
    store::{SchemaStore, Shared, Stored},
};
use crate::topic_log::{
    LogError,
    kafka::{SchemasTopic, Written},
};

/// The subject of schemas that no other subject has any more; a version of it is the schema's id.
const KEPT: &str = "rowstream.deleted-schemas";

/// A catalog in a topic that every worker follows.
pub(super) struct TopicStored {
    topic: SchemasTopic,
    /// Number of the topic's state that was loaded last.
    loaded: AtomicU64,
}

impl TopicStored {
    pub(super) fn new(topic: SchemasTopic) -> Self {
        Self { topic, loaded: AtomicU64::new(u64::MAX) }
    }
    fn read(&self) -> Result<Catalog, Refusal> {
        let (state, records) = self.topic.read();
        let catalog = parse(&records)?;
        self.loaded.store(state, Ordering::SeqCst);
        Ok(catalog)
    }
}

impl SchemaStore for TopicStored {
    fn load(&self) -> BoxFuture<'_, Result<Catalog, Refusal>> {
        Box::pin(async move {
            self.topic.caught_up().await.map_err(store)?;
            self.read()
        })
    }
    fn prepare(&self) -> BoxFuture<'_, Result<Option<Catalog>, Refusal>> {
        Box::pin(async move {
            self.topic.lead().await.map_err(store)?;
            let state = *self.topic.changes().borrow();
            if state == self.loaded.load(Ordering::SeqCst) { Ok(None) } else { self.read().map(Some) }
        })
    }
    fn write(&self, catalog: &Catalog, edits: &[Edit]) -> BoxFuture<'_, Result<Stored, Refusal>> {
        let records = records(catalog, edits);
        Box::pin(async move {
            match self.topic.write(records?).await.map_err(store)? {
                Written::Done => Ok(Stored::Done),
                Written::Lost => Ok(Stored::Lost),
            }
        })
    }
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut changes = self.topic.changes();
            let loaded = self.loaded.load(Ordering::SeqCst);
            if changes.wait_for(|state| *state != loaded).await.is_err() {
                // The log is closed: nothing comes any more.
                std::future::pending().await
            }
        })
    }
    fn shared(&self) -> Shared {
        Shared::WithOthers
    }
}

fn store(error: LogError) -> Refusal {
    Refusal::Store(rowstream_api::Chain(&error).to_string())
}

type Record = (Vec<u8>, Option<Vec<u8>>);

/// The records of edits; each version carries its schema's text.
fn records(catalog: &Catalog, edits: &[Edit]) -> Result<Vec<Record>, Refusal> {
    let added = |wanted: u32| {
        edits.iter().find_map(|edit| match edit {
            Edit::AddSchema { id, schema } if *id == wanted => Some(Arc::clone(&schema.text)),
            Edit::AddSchema { .. }
            | Edit::SetVersion { .. }
            | Edit::RemoveVersion { .. }
            | Edit::SetLevel { .. }
            | Edit::RemoveLevel { .. } => None,
        })
    };
    let mut records = Vec::new();
    for edit in edits {
        match edit {
            // It has no record of its own: the version that comes with it tells it.
            Edit::AddSchema { .. } => {}
            Edit::SetVersion { subject, version, entry } => {
                let text = added(entry.id).map_or_else(|| catalog.schema(entry.id), Ok)?;
                records.push((
                    schema_key(subject, *version),
                    Some(schema_value(subject, *version, *entry, &text)),
                ));
            }
            Edit::RemoveVersion { subject, version } => {
                records.push((schema_key(subject, *version), None));
                let gone = catalog.entries(subject).find(|(v, _)| v == version).map(|(_, entry)| entry.id);
                if let Some(id) = gone {
                    let kept = Entry { id, deleted: true };
                    let text = catalog.schema(id)?;
                    records.push((schema_key(KEPT, id), Some(schema_value(KEPT, id, kept, &text))));
                }
            }
            Edit::SetLevel { subject, level } => {
                let value = json!({ "compatibilityLevel": level.as_str() }).to_string().into_bytes();
                records.push((config_key(subject.as_deref()), Some(value)));
            }
            Edit::RemoveLevel { subject } => records.push((config_key(subject.as_deref()), None)),
        }
    }
    Ok(records)
}

fn schema_key(subject: &str, version: u32) -> Vec<u8> {
    json!({ "keytype": "SCHEMA", "subject": subject, "version": version, "magic": 1 })
        .to_string()
        .into_bytes()
}

fn schema_value(subject: &str, version: u32, entry: Entry, text: &str) -> Vec<u8> {
    let Entry { id, deleted } = entry;
    json!({ "subject": subject, "version": version, "id": id, "schema": text, "deleted": deleted })
        .to_string()
        .into_bytes()
}

fn config_key(subject: Option<&str>) -> Vec<u8> {
    json!({ "keytype": "CONFIG", "subject": subject, "magic": 0 }).to_string().into_bytes()
}

#[derive(Deserialize)]
struct Key {
    keytype: String,
    subject: Option<String>,
    version: Option<u32>,
}

#[derive(Deserialize)]
struct SchemaValue {
    id: u32,
    schema: String,
    #[serde(default)]
    deleted: bool,
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
}

#[derive(Deserialize)]
struct ConfigValue {
    #[serde(rename = "compatibilityLevel")]
    level: Option<String>,
}

#[derive(Deserialize)]
struct DeletedValue {
    version: u32,
}

/// What the topic's records, oldest first, come to.
fn parse(records: &[(Bytes, Bytes)]) -> Result<Catalog, Refusal> {
    let mut catalog = Catalog::default();
    for (key_bytes, value) in records {
        let key: Key = serde_json::from_slice(key_bytes).map_err(|_| damaged(key_bytes))?;
        let subject = key.subject.as_deref();
        match (key.keytype.as_str(), subject, key.version) {
            ("SCHEMA", Some(subject), Some(version)) => {
                let value: SchemaValue = serde_json::from_slice(value).map_err(|_| damaged(key_bytes))?;
                add(&mut catalog, subject, version, &value).map_err(|()| damaged(key_bytes))?;
            }
            ("CONFIG", subject, _) => {
                let value: ConfigValue = serde_json::from_slice(value).map_err(|_| damaged(key_bytes))?;
                let level = value
                    .level
                    .map(|name| Level::parse(&name))
                    .transpose()
                    .map_err(|_| damaged(key_bytes))?;
                if let Some(level) = level {
                    catalog.apply(Edit::SetLevel { subject: subject.map(str::to_owned), level });
                }
            }
            ("DELETE_SUBJECT" | "CLEAR_SUBJECT", Some(subject), _) => {
                let last = serde_json::from_slice::<DeletedValue>(value).map_or(u32::MAX, |v| v.version);
                delete(&mut catalog, subject, last, key.keytype == "CLEAR_SUBJECT");
            }
            // A leader's sign of life, modes and contexts, which are not served here.
            (other, ..) => {
                tracing::trace!(keytype = other, "a record of the schemas topic says nothing to us")
            }
        }
    }
    Ok(catalog)
}

fn add(catalog: &mut Catalog, subject: &str, version: u32, value: &SchemaValue) -> Result<(), ()> {
    // Protobuf and JSON Schema are not read here, but their ids are taken.
    let avro = value.schema_type.as_deref().is_none_or(|t| t == "AVRO");
    let json: Value = if avro {
        serde_json::from_str(&value.schema).map_err(|_| ())?
    } else {
        Value::String(value.schema.clone())
    };
    if catalog.schema(value.id).is_err() {
        catalog.apply(Edit::AddSchema { id: value.id, schema: SchemaText::of(json) });
    }
    if avro && subject != KEPT {
        let entry = Entry { id: value.id, deleted: value.deleted };
        catalog.apply(Edit::SetVersion { subject: subject.to_owned(), version, entry });
    }
    Ok(())
}

fn delete(catalog: &mut Catalog, subject: &str, last: u32, for_good: bool) {
    let versions: BTreeMap<u32, Entry> = catalog.entries(subject).filter(|(v, _)| *v <= last).collect();
    for (version, entry) in versions {
        let subject = subject.to_owned();
        catalog.apply(if for_good {
            Edit::RemoveVersion { subject, version }
        } else {
            Edit::SetVersion { subject, version, entry: Entry { deleted: true, ..entry } }
        });
    }
}

fn damaged(key: &Bytes) -> Refusal {
    Refusal::Store(format!(
        "the record {} of the schemas topic is not what a registry writes",
        key.escape_ascii()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema_registry::catalog::{Deleted, VersionChoice};

    const INT: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;

    fn row(key: &str, value: &str) -> (Bytes, Bytes) {
        (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
    }

    /// Applies edits as the topic does: the newest value of each key, in the order of writing.
    fn through_the_topic(steps: &[&[Edit]]) -> Vec<(Bytes, Bytes)> {
        let mut topic: Vec<(Bytes, Bytes)> = Vec::new();
        for edits in steps {
            for (key, value) in records(&parse(&topic).unwrap(), edits).unwrap() {
                topic.retain(|(k, _)| *k != key[..]);
                topic.extend(value.map(|v| (Bytes::from(key), Bytes::from(v))));
            }
        }
        topic
    }

    fn add_version(id: u32, subject: &str, version: u32) -> Vec<Edit> {
        let schema = SchemaText::parse(INT).unwrap();
        let entry = Entry { id, deleted: false };
        vec![Edit::AddSchema { id, schema }, Edit::SetVersion { subject: subject.into(), version, entry }]
    }

    #[test]
    fn a_version_is_one_record_of_confluents_shape() {
        let topic = through_the_topic(&[&add_version(1, "s-value", 1)]);
        let [(key, value)] = &topic[..] else { panic!("{topic:?}") };
        assert_eq!(&key[..], br#"{"keytype":"SCHEMA","subject":"s-value","version":1,"magic":1}"#);
        let value: Value = serde_json::from_slice(value).unwrap();
        assert_eq!(
            value,
            json!({"subject": "s-value", "version": 1, "id": 1, "schema": INT, "deleted": false})
        );
        let catalog = parse(&topic).unwrap();
        let (found, _) = catalog.version("s-value", VersionChoice::Latest, Deleted::Hidden).unwrap();
        assert_eq!((found.id, &*found.schema), (1, INT));
    }

    #[test]
    fn an_id_survives_the_deletion_of_its_last_version() {
        let remove = [Edit::RemoveVersion { subject: "s".into(), version: 1 }];
        let catalog = parse(&through_the_topic(&[&add_version(1, "s", 1), &remove])).unwrap();
        assert_eq!(&*catalog.schema(1).unwrap(), INT);
        assert_eq!(catalog.next_id().unwrap(), 2);
        assert_eq!(catalog.subjects("", Deleted::Included), Vec::<String>::new());
    }

    #[test]
    fn levels_come_and_go() {
        let set = [
            Edit::SetLevel { subject: None, level: Level::Full },
            Edit::SetLevel { subject: Some("s".into()), level: Level::None },
        ];
        let catalog = parse(&through_the_topic(&[&set])).unwrap();
        assert_eq!((catalog.global_level(), catalog.level("s")), (Level::Full, Level::None));
        let gone = [Edit::RemoveLevel { subject: Some("s".into()) }];
        let catalog = parse(&through_the_topic(&[&set, &gone])).unwrap();
        assert_eq!(catalog.level("s"), Level::Full);
    }

    #[test]
    fn what_confluents_server_wrote_is_read() {
        let schema = |subject: &str, version: u32, id: u32| {
            let key =
                format!(r#"{{"keytype":"SCHEMA","subject":"{subject}","version":{version},"magic":1}}"#);
            let value = json!({"subject": subject, "version": version, "id": id, "md5Bytes": "x", "schema": INT, "deleted": false});
            row(&key, &value.to_string())
        };
        let topic = [
            row(r#"{"keytype":"NOOP","magic":0}"#, "null"),
            schema("a", 1, 1),
            schema("b", 1, 1),
            row(r#"{"keytype":"DELETE_SUBJECT","subject":"a","magic":0}"#, r#"{"subject":"a","version":1}"#),
            schema("a", 2, 1),
            row(
                r#"{"keytype":"CONFIG","subject":null,"magic":0}"#,
                r#"{"alias":null,"compatibilityLevel":"FORWARD"}"#,
            ),
            row(
                r#"{"keytype":"SCHEMA","subject":"p","version":1,"magic":1}"#,
                r#"{"subject":"p","version":1,"id":9,"schemaType":"PROTOBUF","schema":"syntax","deleted":false}"#,
            ),
        ];
        let catalog = parse(&topic).unwrap();
        assert_eq!(catalog.versions("a", Deleted::Hidden).unwrap(), [2]);
        assert_eq!(catalog.versions("a", Deleted::Included).unwrap(), [1, 2]);
        assert_eq!(catalog.versions("b", Deleted::Hidden).unwrap(), [1]);
        assert_eq!(catalog.global_level(), Level::Forward);
        assert_eq!(catalog.next_id().unwrap(), 10);
        assert!(parse(&[row("?", "?")]).is_err());
    }
}
