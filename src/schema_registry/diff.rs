//! What changed from one schema to another, field by field, for a person who was told that the second can't follow the first.
//!
//! Everything that changed is listed, not only what breaks readers: the change that broke them is often seen best among its
//! neighbours. A named type is compared where it is met first: Debezium's `after` refers to the type that `before` defines, so
//! a column shows once, under `before`. Works on the JSON of valid schemas, as [`resolution`](super::resolution) does.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use serde_json::Value;

use super::resolution::{Field, Kind, Named, Names, Node, join};

/// Lines shown; a table with more changed columns is told by its first ones.
const LINES_MAX: usize = 40;

/// Every change between two schemas, in the order of the newer one's fields; what was removed comes first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaDiff(pub Vec<Change>);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Dotted path of the field; `[]` for the items of an array, `{}` for the values of a map. Empty at the root.
    pub path: String,
    /// What changed there.
    pub what: What,
}

/// What changed at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A field came.
    Added {
        /// Its type.
        is: String,
        /// Without one, readers of the new schema can't read older data.
        default: Option<String>,
    },
    /// A field went.
    Removed {
        /// Its type.
        was: String,
        /// Without one, readers of the old schema can't read newer data.
        default: Option<String>,
    },
    /// A type changed.
    Type {
        /// Old.
        was: String,
        /// New.
        is: String,
    },
    /// A record, enum or fixed has another name.
    Name {
        /// Old.
        was: String,
        /// New.
        is: String,
    },
    /// A default came, went or changed.
    Default {
        /// Old.
        was: Option<String>,
        /// New.
        is: Option<String>,
    },
    /// A fixed has another size in bytes.
    Size {
        /// Old.
        was: u64,
        /// New.
        is: u64,
    },
    /// An enum has a symbol more.
    SymbolAdded(String),
    /// An enum has a symbol less.
    SymbolRemoved(String),
}

impl SchemaDiff {
    /// What changed from `old` to `new`, both parsed and valid.
    #[must_use]
    pub fn between(old: &Value, new: &Value) -> Self {
        let (olds, news) = (Names::of(old), Names::of(new));
        let mut walk = Walk { olds: &olds, news: &news, seen: HashSet::new(), found: Vec::new() };
        walk.schema(&Node::root(old), &Node::root(new), "");
        Self(walk.found)
    }
}

impl fmt::Display for SchemaDiff {
    /// One line per change, indented, `-` for what went, `+` for what came, `~` for what changed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, change) in self.0.iter().take(LINES_MAX).enumerate() {
            write!(f, "{}  {change}", if n == 0 { "" } else { "\n" })?;
        }
        match self.0.len().saturating_sub(LINES_MAX) {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.path.is_empty() { "the schema" } else { &self.path };
        let or_none = |default: &Option<String>| default.clone().unwrap_or_else(|| "none".to_owned());
        match &self.what {
            What::Added { is, default: Some(default) } => write!(f, "+ {place}: {is}, default {default}"),
            What::Added { is, default: None } => write!(f, "+ {place}: {is}, without a default"),
            What::Removed { was, default: Some(default) } => write!(f, "- {place}: {was}, default {default}"),
            What::Removed { was, default: None } => write!(f, "- {place}: {was}, without a default"),
            What::Type { was, is } => write!(f, "~ {place}: type {was} → {is}"),
            What::Name { was, is } => write!(f, "~ {place}: name of the type {was} → {is}"),
            What::Default { was, is } => write!(f, "~ {place}: default {} → {}", or_none(was), or_none(is)),
            What::Size { was, is } => write!(f, "~ {place}: size {was} → {is} bytes"),
            What::SymbolAdded(symbol) => write!(f, "+ {place}: symbol `{symbol}`"),
            What::SymbolRemoved(symbol) => write!(f, "- {place}: symbol `{symbol}`"),
        }
    }
}

struct Walk<'a> {
    olds: &'a Names<'a>,
    news: &'a Names<'a>,
    /// Pairs of named types that were compared.
    seen: HashSet<(String, String)>,
    found: Vec<Change>,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, old: &Node<'a>, new: &Node<'a>, path: &str) {
        let (was, is) = (self.olds.kind(old), self.news.kind(new));
        match (&was, &is) {
            (Kind::Named(was), Kind::Named(is)) if was.sort == is.sort => self.named(was, is, path),
            (Kind::Array(was), Kind::Array(is)) => self.schema(was, is, &format!("{path}[]")),
            (Kind::Map(was), Kind::Map(is)) => self.schema(was, is, &format!("{path}{{}}")),
            (Kind::Union(olds), Kind::Union(news)) => {
                let (olds, news) = (olds.clone(), news.clone());
                self.note_type(&was, &is, path);
                self.branches(&olds, &news, path);
            }
            (
                Kind::Primitive(_)
                | Kind::Array(_)
                | Kind::Map(_)
                | Kind::Union(_)
                | Kind::Named(_)
                | Kind::Unknown(_),
                _,
            ) => self.note_type(&was, &is, path),
        }
    }

    fn note_type(&mut self, was: &Kind<'a>, is: &Kind<'a>, path: &str) {
        let (was, is) = (self.olds.describe(was), self.news.describe(is));
        if was != is {
            self.note(path, What::Type { was, is });
        }
    }

    /// Looks into the branches that both unions have: those of one name, or the only array or map.
    fn branches(&mut self, olds: &[Node<'a>], news: &[Node<'a>], path: &str) {
        for old in olds {
            let was = self.olds.kind(old);
            let same = news.iter().find(|new| match (&was, &self.news.kind(new)) {
                (Kind::Named(was), Kind::Named(is)) => was.sort == is.sort && was.name == is.name,
                (Kind::Array(_), Kind::Array(_)) | (Kind::Map(_), Kind::Map(_)) => true,
                (
                    Kind::Primitive(_)
                    | Kind::Array(_)
                    | Kind::Map(_)
                    | Kind::Union(_)
                    | Kind::Named(_)
                    | Kind::Unknown(_),
                    _,
                ) => false,
            });
            if let Some(new) = same {
                self.schema(old, new, path);
            }
        }
    }

    fn named(&mut self, old: &Named<'a>, new: &Named<'a>, path: &str) {
        if !self.seen.insert((old.name.clone(), new.name.clone())) {
            return;
        }
        if old.name != new.name {
            self.note(path, What::Name { was: old.name.clone(), is: new.name.clone() });
        }
        if old.size() != new.size() {
            self.note(path, What::Size { was: old.size(), is: new.size() });
        }
        let (was, is): (Vec<&str>, Vec<&str>) = (old.symbols().collect(), new.symbols().collect());
        for gone in was.iter().filter(|symbol| !is.contains(symbol)) {
            self.note(path, What::SymbolRemoved((*gone).to_owned()));
        }
        for come in is.iter().filter(|symbol| !was.contains(symbol)) {
            self.note(path, What::SymbolAdded((*come).to_owned()));
        }
        self.fields(old, new, path);
    }

    fn fields(&mut self, old: &Named<'a>, new: &Named<'a>, path: &str) {
        let was: BTreeMap<&str, Field<'a>> = old.fields().map(|f| (f.name, f)).collect();
        let is: BTreeMap<&str, Field<'a>> = new.fields().map(|f| (f.name, f)).collect();
        for gone in old.fields().filter(|f| !is.contains_key(f.name)) {
            let what = What::Removed { was: describe(self.olds, &gone), default: default(&gone) };
            self.note(&join(path, gone.name), what);
        }
        for field in new.fields() {
            let path = join(path, field.name);
            let Some(before) = was.get(field.name) else {
                let what = What::Added { is: describe(self.news, &field), default: default(&field) };
                self.note(&path, what);
                continue;
            };
            self.schema(&before.schema, &field.schema, &path);
            let (was, is) = (default(before), default(&field));
            if was != is {
                self.note(&path, What::Default { was, is });
            }
        }
    }

    fn note(&mut self, path: &str, what: What) {
        self.found.push(Change { path: path.to_owned(), what });
    }
}

fn describe<'a>(names: &Names<'a>, field: &Field<'a>) -> String {
    names.describe(&names.kind(&field.schema))
}

fn default(field: &Field<'_>) -> Option<String> {
    field.json.get("default").map(Value::to_string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(old: &Value, new: &Value) -> Vec<String> {
        SchemaDiff::between(old, new).0.iter().map(Change::to_string).collect()
    }

    fn record(fields: &Value) -> Value {
        json!({ "type": "record", "name": "Value", "namespace": "shop", "fields": fields })
    }

    #[test]
    fn every_kind_of_change_is_told() {
        let old = record(&json!([
            { "name": "id", "type": "int" },
            { "name": "gone", "type": "string" },
            { "name": "old_note", "type": ["null", "string"], "default": null },
            { "name": "state", "type": { "type": "enum", "name": "State", "symbols": ["new", "paid"] } },
            { "name": "hash", "type": { "type": "fixed", "name": "Hash", "size": 16 } },
            { "name": "tags", "type": { "type": "array", "items": "int" } },
            { "name": "price", "type": "long", "default": 0 },
            { "name": "same", "type": "string" },
        ]));
        let new = record(&json!([
            { "name": "id", "type": "long" },
            { "name": "added", "type": "string" },
            { "name": "note", "type": ["null", "string"], "default": null },
            { "name": "state", "type": { "type": "enum", "name": "State", "symbols": ["new", "sent"] } },
            { "name": "hash", "type": { "type": "fixed", "name": "Hash", "size": 20 } },
            { "name": "tags", "type": { "type": "array", "items": "string" } },
            { "name": "price", "type": "long" },
            { "name": "same", "type": "string" },
        ]));
        assert_eq!(
            lines(&old, &new),
            [
                "- gone: string, without a default",
                "- old_note: [null, string], default null",
                "~ id: type int → long",
                "+ added: string, without a default",
                "+ note: [null, string], default null",
                "- state: symbol `paid`",
                "+ state: symbol `sent`",
                "~ hash: size 16 → 20 bytes",
                "~ tags[]: type int → string",
                "~ price: default 0 → none",
            ]
        );
        assert_eq!(lines(&old, &old), Vec::<String>::new());
    }

    #[test]
    fn an_envelope_shows_a_column_once_under_before() {
        let envelope = |columns: Value| {
            let value = json!({ "type": "record", "name": "Value", "fields": columns });
            json!({ "type": "record", "name": "Envelope", "namespace": "shop.public.orders", "fields": [
                { "name": "before", "type": ["null", value], "default": null },
                { "name": "after", "type": ["null", "Value"], "default": null },
                { "name": "op", "type": "string" },
            ]})
        };
        let old = envelope(json!([{ "name": "total", "type": "int" }]));
        let new = envelope(json!([{ "name": "total", "type": ["null", "string"], "default": null }]));
        let expected = ["~ before.total: type int → [null, string]", "~ before.total: default none → null"];
        assert_eq!(lines(&old, &new), expected);
    }

    #[test]
    fn a_type_that_holds_itself_and_one_that_is_unknown_end() {
        let list = |item: &str| {
            json!({ "type": "record", "name": "Node", "fields": [
                { "name": "item", "type": item }, { "name": "next", "type": ["null", "Node"] },
            ]})
        };
        assert_eq!(lines(&list("int"), &list("Nope")), ["~ item: type int → Nope"]);
        assert_eq!(lines(&json!("int"), &list("int")), ["~ the schema: type int → record Node"]);
    }

    #[test]
    fn very_many_changes_are_counted() {
        let wide: Vec<Value> = (0..100).map(|n| json!({ "name": format!("c{n}"), "type": "int" })).collect();
        let text = SchemaDiff::between(&record(&json!([])), &record(&json!(wide))).to_string();
        assert_eq!(text.lines().count(), LINES_MAX + 1, "{text}");
        assert!(text.ends_with("… and 60 more"), "{text}");
    }
}
