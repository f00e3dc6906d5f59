//! The table of fields: what `validate`, the REST API and the reference all read must itself be right.

use std::collections::BTreeSet;

use rowstream_api::{ByteSize, FieldDoc, FieldKind, units::parse_duration};
use serde_json::{Map, Value};

/// Each path is unique, snake_case and no prefix of another; each default and example is a value of its kind; each doc is a
/// sentence; a required field has no default; a secret's example is a placeholder.
///
/// # Panics
/// On the first field that is not so.
pub fn fields_are_sound(connector: &str, fields: &[FieldDoc]) {
    let mut seen = BTreeSet::new();
    for field in fields {
        let at = format!("{connector}: field `{}`", field.path);
        assert!(seen.insert(field.path), "{at} stands twice");
        let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
        assert!(field.path.chars().all(snake), "{at}: keys are snake_case");
        let below = format!("{}.", field.path);
        assert!(!fields.iter().any(|f| f.path.starts_with(&below)), "{at} is a value and a block at once");
        assert!(field.doc.ends_with('.'), "{at}: its doc is not a sentence");
        assert!(!(field.required && field.default.is_some()), "{at}: required, and has a default");
        if let Some(default) = field.default {
            assert_kind(&at, "default", field.kind, default);
        }
        assert_kind(&at, "example", field.kind, field.example);
        if field.kind == FieldKind::Secret {
            assert!(
                field.example.starts_with("${"),
                "{at}: the example teaches people to write secrets down"
            );
        }
    }
}

fn assert_kind(at: &str, what: &str, kind: FieldKind, text: &str) {
    let fits = match kind {
        FieldKind::Integer { min, max } => text.parse::<i64>().is_ok_and(|n| (min..=max).contains(&n)),
        FieldKind::Bool => text.parse::<bool>().is_ok(),
        FieldKind::Duration => parse_duration(text).is_ok(),
        FieldKind::Size => text.parse::<ByteSize>().is_ok(),
        FieldKind::Choice(words) => words.contains(&text),
        FieldKind::Text
        | FieldKind::Secret
        | FieldKind::List
        | FieldKind::SecretList
        | FieldKind::Map
        | FieldKind::SecretMap => true,
    };
    assert!(fits, "{at}: its {what} `{text}` is no {kind:?}");
}

/// A document made of the required fields' examples is accepted, and without any one of them it is refused, naming that field.
/// `plan` answers the text of all problems, empty when there is none.
///
/// # Panics
/// When it is not so.
pub fn missing_fields_are_refused(
    connector: &str,
    fields: &[FieldDoc],
    plan: impl Fn(Map<String, Value>) -> String,
) {
    let required: Vec<&FieldDoc> = fields.iter().filter(|f| f.required).collect();
    let document = |without: Option<&str>| {
        let mut root = Map::new();
        for field in required.iter().filter(|f| Some(f.path) != without) {
            let value = if field.kind == FieldKind::List {
                serde_json::from_str(field.example)
                    .unwrap_or_else(|_| Value::String(field.example.to_owned()))
            } else {
                Value::String(field.example.to_owned())
            };
            insert(&mut root, field.path, value);
        }
        root
    };
    // One of two may be needed: then the refusal names one, and the other behind "unless".
    let mut whole = document(None);
    let mut problems = plan(whole.clone());
    for field in fields.iter().filter(|f| !f.required) {
        if problems.contains(&format!("{}: must not be empty, unless", field.path)) {
            insert(&mut whole, field.path, Value::String(field.example.to_owned()));
            problems = plan(whole.clone());
        }
    }
    assert_eq!(problems, "", "{connector}: the examples of its required fields are not enough");
    for field in &required {
        let problems = plan(document(Some(field.path)));
        assert!(
            problems.contains(&format!("{}: is required", field.path)),
            "{connector}: without `{}` the user is told: {problems:?}",
            field.path
        );
    }
}

fn insert(root: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            root.insert(path.to_owned(), value);
        }
        Some((block, rest)) => {
            let inner = root.entry(block.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
