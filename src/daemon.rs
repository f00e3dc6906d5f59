//! The process: opens everything in order, runs until told to stop, and closes everything in the opposite order.
//!
//! Order at start: the log (recovery; a second daemon is refused here), the registry, the admin server (so that health answers
//! from the first moment), then connectors. Order at stop: connectors first, side by side, each within `stop_timeout`; then the
//! admin server; the log last, because everything else writes to it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rowstream_api::ConfigErrors;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, AdminState},
    config::{EmbeddedLogConfig, TopicLogConfig, WorkerConfig},
    pipeline::tap::Taps,
    schema_registry::{BuiltinRegistry, ConfluentRegistry, RegistryError, SchemaRegistry, Schemas},
    telemetry::{logging::LogLevels, metrics::Metrics},
    topic_log::{
        LogError, Membership, TopicLog,
        embedded::{EmbeddedConfig, EmbeddedLog},
        kafka::KafkaLog,
    },
    worker::{
        Exclusive, Worker, WorkerContext, WorkerError, cluster,
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
    // From the first moment: as a container's first process, nobody else ends us.
    let mut signals = Signals::listen()?;
    let opened = tokio::select! {
        opened = open(&config) => opened?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the topic log was open");
            return Ok(());
        }
    };
    let (log, registry) = (opened.log, opened.registry);
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|e| DaemonError::Setup(e.to_string()))?;
    let (listener, bound) = listen(config.admin.listen).await?;
    let context = WorkerContext {
        taps: Taps::default(),
        log: Arc::clone(&log),
        registry,
        subjects: config.schema_registry.subject_strategy,
        metrics,
        stop_timeout: config.stop_timeout,
        exclusive: Exclusive::default(),
    };
    let worker = Worker::new(context, config.admin.advertised.clone().unwrap_or_else(|| worker_id(bound)));
    let problems = FileProblems::default();
    let stop = CancellationToken::new();
    let state = AdminState {
        worker: Arc::clone(&worker),
        schemas: opened.schemas.clone(),
        problems: problems.clone(),
        log_levels,
        started: Instant::now(),
        stall_timeout: config.stall_timeout,
    };
    let mut admin = serve(listener, state, stop.clone());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        admin = %bound,
        data_dir = %config.data_dir.display(),
        connectors = %config.connectors.display(),
        "rowstream is up"
    );
    worker.start_stored().await?;
    let mut watcher = JoinSet::new();
    if let Schemas::Builtin(registry) = &opened.schemas {
        watcher.spawn(Arc::clone(registry).follow(stop.clone()));
    }
    watcher.spawn(files::watch(Arc::clone(&worker), config.connectors.clone(), problems, stop.clone()));

    let mut group = JoinSet::new();
    if let Some(workers) = log.group() {
        let membership = workers.join().await?;
        let worker = Arc::clone(&worker);
        group.spawn(cluster::follow(worker, membership, admin::bodies::status, stop.clone()));
    }

    let signal = signals.next().await;
    tracing::info!(signal, timeout = ?config.stop_timeout, "stopping");
    tokio::select! {
        () = stop_all(&worker, (&mut watcher, &mut group), &mut admin, &stop) => {}
        second = signals.next() => {
            tracing::warn!(signal = second, "second signal, ending at once; tasks resume from what is stored");
            return Ok(());
        }
    }
    log.close().await?;
    tracing::info!("stopped");
    Ok(())
}

async fn stop_all(
    worker: &Worker,
    (watcher, group): (&mut JoinSet<()>, &mut JoinSet<Box<dyn Membership>>),
    admin: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    stop.cancel();
    // The watcher goes first, so that it starts nothing while the worker stops.
    while watcher.join_next().await.is_some() {}
    let membership = group.join_next().await.and_then(Result::ok);
    worker.shut_down().await;
    // Only now: the next owners find everything committed.
    if let Some(membership) = membership {
        membership.leave().await;
    }
    if tokio::time::timeout(ADMIN_STOP_TIMEOUT, admin.join_next()).await.is_err() {
        admin.shutdown().await;
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), DaemonError> {
    let failed = |source| DaemonError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Answers requests until `stop`.
fn serve(listener: TcpListener, state: AdminState, stop: CancellationToken) -> JoinSet<()> {
    let mut admin = JoinSet::new();
    admin.spawn(async move {
        let server =
            axum::serve(listener, admin::router(state)).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = server.await {
            tracing::error!(%error, "the admin server ended");
        }
    });
    admin
}

/// What the worker stands on.
struct Opened {
    log: Arc<dyn TopicLog>,
    /// The registry for tasks.
    registry: Arc<dyn SchemaRegistry>,
    /// Who has the schemas.
    schemas: Schemas,
}

/// The log that is configured, and the registry: its own or an external one, which need not answer yet.
async fn open(config: &WorkerConfig) -> Result<Opened, DaemonError> {
    let external = config.schema_registry.plan().map_err(DaemonError::RegistrySettings)?;
    let (log, kafka): (Arc<dyn TopicLog>, _) = match &config.topic_log {
        TopicLogConfig::Embedded(settings) => {
            (EmbeddedLog::open(embedded(settings, &config.data_dir)).await?, None)
        }
        TopicLogConfig::Kafka(settings) => {
            let kafka = KafkaLog::open((**settings).clone()).await?;
            (Arc::clone(&kafka) as Arc<dyn TopicLog>, Some(kafka))
        }
    };
    if let Some(plan) = external {
        let registry = ConfluentRegistry::new(plan);
        let origins = registry.origins();
        tracing::info!(registry = origins, "schemas are in an external registry");
        return Ok(Opened { log, registry, schemas: Schemas::External(origins) });
    }
    let registry = match kafka {
        None => BuiltinRegistry::open(Arc::clone(&log)).await?,
        Some(kafka) => {
            BuiltinRegistry::open_topic(kafka.schemas_topic(&config.schema_registry.topic).await?).await?
        }
    };
    let schemas = Schemas::Builtin(Arc::clone(&registry));
    Ok(Opened { log, registry, schemas })
}

fn embedded(log: &EmbeddedLogConfig, data_dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig {
        partitions_default: log.partitions,
        segment_bytes: log.segment_size.0,
        commit_interval: log.commit_interval,
        retention_ms: log.retention.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        retention_bytes: log.retention_size.map(|s| s.0),
        ..EmbeddedConfig::new(data_dir.join("log"))
    }
}

/// Connect's worker id: where others find this worker, as far as it knows.
fn worker_id(bound: SocketAddr) -> String {
    if !bound.ip().is_unspecified() {
        return bound.to_string();
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}:{}", bound.port())
}

/// What asks the process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, DaemonError> {
        let setup = |e: std::io::Error| DaemonError::Setup(format!("listen for signals: {e}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(setup)?,
            interrupt: signal(SignalKind::interrupt()).map_err(setup)?,
        })
    }

    /// Waits for SIGTERM or SIGINT; answers its name. Cancel-safe.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
