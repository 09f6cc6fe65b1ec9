"""The number of database users of an Atlas project and its limit: each binding is a user, the default limit is 100."""

from collections.abc import Collection
from dataclasses import dataclass

import structlog

from broker_api.state.bind_reads import DEFAULT_LIMIT, ROOM
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import In
from broker_api.state.records import EPOCH
from broker_api.state.store import Store
from workers.atlas.client import AtlasClient, AtlasError
from workers.engine.results import HeldBackError

WARN_SHARE = 0.8
LEARN_SECONDS = 10.0
"""How old the limit may be when an instance is provisioned."""

log = structlog.get_logger(__name__)


def is_nearly_full(users: int, limit: int) -> bool:
    """Return whether a project has 80 % of the users it may have.

    A warning comes this early because only MongoDB's support can raise the limit.
    """
    return users >= limit * WARN_SHARE


def told_limit(client: AtlasClient) -> int | None:
    """Return how many users a project may have; None when Atlas does not tell, since it is needed by nothing else."""
    try:
        return client.user_limit()
    except (AtlasError, HeldBackError) as error:
        log.info("user_limit_unknown", project=client.project_id, reason=str(error))
        return None


def learn_limit(housekeeping: Housekeeping, client: AtlasClient) -> None:
    """Read the limit of a project's users from Atlas, at most once in ``LEARN_SECONDS`` for all workers.

    The quota of a plan is half of it by default (``broker_api.service.binding_quota``).

    Raises:
        ErrStorageMongoConnection: MongoDB cannot be used.
    """
    name = f"{ROOM}{client.project_id}"
    room = housekeeping.recent(name)
    if room and room["read_at"] < (room.get("learn_again") or EPOCH):
        return
    limit = told_limit(client)
    housekeeping.write(name, {"learn_again": In(LEARN_SECONDS), **({"limit": limit} if limit else {})})


def store_room(housekeeping: Housekeeping, project: str, limit: int | None, others: int) -> None:
    """Store what Atlas says about the number of users of a project.

    Args:
        housekeeping: Where it is stored.
        project: The project.
        limit: How many users it may have, if Atlas has told it.
        others: How many it has that this broker has not made.
    """
    housekeeping.write(f"{ROOM}{project}", {"others": others, **({"limit": limit} if limit else {})})


@dataclass
class UserLimit:
    """Warns when the broker's bindings nearly reach the limit of users of a project.

    This counts in MongoDB and needs no call to Atlas; the number of other users is that of the last reconciliation.
    """

    store: Store
    housekeeping: Housekeeping
    projects: Collection[str]

    def check(self) -> None:
        """Store whether each project is nearly full, for /ready; log a warning when it has become so.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        for project in self.projects:
            room = self.housekeeping.read(f"{ROOM}{project}")
            users = self.store.count_users(project) + int(room.get("others") or 0)
            limit = int(room.get("limit") or DEFAULT_LIMIT)
            nearly_full = is_nearly_full(users, limit)
            if nearly_full == room.get("nearly_full"):
                continue
            self.housekeeping.write(f"{ROOM}{project}", {"nearly_full": nearly_full})
            if nearly_full:
                log.warning("project_nearly_full_of_users", project=project, users=users, limit=limit)
