//! Small durable state of the worker, in the compacted topic `<group>-state`: key `["table","key"]`, value as given.
//!
//! One change is one record, written alone. Several at once are one transaction; its producer has an id of its own, so two
//! workers never fence each other, and a short timeout, because what it leaves open when it is killed hides later state.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{Mutex, oneshot, watch};

use super::{
    cluster::Cluster,
    direct::DirectWriter,
    mirror::Mirror,
    transaction::{Job, Opening, Ownership, RawRecord, Transactions},
};
use crate::topic_log::{CommitError, LogError, StateOp, StateStore};

/// How long a killed worker's half-written change may hide later ones, besides the coordinator's ten seconds.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The state store of one log.
pub(super) struct KafkaState {
    pub(super) cluster: Arc<Cluster>,
    pub(super) mirror: Mirror,
    pub(super) direct: Arc<DirectWriter>,
    /// For changes of several records, opened when first needed.
    pub(super) together: Mutex<Option<Transactions>>,
    /// Tells this process from every other.
    pub(super) process: String,
}

impl KafkaState {
    async fn write_together(&self, records: Vec<RawRecord>) -> Result<(), LogError> {
        let mut together = self.together.lock().await;
        let transactions = match together.take() {
            Some(open) => open,
            None => {
                let id = format!("{}.state.{}", self.cluster.config.group, self.process);
                let owner = Box::new(|| Ownership::Ours);
                Transactions::open(&self.cluster, Opening { id, timeout: Some(TRANSACTION_TIMEOUT), owner })
                    .await?
            }
        };
        let (reply, answer) = oneshot::channel();
        transactions.hand_over(Job { batches: Vec::new(), positions: records, reply, _permit: None })?;
        match answer.await {
            Ok(Ok(())) => {
                *together = Some(transactions);
                Ok(())
            }
            Ok(Err(CommitError::Aborted(error) | CommitError::Unknown(error))) => Err(error),
            Ok(Err(CommitError::Fenced)) | Err(_) => {
                Err(LogError::State("the outcome of a change of the worker's state is unknown".to_owned()))
            }
        }
    }
}

impl StateStore for KafkaState {
    fn get<'a>(&'a self, table: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, LogError>> {
        Box::pin(async move {
            self.mirror.caught_up(None).await?;
            let place = (0, Bytes::from(state_key(table, key)));
            Ok(self.mirror.read(|rows| rows.get(&place).map(|row| row.value.clone())))
        })
    }

    fn scan<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, LogError>> {
        Box::pin(async move {
            self.mirror.caught_up(None).await?;
            let mut found: Vec<(String, Bytes)> = self.mirror.read(|rows| {
                let of_table = rows.iter().filter_map(|((_, key), row)| {
                    let (named, key) = serde_json::from_slice::<(String, String)>(key).ok()?;
                    (named == table).then(|| (key, row.value.clone()))
                });
                of_table.collect()
            });
            found.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(found)
        })
    }

    fn write(&self, ops: Vec<StateOp>) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let topic = self.mirror.topic();
            let record = |op: StateOp| match op {
                StateOp::Put { table, key, value } => raw(topic, &table, &key, Some(value.to_vec())),
                StateOp::Delete { table, key } => raw(topic, &table, &key, None),
            };
            let records: Vec<RawRecord> = ops.into_iter().map(record).collect();
            if records.len() > 1 {
                self.write_together(records).await
            } else {
                self.direct.write(&records).await
            }
        })
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.mirror.changes())
    }
}

pub(super) fn raw(topic: &Arc<str>, table: &str, key: &str, value: Option<Vec<u8>>) -> RawRecord {
    RawRecord { topic: Arc::clone(topic), partition: 0, key: state_key(table, key), value }
}

pub(super) fn state_key(table: &str, key: &str) -> Vec<u8> {
    serde_json::json!([table, key]).to_string().into_bytes()
}
