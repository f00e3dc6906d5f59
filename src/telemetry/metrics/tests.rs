//! Names and numbers as a scraper sees them.

use super::*;

fn page(metrics: &Metrics) -> String {
    metrics.render_at(&LogHealth::default(), &[], 10_000)
}

fn at_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

#[track_caller]
fn assert_line(page: &str, line: &str) {
    assert!(page.lines().any(|l| l == line), "no line `{line}` in\n{page}");
}

#[test]
fn a_source_task_is_exposed_under_its_names() {
    let metrics = Metrics::new("1.2.3").unwrap();
    let gauges = Gauges::default();
    gauges.set("slot_retained_wal_bytes", 4096.0);
    let source = metrics.source_task("shop", 0, &gauges);
    source.polled(5);
    let commit_ms = Some((7_000, 8_000));
    let write = SourceWrite { changes: 3, records: 4, bytes: 100, transactions: 1, commit_ms };
    source.durable(&write, at_ms(8_200));
    source.task.state("RUNNING");
    source.task.failed("PG_SLOT_INVALIDATED");
    let page = page(&metrics);
    for line in [
        "# TYPE rowstream_source_record_poll_total counter",
        r#"rowstream_source_record_poll_total{connector="shop",task="0"} 5"#,
        r#"rowstream_source_poll_batches_total{connector="shop",task="0"} 1"#,
        r#"rowstream_source_record_write_total{connector="shop",task="0"} 4"#,
        r#"rowstream_source_record_write_bytes_total{connector="shop",task="0"} 100"#,
        r#"rowstream_source_transactions_total{connector="shop",task="0"} 1"#,
        r#"rowstream_source_record_active_count{connector="shop",task="0"} 2"#,
        r#"rowstream_source_last_commit_timestamp_seconds{connector="shop",task="0"} 8"#,
        r#"rowstream_source_lag_seconds{connector="shop",task="0"} 2"#,
        r#"rowstream_source_commit_to_log_seconds_bucket{connector="shop",task="0",le="1"} 0"#,
        r#"rowstream_source_commit_to_log_seconds_bucket{connector="shop",task="0",le="2.5"} 1"#,
        r#"rowstream_task_state{connector="shop",state="RUNNING",task="0"} 1"#,
        r#"rowstream_task_state{connector="shop",state="FAILED",task="0"} 0"#,
        r#"rowstream_task_errors_total{code="PG_SLOT_INVALIDATED",connector="shop",task="0"} 1"#,
        "# TYPE rowstream_connector_slot_retained_wal_bytes gauge",
        r#"rowstream_connector_slot_retained_wal_bytes{connector="shop",task="0"} 4096"#,
        r#"rowstream_build_info{version="1.2.3"} 1"#,
    ] {
        assert_line(&page, line);
    }
}

#[test]
fn an_idle_source_has_no_lag_and_a_stuck_one_has_more_and_more() {
    let metrics = Metrics::new("1").unwrap();
    let source = metrics.source_task("shop", 0, &Gauges::default());
    assert!(!page(&metrics).contains("rowstream_source_lag_seconds{"), "not known yet");
    source.durable(&SourceWrite { commit_ms: Some((1_000, 1_000)), ..SourceWrite::default() }, at_ms(1_500));
    source.durable(&SourceWrite::default(), at_ms(9_500));
    assert_line(&page(&metrics), r#"rowstream_source_lag_seconds{connector="shop",task="0"} 0.5"#);
    let later = metrics.render_at(&LogHealth::default(), &[], 69_500);
    assert_line(&later, r#"rowstream_source_lag_seconds{connector="shop",task="0"} 60"#);
    assert_line(&later, r#"rowstream_source_last_commit_timestamp_seconds{connector="shop",task="0"} 1"#);
}

#[test]
fn a_sink_task_is_exposed_under_its_names() {
    let metrics = Metrics::new("1").unwrap();
    let sink = metrics.sink_task("warehouse", 1, &Gauges::default());
    sink.read(10, 1000);
    sink.flushed(9, Duration::from_millis(20), Some(Duration::from_secs(2)));
    sink.refused(1);
    sink.lag(Lag { records: 7, bytes: 70 });
    sink.task.dead_lettered(1);
    sink.task.restarted();
    let page = page(&metrics);
    for line in [
        r#"rowstream_sink_record_read_total{connector="warehouse",task="1"} 10"#,
        r#"rowstream_sink_record_read_bytes_total{connector="warehouse",task="1"} 1000"#,
        r#"rowstream_sink_record_send_total{connector="warehouse",task="1"} 9"#,
        r#"rowstream_sink_record_refused_total{connector="warehouse",task="1"} 1"#,
        r#"rowstream_sink_flush_seconds_count{connector="warehouse",task="1"} 1"#,
        r#"rowstream_log_to_sink_seconds_sum{connector="warehouse",task="1"} 2"#,
        r#"rowstream_sink_lag_records{connector="warehouse",task="1"} 7"#,
        r#"rowstream_sink_lag_bytes{connector="warehouse",task="1"} 70"#,
        r#"rowstream_deadletterqueue_produce_total{connector="warehouse",task="1"} 1"#,
        r#"rowstream_task_restarts_total{connector="warehouse",task="1"} 1"#,
    ] {
        assert_line(&page, line);
    }
}

#[test]
fn series_live_as_long_as_some_handle_of_the_task() {
    let metrics = Metrics::new("1").unwrap();
    let gauges = Gauges::default();
    gauges.set("queue_bytes", 1.0);
    let first = metrics.source_task("shop", 0, &gauges);
    let other = metrics.source_task("shop", 1, &gauges);
    first.polled(1);
    first.task.state("RUNNING");
    first.task.failed("A");
    first.task.failed("B");
    let newer = Gauges::default();
    newer.set("queue_bytes", 2.0);
    let second = metrics.source_task("shop", 0, &newer);
    drop(first);
    second.polled(2);
    assert_line(&page(&metrics), r#"rowstream_connector_queue_bytes{connector="shop",task="0"} 2"#);
    assert_line(&page(&metrics), r#"rowstream_source_record_poll_total{connector="shop",task="0"} 3"#);
    drop(second);
    let after = page(&metrics);
    assert!(!after.contains(r#"task="0""#), "{after}");
    assert_line(&after, r#"rowstream_source_record_poll_total{connector="shop",task="1"} 0"#);
    assert_line(&after, r#"rowstream_connector_queue_bytes{connector="shop",task="1"} 1"#);
    drop(other);
    assert!(!page(&metrics).contains("shop"));
}

#[test]
fn the_log_and_the_process_are_exposed() {
    let metrics = Metrics::new("1").unwrap();
    let values = BTreeMap::from([("commits_total", 3.0), ("bytes_on_disk", 5.0)]);
    let page = metrics.render(&LogHealth { blocked: Some("no space left".into()), values }, &[]);
    assert_line(&page, "rowstream_log_blocked 1");
    assert_line(&page, "# TYPE rowstream_log_commits_total counter");
    assert_line(&page, "rowstream_log_commits_total 3");
    assert_line(&page, "# TYPE rowstream_log_bytes_on_disk gauge");
    if cfg!(target_os = "linux") {
        for name in ["resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds"] {
            assert!(page.contains(&format!("\nprocess_{name} ")), "{name} is missing in\n{page}");
        }
    }
}
