//! Why the built-in registry says no, with Confluent's code for each reason.

use super::{Conflict, RegistryError, error::write_diff};

/// One refusal. `Display` is the `message` of the REST body.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// 40401
    #[error("Subject '{0}' not found.")]
    SubjectNotFound(String),
    /// 40402
    #[error("Version {0} not found.")]
    VersionNotFound(String),
    /// 40403: no such id.
    #[error("Schema {0} not found")]
    IdNotFound(u32),
    /// 40403: not registered under this subject.
    #[error("Schema not found under subject '{0}'")]
    SchemaNotFound(String),
    /// 40404
    #[error("Subject '{0}' was soft deleted. Set permanent=true to delete permanently")]
    SubjectDeleted(String),
    /// 40405
    #[error("Subject '{0}' was not deleted first before being permanently deleted")]
    SubjectNotDeleted(String),
    /// 40406
    #[error("Subject '{0}' Version {1} was soft deleted. Set permanent=true to delete permanently")]
    VersionDeleted(String, u32),
    /// 40407
    #[error("Subject '{0}' Version {1} was not deleted first before being permanently deleted")]
    VersionNotDeleted(String, u32),
    /// 40408
    #[error("Subject '{0}' does not have subject-level compatibility configured")]
    NoSubjectLevel(String),
    /// 40409
    #[error("Subject '{0}' does not have subject-level mode configured")]
    NoSubjectMode(String),
    /// 409
    #[error("{}", incompatible(.0))]
    Incompatible(Box<Conflict>),
    /// 400: the request itself cannot be read.
    #[error("{0}")]
    BadRequest(String),
    /// 42201
    #[error("Invalid schema: {0}")]
    InvalidSchema(String),
    /// 42202
    #[error(
        "The specified version '{0}' is not a valid version id. Allowed values are between [1, 2^31-1] and the \
         string \"latest\""
    )]
    InvalidVersion(String),
    /// 42203
    #[error(
        "Invalid compatibility level '{0}'. Valid values are NONE, BACKWARD, BACKWARD_TRANSITIVE, FORWARD, \
         FORWARD_TRANSITIVE, FULL and FULL_TRANSITIVE"
    )]
    InvalidLevel(String),
    /// 42205
    #[error("Subject '{0}' is not in import mode: the registry chooses ids and versions itself")]
    NotImporting(String),
    /// 42208
    #[error("The specified subject '{0}' is not valid: it is empty or holds control characters")]
    InvalidSubject(String),
    /// 404: the schemas are in an external registry.
    #[error("The schemas of this worker are in the external registry at {0}: ask there.")]
    Elsewhere(String),
    /// 50001: the log could not read or store it.
    #[error("Error in the backend data store: {0}")]
    Store(String),
}

impl Refusal {
    /// Confluent's `error_code`.
    #[must_use]
    pub fn error_code(&self) -> u32 {
        match self {
            Self::SubjectNotFound(_) => 40401,
            Self::VersionNotFound(_) => 40402,
            Self::IdNotFound(_) | Self::SchemaNotFound(_) => 40403,
            Self::SubjectDeleted(_) => 40404,
            Self::SubjectNotDeleted(_) => 40405,
            Self::VersionDeleted(..) => 40406,
            Self::VersionNotDeleted(..) => 40407,
            Self::NoSubjectLevel(_) => 40408,
            Self::NoSubjectMode(_) => 40409,
            Self::Incompatible(_) => 409,
            Self::BadRequest(_) => 400,
            Self::Elsewhere(_) => 404,
            Self::InvalidSchema(_) => 42201,
            Self::InvalidVersion(_) => 42202,
            Self::InvalidLevel(_) => 42203,
            Self::NotImporting(_) => 42205,
            Self::InvalidSubject(_) => 42208,
            Self::Store(_) => 50001,
        }
    }
}

impl From<Refusal> for RegistryError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Incompatible(conflict) => Self::Incompatible(conflict),
            Refusal::InvalidSchema(reason) => Self::Invalid(reason),
            Refusal::Store(what) => Self::Unavailable { what, remedy: None },
            Refusal::SubjectNotFound(_)
            | Refusal::VersionNotFound(_)
            | Refusal::IdNotFound(_)
            | Refusal::SchemaNotFound(_)
            | Refusal::SubjectDeleted(_)
            | Refusal::SubjectNotDeleted(_)
            | Refusal::VersionDeleted(..)
            | Refusal::VersionNotDeleted(..)
            | Refusal::NoSubjectLevel(_)
            | Refusal::NoSubjectMode(_)
            | Refusal::BadRequest(_)
            | Refusal::Elsewhere(_)
            | Refusal::InvalidVersion(_)
            | Refusal::InvalidLevel(_)
            | Refusal::NotImporting(_)
            | Refusal::InvalidSubject(_) => Self::NotFound(refusal.to_string()),
        }
    }
}

/// Confluent's sentence, and what changed.
fn incompatible(conflict: &Conflict) -> String {
    let Conflict { subject, version, level, reason, diff } = conflict;
    let version = version.map(|version| format!("version {version} of ")).unwrap_or_default();
    let level = level.map(|level| format!(" under compatibility level {level}")).unwrap_or_default();
    let mut text = format!(
        "Schema being registered is incompatible with {version}subject \"{subject}\"{level}: {reason}"
    );
    // Writing to a text does not fail.
    write_diff(&mut text, conflict.version, diff).unwrap_or_default();
    text
}
