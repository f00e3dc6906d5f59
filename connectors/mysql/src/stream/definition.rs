//! What a statement defines: which tables and databases it makes, changes, renames, empties and drops.
//!
//! Only names are read, and what has to be passed to get to them: a statement's place for a name is known from its first words, and
//! an `ALTER TABLE` is searched for the two clauses that name another table. Nothing is learned of columns. What is neither a
//! table nor a database (users, grants, routines, views, sequences, temporary tables) is no definition here, so that nothing of it is
//! ever passed on.

use super::lexer::{Lexer, Quoting, Token};
use crate::ident::TableName;

/// A table: database and name.
pub type Name = (String, String);

/// What happens to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Create,
    /// Its columns, indexes, options or name change.
    Alter,
    /// It is dropped.
    Drop,
    /// Its rows are.
    Truncate,
}

/// What a part of a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A database is made, changed or dropped.
    Database(String),
    /// A table.
    Table {
        /// What happens to it.
        action: Action,
        /// Its database and name, after the statement.
        name: Name,
        /// What it was called before, where that changed.
        was: Option<Name>,
    },
}

impl Target {
    /// Its database.
    #[must_use]
    pub fn database(&self) -> &str {
        match self {
            Self::Database(name) | Self::Table { name: (name, _), .. } => name,
        }
    }
}

/// A statement, or one table's part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is about.
    pub target: Target,
    /// The statement for this alone, where the statement names several tables.
    pub text: Option<String>,
}

/// How a statement's names are read.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The database of names that name none.
    pub database: &'a str,
    /// Quotes.
    pub quoting: Quoting,
    /// The server stores names in lower case (`lower_case_table_names`), however they are written.
    pub lower_case: bool,
}

/// The parts of a statement; none of one that defines nothing.
#[must_use]
pub fn parse(text: &str, context: &Context<'_>) -> Vec<Part> {
    let mut reading = Reading { lexer: Lexer::new(text, context.quoting), context };
    reading.lexer.skip_settings();
    let verb = reading.lexer.word().unwrap_or_default().to_ascii_uppercase();
    let parts = match verb.as_str() {
        "CREATE" => reading.create(),
        "ALTER" => reading.alter(),
        "DROP" => reading.drop(),
        "RENAME" => reading.rename(),
        "TRUNCATE" => reading.truncate(),
        _ => None,
    };
    parts.unwrap_or_default()
}

/// Whether the text may hold a password: that of the server behind a table of one of the engines whose tables are elsewhere.
#[must_use]
pub fn may_hold_secret(text: &str, quoting: Quoting) -> bool {
    let mut lexer = Lexer::new(text, quoting);
    while let Some(token) = lexer.token() {
        let Token::Word(word) = token else { continue };
        let mut value = lexer;
        value.eat_sign('=');
        let value = value.token();
        let is_secret = match word.to_ascii_lowercase().as_str() {
            "connection" | "option_list" => matches!(value, Some(Token::Text(_) | Token::Quoted(_))),
            "engine" => matches!(value, Some(Token::Word(name)) if is_elsewhere(name)),
            // Spider's.
            "comment" => {
                matches!(value, Some(Token::Text(text)) if text.to_ascii_lowercase().contains("password \""))
            }
            _ => false,
        };
        if is_secret {
            return true;
        }
    }
    false
}

/// Whether tables of this engine are elsewhere, and say in their options how to get there.
fn is_elsewhere(engine: &str) -> bool {
    ["federated", "connect", "spider", "s3"].iter().any(|name| name.eq_ignore_ascii_case(engine))
}

struct Reading<'a> {
    lexer: Lexer<'a>,
    context: &'a Context<'a>,
}

impl Reading<'_> {
    fn create(&mut self) -> Option<Vec<Part>> {
        self.lexer.eat(&["OR", "REPLACE"]);
        while self.lexer.eat_one(&["ONLINE", "OFFLINE", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR"]) {}
        if self.lexer.eat(&["TABLE"]) {
            self.lexer.eat(&["IF", "NOT", "EXISTS"]);
            let name = self.table()?;
            return one(Action::Create, name);
        }
        if self.lexer.eat(&["INDEX"]) {
            self.lexer.eat(&["IF", "NOT", "EXISTS"]);
            return self.index();
        }
        self.database(&["IF", "NOT", "EXISTS"])
    }

    fn alter(&mut self) -> Option<Vec<Part>> {
        while self.lexer.eat_one(&["ONLINE", "OFFLINE", "IGNORE"]) {}
        if !self.lexer.eat(&["TABLE"]) {
            return self.database(&[]);
        }
        self.lexer.eat(&["IF", "EXISTS"]);
        let name = self.table()?;
        self.wait();
        let (renamed, exchanged) = self.clauses();
        let was = renamed.is_some().then(|| name.clone());
        let altered = |name, was| Target::Table { action: Action::Alter, name, was };
        let mut parts = vec![Part { target: altered(renamed.unwrap_or(name), was), text: None }];
        parts.extend(exchanged.map(|name| Part { target: altered(name, None), text: None }));
        Some(parts)
    }

    /// Of the clauses of an `ALTER TABLE`: the table's new name, and the table that it exchanges a partition with.
    fn clauses(&mut self) -> (Option<Name>, Option<Name>) {
        let (mut renamed, mut exchanged, mut depth) = (None, None, 0_u32);
        let mut begins = true;
        loop {
            if begins && self.lexer.eat(&["RENAME"]) {
                if !self.lexer.eat_one(&["COLUMN", "INDEX", "KEY"]) {
                    let _has_word = self.lexer.eat_one(&["TO", "AS"]) || self.lexer.eat_sign('=');
                    renamed = self.table().or(renamed);
                }
            } else if begins && self.lexer.eat(&["EXCHANGE", "PARTITION"]) {
                self.lexer.name();
                if self.lexer.eat(&["WITH", "TABLE"]) {
                    exchanged = self.table();
                }
            }
            let Some(token) = self.lexer.token() else { return (renamed, exchanged) };
            match token {
                Token::Sign('(') => depth += 1,
                Token::Sign(')') => depth = depth.saturating_sub(1),
                Token::Sign(_) | Token::Word(_) | Token::Quoted(_) | Token::Text(_) => {}
            }
            begins = depth == 0 && token == Token::Sign(',');
        }
    }

    fn drop(&mut self) -> Option<Vec<Part>> {
        if self.lexer.eat(&["INDEX"]) {
            self.lexer.eat(&["IF", "EXISTS"]);
            return self.index();
        }
        if !self.lexer.eat_one(&["TABLE", "TABLES"]) {
            return self.database(&["IF", "EXISTS"]);
        }
        let condition = if self.lexer.eat(&["IF", "EXISTS"]) { "IF EXISTS " } else { "" };
        let mut names = Vec::new();
        loop {
            names.push(self.table()?);
            self.wait();
            if !self.lexer.eat_sign(',') {
                break;
            }
        }
        let several = names.len() > 1;
        let part = |name: Name| Part {
            text: several.then(|| format!("DROP TABLE {condition}{}", TableName::new(&name.0, &name.1))),
            target: Target::Table { action: Action::Drop, name, was: None },
        };
        Some(names.into_iter().map(part).collect())
    }

    fn rename(&mut self) -> Option<Vec<Part>> {
        if !self.lexer.eat_one(&["TABLE", "TABLES"]) {
            return None;
        }
        self.lexer.eat(&["IF", "EXISTS"]);
        let mut pairs = Vec::new();
        loop {
            let was = self.table()?;
            self.wait();
            if !self.lexer.eat(&["TO"]) {
                return None;
            }
            pairs.push((was, self.table()?));
            if !self.lexer.eat_sign(',') {
                break;
            }
        }
        let several = pairs.len() > 1;
        let part = |(was, name): (Name, Name)| Part {
            text: several.then(|| {
                let (from, to) = (TableName::new(&was.0, &was.1), TableName::new(&name.0, &name.1));
                format!("RENAME TABLE {from} TO {to}")
            }),
            target: Target::Table { action: Action::Alter, name, was: Some(was) },
        };
        Some(pairs.into_iter().map(part).collect())
    }

    fn truncate(&mut self) -> Option<Vec<Part>> {
        self.lexer.eat(&["TABLE"]);
        let name = self.table()?;
        one(Action::Truncate, name)
    }

    /// `name … ON table`
    fn index(&mut self) -> Option<Vec<Part>> {
        self.lexer.name()?;
        while !self.lexer.eat(&["ON"]) {
            self.lexer.token()?;
        }
        let name = self.table()?;
        one(Action::Alter, name)
    }

    /// `DATABASE name`; `ALTER DATABASE` may leave the name out.
    fn database(&mut self, condition: &[&str]) -> Option<Vec<Part>> {
        const OPTIONS: [&str; 8] =
            ["CHARACTER", "CHARSET", "COLLATE", "DEFAULT", "ENCRYPTION", "READ", "COMMENT", "UPGRADE"];
        if !self.lexer.eat_one(&["DATABASE", "SCHEMA"]) {
            return None;
        }
        self.lexer.eat(condition);
        let mut ahead = self.lexer;
        let name = match ahead.word() {
            Some(word) if OPTIONS.iter().any(|option| option.eq_ignore_ascii_case(word)) => {
                self.context.database.to_owned()
            }
            Some(_) | None => self.lexer.name()?.into_owned(),
        };
        let target = Target::Database(self.stored(name));
        Some(vec![Part { target, text: None }])
    }

    /// `table` or `database.table`
    fn table(&mut self) -> Option<Name> {
        let first = self.lexer.name()?.into_owned();
        let (database, table) = if self.lexer.eat_sign('.') {
            (first, self.lexer.name()?.into_owned())
        } else {
            (self.context.database.to_owned(), first)
        };
        Some((self.stored(database), self.stored(table)))
    }

    fn stored(&self, name: String) -> String {
        if self.context.lower_case { name.to_lowercase() } else { name }
    }

    /// MariaDB's `WAIT n` and `NOWAIT`.
    fn wait(&mut self) {
        if self.lexer.eat(&["WAIT"]) {
            self.lexer.token();
        } else {
            self.lexer.eat(&["NOWAIT"]);
        }
    }
}

fn one(action: Action, name: Name) -> Option<Vec<Part>> {
    Some(vec![Part { target: Target::Table { action, name, was: None }, text: None }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let context = Context { database: "d", quoting: Quoting::default(), lower_case: false };
        read_in(text, &context)
    }

    fn read_in(text: &str, context: &Context<'_>) -> Vec<String> {
        let dotted = |(database, table): &Name| format!("{database}.{table}");
        let line = |part: Part| {
            let text = part.text.map_or_else(String::new, |text| format!(": {text}"));
            match part.target {
                Target::Database(name) => format!("database {name}{text}"),
                Target::Table { action, name, was } => {
                    let was = was.map_or_else(String::new, |was| format!(" was {}", dotted(&was)));
                    format!("{action:?} {}{was}{text}", dotted(&name))
                }
            }
        };
        parse(text, context).into_iter().map(line).collect()
    }

    #[test]
    fn tables_are_named() {
        for (text, expected) in [
            ("CREATE TABLE t (a INT)", "Create d.t"),
            ("/* ApplicationName=x */ create table if not exists `s`.`a``b` like o", "Create s.a`b"),
            ("CREATE OR REPLACE TABLE t SELECT 1", "Create d.t"),
            ("ALTER TABLE \"T\" ADD c VARCHAR(9) DEFAULT ', rename to x', ADD INDEX (c)", "Alter d.T"),
            ("ALTER ONLINE IGNORE TABLE IF EXISTS t NOWAIT RENAME COLUMN a TO b", "Alter d.t"),
            ("alter table t ADD x INT, RENAME AS s.u", "Alter s.u was d.t"),
            ("ALTER TABLE t RENAME u", "Alter d.u was d.t"),
            ("CREATE UNIQUE INDEX i USING BTREE ON s . t (a)", "Alter s.t"),
            ("DROP INDEX `on` ON t", "Alter d.t"),
            ("DROP TABLE IF EXISTS `t` /* generated by server */", "Drop d.t"),
            ("RENAME TABLE a TO s.b", "Alter s.b was d.a"),
            ("TRUNCATE t", "Truncate d.t"),
            ("truncate table/* x */shop . t;", "Truncate shop.t"),
            ("SET STATEMENT max_statement_time=0, x='for' FOR TRUNCATE TABLE t", "Truncate d.t"),
            ("/*!40000 ALTER TABLE t DISABLE KEYS */", "Alter d.t"),
            ("/*M!100100 drop table t */", "Drop d.t"),
            ("CREATE DATABASE IF NOT EXISTS x", "database x"),
            ("DROP SCHEMA `x`", "database x"),
            ("ALTER DATABASE CHARACTER SET utf8mb4", "database d"),
        ] {
            assert_eq!(read(text), [expected], "{text}");
        }
    }

    #[test]
    fn several_tables_are_told_apart() {
        assert_eq!(
            read("DROP TABLES IF EXISTS a, s.`b` CASCADE"),
            ["Drop d.a: DROP TABLE IF EXISTS `d`.`a`", "Drop s.b: DROP TABLE IF EXISTS `s`.`b`"]
        );
        assert_eq!(
            read("rename table `t` to `_t_del`, `_t_gho` to `t`"),
            [
                "Alter d._t_del was d.t: RENAME TABLE `d`.`t` TO `d`.`_t_del`",
                "Alter d.t was d._t_gho: RENAME TABLE `d`.`_t_gho` TO `d`.`t`"
            ]
        );
        assert_eq!(read("ALTER TABLE p EXCHANGE PARTITION x WITH TABLE q"), ["Alter d.p", "Alter d.q"]);
    }

    #[test]
    fn what_is_no_table_is_nothing() {
        for text in [
            "CREATE USER u IDENTIFIED BY 'TABLE t'",
            "ALTER USER u IDENTIFIED BY 'x'",
            "RENAME USER a TO b",
            "GRANT ALL ON t TO u",
            "SET PASSWORD FOR u = 'x'",
            "CREATE TEMPORARY TABLE t (a INT)",
            "DROP TEMPORARY TABLE t",
            "CREATE SEQUENCE s",
            "DROP SEQUENCE s",
            "CREATE OR REPLACE VIEW v AS SELECT * FROM t",
            "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET NEW.a = 1",
            "CREATE DEFINER=`r`@`%` PROCEDURE p() DROP TABLE t",
            "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (PASSWORD 'x')",
            "DROP TABLE",
            "ALTER TABLE",
            "RENAME TABLE a",
            "CREATE TABLE IF",
            "",
        ] {
            let found = read(text);
            assert!(found.is_empty() || text == "CREATE TABLE IF", "{text}: {found:?}");
        }
    }

    #[test]
    fn names_as_the_server_stores_them() {
        let context = Context { database: "d", quoting: Quoting::of(4), lower_case: true };
        assert_eq!(read_in("ALTER TABLE \"Shop\".\"Orders\" ADD x INT", &context), ["Alter shop.orders"]);
    }

    #[test]
    fn passwords_of_other_servers_are_noticed() {
        let holds = |text| may_hold_secret(text, Quoting::default());
        assert!(holds("CREATE TABLE t (a INT) ENGINE=FEDERATED CONNECTION='mysql://u:p@h/d/t'"));
        assert!(holds("ALTER TABLE t CONNECTION = \"mysql://u:p@h/d/t\""));
        assert!(holds("CREATE TABLE t (a INT) engine spider COMMENT='password \"p\"'"));
        assert!(holds("ALTER TABLE t COMMENT 'host \"h\", password \"p\"'"));
        assert!(!holds("ALTER TABLE users ADD password VARCHAR(60), ADD `connection` INT"));
        assert!(!holds("CREATE TABLE t (connection VARCHAR(9) DEFAULT 'engine=spider') ENGINE=InnoDB"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(words in proptest::collection::vec(WORDS, 0..12), mode: u64, lower_case: bool) {
            let text = words.join(" ");
            let context = Context { database: "d", quoting: Quoting::of(mode), lower_case };
            for part in parse(&text, &context) {
                proptest::prop_assert!(!part.target.database().is_empty() || text.contains(['`', '"']));
            }
            let _withheld = may_hold_secret(&text, context.quoting);
        }
    }

    const WORDS: &str = "alter|create|drop|rename|table|index|database|if|exists|on|to|set statement|for|exchange partition|,|\\(|\\)|=|\\.|`\\PC{0,4}|\"\\PC{0,4}|'\\PC{0,4}|/\\*!?|\\*/|--|#|\\PC{0,6}";
}
