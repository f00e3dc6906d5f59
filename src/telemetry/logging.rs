//! Log output: readable on a terminal, one JSON object a line everywhere else, with levels that can be changed
//! while running.
//!
//! Lines go to standard error, so that standard output belongs to commands. Fixed fields are `connector`, `task`,
//! `topic`, `code` and `error`; in JSON they stand at the top level of the line.

use std::{
    fmt,
    io::IsTerminal,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{format::JsonFields, writer::BoxMakeWriter},
    layer::SubscriberExt,
    reload::{self, Handle},
};

use super::json_line::JsonLine;

/// The name under which [`LogLevels`] knows the level of everything without one of its own.
pub const ROOT: &str = "root";

/// How lines look (`--log-format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Human when standard error is a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LoggingError;
    fn from_str(text: &str) -> Result<Self, LoggingError> {
        match text {
            "auto" => Ok(Self::Auto),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            other => Err(LoggingError(format!("log format `{other}` is not one of auto, human, json"))),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

/// A setting that logging cannot serve; says what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoggingError(String);

/// The levels in force, and the way to change them. Cheap to clone.
#[derive(Clone)]
pub struct LogLevels {
    handle: Handle<Targets, Registry>,
    targets: Arc<Mutex<Targets>>,
}

impl LogLevels {
    /// Every level set, [`ROOT`] first, then targets such as `rowstream::task` by name.
    #[must_use]
    pub fn all(&self) -> Vec<(String, LevelFilter)> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own: Vec<_> = targets.iter().map(|(target, level)| (target.to_owned(), level)).collect();
        own.sort_by(|a, b| a.0.cmp(&b.0));
        let root = targets.default_level().unwrap_or(LevelFilter::OFF);
        [vec![(ROOT.to_owned(), root)], own].concat()
    }
    /// The level that applies to a target: its own, or that of the longest target it begins with, or the root's.
    #[must_use]
    pub fn level(&self, target: &str) -> LevelFilter {
        let inherited = |(name, level): (String, LevelFilter)| {
            let applies = name == ROOT || name == target || target.starts_with(&format!("{name}::"));
            applies.then_some((if name == ROOT { 0 } else { name.len() }, level))
        };
        let all = self.all().into_iter().filter_map(inherited);
        all.max_by_key(|(specific, _)| *specific).map_or(LevelFilter::OFF, |(_, level)| level)
    }
    /// Sets the level of a target, or of everything else for [`ROOT`]; from the next line on.
    ///
    /// # Errors
    /// The logger is gone.
    pub fn set(&self, target: &str, level: LevelFilter) -> Result<(), LoggingError> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match target {
            ROOT => targets.clone().with_default(level),
            target => targets.clone().with_target(target, level),
        };
        self.handle
            .reload(changed.clone())
            .map_err(|e| LoggingError(format!("the level of `{target}` was not changed: {e}")))?;
        *targets = changed;
        Ok(())
    }
}

/// Reads a level's name: Rust's or Kafka Connect's, in any case (`FATAL` counts as `ERROR`).
///
/// # Errors
/// Names the levels there are.
pub fn parse_level(name: &str) -> Result<LevelFilter, LoggingError> {
    match name.to_ascii_uppercase().as_str() {
        "OFF" => Ok(LevelFilter::OFF),
        "ERROR" | "FATAL" => Ok(LevelFilter::ERROR),
        "WARN" => Ok(LevelFilter::WARN),
        "INFO" => Ok(LevelFilter::INFO),
        "DEBUG" => Ok(LevelFilter::DEBUG),
        "TRACE" | "ALL" => Ok(LevelFilter::TRACE),
        _ => Err(LoggingError(format!(
            "log level `{name}` is not one of OFF, ERROR, WARN, INFO, DEBUG, TRACE"
        ))),
    }
}

/// Installs the process's logger. `levels` is like `info` or `warn,rowstream::task=debug`; empty means `info`.
///
/// # Errors
/// `levels` cannot be read, or a logger is installed already.
pub fn init(format: LogFormat, levels: &str) -> Result<LogLevels, LoggingError> {
    let terminal = std::io::stderr().is_terminal();
    let format = match (format, terminal) {
        (LogFormat::Auto, true) => LogFormat::Human,
        (LogFormat::Auto, false) => LogFormat::Json,
        (chosen, _) => chosen,
    };
    let (subscriber, handle) = subscriber(format, levels, BoxMakeWriter::new(std::io::stderr))?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|e| LoggingError(format!("logging is already set up: {e}")))?;
    Ok(handle)
}

fn subscriber(
    format: LogFormat,
    levels: &str,
    writer: BoxMakeWriter,
) -> Result<(impl Subscriber + Send + Sync, LogLevels), LoggingError> {
    let targets = parse_levels(levels)?;
    let (filter, handle) = reload::Layer::new(targets.clone());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Auto | LogFormat::Json => {
            lines.fmt_fields(JsonFields::new()).event_format(JsonLine).boxed()
        }
    };
    let subscriber = Registry::default().with(filter).with(lines);
    Ok((subscriber, LogLevels { handle, targets: Arc::new(Mutex::new(targets)) }))
}

fn parse_levels(levels: &str) -> Result<Targets, LoggingError> {
    if levels.trim().is_empty() {
        return Ok(Targets::new().with_default(LevelFilter::INFO));
    }
    let targets: Targets = levels.parse().map_err(|e| {
        LoggingError(format!(
            "log levels `{levels}` are not like `info` or `warn,rowstream::task=debug`: {e}"
        ))
    })?;
    // Without a bare level the rest of the world would fall silent, errors too.
    let root = targets.default_level().unwrap_or(LevelFilter::INFO);
    Ok(targets.with_default(root))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> Vec<String> {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap());
            String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
        }
    }

    fn logger(format: LogFormat, levels: &str) -> (Lines, impl Subscriber + Send + Sync, LogLevels) {
        let lines = Lines::default();
        let sink = lines.clone();
        let (subscriber, handle) =
            subscriber(format, levels, BoxMakeWriter::new(move || sink.clone())).unwrap();
        (lines, subscriber, handle)
    }

    #[test]
    fn a_json_line_has_the_fixed_fields_at_its_top() {
        let (lines, subscriber, _levels) = logger(LogFormat::Json, "");
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("task", connector = "shop", task = 0, level = "span");
            let _inside = span.enter();
            let _nameless = tracing::info_span!("run").entered();
            tracing::warn!(code = "PG_X", error = %"no route", attempt = 2, "task will retry");
        });
        let lines = lines.take();
        assert_eq!(lines.len(), 1);
        let mut line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        let timestamp = line.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(timestamp.as_str().unwrap().ends_with('Z'));
        let expected = serde_json::json!({
            "level": "WARN", "target": "rowstream::telemetry::logging::tests", "message": "task will retry",
            "connector": "shop", "task": 0, "code": "PG_X", "error": "no route", "attempt": 2,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_human_line_is_one_line_of_text() {
        let (lines, subscriber, _levels) = logger(LogFormat::Human, "info");
        tracing::subscriber::with_default(subscriber, || tracing::info!(connector = "shop", "started"));
        let lines = lines.take();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("INFO"), "{}", lines[0]);
        assert!(lines[0].contains("started"), "{}", lines[0]);
    }

    #[test]
    fn levels_change_while_running() {
        let (lines, subscriber, levels) = logger(LogFormat::Json, "warn,a::b=debug");
        let said = || {
            tracing::info!(target: "a", "root");
            tracing::debug!(target: "a::b::c", "own");
            lines.take().len()
        };
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!(said(), 1);
            levels.set(ROOT, LevelFilter::INFO).unwrap();
            assert_eq!(said(), 2);
            levels.set("a::b", LevelFilter::ERROR).unwrap();
            assert_eq!(said(), 1);
        });
        let all = levels.all();
        assert_eq!(all, [("root".into(), LevelFilter::INFO), ("a::b".into(), LevelFilter::ERROR)]);
        assert_eq!(levels.level("a::b::c"), LevelFilter::ERROR);
        assert_eq!(levels.level("a::bc"), LevelFilter::INFO);
    }

    #[test]
    fn unreadable_levels_are_explained() {
        let error = parse_levels("rowstream=loud").unwrap_err().to_string();
        assert!(error.contains("rowstream=loud"), "{error}");
        assert!(parse_level("verbose").unwrap_err().to_string().contains("DEBUG"));
        assert_eq!(parse_level("fatal").unwrap(), LevelFilter::ERROR);
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
