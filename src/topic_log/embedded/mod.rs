//! The embedded log: redb decides, segment files hold.
//!
//! Record bytes go to append-only segment files; what is committed (the log's end, offsets, the index) is one redb
//! transaction, made after the bytes are synced. Bytes behind the end that redb knows never happened, so recovery is
//! redb's, not ours; `open` has the one exception.
//!
//! Reading order: `frame` and `tables` (what is on disk), `segment` and `index` (files and where in them),
//! `open` with `witness` (from what a crash left to a log), `commit` with `group` and `control` (the log
//! thread), `retention`,
//! `shared` (what the thread publishes), `writer`, `reader`, `state`.
//!
//! ```text
//! writer ─ batches, checksums ─► queue ─► log thread: write, fdatasync, redb commit ─► view ─► reader
//!                                                          │                           answers the writer
//!                             <dir>/00000000000067108864.seg, <dir>/state.redb
//! ```

mod commit;
mod config;
mod control;
mod frame;
mod group;
mod index;
mod open;
mod reader;
mod retention;
mod segment;
mod shared;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod witness;
mod writer;

/// For tests/fuzz only.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::frame::fuzz as frame;
}

use std::sync::Arc;

use futures::future::BoxFuture;
use rowstream_api::{SourceOffset, SourceOffsets, SourcePartition, TopicOffsets};

pub use self::config::{EmbeddedConfig, Failpoint, Failpoints};
use self::{
    commit::LogThread,
    reader::EmbeddedReader,
    segment::io_error,
    shared::{Control, Message, Shared},
    state::{EmbeddedState, blocking},
    tables::{Table, check_name, damaged_row, named_key, parse_named_key, partition_key, scan},
    writer::{EmbeddedWriter, source_offset_ops},
};
use super::{
    LogError, LogHealth, LogReader, LogWriter, PartitionDescription, StateStore, TopicDescription,
    TopicFilter, TopicLog,
};

/// A log in a directory of this machine. Dropping it finishes what was appended; [`close`](TopicLog::close) also
/// waits for that.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    state: EmbeddedState,
}

impl EmbeddedLog {
    /// Opens the log, making it when the directory holds none. Recovery runs here, on the blocking pool: tens of
    /// milliseconds after a crash, whatever the log's size.
    ///
    /// # Errors
    /// [`LogError::Locked`] when a process (this one included) holds the directory, [`LogError::Corrupt`] when the
    /// files are not what was written, [`LogError::DiskFull`] and [`LogError::Io`] as they say.
    pub async fn open(config: EmbeddedConfig) -> Result<Arc<Self>, LogError> {
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(config)).await;
        opened.map_err(|e| LogError::State(format!("opening was cut off: {e}")))?
    }

    fn open_blocking(config: EmbeddedConfig) -> Result<Arc<Self>, LogError> {
        if config.partitions_default == 0 || config.queue_bytes == 0 || config.segment_bytes < 64 << 10 {
            return Err(LogError::Refused(
                "the topic log needs at least 1 partition, a queue, and segments of 64 KiB".into(),
            ));
        }
        let lock = open::lock(&config.dir)?;
        let recovered = open::recover(&config)?;
        let (shared, receiver) = Shared::new(config, recovered.id, recovered.db, recovered.view);
        let thread = LogThread::new(Arc::clone(&shared), receiver, recovered.disk, lock);
        std::thread::Builder::new()
            .name("topic-log".into())
            .spawn(move || thread.run())
            .map_err(|e| io_error("start the thread `topic-log`".into(), e))?;
        Ok(Arc::new(Self { state: EmbeddedState(Arc::clone(&shared)), shared }))
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        drop(self.shared.hang_up());
    }
}

impl TopicLog for EmbeddedLog {
    fn id(&self) -> &str {
        &self.shared.id
    }

    fn writer<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn LogWriter>, LogError>> {
        Box::pin(async move {
            check_name("writer id", id)?;
            let open = |reply| Message::Control(Control::OpenWriter { id: id.to_owned(), reply });
            let epoch = self.shared.ask(open).await?;
            let shared = Arc::clone(&self.shared);
            let writer: Box<dyn LogWriter> =
                Box::new(EmbeddedWriter { shared, id: id.into(), epoch, refused: false });
            Ok(writer)
        })
    }

    fn source_offsets<'a>(&'a self, connector: &'a str) -> BoxFuture<'a, Result<SourceOffsets, LogError>> {
        Box::pin(async move {
            check_name("connector name", connector)?;
            let prefix = named_key(connector, b"");
            let rows =
                blocking(&self.shared, move |s| s.with_db(|db| scan(db, Table::SourceOffsets, &prefix)))
                    .await?;
            let rows = rows.into_iter().map(|(key, value)| {
                let partition = parse_named_key(&key).and_then(|(_, p)| String::from_utf8(p.to_vec()).ok());
                let offset = serde_json::from_slice(&value).ok();
                let row = partition.zip(offset).map(|(p, o)| (SourcePartition(p), SourceOffset(o)));
                row.ok_or_else(|| damaged_row(Table::SourceOffsets))
            });
            rows.collect()
        })
    }

    fn replace_source_offsets<'a>(
        &'a self,
        connector: &'a str,
        offsets: SourceOffsets,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            let (ops, connector) = (source_offset_ops(connector, &offsets)?, connector.to_owned());
            let replace = |reply| Message::Control(Control::ReplaceSourceOffsets { connector, ops, reply });
            self.shared.ask(replace).await
        })
    }

    fn reader<'a>(
        &'a self,
        group: &'a str,
        topics: TopicFilter,
    ) -> BoxFuture<'a, Result<Box<dyn LogReader>, LogError>> {
        Box::pin(async move {
            if !group.is_empty() {
                check_name("group", group)?;
                let (group, topics) = (group.to_owned(), topics.clone());
                let register = |reply| Message::Control(Control::Register { group, topics, reply });
                self.shared.ask(register).await?;
            }
            let reader: Box<dyn LogReader> = Box::new(EmbeddedReader::new(Arc::clone(&self.shared), topics));
            Ok(reader)
        })
    }

    fn group_offsets<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<TopicOffsets, LogError>> {
        Box::pin(async move {
            check_name("group", group)?;
            let group = group.to_owned();
            blocking(&self.shared, move |s| s.group_offsets(&group)).await
        })
    }

    fn commit_group_offsets<'a>(
        &'a self,
        group: &'a str,
        offsets: TopicOffsets,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            check_name("group", group)?;
            let ops = offsets.iter().map(|(partition, offset)| {
                let key = self.shared.view().key(partition);
                let key = key.ok_or_else(|| LogError::Refused(format!("{partition} does not exist")))?;
                Ok(Table::GroupOffsets.put(named_key(group, &partition_key(key)), &offset.to_le_bytes()))
            });
            let ops = ops.collect::<Result<Vec<_>, LogError>>()?;
            self.shared.write(ops).await
        })
    }

    fn delete_group<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            check_name("group", group)?;
            let group = group.to_owned();
            self.shared.ask(|reply| Message::Control(Control::DeleteGroup { group, reply })).await
        })
    }

    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicDescription>, LogError>> {
        let view = self.shared.view();
        let topics = view.topics.iter().map(|(id, topic)| TopicDescription {
            name: Arc::clone(&topic.name),
            id: format!("{}-{id}", self.shared.id),
            partitions: topic
                .partitions
                .iter()
                .map(|extent| PartitionDescription {
                    start_offset: extent.start,
                    end_offset: extent.end,
                    bytes: extent.bytes_written.saturating_sub(extent.bytes_retired),
                })
                .collect(),
        });
        let topics = Ok(topics.collect());
        Box::pin(std::future::ready(topics))
    }

    fn state(&self) -> &dyn StateStore {
        &self.state
    }

    fn health(&self) -> LogHealth {
        self.shared.health().clone()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let (reply, closed) = tokio::sync::oneshot::channel();
            // A log that is closed already is what was asked for.
            if self.shared.send(Message::Close(reply)).is_ok() {
                drop(closed.await);
            }
            Ok(())
        })
    }
}
