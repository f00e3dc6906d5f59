//! Avro schema resolution: can data written with one schema be read with another?
//!
//! Works on the schemas' JSON and follows the specification as Java's `SchemaCompatibility` (what Confluent uses)
//! reads it: numbers promote, `string` and `bytes` are interchangeable, named types match by unqualified name or by
//! the reader's aliases, a field missing from the writer needs a default in the reader, an enum symbol unknown to
//! the reader needs an enum default. Logical types are not compared, as in Java.
//!
//! `apache_avro::schema_compatibility` is not used: it compares references to named types by name alone (Debezium's
//! `after` is a reference to the type that `before` defines), and its messages have no paths.
//!
//! Why it ends: JSON depth is bounded by the parser, and a pair of named types is looked into once. A pair that is
//! being looked into counts as readable. A pair found unreadable stays so, since it failed although everything open
//! was assumed readable; what was found readable meanwhile is forgotten, since that may have rested on the pair.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// Why data cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Dotted path of the field; `[]` for the items of an array, `{}` for the values of a map. Empty at the root.
    pub path: String,
    /// What differs there.
    pub mismatch: Mismatch,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The reader's type cannot hold the writer's.
    Type {
        /// Writer's type.
        writer: String,
        /// Reader's type.
        reader: String,
    },
    /// Records, enums or fixeds of different names, and no alias.
    Name {
        /// Writer's full name.
        writer: String,
        /// Reader's full name.
        reader: String,
    },
    /// Fixeds of different sizes in bytes.
    Size {
        /// Writer's.
        writer: u64,
        /// Reader's.
        reader: u64,
    },
    /// The writer has no such field and the reader has no default for it.
    NoDefault,
    /// The writer's enum has a symbol that the reader's has not.
    Symbol(String),
    /// A reference to a type that the schema does not define.
    Unknown(String),
}

/// Whether every datum written with `writer` can be read with `reader`; both are parsed, valid Avro schemas.
///
/// # Errors
/// The first difference that breaks the reader.
pub fn can_read(writer: &Value, reader: &Value) -> Result<(), Difference> {
    let writers = Names::of(writer);
    let readers = Names::of(reader);
    let mut resolver =
        Resolver { writers: &writers, readers: &readers, seen: HashMap::new(), entered: Vec::new() };
    resolver.schema(Node::root(writer), Node::root(reader), "")
}

/// A schema and the namespace around it.
#[derive(Clone)]
pub(super) struct Node<'a> {
    json: &'a Value,
    namespace: String,
}

/// What a schema is, with references followed.
pub(super) enum Kind<'a> {
    Primitive(&'a str),
    Array(Node<'a>),
    Map(Node<'a>),
    Union(Vec<Node<'a>>),
    Named(Named<'a>),
    Unknown(String),
}

/// A definition.
#[derive(Clone)]
pub(super) struct Named<'a> {
    pub(super) sort: &'a str,
    pub(super) name: String,
    pub(super) json: &'a Map<String, Value>,
    namespace: String,
}

/// The definitions of one schema, by full name.
pub(super) struct Names<'a>(HashMap<String, Named<'a>>);

struct Resolver<'a> {
    writers: &'a Names<'a>,
    readers: &'a Names<'a>,
    /// Verdicts on pairs of named types; `None` while readable or being looked into.
    seen: HashMap<(String, String), Option<Difference>>,
    /// The pairs of `seen` in the order they were entered.
    entered: Vec<(String, String)>,
}

impl<'a> Node<'a> {
    pub(super) fn root(json: &'a Value) -> Self {
        Self { json, namespace: String::new() }
    }
    fn inside(&self, json: &'a Value) -> Self {
        Self { json, namespace: self.namespace.clone() }
    }
    fn object(&self) -> Option<(&'a Map<String, Value>, &'a Value)> {
        let object = self.json.as_object()?;
        Some((object, object.get("type")?))
    }
}

impl<'a> Named<'a> {
    fn of(node: &Node<'a>) -> Option<Self> {
        let (json, sort) = node.object()?;
        let sort = sort.as_str().filter(|sort| matches!(*sort, "record" | "error" | "enum" | "fixed"))?;
        let given = json.get("name")?.as_str()?;
        let namespace = json.get("namespace").and_then(Value::as_str).unwrap_or(&node.namespace);
        let name = full_name(given, namespace);
        let namespace = name.rsplit_once('.').map(|(space, _)| space.to_owned()).unwrap_or_default();
        Some(Self { sort, name, json, namespace })
    }
    pub(super) fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let namespace = self.namespace.clone();
        self.list("fields").iter().filter_map(move |field| {
            let json = field.as_object()?;
            let name = json.get("name")?.as_str()?;
            Some(Field { name, json, schema: Node { json: json.get("type")?, namespace: namespace.clone() } })
        })
    }
    fn list(&self, member: &str) -> &'a [Value] {
        self.json.get(member).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    pub(super) fn symbols(&self) -> impl Iterator<Item = &'a str> {
        self.list("symbols").iter().filter_map(Value::as_str)
    }
    /// Bytes of a fixed.
    pub(super) fn size(&self) -> u64 {
        self.json.get("size").and_then(Value::as_u64).unwrap_or_default()
    }
    /// As the reader: the unqualified name, or an alias of the whole.
    fn answers_to(&self, writer: &Named<'_>) -> bool {
        let simple = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        simple(&self.name) == simple(&writer.name)
            || self
                .list("aliases")
                .iter()
                .filter_map(Value::as_str)
                .any(|alias| full_name(alias, &self.namespace) == writer.name)
    }
}

/// A field of a record.
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    pub(super) json: &'a Map<String, Value>,
    pub(super) schema: Node<'a>,
}

impl<'a> Field<'a> {
    fn aliases(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let aliases = self.json.get("aliases").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        aliases.iter().filter_map(Value::as_str)
    }
}

impl<'a> Names<'a> {
    pub(super) fn of(root: &'a Value) -> Self {
        let mut names = Self(HashMap::new());
        names.collect(&Node::root(root));
        names
    }
    fn collect(&mut self, node: &Node<'a>) {
        if let Some(branches) = node.json.as_array() {
            branches.iter().for_each(|branch| self.collect(&node.inside(branch)));
        }
        if let Some(named) = Named::of(node) {
            named.fields().for_each(|field| self.collect(&field.schema));
            self.0.insert(named.name.clone(), named);
        } else if let Some((object, sort)) = node.object() {
            for inner in [Some(sort), object.get("items"), object.get("values")].into_iter().flatten() {
                self.collect(&node.inside(inner));
            }
        }
    }
    pub(super) fn kind(&self, node: &Node<'a>) -> Kind<'a> {
        match node.json {
            Value::String(name) => self.reference(name, &node.namespace),
            Value::Array(branches) => Kind::Union(branches.iter().map(|b| node.inside(b)).collect()),
            Value::Object(object) => match (Named::of(node), object.get("type")) {
                (Some(named), _) => Kind::Named(named),
                (None, Some(Value::String(sort))) => match (sort.as_str(), inner(object, sort)) {
                    ("array", Some(items)) => Kind::Array(node.inside(items)),
                    ("map", Some(values)) => Kind::Map(node.inside(values)),
                    _ => self.reference(sort, &node.namespace),
                },
                (None, Some(nested)) => self.kind(&node.inside(nested)),
                (None, None) => Kind::Unknown(String::new()),
            },
            Value::Null | Value::Bool(_) | Value::Number(_) => Kind::Unknown(node.json.to_string()),
        }
    }
    fn reference(&self, name: &'a str, namespace: &str) -> Kind<'a> {
        if matches!(name, "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string") {
            return Kind::Primitive(name);
        }
        let full = full_name(name, namespace);
        self.0.get(&full).or_else(|| self.0.get(name)).cloned().map_or(Kind::Unknown(full), Kind::Named)
    }
    /// For people: `int`, `record shop.Value`, `array of string`, `[null, int]`.
    pub(super) fn describe(&self, kind: &Kind<'a>) -> String {
        match kind {
            Kind::Primitive(name) => (*name).to_owned(),
            Kind::Array(items) => format!("array of {}", self.describe(&self.kind(items))),
            Kind::Map(values) => format!("map of {}", self.describe(&self.kind(values))),
            Kind::Union(branches) => {
                let names: Vec<_> = branches.iter().map(|b| self.describe(&self.kind(b))).collect();
                format!("[{}]", names.join(", "))
            }
            Kind::Named(named) => format!("{} {}", named.sort, named.name),
            Kind::Unknown(name) => name.clone(),
        }
    }
    /// The kind, or the only branch beside null.
    pub(super) fn without_null(&self, kind: Kind<'a>) -> Kind<'a> {
        let Kind::Union(branches) = kind else { return kind };
        let mut others: Vec<_> =
            branches.iter().map(|b| self.kind(b)).filter(|k| !matches!(k, Kind::Primitive("null"))).collect();
        match (others.len(), others.pop()) {
            (1, Some(only)) if branches.len() == 2 => only,
            _ => Kind::Union(branches),
        }
    }
}

impl<'a> Resolver<'a> {
    fn schema(&mut self, writer: Node<'a>, reader: Node<'a>, path: &str) -> Result<(), Difference> {
        let (w, r) = (self.writers.kind(&writer), self.readers.kind(&reader));
        match (w, r) {
            (Kind::Unknown(name), _) | (_, Kind::Unknown(name)) => Err(at(path, Mismatch::Unknown(name))),
            (Kind::Union(branches), _) => {
                for branch in branches {
                    self.branch(&writer, branch, &reader, path)?;
                }
                Ok(())
            }
            (w, Kind::Union(_)) => self.some_branch(w, &writer, &reader, path),
            (Kind::Primitive(w), Kind::Primitive(r)) if promotes(w, r) => Ok(()),
            (Kind::Array(w), Kind::Array(r)) => self.schema(w, r, &format!("{path}[]")),
            (Kind::Map(w), Kind::Map(r)) => self.schema(w, r, &format!("{path}{{}}")),
            (Kind::Named(w), Kind::Named(r)) if w.sort == r.sort => self.named(&w, &r, path),
            (Kind::Primitive(_) | Kind::Array(_) | Kind::Map(_) | Kind::Named(_), _) => {
                Err(self.changed(&writer, &reader, path))
            }
        }
    }

    /// One branch of the writer's union; a bare type mismatch is told of the unions as wholes.
    fn branch(
        &mut self,
        union: &Node<'a>,
        branch: Node<'a>,
        reader: &Node<'a>,
        path: &str,
    ) -> Result<(), Difference> {
        match self.schema(branch, reader.clone(), path) {
            Err(Difference { path: deeper, mismatch: Mismatch::Type { .. } }) if deeper == path => {
                Err(self.changed(union, reader, path))
            }
            verdict => verdict,
        }
    }

    /// A single type into the reader's union: any branch will do; else the branch most like it explains.
    fn some_branch(
        &mut self,
        w: Kind<'a>,
        writer: &Node<'a>,
        reader: &Node<'a>,
        path: &str,
    ) -> Result<(), Difference> {
        let Kind::Union(branches) = self.readers.kind(reader) else { return Ok(()) };
        let mut closest = None;
        for branch in branches {
            let alike = self.alike(&w, &self.readers.kind(&branch));
            match self.schema(writer.clone(), branch, path) {
                Ok(()) => return Ok(()),
                Err(difference) if alike => {
                    closest.get_or_insert(difference);
                }
                Err(_) => {}
            }
        }
        Err(closest.unwrap_or_else(|| self.changed(writer, reader, path)))
    }

    fn alike(&self, writer: &Kind<'a>, reader: &Kind<'a>) -> bool {
        match (writer, reader) {
            (Kind::Named(w), Kind::Named(r)) => w.sort == r.sort && r.answers_to(w),
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
        }
    }

    fn named(&mut self, writer: &Named<'a>, reader: &Named<'a>, path: &str) -> Result<(), Difference> {
        if !reader.answers_to(writer) {
            return Err(at(
                path,
                Mismatch::Name { writer: writer.name.clone(), reader: reader.name.clone() },
            ));
        }
        let pair = (writer.name.clone(), reader.name.clone());
        match self.seen.get(&pair) {
            Some(None) => return Ok(()),
            Some(Some(inner)) => {
                return Err(Difference { path: join(path, &inner.path), mismatch: inner.mismatch.clone() });
            }
            None => {}
        }
        let mark = self.entered.len();
        self.seen.insert(pair.clone(), None);
        self.entered.push(pair.clone());
        // Looked into from the type's own root, so that the verdict can be kept for other places.
        let verdict = match reader.sort {
            "enum" => enum_symbols(writer, reader),
            "fixed" => fixed_size(writer, reader),
            _ => self.record(writer, reader),
        };
        let Err(inner) = verdict else { return Ok(()) };
        for readable in self.entered.drain(mark..) {
            if self.seen.get(&readable).is_some_and(Option::is_none) {
                self.seen.remove(&readable);
            }
        }
        self.seen.insert(pair, Some(inner.clone()));
        Err(Difference { path: join(path, &inner.path), mismatch: inner.mismatch })
    }

    fn record(&mut self, writer: &Named<'a>, reader: &Named<'a>) -> Result<(), Difference> {
        let written: HashMap<&str, Node<'a>> = writer.fields().map(|f| (f.name, f.schema)).collect();
        for field in reader.fields() {
            // A field of the reader's own name comes before one of an alias.
            let names = std::iter::once(field.name).chain(field.aliases());
            match names.filter_map(|name| written.get(name)).next() {
                Some(written) => self.schema(written.clone(), field.schema, field.name)?,
                None if field.json.contains_key("default") => {}
                None => return Err(at(field.name, Mismatch::NoDefault)),
            }
        }
        Ok(())
    }

    fn changed(&self, writer: &Node<'a>, reader: &Node<'a>, path: &str) -> Difference {
        let (w, r) = (self.writers.kind(writer), self.readers.kind(reader));
        let both_nullable = matches!((&w, &r), (Kind::Union(_), Kind::Union(_)));
        let (w, r) = if both_nullable {
            match (self.writers.without_null(w), self.readers.without_null(r)) {
                (Kind::Union(_), _) | (_, Kind::Union(_)) => {
                    (self.writers.kind(writer), self.readers.kind(reader))
                }
                stripped => stripped,
            }
        } else {
            (w, r)
        };
        at(path, Mismatch::Type { writer: self.writers.describe(&w), reader: self.readers.describe(&r) })
    }
}

fn inner<'a>(object: &'a Map<String, Value>, sort: &str) -> Option<&'a Value> {
    object.get(if sort == "array" { "items" } else { "values" })
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn promotes(writer: &str, reader: &str) -> bool {
    writer == reader
        || matches!(
            (writer, reader),
            ("int", "long" | "float" | "double")
                | ("long", "float" | "double")
                | ("float", "double")
                | ("string", "bytes")
                | ("bytes", "string")
        )
}

fn enum_symbols(writer: &Named<'_>, reader: &Named<'_>) -> Result<(), Difference> {
    let has_default = reader.json.get("default").is_some_and(Value::is_string);
    let known: HashSet<&str> = reader.symbols().collect();
    match writer.symbols().find(|symbol| !known.contains(symbol)) {
        Some(missing) if !has_default => Err(at("", Mismatch::Symbol(missing.to_owned()))),
        Some(_) | None => Ok(()),
    }
}

fn fixed_size(writer: &Named<'_>, reader: &Named<'_>) -> Result<(), Difference> {
    let (writer, reader) = (writer.size(), reader.size());
    if writer == reader { Ok(()) } else { Err(at("", Mismatch::Size { writer, reader })) }
}

fn at(path: &str, mismatch: Mismatch) -> Difference {
    Difference { path: path.to_owned(), mismatch }
}

/// `after` and `price` make `after.price`; `tags` and `[]` make `tags[]`.
pub(super) fn join(outer: &str, inner: &str) -> String {
    match (outer, inner) {
        ("", _) => inner.to_owned(),
        (_, "") => outer.to_owned(),
        _ => format!("{outer}.{inner}"),
    }
}
