//! The second witness: a whole group behind the end that the database knows.
//!
//! It is whole when every frame from the end on meets its checksums up to a commit frame that names this very place. It
//! is rolled forward when its number is the next one and no other group follows; a further group proves that the
//! database lost commits, because a group is never begun before the one before it was committed.

use std::{fs::File, path::Path};

use super::{
    frame::{CommitBody, Header, Kind},
    open::Numbers,
    segment::{self, Walk, io_error},
};
use crate::topic_log::LogError;

/// A whole group behind the end.
pub(super) struct Group {
    pub(super) body: CommitBody,
    pub(super) batches: Vec<(Header, u64)>,
    /// Place in the file behind its commit frame.
    pub(super) end: u64,
    /// Set when it is the first of the next segment.
    pub(super) next_file: Option<File>,
}

/// Looks behind `end`, in the active segment and then in the next.
pub(super) fn second_witness(dir: &Path, numbers: Numbers, active: &File) -> Result<Option<Group>, LogError> {
    let Numbers { base, end, commit_no, .. } = numbers;
    let in_active = Spot { dir, base, commit_no, file: active };
    if let Some(group) = in_active.only_group(end - base)? {
        return Ok(Some(group));
    }
    if end == base {
        return Ok(None);
    }
    let Some(next) = segment::open(dir, end)? else { return Ok(None) };
    let group = Spot { dir, base: end, commit_no, file: &next }.only_group(0)?;
    Ok(group.map(|group| Group { next_file: Some(next), ..group }))
}

struct Spot<'a> {
    dir: &'a Path,
    base: u64,
    commit_no: u64,
    file: &'a File,
}

impl Spot<'_> {
    /// The group at `position`, when it is the one that follows; refuses when another follows it.
    fn only_group(&self, position: u64) -> Result<Option<Group>, LogError> {
        let Some(group) = self.group(position)? else { return Ok(None) };
        let following = self.group(group.end)?.map(|g| g.body.commit_no);
        let found =
            if group.body.commit_no == self.commit_no + 1 { following } else { Some(group.body.commit_no) };
        let Some(found) = found.filter(|&found| found > self.commit_no) else {
            return Ok((group.body.commit_no == self.commit_no + 1).then_some(group));
        };
        Err(LogError::Corrupt {
            message: format!(
                "{} holds commit {found}, but state.redb ends at commit {}: state.redb is an old copy or has lost \
                 commits; put the directory of one moment back",
                segment::path(self.dir, self.base).display(),
                self.commit_no
            ),
        })
    }

    /// The whole group that begins at `position`, if there is one; anything less is a torn tail.
    fn group(&self, position: u64) -> Result<Option<Group>, LogError> {
        let attempt = |e| io_error(format!("read {}", segment::path(self.dir, self.base).display()), e);
        let limit = self.file.metadata().map_err(attempt)?.len();
        let mut walk = Walk::new(self.file, limit);
        let (mut at, mut batches) = (position, Vec::new());
        while let Ok(header) = walk.header(at).map_err(attempt)? {
            let Some(body) = walk.body(&header, at).map_err(attempt)? else { return Ok(None) };
            match header.kind {
                Kind::Batch => batches.push((header, at)),
                Kind::Commit => {
                    let body = CommitBody::decode(&body).filter(|body| body.start == self.base + position);
                    let end = at + header.frame_bytes();
                    return Ok(body.map(|body| Group { body, batches, end, next_file: None }));
                }
            }
            at += header.frame_bytes();
        }
        Ok(None)
    }
}
