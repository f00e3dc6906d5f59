//! `compute`: a field whose value an expression gives.
//!
//! The field is computed for each row of an event from that row (`row`), so that `before` and `after` stay comparable. Its type
//! is stated, never guessed from a value, and it allows null. Where the expression needs a column that the source did not send,
//! the computed field was not sent either, and the record says so as it does for any such column.

use std::sync::Arc;

use cel::common::{
    types::{CelBool, CelBytes, CelDouble, CelInt, CelNull, CelString, CelTimestamp, CelUInt},
    value::Val,
};
use rowstream_api::{
    ConfigErrors, FieldDoc, FieldKind, RecordError, Schema, SchemaBuilder, SchemaType, ValueRef,
};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    chain::Transform,
    expression::{Expression, RowImage, RowKnown, type_of},
    record::Record,
    refused,
    rows::{Images, SchemaCache, like},
    settings::parse,
    unavailable::Unavailable,
    values::{decimal_bytes, integer_range},
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "compute",
    fields: &[
        FieldDoc {
            path: "field",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "The field to add; one that the row has is replaced where it stands.",
            example: "total",
        },
        FieldDoc {
            path: "expression",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "A CEL expression for its value. `row` is the row that the field is for: each row of an event gets its own value. \
                  It also sees what `filter` sees. Null gives null.",
            example: "row.quantity * int(row.price * 100.0)",
        },
        FieldDoc {
            path: "type",
            kind: FieldKind::Choice(&[
                "boolean",
                "int32",
                "int64",
                "float64",
                "string",
                "bytes",
                "decimal",
                "timestamp",
            ]),
            required: true,
            default: None,
            doc: "The field's type. The expression must give a value of it: int for int32 and int64; double or int for float64; string, \
                  int or double for decimal, which is rounded to `scale` only where it comes from a double; timestamp for \
                  timestamp, which has microseconds and no zone.",
            example: "int64",
        },
        FieldDoc::optional(
            "scale",
            FieldKind::Integer { min: 0, max: 38 },
            None,
            "For decimals: digits after the point.",
            "2",
        ),
    ],
    build: |settings| {
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        if settings.field.is_empty() {
            errors.push("field", "must not be empty");
        }
        if (settings.ty == Type::Decimal) != settings.scale.is_some() {
            errors.push("scale", "goes with `type: decimal`, which needs it");
        }
        let expression = errors.take("expression", Expression::compile(&settings.expression, RowKnown::Yes));
        match expression {
            Some(expression) if errors.0.is_empty() => Ok(Box::new(Compute {
                schema: settings.ty.schema(settings.scale.unwrap_or(0)),
                settings,
                expression,
                plans: SchemaCache::default(),
            })),
            Some(_) | None => Err(errors),
        }
    },
};

#[derive(Deserialize)]
struct Settings {
    field: String,
    expression: String,
    #[serde(rename = "type")]
    ty: Type,
    scale: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    Boolean,
    Int32,
    Int64,
    Float64,
    String,
    Bytes,
    Decimal,
    Timestamp,
}

struct Compute {
    settings: Settings,
    expression: Expression,
    schema: Arc<Schema>,
    plans: SchemaCache<Plan>,
}

struct Plan {
    images: Images,
    row: Arc<Schema>,
    schema: Arc<Schema>,
    /// Where the field is; at the end when the row does not have it.
    at: Option<usize>,
}

/// What an expression gave: none where it needs what was not sent.
type Computed = Option<ValueRef<'static>>;

impl Transform for Compute {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let Some(schema) = record.value.schema().cloned() else {
            out.push(record);
            return Ok(());
        };
        let (field, made) = (self.settings.field.as_str(), &self.schema);
        let plan = self.plans.get(&schema, |schema| Plan::of(schema, field, made))?;
        let (ty, scale) = (self.settings.ty, self.settings.scale.unwrap_or(0));
        record.value.tree()?;
        let mut computed: Vec<Computed> = Vec::new();
        if let crate::Part::Tree { value, .. } = &record.value {
            for values in plan.images.rows(value) {
                let image = RowImage { schema: &plan.row, values };
                let result = self.expression.evaluate(&record, Some(image), |value| ty.read(value, scale));
                computed.push(match result {
                    Ok(value) => Some(value),
                    Err(error) if error.code == "EXPRESSION_VALUE_UNAVAILABLE" => None,
                    Err(error) => return Err(error),
                });
            }
        }
        let mut unavailable = Unavailable::of(&record.headers)?;
        unavailable.rename(&mut record.headers, |column| {
            if column == field { Vec::new() } else { vec![column.to_owned()] }
        });
        if computed.iter().any(Option::is_none) {
            unavailable = Unavailable::of(&record.headers)?;
            unavailable.add(&mut record.headers, field);
        }
        let mut computed = computed.into_iter();
        if let Some((schema, value)) = record.value.tree()? {
            *schema = Arc::clone(&plan.schema);
            plan.images.each(value, |mut row| {
                let value = computed.next().flatten().unwrap_or(ValueRef::Unavailable);
                match plan.at.and_then(|at| row.get_mut(at)) {
                    Some(old) => *old = value,
                    None => row.push(value),
                }
                Ok(row)
            })?;
        }
        out.push(record);
        Ok(())
    }
}

impl Plan {
    fn of(schema: &Arc<Schema>, name: &str, made: &Arc<Schema>) -> Result<Self, RecordError> {
        let (images, row) = Images::of(schema, "value")?;
        let at = row.field(name).map(|(index, _)| index);
        let mut builder = like(&row);
        for (index, field) in row.fields().iter().enumerate() {
            let schema = if Some(index) == at { made } else { &field.schema };
            builder = builder.field(&field.name, Arc::clone(schema));
        }
        if at.is_none() {
            builder = builder.field(name, Arc::clone(made));
        }
        Ok(Self { images, schema: images.over(schema, builder.build()), row, at })
    }
}

impl Type {
    fn schema(self, scale: i32) -> Arc<Schema> {
        let plain = |ty| SchemaBuilder::new(ty).optional().build();
        match self {
            Self::Boolean => plain(SchemaType::Boolean),
            Self::Int32 => plain(SchemaType::Int32),
            Self::Int64 => plain(SchemaType::Int64),
            Self::Float64 => plain(SchemaType::Float64),
            Self::String => plain(SchemaType::String),
            Self::Bytes => plain(SchemaType::Bytes),
            Self::Decimal => SchemaBuilder::new(SchemaType::Bytes)
                .optional()
                .name("org.apache.kafka.connect.data.Decimal")
                .version(1)
                .parameter("scale", scale.to_string())
                .build(),
            Self::Timestamp => SchemaBuilder::new(SchemaType::Int64)
                .optional()
                .name("io.debezium.time.MicroTimestamp")
                .version(1)
                .build(),
        }
    }

    /// A value of this type.
    fn read(self, value: &dyn Val, scale: i32) -> Result<ValueRef<'static>, RecordError> {
        if value.downcast_ref::<CelNull>().is_some() {
            return Ok(ValueRef::Null);
        }
        let made = match self {
            Self::Boolean => value.downcast_ref::<CelBool>().map(|truth| ValueRef::Bool(*truth.inner())),
            Self::Int32 | Self::Int64 => match integer(value) {
                Some(number)
                    if self == Self::Int64 || integer_range(&SchemaType::Int32).contains(&number) =>
                {
                    Some(ValueRef::Int(number))
                }
                Some(_) => {
                    return Err(refused("VALUE_OUT_OF_RANGE", "the result is out of the range of INT32"));
                }
                None => None,
            },
            Self::Float64 => double(value).map(ValueRef::Float64),
            Self::String => {
                value.downcast_ref::<CelString>().map(|text| ValueRef::Str(text.inner().to_owned().into()))
            }
            Self::Bytes => {
                value.downcast_ref::<CelBytes>().map(|bytes| ValueRef::Bytes(bytes.inner().to_vec().into()))
            }
            Self::Decimal => match decimal_text(value, scale) {
                Some(text) => match decimal_bytes(&text, scale) {
                    Some(bytes) => Some(ValueRef::Bytes(bytes.into())),
                    None => {
                        let message = format!("the result is no decimal of {scale} digits after the point");
                        return Err(refused("VALUE_OUT_OF_RANGE", message));
                    }
                },
                None => None,
            },
            Self::Timestamp => value
                .downcast_ref::<CelTimestamp>()
                .map(|instant| ValueRef::Int(instant.inner().timestamp_micros())),
        };
        made.ok_or_else(|| {
            let message = format!("the expression gives {}, which is no {}", type_of(value), self.word());
            refused("EXPRESSION_TYPE", message)
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Decimal => "decimal",
            Self::Timestamp => "timestamp",
        }
    }
}

fn integer(value: &dyn Val) -> Option<i64> {
    let signed = value.downcast_ref::<CelInt>().map(|number| *number.inner());
    signed.or_else(|| value.downcast_ref::<CelUInt>().and_then(|number| i64::try_from(*number.inner()).ok()))
}

fn double(value: &dyn Val) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "the nearest double is what was asked for")]
    let of_integer = |number: i64| number as f64;
    value.downcast_ref::<CelDouble>().map(|number| *number.inner()).or_else(|| integer(value).map(of_integer))
}

/// Plain digits; a double rounded to the scale.
fn decimal_text(value: &dyn Val, scale: i32) -> Option<String> {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return Some(text.inner().trim().to_owned());
    }
    if let Some(number) = integer(value) {
        return Some(number.to_string());
    }
    let digits = usize::try_from(scale).ok()?;
    value.downcast_ref::<CelDouble>().map(|number| format!("{:.digits$}", number.inner()))
}

#[cfg(test)]
mod tests;
