//! SQL names. Only these types print a name into SQL, and they always quote it, so a name can't become code.

use std::fmt;

/// An identifier, printed quoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotedIdent(String);

impl QuotedIdent {
    /// Takes the bare name. PostgreSQL forbids NUL in names; it is dropped here.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.replace('\0', ""))
    }
    /// The bare name.
    #[must_use]
    pub fn bare(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QuotedIdent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// A table with its schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Schema.
    pub schema: QuotedIdent,
    /// Table.
    pub table: QuotedIdent,
}

impl TableName {
    /// Takes bare names.
    #[must_use]
    pub fn new(schema: &str, table: &str) -> Self {
        Self { schema: QuotedIdent::new(schema), table: QuotedIdent::new(table) }
    }
    /// `schema.table` as a person writes it, for messages; never for SQL.
    #[must_use]
    pub fn plain(&self) -> String {
        format!("{}.{}", self.schema.bare(), self.table.bare())
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl rowstream_api::table_sink::batch::Table for TableName {
    fn of((schema, table): (&str, &str)) -> Self {
        Self::new(schema, table)
    }
}

/// A string literal, printed quoted; for the replication protocol's commands, which take no parameters.
pub struct QuotedLiteral<'a>(pub &'a str);

impl fmt::Display for QuotedLiteral<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = self.0.replace('\0', "").replace('\'', "''");
        if escaped.contains('\\') {
            write!(f, "E'{}'", escaped.replace('\\', "\\\\"))
        } else {
            write!(f, "'{escaped}'")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_cannot_be_escaped_from() {
        assert_eq!(QuotedIdent::new("a\"; drop table x; --").to_string(), "\"a\"\"; drop table x; --\"");
        assert_eq!(TableName::new("Odd", "or\"der").to_string(), "\"Odd\".\"or\"\"der\"");
        assert_eq!(QuotedLiteral("it's").to_string(), "'it''s'");
        assert_eq!(QuotedLiteral("a\\'b").to_string(), "E'a\\\\''b'");
    }
}
