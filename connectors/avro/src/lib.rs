//! Avro for Kafka Connect schemas, as Debezium with Confluent's `AvroConverter` writes it.
//!
//! Reading order: [`schema_json`] (a schema as Avro JSON, and back), [`encode`] and [`envelope`] (column values
//! straight to Avro bytes), [`decode`] (bytes to borrowed values), [`frame`] (the five bytes in front). Golden
//! records of a real Debezium pin the format: each must decode and encode back byte for byte. In tests
//! `apache-avro` is the oracle for everything the golden records do not reach.
#![deny(missing_docs)]

mod decimal;
pub mod decode;
pub mod encode;
pub mod envelope;
pub mod frame;
mod layout;
mod names;
pub mod schema_json;
mod schema_parse;
mod wire;

pub use decode::AvroDecoder;
pub use encode::EncodePlan;
pub use envelope::{EnvelopePlan, Event};
pub use frame::{put_frame_header, split_frame};
pub use rowstream_api::json::write_json;
pub use schema_json::to_avro_json;
pub use schema_parse::from_avro_json;
