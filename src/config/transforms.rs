//! The `transforms` of a connector: a list of steps, each with its type, name, condition and settings.
//!
//! Over REST the same travels in Connect's flat form: `transforms` names the steps in order, `transforms.NAME.type` and
//! `transforms.NAME.SETTING` say what each is, and a `predicate` of Connect's becomes the step's `when`.

use rowstream_api::{ConfigErrors, FieldDoc, FieldKind};
use serde_json::{Map, Value, json};

use super::spec;

/// One step as typed, placeholders and all.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformSpec {
    /// Unique in its connector; the type when not given.
    pub name: String,
    /// Which transform.
    pub kind: String,
    /// Condition.
    pub when: Option<Value>,
    /// Its own settings.
    pub settings: Map<String, Value>,
}

/// What every step has beside its own settings.
pub const STEP_FIELDS: &[FieldDoc] = &[
    FieldDoc {
        required: true,
        ..FieldDoc::optional("type", FieldKind::Text, None, "Which transform the step is.", "unwrap")
    },
    FieldDoc::optional(
        "name",
        FieldKind::Text,
        None,
        "What errors call the step; its type when not given. Two steps of one type need names.",
        "north_only",
    ),
    FieldDoc::optional(
        "when",
        FieldKind::Text,
        None,
        "Records for which this is not true pass the step unchanged. A CEL expression, which sees what `filter`'s does; or one of Kafka \
         Connect's predicates, `{ topic_matches: REGEX }`, `{ has_header: NAME }` or `{ is_tombstone: true }`, with `negate: true` for the opposite.",
        "op != 'd' && after.region == 'north'",
    ),
];

/// Keys of a step that are not its settings.
const FRAME: [&str; 3] = ["type", "name", "when"];

/// Connect's predicates, and what they are in `when`.
const PREDICATES: [(&str, &str, Option<&str>); 3] = [
    ("TopicNameMatches", "topic_matches", Some("pattern")),
    ("HasHeaderKey", "has_header", Some("name")),
    ("RecordIsTombstone", "is_tombstone", None),
];

/// Reads the list under `transforms`.
#[must_use]
pub fn from_document(document: &Value, errors: &mut ConfigErrors) -> Vec<TransformSpec> {
    let Value::Array(steps) = document else {
        errors.push("transforms", "expected a list of steps, e.g. `- type: unwrap`");
        return Vec::new();
    };
    let mut specs: Vec<TransformSpec> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let place = format!("transforms[{index}]");
        let Value::Object(step) = step else {
            errors.push(place, "expected a step with a `type`, e.g. `type: unwrap`");
            continue;
        };
        let word = |key: &str| step.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = word("type");
        if kind.is_empty() {
            errors.push(format!("{place}.type"), "is required, e.g. `unwrap`: which transform this step is");
            continue;
        }
        let name = Some(word("name")).filter(|name| !name.is_empty()).unwrap_or_else(|| kind.clone());
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
            errors.push(format!("{place}.name"), "may hold letters, digits, `_` and `-` only");
        }
        if specs.iter().any(|known| known.name == name) {
            let problem = format!("`{name}` is the name of an earlier step; give each a name of its own");
            errors.push(format!("{place}.name"), problem);
        }
        let when = step.get("when").filter(|when| !when.is_null()).cloned();
        let own = step.iter().filter(|(key, _)| !FRAME.contains(&key.as_str()));
        let settings = own.map(|(key, value)| (key.clone(), value.clone())).collect();
        specs.push(TransformSpec { name, kind, when, settings });
    }
    specs
}

/// The flat map's `transforms.*` and `predicates.*` as the list of steps; `None` when there are none. A list that is one already stays.
#[must_use]
pub fn from_flat(flat: &Map<String, Value>) -> Option<Value> {
    let list = flat.get("transforms")?;
    let Value::String(names) = list else { return Some(list.clone()) };
    let steps = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    Some(steps.map(|name| Value::Object(step_of(name, flat))).collect())
}

/// Whether a key of the flat map belongs to the steps.
#[must_use]
pub fn is_flat_key(key: &str) -> bool {
    ["transforms", "predicates"]
        .iter()
        .any(|word| key.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn step_of(name: &str, flat: &Map<String, Value>) -> Map<String, Value> {
    let prefix = format!("transforms.{name}.");
    let own: Map<String, Value> = flat
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), value.clone())))
        .collect();
    let kind = own.get("type").and_then(Value::as_str).unwrap_or_default();
    let fields =
        rowstream_transforms::plugins().iter().find(|p| p.name == kind).map_or(&[][..], |p| p.fields);
    let mut step = spec::nest(&own, fields);
    step.insert("name".to_owned(), Value::from(name));
    let predicate = step.remove("predicate");
    let negate = step.remove("negate").is_some_and(|negate| negate == "true" || negate == true);
    match (predicate.as_ref().and_then(Value::as_str), step.get("when")) {
        (Some(predicate), None) => {
            step.insert("when".to_owned(), predicate_of(predicate, negate, flat));
        }
        // A condition written as a mapping came as its text.
        (None, Some(Value::String(text))) if text.starts_with('{') => {
            if let Ok(when @ Value::Object(_)) = serde_json::from_str(text) {
                step.insert("when".to_owned(), when);
            }
        }
        _ => {}
    }
    step
}

/// Connect's predicate of this name as a condition; one that we do not know keeps its class, for the error that follows.
fn predicate_of(name: &str, negate: bool, flat: &Map<String, Value>) -> Value {
    let setting = |key: &str| flat.get(&format!("predicates.{name}.{key}")).cloned();
    let class = setting("type").and_then(|class| class.as_str().map(str::to_owned)).unwrap_or_default();
    let known = PREDICATES.iter().find(|(suffix, _, _)| class.rsplit(['.', '$']).next() == Some(suffix));
    let mut when = match known {
        Some((_, word, Some(argument))) => json!({ (*word): setting(argument).unwrap_or_default() }),
        Some((_, word, None)) => json!({ (*word): true }),
        None => json!({ (if class.is_empty() { name } else { &class }): true }),
    };
    if negate && let Value::Object(when) = &mut when {
        when.insert("negate".to_owned(), Value::Bool(true));
    }
    when
}

/// The steps in the flat form.
#[must_use]
pub fn to_flat(steps: &[TransformSpec]) -> Map<String, Value> {
    let mut flat = Map::new();
    if steps.is_empty() {
        return flat;
    }
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    flat.insert("transforms".to_owned(), Value::String(names.join(",")));
    for step in steps {
        let prefix = format!("transforms.{}.", step.name);
        flat.insert(format!("{prefix}type"), Value::String(step.kind.clone()));
        if let Some(when) = &step.when {
            let text = when.as_str().map_or_else(|| when.to_string(), str::to_owned);
            flat.insert(format!("{prefix}when"), Value::String(text));
        }
        for (key, value) in spec::flatten(&step.settings) {
            flat.insert(format!("{prefix}{key}"), value);
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(document: &Value) -> Result<Vec<TransformSpec>, String> {
        let mut errors = ConfigErrors::default();
        let steps = from_document(document, &mut errors);
        errors.into_result().map(|()| steps).map_err(|e| e.to_string())
    }

    #[test]
    fn the_list_and_connects_flat_form_are_the_same_steps() {
        let steps = read(&json!([
            { "type": "unwrap", "add_fields": ["op", "source.ts_ms"], "when": { "has_header": "x", "negate": true } },
            { "type": "filter", "name": "north", "condition": "after.region == 'north'", "when": "op != 'd'" },
        ]))
        .unwrap();
        assert_eq!(steps[0].name, "unwrap");
        let flat = to_flat(&steps);
        assert_eq!(flat["transforms"], "unwrap,north");
        assert_eq!(flat["transforms.unwrap.add_fields"], "op,source.ts_ms");
        let back = read(&from_flat(&flat).unwrap()).unwrap();
        assert_eq!(back[1], steps[1]);
        assert_eq!(back[0].when, steps[0].when);
    }

    #[test]
    fn predicates_of_connect_become_conditions() {
        let Value::Object(flat) = json!({
            "transforms": "a,b", "transforms.a.type": "filter", "transforms.a.predicate": "isT", "transforms.a.negate": "true",
            "transforms.b.type": "unwrap", "transforms.b.predicate": "mine",
            "predicates": "isT,mine", "predicates.isT.type": "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone",
            "predicates.mine.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches", "predicates.mine.pattern": "shop.*",
        }) else {
            unreachable!()
        };
        let steps = read(&from_flat(&flat).unwrap()).unwrap();
        assert_eq!(steps[0].when, Some(json!({ "is_tombstone": true, "negate": true })));
        assert_eq!(steps[1].when, Some(json!({ "topic_matches": "shop.*" })));
        assert!(
            is_flat_key("predicates.isT.type") && is_flat_key("transforms") && !is_flat_key("transformsX")
        );
    }

    #[test]
    fn all_problems_of_the_frame_come_at_once() {
        let text = read(&json!([{ "name": "x" }, "unwrap", { "type": "filter" }, { "type": "filter" }]))
            .unwrap_err();
        for expected in
            ["transforms[0].type: is required", "transforms[1]: expected", "transforms[3].name: `filter` is"]
        {
            assert!(text.contains(expected), "missing {expected:?} in:\n{text}");
        }
    }
}
