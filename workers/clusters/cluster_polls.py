"""The polls of clusters that Atlas creates, changes or deletes: one in an interval, for all workers together."""

from dataclasses import dataclass, field
from typing import ClassVar
from uuid import uuid4

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo_errors import storage_errors

SHORTEST_SECONDS = 0.1


@dataclass
class ClusterPolls:
    """The turns to poll, in the documents ``look/<project>/<cluster>``, one for each cluster under way.

    Each method raises ErrStorageMongoConnection when MongoDB cannot be used.

    Attributes:
        housekeeping: Holds the documents.
        seconds: The interval by the kind of the cluster.
    """

    SECONDS: ClassVar = {"dedicated": 15.0, "flex": 2.0}

    housekeeping: Housekeeping
    seconds: dict[str, float] = field(default_factory=lambda: dict(ClusterPolls.SECONDS))

    def take(self, project: str, cluster: str, kind: str) -> float:
        """Take the turn to poll a cluster.

        Returns:
            0 when it is taken; else the seconds until the next turn.
        """
        name = f"look/{project}/{cluster}"
        if self.housekeeping.acquire(name, uuid4().hex, self.seconds[kind]):
            return 0.0
        until = self.housekeeping.read(name).get("until")
        left = (until - self.housekeeping.store.now()).total_seconds() if until else 0.0
        return max(SHORTEST_SECONDS, left)

    @storage_errors("forget a cluster")
    def forget(self, project: str, cluster: str) -> None:
        """Forget a cluster that is not under way any more."""
        self.housekeeping.collection.delete_one({"_id": f"look/{project}/{cluster}"})
