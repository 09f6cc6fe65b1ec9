"""The health of the broker, for the readiness probe and the metrics."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker_api.errors import ErrStorageMongoConnection
from broker_api.jobs.queue import Queue
from broker_api.json_types import JsonObject
from broker_api.state.broker_state import BrokerState
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.open_operations import OpenOperations
from broker_api.state.operation_counts import Counts, OperationCounts
from broker_api.state.store import Store

MOST_USERS = 2_000
"""How many users of a project the metrics count at most; Atlas allows 100, or what its support has raised this to."""
SHARED_SECONDS, LONGEST_SHARED_SECONDS = 0.2, 1.0
"""For how long a look at the broker's readiness is used: as long as it took, within these limits."""


@dataclass(frozen=True)
class Figures:
    """The figures of ``/metrics`` that all processes of the broker share.

    Attributes:
        state: What the processes have written about the broker as a whole.
        open: The operations that are open now.
        ended: The number of the other operations by kind and state, at the last count.
        users: The number of database users of each project.
        depths: The number of messages in each queue; None when Redis does not answer.
    """

    state: BrokerState
    open: OpenOperations
    ended: Counts
    users: Mapping[str, int]
    depths: Mapping[str, int] | None


@dataclass
class Health:
    """Looks at MongoDB, at the reports of all processes in it, and at Redis."""

    store: Store
    housekeeping: Housekeeping
    queue: Queue
    keys: KeyCheck
    counts: OperationCounts
    _looking: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _seen: tuple[bool, JsonObject] = field(default=(False, {}), init=False)
    _seen_until: float = field(default=0.0, init=False)

    def readiness(self) -> tuple[bool, JsonObject]:
        """Return whether MongoDB answers, and the body of ``/ready``, which names all other trouble.

        Calls at about the same time share one look, since outsiders may ask as often as they like.
        """
        with self._looking:
            began = time.monotonic()
            if began > self._seen_until:
                self._seen = self._look()
                now = time.monotonic()
                self._seen_until = now + min(max(now - began, SHARED_SECONDS), LONGEST_SHARED_SECONDS)
            return self._seen

    def _look(self) -> tuple[bool, JsonObject]:
        try:
            report = BrokerState.read(self.housekeeping).report()
            report["encryption_keys"] = self.keys.report()
        except ErrStorageMongoConnection as error:
            return False, {"status": "not ready", "description": str(error), "mongodb": error.reason}
        return True, {"status": "ready", "mongodb": "ok", "redis": self.queue.problem() or "ok", **report}

    def figures(self) -> Figures:
        """Return the figures of now; only those of ended operations are some seconds old.

        Raises:
            ErrStorageMongoConnection: MongoDB does not answer.
        """
        state = BrokerState.read(self.housekeeping)
        others = {project: int(room.get("others") or 0) for project, room in state.rooms.items()}
        users = {project: number + self.store.count_users(project, MOST_USERS) for project, number in others.items()}
        return Figures(state, OpenOperations.read(self.store), self.counts.read(), users, self.queue.depths())
