//! `by_logical_table`: Debezium's `ByLogicalTableRouter`. The shards of one table go to one topic.
//!
//! Unlike `route`, it gives keys and events the names of the topic that they go to, so that all shards have one schema there, and
//! puts the shard's name into the key, so that equal keys of two shards stay two keys. Tombstones follow.

use std::{collections::HashMap, sync::Arc};

use regex::Regex;
use rowstream_api::{
    ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, SchemaType, ValueRef,
};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    chain::Transform,
    record::Record,
    refused,
    rows::{Images, SchemaCache, like, type_word},
    settings::{Replacement, checked_topic, parse, whole_regex},
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "by_logical_table",
    fields: &[
        FieldDoc {
            path: "topic_regex",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "A regular expression over the whole name of the topic. Records of topics that it does not match pass as they are.",
            example: "(.*)orders_shard(.*)",
        },
        FieldDoc {
            path: "topic_replacement",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "The name of the topic to go to; `$1` and `${name}` stand for groups of `topic_regex`.",
            example: "$1orders_all_shards",
        },
        FieldDoc::optional(
            "key_enforce_uniqueness",
            FieldKind::Bool,
            Some("true"),
            "Whether keys get a field that tells the shards apart. Turn it off only if keys are unique over all shards.",
            "false",
        ),
        FieldDoc::optional(
            "key_field_name",
            FieldKind::Text,
            Some("__dbz__physicalTableIdentifier"),
            "The name of that field.",
            "shard",
        ),
        FieldDoc::optional(
            "key_field_regex",
            FieldKind::Text,
            None,
            "What that field holds is the name of the topic that the record comes from; with this expression over it, \
             `key_field_replacement`.",
            "(.*)_shard(.*)",
        ),
        FieldDoc::optional(
            "key_field_replacement",
            FieldKind::Text,
            None,
            "What to make of the name; `$1` and `${name}` stand for groups of `key_field_regex`.",
            "$2",
        ),
    ],
    build: |settings| {
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let topic = rule(
            ("topic_regex", &settings.topic_regex),
            ("topic_replacement", &settings.topic_replacement),
            &mut errors,
        );
        let shard = match (&settings.key_field_regex, &settings.key_field_replacement) {
            (Some(regex), Some(replacement)) => {
                rule(("key_field_regex", regex), ("key_field_replacement", replacement), &mut errors)
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                errors.push("key_field_regex", "goes with `key_field_replacement`; give both or neither");
                None
            }
        };
        if settings.key_field_name.is_empty() {
            errors.push("key_field_name", "must not be empty");
        }
        match topic {
            Some(topic) if errors.0.is_empty() => {
                let field = settings.key_enforce_uniqueness.then_some(settings.key_field_name);
                Ok(Box::new(ByLogicalTable {
                    topic,
                    shard,
                    field,
                    keys: SchemaCache::default(),
                    values: SchemaCache::default(),
                }))
            }
            Some(_) | None => Err(errors),
        }
    },
};

#[derive(Deserialize)]
struct Settings {
    topic_regex: String,
    topic_replacement: String,
    #[serde(default = "yes")]
    key_enforce_uniqueness: bool,
    #[serde(default = "field_name")]
    key_field_name: String,
    key_field_regex: Option<String>,
    key_field_replacement: Option<String>,
}

fn yes() -> bool {
    true
}

fn field_name() -> String {
    "__dbz__physicalTableIdentifier".to_owned()
}

/// An expression and what replaces what it matches.
type Rule = (Regex, Replacement);

fn rule(
    (regex_field, regex): (&str, &str),
    (field, replacement): (&str, &str),
    errors: &mut ConfigErrors,
) -> Option<Rule> {
    let regex = errors.take(regex_field, whole_regex(regex))?;
    let replacement = errors.take(field, Replacement::parse(replacement, &regex))?;
    Some((regex, replacement))
}

struct ByLogicalTable {
    topic: Rule,
    shard: Option<Rule>,
    /// Name of the key's new field.
    field: Option<String>,
    keys: SchemaCache<ByTopic>,
    values: SchemaCache<ByTopic>,
}

/// Schemas under the names of the topics that their records go to.
type ByTopic = HashMap<Arc<str>, Arc<Schema>>;

impl Transform for ByLogicalTable {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let (regex, replacement) = &self.topic;
        let Some(name) = replacement.apply(regex, &record.topic).filter(|name| !name.is_empty()) else {
            out.push(record);
            return Ok(());
        };
        let topic = checked_topic(&name, "`topic_replacement`")?;
        if let Some((schema, value)) = record.key.tree()? {
            let field = self.field.as_deref();
            let renamed = under(&mut self.keys, schema, &topic, |schema| key_of(schema, &topic, field))?;
            *schema = renamed;
            if let (Some(_), ValueRef::Struct(fields)) = (field, value) {
                let shard = self.shard.as_ref().and_then(|(regex, made)| made.apply(regex, &record.topic));
                fields.push(ValueRef::Str(shard.unwrap_or_else(|| record.topic.to_string()).into()));
            }
        }
        if record.value.schema().is_some_and(|schema| schema.is_envelope())
            && let Some((schema, _)) = record.value.tree()?
        {
            *schema = under(&mut self.values, schema, &topic, |schema| envelope_of(schema, &topic))?;
        }
        record.topic = topic;
        out.push(record);
        Ok(())
    }
}

fn under(
    cache: &mut SchemaCache<ByTopic>,
    schema: &Arc<Schema>,
    topic: &Arc<str>,
    make: impl FnOnce(&Arc<Schema>) -> Result<Arc<Schema>, RecordError>,
) -> Result<Arc<Schema>, RecordError> {
    let by_topic = cache.get(schema, |_| Ok(ByTopic::new()))?;
    if let Some(made) = by_topic.get(topic) {
        return Ok(Arc::clone(made));
    }
    let made = make(schema)?;
    by_topic.insert(Arc::clone(topic), Arc::clone(&made));
    Ok(made)
}

fn key_of(schema: &Arc<Schema>, topic: &str, field: Option<&str>) -> Result<Arc<Schema>, RecordError> {
    if schema.fields().is_empty() {
        let message =
            format!("the key is {}, expected a STRUCT to add the shard's name to", type_word(schema));
        return Err(refused("NOT_A_STRUCT", message));
    }
    let start = like(schema).name(format!("{topic}.Key"));
    let fields = schema.fields().iter();
    let mut builder = fields.fold(start, |b, field| b.field(&field.name, Arc::clone(&field.schema)));
    if let Some(name) = field {
        if schema.field(name).is_some() {
            return Err(refused(
                "FIELD_EXISTS",
                format!("the key has a field `{name}` already; choose another `key_field_name`"),
            ));
        }
        builder = builder.field(name, SchemaBuilder::new(SchemaType::String).build());
    }
    Ok(builder.build())
}

fn envelope_of(schema: &Arc<Schema>, topic: &str) -> Result<Arc<Schema>, RecordError> {
    let (images, row) = Images::of(schema, "value")?;
    let row = row.to_builder().name(format!("{topic}.Value")).build();
    Ok(images.over(schema, row).to_builder().name(format!("{topic}.Envelope")).build())
}

#[cfg(test)]
mod tests;
