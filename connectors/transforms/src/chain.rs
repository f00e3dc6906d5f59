//! Steps in order.
//!
//! What a step promises: it is pure but for caches (the same record gives the same records, after a restart too, or exactly-once
//! would not hold); it maps a schema to a schema once and keeps the result, so that one `Arc` in is one `Arc` out; it names
//! fields and types in its errors and never values.

use rowstream_api::RecordError;

use crate::record::Record;

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

    /// Runs a record through all steps.
    ///
    /// # Errors
    /// A step could not handle it; the error names the step.
    pub fn apply<'a>(&mut self, record: Record<'a>) -> Result<Vec<Record<'a>>, RecordError> {
        let mut records = vec![record];
        for step in &mut self.steps {
            let mut out = Vec::with_capacity(records.len());
            for record in records {
                step.apply(record, &mut out).map_err(|error| RecordError {
                    stage: rowstream_api::Stage::Transformation,
                    message: format!("transform `{}`: {}", step.name, error.message),
                    ..error
                })?;
            }
            records = out;
        }
        Ok(records)
    }
}

impl Step {
    fn apply<'a>(&mut self, record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let applies = match &mut self.when {
            Some(when) => when.test(&record)?,
            None => true,
        };
        if applies {
            return self.transform.apply(record, out);
        }
        out.push(record);
        Ok(())
    }
}
