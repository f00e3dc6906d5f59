//! How far a snapshot is, for people: gauges that metrics and status show.
//!
//! What is left is the server's own estimate of the unread tables, which may be old or missing; what is done is counted. So percent and
//! the time that is left are estimates, and no more is claimed.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{database::TableName, progress::Progress};
use crate::source::Gauges;

/// A rate is of this much time, or more.
const RATE_OF: Duration = Duration::from_secs(5);

/// Rows that a snapshot has still to read, as the server estimates them, and the gauges that tell of it.
pub(super) struct Meter {
    gauges: Gauges,
    estimates: Vec<(TableName, u64)>,
    tables: usize,
    /// Since when rows are counted for the rate, and how many were delivered then.
    since: (Instant, u64),
    rate: Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn float(n: u64) -> f64 {
    n as f64
}

impl Meter {
    pub(super) fn new<S>(progress: &Progress<S>, gauges: &Gauges) -> Self {
        gauges.set("snapshot_running", 1.0);
        if gauges.values().iter().any(|(name, _)| *name == "snapshot_percent") {
            // An earlier snapshot's.
            gauges.set("snapshot_percent", 0.0);
        }
        let meter = Self {
            gauges: gauges.clone(),
            estimates: Vec::new(),
            tables: progress.todo.len(),
            since: (Instant::now(), progress.rows),
            rate: None,
        };
        meter.show(progress);
        meter
    }

    /// What the server says of the tables; shown with the next rows.
    pub(super) fn expect(&mut self, estimates: Vec<(TableName, u64)>) {
        self.estimates = estimates;
    }

    /// Rows were delivered, or a table is done.
    pub(super) fn delivered<S>(&mut self, progress: &Progress<S>) {
        let (since, rows) = self.since;
        let elapsed = since.elapsed();
        if elapsed >= RATE_OF {
            self.rate = Some(float(progress.rows.saturating_sub(rows)) / elapsed.as_secs_f64());
            self.since = (Instant::now(), progress.rows);
        }
        self.show(progress);
    }

    /// Rows that are left; `None` while the server knows nothing of a table.
    fn left<S>(&self, progress: &Progress<S>) -> Option<u64> {
        let of = |table: &TableName| self.estimates.iter().find(|(name, _)| name == table).map(|(_, n)| *n);
        let left = progress.todo.iter().map(of).collect::<Option<Vec<u64>>>()?;
        let read = left.first().map_or(0, |first| progress.table_rows.min(*first));
        Some(left.iter().sum::<u64>() - read)
    }

    fn show<S>(&self, progress: &Progress<S>) {
        let tables = |n: usize| float(u64::try_from(n).unwrap_or(u64::MAX));
        self.gauges.set("snapshot_tables_total", tables(self.tables));
        self.gauges.set("snapshot_tables_done", tables(self.tables.saturating_sub(progress.todo.len())));
        self.gauges.set("snapshot_rows", float(progress.rows));
        let tables = format!("{} of {} tables", self.tables.saturating_sub(progress.todo.len()), self.tables);
        let Some(left) = self.left(progress) else {
            self.gauges.note("snapshot", Some(format!("snapshot: {tables}, {} rows", progress.rows)));
            return;
        };
        let total = progress.rows + left;
        self.gauges.set("snapshot_rows_estimated", float(total));
        let part = if total == 0 { 1.0 } else { float(progress.rows) / float(total) };
        // Not before everything is delivered, whatever was estimated.
        let percent = if progress.todo.is_empty() { 100.0 } else { (part * 100.0).min(99.9) };
        self.gauges.set("snapshot_percent", percent);
        let mut note = format!("snapshot: {percent:.1} % of about {total} rows, {tables}");
        if let Some(rate) = self.rate.filter(|rate| *rate > 0.0) {
            let eta = float(left) / rate;
            self.gauges.set("snapshot_rows_per_second", rate);
            self.gauges.set("snapshot_eta_seconds", eta);
            // Writing to a String can't fail.
            let _ok = write!(note, ", {rate:.0} rows/s, about {eta:.0} s left");
        }
        self.gauges.note("snapshot", Some(note));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.gauges.note("snapshot", None);
        self.gauges.set("snapshot_running", 0.0);
        self.gauges.set("snapshot_rows_per_second", 0.0);
        self.gauges.set("snapshot_eta_seconds", 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_of_what_is_done_and_what_the_server_thinks_is_left() {
        let gauges = Gauges::default();
        let get = |name: &str| gauges.values().into_iter().find(|(n, _)| *n == name).map(|(_, v)| v);
        let table = |name: &str| ("s".to_owned(), name.to_owned());
        let mut progress = Progress::<()>::of(vec![table("a"), table("b")]);
        let mut meter = Meter::new(&progress, &gauges);
        assert_eq!((get("snapshot_running"), get("snapshot_percent")), (Some(1.0), None));
        meter.expect(vec![(table("a"), 100), (table("b"), 300)]);
        meter.delivered(&progress);
        assert_eq!((get("snapshot_percent"), get("snapshot_rows_estimated")), (Some(0.0), Some(400.0)));
        // More rows than were estimated.
        (progress.rows, progress.table_rows) = (200, 200);
        meter.delivered(&progress);
        assert_eq!((get("snapshot_percent"), get("snapshot_rows_estimated")), (Some(40.0), Some(500.0)));
        (progress.todo, progress.table_rows) = (vec![table("b")], 0);
        meter.delivered(&progress);
        assert_eq!((get("snapshot_tables_done"), get("snapshot_percent")), (Some(1.0), Some(40.0)));
        (progress.rows, progress.table_rows) = (500, 300);
        meter.delivered(&progress);
        assert_eq!(get("snapshot_percent"), Some(99.9));
        assert_eq!(gauges.notes()[0].1, "snapshot: 99.9 % of about 500 rows, 1 of 2 tables");
        (progress.todo, progress.table_rows) = (vec![], 0);
        meter.delivered(&progress);
        assert_eq!((get("snapshot_percent"), get("snapshot_rows")), (Some(100.0), Some(500.0)));
        drop(meter);
        assert!(gauges.notes().is_empty());
        assert_eq!(get("snapshot_running"), Some(0.0));
    }
}
