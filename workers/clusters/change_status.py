"""The last change of the users of each cluster, and the cluster's status since then; shared by all workers.

One poll of a cluster's status serves every operation that waits on the cluster. A worker polls only after it has taken
the turn to poll in MongoDB. After a change the first turn comes at once, the next ones after growing pauses.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument

from broker_api.errors import ErrStorageMongoConnection, ErrStorageStore
from broker_api.state.combiner import Combiner
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, Document, In, as_datetime, timeout_of
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import EPOCH
from workers.atlas.client import AtlasClient, AtlasError, ClusterNotFound, Refused

SHORTEST_PAUSE_MS = 100
PAUSE_MS = 1000
"""The longest pause between two polls in the first ten seconds of a change."""
LONGEST_PAUSE_MS = 5000
YOUNG_MS = 10_000
BURST = 2
SPACING_MS = 125
"""Polls of a cluster: ``BURST`` at once, then one in this time. So there are at most ten in any second."""
NO_BUDGET_SECONDS = 1.0
APPLIED = "APPLIED"


@dataclass(frozen=True)
class Change:
    """A change of a cluster's users: its time, and whether an earlier change was not yet applied at that time."""

    at: datetime
    overlapped: bool


def cluster_key(project: str, cluster: str) -> str:
    """Return the name (``waits_on``) of operations that wait on a cluster."""
    return f"{project}/{cluster}"


_TIMES = ("changed_at", "applied_at", "pending_at", "pending_seen", "settled", "refused_at")
_SCHEDULE = ("pause", "next_poll", "polled_at", "polls_booked", "answered_at", "turn")
_FIELDS: Document = {
    **dict.fromkeys([*_TIMES, "overlapped", "refusal", "gone", *_SCHEDULE], 1),
    "free_in": {"$max": [0, {"$subtract": ["$next_poll", NOW]}, {"$subtract": ["$polls_booked", NOW]}]},
}
Status = Mapping[str, Any]
"""The document of a cluster.

``changed_at`` and ``overlapped`` describe the last change. ``applied_at`` and ``pending_at`` are the start of the last
poll that was answered with each; ``settled`` is that of the last poll that has confirmed all changes before it.
``pending_seen`` is when the last PENDING arrived, which may be seconds after the start of its poll.
``refused_at`` is that of the last poll that Atlas refused for good, with the reason ``refusal``, and ``gone`` when the
cluster does not exist.
``turn``: whether the update that returned the document has taken the turn to poll. ``free_in``: the milliseconds from
this update until the next turn, if no answer is outstanding then; it is not stored.
"""


def is_confirmed(change: Change, status: Status, settle_seconds: float) -> bool:
    """Return whether the status of a cluster confirms that a change has reached it.

    The poll must have begun after the change. An APPLIED confirms the change at once if its poll began after a PENDING
    had arrived that belongs to the change, that is, no earlier change was still being applied. Otherwise an APPLIED
    confirms it only ``settle_seconds`` after the change, since Atlas may return an old APPLIED for a while.

    Args:
        change: The change.
        status: The document of the cluster.
        settle_seconds: The setting ``BROKER_SETTLE_SECONDS``.
    """
    applied, pending = status.get("applied_at") or EPOCH, status.get("pending_at") or EPOCH
    seen = status.get("pending_seen") or pending  # earlier releases do not write it
    saw_pending = not change.overlapped and change.at < pending < applied and seen <= applied
    return applied > change.at and (saw_pending or applied - change.at >= timedelta(seconds=settle_seconds))


def pause_after(status: Status) -> float:
    """Return the seconds from a look at a cluster until the next one: when the turn to poll can be free.

    Without the turn it comes sooner, to find another worker's answer. It comes after a second at the latest, since a
    new change may have brought the next poll forward.
    """
    pause = status["free_in"]
    if not status["turn"]:
        pause = min(pause or SHORTEST_PAUSE_MS, max(SHORTEST_PAUSE_MS, (status.get("pause") or 0) / 4))
    elif status.get("settled") == status["polled_at"]:  # changes that have come since are polled at once
        pause = (status["polls_booked"] - status["polled_at"]).total_seconds() * 1000
    return float(min(PAUSE_MS, pause) / 1000)


@dataclass(eq=False)
class ClusterStatus:
    """The documents ``cluster/<project>/<name>`` beside the instances.

    Attributes:
        housekeeping: Holds the documents.
        settle_seconds: The setting ``BROKER_SETTLE_SECONDS``.
        may_poll: Functions by project, each of which counts a poll; it returns False when the share of polls of the
            project's rate limit is used up.
        in_flight_ms: How long no other worker polls while the answer to a poll is outstanding.
    """

    housekeeping: Housekeeping
    settle_seconds: float
    may_poll: Mapping[str, Callable[[], bool]]
    in_flight_ms: int = 3000

    def __post_init__(self) -> None:
        self._notes = Combiner[tuple[str, str, int], tuple[Change, Status]](
            self._note_together, timeout_of(self.housekeeping.collection)
        )

    @storage_errors("note a change")
    def note_change(self, project: str, cluster: str, *, urgent: bool, watched: bool) -> tuple[Change, Status]:
        """Record that Atlas has just accepted a change of users, and take the turn to poll if it is free.

        While an earlier change is being applied, the polls go on as they are: they serve this change too.

        Args:
            project: The project of the cluster.
            cluster: The cluster.
            urgent: An application waits for the change, so it may use the last poll of a burst.
            watched: This process watches the cluster: leave the turn to its watcher, whose polls serve all.

        Returns:
            The change, timed after Atlas's answer, and the document of the cluster.
        """
        burst = 0 if watched else BURST if urgent else BURST - 1
        return self._notes.ask((project, cluster, burst))

    def _note_together(self, changes: Sequence[tuple[str, str, int]]) -> list[tuple[Change, Status] | Exception]:
        """Note changes, those of a cluster in one update; only one of them may get the turn to poll.

        Args:
            changes: For each its project, cluster, and how many polls may follow each other at once.
        """
        clusters: dict[tuple[str, str], list[int]] = defaultdict(list)
        for project, cluster, burst in changes:
            clusters[project, cluster].append(burst)
        pause = {"$min": [PAUSE_MS, {"$ifNull": ["$pause", SHORTEST_PAUSE_MS]}]}
        soon = {"$min": [{"$ifNull": ["$next_poll", NOW]}, {"$add": [NOW, pause]}]}
        noted: Document = {
            "overlapped": {"$gt": ["$changed_at", {"$ifNull": ["$settled", EPOCH]}]},
            "changed_at": {"$max": [NOW, "$polled_at"]},  # never earlier than a poll that has begun
        }
        schedule: Document = {
            "pause": {"$cond": ["$overlapped", pause, SHORTEST_PAUSE_MS]},
            "next_poll": {"$cond": ["$overlapped", soon, NOW]},
        }
        found: dict[tuple[str, str], Status] = {}
        for of, bursts in clusters.items():
            # Of several changes, each was made while another one was not applied.
            overlapped: Document = {"overlapped": True} if len(bursts) > 1 else {}
            found[of] = self._update(*of, [{"$set": noted}, {"$set": schedule | overlapped}], max(bursts))
        answers: list[tuple[Change, Status] | Exception] = []
        for project, cluster, _ in changes:
            status = found[project, cluster]
            answers.append((Change(status["changed_at"], bool(status["overlapped"])), status))
            found[project, cluster] = {**status, "turn": False}
        return answers

    @storage_errors("look at a cluster")
    def look(self, project: str, cluster: str) -> Status:
        """Return the document of a cluster; take the turn to poll if it is free."""
        return self._update(project, cluster, [], BURST - 1)

    def _update(self, project: str, cluster: str, stages: list[Document], burst: int) -> Status:
        """Update the document of a cluster and take the turn to poll if it is free; return the document.

        Args:
            project: The project of the cluster.
            cluster: The cluster.
            stages: The stages of the update.
            burst: How many polls may follow each other at once; 0 takes no turn.
        """
        booked = {"$ifNull": ["$polls_booked", EPOCH]}  # until when the polls so far use up the rate
        polled = {"$ifNull": ["$polled_at", EPOCH]}
        answered = {"$gte": [{"$ifNull": ["$answered_at", EPOCH]}, polled]}
        settled = {"$gt": [{"$ifNull": ["$settled", EPOCH]}, {"$ifNull": ["$changed_at", NOW]}]}
        free = {
            "$and": [
                burst > 0,
                {"$not": settled},
                {"$lte": [{"$ifNull": ["$next_poll", EPOCH]}, NOW]},
                {"$lte": [{"$subtract": [booked, NOW]}, (burst - 1) * SPACING_MS]},
                {"$or": [answered, {"$gte": [{"$subtract": [NOW, polled]}, self.in_flight_ms]}]},
            ]
        }
        pause = {"$ifNull": ["$pause", SHORTEST_PAUSE_MS]}
        age = {"$subtract": [NOW, {"$ifNull": ["$changed_at", EPOCH]}]}
        longest = {"$cond": [{"$lt": [age, YOUNG_MS]}, PAUSE_MS, LONGEST_PAUSE_MS]}
        # An APPLIED is believed at this time at the latest, so this is a time to poll.
        settles = {"$add": ["$changed_at", int(self.settle_seconds * 1000)]}
        following = {"$add": [NOW, pause]}
        following = {"$cond": [{"$gt": [settles, NOW]}, {"$min": [settles, following]}, following]}
        turn: Document = {
            # Later than the last change, also within the same millisecond.
            "polled_at": {"$cond": ["$turn", {"$max": [NOW, {"$add": ["$changed_at", 1]}]}, "$polled_at"]},
            "next_poll": {"$cond": ["$turn", following, "$next_poll"]},
            "polls_booked": {"$cond": ["$turn", {"$add": [{"$max": [NOW, booked]}, SPACING_MS]}, "$polls_booked"]},
            "pause": {"$cond": ["$turn", {"$min": [longest, {"$multiply": [2, pause]}]}, "$pause"]},
        }
        document = self.housekeeping.collection.find_one_and_update(
            {"_id": f"cluster/{project}/{cluster}"},
            [*stages, {"$set": {"turn": free}}, {"$set": turn}],
            _FIELDS,
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise ErrStorageStore
        return document

    def poll(self, client: AtlasClient, cluster: str, turn: Status) -> Status:
        """Ask Atlas for the status of a cluster; only with the turn to poll.

        Args:
            client: The client of the cluster's project.
            cluster: The cluster.
            turn: The document of the cluster, whose update has taken the turn.

        Returns:
            The document of the cluster, with the answer.

        Raises:
            AtlasError: Atlas cannot be asked.
        """
        name, asked_at = turn["_id"], turn["polled_at"]
        if not self.may_poll[client.project_id]():
            self.housekeeping.write(name, {"answered_at": In(0), "next_poll": In(NO_BUDGET_SECONDS)})
            return turn
        try:
            answer = client.cluster_status(cluster)
        except Exception as error:
            refusal: Document = {}
            if isinstance(error, AtlasError) and not error.retryable:
                gone = isinstance(error, ClusterNotFound)
                refusal = {"refused_at": asked_at, "refusal": str(error), "gone": gone}
            with suppress(ErrStorageMongoConnection):
                self.housekeeping.write(name, refusal | {"answered_at": In(0)})
            raise
        values: Document = {"applied_at" if answer == APPLIED else "pending_at": asked_at}
        latest = Change(as_datetime(turn.get("changed_at") or EPOCH), bool(turn.get("overlapped")))
        moments: Document = {} if answer == APPLIED else {"pending_seen": In(0)}
        if answer == APPLIED and is_confirmed(latest, {**turn, **values}, self.settle_seconds):
            values |= {"settled": asked_at, "pause": SHORTEST_PAUSE_MS}
            moments = {"next_poll": In(0)}  # for changes that have come since
        self.housekeeping.write(name, values | moments | {"answered_at": In(0)})
        return {**turn, **values}

    def raise_refusal(self, change: Change, status: Status) -> None:
        """Raise the error of the last poll since a change, of any worker, if a retry cannot help.

        Raises:
            ClusterNotFound: The cluster does not exist any more.
            Refused: Atlas refuses to return the status.
        """
        refused, applied, pending = (status.get(f"{name}_at") or EPOCH for name in ("refused", "applied", "pending"))
        if refused > max(change.at, applied, pending):
            raise (ClusterNotFound if status["gone"] else Refused)(status["refusal"])

    def is_applied(self, change: Change, status: Status) -> bool:
        """Return whether the status of a cluster confirms that a change has reached it."""
        return is_confirmed(change, status, self.settle_seconds)
