"""What every demonstration is made of: psql, a receiver of webhooks, the daemon. Standard library only."""

import base64
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import socket
import subprocess
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Psql:
    """psql of the unpacked tree. Every statement is run by a process of its own, except for the long-lived writers."""

    def __init__(self):
        self.command = ["sh", str(ROOT / "tests/services/postgres.sh"), "15", "client", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1"]
        self.environment = dict(os.environ, PGTZ="UTC", PGOPTIONS="-c client_min_messages=error")

    def run(self, database, sql):
        done = subprocess.run(self.command + ["-d", database], input=sql, env=self.environment, text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout

    def rows(self, database, sql):
        return [json.loads(line) for line in self.run(database, f"SELECT to_json(r) FROM ({sql}) r").splitlines()]

    def writer(self, database):
        command = [part for part in self.command if part != "ON_ERROR_STOP=1" and part != "-v"]
        return subprocess.Popen(command + ["-d", database], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env=self.environment, text=True)


class Mariadb:
    """mariadb of the unpacked tree, as root."""

    def __init__(self):
        self.script = ["sh", str(ROOT / "tests/services/mysql.sh"), "mariadb-11.8"]
        self.command = [*self.script, "client", "mariadb"]

    def run(self, sql):
        done = subprocess.run(self.command + ["--batch", "--raw", "--skip-column-names"], input=sql, text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"mariadb: {done.stderr.strip()}")
        return done.stdout

    def port(self):
        return int(self.run("SELECT @@port"))


class Receiver:
    """Keeps every body under its id, and refuses what is not signed. One request in a hundred fails, as receivers do; all of them while
    it is down."""

    def __init__(self, secret, path="shop"):
        self.down = False
        self.key = base64.b64decode(secret.removeprefix("whsec_"))
        self.lock = threading.Lock()
        self.bodies, self.accepted, self.requests, self.problems = {}, set(), 0, []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.take(self.headers, body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a killed daemon closes its connections in mid-request
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/{path}"

    def taken(self, message):
        """Accepts a new message; when this fails it was not, and comes again."""

    def take(self, headers, body):
        id, stamp = headers["webhook-id"], headers["webhook-timestamp"]
        digest = hmac.new(self.key, f"{id}.{stamp}.".encode() + body, hashlib.sha256).digest()
        signed = "v1," + base64.b64encode(digest).decode() in headers["webhook-signature"].split()
        with self.lock:
            self.requests += 1
            if not signed:
                self.problems.append(f"{id} is not signed with our secret")
                return 401
            if self.bodies.setdefault(id, body) != body:
                self.problems.append(f"{id} came with two bodies")
            if self.down or self.requests % 100 == 0:
                return 503
            if id not in self.accepted:
                self.taken(json.loads(body))
                self.accepted.add(id)
            return 200


class Daemon:
    unit = "records"

    def __init__(self, binary, directory, environment, config, name="rowstream"):
        self.binary, self.log, self.process = binary, directory / f"{name}.log", None
        self.logs = [self.log]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = dict(os.environ, **environment, ROWSTREAM_DATA_DIR=str(directory / "data"),
                                ROWSTREAM_ADMIN__LISTEN=f"127.0.0.1:{self.port}")
        self.config = ROOT / "config/examples" / config

    def validate(self):
        return subprocess.run([self.binary, "validate", "--config", self.config], env=self.environment)

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.binary, "run", "--config", self.config], env=self.environment,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")
            try:
                self.get("/livez")
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the daemon does not answer:\n{self.tail()}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def while_down(self, chance):
        time.sleep(chance.uniform(0, 0.5))

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read().decode()

    def ends(self):
        return {t["name"]: sum(p["end_offset"] for p in t["partitions"]) for t in json.loads(self.get("/topics"))}

    def records(self, topic):
        return [json.loads(line) for line in self.get(f"/topics/{topic}/records").splitlines() if line]


def tear_down(psql, databases):
    """Removes databases and what stands on them, from an earlier run too."""
    names = ", ".join(f"'{name}'" for name in databases)
    of = f"FROM pg_replication_slots WHERE database IN ({names})"
    for _ in range(50):
        psql.run("postgres", f"SELECT pg_terminate_backend(active_pid) {of} AND active")
        psql.run("postgres", f"SELECT pg_drop_replication_slot(slot_name) {of} AND NOT active")
        if not psql.run("postgres", f"SELECT 1 {of}").strip():
            break
        time.sleep(0.1)
    for database in databases:
        psql.run("postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    psql.run("postgres", "DROP ROLE IF EXISTS rowstream")


def until_captured(daemon, *names, ready=bool):
    """What is written before a source's first position, the snapshot alone can tell, and a row that is gone by then nobody."""
    deadline = time.monotonic() + 60
    while not all(ready(json.loads(daemon.get(f"/connectors/{name}/offsets"))["offsets"]) for name in names):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no position of a source is stored:\n{daemon.tail()}")
        time.sleep(0.05)
