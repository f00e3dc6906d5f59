//! Connector files: read at start, watched after, each for itself.
//!
//! Watching is by reading: the directory is listed once a second and files are compared by content. That holds for
//! Kubernetes' ConfigMaps, which swap a symbolic link and send no event for the file itself, and for every file system.
//!
//! A file that becomes invalid does not touch the connector that runs: the last good configuration goes on, and the problem is
//! logged and shown. A file that was never valid has no connector to show it under, so [`FileProblems`] lists it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rowstream_api::ConfigErrors;
use tokio_util::sync::CancellationToken;

use super::{Forget, Origin, Worker, WorkerError};
use crate::config::ConnectorSpec;

/// How often the directory is listed.
pub(crate) const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Files that are not in force, and why; the directory itself while it can't be listed.
#[derive(Debug, Default, Clone)]
pub struct FileProblems(Arc<Mutex<BTreeMap<PathBuf, String>>>);

impl FileProblems {
    /// A copy.
    #[must_use]
    pub fn read(&self) -> BTreeMap<PathBuf, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Forgets the problems of what is no more there.
    fn only_of(&self, files: &[PathBuf]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|file, _| files.contains(file));
    }
    /// Answers what was there before.
    fn set(&self, file: &Path, problem: Option<String>) -> Option<String> {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => problems.insert(file.to_owned(), problem),
            None => problems.remove(file),
        }
    }
}

/// The connector files of a directory, in order of name: all `.yaml` and `.yml` but `NAME.test.yaml`, which holds example records for the
/// transforms of `NAME.yaml` beside it.
///
/// # Errors
/// The directory can't be listed.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, std::io::Error> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|p| {
            p.extension().is_some_and(|e| e == "yaml" || e == "yml") && !is_of_tests(p) && p.is_file()
        })
        .collect();
    files.sort();
    Ok(files)
}

fn is_of_tests(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| Path::new(stem).extension().is_some_and(|e| e == "test"))
}

/// Keeps the worker's file connectors as the directory says, until `stop`.
pub async fn watch(worker: Arc<Worker>, directory: PathBuf, problems: FileProblems, stop: CancellationToken) {
    let mut watcher = Watcher { worker, directory, problems, seen: BTreeMap::new() };
    loop {
        watcher.scan().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SCAN_INTERVAL) => {}
        }
    }
}

struct Seen {
    content: Vec<u8>,
    /// The connector in force from this file.
    name: Option<String>,
}

struct Watcher {
    worker: Arc<Worker>,
    directory: PathBuf,
    problems: FileProblems,
    seen: BTreeMap<PathBuf, Seen>,
}

impl Watcher {
    async fn scan(&mut self) {
        let files = match list(&self.directory) {
            Ok(files) => files,
            Err(error) => {
                // A directory that can't be listed is not an empty one: nothing is stopped.
                self.problem(&self.directory, format!("can't be listed: {error}"));
                return;
            }
        };
        self.problems.only_of(&files);
        let gone: Vec<PathBuf> = self.seen.keys().filter(|f| !files.contains(f)).cloned().collect();
        for file in gone {
            self.removed(&file).await;
        }
        for file in files {
            match std::fs::read(&file) {
                Ok(content) if self.seen.get(&file).is_some_and(|s| s.content == content) => {}
                Ok(content) => self.changed(file, content).await,
                Err(error) => self.problem(&file, format!("can't be read: {error}")),
            }
        }
    }

    async fn removed(&mut self, file: &Path) {
        let Some(Seen { name: Some(name), .. }) = self.seen.remove(file) else { return };
        tracing::info!(connector = name, file = %file.display(), "file removed, connector stops; its offsets are kept");
        if let Err(error) = self.worker.delete(&name, Forget::Nothing).await {
            tracing::error!(connector = name, %error, "can't remove the connector");
        }
    }

    async fn changed(&mut self, file: PathBuf, content: Vec<u8>) {
        let before = self.seen.remove(&file).and_then(|s| s.name);
        let outcome = self.take(&file, before.as_deref()).await;
        let name = match outcome {
            Ok(name) => {
                self.problems.set(&file, None);
                Some(name)
            }
            Err(problem) => {
                self.problem(&file, problem);
                before
            }
        };
        self.seen.insert(file, Seen { content, name });
    }

    /// Puts a file in force; answers its connector's name.
    async fn take(&self, file: &Path, before: Option<&str>) -> Result<String, String> {
        let spec = ConnectorSpec::from_file(file).map_err(|errors| indent(&errors))?;
        let name = spec.name.clone();
        // A connector that is not there yet starts even when its own settings are wrong: then it is FAILED and says why.
        // One that runs is not exchanged for one that can't.
        if before == Some(name.as_str()) {
            crate::registry::plan(&spec).map_err(|errors| indent(&errors))?;
        }
        if let Some(old) = before.filter(|old| *old != name) {
            self.worker.delete(old, Forget::Nothing).await.map_err(|e| e.to_string())?;
        }
        match self.worker.apply(spec, Origin::File(file.to_owned())).await {
            Ok(_) => Ok(name),
            Err(error @ WorkerError::Conflict(_)) => Err(format!("{error}; give this one another name")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What every scan finds again is logged once.
    fn problem(&self, file: &Path, problem: String) {
        if self.problems.set(file, Some(problem.clone())).as_ref() != Some(&problem) {
            tracing::error!(file = %file.display(), problem, "connector file is not in force");
        }
    }
}

fn indent(errors: &ConfigErrors) -> String {
    errors.to_string().replace('\n', "; ")
}
