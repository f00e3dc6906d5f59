//! A document against the table of its fields: every problem at once.
//!
//! The same table serves YAML (nested, typed) and Connect's flat string map: [`nest`] turns the second into the first, so
//! that there is one path behind both.

use rowstream_api::{ByteSize, ConfigErrors, FieldDoc, FieldKind, config::nearest, units::parse_duration};
use serde_json::{Map, Value};

/// Checks `document` against `fields` and answers it with each value in its declared type.
/// Adds unknown keys (with the nearest known one), wrong types and missing required fields to `errors`, under `prefix`.
#[must_use]
pub fn check(
    document: &Map<String, Value>,
    fields: &[FieldDoc],
    prefix: &str,
    errors: &mut ConfigErrors,
) -> Map<String, Value> {
    let mut walk = Walk { fields, prefix, errors };
    let typed = walk.level(document, "");
    for field in fields.iter().filter(|f| f.required) {
        if lookup(&typed, field.path).is_none() && lookup(document, field.path).is_none() {
            errors.push(
                format!("{prefix}{}", field.path),
                format!("is required, e.g. `{}`. {}", field.example, first_sentence(field.doc)),
            );
        }
    }
    typed
}

struct Walk<'a> {
    fields: &'a [FieldDoc],
    prefix: &'a str,
    errors: &'a mut ConfigErrors,
}

impl Walk<'_> {
    fn level(&mut self, document: &Map<String, Value>, parent: &str) -> Map<String, Value> {
        let mut typed = Map::new();
        for (key, value) in document {
            let path = if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") };
            if let Some(field) = self.fields.iter().find(|f| f.path == path) {
                if value.is_null() {
                    continue; // `key:` with nothing behind it is the same as not given.
                }
                match typed_value(field.kind, value) {
                    Ok(value) => {
                        typed.insert(key.clone(), value);
                    }
                    Err(expected) => self.errors.push(format!("{}{path}", self.prefix), expected),
                }
            } else if let (true, Value::Object(inner)) = (self.has_children(&path), value) {
                let nested = self.level(inner, &path);
                typed.insert(key.clone(), Value::Object(nested));
            } else {
                self.errors.push(format!("{}{path}", self.prefix), unknown(&path, self.fields));
            }
        }
        typed
    }

    fn has_children(&self, path: &str) -> bool {
        self.fields.iter().any(|f| f.path.strip_prefix(path).is_some_and(|r| r.starts_with('.')))
    }
}

fn unknown(path: &str, fields: &[FieldDoc]) -> String {
    let parents = fields.iter().flat_map(|f| f.path.match_indices('.').filter_map(|(i, _)| f.path.get(..i)));
    match nearest(path, fields.iter().map(|f| f.path).chain(parents)) {
        Some(known) => format!("is not a known key; did you mean `{known}`?"),
        None => "is not a known key".to_owned(),
    }
}

fn typed_value(kind: FieldKind, value: &Value) -> Result<Value, String> {
    let text = match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match (kind, text, value) {
        (FieldKind::Text | FieldKind::Secret, Some(text), _) => Ok(Value::String(text)),
        (FieldKind::Text | FieldKind::Secret, None, _) => Err("expected a text".to_owned()),
        (FieldKind::Integer { min, max }, text, _) => text
            .and_then(|t| t.parse::<i64>().ok())
            .filter(|n| (min..=max).contains(n))
            .map(Value::from)
            .ok_or_else(|| format!("expected a whole number from {min} to {max}")),
        (FieldKind::Bool, text, _) => text
            .and_then(|t| t.parse::<bool>().ok())
            .map(Value::from)
            .ok_or_else(|| "expected `true` or `false`".to_owned()),
        (FieldKind::Duration, Some(text), _) => parse_duration(&text).map(|_| Value::String(text)),
        (FieldKind::Duration, None, _) => Err("expected a duration such as `10s`".to_owned()),
        (FieldKind::Size, Some(text), _) => text.parse::<ByteSize>().map(|_| Value::String(text)),
        (FieldKind::Size, None, _) => Err("expected a size such as `8MiB`".to_owned()),
        (FieldKind::Choice(words), text, _) => match text {
            Some(text) if words.contains(&text.as_str()) => Ok(Value::String(text)),
            _ => Err(format!(
                "expected one of {}",
                words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
            )),
        },
        (FieldKind::List | FieldKind::SecretList, _, Value::Array(items)) => items
            .iter()
            .map(|v| {
                v.as_str()
                    .map(|s| Value::String(s.to_owned()))
                    .ok_or_else(|| "expected a list of texts".to_owned())
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array),
        (FieldKind::List | FieldKind::SecretList, Some(text), _) => Ok(Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .map(|s| Value::String(s.to_owned()))
                .collect(),
        )),
        (FieldKind::List | FieldKind::SecretList, None, _) => Err("expected a list of texts".to_owned()),
        (FieldKind::Map | FieldKind::SecretMap, _, Value::Object(map)) => map
            .iter()
            .map(|(k, v)| match v {
                Value::String(s) => Ok((k.clone(), Value::String(s.clone()))),
                Value::Number(n) => Ok((k.clone(), Value::String(n.to_string()))),
                Value::Bool(b) => Ok((k.clone(), Value::String(b.to_string()))),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    Err(format!("expected a text under `{k}`"))
                }
            })
            .collect::<Result<Map<_, _>, _>>()
            .map(Value::Object),
        (FieldKind::Map | FieldKind::SecretMap, _, _) => Err("expected keys with texts".to_owned()),
    }
}

/// Connect's flat string map as a nested document. A key that names a `Map` field's entry (`headers.x-team`) keeps the rest of
/// the key whole.
#[must_use]
pub fn nest(flat: &Map<String, Value>, fields: &[FieldDoc]) -> Map<String, Value> {
    let mut root = Map::new();
    for (key, value) in flat {
        let map_field = fields
            .iter()
            .find(|f| f.kind.is_map() && key.strip_prefix(f.path).is_some_and(|r| r.starts_with('.')));
        let mut parts: Vec<&str> = Vec::new();
        if let Some(field) = map_field {
            parts.extend(field.path.split('.'));
            parts.extend(key.strip_prefix(field.path).and_then(|r| r.strip_prefix('.')));
        } else {
            parts.extend(key.split('.'));
        }
        insert(&mut root, &parts, value.clone());
    }
    root
}

fn insert(map: &mut Map<String, Value>, parts: &[&str], value: Value) {
    match parts {
        [] => {}
        [last] => {
            map.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let child = map.entry((*first).to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(child) = child {
                insert(child, rest, value);
            }
        }
    }
}

/// A nested document as Connect's flat string map; lists become comma-separated texts.
#[must_use]
pub fn flatten(document: &Map<String, Value>) -> Map<String, Value> {
    fn walk(prefix: &str, map: &Map<String, Value>, out: &mut Map<String, Value>) {
        for (key, value) in map {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) => walk(&path, inner, out),
                Value::Array(items) => {
                    let texts: Vec<String> = items
                        .iter()
                        .map(|v| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned))
                        .collect();
                    out.insert(path, Value::String(texts.join(",")));
                }
                Value::String(text) => {
                    out.insert(path, Value::String(text.clone()));
                }
                Value::Null | Value::Bool(_) | Value::Number(_) => {
                    out.insert(path, Value::String(value.to_string()));
                }
            }
        }
    }
    let mut out = Map::new();
    walk("", document, &mut out);
    out
}

/// The value at a dotted path.
#[must_use]
pub fn lookup<'a>(document: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let mut value = document.get(parts.next()?)?;
    for part in parts {
        value = value.as_object()?.get(part)?;
    }
    Some(value)
}

fn first_sentence(doc: &str) -> &str {
    doc.split_inclusive(". ").next().unwrap_or(doc).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn field(path: &'static str, kind: FieldKind, required: bool) -> FieldDoc {
        FieldDoc { path, kind, required, default: None, doc: "A field. More.", example: "x" }
    }
    const FIELDS: &[FieldDoc] = &[
        field("connection.host", FieldKind::Text, true),
        field("connection.port", FieldKind::Integer { min: 1, max: 65535 }, false),
        field("topic_prefix", FieldKind::Text, true),
        field("tables.include", FieldKind::List, false),
        field("timeout", FieldKind::Duration, false),
        field("headers", FieldKind::Map, false),
        field("mode", FieldKind::Choice(&["upsert", "append"]), false),
    ];
    fn object(value: Value) -> Map<String, Value> {
        if let Value::Object(map) = value { map } else { panic!("not an object") }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut errors = ConfigErrors::default();
        let document = object(serde_json::json!({
            "connection": {"hots": "db", "port": 99999}, "mode": "upsrt", "timeout": "soon", "tables": {"include": [1]}
        }));
        let _typed = check(&document, FIELDS, "config.", &mut errors);
        let text = errors.to_string();
        for expected in [
            "config.connection.hots: is not a known key; did you mean `connection.host`?",
            "config.connection.port: expected a whole number from 1 to 65535",
            "config.mode: expected one of `upsert`, `append`",
            "config.timeout: expected a duration",
            "config.tables.include: expected a list of texts",
            "config.connection.host: is required",
            "config.topic_prefix: is required",
        ] {
            assert!(text.contains(expected), "missing {expected:?} in:\n{text}");
        }
        assert_eq!(errors.0.len(), 7, "{text}");
    }

    #[test]
    fn the_flat_map_and_yaml_mean_the_same() {
        let nested = object(serde_json::json!({
            "connection": {"host": "db", "port": 5432}, "topic_prefix": "shop", "tables": {"include": ["a", "b"]},
            "headers": {"x.y": "1"}
        }));
        let flat = flatten(&nested);
        assert_eq!(flat.get("connection.port"), Some(&Value::String("5432".into())));
        let mut errors = ConfigErrors::default();
        let back = check(&nest(&flat, FIELDS), FIELDS, "", &mut errors);
        assert_eq!(errors, ConfigErrors::default());
        assert_eq!(back, check(&nested, FIELDS, "", &mut ConfigErrors::default()));
    }
}
