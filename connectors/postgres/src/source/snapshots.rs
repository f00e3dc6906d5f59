//! The task's side of its snapshots: which run is due, how its tables look, when its rows are delivered, and what is asked for while the
//! stream goes on.
//!
//! There is one run at a time, of the initial snapshot or of one table that was asked for. What is asked for and can't be read is
//! refused and never ends the task; all that is taken or refused is in the offset of the next batch.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rowstream_api::{
    Chain, Class, ConnectorError, SourceBatch,
    snapshot::{Delivered, LostPosition, Settings, SnapshotRun},
};

use super::PostgresSourceTask;
use crate::{
    snapshot::{
        Postgres,
        rows::{ReadRows, SnapshotRows},
    },
    source_config::SnapshotConfig,
};

impl PostgresSourceTask {
    /// Begins or goes on with the snapshot, if there is one and it may be read; ends its run when it may not.
    pub(super) fn steer_snapshot(&mut self) {
        let is_paused = self.offset.on_demand.is_paused();
        self.cx.gauges.note("snapshot_paused", is_paused.then(|| "snapshot: paused".to_owned()));
        LostPosition::show(self.offset.lost.as_ref(), self.offset.snapshot.as_ref(), &self.cx.gauges);
        if is_paused && self.snapshot.as_ref().is_some_and(|run| !run.holds_stream()) {
            self.snapshot = None;
        }
        self.limit_run();
        if is_paused || self.snapshot.is_some() || self.publish.is_some() {
            return;
        }
        self.offset.on_demand.begin_next(&mut self.offset.snapshot);
        let Some(progress) = self.offset.snapshot.as_ref().filter(|progress| !progress.todo.is_empty())
        else {
            return;
        };
        let SnapshotConfig { chunk_rows, readers, .. } = self.plan.snapshot;
        let database = Postgres {
            plan: self.plan.connection.clone(),
            delivered: self.offset.newest_xid,
            has_joined: self.offset.has_joined,
        };
        let settings = Settings { chunk_rows, readers };
        self.snapshot = Some(SnapshotRun::new(database, settings, progress, &self.cx.gauges));
        self.limit_run();
    }

    /// What is asked for holds for the run under way.
    fn limit_run(&mut self) {
        if let Some(run) = &mut self.snapshot {
            run.limit(self.offset.on_demand.rows_per_second(self.plan.snapshot.rows_per_second));
        }
    }

    /// Tells the snapshot how its tables look. Breaks when its run ended.
    pub(super) async fn describe_tables(&mut self) -> Result<ControlFlow<()>, ConnectorError> {
        while let (Some(run), Some(progress)) = (&mut self.snapshot, &mut self.offset.snapshot) {
            if run.is_finished(progress) {
                self.snapshot = None;
                self.offset.on_demand.tidy(&mut self.offset.snapshot);
                return Ok(ControlFlow::Break(()));
            }
            let Some(name) = run.wants(progress) else { return Ok(ControlFlow::Continue(())) };
            let condition = progress.asked.as_ref().map(|asked| asked.condition.as_deref());
            let described = match condition {
                Some(condition) => self.tables.asked(&name, condition, &self.plan).await?.map(Some),
                None => Ok(self.tables.for_snapshot(&name, &self.plan).await?),
            };
            match described {
                Ok(described) => {
                    if described.is_none() {
                        let (schema, table) = &name;
                        tracing::warn!(
                            schema,
                            table,
                            "the table of the snapshot is gone, or no longer captured"
                        );
                    }
                    run.describe(progress, described);
                }
                Err(reason) => {
                    self.refuse_asked(reason);
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A table that was asked for and can't be read is refused; the stream goes on.
    pub(super) fn failed_to_read(&mut self, error: ConnectorError) -> Result<(), ConnectorError> {
        if error.class == Class::Transient || !self.refuse_asked(Chain(&error).to_string()) {
            return Err(error);
        }
        Ok(())
    }

    /// Refuses the table that is being read, if it was asked for.
    pub(super) fn refuse_asked(&mut self, reason: String) -> bool {
        let refused = self.offset.on_demand.refuse_current(&mut self.offset.snapshot, reason.as_str());
        if refused {
            tracing::warn!(reason, "a table that was asked for is not read");
            (self.snapshot, self.announce) = (None, true);
        }
        refused
    }

    /// Takes a request to read tables: all of them or, when there is a problem with one, none.
    pub(super) async fn ask(
        &mut self,
        request: &str,
        tables: &[String],
        condition: Option<&str>,
    ) -> Result<(), ConnectorError> {
        let mut named = Vec::with_capacity(tables.len());
        for table in tables {
            named.push((table.clone(), self.tables.named(table, condition, &self.plan).await?));
        }
        if let Some(reason) = self.offset.on_demand.ask_checked(request, named, condition) {
            tracing::warn!(request, reason, "a snapshot that was asked for is refused");
        }
        Ok(())
    }

    /// Yields rows of the snapshot once the stream is far enough.
    pub(super) fn deliver_snapshot(&mut self) -> Result<Option<SourceBatch>, ConnectorError> {
        let (Some(run), Some(progress)) = (&mut self.snapshot, &mut self.offset.snapshot) else {
            return Ok(None);
        };
        let Some(delivered) = run.deliver(Some(&self.offset.lsn), progress)? else {
            if let Some(high) = run.waits_for() {
                self.reader.control.want(*high);
            }
            return Ok(None);
        };
        if progress.todo.is_empty() {
            self.offset.has_joined = false;
        }
        self.offset.on_demand.tidy(&mut self.offset.snapshot);
        if self.offset.snapshot.is_none() {
            self.snapshot = None;
        }
        self.snapshot_batch(delivered).map(Some)
    }

    pub(super) fn snapshot_batch(
        &self,
        delivered: Delivered<ReadRows>,
    ) -> Result<SourceBatch, ConnectorError> {
        let read_at_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let rows = SnapshotRows {
            delivered,
            names: Arc::clone(&self.names),
            lsn: self.offset.lsn,
            read_at_us: i64::try_from(read_at_us).unwrap_or(i64::MAX),
        };
        Ok(SourceBatch { changes: Box::new(rows), ..self.position_only()? })
    }
}
