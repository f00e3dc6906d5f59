//! What people ask of a source's snapshot, and what they see of it.

use rowstream_api::snapshot::{Report, SnapshotAction, SnapshotRequest};

use super::{ConnectorView, Worker, WorkerError};
use crate::{
    registry::{self, Plan, PluginKind},
    task::requests,
};

/// A source's snapshot, at one moment.
#[derive(Debug)]
pub struct SnapshotView {
    /// Its connector.
    pub connector: ConnectorView,
    /// As far as it is durable.
    pub report: Report,
    /// What was asked and is not taken yet.
    pub requests: Vec<SnapshotRequest>,
}

impl Worker {
    /// Asks something of a source's snapshot; durable when it returns. Whoever runs the source takes it, at its next start if it
    /// does not run.
    ///
    /// # Errors
    /// Not found, no source, or it could not be stored.
    pub async fn ask_snapshot(
        &self,
        name: &str,
        action: SnapshotAction,
    ) -> Result<SnapshotRequest, WorkerError> {
        let connector = self.find(name).await?;
        of_a_source(&connector.view())?;
        let request = requests::put(self.context.log.state(), name, action).await?;
        connector.ask();
        Ok(request)
    }

    /// How far a source's snapshot is.
    ///
    /// # Errors
    /// Not found, no source, or its position could not be read.
    pub async fn snapshot(&self, name: &str) -> Result<SnapshotView, WorkerError> {
        let connector = self.view(name).await?;
        of_a_source(&connector)?;
        // First the requests: one that is taken in between is told twice, never not at all.
        let requests = requests::waiting(self.context.log.state(), name).await?;
        let offsets = self.context.log.source_offsets(name).await?;
        let report = match registry::plan(&connector.spec).map_err(WorkerError::Invalid)? {
            (_, Plan::Source(plan)) => {
                plan.snapshot(&offsets).map_err(|e| WorkerError::BadRequest(e.to_string()))?
            }
            (_, Plan::Sink(_)) => None,
        };
        let report = report.ok_or_else(|| no_snapshots(&connector))?;
        Ok(SnapshotView { connector, report, requests })
    }

    /// Withdraws all that was asked of a connector that is deleted.
    pub(super) async fn forget_requests(&self, name: &str) -> Result<(), WorkerError> {
        let state = self.context.log.state();
        let waiting = requests::waiting(state, name).await?;
        Ok(requests::withdraw(state, name, &waiting).await?)
    }
}

fn of_a_source(connector: &ConnectorView) -> Result<(), WorkerError> {
    let kind =
        connector.kind.or_else(|| registry::plugin(&connector.spec.connector).map(|plugin| plugin.kind));
    if kind == Some(PluginKind::Source) { Ok(()) } else { Err(no_snapshots(connector)) }
}

fn no_snapshots(connector: &ConnectorView) -> WorkerError {
    WorkerError::BadRequest(format!("connector {} has no snapshots: it is no source", connector.spec.name))
}
