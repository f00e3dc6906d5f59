//! The process: opens everything in order, runs until told to stop, and closes everything in the opposite order.
//!
//! Order at start: the log (recovery; a second daemon is refused here), the registry, the admin server (so that health answers
//! from the first moment), then connectors. Order at stop: connectors first, side by side, each within `stop_timeout`; then the
//! admin server; the log last, because everything else writes to it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rowstream_api::ConfigErrors;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, AdminState},
    config::WorkerConfig,
    schema_registry::{BuiltinRegistry, ConfluentRegistry, RegistryError, SchemaRegistry, Schemas},
    telemetry::{logging::LogLevels, metrics::Metrics},
    topic_log::{
        LogError, TopicLog,
        embedded::{EmbeddedConfig, EmbeddedLog},
    },
    worker::{
        Exclusive, Worker, WorkerContext, WorkerError,
        files::{self, FileProblems},
    },
};

/// How long open requests may take to finish at stop.
const ADMIN_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the daemon could not start or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The log.
    #[error("open the topic log")]
    Log(#[from] LogError),
    /// The registry.
    #[error("open the schema registry")]
    Registry(#[from] RegistryError),
    /// The admin address.
    #[error("listen on {address} (admin.listen)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Stored connectors.
    #[error("start the stored connectors")]
    Worker(#[from] WorkerError),
    /// The settings of the registry no longer hold, though they did when they were read: a file went, usually.
    #[error("{0}")]
    RegistrySettings(ConfigErrors),
    /// Anything that should not happen.
    #[error("{0}")]
    Setup(String),
}

/// Runs the daemon until SIGTERM or SIGINT; a second signal ends it at once.
///
/// # Errors
/// Whatever kept it from starting. Once it runs, trouble belongs to connectors and shows in their status.
pub async fn run(config: WorkerConfig, log_levels: LogLevels) -> Result<(), DaemonError> {
    let log: Arc<dyn TopicLog> = EmbeddedLog::open(embedded(&config)).await?;
    let (registry, schemas) = open_registry(&config, &log).await?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|e| DaemonError::Setup(e.to_string()))?;
    let address = config.admin.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| DaemonError::Listen { address, source })?;
    let bound = listener.local_addr().map_err(|source| DaemonError::Listen { address, source })?;
    let context = WorkerContext {
        log: Arc::clone(&log),
        registry,
        subjects: config.schema_registry.subject_strategy,
        metrics,
        stop_timeout: config.stop_timeout,
        exclusive: Exclusive::default(),
    };
    let worker = Worker::new(context, bound.to_string());
    let problems = FileProblems::default();
    let stop = CancellationToken::new();
    let state = AdminState {
        worker: Arc::clone(&worker),
        schemas,
        problems: problems.clone(),
        log_levels,
        started: Instant::now(),
        stall_timeout: config.stall_timeout,
    };
    let mut admin = JoinSet::new();
    let until = stop.clone();
    admin.spawn(async move {
        let server =
            axum::serve(listener, admin::router(state)).with_graceful_shutdown(until.cancelled_owned());
        if let Err(error) = server.await {
            tracing::error!(%error, "the admin server ended");
        }
    });
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        admin = %bound,
        data_dir = %config.data_dir.display(),
        connectors = %config.connectors.display(),
        "rowstream is up"
    );
    worker.start_stored().await?;
    let mut watcher = JoinSet::new();
    watcher.spawn(files::watch(Arc::clone(&worker), config.connectors.clone(), problems, stop.clone()));

    let signal = first_signal().await?;
    tracing::info!(signal, timeout = ?config.stop_timeout, "stopping");
    tokio::select! {
        () = stop_all(&worker, &mut watcher, &mut admin, &stop) => {}
        second = first_signal() => {
            tracing::warn!(signal = second?, "second signal, ending at once; tasks resume from what is stored");
            return Ok(());
        }
    }
    log.close().await?;
    tracing::info!("stopped");
    Ok(())
}

/// The registry for tasks, and who has the schemas. An external one need not answer yet.
async fn open_registry(
    config: &WorkerConfig,
    log: &Arc<dyn TopicLog>,
) -> Result<(Arc<dyn SchemaRegistry>, Schemas), DaemonError> {
    match config.schema_registry.plan().map_err(DaemonError::RegistrySettings)? {
        None => {
            let registry = BuiltinRegistry::open(Arc::clone(log)).await?;
            Ok((Arc::clone(&registry) as Arc<dyn SchemaRegistry>, Schemas::Builtin(registry)))
        }
        Some(plan) => {
            let registry = ConfluentRegistry::new(plan);
            let origins = registry.origins();
            tracing::info!(registry = origins, "schemas are in an external registry");
            Ok((registry as Arc<dyn SchemaRegistry>, Schemas::External(origins)))
        }
    }
}

async fn stop_all(
    worker: &Worker,
    watcher: &mut JoinSet<()>,
    admin: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    stop.cancel();
    // The watcher goes first, so that it starts nothing while the worker stops.
    while watcher.join_next().await.is_some() {}
    worker.shut_down().await;
    if tokio::time::timeout(ADMIN_STOP_TIMEOUT, admin.join_next()).await.is_err() {
        admin.shutdown().await;
    }
}

fn embedded(config: &WorkerConfig) -> EmbeddedConfig {
    let log = &config.topic_log;
    EmbeddedConfig {
        partitions_default: log.partitions,
        segment_bytes: log.segment_size.0,
        commit_interval: log.commit_interval,
        retention_ms: log.retention.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        retention_bytes: log.retention_size.map(|s| s.0),
        ..EmbeddedConfig::new(config.data_dir.join("log"))
    }
}

/// Waits for SIGTERM or SIGINT; answers its name.
async fn first_signal() -> Result<&'static str, DaemonError> {
    let setup = |e: std::io::Error| DaemonError::Setup(format!("listen for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(setup)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(setup)?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
