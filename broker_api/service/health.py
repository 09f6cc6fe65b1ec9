"""The health of the broker, for the readiness probe and the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from broker_api.errors import ErrStorageMongoConnection
from broker_api.jobs.queue import Queue
from broker_api.json_types import JsonObject
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.operation_counts import OperationCounts
from broker_api.state.store import Store


@dataclass
class Health:
    """Looks at MongoDB, at the reports of the workers in it, and at Redis."""

    store: Store
    queue: Queue
    keys: KeyCheck
    counts: OperationCounts

    def readiness(self) -> tuple[bool, JsonObject]:
        """Return whether MongoDB answers, and the body of ``/ready``, which names all other trouble."""
        try:
            report = Housekeeping(self.store).report()
            report["encryption_keys"] = self.keys.report()
        except ErrStorageMongoConnection as error:
            return False, {"status": "not ready", "description": str(error), "mongodb": error.reason}
        return True, {"status": "ready", "mongodb": "ok", "redis": self.queue.problem() or "ok", **report}

    def operations(self) -> tuple[Mapping[tuple[str, str], int], float]:
        """Return the figures of ``/metrics`` that all processes share.

        Returns:
            The number of operations by kind and state (see ``OperationCounts``), and for how many seconds the oldest
            due operation has waited.

        Raises:
            ErrStorageMongoConnection: MongoDB does not answer.
        """
        return self.counts.read(), self.store.oldest_due_seconds()
