"""``maintenance.reconcile``: compares Atlas's users that carry this broker's labels with the bindings in MongoDB."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from broker_api.errors import ErrStorageUnreadable, UndecryptableError
from broker_api.state.housekeeping import RECONCILED
from broker_api.state.mongo import In
from broker_api.state.records import Binding, Phase
from workers.atlas.client import AtlasClient, AtlasError, DatabaseUser
from workers.job import LABEL_BINDING, LABEL_BROKER, LABEL_INSTANCE, LABEL_OPERATION, user_of
from workers.outcome import HeldBackError
from workers.parts import Parts
from workers.room import DEFAULT_LIMIT, nearly_full, note_limit

log = structlog.get_logger(__name__)


@dataclass
class Drift:
    """What differs in one project: users that no binding has, and bindings whose user is gone."""

    orphans: list[DatabaseUser]
    missing: list[Binding]


def reconcile(parts: Parts, *, repair: bool) -> None:
    """Compare every project; report in the log and for /ready, and repair when told to."""
    if not parts.keys.fit():
        return
    orphans, missing = 0, 0
    for client in parts.projects.values():
        try:
            drift = compare(parts, client)
        except (AtlasError, HeldBackError) as error:
            log.warning("cannot reconcile", project=client.project_id, reason=str(error))
            continue
        orphans, missing = orphans + len(drift.orphans), missing + len(drift.missing)
        if repair:
            _repair(parts, client, drift)
    parts.housekeeping.write(RECONCILED, {"at": In(0), "orphans": orphans, "missing": missing, "repaired": repair})


def compare(parts: Parts, client: AtlasClient) -> Drift:
    """Find what differs between a project's users and the bindings on it."""
    ready = parts.store.ready_bindings(client.project_id)  # before the users: what is bound meanwhile is not missing
    users = list(client.users())
    _warn_when_nearly_full(parts, client, len(users))
    mine = parts.housekeeping.broker_id()
    labelled = [user for user in users if user.labels.get(LABEL_BROKER) == mine]
    drift = Drift(
        orphans=[user for user in labelled if _is_orphan(parts, user)],
        missing=_missing(parts, ready, {user.username for user in users}),
    )
    for user in drift.orphans:
        log.warning("user without a binding", project=client.project_id, username=user.username, labels=user.labels)
    for binding in drift.missing:
        log.warning("binding without a user", project=client.project_id, binding_id=binding.binding_id)
    return drift


def _is_orphan(parts: Parts, user: DatabaseUser) -> bool:
    """Say whether nothing in MongoDB wants the user; one that is being made or removed is wanted."""
    try:
        return _is_unwanted(parts, user)
    except ErrStorageUnreadable:  # what cannot be read, or only by another release, may well want it
        return False


def _is_unwanted(parts: Parts, user: DatabaseUser) -> bool:
    instance_id, binding_id = user.labels.get(LABEL_INSTANCE, ""), user.labels.get(LABEL_BINDING)
    if binding_id is None:
        instance = parts.store.instance(instance_id)
        under_way = instance and instance.operation.open
        return not (under_way and instance and instance.operation.id == user.labels.get(LABEL_OPERATION))
    binding = parts.store.binding(instance_id, binding_id)
    return binding is None or (not binding.operation.open and binding.phase is not Phase.READY)


def _missing(parts: Parts, ready: list[Binding], present: set[str]) -> list[Binding]:
    """Give the bindings that should have a user and have not, also at a second look."""
    now = parts.store.now()
    lacking = [binding for binding in ready if binding.made and binding.username not in present]
    living = [binding for binding in lacking if binding.expires is None or binding.expires > now]
    return [binding for binding in living if parts.store.get(binding.key) == binding]


def _repair(parts: Parts, client: AtlasClient, drift: Drift) -> None:
    for user in drift.orphans:
        if _is_orphan(parts, user):
            _attempt("removed a user without a binding", user.username, partial(client.delete_user, user.username))
    for binding in drift.missing:
        _attempt("made a binding's user again", binding.username or "", partial(_make_again, parts, client, binding))


def _make_again(parts: Parts, client: AtlasClient, binding: Binding) -> None:
    client.create_user(user_of(parts, binding))


def _attempt(event: str, username: str, act: Callable[[], None]) -> None:
    try:
        act()
        log.warning(event, username=username)
    except (AtlasError, HeldBackError, UndecryptableError) as error:
        log.warning("cannot repair", username=username, reason=str(error))


def _warn_when_nearly_full(parts: Parts, client: AtlasClient, users: int) -> None:
    limit = client.user_limit() or DEFAULT_LIMIT
    note_limit(parts.housekeeping, client.project_id, limit)
    if nearly_full(users, limit):
        log.warning("project nearly full of database users", project=client.project_id, users=users, limit=limit)
