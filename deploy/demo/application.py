"""What the applications of config/examples have in common: set up, run, watched or checked, removed. Standard library only.

An application is a class with `name` (its directory under config/examples), `databases` (PostgreSQL's, each with its schema or None), `sources`
(connectors whose position must be stored before anything is written), `environment()`, `start()`, `watch()`, `check()` and `stop()`.
"""

import argparse
import base64
import pathlib
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time

from parts import ROOT, Daemon, Psql, tear_down, until_captured

KILLS = 3


class Application:
    databases, sources = {}, ()

    def __init__(self, psql, directory):
        self.psql, self.examples = psql, ROOT / "config/examples" / self.name
        self.connectors = directory / "connectors.d"
        shutil.copytree(self.examples / "connectors.d", self.connectors)
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.daemon = None

    def add(self, file):
        """A listener joins: its file is copied into the directory that the daemon watches."""
        shutil.copy(self.examples / "later" / file, self.connectors / file)

    def kill(self, chance):
        time.sleep(chance.uniform(0.3, 1.5))
        self.daemon.kill()
        time.sleep(chance.uniform(0, 0.5))
        self.daemon.start()

    def until(self, what, reached, patience=120):
        deadline = time.monotonic() + patience
        while True:
            try:
                if reached():
                    return True
            except OSError:
                pass  # The daemon is just starting.
            if time.monotonic() > deadline:
                print(f"not in {patience} s: {what}. Last lines of the daemon's log:\n{self.daemon.tail()}")
                return False
            time.sleep(0.1)

    def set_up(self, password):
        tear_down(self.psql, self.databases)
        self.psql.run("postgres", f"CREATE ROLE rowstream LOGIN REPLICATION PASSWORD '{password}'")
        for database, schema in self.databases.items():
            self.psql.run("postgres", f"CREATE DATABASE {database} OWNER rowstream")
            self.psql.run(database, "ALTER SCHEMA public OWNER TO rowstream")
            if schema:
                self.psql.run(database, "SET ROLE rowstream;\n" + schema)


class Writer:
    """One statement after the other, until it is stopped; `process` takes them."""

    def __init__(self, process, statement, pause):
        self.process, self.statement, self.pause = process, statement, pause
        self.written, self.stopped = 0, threading.Event()
        self.thread = threading.Thread(target=self.write, daemon=True)
        self.thread.start()

    def write(self):
        chance = random.Random(7)
        while not self.stopped.wait(self.pause):
            self.process.stdin.write(self.statement(chance, self.written) + ";\n")
            self.process.stdin.flush()
            self.written += 1
        self.process.stdin.close()
        self.process.wait()

    def stop(self):
        self.stopped.set()
        self.thread.join()


def judge(problems):
    for problem in problems[:20]:
        print("  DIFFERENT:", problem)
    if len(problems) > 20:
        print(f"  … and {len(problems) - 20} more")
    print("\nEverything agrees." if not problems else f"\n{len(problems)} differences.")
    return not problems


def main(kind):
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--mariadb", required=True)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    # Ctrl-C and a polite kill end it the same way: through `finally`.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="rowstream-demo-"))
    psql, password, agreed = Psql(), secrets.token_hex(16), not arguments.check
    application = kind(psql, directory)
    try:
        application.set_up(password)
        environment = {"DEMO_PORT": arguments.postgres.rsplit(":", 1)[1].split("/")[0], "DEMO_PASSWORD": password,
                       "RECEIVER_SECRET": application.secret, "ROWSTREAM_CONNECTORS": str(application.connectors), **application.environment()}
        config = f"{application.name}/worker.yaml"
        daemon = application.daemon = Daemon(arguments.binary, directory, environment, config)
        print(f"$ rowstream validate --config config/examples/{config}", flush=True)
        daemon.validate().check_returncode()
        print(f"$ rowstream run --config config/examples/{config}", flush=True)
        daemon.start()
        daemon.wait()
        # Behind the snapshot each change is told once; while it reads, a row that changes may be told by both.
        until_captured(daemon, *application.sources, ready=lambda offsets: offsets and not offsets[0]["offset"].get("snapshot"))
        application.start()
        print(f"\n  {daemon.binary} status --url {daemon.url}\n  tail -f {daemon.log}\nCtrl-C ends it and removes everything.\n", flush=True)
        if arguments.check:
            agreed = judge(application.check(random.Random()))
        while not arguments.check:
            time.sleep(2)
            application.watch()
    except KeyboardInterrupt:
        print("\nStopping.")
        agreed = not arguments.check
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        application.stop()
        if application.daemon:
            application.daemon.stop()
        tear_down(psql, application.databases)
        shutil.rmtree(directory, ignore_errors=True)
        print("Cleaned up: the daemon, its data, the databases and the slot are gone.")
    sys.exit(0 if agreed else 1)
