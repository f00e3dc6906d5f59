//! Every metric's name, labels and help, in one place. Base units; `_total` for counters; Kafka Connect's words
//! (`source-record-poll-total` …) where it has one. Labels are bounded by the configuration and by our own codes.

/// One family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) name: &'static str,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

const TASK: &[&str] = &["connector", "task"];

const fn of_task(name: &'static str, help: &'static str) -> Name {
    Name { name, labels: TASK, help }
}

const fn of_process(name: &'static str, help: &'static str) -> Name {
    Name { name, labels: &[], help }
}

pub(super) const CONNECTOR_STATE: Name = Name {
    name: "rowstream_connector_state",
    labels: &["connector", "state"],
    help: "1 for the state that the connector is in, 0 for the others",
};
pub(super) const TASK_STATE: Name = Name {
    name: "rowstream_task_state",
    labels: &["connector", "task", "state"],
    help: "1 for the state that the task is in, 0 for the others",
};
pub(super) const TASK_RESTARTS: Name = of_task(
    "rowstream_task_restarts_total",
    "Times the task was started again after a failure or on request",
);
pub(super) const TASK_BUSY: Name = of_task(
    "rowstream_task_busy_seconds",
    "Time since the running task, with work in hand, last made something durable; 0 without work",
);
pub(super) const TASK_ERRORS: Name = Name {
    name: "rowstream_task_errors_total",
    labels: &["connector", "task", "code"],
    help: "Errors that ended a run of the task, by stable code",
};
pub(super) const TASK_SKIPPED: Name =
    of_task("rowstream_task_records_skipped_total", "Records skipped because of errors, as tolerance allows");
pub(super) const DEAD_LETTERS: Name = of_task(
    "rowstream_deadletterqueue_produce_total",
    "Records written to the dead letter topic, as tolerance allows",
);

pub(super) const SOURCE_POLLED: Name =
    of_task("rowstream_source_record_poll_total", "Changes received from the source");
pub(super) const SOURCE_POLL_BATCHES: Name =
    of_task("rowstream_source_poll_batches_total", "Batches received from the source, empty ones too");
pub(super) const SOURCE_WRITTEN: Name =
    of_task("rowstream_source_record_write_total", "Records made durable in the topic log");
pub(super) const SOURCE_WRITTEN_BYTES: Name =
    of_task("rowstream_source_record_write_bytes_total", "Encoded bytes made durable in the topic log");
pub(super) const SOURCE_TRANSACTIONS: Name =
    of_task("rowstream_source_transactions_total", "Upstream transactions made durable to their end");
pub(super) const SOURCE_ACTIVE: Name =
    of_task("rowstream_source_record_active_count", "Changes received and not yet durable in the topic log");
pub(super) const SOURCE_LAST_COMMIT: Name = of_task(
    "rowstream_source_last_commit_timestamp_seconds",
    "Upstream commit time of the newest durable change, since the epoch",
);
pub(super) const SOURCE_LAG: Name = of_task(
    "rowstream_source_lag_seconds",
    "Time since the topic log was last known to hold everything upstream had committed by then; grows while stuck",
);
pub(super) const SOURCE_COMMIT_TO_LOG: Name = of_task(
    "rowstream_source_commit_to_log_seconds",
    "From upstream commit to durable in the topic log, once a batch, of its oldest change",
);

pub(super) const SINK_READ: Name =
    of_task("rowstream_sink_record_read_total", "Records read from the topic log");
pub(super) const SINK_READ_BYTES: Name =
    of_task("rowstream_sink_record_read_bytes_total", "Bytes read from the topic log");
pub(super) const SINK_SENT: Name =
    of_task("rowstream_sink_record_send_total", "Records made durable at the destination");
pub(super) const SINK_REFUSED: Name =
    of_task("rowstream_sink_record_refused_total", "Records the destination or the connector refused");
pub(super) const SINK_FLUSH: Name =
    of_task("rowstream_sink_flush_seconds", "Time that flushes took, commit at the destination included");
pub(super) const SINK_LAG_RECORDS: Name =
    of_task("rowstream_sink_lag_records", "Committed records not yet read by the task");
pub(super) const SINK_LAG_BYTES: Name =
    of_task("rowstream_sink_lag_bytes", "Committed bytes not yet read by the task");
pub(super) const LOG_TO_SINK: Name = of_task(
    "rowstream_log_to_sink_seconds",
    "From the record's timestamp to durable at the destination, once a flush, of its oldest record",
);

pub(super) const BUILD: Name = Name {
    name: "rowstream_build_info",
    labels: &["version"],
    help: "1, labelled with the version that is running",
};
pub(super) const LOG_BLOCKED: Name = of_process(
    "rowstream_log_blocked",
    "1 while the topic log's writers cannot go on, e.g. for lack of space",
);
pub(super) const PROCESS_RESIDENT: Name =
    of_process("process_resident_memory_bytes", "Resident memory of the process");
pub(super) const PROCESS_CPU: Name =
    of_process("process_cpu_seconds_total", "User and system CPU time of the process");
pub(super) const PROCESS_FDS: Name = of_process("process_open_fds", "Open file descriptors of the process");
pub(super) const PROCESS_START: Name =
    of_process("process_start_time_seconds", "Start time of the process since the epoch");

/// In front of the names in `LogHealth::values`.
pub(super) const LOG_PREFIX: &str = "rowstream_log_";
/// In front of the names in a task's `Gauges`.
pub(super) const CONNECTOR_PREFIX: &str = "rowstream_connector_";
