//! What a connector author needs, and nothing else: no runtime, no network, no topic log.
//!
//! Reading order: [`value`] and [`schema`] (what a row is), [`row`] and [`change`] (how rows travel from a source
//! without being copied), [`offset`] (what "where we are" means), [`source`] and [`sink`] (the two traits to
//! implement), [`snapshot`] (the engine that sources read what is there already with), [`config`] (the field table behind
//! `validate`, `describe` and the docs), [`type_table`] (the docs' type tables), [`error`] (four questions, four answers).
#![deny(missing_docs)]

pub mod calendar;
pub mod change;
pub mod config;
pub mod error;
pub mod json;
pub mod offset;
pub mod queue;
pub mod row;
pub mod schema;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod table_sink;
pub mod text;
pub mod type_table;
pub mod units;
pub mod value;

pub use change::{
    Change, ChangeSet, ChangeView, DELETED_HEADER, NoChanges, Op, ROW_FOLLOWS_HEADER, SourceBatch,
    TableSchema, UNAVAILABLE_HEADER,
};
pub use config::{ConfigSpec, FieldDoc, FieldKind, Secret};
pub use error::{Attempting, Chain, Class, ConfigError, ConfigErrors, ConnectorError, RecordError, Stage};
pub use offset::{SourceOffset, SourceOffsets, SourcePartition, TopicOffsets, TopicPartition};
pub use row::RowView;
pub use schema::{Field, Schema, SchemaBuilder, SchemaType, Semantic};
pub use sink::{Datum, DatumDecoder, Flushed, RecordId, SinkConnector, SinkRecord, SinkTask};
pub use source::{Delivery, Gauges, SourceConnector, SourceTask, StartReason, TaskContext};
pub use type_table::{TargetColumn, TypeEffect, TypeOption, TypeRow};
pub use units::ByteSize;
pub use value::{Value, ValueRef};
