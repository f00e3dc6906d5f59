//! `rowstream dead-letters`: records that could not be handled, and bringing them back.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::{
    client::{Client, Remote, items, segment, text},
    exit::{Exit, Failure},
    print_json,
    table::Table,
};

/// Arguments of `dead-letters`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream dead-letters list
  rowstream dead-letters show warehouse --where VALUE_OUT_OF_RANGE --limit 10
  rowstream dead-letters redrive warehouse --where VALUE_OUT_OF_RANGE
  rowstream dead-letters redrive warehouse --offset 12 --offset 13 --partition 0
  rowstream dead-letters redrive warehouse --all --to-topic")]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Each connector with a dead letter topic: how many letters, of how many redriven, and why
    List(Remote),
    /// Print a connector's letters: where each comes from, why it failed, and what it holds
    Show(ShowArgs),
    /// Bring letters back, once each
    Redrive(RedriveArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Name of the connector
    connector: String,
    /// Only letters with this error code, stage, or topic of origin, or with this in the message
    #[arg(long = "where", value_name = "REASON")]
    reason: Option<String>,
    /// Only the letter at this offset of the dead letter topic
    #[arg(long)]
    offset: Option<i64>,
    /// Only this partition of the dead letter topic
    #[arg(long)]
    partition: Option<u32>,
    /// Only letters that were not redriven
    #[arg(long)]
    waiting: bool,
    /// Stop after so many letters
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A sink's letters go to that sink alone: other readers of the topic they came from had no trouble with them. With --to-topic \
they go to that topic, for all its readers. A source's letters go through its transforms as they are now, to the topic these say.

A redriven record comes after all that came meanwhile: an old row overwrites a newer one. A letter that was redriven is left alone \
when it is asked for again."
)]
struct RedriveArgs {
    /// Name of the connector
    connector: String,
    /// All letters
    #[arg(long, conflicts_with_all = ["reason", "offsets", "partition"], required_unless_present_any = ["reason", "offsets", "partition"])]
    all: bool,
    /// Letters with this error code, stage, or topic of origin, or with this in the message
    #[arg(long = "where", value_name = "REASON")]
    reason: Option<String>,
    /// The letter at this offset of the dead letter topic; may be repeated
    #[arg(long = "offset", value_name = "OFFSET")]
    offsets: Vec<i64>,
    /// Letters of this partition of the dead letter topic
    #[arg(long)]
    partition: Option<u32>,
    /// A sink's letters: to the topic they came from, for all its readers
    #[arg(long)]
    to_topic: bool,
    /// Most letters
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// Does what was asked.
pub(super) async fn dead_letters(args: DeadLettersArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match args.action {
        Action::List(remote) => list(&remote, out).await,
        Action::Show(args) => show(&args, out).await,
        Action::Redrive(args) => redrive(&args, out).await,
    }
}

async fn list(remote: &Remote, out: &mut dyn Write) -> Result<(), Failure> {
    let all = Client::new(remote)?.get("/dead-letters").await?;
    if remote.json {
        return print_json(&all, out);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    Ok(table(&all, now_ms).write(out)?)
}

fn table(all: &Value, now_ms: i64) -> Table {
    let mut table = Table::new(&["CONNECTOR", "TOPIC", "RECORDS", "REDRIVEN", "NEWEST", "REASONS"]);
    for entry in items(all, "") {
        let number = |pointer: &str| entry.pointer(pointer).map(Value::to_string).unwrap_or_default();
        // What could not be counted in time is not hidden.
        let more = if entry.get("complete") == Some(&Value::Bool(false)) { "+" } else { "" };
        let newest = entry.pointer("/newest_ms").and_then(Value::as_i64);
        let reason = |reason: &Value| {
            let records = reason.get("records").map(Value::to_string).unwrap_or_default();
            format!("{records} {} ({})", text(reason, "/code"), text(reason, "/stage"))
        };
        let reasons: Vec<String> = items(entry, "/reasons").iter().map(reason).collect();
        table.row([
            text(entry, "/connector").to_owned(),
            text(entry, "/topic").to_owned(),
            format!("{}{more}", number("/records")),
            format!("{}{more}", number("/redriven")),
            newest.map(|ms| format!("{} s ago", now_ms.saturating_sub(ms).max(0) / 1000)).unwrap_or_default(),
            reasons.join(", "),
        ]);
    }
    table
}

async fn show(args: &ShowArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let mut query = vec![format!("waiting={}", args.waiting)];
    query.extend(args.reason.as_ref().map(|reason| format!("where={}", segment(reason))));
    query.extend(args.offset.map(|offset| format!("offset={offset}")));
    query.extend(args.partition.map(|partition| format!("partition={partition}")));
    query.extend(args.limit.map(|limit| format!("limit={limit}")));
    let path = format!("/connectors/{}/dead-letters?{}", segment(&args.connector), query.join("&"));
    let mut answer = Client::new(&args.remote)?.send(Method::GET, &path, None).await?;
    let mut line = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.ends_with(b"\n") {
                print(&line, args.remote.json, out)?;
                line.clear();
            }
        }
        out.flush()?;
    }
    Ok(())
}

fn print(line: &[u8], json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if line == b"\n" {
        return Ok(());
    }
    let letter: Value = serde_json::from_slice(line)
        .map_err(|e| Failure::Failed(format!("the daemon sent a line that is not JSON: {e}")))?;
    if letter.get("offset").is_none() {
        let error = text(&letter, "/error");
        return Err(if error.is_empty() {
            Failure::Said(Exit::Failed)
        } else {
            Failure::Failed(error.to_owned())
        });
    }
    if json {
        return Ok(out.write_all(line)?);
    }
    write_letter(&letter, out)
}

fn write_letter(letter: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    let member = |pointer: &str| letter.pointer(pointer).map(Value::to_string).unwrap_or_default();
    let said = |name: &str| text(letter, &format!("/dead_letter/{name}"));
    let redriven =
        if letter.pointer("/dead_letter/redriven") == Some(&Value::Bool(true)) { "  redriven" } else { "" };
    let of = match (letter.pointer("/dead_letter/partition"), letter.pointer("/dead_letter/offset")) {
        (Some(Value::Number(partition)), Some(Value::Number(offset))) => {
            format!("{}-{partition} @{offset}", said("topic"))
        }
        _ => format!("meant for {}", said("topic")),
    };
    writeln!(
        out,
        "{}-{} @{}  {} ({}){redriven}",
        text(letter, "/topic"),
        member("/partition"),
        member("/offset"),
        said("code"),
        said("stage"),
    )?;
    writeln!(out, "  from   {of}, task {}", said("task"))?;
    writeln!(out, "  why    {}", said("message").replace('\n', " "))?;
    if letter.get("undecodable").is_some() {
        writeln!(out, "  key    {} (base64)", member("/key_base64"))?;
        return Ok(writeln!(out, "  value  {} (base64)", member("/value_base64"))?);
    }
    writeln!(out, "  key    {}", member("/key"))?;
    Ok(writeln!(out, "  value  {}", member("/value"))?)
}

async fn redrive(args: &RedriveArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&args.remote)?;
    let path = format!("/connectors/{}/dead-letters/redrive", segment(&args.connector));
    let mut body = Map::new();
    body.insert("to_topic".to_owned(), json!(args.to_topic));
    body.insert("offsets".to_owned(), json!(args.offsets));
    if let Some(partition) = args.partition {
        body.insert("partition".to_owned(), json!(partition));
    }
    if let Some(reason) = &args.reason {
        body.insert("where".to_owned(), json!(reason));
    }
    let mut total = 0;
    loop {
        if let Some(limit) = args.limit {
            body.insert("limit".to_owned(), json!(limit.saturating_sub(total)));
        }
        let answer = client.call(Method::POST, &path, Some(&Value::Object(body.clone()))).await?;
        total += answer.get("redriven").and_then(Value::as_u64).unwrap_or_default();
        let more = answer.get("more") == Some(&Value::Bool(true));
        if args.remote.json {
            print_json(&answer, out)?;
        } else if !more {
            tell(&args.connector, total, &answer, out)?;
        }
        if !more {
            let left = !items(&answer, "/left").is_empty();
            return if left { Err(Failure::Said(Exit::Failed)) } else { Ok(()) };
        }
    }
}

fn tell(connector: &str, redriven: u64, answer: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    let to = match text(answer, "/to") {
        "connector" => format!("to `{connector}` alone"),
        _ => "to the topics they were meant for".to_owned(),
    };
    writeln!(out, "{connector}: {redriven} redriven, {to}; durable")?;
    if number("dropped") > 0 {
        writeln!(out, "  {} of them the transforms drop now", number("dropped"))?;
    }
    if number("redriven_before") > 0 {
        writeln!(out, "  {} had been redriven before", number("redriven_before"))?;
    }
    if number("doubles") > 0 {
        writeln!(out, "  {} left out: a crash had written them twice", number("doubles"))?;
    }
    for left in items(answer, "/left") {
        let records = left.get("records").map(Value::to_string).unwrap_or_default();
        writeln!(out, "  {records} left: {}", text(left, "/reason"))?;
    }
    Ok(())
}
