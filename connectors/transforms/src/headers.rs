//! `header_from`, `insert_header` and `drop_headers`: Kafka Connect's `HeaderFrom`, `InsertHeader` and `DropHeaders`.

use std::sync::Arc;

use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, UNAVAILABLE_HEADER};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    chain::Transform,
    fields::ON_FIELD,
    record::Record,
    refused,
    rows::{Images, On, SchemaCache, like},
    settings::{FieldNames, parse},
    text::header_text,
    unavailable::Unavailable,
};

pub(crate) const FROM: TransformPlugin = TransformPlugin {
    name: "header_from",
    fields: &[
        FieldDoc {
            path: "fields",
            kind: FieldKind::List,
            required: true,
            default: None,
            doc: "Fields of the row, of `after` in an event and of `before` in a delete, to write as headers, in text. Null, a field \
                  that the row does not have and one that the source did not send give no header.",
            example: "[tenant, trace_id]",
        },
        FieldDoc {
            path: "headers",
            kind: FieldKind::List,
            required: true,
            default: None,
            doc: "The headers' names, one for each of `fields`.",
            example: "[x-tenant, traceparent]",
        },
        FieldDoc::optional(
            "operation",
            FieldKind::Choice(&["copy", "move"]),
            Some("copy"),
            "Whether the fields stay in the row too, or leave it (both rows of an event).",
            "move",
        ),
        ON_FIELD,
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            fields: Vec<String>,
            headers: Vec<String>,
            #[serde(default)]
            operation: Operation,
            #[serde(default)]
            on: On,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        if settings.fields.is_empty() || settings.fields.len() != settings.headers.len() {
            errors.push("headers", "must name one header for each of `fields`, and at least one");
        }
        settings.headers.iter().for_each(|name| check_name(name, "headers", &mut errors));
        errors.into_result()?;
        let pairs = settings.fields.into_iter().zip(settings.headers.iter().map(|name| name.as_str().into()));
        Ok(Box::new(HeaderFrom {
            pairs: pairs.collect(),
            operation: settings.operation,
            on: settings.on,
            plans: SchemaCache::default(),
        }))
    },
};

pub(crate) const INSERT: TransformPlugin = TransformPlugin {
    name: "insert_header",
    fields: &[
        FieldDoc {
            path: "header",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "The header's name. A record that has one of that name gets another.",
            example: "x-origin",
        },
        FieldDoc {
            path: "value_literal",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "Its value, in every record, tombstones included.",
            example: "shop",
        },
    ],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            header: String,
            value_literal: String,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        check_name(&settings.header, "header", &mut errors);
        errors.into_result()?;
        Ok(Box::new(InsertHeader(settings.header.as_str().into(), settings.value_literal.into_bytes())))
    },
};

pub(crate) const DROP: TransformPlugin = TransformPlugin {
    name: "drop_headers",
    fields: &[FieldDoc {
        path: "headers",
        kind: FieldKind::List,
        required: true,
        default: None,
        doc: "Names of headers to leave out; `*` stands for any characters. The headers that sinks need to tell placeholders from \
              values stay in any case.",
        example: "[\"__debezium.context.*\"]",
    }],
    build: |settings| {
        #[derive(Deserialize)]
        struct Settings {
            headers: Vec<String>,
        }
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let names = FieldNames::parse(settings.headers, "headers", &mut errors);
        errors.into_result()?;
        Ok(Box::new(DropHeaders(names)))
    },
};

/// Headers that say what placeholders are; a step that wrote or dropped them would make placeholders of values, or values of
/// placeholders.
const OURS: &str = "__rowstream.";

fn check_name(name: &str, field: &str, errors: &mut ConfigErrors) {
    if name.is_empty() {
        errors.push(field, "holds an empty name");
    } else if name.starts_with(OURS) {
        errors.push(
            field,
            format!(
                "`{name}`: names that begin with `{OURS}` are set by Rowstream, e.g. `{UNAVAILABLE_HEADER}`"
            ),
        );
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    #[default]
    Copy,
    Move,
}

struct HeaderFrom {
    /// Fields and headers.
    pairs: Vec<(String, Arc<str>)>,
    operation: Operation,
    on: On,
    plans: SchemaCache<Plan>,
}

struct Plan {
    images: Images,
    found: Vec<(usize, Arc<Schema>, String, Arc<str>)>,
    /// The schema of what is left where fields are moved.
    left: Option<(Arc<Schema>, Vec<bool>)>,
}

impl Transform for HeaderFrom {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let on = self.on;
        let Some(schema) = on.part_mut(&mut record).schema().cloned() else {
            out.push(record);
            return Ok(());
        };
        let (pairs, operation) = (&self.pairs, self.operation);
        let plan = self.plans.get(&schema, |schema| Plan::of(schema, on, pairs, operation))?;
        let unavailable = Unavailable::of(&record.headers)?;
        let Record { key, value, headers, .. } = &mut record;
        let part = match on {
            On::Value => value,
            On::Key => key,
        };
        if let Some((schema, value)) = part.tree()? {
            if let Some(row) = plan.images.current(value) {
                for (index, schema, name, header) in &plan.found {
                    let sent = on == On::Key || !unavailable.contains(name);
                    let text = row.get(*index).filter(|_| sent).map(|value| header_text(schema, value));
                    if let Some(text) = text.transpose()?.flatten() {
                        headers.push((Arc::clone(header), text.into()));
                    }
                }
            }
            if let Some((left, kept)) = &plan.left {
                *schema = Arc::clone(left);
                plan.images.each(value, |row| {
                    Ok(row.into_iter().zip(kept).filter(|(_, kept)| **kept).map(|(value, _)| value).collect())
                })?;
            }
        }
        if let (Some(_), On::Value) = (&plan.left, on) {
            unavailable.rename(&mut record.headers, |column| {
                let moved = plan.found.iter().any(|(_, _, name, _)| name == column);
                if moved { Vec::new() } else { vec![column.to_owned()] }
            });
        }
        out.push(record);
        Ok(())
    }
}

impl Plan {
    fn of(
        schema: &Arc<Schema>,
        on: On,
        pairs: &[(String, Arc<str>)],
        operation: Operation,
    ) -> Result<Self, RecordError> {
        let (images, row) = Images::of(schema, on.word())?;
        let found: Vec<_> = pairs
            .iter()
            .filter_map(|(name, header)| {
                let (index, field) = row.field(name)?;
                Some((index, Arc::clone(&field.schema), name.clone(), Arc::clone(header)))
            })
            .collect();
        let left = match operation {
            Operation::Move if !found.is_empty() => {
                let kept: Vec<bool> =
                    (0..row.fields().len()).map(|at| !found.iter().any(|(index, ..)| *index == at)).collect();
                let fields = row.fields().iter().zip(&kept).filter(|(_, kept)| **kept);
                let rest =
                    fields.fold(like(&row), |b, (field, _)| b.field(&field.name, Arc::clone(&field.schema)));
                let rest = rest.build();
                if rest.fields().is_empty() {
                    return Err(refused("FIELDS_NONE_LEFT", "no field of the row is left"));
                }
                Some((images.over(schema, rest), kept))
            }
            Operation::Move | Operation::Copy => None,
        };
        Ok(Self { images, found, left })
    }
}

struct InsertHeader(Arc<str>, Vec<u8>);

impl Transform for InsertHeader {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        record.headers.push((Arc::clone(&self.0), self.1.clone().into()));
        out.push(record);
        Ok(())
    }
}

struct DropHeaders(FieldNames);

impl Transform for DropHeaders {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        record.headers.retain(|(name, _)| name.starts_with(OURS) || !self.0.contain(name));
        out.push(record);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
