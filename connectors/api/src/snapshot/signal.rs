//! Debezium's signals: rows that somebody inserts into a table of the source, read where they stand in the stream.
//!
//! A signal is stored with the position that passes it, and followed from there: a crash at any moment follows it once. What can't be
//! understood or done is refused and kept for people to see; no signal ends the source.
//!
//! What differs from Debezium: `execute-snapshot` writes no watermarks, so signals of windows (which a Debezium that shares the table
//! writes) mean nothing here; `surrogate-key` is not needed; blocking snapshots are refused, for none needs to block; a pause is of all
//! that is read.

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{
    database::TableName,
    on_demand::{Order, dotted},
};
use crate::{
    change::{Change, ChangeSet},
    error::{Chain, Class, ConnectorError},
    row::RowView,
    value::ValueRef,
};

/// Bytes of a signal's data: it is stored with a position until it is followed. Debezium's column has 2048 characters.
const DATA_BYTES_MAX: usize = 8 << 10;
/// Bytes of its id and of its type.
const NAME_BYTES_MAX: usize = 256;
/// Signals that wait at once.
const SIGNALS_MAX: usize = 20;
/// Bytes of a message that is logged.
const MESSAGE_BYTES_MAX: usize = 1000;

/// A row of the signal table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Its first column.
    pub id: String,
    /// Its second column.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its third column: a JSON object, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// A column holds more than is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_too_long: bool,
}

/// What a signal asks for.
#[derive(Debug)]
enum Meaning {
    /// Read tables.
    Execute(Choice),
    /// Read them no more; without a choice, nothing of what was asked for.
    Stop(Option<Choice>),
    /// Read nothing for now.
    Pause,
    /// Go on.
    Resume,
    /// Write this into the log; `{}` stands for the position.
    Log(String),
    /// Nothing.
    Nothing,
}

/// What is to be done about a signal.
pub enum Step {
    /// Find out which of these tables can be read.
    Find(Choice),
    /// This.
    Do(Order),
    /// Write this into the log.
    Log(String),
    /// Nothing.
    Nothing,
}

/// Tables that a signal means, as it turns out which of them can be read.
#[derive(Debug, Default)]
pub struct Found {
    tables: Vec<(TableName, Option<String>)>,
    refused: Vec<(String, String)>,
}

impl Found {
    /// What the source says of one of them: whether it can be read, or why not.
    ///
    /// # Errors
    /// The source could not say, and may be able to later.
    pub fn add<T>(
        &mut self,
        (table, condition): (TableName, Option<String>),
        told: Result<Result<T, String>, ConnectorError>,
    ) -> Result<(), ConnectorError> {
        let reason = match told {
            Ok(Ok(_)) => {
                self.tables.push((table, condition));
                return Ok(());
            }
            Ok(Err(reason)) => reason,
            Err(error) if error.class == Class::Transient => return Err(error),
            Err(error) => Chain(&error).to_string(),
        };
        self.refused.push((dotted(&table), reason));
        Ok(())
    }

    /// All were asked about.
    #[must_use]
    pub fn into_order(self) -> Order {
        Order::Read { tables: self.tables, refused: self.refused }
    }
}

/// Tables that a signal names, by patterns.
#[derive(Debug)]
pub struct Choice {
    tables: Vec<Pattern>,
    conditions: Vec<(Pattern, String)>,
}

#[derive(Debug)]
struct Pattern(String, Regex);

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        let anchored = Regex::new(&format!("^(?:{text})$"));
        let regex = anchored.map_err(|_| {
            format!("data-collections: `{text}` is neither a table's name nor a regular expression")
        })?;
        Ok(Self(text.to_owned(), regex))
    }

    fn matches(&self, name: &str) -> bool {
        self.0 == name || self.1.is_match(name)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "data-collections")]
    tables: Vec<String>,
    #[serde(rename = "additional-conditions")]
    conditions: Vec<Condition>,
    #[serde(rename = "additional-condition")]
    condition: Option<String>,
    message: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(rename = "data-collection")]
    table: String,
    filter: String,
}

impl Data {
    fn choice(self) -> Result<Choice, String> {
        let tables: Vec<Pattern> =
            self.tables.iter().map(|text| Pattern::new(text.trim())).collect::<Result<_, _>>()?;
        let of = |condition: Condition| Ok((Pattern::new(condition.table.trim())?, condition.filter));
        let mut conditions: Vec<_> = self.conditions.into_iter().map(of).collect::<Result<_, String>>()?;
        if let Some(condition) = self.condition {
            conditions.push((Pattern::new(".*")?, condition));
        }
        conditions.retain(|(_, condition)| !condition.trim().is_empty());
        Ok(Choice { tables, conditions })
    }
}

impl Signal {
    /// What it asks for, or why nothing can be done.
    fn meaning(&self) -> Result<Meaning, String> {
        if self.is_too_long {
            return Err(format!(
                "it is too long: at most {DATA_BYTES_MAX} bytes of data, and {NAME_BYTES_MAX} of id and type, are taken"
            ));
        }
        let data = || -> Result<Data, String> {
            let Some(text) = self.data.as_deref().filter(|text| !text.trim().is_empty()) else {
                return Ok(Data::default());
            };
            // The error would quote what was written.
            let data: Data = serde_json::from_str(text).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                format!("its data is not the JSON object that is expected (line {line}, column {column})")
            })?;
            match data.kind.as_deref() {
                Some(kind) if !kind.eq_ignore_ascii_case("incremental") => {
                    Err(format!("type `{}` is not known: leave it out, or say `incremental`", shown(kind)))
                }
                Some(_) | None => Ok(data),
            }
        };
        match self.kind.as_str() {
            "execute-snapshot" => match data()?.choice()? {
                choice if choice.tables.is_empty() => {
                    Err("data-collections names no table, expected e.g. [\"public.orders\"]".to_owned())
                }
                choice => Ok(Meaning::Execute(choice)),
            },
            "stop-snapshot" => {
                let choice = data()?.choice()?;
                Ok(Meaning::Stop((!choice.tables.is_empty()).then_some(choice)))
            }
            "pause-snapshot" => data().map(|_| Meaning::Pause),
            "resume-snapshot" => data().map(|_| Meaning::Resume),
            "log" => match data()?.message {
                Some(message) => Ok(Meaning::Log(message)),
                None => Err("its data has no `message`".to_owned()),
            },
            "snapshot-window-open" | "snapshot-window-close" => Ok(Meaning::Nothing),
            _ => Err(
                "its type is not known, expected execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot or log"
                    .to_owned(),
            ),
        }
    }

    /// What is to be done about it while the stream stands at `position`; what is wrong with it is refused.
    #[must_use]
    pub fn step(&self, position: &str) -> Step {
        match self.meaning() {
            Ok(Meaning::Execute(choice)) => Step::Find(choice),
            Ok(Meaning::Stop(None)) => Step::Do(Order::Stop(Box::new(|_| true))),
            Ok(Meaning::Stop(Some(choice))) => {
                Step::Do(Order::Stop(Box::new(move |table| choice.means(table))))
            }
            Ok(Meaning::Pause) => Step::Do(Order::Pause),
            Ok(Meaning::Resume) => Step::Do(Order::Resume),
            Ok(Meaning::Log(message)) => Step::Log(log_line(&message, position)),
            Ok(Meaning::Nothing) => Step::Nothing,
            Err(reason) => {
                let refused = vec![("a signal".to_owned(), reason)];
                Step::Do(Order::Read { tables: Vec::new(), refused })
            }
        }
    }

    /// How requests that it makes are named.
    #[must_use]
    pub fn request(&self) -> String {
        format!("signal {}", shown(&self.id))
    }
}

impl Choice {
    /// The tables that it means of those that are captured, each with its condition; patterns that mean none are refused.
    #[must_use]
    pub fn of(&self, captured: &[TableName]) -> (Vec<(TableName, Option<String>)>, Found) {
        let names: Vec<(String, &TableName)> = captured.iter().map(|name| (dotted(name), name)).collect();
        let means = |(name, _): &&(String, &TableName)| self.tables.iter().any(|table| table.matches(name));
        let condition = |name: &str| {
            let found = self.conditions.iter().find(|(table, _)| table.matches(name));
            found.map(|(_, condition)| condition.clone())
        };
        let chosen = names.iter().filter(means).map(|(name, table)| ((*table).clone(), condition(name)));
        let is_idle = |table: &&Pattern| !names.iter().any(|(name, _)| table.matches(name));
        let none = "no table that is captured is meant by it";
        let refused = self.tables.iter().filter(is_idle).map(|table| (table.0.clone(), none.to_owned()));
        (chosen.collect(), Found { tables: Vec::new(), refused: refused.collect() })
    }

    /// Whether it means a table.
    #[must_use]
    pub fn means(&self, table: &TableName) -> bool {
        let name = dotted(table);
        self.tables.iter().any(|table| table.matches(&name))
    }
}

/// What a `log` signal writes.
#[must_use]
pub fn log_line(message: &str, position: &str) -> String {
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    let message = message.get(..end).unwrap_or_default().replace("{}", position);
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A word that somebody wrote, short and printable.
fn shown(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Adds the signals among changes of the signal table: rows that are inserted. Of more than can wait the first ones are taken; answers
/// how many are not.
///
/// # Errors
/// Malformed bytes.
pub fn collect(changes: &dyn ChangeSet, signals: &mut Vec<Signal>) -> Result<usize, ConnectorError> {
    let mut left_out = 0;
    changes.visit(&mut |view| {
        if let Change::Create { after } = view.change {
            if signals.len() < SIGNALS_MAX {
                signals.push(signal(after));
            } else {
                left_out += 1;
            }
        }
        Ok(())
    })?;
    Ok(left_out)
}

/// What of a row is a text counts; what is not leaves the signal without it, which then says what it lacks.
fn signal(row: &dyn RowView) -> Signal {
    let (columns, mut is_too_long) = (row.schema().fields().len(), false);
    let mut text = |index: usize, bytes_max: usize| {
        let value = (index < columns).then(|| row.column(index).ok()).flatten()?;
        let text = match value {
            ValueRef::Str(text) | ValueRef::Decimal(text) => text.to_string(),
            ValueRef::Int(n) => n.to_string(),
            ValueRef::Null
            | ValueRef::Unavailable
            | ValueRef::Absent
            | ValueRef::Bool(_)
            | ValueRef::ZonedMicros(_)
            | ValueRef::Float32(_)
            | ValueRef::Float64(_)
            | ValueRef::Bytes(_)
            | ValueRef::Hex(_)
            | ValueRef::Array(_)
            | ValueRef::Struct(_)
            | ValueRef::Map(_) => return None,
        };
        is_too_long |= text.len() > bytes_max;
        Some(text).filter(|text| text.len() <= bytes_max)
    };
    let (id, kind) = (text(0, NAME_BYTES_MAX), text(1, NAME_BYTES_MAX));
    let data = text(2, DATA_BYTES_MAX);
    Signal { id: id.unwrap_or_default(), kind: kind.unwrap_or_default(), data, is_too_long }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(kind: &str, data: &str) -> Result<Meaning, String> {
        Signal { id: "1".into(), kind: kind.into(), data: Some(data.into()), is_too_long: false }.meaning()
    }

    fn names(tables: &[&str]) -> Vec<TableName> {
        tables.iter().map(|name| ("s".to_owned(), (*name).to_owned())).collect()
    }

    #[test]
    fn tables_are_chosen_by_name_and_by_pattern() {
        let data = r#"{"data-collections": ["s.a", "s.b.*", "s.x", "s.m$n"], "type": "INCREMENTAL",
            "additional-conditions": [{"data-collection": "s.b2", "filter": "n > 1"}]}"#;
        let Ok(Meaning::Execute(choice)) = signal("execute-snapshot", data) else { panic!() };
        let captured = names(&["a", "ab", "b1", "b2", "m$n"]);
        let (tables, found) = choice.of(&captured);
        let of = |n: usize, condition: Option<&str>| (captured[n].clone(), condition.map(str::to_owned));
        assert_eq!(tables, [of(0, None), of(2, None), of(3, Some("n > 1")), of(4, None)]);
        assert_eq!(found.into_order().refused()[0].0, "s.x");
        let all = r#"{"data-collections": ["s.*"], "additional-condition": "m < 2"}"#;
        let Ok(Meaning::Execute(choice)) = signal("execute-snapshot", all) else { panic!() };
        assert!(choice.of(&captured).0.iter().all(|(_, condition)| condition.as_deref() == Some("m < 2")));
        let Ok(Meaning::Stop(Some(stop))) = signal("stop-snapshot", r#"{"data-collections": ["s.a"]}"#)
        else {
            panic!()
        };
        assert!(stop.means(&captured[0]) && !stop.means(&captured[1]));
        assert!(matches!(signal("stop-snapshot", ""), Ok(Meaning::Stop(None))));
        assert!(matches!(signal("pause-snapshot", r#"{"type": "incremental"}"#), Ok(Meaning::Pause)));
        assert!(matches!(signal("snapshot-window-open", "x"), Ok(Meaning::Nothing)));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_data() {
        for (kind, data, says) in [
            ("execute-snapshot", r#"{"data-collections": "secret"}"#, "JSON object"),
            ("execute-snapshot", r#"{"data-collections": ["#, "JSON object"),
            ("execute-snapshot", "secret", "JSON object"),
            ("execute-snapshot", "{}", "names no table"),
            ("execute-snapshot", r#"{"data-collections": ["s.("]}"#, "regular expression"),
            (
                "execute-snapshot",
                r#"{"data-collections": ["s.a"], "type": "blocking"}"#,
                "`blocking` is not known",
            ),
            ("log", "{}", "no `message`"),
            ("secret", "", "type is not known"),
        ] {
            let reason = signal(kind, data).unwrap_err();
            assert!(reason.contains(says) && !reason.contains("secret"), "{kind} {data}: {reason}");
        }
    }

    #[test]
    fn a_logged_message_is_one_line_of_bounded_length() {
        assert_eq!(log_line("at {}\nnow", "0/1"), "at 0/1 now");
        assert!(log_line(&"ä".repeat(5000), "").len() <= MESSAGE_BYTES_MAX);
    }
}
