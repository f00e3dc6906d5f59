//! `rowstream topics`: what the log holds.

use std::io::Write;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::{
    client::{Client, Remote, items, segment, text},
    exit::{Exit, Failure},
    print_json,
    table::Table,
};

/// Arguments of `topics`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream topics list
  rowstream topics read shop.public.orders --limit 10
  rowstream topics read shop.public.orders --follow
  rowstream topics read shop.public.orders --json | jq .value.after")]
pub(super) struct TopicsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List topics
    List(Remote),
    /// Print records, decoded; from the beginning to the end, or with --follow whatever comes from now on
    Read(ReadArgs),
}

#[derive(Debug, Args)]
struct ReadArgs {
    /// Name of the topic
    topic: String,
    /// With --follow: everything there is first
    #[arg(long, conflicts_with = "offset")]
    from_beginning: bool,
    /// Start at this offset
    #[arg(long)]
    offset: Option<i64>,
    /// Stop after so many records
    #[arg(long)]
    limit: Option<u64>,
    /// Wait for more at the end
    #[arg(long, short)]
    follow: bool,
    /// Only this partition
    #[arg(long)]
    partition: Option<u32>,
    #[command(flatten)]
    remote: Remote,
}

/// Does what was asked.
pub(super) async fn topics(args: TopicsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match args.action {
        Action::List(remote) => list(&remote, out).await,
        Action::Read(args) => read(&args, out).await,
    }
}

async fn list(remote: &Remote, out: &mut dyn Write) -> Result<(), Failure> {
    let topics = Client::new(remote)?.get("/topics").await?;
    if remote.json {
        return print_json(&topics, out);
    }
    Ok(table(&topics).write(out)?)
}

fn table(topics: &Value) -> Table {
    let mut table = Table::new(&["TOPIC", "PARTITION", "FIRST", "NEXT", "RECORDS", "BYTES"]);
    for topic in items(topics, "") {
        for partition in items(topic, "/partitions") {
            let number =
                |pointer: &str| partition.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
            let (start, end) = (number("/start_offset"), number("/end_offset"));
            let columns = [number("/partition"), start, end, end.saturating_sub(start), number("/bytes")];
            let name = text(topic, "/name").to_owned();
            table.row(std::iter::once(name).chain(columns.map(|n| n.to_string())));
        }
    }
    table
}

async fn read(args: &ReadArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let mut answer = Client::new(&args.remote)?.send(Method::GET, &path(args), None).await?;
    let mut line = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.ends_with(b"\n") {
                print(&line, args.remote.json, out)?;
                line.clear();
            }
        }
        // A chunk is what there is for now.
        out.flush()?;
    }
    Ok(())
}

fn path(args: &ReadArgs) -> String {
    let mut path = format!("/topics/{}/records?follow={}", segment(&args.topic), args.follow);
    let from_end = args.follow && !args.from_beginning;
    let mut push = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={value}"));
        }
    };
    push("from", (from_end && args.offset.is_none()).then(|| "end".to_owned()));
    push("offset", args.offset.map(|n| n.to_string()));
    push("limit", args.limit.map(|n| n.to_string()));
    push("partition", args.partition.map(|n| n.to_string()));
    path
}

/// One line of the stream; empty ones are only signs of life.
fn print(line: &[u8], json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if line == b"\n" {
        return Ok(());
    }
    let record: Value = serde_json::from_slice(line)
        .map_err(|e| Failure::Failed(format!("the daemon sent a line that is not JSON: {e}")))?;
    if record.get("offset").is_none() {
        let error = text(&record, "/error");
        return Err(if error.is_empty() {
            Failure::Said(Exit::Failed)
        } else {
            Failure::Failed(error.to_owned())
        });
    }
    if json {
        return Ok(out.write_all(line)?);
    }
    let member = |name: &str| record.get(name).map(Value::to_string).unwrap_or_default();
    writeln!(
        out,
        "{}-{} @{}  {}",
        text(&record, "/topic"),
        member("partition"),
        member("offset"),
        member("timestamp")
    )?;
    if let Some(why) = record.get("undecodable") {
        writeln!(out, "  undecodable  {}: {}", text(why, "/code"), text(why, "/message"))?;
        writeln!(out, "  key    {} (base64)", member("key_base64"))?;
        return Ok(writeln!(out, "  value  {} (base64)", member("value_base64"))?);
    }
    writeln!(out, "  key    {}", member("key"))?;
    Ok(writeln!(out, "  value  {}", member("value"))?)
}
