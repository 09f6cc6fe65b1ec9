"""The state of the whole broker, as all its processes have written it in MongoDB: for /ready, /metrics and ``check``.

Everybody may read /ready, so its sentences (``report``) name no project, user, instance or binding.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import pymongo
from pydantic import ValidationError

from broker_api.jobs.queue import QUEUES
from broker_api.json_types import JsonObject
from broker_api.state.announcements import LIVE_SECONDS, TROUBLES, WORKER, AnnouncedWorker
from broker_api.state.bind_reads import ROOM
from broker_api.state.housekeeping import CIRCUIT, PROBE_SECONDS, RECONCILED, SWEEP, Housekeeping
from broker_api.state.mongo import NOW, Document
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.process_report import COUNTERS, SENDER
from broker_api.state.records import EPOCH

LATE_SECONDS = 10
"""How long after the end of the sweep's lease /ready reports that no worker sweeps; workers renew it each second."""
FAILURE_SECONDS = 20.0
"""How long a failed send is shown, unless a later one of the same process succeeds."""


def _named(prefixes: Iterable[str], names: Iterable[str]) -> Document:
    begin: list[Document] = [{"_id": {"$regex": f"^{prefix}"}} for prefix in prefixes]
    return {"$match": {"$or": [*begin, {"_id": {"$in": [*names]}}]}}


_DRIFT = {
    "user_without_binding": "orphans",
    "binding_without_user": "missing",
    "cluster_without_instance": "clusters",
    "instance_without_cluster": "instances",
}
"""The kinds of differences, and the fields of the result of a reconciliation that count them."""
_STATES, _REPORTS = (
    _named((WORKER, CIRCUIT, ROOM), (SWEEP, RECONCILED)),
    _named((SENDER,), (COUNTERS,)),
)
_TROUBLE_WORDS = dict(
    zip(
        TROUBLES,
        (
            "have other encryption keys than the stored data",
            "are refused by Atlas: their key may be wrong or revoked",
            "pause, since Atlas answered 429",
            "slow down, since a project is near its rate limit",
        ),
        strict=True,
    )
)


@dataclass(frozen=True)
class BrokerState:
    """The documents about the broker as a whole, read at one moment.

    Attributes:
        now: MongoDB's time.
        documents: The documents by name.
    """

    now: datetime
    documents: Mapping[str, Mapping[str, Any]]

    @classmethod
    @storage_errors("read the state")
    def read(cls, housekeeping: Housekeeping) -> Self:
        """Read it with one query, whose cost does not grow with the number of instances and bindings.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        with pymongo.timeout(PROBE_SECONDS):
            reports: Document = {"$unionWith": {"coll": housekeeping.store.reports.name, "pipeline": [_REPORTS]}}
            found = list(housekeeping.collection.aggregate([_STATES, reports, {"$set": {"read_at": NOW}}]))
            now = found[0]["read_at"] if found else housekeeping.store.now()
        return cls(now, {str(document["_id"]): document for document in found})

    @property
    def workers(self) -> list[AnnouncedWorker]:
        """The workers that consume now."""
        found = []
        for document in self._named(WORKER).values():
            try:
                worker = AnnouncedWorker.model_validate(document)
            except ValidationError:  # of another release
                continue
            if self._seconds_since(worker.seen) < LIVE_SECONDS:
                found.append(worker)
        return found

    @property
    def workers_by_queue(self) -> dict[str, int]:
        """The number of workers that consume each queue."""
        workers = self.workers
        return {queue: sum(queue in each.queues for each in workers) for queue in dict.fromkeys(QUEUES.values())}

    @property
    def troubles(self) -> dict[tuple[str, str], int]:
        """The number of workers by trouble and project."""
        found: dict[tuple[str, str], int] = {}
        for worker in self.workers:
            for trouble, projects in worker.troubles.items():
                for project in projects if trouble in TROUBLES else ():
                    found[trouble, project] = found.get((trouble, project), 0) + 1
        return found

    @property
    def circuits(self) -> dict[str, str | None]:
        """For each project that ever had an open circuit breaker: why it is open; None when it is closed."""
        return {
            name: str(each.get("reason")) if each.get("open") else None for name, each in self._named(CIRCUIT).items()
        }

    @property
    def rooms(self) -> dict[str, Mapping[str, Any]]:
        """What is known about the number of users of each project (see ``workers.clusters.user_limit``)."""
        return self._named(ROOM)

    @property
    def failures(self) -> list[str]:
        """Why the last sends of processes failed, if that was a moment ago."""
        senders = self._named(SENDER).values()
        fresh = [each for each in senders if self._seconds_since(each.get("failed_at")) < FAILURE_SECONDS]
        return sorted({str(each.get("failure")) for each in fresh})

    @property
    def drift(self) -> dict[str, int]:
        """The differences that the last reconciliation has left, by kind."""
        left = json.loads(self.documents.get(RECONCILED, {}).get("left") or "{}")
        return {kind: left.get(name, 0) for kind, name in _DRIFT.items()}

    @property
    def not_compared(self) -> dict[str, str]:
        """Why the last reconciliation could not compare projects, by project."""
        found: dict[str, str] = json.loads(self.documents.get(RECONCILED, {}).get("not_compared") or "{}")
        return found

    @property
    def reconciled_at(self) -> datetime | None:
        """When the last reconciliation ended."""
        at = self.documents.get(RECONCILED, {}).get("at")
        return at if isinstance(at, datetime) else None

    def counters(self, name: str) -> dict[str, Any]:
        """Return the counters that begin with a name, as nested objects."""
        found = self.documents.get(COUNTERS, {}).get(name)
        return found if isinstance(found, dict) else {}

    def report(self) -> JsonObject:
        """Return the fields of ``/ready`` about workers, sends, Atlas, users and drift: "ok", or a sentence each."""
        return {
            "sends": "; ".join(self.failures) or "ok",
            "workers": self._about_workers() or "ok",
            "atlas": self._about_atlas() or "ok",
            "users": self._about_users() or "ok",
            "drift": self._about_drift() or "ok",
        }

    def _about_workers(self) -> str:
        idle = [queue for queue, workers in self.workers_by_queue.items() if not workers]
        if idle:
            return f"no live worker consumes the {_plural('queue', len(idle))} {', '.join(idle)}"
        swept_until = self.documents.get(SWEEP, {}).get("until")
        silent = self._seconds_since(swept_until)
        return f"no worker has swept for {silent:.0f} s" if silent >= LATE_SECONDS else ""

    def _about_atlas(self) -> str:
        sentences = []
        if opened := sum(reason is not None for reason in self.circuits.values()):
            sentences.append(f"the circuit breaker of {opened} {_plural('project', opened)} is open")
        workers = self.workers
        for trouble, words in _TROUBLE_WORDS.items():
            if number := sum(bool(each.troubles.get(trouble)) for each in workers):
                sentences.append(f"{number} of {len(workers)} workers {words}")
        return "; ".join(sentences)

    def _about_users(self) -> str:
        full = sum(bool(room.get("nearly_full")) for room in self.rooms.values())
        return f"{full} {_plural('project', full)} nearly full of database users" if full else ""

    def _about_drift(self) -> str:
        sentences = [f"{number} of {kind}" for kind, number in self.drift.items() if number]
        if failed := len(self.not_compared):
            sentences.append(f"{failed} {_plural('project', failed)} could not be compared")
        return "; ".join(sentences)

    def _named(self, prefix: str) -> dict[str, Mapping[str, Any]]:
        found: Iterable[tuple[str, Mapping[str, Any]]] = self.documents.items()
        return {name.removeprefix(prefix): document for name, document in found if name.startswith(prefix)}

    def _seconds_since(self, moment: object) -> float:
        return (self.now - (moment if isinstance(moment, datetime) else EPOCH)).total_seconds()


def _plural(noun: str, number: int) -> str:
    return noun if number == 1 else f"{noun}s"
