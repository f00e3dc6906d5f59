//! A statement's text as tokens. Comments are left out, but not the words in those that a server runs (`/*! … */`).
//!
//! Any text gives tokens, and each call moves on, so that reading ends. What a session may quote, and how, is in the statement's
//! own SQL mode ([`Quoting`]): in a wrong one a text could pass for words.

use std::borrow::Cow;

/// What the statement's SQL mode says of quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quoting {
    /// `ANSI_QUOTES`: what stands in double quotes is a name.
    pub ansi: bool,
    /// `NO_BACKSLASH_ESCAPES`: a backslash in a text is one.
    pub plain_backslash: bool,
}

impl Quoting {
    /// As the server's bits say.
    #[must_use]
    pub fn of(sql_mode: u64) -> Self {
        const ANSI_QUOTES: u64 = 4;
        const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;
        Self { ansi: sql_mode & ANSI_QUOTES != 0, plain_backslash: sql_mode & NO_BACKSLASH_ESCAPES != 0 }
    }
}

/// A token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword, a name without quotes, a number.
    Word(&'a str),
    /// In backticks or double quotes, with them. Where a name is due it is one, in every mode.
    Quoted(&'a str),
    /// A text in single quotes, with them.
    Text(&'a str),
    /// A sign.
    Sign(char),
}

/// Where the reading of a text is.
#[derive(Debug, Clone, Copy)]
pub struct Lexer<'a> {
    rest: &'a str,
    quoting: Quoting,
}

impl<'a> Lexer<'a> {
    /// At the text's beginning.
    #[must_use]
    pub fn new(text: &'a str, quoting: Quoting) -> Self {
        Self { rest: text, quoting }
    }

    /// What was not read.
    #[must_use]
    pub fn rest(&self) -> &'a str {
        self.rest
    }

    /// The next token.
    pub fn token(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let first = self.rest.chars().next()?;
        let (end, of): (usize, fn(&'a str) -> Token<'a>) = match first {
            '`' => (self.quoted_end('`', false), Token::Quoted),
            '"' => (self.quoted_end('"', !self.quoting.ansi && !self.quoting.plain_backslash), Token::Quoted),
            '\'' => (self.quoted_end('\'', !self.quoting.plain_backslash), Token::Text),
            c if is_of_word(c) => {
                (self.rest.find(|c| !is_of_word(c)).unwrap_or(self.rest.len()), Token::Word)
            }
            c => (c.len_utf8(), |text| Token::Sign(text.chars().next().unwrap_or_default())),
        };
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(of(token))
    }

    /// The next token, if it is a word.
    pub fn word(&mut self) -> Option<&'a str> {
        let mut ahead = *self;
        let Some(Token::Word(word)) = ahead.token() else { return None };
        *self = ahead;
        Some(word)
    }

    /// Passes these keywords if they are next, all of them.
    pub fn eat(&mut self, keywords: &[&str]) -> bool {
        let mut ahead = *self;
        let found = keywords
            .iter()
            .all(|keyword| ahead.word().is_some_and(|word| word.eq_ignore_ascii_case(keyword)));
        if found {
            *self = ahead;
        }
        found
    }

    /// Passes one of these keywords if it is next.
    pub fn eat_one(&mut self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.eat(&[keyword]))
    }

    /// Passes a sign if it is next.
    pub fn eat_sign(&mut self, sign: char) -> bool {
        let mut ahead = *self;
        let found = ahead.token() == Some(Token::Sign(sign));
        if found {
            *self = ahead;
        }
        found
    }

    /// Passes MariaDB's `SET STATEMENT name = value, … FOR` in front of a statement.
    pub fn skip_settings(&mut self) {
        if self.eat(&["SET", "STATEMENT"]) {
            while !self.eat(&["FOR"]) && self.token().is_some() {}
        }
    }

    /// The next token, if it can be a name.
    pub fn name(&mut self) -> Option<Cow<'a, str>> {
        let mut ahead = *self;
        let name = match ahead.token()? {
            Token::Word(word) => Cow::Borrowed(word),
            Token::Quoted(quoted) => unquoted(quoted),
            Token::Text(_) | Token::Sign(_) => return None,
        };
        *self = ahead;
        Some(name)
    }

    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let comment = |open: &str, close: &str| {
                let inner = self.rest.strip_prefix(open)?;
                Some(inner.split_once(close).map_or("", |(_, rest)| rest))
            };
            let run = || {
                let inner = self.rest.strip_prefix("/*!").or_else(|| self.rest.strip_prefix("/*M!"))?;
                Some(inner.trim_start_matches(|c: char| c.is_ascii_digit()))
            };
            let next = run()
                .or_else(|| self.rest.strip_prefix("*/"))
                .or_else(|| comment("/*", "*/"))
                .or_else(|| comment("-- ", "\n"))
                .or_else(|| comment("#", "\n"));
            match next {
                Some(rest) => self.rest = rest,
                None => return,
            }
        }
    }

    /// Where what begins with this quote ends. A doubled quote is one in the text.
    fn quoted_end(&self, quote: char, escapes: bool) -> usize {
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c == '\\' && escapes {
                chars.next();
            } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
                return at + c.len_utf8();
            }
        }
        self.rest.len()
    }
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '@') || !c.is_ascii() && !c.is_whitespace()
}

fn unquoted(quoted: &str) -> Cow<'_, str> {
    for quote in ['`', '"'] {
        if let Some(inner) = quoted.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            let doubled = format!("{quote}{quote}");
            return if inner.contains(&doubled) {
                Cow::Owned(inner.replace(&doubled, quote.encode_utf8(&mut [0; 4])))
            } else {
                Cow::Borrowed(inner)
            };
        }
    }
    Cow::Borrowed(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str, quoting: Quoting) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(text, quoting);
        std::iter::from_fn(|| lexer.token()).collect()
    }

    #[test]
    fn quotes_and_comments() {
        use Token::{Quoted, Sign, Text, Word};
        let text = "/* a */ALTER/*!50100 TABLE*/`a``b`.\"c\"# x\n-- y\nö='it''s \\' x',1--1";
        let expected = vec![
            Word("ALTER"),
            Word("TABLE"),
            Quoted("`a``b`"),
            Sign('.'),
            Quoted("\"c\""),
            Word("ö"),
            Sign('='),
            Text("'it''s \\' x'"),
            Sign(','),
            Word("1"),
            Sign('-'),
            Sign('-'),
            Word("1"),
        ];
        assert_eq!(tokens(text, Quoting::default()), expected);
        let plain = Quoting::of(1 << 20);
        assert_eq!(tokens(r"'a\' b", plain), [Text(r"'a\'"), Word("b")]);
        assert_eq!(tokens(r#""a\"" b"#, Quoting::default()), [Quoted(r#""a\"""#), Word("b")]);
        assert_eq!(tokens(r#""a\" b"#, Quoting::of(4)), [Quoted(r#""a\""#), Word("b")]);
    }

    #[test]
    fn what_is_not_closed_ends() {
        for text in ["`", "'", "\"a", "/* x", "'\\", "`a``", "*/", "/*!", "--"] {
            assert!(tokens(text, Quoting::default()).len() <= 2, "{text}");
        }
    }
}
