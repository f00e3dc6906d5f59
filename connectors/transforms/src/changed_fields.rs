//! `changed_fields`: Debezium's `ExtractChangedRecordState`. Headers name the columns that an update changed, or did not.
//!
//! A column that the source did not send did not change: that is why it was not sent. An event without both rows has empty lists,
//! so that steps behind this one always find their header. Where the table does not send old rows whole, `before` holds nulls, and
//! columns look changed: let it (REPLICA IDENTITY FULL).

use std::sync::Arc;

use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, RecordError, ValueRef};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    chain::Transform,
    record::Record,
    rows::{Images, SchemaCache},
    settings::parse,
    unavailable::Unavailable,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "changed_fields",
    fields: &[
        FieldDoc::optional(
            "header_changed_name",
            FieldKind::Text,
            None,
            "The header that gets a JSON list of the columns that the update changed.",
            "changed",
        ),
        FieldDoc::optional(
            "header_unchanged_name",
            FieldKind::Text,
            None,
            "The header that gets a JSON list of the columns that it did not change, as `drop_fields_header_name` of `unwrap` wants \
             it.",
            "unchanged",
        ),
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            header_changed_name: Option<String>,
            header_unchanged_name: Option<String>,
        }
        let settings: Settings = parse(settings)?;
        let named = |name: Option<String>| name.filter(|name| !name.trim().is_empty()).map(Arc::from);
        let (changed, unchanged) =
            (named(settings.header_changed_name), named(settings.header_unchanged_name));
        if changed.is_none() && unchanged.is_none() {
            let mut errors = ConfigErrors::default();
            errors.push("", "expected `header_changed_name`, `header_unchanged_name`, or both");
            return Err(errors);
        }
        Ok(Box::new(ChangedFields { changed, unchanged, plans: SchemaCache::default() }))
    },
};

struct ChangedFields {
    changed: Option<Arc<str>>,
    unchanged: Option<Arc<str>>,
    plans: SchemaCache<Plan>,
}

struct Plan {
    /// `before` and `after`.
    images: Option<[usize; 2]>,
    names: Vec<String>,
}

impl Transform for ChangedFields {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let Some(schema) = record.value.schema().filter(|schema| schema.is_envelope()).cloned() else {
            out.push(record);
            return Ok(());
        };
        let plan = self.plans.get(&schema, |schema| {
            let (images, row) = Images::of(schema, "value")?;
            let images = match images {
                Images::Envelope { before: Some(before), after } => Some([before, after]),
                Images::Envelope { before: None, .. } | Images::Whole => None,
            };
            Ok(Plan { images, names: row.fields().iter().map(|field| field.name.clone()).collect() })
        })?;
        let images = match &plan.images {
            Some(wanted) => record.value.fields(wanted)?,
            None => Vec::new(),
        };
        let unavailable = Unavailable::of(&record.headers)?;
        let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
        if let [ValueRef::Struct(before), ValueRef::Struct(after)] = images.as_slice() {
            for (name, (old, new)) in plan.names.iter().zip(before.iter().zip(after)) {
                let same = unavailable.contains(name) || old == new;
                if same { &mut unchanged } else { &mut changed }.push(name.as_str());
            }
        }
        for (header, names) in [(&self.changed, changed), (&self.unchanged, unchanged)] {
            if let Some(header) = header {
                let list = serde_json::Value::from(names).to_string().into_bytes();
                record.headers.push((Arc::clone(header), list.into()));
            }
        }
        out.push(record);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
