"""The number of operations by kind and state, at a cost that does not grow with the number of documents.

Open operations are counted when asked (``open_operations``). All others are counted in the background, at most once in
``COUNT_PAUSE_SECONDS`` by one process of the broker, and in no more than a hundredth of the time. The result is kept in
MongoDB.
"""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from uuid import uuid4

import pymongo
import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.open_operations import OPEN
from broker_api.state.records import EPOCH, UNREADABLE
from broker_api.state.store import Store

COUNT_PAUSE_SECONDS = 10.0
"""The pause between two counts in the background; longer if a count takes more than a hundredth of it."""
COUNT_SECONDS = 300.0
"""How long a count in the background may take."""

_NAME = "operation counts"

log = structlog.get_logger(__name__)

Counts = Counter[tuple[str, str]]


@dataclass
class OperationCounts:
    """The counts of one broker, for one process."""

    store: Store
    housekeeping: Housekeeping
    _background: threading.Thread | None = field(default=None, init=False)

    @storage_errors("count")
    def read(self) -> Counts:
        """Return the number of operations that are not open, by kind and state, as they were counted a while ago.

        Raises:
            ErrStorageMongoConnection: MongoDB does not answer.
        """
        counted: Counts = Counter()
        latest = self.housekeeping.read(_NAME)
        for kind, states in json.loads(latest.get("counts", "{}")).items():
            counted.update({(kind, state): number for state, number in states.items()})
        is_old = latest.get("until", EPOCH) <= self.store.now()
        if is_old and not (self._background and self._background.is_alive()):
            self._background = threading.Thread(target=self.refresh, name="counts", daemon=True)
            self._background.start()
        return counted

    def refresh(self) -> None:
        """Count the operations that are not open, unless another process does so or has just done so."""
        owner, began = uuid4().hex, time.monotonic()
        try:
            with pymongo.timeout(COUNT_SECONDS):
                if not self.housekeeping.acquire(_NAME, owner, COUNT_SECONDS):
                    return
                states: dict[str, dict[str, int]] = {}
                for (kind, state), number in self._count().items():
                    states.setdefault(kind, {})[state] = number
                self.housekeeping.write(_NAME, {"counts": states})
                self.housekeeping.acquire(_NAME, owner, max(COUNT_PAUSE_SECONDS, 100 * (time.monotonic() - began)))
        except ErrStorageMongoConnection as error:
            log.warning("operations_not_counted", reason=error.reason)

    @storage_errors("count")
    def _count(self) -> Counts:
        query = {"operation.id": {"$exists": True}, "$nor": [OPEN]}
        group = {"_id": {"kind": "$operation.kind", "state": "$operation.state"}, "n": {"$sum": 1}}
        counted: Counts = Counter()
        for row in self.store.collection.aggregate([{"$match": query}, {"$group": group}]):
            kind, state = (str(row["_id"].get(name, UNREADABLE)) for name in ("kind", "state"))
            counted[kind, state] += row["n"]
        return counted
