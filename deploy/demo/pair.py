"""Two workers of one group on Kafka, which the demonstration treats as one daemon: whatever it asks, the one that is up answers.

One of them dies at a time. What it ran must then run on the other, so a takeover is awaited now and then, and timed.
"""

import json
import time


class Pair:
    def __init__(self, workers):
        self.workers, self.down = workers, None
        self.told = 0
        self.binary = workers[0].binary
        self.unit = "offsets"  # the markers of commits take offsets too

    @property
    def up(self):
        return next(w for w in self.workers if w is not self.down)

    @property
    def url(self):
        return self.up.url

    @property
    def logs(self):
        return [log for worker in self.workers for log in worker.logs]

    def validate(self):
        return self.up.validate()

    def start(self):
        """Both, or the one that is down."""
        for worker in self.workers if self.down is None else [self.down]:
            worker.start()
        self.down = None

    def wait(self):
        """Until both answer and everything runs."""
        for worker in self.workers:
            worker.wait()
        self.until_owned(lambda owners: True)

    def kill(self):
        """The one that runs the source, so that it hurts; so first one must, and have told something since the last kill."""
        self.until(lambda: sum(self.ends().values()) > self.told)
        owner = self.until_owned(lambda owners: "shop" in owners)["shop"]
        self.told = sum(self.ends().values())
        self.down = next(w for w in self.workers if w.url.endswith(f"//{owner}"))
        self.down.kill()

    def while_down(self, chance):
        """Half of the time it comes back before anybody noticed; otherwise the other has taken everything over by then."""
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, 0.5))
        else:
            self.takeover()

    def takeover(self):
        began, here = time.monotonic(), self.url.split("//")[1]
        self.until_owned(lambda owners: set(owners.values()) == {here})
        print(f"  the other worker runs everything {time.monotonic() - began:.1f} s after the kill", flush=True)

    def until_owned(self, holds):
        """Until everything runs, by workers of which this holds; tells which runs what."""
        return self.until(lambda: (owners := self.owners()) and None not in owners.values() and holds(owners) and owners)

    def until(self, look):
        deadline = time.monotonic() + 60
        while True:
            try:
                if found := look():
                    return found
            except OSError:
                pass  # It has just come back, and does not answer yet.
            if time.monotonic() > deadline:
                raise RuntimeError(f"not in 60 s; what runs where: {self.owners()}\n{self.tail()}")
            time.sleep(0.1)

    def owners(self):
        """Which worker runs each connector's task; None for one that does not run."""
        try:
            connectors = json.loads(self.up.get("/connectors?expand=status"))
        except OSError:
            return {}
        tasks = {name: (c["status"]["tasks"] or [{}])[0] for name, c in connectors.items()}
        return {name: task["worker_id"] if task.get("state") == "RUNNING" else None for name, task in tasks.items()}

    def stop(self):
        for worker in self.workers:
            worker.stop()

    def tail(self):
        return "\n".join(worker.tail() for worker in self.workers)

    def get(self, path):
        return self.up.get(path)

    def ends(self):
        return self.up.ends()

    def records(self, topic):
        return self.up.records(topic)
