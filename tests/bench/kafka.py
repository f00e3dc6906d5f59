"""The benchmarks of the topic log on Kafka. Standard library only.

Worker, broker and database share the machine, as in every other benchmark here. The references are of the same run and the same bytes:
the bare protocol drain of the database, and a bare producer that finds the encoded records in its memory, once idempotent only and once with
transactions that are open for as long as rowstream's are under load (100 ms, or ten times what the last commit took). The difference of the
two is what exactly-once costs.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from bench import (MYSQL_COLUMNS, MYSQL_ROWS, ROOT, ROW, Daemon, MySqlServer, cpu_seconds, drop_source, make_source, mysql_source,
                   result, safely, source, upsert)

SCRIPT = ROOT / "tests/services/kafka.sh"
PORT = "19392"  # a cluster of its own
EXACTLY_ONCE_COST_MAX = 0.10
LOADED_INTERVAL_MS = 100  # how long a transaction is open under load at least: src/topic_log/kafka/transaction.rs
LATENCY_P99_MAX_MS = 50
COMPILED_SHARE_MAX, COMPILED_WITHIN_S = 0.03, 300  # of a processor; longer than any machine took


class Kafka:
    """A broker of its own, empty."""

    def __init__(self):
        self.script("wipe")
        self.servers = self.script("up")
        self.pid = self.script("pid", "1")

    def script(self, *arguments):
        done = subprocess.run(["bash", SCRIPT, *arguments], env=dict(os.environ, KAFKA_PORT=PORT), text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"kafka.sh {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def make_topic(self, name):
        self.script("tool", "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.servers, "--create", "--topic", name)

    def cpu_seconds(self):
        return cpu_seconds(self.pid)

    def compiler_seconds(self):
        """What its just-in-time compiler took so far."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
        return sum(cpu_seconds(f"{self.pid}/task/{task.name}") for task in tasks if "Compiler" in (task / "comm").read_text())

    def log(self, group):
        return {"type": "kafka", "group": group, "bootstrap_servers": [self.servers]}


class Figures:
    """What the runs of one stream benchmark measured."""

    def __init__(self, name, rows, kafka, options):
        self.name, self.rows, self.kafka, self.options = name, rows, kafka, options
        self.drain, self.own, self.cpu, self.broker, self.rss, self.transactions = [], [], [], [], [], []
        self.bare, self.bare_cpu, self.bare_broker = ({False: [], True: []} for _ in range(3))

    def measure(self, daemon):
        """From the daemon's start until all rows are durable in Kafka."""
        before, began = self.kafka.cpu_seconds(), time.monotonic()
        daemon.start()
        # Markers of commits take offsets too, so the metrics tell when all is there.
        daemon.until("all records are in the topic", lambda: daemon.records_written() >= self.rows)
        self.own.append(self.rows / (time.monotonic() - began))
        self.cpu.append(daemon.cpu_seconds() * 1e6 / self.rows)
        self.broker.append((self.kafka.cpu_seconds() - before) * 1e6 / self.rows)
        self.rss.append(daemon.peak_mib())
        self.transactions.append(round(self.rows / daemon.metric("rowstream_log_commits_total ")))

    def measure_bare(self, topic, run):
        """The same bytes by a producer alone: first one way, then the other, and the next time the other way round."""
        for transactions in ((False, True), (True, False))[run % 2]:
            target = f"bare{run}{'-transactions' if transactions else ''}"
            self.kafka.make_topic(target)
            before = self.kafka.cpu_seconds()
            transaction = [str(LOADED_INTERVAL_MS)] if transactions else []
            command = [self.options.examples / "bare_producer", self.kafka.servers, topic, target, *transaction]
            told = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.split()
            if int(told[0]) != self.rows:
                raise RuntimeError(f"{told[0]} records for {self.rows} rows in {topic}")
            self.bare[transactions].append(self.rows / float(told[1]))
            self.bare_cpu[transactions].append(float(told[2]) * 1e6 / self.rows)
            self.bare_broker[transactions].append((self.kafka.cpu_seconds() - before) * 1e6 / self.rows)

    def warm(self):
        """Forgets what was measured: the first run is the broker's, whose machine compiles what it runs often."""
        bare = [figures for kind in (self.bare, self.bare_cpu, self.bare_broker) for figures in kind.values()]
        for figures in [self.drain, self.own, self.cpu, self.broker, self.rss, self.transactions, *bare]:
            figures.clear()

    def tell(self):
        print(f"  {self.name}: drain {self.drain[-1]:,.0f} rows/s, bare producer {self.bare[False][-1]:,.0f} (with transactions {self.bare[True][-1]:,.0f}), "
              f"rowstream {self.own[-1]:,.0f}; CPU s/M: rowstream {self.cpu[-1]:.2f} + broker {self.broker[-1]:.2f}, bare producer "
              f"{self.bare_cpu[False][-1]:.2f} (with transactions {self.bare_cpu[True][-1]:.2f}); {self.transactions[-1]:,} records a transaction",
              file=sys.stderr)

    def result(self, drain):
        median = statistics.median
        own, idempotent = median(self.own), median(self.bare[False])
        # Of each run: the machine's other work meets both alike.
        cost = median(1 - with_them / without for with_them, without in zip(self.bare[True], self.bare[False]))
        about = (f"{drain}; {own / idempotent:.2f} of a bare idempotent producer of the same bytes; CPU s/M of broker {median(self.broker):.2f}, "
                 f"of bare producer {median(self.bare_cpu[False]):.2f}, with transactions of {LOADED_INTERVAL_MS} ms and more {median(self.bare_cpu[True]):.2f}")
        line = result(self.name, self.own, about, self.drain, self.cpu, self.rss)
        return line | {"records_a_transaction": median(self.transactions), "broker_cpu_s_per_million": round(median(self.broker), 2),
                       "bare_producer_rows_per_s": round(idempotent),
                       "exactly_once_cost": round(cost, 3),
                       "checks": [(cost <= EXACTLY_ONCE_COST_MAX, f"transactions cost {cost:.1%} of the bare producer, ≤ {EXACTLY_ONCE_COST_MAX:.0%}")]}


def pg_stream(name, options, server):
    """Backlog of a slot to a topic."""
    database, kafka = "pg_kafka_stream", Kafka()
    figures = Figures(name, options.rows, kafka, options)
    pairs = [(f"kafka_ref{n}", f"kafka_own{n}") for n in range(options.runs + 1)]
    make_source(server, database, [slot for pair in pairs for slot in pair])
    server.sql(database, f"INSERT INTO orders SELECT {ROW} FROM generate_series(1, {options.rows}) i")
    end = server.sql(database, "SELECT pg_current_wal_insert_lsn()")
    server.sql(database, "CHECKPOINT")
    try:
        for run, (theirs, ours) in enumerate(pairs):
            began = time.monotonic()
            server.client("pg_recvlogical", "-d", database, "--slot", theirs, "--start", "--no-loop", f"--endpos={end}", "-f", "/dev/null",
                          "-o", "proto_version=1", "-o", "publication_names=bench")
            figures.drain.append(options.rows / (time.monotonic() - began))
            document = source(server, database, ours)
            document["config"]["topic_prefix"] = f"pg{run}"
            daemon = Daemon(options.binary, server, [document], kafka.log(f"pg{run}"))
            try:
                figures.measure(daemon)
            finally:
                daemon.remove()
            figures.measure_bare(f"pg{run}.public.orders", run)
            figures.tell()
            if run == 0:
                figures.warm()
    finally:
        drop_source(server, database)
        kafka.script("wipe")
    return figures.result("pg_recvlogical to /dev/null")


def mysql_stream(name, options, server):
    """Backlog of a binlog to a topic; the rows are PostgreSQL's, as MySQL reads them, 1,000 a statement and 10,000 a transaction."""
    rows = pathlib.Path(tempfile.mkstemp(prefix="rowstream-bench-rows-", dir="/var/tmp")[1])
    make_source(server, "mysql_rows", [])
    server.sql("mysql_rows", f"INSERT INTO orders SELECT {ROW} FROM generate_series(1, {options.rows}) i")
    with open(rows, "w") as file:
        server.client("psql", "-Xq", "-d", "mysql_rows", "-c", f"COPY ({MYSQL_ROWS}) TO STDOUT", stdout=file)
    drop_source(server, "mysql_rows")
    kafka, mysql = Kafka(), MySqlServer()
    figures = Figures(name, options.rows, kafka, options)
    daemons = []
    try:
        mysql.sql(f"CREATE DATABASE shop; CREATE TABLE shop.orders ({MYSQL_COLUMNS})")
        for run in range(options.runs + 1):
            daemons.append(Daemon(options.binary, mysql, [source_of(mysql, run)], kafka.log(f"mysql{run}")))
            remember_the_position(daemons[-1])
        mysql.sql("FLUSH BINARY LOGS")
        first = mysql.sql("SHOW BINARY LOG STATUS").split()[0]
        subprocess.run([options.examples / "upsert_ceiling", str(mysql.port), "shop", rows], check=True)
        for run, daemon in enumerate(daemons):
            began = time.monotonic()
            with open(os.devnull, "w") as nowhere:
                mysql.client("mysqlbinlog", "--read-from-remote-server", "--to-last-log", "--base64-output=decode-rows", first, stdout=nowhere)
            figures.drain.append(options.rows / (time.monotonic() - began))
            figures.measure(daemon)
            daemon.stop()
            figures.measure_bare(f"mysql{run}.shop.orders", run)
            figures.tell()
            if run == 0:
                figures.warm()
    finally:
        for daemon in daemons:
            daemon.remove()
        rows.unlink()
        mysql.script("wipe")
        kafka.script("wipe")
    return figures.result("mysqlbinlog to /dev/null")


def source_of(mysql, run):
    document = mysql_source(mysql, "shop", 7000 + run)
    document["config"]["topic_prefix"] = f"mysql{run}"
    return document


def remember_the_position(daemon):
    """Starts where the binlog ends now, and goes again."""
    daemon.start()
    daemon.until("the position is stored", lambda: safely(lambda: daemon.get("/connectors/bench/offsets")["offsets"]))
    daemon.stop()


def sink(name, options, server):
    """A full topic into an empty table of PostgreSQL."""
    kafka = Kafka()
    try:
        return upsert(name, options, server, kafka.log("sink"))
    finally:
        kafka.script("wipe")


def latency(name, options, server):
    """1,000 single-row commits a second; from the commit, by the server's own timestamps, until a consumer of committed records has it."""
    kafka = Kafka()
    make_source(server, "kafka_latency", ["kafka_latency_slot"])
    server.sql("kafka_latency", "CREATE SEQUENCE ids")
    daemon = Daemon(options.binary, server, [source(server, "kafka_latency", "kafka_latency_slot")], kafka.log("latency"))
    watch, seen, seconds, runs = None, daemon.directory / "seen", 10, []
    script = daemon.directory / "insert.sql"
    script.write_text(f"INSERT INTO orders SELECT {ROW} FROM (SELECT nextval('ids') AS i) s;")
    script.chmod(0o644)
    daemon.directory.chmod(0o755)
    try:
        daemon.start()
        written = 0

        def write():
            server.client("pgbench", "-n", "-R", 1000, "-T", seconds, "-c", 4, "-j", 1, "-f", script, "kafka_latency", stdout=subprocess.DEVNULL)

        began, compiled = time.monotonic(), 1
        while compiled > COMPILED_SHARE_MAX and time.monotonic() - began < COMPILED_WITHIN_S:
            # A broker compiles what it runs often, for two minutes and more beside its work. One that is asked for latencies has run for days.
            before = kafka.compiler_seconds()
            write()
            compiled = (kafka.compiler_seconds() - before) / seconds
        print(f"  {name}: the broker was warmed for {time.monotonic() - began:.0f} s, its compiler takes {compiled:.1%} now", file=sys.stderr)
        for run in range(options.runs + 1):
            before = daemon.cpu_seconds(), kafka.cpu_seconds()
            write()
            first, written = written, int(server.sql("kafka_latency", "SELECT count(*) FROM orders"))
            daemon.until("all records are in the topic", lambda: daemon.records_written() >= written)
            used = daemon.cpu_seconds() - before[0], kafka.cpu_seconds() - before[1]
            if watch is None:  # the topic is there now
                watch = subprocess.Popen([options.examples / "watch", kafka.servers, "bench.public.orders"], stdout=open(seen, "w"))
            daemon.until("the consumer has all", lambda: seen.read_text().count("\n") >= written)
            if run == 0:
                continue  # Tables are made, caches are warm.
            stamps = f"SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM orders WHERE id > {first}"
            committed = {int(id): float(at) for id, at in (line.split("|") for line in server.sql("kafka_latency", stamps).splitlines())}
            visible = [line.split() for line in seen.read_text().splitlines()]
            if len(visible) != written:
                raise RuntimeError(f"{len(visible)} records for {written} rows")
            times = sorted((int(at) / 1e6 - committed[int(id)]) * 1000 for id, at in visible if int(id) in committed)
            runs.append((times[len(times) // 2], times[len(times) * 99 // 100], len(times) / seconds, used[0] * 1e6 / len(times),
                         used[1] * 1e6 / len(times)))
            print(f"  {name}: p50 {runs[-1][0]:.1f} ms, p99 {runs[-1][1]:.1f} ms at {runs[-1][2]:,.0f} rows/s", file=sys.stderr)
        rss = daemon.peak_mib()
    finally:
        if watch:
            watch.kill()
            watch.wait()
        daemon.remove()
        kafka.script("wipe")
    drop_source(server, "kafka_latency")
    p50, p99, rate, cpu, broker = (statistics.median(r[i] for r in runs) for i in range(5))
    return {"name": name, "rows_per_s": round(rate), "reference": f"p50 {p50:.1f} ms; CPU s/M of broker {broker:.0f}", "reference_rows_per_s": None,
            "ratio": None, "cpu_s_per_million": round(cpu, 2), "peak_rss_mib": round(rss, 1), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2),
            "checks": [(p99 <= LATENCY_P99_MAX_MS, f"p99 {p99:.1f} ms ≤ {LATENCY_P99_MAX_MS}")]}


BENCHES = {"pg-kafka-stream": pg_stream, "mysql-kafka-stream": mysql_stream, "kafka-pg-sink": sink, "kafka-latency": latency}
