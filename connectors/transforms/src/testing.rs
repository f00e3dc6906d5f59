//! Records for tests, decoded from the bytes that a log would hold.

use std::sync::Arc;

use bytes::Bytes;
use rowstream_api::{Datum, Schema, SchemaBuilder, SchemaType, ValueRef};
use rowstream_avro::{AvroDecoder, EncodePlan};
use serde_json::Value;

use crate::{Chain, Part, Record, Step, Transform, plugins, predicate};
