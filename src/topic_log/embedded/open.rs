//! Opening: from whatever a crash left to a log that may be served.
//!
//! The database decides what is committed; segment bytes behind its `end` never happened. One exception, the second
//! witness: a whole group behind `end`, closed by the commit frame that follows the last one the database knows, was
//! fsynced and is rolled forward (the process died between the two syncs). If one more follows, the database has lost
//! commits or is an old copy, and the log is refused. Nothing is served before the segment is cut and synced and the
//! database has committed once more: what a kill left in the page cache must not be read and then lost to a power cut.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions},
    io::{Read, Seek, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use super::{
    config::{EmbeddedConfig, Failpoint},
    frame::{Cursor, Kind},
    index::{Index, SegmentExtent},
    segment::{self, Walk, damaged, io_error},
    shared::View,
    tables::{self, Table, damaged_row, meta, parse_extent, parse_partition_key, scan},
    witness::second_witness,
};
use crate::topic_log::{LogError, TopicFilter};

const FORMAT: u64 = 1;
const RESERVE_BYTES: u64 = 16 << 20;
/// redb's page cache. The state is small and mostly written.
const CACHE_BYTES: usize = 4 << 20;

/// What the log thread owns.
pub(super) struct Disk {
    pub(super) base: u64,
    pub(super) file: Arc<File>,
    /// Bytes reserved in the active segment.
    pub(super) capacity: u64,
    pub(super) end: u64,
    pub(super) commit_no: u64,
    /// Sealed segments by base: end and youngest record.
    pub(super) sealed: BTreeMap<u64, (u64, i64)>,
    /// Writer id → epoch.
    pub(super) writers: HashMap<String, u64>,
    pub(super) groups: BTreeMap<String, TopicFilter>,
}

/// A log that may be served.
pub(super) struct Recovered {
    pub(super) id: String,
    pub(super) db: redb::Database,
    pub(super) view: View,
    pub(super) disk: Disk,
}

/// Holds the directory for this process until it is dropped.
pub(super) struct DirLock {
    _file: File,
}

/// Makes the directory when it is missing, and takes it.
pub(super) fn lock(dir: &Path) -> Result<DirLock, LogError> {
    std::fs::create_dir_all(dir).map_err(|e| io_error(format!("make {}", dir.display()), e))?;
    let path = dir.join("lock");
    let attempt = |e| io_error(format!("lock {}", path.display()), e);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(attempt)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let holder = match file.read_to_string(&mut pid) {
                Ok(_) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
                Ok(_) | Err(_) => "another process".to_owned(),
            };
            return Err(locked(dir, &holder));
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(attempt(error)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
        .map_err(attempt)?;
    Ok(DirLock { _file: file })
}

fn locked(dir: &Path, holder: &str) -> LogError {
    LogError::Locked {
        message: format!(
            "the topic log in {} is in use by {holder}; stop it, or give this worker another data_dir",
            dir.display()
        ),
    }
}

/// Opens, repairs and makes durable. The caller holds the directory's lock.
pub(super) fn recover(config: &EmbeddedConfig) -> Result<Recovered, LogError> {
    let dir = &config.dir;
    if !dir.join("state.redb").exists() {
        create(config)?;
    }
    let (db, stored) = guarded(dir, || {
        let db = open_db(dir)?;
        let stored = Stored::load(&db, dir)?;
        Ok((db, stored))
    })?;
    stored.check_files(dir)?;
    let Active { file, mut index } = open_active(dir, &stored)?;
    let found = second_witness(dir, stored.numbers, &file)?;
    let Stored { mut numbers, id, mut disk_parts, .. } = stored;
    let (mut base, mut end) = (numbers.base, numbers.end);
    let mut file = file;
    let mut ops = Vec::new();
    if let Some(group) = found {
        tracing::info!(
            commit = group.body.commit_no,
            "rolled a synced group forward into the state database"
        );
        if let Some(next) = group.next_file {
            ops.extend(index.seal(base, end));
            disk_parts.sealed.insert(base, (end, index.max_timestamp_ms));
            (base, file, index) = (end, next, Index::default());
        }
        file.sync_data().map_err(|e| io_error(format!("sync {}", segment::path(dir, base).display()), e))?;
        for (header, position) in &group.batches {
            if !index.add(header, *position) {
                return Err(damaged(
                    &segment::path(dir, base),
                    *position,
                    "a batch does not follow the one before",
                ));
            }
        }
        end = base + group.end;
        numbers.commit_no = group.body.commit_no;
        ops.extend(group.body.ops);
    }
    let path = segment::path(dir, base);
    file.set_len(end - base).map_err(|e| io_error(format!("cut {}", path.display()), e))?;
    let wanted = config.segment_bytes.max(end - base);
    // Without room the log still opens, for its readers; writers wait for room anyway.
    let capacity = segment::allocate(&file, wanted).map_or(end - base, |()| wanted);
    file.sync_all().map_err(|e| io_error(format!("sync {}", path.display()), e))?;
    segment::sync_dir(dir)?;
    hit(config, Failpoint::Recovered)?;
    ops.extend([meta("end", end), meta("commit_no", numbers.commit_no), meta("opens", numbers.opens + 1)]);
    tables::commit(&db, &ops)?;
    remove_leftovers(dir, base, &disk_parts.sealed)?;
    keep_reserve(dir);
    let file = Arc::new(file);
    let disk = Disk {
        base,
        file: Arc::clone(&file),
        capacity,
        end,
        commit_no: numbers.commit_no,
        sealed: disk_parts.sealed,
        writers: disk_parts.writers,
        groups: disk_parts.groups,
    };
    // Read again: a group rolled forward has changed it.
    let view = load_view(&db, base, file, index)?;
    Ok(Recovered { id, db, view, disk })
}

fn hit(config: &EmbeddedConfig, point: Failpoint) -> Result<(), LogError> {
    config.failpoints.hit(point).map_err(|e| io_error(format!("{point:?}"), e))
}

/// A flipped byte has been seen to panic inside redb; here that is damage like any other.
fn guarded<T>(dir: &Path, open: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(unreadable(dir, "redb panicked")))
}

fn unreadable(dir: &Path, what: &str) -> LogError {
    LogError::Corrupt {
        message: format!(
            "{} does not read ({what}); restore the log's directory whole, from one moment, or re-snapshot into a new one",
            dir.join("state.redb").display()
        ),
    }
}

/// A new log: made under another name, so that a `state.redb` that exists is a whole one.
fn create(config: &EmbeddedConfig) -> Result<(), LogError> {
    let dir = &config.dir;
    for base in segment::list(dir)? {
        let file = segment::open(dir, base)?;
        let mut head = [0u8; super::frame::HEADER_BYTES];
        let read = file.map_or(Ok(0), |mut file| file.read(&mut head));
        let read = read.map_err(|e| io_error(format!("read {}", segment::path(dir, base).display()), e))?;
        if base > 0 || (read > 0 && head.iter().any(|&b| b != 0)) {
            return Err(LogError::Corrupt {
                message: format!(
                    "{} is missing but {} is there; put the state.redb of the same moment back",
                    dir.join("state.redb").display(),
                    segment::path(dir, base).display()
                ),
            });
        }
    }
    segment::create(dir, 0, config.segment_bytes)?;
    let mut id = [0u8; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut id))
        .map_err(|e| io_error("read /dev/urandom".into(), e))?;
    let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
    let new = dir.join("state.redb.new");
    segment::remove(&new)?;
    let db = builder().create(&new).map_err(tables::state_error)?;
    let mut ops = vec![Table::Meta.put("id", id.as_bytes()), meta("format", FORMAT)];
    ops.extend(["end", "active", "commit_no", "opens"].map(|name| meta(name, 0)));
    tables::commit(&db, &ops)?;
    drop(db);
    let path = dir.join("state.redb");
    std::fs::rename(&new, &path).map_err(|e| io_error(format!("make {}", path.display()), e))?;
    segment::sync_dir(dir)
}

fn builder() -> redb::Builder {
    let mut builder = redb::Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn open_db(dir: &Path) -> Result<redb::Database, LogError> {
    let path = dir.join("state.redb");
    let open = || {
        builder().open(&path).map_err(|error| {
            if matches!(error, redb::DatabaseError::DatabaseAlreadyOpen) {
                locked(dir, "another process")
            } else {
                not_read(dir, tables::state_error(error))
            }
        })
    };
    let mut db = open()?;
    let clean = db.check_integrity().map_err(|e| not_read(dir, tables::state_error(e)))?;
    if clean {
        return Ok(db);
    }
    tracing::warn!(path = %path.display(), "the state database was repaired after a crash");
    drop(db);
    open()
}

/// What redb says about a file it cannot open is damage, unless the disk itself answers.
fn not_read(dir: &Path, error: LogError) -> LogError {
    match error {
        LogError::State(message) => unreadable(dir, &message),
        LogError::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
            unreadable(dir, &source.to_string())
        }
        LogError::Locked { .. }
        | LogError::Corrupt { .. }
        | LogError::DiskFull { .. }
        | LogError::Io { .. }
        | LogError::OffsetOutOfRange { .. }
        | LogError::Refused(_)
        | LogError::Closed => error,
    }
}

/// What the database says.
struct Stored {
    id: String,
    numbers: Numbers,
    ends: BTreeMap<tables::PartitionKey, i64>,
    disk_parts: DiskParts,
}

#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) base: u64,
    pub(super) end: u64,
    pub(super) commit_no: u64,
    pub(super) opens: u64,
}

struct DiskParts {
    sealed: BTreeMap<u64, (u64, i64)>,
    writers: HashMap<String, u64>,
    groups: BTreeMap<String, TopicFilter>,
}

impl Stored {
    fn load(db: &redb::Database, dir: &Path) -> Result<Self, LogError> {
        let numbers = tables::meta_numbers(db)?;
        let number =
            |name| numbers.get(name).copied().ok_or_else(|| unreadable(dir, "its `meta` is not whole"));
        if number("format")? != FORMAT {
            return Err(LogError::Refused(format!(
                "the topic log in {} has format {}, this program knows {FORMAT}: run the program that wrote it",
                dir.display(),
                number("format")?
            )));
        }
        let id = tables::get(db, Table::Meta, b"id")?.and_then(|id| String::from_utf8(id).ok());
        let id = id.ok_or_else(|| unreadable(dir, "its `meta` is not whole"))?;
        let mut ends = BTreeMap::new();
        for (key, value) in scan(db, Table::Ends, b"")? {
            let row = parse_partition_key(&key).zip(parse_extent(&value));
            let (key, (end, _)) = row.ok_or_else(|| damaged_row(Table::Ends))?;
            ends.insert(key, end);
        }
        let numbers = Numbers {
            base: number("active")?,
            end: number("end")?,
            commit_no: number("commit_no")?,
            opens: number("opens")?,
        };
        if numbers.end < numbers.base {
            return Err(unreadable(dir, "its log ends before the active segment begins"));
        }
        Ok(Self { id, numbers, ends, disk_parts: DiskParts::load(db)? })
    }

    /// Each file the database needs is there and long enough, and there is none it cannot explain.
    fn check_files(&self, dir: &Path) -> Result<(), LogError> {
        for (&base, &(end, _)) in &self.disk_parts.sealed {
            let path = segment::path(dir, base);
            let bytes = std::fs::metadata(&path).map(|m| m.len());
            let bytes = bytes.map_err(|e| {
                if e.kind() == std::io::ErrorKind::NotFound {
                    damaged(&path, 0, "the file is missing")
                } else {
                    io_error(format!("look at {}", path.display()), e)
                }
            })?;
            if bytes < end - base {
                return Err(damaged(&path, bytes, "the file is cut short"));
            }
        }
        match segment::list(dir)?.last() {
            Some(&last) if last > self.numbers.end => Err(LogError::Corrupt {
                message: format!(
                    "{} begins behind the end of the log ({}): state.redb is older than the segments; put the \
                     directory of one moment back",
                    segment::path(dir, last).display(),
                    self.numbers.end
                ),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

impl DiskParts {
    fn load(db: &redb::Database) -> Result<Self, LogError> {
        let mut parts = Self { sealed: BTreeMap::new(), writers: HashMap::new(), groups: BTreeMap::new() };
        for (key, value) in scan(db, Table::Segments, b"")? {
            let (base, extent) = SegmentExtent::parse(&key, &value)?;
            parts.sealed.insert(base, (extent.end, extent.max_timestamp_ms));
        }
        for (key, value) in scan(db, Table::Writers, b"")? {
            let id = String::from_utf8(key).map_err(|_| damaged_row(Table::Writers))?;
            let epoch = Cursor(&value).u64().ok_or_else(|| damaged_row(Table::Writers))?;
            parts.writers.insert(id, epoch);
        }
        for (key, value) in scan(db, Table::Groups, b"")? {
            let group = String::from_utf8(key).map_err(|_| damaged_row(Table::Groups))?;
            let patterns: Vec<String> =
                serde_json::from_slice(&value).map_err(|_| damaged_row(Table::Groups))?;
            parts.groups.insert(group, TopicFilter::new(patterns));
        }
        Ok(parts)
    }
}

fn load_view(db: &redb::Database, base: u64, file: Arc<File>, index: Index) -> Result<View, LogError> {
    let mut view = View { topics: BTreeMap::new(), ids: HashMap::new(), base, file, index };
    for (name, value) in scan(db, Table::Topics, b"")? {
        let name = String::from_utf8(name).map_err(|_| damaged_row(Table::Topics))?;
        let mut cursor = Cursor(&value);
        let row = cursor.u32().zip(cursor.u32());
        let (id, partitions) = row.ok_or_else(|| damaged_row(Table::Topics))?;
        view.add_topic(id, name.into(), partitions);
    }
    for table in [Table::Ends, Table::Starts] {
        for (key, value) in scan(db, table, b"")? {
            let row = parse_partition_key(&key).zip(parse_extent(&value));
            let (key, (offset, bytes)) = row.ok_or_else(|| damaged_row(table))?;
            let extent = view.extent_mut(key).ok_or_else(|| damaged_row(table))?;
            if table == Table::Ends {
                (extent.end, extent.bytes_written) = (offset, bytes);
            } else {
                (extent.start, extent.bytes_retired) = (offset, bytes);
            }
        }
    }
    Ok(view)
}

struct Active {
    file: File,
    index: Index,
}

/// Opens the active segment and walks its headers up to `end`: each must be whole, and together they meet `ends`.
fn open_active(dir: &Path, stored: &Stored) -> Result<Active, LogError> {
    let Numbers { base, end, commit_no, .. } = stored.numbers;
    let path = segment::path(dir, base);
    let file = segment::open(dir, base)?.ok_or_else(|| damaged(&path, 0, "the file is missing"))?;
    let read_error = |e| io_error(format!("read {}", path.display()), e);
    let bytes = file.metadata().map_err(read_error)?.len();
    if bytes < end - base {
        return Err(damaged(&path, bytes, "the file is shorter than what was committed to it"));
    }
    let (mut position, mut index, mut last_commit) = (0, Index::default(), None);
    let mut walk = Walk::new(&file, end - base);
    while position < end - base {
        let header =
            walk.header(position).map_err(read_error)?.map_err(|what| damaged(&path, position, what))?;
        match header.kind {
            Kind::Commit => last_commit = Some(header.base_offset.cast_unsigned()),
            Kind::Batch if index.add(&header, position) => {}
            Kind::Batch => return Err(damaged(&path, position, "a batch does not follow the one before")),
        }
        position += header.frame_bytes();
    }
    if last_commit.is_some_and(|last| last != commit_no) || (last_commit.is_none() && position > 0) {
        return Err(damaged(&path, position, "the last group is not the one that state.redb names"));
    }
    for (key, partition) in &index.partitions {
        if stored.ends.get(key) != Some(&partition.next) {
            return Err(damaged(&path, position, "the batches do not end where state.redb says"));
        }
    }
    Ok(Active { file, index })
}

/// Removes files that the database does not name, and cuts sealed ones that a crash left long.
fn remove_leftovers(dir: &Path, active: u64, sealed: &BTreeMap<u64, (u64, i64)>) -> Result<(), LogError> {
    for base in segment::list(dir)?.into_iter().filter(|&base| base != active) {
        match sealed.get(&base) {
            None => segment::remove(&segment::path(dir, base))?,
            Some(&(end, _)) => cut(dir, base, end),
        }
    }
    Ok(())
}

/// Gives back what a sealed segment reserved and does not need; only space is at stake, so failure is only logged.
pub(super) fn cut(dir: &Path, base: u64, end: u64) {
    let path = segment::path(dir, base);
    let cut = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| if file.metadata()?.len() > end - base { file.set_len(end - base) } else { Ok(()) });
    if let Err(error) = cut {
        tracing::warn!(path = %path.display(), %error, "could not cut a sealed segment to its size");
    }
}

/// Keeps 16 MiB aside for the moment redb meets a full disk. Does without when there is no room now.
pub(super) fn keep_reserve(dir: &Path) {
    let path = dir.join("reserve");
    if path.exists() {
        return;
    }
    let made = OpenOptions::new().write(true).create_new(true).open(&path);
    if let Err(error) = made.and_then(|file| segment::allocate(&file, RESERVE_BYTES)) {
        tracing::debug!(%error, "no room for the reserve");
        if let Err(error) = segment::remove(&path) {
            tracing::debug!(%error, "could not remove the unfinished reserve");
        }
    }
}
