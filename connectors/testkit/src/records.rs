//! Records as a topic would hold them, without a topic: what the tests of sinks for tables deliver.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: it panics where a test is wrong"
)]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rowstream_api::{
    Datum, DatumDecoder, RecordError, RecordId, Schema, SchemaBuilder, SchemaType, SinkRecord,
    TopicPartition, ValueRef,
};

/// A value that borrows nothing.
pub type Owned = ValueRef<'static>;

/// The bytes of a datum are an index into `values`.
#[derive(Debug)]
struct OwnedValues {
    schema: Arc<Schema>,
    values: Mutex<Vec<Arc<Owned>>>,
}

impl OwnedValues {
    fn new(schema: Arc<Schema>) -> Arc<Self> {
        Arc::new(Self { schema, values: Mutex::new(Vec::new()) })
    }
    fn datum(self: &Arc<Self>, value: Owned) -> Datum {
        let mut values = self.values.lock().unwrap();
        values.push(Arc::new(value));
        let bytes = Bytes::copy_from_slice(&(values.len() - 1).to_le_bytes());
        Datum { bytes, decoder: Arc::clone(self) as Arc<dyn DatumDecoder> }
    }
    fn get(&self, bytes: &[u8]) -> Arc<Owned> {
        let index = usize::from_le_bytes(bytes.try_into().unwrap());
        Arc::clone(&self.values.lock().unwrap()[index])
    }
}

impl DatumDecoder for OwnedValues {
    fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }
    fn decode<'a>(&self, bytes: &'a [u8]) -> Result<ValueRef<'a>, RecordError> {
        Ok((*self.get(bytes)).clone())
    }
    fn decode_fields<'a>(&self, bytes: &'a [u8], wanted: &[usize]) -> Result<Vec<ValueRef<'a>>, RecordError> {
        let value = self.get(bytes);
        let fields = value.as_struct().unwrap();
        let field =
            |(i, field): (usize, &Owned)| if wanted.contains(&i) { field.clone() } else { ValueRef::Absent };
        Ok(fields.iter().enumerate().map(field).collect())
    }
}

/// An optional schema.
#[must_use]
pub fn schema(ty: SchemaType) -> Arc<Schema> {
    SchemaBuilder::new(ty).optional().build()
}

/// An optional schema with a name.
#[must_use]
pub fn named(ty: SchemaType, name: &str) -> Arc<Schema> {
    SchemaBuilder::new(ty).optional().name(name).build()
}

/// Of an optional 32-bit integer.
#[must_use]
pub fn int() -> Arc<Schema> {
    schema(SchemaType::Int32)
}

/// Of an optional text.
#[must_use]
pub fn text() -> Arc<Schema> {
    schema(SchemaType::String)
}

/// A text.
#[must_use]
pub fn s(text: &str) -> Owned {
    ValueRef::Str(text.to_owned().into())
}

/// One table's topic.
pub struct Topic {
    /// Its only partition.
    pub partition: TopicPartition,
    /// The next record's offset.
    pub next: i64,
    table: String,
    keys: usize,
    key: Arc<OwnedValues>,
    value: Arc<OwnedValues>,
}

impl Topic {
    /// The first `keys` columns are the key.
    #[must_use]
    pub fn new(table: &str, keys: usize, columns: &[(&str, Arc<Schema>)]) -> Self {
        let topic = format!("shop.public.{table}");
        let (key, value) = decoders(&topic, keys, columns);
        let partition = TopicPartition::new(topic, 0);
        Self { partition, next: 0, table: table.to_owned(), keys, key, value }
    }
    /// The same topic under other columns from now on.
    pub fn altered(&mut self, columns: &[(&str, Arc<Schema>)]) {
        (self.key, self.value) = decoders(&self.partition.topic, self.keys, columns);
    }
    /// An event with the row after it.
    pub fn write(&mut self, op: &'static str, row: Vec<Owned>) -> SinkRecord {
        let key = row[..self.keys].to_vec();
        self.event(op, Some(key), ValueRef::Null, ValueRef::Struct(row))
    }
    /// An insert.
    pub fn create(&mut self, row: Vec<Owned>) -> SinkRecord {
        self.write("c", row)
    }
    /// An update, without the row before it.
    pub fn update(&mut self, row: Vec<Owned>) -> SinkRecord {
        self.write("u", row)
    }
    /// A delete; `before` is the whole row or its beginning.
    pub fn delete(&mut self, mut before: Vec<Owned>) -> SinkRecord {
        let key = before[..self.keys].to_vec();
        before.resize(self.value.schema.fields()[1].schema.fields().len(), ValueRef::Null);
        self.event("d", Some(key), ValueRef::Struct(before), ValueRef::Null)
    }
    /// A TRUNCATE.
    pub fn truncate(&mut self) -> SinkRecord {
        self.event("t", None, ValueRef::Null, ValueRef::Null)
    }
    /// A key without a value.
    pub fn tombstone(&mut self, key: Vec<Owned>) -> SinkRecord {
        let mut record = self.event("d", Some(key), ValueRef::Null, ValueRef::Null);
        record.value = None;
        record
    }
    /// A record whose value is the row itself.
    pub fn flat(&mut self, row: Vec<Owned>) -> SinkRecord {
        let key = row[..self.keys].to_vec();
        let mut record = self.event("c", Some(key), ValueRef::Null, ValueRef::Null);
        let schema = Arc::clone(&self.value.schema.fields()[1].schema);
        record.value = Some(OwnedValues::new(schema).datum(ValueRef::Struct(row)));
        record
    }
    fn event(
        &mut self,
        op: &'static str,
        key: Option<Vec<Owned>>,
        before: Owned,
        after: Owned,
    ) -> SinkRecord {
        let source = ValueRef::Struct(vec![s("shop"), s("public"), s(&self.table)]);
        let value = ValueRef::Struct(vec![before, after, source, ValueRef::str(op), ValueRef::Int(7)]);
        let offset = self.next;
        self.next += 1;
        SinkRecord {
            topic: Arc::clone(&self.partition.topic),
            id: RecordId { partition: self.partition.clone(), offset },
            dropped: false,
            timestamp_ms: 1_000 + offset,
            key: key.map(|key| self.key.datum(ValueRef::Struct(key))),
            value: Some(self.value.datum(value)),
            headers: Vec::new(),
        }
    }
}

fn decoders(
    topic: &str,
    keys: usize,
    columns: &[(&str, Arc<Schema>)],
) -> (Arc<OwnedValues>, Arc<OwnedValues>) {
    let structure = |name: &str, columns: &[(&str, Arc<Schema>)]| {
        let start = SchemaBuilder::structure().optional().name(format!("{topic}.{name}"));
        columns.iter().fold(start, |b, (name, schema)| b.field(*name, Arc::clone(schema)))
    };
    let row = structure("Value", columns).build();
    let source =
        SchemaBuilder::structure().field("db", text()).field("schema", text()).field("table", text()).build();
    let envelope = SchemaBuilder::structure()
        .name(format!("{topic}.Envelope"))
        .field("before", Arc::clone(&row))
        .field("after", row)
        .field("source", source)
        .field("op", text())
        .field("ts_ms", schema(SchemaType::Int64))
        .build();
    (OwnedValues::new(structure("Key", &columns[..keys]).build()), OwnedValues::new(envelope))
}
