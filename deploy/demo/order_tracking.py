"""config/examples/order-tracking: a customer's webhook, and how long it takes from the commit."""

import json
import time

from application import Application, Writer, main
from parts import ROOT, Receiver

STATUSES = ["placed", "paid", "packed", "shipped", "delivered"]


class Customer(Receiver):
    """Keeps what it was told of each order, and how long after the commit."""

    def __init__(self, secret):
        super().__init__(secret, "orders")
        self.told, self.rows, self.late_ms = {}, [], []

    def taken(self, message):
        event = message["value"]
        self.late_ms.append(time.time() * 1000 - event["source"]["ts_us"] / 1000)
        self.rows.append(event["after"])
        self.told.setdefault(event["after"]["id"], []).append(event["after"]["status"])

    def quantiles(self, since=0):
        times = sorted(self.late_ms[since:])
        return f"p50 {times[len(times) // 2]:.1f} ms, p99 {times[len(times) * 99 // 100]:.1f} ms" if times else "nothing yet"


class Shop:
    """Places orders, touches them, and moves them on; keeps what the customer must hear."""

    def __init__(self):
        self.expected = {}

    def change(self, chance, _):
        kind, id = chance.random(), chance.randrange(max(len(self.expected), 1))
        if kind < 0.2 or not self.expected:
            id = len(self.expected)
            self.expected[id] = ["placed"]
            return f"INSERT INTO orders (id, customer, item) VALUES ({id}, 'c{id % 50}', 'item {id}')"
        if kind < 0.6 and len(self.expected[id]) < len(STATUSES):
            status = STATUSES[len(self.expected[id])]
            self.expected[id].append(status)
            return f"UPDATE orders SET status = '{status}' WHERE id = {id}"
        return f"UPDATE orders SET shelf = 'secret shelf', packed_by = 'secret packer', touched = touched + 1 WHERE id = {id}"


class OrderTracking(Application):
    name, sources = "order-tracking", ("shop",)
    databases = {"tracked": (ROOT / "config/examples/order-tracking/schema.sql").read_text()}

    def __init__(self, psql, directory):
        super().__init__(psql, directory)
        self.customer, self.shop, self.writer, self.watched = Customer(self.secret), Shop(), None, 0

    def environment(self):
        return {"CUSTOMER_URL": self.customer.url}

    def start(self):
        self.writer = Writer(self.psql.writer("tracked"), self.shop.change, 0.006)

    def stop(self):
        if self.writer:
            self.writer.stop()

    def watch(self):
        told = len(self.customer.late_ms)
        newest = self.customer.rows[-1] if told else {}
        print(f"  {self.writer.written:>7,} changes   {told:>7,} notifications   from commit to delivery {self.customer.quantiles(self.watched)}   "
              f"last: order {newest.get('id')} is {newest.get('status')}", flush=True)
        self.watched = told

    def check(self, chance):
        self.until("notifications come", lambda: len(self.customer.late_ms) > 500)
        # Of a daemon that runs: the first ones were there before it was warm, and after a kill they wait for its start.
        undisturbed = self.customer.quantiles(100)
        for _ in range(3):
            self.kill(chance)
            self.watch()
        time.sleep(1)
        self.writer.stop()
        self.daemon.wait()
        expected = sum(map(len, self.shop.expected.values()))
        print(f"\nThe shop closed after {self.writer.written:,} changes, {expected:,} of which a customer must hear, and 3 SIGKILLs. Waiting …", flush=True)
        self.until("all are told", lambda: sum(map(len, self.customer.told.values())) >= expected)
        told = self.customer.told
        problems = [f"order {id}: told {told.get(id)}, expected {self.shop.expected.get(id)}"
                    for id in sorted(self.shop.expected.keys() | told.keys()) if told.get(id) != self.shop.expected.get(id)]
        if any(set(row) != {"id", "customer", "item", "status"} for row in self.customer.rows) or "secret" in json.dumps(self.customer.rows):
            problems.append("a body holds what is nobody's business")
        print(f"  {len(self.customer.late_ms):,} notifications by {self.customer.requests:,} requests; from commit to delivery before the kills: {undisturbed}")
        return problems + self.customer.problems


if __name__ == "__main__":
    main(OrderTracking)
