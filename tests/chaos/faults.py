"""What goes wrong during a run: several lanes of faults side by side, each with choices from its own seed."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from kombu.exceptions import OperationalError
from pymongo.errors import PyMongoError

from tests.chaos.books import Accepted, Books
from tests.chaos.chaos import CLUSTERS, USERS, Chaos, paused
from tests.dev.processes import Server

Fault = Callable[[], None]
ATLAS = "/api/atlas"
ATLAS_RULES: dict[str, dict[str, object]] = {
    "atlas 500": {"path": ATLAS, "status": 500, "times": 5},
    "atlas html": {"path": ATLAS, "status": 503, "html": True},
    "atlas 429": {"path": ATLAS, "status": 429, "times": 5},
    "atlas 429 later": {"path": ATLAS, "status": 429, "headers": {"Retry-After": "2"}, "times": 5},
    # Longer than workers wait for an answer; then it acts after all.
    "atlas hangs": {"path": USERS, "hang_before": 9, "times": 3},
    "atlas hangs after": {"path": USERS, "hang_after": 9, "times": 3},
    "closed before": {"path": ATLAS, "drop": "before", "times": 4},
    "closed after": {"path": USERS, "drop": "after", "times": 4},
    "clusters hang after": {"path": CLUSTERS, "hang_after": 9, "times": 3},
    "clusters closed after": {"path": CLUSTERS, "drop": "after", "times": 4},
}
PAUSES = {
    "workers": (3.0, 5.0),
    "frozen": (5.0, 7.0),
    "api": (3.0, 5.0),
    "redis": (2.0, 4.0),
    "mongodb": (4.0, 6.0),
    "atlas": (0.5, 1.5),
    "messages": (1.0, 2.0),
}
"""Seconds between two faults of a lane: short enough for each to happen in half a minute."""


class Faults:
    """Lanes of faults; ``happened`` counts them. The pauses of ``PAUSES`` are multiplied by ``slower``."""

    def __init__(self, chaos: Chaos, books: Books, seed: int, slower: float) -> None:
        self._chaos, self._books, self._seed, self._slower = chaos, books, seed, slower
        self.happened: Counter[str] = Counter()
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._random = random.Random(f"{seed}/durations")
        stack = chaos.stack
        self.lanes: dict[str, dict[str, Fault]] = {
            "workers": {
                "worker killed": lambda: self._killed(self._one()),
                "worker stopped": lambda: self._stopped(self._one()),
                "both workers killed": lambda: self._killed(*stack.workers),
            },
            # It wakes after its lease is over.
            "frozen": {"worker frozen": lambda: self._hangs(self._one(), 21, 23)},
            "api": {
                "api killed": lambda: self._killed(stack.api),
                "api stopped": lambda: self._stopped(stack.api),
                "api killed between write and send": self._api_killed_between_write_and_send,
            },
            "redis": {
                "redis flushed": stack.redis.flush,
                "redis hangs": lambda: self._hangs(stack.redis, 1, 3),
                "redis restarts empty": lambda: self._killed(stack.redis, most=2),
                "messages reordered": self._messages_reordered,
            },
            "mongodb": {
                "mongodb killed": lambda: self._killed(stack.state, most=2),
                "primary steps down": self._primary_steps_down,
                "mongodb hangs": lambda: self._hangs(stack.state, 1, 3),
            },
            "atlas": {
                **{name: partial(self._atlas_breaks, rule) for name, rule in ATLAS_RULES.items()},
                "wrong keys": self._wrong_keys,
                "atlas slow": self._atlas_slow,
            },
            "messages": {
                # Those of the latest operations, to all workers at once; those of operations accepted long ago.
                "messages twice": lambda: self._send_again(books.recent()[-15:] * 2),
                "messages late": lambda: self._send_again(self._sample(books.recent(), 30)),
            },
        }
        """Faults of one lane never overlap, those of different lanes do."""

    def run_lane(self, name: str, over: threading.Event) -> None:
        """Deal the lane's faults like cards: shuffled, each once, then shuffled again."""
        choices = random.Random(f"{self._seed}/{name}")
        while not over.is_set():
            for fault, happen in choices.sample(cards := list(self.lanes[name].items()), len(cards)):
                if over.wait(self._slower * choices.uniform(*PAUSES[name])):
                    return
                try:
                    happen()
                except Exception as error:  # noqa: BLE001 - a lane that fails must say so at the end, and the run go on
                    self.errors.append(f"{fault}: {type(error).__name__}: {error}")
                with self._lock:
                    self.happened[fault] += 1

    def _for(self, least: float, most: float) -> None:
        with self._lock:
            seconds = self._random.uniform(least, most)
        time.sleep(seconds)

    def _one(self) -> Server:
        with self._lock:
            return self._random.choice(self._chaos.stack.workers)

    def _sample(self, recent: list[tuple[str, Accepted]], most: int) -> list[tuple[str, Accepted]]:
        with self._lock:
            return self._random.sample(recent, min(most, len(recent)))

    # --- processes ------------------------------------------------------------------------------------------------

    def _killed(self, *servers: Server, most: float = 0) -> None:
        self._chaos.kill(*servers)
        self._for(0, most)
        self._chaos.start(*servers)

    def _stopped(self, server: Server) -> None:
        self._chaos.stop(server)
        self._chaos.start(server)

    def _hangs(self, server: Server, least: float, most: float) -> None:
        with paused(server):
            self._for(least, most)

    def _api_killed_between_write_and_send(self) -> None:
        """Redis does not answer, so that requests stand between the two."""
        with paused(self._chaos.stack.redis):
            self._for(0.2, 0.5)
            self._chaos.kill(self._chaos.stack.api)
        self._chaos.start(self._chaos.stack.api)

    def _primary_steps_down(self) -> None:
        with suppress(PyMongoError):  # it closes connections, its own caller's too
            self._chaos.step_down()

    # --- Atlas: each trouble ends by itself, also when nobody calls while the circuit is open ------------------------

    def _atlas_breaks(self, rule: dict[str, object]) -> None:
        number = self._chaos.atlas.rule(**{"method": "*", "times": None, **rule})
        self._for(0.7, 2)
        self._chaos.atlas.heal(number)

    def _atlas_slow(self) -> None:
        self._chaos.atlas.latency(0.3)
        self._for(1, 3)
        self._chaos.atlas.latency(0)

    def _wrong_keys(self) -> None:
        atlas = self._chaos.atlas
        atlas.put_key(atlas.public_key, "another", [atlas.project_id])
        self._for(1, 3)
        atlas.put_key(atlas.public_key, atlas.private_key, [atlas.project_id])

    # --- messages -------------------------------------------------------------------------------------------------

    def _messages_reordered(self) -> None:
        """The oldest messages come last."""
        with self._chaos.stack.redis.client() as redis:
            for queue in ("instances", "bindings") * 3:
                redis.lmove(queue, queue, "RIGHT", "LEFT")

    def _send_again(self, entries: list[tuple[str, Accepted]]) -> None:
        for operation_id, entry in entries:
            # Redis is away at this moment, or goes while kombu connects (the AttributeError): lost, a fault too.
            try:
                self._chaos.send_again(entry.kind, entry.instance_id, entry.binding_id, operation_id)
            except OperationalError:
                continue
            except AttributeError as error:
                if error.name != "client":
                    raise
