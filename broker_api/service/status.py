"""How the broker is: for probes and metrics."""

from collections.abc import Mapping

from broker_api.errors import ErrStorageMongoConnection
from broker_api.jobs.queue import Queue
from broker_api.json_types import JsonObject
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.key_check import KeyCheck
from broker_api.state.store import Store


class Status:
    """Asks MongoDB, and through it the workers, and Redis."""

    def __init__(self, store: Store, queue: Queue, keys: KeyCheck) -> None:
        self._store = store
        self._queue = queue
        self._keys = keys

    def readiness(self) -> tuple[bool, JsonObject]:
        """Return whether MongoDB answers, and the trouble of everything else."""
        try:
            report = Housekeeping(self._store).report()
            report["encryption_keys"] = self._keys.report()
        except ErrStorageMongoConnection as error:
            return False, {"status": "not ready", "description": str(error), "mongodb": error.reason}
        return True, {"status": "ready", "mongodb": "ok", "redis": self._queue.problem() or "ok", **report}

    def operations(self) -> tuple[Mapping[tuple[str, str], int], float]:
        """Return how many operations there are by kind and state, and the seconds that the oldest due one has waited.

        Raises:
            ErrStorageMongoConnection: MongoDB does not answer.
        """
        return self._store.counts(), self._store.oldest_due_seconds()
