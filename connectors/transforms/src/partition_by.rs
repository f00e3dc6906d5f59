//! `partition_by`: Debezium's `PartitionRouting`. Records whose named fields are equal go to one partition, whatever their key.
//!
//! The hash `java` is the sum of Java's `hashCode`s, as there, so that records keep their partitions when a connector moves from
//! Debezium to Rowstream. A record without any of the fields, and a tombstone, keeps the partition of its key.

use std::sync::Arc;

use num_bigint::{BigInt, Sign};
use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaType, Semantic, ValueRef};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    chain::Transform,
    record::Record,
    refused,
    rows::{SchemaCache, type_word},
    settings::parse,
    unavailable::Unavailable,
};

/// More partitions than this no topic has.
const PARTITIONS_MAX: i64 = 1_000_000;

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "partition_by",
    fields: &[
        FieldDoc {
            path: "fields",
            kind: FieldKind::List,
            required: true,
            default: None,
            doc: "The fields that decide: `change.region` (of `after`, or of `before` for a delete), `after.region`, \
                  `before.region`, `source.table` or `op` of an event; a field's name alone for records without an envelope. Fields \
                  that a record does not have, or that are null, do not count.",
            example: "[change.region]",
        },
        FieldDoc {
            path: "partitions",
            kind: FieldKind::Integer { min: 1, max: PARTITIONS_MAX },
            required: true,
            default: None,
            doc: "How many partitions the topic has: Debezium's `partition.topic.num`.",
            example: "6",
        },
    ],
    build: |settings| {
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        if settings.fields.is_empty() {
            errors.push("fields", "must name at least one field");
        }
        for path in &settings.fields {
            if path.is_empty() || path.split('.').any(str::is_empty) || path.split('.').count() > 2 {
                errors.push("fields", format!("`{path}`: expected a field such as `change.region`"));
            }
        }
        if !(1..=PARTITIONS_MAX).contains(&i64::from(settings.partitions)) {
            errors.push("partitions", format!("expected a number from 1 to {PARTITIONS_MAX}"));
        }
        errors.into_result()?;
        Ok(Box::new(PartitionBy { settings, plans: SchemaCache::default() }))
    },
};

#[derive(Deserialize)]
struct Settings {
    fields: Vec<String>,
    partitions: u32,
}

struct PartitionBy {
    settings: Settings,
    plans: SchemaCache<Plan>,
}

/// Where the fields are in one schema.
struct Plan {
    /// Top-level fields to read.
    wanted: Vec<usize>,
    paths: Vec<Path>,
}

/// Places in `wanted`.
struct Path {
    name: String,
    is_row: bool,
    /// The first of these that is there is read; then the field in it.
    blocks: Vec<usize>,
    field: Option<usize>,
    /// What is read.
    schema: Arc<Schema>,
}

impl Transform for PartitionBy {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let Some(schema) = record.value.schema().cloned() else {
            out.push(record);
            return Ok(());
        };
        let fields = &self.settings.fields;
        let plan = self.plans.get(&schema, |schema| Plan::of(schema, fields))?;
        let values = record.value.fields(&plan.wanted)?;
        let unavailable = Unavailable::of(&record.headers)?;
        let mut sum: Option<i32> = None;
        for path in &plan.paths {
            let Some(value) = path.read(&values).filter(|value| !value.is_null()) else { continue };
            if path.is_row && unavailable.contains(&path.name) {
                let message =
                    format!("the source did not send field `{}`, which decides the partition", path.name);
                return Err(refused("VALUE_UNAVAILABLE", message));
            }
            sum = Some(sum.unwrap_or(0).wrapping_add(hash_code(&path.schema, value)));
        }
        if let Some(sum) = sum {
            let positive = sum & i32::MAX;
            let positive = if positive == i32::MAX { 0 } else { positive.unsigned_abs() };
            record.partition = Some(positive % self.settings.partitions);
        }
        out.push(record);
        Ok(())
    }
}

impl Plan {
    fn of(schema: &Arc<Schema>, fields: &[String]) -> Result<Self, RecordError> {
        let mut plan = Self { wanted: Vec::new(), paths: Vec::new() };
        for path in fields {
            let (block, name) =
                path.split_once('.').map_or((None, path.as_str()), |(block, name)| (Some(block), name));
            let blocks: &[&str] = match block {
                Some("change") => &["after", "before"],
                Some(block) => &[block],
                None => &[name],
            };
            let mut places = Vec::new();
            let mut found: Option<(Option<usize>, Arc<Schema>)> = None;
            for outer_name in blocks {
                let Some((index, outer)) = schema.field(outer_name) else { continue };
                let inner = match block {
                    None => Some((None, Arc::clone(&outer.schema))),
                    Some(_) => {
                        outer.schema.field(name).map(|(at, inner)| (Some(at), Arc::clone(&inner.schema)))
                    }
                };
                places.push(plan.want(index));
                found = found.or(inner);
            }
            let Some((field, inner)) = found else { continue };
            scalar(path, &inner)?;
            let is_row = matches!(block, Some("change" | "after" | "before")) || !schema.is_envelope();
            plan.paths.push(Path { name: name.to_owned(), is_row, blocks: places, field, schema: inner });
        }
        Ok(plan)
    }

    fn want(&mut self, index: usize) -> usize {
        self.wanted.iter().position(|wanted| *wanted == index).unwrap_or_else(|| {
            self.wanted.push(index);
            self.wanted.len() - 1
        })
    }
}

impl Path {
    fn read<'v, 'a>(&self, values: &'v [ValueRef<'a>]) -> Option<&'v ValueRef<'a>> {
        let Some(index) = self.field else { return self.blocks.first().and_then(|at| values.get(*at)) };
        let mut blocks = self.blocks.iter().filter_map(|at| values.get(*at));
        blocks.find_map(ValueRef::as_struct)?.get(index)
    }
}

/// Structures have no `hashCode` that anybody would want to depend on.
fn scalar(path: &str, schema: &Schema) -> Result<(), RecordError> {
    if matches!(schema.ty(), SchemaType::Array(_) | SchemaType::Map(_) | SchemaType::Struct(_)) {
        let message = format!("field `{path}` is {}, which can't decide a partition", type_word(schema));
        return Err(refused("FIELD_TYPE", message));
    }
    Ok(())
}

/// Java's `hashCode` of the value as Connect would hold it: `Integer`, `Long`, `String`, `ByteBuffer`, `BigDecimal` …
fn hash_code(schema: &Schema, value: &ValueRef<'_>) -> i32 {
    match value {
        ValueRef::Bool(true) => 1231,
        ValueRef::Bool(false) => 1237,
        ValueRef::Int(number) => match i32::try_from(*number) {
            Ok(small) if *schema.ty() != SchemaType::Int64 => small,
            Ok(_) | Err(_) => fold(number.cast_unsigned()),
        },
        ValueRef::Float32(number) => number.to_bits().cast_signed(),
        ValueRef::Float64(number) => fold(number.to_bits()),
        ValueRef::Str(text) => {
            text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
        }
        ValueRef::Bytes(bytes) => {
            if let Semantic::Decimal { scale } = schema.semantic() {
                return big_decimal(bytes, scale);
            }
            let last_first = bytes.iter().rev();
            last_first
                .fold(1_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte.cast_signed())))
        }
        ValueRef::Null
        | ValueRef::Absent
        | ValueRef::Unavailable
        | ValueRef::Hex(_)
        | ValueRef::Decimal(_)
        | ValueRef::ZonedMicros(_)
        | ValueRef::Array(_)
        | ValueRef::Struct(_)
        | ValueRef::Map(_) => 0,
    }
}

fn big_decimal(unscaled: &[u8], scale: i32) -> i32 {
    let number = BigInt::from_signed_bytes_be(unscaled);
    let words = number.magnitude().to_u32_digits();
    let most_first = words.iter().rev();
    let hash = most_first.fold(0_i32, |hash, word| hash.wrapping_mul(31).wrapping_add(word.cast_signed()));
    let signed = if number.sign() == Sign::Minus { hash.wrapping_neg() } else { hash };
    signed.wrapping_mul(31).wrapping_add(scale)
}

/// The halves of 64 bits, exclusively ored.
fn fold(bits: u64) -> i32 {
    let [a, b, c, d, e, f, g, h] = bits.to_be_bytes();
    i32::from_be_bytes([a ^ e, b ^ f, c ^ g, d ^ h])
}

#[cfg(test)]
mod tests;
