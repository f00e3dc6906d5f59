//! Steps in order.
//!
//! What a step promises: it is pure but for caches (the same record gives the same records, after a restart too, or exactly-once
//! would not hold); it maps a schema to a schema once and keeps the result, so that one `Arc` in is one `Arc` out; it names
//! fields and types in its errors and never values.

use std::sync::Arc;

use rowstream_api::{RecordError, Schema, Stage};

use crate::{record::Record, sample};

/// One step.
pub trait Transform: Send {
    /// Appends what becomes of the record to `out`: nothing drops it, several copy it.
    ///
    /// # Errors
    /// This record can't be handled; the connector's tolerance policy decides, and `out` is not used then.
    fn apply<'a>(&mut self, record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError>;
}

/// Whether a step applies to a record.
pub trait Predicate: Send {
    /// The answer.
    ///
    /// # Errors
    /// As [`Transform::apply`].
    fn test(&mut self, record: &Record<'_>) -> Result<bool, RecordError>;
}

/// A step with its name and its condition.
pub struct Step {
    /// What errors and `tap` call it.
    pub name: String,
    /// Records it does not hold for pass by unchanged.
    pub when: Option<Box<dyn Predicate>>,
    /// What is done.
    pub transform: Box<dyn Transform>,
}

/// All steps of one task. Not shared.
#[derive(Default)]
pub struct Chain {
    steps: Vec<Step>,
}

/// What records of a schema become.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Their topic.
    pub topic: Arc<str>,
    /// Of their keys.
    pub key: Option<Arc<Schema>>,
    /// Of their values.
    pub value: Arc<Schema>,
}

/// A step that would refuse every record of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Its name.
    pub step: String,
    /// Why.
    pub error: RecordError,
}

impl Chain {
    /// A chain of these steps.
    #[must_use]
    pub fn new(steps: Vec<Step>) -> Self {
        Self { steps }
    }

    /// Whether records pass untouched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether the steps fit records of these schemas: a field that an expression names and the row does not have, an operation
    /// that does not work on a column's type, a name that two fields would get. Runs a made-up record through the steps; what may be
    /// the fault of its values is not reported, and a step whose condition does not hold for it is not looked at, so that silence
    /// is no promise. Answers what such records become, as far as that is certain.
    ///
    /// # Errors
    /// The first step that would refuse every such record.
    pub fn check(
        &mut self,
        topic: &str,
        key: Option<&Arc<Schema>>,
        value: &Arc<Schema>,
    ) -> Result<Vec<Fit>, Unfit> {
        let mut certain = true;
        let mut records = vec![sample::record(topic, key, value)];
        for step in &mut self.steps {
            let mut out = Vec::new();
            for record in records {
                let before = out.len();
                match step.apply(record.clone(), &mut out) {
                    Err(error) if sample::follows_from_schema(error.code) => {
                        return Err(Unfit { step: step.name.clone(), error });
                    }
                    Ok(()) => {}
                    Err(_) => {
                        certain = false;
                        out.truncate(before);
                    }
                }
                // A filter may drop what was made up, and steps behind it want to be looked at all the same.
                if out.len() == before {
                    out.push(record);
                }
            }
            records = out;
        }
        let fit = |record: Record<'_>| {
            let key = record.key.schema().cloned();
            record.value.schema().cloned().map(|value| Fit { topic: record.topic, key, value })
        };
        Ok(if certain { records.into_iter().filter_map(fit).collect() } else { Vec::new() })
    }

    /// Runs a record through all steps.
    ///
    /// # Errors
    /// A step could not handle it; the error names the step.
    pub fn apply<'a>(&mut self, record: Record<'a>) -> Result<Vec<Record<'a>>, RecordError> {
        self.apply_watched(record, &mut |_, _| {})
    }

    /// As [`apply`](Self::apply); behind each step `see` is told the step's name and what there is of the record.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_watched<'a>(
        &mut self,
        record: Record<'a>,
        see: &mut dyn FnMut(&str, &[Record<'a>]),
    ) -> Result<Vec<Record<'a>>, RecordError> {
        let mut records = vec![record];
        for step in &mut self.steps {
            let mut out = Vec::with_capacity(records.len());
            for record in records {
                step.apply(record, &mut out).map_err(|error| step.named(error))?;
            }
            records = out;
            see(&step.name, &records);
        }
        Ok(records)
    }
}

impl Step {
    fn named(&self, error: RecordError) -> RecordError {
        let message = format!("transform `{}`: {}", self.name, error.message);
        RecordError { stage: Stage::Transformation, message, ..error }
    }

    fn apply<'a>(&mut self, record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let applies = match &mut self.when {
            Some(when) => when.test(&record).map_err(|error| {
                let message = format!("`when`: {}", error.message);
                RecordError { message, ..error }
            })?,
            None => true,
        };
        if applies {
            return self.transform.apply(record, out);
        }
        out.push(record);
        Ok(())
    }
}
