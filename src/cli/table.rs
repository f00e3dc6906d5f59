//! Aligned columns for people. Width is counted in characters; the last column is not padded.

use std::io::{self, Write};

/// Rows under a heading.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub(super) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row. Line breaks in a cell become spaces, so that a row stays a line.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| cell.replace(['\n', '\r', '\t'], " ")).collect());
    }

    /// Whether anything stands under the heading.
    #[must_use]
    pub(super) fn has_rows(&self) -> bool {
        self.rows.len() > 1
    }

    /// Writes it.
    ///
    /// # Errors
    /// The output can't be written.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(out, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_rows_are_lines() {
        let mut table = Table::new(&["NAME", "STATE", "WHY"]);
        table.row(["shöp".into(), "RUNNING".into(), String::new()]);
        table.row(["a-long-name".into(), "FAILED".into(), "two\nlines".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let expected = "NAME         STATE    WHY\nshöp         RUNNING\na-long-name  FAILED   two lines\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
