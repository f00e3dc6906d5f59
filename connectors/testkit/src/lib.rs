//! Batteries that every connector must pass, and what tests of connectors share. They panic with what is wrong and where, as tests do.
//!
//! The daemon runs them over its whole registry, so a connector can't be added without passing. They look at a connector through
//! `rowstream-api` alone, as the worker does.
#![deny(missing_docs)]

mod fields;
pub mod records;

pub use fields::{fields_are_sound, missing_fields_are_refused};
