//! What a statement in the binlog means for us. No SQL is parsed: the first words tell, and what they do not tell is not used.

use std::borrow::Cow;

/// A statement's meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `BEGIN`
    Begin,
    /// `COMMIT`, which ends transactions on tables without transactions.
    Commit,
    /// `ROLLBACK`, of a transaction that had changed such a table.
    Rollback,
    /// `ROLLBACK TO`
    RollbackTo,
    /// `SAVEPOINT`, and what else changes nothing.
    Nothing,
    /// `XA START` and the transaction's name.
    XaStart(String),
    /// `XA END`
    XaEnd,
    /// `XA COMMIT` and the transaction's name.
    XaCommit(String),
    /// `XA ROLLBACK` and the transaction's name.
    XaRollback(String),
    /// `TRUNCATE` of a table: database, if it is named, and table.
    Truncate(Option<String>, String),
    /// A change of rows as a statement: the rows are not in the binlog.
    Rows(&'static str),
    /// Anything else: definitions, grants.
    Other,
}

/// Reads a statement's first words.
#[must_use]
pub fn classify(text: &[u8]) -> Statement {
    let text = String::from_utf8_lossy(text);
    let mut words = Words { rest: &text };
    let first = words.next().unwrap_or_default();
    let verb = first.to_ascii_uppercase();
    match verb.as_str() {
        "BEGIN" => Statement::Begin,
        "COMMIT" => Statement::Commit,
        "ROLLBACK" => match words.next() {
            Some(word) if word.eq_ignore_ascii_case("to") => Statement::RollbackTo,
            Some(_) | None => Statement::Rollback,
        },
        "SAVEPOINT" | "RELEASE" | "FLUSH" => Statement::Nothing,
        "XA" => xa(&mut words),
        "TRUNCATE" => truncate(&mut words),
        "INSERT" => Statement::Rows("INSERT"),
        "REPLACE" => Statement::Rows("REPLACE"),
        "UPDATE" => Statement::Rows("UPDATE"),
        "DELETE" => Statement::Rows("DELETE"),
        "LOAD" => Statement::Rows("LOAD DATA"),
        "CALL" => Statement::Rows("CALL"),
        "WITH" => Statement::Rows("WITH"),
        _ => Statement::Other,
    }
}

/// Whether a statement may change the columns that a table of this name has. Errs on the side of yes.
#[must_use]
pub fn may_define(text: &[u8], table: &str) -> bool {
    if classify(text) != Statement::Other {
        return false;
    }
    // A name that can be written in more ways than one.
    if !table.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'-' | b' ')) {
        return true;
    }
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let mut words = Words { rest: &text };
    let of_database = matches!(
        (words.next(), words.next()),
        (Some("create" | "drop" | "alter"), Some("database" | "schema"))
    );
    of_database || has_name(&text, &table.to_ascii_lowercase())
}

/// Whether the name stands somewhere as a whole.
fn has_name(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
    text.match_indices(name).any(|(at, _)| {
        let (before, rest) = text.split_at_checked(at).unwrap_or_default();
        let after = rest.get(name.len()..).unwrap_or_default();
        !before.ends_with(part) && !after.starts_with(part)
    })
}

fn xa(words: &mut Words<'_>) -> Statement {
    let verb = words.next().unwrap_or_default().to_ascii_uppercase();
    let name = words.rest.trim().trim_end_matches(';').trim();
    let name = name.get(..name.to_ascii_lowercase().find(" one phase").unwrap_or(name.len())).unwrap_or(name);
    // `X'7831',X'',1`: the server always writes all three, in this form.
    let name: String = name.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    let name = name.replace("x'", "X'");
    match verb.as_str() {
        "START" | "BEGIN" => Statement::XaStart(name),
        "END" => Statement::XaEnd,
        "COMMIT" => Statement::XaCommit(name),
        "ROLLBACK" => Statement::XaRollback(name),
        _ => Statement::Nothing,
    }
}

fn truncate(words: &mut Words<'_>) -> Statement {
    let Some(mut name) = words.next() else { return Statement::Other };
    if name.eq_ignore_ascii_case("table") {
        let Some(next) = words.next() else { return Statement::Other };
        name = next;
    }
    let first = unquoted(name).into_owned();
    match words.punctuation('.') {
        false => Statement::Truncate(None, first),
        true => match words.next() {
            Some(table) => Statement::Truncate(Some(first), unquoted(table).into_owned()),
            None => Statement::Other,
        },
    }
}

fn unquoted(word: &str) -> Cow<'_, str> {
    for quote in ['`', '"'] {
        if let Some(inner) = word.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            let doubled = format!("{quote}{quote}");
            return if inner.contains(&doubled) {
                Cow::Owned(inner.replace(&doubled, quote.encode_utf8(&mut [0; 4])))
            } else {
                Cow::Borrowed(inner)
            };
        }
    }
    Cow::Borrowed(word)
}

/// Words and quoted names, comments left out.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
            let after = |open: &str, close: &str| {
                let inner = self.rest.strip_prefix(open)?;
                // `/*! … */` holds what a server runs.
                if inner.starts_with('!') {
                    return inner
                        .trim_start_matches(|c: char| c == '!' || c == 'M' || c.is_ascii_digit())
                        .into();
                }
                Some(inner.split_once(close).map_or("", |(_, rest)| rest))
            };
            let next = after("/*", "*/").or_else(|| after("-- ", "\n")).or_else(|| after("#", "\n"));
            match next {
                Some(rest) => self.rest = rest,
                None => return,
            }
        }
    }

    fn punctuation(&mut self, c: char) -> bool {
        self.skip_blank();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn next(&mut self) -> Option<&'a str> {
        self.skip_blank();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '`' | '"'));
        let end = match quote {
            Some(quote) => {
                let mut chars = self.rest.char_indices().skip(1).peekable();
                loop {
                    match chars.next() {
                        Some((_, c))
                            if c == quote && chars.peek().is_some_and(|(_, next)| *next == quote) =>
                        {
                            chars.next();
                        }
                        Some((at, c)) if c == quote => break at + c.len_utf8(),
                        Some(_) => {}
                        None => break self.rest.len(),
                    }
                }
            }
            None => {
                let stops =
                    |c: char| c.is_whitespace() || matches!(c, '.' | ';' | ',' | '(' | ')' | '/' | '`' | '"');
                self.rest.find(stops).unwrap_or(self.rest.len())
            }
        };
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_recognised_by_the_name() {
        for (text, expected) in [
            ("ALTER TABLE `Orders` ADD x INT", true),
            ("rename table a to shop.orders", true),
            ("DROP TABLE IF EXISTS `orders` /* generated by server */", true),
            ("/* x */ DROP DATABASE shop", true),
            ("CREATE TABLE other (a INT)", false),
            ("CREATE TABLE old_orders (a INT)", false),
            ("INSERT INTO orders VALUES (1)", false),
            ("TRUNCATE orders", false),
            ("BEGIN", false),
        ] {
            assert_eq!(may_define(text.as_bytes(), "orders"), expected, "{text}");
        }
        assert!(may_define(b"CREATE TABLE other (a INT)", "b\u{e4}r"));
    }

    #[test]
    fn the_first_words_tell() {
        let truncate =
            |db: Option<&str>, table: &str| Statement::Truncate(db.map(str::to_owned), table.to_owned());
        for (text, expected) in [
            ("BEGIN", Statement::Begin),
            ("/* app */ insert into t values (1)", Statement::Rows("INSERT")),
            ("TRUNCATE TABLE `a``b`.`c`", truncate(Some("a`b"), "c")),
            ("truncate t", truncate(None, "t")),
            ("TRUNCATE table/* x */shop . t;", truncate(Some("shop"), "t")),
            ("ROLLBACK TO `sp`", Statement::RollbackTo),
            ("XA START X'7831',X'',1", Statement::XaStart("X'7831',X'',1".into())),
            ("XA COMMIT X'7831',X'',1", Statement::XaCommit("X'7831',X'',1".into())),
            ("XA COMMIT X'7831',X'',1 ONE PHASE", Statement::XaCommit("X'7831',X'',1".into())),
            ("CREATE TABLE truncate (a int)", Statement::Other),
            ("/*!40000 delete from t */", Statement::Rows("DELETE")),
            ("", Statement::Other),
            ("`", Statement::Other),
        ] {
            assert_eq!(classify(text.as_bytes()), expected, "{text}");
        }
    }
}
