"""config/examples/field-service: an order desk, a portal, two installers, and marketing that joins later."""

import json
import time

from application import Application, Writer, main
from parts import ROOT, Receiver

ORDERS = 150
LEDGER = """
CREATE TABLE ledger (id bigint, version int, before text, after text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO ledger VALUES (NEW.id, NEW.version, CASE TG_OP WHEN 'UPDATE' THEN OLD.installer END, NEW.installer);
    RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note();
"""


class Listener(Receiver):
    """Remembers which changes it was told of, in the order of their coming."""

    def __init__(self, secret, name):
        super().__init__(secret, name)
        self.told = []

    def taken(self, message):
        self.told.append((message["offset"], message["value"]["after"]))

    def changes(self):
        return [(row["id"], row["version"]) for _, row in self.told]


def change(chance, written):
    """Orders come, are surveyed, given to an installer (or to the other one), installed. Each change raises `version`."""
    if written < ORDERS:
        return (f"INSERT INTO orders (id, customer, address, price, internal_note) "
                f"VALUES ({written}, 'c{written}', 'Road {written}', {written}.90, 'secret')")
    state, installer = chance.choice(["surveyed", "scheduled", "installed"]), chance.choice(["'north'", "'south'", "installer"])
    return (f"UPDATE orders SET state = '{state}', installer = {installer}, appointment = '2026-12-01', version = version + 1, "
            f"internal_note = 'secret {written}' WHERE id = {chance.randrange(ORDERS)}")


class FieldService(Application):
    name, sources = "field-service", ("fiber",)
    databases = {"fiber": (ROOT / "config/examples/field-service/schema.sql").read_text() + LEDGER}

    def __init__(self, psql, directory):
        super().__init__(psql, directory)
        names = ("portal", "north", "south", "marketing_now", "marketing_all")
        self.listeners = {name: Listener(self.secret, name) for name in names}
        self.desk, self.watched = None, 0

    def environment(self):
        return {f"{name.upper()}_URL": listener.url for name, listener in self.listeners.items()}

    def start(self):
        self.desk = Writer(self.psql.writer("fiber"), change, 0.01)

    def stop(self):
        if self.desk:
            self.desk.stop()

    def tell(self):
        told = "   ".join(f"{name} {len(listener.told):,}" + (" (down)" if listener.down else "") for name, listener in self.listeners.items())
        print(f"  {self.desk.written:>6,} changes   {told}", flush=True)

    def watch(self):
        self.watched += 1
        if self.watched in (4, 10):
            self.listeners["south"].down = self.watched == 4
            print("  The south's system goes down" if self.watched == 4 else "  The south's system is back", flush=True)
        if self.watched == 7:
            print("  Marketing joins: connectors.d/marketing-now.yaml and connectors.d/marketing-all.yaml", flush=True)
            self.join()
        self.tell()

    def join(self):
        self.add("marketing-now.yaml")
        self.add("marketing-all.yaml")

    def since(self):
        """When the tasks of those that were there began to run."""
        status = json.loads(self.daemon.get("/connectors?expand=status"))
        return {name: status[name]["status"]["tasks"][0]["progress"]["since_ms"] for name in ("fiber", "portal", "installer-north", "installer-south")}

    def begins(self):
        """Where the listener from now on begins; None while that is not stored."""
        connectors = json.loads(self.daemon.get("/connectors"))
        if "marketing-now" not in connectors:
            return None
        offsets = json.loads(self.daemon.get("/connectors/marketing-now/offsets"))["offsets"]
        return offsets[0]["offset"]["kafka_offset"] if offsets else None

    def check(self, chance):
        south, problems = self.listeners["south"], []
        self.until("orders were given to installers", lambda: len(south.told) > 50)
        south.down = True
        self.kill(chance)
        self.tell()
        self.until("everything runs again", lambda: set(self.since()))
        undisturbed = self.since()
        # Nobody of them is told anything before the daemon dies again: the moment must be stored by then.
        self.listeners["marketing_now"].down = True
        self.join()
        self.until("it is stored where marketing begins", lambda: self.begins() is not None)
        begin = self.begins()
        if self.since() != undisturbed:
            problems.append("a listener was restarted when marketing joined")
        self.tell()
        self.kill(chance)
        self.listeners["marketing_now"].down = False
        self.tell()
        self.kill(chance)
        south.down = False
        time.sleep(1)
        self.desk.stop()
        self.daemon.wait()
        ledger = self.psql.rows("fiber", "SELECT * FROM ledger")
        print(f"\nThe order desk closed after {len(ledger):,} changes and 3 SIGKILLs. Waiting until all is told …", flush=True)
        everything = {(change["id"], change["version"]) for change in ledger}
        of = lambda who: {(c["id"], c["version"]) for c in ledger if who in (c["before"], c["after"])}
        expected = {"portal": everything, "north": of("north"), "south": of("south"), "marketing_all": everything}
        # Where a change of the portal's topic stands, the portal was told; marketing from now on begins at one of those places.
        self.until("all are told", lambda: all(set(self.listeners[name].changes()) >= changes for name, changes in expected.items()))
        expected["marketing_now"] = {(row["id"], row["version"]) for offset, row in self.listeners["portal"].told if offset >= begin}
        self.until("marketing is told", lambda: set(self.listeners["marketing_now"].changes()) >= expected["marketing_now"])
        print(f"\n{'listener':<16}{'theirs':>9}{'told':>9}{'requests':>10}")
        for name, changes in expected.items():
            listener = self.listeners[name]
            print(f"{name:<16}{len(changes):>9,}{len(listener.told):>9,}{listener.requests:>10,}")
            problems += [f"{name}: {problem}" for problem in listener.problems + compare(listener, changes)]
        if not 0 < len(expected["marketing_now"]) < len(everything):
            problems.append("marketing did not join in the middle")
        if any("price" in row for name in ("north", "south") for _, row in self.listeners[name].told):
            problems.append("an installer was told a price")
        if "price" not in self.listeners["portal"].told[0][1]:
            problems.append("the portal was told no price")
        return problems


def compare(listener, expected):
    """Each change once, those of an order in order, and nothing that is nobody's business."""
    told, problems, newest = listener.changes(), [], {}
    if len(told) != len(set(told)):
        problems.append(f"{len(told) - len(set(told))} changes came twice under another id")
    problems += [f"order {id} version {version} is missing" for id, version in sorted(expected - set(told))]
    problems += [f"order {id} version {version} is not theirs" for id, version in sorted(set(told) - expected)]
    for id, version in told:
        if version <= newest.get(id, 0):
            problems.append(f"order {id}: version {version} came after {newest[id]}")
        newest[id] = version
    if any("internal_note" in row or "secret" in json.dumps(row) for _, row in listener.told):
        problems.append("the internal note was told")
    return problems


if __name__ == "__main__":
    main(FieldService)
