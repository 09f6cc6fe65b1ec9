"""The last change of the users of each cluster, and the cluster's status since then; shared by all workers.

One poll of a cluster's status serves every operation that waits on the cluster. A worker polls only after it has taken
the turn to poll in MongoDB, at most once a second, and then makes all operations due whose change the answer confirms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument

from broker_api.errors import ErrStorageStore
from broker_api.jobs.queue import JOBS, Queue
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, Document, In, as_datetime
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.operation_claims import Claims
from broker_api.state.records import EPOCH
from workers.atlas.client import AtlasClient

POLL_SECONDS = 1.0
SLOWEST_POLL_SECONDS = 5.0
APPLIED = "APPLIED"


@dataclass(frozen=True)
class Change:
    """A change of a cluster's users: its time, and whether an earlier change was not yet applied at that time."""

    at: datetime
    overlapped: bool


def cluster_key(project: str, cluster: str) -> str:
    """Return the name (``waits_on``) of operations that wait on a cluster."""
    return f"{project}/{cluster}"


def is_confirmed(change: Change, status: Mapping[str, Any], settle_seconds: float) -> bool:
    """Return whether the status of a cluster confirms that a change has reached it.

    The poll must have begun after the change. An APPLIED confirms the change at once if a PENDING was read after the
    change and belongs to it, that is, no earlier change was still being applied. Otherwise an APPLIED confirms it only
    ``settle_seconds`` after the change, since Atlas may return an old APPLIED for a while.

    Args:
        change: The change.
        status: The document of the cluster, with ``applied_at`` and ``pending_at``: the start of the last poll that
            was answered with each.
        settle_seconds: The setting ``BROKER_SETTLE_SECONDS``.
    """
    applied, pending = status.get("applied_at") or EPOCH, status.get("pending_at") or EPOCH
    saw_pending = not change.overlapped and change.at < pending < applied
    return applied > change.at and (saw_pending or applied - change.at >= timedelta(seconds=settle_seconds))


@dataclass(frozen=True)
class ClusterStatus:
    """The documents ``cluster/<project>/<name>`` beside the instances."""

    housekeeping: Housekeeping
    claims: Claims
    queue: Queue
    settle_seconds: float

    @storage_errors("note a change")
    def note_change(self, project: str, cluster: str) -> Change:
        """Record that Atlas has just accepted a change of users; return the change, timed after Atlas's answer."""
        settled = {"$ifNull": ["$settled", EPOCH]}
        values: Document = {"overlapped": {"$gt": ["$changed_at", settled]}, "changed_at": NOW, "next_poll": NOW}
        document = self.housekeeping.collection.find_one_and_update(
            {"_id": _name(project, cluster)}, [{"$set": values}], upsert=True, return_document=ReturnDocument.AFTER
        )
        if document is None:
            raise ErrStorageStore
        return Change(as_datetime(document["changed_at"]), bool(document["overlapped"]))

    def is_applied(self, client: AtlasClient, cluster: str, change: Change) -> bool:
        """Return whether a change has reached the cluster.

        Poll the cluster if it is time for it, else use the last poll of any worker. After a poll, also send the other
        operations whose change its answer confirms.

        Raises:
            AtlasError: The poll failed.
        """
        name = _name(client.project_id, cluster)
        turn = self._take_turn(client.project_id, cluster)
        if turn is None:
            return is_confirmed(change, self.housekeeping.read(name), self.settle_seconds)
        answer = client.cluster_status(cluster)
        asked_at = as_datetime(turn["polled_at"])
        values: Document = {"applied_at" if answer == APPLIED else "pending_at": asked_at}
        status = {**turn, **values}
        latest = Change(as_datetime(turn.get("changed_at") or EPOCH), bool(turn.get("overlapped")))
        if answer == APPLIED and is_confirmed(latest, status, self.settle_seconds):
            values["settled"] = asked_at
        self.housekeeping.write(name, values | {"answered_at": In(0)})
        if answer == APPLIED:
            waits_on = cluster_key(client.project_id, cluster)
            confirmed = [
                due
                for due, changed, overlapped in self.claims.waiting_on(waits_on)
                if is_confirmed(Change(changed, overlapped), status, self.settle_seconds)
            ]
            self.claims.make_due(confirmed, waits_on)
            for due in confirmed:
                self.queue.send(JOBS[due.kind], [due.instance_id, due.binding_id, due.operation_id])
        return is_confirmed(change, status, self.settle_seconds)

    @storage_errors("poll a cluster")
    def _take_turn(self, project: str, cluster: str) -> Mapping[str, Any] | None:
        """Take the turn to poll now. The pause between polls grows with the age of the change, from 1 s to 5 s.

        Returns:
            The document of the cluster; None when it is too early for a poll.
        """
        age = {"$divide": [{"$subtract": [NOW, {"$ifNull": ["$changed_at", NOW]}]}, 10]}
        pause = {"$min": [SLOWEST_POLL_SECONDS * 1000, {"$max": [POLL_SECONDS * 1000, age]}]}
        second = int(POLL_SECONDS * 1000)
        earliest = ["$next_poll", {"$add": ["$polled_at", second]}, {"$add": ["$answered_at", second]}]
        allowed = {"$lte": [{"$max": earliest}, NOW]}
        return self.housekeeping.collection.find_one_and_update(
            {"_id": _name(project, cluster), "$expr": allowed},
            [{"$set": {"polled_at": NOW, "next_poll": {"$add": [NOW, pause]}}}],
            return_document=ReturnDocument.AFTER,
        )


def _name(project: str, cluster: str) -> str:
    return f"cluster/{project}/{cluster}"
