//! The command line: one file per subcommand.
//!
//! `run`, `validate` and `transform` read configuration files; all others but `describe` and `version` talk HTTP to a running daemon. Output goes
//! to standard output through one writer, log lines and failures to standard error. A closed pipe ends a command quietly.

mod client;
mod connectors;
mod dead_letters;
mod describe;
mod exit;
mod offsets;
mod run;
mod schemas;
mod snapshot;
mod status;
mod table;
mod tap;
#[cfg(test)]
mod tests;
mod topics;
mod transform;
mod type_pages;
mod validate;

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};

use exit::{EXIT_CODES, Exit, Failure};

use crate::topic_log::kafka;

/// How long the end of the process waits for clients of Kafka, which close within milliseconds.
const CLIENTS_GONE_WITHIN: Duration = Duration::from_secs(2);

/// Captures row changes from databases, exactly once, and delivers them to databases and webhooks.
#[derive(Debug, Parser)]
#[command(name = "rowstream", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run(run::RunArgs),
    /// Check worker.yaml and every connector file, then connect and check the other side
    Validate(validate::ValidateArgs),
    /// Test a connector's transforms on example records, without a server
    #[command(visible_alias = "transforms")]
    Transform(transform::TransformArgs),
    /// Show every connector and whatever is not well
    Status(status::StatusArgs),
    /// List, show, steer and create connectors
    #[command(visible_alias = "connector")]
    Connectors(connectors::ConnectorsArgs),
    /// Read tables of a source (again) while its stream goes on
    Snapshot(snapshot::SnapshotArgs),
    /// Show or forget where a connector stands
    Offsets(offsets::OffsetsArgs),
    /// List topics and read their records
    #[command(visible_alias = "topic")]
    Topics(topics::TopicsArgs),
    /// Show live records before and after each transform
    Tap(tap::TapArgs),
    /// List, show and redrive records that could not be handled
    #[command(visible_alias = "dead-letter")]
    DeadLetters(dead_letters::DeadLettersArgs),
    /// List and show registered schemas
    #[command(visible_alias = "schema")]
    Schemas(schemas::SchemasArgs),
    /// Explain every setting of worker.yaml or of a connector, and every type of a database
    Describe(describe::DescribeArgs),
    /// Print the version
    Version,
}

/// The whole program: reads the arguments, does what they say, answers the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too, for standard output.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&Failure::Failed(format!("start the runtime: {error}"))).into(),
    };
    let mut out = BufWriter::new(io::stdout());
    let outcome = runtime.block_on(cli.command.execute(&mut out));
    drop(runtime);
    if !kafka::until_clients_are_gone(CLIENTS_GONE_WITHIN) {
        tracing::debug!("clients of Kafka are still being closed");
    }
    match outcome.and_then(|()| out.flush().map_err(Failure::from)) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            // Whatever was found before the failure is worth seeing; that it can't be written is no news then.
            drop(out.flush());
            complain(&failure).into()
        }
    }
}

fn complain(failure: &Failure) -> Exit {
    if let Some(text) = failure.text() {
        // There is nobody left to tell when standard error is closed.
        drop(writeln!(io::stderr(), "rowstream: {text}"));
    }
    failure.exit()
}

impl Command {
    async fn execute(self, out: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Self::Run(args) => run::run(args).await,
            Self::Validate(args) => validate::validate(args, out).await,
            Self::Transform(args) => transform::transform(&args, out),
            Self::Status(args) => status::status(args, out).await,
            Self::Connectors(args) => connectors::connectors(args, out).await,
            Self::Snapshot(args) => snapshot::snapshot(args, out).await,
            Self::Offsets(args) => offsets::offsets(args, out).await,
            Self::Topics(args) => topics::topics(args, out).await,
            Self::Tap(args) => tap::tap(&args, out).await,
            Self::DeadLetters(args) => dead_letters::dead_letters(args, out).await,
            Self::Schemas(args) => schemas::schemas(args, out).await,
            Self::Describe(args) => describe::describe(&args, out),
            Self::Version => Ok(writeln!(out, "rowstream {}", env!("CARGO_PKG_VERSION"))?),
        }
    }
}

/// The daemon's own JSON.
fn print_json(value: &serde_json::Value, out: &mut dyn Write) -> Result<(), Failure> {
    Ok(writeln!(out, "{value:#}")?)
}
