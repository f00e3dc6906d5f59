//! A snapshot's status, for people.

use std::{fmt::Write as _, io::Write, time::SystemTime};

use serde_json::Value;

use crate::cli::{
    client::{items, text},
    exit::Failure,
    status::ago,
    table::Table,
};

/// A line for the whole, and one for each table.
pub(in crate::cli) fn write(body: &Value, now: SystemTime, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "{}", line(body))?;
    if let Some(lost) = body.get("position_lost").filter(|lost| !lost.is_null()) {
        writeln!(out, "{}", loss(lost, now))?;
    }
    let table = table(body);
    if table.has_rows() {
        writeln!(out)?;
        table.write(out)?;
    }
    Ok(())
}

/// The whole in one line.
pub(super) fn line(body: &Value) -> String {
    let (name, state) = (text(body, "/connector"), text(body, "/state"));
    let mut line = match state {
        "NONE" => format!("{name}: no snapshot is under way"),
        _ => format!("{name}: snapshot {state}, connector {}", text(body, "/connector_state")),
    };
    if let Some(percent) = number(body, "percent") {
        // Writing to a String can't fail.
        let _ok = write!(line, ", {percent:.1} %");
    }
    line.push_str(&pace(body));
    line
}

/// How fast it is, and how long it takes.
pub(super) fn pace(body: &Value) -> String {
    let mut pace = String::new();
    // Writing to a String can't fail.
    if let Some(rate) = number(body, "rows_per_second").filter(|rate| *rate > 0.0) {
        let _ok = write!(pace, ", {rate:.0} rows/s");
    }
    if let Some(limit) = number(body, "rows_per_second_limit") {
        let _ok = write!(pace, ", limited to {limit:.0} rows/s");
    }
    if let Some(left) = number(body, "eta_seconds").filter(|_| number(body, "rows_per_second") > Some(0.0)) {
        let _ok = write!(pace, ", about {left:.0} s left");
    }
    pace
}

pub(super) fn number(body: &Value, member: &str) -> Option<f64> {
    body.get(member).and_then(Value::as_f64)
}

fn loss(lost: &Value, now: SystemTime) -> String {
    let when = |member: &str| lost.get(member).and_then(Value::as_u64).map(|ms| ago(ms, now));
    let stood = when("since_ms").map(|ago| format!(" ({ago})")).unwrap_or_default();
    format!(
        "position lost {}: {}: {}\n    all tables were read anew; rows that were deleted since {}{stood} are not told",
        when("found_ms").unwrap_or_default(),
        text(lost, "/code"),
        text(lost, "/reason"),
        text(lost, "/since"),
    )
}

fn table(body: &Value) -> Table {
    let mut table = Table::new(&["TABLE", "STATE", "ROWS", "ABOUT", "LEFT", "WHERE", "REASON"]);
    let paused = text(body, "/state") == "PAUSED";
    let dash = || "-".to_owned();
    let mut row = |of: &Value, state: &str, progress: [String; 3]| {
        let head = [text(of, "/table").to_owned(), state.to_owned()];
        table.row(head.into_iter().chain(progress).chain([text(of, "/where").to_owned(), String::new()]));
    };
    if let Some(reading) = body.get("reading").filter(|reading| !reading.is_null()) {
        let rows = body.get("table_rows").map(Value::to_string).unwrap_or_default();
        let about = number(body, "table_rows_estimated").zip(number(body, "table_percent"));
        let about = about.map_or_else(dash, |(rows, percent)| format!("{percent:.1} % of {rows:.0}"));
        let left = number(body, "table_eta_seconds").map_or_else(dash, |left| format!("{left:.0} s"));
        row(reading, if paused { "paused" } else { "reading" }, [rows, about, left]);
    }
    for waiting in items(body, "/waiting") {
        row(waiting, "waiting", [dash(), dash(), dash()]);
    }
    let mut other = |of: &Value, state: &str, which: &str, reason: &str| {
        let names: Vec<&str> = items(of, "/tables").iter().filter_map(Value::as_str).collect();
        let names = if names.is_empty() { format!("({})", text(of, "/action")) } else { names.join(", ") };
        let cells = [&names, state, "-", "-", "-", which, reason];
        table.row(cells.map(str::to_owned));
    };
    for request in items(body, "/requests") {
        other(request, "asked", text(request, "/where"), "");
    }
    for refusal in items(body, "/refused") {
        other(refusal, "refused", "", text(refusal, "/reason"));
    }
    table
}
