//! `rowstream schemas`: what the built-in registry holds.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    client::{Client, Remote, items, segment, text},
    exit::Failure,
    print_json,
    table::Table,
};

/// Arguments of `schemas`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream schemas list
  rowstream schemas show shop.public.orders-value --version 2")]
pub(super) struct SchemasArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List subjects with their newest version
    List(Remote),
    /// Print a schema
    Show(ShowArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// `<topic>-key` or `<topic>-value`
    subject: String,
    /// Which version
    #[arg(long, default_value = "latest")]
    version: String,
    #[command(flatten)]
    remote: Remote,
}

/// Does what was asked.
pub(super) async fn schemas(args: SchemasArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match args.action {
        Action::List(remote) => list(&remote, out).await,
        Action::Show(args) => {
            let client = Client::new(&args.remote)?;
            let found = client.get(&version_path(&args.subject, &args.version)).await?;
            if args.remote.json {
                return print_json(&found, out);
            }
            let schema: Value = serde_json::from_str(text(&found, "/schema"))
                .map_err(|e| Failure::Failed(format!("the schema is not JSON: {e}")))?;
            print_json(&schema, out)
        }
    }
}

async fn list(remote: &Remote, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(remote)?;
    let mut newest = Vec::new();
    for subject in items(&client.get("/subjects").await?, "").iter().filter_map(Value::as_str) {
        newest.push(client.get(&version_path(subject, "latest")).await?);
    }
    if remote.json {
        return print_json(&json!(newest), out);
    }
    let mut table = Table::new(&["SUBJECT", "VERSION", "ID"]);
    for entry in newest {
        let number = |pointer: &str| entry.pointer(pointer).map(Value::to_string).unwrap_or_default();
        table.row([text(&entry, "/subject").to_owned(), number("/version"), number("/id")]);
    }
    Ok(table.write(out)?)
}

fn version_path(subject: &str, version: &str) -> String {
    format!("/subjects/{}/versions/{}", segment(subject), segment(version))
}
