//! Records of the log as a sink reads them.
//!
//! A schema id is looked up once; after that a record costs two slices of its batch and no decoding: the sink decodes the fields it
//! wants, borrowing from those slices.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use rowstream_api::{ConnectorError, Datum, DatumDecoder, RecordError, RecordId, SinkRecord, Stage};
use rowstream_avro::{AvroDecoder, split_frame};

use crate::{
    schema_registry::{RegistryError, SchemaRegistry},
    topic_log::{LogBatch, RecordRef},
};

/// Length of the Confluent frame: a zero byte and the schema id.
const FRAME: usize = 5;

/// Decodes the records of one sink task. Not shared.
pub struct RecordDecoder {
    registry: Arc<dyn SchemaRegistry>,
    decoders: HashMap<u32, Arc<dyn DatumDecoder>>,
    names: HashMap<Bytes, Arc<str>>,
}

impl RecordDecoder {
    /// A decoder that asks this registry for unseen schemas.
    #[must_use]
    pub fn new(registry: Arc<dyn SchemaRegistry>) -> Self {
        Self { registry, decoders: HashMap::new(), names: HashMap::new() }
    }

    /// A whole batch, in order; a record that is no Avro record comes with its reason.
    ///
    /// # Errors
    /// The registry could not be reached, or the batch is damaged.
    pub async fn batch(
        &mut self,
        batch: &LogBatch,
    ) -> Result<Vec<Result<SinkRecord, (RecordId, RecordRef, RecordError)>>, ConnectorError> {
        let raw = batch.records.records().map_err(|e| crate::task::log_failure("read the topic log", e))?;
        let mut out = Vec::with_capacity(raw.len());
        for (offset, record) in (batch.base_offset..).zip(raw) {
            let id = RecordId { partition: batch.partition.clone(), offset };
            let key = self.datum(record.key.as_ref(), Stage::KeyConverter).await?;
            let value = self.datum(record.value.as_ref(), Stage::ValueConverter).await?;
            out.push(match (key, value) {
                (Ok(key), Ok(value)) => {
                    let headers = record.headers.iter().map(|(k, v)| (self.name(k), v.clone())).collect();
                    let topic = Arc::clone(&id.partition.topic);
                    let timestamp_ms = record.timestamp_ms;
                    Ok(SinkRecord { id, topic, dropped: false, timestamp_ms, key, value, headers })
                }
                (Err(error), _) | (_, Err(error)) => Err((id, record, error)),
            });
        }
        Ok(out)
    }

    async fn datum(
        &mut self,
        framed: Option<&Bytes>,
        stage: Stage,
    ) -> Result<Result<Option<Datum>, RecordError>, ConnectorError> {
        let Some(framed) = framed else { return Ok(Ok(None)) };
        let id = match split_frame(framed) {
            Ok((id, _)) => id,
            Err(error) => return Ok(Err(RecordError { stage, ..error })),
        };
        Ok(self
            .decoder(id, stage)
            .await?
            .map(|decoder| Some(Datum { bytes: framed.slice(FRAME..), decoder })))
    }

    async fn decoder(
        &mut self,
        id: u32,
        stage: Stage,
    ) -> Result<Result<Arc<dyn DatumDecoder>, RecordError>, ConnectorError> {
        if let Some(decoder) = self.decoders.get(&id) {
            return Ok(Ok(Arc::clone(decoder)));
        }
        let text = match self.registry.schema(id).await {
            Ok(text) => text,
            Err(error @ (RegistryError::Unavailable { .. } | RegistryError::Refused { .. })) => {
                return Err(error.into_failure(format!("fetch schema {id}")));
            }
            Err(
                error @ (RegistryError::Invalid(_)
                | RegistryError::NotFound(_)
                | RegistryError::Incompatible(_)),
            ) => {
                return Ok(Err(RecordError::new(
                    stage,
                    "SCHEMA_UNKNOWN",
                    format!("schema id {id}: {error}"),
                )));
            }
        };
        match AvroDecoder::from_json(&text) {
            Ok(decoder) => {
                self.decoders.insert(id, Arc::clone(&decoder));
                Ok(Ok(decoder))
            }
            Err(error) => {
                Ok(Err(RecordError::new(stage, "SCHEMA_UNSUPPORTED", format!("schema id {id}: {error}"))))
            }
        }
    }

    /// Header names repeat in every record: one shared copy of each.
    fn name(&mut self, bytes: &Bytes) -> Arc<str> {
        if let Some(name) = self.names.get(bytes) {
            return Arc::clone(name);
        }
        let name: Arc<str> = String::from_utf8_lossy(bytes).into();
        if self.names.len() < 1024 {
            self.names.insert(Bytes::copy_from_slice(bytes), Arc::clone(&name));
        }
        name
    }
}
