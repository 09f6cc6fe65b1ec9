"""The operations that are open now, counted by their index; and those that wait unusually long, with the reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from broker_api.state.mongo import NOW, Document
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.operation_claims import DUE_AND_UNHELD
from broker_api.state.records import EPOCH, UNDERSTOOD, UNREADABLE, State
from broker_api.state.store import Store

LONG_SECONDS = (120, 600)
"""After so many seconds in progress an operation waits unusually long; each of them is logged once."""
LONG_WAITS_BATCH = 200

OPEN: Document = {"operation.open": True, "operation.due": {"$gte": EPOCH}}


class Reason(StrEnum):
    """Why an operation is not done yet."""

    RUNNING = "running"  # a worker holds it: a call hangs, or a step takes long
    CIRCUIT_OPEN = "circuit_open"  # calls to the Atlas project are stopped
    APPLYING = "applying"  # Atlas applies a change on the cluster
    NO_WORKER = "no_worker"  # it is due, and no worker takes it
    ERROR = "error"  # it is tried again after an error, or because of a rate limit
    LATER = "later"  # it waits for something else, such as another operation


_BRANCHES: tuple[tuple[Document, Reason], ...] = (
    ({"$gt": ["$operation.lease_until", NOW]}, Reason.RUNNING),
    ({"$lte": ["$operation.due", {"$subtract": [NOW, 15_000]}]}, Reason.NO_WORKER),
    # a range of texts, since a broken document may have another type in the field
    (
        {"$and": [{"$gte": ["$operation.waits_on", "project:"]}, {"$lt": ["$operation.waits_on", "project;"]}]},
        Reason.CIRCUIT_OPEN,
    ),
    ({"$ne": [{"$ifNull": ["$operation.error", None]}, None]}, Reason.ERROR),
    ({"$ne": [{"$ifNull": ["$operation.waits_on", None]}, None]}, Reason.APPLYING),
)
REASON: Document = {
    "$switch": {"branches": [{"case": case, "then": reason} for case, reason in _BRANCHES], "default": Reason.LATER}
}
"""The expression of the reason of an open operation."""


def _older_than(seconds: int) -> Document:
    accepted = "$operation.accepted"
    # a range of moments, since a broken document may have another type in the field
    return {"$and": [{"$gte": [accepted, EPOCH]}, {"$lte": [accepted, {"$subtract": [NOW, seconds * 1000]}]}]}


@dataclass
class OpenOperations:
    """The operations that are open at one moment.

    Attributes:
        by_state: Their number by kind and state.
        long: The number of those that wait unusually long, by kind and reason.
        due_since: Since when the oldest one of a kind is due without a worker.
    """

    by_state: Counter[tuple[str, str]] = field(default_factory=Counter)
    long: Counter[tuple[str, str]] = field(default_factory=Counter)
    due_since: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    @storage_errors("count")
    def read(cls, store: Store) -> "OpenOperations":
        """Count them; the cost grows with the number of open operations, not with that of all documents.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        in_progress = {"$eq": ["$operation.state", State.IN_PROGRESS]}
        is_long = {"$and": [in_progress, _older_than(LONG_SECONDS[0])]}
        key = {
            "kind": "$operation.kind",
            "state": "$operation.state",
            "long": {"$cond": [is_long, REASON, None]},
        }
        oldest = {"$min": {"$cond": [DUE_AND_UNHELD, "$operation.due", None]}}
        group = {"_id": key, "n": {"$sum": 1}, "due_since": oldest}
        found = cls()
        for row in store.collection.aggregate([{"$match": OPEN}, {"$group": group}]):
            kind, state = (str(row["_id"].get(name, UNREADABLE)) for name in ("kind", "state"))
            found.by_state[kind, state] += row["n"]
            if row["_id"]["long"]:
                found.long[kind, row["_id"]["long"]] += row["n"]
            if isinstance(row["due_since"], datetime):
                found.due_since[kind] = min(row["due_since"], found.due_since.get(kind, row["due_since"]))
        return found


@storage_errors("look for long waits")
def take_long_waits(store: Store) -> list[Mapping[str, Any]]:
    """Return the operations that have begun to wait unusually long, each once for all workers and each limit.

    Returns:
        Their ids, kind, age in seconds and reason, as the key-values of a log line.

    Raises:
        ErrStorageMongoConnection: MongoDB cannot be used.
    """
    return [taken for each in _long_waits(store) if (taken := _take(store, each))]


def _long_waits(store: Store) -> list[Document]:
    passed = {"$sum": [{"$cond": [_older_than(seconds), 1, 0]} for seconds in LONG_SECONDS]}
    shown = {"instance_id": 1, "binding_id": 1, "operation": 1, "passed": 1}
    stages: list[Document] = [
        {"$match": {**UNDERSTOOD, **OPEN, "operation.state": State.IN_PROGRESS, "$expr": _older_than(LONG_SECONDS[0])}},
        {"$set": {"passed": passed}},
        {"$match": {"$expr": {"$lt": [{"$ifNull": ["$operation.warned", 0]}, "$passed"]}}},
        {"$limit": LONG_WAITS_BATCH},
        {"$project": shown | {"reason": REASON, "seconds": {"$subtract": [NOW, "$operation.accepted"]}}},
    ]
    return list(store.collection.aggregate(stages))


def _take(store: Store, found: Document) -> Mapping[str, Any] | None:
    """Write on the operation that it is logged; return None when another worker has done so."""
    operation, passed = found["operation"], found["passed"]
    same = {"_id": found["_id"], "operation.id": operation["id"], "operation.open": True}
    unwarned = {"operation.warned": {"$not": {"$gte": passed}}}
    if not store.collection.update_one(same | unwarned, {"$set": {"operation.warned": passed}}).modified_count:
        return None
    told = {
        "operation": operation["id"],
        "type": operation["kind"],
        "instance_id": found["instance_id"],
        "binding_id": found.get("binding_id"),
        "seconds": round(found["seconds"] / 1000),
        "reason": found["reason"],
        "waits_on": operation.get("waits_on"),
        "error": operation.get("error") or operation.get("description"),
    }
    return {name: value for name, value in told.items() if value is not None}
