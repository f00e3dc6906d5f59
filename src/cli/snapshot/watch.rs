//! `rowstream snapshot status --watch`: shown anew until nothing is left to read.
//!
//! On a terminal it is one line with a bar, written over and over; elsewhere a line for each change, at most one a second, so that it
//! reads well in a log.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use serde_json::Value;

use super::show;
use crate::cli::{
    client::{Client, text},
    exit::Failure,
    print_json,
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// Cells of the bar.
const BAR: u32 = 24;
/// To the line's begin, which is then cleared to its end.
const AGAIN: &str = "\r\x1b[K";

/// Looks until nothing is left to read.
///
/// # Errors
/// Nobody answers, or the connector has failed.
pub(super) async fn watch(
    client: &Client,
    path: &str,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let on_terminal = std::io::stdout().is_terminal() && !json;
    let mut last = String::new();
    loop {
        let body = client.get(path).await?;
        let shown = if on_terminal { bar(&body) } else { plain(&body) };
        let is_over = text(&body, "/state") == "NONE";
        if json {
            print_json(&body, out)?;
        } else if on_terminal {
            write!(out, "{AGAIN}{shown}{}", if is_over { "\n" } else { "" })?;
        } else if shown != last {
            writeln!(out, "{shown}")?;
        }
        out.flush()?;
        last = shown;
        if is_over {
            return Ok(());
        }
        if text(&body, "/connector_state") == "FAILED" {
            if on_terminal {
                writeln!(out)?;
            }
            let name = text(&body, "/connector");
            return Err(Failure::Failed(format!("{name}: the connector has failed, see `rowstream status`")));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The whole, and the table that is being read, in one line.
pub(super) fn plain(body: &Value) -> String {
    let table = text(body, "/reading/table");
    if table.is_empty() {
        return show::line(body);
    }
    let rows = body.get("table_rows").map(Value::to_string).unwrap_or_default();
    let about = show::number(body, "table_percent").map(|percent| format!(" ({percent:.1} %)"));
    format!("{}, {table}: {rows} rows{}", show::line(body), about.unwrap_or_default())
}

/// As [`plain`], with a bar where it is known how much there is.
pub(super) fn bar(body: &Value) -> String {
    let Some(percent) = show::number(body, "percent") else { return plain(body) };
    let (name, table) = (text(body, "/connector"), text(body, "/reading/table"));
    let filled = (0..BAR).filter(|cell| f64::from(*cell) < percent / 100.0 * f64::from(BAR)).count();
    let cells: String = (0..BAR as usize).map(|cell| if cell < filled { '█' } else { '░' }).collect();
    let paused = if text(body, "/state") == "PAUSED" { ", paused" } else { "" };
    format!("{name} {cells} {percent:5.1} %{paused}{}  {table}", show::pace(body))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_how_far_the_whole_and_the_table_are() {
        let body = json!({
            "connector": "shop", "connector_state": "RUNNING", "state": "RUNNING", "reading": { "table": "public.a" },
            "table_rows": 30, "table_percent": 60.0, "percent": 50.0, "rows_per_second": 10.0, "eta_seconds": 7.0,
            "rows_per_second_limit": 10.0,
        });
        assert_eq!(
            plain(&body),
            "shop: snapshot RUNNING, connector RUNNING, 50.0 %, 10 rows/s, limited to 10 rows/s, about 7 s left, \
             public.a: 30 rows (60.0 %)"
        );
        assert_eq!(
            bar(&body),
            "shop ████████████░░░░░░░░░░░░  50.0 %, 10 rows/s, limited to 10 rows/s, about 7 s left  public.a"
        );
        let over = json!({ "connector": "shop", "state": "NONE" });
        assert_eq!((plain(&over), bar(&over)), (show::line(&over), show::line(&over)));
    }
}
