//! `rowstream offsets`: where a connector stands, and forgetting it.

use std::io::Write;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::{
    client::{Client, Remote, items, segment, text},
    exit::Failure,
    print_json,
    table::Table,
};

/// Arguments of `offsets`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream offsets show shop
  rowstream connectors stop shop && rowstream offsets reset shop

A reset source starts as if it were new (its snapshot mode decides what that means); a reset sink reads its topics
from their beginning, unless its destination keeps its own offsets, which win.")]
pub(super) struct OffsetsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show a connector's offsets
    Show(Named),
    /// Forget a stopped connector's offsets
    Reset(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// Name of the connector
    name: String,
    #[command(flatten)]
    remote: Remote,
}

/// Does what was asked.
pub(super) async fn offsets(args: OffsetsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let (named, method) = match args.action {
        Action::Show(named) => (named, Method::GET),
        Action::Reset(named) => (named, Method::DELETE),
    };
    let path = format!("/connectors/{}/offsets", segment(&named.name));
    let answer = Client::new(&named.remote)?.call(method, &path, None).await?;
    if named.remote.json {
        return print_json(&answer, out);
    }
    if let Some(message) = answer.get("message").and_then(Value::as_str) {
        return Ok(writeln!(out, "{}: {message}", named.name)?);
    }
    Ok(table(&answer).write(out)?)
}

fn table(answer: &Value) -> Table {
    let mut table = Table::new(&["PARTITION", "OFFSET"]);
    for entry in items(answer, "/offsets") {
        let topic = text(entry, "/partition/kafka_topic");
        if topic.is_empty() {
            let member = |name: &str| entry.get(name).map(Value::to_string).unwrap_or_default();
            table.row([member("partition"), member("offset")]);
        } else {
            let number = |pointer: &str| entry.pointer(pointer).map(Value::to_string).unwrap_or_default();
            table.row([
                format!("{topic}-{}", number("/partition/kafka_partition")),
                number("/offset/kafka_offset"),
            ]);
        }
    }
    table
}
