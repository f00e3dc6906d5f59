"""config/examples/signup: a request, a small service that answers it, and three who listen to the answer."""

import time

from application import Application, Writer, main
from parts import ROOT, Mariadb, Receiver

CRM = "SELECT user_id, name, email FROM crm.contacts ORDER BY user_id"


def request(_, written):
    """The web application asks for a user: the outbox holds the request only until the transaction commits."""
    user = f"u{written:05}"
    payload = f"""{{"user_id": "{user}", "name": "Nämè {written}", "email": "{user}@example.com"}}"""
    return f"""BEGIN;
        INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('user', '{user}', 'createUserRequested', '{payload}');
        DELETE FROM outbox; COMMIT"""


class UserService(Receiver):
    """Makes a user and says so, in one transaction; for one that is there already it has said so."""

    def __init__(self, secret, psql):
        super().__init__(secret, "users")
        self.psql = psql

    def taken(self, message):
        user = message["value"]
        values = ", ".join("'" + user[name].replace("'", "''") + "'" for name in ("user_id", "name", "email"))
        self.psql.run("accounts", f"""BEGIN;
            WITH made AS (INSERT INTO users (id, name, email) VALUES ({values}) ON CONFLICT DO NOTHING RETURNING id, name, email)
            INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
            SELECT 'user', id, 'createUserConfirmed', jsonb_build_object('user_id', id, 'name', name, 'email', email) FROM made;
            DELETE FROM outbox; COMMIT;""")


class Mailer(Receiver):
    def __init__(self, secret):
        super().__init__(secret, "mails")
        self.welcomed = []

    def taken(self, message):
        self.welcomed.append(message["value"]["user_id"])


class Signup(Application):
    name, sources = "signup", ("accounts",)
    databases = {"accounts": (ROOT / "config/examples/signup/schema.sql").read_text(), "warehouse": None}

    def __init__(self, psql, directory):
        super().__init__(psql, directory)
        self.mariadb, self.service, self.mailer = Mariadb(), UserService(self.secret, psql), Mailer(self.secret)
        self.web, self.watched = None, 0

    def set_up(self, password):
        super().set_up(password)
        self.mariadb.run("DROP DATABASE IF EXISTS crm; DROP USER IF EXISTS rowstream@'127.0.0.1'; CREATE DATABASE crm CHARACTER SET utf8mb4;"
                         f"CREATE USER rowstream@'127.0.0.1' IDENTIFIED BY '{password}'; GRANT ALL ON crm.* TO rowstream@'127.0.0.1'")

    def environment(self):
        return {"SERVICE_URL": self.service.url, "MAIL_URL": self.mailer.url, "CRM_PORT": str(self.mariadb.port())}

    def start(self):
        self.web = Writer(self.psql.writer("accounts"), request, 0.06)

    def stop(self):
        if self.web:
            self.web.stop()

    def shut_out(self, is_down):
        """The CRM's database lets nobody in, and ends who is."""
        self.mariadb.run(f"ALTER USER rowstream@'127.0.0.1' ACCOUNT {'LOCK; KILL USER rowstream' if is_down else 'UNLOCK'}")
        print("  The CRM goes down" if is_down else "  The CRM is back", flush=True)

    def contacts(self):
        try:
            return [tuple(line.split("\t")) for line in self.mariadb.run(CRM).splitlines()]
        except RuntimeError:
            return []  # The table is made with the first row.

    def customers(self):
        try:
            return [tuple(row.values()) for row in self.psql.rows("warehouse", "SELECT user_id, name, email FROM customers ORDER BY user_id")]
        except RuntimeError:
            return []

    def tell(self):
        print(f"  {self.web.written:>6,} asked   {len(self.mailer.welcomed):>6,} welcomed   {len(self.customers()):>6,} in the warehouse   "
              f"{len(self.contacts()):>6,} in the CRM", flush=True)

    def watch(self):
        self.watched += 1
        if self.watched in (4, 10):
            self.shut_out(self.watched == 4)
        self.tell()

    def check(self, chance):
        self.until("the first are in the CRM", lambda: len(self.contacts()) > 5)
        self.shut_out(True)
        there = len(self.contacts())
        self.kill(chance)
        self.until("the others go on without the CRM", lambda: len(self.mailer.welcomed) > there + 10 and len(self.customers()) > there + 10)
        self.tell()
        problems = [] if len(self.contacts()) == there else ["the CRM was written to while it was down"]
        self.kill(chance)
        self.shut_out(False)
        self.kill(chance)
        time.sleep(1)
        self.web.stop()
        self.daemon.wait()
        asked = [(f"u{n:05}", f"Nämè {n}", f"u{n:05}@example.com") for n in range(self.web.written)]
        print(f"\n{len(asked):,} asked, and 3 SIGKILLs. Waiting until all is told …", flush=True)
        self.until("all are in the CRM", lambda: len(self.contacts()) >= len(asked))
        self.until("all are in the warehouse", lambda: len(self.customers()) >= len(asked))
        self.until("all are welcomed", lambda: len(self.mailer.welcomed) >= len(asked))
        users = [tuple(row.values()) for row in self.psql.rows("accounts", "SELECT id, name, email FROM users ORDER BY id")]
        for name, people in (("users", users), ("warehouse", self.customers()), ("CRM", self.contacts())):
            print(f"  {name:<10}{len(people):>8,}")
            if people != asked:
                problems.append(f"{name}: not the same people; missing {sorted(set(asked) - set(people))[:5]}, too many {sorted(set(people) - set(asked))[:5]}")
        print(f"  {'welcomed':<10}{len(self.mailer.welcomed):>8,}   by {self.mailer.requests:,} requests")
        if sorted(self.mailer.welcomed) != [user for user, _, _ in asked]:
            problems.append("not the same people were welcomed, or one twice")
        return problems + self.mailer.problems + self.service.problems


if __name__ == "__main__":
    main(Signup)
