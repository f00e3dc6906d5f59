//! Records for tests, read from the bytes that a log would hold, and what a step made of them, written back and read again.

use std::sync::Arc;

use bytes::Bytes;
use rowstream_api::{
    ConfigErrors, Datum, DatumDecoder, RecordError, Schema, SchemaBuilder, SchemaType, ValueRef,
};
use rowstream_avro::{AvroDecoder, EncodePlan, to_avro_json, write_json};
use serde_json::{Value, json};

use crate::{Part, Record, Transform, plugins};

/// A value that borrows nothing.
pub(crate) type Owned = ValueRef<'static>;

pub(crate) fn s(text: &str) -> Owned {
    ValueRef::Str(text.to_owned().into())
}

pub(crate) fn n(number: i64) -> Owned {
    ValueRef::Int(number)
}

pub(crate) fn decimal(text: &str) -> Owned {
    ValueRef::Decimal(text.to_owned().into())
}

/// A schema that allows null.
pub(crate) fn optional(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).optional().build()
}

/// One that does not.
pub(crate) fn required(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).build()
}

pub(crate) fn text() -> Arc<Schema> {
    optional(SchemaType::String)
}

pub(crate) fn named(ty: SchemaType, name: &str) -> Arc<Schema> {
    SchemaBuilder::new(ty).optional().name(name).build()
}

pub(crate) fn decimals(scale: i32) -> Arc<Schema> {
    SchemaBuilder::new(SchemaType::Bytes)
        .optional()
        .name("org.apache.kafka.connect.data.Decimal")
        .version(1)
        .parameter("scale", scale.to_string())
        .parameter("connect.decimal.precision", "12")
        .build()
}

/// A table whose first column is its key.
pub(crate) struct Table {
    topic: String,
    key: Arc<dyn DatumDecoder>,
    row: Arc<dyn DatumDecoder>,
    envelope: Arc<dyn DatumDecoder>,
}

/// A record that owns its bytes.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) topic: String,
    key: Option<Datum>,
    value: Option<Datum>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

fn datum(decoder: &Arc<dyn DatumDecoder>, value: &Owned) -> Datum {
    let mut bytes = Vec::new();
    EncodePlan::compile(decoder.schema()).encode_value(value, &mut bytes).unwrap();
    Datum { bytes: Bytes::from(bytes), decoder: Arc::clone(decoder) }
}

fn source() -> Arc<Schema> {
    let snapshot = SchemaBuilder::new(SchemaType::String)
        .name("io.debezium.data.Enum")
        .version(1)
        .parameter("allowed", "true,last,false")
        .default_value(rowstream_api::Value::Str("false".into()))
        .optional();
    SchemaBuilder::structure()
        .name("io.debezium.connector.postgresql.Source")
        .version(1)
        .field("connector", required(SchemaType::String))
        .field("ts_ms", required(SchemaType::Int64))
        .field("snapshot", snapshot.build())
        .field("db", required(SchemaType::String))
        .field("schema", required(SchemaType::String))
        .field("table", required(SchemaType::String))
        .field("lsn", optional(SchemaType::Int64))
        .build()
}

impl Table {
    pub(crate) fn new(table: &str, columns: &[(&str, Arc<Schema>)]) -> Self {
        let topic = format!("shop.public.{table}");
        let structure = |name: &str, columns: &[(&str, Arc<Schema>)]| {
            let start = SchemaBuilder::structure().name(format!("{topic}.{name}"));
            columns.iter().fold(start, |b, (name, schema)| b.field(*name, Arc::clone(schema)))
        };
        let row = structure("Value", columns).optional().build();
        let transaction = SchemaBuilder::structure()
            .name("event.block")
            .version(1)
            .field("id", required(SchemaType::String))
            .field("total_order", required(SchemaType::Int64))
            .optional();
        let envelope = SchemaBuilder::structure()
            .name(format!("{topic}.Envelope"))
            .version(2)
            .field("before", Arc::clone(&row))
            .field("after", Arc::clone(&row))
            .field("source", source())
            .field("transaction", transaction.build())
            .field("op", required(SchemaType::String))
            .field("ts_ms", optional(SchemaType::Int64));
        Self {
            key: AvroDecoder::new(structure("Key", &columns[..1]).build()),
            row: AvroDecoder::new(structure("Value", columns).build()),
            envelope: AvroDecoder::new(envelope.build()),
            topic,
        }
    }

    /// `id`, `name`, `region`, `amount` of two digits.
    pub(crate) fn orders() -> Self {
        Self::new(
            "orders",
            &[
                ("id", required(SchemaType::Int32)),
                ("name", text()),
                ("region", text()),
                ("amount", decimals(2)),
            ],
        )
    }

    fn table(&self) -> &str {
        self.topic.rsplit('.').next().unwrap()
    }

    pub(crate) fn event(
        &self,
        op: &'static str,
        before: Option<Vec<Owned>>,
        after: Option<Vec<Owned>>,
    ) -> Made {
        let key = after.as_ref().or(before.as_ref()).map(|row| ValueRef::Struct(vec![row[0].clone()]));
        let image = |row: Option<Vec<Owned>>| row.map_or(ValueRef::Null, ValueRef::Struct);
        let source =
            vec![s("postgresql"), n(1000), s("false"), s("shop"), s("public"), s(self.table()), n(77)];
        let value = ValueRef::Struct(vec![
            image(before),
            image(after),
            ValueRef::Struct(source),
            ValueRef::Null,
            s(op),
            n(2000),
        ]);
        self.made(key, Some(datum(&self.envelope, &value)))
    }

    pub(crate) fn create(&self, row: Vec<Owned>) -> Made {
        self.event("c", None, Some(row))
    }

    pub(crate) fn update(&self, before: Vec<Owned>, after: Vec<Owned>) -> Made {
        self.event("u", Some(before), Some(after))
    }

    pub(crate) fn delete(&self, row: Vec<Owned>) -> Made {
        self.event("d", Some(row), None)
    }

    /// The row itself, without an envelope.
    pub(crate) fn plain(&self, row: Vec<Owned>) -> Made {
        let key = ValueRef::Struct(vec![row[0].clone()]);
        self.made(Some(key), Some(datum(&self.row, &ValueRef::Struct(row))))
    }

    pub(crate) fn tombstone(&self, key: Owned) -> Made {
        self.made(Some(ValueRef::Struct(vec![key])), None)
    }

    fn made(&self, key: Option<Owned>, value: Option<Datum>) -> Made {
        Made {
            topic: self.topic.clone(),
            key: key.map(|key| datum(&self.key, &key)),
            value,
            headers: Vec::new(),
        }
    }
}

/// A record whose value is this one.
pub(crate) fn bare(topic: &str, schema: Arc<Schema>, value: &Owned) -> Made {
    let value = datum(&AvroDecoder::new(schema), value);
    Made { topic: topic.to_owned(), key: None, value: Some(value), headers: Vec::new() }
}

impl Made {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// As of a table without a key.
    pub(crate) fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    /// The columns that the source did not send.
    pub(crate) fn unavailable(self, columns: &[&str]) -> Self {
        self.header(rowstream_api::UNAVAILABLE_HEADER, &json!(columns).to_string())
    }

    pub(crate) fn record(&self) -> Record<'_> {
        let part = |datum: &'_ Option<Datum>| match datum {
            Some(_) => None,
            None => Some(Part::Null),
        };
        Record {
            topic: self.topic.as_str().into(),
            partition: None,
            timestamp_ms: 3000,
            key: part(&self.key).unwrap_or_else(|| Part::Encoded(self.key.as_ref().unwrap())),
            value: part(&self.value).unwrap_or_else(|| Part::Encoded(self.value.as_ref().unwrap())),
            headers: self.headers.iter().map(|(k, v)| (k.as_str().into(), v.as_slice().into())).collect(),
        }
    }
}

/// What came out, as JSON.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) topic: String,
    pub(crate) partition: Option<u32>,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Value,
    pub(crate) value: Value,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) key_schema: Option<Arc<Schema>>,
    pub(crate) value_schema: Option<Arc<Schema>>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The field of the value's schema, or of its rows'.
    pub(crate) fn field(&self, name: &str) -> Arc<Schema> {
        let schema = self.value_schema.as_ref().unwrap();
        let row = if schema.is_envelope() { &schema.field("after").unwrap().1.schema } else { schema };
        Arc::clone(&row.field(name).unwrap_or_else(|| panic!("no field {name}")).1.schema)
    }
}

/// The part as JSON; its schema is one that Avro takes, and its bytes read back as what they were written from.
fn read_back(part: &Part<'_>) -> (Value, Option<Arc<Schema>>) {
    let mut part = part.clone();
    let Some((schema, value)) = part.tree().unwrap() else { return (Value::Null, None) };
    let avro = apache_avro::Schema::parse_str(&to_avro_json(schema)).expect("a schema that Avro takes");
    let mut bytes = Vec::new();
    EncodePlan::compile(schema).encode_value(value, &mut bytes).expect("a value of its schema");
    apache_avro::from_avro_datum(&avro, &mut bytes.as_slice(), None).expect("a datum of that schema");
    let again = AvroDecoder::new(Arc::clone(schema));
    let mut json = Vec::new();
    write_json(schema, &again.decode(&bytes).expect("what was written"), &mut json).unwrap();
    (serde_json::from_slice(&json).unwrap(), Some(Arc::clone(schema)))
}

pub(crate) fn seen(record: &Record<'_>) -> Seen {
    let (key, key_schema) = read_back(&record.key);
    let (value, value_schema) = read_back(&record.value);
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    Seen {
        topic: record.topic.to_string(),
        partition: record.partition,
        timestamp_ms: record.timestamp_ms,
        key,
        value,
        headers: record.headers.iter().map(|(k, v)| (k.to_string(), text(v))).collect(),
        key_schema,
        value_schema,
    }
}

/// The step of this name with these settings.
pub(crate) fn step(name: &str, settings: Value) -> Box<dyn Transform> {
    try_step(name, settings).unwrap_or_else(|errors| panic!("{name}: {errors}"))
}

pub(crate) fn try_step(name: &str, settings: Value) -> Result<Box<dyn Transform>, ConfigErrors> {
    let plugin = plugins().iter().find(|plugin| plugin.name == name).expect("a step of this name");
    let Value::Object(settings) = settings else { panic!("settings are a map") };
    for key in settings.keys() {
        let known = |path: &str| path == key || path.starts_with(&format!("{key}."));
        assert!(plugin.fields.iter().any(|field| known(field.path)), "{name} documents no `{key}`");
    }
    (plugin.build)(settings)
}

/// The problems of settings that must be refused.
pub(crate) fn problems(name: &str, settings: Value) -> String {
    match try_step(name, settings) {
        Ok(_) => panic!("{name} takes these settings"),
        Err(errors) => errors.to_string(),
    }
}

pub(crate) fn apply(step: &mut Box<dyn Transform>, made: &Made) -> Result<Vec<Seen>, RecordError> {
    let mut out = Vec::new();
    step.apply(made.record(), &mut out)?;
    Ok(out.iter().map(seen).collect())
}

/// The only record that a step makes.
pub(crate) fn one(step: &mut Box<dyn Transform>, made: &Made) -> Seen {
    let mut all = apply(step, made).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}
