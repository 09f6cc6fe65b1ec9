"""Small documents beside the instances: leases by name, the broker's own id, and how its parts are."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

import pymongo
from pymongo import ReturnDocument

from broker_api.state.mongo import NOW, Document, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import EPOCH
from broker_api.state.store import Store

SWEEP = "sweep"
CIRCUIT = "circuit/"
RECONCILED = "reconciled"


class Housekeeping:
    """The collection beside the instances; but for the claims of databases, losing it costs a few seconds of work."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.collection = store.housekeeping

    @storage_errors("lease")
    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew a lease by name; return False while another owner holds it."""
        until = {"$ifNull": ["$until", EPOCH]}
        own = assignments({"owner": owner, "until": In(seconds)})
        free = {"$or": [{"$eq": ["$owner", own["owner"]]}, {"$lte": [until, NOW]}]}
        taken = {field: {"$cond": [free, value, f"${field}"]} for field, value in own.items()}
        document = self.collection.find_one_and_update(
            {"_id": name}, [{"$set": taken}], upsert=True, return_document=ReturnDocument.AFTER
        )
        return document is not None and document["owner"] == owner

    @storage_errors("lease")
    def release(self, name: str, owner: str) -> None:
        """Release a lease early."""
        self.collection.update_one({"_id": name, "owner": owner}, [{"$set": assignments({"until": In(0)})}])

    @storage_errors("turn")
    def take_turn(self, name: str, field: str, seconds: float) -> bool:
        """Take the one turn of these ``seconds``, for all processes.

        ``field`` of the document holds the moment of the next turn. Returns False when the turn has been taken, or when
        there is no such document.
        """
        due = {"_id": name, "$expr": {"$lte": [{"$ifNull": [f"${field}", EPOCH]}, NOW]}}
        taken = [{"$set": assignments({field: In(seconds)})}]
        return self.collection.update_one(due, taken).modified_count == 1

    @storage_errors("housekeeping")
    def read(self, name: str) -> Mapping[str, Any]:
        """Return a document by name; empty when there is none."""
        return self.collection.find_one({"_id": name}) or {}

    @storage_errors("housekeeping")
    def write(self, name: str, changes: Mapping[str, Any]) -> None:
        """Set fields of a document by name."""
        self.collection.update_one({"_id": name}, [{"$set": assignments(changes)}], upsert=True)

    @storage_errors("housekeeping")
    def broker_id(self) -> str:
        """Return this broker's id, made once: brokers that share an Atlas project tell their users apart by it."""
        made: Document = {"$ifNull": ["$value", uuid4().hex]}
        document = self.collection.find_one_and_update(
            {"_id": "broker"}, [{"$set": {"value": made}}], upsert=True, return_document=ReturnDocument.AFTER
        )
        return str(document["value"]) if document else ""

    def report(self) -> dict[str, Any]:
        """Report how workers and Atlas are, for /ready."""
        with pymongo.timeout(PROBE_SECONDS):
            return {"workers": self._workers(self._store.now()), "atlas": self._atlas()}

    def _workers(self, now: Any) -> str:  # noqa: ANN401 - a datetime
        until = self.read(SWEEP).get("until")
        if not isinstance(until, datetime):
            return "no worker has been seen yet"
        silent = (now - until).total_seconds()
        return "ok" if silent < LATE_SECONDS else f"no worker has swept for {silent:.0f} s"

    @storage_errors("housekeeping")
    def _atlas(self) -> Any:  # noqa: ANN401 - "ok", or a sentence for each project in trouble
        troubled = self.collection.find({"_id": {"$regex": f"^{CIRCUIT}"}, "open": True})
        reasons = {str(found["_id"]).removeprefix(CIRCUIT): found.get("reason") for found in troubled}
        return reasons or "ok"


PROBE_SECONDS = 2.0
"""Orchestrators give a probe a few seconds; an answer that MongoDB is away must come within them."""
LATE_SECONDS = 10
"""The sweep's lease is renewed each second or so; later than this after its end, no worker lives."""
