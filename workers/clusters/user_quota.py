"""The number of database users of an Atlas project and its limit: each binding is a user, the default limit is 100."""

from collections.abc import Collection
from dataclasses import dataclass, field

import structlog

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.store import Store

DEFAULT_LIMIT = 100
WARN_SHARE = 0.8

log = structlog.get_logger(__name__)


def is_nearly_full(users: int, limit: int) -> bool:
    """Return whether a project has 80 % of the users it may have.

    A warning comes this early because only MongoDB's support can raise the limit.
    """
    return users >= limit * WARN_SHARE


def store_limit(housekeeping: Housekeeping, project: str, limit: int) -> None:
    """Store the limit that Atlas has for the users of a project, so that binds do not have to ask Atlas."""
    housekeeping.write(f"room/{project}", {"limit": limit})


@dataclass
class UserQuota:
    """Warns when the broker's bindings nearly reach the limit of users of a project.

    This counts in MongoDB and needs no call to Atlas; only the reconciliation counts the users of others too.
    """

    store: Store
    housekeeping: Housekeeping
    projects: Collection[str]
    _warned: set[str] = field(default_factory=set, init=False)

    def check(self) -> None:
        """Log a warning for each project that has become nearly full since the last call.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        for project in self.projects:
            users = self.store.count_users(project)
            limit = int(self.housekeeping.read(f"room/{project}").get("limit") or DEFAULT_LIMIT)
            if not is_nearly_full(users, limit):
                self._warned.discard(project)
            elif project not in self._warned:
                self._warned.add(project)
                log.warning("project_nearly_full_of_users", project=project, users=users, limit=limit)
