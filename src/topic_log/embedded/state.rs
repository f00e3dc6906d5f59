//! Small durable state of the worker, in the table `state`.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    shared::Shared,
    tables::{Table, check_name, damaged_row, get, named_key, parse_named_key, scan},
};
use crate::topic_log::{LogError, StateOp, StateStore};

/// The state store of one log.
pub(super) struct EmbeddedState(pub(super) Arc<Shared>);

impl StateStore for EmbeddedState {
    fn get<'a>(&'a self, table: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, LogError>> {
        Box::pin(async move {
            check_name("state table", table)?;
            let key = named_key(table, key.as_bytes());
            let value = blocking(&self.0, move |s| s.with_db(|db| get(db, Table::State, &key))).await?;
            Ok(value.map(Bytes::from))
        })
    }

    fn scan<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, LogError>> {
        Box::pin(async move {
            check_name("state table", table)?;
            let prefix = named_key(table, b"");
            let rows = blocking(&self.0, move |s| s.with_db(|db| scan(db, Table::State, &prefix))).await?;
            let rows = rows.into_iter().map(|(key, value)| {
                let key = parse_named_key(&key).and_then(|(_, key)| String::from_utf8(key.to_vec()).ok());
                Ok((key.ok_or_else(|| damaged_row(Table::State))?, Bytes::from(value)))
            });
            rows.collect()
        })
    }

    fn write(&self, ops: Vec<StateOp>) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let ops = ops.into_iter().map(|op| match op {
                StateOp::Put { table, key, value } => {
                    check_name("state table", &table)?;
                    Ok(Table::State.put(named_key(&table, key.as_bytes()), &value))
                }
                StateOp::Delete { table, key } => {
                    check_name("state table", &table)?;
                    Ok(Table::State.delete(named_key(&table, key.as_bytes())))
                }
            });
            let ops = ops.collect::<Result<Vec<_>, LogError>>()?;
            self.0.write(ops).await
        })
    }
}

/// Runs a look-up that may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    look: impl FnOnce(&Shared) -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let shared = Arc::clone(shared);
    let looked = tokio::task::spawn_blocking(move || look(&shared)).await;
    looked.map_err(|e| LogError::State(format!("a look-up was cut off: {e}")))?
}
