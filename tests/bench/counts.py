"""How many MongoDB commands, Redis messages and Atlas calls an operation costs.

MongoDB's profiler counts the commands; each process has a user of its own there, which tells them apart. The platform's
polls are not among them: the end of an operation is read from MongoDB.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from broker_api.state.process_report import COUNTERS
from tests.bench import load
from tests.bench.lab import API, WORKER, Lab, MeasuredStack, target_of
from tests.bench.load import Client
from tests.bench.report import Result, Row
from workers.clusters.change_status import SPACING_MS

IDLE_SECONDS = 5.0
PAUSE_SECONDS = SPACING_MS / 1000
"""How long after a poll the next bind can ask for the status at once; one that begins sooner waits for its turn."""
PROFILE_BYTES = 64_000_000


@dataclass
class Counts:
    """What some operations cost together: ``commands`` by process and name, ``calls`` by method and collection.

    ``messages`` are without those that the sweeper has sent again, which are ``resent``.
    """

    operations: int = 1
    seconds: float = 0.0
    commands: Counter[tuple[str, str]] = field(default_factory=Counter)
    messages: int = 0
    resent: int = 0
    calls: Counter[str] = field(default_factory=Counter)

    def commands_each(self, process: str | None = None) -> float:
        """Return the MongoDB commands of one operation, of one kind of process or of all."""
        return sum(n for (who, _), n in self.commands.items() if process in (None, who)) / self.operations

    def calls_each(self) -> float:
        """Return the Atlas calls of one operation, without digest challenges."""
        return self.calls.total() / self.operations

    def row(self, label: str) -> Row:
        return Row(
            label,
            {
                "MongoDB, API": [self.commands_each(API)],
                "MongoDB, worker": [self.commands_each(WORKER)],
                "MongoDB": [self.commands_each()],
                "Redis messages": [self.messages / self.operations],
                "Atlas calls": [self.calls_each()],
            },
        )

    def by_name(self, label: str) -> str:
        """Return the commands and calls of one operation in a line."""
        named = [f"{who} {name}" for who, name in self.commands]
        numbers = [*zip(named, self.commands.values(), strict=True), *self.calls.items()]
        each = [f"{name} {number / self.operations:.2g}" for name, number in sorted(numbers) if number > 0]
        return f"{label}: {', '.join(each)}"


class Meter:
    """Counts what a stack does.

    Args:
        stack: A running stack, which nothing else uses.
        lab: Its servers.
    """

    def __init__(self, stack: MeasuredStack, lab: Lab) -> None:
        self._stack, self._lab = stack, lab
        self._client = Client(target_of(stack))
        self._mongo = stack.state.client()
        self._database = self._mongo[stack.database]
        self._stack.wait_for_ends()
        self._idle = Counts()
        with self.measure() as self._idle:
            time.sleep(IDLE_SECONDS)

    def close(self) -> None:
        self._client.close()
        self._mongo.close()

    @contextmanager
    def measure(self, operations: int = 1) -> Iterator[Counts]:
        """Count what is done inside and until all operations have ended; what an idle broker does is subtracted."""
        counts = Counts(operations)
        self._database.drop_collection("system.profile")
        self._database.create_collection("system.profile", capped=True, size=PROFILE_BYTES)
        messages, resent, calls = self._messages(), self._resent(), Counter(self._lab.atlas.read_log().calls)
        self._database.command("profile", 2)
        began = time.monotonic()
        try:
            yield counts
            self._stack.wait_for_ends()
        finally:
            counts.seconds = time.monotonic() - began
            self._database.command("profile", 0)
        # A process writes its counts once a second at most, whatever the number of operations.
        found = {"user": {"$in": [f"{API}@admin", f"{WORKER}@admin"]}, "command.q._id": {"$ne": COUNTERS}}
        for entry in self._database["system.profile"].find(found):
            counts.commands[entry["user"].partition("@")[0], _command(entry)] += 1
        for key, number in self._idle.commands.items():
            counts.commands[key] -= round(number * counts.seconds / IDLE_SECONDS)
        counts.resent = self._resent() - resent
        counts.messages = self._messages() - messages - counts.resent
        counts.calls = Counter(self._lab.atlas.read_log().calls) - calls

    def one_by_one(self, count: int, pause: float) -> tuple[Counts, Counts]:
        """Count binds that each begin ``pause`` seconds after the end of the one before, and their unbinds."""
        names = [f"after-{pause:g}-{n}" for n in range(count)]
        return self._each(names, self._client.begin_bind, pause), self._each(names, self._client.begin_unbind, pause)

    def at_once(self, count: int) -> Counts:
        """Count binds that are sent all at once."""
        with self.measure(count) as counts:
            load.burst(target_of(self._stack), count)
        return counts

    def polls(self, count: int) -> Counts:
        """Count polls of an instance."""
        with self.measure(count) as counts:
            for _ in range(count):
                self._client.read(load.POLL_PATH)
        return counts

    def _each(self, names: list[str], act: Callable[[str], object], pause: float) -> Counts:
        with self.measure(len(names)) as counts:
            for name in names:
                act(name)
                self._stack.wait_for_ends()
                time.sleep(pause)
        return counts

    def _messages(self) -> int:
        with self._lab.redis.client() as client:
            stats: dict[str, Any] = client.info("commandstats")
        return int(stats.get("cmdstat_lpush", {}).get("calls", 0))

    def _resent(self) -> int:
        """Return how many jobs the sweepers have sent since the workers were started, by their logs."""
        return sum(worker.log_text().count("operation_sent") for worker in self._stack.workers)


def _command(entry: dict[str, Any]) -> str:
    """Return the name of a command in the profile, where finds and writes have their own forms."""
    name = {"query": "find", "remove": "delete", "getmore": "getMore"}.get(entry["op"], entry["op"])
    return next(iter(entry["command"])) if name == "command" else str(name)


def counts(lab: Lab) -> Result:
    """Count binds and unbinds one by one, binds at once, and polls."""
    single, many = (10, 60) if lab.short else (50, 200)
    meter, before = Meter(lab.broker(), lab), lab.atlas.read_log()
    binds, unbinds = meter.one_by_one(single, PAUSE_SECONDS)
    close_binds, close_unbinds = meter.one_by_one(single, 0)
    found = {
        "bind, with pauses": binds,
        "unbind, with pauses": unbinds,
        "bind, one by one": close_binds,
        "unbind, one by one": close_unbinds,
        f"bind, {many} at once": meter.at_once(many),
        "poll": meter.polls(single),
    }
    meter.close()
    after = lab.atlas.read_log()
    rows = [each.row(label) for label, each in found.items()]
    notes = [each.by_name(label) for label, each in found.items()]
    challenges, connections = after.challenges - before.challenges, after.connections - before.connections
    notes.append(f"Digest challenges: {challenges}, new connections: {connections}.")
    return Result("What an operation costs, Atlas applies changes at once, one worker", rows, notes)
