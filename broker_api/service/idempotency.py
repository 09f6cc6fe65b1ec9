"""Repeated requests: what makes two requests identical, and how a repeated one is answered."""

from collections.abc import Mapping

from broker_api.catalog.parameter_checks import same
from broker_api.errors import ConcurrencyError, Conflict
from broker_api.service.schemas import Accepted, Complete
from broker_api.state.records import CREATES, Binding, Instance, Kind, Phase, State

SAME_LEGACY = ("service_id", "plan_id", "parameters")
"""The fields of a request that atlasbroker 2.0.0 stored."""
SAME_PROVISION = (*SAME_LEGACY, "organization_guid", "space_guid")
"""Two provisions that agree in these fields are identical; contexts and maintenance information may differ."""
SAME_BIND = (*SAME_LEGACY, "app_guid", "bind_resource", "predecessor")
"""Two binds that agree in these fields are identical; contexts may differ."""


def repeated_create(found: Instance | Binding, asked: Mapping[str, object]) -> Accepted | Complete | None:
    """Return the answer to a provision or bind of an id that is stored already.

    Args:
        found: the instance or binding of this id.
        asked: the fields that the request would give a new one.

    Returns:
        ``Accepted`` while it is being made; ``Complete`` without a body if it is ready; None if a new one may be made.

    Raises:
        Conflict: it exists with other attributes, or its create failed with other attributes, or its delete failed.
        ConcurrencyError: it is being deleted, or the cluster that its failed create has made is being removed.
    """
    if found.phase is Phase.GONE:
        return None
    if found.phase is Phase.DELETING and found.operation.open:
        raise ConcurrencyError
    if isinstance(found, Instance) and found.cluster_operation and found.phase is Phase.FAILED and found.operation.open:
        raise ConcurrencyError  # the cluster of the failed attempt is still being removed
    what = "A binding" if isinstance(found, Binding) else "An instance"
    if found.phase is Phase.DELETING:
        raise Conflict(f"{what} of this id exists, and its removal has failed. Delete it again, or use another id.")
    names = SAME_LEGACY if found.legacy else SAME_PROVISION if isinstance(found, Instance) else SAME_BIND
    if not all(same(getattr(found, name), asked.get(name)) for name in names):
        raise Conflict(f"{what} of this id exists with other attributes. Delete it first, or use another id.")
    if found.phase is Phase.CREATING:
        return Accepted(found.operation.id)
    return Complete() if found.phase is Phase.READY else None


def repeated_update(found: Instance, asked: str) -> Accepted | None:
    """Return the answer to an update while an operation is running.

    Args:
        found: the instance.
        asked: the wanted state of the request, as canonical JSON.

    Returns:
        ``Accepted`` while an identical update is running; None if no operation is running.

    Raises:
        ConcurrencyError: another operation is running.
    """
    operation = found.operation
    if operation.state is not State.IN_PROGRESS:
        return None
    if operation.kind is Kind.UPDATE and operation.request == asked:
        return Accepted(operation.id)
    raise ConcurrencyError


def require_restored(found: Instance) -> None:
    """Check that no failed operation still restores the instance's own cluster; an update would leave it as it is.

    Raises:
        ConcurrencyError: one does.
    """
    if found.operation.open and found.cluster_operation:
        raise ConcurrencyError


def repeated_delete(found: Instance | Binding, kind: Kind) -> Accepted | None:
    """Return the answer to a delete that may be a repeated one.

    Args:
        found: the instance or binding.
        kind: the kind of the delete.

    Returns:
        ``Accepted`` while the delete is running already; None if it may start. A running create does not hinder it.

    Raises:
        ConcurrencyError: another operation is running, which a delete does not stop.
    """
    operation = found.operation
    if operation.state is not State.IN_PROGRESS or operation.kind in CREATES:
        return None
    if operation.kind is kind:
        return Accepted(operation.id)
    raise ConcurrencyError  # an update, or an operation that only another release knows
