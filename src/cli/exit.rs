//! How a command ends: one table of exit codes, and the failures that lead to them.

use std::{io, process::ExitCode};

/// Exit codes, after `sysexits.h` where it has one. Documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Done.
    Ok = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line can't be read; clap's code.
    Usage = 2,
    /// Nobody answers: the daemon, or a database that `validate` looks at (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A configuration has to be changed (EX_CONFIG).
    Config = 78,
}

/// For the end of `--help`.
pub(super) const EXIT_CODES: &str = "Exit codes:
  0   done
  1   it was tried and failed; standard error says why
  2   the command line can't be read
  69  nobody answers: the daemon, or a system that `validate` connects to
  78  a configuration has to be changed";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// Nobody answers.
    #[error("{0}")]
    Unavailable(String),
    /// A configuration has to be changed.
    #[error("{0}")]
    Config(String),
    /// All was said on standard output already; only the code is left.
    #[error("")]
    Said(Exit),
    /// Output could not be written.
    #[error("write the output: {0}")]
    Output(io::Error),
}

impl Failure {
    /// The code; a reader that has seen enough (`| head`) is no failure.
    #[must_use]
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Failed(_) => Exit::Failed,
            Self::Unavailable(_) => Exit::Unavailable,
            Self::Config(_) => Exit::Config,
            Self::Said(exit) => *exit,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Output(_) => Exit::Failed,
        }
    }

    /// What to print on standard error, if anything.
    #[must_use]
    pub(super) fn text(&self) -> Option<String> {
        let silent = matches!(self, Self::Said(_)) || self.exit() == Exit::Ok;
        (!silent).then(|| self.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
