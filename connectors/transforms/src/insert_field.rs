//! `insert_field`: Kafka Connect's `InsertField`. The record's topic, its timestamp or a fixed text as fields of its rows.

use std::sync::Arc;

use rowstream_api::{
    ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, SchemaType, ValueRef,
};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    fields::ON_FIELD,
    refused,
    rows::{On, OverRows, Planning, RowStep, Surroundings, like},
    settings::parse,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "insert_field",
    fields: &[
        FieldDoc::optional(
            "topic_field",
            FieldKind::Text,
            None,
            "The field that gets the name of the record's topic. Here and below a name that ends in `!` makes a field that does not \
             allow null, one that ends in `?`, or in neither, one that does.",
            "topic!",
        ),
        FieldDoc::optional(
            "timestamp_field",
            FieldKind::Text,
            None,
            "The field that gets the record's timestamp, which for a source is the time of the commit, as Connect's Timestamp.",
            "committed_at",
        ),
        FieldDoc::optional(
            "static_field",
            FieldKind::Text,
            None,
            "The field that gets `static_value`.",
            "origin",
        ),
        FieldDoc::optional("static_value", FieldKind::Text, None, "The text in `static_field`.", "shop"),
        ON_FIELD,
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            topic_field: Option<String>,
            timestamp_field: Option<String>,
            static_field: Option<String>,
            static_value: Option<String>,
            #[serde(default)]
            on: On,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        if settings.static_field.is_some() != settings.static_value.is_some() {
            errors.push("static_field", "goes with `static_value`; give both or neither");
        }
        let text = settings.static_value.unwrap_or_default();
        let typed = [
            ("topic_field", settings.topic_field, What::Topic),
            ("timestamp_field", settings.timestamp_field, What::Timestamp),
            ("static_field", settings.static_field, What::Text(text)),
        ];
        let mut inserted: Vec<Inserted> = Vec::new();
        for (setting, name, what) in typed {
            let Some(name) = name else { continue };
            let optional = !name.ends_with('!');
            let name = name.strip_suffix(['!', '?']).unwrap_or(&name).to_owned();
            if name.is_empty() || inserted.iter().any(|other| other.name == name) {
                errors.push(setting, "is empty, or names a field that another setting names as well");
            }
            inserted.push(Inserted { name, optional, what });
        }
        if inserted.is_empty() {
            errors.push("", "expected `topic_field`, `timestamp_field` or `static_field`");
        }
        errors.into_result()?;
        Ok(OverRows::boxed(InsertField(inserted), settings.on))
    },
};

struct InsertField(Vec<Inserted>);

struct Inserted {
    name: String,
    optional: bool,
    what: What,
}

enum What {
    Topic,
    Timestamp,
    Text(String),
}

impl RowStep for InsertField {
    type Plan = ();

    fn plan(&self, row: &Arc<Schema>) -> Planning<()> {
        let fields = row.fields().iter();
        let mut builder = fields.fold(like(row), |b, field| b.field(&field.name, Arc::clone(&field.schema)));
        for Inserted { name, optional, what } in &self.0 {
            if row.field(name).is_some() {
                return Err(refused("FIELD_EXISTS", format!("the row has a field `{name}` already")));
            }
            let schema = match what {
                What::Topic | What::Text(_) => SchemaBuilder::new(SchemaType::String),
                What::Timestamp => SchemaBuilder::new(SchemaType::Int64)
                    .name("org.apache.kafka.connect.data.Timestamp")
                    .version(1),
            };
            builder = builder.field(name, schema.optional_if(*optional).build());
        }
        Ok(Some((builder.build(), ())))
    }

    fn row<'a>(
        &self,
        (): &(),
        mut row: Vec<ValueRef<'a>>,
        around: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError> {
        row.extend(self.0.iter().map(|inserted| match &inserted.what {
            What::Topic => ValueRef::Str(around.topic.to_string().into()),
            What::Timestamp => ValueRef::Int(around.timestamp_ms),
            What::Text(text) => ValueRef::Str(text.clone().into()),
        }));
        Ok(row)
    }
}

#[cfg(test)]
mod tests;
