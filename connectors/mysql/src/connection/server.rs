//! Which server answered: the two differ in SQL, in types and in how they count their history.

use mysql_async::{Conn, prelude::Queryable};
use rowstream_api::ConnectorError;

use crate::error::from_mysql;

/// MySQL (and its close relatives), or MariaDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// MySQL, Percona Server.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// A server's flavour and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// Flavour.
    pub flavour: Flavour,
    /// Major, minor and patch.
    pub version: (u16, u16, u16),
}

impl Server {
    /// Reads `VERSION()`: `9.7.4-2`, `11.8.9-MariaDB-4 from Debian-log`, `5.5.5-10.6.18-MariaDB` (behind some proxies).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let flavour = if text.contains("MariaDB") { Flavour::MariaDb } else { Flavour::MySql };
        let text = text.strip_prefix("5.5.5-").filter(|_| flavour == Flavour::MariaDb).unwrap_or(text);
        let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = numbers.split('.').map(|part| part.parse::<u16>().ok());
        let version = (parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0));
        Some(Self { flavour, version })
    }

    /// Asks the server.
    ///
    /// # Errors
    /// No answer, or one that is no version.
    pub async fn of(conn: &mut Conn) -> Result<Self, ConnectorError> {
        let text: Option<String> = conn.query_first("SELECT VERSION()").await.map_err(from_mysql)?;
        let text = text.unwrap_or_default();
        Self::parse(&text).ok_or_else(|| {
            ConnectorError::config(
                "MYSQL_VERSION",
                format!("the server's version `{text}` can't be read; expected one such as `9.7.4` or `11.8.9-MariaDB`"),
            )
        })
    }

    /// Whether this is MariaDB.
    #[must_use]
    pub fn is_mariadb(&self) -> bool {
        self.flavour == Flavour::MariaDb
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.flavour {
            Flavour::MySql => "MySQL",
            Flavour::MariaDb => "MariaDB",
        };
        let (major, minor, patch) = self.version;
        write!(f, "{name} {major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both_flavours_are_read() {
        let server = |text: &str| Server::parse(text).map(|server| server.to_string());
        assert_eq!(server("9.7.4-2").as_deref(), Some("MySQL 9.7.4"));
        assert_eq!(server("8.0.46-0ubuntu0.24.04.1").as_deref(), Some("MySQL 8.0.46"));
        assert_eq!(server("11.8.9-MariaDB-4 from Debian-log").as_deref(), Some("MariaDB 11.8.9"));
        assert_eq!(server("5.5.5-10.6.18-MariaDB").as_deref(), Some("MariaDB 10.6.18"));
        assert_eq!(server("what"), None);
    }
}
