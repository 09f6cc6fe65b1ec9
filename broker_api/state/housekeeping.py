"""Small documents by name, in a collection of their own: leases, turns, the broker's id, facts about Atlas."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import uuid4

import structlog
from pymongo import ReturnDocument
from pymongo.collection import Collection

from broker_api.errors import TamperedError
from broker_api.state.mongo import NOW, Document, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.record_macs import RecordMacs
from broker_api.state.records import EPOCH, Place
from broker_api.state.store import Store

SWEEP = "sweep"
CIRCUIT = "circuit/"
RECONCILED = "reconciled"
_REQUESTED = "reconcile/"
_REQUEST_SECONDS = 86_400.0
"""How long a requested reconciliation waits for a worker."""
TOKENS = "token/"
BROKER = "broker"
"""The name of the document with the broker's id."""
BROKER_PLACE = Place(BROKER, "mac")
PROBE_SECONDS = 2.0
"""How long a probe of /ready waits for MongoDB: orchestrators allow a probe only a few seconds."""
RECENT_SECONDS = 1.0
ASKED_SECONDS = 60.0
"""How long after its last use a document is read together with others."""


log = structlog.get_logger(__name__)


@dataclass
class _Read:
    """A document, and when it was read and last asked for (monotonic seconds)."""

    document: Mapping[str, Any]
    at: float
    asked: float


class Housekeeping:
    """The documents of one broker.

    Each method raises ErrStorageMongoConnection when MongoDB cannot be used. The loss of these documents, except the
    reservations of databases and the broker's id, costs a few seconds of work.
    """

    def __init__(
        self,
        store: Store,
        collection: Collection[Document] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._clock = clock
        self.collection = store.housekeeping if collection is None else collection
        self._recent: dict[str, _Read] = {}
        self._reading = threading.Lock()

    @storage_errors("lease")
    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew a lease.

        Args:
            name: The name of the document.
            owner: The owner that takes it, any unique text.
            seconds: How long the lease lasts.

        Returns:
            False while another owner holds it.
        """
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
        """Release a lease before its end; do nothing if another owner holds it."""
        self.collection.update_one({"_id": name, "owner": owner}, [{"$set": {"until": NOW}}])

    @storage_errors("turn")
    def take_turn(self, name: str, field: str, seconds: float) -> bool:
        """Take a turn, of which all processes together get one in ``seconds``.

        Args:
            name: The name of the document.
            field: The field with the moment of the next turn.
            seconds: The pause between two turns.

        Returns:
            False when another process has taken the turn, or the document does not exist.
        """
        due = {"_id": name, "$expr": {"$lte": [{"$ifNull": [f"${field}", EPOCH]}, NOW]}}
        taken = [{"$set": assignments({field: In(seconds)})}]
        turn = self.collection.update_one(due, taken).modified_count == 1
        self._forget(name)
        return turn

    def recent(self, name: str) -> Mapping[str, Any]:
        """Return a document by name as it was at most a second ago, or as this process has written it since.

        All documents that the process needs often are read together.

        Returns:
            The document, with the time of the reading by the database's clock as ``read_at``; empty when there is none.
        """
        now = self._clock()
        with self._reading:
            if name not in self._recent or self._recent[name].at < now - RECENT_SECONDS:
                self._read_recent(name, now)
            self._recent[name].asked = now
            return self._recent[name].document

    @storage_errors("housekeeping")
    def _read_recent(self, name: str, now: float) -> None:
        """Read a document, and in the same query all that were asked for in the last minute."""
        names = [name, *(each for each, known in self._recent.items() if known.asked > now - ASKED_SECONDS)]
        stages: list[Document] = [{"$match": {"_id": {"$in": names}}}, {"$set": {"read_at": NOW}}]
        found = {str(document["_id"]): document for document in self.collection.aggregate(stages)}
        asked = {each: known.asked for each, known in self._recent.items()}
        self._recent = {each: _Read(found.get(each, {}), now, asked.get(each, now)) for each in names}

    @storage_errors("housekeeping")
    def read(self, name: str) -> Mapping[str, Any]:
        """Return a document by name; empty when there is none."""
        return self.collection.find_one({"_id": name}) or {}

    @storage_errors("housekeeping")
    def write(self, name: str, changes: Mapping[str, Any]) -> None:
        """Set fields of a document by name."""
        self.collection.update_one({"_id": name}, [{"$set": assignments(changes)}], upsert=True)
        self._forget(name)

    def _forget(self, name: str) -> None:
        """Let ``recent`` read a document anew."""
        with self._reading:
            if name in self._recent:
                self._recent[name].at = -math.inf

    @storage_errors("housekeeping")
    def request_reconciliation(self, run: str, *, repair: bool) -> None:
        """Request one reconciliation; remove requests that no worker has taken for a day.

        Args:
            run: Its id, which the message for the workers carries.
            repair: Whether it also repairs.
        """
        forgotten = {"_id": {"$regex": f"^{_REQUESTED}"}, "$expr": {"$lte": ["$until", NOW]}}
        self.collection.delete_many(forgotten)
        self.write(_REQUESTED + run, {"repair": repair, "until": In(_REQUEST_SECONDS)})

    @storage_errors("housekeeping")
    def take_reconciliation(self, run: str) -> Mapping[str, Any] | None:
        """Remove and return a requested reconciliation; None if there is none, so that a message has one effect."""
        return self.collection.find_one_and_delete({"_id": _REQUESTED + run})

    @cached_property
    def broker_id(self) -> str:
        """The id of this broker, created at its first use and then kept in MongoDB.

        Brokers that share an Atlas project recognise their own database users by it: with another broker's id, this
        one would repair away that one's users. A process reads it once.

        Raises:
            TamperedError, MissingKeyError: As in ``checked_broker_id``.
        """
        return checked_broker_id(self._broker(), self.store.macs)

    @storage_errors("housekeeping")
    def _broker(self) -> Document:
        value = uuid4().hex
        made = {"value": value, "mac": self.store.macs.of_value(value, BROKER_PLACE)}
        is_new = {"$eq": [{"$type": "$value"}, "missing"]}
        kept = {name: {"$cond": [is_new, each, {"$ifNull": [f"${name}", None]}]} for name, each in made.items()}
        document = self.collection.find_one_and_update(
            {"_id": BROKER}, [{"$set": kept}], upsert=True, return_document=ReturnDocument.AFTER
        )
        return document or {}


def checked_broker_id(document: Mapping[str, Any], macs: RecordMacs) -> str:
    """Return the broker's id from its document.

    Raises:
        TamperedError: It is not as the broker wrote it.
        MissingKeyError: The key of its MAC is not known.
    """
    value, mac = document.get("value"), document.get("mac")
    if not isinstance(value, str) or not macs.fits(value, mac and str(mac), BROKER_PLACE):
        why = "its MAC does not fit" if mac else "it has no MAC"
        log.error("record_tampered", document=BROKER, mac="mac", reason=why)
        raise TamperedError("its own id", why)
    return value
