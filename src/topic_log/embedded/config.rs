//! What the embedded log is told: where it lives, how large its files are, how long it keeps them.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

/// Settings of an [`EmbeddedLog`](super::EmbeddedLog).
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Directory of the log, usually `<data_dir>/log`. Made when it is missing; one process at a time.
    pub dir: PathBuf,
    /// Partitions of a topic made without being asked for more.
    pub partitions_default: u32,
    /// Size of a segment file. A group larger than this gets a segment of its own size.
    pub segment_bytes: u64,
    /// Longest wait for more groups to share a commit; only while bytes flow fast.
    pub commit_interval: Duration,
    /// A segment whose youngest record is older than this may go, once every group has read it.
    pub retention_ms: Option<u64>,
    /// A segment may go when each of its partitions holds at least this many younger bytes, once every group has
    /// read it. Counted per partition, as Kafka does.
    pub retention_bytes: Option<u64>,
    /// Bytes of groups that may wait for commit, over all writers.
    pub queue_bytes: u32,
    /// How often retention looks, and how soon a full disk is looked at again (a tenth of it).
    pub retention_interval: Duration,
    /// For tests: called at each named point.
    pub failpoints: Failpoints,
}

impl EmbeddedConfig {
    /// The defaults for a log in `dir`: nothing is retired until a retention limit is set.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            partitions_default: 1,
            segment_bytes: 64 << 20,
            commit_interval: Duration::from_millis(10),
            retention_ms: None,
            retention_bytes: None,
            queue_bytes: 16 << 20,
            retention_interval: Duration::from_secs(10),
            failpoints: Failpoints::default(),
        }
    }
}

/// A place where a test may make the log fail or look at its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// Free space is about to be asked for; an error counts as a full disk.
    FreeSpace,
    /// A segment file is about to be made.
    SegmentCreate,
    /// A new segment exists, the database does not yet know it.
    Sealing,
    /// A group is about to be written.
    SegmentWrite,
    /// A group is written and not synced.
    SegmentWritten,
    /// A group is synced, the database does not know it.
    SegmentSynced,
    /// The database has committed, nobody was told.
    StateCommitted,
    /// Retention is committed, the files are still there.
    Retired,
    /// Recovery has rolled a group forward or found nothing, and is about to commit.
    Recovered,
}

type Hook = dyn Fn(Failpoint) -> io::Result<()> + Send + Sync;

/// Inert unless a test supplies a function.
#[derive(Clone, Default)]
pub struct Failpoints(Option<Arc<Hook>>);

impl Failpoints {
    /// Calls `hook` at each point; its error is taken for the operation's own.
    pub fn new(hook: impl Fn(Failpoint) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }
    pub(super) fn hit(&self, point: Failpoint) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook(point))
    }
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "armed" } else { "none" })
    }
}
