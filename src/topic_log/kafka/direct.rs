//! Records that stand alone: state and positions of sinks, each durable when its write returns, without a transaction.
//!
//! A transaction would not do for them: one that a killed worker leaves open hides all that follows from readers until the
//! coordinator ends it, and the next start reads state before it opens any producer.

use std::{sync::Arc, time::Duration};

use rdkafka::{error::RDKafkaErrorCode, producer::BaseRecord};

use super::{
    cluster::{Cluster, number},
    context::{Receipt, ReceiptContext},
    errors::{code_error, io_error, log_error},
    polled::Polled,
    transaction::RawRecord,
};
use crate::topic_log::LogError;

/// How long the brokers may take to make a record durable.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// An idempotent producer, shared by everything of one log. Dropping it ends its thread.
pub(super) struct DirectWriter(Polled<ReceiptContext>);

impl DirectWriter {
    pub(super) fn start(cluster: &Cluster) -> Result<Self, LogError> {
        let mut config = cluster.config.producer("state");
        config.set("linger.ms", "0");
        config.set("message.timeout.ms", WRITE_TIMEOUT.as_millis().to_string());
        let context = ReceiptContext(cluster.context("state"));
        let producer = config.create_with_context(context);
        let producer = producer.map_err(|e| log_error("open the producer of the log's state", &e))?;
        Polled::start("kafka-state", producer).map(Self)
    }

    /// Writes these records; all are durable when it returns. After an error some may be: read before writing again.
    pub(super) async fn write(&self, records: &[RawRecord]) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        let (receipt, answer) = Receipt::of(records.len());
        for record in records {
            self.send(record, &receipt).await?;
        }
        let attempt = "write the log's state";
        let answered = tokio::time::timeout(WRITE_TIMEOUT * 2, answer).await;
        match answered {
            Ok(Ok(outcome)) => outcome.map_err(|code| code_error(attempt, code)),
            Ok(Err(_)) | Err(_) => Err(io_error(attempt, "no broker answered")),
        }
    }

    async fn send(&self, raw: &RawRecord, receipt: &Arc<Receipt>) -> Result<(), LogError> {
        loop {
            let mut record =
                BaseRecord::<[u8], [u8], Arc<Receipt>>::with_opaque_to(&raw.topic, Arc::clone(receipt))
                    .partition(number(raw.partition))
                    .key(&raw.key);
            record.payload = raw.value.as_deref();
            let Err((error, _)) = self.0.send(record) else { return Ok(()) };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(log_error(format!("write to topic `{}`", raw.topic), &error));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
