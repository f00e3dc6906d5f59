//! The way back of a source's letters: through its transforms as they are now, to the topic that these say.

use std::sync::Arc;

use rowstream_api::{ConnectorError, RecordError, TopicPartition};

use super::Connector;
use crate::{
    pipeline::{
        chained::{SourceChain, Staged},
        decode::RecordDecoder,
        encode::learn,
        group::RecordGroup,
        tap::Tap,
    },
    schema_registry::{SchemaRegistry, SubjectStrategy},
    topic_log::{LogBatch, LogWriter, RecordBatchBuilder, RecordRef, batch::Header},
};

/// The transforms of one redrive.
pub(super) struct Through {
    chain: SourceChain,
    decoder: RecordDecoder,
    registry: Arc<dyn SchemaRegistry>,
    subjects: SubjectStrategy,
}

impl Through {
    pub(super) fn new(
        connector: &Connector,
        registry: &Arc<dyn SchemaRegistry>,
    ) -> Result<Self, ConnectorError> {
        Ok(Self {
            chain: SourceChain::new(connector.transforms.build()?.unwrap_or_default(), Tap::default()),
            decoder: RecordDecoder::new(Arc::clone(registry)),
            registry: Arc::clone(registry),
            subjects: connector.subjects,
        })
    }

    /// Puts what the transforms make of a letter into the group; answers how many records that is, or why they refuse it.
    pub(super) async fn push(
        &mut self,
        topic: &str,
        record: RecordRef,
        writer: &mut dyn LogWriter,
        group: &mut RecordGroup,
    ) -> Result<Result<u64, RecordError>, ConnectorError> {
        let decoded = match self.decode(topic, &record).await? {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Err(error)),
        };
        let headers = record
            .headers
            .iter()
            .filter_map(|(name, value)| Some((std::str::from_utf8(name).ok()?.into(), value.to_vec())));
        let staged = [Staged {
            topic: topic.into(),
            timestamp_ms: record.timestamp_ms,
            key: decoded.key,
            value: decoded.value,
            headers: headers.collect(),
        }];
        let before = group.records;
        loop {
            match self.chain.push(&staged, group, &[]) {
                Ok(None) => return Ok(Ok(group.records - before)),
                Ok(Some(unknown)) => {
                    let registry = (Arc::clone(&self.registry), self.subjects);
                    learn(&mut self.chain, unknown, registry, writer).await?;
                }
                Err(refused) => return Ok(Err(refused)),
            }
        }
    }

    /// One record, as a sink would decode it.
    async fn decode(
        &mut self,
        topic: &str,
        record: &RecordRef,
    ) -> Result<Result<rowstream_api::SinkRecord, RecordError>, ConnectorError> {
        let mut builder = RecordBatchBuilder::new(&[]);
        let none: [Header<'_>; 0] = [];
        builder.push(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &none);
        let batch = LogBatch {
            partition: TopicPartition::new(topic, 0),
            base_offset: 0,
            records: builder.build(),
            end_offset: 1,
        };
        let decoded = self.decoder.batch(&batch).await?.into_iter().next();
        let missing = || RecordError::value("RECORD_MISSING", "the letter holds no record");
        Ok(decoded.map_or_else(|| Err(missing()), |decoded| decoded.map_err(|(_, _, error)| error)))
    }
}
