//! How a table's rows are asked for.

use std::{fmt::Write as _, sync::Arc};

use rowstream_api::{
    TableSchema,
    snapshot::{Key, KeyRange, Table, TableName},
};

use crate::{
    ident::{self, QuotedIdent, QuotedLiteral},
    table::TablePlan,
    tuple::Row,
    types::Kind,
};

/// A table at its present shape.
pub struct SnapshotTable {
    /// Its plan.
    pub plan: Arc<TablePlan>,
    /// Which rows were asked for: somebody's own SQL, checked by [`super::condition`].
    pub condition: Option<String>,
}

impl PartialEq for SnapshotTable {
    fn eq(&self, other: &Self) -> bool {
        self.plan.shape == other.plan.shape && self.condition == other.condition
    }
}

impl Table for SnapshotTable {
    fn name(&self) -> TableName {
        (self.plan.shape.database.clone(), self.plan.shape.table.clone())
    }

    fn schema(&self) -> &Arc<TableSchema> {
        &self.plan.schema
    }

    fn is_chunkable(&self) -> bool {
        is_chunkable(&self.plan)
    }
}

impl SnapshotTable {
    /// All rows, in any order. ENUM and SET are asked for as numbers, so that their labels are the schema's.
    #[must_use]
    pub fn select(&self) -> String {
        let column = |column: &crate::table::ColumnPlan| {
            let name = QuotedIdent::new(&column.name);
            if matches!(column.kind, Kind::Enum(_) | Kind::Set(_)) {
                format!("CAST({name} AS UNSIGNED)")
            } else {
                name.to_string()
            }
        };
        let columns: Vec<String> = self.plan.columns.iter().map(column).collect();
        format!("SELECT {} FROM {}", columns.join(", "), self.quoted_name())
    }

    /// The first rows of a range, in the order of the key.
    #[must_use]
    pub fn select_range(&self, range: &KeyRange, rows: u32) -> String {
        let within = self.within(range);
        let joint = if within.is_empty() { " WHERE" } else { " AND" };
        // The line ends because it may end in a comment.
        let condition = self.condition.as_ref().map(|condition| format!("{joint} ({condition}\n)"));
        let (select, condition) = (self.select(), condition.unwrap_or_default());
        format!("{select}{within}{condition} ORDER BY {} LIMIT {rows}", self.key().join(", "))
    }

    /// Reads nothing, and can be prepared when `condition` is one condition on the table's rows and nothing else: what closes a
    /// parenthesis that it did not open can't be in the first place, and what is no single expression not in the second.
    #[must_use]
    pub fn select_checked(&self, condition: &str) -> String {
        let name = self.quoted_name();
        format!("SELECT 1 FROM {name} WHERE CASE WHEN {condition}\n THEN 1 END AND ({condition}\n) LIMIT 0")
    }

    /// The key of the row at `place` (from 1) of a range, whatever the condition: so chunks stay short where it holds for few rows.
    #[must_use]
    pub fn select_bound(&self, range: &KeyRange, place: u32) -> String {
        let (key, name, within) = (self.key().join(", "), self.quoted_name(), self.within(range));
        format!("SELECT {key} FROM {name}{within} ORDER BY {key} LIMIT {}, 1", place.saturating_sub(1))
    }

    /// The last key.
    #[must_use]
    pub fn select_last_key(&self) -> String {
        let (key, name) = (self.key(), self.quoted_name());
        format!("SELECT {} FROM {name} ORDER BY {} DESC LIMIT 1", key.join(", "), key.join(" DESC, "))
    }

    fn quoted_name(&self) -> ident::TableName {
        ident::TableName::new(&self.plan.shape.database, &self.plan.shape.table)
    }

    fn key(&self) -> Vec<String> {
        let key = self.plan.schema.key_columns.iter().filter_map(|index| self.plan.columns.get(*index));
        key.map(|column| QuotedIdent::new(&column.name).to_string()).collect()
    }

    fn within(&self, range: &KeyRange) -> String {
        let names = self.key();
        let after = range.after.as_ref().map(|after| beside(&names, after, '>'));
        let upto = range.upto.as_ref().map(|upto| {
            let mut branches = beside(&names, upto, '<');
            let same = names.iter().zip(upto).map(|(name, value)| format!("{name} = {value}"));
            branches.push(format!("({})", same.collect::<Vec<_>>().join(" AND ")));
            branches
        });
        let conditions = after.into_iter().chain(upto).map(|branches| format!("({})", branches.join(" OR ")));
        let conditions: Vec<String> = conditions.collect();
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
    }
}

/// The key of a row, as SQL literals.
#[must_use]
pub fn key_of(row: &Row<'_>) -> Option<Key> {
    row.plan.schema.key_columns.iter().map(|index| literal(row, *index)).collect()
}

/// Whether the table can be read in chunks: rows can be asked for after a key of these types.
#[must_use]
pub fn is_chunkable(plan: &TablePlan) -> bool {
    plan.schema.key.is_some()
        && plan.schema.key_columns.iter().filter_map(|index| plan.columns.get(*index)).all(|column| {
            matches!(
                column.kind,
                Kind::Int
                    | Kind::Unsigned
                    | Kind::UnsignedDecimal
                    | Kind::Decimal { .. }
                    | Kind::Year
                    | Kind::Date(_)
                    | Kind::Time { .. }
                    | Kind::Datetime { .. }
                    | Kind::Timestamp { .. }
                    | Kind::Text { compressed: false, .. }
                    | Kind::Bytes { compressed: false, .. }
                    | Kind::Uuid
                    | Kind::Inet4
                    | Kind::Inet6
            )
        })
}

/// A key's value as a literal that compares as the column does.
fn literal(row: &Row<'_>, index: usize) -> Option<String> {
    let column = row.plan.columns.get(index)?;
    let bytes = row.value(row.cell(index)?)?;
    let number = || bytes.try_into().ok().map(i64::from_le_bytes);
    Some(match &column.kind {
        Kind::Int | Kind::Unsigned | Kind::Year => number()?.to_string(),
        Kind::UnsignedDecimal => number()?.cast_unsigned().to_string(),
        Kind::Decimal { .. } => std::str::from_utf8(bytes).ok()?.to_owned(),
        Kind::Time { .. } => {
            let micros = number()?;
            let (sign, micros) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
            let seconds = micros / 1_000_000;
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            format!("TIME'{sign}{hours:02}:{minutes:02}:{seconds:02}.{:06}'", micros % 1_000_000)
        }
        Kind::Date(_) | Kind::Datetime { .. } | Kind::Timestamp { .. } => {
            let (year, rest) = bytes.split_first_chunk::<2>()?;
            let [month, day, hour, minute, second] = rest.first_chunk::<5>()?;
            let micros = u32::from_le_bytes(*rest.last_chunk::<4>()?);
            let date = format!("{:04}-{month:02}-{day:02}", u16::from_le_bytes(*year));
            if let Kind::Date(_) = column.kind {
                format!("'{date}'")
            } else {
                format!("'{date} {hour:02}:{minute:02}:{second:02}.{micros:06}'")
            }
        }
        Kind::Text { .. } => {
            let charset = row.plan.charset_names.get(column.source).and_then(Option::as_deref)?;
            format!("_{charset} {}", hexadecimal(bytes))
        }
        Kind::Bytes { .. } => hexadecimal(bytes),
        Kind::Uuid | Kind::Inet4 | Kind::Inet6 => QuotedLiteral(std::str::from_utf8(bytes).ok()?).to_string(),
        Kind::Float32
        | Kind::Float64
        | Kind::Bit
        | Kind::Bits
        | Kind::Enum(_)
        | Kind::Set(_)
        | Kind::Json
        | Kind::JsonText
        | Kind::Geometry
        | Kind::Point
        | Kind::Vector => return None,
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2 + 3);
    out.push_str("X'");
    for byte in bytes {
        // Writing to a String can't fail.
        let _ok = write!(out, "{byte:02x}");
    }
    out.push('\'');
    out
}

/// Rows that stand behind (`>`) or before (`<`) a key: written out, because neither server uses an index for a comparison of rows.
fn beside(names: &[String], key: &[String], side: char) -> Vec<String> {
    let pairs: Vec<(&String, &String)> = names.iter().zip(key).collect();
    let branch = |(depth, (name, value)): (usize, &(&String, &String))| {
        let equal = pairs.iter().take(depth).map(|(name, value)| format!("{name} = {value} AND "));
        format!("({}{name} {side} {value})", equal.collect::<String>())
    };
    pairs.iter().enumerate().map(branch).collect()
}
