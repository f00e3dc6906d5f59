//! Segment files: made, walked, cut, punched.
//!
//! A file exists, allocated and synced with its directory, before the database refers to it; so a commit never depends
//! on a name or on space that a crash could take back.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::{fs::FallocateFlags, io::Errno};

use super::frame::{HEADER_BYTES, Header};
use crate::topic_log::LogError;

const WALK_BYTES: usize = 1 << 20;

/// Path of the segment that begins at log position `base`.
pub(super) fn path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.seg"))
}

/// Bases of all segment files of a directory, in order.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, LogError> {
    let attempt = || format!("list {}", dir.display());
    let mut bases = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| io_error(attempt(), e))? {
        let name = entry.map_err(|e| io_error(attempt(), e))?.file_name();
        let base = name.to_str().and_then(|name| name.strip_suffix(".seg")).map(str::parse::<u64>);
        bases.extend(base.and_then(Result::ok));
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Makes the segment at `base`, replacing what a crash left under that name.
pub(super) fn create(dir: &Path, base: u64, bytes: u64) -> Result<File, LogError> {
    let path = path(dir, base);
    remove(&path)?;
    let made = OpenOptions::new().read(true).write(true).create_new(true).open(&path).and_then(|file| {
        allocate(&file, bytes)?;
        file.sync_all()?;
        Ok(file)
    });
    let file = made.map_err(|e| write_error(&format!("make {}", path.display()), e))?;
    sync_dir(dir)?;
    Ok(file)
}

/// Opens an existing segment; `None` when there is no such file.
pub(super) fn open(dir: &Path, base: u64) -> Result<Option<File>, LogError> {
    let path = path(dir, base);
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(format!("open {}", path.display()), error)),
    }
}

/// Reserves space up to `bytes`, so that a later write cannot find the disk full.
pub(super) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // A file system without reservations: writes then find out.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes),
        Err(error) => Err(error.into()),
    }
}

/// Gives the space of `from..from + len` back and leaves the file's size; fine where it is not supported.
pub(super) fn punch(file: &File, from: u64, len: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if len > 0
        && let Err(error) = rustix::fs::fallocate(file, flags, from, len)
    {
        tracing::debug!(%error, "the file system does not give space back inside a file");
    }
}

/// Removes a file if it is there, durably enough: a leftover is removed again at the next open.
pub(super) fn remove(path: &Path) -> Result<(), LogError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(format!("remove {}", path.display()), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Syncs a directory, so that the names in it last.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| io_error(format!("sync {}", dir.display()), e))
}

/// Names an input or output error.
pub(super) fn io_error(attempt: String, source: io::Error) -> LogError {
    LogError::Io { attempt, source }
}

/// As [`io_error`], with a full disk told apart.
pub(super) fn write_error(attempt: &str, error: io::Error) -> LogError {
    if error.kind() == io::ErrorKind::StorageFull {
        LogError::DiskFull { message: format!("{attempt}: {error}") }
    } else {
        io_error(attempt.to_owned(), error)
    }
}

/// Damage at a place of a segment.
pub(super) fn damaged(path: &Path, position: u64, what: &str) -> LogError {
    LogError::Corrupt {
        message: format!(
            "{} at byte {position}: {what}; restore the log's directory whole, from one moment, or re-snapshot into a new one",
            path.display()
        ),
    }
}

/// Reads frame headers one after the other, and bodies where asked.
pub(super) struct Walk<'a> {
    file: &'a File,
    buffer: Vec<u8>,
    buffer_at: u64,
    limit: u64,
}

impl<'a> Walk<'a> {
    /// Over the file's first `limit` bytes.
    pub(super) fn new(file: &'a File, limit: u64) -> Self {
        Self { file, buffer: Vec::new(), buffer_at: 0, limit }
    }

    /// The header at `position`, or what is wrong there.
    pub(super) fn header(&mut self, position: u64) -> io::Result<Result<Header, &'static str>> {
        if position.saturating_add(HEADER_BYTES as u64) > self.limit {
            return Ok(Err("the frame's header is cut short"));
        }
        if self.buffered(position).is_none() {
            let room = usize::try_from(self.limit - position).unwrap_or(usize::MAX);
            self.buffer.resize(room.min(WALK_BYTES), 0);
            self.file.read_exact_at(&mut self.buffer, position)?;
            self.buffer_at = position;
        }
        let header = Header::decode(self.buffered(position).unwrap_or_default());
        Ok(header.and_then(|header| {
            let fits = position.saturating_add(header.frame_bytes()) <= self.limit;
            if fits { Ok(header) } else { Err("the frame ends behind the end of the log") }
        }))
    }

    fn buffered(&self, position: u64) -> Option<&[u8]> {
        let at = usize::try_from(position.checked_sub(self.buffer_at)?).ok()?;
        self.buffer.get(at..at.checked_add(HEADER_BYTES)?)
    }

    /// The body behind the header at `position`; `None` when it does not meet its checksum.
    pub(super) fn body(&self, header: &Header, position: u64) -> io::Result<Option<Vec<u8>>> {
        let mut body = vec![0; header.len as usize];
        self.file.read_exact_at(&mut body, position + HEADER_BYTES as u64)?;
        Ok((crc32c::crc32c(&body) == header.body_crc).then_some(body))
    }
}
