"""How full an Atlas project is of database users: a binding is a user, and Atlas allows 100 of them by default."""

import structlog

from broker_api.state.housekeeping import Housekeeping
from workers.parts import Parts

DEFAULT_LIMIT = 100
WARN_SHARE = 0.8

log = structlog.get_logger(__name__)


def nearly_full(users: int, limit: int) -> bool:
    """Say whether it is time to warn: a project's limit can be raised by MongoDB's support only."""
    return users >= limit * WARN_SHARE


def note_limit(housekeeping: Housekeeping, project: str, limit: int) -> None:
    """Remember what Atlas says a project may hold, so that binds need not ask."""
    housekeeping.write(f"room/{project}", {"limit": limit})


def warn_when_nearly_full(parts: Parts, project: str) -> None:
    """Warn by the broker's own count, which costs no call to Atlas; reconciliation counts the other users too."""
    users = parts.store.count_users(project)
    if not nearly_full(users, DEFAULT_LIMIT):
        return
    limit = int(parts.housekeeping.read(f"room/{project}").get("limit") or DEFAULT_LIMIT)
    if nearly_full(users, limit):
        log.warning("project nearly full of database users", project=project, users=users, limit=limit)
