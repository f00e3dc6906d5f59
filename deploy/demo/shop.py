"""The demonstration behind deploy/demo.sh: workload, kills, comparison, clean-up. Standard library only."""

import argparse
import base64
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time

import outlet as second
from pair import Pair
from parts import Daemon, Psql, Receiver, tear_down, until_captured

TABLES = {
    "customers": "id, name, email, orders, version",
    "orders": "id, customer_id, status, total, placed_at, version",
    "order_items": "order_id, line, sku, quantity, price, version",
}
KEYS = {"customers": ["id"], "orders": ["id"], "order_items": ["order_id", "line"], **second.KEYS}
SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email text, orders int NOT NULL DEFAULT 0, version int NOT NULL DEFAULT 1);
CREATE TABLE orders (id bigserial PRIMARY KEY, customer_id int NOT NULL, status text NOT NULL, total numeric(12,2) NOT NULL DEFAULT 0,
    placed_at timestamptz NOT NULL DEFAULT clock_timestamp(), version int NOT NULL DEFAULT 1);
CREATE TABLE order_items (order_id bigint, line int, sku text NOT NULL, quantity int NOT NULL, price numeric(10,2) NOT NULL,
    version int NOT NULL DEFAULT 1, PRIMARY KEY (order_id, line));
INSERT INTO customers (id, name, email) SELECT i, 'Customer ' || i, 'c' || i || '@example.com' FROM generate_series(1, 2000) i;
"""
DATABASES = ("shop", "warehouse")
KILLS = 8


class Workload:
    """Two writers that place, advance and cancel orders. Each change of a row raises its `version` by one."""

    def __init__(self, psql):
        self.transactions, self.stopped = 0, threading.Event()
        self.threads = [threading.Thread(target=self.write, args=(psql, n), daemon=True) for n in range(2)]
        for thread in self.threads:
            thread.start()

    def write(self, psql, seed):
        chance = random.Random(seed)
        process = psql.writer("shop")
        while not self.stopped.wait(0.012):
            process.stdin.write(transaction(chance))
            process.stdin.flush()
            self.transactions += 1
        process.stdin.close()
        process.wait()

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def transaction(chance):
    customer, kind = chance.randint(1, 2000), chance.random()
    end = "ROLLBACK" if chance.random() < 0.08 else "COMMIT"
    some = "(SELECT id FROM orders ORDER BY id DESC OFFSET %d LIMIT 1)" % chance.randint(0, 60)
    if kind < 0.5:
        lines = ", ".join("((SELECT id FROM placed), %d, 'sku-%d', %d, %.2f)" % (n, chance.randint(1, 500), chance.randint(1, 9),
                          chance.uniform(1, 200)) for n in range(1, chance.randint(2, 5)))
        body = (f"WITH placed AS (INSERT INTO orders (customer_id, status) VALUES ({customer}, 'placed') RETURNING id) "
                f"INSERT INTO order_items (order_id, line, sku, quantity, price) VALUES {lines};\n"
                f"UPDATE customers SET orders = orders + 1, version = version + 1 WHERE id = {customer};")
    elif kind < 0.85:
        status = chance.choice(["paid", "packed", "shipped", "delivered"])
        body = (f"SAVEPOINT s; UPDATE orders SET status = 'nonsense', version = version + 1 WHERE id = {some}; ROLLBACK TO s;\n"
                f"UPDATE orders o SET status = '{status}', version = version + 1, total = (SELECT coalesce(sum(quantity * price), 0) "
                f"FROM order_items i WHERE i.order_id = o.id) WHERE id = {some};")
    else:
        body = (f"WITH gone AS (DELETE FROM orders WHERE id = {some} RETURNING id) "
                f"DELETE FROM order_items USING gone WHERE order_id = gone.id;")
    return f"BEGIN;\n{body}\n{end};\n"


def set_up(psql, password):
    tear_down(psql, DATABASES)
    psql.run("postgres", f"""
        CREATE ROLE rowstream LOGIN REPLICATION PASSWORD '{password}';
        CREATE DATABASE shop OWNER rowstream;
        CREATE DATABASE warehouse OWNER rowstream;""".replace("\n        ", "\n"))
    for database in DATABASES:
        psql.run(database, "ALTER SCHEMA public OWNER TO rowstream")
    psql.run("shop", "SET ROLE rowstream;\n" + SCHEMA)


def key_of(table, row):
    return tuple(row[column] for column in KEYS[table])


def alike(expected, told):
    """Decimals are exact strings in a topic, and times have another spelling."""
    if isinstance(expected, (int, float)) and isinstance(told, str):
        return float(expected) == float(told)
    return expected == told


def fold(table, records, problems):
    """The rows that a topic's events make, and that each version of a row came once, in order."""
    rows, dead, read = {}, set(), set()
    for record in records:
        key, value = key_of(table, record["key"]), record["value"]
        if value is None:
            if key not in dead:
                problems.append(f"{table} {key}: a tombstone without a delete")
            continue
        if value["op"] == "d":
            if rows.pop(key, None) is None:
                problems.append(f"{table} {key}: deleted twice, or before it came")
            dead.add(key)
            continue
        after, before = value["after"], rows.get(key)
        if value["op"] == "r":
            # The stream may tell of a row before the snapshot reads it, and then it reads what was told, or something newer.
            if key in read or before and after["version"] < before["version"]:
                problems.append(f"{table} {key}: a snapshot row came twice, or is older than what was told")
            read.add(key)
        elif before or value["op"] == "c":
            expected = before["version"] + 1 if before else 1
            if after["version"] != expected:
                problems.append(f"{table} {key}: version {after['version']} came where {expected} was due")
        rows[key] = after
    return rows


def compare(psql, daemon, receiver, outlet):
    problems, lines, events = list(receiver.problems), [], 0
    places = set()
    for table, columns in TABLES.items():
        topic = f"shop.public.{table}"
        source = {key_of(table, row): row for row in psql.rows("shop", f"SELECT {columns} FROM {table}")}
        target = {key_of(table, row): row for row in psql.rows("warehouse", f"SELECT {columns} FROM {table}")}
        records = daemon.records(topic)
        topics = fold(table, records, problems)
        for key in source.keys() | target.keys() | topics.keys():
            if source.get(key) != target.get(key):
                problems.append(f"{table} {key}: shop {source.get(key)}, warehouse {target.get(key)}")
            a, b = source.get(key), topics.get(key)
            if (a is None) != (b is None) or a and any(not alike(a[c], b[c]) for c in a if c != "placed_at"):
                problems.append(f"{table} {key}: shop {a}, topic {b}")
        told = {(topic, r["partition"], r["offset"]): r for r in records if r["value"] is not None}
        places |= told.keys()
        delivered = 0
        for id, body in list(receiver.bodies.items()):
            message = json.loads(body)
            if message["topic"] != topic or id not in receiver.accepted:
                continue
            record = told.get((topic, message["partition"], message["offset"]))
            if record is None or record["value"] != message["value"] or record["key"] != message["key"]:
                problems.append(f"webhook {id} is not what the topic holds")
            delivered += 1
        if delivered != len(told):
            problems.append(f"{table}: {len(told)} events, {delivered} webhooks")
        lines.append((table, len(source), len(topics), len(target), len(told), delivered))
        events += len(told)
    print(f"\n{'table':<14}{'shop rows':>11}{'by topic':>11}{'warehouse':>11}{'events':>11}{'webhooks':>11}")
    for line in lines:
        print(f"{line[0]:<14}" + "".join(f"{number:>11,}" for number in line[1:]))
    outlets, differences = outlet.compare(psql, daemon, fold, alike)
    problems += differences
    print(f"\n{'table':<14}{'outlet rows':>11}{'by topic':>11}{'warehouse':>11}{'events':>11}   (MariaDB)")
    for line in outlets:
        print(f"{line[0]:<14}" + "".join(f"{number:>11,}" for number in line[1:]))
    print(f"\n{receiver.requests:,} webhook requests for {events:,} events; {receiver.requests - events:,} were repetitions, under the same id")
    for problem in problems[:20]:
        print("  DIFFERENT:", problem)
    if len(problems) > 20:
        print(f"  … and {len(problems) - 20} more")
    print("\nEverything agrees, row by row." if not problems else f"\n{len(problems)} differences.")
    return not problems


def until_settled(psql, daemon, receiver, outlet):
    """The sinks have everything when the warehouse equals shop and outlet, and each event was accepted."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            count = "SELECT " + " + ".join(f"(SELECT count(*) + coalesce(sum(version), 0) FROM {t})" for t in TABLES)
            same = psql.run("shop", count) == psql.run("warehouse", count)
            if same and outlet.settled(psql):
                events = sum(1 for t in TABLES for r in daemon.records(f"shop.public.{t}") if r["value"] is not None)
                if len(receiver.accepted) >= events:
                    return
        except (RuntimeError, OSError):
            pass  # The warehouse's tables are not there yet, or the daemon is just starting.
        time.sleep(0.5)
    print("It does not settle; the comparison shows where. Last lines of the daemon's log:\n" + daemon.tail())


def look_at(daemon, directory):
    print(f"""
Look at it:
  curl {daemon.url}/connectors?expand=status          what runs (Kafka Connect's REST)
  curl {daemon.url}/readyz                            whether it makes progress
  curl {daemon.url}/metrics                           Prometheus
  curl {daemon.url}/subjects                          Confluent's schema registry
  {daemon.binary} topics read shop.public.orders --url {daemon.url} --follow
  {daemon.binary} topics read outlet.outlet.sales --url {daemon.url} --follow     the outlet's, from MariaDB
  {daemon.binary} status --url {daemon.url}
  tail -f {' '.join(map(str, daemon.logs))}
  ROWSTREAM_SERVICES={os.environ['ROWSTREAM_SERVICES']} sh tests/services/postgres.sh 15 client psql warehouse       the copy; `psql shop` is the original
Ctrl-C ends it and removes everything.
""")


def progress(workload, daemon, receiver, kills):
    try:
        records = f"{sum(end for topic, end in daemon.ends().items() if topic.startswith('shop.')):>8,}"
    except OSError:
        records = "   (down)"
    print(f"  {workload.transactions:>7,} transactions   {records} {daemon.unit} in topics   {len(receiver.accepted):>8,} webhooks"
          + (f"   {kills} kills" if kills else ""), flush=True)


def check(psql, daemon, receiver, workload, outlet):
    chance = random.Random()
    for kill in range(1, KILLS + 1):
        time.sleep(chance.uniform(0.3, 3.0))
        daemon.kill()
        progress(workload, daemon, receiver, kill)
        daemon.while_down(chance)
        daemon.start()
    daemon.wait()
    time.sleep(2)
    workload.stop()
    outlet.stop()
    print(f"\nThe workload ended after {workload.transactions:,} transactions and {KILLS} SIGKILLs. Waiting until all is delivered …", flush=True)
    until_settled(psql, daemon, receiver, outlet)
    return compare(psql, daemon, receiver, outlet)


def make_daemon(arguments, directory, environment):
    """What the demonstration talks to, and the workers behind it."""
    if not arguments.kafka:
        daemon = Daemon(arguments.binary, directory, environment, "shop/worker.yaml")
        return daemon, [daemon]
    environment = dict(environment, KAFKA_SERVERS=arguments.kafka)
    workers = [Daemon(arguments.binary, directory, environment, "shop/worker-kafka.yaml", name) for name in ("worker-1", "worker-2")]
    return Pair(workers), workers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--mariadb", required=True)
    parser.add_argument("--kafka", metavar="SERVERS", help="run on this Kafka, with two workers of one group")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    # Ctrl-C and a polite kill end it the same way: through `finally`.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    psql, daemon, workload, agreed = Psql(), None, None, not arguments.check
    outlet = second.Outlet()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="rowstream-demo-"))
    password, secret = secrets.token_hex(16), "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    try:
        set_up(psql, password)
        outlet.set_up(password)
        receiver = Receiver(secret)
        port = arguments.postgres.rsplit(":", 1)[1].split("/")[0]
        environment = {"SHOP_PORT": port, "SHOP_PASSWORD": password, "RECEIVER_URL": receiver.url, "RECEIVER_SECRET": secret,
                       "OUTLET_PASSWORD": password, "OUTLET_PORT": arguments.mariadb.rsplit(":", 1)[1].strip("/"),
                       "ROWSTREAM_CONNECTORS": str(second.connectors(directory))}
        daemon, workers = make_daemon(arguments, directory, environment)
        config = f"config/examples/shop/{workers[0].config.name}"
        print(f"$ rowstream validate --config {config}", flush=True)
        daemon.validate().check_returncode()
        for worker in workers:
            print((f"$ ROWSTREAM_ADMIN__LISTEN=127.0.0.1:{worker.port} " if arguments.kafka else "$ ") + f"rowstream run --config {config}", flush=True)
        daemon.start()
        daemon.wait()
        until_captured(daemon, "shop", "outlet")
        workload = Workload(psql)
        outlet.start()
        look_at(daemon, directory)
        if arguments.check:
            agreed = check(psql, daemon, receiver, workload, outlet)
        watched = 0
        while not arguments.check:
            time.sleep(2)
            watched += 1
            progress(workload, daemon, receiver, 0)
            if arguments.kafka and watched == 8:
                print("  Now the worker that runs the source is killed with SIGKILL", flush=True)
                daemon.kill()
                daemon.takeover()
                daemon.start()
                print("  The killed one is back", flush=True)
    except KeyboardInterrupt:
        print("\nStopping.")
        agreed = not arguments.check
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if workload:
            workload.stop()
        outlet.stop()
        if daemon:
            daemon.stop()
        tear_down(psql, DATABASES)
        shutil.rmtree(directory, ignore_errors=True)
        print("Cleaned up: " + ("both workers" if arguments.kafka else "the daemon, its data") + ", the databases and the slot are gone.")
    sys.exit(0 if agreed else 1)


if __name__ == "__main__":
    main()
