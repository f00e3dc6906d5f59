//! Kafka Connect's schema model: a physical type plus an optional semantic name, version and parameters.
//!
//! Schemas are immutable and shared (`Arc`); whoever needs speed compiles one into a plan once and keeps the plan.

use std::sync::Arc;

use crate::value::Value;

/// Physical type, Kafka Connect's words.
#[derive(Debug, Clone, PartialEq)]
pub enum SchemaType {
    /// BOOLEAN
    Boolean,
    /// INT8
    Int8,
    /// INT16
    Int16,
    /// INT32
    Int32,
    /// INT64
    Int64,
    /// FLOAT32
    Float32,
    /// FLOAT64
    Float64,
    /// STRING
    String,
    /// BYTES
    Bytes,
    /// ARRAY of an element schema.
    Array(Arc<Schema>),
    /// MAP from string to a value schema.
    Map(Arc<Schema>),
    /// STRUCT with named fields in order.
    Struct(Vec<Field>),
}

/// A named field of a STRUCT.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Field name as it stands in the record.
    pub name: String,
    /// Its schema.
    pub schema: Arc<Schema>,
}

/// What a physical type means, derived from the schema's name. Unknown names are `Plain`: they are carried, not
/// interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Semantic {
    /// No known semantic name.
    Plain,
    /// `org.apache.kafka.connect.data.Decimal`; `scale` digits after the point, possibly negative.
    Decimal {
        /// Digits after the decimal point.
        scale: i32,
    },
    /// `io.debezium.data.VariableScaleDecimal`: struct of scale INT32 and value BYTES.
    VariableScaleDecimal,
    /// `io.debezium.time.Date` or Connect's `Date`: INT32 days since 1970-01-01.
    Date,
    /// `io.debezium.time.Time` or Connect's `Time`: INT32 milliseconds since midnight.
    TimeMillis,
    /// `io.debezium.time.MicroTime`: INT64 microseconds since midnight.
    TimeMicros,
    /// `io.debezium.time.Timestamp` or Connect's `Timestamp`: INT64 milliseconds since the epoch, no zone.
    TimestampMillis,
    /// `io.debezium.time.MicroTimestamp`: INT64 microseconds since the epoch, no zone.
    TimestampMicros,
    /// `io.debezium.time.ZonedTimestamp`: ISO 8601 text.
    ZonedTimestamp,
    /// `io.debezium.time.ZonedTime`: ISO 8601 text.
    ZonedTime,
    /// `io.debezium.time.MicroDuration`: INT64 microseconds.
    MicroDuration,
    /// `io.debezium.time.Interval`: ISO 8601 text.
    Interval,
    /// `io.debezium.time.Year`: INT32.
    Year,
    /// `io.debezium.data.Json`
    Json,
    /// `io.debezium.data.Xml`
    Xml,
    /// `io.debezium.data.Uuid`
    Uuid,
    /// `io.debezium.data.Ltree`
    Ltree,
    /// `io.debezium.data.Tsvector`
    Tsvector,
    /// `io.debezium.data.Enum`, parameter `allowed`.
    Enum,
    /// `io.debezium.data.EnumSet`, parameter `allowed`.
    EnumSet,
    /// `io.debezium.data.Bits`, parameter `length`, little-endian bytes.
    Bits,
    /// `io.debezium.data.geometry.Point`
    Point,
    /// `io.debezium.data.geometry.Geometry` or `Geography`
    Geometry,
}

/// An immutable schema. Build with [`SchemaBuilder`].
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    ty: SchemaType,
    optional: bool,
    name: Option<String>,
    version: Option<i32>,
    default: Option<Value>,
    doc: Option<String>,
    parameters: Vec<(String, String)>,
    semantic: Semantic,
}

impl Schema {
    /// The physical type.
    #[must_use]
    pub fn ty(&self) -> &SchemaType {
        &self.ty
    }
    /// Whether null is allowed.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        self.optional
    }
    /// The semantic (Connect schema) name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
    /// The Connect schema version.
    #[must_use]
    pub fn version(&self) -> Option<i32> {
        self.version
    }
    /// The default for absent values.
    #[must_use]
    pub fn default(&self) -> Option<&Value> {
        self.default.as_ref()
    }
    /// Documentation.
    #[must_use]
    pub fn doc(&self) -> Option<&str> {
        self.doc.as_deref()
    }
    /// Connect parameters, in the order they were added.
    #[must_use]
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }
    /// One parameter by name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    /// What the type means.
    #[must_use]
    pub fn semantic(&self) -> Semantic {
        self.semantic
    }
    /// Fields of a STRUCT; empty for every other type.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        if let SchemaType::Struct(fields) = &self.ty { fields } else { &[] }
    }
    /// A STRUCT's field and its index, by name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<(usize, &Field)> {
        self.fields().iter().enumerate().find(|(_, f)| f.name == name)
    }
    /// Whether this is a Debezium envelope: a STRUCT named `….Envelope` with `op`, and `after` or `before`.
    #[must_use]
    pub fn is_envelope(&self) -> bool {
        self.name().is_some_and(|n| n.ends_with(".Envelope"))
            && self.field("op").is_some()
            && self.field("after").is_some()
    }
    /// Starts a builder holding a copy of this schema.
    #[must_use]
    pub fn to_builder(&self) -> SchemaBuilder {
        SchemaBuilder { schema: self.clone() }
    }
}

/// Builds a [`Schema`].
#[derive(Debug, Clone)]
pub struct SchemaBuilder {
    schema: Schema,
}

impl SchemaBuilder {
    /// A required, unnamed schema of this type.
    #[must_use]
    pub fn new(ty: SchemaType) -> Self {
        Self {
            schema: Schema {
                ty,
                optional: false,
                name: None,
                version: None,
                default: None,
                doc: None,
                parameters: Vec::new(),
                semantic: Semantic::Plain,
            },
        }
    }
    /// A STRUCT without fields yet.
    #[must_use]
    pub fn structure() -> Self {
        Self::new(SchemaType::Struct(Vec::new()))
    }
    /// Adds a field to a STRUCT; no effect on other types.
    #[must_use]
    pub fn field(mut self, name: impl Into<String>, schema: Arc<Schema>) -> Self {
        if let SchemaType::Struct(fields) = &mut self.schema.ty {
            fields.push(Field { name: name.into(), schema });
        }
        self
    }
    /// Allows null.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.schema.optional = true;
        self
    }
    /// Sets whether null is allowed.
    #[must_use]
    pub fn optional_if(mut self, optional: bool) -> Self {
        self.schema.optional = optional;
        self
    }
    /// Sets the semantic name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.schema.name = Some(name.into());
        self
    }
    /// Sets the Connect version.
    #[must_use]
    pub fn version(mut self, version: i32) -> Self {
        self.schema.version = Some(version);
        self
    }
    /// Sets the default.
    #[must_use]
    pub fn default_value(mut self, value: Value) -> Self {
        self.schema.default = Some(value);
        self
    }
    /// Sets the documentation.
    #[must_use]
    pub fn doc(mut self, doc: impl Into<String>) -> Self {
        self.schema.doc = Some(doc.into());
        self
    }
    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.schema.parameters.push((name.into(), value.into()));
        self
    }
    /// Finishes; derives the [`Semantic`] from name and parameters.
    #[must_use]
    pub fn build(mut self) -> Arc<Schema> {
        self.schema.semantic = semantic_of(&self.schema);
        Arc::new(self.schema)
    }
}

fn semantic_of(schema: &Schema) -> Semantic {
    let Some(name) = schema.name() else { return Semantic::Plain };
    match name {
        "org.apache.kafka.connect.data.Decimal" => {
            let scale = schema.parameter("scale").and_then(|s| s.parse().ok()).unwrap_or(0);
            Semantic::Decimal { scale }
        }
        "io.debezium.data.VariableScaleDecimal" => Semantic::VariableScaleDecimal,
        "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" => Semantic::Date,
        "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" => Semantic::TimeMillis,
        "io.debezium.time.MicroTime" => Semantic::TimeMicros,
        "io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp" => Semantic::TimestampMillis,
        "io.debezium.time.MicroTimestamp" => Semantic::TimestampMicros,
        "io.debezium.time.ZonedTimestamp" => Semantic::ZonedTimestamp,
        "io.debezium.time.ZonedTime" => Semantic::ZonedTime,
        "io.debezium.time.MicroDuration" => Semantic::MicroDuration,
        "io.debezium.time.Interval" => Semantic::Interval,
        "io.debezium.time.Year" => Semantic::Year,
        "io.debezium.data.Json" => Semantic::Json,
        "io.debezium.data.Xml" => Semantic::Xml,
        "io.debezium.data.Uuid" => Semantic::Uuid,
        "io.debezium.data.Ltree" => Semantic::Ltree,
        "io.debezium.data.Tsvector" => Semantic::Tsvector,
        "io.debezium.data.Enum" => Semantic::Enum,
        "io.debezium.data.EnumSet" => Semantic::EnumSet,
        "io.debezium.data.Bits" => Semantic::Bits,
        "io.debezium.data.geometry.Point" => Semantic::Point,
        "io.debezium.data.geometry.Geometry" | "io.debezium.data.geometry.Geography" => Semantic::Geometry,
        _ => Semantic::Plain,
    }
}
