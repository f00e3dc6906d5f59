//! `rowstream run`: the daemon.

use std::path::PathBuf;

use clap::Args;
use rowstream_api::Chain;

use super::exit::{Exit, Failure};
use crate::{
    config::WorkerConfig,
    daemon,
    telemetry::logging::{self, LogFormat},
};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream run --config /etc/rowstream/worker.yaml
  rowstream run --config worker.yaml --log-format json --log-level info,rowstream::task=debug

SIGTERM or SIGINT stops it in order, within `stop_timeout`; a second one ends it at once.")]
pub(super) struct RunArgs {
    /// worker.yaml
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// How log lines look: human on a terminal and JSON elsewhere, or one of the two
    #[arg(long, env = "ROWSTREAM_LOG_FORMAT", default_value_t = LogFormat::Auto, value_name = "auto|human|json")]
    log_format: LogFormat,
    /// What is logged, e.g. `info` or `warn,rowstream::task=debug`
    #[arg(long, env = "ROWSTREAM_LOG_LEVEL", default_value = "info", value_name = "LEVELS")]
    log_level: String,
}

/// Runs until a signal.
pub(super) async fn run(args: RunArgs) -> Result<(), Failure> {
    let config = WorkerConfig::load(&args.config)
        .map_err(|errors| Failure::Config(format!("{}:\n{errors}", args.config.display())))?;
    let levels =
        logging::init(args.log_format, &args.log_level).map_err(|e| Failure::Config(e.to_string()))?;
    Box::pin(daemon::run(config, levels)).await.map_err(|error| {
        tracing::error!(error = %Chain(&error), code = "DAEMON_FAILED", "the daemon ended");
        Failure::Said(Exit::Failed)
    })
}
