"""How full an Atlas project is of database users: a binding is a user, and Atlas allows 100 of them by default."""

import structlog

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.store import Store

DEFAULT_LIMIT = 100
WARN_SHARE = 0.8

log = structlog.get_logger(__name__)


def is_nearly_full(users: int, limit: int) -> bool:
    """Return whether it is time to warn: only MongoDB's support can raise the limit of a project."""
    return users >= limit * WARN_SHARE


def store_limit(housekeeping: Housekeeping, project: str, limit: int) -> None:
    """Store what Atlas says a project may hold, so that binds need not ask."""
    housekeeping.write(f"room/{project}", {"limit": limit})


def warn_when_nearly_full(store: Store, housekeeping: Housekeeping, project: str) -> None:
    """Warn by the broker's own count, which costs no call to Atlas; the reconciliation counts all users."""
    users = store.count_users(project)
    if users >= DEFAULT_LIMIT * WARN_SHARE:
        limit = int(housekeeping.read(f"room/{project}").get("limit") or DEFAULT_LIMIT)
        if is_nearly_full(users, limit):
            log.warning("project_nearly_full_of_users", project=project, users=users, limit=limit)
