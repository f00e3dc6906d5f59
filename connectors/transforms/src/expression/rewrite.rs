//! What an expression asks of a record, as numbered slots in the place of its references; and its bounds.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use regex::Regex;
use rowstream_api::config::nearest;

use super::{
    RowKnown,
    functions::{self, GLOBALS, MEMBERS},
    slots::{Root, Slot},
};
use crate::settings::{regex_problem, whole_regex};

/// More macros than these are a program.
const MACROS_MAX: usize = 4;
/// Macros within macros.
const NESTING_MAX: usize = 2;

/// What came of it.
pub(super) struct Rewritten {
    pub(super) slots: Vec<Slot>,
    pub(super) lenient: bool,
}

/// Puts slots in the place of references.
pub(super) fn rewrite(ast: &mut IdedExpr, row: RowKnown) -> Result<Rewritten, String> {
    let mut walk = Walk { row, slots: Vec::new(), bound: Vec::new(), macros: 0, nesting: 0 };
    let nested = nesting(ast);
    if nested > NESTING_MAX {
        return Err(format!(
            "nests {nested} macros (`all`, `exists`, `map` …), at most {NESTING_MAX} are allowed"
        ));
    }
    walk.nesting = nested;
    walk.node(ast)?;
    if walk.macros > MACROS_MAX {
        return Err(format!(
            "holds {} macros (`all`, `exists`, `map` …), at most {MACROS_MAX} are allowed",
            walk.macros
        ));
    }
    let lenient = walk.slots.iter().any(Slot::tells_tables_apart);
    Ok(Rewritten { slots: walk.slots, lenient })
}

struct Walk {
    row: RowKnown,
    slots: Vec<Slot>,
    /// Variables of the macros around.
    bound: Vec<String>,
    macros: usize,
    /// How deep macros nest in the whole expression.
    nesting: usize,
}

/// Names that CEL has for types.
const TYPES: [&str; 12] = [
    "bool",
    "bytes",
    "double",
    "duration",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "timestamp",
    "type",
    "uint",
];

/// Names of the record.
const ROOTS: [&str; 11] = [
    "before",
    "after",
    "value",
    "op",
    "source",
    "key",
    "topic",
    "headers",
    "timestamp",
    "is_tombstone",
    "row",
];

impl Walk {
    fn node(&mut self, node: &mut IdedExpr) -> Result<(), String> {
        if let Some(slot) = self.slot_of(&node.expr)? {
            let number = self.slots.iter().position(|known| *known == slot).unwrap_or_else(|| {
                self.slots.push(slot);
                self.slots.len() - 1
            });
            node.expr = Expr::Ident(format!("@{number}"));
            return Ok(());
        }
        match &mut node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.known(name),
            Expr::Call(call) => {
                self.call(call)?;
                let sums = matches!(call.func_name.as_str(), operators::ADD | operators::SUBSTRACT);
                if sums && !is_accumulator(call.args.first()) {
                    call.args.iter_mut().for_each(bound);
                    bound(node);
                }
                Ok(())
            }
            Expr::Comprehension(inner) => {
                self.macros += 1;
                self.node(&mut inner.iter_range)?;
                let builds_list = matches!(inner.accu_init.expr, Expr::List(_));
                let range = std::mem::take(&mut inner.iter_range);
                inner.iter_range.id = range.id;
                inner.iter_range.expr = wrapped(functions::each(self.nesting > 1, builds_list), range);
                self.node(&mut inner.accu_init)?;
                let before = self.bound.len();
                self.bound.extend([inner.accu_var.clone(), inner.iter_var.clone()]);
                self.bound.extend(inner.iter_var2.clone());
                for part in [&mut inner.loop_cond, &mut inner.loop_step, &mut inner.result] {
                    self.node(part)?;
                }
                self.bound.truncate(before);
                Ok(())
            }
            Expr::List(list) => list.elements.iter_mut().try_for_each(|element| self.node(element)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| match &mut entry.expr {
                EntryExpr::StructField(field) => self.node(&mut field.value),
                EntryExpr::MapEntry(entry) => {
                    self.node(&mut entry.key)?;
                    self.node(&mut entry.value)
                }
            }),
            Expr::Select(select) => self.node(&mut select.operand),
            Expr::Struct(made) => {
                Err(format!("makes a `{}`; there are no message types here", made.type_name))
            }
        }
    }

    fn call(&mut self, call: &mut CallExpr) -> Result<(), String> {
        let name = call.func_name.as_str();
        let known: &[&str] = if call.target.is_some() { &MEMBERS } else { &GLOBALS };
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) && !known.contains(&name) {
            let all = GLOBALS.iter().chain(&MEMBERS).copied();
            let meant =
                nearest(name, all).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Err(format!("calls `{name}`, which is not known{meant}"));
        }
        let pattern = call.args.last().and_then(literal).filter(|_| name == "matches");
        if let Some(pattern) = pattern {
            Regex::new(pattern).map_err(|error| format!("calls `matches`: {}", regex_problem(&error)))?;
            let subject = call.target.take().map(|target| *target);
            call.args.splice(0..0, subject);
            functions::MATCHES.clone_into(&mut call.func_name);
        }
        if let Some(target) = &mut call.target {
            self.node(target)?;
        }
        call.args.iter_mut().try_for_each(|arg| self.node(arg))
    }

    fn known(&self, name: &str) -> Result<(), String> {
        if self.bound.iter().any(|bound| bound == name) || TYPES.contains(&name) || name.starts_with('@') {
            return Ok(());
        }
        let roots = ROOTS.into_iter().filter(|root| self.row == RowKnown::Yes || *root != "row");
        let meant =
            nearest(name, roots.clone()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        let all: Vec<&str> = roots.collect();
        Err(format!("names `{name}`, which is not known; {meant}known are {}", all.join(", ")))
    }

    /// The slot that stands for an expression, where it is a reference to the record.
    fn slot_of(&self, expr: &Expr) -> Result<Option<Slot>, String> {
        Ok(match expr {
            Expr::Ident(name) if !self.bound.contains(name) => match name.as_str() {
                "topic" => Some(Slot::Topic),
                "timestamp" => Some(Slot::Timestamp),
                "is_tombstone" => Some(Slot::IsTombstone),
                "headers" => Some(Slot::Headers),
                "op" => Some(Slot::Op),
                other => self.root(other).map(Slot::Whole),
            },
            Expr::Select(select) => self.field_of(&select.operand.expr, &select.field, select.test),
            Expr::Call(call) => match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
                (operators::INDEX, None, [of, index]) => match literal(index) {
                    Some(name) => self.field_of(&of.expr, name, false),
                    None => None,
                },
                ("is_tombstone", None, []) => Some(Slot::IsTombstone),
                ("has_header", None, [name]) => {
                    let name = literal(name).ok_or("calls `has_header` with something other than a text")?;
                    Some(Slot::HasHeader(name.to_owned()))
                }
                ("topic_matches", None, [pattern]) => {
                    let pattern =
                        literal(pattern).ok_or("calls `topic_matches` with something other than a text")?;
                    let regex = whole_regex(pattern)
                        .map_err(|problem| format!("calls `topic_matches`: {problem}"))?;
                    Some(Slot::TopicMatches(regex.into()))
                }
                _ => None,
            },
            Expr::Unspecified
            | Expr::Comprehension(_)
            | Expr::Ident(_)
            | Expr::List(_)
            | Expr::Literal(_)
            | Expr::Map(_)
            | Expr::Struct(_) => None,
        })
    }

    fn field_of(&self, of: &Expr, field: &str, test: bool) -> Option<Slot> {
        let Expr::Ident(name) = of else { return None };
        if self.bound.contains(name) {
            return None;
        }
        if name == "headers" {
            let name = field.to_owned();
            return Some(if test { Slot::HasHeader(name) } else { Slot::Header(name) });
        }
        let (root, field) = (self.root(name)?, field.to_owned());
        Some(if test { Slot::Has(root, field) } else { Slot::Field(root, field) })
    }

    fn root(&self, name: &str) -> Option<Root> {
        match name {
            "before" => Some(Root::Before),
            "after" => Some(Root::After),
            "value" => Some(Root::Value),
            "source" => Some(Root::Source),
            "key" => Some(Root::Key),
            "row" if self.row == RowKnown::Yes => Some(Root::Row),
            _ => None,
        }
    }
}

/// Puts the guard around an operand that is not written in the expression.
fn bound(node: &mut IdedExpr) {
    if !matches!(node.expr, Expr::Literal(_)) {
        let inner = std::mem::take(node);
        node.id = inner.id;
        node.expr = wrapped(functions::BOUNDED, inner);
    }
}

fn literal(node: &IdedExpr) -> Option<&str> {
    let Expr::Literal(LiteralValue::String(text)) = &node.expr else { return None };
    Some(text.inner())
}

fn wrapped(function: &str, inner: IdedExpr) -> Expr {
    Expr::Call(CallExpr { func_name: function.to_owned(), target: None, args: vec![inner] })
}

/// The sum that a macro itself makes: a list with one element more.
fn is_accumulator(node: Option<&IdedExpr>) -> bool {
    node.is_some_and(|node| matches!(&node.expr, Expr::Ident(name) if name.starts_with("@result")))
}

/// How deep macros nest.
fn nesting(node: &IdedExpr) -> usize {
    let most = |nodes: &mut dyn Iterator<Item = &IdedExpr>| nodes.map(nesting).max().unwrap_or(0);
    match &node.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => 0,
        Expr::Call(call) => most(&mut call.target.iter().map(AsRef::as_ref).chain(&call.args)),
        Expr::Comprehension(inner) => {
            let body = [&inner.loop_cond, &inner.loop_step, &inner.result];
            nesting(&inner.iter_range).max(1 + most(&mut body.into_iter()))
        }
        Expr::List(list) => most(&mut list.elements.iter()),
        Expr::Map(map) => most(&mut map.entries.iter().flat_map(|entry| match &entry.expr {
            EntryExpr::StructField(field) => vec![&field.value],
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        })),
        Expr::Select(select) => nesting(&select.operand),
        Expr::Struct(_) => 0,
    }
}
