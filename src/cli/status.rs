//! `rowstream status`: every connector in a line, then whatever is not well with what to do.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use serde_json::Value;

use super::{
    client::{Client, Remote, items, text},
    exit::Failure,
    print_json,
    table::Table,
};

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream status
  rowstream status --url http://cdc:8083 --json")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Prints `/readyz?verbose`.
pub(super) async fn status(args: StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let body = Client::new(&args.remote)?.get("/readyz?verbose").await?;
    if args.remote.json {
        return print_json(&body, out);
    }
    write(&body, SystemTime::now(), out)
}

/// The table and the problems.
pub(super) fn write(body: &Value, now: SystemTime, out: &mut dyn Write) -> Result<(), Failure> {
    connectors(items(body, "/connectors"), now).write(out)?;
    writeln!(out)?;
    let problems = items(body, "/problems");
    if problems.is_empty() {
        writeln!(out, "ready")?;
    }
    for problem in problems {
        let whose = [text(problem, "/connector"), text(problem, "/file")].concat();
        let task = problem.pointer("/task").map(|task| format!(" task {task}")).unwrap_or_default();
        let colon = if whose.is_empty() { "" } else { ": " };
        writeln!(out, "{whose}{task}{colon}{}", text(problem, "/problem"))?;
        for line in text(problem, "/detail").lines() {
            writeln!(out, "    {line}")?;
        }
    }
    Ok(())
}

/// One line for each connector.
pub(super) fn connectors(statuses: &[Value], now: SystemTime) -> Table {
    let mut table =
        Table::new(&["NAME", "CONNECTOR", "STATE", "TASKS", "RECORDS", "LAST COMMIT", "DELIVERY", "NOTES"]);
    for status in statuses {
        let tasks = items(status, "/tasks");
        let records: u64 = tasks.iter().filter_map(|t| t.pointer("/progress/records")?.as_u64()).sum();
        let last = tasks.iter().filter_map(|t| t.pointer("/progress/last_commit_ms")?.as_u64()).max();
        let notes: Vec<String> = tasks.iter().flat_map(notes).collect();
        table.row([
            text(status, "/name").to_owned(),
            text(status, "/class").to_owned(),
            text(status, "/connector/state").to_owned(),
            task_states(tasks),
            records.to_string(),
            last.map_or_else(|| "-".to_owned(), |ms| ago(ms, now)),
            text(status, "/delivery/promise").replace('_', " "),
            notes.join("; "),
        ]);
    }
    table
}

fn notes(task: &Value) -> Vec<String> {
    let notes = task.pointer("/progress/notes").and_then(Value::as_object);
    notes.into_iter().flatten().filter_map(|(_, note)| note.as_str().map(ToOwned::to_owned)).collect()
}

/// `2 RUNNING, 1 FAILED`.
fn task_states(tasks: &[Value]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for state in tasks.iter().map(|t| text(t, "/state")) {
        match counts.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    if counts.is_empty() { "-".to_owned() } else { counts.join(", ") }
}

/// `5 s ago`.
pub(super) fn ago(ms: u64, now: SystemTime) -> String {
    let then = UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(now);
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}
