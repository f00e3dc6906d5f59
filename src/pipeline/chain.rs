//! A connector's transforms: planned from its document, built for each run of a task, applied to records of the log.
//!
//! A step sees key and value as they were written and decodes what it needs; what no step changed goes on as the bytes it was.
//! What was changed is encoded again with the schema that the steps made of it, by a plan that is compiled once for each schema.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use rowstream_api::{ConfigErrors, Datum, DatumDecoder, RecordError, Schema, SinkRecord, Stage, ValueRef};
use rowstream_avro::{AvroDecoder, EncodePlan};
use rowstream_transforms::{Chain, Part, Record, Step, TransformPlugin};
use serde_json::{Map, Value};

use super::tap::Tap;
use crate::config::{ConnectorSpec, secrets, spec};

/// The validated steps of a connector.
#[derive(Clone, Default)]
pub struct ChainPlan {
    steps: Arc<[PlannedStep]>,
}

struct PlannedStep {
    name: String,
    when: Option<Value>,
    plugin: &'static TransformPlugin,
    settings: Map<String, Value>,
}

impl ChainPlan {
    /// Plans the steps of a connector. No I/O but secret files.
    ///
    /// # Errors
    /// Every problem at once, under `transforms.NAME`.
    pub fn of(connector: &ConnectorSpec) -> Result<Self, ConfigErrors> {
        Self::within(connector, &secrets::process_environment)
    }

    /// As [`of`](Self::of), with another environment for `${env:NAME}`.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn within(
        connector: &ConnectorSpec,
        environment: secrets::Environment<'_>,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let mut steps = Vec::with_capacity(connector.transforms.len());
        for step in &connector.transforms {
            let prefix = format!("transforms.{}.", step.name);
            let Some(plugin) = rowstream_transforms::plugins().iter().find(|p| p.name == step.kind) else {
                errors.push(format!("{prefix}type"), unknown(&step.kind));
                continue;
            };
            let mut own = ConfigErrors::default();
            let resolved = secrets::resolve(&step.settings, environment, &mut own);
            let settings = spec::check(&resolved, plugin.fields, "", &mut own);
            let planned = PlannedStep { name: step.name.clone(), when: step.when.clone(), plugin, settings };
            if own.0.is_empty()
                && let Err(built) = planned.build()
            {
                own = built;
            }
            for mut error in own.0 {
                error.field = format!("{prefix}{}", error.field).trim_end_matches('.').to_owned();
                errors.0.push(error);
            }
            steps.push(planned);
        }
        errors.into_result().map(|()| Self { steps: steps.into() })
    }

    /// Whether there are no steps.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// A chain for one run of a task; `None` where there are no steps.
    ///
    /// # Errors
    /// A setting that was good when the connector was planned no longer is.
    pub fn build(&self) -> Result<Option<Chain>, ConfigErrors> {
        if self.is_empty() {
            return Ok(None);
        }
        self.steps
            .iter()
            .map(PlannedStep::build)
            .collect::<Result<_, _>>()
            .map(|steps| Some(Chain::new(steps)))
    }
}

impl PlannedStep {
    fn build(&self) -> Result<Step, ConfigErrors> {
        let when =
            self.when.as_ref().map(rowstream_transforms::predicate).transpose().map_err(|mut errors| {
                errors.0.iter_mut().for_each(|error| {
                    error.field = format!("when.{}", error.field).trim_end_matches('.').to_owned()
                });
                errors
            });
        let transform = (self.plugin.build)(self.settings.clone());
        match (when, transform) {
            (Ok(when), Ok(transform)) => Ok(Step { name: self.name.clone(), when, transform }),
            (Err(mut when), Err(transform)) => {
                when.0.extend(transform.0);
                Err(when)
            }
            (Err(errors), _) | (_, Err(errors)) => Err(errors),
        }
    }
}

fn unknown(kind: &str) -> String {
    let known: Vec<String> =
        rowstream_transforms::plugins().iter().map(|p| format!("`{}`", p.name)).collect();
    format!("`{kind}` is not a transform; expected one of {}", known.join(", "))
}

/// Encodes what the steps made. Plans are found by the schema's address; the plan holds the schema, so that it is never reused.
#[derive(Default)]
pub struct Reencoder {
    plans: HashMap<usize, (EncodePlan, Arc<dyn DatumDecoder>)>,
}

/// More schemas than this at once are forgotten all together: a step that makes a new one for each record must not fill the memory.
const PLANS_MAX: usize = 4096;

impl Reencoder {
    /// The part as it goes on: what nobody changed as it came, the rest as new bytes with their reader.
    ///
    /// # Errors
    /// The value does not fit the schema that the steps gave it.
    pub fn datum(&mut self, part: &Part<'_>) -> Result<Option<Datum>, RecordError> {
        let (schema, value) = match part {
            Part::Null => return Ok(None),
            Part::Encoded(datum) => return Ok(Some((*datum).clone())),
            Part::Tree { value: ValueRef::Null, .. } => return Ok(None),
            Part::Tree { schema, value } => (schema, value),
        };
        let (plan, decoder) = self.plan(schema);
        let mut bytes = Vec::with_capacity(128);
        plan.encode_value(value, &mut bytes)
            .map_err(|error| RecordError { stage: Stage::Transformation, ..error })?;
        Ok(Some(Datum { bytes: Bytes::from(bytes), decoder: Arc::clone(decoder) }))
    }

    fn plan(&mut self, schema: &Arc<Schema>) -> &(EncodePlan, Arc<dyn DatumDecoder>) {
        if self.plans.len() >= PLANS_MAX {
            self.plans.clear();
        }
        self.plans
            .entry(Arc::as_ptr(schema).addr())
            .or_insert_with(|| (EncodePlan::compile(schema), AvroDecoder::new(Arc::clone(schema))))
    }
}

/// The steps of a sink's task.
pub struct SinkChain {
    chain: Chain,
    reencoder: Reencoder,
    tap: Tap,
}

impl SinkChain {
    /// Around the chain of this run; whoever looks does so by `tap`.
    #[must_use]
    pub fn new(chain: Chain, tap: Tap) -> Self {
        Self { chain, reencoder: Reencoder::default(), tap }
    }

    /// The record as the sink gets it. It keeps its place in the log, whatever becomes of its topic; a dropped one says so, since
    /// the sink's position must pass it.
    ///
    /// # Errors
    /// A step could not handle it, or made several of it: a record has one place, which can't be passed twice.
    pub fn apply(&mut self, record: &SinkRecord) -> Result<SinkRecord, RecordError> {
        let headers = record.headers.iter().map(|(name, value)| (Arc::clone(name), value.as_ref().into()));
        let incoming = Record {
            topic: Arc::clone(&record.topic),
            partition: None,
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_ref().map_or(Part::Null, Part::Encoded),
            value: record.value.as_ref().map_or(Part::Null, Part::Encoded),
            headers: headers.collect(),
        };
        let mut made = self.tap.apply(&mut self.chain, incoming)?;
        let Some(one) = made.pop() else {
            return Ok(SinkRecord::dropped(record.id.clone(), record.timestamp_ms));
        };
        if !made.is_empty() {
            let message = format!(
                "the transforms made {} records of one; a sink's transforms may keep, change or drop a record, not copy it",
                made.len() + 1
            );
            return Err(RecordError::new(Stage::Transformation, "TRANSFORM_COPIES_IN_SINK", message));
        }
        Ok(SinkRecord {
            id: record.id.clone(),
            key: self.reencoder.datum(&one.key)?,
            value: self.reencoder.datum(&one.value)?,
            headers: one
                .headers
                .into_iter()
                .map(|(name, value)| (name, Bytes::copy_from_slice(value.as_ref())))
                .collect(),
            topic: one.topic,
            timestamp_ms: one.timestamp_ms,
            dropped: false,
        })
    }
}
