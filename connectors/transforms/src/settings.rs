//! What the steps' settings have in common.
//!
//! The daemon has checked a document against a step's table of fields before it arrives here, so that deserialising can't fail
//! for its shape; what remains is what the settings mean, and all problems of one step are reported at once.

use regex::Regex;
use rowstream_api::{ConfigErrors, RecordError};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::refused;

/// The step's settings as its struct.
pub(crate) fn parse<T: DeserializeOwned>(settings: Map<String, Value>) -> Result<T, ConfigErrors> {
    serde_json::from_value(Value::Object(settings)).map_err(|error| {
        let mut errors = ConfigErrors::default();
        errors.push("", error.to_string());
        errors
    })
}

/// A regular expression that must match a whole text, as Java's `matches()` wants it.
pub(crate) fn whole_regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| regex_problem(&error))
}

/// The last line of a message that `regex` draws over several.
pub(crate) fn regex_problem(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("not a regular expression: {}", last.trim_start_matches("error: "))
}

/// Java's template of a replacement: `$1`, `${name}`, and `\` before a character that stands for itself.
#[derive(Debug, Clone)]
pub(crate) struct Replacement(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Replacement {
    /// Reads a template for this expression.
    pub(crate) fn parse(template: &str, regex: &Regex) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = template.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '\\' => text.push(rest.next().ok_or("ends with a single `\\`")?),
                '$' => {
                    let group = if rest.next_if_eq(&'{').is_some() {
                        let name: String = rest.by_ref().take_while(|c| *c != '}').collect();
                        let found = regex.capture_names().position(|known| known == Some(&name));
                        found.ok_or_else(|| format!("the regular expression has no group `{name}`"))?
                    } else {
                        numbered(&mut rest, regex)?
                    };
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(Piece::Group(group));
                }
                c => text.push(c),
            }
        }
        pieces.push(Piece::Text(text));
        Ok(Self(pieces))
    }

    /// The replacement of a text that the expression matches as a whole; none when it does not match.
    pub(crate) fn apply(&self, regex: &Regex, text: &str) -> Option<String> {
        let groups = regex.captures(text)?;
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Group(group) => out.push_str(groups.get(*group).map_or("", |group| group.as_str())),
            }
        }
        Some(out)
    }
}

/// As many digits as name a group that is there, as Java reads them.
fn numbered(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, regex: &Regex) -> Result<usize, String> {
    let digit = |c: Option<&char>| c.and_then(|c| c.to_digit(10)).and_then(|d| usize::try_from(d).ok());
    let mut group =
        digit(rest.peek()).ok_or("expected a number or `{name}` after `$`; write `\\$` for a `$`")?;
    rest.next();
    if group >= regex.captures_len() {
        return Err(format!("the regular expression has no group {group}"));
    }
    while let Some(next) = digit(rest.peek()).map(|d| group * 10 + d).filter(|g| *g < regex.captures_len()) {
        group = next;
        rest.next();
    }
    Ok(group)
}

/// A topic that a record is sent to.
///
/// # Errors
/// No log takes that name. It may come from a row, so that it is not repeated.
pub(crate) fn checked_topic(name: &str, from: &str) -> Result<std::sync::Arc<str>, RecordError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 249 || name == "." || name == ".." || !name.chars().all(allowed) {
        return Err(refused(
            "TOPIC_INVALID",
            format!("{from} gives no name of a topic: 1 to 249 letters, digits, `.`, `_` and `-` are"),
        ));
    }
    Ok(name.into())
}

/// Names of fields, with `*` for any characters.
#[derive(Debug, Clone)]
pub(crate) struct FieldNames(Vec<String>);

impl FieldNames {
    /// Checks the names.
    pub(crate) fn parse(names: Vec<String>, field: &str, errors: &mut ConfigErrors) -> Self {
        if names.is_empty() {
            errors.push(field, "must name at least one field");
        }
        if names.iter().any(String::is_empty) {
            errors.push(field, "holds an empty name");
        }
        Self(names)
    }

    /// Whether a field is among them.
    pub(crate) fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
    }
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where the last `*` was, and how much of the name it has taken: all that backtracking needs.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| Some(c) == name.get(n)) {
            p += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            p = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern.iter().skip(p).all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(pattern: &str, template: &str, text: &str) -> Result<Option<String>, String> {
        let regex = whole_regex(pattern)?;
        Ok(Replacement::parse(template, &regex)?.apply(&regex, text))
    }

    /// `java.util.regex.Matcher.replaceFirst`, which Connect's `RegexRouter` calls.
    #[test]
    fn templates_are_javas() {
        assert_eq!(replaced("shop\\.(.*)", "new.$1x", "shop.orders"), Ok(Some("new.ordersx".into())));
        assert_eq!(replaced("(?<a>.*)", "outbox.event.${a}", "Order"), Ok(Some("outbox.event.Order".into())));
        assert_eq!(replaced("(a)(b)", "$21", "ab"), Ok(Some("b1".into())));
        assert_eq!(replaced("a", "\\$1\\\\", "a"), Ok(Some("$1\\".into())));
        assert_eq!(replaced("a|ab", "x", "ab"), Ok(Some("x".into())), "the whole text decides");
        assert_eq!(replaced("a", "x", "ba"), Ok(None));
        assert!(replaced("a", "$1", "a").unwrap_err().contains("no group 1"));
        assert!(replaced("a", "${b}", "a").unwrap_err().contains("no group `b`"));
        assert!(replaced("a", "$x", "a").unwrap_err().contains("after `$`"));
        assert!(
            replaced("(a", "x", "a").unwrap_err().starts_with("not a regular expression: unclosed group")
        );
    }

    #[test]
    fn names_may_hold_stars() {
        let names = |names: &[&str]| FieldNames(names.iter().map(|n| (*n).to_owned()).collect());
        assert!(names(&["email"]).contain("email"));
        assert!(!names(&["email"]).contain("email2"));
        assert!(names(&["*mail*"]).contain("email_hash"));
        assert!(names(&["a*b*c"]).contain("aXbYbc"));
        assert!(!names(&["a*b"]).contain("abc"));
        assert!(names(&["*"]).contain(""));
    }

    #[test]
    fn names_that_no_log_takes_are_refused_without_repeating_them() {
        assert!(checked_topic("shop.public.orders-1_2", "x").is_ok());
        for bad in ["", ".", "..", "a b", "ä", &"a".repeat(250)] {
            let error = checked_topic(bad, "field `x`").unwrap_err();
            assert_eq!(error.code, "TOPIC_INVALID");
            assert!(error.message.starts_with("field `x` gives no name"), "{error}");
        }
    }
}
