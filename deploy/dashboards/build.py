#!/usr/bin/env python3
"""Writes the Grafana dashboards beside it: fleet, source, sink, log.   build.py [--check]

A panel is a title, a unit, queries with their legends, and what the reader should think of it. With --check nothing is written: exit
code 1 when a file differs from what this would write.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
TASK = '{instance=~"$instance", connector=~"$connector"}'
WORKER = '{job="rowstream", instance=~"$instance"}'
LOG = '{instance=~"$instance"}'
BY = "{{connector}}/{{task}}"


def rate(metric, selector=TASK):
    return f"rate({metric}{selector}[$__rate_interval])"


def quantile(q, metric):
    return f"histogram_quantile({q}, sum by (connector, task, le) (rate({metric}_bucket{TASK}[$__rate_interval])))"


def quantiles(metric):
    return [(quantile(q, metric), f"{BY} p{q * 100:g}") for q in (0.5, 0.99)]


def panel(title, unit, queries, about, kind="timeseries", width=12, height=8, **defaults):
    return {"title": title, "unit": unit, "queries": queries, "about": about, "kind": kind, "width": width, "height": height,
            "defaults": defaults}


def heading(title):
    return panel(title, "", [], "", "row", 24, 1)


def stat(title, unit, query, about, red_from=None):
    steps = [{"color": "green", "value": None}] + ([{"color": "red", "value": red_from}] if red_from is not None else [])
    return panel(title, unit, [(query, "")], about, "stat", 4, 4, thresholds={"mode": "absolute", "steps": steps})


FLEET = [
    stat("Workers up", "short", f"sum(up{WORKER})", "Workers that answer a scrape."),
    stat("Workers down", "short", f"count(up{WORKER} == 0) or vector(0)", "Runbook: RowstreamDown.", 1),
    stat("Failed", "short", f'sum(rowstream_task_state{{instance=~"$instance", state="FAILED"}}) + '
         f'(sum(rowstream_connector_state{{instance=~"$instance", state="FAILED"}}) or vector(0)) or vector(0)',
         "Connectors and tasks that need a person. Runbook: RowstreamTaskFailed.", 1),
    stat("Retrying", "short", 'sum(rowstream_task_state{instance=~"$instance", state="RETRYING"}) or vector(0)',
         "Tasks that wait to be tried again.", 1),
    stat("Longest source lag", "s", 'max(rowstream_source_lag_seconds{instance=~"$instance"})',
         "How far the topic log is behind the worst source.", 300),
    stat("Dead letters, 1 h", "short", 'sum(increase(rowstream_deadletterqueue_produce_total{instance=~"$instance"}[1h])) or vector(0)',
         "Records that could not be handled.", 1),
    panel("Tasks by state", "short", [(f"sum by (state) (rowstream_task_state{LOG})", "{{state}}")],
          "RUNNING is all of them on a good day.", stack="normal"),
    panel("Connectors that do not run", "short", [(f'rowstream_connector_state{{instance=~"$instance", connector=~"$connector", state!="RUNNING"}} == 1',
          "{{connector}} {{state}}")], "PAUSED and STOPPED are somebody's wish; FAILED is not."),
    panel("Records into the log", "ops", [(f"sum by (connector) ({rate('rowstream_source_record_write_total')})", "{{connector}}")],
          "Made durable, by source."),
    panel("Records out of the log", "ops", [(f"sum by (connector) ({rate('rowstream_sink_record_send_total')})", "{{connector}}")],
          "Made durable at the destination, by sink."),
    panel("Errors", "ops", [(f"sum by (connector, code) ({rate('rowstream_task_errors_total')})", "{{connector}} {{code}}")],
          "Runs of tasks that ended in an error, by code."),
    panel("Task restarts", "ops", [(rate("rowstream_task_restarts_total"), BY)], "By themselves or on request."),
    panel("CPU", "percentunit", [(rate("process_cpu_seconds_total", WORKER), "{{instance}}")], "Cores in use."),
    panel("Memory", "bytes", [(f"process_resident_memory_bytes{WORKER}", "{{instance}}")], "Resident."),
    panel("Open files", "short", [(f"process_open_fds{WORKER}", "{{instance}}")], "Sockets and segments."),
    panel("Versions and starts", "dateTimeFromNow", [(f"process_start_time_seconds{WORKER} * 1000 * on (instance) group_left (version) rowstream_build_info",
          "{{instance}} {{version}}")], "When each worker started, and which version it is."),
]
SOURCES = [
    panel("Lag", "s", [(f"rowstream_source_lag_seconds{TASK}", BY)],
          "Time since the topic log was known to hold everything upstream had committed. Grows while stuck. Runbook: RowstreamSourceLag."),
    panel("Commit to log", "s", quantiles("rowstream_source_commit_to_log_seconds"), "From upstream commit to durable, a batch's oldest change."),
    panel("Changes received and records written", "ops", [(rate("rowstream_source_record_poll_total"), f"{BY} received"),
          (rate("rowstream_source_record_write_total"), f"{BY} written")], "A delete is one change and two records."),
    panel("Bytes written", "Bps", [(rate("rowstream_source_record_write_bytes_total"), BY)], "Encoded, into the topic log."),
    panel("Upstream transactions", "ops", [(rate("rowstream_source_transactions_total"), BY)], "Durable to their end."),
    panel("In flight", "short", [(f"rowstream_source_record_active_count{TASK}", BY)], "Received, not yet durable."),
    panel("Batches", "ops", [(rate("rowstream_source_poll_batches_total"), BY)], "Empty ones move the position of an idle source."),
    panel("Work in hand without a commit", "s", [(f"rowstream_task_busy_seconds{TASK}", BY)], "Above stall_timeout it is a stall."),
    panel("WAL held by the slot", "bytes", [(f"rowstream_connector_slot_retained_wal_bytes{TASK}", f"{BY} held"),
          (f"rowstream_connector_slot_confirmed_lag_bytes{TASK}", f"{BY} not confirmed")],
          "What the server keeps for us. Held grows and not confirmed does not: a long transaction upstream. Runbook: RowstreamWalHeld."),
    panel("WAL until the slot is lost", "bytes", [(f"rowstream_connector_slot_safe_wal_bytes{TASK}", BY)],
          "Only where max_slot_wal_keep_size is set. Runbook: RowstreamSlotNearlyLost."),
    panel("WAL positions", "Bps", [(f"deriv(rowstream_connector_received_lsn{TASK}[5m])", f"{BY} received"),
          (f"deriv(rowstream_connector_durable_lsn{TASK}[5m])", f"{BY} durable")], "Speed through the WAL."),
    panel("Snapshot", "short", [(f"rowstream_connector_snapshot_tables_total{TASK} - rowstream_connector_snapshot_tables_done{TASK}",
          f"{BY} tables to go"), (f"rowstream_connector_snapshot_running{TASK}", f"{BY} running")], "Tables that are not yet read."),
    panel("Snapshot rows", "ops", [(f"deriv(rowstream_connector_snapshot_rows{TASK}[5m])", BY)], "Read by the snapshot."),
    panel("Newest durable change", "dateTimeFromNow", [(f"rowstream_source_last_commit_timestamp_seconds{TASK} * 1000", BY)],
          "Upstream commit time of the newest change in the log; an idle source's stays where it is."),
]
SINKS = [
    panel("Lag", "short", [(f"rowstream_sink_lag_records{TASK}", BY)], "Committed records not yet read. Runbook: RowstreamSinkLag."),
    panel("Time to catch up", "s", [(f"rowstream_sink_lag_records{TASK} / rate(rowstream_sink_record_read_total{TASK}[10m])", BY)],
          "At the present speed."),
    panel("Lag in bytes", "bytes", [(f"rowstream_sink_lag_bytes{TASK}", BY)], "Committed and not yet read; retention keeps it."),
    panel("Log to destination", "s", quantiles("rowstream_log_to_sink_seconds"), "From the record's timestamp to durable, a flush's oldest."),
    panel("Records", "ops", [(rate("rowstream_sink_record_read_total"), f"{BY} read"), (rate("rowstream_sink_record_send_total"), f"{BY} durable")],
          "Read from the log, and made durable."),
    panel("Bytes read", "Bps", [(rate("rowstream_sink_record_read_bytes_total"), BY)], "From the log."),
    panel("Rows", "ops", [(rate("rowstream_connector_upserted_rows"), f"{BY} upserted"), (rate("rowstream_connector_appended_rows"), f"{BY} appended"),
          (rate("rowstream_connector_deleted_rows"), f"{BY} deleted")],
          "Database sinks; a batch is reduced to its net change per key."),
    panel("Flush", "s", quantiles("rowstream_sink_flush_seconds"), "Commit at the destination included."),
    panel("Refused, skipped, dead letters", "ops", [(rate("rowstream_sink_record_refused_total"), f"{BY} refused"),
          (rate("rowstream_task_records_skipped_total"), f"{BY} skipped"), (rate("rowstream_deadletterqueue_produce_total"), f"{BY} dead letters")],
          "Runbooks: RowstreamDeadLetters, RowstreamRecordsSkipped."),
    panel("Work in hand without a commit", "s", [(f"rowstream_task_busy_seconds{TASK}", BY)], "Above stall_timeout it is a stall."),
    panel("Webhook: outcomes", "ops", [(rate("rowstream_connector_webhook_delivered_total"), f"{BY} delivered"),
          (rate("rowstream_connector_webhook_retries_total"), f"{BY} retries"), (rate("rowstream_connector_webhook_refused_total"), f"{BY} refused")],
          "Deliveries, and what it took."),
    panel("Webhook: concurrency", "short", [(f"rowstream_connector_webhook_concurrency_limit{TASK}", f"{BY} limit"),
          (f"rowstream_connector_webhook_parked_keys{TASK}", f"{BY} parked keys")], "The limit adapts to the receiver; a parked key waits to be retried."),
    panel("Webhook: in hand", "short", [(f"rowstream_connector_webhook_pending_records{TASK}", BY)], "Read and not yet accepted by the receiver."),
    panel("Webhook: unreachable", "s", [(f"rowstream_connector_webhook_unreachable_seconds{TASK}", BY)], "Runbook: RowstreamWebhookUnreachable."),
]
LOGS = [
    stat("Blocked", "short", f"max(rowstream_log_blocked{LOG})", "1: writers wait, mostly for space. Runbook: RowstreamLogBlocked.", 1),
    stat("Free", "bytes", f"min(rowstream_log_free_bytes{LOG})", "Of the volume."),
    stat("On disk", "bytes", f"sum(rowstream_log_bytes_on_disk{LOG})", "All segments."),
    stat("Segments", "short", f"sum(rowstream_log_segments{LOG})", "Files."),
    panel("Disk", "bytes", [(f"rowstream_log_bytes_on_disk{LOG}", "{{instance}} used"), (f"rowstream_log_free_bytes{LOG}", "{{instance}} free")],
          "Retention gives space back; a sink that lags holds it. Runbook: RowstreamLogDiskNearlyFull.", width=24),
    panel("Commits", "ops", [(rate("rowstream_log_commits_total", LOG), "{{instance}}")], "Groups made durable."),
    panel("Commit time", "s", [(f"{rate('rowstream_log_commit_seconds_sum', LOG)} / {rate('rowstream_log_commits_total', LOG)}", "{{instance}} mean")],
          "Segment synced, then one commit of the index."),
    panel("Records", "ops", [(rate("rowstream_log_records_total", LOG), "{{instance}}")], "Of all writers."),
    panel("Bytes written", "Bps", [(rate("rowstream_log_bytes_written_total", LOG), "{{instance}}")], "Of all writers."),
    panel("Last group", "bytes", [(f"rowstream_log_group_bytes_last{LOG}", "{{instance}}")], "Size of the newest commit."),
    panel("What sinks have still to read", "bytes", [(f'rowstream_sink_lag_bytes{{instance=~"$instance"}}', BY)], "Kept beyond retention until read."),
]
KAFKA = [
    stat("Brokers silent", "s", f"max(rowstream_log_broker_silence_seconds{LOG})", "Since a broker last answered a worker. Runbook: RowstreamKafkaUnreachable.", 60),
    stat("Aborted, 1 h", "short", f"sum(increase(rowstream_log_transactions_aborted_total{LOG}[1h])) or vector(0)",
         "Transactions that were undone and sent again. Runbook: RowstreamKafkaTransactionErrors.", 4),
    stat("Writers lost, 1 h", "short", f"sum(increase(rowstream_log_writers_failed_total{LOG}[1h])) or vector(0)",
         "Producers that were fenced, timed out or refused, so that their task began again. Runbook: RowstreamKafkaTransactionErrors.", 4),
    stat("Rebalances, 1 h", "short", f"sum(increase(rowstream_log_group_rebalances_total{LOG}[1h])) or vector(0)",
         "Shards given to or taken from a worker. A rollout makes some. Runbook: RowstreamGroupUnstable.", 40),
    stat("Shards", "short", f"sum(rowstream_log_group_shards{LOG})", "Of each worker group 64; fewer while one's session has yet to end."),
    stat("Queued", "bytes", f"sum(rowstream_log_queued_bytes{LOG})", "Handed to librdkafka, not yet at a broker."),
    panel("Transactions", "ops", [(rate("rowstream_log_commits_total", LOG), "{{instance}} committed"),
          (rate("rowstream_log_transactions_aborted_total", LOG), "{{instance}} aborted"),
          (rate("rowstream_log_commit_retries_total", LOG), "{{instance}} asked again")],
          "Asked again: a commit had no answer, and its outcome was not guessed."),
    panel("Commit", "s", [(f"{rate('rowstream_log_commit_seconds_total', LOG)} / {rate('rowstream_log_commits_total', LOG)}", "{{instance}} mean")],
          "The rest of the records, and three round trips to the brokers."),
    panel("Records to and from brokers", "ops", [(rate("rowstream_log_sent_records_total", LOG), "{{instance}} sent"),
          (rate("rowstream_log_received_records_total", LOG), "{{instance}} received")], "By librdkafka's own statistics, every 5 s."),
    panel("Bytes to and from brokers", "Bps", [(rate("rowstream_log_sent_bytes_total", LOG), "{{instance}} sent"),
          (rate("rowstream_log_received_bytes_total", LOG), "{{instance}} received")], "On the wire, compressed."),
    panel("Broker round trip", "s", [(f"rowstream_log_broker_rtt_seconds{LOG}", "{{instance}} mean"),
          (f"rowstream_log_broker_rtt_p99_seconds{LOG}", "{{instance}} p99")], "Of the slowest connection. A commit takes three."),
    panel("Silence and retries", "short", [(f"rowstream_log_broker_silence_seconds{LOG}", "{{instance}} seconds without an answer"),
          (rate("rowstream_log_request_retries_total", LOG), "{{instance}} requests retried/s"),
          (rate("rowstream_log_queue_full_total", LOG), "{{instance}} queue full/s")],
          "A full queue is back-pressure: brokers take less than sources give."),
    panel("Clients and connections", "short", [(f"rowstream_log_producers{LOG}", "{{instance}} producers"), (f"rowstream_log_consumers{LOG}", "{{instance}} consumers"),
          (f"rowstream_log_producer_connections{LOG} + rowstream_log_consumer_connections{LOG}", "{{instance}} connections")],
          "One producer for each source task, one consumer for each sink task."),
    panel("Worker group", "short", [(f"rowstream_log_group_shards{LOG}", "{{instance}} shards"),
          (rate("rowstream_log_group_rebalances_total", LOG), "{{instance}} rebalances/s"),
          (rate("rowstream_log_group_turned_out_total", LOG), "{{instance}} turned out/s")],
          "Tasks follow shards by a hash of their connector's name and their number. Turned out: it stood still for longer than its session."),
]


def variable(name, label, query, **more):
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name}, "refresh": 2,
            "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "sort": 1, **more}


def dashboard(name, title, panels):
    connectors = {"source": "rowstream_source_record_poll_total", "sink": "rowstream_sink_record_read_total"}.get(name, "rowstream_connector_state")
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}},
        variable("instance", "Worker", "label_values(rowstream_build_info, instance)"),
    ]
    if name != "log":
        variables.append(variable("connector", "Connector", f"label_values({connectors}, connector)"))
    placed, x, y, row = [], 0, 0, 0
    for number, p in enumerate(panels, 1):
        if p["kind"] == "row":
            y, row = y + row, 1
            placed.append({"id": number, "type": "row", "title": p["title"], "collapsed": False, "panels": [], "targets": [],
                           "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
            x = 24
            continue
        if x + p["width"] > 24:
            x, y, row = 0, y + row, 0
        targets = [{"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": query, "legendFormat": legend, "range": p["kind"] == "timeseries",
                    "instant": p["kind"] != "timeseries"} for i, (query, legend) in enumerate(p["queries"])]
        defaults = dict(p["defaults"])
        stack = defaults.pop("stack", None)
        if stack:
            defaults["custom"] = {"stacking": {"mode": stack}, "fillOpacity": 20}
        placed.append({
            "id": number, "type": p["kind"], "title": p["title"], "description": p["about"], "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": p["width"], "h": p["height"]}, "targets": targets,
            "fieldConfig": {"defaults": {"unit": p["unit"], **({"min": 0} if p["unit"] != "dateTimeFromNow" else {}), **defaults}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
            if p["kind"] == "timeseries" else {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background"},
        })
        x, row = x + p["width"], max(row, p["height"])
    others = [{"type": "dashboards", "tags": ["rowstream"], "asDropdown": False, "title": "", "keepTime": True, "includeVars": True}]
    return {"uid": f"rowstream-{name}", "title": f"Rowstream / {title}", "tags": ["rowstream"], "schemaVersion": 39, "version": 1,
            "editable": True, "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "graphTooltip": 1, "links": others,
            "templating": {"list": variables}, "annotations": {"list": []}, "panels": placed}


def main():
    stale = []
    for name, title, panels in [("fleet", "Fleet", FLEET), ("source", "Sources", SOURCES), ("sink", "Sinks", SINKS), ("log", "Topic log", [*LOGS, heading("Kafka"), *KAFKA])]:
        file, text = HERE / f"{name}.json", json.dumps(dashboard(name, title, panels), indent=1, ensure_ascii=False) + "\n"
        if sys.argv[1:] != ["--check"]:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(file.name)
    if stale:
        sys.exit(f"deploy/dashboards: {', '.join(stale)}: not what build.py writes; run deploy/dashboards/build.py")


main()
