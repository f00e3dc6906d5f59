//! Which tables are captured: patterns of `database.table`, never of the servers' own databases.

use rowstream_api::snapshot::TableName;
use serde::{Deserialize, Serialize};

use crate::source_config::TablesConfig;

/// Databases of the servers' own.
const SYSTEM: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];

/// Which tables are captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFilter {
    include: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
}

impl TableFilter {
    /// Reads the patterns.
    ///
    /// # Errors
    /// None is included, or one is not `database.table`.
    pub fn new(config: &TablesConfig) -> Result<Self, String> {
        if config.include.is_empty() {
            return Err("include must name at least one table, such as `shop.*`".to_owned());
        }
        for pattern in config.include.iter().chain(&config.exclude) {
            let (database, table) = pattern.split_once('.').unwrap_or_default();
            if database.is_empty() || table.is_empty() {
                return Err(format!("`{pattern}` is not `database.table`"));
            }
        }
        Ok(Self { include: config.include.clone(), exclude: config.exclude.clone() })
    }

    /// One table.
    #[must_use]
    pub fn of((database, table): &TableName) -> Self {
        Self { include: vec![format!("{database}.{table}")], exclude: Vec::new() }
    }

    /// Whether a table is captured.
    #[must_use]
    pub fn matches(&self, database: &str, table: &str) -> bool {
        if SYSTEM.iter().any(|system| system.eq_ignore_ascii_case(database)) {
            return false;
        }
        let name = format!("{database}.{table}");
        let any = |patterns: &[String]| patterns.iter().any(|p| glob(p.as_bytes(), name.as_bytes()));
        any(&self.include) && !any(&self.exclude)
    }

    /// Whether tables of a database can be captured.
    #[must_use]
    pub fn reaches(&self, database: &str) -> bool {
        if SYSTEM.iter().any(|system| system.eq_ignore_ascii_case(database)) {
            return false;
        }
        self.include.iter().any(|pattern| {
            let (of, _) = pattern.split_once('.').unwrap_or_default();
            glob(of.as_bytes(), database.as_bytes())
        })
    }

    /// Whether a statement, run in `database`, may change a captured table. Errs on the side of yes.
    #[must_use]
    pub fn may_concern(&self, database: &str, text: &str) -> bool {
        if SYSTEM.iter().any(|system| system.eq_ignore_ascii_case(database)) {
            return false;
        }
        self.include.iter().any(|pattern| {
            let (of, _) = pattern.split_once('.').unwrap_or_default();
            database.is_empty()
                || glob(of.as_bytes(), database.as_bytes())
                || of.contains('*')
                || text.to_ascii_lowercase().contains(&of.to_ascii_lowercase())
        })
    }
}

/// Whether `text` matches `pattern`, where `*` stands for any text. Linear: only the last star is gone back to.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| text.get(t) == Some(c)) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_tables() {
        let config =
            TablesConfig { include: vec!["shop.*".into(), "a*.b".into()], exclude: vec!["shop.x*y".into()] };
        let filter = TableFilter::new(&config).unwrap();
        assert!(filter.matches("shop", "orders") && filter.matches("abc", "b"));
        assert!(!filter.matches("abc", "bb") && !filter.matches("shop", "x123y"));
        assert!(
            filter.may_concern("shop", "insert into t") && filter.may_concern("other", "insert into shop.t")
        );
        assert!(filter.reaches("shop") && filter.reaches("abc") && !filter.reaches("other"));
        let all = TableFilter::new(&TablesConfig { include: vec!["*.*".into()], exclude: vec![] }).unwrap();
        assert!(!all.matches("mysql", "user") && !all.reaches("mysql"));
        assert!(TableFilter::new(&TablesConfig { include: vec!["orders".into()], exclude: vec![] }).is_err());
    }
}
