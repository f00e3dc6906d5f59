"""config/examples/liberate: customers are taken out of a monolith's database while everything goes on."""

import html
import http.server
import subprocess
import threading
import time
import urllib.request

from application import Application, Writer, main
from parts import ROOT, Mariadb, Receiver, until_captured

CUSTOMERS = 40
ROWS = {"customers": "id, name, city, version", "invoices": "id, customer_id, amount, paid, version"}
BY_CITY = """SELECT c.city, count(*) AS invoices, sum(i.amount)::text AS amount, count(*) FILTER (WHERE i.paid = 0) AS open
    FROM invoices i JOIN customers c ON c.id = i.customer_id GROUP BY c.city ORDER BY c.city"""
BY_CITY_MONOLITH = """SELECT c.city, count(*), sum(i.amount), sum(NOT i.paid) FROM monolith.invoices i JOIN monolith.customers c ON c.id = i.customer_id
    GROUP BY c.city ORDER BY c.city"""
CITIES = ["Aarau", "Bern", "Chur", "Zug"]


def customer(chance, written):
    """New ones first, then changes; the same SQL for the monolith and for the service."""
    city = chance.choice(CITIES)
    if written < CUSTOMERS:
        return f"INSERT INTO customers (id, name, city, version) VALUES ({written}, 'Customer {written}', '{city}', 1)"
    return f"UPDATE customers SET city = '{city}', version = version + 1 WHERE id = {chance.randrange(CUSTOMERS)}"


def invoice(chance, written):
    if written % 3 == 2:
        return f"UPDATE invoices SET paid = true, version = version + 1 WHERE id = {chance.randint(1, written)}"
    return f"INSERT INTO invoices (customer_id, amount) VALUES ({chance.randrange(CUSTOMERS)}, {chance.randint(100, 100_000) / 100})"


class Notified(Receiver):
    def __init__(self, secret):
        super().__init__(secret, "invoices")
        self.told = []

    def taken(self, message):
        self.told.append(message["value"]["after"]["id"])


class Dashboard:
    """A page that reads the reports' database, and nothing else."""

    def __init__(self, psql):
        dashboard = self
        self.psql = psql

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                try:
                    status, body = 200, dashboard.page().encode()
                except RuntimeError:  # The reports' tables are made with their first rows.
                    status, body = 503, b"There are no invoices yet."
                self.send_response(status)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def page(self):
        rows = self.psql.rows("reports", BY_CITY)
        cells = lambda row: "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values())
        lines = "\n".join(f"<tr>{cells(row)}</tr>" for row in rows)
        return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Invoices by city</title>
<style>body {{ font: 16px system-ui; margin: 2em auto; max-width: 40em }} td, th {{ padding: .3em 1.5em; text-align: right }} td:first-child, th:first-child {{ text-align: left }}</style>
<h1>Invoices by city</h1><table><tr><th>City</th><th>Invoices</th><th>Amount</th><th>Open</th></tr>
{lines}
</table></html>"""


class Liberate(Application):
    name, sources = "liberate", ("monolith",)
    databases = {"customers": None, "reports": None}

    def __init__(self, psql, directory):
        super().__init__(psql, directory)
        self.mariadb, self.notified, self.dashboard = Mariadb(), Notified(self.secret), Dashboard(psql)
        self.customers = self.invoices = None
        self.home, self.watched = "monolith", 0

    def set_up(self, password):
        super().set_up(password)
        self.mariadb.run("DROP DATABASE IF EXISTS monolith; DROP USER IF EXISTS rowstream@'127.0.0.1'; CREATE DATABASE monolith CHARACTER SET utf8mb4; "
                         f"USE monolith; {(self.examples / 'schema.sql').read_text()} CREATE USER rowstream@'127.0.0.1' IDENTIFIED BY '{password}';"
                         "GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO rowstream@'127.0.0.1'; GRANT ALL ON monolith.* TO rowstream@'127.0.0.1'")

    def environment(self):
        return {"NOTIFY_URL": self.notified.url, "MONOLITH_PORT": str(self.mariadb.port())}

    def monolith_writer(self, statement, pause):
        process = subprocess.Popen([*self.mariadb.command, "monolith"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        return Writer(process, statement, pause)

    def start(self):
        self.customers = self.monolith_writer(customer, 0.03)
        self.invoices = self.monolith_writer(invoice, 0.015)
        print(f"\n  dashboard: {self.dashboard.url}")

    def stop(self):
        for writer in (self.customers, self.invoices):
            if writer:
                writer.stop()

    def rows(self, database, table):
        """Each row as texts, whatever the database."""
        if database == "monolith":
            lines = self.mariadb.run(f"SELECT {ROWS[table]} FROM monolith.{table} ORDER BY id")
        else:
            try:
                lines = self.psql.run(database, f"\\pset fieldsep '\\t'\nSELECT {ROWS[table]} FROM {table} ORDER BY id")
            except RuntimeError:
                return None  # The table is made with the first row.
        return lines.splitlines()

    def cut_over(self):
        """The customers' writers stop, the service's table equals the monolith's, and from then on it is the other way round."""
        written = self.customers.written
        self.customers.stop()
        everywhere = lambda: self.rows("monolith", "customers") == self.rows("customers", "customers") == self.rows("reports", "customers")
        if not self.until("the customer service has what the monolith has", everywhere):
            raise RuntimeError("no cut-over")
        (self.connectors / "customers.yaml").unlink()
        for file in ("monolith.yaml", "reports.yaml", "customer-service.yaml", "monolith-customers.yaml"):
            self.add(file)
        self.until("the service's changes are captured", lambda: "customer-service" in self.daemon.get("/connectors"))
        until_captured(self.daemon, "customer-service")
        self.home = "service"
        # The writer of before goes on in the new home.
        self.customers = Writer(self.psql.writer("customers"), lambda chance, n: customer(chance, written + n), 0.03)
        print("  Cut over: the customers are the service's, and the monolith's table follows", flush=True)

    def tell(self):
        count = {name: len(self.rows(name, "customers") or []) for name in ("monolith", "customers", "reports")}
        print(f"  customers written in the {self.home:<9} monolith {count['monolith']:>3}   service {count['customers']:>3}   reports {count['reports']:>3}   "
              f"{self.invoices.written:>6,} invoices and payments   {len(self.notified.told):>4,} large ones told", flush=True)

    def watch(self):
        self.watched += 1
        self.tell()
        if self.watched == 5:
            self.cut_over()

    def check(self, chance):
        self.until("reports have customers", lambda: len(self.rows("reports", "customers") or []) > 20)
        self.kill(chance)
        self.tell()
        self.cut_over()
        self.kill(chance)
        self.tell()
        self.kill(chance)
        time.sleep(1)
        self.customers.stop()
        self.invoices.stop()
        self.daemon.wait()
        print("\nAll writers stopped, after 3 SIGKILLs and the cut-over. Waiting until all is everywhere …", flush=True)
        pairs = [("customers", "customers", "monolith"), ("customers", "customers", "reports"), ("invoices", "monolith", "reports")]
        problems = []
        for table, home, follower in pairs:
            self.until(f"{follower} has the {table}", lambda: self.rows(home, table) == self.rows(follower, table))
            here, there = self.rows(home, table), self.rows(follower, table)
            print(f"  {table:<10}{home:>10} {len(here):>5,} rows {follower:>10} {len(there or []):>5,} rows")
            if here != there:
                problems.append(f"{table}: {home} and {follower} differ: {sorted(set(here) ^ set(there or []))[:4]}")
        versions = sum(int(row.rsplit("\t", 1)[1]) for row in self.rows("customers", "customers"))
        if versions <= 2 * CUSTOMERS:
            problems.append("the customers were hardly changed: make it longer")
        large = [int(id) for id in self.mariadb.run("SELECT id FROM monolith.invoices WHERE amount >= 900 ORDER BY id").split()]
        self.until("each large invoice is told", lambda: len(self.notified.told) >= len(large))
        print(f"  {len(large):,} large invoices, {len(self.notified.told):,} told by {self.notified.requests:,} requests")
        if sorted(self.notified.told) != large or not large:
            problems.append("the large invoices that were told are others, or one came twice")
        page = urllib.request.urlopen(self.dashboard.url, timeout=10).read().decode()
        for line in self.mariadb.run(BY_CITY_MONOLITH).splitlines():
            cells = "".join(f"<td>{value}</td>" for value in line.split("\t"))
            if cells not in page:
                problems.append(f"the dashboard lacks {cells}")
        return problems + self.notified.problems


if __name__ == "__main__":
    main(Liberate)
