"""What goes wrong during a run: several lanes of faults side by side, each with choices from its own seed."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from kombu.exceptions import OperationalError
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.chaos.books import Books
from tests.chaos.chaos import USERS, Chaos, Document, paused
from tests.dev.processes import Server

Fault = Callable[[], None]
ATLAS = "/api/atlas"
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
        self._chaos, self._books, self._slower = chaos, books, slower
        self._seed = seed
        self.happened: Counter[str] = Counter()
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._random = random.Random(f"{seed}/durations")

    def lanes(self) -> dict[str, list[Fault]]:
        """Faults of one lane never overlap, those of different lanes do."""
        return {
            "workers": [self.worker_killed, self.worker_stopped, self.both_workers_killed],
            "frozen": [self.worker_frozen],
            "api": [self.api_killed, self.api_stopped, self.api_killed_between_write_and_send],
            "redis": [self.redis_flushed, self.redis_hangs, self.redis_restarts_empty, self.messages_reordered],
            "mongodb": [self.mongodb_killed, self.primary_steps_down, self.mongodb_hangs],
            "atlas": [
                *(self.atlas_500, self.atlas_html, self.atlas_429, self.atlas_429_later, self.atlas_hangs),
                *(self.closed_before, self.closed_after, self.atlas_hangs_after, self.wrong_keys, self.atlas_slow),
            ],
            "messages": [self.messages_twice, self.messages_late],
        }

    def run_lane(self, name: str, over: threading.Event) -> None:
        """Deal the lane's faults like cards: shuffled, each once, then shuffled again."""
        choices = random.Random(f"{self._seed}/{name}")
        while not over.is_set():
            for fault in choices.sample(cards := self.lanes()[name], len(cards)):
                if over.wait(self._slower * choices.uniform(*PAUSES[name])):
                    return
                self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        try:
            fault()
        except Exception as error:  # noqa: BLE001 - a lane that fails must say so at the end, and the run go on
            self.errors.append(f"{fault.__name__}: {type(error).__name__}: {error}")
        with self._lock:
            self.happened[fault.__name__.replace("_", " ")] += 1

    def _for(self, least: float, most: float) -> None:
        with self._lock:
            seconds = self._random.uniform(least, most)
        time.sleep(seconds)

    def _one(self) -> Server:
        with self._lock:
            return self._random.choice(self._chaos.stack.workers)

    # --- the broker's processes -----------------------------------------------------------------------------------

    def worker_killed(self) -> None:
        worker = self._one()
        self._chaos.kill(worker)
        self._chaos.start(worker)

    def both_workers_killed(self) -> None:
        self._chaos.kill(*self._chaos.stack.workers)
        self._chaos.start(*self._chaos.stack.workers)

    def worker_stopped(self) -> None:
        worker = self._one()
        self._chaos.stop(worker)
        self._chaos.start(worker)

    def worker_frozen(self) -> None:
        """It wakes after its lease is over."""
        with paused([self._one()]):
            self._for(21, 23)

    def api_killed(self) -> None:
        self._chaos.kill(self._chaos.stack.api)
        self._chaos.start(self._chaos.stack.api)

    def api_stopped(self) -> None:
        self._chaos.stop(self._chaos.stack.api)
        self._chaos.start(self._chaos.stack.api)

    def api_killed_between_write_and_send(self) -> None:
        """Redis does not answer, so that requests stand between the two."""
        with paused([self._chaos.stack.redis]):
            self._for(0.2, 0.5)
            self._chaos.kill(self._chaos.stack.api)
        self._chaos.start(self._chaos.stack.api)

    # --- Redis and MongoDB ----------------------------------------------------------------------------------------

    def redis_flushed(self) -> None:
        self._chaos.stack.redis.flush()

    def redis_hangs(self) -> None:
        with paused([self._chaos.stack.redis]):
            self._for(1, 3)

    def redis_restarts_empty(self) -> None:
        self._chaos.kill(self._chaos.stack.redis)
        self._for(0, 2)
        self._chaos.start(self._chaos.stack.redis)

    def messages_reordered(self) -> None:
        """The oldest messages come last."""
        with self._chaos.stack.redis.client() as redis:
            for queue in ("instances", "bindings"):
                for _ in range(3):
                    redis.lmove(queue, queue, "RIGHT", "LEFT")

    def mongodb_killed(self) -> None:
        self._chaos.kill(self._chaos.stack.state)
        self._for(0, 2)
        self._chaos.start(self._chaos.stack.state)

    def mongodb_hangs(self) -> None:
        with paused([self._chaos.stack.state]):
            self._for(1, 3)

    def primary_steps_down(self) -> None:
        address = self._chaos.stack.state.address
        # It closes connections, its own caller's too.
        with MongoClient[Document](address, directConnection=True) as client, suppress(PyMongoError):
            client.admin.command("replSetStepDown", 3, force=True)

    # --- Atlas: each trouble ends by itself, also when nobody calls while the circuit is open ------------------------

    def atlas_500(self) -> None:
        self._for_a_while(method="*", path=ATLAS, status=500, times=5)

    def atlas_html(self) -> None:
        self._for_a_while(method="*", path=ATLAS, status=503, html=True)

    def atlas_429(self) -> None:
        self._for_a_while(method="*", path=ATLAS, status=429, times=5)

    def atlas_429_later(self) -> None:
        self._for_a_while(method="*", path=ATLAS, status=429, headers={"Retry-After": "2"}, times=5)

    def atlas_hangs(self) -> None:
        """Longer than workers wait for an answer; then it acts after all."""
        self._for_a_while(method="*", path=USERS, hang_before=9, times=3)

    def atlas_hangs_after(self) -> None:
        self._for_a_while(method="*", path=USERS, hang_after=9, times=3)

    def closed_before(self) -> None:
        self._for_a_while(method="*", path=ATLAS, drop="before", times=4)

    def closed_after(self) -> None:
        self._for_a_while(method="*", path=USERS, drop="after", times=4)

    def atlas_slow(self) -> None:
        self._chaos.atlas.latency(0.3)
        self._for(1, 3)
        self._chaos.atlas.latency(0)

    def wrong_keys(self) -> None:
        atlas = self._chaos.atlas
        atlas.put_key(atlas.public_key, "another", [atlas.project_id])
        self._for(1, 3)
        atlas.put_key(atlas.public_key, atlas.private_key, [atlas.project_id])

    def _for_a_while(self, **rule: object) -> None:
        number = self._chaos.atlas.rule(**{"times": None, **rule})
        self._for(0.7, 2)
        self._chaos.atlas.heal(number)

    # --- messages -------------------------------------------------------------------------------------------------

    def messages_twice(self) -> None:
        """Those of the latest operations, to all workers at once."""
        self._send_again(self._books.recent()[-15:], 2)

    def messages_late(self) -> None:
        """Those of operations that were accepted long ago."""
        recent = self._books.recent()
        self._send_again(self._sample(recent, 30), 1)

    def _sample(self, recent: list, most: int) -> list:  # type: ignore[type-arg]
        with self._lock:
            return self._random.sample(recent, min(most, len(recent)))

    def _send_again(self, entries: list, times: int) -> None:  # type: ignore[type-arg]
        for operation_id, entry in entries * times:
            # Redis is away at this moment, or goes while kombu connects (the AttributeError): lost, a fault too.
            try:
                self._chaos.send_again(entry.kind, entry.instance_id, entry.binding_id, operation_id)
            except OperationalError:
                continue
            except AttributeError as error:
                if error.name != "client":
                    raise
