//! Where the built-in registry keeps what it knows, behind one seam: in the log's state, or in a topic of Confluent's format.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{
    Refusal,
    catalog::{CONFIG, Catalog, Edit, SCHEMAS, SUBJECTS},
};
use crate::topic_log::{StateOp, TopicLog};

/// The registry's store. One registry at a time calls `prepare` and `write`, in that order.
pub(super) trait SchemaStore: Send + Sync + 'static {
    /// Reads everything that is stored now.
    fn load(&self) -> BoxFuture<'_, Result<Catalog, Refusal>>;
    /// Makes sure that a change may be decided, and answers the catalog anew when others have changed it.
    fn prepare(&self) -> BoxFuture<'_, Result<Option<Catalog>, Refusal>>;
    /// Writes edits that were decided on `catalog`; an error leaves their outcome unknown.
    fn write(&self, catalog: &Catalog, edits: &[Edit]) -> BoxFuture<'_, Result<Stored, Refusal>>;
    /// Waits until somebody else has written; for ever where nobody else can.
    fn changed(&self) -> BoxFuture<'_, ()>;
    /// Whether others may write too.
    fn shared(&self) -> Shared;
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Durable.
    Done,
    /// Somebody else wrote first, and nothing was written: prepare and decide again.
    Lost,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// This process.
    Alone,
    /// Every worker.
    WithOthers,
}

/// The log's own state: this process is the only one.
pub(super) struct StateStored(pub(super) Arc<dyn TopicLog>);

impl SchemaStore for StateStored {
    fn load(&self) -> BoxFuture<'_, Result<Catalog, Refusal>> {
        Box::pin(async move {
            let state = self.0.state();
            let scan = async |table| state.scan(table).await.map_err(|e| Refusal::Store(e.to_string()));
            Catalog::load(scan(SCHEMAS).await?, scan(SUBJECTS).await?, scan(CONFIG).await?)
        })
    }
    fn prepare(&self) -> BoxFuture<'_, Result<Option<Catalog>, Refusal>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    fn write(&self, _catalog: &Catalog, edits: &[Edit]) -> BoxFuture<'_, Result<Stored, Refusal>> {
        let ops: Vec<StateOp> = edits.iter().map(Edit::op).collect();
        Box::pin(async move {
            self.0.state().write(ops).await.map_err(|e| Refusal::Store(e.to_string()))?;
            Ok(Stored::Done)
        })
    }
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
    fn shared(&self) -> Shared {
        Shared::Alone
    }
}
