"""The workers that consume now: each one announces every few seconds which queues it consumes, and its trouble."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from pydantic import Field, Json

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import EPOCH, Record

WORKER = "worker/"
ANNOUNCE_SECONDS = 5.0
LIVE_SECONDS = 15.0
"""A worker counts for so long after its last announcement."""
ANNOUNCEMENT_KEPT_SECONDS = 3600.0
"""How long the document of a worker is kept that has died."""

WRONG_ENCRYPTION_KEYS = "encryption_keys"
KEY_REFUSED = "key_refused"
RATE_LIMITED = "rate_limited"
NEAR_RATE_LIMIT = "near_rate_limit"
TROUBLES = (WRONG_ENCRYPTION_KEYS, KEY_REFUSED, RATE_LIMITED, NEAR_RATE_LIMIT)
"""The trouble that a worker may have; all but the first with an Atlas project."""


class AnnouncedWorker(Record):
    """The last announcement of a worker.

    Attributes:
        name: Celery's name of it, as Flower shows it.
        host: Its host.
        pid: The process.
        version: The release of the broker.
        started: When it began to consume.
        seen: When it was written.
        queues: What it consumes.
        troubles: What of ``TROUBLES`` it has, with the projects.
    """

    name: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    started: datetime = EPOCH
    seen: datetime = EPOCH
    queues: Json[list[str]] = Field(default_factory=list)
    troubles: Json[dict[str, list[str]]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Announcements:
    """Writes the announcements of one worker.

    Attributes:
        housekeeping: Holds them.
        about: Its ``name``, ``host``, ``pid`` and ``version``.
    """

    housekeeping: Housekeeping
    about: Mapping[str, object]
    _id: str = field(default_factory=lambda: f"{WORKER}{uuid4().hex}", init=False)

    @storage_errors("announce")
    def announce(self, queues: Iterable[str], troubles: Mapping[str, Collection[str]]) -> None:
        """Write that this worker consumes now.

        Args:
            queues: What it consumes.
            troubles: What of ``TROUBLES`` it has, with the projects.
        """
        told = {name: sorted(projects) for name, projects in troubles.items()}
        values = {**self.about, "queues": sorted(queues), "troubles": told}
        moments = {"seen": In(0), "expire_at": In(ANNOUNCEMENT_KEPT_SECONDS)}
        written = assignments(values | moments) | {"started": {"$ifNull": ["$started", NOW]}}
        self.housekeeping.collection.update_one({"_id": self._id}, [{"$set": written}], upsert=True)

    @storage_errors("announce")
    def withdraw(self) -> None:
        """Remove the announcement: this worker stops, or it cannot consume at the moment."""
        self.housekeeping.collection.delete_one({"_id": self._id})
