//! `rowstream snapshot`: reading tables (again) while the stream goes on.

use std::{io::Write, time::Duration};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    client::{Client, Remote, items, segment, text},
    exit::Failure,
    print_json,
    table::Table,
};

/// A running source takes a request at once, when its database answers.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// That it was taken is not announced, so the status is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream snapshot start shop public.orders public.items
  rowstream snapshot start shop public.orders --where \"created_at > '2026-01-01'\"
  rowstream snapshot status shop

Tables that are captured and have a key can be read (again) at any time, while the stream goes on. Their rows arrive as reads
(op r, source.snapshot \"incremental\"), each as new as the stream is. Nothing is written to the source.")]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read tables, one after the other
    Start(StartArgs),
    /// Show how far it is, what waits, and what was refused
    Status(Named),
    /// Read nothing for now; the stream goes on
    Pause(Named),
    /// Go on where it paused
    Resume(Named),
    /// Forget what was asked for; an initial snapshot goes on
    Cancel(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// Name of the connector
    connector: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Name of the connector
    connector: String,
    /// Tables: `schema.table`, or `database.table` of MySQL and MariaDB
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<String>,
    /// Only the rows that this SQL condition holds for
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Does what was asked.
pub(super) async fn snapshot(args: SnapshotArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match args.action {
        Action::Start(args) => {
            let body = match &args.condition {
                Some(condition) => json!({ "tables": args.tables, "where": condition }),
                None => json!({ "tables": args.tables }),
            };
            let named = Named { connector: args.connector, remote: args.remote };
            ask(&named, (Method::POST, "", Some(&body)), "is being read", out).await
        }
        Action::Status(named) => status(&named, out).await,
        Action::Pause(named) => ask(&named, (Method::PUT, "/pause", None), "is paused", out).await,
        Action::Resume(named) => ask(&named, (Method::PUT, "/resume", None), "goes on", out).await,
        Action::Cancel(named) => {
            ask(&named, (Method::DELETE, "", None), "what was asked for is forgotten", out).await
        }
    }
}

/// Makes a request, and waits a moment for its outcome.
async fn ask(
    Named { connector, remote }: &Named,
    (method, path, body): (Method, &str, Option<&Value>),
    done: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let client = Client::new(remote)?;
    let base = format!("/connectors/{}/snapshot", segment(connector));
    let request = client.call(method, &format!("{base}{path}"), body).await?;
    let deadline = Instant::now() + TAKEN_WITHIN;
    let outcome = loop {
        // It is stored, whatever becomes of the daemon meanwhile.
        let status = client.get(&base).await;
        let outcome = status.map_or(Outcome::Waits, |status| outcome(&status, text(&request, "/id")));
        if outcome != Outcome::Waits || Instant::now() > deadline {
            break outcome;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    if remote.json {
        print_json(&request, out)?;
    }
    match outcome {
        Outcome::Refused(reason) => Err(Failure::Failed(format!("{connector}: refused: {reason}"))),
        Outcome::Taken if !remote.json => Ok(writeln!(out, "{connector}: snapshot: {done}")?),
        Outcome::Waits if !remote.json => {
            Ok(writeln!(out, "{connector}: snapshot: the request waits until the connector's task takes it")?)
        }
        Outcome::Taken | Outcome::Waits => Ok(()),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Waits,
    Taken,
    Refused(String),
}

fn outcome(status: &Value, id: &str) -> Outcome {
    if let Some(refusal) = items(status, "/refused").iter().find(|refusal| text(refusal, "/request") == id) {
        return Outcome::Refused(text(refusal, "/reason").to_owned());
    }
    let waits = items(status, "/requests").iter().any(|request| text(request, "/id") == id);
    if waits { Outcome::Waits } else { Outcome::Taken }
}

async fn status(Named { connector, remote }: &Named, out: &mut dyn Write) -> Result<(), Failure> {
    let path = format!("/connectors/{}/snapshot", segment(connector));
    let body = Client::new(remote)?.get(&path).await?;
    if remote.json { print_json(&body, out) } else { write(&body, out) }
}

/// A line for the whole, and one for each table.
pub(super) fn write(body: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    let (name, state) = (text(body, "/connector"), text(body, "/state"));
    let number = |member: &str| body.get(member).and_then(Value::as_f64);
    let mut line = match state {
        "NONE" => format!("{name}: no snapshot is under way"),
        _ => format!("{name}: snapshot {state}, connector {}", text(body, "/connector_state")),
    };
    if let Some(percent) = number("percent") {
        line.push_str(&format!(", {percent:.1} %"));
    }
    if let Some(rate) = number("rows_per_second").filter(|rate| *rate > 0.0) {
        line.push_str(&format!(
            ", {rate:.0} rows/s, about {:.0} s left",
            number("eta_seconds").unwrap_or(0.0)
        ));
    }
    writeln!(out, "{line}")?;
    let table = table(body);
    if table.has_rows() {
        writeln!(out)?;
        table.write(out)?;
    }
    Ok(())
}

fn table(body: &Value) -> Table {
    let mut table = Table::new(&["TABLE", "STATE", "ROWS", "WHERE", "REASON"]);
    let paused = body.pointer("/state").and_then(Value::as_str) == Some("PAUSED");
    let mut row = |of: &Value, state: &str, rows: String| {
        let which = text(of, "/where").to_owned();
        table.row([text(of, "/table").to_owned(), state.to_owned(), rows, which, String::new()]);
    };
    if let Some(reading) = body.get("reading").filter(|reading| !reading.is_null()) {
        let rows = body.get("table_rows").map(Value::to_string).unwrap_or_default();
        row(reading, if paused { "paused" } else { "reading" }, rows);
    }
    for waiting in items(body, "/waiting") {
        row(waiting, "waiting", "-".to_owned());
    }
    let names = |of: &Value| {
        let names: Vec<&str> = items(of, "/tables").iter().filter_map(Value::as_str).collect();
        if names.is_empty() { format!("({})", text(of, "/action")) } else { names.join(", ") }
    };
    for request in items(body, "/requests") {
        let which = text(request, "/where").to_owned();
        table.row([names(request), "asked".to_owned(), "-".to_owned(), which, String::new()]);
    }
    for refusal in items(body, "/refused") {
        let reason = text(refusal, "/reason").to_owned();
        table.row([names(refusal), "refused".to_owned(), "-".to_owned(), String::new(), reason]);
    }
    table
}
