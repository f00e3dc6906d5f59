//! `set_key`: Kafka Connect's `ValueToKey`. The key becomes a STRUCT of fields of the row.
//!
//! Of an event, the row is `after`, and `before` for a delete. A tombstone has only the old key, so that it can't be given the
//! new one; with `tombstones: rewrite` each delete is followed by a tombstone of the new key, and those that come are dropped.
//!
//! An update that changes a field of the new key goes out under the new value, and nothing deletes what stands under the old one:
//! choose fields that do not change, as one would for a primary key.

use std::sync::Arc;

use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, ValueRef};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    chain::Transform,
    record::{Part, Record},
    refused,
    rows::{Images, SchemaCache, column},
    settings::parse,
    unavailable::Unavailable,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "set_key",
    fields: &[
        FieldDoc {
            path: "fields",
            kind: FieldKind::List,
            required: true,
            default: None,
            doc: "The fields of the row that make the new key, in this order. They must be there. A delete must carry them as well: \
                  unless they are part of the old key, the table has to send whole old rows (REPLICA IDENTITY FULL). Choose fields \
                  that updates do not change: nothing deletes what stands under an old value.",
            example: "[customer_id]",
        },
        FieldDoc::optional(
            "tombstones",
            FieldKind::Choice(&["rewrite", "keep", "drop"]),
            Some("rewrite"),
            "Tombstones carry the old key. `rewrite` makes one of the new key after each delete and drops those that come; `keep` \
             lets them pass with the old key; `drop` drops them.",
            "drop",
        ),
    ],
    build: |settings| {
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        if settings.fields.is_empty() {
            errors.push("fields", "must name at least one field");
        }
        for (index, name) in settings.fields.iter().enumerate() {
            if name.is_empty() || settings.fields.iter().take(index).any(|other| other == name) {
                errors.push("fields", format!("holds `{name}` twice, or an empty name"));
            }
        }
        errors.into_result()?;
        Ok(Box::new(SetKey { settings, plans: SchemaCache::default() }))
    },
};

#[derive(Deserialize)]
struct Settings {
    fields: Vec<String>,
    #[serde(default)]
    tombstones: Tombstones,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tombstones {
    #[default]
    Rewrite,
    Keep,
    Drop,
}

struct SetKey {
    settings: Settings,
    plans: SchemaCache<Plan>,
}

struct Plan {
    images: Images,
    /// Indices in the row.
    columns: Vec<usize>,
    key: Arc<Schema>,
}

impl Transform for SetKey {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let Some(schema) = record.value.schema().cloned() else {
            if self.settings.tombstones == Tombstones::Keep {
                out.push(record);
            }
            return Ok(());
        };
        let fields = &self.settings.fields;
        let plan = self.plans.get(&schema, |schema| Plan::of(schema, fields))?;
        let (row, deleted) = match plan.images {
            Images::Whole => (record.value.fields(&plan.columns)?, false),
            Images::Envelope { before, after } => {
                let wanted: Vec<usize> = [after].into_iter().chain(before).collect();
                let images = record.value.fields(&wanted)?;
                let row = images.iter().position(|image| image.as_struct().is_some());
                // A truncate has no row and no key.
                let Some(at) = row else {
                    out.push(record);
                    return Ok(());
                };
                let row = images.get(at).and_then(ValueRef::as_struct).unwrap_or(&[]);
                let value = |index: &usize| row.get(*index).cloned().unwrap_or(ValueRef::Absent);
                (plan.columns.iter().map(value).collect(), at > 0)
            }
        };
        let unavailable = Unavailable::of(&record.headers)?;
        for (name, value) in fields.iter().zip(&row) {
            if unavailable.contains(name) {
                let message = format!("the source did not send field `{name}`, which is part of the new key");
                return Err(refused("VALUE_UNAVAILABLE", message));
            }
            if deleted && value.is_null() && !in_key(&record.key, name) {
                return Err(no_field_of_delete(name));
            }
        }
        record.key = Part::Tree { schema: Arc::clone(&plan.key), value: ValueRef::Struct(row) };
        let tombstone = (deleted && self.settings.tombstones == Tombstones::Rewrite).then(|| {
            let mut headers = record.headers.clone();
            unavailable.rename(&mut headers, |_| Vec::new());
            Record { value: Part::Null, headers, ..record.clone() }
        });
        out.push(record);
        out.extend(tombstone);
        Ok(())
    }
}

impl Plan {
    fn of(schema: &Arc<Schema>, fields: &[String]) -> Result<Self, RecordError> {
        let (images, row) = Images::of(schema, "value")?;
        let name = match row.name() {
            Some(name) => format!("{}.Key", name.strip_suffix(".Value").unwrap_or(name)),
            None => "Key".to_owned(),
        };
        let mut builder = SchemaBuilder::structure().name(name);
        let mut columns = Vec::with_capacity(fields.len());
        for name in fields {
            let (index, schema) = column(&row, name, "fields")?;
            columns.push(index);
            builder = builder.field(name, schema);
        }
        Ok(Self { images, columns, key: builder.build() })
    }
}

fn in_key(key: &Part<'_>, name: &str) -> bool {
    key.schema().is_some_and(|schema| schema.field(name).is_some())
}

fn no_field_of_delete(name: &str) -> RecordError {
    let message = format!(
        "the delete does not carry field `{name}`, which is part of the new key; let the table send whole old rows \
         (REPLICA IDENTITY FULL), or choose fields of its primary key"
    );
    refused("VALUE_UNAVAILABLE", message)
}

#[cfg(test)]
mod tests;
