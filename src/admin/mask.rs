//! Configurations as they may be shown, and back: what is shown never holds a secret.
//!
//! A field is secret when its connector's table says so. Of a connector or a key that no table knows, everything is secret whose
//! name sounds like it. A value that is nothing but a placeholder (`${env:X}`) is shown: it says where the secret is, not
//! what it is. Whoever sends [`MASK`] back for a secret means the one that is stored.

use std::collections::HashMap;

use rowstream_api::{ConfigErrors, FieldDoc};
use serde_json::{Map, Value};

use crate::{
    config::{ConnectorSpec, connector::FRAME_FIELDS, transforms},
    registry,
};

/// Stands for a secret.
pub const MASK: &str = "***";

/// Parts of names that mean a secret.
const SECRET_WORDS: [&str; 7] = ["pass", "pwd", "secret", "token", "key", "credential", "auth"];

/// A connector's configuration as Connect's flat map of texts, without its secrets.
#[must_use]
pub fn shown(spec: &ConnectorSpec) -> Map<String, Value> {
    let fields = fields_of(&spec.connector);
    let mut flat = spec.to_flat();
    let kinds = step_kinds(&flat);
    for (key, value) in &mut flat {
        if is_secret(key, fields, &kinds) && !is_placeholders(value) {
            *value = Value::String(MASK.to_owned());
        }
    }
    flat
}

/// The flat map with lists left whole: what a configuration can be built from again.
#[must_use]
pub fn whole(spec: &ConnectorSpec) -> Map<String, Value> {
    fn walk(prefix: &str, map: &Map<String, Value>, out: &mut Map<String, Value>) {
        for (key, value) in map {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) => walk(&path, inner, out),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    out.insert(path, value.clone());
                }
            }
        }
    }
    let mut frame = spec.document.clone();
    frame.remove("config");
    frame.remove("transforms");
    let mut flat = Map::new();
    walk("", &frame, &mut flat);
    flat.append(&mut transforms::to_flat(&spec.transforms));
    flat.remove("connector");
    flat.insert("connector.class".to_owned(), Value::String(spec.connector.clone()));
    walk("", &spec.config, &mut flat);
    flat
}

/// Puts stored secrets in place of masks.
///
/// # Errors
/// Every mask that stands for nothing.
pub fn unmask(flat: &mut Map<String, Value>, stored: Option<&ConnectorSpec>) -> Result<(), ConfigErrors> {
    let connector = connector_of(flat).unwrap_or_default();
    let fields = fields_of(&connector);
    // The secrets of another kind of connector are not this one's.
    let stored = stored.filter(|s| s.connector == connector).map(whole).unwrap_or_default();
    let mut errors = ConfigErrors::default();
    let kinds = step_kinds(flat);
    for (key, value) in flat.iter_mut() {
        if value != MASK || !is_secret(key, fields, &kinds) {
            continue;
        }
        match stored.get(key) {
            Some(secret) => *value = secret.clone(),
            None => errors.push(
                key,
                format!("`{MASK}` keeps a stored secret, and none is stored; give the secret itself"),
            ),
        }
    }
    errors.into_result()
}

/// The connector that a flat map names.
#[must_use]
pub fn connector_of(flat: &Map<String, Value>) -> Option<String> {
    let named = flat.get("connector.class").or_else(|| flat.get("connector"));
    named.and_then(Value::as_str).map(ToOwned::to_owned)
}

/// The settings of a connector; none when it is unknown.
#[must_use]
pub fn fields_of(connector: &str) -> &'static [FieldDoc] {
    registry::plugin(connector).map_or(&[], |plugin| plugin.fields)
}

/// The type of each step of a flat map's transforms, by the step's name.
pub(super) fn step_kinds(flat: &Map<String, Value>) -> HashMap<String, String> {
    let kind = |(key, value): (&String, &Value)| {
        let step = key.strip_prefix("transforms.")?.strip_suffix(".type")?;
        Some((step.to_owned(), value.as_str()?.to_owned()))
    };
    flat.iter().filter_map(kind).collect()
}

/// Whether the value of this key must not be shown; `kinds` are those of the map that it stands in.
pub(super) fn is_secret(key: &str, fields: &[FieldDoc], kinds: &HashMap<String, String>) -> bool {
    let of_step = key.strip_prefix("transforms.").and_then(|rest| rest.split_once('.'));
    if let Some((step, setting)) = of_step {
        let plugin =
            kinds.get(step).and_then(|kind| rowstream_transforms::plugins().iter().find(|p| p.name == kind));
        return !matches!(setting, "type" | "when" | "predicate" | "negate")
            && is_secret_setting(setting, plugin.map_or(&[], |plugin| plugin.fields));
    }
    key != "transforms" && is_secret_setting(key, fields)
}

fn is_secret_setting(key: &str, fields: &[FieldDoc]) -> bool {
    let names = |field: &&FieldDoc| {
        field.path == key
            || field.kind.is_map() && key.strip_prefix(field.path).is_some_and(|rest| rest.starts_with('.'))
    };
    match fields.iter().chain(FRAME_FIELDS).find(names) {
        Some(field) => field.kind.is_secret(),
        None => {
            let key = key.to_ascii_lowercase();
            SECRET_WORDS.iter().any(|word| key.contains(word))
        }
    }
}

/// Whether there is nothing but placeholders, one for each item of a list.
fn is_placeholders(value: &Value) -> bool {
    let Value::String(text) = value else { return false };
    text.split(',').all(|item| {
        item.trim()
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
            .and_then(|inside| inside.split_once(':'))
            .is_some_and(|(provider, name)| {
                matches!(provider, "env" | "file") && !name.is_empty() && !name.contains(['$', '{', '}'])
            })
    })
}
