//! Which schema may follow which under a subject.
//!
//! A level names who must be able to read what: BACKWARD, readers with the new schema read data of the old;
//! FORWARD, readers with the old schema read data of the new; FULL, both. The plain levels look at the newest
//! version only, the `_TRANSITIVE` ones at all of them. "Can read" is Avro's schema resolution ([`resolution`]).

use std::fmt;

use serde_json::Value;

use super::{
    Refusal,
    resolution::{self, Difference, Mismatch},
};

/// A subject's compatibility level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Anything goes.
    None,
    /// New readers, newest version's data. Confluent's default and ours.
    #[default]
    Backward,
    /// New readers, every version's data.
    BackwardTransitive,
    /// The newest version's readers, new data.
    Forward,
    /// Every version's readers, new data.
    ForwardTransitive,
    /// Both ways with the newest version.
    Full,
    /// Both ways with every version.
    FullTransitive,
}

impl Level {
    /// Every level.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    /// Confluent's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }
    /// Reads Confluent's name in any case.
    ///
    /// # Errors
    /// [`Refusal::InvalidLevel`], naming the levels there are.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| Refusal::InvalidLevel(name.to_owned()))
    }
    /// Looks at all versions, not only at the newest.
    #[must_use]
    pub fn is_transitive(self) -> bool {
        match self {
            Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive => true,
            Self::None | Self::Backward | Self::Forward | Self::Full => false,
        }
    }
    fn directions(self) -> &'static [Direction] {
        match self {
            Self::None => &[],
            Self::Backward | Self::BackwardTransitive => &[Direction::Backward],
            Self::Forward | Self::ForwardTransitive => &[Direction::Forward],
            Self::Full | Self::FullTransitive => &[Direction::Backward, Direction::Forward],
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first version that a new schema clashes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incompatible {
    /// Version of the subject.
    pub version: u32,
    /// The first difference, with its path, and who it breaks.
    pub reason: String,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Backward,
    Forward,
}

/// Compares a new schema with `older`: a subject's versions, newest first, as parsed JSON.
///
/// # Errors
/// The first clash.
pub fn check<'a>(
    level: Level,
    new: &Value,
    older: impl IntoIterator<Item = (u32, &'a Value)>,
) -> Result<(), Incompatible> {
    let depth = if level.is_transitive() { usize::MAX } else { 1 };
    for (version, old) in older.into_iter().take(depth) {
        for &direction in level.directions() {
            let verdict = match direction {
                Direction::Backward => resolution::can_read(old, new),
                Direction::Forward => resolution::can_read(new, old),
            };
            verdict.map_err(|found| Incompatible { version, reason: explain(direction, version, &found) })?;
        }
    }
    Ok(())
}

/// Tells a difference between writer and reader as a change from old to new.
fn explain(direction: Direction, version: u32, found: &Difference) -> String {
    let place = if found.path.is_empty() { "the schema".into() } else { format!("field `{}`", found.path) };
    let in_order = |writer: &String, reader: &String| match direction {
        Direction::Backward => (writer.clone(), reader.clone()),
        Direction::Forward => (reader.clone(), writer.clone()),
    };
    let what = match (&found.mismatch, direction) {
        (Mismatch::Type { writer, reader }, _) => {
            let (old, new) = in_order(writer, reader);
            format!("{place}: type changed from {old} to {new}")
        }
        (Mismatch::Name { writer, reader }, _) => {
            let (old, new) = in_order(writer, reader);
            format!("{place}: name of the type changed from {old} to {new}")
        }
        (Mismatch::Size { writer, reader }, _) => {
            let (old, new) = in_order(&writer.to_string(), &reader.to_string());
            format!("{place}: size changed from {old} to {new} bytes")
        }
        (Mismatch::NoDefault, Direction::Backward) => format!("new {place} has no default"),
        (Mismatch::NoDefault, Direction::Forward) => {
            format!("removed {place} has no default in version {version}")
        }
        (Mismatch::Symbol(symbol), Direction::Backward) => format!("{place}: symbol `{symbol}` was removed"),
        (Mismatch::Symbol(symbol), Direction::Forward) => format!("{place}: symbol `{symbol}` was added"),
        (Mismatch::Unknown(name), _) => format!("{place}: type `{name}` is not defined"),
    };
    let broken = match direction {
        Direction::Backward => format!("readers of the new schema cannot read data of version {version}"),
        Direction::Forward => format!("readers of version {version} cannot read data of the new schema"),
    };
    format!("{what} ({broken})")
}
