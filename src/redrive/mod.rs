//! Dead letters, looked at and brought back.
//!
//! **Where they go.** A letter of a sink goes to that sink alone: the topic it came from is read by other sinks, too, which had no trouble
//! with it, and would get it twice. So it goes to the sink's own redrive topic ([`redrive_topic`]), which the sink reads beside its others and
//! takes for the topic that the record came from: transforms, table and all. Its position there is kept as that of any topic, so a database gets it
//! exactly once. `to_topic` sends it to the topic it came from instead, for every reader. A letter of a source goes through the source's
//! transforms as they are *now*, and to the topic that they say: that is what it was meant for.
//!
//! **Once.** Which letters were redriven is kept in the log as source offsets of `redrive/CONNECTOR`, and committed in the same group as
//! the records: both or neither. Opening the writer fences an older redrive of the same connector before its memory is read, so two at a
//! time can't both write a letter. When a commit's outcome is unknown nothing is guessed: asking again reads the memory again.
//!
//! **Twice in the topic.** A crash between writing a letter and moving on writes it again. Of a sink's letters the second names the same
//! place, and is left alone; a source's has none, so two letters of one change are two.
//!
//! **Late.** A redriven record comes after everything that came meanwhile. An upsert of an old row overwrites a newer one until that row
//! changes again: whether that is wanted is for the operator to say, which is why letters can be chosen one by one.
//!
//! **What can't be.** A change that never became a record has no value to bring back (its letter says why); its row can be read again by a
//! snapshot.

pub mod letter;
mod memory;
mod scan;
mod source;
pub mod survey;

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rowstream_api::{ConnectorError, TopicPartition};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    pipeline::{
        chain::ChainPlan,
        group::{Record, RecordGroup},
        partition::partition_of,
    },
    registry::PluginKind,
    schema_registry::{SchemaRegistry, SubjectStrategy},
    task::{commit_failure, log_failure},
    topic_log::{LogWriter, RecordRef, TopicLog, WriteGroup, batch::Header},
};
use letter::{Place, REDRIVEN_HEADER, Reason, Redriven, Selection};
pub use memory::Memory;
pub use scan::Scan;
use source::Through;

/// Begins the name of every redrive topic. No pattern of a sink matches one that does not begin so.
pub const REDRIVE_PREFIX: &str = "rowstream.redrive.";

/// Records of one write group.
const GROUP_BYTES: usize = 1 << 20;
const GROUP_LETTERS: u64 = 10_000;
/// A letter that was written twice has its double near: what was met longer ago than this may be forgotten.
const MET_MAX: usize = 1 << 20;
/// One call ends here and says so; what it did is remembered, and the next goes on.
const CALL_WITHIN: Duration = Duration::from_secs(45);

/// The topic by which a sink gets its letters back.
#[must_use]
pub fn redrive_topic(connector: &str) -> String {
    format!("{REDRIVE_PREFIX}{connector}")
}

/// What the redriving of a connector's letters needs to know of it.
pub struct Connector {
    /// Its name.
    pub name: String,
    /// Source or sink.
    pub kind: PluginKind,
    /// Its dead letter topic.
    pub dead_letter_topic: String,
    /// A source's transforms, as they are now.
    pub transforms: ChainPlan,
    /// How its subjects are named.
    pub subjects: SubjectStrategy,
}

/// Which letters, and where to.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which.
    pub selection: Selection,
    /// To the topic they came from, instead of to the sink that refused them.
    pub to_topic: bool,
    /// Most letters.
    pub limit: Option<u64>,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Letters redriven, durably.
    pub redriven: u64,
    /// Among them, those that a source's transforms drop now.
    pub dropped: u64,
    /// Letters that had been redriven before.
    pub before: u64,
    /// Letters that a crash had written twice.
    pub doubles: u64,
    /// Letters that can't be redriven, by the reason.
    pub left: BTreeMap<String, u64>,
    /// There may be more: this call's time was over.
    pub more: bool,
}

/// Redrives letters of a connector; what is reported is durable.
///
/// # Errors
/// The log or the registry could not be used; what earlier groups did is done, and remembered.
pub async fn redrive(
    log: &Arc<dyn TopicLog>,
    registry: &Arc<dyn SchemaRegistry>,
    connector: &Connector,
    wanted: &Wanted,
) -> Result<Done, ConnectorError> {
    let mut done = Done::default();
    let topic = &connector.dead_letter_topic;
    let Some(mut scan) = Scan::of(log, topic, wanted.selection.partition).await? else { return Ok(done) };
    let attempt = || format!("redrive dead letters of `{}`", connector.name);
    // In this order: no older redrive can change the memory once it is read.
    let writer = log.writer(&format!("{}-redrive", connector.name)).await;
    let writer = writer.map_err(|e| log_failure(&attempt(), e))?;
    let memory = Memory::load(log, &connector.name, topic, scan.topic_id()).await?;
    let through = match connector.kind {
        PluginKind::Source => Some(Through::new(connector, registry)?),
        PluginKind::Sink => None,
    };
    let mut run = Run {
        connector,
        wanted,
        writer,
        memory,
        through,
        group: RecordGroup::default(),
        pending: Done::default(),
        met: HashSet::new(),
    };
    let until = Instant::now() + CALL_WITHIN;
    while let Some(batch) = scan.next().await? {
        let partition = batch.partition.partition;
        run.memory.passed(partition, batch.base_offset, batch.base_offset);
        let records = batch.records.records().map_err(|e| log_failure("read the topic log", e))?;
        for (offset, record) in (batch.base_offset..scan.end_of(partition)).zip(records) {
            if wanted.limit.is_some_and(|limit| done.redriven + run.pending.redriven >= limit) {
                run.commit(&mut done).await?;
                return Ok(done);
            }
            run.letter(Place { partition, offset }, &record).await?;
            if run.group.bytes() >= GROUP_BYTES || run.pending.redriven >= GROUP_LETTERS {
                run.commit(&mut done).await?;
            }
        }
        if Instant::now() >= until {
            done.more = true;
            break;
        }
    }
    run.commit(&mut done).await?;
    Ok(done)
}

struct Run<'a> {
    connector: &'a Connector,
    wanted: &'a Wanted,
    writer: Box<dyn LogWriter>,
    memory: Memory,
    /// A source's way.
    through: Option<Through>,
    group: RecordGroup,
    /// What the group in hand does.
    pending: Done,
    /// Records whose letters were met, by a hash of the place they had.
    met: HashSet<u64>,
}

impl Run<'_> {
    async fn letter(&mut self, place: Place, record: &RecordRef) -> Result<(), ConnectorError> {
        let headers = || record.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let Some(reason) = Reason::of(headers()).filter(|r| r.connector == self.connector.name) else {
            self.memory.passed(place.partition, place.offset, place.offset + 1);
            return Ok(());
        };
        let double = !self.is_new(&reason, record);
        if !self.wanted.selection.has(place, &reason) {
            return Ok(());
        }
        if self.memory.holds(place) {
            self.pending.before += 1;
            return Ok(());
        }
        if double {
            self.pending.doubles += 1;
            return Ok(());
        }
        if let Some(why) = reason.unfit(self.connector.kind, record.value.is_some()) {
            *self.pending.left.entry(why.to_owned()).or_default() += 1;
            return Ok(());
        }
        let header = Redriven {
            dead_letters: self.connector.dead_letter_topic.clone(),
            dead_letter_partition: place.partition,
            dead_letter_offset: place.offset,
            topic: reason.topic.clone(),
            partition: reason.partition,
            offset: reason.offset,
        };
        let redriven = json!(header).to_string().into_bytes();
        let mut kept: Vec<(Bytes, Bytes)> = record.headers.clone();
        kept.retain(|(name, _)| letter::is_kept(name));
        kept.push((Bytes::from_static(REDRIVEN_HEADER.as_bytes()), redriven.into()));
        let record = RecordRef { headers: kept, ..record.clone() };
        match &mut self.through {
            Some(through) => {
                match through.push(&reason.topic, record, self.writer.as_mut(), &mut self.group).await? {
                    Ok(0) => self.pending.dropped += 1,
                    Ok(_) => {}
                    Err(refused) => {
                        let why = format!("{}: {}", refused.code, refused.message);
                        *self.pending.left.entry(why).or_default() += 1;
                        return Ok(());
                    }
                }
            }
            None => self.push(&reason, &record).await?,
        }
        self.memory.add(place)?;
        self.pending.redriven += 1;
        Ok(())
    }

    /// Whether no letter of this record was met before; one that was redriven and failed again is another.
    fn is_new(&mut self, reason: &Reason, record: &RecordRef) -> bool {
        let (Some(partition), Some(offset)) = (reason.partition, reason.offset) else { return true };
        if self.met.len() >= MET_MAX {
            self.met.clear();
        }
        let again = record.headers.iter().find(|(name, _)| name.as_ref() == REDRIVEN_HEADER.as_bytes());
        let mut hasher = DefaultHasher::new();
        (&reason.topic, partition, offset, again.map(|(_, value)| value)).hash(&mut hasher);
        self.met.insert(hasher.finish())
    }

    /// A sink's way: as it stood in its topic.
    async fn push(&mut self, reason: &Reason, record: &RecordRef) -> Result<(), ConnectorError> {
        let own = redrive_topic(&self.connector.name);
        let topic = if self.wanted.to_topic { reason.topic.as_str() } else { own.as_str() };
        let count = self.writer.partitions(topic).await;
        let count = count.map_err(|e| log_failure(&format!("write to topic `{topic}`"), e))?;
        let by_key = || partition_of(record.key.as_deref(), count);
        let number = reason.partition.filter(|n| self.wanted.to_topic && *n < count).unwrap_or_else(by_key);
        let headers: Vec<Header<'_>> = record
            .headers
            .iter()
            .filter_map(|(name, value)| Some((std::str::from_utf8(name).ok()?, value.as_ref())))
            .collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let record = Record { timestamp_ms: record.timestamp_ms, key, value, headers: &headers };
        self.group.push(&TopicPartition::new(topic, number), &record, &[]);
        Ok(())
    }

    /// Makes durable what is in hand, records and memory in one group.
    async fn commit(&mut self, done: &mut Done) -> Result<(), ConnectorError> {
        let pending = std::mem::take(&mut self.pending);
        if pending.redriven > 0 {
            let group = WriteGroup {
                batches: std::mem::take(&mut self.group).into_batches(),
                source_offsets: Some((memory::name_of(&self.connector.name), self.memory.to_offsets())),
            };
            let outcome = match self.writer.append(group).await {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            let attempt = format!(
                "redrive dead letters of `{}` ({} are done; ask again for the others: none is written twice)",
                self.connector.name, done.redriven
            );
            outcome.map_err(|e| commit_failure(&attempt, e))?;
        }
        done.redriven += pending.redriven;
        done.dropped += pending.dropped;
        done.before += pending.before;
        done.doubles += pending.doubles;
        for (why, letters) in pending.left {
            *done.left.entry(why).or_default() += letters;
        }
        Ok(())
    }
}
