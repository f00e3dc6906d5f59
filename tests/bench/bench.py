"""The benchmarks behind tests/bench/run.sh. Standard library only.

Every figure comes with its reference from the same run, on the same data: for a source its server's own protocol drain to /dev/null
(`pg_recvlogical`, `mysqlbinlog`, `mariadb-binlog`), `COPY` of the same rows for the PostgreSQL sink, prepared multi-row upserts without
offsets for the MySQL sink. Absolute figures of a shared machine mean little; ratios do.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/services/postgres.sh"
TICKS = os.sysconf("SC_CLK_TCK")
# 10 columns, about 250 bytes a row as text.
COLUMNS = """id bigint PRIMARY KEY, customer int NOT NULL, amount numeric(12,2), paid boolean, score double precision,
    placed timestamptz, day date, status text, note text, payload text"""
ROW = """i, (i::bigint * 7919 % 100000)::int, (i % 1000000) / 100.0, i % 3 = 0, i / 7.0, '2026-01-01'::timestamptz + i * interval '1 second',
    '2026-01-01'::date + (i % 1000)::int, 'status ' || i % 7, 'a note about order ' || i, repeat(md5(i::text), 3)"""
# The same table in MySQL, and its rows as MySQL reads them.
MYSQL_COLUMNS = """id bigint PRIMARY KEY, customer int NOT NULL, amount decimal(12,2), paid boolean, score double, placed datetime(6), day date,
    status longtext, note longtext, payload longtext"""
MYSQL_ROWS = "SELECT id, customer, amount, paid::int, score, placed AT TIME ZONE 'UTC', day, status, note, payload FROM orders ORDER BY id"
MYSQL_ROW = """{0}, {0} * 7919 % 100000, ({0} % 1000000) / 100, {0} % 3 = 0, {0} / 7e0, '2026-01-01' + INTERVAL {0} SECOND,
    '2026-01-01' + INTERVAL {0} % 1000 DAY, CONCAT('status ', {0} % 7), CONCAT('a note about order ', {0}), REPEAT(LEFT(SHA2({0}, 256), 32), 3)"""
MYSQL_FILL = f"""CREATE PROCEDURE fill(total BIGINT, at_once BIGINT)
BEGIN
    DECLARE i BIGINT DEFAULT 1;
    CREATE TABLE numbers (n BIGINT) AS WITH RECURSIVE counted AS
        (SELECT 0 AS n UNION ALL SELECT n + 1 FROM counted WHERE n + 1 < at_once) SELECT n FROM counted;
    WHILE i <= total DO
        IF at_once = 1 THEN INSERT INTO orders VALUES ({MYSQL_ROW.format("i")});
        ELSE INSERT INTO orders SELECT {MYSQL_ROW.format("(i + n)")} FROM numbers;
        END IF;
        SET i = i + at_once;
    END WHILE;
END"""
MYSQL_TRICKLE = """CREATE PROCEDURE trickle(first BIGINT, step BIGINT, seconds INT)
BEGIN
    DECLARE i BIGINT DEFAULT first;
    DECLARE until DATETIME(6) DEFAULT SYSDATE(6) + INTERVAL seconds SECOND;
    WHILE SYSDATE(6) < until DO
        INSERT INTO orders VALUES (i, 1, 1.5, TRUE, 0.5, UTC_TIMESTAMP(6), '2026-01-01', 'status', 'a note', REPEAT('payload', 12));
        SET i = i + step;
        DO SLEEP(0.0035);
    END WHILE;
END"""
# What the issue asks for, beside each figure.
TARGETS = {"pg-stream-small": 1.5, "pg-stream-large": 1.5, "pg-sink-upsert": 0.3, "mysql-stream-small": 2, "mysql-stream-bulk": 2,
           "mariadb-stream-small": 2, "mysql-sink-upsert": 0.6, "pg-snapshot": 1.2}
RSS_TARGET_MIB, IDLE_RSS_TARGET_MIB = 64, 25


class Server:
    """A server of its own beside the shared one, from the same unpacked tree."""

    def __init__(self):
        shared = os.environ.get("ROWSTREAM_SERVICES", f"/var/tmp/rowstream-services-{os.getuid()}")
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="rowstream-bench-pg-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        (self.directory / "postgres-15").symlink_to(pathlib.Path(shared) / "postgres-15")
        self.environment = dict(os.environ, ROWSTREAM_SERVICES=str(self.directory))
        url = self.script("up", "-c", "track_commit_timestamp=on", "-c", "shared_buffers=512MB", "-c", "max_wal_size=8GB",
                          "-c", "checkpoint_timeout=1h", "-c", "autovacuum=off")
        self.port = int(url.strip().rsplit(":", 1)[1].split("/")[0])

    def script(self, *arguments):
        done = subprocess.run(["sh", SCRIPT, "15", *arguments], env=self.environment, text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"postgres.sh {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def client(self, *arguments, **options):
        return subprocess.run(["sh", SCRIPT, "15", "client", *map(str, arguments)], env=self.environment, check=True, text=True, **options)

    def sql(self, database, sql):
        return self.client("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, input=sql, stdout=subprocess.PIPE).stdout.strip()

    def wipe(self):
        self.script("wipe")
        shutil.rmtree(self.directory, ignore_errors=True)


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class MySqlServer:
    """A MySQL or MariaDB of its own beside the shared one, from the same unpacked tree, as durable as it comes."""

    def __init__(self, flavour="mysql"):
        self.flavour, self.name = flavour, {"mysql": "mysql-9.7@bench", "mariadb": "mariadb-11.8@bench"}[flavour]
        redo = {"mysql": "--innodb-redo-log-capacity=2G", "mariadb": "--innodb-log-file-size=2G"}[flavour]
        url = self.script("up", "--innodb-buffer-pool-size=1G", redo, "--max-binlog-size=1G")
        self.port = int(url.strip().rsplit(":", 1)[1].rstrip("/"))

    def script(self, *arguments):
        done = subprocess.run(["sh", ROOT / "tests/services/mysql.sh", self.name, *arguments], text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"mysql.sh {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def client(self, *arguments, **options):
        subprocess.run(["sh", ROOT / "tests/services/mysql.sh", self.name, "client", *arguments], check=True, text=True, **options)

    def sql(self, sql):
        return self.script("client", self.flavour, "--batch", "--skip-column-names", "-e", sql).strip()

    def run(self, database, sql):
        """Like sql, for what holds `;` in a procedure's body."""
        done = subprocess.run(["sh", ROOT / "tests/services/mysql.sh", self.name, "client", self.flavour, "--delimiter=//", database],
                              input=sql, text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{sql}: {done.stderr}")

    def drain(self, first_file):
        """Reads the binlog from a file's beginning on, as its own tool does."""
        tool = {"mysql": "mysqlbinlog", "mariadb": "mariadb-binlog"}[self.flavour]
        subprocess.run(["sh", ROOT / "tests/services/mysql.sh", self.name, "client", tool, "--read-from-remote-server", "--to-last-log",
                        first_file], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Daemon:
    def __init__(self, binary, server, connectors, topic_log=None):
        self.binary = binary
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="rowstream-bench-", dir="/var/tmp"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self.directory / "connectors.d").mkdir()
        worker = {"data_dir": "data", "connectors": "connectors.d", "admin": {"listen": f"127.0.0.1:{self.port}"}}
        if topic_log:
            worker["topic_log"] = topic_log
        (self.directory / "worker.yaml").write_text(json.dumps(worker))  # JSON is YAML
        self.connectors(connectors)

    def connectors(self, documents):
        for file in (self.directory / "connectors.d").iterdir():
            file.unlink()
        for document in documents:
            (self.directory / "connectors.d" / f"{document['name']}.yaml").write_text(json.dumps(document))

    def start(self):
        log = open(self.directory / "log", "ab")
        self.process = subprocess.Popen([self.binary, "run", "--config", self.directory / "worker.yaml"], stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def remove(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def fail(self, why):
        tail = "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"{why}\n{tail}")

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def topic_rows(self):
        try:
            return sum(p["end_offset"] for t in self.get("/topics") for p in t["partitions"])
        except OSError:
            return 0

    def records_written(self):
        return self.metric("rowstream_source_record_write_total{")

    def metric(self, prefix):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(prefix))

    def until(self, what, reached, patience=600):
        deadline = time.monotonic() + patience
        while not reached():
            if self.process.poll() is not None:
                self.fail(f"the daemon ended with {self.process.returncode}")
            if time.monotonic() > deadline:
                self.fail(f"waited in vain until {what}")
            time.sleep(0.01)

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid)

    def peak_mib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmHWM")

    def resident_mib(self):
        return int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def connection(server, database):
    return {"host": "127.0.0.1", "port": server.port, "database": database, "user": "postgres", "tls": {"mode": "disable"}}


def source(server, database, slot):
    return {"name": "bench", "connector": "postgres-source",
            "config": {"connection": connection(server, database), "topic_prefix": "bench", "tables": {"include": ["public.*"]},
                       "slot_name": slot, "publication_name": "bench", "snapshot": {"mode": "never"}}}


def sink(server, database, name="sink"):
    return {"name": name, "connector": "postgres-sink", "topics": ["bench.*"],
            "config": {"connection": connection(server, database), "write_mode": "upsert"}}


def make_source(server, database, slots):
    server.sql("postgres", f"CREATE DATABASE {database}")
    server.sql(database, f"CREATE TABLE orders ({COLUMNS}); CREATE PUBLICATION bench FOR TABLE orders")
    for slot in slots:
        server.sql(database, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")


def drop_source(server, database):
    for slot in server.sql("postgres", f"SELECT slot_name FROM pg_replication_slots WHERE database = '{database}'").splitlines():
        for _ in range(100):
            try:
                server.sql("postgres", f"SELECT pg_drop_replication_slot('{slot}')")
                break
            except subprocess.CalledProcessError:
                time.sleep(0.1)  # Its reader was just killed.
    server.sql("postgres", f"DROP DATABASE {database} WITH (FORCE)")


SMALL = """
CREATE PROCEDURE fill(rows bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR start IN 1..rows BY 10 LOOP
        INSERT INTO orders SELECT %s FROM generate_series(start, start + 9) i;
        COMMIT;
    END LOOP;
END $$;
SET synchronous_commit = off;
CALL fill(%d);
"""


def stream(name, options, server):
    """Backlog of one slot each, over the same WAL: pg_recvlogical and rowstream take turns."""
    database = name.replace("-", "_")
    pairs = [(f"{database}_ref{n}", f"{database}_own{n}") for n in range(options.runs)]
    make_source(server, database, [slot for pair in pairs for slot in pair])
    if name == "pg-stream-small":
        server.sql(database, SMALL % (ROW, options.rows))
    else:
        server.sql(database, f"INSERT INTO orders SELECT {ROW} FROM generate_series(1, {options.rows}) i")
    end = server.sql(database, "SELECT pg_current_wal_insert_lsn()")
    server.sql(database, "CHECKPOINT")  # Something behind the end, so that the end is passed.
    reference, own, cpu, rss = [], [], [], []
    for theirs, ours in pairs:
        began = time.monotonic()
        server.client("pg_recvlogical", "-d", database, "--slot", theirs, "--start", "--no-loop", f"--endpos={end}", "-f", "/dev/null",
                      "-o", "proto_version=1", "-o", "publication_names=bench")
        reference.append(options.rows / (time.monotonic() - began))
        own_run(options, Daemon(options.binary, server, [source(server, database, ours)]), (own, cpu, rss))
        print(f"  {name}: pg_recvlogical {reference[-1]:,.0f} rows/s, rowstream {own[-1]:,.0f} rows/s", file=sys.stderr)
    drop_source(server, database)
    return result(name, own, "pg_recvlogical to /dev/null", reference, cpu, rss)


def snapshot(name, options, server):
    """The rows of a table that are there already: `COPY` of the table and rowstream take turns."""
    database, slots = "pg_snapshot", [f"pg_snapshot{n}" for n in range(options.runs)]
    make_source(server, database, [])
    server.sql(database, f"INSERT INTO orders SELECT {ROW} FROM generate_series(1, {options.rows}) i")
    server.sql(database, "VACUUM ANALYZE orders")
    reference, own, cpu, rss = [], [], [], []
    for slot in slots:
        began = time.monotonic()
        server.client("psql", "-Xq", "-d", database, "-c", "COPY orders TO STDOUT", stdout=subprocess.DEVNULL)
        reference.append(options.rows / (time.monotonic() - began))
        document = source(server, database, slot)
        document["config"]["snapshot"] = {"mode": "initial"}
        own_run(options, Daemon(options.binary, server, [document]), (own, cpu, rss))
        print(f"  {name}: COPY {reference[-1]:,.0f} rows/s, rowstream {own[-1]:,.0f} rows/s, {cpu[-1]:.2f} CPU s/M", file=sys.stderr)
    drop_source(server, database)
    return result(name, own, "psql COPY orders TO STDOUT to /dev/null", reference, cpu, rss)


def mysql_snapshot(name, options, _):
    """As `snapshot`, beside the server's own client, which does not keep the rows."""
    mysql, database = MySqlServer(), "bench_source"
    reference, own, cpu, rss = [], [], [], []
    try:
        mysql.sql(f"SET GLOBAL sync_binlog = 0; SET GLOBAL innodb_flush_log_at_trx_commit = 0; CREATE DATABASE {database}; "
                  f"CREATE TABLE {database}.orders ({MYSQL_COLUMNS})")
        mysql.run(database, MYSQL_FILL)
        mysql.sql(f"CALL {database}.fill({options.rows}, 1000)")
        for run in range(options.runs):
            began = time.monotonic()
            mysql.client("mysql", "--quick", "--batch", "-e", f"SELECT * FROM {database}.orders", stdout=subprocess.DEVNULL)
            reference.append(options.rows / (time.monotonic() - began))
            document = mysql_source(mysql, database, run)
            document["config"]["snapshot"] = {"mode": "initial"}
            own_run(options, Daemon(options.binary, mysql, [document]), (own, cpu, rss))
            print(f"  {name}: mysql --quick {reference[-1]:,.0f} rows/s, rowstream {own[-1]:,.0f} rows/s, {cpu[-1]:.2f} CPU s/M", file=sys.stderr)
    finally:
        mysql.script("wipe")
    return result(name, own, "mysql --quick, SELECT * to /dev/null", reference, cpu, rss)


def own_run(options, daemon, figures):
    """Runs a daemon until its topic has all rows; appends rows/s, CPU and memory to the figures."""
    own, cpu, rss = figures
    began = time.monotonic()
    daemon.start()
    try:
        daemon.until("all records are in the topic", lambda: daemon.topic_rows() >= options.rows)
        own.append(options.rows / (time.monotonic() - began))
        if daemon.topic_rows() != options.rows:
            daemon.fail(f"{daemon.topic_rows()} records for {options.rows} rows")
        cpu.append(daemon.cpu_seconds() * 1e6 / options.rows)
        rss.append(daemon.peak_mib())
    finally:
        daemon.remove()


def mysql_source(mysql, database, number):
    config = {"connection": {"host": "127.0.0.1", "port": mysql.port, "user": "root", "tls": {"mode": "disable"}}, "topic_prefix": "bench",
              "tables": {"include": [f"{database}.orders"]}, "server_id": 4_000_000 + number, "snapshot": {"mode": "never"}}
    return {"name": "bench", "connector": f"{mysql.flavour}-source", "config": config}


def stands_somewhere(daemon):
    """Whether the connector has stored a position."""
    return safely(lambda: "pos" in json.dumps(daemon.get("/connectors/bench/offsets")))


def mysql_stream(name, options, _):
    """A backlog that several daemons stand before, over the same binlog: the server's own tool and rowstream take turns."""
    mysql, database, daemons = MySqlServer(name.split("-")[0]), "bench_source", []
    reference, own, cpu, rss = [], [], [], []
    try:
        mysql.sql(f"SET GLOBAL sync_binlog = 0; SET GLOBAL innodb_flush_log_at_trx_commit = 0; CREATE DATABASE {database}; "
                  f"CREATE TABLE {database}.orders ({MYSQL_COLUMNS}); FLUSH BINARY LOGS")
        first_file = mysql.sql("SHOW BINARY LOGS").splitlines()[-1].split("\t")[0]
        for run in range(options.runs):
            daemons.append(Daemon(options.binary, mysql, [mysql_source(mysql, database, run)]))
            daemons[-1].start()
            daemons[-1].until("a position is stored", lambda: stands_somewhere(daemons[-1]))
            daemons[-1].stop()
        mysql.run(database, MYSQL_FILL)
        mysql.sql(f"CALL {database}.fill({options.rows}, {1 if name.endswith('small') else 1000})")
        for daemon in daemons:
            began = time.monotonic()
            mysql.drain(first_file)
            reference.append(options.rows / (time.monotonic() - began))
            began = time.monotonic()
            daemon.start()
            daemon.until("all records are in the topic", lambda: daemon.topic_rows() >= options.rows)
            own.append(options.rows / (time.monotonic() - began))
            if daemon.topic_rows() != options.rows:
                daemon.fail(f"{daemon.topic_rows()} records for {options.rows} rows")
            cpu.append(daemon.cpu_seconds() * 1e6 / options.rows)
            rss.append(daemon.peak_mib())
            daemon.remove()
            print(f"  {name}: binlog tool {reference[-1]:,.0f} rows/s, rowstream {own[-1]:,.0f} rows/s, {cpu[-1]:.2f} CPU s/M", file=sys.stderr)
    finally:
        for daemon in daemons:
            daemon.remove()
        mysql.script("wipe")
    tool = {"mysql": "mysqlbinlog", "mariadb": "mariadb-binlog"}[mysql.flavour]
    return result(name, own, f"{tool} --read-from-remote-server to /dev/null", reference, cpu, rss)


def mysql_latency(name, options, server):
    """Single-row commits, about 1,000 a second, from MySQL to PostgreSQL; from the row's own timestamp, taken before the source's commit, to
    the target's commit."""
    mysql, database, writers = MySqlServer(), "bench_source", 4
    server.sql("postgres", "CREATE DATABASE latency_target")
    daemon = Daemon(options.binary, server, [mysql_source(mysql, database, 0), sink(server, "latency_target")])
    seconds, runs, written = 10, [], 0
    try:
        # How long the source's own disk takes is not the question.
        mysql.sql(f"SET GLOBAL sync_binlog = 0; SET GLOBAL innodb_flush_log_at_trx_commit = 0; CREATE DATABASE {database}; "
                  f"CREATE TABLE {database}.orders ({MYSQL_COLUMNS})")
        mysql.run(database, MYSQL_TRICKLE)
        daemon.start()
        daemon.until("a position is stored", lambda: stands_somewhere(daemon))
        for run in range(options.runs + 1):
            calls = [f"CALL {database}.trickle({written + 1 + n}, {writers}, {seconds if run else 3})" for n in range(writers)]
            running = [subprocess.Popen(["sh", ROOT / "tests/services/mysql.sh", mysql.name, "client", "mysql", "-e", call]) for call in calls]
            if any(process.wait() for process in running):
                raise RuntimeError("a writer failed")
            first, written = written, int(mysql.sql(f"SELECT MAX(id) FROM {database}.orders"))
            count = int(mysql.sql(f"SELECT COUNT(*) FROM {database}.orders"))
            daemon.until("the target has all", lambda: is_done(server, "latency_target", f"SELECT count(*) >= {count} FROM orders"))
            if run == 0:
                continue  # Tables are made, caches are warm.
            stamps = f"""SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) - extract(epoch FROM placed AT TIME ZONE 'UTC')) * 1000
                FROM orders WHERE id > {first}"""
            times = sorted(float(line) for line in server.sql("latency_target", stamps).splitlines())
            runs.append((times[len(times) // 2], times[len(times) * 99 // 100], len(times) / seconds))
            print(f"  {name}: p50 {runs[-1][0]:.1f} ms, p99 {runs[-1][1]:.1f} ms at {runs[-1][2]:,.0f} rows/s", file=sys.stderr)
        rss, cpu = daemon.peak_mib(), daemon.cpu_seconds() * 1e6 / count
    finally:
        daemon.remove()
        mysql.script("wipe")
        server.sql("postgres", "DROP DATABASE IF EXISTS latency_target WITH (FORCE)")
    p50, p99, rate = (statistics.median(r[i] for r in runs) for i in range(3))
    return {"name": name, "rows_per_s": round(rate), "reference": None, "reference_rows_per_s": None, "ratio": None,
            "cpu_s_per_million": round(cpu, 2), "peak_rss_mib": round(rss, 1), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


def upsert(name, options, server, topic_log=None):
    """A full topic into an empty table, against COPY of the same rows into the same table."""
    database = "pg_sink_source"
    make_source(server, database, ["sink_slot"])
    server.sql(database, f"INSERT INTO orders SELECT {ROW} FROM generate_series(1, {options.rows}) i")
    rows = pathlib.Path(tempfile.mkstemp(prefix="rowstream-bench-rows-", dir="/var/tmp")[1])
    with open(rows, "w") as file:
        server.client("psql", "-Xq", "-d", database, "-c", "COPY orders TO STDOUT", stdout=file)
    daemon = Daemon(options.binary, server, [source(server, database, "sink_slot")], topic_log)
    reference, own, cpu, rss = [], [], [], []
    try:
        daemon.start()
        daemon.until("the topic is full", lambda: daemon.records_written() >= options.rows)
        # Behind the last record; on Kafka the marker of the last commit takes an offset too.
        end = daemon.topic_rows() - (1 if topic_log else 0)
        daemon.stop()
        for run in range(options.runs):
            for target in (f"sink_ref{run}", f"sink_own{run}"):
                server.sql("postgres", f"CREATE DATABASE {target}")
                server.sql(target, f"CREATE TABLE orders ({COLUMNS})")
            began = time.monotonic()
            with open(rows) as file:
                server.client("psql", "-Xq", "-d", f"sink_ref{run}", "-c", "COPY orders FROM STDIN", stdin=file)
            reference.append(options.rows / (time.monotonic() - began))
            daemon.connectors([sink(server, f"sink_own{run}", f"sink{run}")])
            began = time.monotonic()
            daemon.start()
            done = f"""SELECT to_regclass('rowstream.sink_offsets') IS NOT NULL AND (xpath('/row/n/text()', query_to_xml(
                'SELECT coalesce(sum(next_offset), 0) AS n FROM rowstream.sink_offsets', false, true, '')))[1]::text::bigint >= {end}"""
            daemon.until("the target has all", lambda: is_done(server, f"sink_own{run}", done))
            own.append(options.rows / (time.monotonic() - began))
            cpu.append(daemon.cpu_seconds() * 1e6 / options.rows)
            rss.append(daemon.peak_mib())
            daemon.stop()
            same = "SELECT count(*), sum(hashtextextended(orders::text, 0)) FROM orders"
            if server.sql(f"sink_own{run}", same) != server.sql(f"sink_ref{run}", same):
                daemon.fail("the target's rows are not the source's")
            for target in (f"sink_ref{run}", f"sink_own{run}"):
                server.sql("postgres", f"DROP DATABASE {target} WITH (FORCE)")
            print(f"  {name}: COPY {reference[-1]:,.0f} rows/s, rowstream {own[-1]:,.0f} rows/s", file=sys.stderr)
    finally:
        daemon.remove()
        rows.unlink()
    drop_source(server, database)
    return result(name, own, "COPY of the same rows", reference, cpu, rss)


def mysql_upsert(name, options, server):
    """A full topic into an empty table of MySQL, against prepared multi-row upserts of the same rows and nothing else."""
    database, mysql = "mysql_sink_source", MySqlServer()
    make_source(server, database, ["sink_slot"])
    server.sql(database, f"INSERT INTO orders SELECT {ROW} FROM generate_series(1, {options.rows}) i")
    rows = pathlib.Path(tempfile.mkstemp(prefix="rowstream-bench-rows-", dir="/var/tmp")[1])
    with open(rows, "w") as file:
        server.client("psql", "-Xq", "-d", database, "-c", f"COPY ({MYSQL_ROWS}) TO STDOUT", stdout=file)
    daemon = Daemon(options.binary, server, [source(server, database, "sink_slot")])
    reference, own, cpu, rss = [], [], [], []
    try:
        daemon.start()
        daemon.until("the topic is full", lambda: daemon.topic_rows() >= options.rows)
        daemon.stop()
        for run in range(options.runs):
            theirs, ours, offsets = f"sink_ref{run}", f"sink_own{run}", f"offsets{run}"
            for target in (theirs, ours):
                mysql.sql(f"CREATE DATABASE {target}; CREATE TABLE {target}.orders ({MYSQL_COLUMNS})")
            began = time.monotonic()
            subprocess.run([options.examples / "upsert_ceiling", str(mysql.port), theirs, rows], check=True)
            reference.append(options.rows / (time.monotonic() - began))
            config = {"connection": {"host": "127.0.0.1", "port": mysql.port, "database": ours, "user": "root", "tls": {"mode": "disable"}},
                      "offsets_database": offsets}
            daemon.connectors([{"name": f"sink{run}", "connector": "mysql-sink", "topics": ["bench.*"], "config": config}])
            began = time.monotonic()
            daemon.start()
            stored = f"SELECT COALESCE(SUM(next_offset), 0) FROM {offsets}.sink_offsets"
            daemon.until("the target has all", lambda: quietly(lambda: int(mysql.sql(stored)) >= options.rows))
            own.append(options.rows / (time.monotonic() - began))
            cpu.append(daemon.cpu_seconds() * 1e6 / options.rows)
            rss.append(daemon.peak_mib())
            daemon.stop()
            sums = [line.split("\t")[1] for line in mysql.sql(f"CHECKSUM TABLE {theirs}.orders, {ours}.orders").splitlines()]
            if sums[0] != sums[1]:
                daemon.fail("the target's rows are not the source's")
            mysql.sql(f"DROP DATABASE {theirs}; DROP DATABASE {ours}; DROP DATABASE {offsets}")
            print(f"  {name}: ceiling {reference[-1]:,.0f} rows/s, rowstream {own[-1]:,.0f} rows/s", file=sys.stderr)
    finally:
        daemon.remove()
        rows.unlink()
        mysql.script("wipe")
    drop_source(server, database)
    return result(name, own, "prepared multi-row upserts, no offsets", reference, cpu, rss)


def quietly(look):
    try:
        return look()
    except RuntimeError:
        return False  # The table of offsets is not there yet.


def is_done(server, database, sql):
    try:
        return server.sql(database, sql) == "t"
    except subprocess.CalledProcessError:
        return False  # The table of offsets is not there yet.


def latency(name, options, server):
    """1,000 single-row commits a second; from the source's commit to the target's, by the server's own commit timestamps."""
    make_source(server, "latency_source", ["latency_slot"])
    server.sql("postgres", "CREATE DATABASE latency_target")
    server.sql("latency_source", "CREATE SEQUENCE ids")
    daemon = Daemon(options.binary, server, [source(server, "latency_source", "latency_slot"), sink(server, "latency_target")])
    seconds, runs = 10, []
    script = daemon.directory / "insert.sql"
    script.write_text(f"INSERT INTO orders SELECT {ROW} FROM (SELECT nextval('ids') AS i) s;")
    script.chmod(0o644)
    daemon.directory.chmod(0o755)
    try:
        daemon.start()
        written = 0
        for run in range(options.runs + 1):
            server.client("pgbench", "-n", "-R", 1000, "-T", seconds if run else 3, "-c", 4, "-j", 1, "-f", script, "latency_source",
                          stdout=subprocess.DEVNULL)
            first, written = written, int(server.sql("latency_source", "SELECT count(*) FROM orders"))
            daemon.until("the target has all", lambda: is_done(server, "latency_target", f"SELECT count(*) >= {written} FROM orders"))
            if run == 0:
                continue  # Tables are made, caches are warm.
            stamps = f"SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM orders WHERE id > {first}"
            read = lambda db: {k: float(v) for k, v in (line.split("|") for line in server.sql(db, stamps).splitlines())}
            there, here = read("latency_source"), read("latency_target")
            times = sorted((here[id] - at) * 1000 for id, at in there.items())
            runs.append((times[len(times) // 2], times[len(times) * 99 // 100], len(times) / seconds))
            print(f"  {name}: p50 {runs[-1][0]:.1f} ms, p99 {runs[-1][1]:.1f} ms at {runs[-1][2]:,.0f} rows/s", file=sys.stderr)
        rss, cpu = daemon.peak_mib(), daemon.cpu_seconds() * 1e6 / written
    finally:
        daemon.remove()
    drop_source(server, "latency_source")
    server.sql("postgres", "DROP DATABASE latency_target WITH (FORCE)")
    p50, p99, rate = (statistics.median(r[i] for r in runs) for i in range(3))
    return {"name": name, "rows_per_s": round(rate), "reference": None, "reference_rows_per_s": None, "ratio": None,
            "cpu_s_per_million": round(cpu, 2), "peak_rss_mib": round(rss, 1), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


def idle(name, options, server):
    """Source and sink that have nothing to do."""
    make_source(server, "idle_source", ["idle_slot"])
    server.sql("postgres", "CREATE DATABASE idle_target")
    daemon = Daemon(options.binary, server, [source(server, "idle_source", "idle_slot"), sink(server, "idle_target")])
    try:
        daemon.start()
        running = lambda: all(t["state"] == "RUNNING" for c in daemon.get("/connectors?expand=status").values()
                              for t in c["status"]["tasks"] or [{"state": ""}])
        daemon.until("both run", lambda: safely(running))
        time.sleep(3)
        before, began = daemon.cpu_seconds(), time.monotonic()
        time.sleep(20)
        percent = (daemon.cpu_seconds() - before) / (time.monotonic() - began) * 100
        rss = daemon.resident_mib()
    finally:
        daemon.remove()
    drop_source(server, "idle_source")
    server.sql("postgres", "DROP DATABASE idle_target WITH (FORCE)")
    return {"name": name, "rows_per_s": 0, "reference": None, "reference_rows_per_s": None, "ratio": None, "cpu_s_per_million": None,
            "peak_rss_mib": round(rss, 1), "cpu_percent": round(percent, 2)}


def safely(look):
    try:
        return look()
    except OSError:
        return False


def result(name, own, reference_name, reference, cpu, rss):
    median = statistics.median
    return {"name": name, "rows_per_s": round(median(own)), "reference": reference_name, "reference_rows_per_s": round(median(reference)),
            "ratio": round(median(own) / median(reference), 2), "cpu_s_per_million": round(median(cpu), 2),
            "peak_rss_mib": round(max(rss), 1)}


def verdict(r):
    checks = []
    if r["name"] in TARGETS:
        checks.append((r["ratio"] >= TARGETS[r["name"]], f"ratio ≥ {TARGETS[r['name']]}"))
        checks.append((r["peak_rss_mib"] <= RSS_TARGET_MIB, f"≤ {RSS_TARGET_MIB} MiB"))
    checks += r.get("checks", [])
    if r["name"] == "latency":
        checks += [(r["p50_ms"] <= 10, f"p50 {r['p50_ms']} ms ≤ 10"), (r["p99_ms"] <= 50, f"p99 {r['p99_ms']} ms ≤ 50")]
    if "cpu_percent" in r:
        checks += [(r["cpu_percent"] < 1, f"CPU {r['cpu_percent']} % < 1"), (r["peak_rss_mib"] <= IDLE_RSS_TARGET_MIB, f"≤ {IDLE_RSS_TARGET_MIB} MiB")]
    return ", ".join(("met: " if met else "MISSED: ") + what for met, what in checks)


def print_table(results):
    text = lambda number, form: "-" if number is None else format(number, form)
    print(f"\n{'name':<21}{'ratio':>6} {'rows/s':>10} {'reference':>10} {'CPU s/M':>8} {'peak MiB':>9}  reference is, targets")
    for r in results:
        print(f"{r['name']:<21}{text(r['ratio'], '.2f'):>6} {text(r['rows_per_s'], ',.0f'):>10} {text(r['reference_rows_per_s'], ',.0f'):>10} "
              f"{text(r['cpu_s_per_million'], '.2f'):>8} {text(r['peak_rss_mib'], '.1f'):>9}  "
              + "; ".join(part for part in (r["reference"], verdict(r)) if part))


BENCHES = {
    "pg-stream-small": stream, "pg-stream-large": stream, "pg-sink-upsert": upsert, "mysql-stream-small": mysql_stream,
    "mysql-stream-bulk": mysql_stream, "mariadb-stream-small": mysql_stream, "mysql-sink-upsert": mysql_upsert, "latency": latency,
    "pg-snapshot": snapshot, "mysql-snapshot": mysql_snapshot,
    "mysql-latency": mysql_latency, "idle": idle,
}


def main(benches):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(benches))
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts; 3 or more for a result worth quoting")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_intermixed_args()
    names = options.names or list(benches)
    options.examples = options.binary.parent / "examples"
    if unknown := [n for n in names if n not in benches]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(benches)}")
    server, results = Server(), []
    try:
        for name in names:
            results.append(benches[name](name, options, server))
    finally:
        server.wipe()
    print_table(results)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"results": results}, indent=2) + "\n")

