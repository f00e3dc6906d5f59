//! `rowstream snapshot`: reading tables (again) while the stream goes on.

pub(super) mod show;
mod watch;

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    client::{Client, Remote, items, segment, text},
    exit::Failure,
    print_json,
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
  rowstream snapshot status shop --watch
  rowstream snapshot limit shop 5000

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
    Status(StatusArgs),
    /// Read nothing for now; the stream goes on
    Pause(Named),
    /// Go on where it paused
    Resume(Named),
    /// Forget what was asked for; an initial snapshot goes on
    Cancel(Named),
    /// Read no faster from now on, until nothing is left to read
    Limit(LimitArgs),
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    named: Named,
    /// Show it anew until nothing is left to read: a bar on a terminal, else a line when something has changed
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
struct LimitArgs {
    /// Name of the connector
    connector: String,
    /// Most rows in a second; 0 for no limit; without it, as the configuration says
    #[arg(value_name = "ROWS_PER_SECOND")]
    rows_per_second: Option<u32>,
    #[command(flatten)]
    remote: Remote,
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
        Action::Status(args) => status(&args, out).await,
        Action::Pause(named) => ask(&named, (Method::PUT, "/pause", None), "is paused", out).await,
        Action::Resume(named) => ask(&named, (Method::PUT, "/resume", None), "goes on", out).await,
        Action::Cancel(named) => {
            ask(&named, (Method::DELETE, "", None), "what was asked for is forgotten", out).await
        }
        Action::Limit(LimitArgs { connector, rows_per_second, remote }) => {
            let body = json!({ "rows_per_second": rows_per_second });
            let done = match rows_per_second {
                None => "is read as fast as the configuration says".to_owned(),
                Some(0) => "is read without a limit".to_owned(),
                Some(limit) => format!("is read at {limit} rows/s at most, until nothing is left to read"),
            };
            ask(&Named { connector, remote }, (Method::PUT, "/limit", Some(&body)), &done, out).await
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

async fn status(StatusArgs { named, watch }: &StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Named { connector, remote } = named;
    let client = Client::new(remote)?;
    let path = format!("/connectors/{}/snapshot", segment(connector));
    if *watch {
        return watch::watch(&client, &path, remote.json, out).await;
    }
    let body = client.get(&path).await?;
    if remote.json { print_json(&body, out) } else { show::write(&body, SystemTime::now(), out) }
}
