//! `unwrap`: Debezium's `ExtractNewRecordState`, with all its options. An event becomes its row.
//!
//! | record | becomes |
//! |---|---|
//! | insert, update, snapshot read | `after`, with the added fields |
//! | delete | as `delete_tombstone_handling_mode` says; nothing where that is a tombstone and there is no key |
//! | tombstone | nothing, except with `rewrite_with_tombstone`: the delete before it has become it |
//! | truncate | nothing |
//! | no envelope | itself |
//!
//! Unlike Debezium's, the row's schema is never optional at its top (there it is, unless fields are added), and null is not
//! replaced by a column's default unless that is asked for.

use std::{collections::HashMap, sync::Arc};

use rowstream_api::{
    ConfigErrors, DELETED_HEADER, FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, SchemaType, Value,
    ValueRef,
};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    chain::Transform,
    record::{Part, Record},
    refused,
    rows::{Images, SchemaCache, column, like, type_word, with_optional},
    settings::{checked_topic, parse},
    text::header_text,
    unavailable::Unavailable,
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "unwrap",
    fields: FIELDS,
    build: |settings| {
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let add_fields =
            references(&settings.add_fields, &settings.add_fields_prefix, "add_fields", &mut errors);
        let add_headers =
            references(&settings.add_headers, &settings.add_headers_prefix, "add_headers", &mut errors);
        errors.into_result()?;
        Ok(Box::new(Unwrap {
            add_fields,
            add_headers,
            settings,
            plans: SchemaCache::default(),
            narrowed: SchemaCache::default(),
        }))
    },
};

const FIELDS: &[FieldDoc] = &[
    FieldDoc::optional(
        "delete_tombstone_handling_mode",
        FieldKind::Choice(&["drop", "tombstone", "rewrite", "rewrite_with_tombstone", "delete_to_tombstone"]),
        Some("tombstone"),
        "What becomes of a delete and of the tombstone behind it. `drop`: nothing of either. `tombstone` and \
         `delete_to_tombstone`: one tombstone; nothing for tables without a key. `rewrite`: the last row with \
         `__deleted` `true`, and no tombstone; all other rows get `__deleted` `false`. `rewrite_with_tombstone`: \
         that row, and the tombstone.",
        "rewrite",
    ),
    FieldDoc::optional(
        "add_fields",
        FieldKind::List,
        None,
        "Fields of the event to add to the row: `op`, `ts_ms`, a field of `source` by its name alone or as `source.lsn`, or one \
         of `transaction` (`transaction.id`). `op:operation` gives it a name of its own. Each name is `add_fields_prefix`, the \
         block and `_` where it was written with one, and the field's: `__op`, `__source_ts_ms`. What an event does not have is \
         left out.",
        "[op, source.ts_ms, \"source.table:table\"]",
    ),
    FieldDoc::optional(
        "add_fields_prefix",
        FieldKind::Text,
        Some("__"),
        "In front of the names of added fields.",
        "meta_",
    ),
    FieldDoc::optional(
        "add_headers",
        FieldKind::List,
        None,
        "As `add_fields`, as headers of the record, in text. A value that is null gives no header.",
        "[op, source.table]",
    ),
    FieldDoc::optional(
        "add_headers_prefix",
        FieldKind::Text,
        Some("__"),
        "In front of the names of added headers.",
        "cdc.",
    ),
    FieldDoc::optional(
        "route_by_field",
        FieldKind::Text,
        None,
        "A column of text that holds the name of the topic to write the row to. Rows in which it is null or empty stay in their \
         topic; so do deletes of tables that do not send old rows whole.",
        "destination",
    ),
    FieldDoc::optional(
        "drop_fields_header_name",
        FieldKind::Text,
        None,
        "A header that holds a JSON list of fields to leave out of this row, as `changed_fields` makes one.",
        "unchanged",
    ),
    FieldDoc::optional(
        "drop_fields_from_key",
        FieldKind::Bool,
        Some("false"),
        "Whether the fields of `drop_fields_header_name` are left out of the key too.",
        "true",
    ),
    FieldDoc::optional(
        "drop_fields_keep_schema_compatible",
        FieldKind::Bool,
        Some("true"),
        "Whether only optional fields are left out by `drop_fields_header_name`, so that readers of the whole row can still \
         read what is left.",
        "false",
    ),
    FieldDoc::optional(
        "replace_null_with_default",
        FieldKind::Bool,
        Some("false"),
        "Whether a null in a column that has a default becomes that default. Debezium does it where a delete is rewritten, \
         which makes a null that was written look like a value.",
        "true",
    ),
];

fn prefix() -> String {
    "__".to_owned()
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    delete_tombstone_handling_mode: Mode,
    #[serde(default)]
    add_fields: Vec<String>,
    #[serde(default = "prefix")]
    add_fields_prefix: String,
    #[serde(default)]
    add_headers: Vec<String>,
    #[serde(default = "prefix")]
    add_headers_prefix: String,
    route_by_field: Option<String>,
    drop_fields_header_name: Option<String>,
    #[serde(default)]
    drop_fields_from_key: bool,
    #[serde(default = "yes")]
    drop_fields_keep_schema_compatible: bool,
    #[serde(default)]
    replace_null_with_default: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Drop,
    #[default]
    Tombstone,
    Rewrite,
    RewriteWithTombstone,
    DeleteToTombstone,
}

impl Mode {
    /// Whether rows say if they are deleted.
    fn rewrites(self) -> bool {
        match self {
            Self::Rewrite | Self::RewriteWithTombstone => true,
            Self::Drop | Self::Tombstone | Self::DeleteToTombstone => false,
        }
    }
}

/// A field of the event, and what it is called in the row or header.
struct Reference {
    block: Option<&'static str>,
    field: String,
    name: String,
}

fn references(typed: &[String], prefix: &str, setting: &str, errors: &mut ConfigErrors) -> Vec<Reference> {
    let mut made: Vec<Reference> = Vec::with_capacity(typed.len());
    for text in typed {
        match Reference::parse(text, prefix) {
            Ok(reference) if made.iter().any(|known| known.name == reference.name) => {
                errors.push(setting, format!("gives two fields the name `{}`", reference.name));
            }
            Ok(reference) => made.push(reference),
            Err(problem) => errors.push(setting, problem),
        }
    }
    made
}

impl Reference {
    fn parse(text: &str, prefix: &str) -> Result<Self, String> {
        let (path, name) = match text.split_once(':') {
            Some((path, name)) if !name.is_empty() && !name.contains(':') => (path, Some(name)),
            Some(_) => return Err(format!("`{text}`: expected one name after `:`")),
            None => (text, None),
        };
        let (block, field, default) = match path.split_once('.') {
            Some(("source", field)) => (Some("source"), field, format!("source_{field}")),
            Some(("transaction", field)) => (Some("transaction"), field, format!("transaction_{field}")),
            Some((block, _)) => {
                return Err(format!(
                    "`{text}`: an event has no block `{block}`; expected `source` or `transaction`"
                ));
            }
            None => (Self::block_of(path), path, path.to_owned()),
        };
        if field.is_empty() || field.contains('.') {
            return Err(format!("`{text}`: expected a field such as `op` or `source.ts_ms`"));
        }
        let name = format!("{prefix}{}", name.unwrap_or(&default));
        Ok(Self { block, field: field.to_owned(), name })
    }

    /// Where Debezium looks for a field that is named alone.
    fn block_of(field: &str) -> Option<&'static str> {
        match field {
            "op" | "ts_ms" | "ts_us" | "ts_ns" => None,
            "id" | "total_order" | "data_collection_order" => Some("transaction"),
            _ => Some("source"),
        }
    }

    /// Where it is in this envelope: the block first, then the envelope itself.
    fn find(&self, envelope: &Schema) -> Option<(Path, Arc<Schema>)> {
        let top = || {
            envelope
                .field(&self.field)
                .map(|(at, field)| (Path { block: None, at }, Arc::clone(&field.schema)))
        };
        let Some((index, block)) = self.block.and_then(|block| envelope.field(block)) else { return top() };
        match block.schema.field(&self.field) {
            Some((at, field)) => Some((Path { block: Some(index), at }, Arc::clone(&field.schema))),
            None => top(),
        }
    }
}

/// Where a value is in an envelope.
#[derive(Debug, Clone, Copy)]
struct Path {
    block: Option<usize>,
    at: usize,
}

impl Path {
    fn read<'v, 'a>(self, envelope: &'v [ValueRef<'a>]) -> &'v ValueRef<'a> {
        let fields = match self.block {
            None => Some(envelope),
            Some(block) => envelope.get(block).and_then(ValueRef::as_struct),
        };
        fields.and_then(|fields| fields.get(self.at)).unwrap_or(&ValueRef::Null)
    }
}

struct Unwrap {
    settings: Settings,
    add_fields: Vec<Reference>,
    add_headers: Vec<Reference>,
    /// By the envelope's schema; none for what is no envelope.
    plans: SchemaCache<Option<Plan>>,
    /// Rows and keys without the fields that a header named.
    narrowed: SchemaCache<HashMap<Vec<String>, Narrowed>>,
}

struct Plan {
    schema: Arc<Schema>,
    op: Option<usize>,
    before: Option<usize>,
    after: usize,
    defaults: Vec<Option<Value>>,
    route: Option<(usize, String)>,
    fields: Vec<Path>,
    headers: Vec<(Arc<str>, Path, Arc<Schema>)>,
}

#[derive(Clone)]
struct Narrowed {
    schema: Arc<Schema>,
    kept: Arc<[bool]>,
}

impl Transform for Unwrap {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let mode = self.settings.delete_tombstone_handling_mode;
        let Some(schema) = record.value.schema().cloned() else {
            if mode == Mode::RewriteWithTombstone {
                for reference in self.add_headers.iter().filter(|reference| reference.field == "op") {
                    record.headers.push((reference.name.as_str().into(), b"d".into()));
                }
                out.push(record);
            }
            return Ok(());
        };
        let (settings, add_fields, add_headers) = (&self.settings, &self.add_fields, &self.add_headers);
        let plan = self.plans.get(&schema, |schema| Plan::of(schema, settings, add_fields, add_headers))?;
        let Some(plan) = plan else {
            out.push(record);
            return Ok(());
        };
        let Some((_, ValueRef::Struct(envelope))) = record.value.tree()? else {
            return Err(refused("ENVELOPE_INVALID", "the value is no struct, which its schema says it is"));
        };
        let mut envelope = std::mem::take(envelope);
        for (name, path, schema) in &plan.headers {
            if let Some(text) = header_text(schema, path.read(&envelope))? {
                record.headers.push((Arc::clone(name), text.into()));
            }
        }
        let added: Vec<ValueRef<'a>> = plan.fields.iter().map(|path| path.read(&envelope).clone()).collect();
        if plan.op.and_then(|op| envelope.get(op)).and_then(ValueRef::as_str) == Some("t") {
            return Ok(());
        }
        let mut take = |index: usize| {
            envelope.get_mut(index).map_or(ValueRef::Null, |field| std::mem::replace(field, ValueRef::Null))
        };
        let (row, deleted) = if let ValueRef::Struct(row) = take(plan.after) {
            (Some(row), false)
        } else if let Some(ValueRef::Struct(row)) = plan.before.map(take) {
            (Some(row), true)
        } else {
            (None, true)
        };
        if let (Some((index, name)), Some(row)) = (&plan.route, &row) {
            route(&mut record, row.get(*index), name)?;
        }
        let row = match (deleted, mode) {
            (true, Mode::Drop) => return Ok(()),
            (true, Mode::Tombstone | Mode::DeleteToTombstone) => None,
            (false, _) | (true, Mode::Rewrite | Mode::RewriteWithTombstone) => Some(row.ok_or_else(no_row)?),
        };
        let Some(mut row) = row else {
            // Without a key a tombstone is of nothing, and compacted topics refuse it.
            if record.key.is_null() {
                return Ok(());
            }
            record.value = Part::Null;
            record.headers.push((DELETED_HEADER.into(), b"true".into()));
            Unavailable::of(&record.headers)?.rename(&mut record.headers, |_| Vec::new());
            out.push(record);
            return Ok(());
        };
        for (value, default) in row.iter_mut().zip(&plan.defaults) {
            if let (ValueRef::Null, Some(default)) = (&*value, default) {
                *value = owned(default);
            }
        }
        if mode.rewrites() {
            row.push(ValueRef::str(if deleted { "true" } else { "false" }));
        }
        row.extend(added);
        record.value = Part::Tree { schema: Arc::clone(&plan.schema), value: ValueRef::Struct(row) };
        self.narrow(&mut record)?;
        out.push(record);
        Ok(())
    }
}

impl Plan {
    fn of(
        schema: &Arc<Schema>,
        settings: &Settings,
        add_fields: &[Reference],
        add_headers: &[Reference],
    ) -> Result<Option<Self>, RecordError> {
        if !schema.is_envelope() {
            return Ok(None);
        }
        let (Images::Envelope { before, after }, row) = Images::of(schema, "value")? else { return Ok(None) };
        let mut builder = row.fields().iter().fold(like(&row).optional_if(false), |builder, field| {
            builder.field(&field.name, Arc::clone(&field.schema))
        });
        if settings.delete_tombstone_handling_mode.rewrites() {
            builder = builder.field("__deleted", SchemaBuilder::new(SchemaType::String).optional().build());
        }
        let mut fields = Vec::new();
        for reference in add_fields {
            let Some((path, found)) = reference.find(schema) else { continue };
            if row.field(&reference.name).is_some() {
                let message = format!(
                    "the row has a field `{}` already; choose another name for the added one",
                    reference.name
                );
                return Err(refused("FIELD_EXISTS", message));
            }
            builder = builder.field(&reference.name, with_optional(&found, true));
            fields.push(path);
        }
        let headers = add_headers.iter().filter_map(|reference| {
            let (path, found) = reference.find(schema)?;
            Some((reference.name.as_str().into(), path, found))
        });
        let route = match &settings.route_by_field {
            Some(name) => Some((text_column(&row, name)?, name.clone())),
            None => None,
        };
        let defaults = row.fields().iter().map(|field| field.schema.default().cloned());
        Ok(Some(Self {
            schema: builder.build(),
            op: schema.field("op").map(|(index, _)| index),
            before,
            after,
            defaults: if settings.replace_null_with_default { defaults.collect() } else { Vec::new() },
            route,
            fields,
            headers: headers.collect(),
        }))
    }
}

impl Unwrap {
    /// Leaves out the fields that a header names.
    fn narrow(&mut self, record: &mut Record<'_>) -> Result<(), RecordError> {
        let Some(header) = &self.settings.drop_fields_header_name else { return Ok(()) };
        let Some((_, names)) = record.headers.iter().find(|(name, _)| **name == **header) else {
            return Ok(());
        };
        let mut names: Vec<String> = serde_json::from_slice(names).map_err(|_| {
            refused("HEADER_INVALID", format!("header `{header}` is not a JSON list of fields"))
        })?;
        names.sort();
        if names.is_empty() {
            return Ok(());
        }
        let compatible = self.settings.drop_fields_keep_schema_compatible;
        let unavailable = Unavailable::of(&record.headers)?;
        if let Some((schema, ValueRef::Struct(row))) = record.value.tree()? {
            let narrowed = narrowed(&mut self.narrowed, schema, &names, compatible)?;
            narrowed.apply(schema, row);
            unavailable.rename(&mut record.headers, |column| {
                let kept = narrowed.schema.field(column).is_some();
                if kept { vec![column.to_owned()] } else { Vec::new() }
            });
        }
        if self.settings.drop_fields_from_key
            && let Some((schema, ValueRef::Struct(row))) = record.key.tree()?
        {
            narrowed(&mut self.narrowed, schema, &names, compatible)?.apply(schema, row);
        }
        Ok(())
    }
}

impl Narrowed {
    fn apply(&self, schema: &mut Arc<Schema>, row: &mut Vec<ValueRef<'_>>) {
        *schema = Arc::clone(&self.schema);
        let mut kept = self.kept.iter();
        row.retain(|_| kept.next().copied().unwrap_or(true));
    }
}

fn narrowed(
    cache: &mut SchemaCache<HashMap<Vec<String>, Narrowed>>,
    schema: &Arc<Schema>,
    names: &[String],
    compatible: bool,
) -> Result<Narrowed, RecordError> {
    let by_names = cache.get(schema, |_| Ok(HashMap::new()))?;
    if let Some(made) = by_names.get(names) {
        return Ok(made.clone());
    }
    let drops = |field: &rowstream_api::Field| {
        names.contains(&field.name) && (field.schema.is_optional() || !compatible)
    };
    let kept: Arc<[bool]> = schema.fields().iter().map(|field| !drops(field)).collect();
    let fields = schema.fields().iter().filter(|field| !drops(field));
    let left = fields.fold(like(schema), |b, field| b.field(&field.name, Arc::clone(&field.schema))).build();
    let left = if kept.iter().all(|kept| *kept) { Arc::clone(schema) } else { left };
    let made = Narrowed { schema: left, kept };
    by_names.insert(names.to_vec(), made.clone());
    Ok(made)
}

/// Sends the record to the topic that a column names.
fn route(record: &mut Record<'_>, value: Option<&ValueRef<'_>>, name: &str) -> Result<(), RecordError> {
    if Unavailable::of(&record.headers)?.contains(name) {
        let message = format!("the source did not send field `{name}`, which `route_by_field` needs");
        return Err(refused("VALUE_UNAVAILABLE", message));
    }
    match value.and_then(ValueRef::as_str) {
        Some(topic) if !topic.trim().is_empty() => {
            record.topic = checked_topic(topic, &format!("field `{name}`"))?;
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

/// The index of a column that must be there and hold text.
fn text_column(row: &Schema, name: &str) -> Result<usize, RecordError> {
    let (index, schema) = column(row, name, "route_by_field")?;
    if *schema.ty() == SchemaType::String {
        return Ok(index);
    }
    let message = format!("field `{name}` is {}, expected STRING for a topic's name", type_word(&schema));
    Err(refused("FIELD_TYPE", message))
}

fn owned(value: &Value) -> ValueRef<'static> {
    match value {
        Value::Null => ValueRef::Null,
        Value::Bool(truth) => ValueRef::Bool(*truth),
        Value::Int(number) => ValueRef::Int(*number),
        Value::Float(number) => ValueRef::Float64(*number),
        Value::Str(text) => ValueRef::Str(text.clone().into()),
        Value::Bytes(bytes) => ValueRef::Bytes(bytes.clone().into()),
        Value::Array(items) => ValueRef::Array(items.iter().map(owned).collect()),
        Value::Struct(fields) => ValueRef::Struct(fields.iter().map(owned).collect()),
    }
}

fn no_row() -> RecordError {
    refused("ENVELOPE_INVALID", "the event has neither `after` nor `before`, so that there is no row in it")
}

#[cfg(test)]
mod tests;
