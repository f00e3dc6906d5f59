//! Why a registry said no, and what that means for a task.

use std::fmt;

use rowstream_api::ConnectorError;

use super::{Level, SchemaDiff};

/// Why the registry said no.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The text is no Avro schema.
    #[error("not a valid Avro schema: {0}")]
    Invalid(String),
    /// The subject's compatibility level forbids it.
    #[error("{0}")]
    Incompatible(Box<Conflict>),
    /// No such id or subject.
    #[error("{0}")]
    NotFound(String),
    /// It answered, and will answer the same until a person changes something.
    #[error("{what}")]
    Refused {
        /// What was answered.
        what: String,
        /// What the person should do.
        remedy: &'static str,
    },
    /// It could not be reached or could not store. Time may mend it.
    #[error("the schema registry is unavailable: {what}")]
    Unavailable {
        /// What happened.
        what: String,
        /// What to look at when time does not mend it.
        remedy: Option<&'static str>,
    },
}

/// A schema that may not follow those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Subject.
    pub subject: String,
    /// The version it clashes with, where that is known.
    pub version: Option<u32>,
    /// The level that forbids it, where that is known.
    pub level: Option<Level>,
    /// First difference that breaks readers.
    pub reason: String,
    /// Everything that changed since that version.
    pub diff: SchemaDiff,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("schema is incompatible with ")?;
        match self.version {
            Some(version) => write!(f, "version {version} of subject `{}`", self.subject)?,
            None => write!(f, "subject `{}`", self.subject)?,
        }
        if let Some(level) = self.level {
            write!(f, " under compatibility level {level}")?;
        }
        write!(f, ": {}", self.reason)?;
        write_diff(f, self.version, &self.diff)
    }
}

/// Nothing when nothing is known to have changed.
pub(super) fn write_diff(f: &mut impl fmt::Write, version: Option<u32>, diff: &SchemaDiff) -> fmt::Result {
    match version {
        _ if diff.0.is_empty() => Ok(()),
        Some(version) => write!(f, "\nchanged since version {version}:\n{diff}"),
        None => write!(f, "\nchanged:\n{diff}"),
    }
}

impl RegistryError {
    /// For the supervisor; `attempt` says what was attempted.
    #[must_use]
    pub fn into_failure(self, attempt: String) -> ConnectorError {
        match &self {
            Self::Unavailable { remedy, .. } => {
                let failure = ConnectorError::transient("REGISTRY_UNAVAILABLE", attempt);
                match *remedy {
                    Some(remedy) => failure.remedy(remedy),
                    None => failure,
                }
            }
            Self::Incompatible(conflict) => {
                ConnectorError::fatal("SCHEMA_INCOMPATIBLE", attempt).remedy(choices(conflict))
            }
            Self::Refused { remedy, .. } => {
                ConnectorError::config("REGISTRY_REFUSED", attempt).remedy(*remedy)
            }
            Self::Invalid(_) | Self::NotFound(_) => ConnectorError::fatal("SCHEMA_INVALID", attempt),
        }
        .because(self)
    }
}

/// What a person can do about a conflict. Nothing is lost meanwhile: the source keeps what was not taken.
fn choices(conflict: &Conflict) -> String {
    let subject = &conflict.subject;
    let path: String = path_segment(subject);
    format!(
        "nothing is lost: the task goes on from where it stopped. Do one of these, then restart it:\n\
         - change the table so that old readers can follow, e.g. make a new column nullable or give it a default, \
         or put the old type back;\n\
         - if every consumer of `{subject}` can read the new schema, allow it: PUT /config/{path} \
         {{\"compatibility\": \"NONE\"}} at the schema registry, and set it back afterwards;\n\
         - leave old consumers where they are: another `topic_prefix` begins new topics with new subjects"
    )
}

/// A name as one segment of a URL's path.
pub(crate) fn path_segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
