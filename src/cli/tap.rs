//! `rowstream tap`: live records before and after each transform.

use std::io::Write;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::{
    client::{Client, Remote, items, segment, text},
    exit::Failure,
};

/// Arguments of `tap`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream tap shop
  rowstream tap shop --stage unwrap --limit 5
  rowstream tap shop --stage 2 --values

Shows at most ten records a second, as they go through; what rows hold is masked unless --values is given.")]
pub(super) struct TapArgs {
    /// Name of the connector
    connector: String,
    /// Only before and behind this step: its name, or its number from 1
    #[arg(long)]
    stage: Option<String>,
    /// Show what rows hold
    #[arg(long)]
    values: bool,
    /// Stop after so many records
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// Prints until it is told to stop.
pub(super) async fn tap(args: &TapArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let mut path = format!("/connectors/{}/tap?values={}", segment(&args.connector), args.values);
    if let Some(stage) = &args.stage {
        path.push_str(&format!("&stage={}", segment(stage)));
    }
    if let Some(limit) = args.limit {
        path.push_str(&format!("&limit={limit}"));
    }
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

/// One line of the stream; empty ones are only signs of life.
fn print(line: &[u8], json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if line == b"\n" {
        return Ok(());
    }
    if json {
        return Ok(out.write_all(line)?);
    }
    let look: Value = serde_json::from_slice(line)
        .map_err(|e| Failure::Failed(format!("the daemon sent a line that is not JSON: {e}")))?;
    for stage in items(&look, "/stages") {
        let number = stage.get("stage").map(Value::to_string).unwrap_or_default();
        let step = stage.get("step").and_then(Value::as_str).unwrap_or("as it came");
        writeln!(out, "{number} {step}")?;
        let records = items(stage, "/records");
        if records.is_empty() {
            writeln!(out, "    (dropped)")?;
        }
        for record in records {
            let member = |name: &str| record.get(name).map(Value::to_string).unwrap_or_default();
            writeln!(
                out,
                "    {}  key {}  headers {}",
                text(record, "/topic"),
                member("key"),
                member("headers")
            )?;
            writeln!(out, "    {}", member("value"))?;
        }
    }
    let error = text(&look, "/error");
    if !error.is_empty() {
        writeln!(out, "  refused: {error}")?;
    }
    Ok(writeln!(out)?)
}
