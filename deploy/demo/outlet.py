"""The second shop of deploy/demo.sh: an outlet on MariaDB, whose stock and sales reach the same warehouse. Standard library only."""

import json
import random
import shutil
import subprocess
import threading

from parts import ROOT, Mariadb

EXAMPLES = [ROOT / "config/examples" / name / "connectors.d" for name in ("shop", "outlet")]
TABLES = {"stock": ["sku", "place", "quantity", "price", "version"], "sales": ["id", "sku", "quantity", "version"]}
KEYS = {"stock": ["sku"], "sales": ["id"]}
SCHEMA = """
USE outlet;
CREATE TABLE stock (sku varchar(20) PRIMARY KEY, place enum('shelf','cellar') NOT NULL, quantity int NOT NULL, price decimal(10,2),
    version int NOT NULL DEFAULT 1);
CREATE TABLE sales (id bigint PRIMARY KEY AUTO_INCREMENT, sku varchar(20) NOT NULL, quantity smallint unsigned NOT NULL,
    sold_at datetime(6) NOT NULL DEFAULT now(6), version int NOT NULL DEFAULT 1);
INSERT INTO stock (sku, place, quantity, price) SELECT CONCAT('sku-', seq), IF(seq % 4, 'shelf', 'cellar'), seq, seq / 8 FROM seq_1_to_500;
"""


class Outlet(Mariadb):
    """The database, and one writer. Each change of a row raises its `version` by one."""

    def __init__(self):
        super().__init__()
        self.stopped, self.thread = threading.Event(), None

    def set_up(self, password):
        self.run("DROP DATABASE IF EXISTS outlet; DROP USER IF EXISTS rowstream@'127.0.0.1'")
        self.run(f"CREATE DATABASE outlet CHARACTER SET utf8mb4; {SCHEMA} CREATE USER rowstream@'127.0.0.1' IDENTIFIED BY '{password}';"
                 "GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO rowstream@'127.0.0.1'")

    def start(self):
        self.thread = threading.Thread(target=self.write, daemon=True)
        self.thread.start()

    def write(self):
        chance = random.Random(3)
        process = subprocess.Popen(self.command + ["outlet"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        while not self.stopped.wait(0.015):
            process.stdin.write(transaction(chance))
            process.stdin.flush()
        process.stdin.close()
        process.wait()

    def stop(self):
        self.stopped.set()
        if self.thread:
            self.thread.join()

    def rows(self, table):
        pairs = ", ".join(f"'{column}', {column}" for column in TABLES[table])
        return [json.loads(line) for line in self.run(f"SELECT JSON_OBJECT({pairs}) FROM outlet.{table}").splitlines()]

    def settled(self, psql):
        """Whether the warehouse has what the outlet has; the comparison looks at each row."""
        count = "SELECT " + " + ".join(f"(SELECT count(*) + coalesce(sum(version), 0) FROM %s{table})" for table in TABLES)
        return int(float(self.run(count % ("outlet.", "outlet.")))) == int(psql.run("warehouse", count % ("", "")))

    def compare(self, psql, daemon, fold, alike):
        """Source, topics and warehouse, row by row; answers lines of the table and what differs."""
        problems, lines = [], []
        for table, columns in TABLES.items():
            by_key = lambda rows: {tuple(row[column] for column in KEYS[table]): row for row in rows}
            source, target = by_key(self.rows(table)), by_key(psql.rows("warehouse", f"SELECT {', '.join(columns)} FROM {table}"))
            records = daemon.records(f"outlet.outlet.{table}")
            topics = fold(table, records, problems)
            for key in source.keys() | target.keys() | topics.keys():
                for name, there in (("warehouse", target.get(key)), ("topic", topics.get(key))):
                    here = source.get(key)
                    if (here is None) != (there is None) or here and any(not alike(here[c], there[c]) for c in columns):
                        problems.append(f"{table} {key}: outlet {here}, {name} {there}")
            lines.append((table, len(source), len(topics), len(target), sum(1 for r in records if r["value"] is not None)))
        return lines, problems


def transaction(chance):
    sku, kind = f"sku-{chance.randint(1, 500)}", chance.random()
    end = "ROLLBACK" if chance.random() < 0.08 else "COMMIT"
    if kind < 0.6:
        lines = ", ".join(f"('sku-{chance.randint(1, 500)}', {chance.randint(1, 9)})" for _ in range(chance.randint(1, 4)))
        body = (f"INSERT INTO sales (sku, quantity) VALUES {lines};\n"
                f"UPDATE stock SET quantity = quantity - 1, version = version + 1 WHERE sku = '{sku}';")
    elif kind < 0.85:
        body = f"UPDATE sales SET quantity = quantity + 1, version = version + 1 ORDER BY id DESC LIMIT {chance.randint(1, 3)};"
    else:
        body = (f"DELETE FROM sales ORDER BY id DESC LIMIT 1;\n"
                f"UPDATE stock SET place = IF(place = 'shelf', 'cellar', 'shelf'), version = version + 1 WHERE sku = '{sku}';")
    return f"BEGIN;\n{body}\n{end};\n"


def connectors(directory):
    """The files of both examples in one directory."""
    target = directory / "connectors.d"
    target.mkdir()
    for file in (file for example in EXAMPLES for file in example.iterdir()):
        shutil.copy(file, target)
    return target
