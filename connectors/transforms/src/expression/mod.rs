//! CEL over a record.
//!
//! An expression is parsed once. Its references to the record (`after.region`, `topic`, `has(key.id)`) are replaced by numbered
//! slots (`rewrite`), so that for a record only what the expression names is read, and read only when evaluation gets there
//! (`slots`); values become CEL's as `convert` says. It is pure: it sees no clock, and nothing whose order is left to chance.
//!
//! It can't run away: its text, its macros and their nesting are bounded when it is parsed, the lists that macros visit and the
//! results of `+` when it runs, and regular expressions take time linear in their input.
//!
//! A field that the record's schema does not have is an error at the first record of that schema, unless the expression itself
//! shows that it expects schemas without it: it asks `has()` for that field, or it looks at `topic` or `source`. Then it is an
//! error for the records that reach it.

mod convert;
mod functions;
mod rewrite;
mod slots;

use std::sync::Arc;

use cel::{Context, Env, ExecutionError, common::ast::IdedExpr, common::value::Val, parser::Parser};
use rowstream_api::{RecordError, Schema, ValueRef};

pub(crate) use convert::type_of;
use slots::{Scope, Shapes, Slot};

use crate::{record::Record, refused};

/// Longer ones are programs, which belong in a language that has tests.
const TEXT_MAX: usize = 4096;
/// Deeper ones are not written by hand.
const DEPTH_MAX: u16 = 64;

/// A compiled expression.
pub(crate) struct Expression {
    ast: IdedExpr,
    slots: Vec<Slot>,
    env: Arc<Env>,
    /// It expects records of schemas that do not have all its fields.
    lenient: bool,
    shapes: Shapes,
}

/// The row that a row step works on: `row` in an expression.
#[derive(Clone, Copy)]
pub(crate) struct RowImage<'r> {
    /// Its schema.
    pub(crate) schema: &'r Arc<Schema>,
    /// Its values.
    pub(crate) values: &'r [ValueRef<'r>],
}

impl Expression {
    /// Parses an expression over records; `row` too is known to it where a step has one.
    pub(crate) fn compile(text: &str, row: RowKnown) -> Result<Self, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("is longer than {TEXT_MAX} bytes"));
        }
        let parser = Parser::default().max_recursion_depth(DEPTH_MAX).enable_ident_escape_syntax(true);
        let mut ast = parser.parse(text).map_err(|errors| {
            let first = errors.errors.first();
            let place = first.map_or((0, 0), |error| error.pos);
            let what = first.map_or("it can't be read", |error| error.msg.as_str());
            format!("is no CEL expression: line {}, character {}: {what}", place.0, place.1)
        })?;
        let rewritten = rewrite::rewrite(&mut ast, row)?;
        Ok(Self {
            ast,
            slots: rewritten.slots,
            env: functions::environment()?,
            lenient: rewritten.lenient,
            shapes: Shapes::default(),
        })
    }

    /// Whether its result depends on the record's value, so that a tombstone has no answer to it.
    pub(crate) fn reads_value(&self) -> bool {
        self.slots.iter().any(Slot::is_of_value) && !self.slots.contains(&Slot::IsTombstone)
    }

    /// A condition's answer.
    ///
    /// # Errors
    /// It can't be evaluated for this record, or is not a boolean.
    pub(crate) fn test(&mut self, record: &Record<'_>) -> Result<bool, RecordError> {
        self.evaluate(record, None, |value| match value.downcast_ref::<cel::common::types::CelBool>() {
            Some(answer) => Ok(*answer.inner()),
            None => Err(refused(
                "EXPRESSION_TYPE",
                format!("the condition gives {}, expected `true` or `false`", type_of(value)),
            )),
        })
    }

    /// Evaluates it and hands its value to `read`.
    ///
    /// # Errors
    /// It can't be evaluated for this record, or those of `read`.
    pub(crate) fn evaluate<T>(
        &mut self,
        record: &Record<'_>,
        row: Option<RowImage<'_>>,
        read: impl FnOnce(&dyn Val) -> Result<T, RecordError>,
    ) -> Result<T, RecordError> {
        let scope = Scope::load(&self.slots, &mut self.shapes, self.lenient, record, row)?;
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.set_variable_resolver(&scope);
        match cel::Value::resolve_val(&self.ast, &context) {
            Ok(value) => read(value.as_ref()),
            Err(error) => Err(explain(&error, &scope)),
        }
    }
}

/// Whether `row` means something to an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowKnown {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// What went wrong, by names and types: CEL's own texts hold values.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum may grow, and what it grows by is not ours to name"
)]
fn explain(error: &ExecutionError, scope: &Scope<'_>) -> RecordError {
    use ExecutionError as E;
    let what = match error {
        E::UndeclaredReference(name) => match scope.why(name) {
            Some(why) => return why,
            None => format!("`{name}` is not known"),
        },
        E::NoSuchOverload(overload) => {
            let types = overload.argument_types().join(", ");
            let mixed =
                "; numbers of two types are converted with `int()` or `double()`, and null has no order";
            format!("`{}` does not work on ({types}){mixed}", operator(overload.function()))
        }
        E::UnsupportedBinaryOperator(name, a, b) => {
            let (a, b) = (a.type_of(), b.type_of());
            let name = operator(name);
            format!("`{name}` does not work on ({a}, {b}); convert with `int()`, `double()` or `string()`")
        }
        E::ValuesNotComparable(a, b) => format!("{} and {} can't be compared", a.type_of(), b.type_of()),
        E::UnexpectedType { .. } => "a value is of another type than the operation wants".to_owned(),
        E::NoSuchKey(_) => "a map or struct has no such key; ask with `has()` first".to_owned(),
        E::InvalidArgumentCount { expected, actual } => {
            format!("a function takes {expected} arguments and got {actual}")
        }
        E::NotSupportedAsMethod { method, target } => {
            format!("`{method}` is no function of {}", target.type_of())
        }
        E::FunctionError { function, .. } => format!("`{function}` refuses its arguments"),
        E::DivisionByZero(_) | E::RemainderByZero(_) => "it divides by zero".to_owned(),
        E::Overflow(name, ..) => format!("the result of `{}` is out of range", operator(name)),
        E::IndexOutOfBounds(_) => "an index is beyond the end of its list".to_owned(),
        E::InternalError(message) if message.starts_with(functions::LIMIT) => message.clone(),
        _ => "an operation is not possible on these types".to_owned(),
    };
    refused(code_of(error), format!("the expression can't be evaluated: {what}"))
}

/// Whether the types alone are at fault, or the values of this record, null among them.
fn code_of(error: &ExecutionError) -> &'static str {
    use ExecutionError as E;
    let of_types = if let E::NoSuchOverload(overload) = error {
        !overload.argument_types().iter().any(|argument| argument == "null_type")
    } else if let E::UnsupportedBinaryOperator(_, a, b) | E::ValuesNotComparable(a, b) = error {
        ![a, b].into_iter().any(|value| matches!(value, cel::Value::Null))
    } else {
        matches!(error, E::NotSupportedAsMethod { .. } | E::InvalidArgumentCount { .. })
    };
    if of_types { "EXPRESSION_TYPE" } else { "EXPRESSION_FAILED" }
}

/// `_==_` as people write it; arithmetic has names in CEL's errors.
fn operator(name: &str) -> &str {
    const NAMES: [(&str, &str); 5] = [("add", "+"), ("sub", "-"), ("mul", "*"), ("div", "/"), ("rem", "%")];
    match NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, sign)) => sign,
        None if name.contains(|c: char| c.is_ascii_alphabetic()) => name,
        None => name.trim_matches('_'),
    }
}

#[cfg(test)]
mod tests;
