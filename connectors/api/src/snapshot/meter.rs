//! How far a snapshot is, for people: gauges that metrics and status show.
//!
//! What is left is the server's own estimate of the unread tables, which may be old or missing; what is done is counted. So percent and
//! the time that is left are estimates, and no more is claimed.

use std::{
    fmt::Write as _,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::{database::TableName, progress::Progress};
use crate::source::Gauges;

/// A rate is of this much time, or more.
const RATE_OF: Duration = Duration::from_secs(5);

/// What is told of the table that is being read.
const TABLE: [&str; 4] = [
    "snapshot_table_rows",
    "snapshot_table_rows_estimated",
    "snapshot_table_percent",
    "snapshot_table_eta_seconds",
];

/// Rows that a snapshot has still to read, as the server estimates them, and the gauges that tell of it.
pub(super) struct Meter {
    gauges: Gauges,
    estimates: Vec<(TableName, u64)>,
    tables: usize,
    /// Since when rows are counted for the rate, and how many were delivered then.
    since: (Instant, u64),
    rate: Option<f64>,
    limit: Option<NonZeroU32>,
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
            limit: None,
        };
        meter.show(progress);
        meter
    }

    /// What the server says of the tables; shown with the next rows.
    pub(super) fn expect(&mut self, estimates: Vec<(TableName, u64)>) {
        self.estimates = estimates;
    }

    /// No more rows than that are read in a second; shown with the next rows.
    pub(super) fn limit(&mut self, rows_per_second: Option<NonZeroU32>) {
        self.limit = rows_per_second;
        let limit = rows_per_second.map(|limit| limit.get().into());
        self.gauges.show("snapshot_rows_per_second_limit", limit);
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

    fn estimate(&self, table: &TableName) -> Option<u64> {
        self.estimates.iter().find(|(name, _)| name == table).map(|(_, rows)| *rows)
    }

    /// Rows that are left; `None` while the server knows nothing of a table.
    fn left<S>(&self, progress: &Progress<S>) -> Option<u64> {
        let left = progress.todo.iter().map(|table| self.estimate(table)).collect::<Option<Vec<u64>>>()?;
        let read = left.first().map_or(0, |first| progress.table_rows.min(*first));
        Some(left.iter().sum::<u64>() - read)
    }

    fn show<S>(&self, progress: &Progress<S>) {
        let tables = |n: usize| float(u64::try_from(n).unwrap_or(u64::MAX));
        self.gauges.set("snapshot_tables_total", tables(self.tables));
        self.gauges.set("snapshot_tables_done", tables(self.tables.saturating_sub(progress.todo.len())));
        self.gauges.set("snapshot_rows", float(progress.rows));
        self.show_table(progress);
        let tables = format!("{} of {} tables", self.tables.saturating_sub(progress.todo.len()), self.tables);
        let Some(left) = self.left(progress) else {
            let note = format!("snapshot: {tables}, {} rows{}", progress.rows, self.pace(None));
            return self.gauges.note("snapshot", Some(note));
        };
        let total = progress.rows + left;
        self.gauges.set("snapshot_rows_estimated", float(total));
        let part = if total == 0 { 1.0 } else { float(progress.rows) / float(total) };
        // Not before everything is delivered, whatever was estimated.
        let percent = if progress.todo.is_empty() { 100.0 } else { (part * 100.0).min(99.9) };
        self.gauges.set("snapshot_percent", percent);
        let eta = self.eta(left);
        if let Some(eta) = eta {
            self.gauges.set("snapshot_eta_seconds", eta);
        }
        let note = format!("snapshot: {percent:.1} % of about {total} rows, {tables}{}", self.pace(eta));
        self.gauges.note("snapshot", Some(note));
    }

    /// The table that is being read.
    fn show_table<S>(&self, progress: &Progress<S>) {
        self.gauges.show("snapshot_table_rows", Some(float(progress.table_rows)));
        let estimate = progress.todo.first().and_then(|table| self.estimate(table));
        let total = estimate.map(|estimate| estimate.max(progress.table_rows));
        let part = |total: u64| if total == 0 { 0.0 } else { float(progress.table_rows) / float(total) };
        let percent = total.map(|total| (part(total) * 100.0).min(99.9));
        let eta = total.and_then(|total| self.eta(total.saturating_sub(progress.table_rows)));
        self.gauges.show("snapshot_table_rows_estimated", total.map(float));
        self.gauges.show("snapshot_table_percent", percent);
        self.gauges.show("snapshot_table_eta_seconds", eta);
    }

    /// Time that is left for these rows, in seconds, once the rate is known.
    fn eta(&self, rows: u64) -> Option<f64> {
        self.rate.filter(|rate| *rate > 0.0).map(|rate| float(rows) / rate)
    }

    /// What a note says of the speed.
    fn pace(&self, eta: Option<f64>) -> String {
        let mut pace = String::new();
        // Writing to a String can't fail.
        if let Some(rate) = self.rate.filter(|rate| *rate > 0.0) {
            let _ok = write!(pace, ", {rate:.0} rows/s");
        }
        if let Some(limit) = self.limit {
            let _ok = write!(pace, ", limited to {limit} rows/s");
        }
        if let Some(eta) = eta {
            let _ok = write!(pace, ", about {eta:.0} s left");
        }
        pace
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.gauges.note("snapshot", None);
        self.gauges.set("snapshot_running", 0.0);
        self.gauges.set("snapshot_rows_per_second", 0.0);
        self.gauges.set("snapshot_eta_seconds", 0.0);
        for of_a_table in TABLE {
            self.gauges.show(of_a_table, None);
        }
        self.gauges.show("snapshot_rows_per_second_limit", None);
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
        assert_eq!(
            (get("snapshot_table_percent"), get("snapshot_table_rows_estimated")),
            (Some(99.9), Some(200.0))
        );
        meter.limit(NonZeroU32::new(7));
        (progress.todo, progress.table_rows) = (vec![table("b")], 0);
        meter.delivered(&progress);
        assert_eq!((get("snapshot_tables_done"), get("snapshot_percent")), (Some(1.0), Some(40.0)));
        (progress.rows, progress.table_rows) = (500, 300);
        meter.delivered(&progress);
        assert_eq!(get("snapshot_percent"), Some(99.9));
        assert_eq!(
            gauges.notes()[0].1,
            "snapshot: 99.9 % of about 500 rows, 1 of 2 tables, limited to 7 rows/s"
        );
        (progress.todo, progress.table_rows) = (vec![], 0);
        meter.delivered(&progress);
        assert_eq!((get("snapshot_percent"), get("snapshot_rows")), (Some(100.0), Some(500.0)));
        drop(meter);
        assert!(gauges.notes().is_empty());
        assert_eq!((get("snapshot_running"), get("snapshot_table_rows")), (Some(0.0), None));
    }
}
