"""When each cluster's users changed and what its status said since, shared by all workers.

One poll of a cluster's status serves every operation that waits on it: the right to poll is taken in MongoDB at most
once a second, and whoever polled wakes all that the answer is good for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument

from broker_api.errors import ErrStorageStore
from broker_api.queue import JOBS, Queue
from broker_api.state.claims import Claims, Due
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, Document, In, as_datetime, expression, reaching
from broker_api.state.records import EPOCH
from workers.atlas.client import AtlasClient

POLL_SECONDS = 1.0
SLOWEST_POLL_SECONDS = 5.0
APPLIED = "APPLIED"


@dataclass(frozen=True)
class Change:
    """A change of a cluster's users: when, and whether another one was still under way."""

    at: datetime
    overlapped: bool


def cluster_key(project: str, cluster: str) -> str:
    """Name a cluster across projects; operations that wait on it carry this."""
    return f"{project}/{cluster}"


class Clusters:
    """The documents ``cluster/<project>/<name>`` beside the instances."""

    def __init__(self, housekeeping: Housekeeping, claims: Claims, queue: Queue, settle: float) -> None:
        self._housekeeping = housekeeping
        self._documents = housekeeping.collection
        self._claims = claims
        self._queue = queue
        self._settle = settle

    @reaching("note a change")
    def changed(self, project: str, cluster: str) -> Change:
        """Note that Atlas has just accepted a change of users; the returned time is after the answer."""
        settled = {"$ifNull": ["$settled", expression(EPOCH)]}
        values: Document = {"overlapped": {"$gt": ["$changed_at", settled]}, "changed_at": NOW, "next_poll": NOW}
        document = self._documents.find_one_and_update(
            {"_id": _name(project, cluster)}, [{"$set": values}], upsert=True, return_document=ReturnDocument.AFTER
        )
        if document is None:
            raise ErrStorageStore
        return Change(as_datetime(document["changed_at"]), bool(document["overlapped"]))

    def is_applied(self, client: AtlasClient, cluster: str, change: Change) -> bool:
        """Say whether a change has reached the cluster, after at most one poll, which may be another worker's."""
        document = self._take_poll(client.project_id, cluster)
        if document:
            document = self._poll(client, cluster, document)
        known = document or self._housekeeping.read(_name(client.project_id, cluster))
        return self._answers(known, change)

    @reaching("poll a cluster")
    def _take_poll(self, project: str, cluster: str) -> Mapping[str, Any] | None:
        """Take the right to poll now; the longer a change takes, the rarer the polls."""
        age = {"$divide": [{"$subtract": [NOW, {"$ifNull": ["$changed_at", NOW]}]}, 10]}
        pause = {"$min": [SLOWEST_POLL_SECONDS * 1000, {"$max": [POLL_SECONDS * 1000, age]}]}
        second = int(POLL_SECONDS * 1000)
        earliest = ["$next_poll", {"$add": ["$polled_at", second]}, {"$add": ["$answered_at", second]}]
        allowed = {"$lte": [{"$max": earliest}, NOW]}
        return self._documents.find_one_and_update(
            {"_id": _name(project, cluster), "$expr": allowed},
            [{"$set": {"polled_at": NOW, "next_poll": {"$add": [NOW, pause]}}}],
            return_document=ReturnDocument.AFTER,
        )

    def _poll(self, client: AtlasClient, cluster: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask Atlas, remember when the question was asked, and wake whom the answer serves."""
        status = client.cluster_status(cluster)
        asked = as_datetime(document["polled_at"])
        values: Document = {"applied_at" if status == APPLIED else "pending_at": asked}
        known = {**document, **values}
        change = Change(as_datetime(document.get("changed_at") or EPOCH), bool(document.get("overlapped")))
        if status == APPLIED and self._answers(known, change):
            values["settled"] = asked
        self._housekeeping.write(_name(client.project_id, cluster), values | {"answered_at": In(0)})
        if status == APPLIED:
            self._wake(cluster_key(client.project_id, cluster), known)
        return known

    def _wake(self, waits_on: str, known: Mapping[str, Any]) -> None:
        for due in self._claims.wake(waits_on, known, self._settle):
            send(self._queue, due)

    def _answers(self, known: Mapping[str, Any], change: Change) -> bool:
        """Apply the rule of ``claims.believed`` to one change."""
        applied, pending = known.get("applied_at") or EPOCH, known.get("pending_at") or EPOCH
        own_pending = not change.overlapped and change.at < pending < applied
        return applied > change.at and (own_pending or applied - change.at >= timedelta(seconds=self._settle))


def send(queue: Queue, due: Due) -> bool:
    """Nudge a worker to look at an operation."""
    return queue.send(JOBS[due.kind], [due.instance_id, due.binding_id, due.operation_id])


def _name(project: str, cluster: str) -> str:
    return f"cluster/{cluster_key(project, cluster)}"
