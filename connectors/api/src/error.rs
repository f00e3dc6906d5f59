//! Four questions, four answers.
//!
//! | what happened | type | effect |
//! |---|---|---|
//! | the user must change something | [`ConfigErrors`], [`Class::Config`] | all problems at once; task `FAILED`, no retry |
//! | the world may heal | [`Class::Transient`] | restarted from stored offsets, with backoff |
//! | the position or schema is lost | [`Class::Fatal`] with a remedy | task `FAILED`; other tasks live on |
//! | this one record is bad | [`RecordError`] | the connector's tolerance policy decides |
//!
//! `Display` prints an error itself only; [`Chain`] prints it with its sources, once, where it is handled. No error
//! ever contains a row value or a secret.

use std::{error::Error, fmt};

/// Who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The user must change configuration, privileges or server settings.
    Config,
    /// Time may mend it. Unclassified errors are transient: budgets end, lost data does not come back.
    Transient,
    /// The position or the schema is lost, or somebody else took over; an operator must decide.
    Fatal,
}

/// What went wrong while talking to an external system.
#[derive(Debug)]
pub struct ConnectorError {
    /// Who can mend it.
    pub class: Class,
    /// Stable code, e.g. `PG_SLOT_INVALIDATED`; documented, used in metrics and alerts.
    pub code: &'static str,
    /// What was attempted and what happened, a lower-case fragment without a full stop.
    pub message: String,
    /// What the person should do; may hold SQL, one statement a line.
    pub remedy: Option<String>,
    /// The cause.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl ConnectorError {
    /// An error of `class` under a stable `code`.
    pub fn new(class: Class, code: &'static str, message: impl Into<String>) -> Self {
        Self { class, code, message: message.into(), remedy: None, source: None }
    }
    /// The user must change something.
    pub fn config(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Class::Config, code, message)
    }
    /// Time may mend it.
    pub fn transient(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Class::Transient, code, message)
    }
    /// An operator must decide.
    pub fn fatal(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Class::Fatal, code, message)
    }
    /// Adds what the person should do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
    /// Puts what was attempted in front of the message.
    #[must_use]
    pub fn while_attempting(mut self, attempt: &str) -> Self {
        self.message = format!("{attempt}: {}", self.message);
        self
    }
}

impl fmt::Display for ConnectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ConnectorError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}

/// Says what was attempted when a result is an error.
pub trait Attempting<T> {
    /// Prefixes the error's message, e.g. ``create replication slot `orders`: permission denied``.
    ///
    /// # Errors
    /// The same error, with the attempt named.
    fn attempting(self, attempt: impl FnOnce() -> String) -> Result<T, ConnectorError>;
}

impl<T, E: Into<ConnectorError>> Attempting<T> for Result<T, E> {
    fn attempting(self, attempt: impl FnOnce() -> String) -> Result<T, ConnectorError> {
        self.map_err(|e| e.into().while_attempting(&attempt()))
    }
}

/// Kafka Connect's processing stages, for dead-letter headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A transform or predicate.
    Transformation,
    /// Key to or from bytes.
    KeyConverter,
    /// Value to or from bytes.
    ValueConverter,
    /// The sink refused it.
    TaskPut,
}

impl Stage {
    /// Connect's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transformation => "TRANSFORMATION",
            Self::KeyConverter => "KEY_CONVERTER",
            Self::ValueConverter => "VALUE_CONVERTER",
            Self::TaskPut => "TASK_PUT",
        }
    }
}

/// This one record is bad. Names columns and types, never values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// Where it failed.
    pub stage: Stage,
    /// Stable code, e.g. `VALUE_OUT_OF_RANGE`.
    pub code: &'static str,
    /// What was expected and what was found, without the value.
    pub message: String,
}

impl RecordError {
    /// A record error.
    pub fn new(stage: Stage, code: &'static str, message: impl Into<String>) -> Self {
        Self { stage, code, message: message.into() }
    }
    /// A value that could not be converted.
    pub fn value(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Stage::ValueConverter, code, message)
    }
    /// Names the column in front of the message.
    #[must_use]
    pub fn in_column(mut self, column: &str) -> Self {
        self.message = format!("column `{column}`: {}", self.message);
        self
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for RecordError {}

impl From<RecordError> for ConnectorError {
    fn from(error: RecordError) -> Self {
        Self::fatal(error.code, error.message)
    }
}

/// One problem in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Dotted path of the field, e.g. `connection.host`; empty when no single field is to blame.
    pub field: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// Every problem found, in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Adds a problem.
    pub fn push(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(ConfigError { field: field.into(), message: message.into() });
    }
    /// Unwraps a parse result, or records its error under `field`.
    pub fn take<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.push(field, e.to_string())).ok()
    }
    /// `Ok` when nothing was found.
    ///
    /// # Errors
    /// Itself, when something was.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            if error.field.is_empty() {
                f.write_str(&error.message)?;
            } else {
                write!(f, "{}: {}", error.field, error.message)?;
            }
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}

impl From<ConfigErrors> for ConnectorError {
    fn from(errors: ConfigErrors) -> Self {
        Self::config("CONFIG_INVALID", errors.to_string())
    }
}

/// Prints an error with all its sources on one line: `a: b: c`.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
