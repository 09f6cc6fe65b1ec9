"""Small documents by name, beside the instances: leases, turns, the broker's own id, and what is known of Atlas."""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import uuid4

import pymongo
from pymongo import ReturnDocument

from broker_api.json_types import JsonObject
from broker_api.state.mongo import NOW, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import EPOCH
from broker_api.state.store import Store

SWEEP = "sweep"
CIRCUIT = "circuit/"
RECONCILED = "reconciled"
PROBE_SECONDS = 2.0
"""Orchestrators give a probe a few seconds; an answer that MongoDB is away must come within them."""
LATE_SECONDS = 10
"""The sweep's lease is renewed about once a second; this long after its end no worker is running."""


class Housekeeping:
    """The documents of one broker. Without the databases' documents, losing them costs a few seconds of work."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.collection = store.housekeeping

    @storage_errors("lease")
    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew a lease by name; return False while another owner holds it."""
        own = assignments({"owner": owner, "until": In(seconds)})
        expired = {"$lte": [{"$ifNull": ["$until", EPOCH]}, NOW]}
        free = {"$or": [{"$eq": ["$owner", own["owner"]]}, expired]}
        taken = {field: {"$cond": [free, value, f"${field}"]} for field, value in own.items()}
        document = self.collection.find_one_and_update(
            {"_id": name}, [{"$set": taken}], upsert=True, return_document=ReturnDocument.AFTER
        )
        return document is not None and document["owner"] == owner

    @storage_errors("lease")
    def release(self, name: str, owner: str) -> None:
        """Release a lease early."""
        self.collection.update_one({"_id": name, "owner": owner}, [{"$set": {"until": NOW}}])

    @storage_errors("turn")
    def take_turn(self, name: str, field: str, seconds: float) -> bool:
        """Take the one turn of these ``seconds``, for all processes.

        Args:
            name: The document's name.
            field: Its field that holds the moment of the next turn.
            seconds: The pause between two turns.

        Returns:
            False when the turn has been taken already, or when there is no such document.
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

    @cached_property
    @storage_errors("housekeeping")
    def broker_id(self) -> str:
        """The id of this broker, created at its first use and then kept in MongoDB.

        Brokers that share an Atlas project recognise their own database users by it. A process reads it once.
        """
        made = {"value": {"$ifNull": ["$value", uuid4().hex]}}
        document = self.collection.find_one_and_update(
            {"_id": "broker"}, [{"$set": made}], upsert=True, return_document=ReturnDocument.AFTER
        )
        return str(document["value"]) if document else ""

    @storage_errors("housekeeping")
    def report(self) -> JsonObject:
        """Return how workers and Atlas are, for ``/ready``: "ok", or a sentence, or one for each project."""
        with pymongo.timeout(PROBE_SECONDS):
            now, swept_until = self._store.now(), self.read(SWEEP).get("until")
            circuits = list(self.collection.find({"_id": {"$regex": f"^{CIRCUIT}"}, "open": True}))
        workers = "no worker has been seen yet"
        if isinstance(swept_until, datetime):
            silent = (now - swept_until).total_seconds()
            workers = "ok" if silent < LATE_SECONDS else f"no worker has swept for {silent:.0f} s"
        reasons = {str(circuit["_id"]).removeprefix(CIRCUIT): circuit.get("reason") for circuit in circuits}
        return {"workers": workers, "atlas": reasons or "ok"}
