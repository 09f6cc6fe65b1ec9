"""Checks whether an instance or binding exists: for a delete, for an update or bind, and for a poll."""

from collections.abc import Callable
from typing import TypeVar

from broker_api.errors import ConcurrencyError, ErrStorageFindInstance, Gone, NotFound
from broker_api.state.records import DELETES, HOLDS_NOTHING, Binding, Instance, Phase

AnyResource = TypeVar("AnyResource", Instance, Binding)


def read_anew(first: AnyResource | None, read: Callable[[], AnyResource | None]) -> Callable[[], AnyResource | None]:
    """Return a function that returns what was read first when it is called once, and reads anew when called again.

    Args:
        first: what the checks before the decision have read.
        read: reads it for another decision, after another request has changed it.
    """
    unused = [first]
    return lambda: unused.pop() if unused else read()


def require_deletable(found: AnyResource | None) -> AnyResource:
    """Return the instance or binding to delete. It may also be one that is still being made, or that has failed.

    Raises:
        Gone: the instance or binding does not exist.
    """
    if found is None or found.phase is Phase.GONE:
        raise Gone
    return found


def require_usable(instance_id: str, found: Instance | None) -> Instance:
    """Return an instance that can be updated and bound to.

    Raises:
        ErrStorageFindInstance: the instance does not exist.
        ConcurrencyError: the instance is being made or deleted.
    """
    if found is None or found.phase in HOLDS_NOTHING:
        raise ErrStorageFindInstance(instance_id)
    if found.phase is not Phase.READY:
        raise ConcurrencyError
    return found


def poll_of_nothing(operation_id: str | None, description: str) -> Gone | NotFound:
    """Return the error for a poll of an instance or binding that is not stored.

    Returns:
        ``Gone`` if the operation id is that of a delete, else ``NotFound`` with the description.
    """
    deleted = operation_id is not None and operation_id.startswith(tuple(f"{kind}-" for kind in DELETES))
    return Gone() if deleted else NotFound(description)
