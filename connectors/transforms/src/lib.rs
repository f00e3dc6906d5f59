//! What happens to a record between a source and the log, or between the log and a sink.
//!
//! Reading order: [`record`] (what a step sees), [`chain`] (steps in order, and what each promises), [`plugins`] (the table of
//! steps that can be named in a configuration), [`predicate()`] (their conditions), `rows` (how a step that changes rows is written:
//! once, for rows with an envelope and without), `expression` (CEL over a record); then one file for each step.
#![deny(missing_docs)]

pub mod chain;
pub mod record;

mod expression;
mod instant;
mod json_schema;
mod predicate;
mod rows;
mod sample;
mod settings;
mod text;
mod unavailable;
mod values;

mod by_logical_table;
mod cast;
mod changed_fields;
mod cloudevents;
mod compute;
mod fields;
mod filter;
mod flatten;
mod headers;
mod insert_field;
mod mask;
mod outbox;
mod partition_by;
mod route;
mod set_key;
mod timestamp;
mod timezone;
mod unwrap;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use chain::{Chain, Fit, Predicate, Step, Transform, Unfit};
pub use predicate::predicate;
pub use record::{Headers, Part, Record};

use rowstream_api::{ConfigErrors, FieldDoc, RecordError, Stage};
use serde_json::{Map, Value};

/// A step that can be named in a configuration.
pub struct TransformPlugin {
    /// Value of `type:`.
    pub name: &'static str,
    /// Its settings, without `type`, `name` and `when`.
    pub fields: &'static [FieldDoc],
    /// Makes the step from settings that were checked against `fields`.
    pub build: Build,
}

/// Makes a step; all problems of its settings at once.
pub type Build = fn(Map<String, Value>) -> Result<Box<dyn Transform>, ConfigErrors>;

/// Every step, in the order of the reference.
#[must_use]
pub const fn plugins() -> &'static [TransformPlugin] {
    &[
        unwrap::PLUGIN,
        filter::PLUGIN,
        route::PLUGIN,
        by_logical_table::PLUGIN,
        outbox::PLUGIN,
        fields::SELECT,
        fields::DROP,
        fields::RENAME,
        mask::MASK,
        mask::HASH,
        mask::TOKENIZE,
        set_key::PLUGIN,
        partition_by::PLUGIN,
        insert_field::PLUGIN,
        headers::FROM,
        headers::INSERT,
        headers::DROP,
        cast::PLUGIN,
        compute::PLUGIN,
        flatten::PLUGIN,
        changed_fields::PLUGIN,
        timestamp::PLUGIN,
        timezone::PLUGIN,
        cloudevents::PLUGIN,
    ]
}

/// This record can't be handled. Names fields and types, never values.
fn refused(code: &'static str, message: impl Into<String>) -> RecordError {
    RecordError::new(Stage::Transformation, code, message)
}
