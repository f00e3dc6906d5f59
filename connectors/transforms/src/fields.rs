//! `select`, `drop` and `rename`: Kafka Connect's `ReplaceField`, with its `include`, its `exclude` and its `renames`.
//!
//! A field that a row does not have is not missed, as in `ReplaceField`, because one connector has many tables.

use std::{collections::BTreeMap, sync::Arc};

use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, ValueRef};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    TransformPlugin,
    chain::Transform,
    refused,
    rows::{On, OverRows, Planning, RowStep, Surroundings, like},
    settings::{FieldNames, parse},
};

pub(crate) const SELECT: TransformPlugin =
    TransformPlugin { name: "select", fields: FIELDS, build: |settings| pick(settings, Keep::Named) };

pub(crate) const DROP: TransformPlugin =
    TransformPlugin { name: "drop", fields: FIELDS, build: |settings| pick(settings, Keep::Others) };

pub(crate) const RENAME: TransformPlugin = TransformPlugin {
    name: "rename",
    fields: &[
        FieldDoc {
            path: "fields",
            kind: FieldKind::Map,
            required: true,
            default: None,
            doc: "The old name of each field to rename, with its new one. Both rows of an event are changed; order and \
                  types stay. A row without the field passes as it is; a new name that the row has already is refused.",
            example: "{ cust_nm: customer_name }",
        },
        ON_FIELD,
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            fields: BTreeMap<String, String>,
            #[serde(default)]
            on: On,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        if settings.fields.is_empty() {
            errors.push("fields", "must name at least one field");
        }
        for (old, new) in &settings.fields {
            let again = settings.fields.iter().any(|(other, name)| other < old && name == new);
            if new.is_empty() {
                errors.push(format!("fields.{old}"), "must not be empty");
            } else if again {
                errors.push(format!("fields.{old}"), format!("another field is renamed to `{new}` already"));
            }
        }
        errors.into_result()?;
        Ok(OverRows::boxed(Rename(settings.fields), settings.on))
    },
};

/// For steps that work on keys and values alike.
pub(crate) const ON_FIELD: FieldDoc = FieldDoc::optional(
    "on",
    FieldKind::Choice(&["value", "key"]),
    Some("value"),
    "Whether the step changes the rows of the value (`before` and `after` of an event, or the value itself) or the key.",
    "key",
);

const FIELDS: &[FieldDoc] = &[
    FieldDoc {
        path: "fields",
        kind: FieldKind::List,
        required: true,
        default: None,
        doc: "Names of fields; `*` stands for any characters. `select` keeps these and drops all others, `drop` drops these \
              and keeps all others. Both rows of an event are changed; the rest of the event stays. A row without the \
              field passes as it is.",
        example: "[password_hash, \"*_internal\"]",
    },
    ON_FIELD,
];

#[derive(Clone, Copy)]
enum Keep {
    Named,
    Others,
}

fn pick(settings: Map<String, Value>, keep: Keep) -> Result<Box<dyn Transform>, ConfigErrors> {
    #[derive(Deserialize)]
    struct Settings {
        fields: Vec<String>,
        #[serde(default)]
        on: On,
    }
    let settings: Settings = parse(settings)?;
    let mut errors = ConfigErrors::default();
    let names = FieldNames::parse(settings.fields, "fields", &mut errors);
    errors.into_result()?;
    Ok(OverRows::boxed(Pick { keep, names }, settings.on))
}

struct Pick {
    keep: Keep,
    names: FieldNames,
}

impl Pick {
    fn keeps(&self, name: &str) -> bool {
        match self.keep {
            Keep::Named => self.names.contain(name),
            Keep::Others => !self.names.contain(name),
        }
    }
}

impl RowStep for Pick {
    /// Which fields stay.
    type Plan = Vec<bool>;

    fn plan(&self, row: &Arc<Schema>) -> Planning<Vec<bool>> {
        let kept: Vec<bool> = row.fields().iter().map(|field| self.keeps(&field.name)).collect();
        if kept.iter().all(|kept| *kept) {
            return Ok(None);
        }
        let fields = row.fields().iter().filter(|field| self.keeps(&field.name));
        let schema =
            fields.fold(like(row), |b, field| b.field(&field.name, Arc::clone(&field.schema))).build();
        if schema.fields().is_empty() {
            return Err(refused("FIELDS_NONE_LEFT", "no field of the row is left"));
        }
        Ok(Some((schema, kept)))
    }

    fn row<'a>(
        &self,
        kept: &Vec<bool>,
        row: Vec<ValueRef<'a>>,
        _: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError> {
        Ok(row.into_iter().zip(kept).filter(|(_, kept)| **kept).map(|(value, _)| value).collect())
    }

    fn now(&self, _: &Vec<bool>, column: &str) -> Vec<String> {
        if self.keeps(column) { vec![column.to_owned()] } else { Vec::new() }
    }
}

struct Rename(BTreeMap<String, String>);

impl RowStep for Rename {
    type Plan = ();

    fn plan(&self, row: &Arc<Schema>) -> Planning<()> {
        if !row.fields().iter().any(|field| self.0.contains_key(&field.name)) {
            return Ok(None);
        }
        let mut builder = like(row);
        let mut names = Vec::new();
        for field in row.fields() {
            let name = self.0.get(&field.name).unwrap_or(&field.name);
            if names.contains(&name) {
                let message =
                    format!("the row has a field `{name}` already, so that no other can be renamed to it");
                return Err(refused("FIELD_EXISTS", message));
            }
            names.push(name);
            builder = builder.field(name, Arc::clone(&field.schema));
        }
        Ok(Some((builder.build(), ())))
    }

    fn row<'a>(
        &self,
        (): &(),
        row: Vec<ValueRef<'a>>,
        _: &Surroundings<'_>,
    ) -> Result<Vec<ValueRef<'a>>, RecordError> {
        Ok(row)
    }

    fn now(&self, (): &(), column: &str) -> Vec<String> {
        vec![self.0.get(column).map_or(column, String::as_str).to_owned()]
    }
}

#[cfg(test)]
mod tests;
