//! Conditions of steps: CEL, and Kafka Connect's three predicates.
//!
//! A condition that looks at the value has no answer for a tombstone, which has none: it does not hold then, negated or not, so
//! that a delete's tombstone is not in every expression's way. An expression that names `is_tombstone` is asked.

use regex::Regex;
use rowstream_api::{ConfigErrors, RecordError};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    chain::Predicate,
    expression::{Expression, RowKnown},
    record::Record,
    settings::whole_regex,
};

/// Reads a `when`: a text is a CEL expression; a map is one of Connect's predicates, `topic_matches`, `has_header` or
/// `is_tombstone`, or `condition` with an expression, and may hold `negate: true`.
///
/// # Errors
/// All that is wrong with it, each under its key.
pub fn predicate(when: &Value) -> Result<Box<dyn Predicate>, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let made = match when {
        Value::String(text) => errors.take("", Cel::parse(text)).map(|cel| (Test::Cel(Box::new(cel)), false)),
        Value::Object(_) => match Typed::deserialize(when) {
            Ok(typed) => typed.test(&mut errors),
            Err(error) => {
                errors.push("", format!("{error}; {EXPECTED}"));
                None
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            errors.push("", EXPECTED);
            None
        }
    };
    match made {
        Some((test, negate)) if errors.0.is_empty() => Ok(Box::new(Condition { test, negate })),
        Some(_) | None => Err(errors),
    }
}

const EXPECTED: &str = "expected a CEL expression such as `op != 'd'`, or one of `{ topic_matches: REGEX }`, \
                        `{ has_header: NAME }`, `{ is_tombstone: true }` and `{ condition: EXPRESSION }`, with `negate: true` or without";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    topic_matches: Option<String>,
    has_header: Option<String>,
    is_tombstone: Option<Flag>,
    condition: Option<String>,
    #[serde(default)]
    negate: Flag,
}

/// A boolean; a text where the settings came as a flat map.
#[derive(Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(try_from = "Value")]
struct Flag(bool);

impl TryFrom<Value> for Flag {
    type Error = &'static str;
    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match &value {
            Value::Bool(flag) => Ok(Self(*flag)),
            Value::String(text) if text == "true" => Ok(Self(true)),
            Value::String(text) if text == "false" => Ok(Self(false)),
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                Err("expected `true` or `false`")
            }
        }
    }
}

impl Typed {
    fn test(self, errors: &mut ConfigErrors) -> Option<(Test, bool)> {
        let topic = self
            .topic_matches
            .map(|pattern| errors.take("topic_matches", whole_regex(&pattern)).map(Test::Topic));
        let header = self.has_header.map(|name| Some(Test::Header(name)));
        let tombstone = self.is_tombstone.map(|Flag(wanted)| Some(Test::Tombstone(wanted)));
        let cel = self
            .condition
            .map(|text| errors.take("condition", Cel::parse(&text)).map(Box::new).map(Test::Cel));
        let mut given = [topic, header, tombstone, cel].into_iter().flatten();
        let (Some(test), None) = (given.next(), given.next()) else {
            errors.push("", EXPECTED);
            return None;
        };
        test.map(|test| (test, self.negate.0))
    }
}

enum Test {
    Topic(Regex),
    Header(String),
    Tombstone(bool),
    Cel(Box<Cel>),
}

struct Condition {
    test: Test,
    negate: bool,
}

impl Predicate for Condition {
    fn test(&mut self, record: &Record<'_>) -> Result<bool, RecordError> {
        let holds = match &mut self.test {
            Test::Topic(regex) => regex.is_match(&record.topic),
            Test::Header(name) => record.headers.iter().any(|(known, _)| **known == **name),
            Test::Tombstone(wanted) => record.value.is_null() == *wanted,
            Test::Cel(cel) => match cel.holds(record)? {
                Some(holds) => holds,
                None => return Ok(false),
            },
        };
        Ok(holds != self.negate)
    }
}

/// An expression as a condition.
pub(crate) struct Cel(Expression);

impl Cel {
    /// Compiles it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Expression::compile(text, RowKnown::No).map(Self)
    }

    /// Its answer; none for a tombstone when it looks at the value.
    pub(crate) fn holds(&mut self, record: &Record<'_>) -> Result<Option<bool>, RecordError> {
        if record.value.is_null() && self.0.reads_value() {
            return Ok(None);
        }
        self.0.test(record).map(Some)
    }

    /// Its answer, whatever the record is.
    pub(crate) fn evaluate(&mut self, record: &Record<'_>) -> Result<bool, RecordError> {
        self.0.test(record)
    }
}
