//! `rowstream connectors`: what Kafka Connect's REST API does with connectors.

use std::{io::Write, path::PathBuf, time::SystemTime};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::{
    client::{Client, Remote, items, segment, text},
    exit::Failure,
    print_json, status,
    table::Table,
};
use crate::{admin::mask, config::ConnectorSpec};

/// Arguments of `connectors`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream connectors list
  rowstream connectors create connectors.d/shop.yaml --stopped
  rowstream connectors restart shop --only-failed")]
pub(super) struct ConnectorsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List connectors
    List(Remote),
    /// Show a connector's configuration (without secrets) and status
    Show(Named),
    /// Keep its tasks, at rest
    Pause(Named),
    /// Run it
    Resume(Named),
    /// End its tasks; offsets may then be changed
    Stop(Named),
    /// Restart it
    Restart(RestartArgs),
    /// Stop it and forget it with its offsets (connectors from files: remove the file)
    Delete(Named),
    /// Create a connector from a YAML file through REST, stored in the daemon
    Create(CreateArgs),
    /// List what can be run
    Plugins(Remote),
}

#[derive(Debug, Args)]
struct Named {
    /// Name of the connector
    name: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct RestartArgs {
    #[command(flatten)]
    named: Named,
    /// Only what is FAILED
    #[arg(long)]
    only_failed: bool,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// A connector file, as in `connectors.d`
    file: PathBuf,
    /// Change the connector when it is there already
    #[arg(long, conflicts_with = "stopped")]
    update: bool,
    /// Create it without running it
    #[arg(long)]
    stopped: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Does what was asked.
pub(super) async fn connectors(args: ConnectorsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match args.action {
        Action::List(remote) => list(&remote, out).await,
        Action::Show(named) => show(&named, out).await,
        Action::Pause(named) => act(&named, (Method::PUT, "/pause"), "will pause", out).await,
        Action::Resume(named) => act(&named, (Method::PUT, "/resume"), "will run", out).await,
        Action::Stop(named) => act(&named, (Method::PUT, "/stop"), "will stop", out).await,
        Action::Restart(RestartArgs { named, only_failed }) => {
            let path = format!("/restart?includeTasks=true&onlyFailed={only_failed}");
            act(&named, (Method::POST, &path), "will restart", out).await
        }
        Action::Delete(named) => act(&named, (Method::DELETE, ""), "deleted", out).await,
        Action::Create(args) => create(&args, out).await,
        Action::Plugins(remote) => plugins(&remote, out).await,
    }
}

async fn list(remote: &Remote, out: &mut dyn Write) -> Result<(), Failure> {
    let all = Client::new(remote)?.get("/connectors?expand=status&expand=info").await?;
    if remote.json {
        return print_json(&all, out);
    }
    let statuses: Vec<Value> =
        all.as_object().into_iter().flatten().filter_map(|(_, c)| c.get("status").cloned()).collect();
    Ok(status::connectors(&statuses, SystemTime::now()).write(out)?)
}

async fn show(named: &Named, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&named.remote)?;
    let path = format!("/connectors/{}", segment(&named.name));
    let info = client.get(&path).await?;
    let state = client.get(&format!("{path}/status")).await?;
    if named.remote.json {
        return print_json(&json!({ "info": info, "status": state }), out);
    }
    status::connectors(std::slice::from_ref(&state), SystemTime::now()).write(out)?;
    for (whose, trace) in traces(&state) {
        writeln!(out, "\n{whose}:")?;
        for line in trace.lines() {
            writeln!(out, "    {line}")?;
        }
    }
    writeln!(out)?;
    let mut table = Table::new(&["SETTING", "VALUE"]);
    for (key, value) in info.pointer("/config").and_then(Value::as_object).into_iter().flatten() {
        table.row([key.clone(), value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)]);
    }
    Ok(table.write(out)?)
}

fn traces(state: &Value) -> Vec<(String, &str)> {
    let own = ("connector".to_owned(), text(state, "/connector/trace"));
    let id = |task: &Value| task.pointer("/id").and_then(Value::as_u64).unwrap_or_default();
    let tasks = items(state, "/tasks").iter().map(|t| (format!("task {}", id(t)), text(t, "/trace")));
    std::iter::once(own).chain(tasks).filter(|(_, trace)| !trace.is_empty()).collect()
}

/// A request without a body, and a sentence about what it did.
async fn act(
    named: &Named,
    (method, path): (Method, &str),
    done: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let Named { name, remote } = named;
    let answer =
        Client::new(remote)?.call(method, &format!("/connectors/{}{path}", segment(name)), None).await?;
    if remote.json { print_json(&answer, out) } else { Ok(writeln!(out, "{name}: {done}")?) }
}

async fn create(args: &CreateArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let spec = ConnectorSpec::from_file(&args.file)
        .map_err(|errors| Failure::Config(format!("{}:\n{errors}", args.file.display())))?;
    let client = Client::new(&args.remote)?;
    let config = Value::Object(mask::whole(&spec));
    let name = &spec.name;
    let answer = if args.update {
        client.call(Method::PUT, &format!("/connectors/{}/config", segment(name)), Some(&config)).await?
    } else {
        let initial = if args.stopped { "STOPPED" } else { "RUNNING" };
        let body = json!({ "name": name, "config": config, "initial_state": initial });
        client.call(Method::POST, "/connectors", Some(&body)).await?
    };
    if args.remote.json {
        return print_json(&answer, out);
    }
    Ok(writeln!(out, "{name}: {}", if args.update { "stored" } else { "created" })?)
}

async fn plugins(remote: &Remote, out: &mut dyn Write) -> Result<(), Failure> {
    let all = Client::new(remote)?.get("/connector-plugins").await?;
    if remote.json {
        return print_json(&all, out);
    }
    let mut table = Table::new(&["CONNECTOR", "TYPE", "VERSION"]);
    for plugin in items(&all, "") {
        table.row(["/class", "/type", "/version"].map(|member| text(plugin, member).to_owned()));
    }
    Ok(table.write(out)?)
}
