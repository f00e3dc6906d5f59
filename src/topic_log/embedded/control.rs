//! Changes that look at the state before they change it, each a commit of its own: opening writers, making topics,
//! replacing source offsets, registering and deleting groups.

use std::sync::Arc;

use super::{
    commit::{LogThread, answer},
    frame::Op,
    shared::Control,
    tables::{Table, extent_value, named_key, partition_key, scan},
};
use crate::topic_log::{LogError, TopicFilter};

impl LogThread {
    pub(super) fn control(&mut self, control: Control) {
        match control {
            Control::OpenWriter { id, reply } => answer(reply, self.open_writer(&id)),
            Control::CreateTopic { name, reply } => answer(reply, self.create_topic(&name)),
            Control::ReplaceSourceOffsets { connector, ops, reply } => {
                answer(reply, self.replace(Table::SourceOffsets, &named_key(&connector, b""), ops));
            }
            Control::Register { group, topics, reply } => answer(reply, self.register(&group, topics)),
            Control::DeleteGroup { group, reply } => answer(reply, self.delete_group(&group)),
        }
    }

    fn commit_or_reopen(&mut self, ops: &[Op]) -> Result<(), LogError> {
        if let Some(error) = self.broken() {
            return Err(error);
        }
        self.commit_state(ops).inspect_err(|_| self.reopen())
    }

    /// One epoch more: groups of the epochs before are turned away from now on.
    fn open_writer(&mut self, id: &str) -> Result<u64, LogError> {
        let epoch = self.disk.writers.get(id).copied().unwrap_or(0) + 1;
        self.commit_or_reopen(&[Table::Writers.put(id, &epoch.to_le_bytes())])?;
        self.disk.writers.insert(id.to_owned(), epoch);
        self.absolve(id);
        Ok(epoch)
    }

    /// The number of partitions of a topic that now exists.
    fn create_topic(&mut self, name: &str) -> Result<u32, LogError> {
        let existing = {
            let view = self.shared.view();
            let topic = view.ids.get(name).and_then(|id| view.topics.get(id));
            topic.map(|t| u32::try_from(t.partitions.len()).unwrap_or(u32::MAX))
        };
        if let Some(partitions) = existing {
            return Ok(partitions);
        }
        let partitions = self.shared.config.partitions_default;
        let id = self.shared.view().topics.keys().next_back().map_or(1, |last| last + 1);
        let row = [id.to_le_bytes(), partitions.to_le_bytes()].concat();
        let mut ops = vec![Table::Topics.put(name, &row)];
        for partition in 0..partitions {
            ops.push(Table::Ends.put(partition_key((id, partition)), &extent_value(0, 0)));
        }
        self.commit_or_reopen(&ops)?;
        self.shared.publish(|view| view.add_topic(id, Arc::from(name), partitions));
        Ok(partitions)
    }

    /// Removes every row under `prefix`, then applies `ops`, together.
    fn replace(&mut self, table: Table, prefix: &[u8], ops: Vec<Op>) -> Result<(), LogError> {
        let old = self.shared.with_db(|db| scan(db, table, prefix))?;
        let deletes = old.into_iter().map(|(key, _)| table.delete(key));
        self.commit_or_reopen(&deletes.chain(ops).collect::<Vec<_>>())
    }

    /// Remembers what a group reads, durably: retention keeps it until the group has read it.
    fn register(&mut self, group: &str, topics: TopicFilter) -> Result<(), LogError> {
        // Its readers may share the partitions; the group reads them all.
        let topics = topics.share(0, 1);
        if self.disk.groups.get(group) == Some(&topics) {
            return Ok(());
        }
        let patterns = serde_json::to_vec(topics.patterns())
            .map_err(|e| LogError::State(format!("topic patterns: {e}")))?;
        self.commit_or_reopen(&[Table::Groups.put(group, &patterns)])?;
        self.disk.groups.insert(group.to_owned(), topics);
        Ok(())
    }

    fn delete_group(&mut self, group: &str) -> Result<(), LogError> {
        self.replace(Table::GroupOffsets, &named_key(group, b""), vec![Table::Groups.delete(group)])?;
        self.disk.groups.remove(group);
        Ok(())
    }
}
