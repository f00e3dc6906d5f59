//! What an expression's slots hold for one record.
//!
//! Where a slot stands in a schema is found once for each schema; for a record the fields that some slot needs are decoded, and a
//! slot becomes a value of CEL's when evaluation asks for it. A slot that has no value answers nothing, which stops the
//! evaluation, and [`Scope::why`] then tells the reason.

use std::{collections::HashMap, sync::Arc};

use cel::{
    common::{
        types::{CelBool, CelBytes, CelMap, CelMapKey, CelNull, CelString},
        value::{CowVal, Val},
    },
    context::VariableResolver,
};
use regex::Regex;
use rowstream_api::{RecordError, Schema, ValueRef, config::nearest};

use super::{
    RowImage,
    convert::{to_cel, to_timestamp},
};
use crate::{
    record::{Part, Record},
    refused,
    rows::SchemaCache,
    unavailable::Unavailable,
};

/// A STRUCT, or what else a part of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    Before,
    After,
    Value,
    Source,
    Key,
    Row,
}

impl Root {
    fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Value => "value",
            Self::Source => "source",
            Self::Key => "key",
            Self::Row => "row",
        }
    }

    /// Whether columns of it may hold placeholders.
    fn is_row(self) -> bool {
        match self {
            Self::Before | Self::After | Self::Value | Self::Row => true,
            Self::Source | Self::Key => false,
        }
    }
}

/// A reference to the record.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Slot {
    /// `after.name`
    Field(Root, String),
    /// `has(after.name)`
    Has(Root, String),
    /// `after`
    Whole(Root),
    Op,
    Topic,
    Timestamp,
    Headers,
    /// `headers.name`
    Header(String),
    HasHeader(String),
    TopicMatches(Pattern),
    IsTombstone,
}

/// A regular expression; two of one text are one.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Regex);

impl From<Regex> for Pattern {
    fn from(regex: Regex) -> Self {
        Self(regex)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Slot {
    fn root(&self) -> Option<Root> {
        match self {
            Self::Field(root, _) | Self::Has(root, _) | Self::Whole(root) => Some(*root),
            Self::Op => Some(Root::Value),
            Self::Topic
            | Self::Timestamp
            | Self::Headers
            | Self::Header(_)
            | Self::HasHeader(_)
            | Self::TopicMatches(_)
            | Self::IsTombstone => None,
        }
    }

    /// Whether it looks into the record's value.
    pub(super) fn is_of_value(&self) -> bool {
        matches!(self.root(), Some(Root::Before | Root::After | Root::Value | Root::Source))
    }

    /// Whether it can tell one table's records from another's.
    pub(super) fn tells_tables_apart(&self) -> bool {
        matches!(self, Self::Topic | Self::TopicMatches(_)) || self.root() == Some(Root::Source)
    }
}

/// Where slots stand in the schemas seen.
#[derive(Default)]
pub(super) struct Shapes {
    value: SchemaCache<Shape>,
    key: SchemaCache<Shape>,
    row: SchemaCache<Shape>,
}

/// Where slots stand in one schema.
struct Shape {
    schema: Arc<Schema>,
    /// One for each slot.
    places: Vec<Place>,
    /// Top-level fields that are needed.
    wanted: Vec<usize>,
    /// All of it is needed.
    whole: bool,
}

#[derive(Debug, Clone)]
enum Place {
    /// Not in this part of the record.
    Elsewhere,
    /// All of it.
    Whole,
    /// The field at this index of `wanted`.
    Top(usize, Arc<Schema>),
    /// A field of the STRUCT at this index of `wanted`.
    Inner(usize, usize, Arc<Schema>),
    /// This schema has no such STRUCT: a record without an envelope has no `before`.
    NoRoot,
    /// The STRUCT has no such field.
    NoField(Arc<Schema>),
}

/// Which part of a record a shape is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Value,
    Key,
    Row,
}

impl Shape {
    fn of(schema: &Arc<Schema>, slots: &[Slot], of: Of, lenient: bool) -> Result<Self, RecordError> {
        let mut shape =
            Self { schema: Arc::clone(schema), places: Vec::new(), wanted: Vec::new(), whole: false };
        for slot in slots {
            let place = shape.place(slot, of);
            if let (Slot::Field(root, name), Place::NoField(known), false) = (slot, &place, lenient)
                && !slots.contains(&Slot::Has(*root, name.clone()))
            {
                return Err(unknown_field(*root, name, known));
            }
            shape.whole |= matches!(place, Place::Whole);
            shape.places.push(place);
        }
        Ok(shape)
    }

    fn place(&mut self, slot: &Slot, of: Of) -> Place {
        let Some(root) = slot.root() else { return Place::Elsewhere };
        let here = match root {
            Root::Before | Root::After | Root::Value | Root::Source => Of::Value,
            Root::Key => Of::Key,
            Root::Row => Of::Row,
        };
        if here != of {
            return Place::Elsewhere;
        }
        let name = match slot {
            Slot::Field(_, name) | Slot::Has(_, name) => Some(name.as_str()),
            Slot::Op => Some("op"),
            Slot::Whole(_)
            | Slot::Topic
            | Slot::Timestamp
            | Slot::Headers
            | Slot::Header(_)
            | Slot::HasHeader(_)
            | Slot::TopicMatches(_)
            | Slot::IsTombstone => None,
        };
        let schema = Arc::clone(&self.schema);
        let envelope = schema.is_envelope();
        let within = match root {
            Root::Before | Root::Source if !envelope => return Place::NoRoot,
            Root::Before | Root::Source => Some(root.word()),
            Root::After if envelope => Some(root.word()),
            Root::Value if *slot == Slot::Op && !envelope => return Place::NoRoot,
            Root::After | Root::Value | Root::Key | Root::Row => None,
        };
        match (within, name) {
            (None, None) => Place::Whole,
            (None, Some(name)) => match schema.field(name) {
                Some((index, field)) => Place::Top(self.want(index), Arc::clone(&field.schema)),
                None => Place::NoField(schema),
            },
            (Some(within), name) => {
                let Some((index, outer)) = schema.field(within) else { return Place::NoRoot };
                let top = self.want(index);
                let Some(name) = name else { return Place::Top(top, Arc::clone(&outer.schema)) };
                match outer.schema.field(name) {
                    Some((inner, field)) => Place::Inner(top, inner, Arc::clone(&field.schema)),
                    None => Place::NoField(Arc::clone(&outer.schema)),
                }
            }
        }
    }

    fn want(&mut self, index: usize) -> usize {
        self.wanted.iter().position(|wanted| *wanted == index).unwrap_or_else(|| {
            self.wanted.push(index);
            self.wanted.len() - 1
        })
    }
}

/// A part of the record, read as far as needed.
struct Loaded<'r> {
    shape: &'r Shape,
    fields: Vec<ValueRef<'r>>,
    whole: Option<ValueRef<'r>>,
}

impl<'r> Loaded<'r> {
    fn part(part: &Part<'r>, shape: &'r Shape) -> Result<Self, RecordError> {
        let whole = match part {
            Part::Encoded(datum) if shape.whole => Some(datum.decode()?),
            Part::Tree { value, .. } if shape.whole => Some(value.clone()),
            Part::Null | Part::Encoded(_) | Part::Tree { .. } => None,
        };
        let fields = if shape.wanted.is_empty() { Vec::new() } else { part.fields(&shape.wanted)? };
        Ok(Self { shape, fields, whole })
    }

    fn image(image: RowImage<'r>, shape: &'r Shape) -> Self {
        let field = |index: &usize| image.values.get(*index).cloned().unwrap_or(ValueRef::Absent);
        let whole = shape.whole.then(|| ValueRef::Struct(image.values.to_vec()));
        Self { shape, fields: shape.wanted.iter().map(field).collect(), whole }
    }
}

/// What an expression sees of one record.
pub(super) struct Scope<'r> {
    slots: &'r [Slot],
    record: &'r Record<'r>,
    unavailable: Unavailable,
    value: Option<Loaded<'r>>,
    key: Option<Loaded<'r>>,
    row: Option<Loaded<'r>>,
}

/// Why a reference leads nowhere.
enum Missing<'f> {
    /// The STRUCT is null, or this record has none of that name.
    Root,
    /// The STRUCT has no such field.
    Field(&'f Schema),
}

type Found<'f> = Result<(&'f Schema, &'f ValueRef<'f>), Missing<'f>>;

type Held<'f> = Result<Box<dyn Val + 'f>, RecordError>;

impl<'r> Scope<'r> {
    /// Reads what the slots need.
    ///
    /// # Errors
    /// A field is not known, or the record can't be read.
    pub(super) fn load(
        slots: &'r [Slot],
        shapes: &'r mut Shapes,
        lenient: bool,
        record: &'r Record<'r>,
        row: Option<RowImage<'r>>,
    ) -> Result<Self, RecordError> {
        let uses = |of: &[Root]| slots.iter().any(|slot| slot.root().is_some_and(|root| of.contains(&root)));
        let of_value = uses(&[Root::Before, Root::After, Root::Value, Root::Source]);
        let Shapes { value: values, key: keys, row: rows } = shapes;
        let value = match record.value.schema() {
            Some(schema) if of_value => {
                let shape = values.get(schema, |schema| Shape::of(schema, slots, Of::Value, lenient))?;
                Some(Loaded::part(&record.value, shape)?)
            }
            Some(_) | None => None,
        };
        let key = match record.key.schema() {
            Some(schema) if uses(&[Root::Key]) => {
                let shape = keys.get(schema, |schema| Shape::of(schema, slots, Of::Key, lenient))?;
                Some(Loaded::part(&record.key, shape)?)
            }
            Some(_) | None => None,
        };
        let row = match row {
            Some(image) if uses(&[Root::Row]) => {
                let shape = rows.get(image.schema, |schema| Shape::of(schema, slots, Of::Row, lenient))?;
                Some(Loaded::image(image, shape))
            }
            Some(_) | None => None,
        };
        let rows = slots.iter().any(|slot| slot.root().is_some_and(Root::is_row));
        let unavailable = if rows { Unavailable::of(&record.headers)? } else { Unavailable::default() };
        Ok(Self { slots, record, unavailable, value, key, row })
    }

    /// Why a slot, by the name it has in the expression, has no value; none when it has one.
    pub(super) fn why(&self, name: &str) -> Option<RecordError> {
        self.held(self.numbered(name)?).err()
    }

    fn numbered(&self, name: &str) -> Option<usize> {
        name.strip_prefix('@')?.parse().ok().filter(|number| *number < self.slots.len())
    }

    fn held(&self, number: usize) -> Held<'_> {
        let Some(slot) = self.slots.get(number) else {
            return Err(refused("EXPRESSION_FAILED", "a slot without a reference"));
        };
        match slot {
            Slot::Topic => Ok(Box::new(CelString::from(&*self.record.topic))),
            Slot::Timestamp => to_timestamp(self.record.timestamp_ms.saturating_mul(1000)),
            Slot::IsTombstone => truth(self.record.value.is_null()),
            Slot::TopicMatches(pattern) => truth(pattern.0.is_match(&self.record.topic)),
            Slot::HasHeader(name) => truth(self.header(name).is_some()),
            Slot::Header(name) => self.header(name).map(header_value).ok_or_else(|| {
                let message = format!("the record has no header `{name}`; ask `has_header('{name}')` first");
                refused("HEADER_MISSING", message)
            }),
            Slot::Headers => {
                let mut all: HashMap<CelMapKey<'_>, Box<dyn Val + '_>> = HashMap::new();
                for (name, value) in &self.record.headers {
                    all.insert(CelMapKey::from(name.to_string()), header_value(value));
                }
                Ok(Box::new(CelMap::from(all)))
            }
            Slot::Has(root, name) => {
                let sent = !(root.is_row() && self.unavailable.contains(name));
                truth(sent && self.found(number, *root).is_ok())
            }
            Slot::Op => match self.found(number, Root::Value) {
                Ok((schema, value)) => to_cel(schema, value),
                Err(_) => Ok(Box::new(CelNull)),
            },
            Slot::Field(root, name) => {
                if root.is_row() && self.unavailable.contains(name) {
                    return Err(not_sent(*root, name));
                }
                match self.found(number, *root) {
                    Ok((schema, value)) => to_cel(schema, value).map_err(|error| error.in_column(name)),
                    Err(Missing::Root) => Err(no_struct(*root, name)),
                    Err(Missing::Field(known)) => Err(unknown_field(*root, name, known)),
                }
            }
            Slot::Whole(root) => {
                if let (true, Some(name)) = (root.is_row(), self.unavailable.first()) {
                    return Err(not_sent(*root, name));
                }
                match self.found(number, *root) {
                    Ok((schema, value)) => to_cel(schema, value),
                    Err(_) => Ok(Box::new(CelNull)),
                }
            }
        }
    }

    fn found(&self, number: usize, root: Root) -> Found<'_> {
        let part = match root {
            Root::Before | Root::After | Root::Value | Root::Source => &self.value,
            Root::Key => &self.key,
            Root::Row => &self.row,
        };
        let part = part.as_ref().ok_or(Missing::Root)?;
        let (schema, value): (&Schema, Option<&ValueRef<'_>>) = match part.shape.places.get(number) {
            Some(Place::Whole) => (&part.shape.schema, part.whole.as_ref()),
            Some(Place::Top(index, schema)) => (schema, part.fields.get(*index)),
            Some(Place::Inner(index, inner, schema)) => {
                let fields = part.fields.get(*index).and_then(ValueRef::as_struct);
                (schema, fields.and_then(|fields| fields.get(*inner)))
            }
            Some(Place::NoField(known)) => return Err(Missing::Field(known)),
            Some(Place::NoRoot | Place::Elsewhere) | None => return Err(Missing::Root),
        };
        value.map(|value| (schema, value)).ok_or(Missing::Root)
    }

    /// The last header of this name, as Connect's `lastWithName`.
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.record.headers.iter().rev().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        self.held(self.numbered(variable)?).ok().map(CowVal::Owned)
    }
}

fn truth<'f>(truth: bool) -> Held<'f> {
    Ok(Box::new(CelBool::from(truth)))
}

/// Text where it is one.
fn header_value(value: &[u8]) -> Box<dyn Val + '_> {
    match std::str::from_utf8(value) {
        Ok(text) => Box::new(CelString::from(text)),
        Err(_) => Box::new(CelBytes::from(value)),
    }
}

fn not_sent(root: Root, name: &str) -> RecordError {
    let message = format!(
        "the source did not send `{name}`, because it did not change, so that `{}` can't be looked at; ask \
         `has({0}.{name})` first, or let the table send whole rows (REPLICA IDENTITY FULL)",
        root.word()
    );
    refused("EXPRESSION_VALUE_UNAVAILABLE", message)
}

fn no_struct(root: Root, name: &str) -> RecordError {
    let root = root.word();
    let message = format!(
        "`{root}` is null in this record, so that there is no `{root}.{name}`; ask `{root} != null` first"
    );
    refused("EXPRESSION_FAILED", message)
}

fn unknown_field(root: Root, name: &str, schema: &Schema) -> RecordError {
    let root = root.word();
    let names = || schema.fields().iter().map(|field| field.name.as_str());
    let meant = nearest(name, names()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    let message = if schema.fields().is_empty() {
        format!("`{root}.{name}` is not known: `{root}` is no struct")
    } else {
        let known: Vec<&str> = names().collect();
        format!("`{root}.{name}` is not known; {meant}known are {}", known.join(", "))
    };
    refused("EXPRESSION_FIELD_UNKNOWN", message)
}
