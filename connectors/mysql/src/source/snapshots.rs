//! The task's side of its snapshots: which run is due, how its tables look, when its rows are delivered, and what is asked for while the
//! stream goes on.
//!
//! There is one run at a time, of the initial snapshot or of one table that was asked for. What is asked for and can't be read is
//! refused and never ends the task; all that is taken or refused is in the offset of the next batch.

use std::{ops::ControlFlow, sync::Arc};

use rowstream_api::{
    Chain, Class, ConnectorError, SourceBatch,
    snapshot::{LostPosition, Settings, SnapshotRun},
};

use super::{BinlogSourceTask, now_us};
use crate::{
    snapshot::{self, MySql, rows::SnapshotRows},
    source_config::SnapshotConfig,
    stream::position::BinlogPosition,
};

impl BinlogSourceTask {
    /// Begins or goes on with the snapshot, if there is one and it may be read; ends its run when it may not.
    pub(super) fn steer_snapshot(&mut self) -> Result<(), ConnectorError> {
        let is_paused = self.offset.on_demand.is_paused();
        self.cx.gauges.note("snapshot_paused", is_paused.then(|| "snapshot: paused".to_owned()));
        LostPosition::show(self.offset.lost.as_ref(), self.offset.snapshot.as_ref(), &self.cx.gauges);
        if is_paused && self.snapshot.as_ref().is_some_and(|run| !run.holds_stream()) {
            self.end_run();
        }
        self.limit_run();
        if is_paused || self.snapshot.is_some() {
            return Ok(());
        }
        self.offset.on_demand.begin_next(&mut self.offset.snapshot);
        let Some(progress) = self.offset.snapshot.as_ref().filter(|progress| !progress.todo.is_empty())
        else {
            return Ok(());
        };
        let position = self.offset.position()?;
        let database = MySql { plan: self.plan.connection.clone(), delivered: (position.gtids, position.at) };
        let SnapshotConfig { chunk_rows, readers, .. } = self.plan.snapshot;
        let settings = Settings { chunk_rows, readers };
        self.snapshot = Some(SnapshotRun::new(database, settings, progress, &self.cx.gauges));
        self.limit_run();
        Ok(())
    }

    /// Drops the snapshot's run; nobody waits for a position any more.
    pub(super) fn end_run(&mut self) {
        self.snapshot = None;
        self.reader.control.want(None);
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
                self.end_run();
                self.offset.on_demand.tidy(&mut self.offset.snapshot);
                return Ok(ControlFlow::Break(()));
            }
            let Some(name) = run.wants(progress) else { return Ok(ControlFlow::Continue(())) };
            let (database, table) = &name;
            let condition = progress.asked.as_ref().map(|asked| asked.condition.as_deref());
            let described = match condition {
                Some(condition) => self.tables.asked(&name, condition, &self.plan).await?.map(Some),
                None => Ok(self.tables.for_snapshot(database, table, &self.plan).await?),
            };
            match described {
                Ok(described) => {
                    if described.is_none() {
                        tracing::warn!(database, table, "the table of the snapshot is gone");
                    }
                    run.describe(progress, described);
                }
                Err(reason) => {
                    self.refuse_asked(&reason);
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A table that was asked for and can't be read is refused; the stream goes on.
    pub(super) fn failed_to_read(&mut self, error: ConnectorError) -> Result<(), ConnectorError> {
        if error.class == Class::Transient || !self.refuse_asked(&Chain(&error).to_string()) {
            return Err(error);
        }
        Ok(())
    }

    /// Refuses the table that is being read, if it was asked for.
    fn refuse_asked(&mut self, reason: &str) -> bool {
        let refused = self.offset.on_demand.refuse_current(&mut self.offset.snapshot, reason);
        if refused {
            tracing::warn!(reason, "a table that was asked for is not read");
            self.end_run();
            self.announce = true;
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
        let at = BinlogPosition::new(self.offset.file.as_str(), self.offset.pos);
        let here = self.heard.then_some(&at);
        let delivered = run.deliver(here, progress)?;
        self.reader.control.want(run.waits_for());
        let Some(delivered) = delivered else { return Ok(None) };
        if let Some(here) = here {
            // On a server where nothing else happens no batch comes to do this.
            snapshot::forget_seen(progress, here);
        }
        self.offset.on_demand.tidy(&mut self.offset.snapshot);
        if self.offset.snapshot.is_none() {
            self.end_run();
        }
        let names = Arc::clone(&self.names);
        let rows = SnapshotRows { delivered, names, at, read_at_us: now_us() };
        Ok(Some(SourceBatch { changes: Box::new(rows), ..self.position_only()? }))
    }
}
