//! The functions of an expression: CEL's standard library, a few for texts, and the guards that `rewrite` puts in.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use cel::{
    Env, ExecutionError,
    common::{
        functions::Function,
        types::{self, CelBool, CelBytes, CelDuration, CelInt, CelList, CelMap, CelString},
        value::{CowVal, Val},
    },
};
use regex::Regex;

/// Functions that are called by their name alone.
pub(super) const GLOBALS: [&str; 12] = [
    "bool",
    "bytes",
    "double",
    "duration",
    "dyn",
    "int",
    "matches",
    "size",
    "string",
    "timestamp",
    "type",
    "uint",
];

/// Functions that are called on a value.
pub(super) const MEMBERS: [&str; 22] = [
    "contains",
    "endsWith",
    "startsWith",
    "matches",
    "size",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "lowerAscii",
    "upperAscii",
    "trim",
    "replace",
    "split",
    "substring",
    "join",
];

/// What `+` may make: more comes from an expression that grows without end.
const SUM_MAX: usize = 16 << 20;
/// CEL's durations have at most 10,000 years; the library takes longer ones, and panics where it adds them to a timestamp.
const DURATION_DAYS_MAX: i64 = 3_652_500;
/// Elements that a macro visits.
const EACH_MAX: usize = 10_000;
/// The same where macros nest.
const EACH_NESTED_MAX: usize = 1_000;

/// How the guards' messages begin.
pub(super) const LIMIT: &str = "a limit is reached";
/// `matches` with a pattern that stands in the expression.
pub(super) const MATCHES: &str = "@matches";
/// The guard around `+` and `-` and what they work on.
pub(super) const BOUNDED: &str = "@bounded";

/// The guard around what a macro visits. A macro that makes a list must not visit a map, whose order is left to chance.
pub(super) fn each(nested: bool, list: bool) -> &'static str {
    match (nested, list) {
        (false, false) => "@each",
        (false, true) => "@each_list",
        (true, false) => "@each_nested",
        (true, true) => "@each_nested_list",
    }
}

/// The library, made once.
pub(super) fn environment() -> Result<Arc<Env>, String> {
    static LIBRARY: LazyLock<Result<Arc<Env>, String>> =
        LazyLock::new(|| library().map(Arc::new).map_err(|error| error.to_string()));
    LIBRARY.clone()
}

fn library() -> Result<Env, cel::DeclarationError> {
    use types::{DYN_TYPE as ANY, INT_TYPE as INT, LIST_TYPE as LIST, STRING_TYPE as TEXT};
    let mut env = Env::default().with_optional_support(false).with_stdlib();
    let guards: [(&str, Function); 5] = [
        (BOUNDED, bounded),
        (each(false, false), visited::<EACH_MAX, false>),
        (each(false, true), visited::<EACH_MAX, true>),
        (each(true, false), visited::<EACH_NESTED_MAX, false>),
        (each(true, true), visited::<EACH_NESTED_MAX, true>),
    ];
    for (name, function) in guards {
        env.add_overload(name, name, vec![ANY], function)?;
    }
    env.add_overload(MATCHES, MATCHES, vec![TEXT, TEXT], matches)?;
    env.add_member_overload("lowerAscii", "lower_ascii", TEXT, vec![], lower)?;
    env.add_member_overload("upperAscii", "upper_ascii", TEXT, vec![], upper)?;
    env.add_member_overload("trim", "trim", TEXT, vec![], trim)?;
    env.add_member_overload("replace", "replace", TEXT, vec![TEXT, TEXT], replace)?;
    env.add_member_overload("split", "split", TEXT, vec![TEXT], split)?;
    env.add_member_overload("substring", "substring_from", TEXT, vec![INT], substring)?;
    env.add_member_overload("substring", "substring_from_to", TEXT, vec![INT, INT], substring)?;
    env.add_member_overload("join", "join", LIST, vec![TEXT], join)?;
    Ok(env)
}

type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

fn bounded<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let value = only(args)?;
    let size = if let Some(text) = value.downcast_ref::<CelString>() {
        text.inner().len()
    } else if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        bytes.inner().len()
    } else {
        value.downcast_ref::<CelList>().map_or(0, |list| list.inner().len())
    };
    if size > SUM_MAX {
        return Err(limit("the result of `+` is too large"));
    }
    let too_long = |duration: &CelDuration| duration.inner().num_days().abs() > DURATION_DAYS_MAX;
    if value.downcast_ref::<CelDuration>().is_some_and(too_long) {
        return Err(limit("a duration of more than 10,000 years"));
    }
    Ok(value)
}

fn visited<'b, 'v, const MAX: usize, const LIST: bool>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let value = only(args)?;
    let items = match (value.downcast_ref::<CelList>(), value.downcast_ref::<CelMap>()) {
        (Some(list), _) => list.inner().len(),
        (None, Some(_)) if LIST => {
            return Err(ExecutionError::InternalError(format!(
                "{LIMIT}: `map` and `filter` visit lists only, because a map or struct has no order"
            )));
        }
        (None, Some(map)) => map.inner().len(),
        (None, None) => 0,
    };
    if items > MAX { Err(limit(&format!("a macro visits more than {MAX} elements"))) } else { Ok(value) }
}

fn only<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    args.pop().ok_or(ExecutionError::MissingArgumentOrTarget)
}

fn limit(what: &str) -> ExecutionError {
    ExecutionError::InternalError(format!("{LIMIT}: {what}"))
}

fn text<'t>(args: &'t [CowVal<'_, '_>], index: usize) -> Result<&'t str, ExecutionError> {
    let text = args.get(index).and_then(|value| value.as_ref().downcast_ref::<CelString>());
    text.map(CelString::inner).ok_or(ExecutionError::MissingArgumentOrTarget)
}

fn made<'b, 'v>(text: String) -> Answer<'b, 'v> {
    if text.len() > SUM_MAX {
        return Err(limit("a text is too large"));
    }
    Ok(CowVal::owned(CelString::from(text)))
}

/// Patterns that a thread keeps compiled; they come from configurations, so that more than these are not met.
const PATTERNS_MAX: usize = 256;

thread_local! {
    /// The standard `matches` compiles its pattern for each record, which costs more than all the rest.
    static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default();
}

fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let (subject, pattern) = (text(&args, 0)?, text(&args, 1)?);
    let found = PATTERNS.with_borrow_mut(|patterns| {
        if let Some(regex) = patterns.get(pattern) {
            return Ok(regex.is_match(subject));
        }
        let regex = Regex::new(pattern)
            .map_err(|_| ExecutionError::function_error("matches", "not a regular expression"))?;
        if patterns.len() >= PATTERNS_MAX {
            patterns.clear();
        }
        let found = regex.is_match(subject);
        patterns.insert(pattern.to_owned(), regex);
        Ok(found)
    });
    found.map(|found| CowVal::owned(CelBool::from(found)))
}

fn lower<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    made(text(&args, 0)?.to_ascii_lowercase())
}

fn upper<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    made(text(&args, 0)?.to_ascii_uppercase())
}

fn trim<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    made(text(&args, 0)?.trim().to_owned())
}

fn replace<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let (subject, old, new) = (text(&args, 0)?, text(&args, 1)?, text(&args, 2)?);
    // Found by counting first, so that the memory is never asked for.
    let places = subject.matches(old).count();
    if places.saturating_mul(new.len()) > SUM_MAX {
        return Err(limit("the result of `replace` is too large"));
    }
    made(subject.replace(old, new))
}

fn split<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let parts = text(&args, 0)?.split(text(&args, 1)?);
    let parts: Vec<Box<dyn Val + 'v>> =
        parts.map(|part| Box::new(CelString::from(part.to_owned())) as Box<dyn Val + 'v>).collect();
    Ok(CowVal::owned(CelList::from(parts)))
}

/// Characters from a first one, to before another.
fn substring<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let subject = text(&args, 0)?;
    let length = subject.chars().count();
    let number = |index: usize, default: usize| match args.get(index) {
        None => Ok(default),
        Some(value) => value
            .as_ref()
            .downcast_ref::<CelInt>()
            .and_then(|number| usize::try_from(*number.inner()).ok())
            .filter(|number| *number <= length)
            .ok_or_else(|| ExecutionError::function_error("substring", "out of range")),
    };
    let (from, to) = (number(1, 0)?, number(2, length)?);
    if from > to {
        return Err(ExecutionError::function_error("substring", "out of range"));
    }
    made(subject.chars().skip(from).take(to - from).collect())
}

fn join<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let list = args.first().and_then(|value| value.as_ref().downcast_ref::<CelList>());
    let items = list.ok_or(ExecutionError::MissingArgumentOrTarget)?.inner();
    let between = text(&args, 1)?;
    let mut out = String::new();
    for (index, item) in items.iter().enumerate() {
        let item = item.as_ref().downcast_ref::<CelString>();
        let item = item.ok_or_else(|| ExecutionError::function_error("join", "an element is no text"))?;
        if index > 0 {
            out.push_str(between);
        }
        out.push_str(item.inner());
        if out.len() > SUM_MAX {
            return Err(limit("the result of `join` is too large"));
        }
    }
    made(out)
}
